//! Feeds the players of an origin, all on one thread.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{ErrorKind, Write};
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use rml_rtmp::messages::RtmpMessage;

use super::{Feed, PROBE};
use crate::rtmp::{self, Peer, Player};

/// Shared by the thread that feeds and those that connect.
pub(super) struct Feeder {
    feed: Feed,
    begin: Instant,
    is_open: AtomicBool,
    is_over: AtomicBool,
    arrived: Mutex<Vec<Player>>,
    /// Where the connection of each stream's player comes from.
    addresses: Mutex<HashMap<String, SocketAddr>>,
}

impl Feeder {
    pub(super) fn new(feed: Feed) -> Self {
        Self {
            feed,
            begin: Instant::now(),
            is_open: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            arrived: Mutex::default(),
            addresses: Mutex::default(),
        }
    }

    /// A player that waits for media.
    pub(super) fn add(&self, player: Player) -> Result<()> {
        player.peer.socket().set_nonblocking(true)?;
        let from = player.peer.socket().peer_addr()?;
        locked(&self.addresses).insert(player.stream.clone(), from);
        locked(&self.arrived).push(player);
        Ok(())
    }

    /// Lets media flow to those who have come, or not any more.
    pub(super) fn open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Where the connection of this stream's last player comes from.
    pub(super) fn address_of(&self, stream: &str) -> Option<SocketAddr> {
        locked(&self.addresses).get(stream).copied()
    }

    /// Time on the clock of a probe's messages.
    pub(super) fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Feeds until it is told to end.
    pub(super) fn run(&self) -> Result<()> {
        let mut table = Table::new(self)?;
        while !self.is_over.load(Ordering::Relaxed) {
            if self.is_open.load(Ordering::Relaxed) {
                table.seat(mem::take(&mut *locked(&self.arrived)))?;
                table.serve()?;
            } else {
                thread::sleep(REST);
            }
        }
        Ok(())
    }
}

/// The players that are fed.
struct Table<'a> {
    feeder: &'a Feeder,
    /// What one turn of a player comes to, in chunks; the same for all.
    frame: Vec<u8>,
    seats: Vec<Option<Seat>>,
    /// Turns of seats, the next one first.
    turns: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Tells who has room, when there are no turns.
    poll: Epoll,
}

struct Seat {
    peer: Peer,
    /// Bytes of the frame that is on its way.
    sent: usize,
    is_probe: bool,
}

impl<'a> Table<'a> {
    fn new(feeder: &'a Feeder) -> Result<Self> {
        let poll = Epoll::new(EpollCreateFlags::empty())?;
        let (frame, seats, turns) = (Vec::new(), Vec::new(), BinaryHeap::new());
        Ok(Self { feeder, frame, seats, turns, poll })
    }

    fn seat(&mut self, players: Vec<Player>) -> Result<()> {
        let now = Instant::now();
        for Player { stream, mut peer } in players {
            let (seat, is_probe) = (self.seats.len(), stream == PROBE);
            if self.frame.is_empty() {
                let (bytes, count) = match self.feeder.feed {
                    Feed::Once => (16 * 1024, 1),
                    Feed::Paced(bits) => (bits / 8 / FRAMES_PER_SECOND, 1),
                    Feed::Bulk => (64 * 1024, 8),
                };
                let frame = rtmp::key_frame(bytes.try_into()?);
                self.frame = peer.encode(frame, rtmp::STREAM)?.repeat(count);
            }
            if let Feed::Bulk = self.feeder.feed {
                let event = EpollEvent::new(EpollFlags::EPOLLOUT, seat.try_into()?);
                self.poll.add(peer.socket(), event)?;
            } else {
                self.turns.push(Reverse((now + phase(seat), seat)));
            }
            self.seats.push(Some(Seat { peer, sent: 0, is_probe }));
        }
        Ok(())
    }

