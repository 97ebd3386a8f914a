//! Both directions of one session, from the hand-over to its end.
//!
//! A leg that ends in order is read to its end, and the other leg is told; the opposite direction
//! goes on. What a leg had sent before it was lost is still written to the other, as long as that
//! one takes it.

use std::io;
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::poller::Readiness;
use super::side::Side;
use super::way::{Broken, Kit, Rest, Source, Way};
use crate::plane::relay::watch::{HALF_CLOSED, LAST_LOOKS, LAST_WORDS, Patience, Stillness, Watch};
use crate::plane::{Closed, Flow, Leg, Meter, Outbox};

/// One session's sockets, and what is on its way between them.
#[derive(Debug)]
pub(super) struct Pump {
    /// In the order of [`Leg::ALL`], as the ways are, each by where it comes from.
    sides: [Side; Leg::ALL.len()],
    ways: [Way; Leg::ALL.len()],
    flow: Flow,
    meter: Arc<Meter>,
    watch: Watch,
    ending: Option<Ending>,
}

/// The beginning of the end.
#[derive(Clone, Copy, Debug)]
struct Ending {
    /// The first leg to end, and how.
    closed: Closed,
    still: Stillness,
    next: Instant,
}

/// What a turn of a session came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It waits for its sockets, or for its time.
    Waiting,
    /// It can go on at once; others are to have their turn first.
    Tired,
    /// It is over; without a reason if all that was to be moved was.
    Over(Option<Closed>),
}

impl Pump {
    /// `legs` do not block.
    pub(super) fn new(
        legs: [TcpStream; Leg::ALL.len()],
        out: Outbox,
        flow: Flow,
        patience: Patience,
        meter: Arc<Meter>,
        now: Instant,
    ) -> Self {
        let Outbox { to_origin, to_client } = out;
        let way = |from: Leg, rest| {
            let (source, left) = match flow {
                Flow::ToClient if from == Leg::Client => (Source::Unheard, u64::MAX),
                Flow::Both | Flow::ToClient => (Source::Open, u64::MAX),
                Flow::Exactly(leg, bytes) if from == leg => (Source::Open, bytes),
                Flow::Exactly(..) => (Source::Ended, 0),
            };
            Way::new(source, left, rest)
        };
        Self {
            sides: legs.map(Side::new),
            ways: [way(Leg::Origin, to_client), way(Leg::Client, to_origin)],
            flow,
            watch: Watch::new(patience, &meter, now),
            meter,
            ending: None,
        }
    }

