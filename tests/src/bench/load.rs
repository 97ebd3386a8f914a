//! Clients on threads of their own, and what they have got.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// What a client does until the load is over; an error fails the bench.
pub type Client = Box<dyn FnOnce(&Tally) -> Result<()> + Send>;

/// What all clients have got so far.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: AtomicU64,
    requests: AtomicU64,
    over: AtomicBool,
}

/// A [`Tally`] at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    pub(super) bytes: u64,
    pub(super) requests: u64,
}

impl Tally {
    /// Adds bytes.
    pub fn got(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Adds a request that was answered.
    pub fn answered(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether clients are to come to an end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self) -> Sums {
        Sums {
            bytes: self.bytes.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }
}

/// The clients of one run.
#[derive(Default)]
pub(super) struct Load {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    pub(super) fn add(&mut self, client: Client) -> Result<()> {
        let tally = Arc::clone(&self.tally);
        let thread = thread::Builder::new().stack_size(STACK);
        self.clients.push(thread.spawn(move || client(&tally))?);
        Ok(())
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Ends all clients; an error if one of them had failed before.
    pub(super) fn end(self) -> Result<()> {
        self.tally.over.store(true, Ordering::Relaxed);
        let ends = self.clients.into_iter().map(|client| client.join().ok().context("a panic")?);
        ends.collect()
    }
}

/// A client that takes what comes, and counts it, for as long as the load goes on. Silence is no
/// end.
pub fn drain(mut socket: &TcpStream, tally: &Tally) -> Result<()> {
    socket.set_read_timeout(Some(LOOK))?;
    let mut buffer = vec![0; READ];
    while !tally.is_over() {
        match socket.read(&mut buffer) {
            Ok(count) => {
                ensure!(count > 0, "the stream has ended");
                tally.got(count);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Bytes of one read of a client.
pub const READ: usize = 64 * 1024;

/// How often a client that gets nothing looks whether the load is over.
const LOOK: Duration = Duration::from_millis(500);

/// A client needs little, and there are hundreds.
const STACK: usize = 256 * 1024;