    /// Serves those whose turn it is, and waits for the next one.
    fn serve(&mut self) -> Result<()> {
        if let Feed::Bulk = self.feeder.feed {
            let mut events = [EpollEvent::empty(); 64];
            let ready = self.poll.wait(&mut events, PATIENCE_MS)?;
            for event in events.iter().take(ready) {
                self.turn(event.data().try_into()?)?;
            }
            return Ok(());
        }
        loop {
            let now = Instant::now();
            let Some(Reverse((due, seat))) = self.turns.peek().copied() else {
                thread::sleep(REST);
                return Ok(());
            };
            if due > now {
                thread::sleep((due - now).min(REST));
                return Ok(());
            }
            self.turns.pop();
            if let Some(step) = self.turn(seat)? {
                let base = if now - due > LATE { now } else { due };
                self.turns.push(Reverse((base + step, seat)));
            }
        }
    }

    /// One turn of a seat; says when the next one is, if there is another.
    fn turn(&mut self, number: usize) -> Result<Option<Duration>> {
        let place = self.seats.get_mut(number).context("no such seat")?;
        let Some(seat) = place else { return Ok(None) };
        let step = if seat.is_probe { PROBE_STEP } else { FRAME_STEP };
        let done =
            if seat.is_probe { seat.tell(self.feeder.now()) } else { seat.send(&self.frame) };
        match done {
            Ok(true) if matches!(self.feeder.feed, Feed::Once) => Ok(None),
            Ok(_) => Ok(Some(step)),
            // An end by the other side is the usual end.
            Err(_) => {
                if let Feed::Bulk = self.feeder.feed {
                    // The origin's list has the same connection: closing is not enough.
                    self.poll.delete(seat.peer.socket())?;
                }
                let _ = seat.peer.socket().shutdown(Shutdown::Both);
                *place = None;
                Ok(None)
            }
        }
    }
}

impl Seat {
    /// Goes on with a frame, and says whether all of it is sent. A player for whose frame there is no
    /// room gets the rest of it at its next turn, and so fewer frames.
    fn send(&mut self, frame: &[u8]) -> Result<bool> {
        let rest = frame.get(self.sent..).context("more sent than there is")?;
        match self.peer.socket().write(rest) {
            Ok(count) => self.sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        let is_done = self.sent == frame.len();
        if is_done {
            self.sent = 0;
        }
        Ok(is_done)
    }

    /// Sends a message that tells the time.
    fn tell(&mut self, now: Duration) -> Result<bool> {
        let mut data = u64::try_from(now.as_nanos())?.to_be_bytes().to_vec();
        data.resize(PROBE_BYTES, 0);
        let message = RtmpMessage::AudioData { data: data.into() };
        let bytes = self.peer.encode(message, rtmp::STREAM)?;
        let sent = self.peer.socket().write(&bytes)?;
        ensure!(sent == bytes.len(), "{sent} bytes of a message of {}", bytes.len());
        Ok(true)
    }
}

/// How far into a period this seat's turns are: evenly spread for any number of seats.
fn phase(seat: usize) -> Duration {
    let turns = u32::try_from(seat).unwrap_or_default().wrapping_mul(GOLDEN);
    FRAME_STEP.mul_f64(f64::from(turns) / (f64::from(u32::MAX) + 1.0))
}

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

const FRAMES_PER_SECOND: u32 = 30;
const FRAME_STEP: Duration = Duration::from_nanos(1_000_000_000 / FRAMES_PER_SECOND as u64);
const PROBE_STEP: Duration = Duration::from_millis(2);
/// Bytes of a probe's message, its header apart.
const PROBE_BYTES: usize = 200;
/// How often a feeder without work looks for some.
const REST: Duration = Duration::from_millis(5);
const PATIENCE_MS: u16 = 5;
/// What is later is not made up for: the machine stood still.
const LATE: Duration = Duration::from_millis(100);
/// The golden section of 2^32: its multiples are spread evenly, however many they are.
const GOLDEN: u32 = 2_654_435_769;
