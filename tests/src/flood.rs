//! Datagrams by the ten thousand, from sockets that are nobody's.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

/// A thread that sends these datagrams, over and over. It ends when dropped.
#[derive(Debug)]
pub struct Flood {
    thread: Option<JoinHandle<Result<Flooded>>>,
    over: Arc<AtomicBool>,
}

/// What became of a flood.
#[derive(Debug)]
pub struct Flooded {
    /// How often each datagram was sent, in the order in which they were given.
    pub sent: Vec<u64>,
    /// What came back, as far as the sockets have kept it.
    pub answers: Vec<Vec<u8>>,
    /// How long it took.
    pub time: Duration,
}

impl Flooded {
    /// All that was sent.
    pub fn total(&self) -> u64 {
        self.sent.iter().sum()
    }
}

impl Flood {
    /// Sends to `target` from so many sockets, `rate` datagrams in a second at most.
    pub fn start(
        target: SocketAddr,
        sockets: usize,
        rate: u32,
        datagrams: Vec<Vec<u8>>,
    ) -> Result<Self> {
        let open = |_| -> Result<UdpSocket> {
            let socket = UdpSocket::bind(("127.0.0.1", 0))?;
            socket.connect(target)?;
            Ok(socket)
        };
        let sockets = (0..sockets).map(open).collect::<Result<Vec<_>>>()?;
        let over = Arc::<AtomicBool>::default();
        let inside = Arc::clone(&over);
        let thread = thread::spawn(move || run(&sockets, rate, &datagrams, &inside));
        Ok(Self { thread: Some(thread), over })
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<Flooded> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended before")?;
        thread.join().ok().context("the flood has panicked")?
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn run(
    sockets: &[UdpSocket],
    rate: u32,
    datagrams: &[Vec<u8>],
    over: &AtomicBool,
) -> Result<Flooded> {
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let mut sent = vec![0; datagrams.len()];
    let mut order = (0..datagrams.len()).cycle();
    let begin = Instant::now();
    let pause = Duration::from_secs(u64::try_from(BATCH)?) / rate;
    let mut due = begin;
    for socket in sockets.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let now = Instant::now();
        // What is late by more is not made up for: it would come all at once.
        due = due.max(now.checked_sub(LATE).unwrap_or(now)) + pause;
        thread::sleep(due.saturating_duration_since(now));
        let batch: Vec<usize> = order.by_ref().take(BATCH).collect();
        let slices = batch.iter().map(|&it| datagrams.get(it).map_or(&[][..], |it| it));
        let slices: Vec<_> = slices.map(|bytes| [IoSlice::new(bytes)]).collect();
        // The sockets are connected.
        let to: Vec<Option<SockaddrIn>> = vec![None; slices.len()];
        let flags = MsgFlags::empty();
        let taken = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, to, [], flags)?.count();
        for place in batch.into_iter().take(taken) {
            if let Some(count) = sent.get_mut(place) {
                *count += 1;
            }
        }
    }
    let time = begin.elapsed();
    let mut answers = Vec::new();
    let mut buffer = [0; 2000];
    for socket in sockets {
        socket.set_nonblocking(true)?;
        while let Ok(length) = socket.recv(&mut buffer) {
            answers.extend(buffer.get(..length).map(<[u8]>::to_vec));
        }
    }
    Ok(Flooded { sent, answers, time })
}

/// Datagrams that are handed over at once.
const BATCH: usize = 32;
const LATE: Duration = Duration::from_millis(20);
