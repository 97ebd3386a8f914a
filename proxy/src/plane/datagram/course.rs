//! Which engine carries the datagrams of one session, since when, why, and how many it has carried.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use thiserror::Error;

use crate::plane::{Leg, Meter};

/// What moves datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// This process.
    Relay,
    /// A program in the kernel, where packets have come up from the network card.
    Tc,
    /// A program in the kernel, for any driver: XDP behind what TC sees.
    XdpGeneric,
    /// A program in the driver of the network card.
    Xdp,
}

impl Engine {
    /// All of them, the slowest first.
    pub const ALL: [Self; 4] = [Self::Relay, Self::Tc, Self::XdpGeneric, Self::Xdp];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Tc => "tc",
            Self::XdpGeneric => "xdp-generic",
            Self::Xdp => "xdp",
        }
    }
}

/// Why an engine does not carry something: the words of logs and of the API.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Refused(pub Cow<'static, str>);

impl From<&'static str> for Refused {
    fn from(why: &'static str) -> Self {
        Self(Cow::Borrowed(why))
    }
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self(Cow::Owned(why))
    }
}

/// What carries a session, and what was carried.
#[derive(Debug)]
pub struct Course {
    standing: Mutex<Standing>,
    meter: Arc<Meter>,
    by_userspace: Carried,
    by_kernel: Carried,
}

/// The engine of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which one.
    pub engine: Engine,
    /// Since when.
    pub since: Instant,
    /// Why not a faster one; none if there is none.
    pub why: Option<Refused>,
}

/// Datagrams, and bytes of theirs, in the order of [`Leg::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Datagrams sent to each leg.
    pub packets: [u64; Leg::ALL.len()],
    /// Bytes of their payload.
    pub bytes: [u64; Leg::ALL.len()],
}

#[derive(Debug, Default)]
struct Carried {
    packets: [AtomicU64; Leg::ALL.len()],
    bytes: [AtomicU64; Leg::ALL.len()],
}

impl Course {
    /// By the relay, because nothing is known of the client's way yet. What is carried is also
    /// counted by this meter.
    pub fn new(meter: Arc<Meter>, now: Instant) -> Self {
        let why = Some("the client's address is not known yet".into());
        let standing = Standing { engine: Engine::Relay, since: now, why };
        Self {
            standing: Mutex::new(standing),
            meter,
            by_userspace: Carried::default(),
            by_kernel: Carried::default(),
        }
    }

    /// What carries it now.
    pub fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }

    /// Another engine carries it from here on, or the same for another reason. Gives the engine
    /// before, if it was another.
    pub fn change(&self, engine: Engine, why: Option<Refused>, now: Instant) -> Option<Engine> {
        let mut standing = self.standing.lock();
        let before = standing.engine;
        let since = if before == engine { standing.since } else { now };
        *standing = Standing { engine, since, why };
        (before != engine).then_some(before)
    }

    /// Counts what this process has sent to a leg, and what it could not.
    pub fn relayed(&self, leg: Leg, packets: usize, bytes: usize, lost: usize) {
        self.by_userspace.add(leg, packets as u64, bytes as u64);
        self.meter.wrote(leg, bytes);
        if lost > 0 {
            self.meter.lost(lost);
        }
    }

    /// Counts what the kernel has sent to a leg.
    pub fn offloaded(&self, leg: Leg, packets: u64, bytes: u64) {
        self.by_kernel.add(leg, packets, bytes);
        self.meter.wrote(leg, usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// What this process has sent.
    pub fn by_userspace(&self) -> Amounts {
        self.by_userspace.read()
    }

    /// What the kernel has sent, as far as its counters were read.
    pub fn by_kernel(&self) -> Amounts {
        self.by_kernel.read()
    }
}

impl Carried {
    fn add(&self, leg: Leg, packets: u64, bytes: u64) {
        // Only ever read as statistics: nothing is ordered by them.
        let [to_origin, to_client] = &self.packets;
        let [bytes_to_origin, bytes_to_client] = &self.bytes;
        let (count, of_bytes) = match leg {
            Leg::Origin => (to_origin, bytes_to_origin),
            Leg::Client => (to_client, bytes_to_client),
        };
        count.fetch_add(packets, Ordering::Relaxed);
        of_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn read(&self) -> Amounts {
        let read = |all: &[AtomicU64; Leg::ALL.len()]| {
            all.each_ref().map(|count| count.load(Ordering::Relaxed))
        };
        Amounts { packets: read(&self.packets), bytes: read(&self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_session_knows_what_carries_it_since_when_and_why() {
        let (start, meter) = (Instant::now(), Arc::new(Meter::default()));
        let course = Course::new(Arc::clone(&meter), start);
        assert_eq!(course.standing().engine, Engine::Relay);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(course.change(Engine::Relay, Some("no way".into()), at(1)), None);
        let standing = course.standing();
        assert_eq!((standing.since, standing.why), (start, Some("no way".into())));
        assert_eq!(course.change(Engine::Xdp, None, at(2)), Some(Engine::Relay));
        let faster = Standing { engine: Engine::Xdp, since: at(2), why: None };
        assert_eq!(course.standing(), faster);
    }

    #[test]
    fn each_datagram_is_counted_for_who_has_carried_it_and_for_the_session() {
        let meter = Arc::new(Meter::default());
        let course = Course::new(Arc::clone(&meter), Instant::now());
        course.relayed(Leg::Origin, 2, 200, 1);
        course.offloaded(Leg::Origin, 3, 300);
        course.offloaded(Leg::Client, 4, 400);
        let amounts = |packets, bytes| Amounts { packets, bytes };
        assert_eq!(course.by_userspace(), amounts([2, 0], [200, 0]));
        assert_eq!(course.by_kernel(), amounts([3, 4], [300, 400]));
        assert_eq!((meter.read(), meter.read_lost()), ([500, 400], 1));
    }
}
