//! One thread with its sessions: waits for their sockets, and gives each its turn.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use tokio::time::Instant;
use tracing::error;

use super::inbox::Inbox;
use super::journey::{Job, Outcome, Reply, Returned};
use super::poller::{Event, Interest, News, Poller, Token};
use super::pump::{Pump, Turn};
use super::thread::Tally;
use super::way::Kit;
use crate::plane::{Leg, Outbox, Refused};

/// A thread's state.
pub(super) struct Worker<P> {
    poller: P,
    inbox: Inbox,
    tally: Arc<Tally>,
    kit: Kit,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots whose session has something to do, with its generation.
    queue: VecDeque<(u32, u32)>,
    /// When to look at each session.
    looks: BTreeSet<(Instant, u32)>,
}

/// A place for a session.
#[derive(Default)]
struct Slot {
    /// How many sessions had it: what is still told of a former one is known by it.
    generation: u32,
    session: Option<Box<Session>>,
}

struct Session {
    pump: Pump,
    reply: Reply,
    is_queued: bool,
    look: Instant,
}

impl<P: Poller> Worker<P> {
    /// A thread's worker, watching its inbox.
    pub(super) fn new(inbox: Inbox, kit: Kit, tally: Arc<Tally>) -> io::Result<Self> {
        let mut poller = P::new()?;
        poller.watch(BELL, inbox.bell(), Interest::Input)?;
        // A kernel that does not know what was asked for says so here.
        let mut events = Vec::new();
        poller.wait(Some(Duration::ZERO), &mut events)?;
        if let Some(Event { news: News::Refused(errno), .. }) = events.first() {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        Ok(Self {
            poller,
            inbox,
            tally,
            kit,
            slots: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            looks: BTreeSet::new(),
        })
    }

    /// Works until it is told to end, or cannot go on: then every session goes back to where it came
    /// from.
    pub(super) fn run(mut self) -> io::Result<()> {
        let ended = self.work();
        let why = match &ended {
            Ok(()) => "the proxy stops".into(),
            Err(error) => Refused::from(format!("its thread has failed: {error}")),
        };
        // From here on nobody hands anything over.
        self.inbox.close(&why);
        for slot in 0..self.slots.len() {
            self.give_back(u32::try_from(slot).unwrap_or(u32::MAX), &why);
        }
        ended
    }

    fn work(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        loop {
            self.poller.wait(self.limit(), &mut events)?;
            let now = Instant::now();
            for Event { token, news } in events.drain(..) {
                if token == BELL {
                    if !self.open_inbox(news, now)? {
                        return Ok(());
                    }
                } else {
                    self.heard(token, news, now);
                }
            }
            // Those that are queued by others wait for the next round, so that sockets are heard in
            // between.
            for _ in 0..self.queue.len() {
                if let Some((slot, generation)) = self.queue.pop_front() {
                    self.turn(slot, generation, now);
                }
            }
            self.look(now);
            self.tally.add(mem::take(&mut self.kit.moved), self.kit.pipes.count());
        }
    }

    /// How long to wait for sockets.
    fn limit(&self) -> Option<Duration> {
        if !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let (look, _) = self.looks.first()?;
        Some(look.saturating_duration_since(Instant::now()))
    }

    /// False if the thread is to end.
    fn open_inbox(&mut self, news: News, now: Instant) -> io::Result<bool> {
        match news {
            News::Ready(_) => {}
            News::Last(_) => self.poller.watch(BELL, self.inbox.bell(), Interest::Input)?,
            News::Refused(errno) => return Err(io::Error::from_raw_os_error(errno)),
        }
        let mail = self.inbox.open();
        for job in mail.jobs {
            self.begin(job, now);
        }
        if mail.is_left {
            for slot in 0..self.slots.len() {
                let slot = u32::try_from(slot).unwrap_or(u32::MAX);
                if self.session(slot).is_some_and(|session| session.reply.is_left()) {
                    self.end(slot, Outcome::Over(None));
                }
            }
        }
        Ok(!mail.is_over)
    }

    fn begin(&mut self, job: Job, now: Instant) {
        let Job { legs, out, flow, patience, meter, reply } = job;
        if reply.is_left() {
            self.inbox.release();
            return;
        }
        let pump = Pump::new(legs, out, flow, patience, meter, now);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let look = pump.next_look();
        self.looks.insert((look, slot));
        let session = Box::new(Session { pump, reply, is_queued: false, look });
        if let Some(place) = self.slots.get_mut(slot as usize) {
            place.session = Some(session);
        }
        for leg in Leg::ALL {
            if let Err(error) = self.watch(slot, leg) {
                self.give_back(slot, &Refused::from(format!("its socket: {error}")));
                return;
            }
        }
        self.enqueue(slot);
    }

    fn watch(&mut self, slot: u32, leg: Leg) -> io::Result<()> {
        let Some(place) = self.slots.get(slot as usize) else { return Ok(()) };
        let Some(session) = &place.session else { return Ok(()) };
        let token = token(slot, place.generation, leg);
        self.poller.watch(token, session.pump.socket(leg), Interest::All)
    }

    fn session(&mut self, slot: u32) -> Option<&mut Session> {
        self.slots.get_mut(slot as usize)?.session.as_deref_mut()
    }

    fn enqueue(&mut self, slot: u32) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        let Some(session) = &mut place.session else { return };
        if !mem::replace(&mut session.is_queued, true) {
            self.queue.push_back((slot, place.generation));
        }
    }