    /// A leg's socket.
    pub(super) fn socket(&self, leg: Leg) -> BorrowedFd<'_> {
        let [origin, client] = &self.sides;
        match leg {
            Leg::Origin => origin.socket(),
            Leg::Client => client.socket(),
        }
    }

    /// The system tells of a leg's socket.
    pub(super) fn heard(&mut self, leg: Leg, readiness: Readiness, kit: &mut Kit, now: Instant) {
        leg.of(&mut self.sides).heard(readiness);
        if readiness.is_broken() {
            // What it had sent may still be there to be read, and the error behind it.
            self.lost(leg, kit, now);
        }
    }

    /// Moves what can be moved now.
    pub(super) fn run(&mut self, kit: &mut Kit, now: Instant) -> Turn {
        let mut is_tired = false;
        for from in Leg::ALL {
            is_tired |= self.advance(from, kit, now) == Rest::Tired;
        }
        if self.has_moved_all() {
            // Whatever has become of the legs since.
            Turn::Over(None)
        } else if self.is_over() {
            Turn::Over(self.ending.map(|ending| ending.closed))
        } else if is_tired {
            Turn::Tired
        } else {
            Turn::Waiting
        }
    }

    /// When to look at it, whether or not anything moves.
    pub(super) fn next_look(&self) -> Instant {
        self.ending.map_or(self.watch.next, |ending| ending.next.min(self.watch.next))
    }

    /// Why it ends, if it takes too long.
    pub(super) fn look(&mut self, now: Instant) -> Option<Closed> {
        let held = self.ways.each_ref().map(Way::held);
        if let Some(ending) = &mut self.ending {
            ending.next = now + LAST_LOOKS;
            let patience = match ending.closed {
                Closed::Lost(_) => LAST_WORDS,
                _ if held == [0; 2] => HALF_CLOSED,
                // Who is to take them has the usual time.
                _ => Duration::MAX,
            };
            if ending.still.lasts(&self.meter, now) >= patience {
                return Some(ending.closed);
            }
        }
        let [to_client, to_origin] = held;
        self.watch.look(&self.meter, [to_origin, to_client], now)
    }

    /// The sockets, with nothing on its way between them. What was there is lost if it has not come
    /// to an end in order.
    pub(super) fn into_legs(mut self, kit: &mut Kit) -> [TcpStream; Leg::ALL.len()] {
        for way in &mut self.ways {
            way.give_up(kit);
        }
        self.sides.map(Side::into_socket)
    }

    /// Everything, for somebody else to go on with.
    pub(super) fn into_parts(
        self,
        kit: &mut Kit,
    ) -> io::Result<([TcpStream; Leg::ALL.len()], Outbox, Flow)> {
        let [from_origin, from_client] = self.ways.map(|way| way.into_rest(kit));
        let ((to_client, from_origin), (to_origin, from_client)) = (from_origin?, from_client?);
        let flow = match self.flow {
            Flow::Exactly(Leg::Origin, _) => Flow::Exactly(Leg::Origin, from_origin),
            Flow::Exactly(Leg::Client, _) => Flow::Exactly(Leg::Client, from_client),
            endless => endless,
        };
        Ok((self.sides.map(Side::into_socket), Outbox { to_origin, to_client }, flow))
    }

    fn advance(&mut self, from: Leg, kit: &mut Kit, now: Instant) -> Rest {
        let [origin, client] = &mut self.sides;
        let (source, sink) = match from {
            Leg::Origin => (origin, client),
            Leg::Client => (client, origin),
        };
        let (way, to) = (from.of(&mut self.ways), from.other());
        let was_dry = way.is_dry();
        match way.run(source, sink, kit, |bytes| self.meter.wrote(to, bytes)) {
            Ok(rest) => {
                if way.is_dry() && !was_dry && !way.is_complete() {
                    self.end(Closed::InOrder(from), now);
                }
                self.pass_on_end(from);
                rest
            }
            Err(Broken::Sink) => {
                self.lost(to, kit, now);
                // The other direction has to hear of it.
                Rest::Tired
            }
            Err(Broken::Source) => {
                way.dry_up();
                self.lost(from, kit, now);
                Rest::Tired
            }
        }
    }

    /// Tells a leg that the other has ended, once it has all that the other has sent.
    fn pass_on_end(&mut self, from: Leg) {
        if self.flow != Flow::Both {
            return;
        }
        let way = from.of(&mut self.ways);
        if way.has_just_ended() {
            from.other().of(&mut self.sides).end();
        }
    }

    /// A leg takes nothing any more. What it has sent may still be read.
    fn lost(&mut self, leg: Leg, kit: &mut Kit, now: Instant) {
        leg.other().of(&mut self.ways).give_up(kit);
        let way = leg.of(&mut self.ways);
        if way.is_unheard() {
            way.dry_up();
        }
        self.end(Closed::Lost(leg), now);
    }

    /// The first one to end is the reason.
    fn end(&mut self, closed: Closed, now: Instant) {
        let (still, next) = (Stillness::new(&self.meter, now), now + LAST_LOOKS);
        self.ending.get_or_insert(Ending { closed, still, next });
    }

    /// Whether it was asked for so many bytes, and they are written.
    fn has_moved_all(&self) -> bool {
        let is_done = |way: &Way| way.is_complete() && way.is_over();
        matches!(self.flow, Flow::Exactly(..)) && self.ways.iter().all(is_done)
    }

    fn is_over(&self) -> bool {
        let [from_origin, from_client] = self.ways.each_ref().map(Way::is_over);
        let is_over = |leg| match leg {
            Leg::Origin => from_origin,
            Leg::Client => from_client,
        };
        match (self.ending.map(|ending| ending.closed), self.flow) {
            (Some(Closed::InOrder(_)), Flow::Both) => from_origin && from_client,
            (None, _) => false,
            (Some(Closed::InOrder(leg) | Closed::Lost(leg)), _) => is_over(leg),
            (Some(Closed::Idle | Closed::Stalled), _) => true,
        }
    }
}

#[cfg(test)]
mod tests;
