//! A stream of numbered packets to an origin that sends each one back.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::wait;

/// A client of an origin that sends packets back.
pub trait Peer: Send + 'static {
    /// Sends a packet of this number.
    fn send_number(&self, number: u64) -> Result<()>;
    /// The number of what comes next; none if nothing does for a moment.
    fn next_number(&self) -> Option<u64>;
    /// What has to be said now and then.
    fn keep(&self) -> Result<()>;
}

/// A client on a thread of its own, which sends and counts. It stops when dropped.
#[derive(Debug)]
pub struct Echo<P> {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<P>>,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    sent: u64,
    missing: BTreeSet<u64>,
    wrong: u64,
}

/// What has become of the packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Come back.
    pub back: u64,
    /// Come back once more, or never sent.
    pub wrong: u64,
}

impl<P: Peer> Echo<P> {
    /// Sends so many packets a second, from this number on.
    pub fn start(peer: P, rate: u32, first: u64) -> Self {
        let shared = Arc::<Shared>::default();
        let inside = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || {
            inside.run(&peer, rate, first);
            peer
        }));
        Self { shared, thread }
    }

    /// The packets so far.
    pub fn tally(&self) -> Tally {
        self.shared.tally()
    }

    /// Waits until so many more packets have come back.
    pub fn must_go_on_for(&self, packets: u64, limit: Duration) -> Result<()> {
        let before = self.tally();
        wait::until("more packets come back", limit, || {
            let tally = self.tally();
            ensure!(tally.back >= before.back + packets, "{tally:?} after {before:?}");
            Ok(Some(()))
        })
    }

    /// Stops, and waits for what is still on its way; the client, and the count.
    pub fn finish(mut self) -> Result<(P, Tally)> {
        self.shared.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has stopped")?;
        let peer = thread.join().ok().context("it has panicked")?;
        let deadline = Instant::now() + LATE;
        while !self.shared.lock().missing.is_empty() && Instant::now() < deadline {
            self.shared.take(&peer);
        }
        Ok((peer, self.tally()))
    }

    /// The same, and fails unless each packet has come back once.
    pub fn must_finish_without_loss(self) -> Result<(P, Tally)> {
        let shared = Arc::clone(&self.shared);
        let (peer, tally) = self.finish()?;
        let missing: Vec<u64> = shared.lock().missing.iter().copied().take(20).collect();
        ensure!(tally.back == tally.sent && tally.wrong == 0, "{tally:?}, missing {missing:?} ...");
        Ok((peer, tally))
    }
}

impl<P> Drop for Echo<P> {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn run(&self, peer: &impl Peer, rate: u32, first: u64) {
        let begin = Instant::now();
        let interval = Duration::from_secs(1).checked_div(rate).unwrap_or_default();
        let (mut next, mut keep, mut number) = (begin, begin, first);
        while !self.over.load(Ordering::Relaxed) {
            let now = Instant::now();
            if keep <= now {
                // What cannot be sent is lost, and missed if it matters.
                drop(peer.keep());
                keep += Duration::from_secs(2);
            }
            while next <= now {
                // Counted before it can come back.
                let mut seen = self.lock();
                seen.sent += 1;
                seen.missing.insert(number);
                drop(seen);
                drop(peer.send_number(number));
                number += 1;
                next += interval;
            }
            self.take(peer);
        }
    }

    fn take(&self, peer: &impl Peer) {
        let Some(number) = peer.next_number() else { return };
        let mut seen = self.lock();
        if !seen.missing.remove(&number) {
            seen.wrong += 1;
        }
    }

    fn tally(&self) -> Tally {
        let seen = self.lock();
        let missing = u64::try_from(seen.missing.len()).unwrap_or(u64::MAX);
        Tally { sent: seen.sent, back: seen.sent - missing, wrong: seen.wrong }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes the last byte of a datagram whose checksum would look as if it was left to a network
/// card. XDP passes such a one up, as one in 65536, and nobody gets it while no proxy lives.
pub fn look_finished(payload: &mut [u8], source: SocketAddr, destination: SocketAddr) {
    let words = |bytes: &[u8]| -> u64 {
        let (words, rest) = bytes.as_chunks::<2>();
        let rest = rest.first().map_or(0, |last| u64::from(*last) << 8);
        words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + rest
    };
    let address = |address: SocketAddr| match address.ip() {
        IpAddr::V4(address) => words(&address.octets()),
        IpAddr::V6(address) => words(&address.octets()),
    };
    // RFC 1071 1: carries are added.
    let fold = |sum: u64| match sum % 0xffff {
        0 => 0xffff,
        rest => rest,
    };
    let length = payload.len() as u64 + 8;
    let pseudo_header = address(source) + address(destination) + 17 + length;
    let ports = u64::from(source.port()) + u64::from(destination.port());
    let sum = pseudo_header + ports + length + words(payload);
    if (fold(sum) + fold(pseudo_header)).is_multiple_of(0xffff)
        && let Some(last) = payload.last_mut()
    {
        *last ^= 1;
    }
}

/// How long the last packets may take.
const LATE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::look_finished;

    #[test]
    fn one_payload_in_65535_is_changed() {
        for [from, to] in [["10.81.1.2:40000", "10.81.2.2:18000"], ["[fd81::2]:1", "[fd81::1]:2"]] {
            let [from, to]: [SocketAddr; 2] = [from, to].map(|it| it.parse().expect("an address"));
            let is_changed = |value: &u16| {
                let mut payload = *b"0000";
                payload[..2].copy_from_slice(&value.to_be_bytes());
                let before = payload;
                look_finished(&mut payload, from, to);
                payload != before
            };
            assert_eq!((0..u16::MAX).filter(is_changed).count(), 1, "{from} {to}");
        }
    }
}