    fn heard(&mut self, token: Token, news: News, now: Instant) {
        let (slot, generation, leg) = parts(token);
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        let Some(session) = place.session.as_deref_mut() else { return };
        if place.generation != generation {
            return;
        }
        let (readiness, is_last) = match news {
            News::Ready(readiness) => (readiness, false),
            News::Last(readiness) => (readiness, true),
            News::Refused(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                self.give_back(slot, &Refused::from(format!("its socket: {error}")));
                return;
            }
        };
        session.pump.heard(leg, readiness, &mut self.kit, now);
        self.enqueue(slot);
        if is_last && let Err(error) = self.watch(slot, leg) {
            self.give_back(slot, &Refused::from(format!("its socket: {error}")));
        }
    }

    fn turn(&mut self, slot: u32, generation: u32, now: Instant) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        let Some(session) = place.session.as_deref_mut() else { return };
        if place.generation != generation {
            // It was another one's turn.
            return;
        }
        session.is_queued = false;
        match session.pump.run(&mut self.kit, now) {
            Turn::Waiting => {}
            Turn::Tired => self.enqueue(slot),
            Turn::Over(closed) => return self.end(slot, Outcome::Over(closed)),
        }
        self.look_again(slot);
    }

    /// Sets the time of the session's next look.
    fn look_again(&mut self, slot: u32) {
        let Some(session) = self.session(slot) else { return };
        let next = session.pump.next_look();
        let before = mem::replace(&mut session.look, next);
        if before != next {
            self.looks.remove(&(before, slot));
            self.looks.insert((next, slot));
        }
    }

    /// Looks at the sessions whose time has come.
    fn look(&mut self, now: Instant) {
        while let Some(&(look, slot)) = self.looks.first().filter(|(look, _)| *look <= now) {
            let Some(session) = self.session(slot) else {
                self.looks.remove(&(look, slot));
                continue;
            };
            match session.pump.look(now) {
                Some(closed) => self.end(slot, Outcome::Over(Some(closed))),
                None => self.look_again(slot),
            }
        }
    }

    fn end(&mut self, slot: u32, outcome: Outcome) {
        let Some(session) = self.take_out(slot) else { return };
        let Session { pump, reply, .. } = *session;
        let legs = pump.into_legs(&mut self.kit);
        reply.give(Returned { legs, out: Outbox::default(), outcome });
    }

    /// Gives a session back as it is: somebody else goes on with it.
    fn give_back(&mut self, slot: u32, why: &Refused) {
        let Some(session) = self.take_out(slot) else { return };
        let Session { pump, reply, .. } = *session;
        match pump.into_parts(&mut self.kit) {
            Ok((legs, out, flow)) => {
                let outcome = Outcome::Refused(why.clone(), flow);
                reply.give(Returned { legs, out, outcome });
            }
            // What was in its pipes is lost, and the session with it.
            Err(error) => error!(%error, "a pipe could not be read"),
        }
    }

    fn take_out(&mut self, slot: u32) -> Option<Box<Session>> {
        let place = self.slots.get_mut(slot as usize)?;
        let session = place.session.take()?;
        for leg in Leg::ALL {
            self.poller.unwatch(token(slot, place.generation, leg), session.pump.socket(leg));
        }
        place.generation = place.generation.wrapping_add(1) & GENERATIONS;
        self.looks.remove(&(session.look, slot));
        self.free.push(slot);
        self.inbox.release();
        Some(session)
    }
}

/// 31 bits of the generation, 32 of the slot, one of the leg. None is [`BELL`] or beyond: no slot
/// has a number so high.
fn token(slot: u32, generation: u32, leg: Leg) -> Token {
    let leg = match leg {
        Leg::Origin => 0,
        Leg::Client => 1,
    };
    Token(u64::from(generation) << 33 | u64::from(slot) << 1 | leg)
}

fn parts(Token(token): Token) -> (u32, u32, Leg) {
    let leg = if token & 1 == 0 { Leg::Origin } else { Leg::Client };
    #[expect(clippy::cast_possible_truncation, reason = "these are its bits")]
    let parts = ((token >> 1) as u32, (token >> 33) as u32, leg);
    parts
}

/// Generations before the first one comes again.
const GENERATIONS: u32 = u32::MAX >> 1;

/// The inbox's token.
const BELL: Token = Token(u64::MAX - 1);

#[cfg(test)]
mod tests;
