//! Two TCP legs in one task, copied through userspace.
//!
//! Bytes are read into a buffer that all sessions of a thread share, and written at once. Only
//! what a socket does not take is kept, and a leg is not read while the other has bytes waiting:
//! so a session that flows holds no buffer, a slow peer slows the other, and a session never
//! holds more than one read in each direction, and what its filter wrote for it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::filter::{AtEnd, Filter, Passed};
use super::watch::{HALF_CLOSED, LAST_LOOKS, LAST_WORDS, Patience, Stillness, Watch};
use crate::listen::tcp::acknowledge_now;
use crate::plane::{Closed, Leg, Meter, Outbox, StreamPair};

/// Bytes of one read: large enough that system calls do not count, small enough for the cache.
const READ: usize = 64 * 1024;

/// How often a session whose bytes wait is asked whether its legs still live.
const PROBE: Duration = LAST_LOOKS;

/// How a run of the relay ended.
#[derive(Debug)]
pub enum Exit<T, F> {
    /// Bytes move no longer.
    Closed(Closed),
    /// The filter has something to tell, and the relay can go on behind it.
    Turn(T),
    /// The filter found a fault.
    Fault(F),
}

impl Exit<Infallible, Infallible> {
    /// All that is left of an exit for a filter that has nothing to tell.
    pub fn into_closed(self) -> Option<Closed> {
        match self {
            Self::Closed(closed) => Some(closed),
            Self::Turn(never) | Self::Fault(never) => match never {},
        }
    }
}

/// No look at all.
#[derive(Debug)]
pub struct Plain;

impl Filter for Plain {
    type Turn = Infallible;
    type Fault = Infallible;

    fn pass(&mut self, _: Leg, _: &[u8], _: &mut Outbox) -> Result<Passed, Infallible> {
        Ok(Passed::Verbatim)
    }

    fn at_end(&self, _: Leg) -> AtEnd {
        AtEnd::PassedOn
    }
}

/// So many bytes, and a word when they are written.
#[derive(Debug)]
pub struct Counted {
    /// The leg that they come from; the other one is not read.
    pub from: Leg,
    /// How many are still to come.
    pub left: u64,
}

impl Filter for Counted {
    type Turn = ();
    type Fault = Infallible;

    fn pass(&mut self, _: Leg, bytes: &[u8], _: &mut Outbox) -> Result<Passed, Infallible> {
        self.left -= bytes.len() as u64;
        Ok(Passed::Verbatim)
    }

    fn turn(&mut self, out: &Outbox) -> Option<()> {
        (self.left == 0 && out.waiting() == [0, 0]).then_some(())
    }

    fn is_complete(&self) -> bool {
        self.left == 0
    }

    fn room(&self, from: Leg) -> usize {
        if from == self.from { usize::try_from(self.left).unwrap_or(usize::MAX) } else { 0 }
    }
}

/// Nothing that the client sends goes on: it has asked, and only listens.
#[derive(Debug)]
pub struct Listening;

impl Filter for Listening {
    type Turn = Infallible;
    type Fault = Infallible;

    fn pass(&mut self, from: Leg, _: &[u8], _: &mut Outbox) -> Result<Passed, Infallible> {
        Ok(match from {
            Leg::Origin => Passed::Verbatim,
            Leg::Client => Passed::Written,
        })
    }
}

/// Moves bytes both ways until a leg ends, the filter has a word, or patience is over.
pub async fn carry<F: Filter>(
    pair: &mut StreamPair,
    filter: &mut F,
    patience: Patience,
    meter: &Meter,
) -> Exit<F::Turn, F::Fault> {
    // A pair that comes back from a thread may have more than one read waiting.
    let most_answers = pair.out.waiting().into_iter().fold(READ, usize::max);
    let mut relay = Relay {
        pair,
        filter,
        meter,
        most_answers,
        silent: [false; 2],
        half: None,
        ending: None,
        is_cut: false,
        probe: None,
    };
    let mut watch = Watch::new(patience, meter, Instant::now());
    loop {
        tokio::select! {
            biased;
            exit = poll_fn(|cx| relay.poll(cx)) => return exit,
            () = sleep_until(watch.next) => {}
        }
        if let Some(closed) = watch.look(meter, relay.pair.out.waiting(), Instant::now()) {
            return Exit::Closed(closed);
        }
    }
}

