//! Clients on threads of their own, and what they have got.

use std::io::{ErrorKind, Read};
use std::mem;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    sent: AtomicU64,
    arrived: AtomicU64,
    delays: Mutex<Vec<Duration>>,
    /// Bytes.
    held: AtomicU64,
    over: AtomicBool,
}

/// A [`Tally`] at one moment, or between two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    pub(super) bytes: u64,
    pub(super) requests: u64,
    /// Packets.
    pub(super) sent: u64,
    /// Packets.
    pub(super) arrived: u64,
}

/// How long messages took, there and back or one way, microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delays {
    /// Half of them took no longer.
    pub(super) p50: f64,
    /// 99 of 100 took no longer.
    pub(super) p99: f64,
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

    /// Adds packets that either end has sent.
    pub fn sent(&self, packets: usize) {
        self.sent.fetch_add(packets as u64, Ordering::Relaxed);
    }

    /// Adds packets that have come to the other end.
    pub fn arrived(&self, packets: usize) {
        self.arrived.fetch_add(packets as u64, Ordering::Relaxed);
    }

    /// Adds a message that took so long, or a packet that has come back after it.
    pub fn took(&self, time: Duration) {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner).push(time);
    }

    /// So many bytes of one session are between its ends.
    pub fn held(&self, bytes: u64) {
        self.held.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Whether clients are to come to an end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self) -> Sums {
        Sums {
            bytes: self.bytes.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            arrived: self.arrived.load(Ordering::Relaxed),
        }
    }

    /// The most of all sessions so far.
    pub(super) fn most_held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Of the messages since the last call; none without any.
    pub(super) fn delays(&self) -> Option<Delays> {
        let mut all = mem::take(&mut *self.delays.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_unstable();
        let share = |of_100: usize| {
            let time = all.get(all.len() * of_100 / 100);
            time.map(|time: &Duration| time.as_secs_f64() * 1e6)
        };
        Some(Delays { p50: share(50)?, p99: share(99)? })
    }
}

impl Sums {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            requests: self.requests - before.requests,
            sent: self.sent - before.sent,
            arrived: self.arrived - before.arrived,
        }
    }
}

impl Delays {
    /// What it is more than another.
    pub(super) fn beyond(self, path: Self) -> Self {
        Self { p50: self.p50 - path.p50, p99: self.p99 - path.p99 }
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
