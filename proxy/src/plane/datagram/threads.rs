//! Threads that do nothing but move datagrams, each with a runtime of its own.
//!
//! A runtime that shares its work over all threads wakes another one for what the first could do
//! at once; a datagram is done before that one is awake. So each socket stays with one thread,
//! which is woken by its own sockets alone.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The threads. Their tasks end with the value.
#[derive(Debug)]
pub struct Threads {
    first: Handle,
    others: Vec<Handle>,
    next: AtomicUsize,
    stop: CancellationToken,
}

impl Threads {
    /// So many threads.
    pub fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let start = |index: usize| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let stop = stop.clone();
            let run = move || runtime.block_on(stop.cancelled_owned());
            thread::Builder::new().name(format!("datagrams-{index}")).spawn(run)?;
            Ok(handle)
        };
        let first = start(0)?;
        let others = (1..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { first, others, next: AtomicUsize::new(0), stop })
    }

    /// No thread of its own: the runtime that this is called in.
    pub fn here() -> Self {
        let (next, stop) = (AtomicUsize::new(0), CancellationToken::new());
        Self { first: Handle::current(), others: Vec::new(), next, stop }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.others.len() + 1
    }

    /// One of them: each in turn.
    pub fn next(&self) -> &Handle {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.count();
        self.others.get(next).unwrap_or(&self.first)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Not waited for: it may be one of them that lets go last.
        self.stop.cancel();
    }
}