struct Relay<'a, F> {
    pair: &'a mut StreamPair,
    filter: &'a mut F,
    meter: &'a Meter,
    /// Bytes that may wait for a leg that is read: the filter's answers to what it has sent.
    most_answers: usize,
    /// Which legs will send no more, and still listen.
    silent: [bool; Leg::ALL.len()],
    /// Such an end is passed on.
    half: Option<Half>,
    ending: Option<Ending>,
    /// Something that was read goes nowhere.
    is_cut: bool,
    /// Runs only while bytes wait.
    probe: Option<Pin<Box<Sleep>>>,
}

/// A leg has ended. The run ends as soon as what it had sent is written to the other.
struct Ending {
    leg: Leg,
    closed: Closed,
    /// It takes no more, but what it sent before may still have to be read.
    read_on: bool,
    still: Stillness,
}

/// A leg has ended in order, and the other hears of it.
struct Half {
    /// The first one to end.
    leg: Leg,
    /// Which legs have been told that the other has ended.
    told: [bool; Leg::ALL.len()],
    still: Stillness,
}

impl<F: Filter> Relay<'_, F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Exit<F::Turn, F::Fault>> {
        loop {
            let mut moved = false;
            for to in Leg::ALL {
                moved |= self.flush(cx, to);
            }
            self.pass_on_ends();
            if !self.is_cut
                && self.filter.is_complete()
                && let Some(turn) = self.filter.turn(&self.pair.out)
            {
                return Poll::Ready(Exit::Turn(turn));
            }
            if let Some(closed) = self.ended() {
                return Poll::Ready(Exit::Closed(closed));
            }
            if self.ending.is_none()
                && let Some(turn) = self.filter.turn(&self.pair.out)
            {
                return Poll::Ready(Exit::Turn(turn));
            }
            for from in Leg::ALL {
                if !self.may_read(from) {
                    continue;
                }
                match self.read(cx, from) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(fault)) => return Poll::Ready(Exit::Fault(fault)),
                }
            }
            if !moved && !self.probe(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Writes what waits for a leg; true if anything changed.
    fn flush(&mut self, cx: &mut Context<'_>, to: Leg) -> bool {
        if self.ending.as_ref().is_some_and(|ending| ending.leg == to) {
            // It takes no more.
            self.cut(to);
            return false;
        }
        let (socket, out) = self.pair.leg(to);
        let mut written = 0;
        let mut failed = false;
        while let Some(rest) = out.get(written..).filter(|rest| !rest.is_empty()) {
            match write(socket, cx, rest) {
                Ok(0) => break,
                Ok(n) => written += n,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        if written == out.len() {
            // Gives the memory back: a session that flows holds none.
            *out = Vec::new();
        } else {
            out.drain(..written);
        }
        self.meter.wrote(to, written);
        if failed {
            self.end(to, Closed::Lost(to), true);
        }
        failed || written > 0
    }

    /// What waits for a leg goes nowhere.
    fn cut(&mut self, leg: Leg) {
        let out = self.pair.out.towards(leg);
        self.is_cut |= !out.is_empty();
        out.clear();
    }

    /// Notes that a leg ends. The first one to end is the reason; if the other goes as well,
    /// nobody is left to write to.
    fn end(&mut self, leg: Leg, closed: Closed, read_on: bool) {
        let closed = self.half.as_ref().map_or(closed, |half| Closed::InOrder(half.leg));
        let read_on = read_on && !self.is_silent(leg);
        match &mut self.ending {
            None => {
                let still = Stillness::new(self.meter, Instant::now());
                self.ending = Some(Ending { leg, closed, read_on, still });
            }
            Some(ending) if ending.leg == leg => ending.read_on = false,
            Some(ending) => {
                ending.read_on = false;
                self.cut(leg);
            }
        }
    }

    /// Tells each leg that the other has ended, once it has all that the other has sent.
    fn pass_on_ends(&mut self) {
        let Some(half) = &mut self.half else { return };
        for leg in Leg::ALL {
            let told = leg.of(&mut half.told);
            if !*told && *leg.other().of(&mut self.silent) && self.pair.out.waiting_for(leg) == 0 {
                *told = true;
                // If it is gone there is nobody to tell.
                let _told = SockRef::from(&*self.pair.leg(leg).0).shutdown(Shutdown::Write);
            }
        }
    }

    /// The reason, once a leg has ended and everything it sent is written, or both have and know of
    /// each other.
    fn ended(&self) -> Option<Closed> {
        if let Some(half) = self.half.as_ref().filter(|half| half.told == [true; 2]) {
            return Some(Closed::InOrder(half.leg));
        }
        let ending = self.ending.as_ref()?;
        let waiting = self.pair.out.waiting_for(ending.leg.other());
        (!ending.read_on && waiting == 0).then_some(ending.closed)
    }

    fn is_silent(&self, leg: Leg) -> bool {
        let [origin, client] = self.silent;
        if leg == Leg::Origin { origin } else { client }
    }

    fn may_read(&self, from: Leg) -> bool {
        let out = &self.pair.out;
        let is_over = self.ending.as_ref().is_some_and(|e| e.leg != from || !e.read_on);
        // While bytes wait for the other leg, reading more would only fill memory.
        !is_over
            && !self.is_silent(from)
            && out.waiting_for(from.other()) == 0
            && out.waiting_for(from) <= self.most_answers
            && self.filter.room(from) > 0
    }

    /// Reads once from a leg and passes it on. `Ready` also at its end.
    fn read(&mut self, cx: &mut Context<'_>, from: Leg) -> Poll<Result<(), F::Fault>> {
        thread_local! {
            static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
        }
        BUFFER.with_borrow_mut(|buffer| {
            let room = self.filter.room(from).min(buffer.len());
            let mut buffer = ReadBuf::new(buffer.get_mut(..room).unwrap_or_default());
            let (socket, _) = self.pair.leg(from);
            match ready!(Pin::new(socket).poll_read(cx, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => match self.filter.at_end(from) {
                    AtEnd::Over => self.end(from, Closed::InOrder(from), false),
                    AtEnd::GoesOn => *from.of(&mut self.silent) = true,
                    AtEnd::PassedOn => {
                        *from.of(&mut self.silent) = true;
                        let still = Stillness::new(self.meter, Instant::now());
                        self.half.get_or_insert(Half { leg: from, told: [false; 2], still });
                    }
                },
                Ok(()) => return Poll::Ready(self.pass(cx, from, buffer.filled())),
                Err(_) => self.end(from, Closed::Lost(from), false),
            }
            Poll::Ready(Ok(()))
        })
    }

    fn pass(&mut self, cx: &mut Context<'_>, from: Leg, bytes: &[u8]) -> Result<(), F::Fault> {
        if self.filter.is_waiting() {
            acknowledge_now(self.pair.leg(from).0);
        }
        if self.filter.pass(from, bytes, &mut self.pair.out)? == Passed::Written {
            return Ok(());
        }
        let to = from.other();
        let (socket, out) = self.pair.leg(to);
        // Nothing waits for this leg, or the other would not have been read. An error shows
        // again when the rest is flushed.
        let written = write(socket, cx, bytes).unwrap_or(0);
        out.extend_from_slice(bytes.get(written..).unwrap_or_default());
        self.meter.wrote(to, written);
        Ok(())
    }

    /// Looks, once a second while bytes wait, after what no read or write would tell: whether
    /// the connection of a leg that is not read was lost, and whether the last bytes of a leg
    /// that has ended are still being taken. True if something changed.
    fn probe(&mut self, cx: &mut Context<'_>) -> bool {
        let is_idle = self.pair.out.waiting() == [0, 0];
        if is_idle && self.ending.is_none() && self.half.is_none() {
            self.probe = None;
            return false;
        }
        let timer = self.probe.get_or_insert_with(|| Box::pin(sleep(PROBE)));
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        // Fires again at the next turn of the loop, or is dropped there.
        timer.set(sleep(PROBE));
        let now = Instant::now();
        if let Some(half) = self.half.as_mut().filter(|_| is_idle && self.ending.is_none())
            && half.still.lasts(self.meter, now) >= HALF_CLOSED
        {
            half.told = [true; 2];
            return true;
        }
        match &mut self.ending {
            Some(ending) => {
                let is_late = ending.still.lasts(self.meter, now) >= LAST_WORDS;
                if is_late && matches!(ending.closed, Closed::Lost(_)) {
                    ending.read_on = false;
                    let to = ending.leg.other();
                    self.cut(to);
                }
            }
            None => {
                for leg in Leg::ALL {
                    if !matches!(self.pair.leg(leg).0.take_error(), Ok(None)) {
                        self.end(leg, Closed::Lost(leg), true);
                    }
                }
            }
        }
        true
    }
}

/// Bytes taken by the socket; zero if it takes none now, and then the task is woken when it does.
fn write(socket: &mut TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
    match Pin::new(socket).poll_write(cx, bytes) {
        Poll::Pending => Ok(0),
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(result) => result,
    }
}

#[cfg(test)]
mod tests;
