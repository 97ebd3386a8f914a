//! Two TCP legs in one task, copied through userspace.
//!
//! Bytes are read into a buffer that all sessions of a thread share, and written at once. Only
//! what a socket does not take is kept, and a leg is not read while the other has bytes waiting:
//! so a session that flows holds no buffer, a slow peer slows the other, and a session never
//! holds more than one read in each direction.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::listen::tcp::acknowledge_now;
use crate::plane::StreamPair;
use crate::session::{Direction, End, Meter};

/// Bytes of one read: large enough that system calls do not count, small enough for the cache.
const READ: usize = 64 * 1024;

/// One of a session's two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// The client's.
    Client,
    /// The origin's.
    Origin,
}

impl Leg {
    const ALL: [Self; 2] = [Self::Origin, Self::Client];

    /// The opposite leg.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Origin,
            Self::Origin => Self::Client,
        }
    }

    const fn inwards(self) -> Direction {
        match self {
            Self::Client => Direction::ToClient,
            Self::Origin => Direction::ToOrigin,
        }
    }

    const fn closed(self) -> End {
        match self {
            Self::Client => End::ClientClosed,
            Self::Origin => End::OriginClosed,
        }
    }

    const fn lost(self) -> End {
        match self {
            Self::Client => End::ClientLost,
            Self::Origin => End::OriginLost,
        }
    }
}

/// Bytes waiting to be written to each leg.
#[derive(Debug, Default)]
pub struct Outbox {
    /// For the client.
    pub to_client: Vec<u8>,
    /// For the origin.
    pub to_origin: Vec<u8>,
}

impl Outbox {
    /// What waits for `leg`.
    pub fn towards(&mut self, leg: Leg) -> &mut Vec<u8> {
        match leg {
            Leg::Client => &mut self.to_client,
            Leg::Origin => &mut self.to_origin,
        }
    }

    fn waiting(&self, leg: Leg) -> usize {
        match leg {
            Leg::Client => self.to_client.len(),
            Leg::Origin => self.to_origin.len(),
        }
    }
}

/// Looks at the bytes that pass, and may replace them.
pub trait Filter {
    /// Why the session cannot go on.
    type Fault;

    /// `bytes` came from `from`. With [`Passed::Verbatim`] they go on as they are; with
    /// [`Passed::Written`] the filter has put what goes on into `out`, for either leg.
    fn pass(&mut self, from: Leg, bytes: &[u8], out: &mut Outbox) -> Result<Passed, Self::Fault>;

    /// Whether an answer is awaited: what comes is then acknowledged without delay.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Whether the bytes need no further look, so that another plane can take the pair.
    fn is_done(&self) -> bool {
        false
    }
}

/// What a [`Filter`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Nothing: the bytes go on.
    Verbatim,
    /// It wrote what goes on.
    Written,
}

/// No look at all.
#[derive(Debug)]
pub struct Plain;

impl Filter for Plain {
    type Fault = Infallible;

    fn pass(&mut self, _: Leg, _: &[u8], _: &mut Outbox) -> Result<Passed, Infallible> {
        Ok(Passed::Verbatim)
    }
}

/// When a session that does not move ends.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// No byte in either direction.
    pub idle: Duration,
    /// A leg takes none of the bytes that wait for it.
    pub stall: Duration,
}

/// How a run of the relay ended.
#[derive(Debug)]
pub enum Exit<F> {
    /// One leg ended; what it had sent was written to the other.
    Ended(End),
    /// The filter is done: the pair can go to another plane.
    Done,
    /// The filter found a fault.
    Fault(F),
}

/// Moves bytes both ways until a leg ends, the filter is done, or patience is.
pub async fn carry<F: Filter>(
    pair: &mut StreamPair,
    filter: &mut F,
    patience: Patience,
    meter: &Meter,
) -> Exit<F::Fault> {
    let mut relay = Relay { pair, filter, meter, closing: None };
    let mut watch = Watch::new(patience, meter);
    loop {
        tokio::select! {
            biased;
            exit = poll_fn(|cx| relay.poll(cx)) => return exit,
            () = sleep_until(watch.next) => {}
        }
        if let Some(end) = watch.look(meter, &relay.pair.out) {
            return Exit::Ended(end);
        }
    }
}

struct Relay<'a, F> {
    pair: &'a mut StreamPair,
    filter: &'a mut F,
    meter: &'a Meter,
    /// Why the session ends as soon as everything is written.
    closing: Option<(Leg, End)>,
}

impl<F: Filter> Relay<'_, F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Exit<F::Fault>> {
        loop {
            let mut moved = false;
            for to in Leg::ALL {
                match self.flush(cx, to) {
                    Ok(wrote) => moved |= wrote,
                    Err(_) => return Poll::Ready(Exit::Ended(to.lost())),
                }
            }
            if let Some((leg, end)) = self.closing {
                if self.pair.out.waiting(leg.other()) == 0 {
                    return Poll::Ready(Exit::Ended(end));
                }
                return Poll::Pending;
            }
            if self.filter.is_done() {
                return Poll::Ready(Exit::Done);
            }
            for from in Leg::ALL {
                // Bytes wait for the other leg: reading more would only fill memory. What waits
                // for this one are answers of the filter to what it sent.
                let held = self.pair.out.waiting(from.other());
                if held > 0 || self.pair.out.waiting(from) > READ {
                    continue;
                }
                match self.read(cx, from) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(fault)) => return Poll::Ready(Exit::Fault(fault)),
                }
                if self.closing.is_some() {
                    moved = true;
                    break;
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Writes what waits for a leg; true if anything went.
    fn flush(&mut self, cx: &mut Context<'_>, to: Leg) -> io::Result<bool> {
        let mut written = 0;
        let out = match to {
            Leg::Client => &mut self.pair.out.to_client,
            Leg::Origin => &mut self.pair.out.to_origin,
        };
        let socket = match to {
            Leg::Client => &mut self.pair.client,
            Leg::Origin => &mut self.pair.origin,
        };
        while let Some(rest) = out.get(written..).filter(|rest| !rest.is_empty()) {
            match write(socket, cx, rest)? {
                0 => break,
                n => written += n,
            }
        }
        self.meter.add(to.inwards(), written as u64);
        if written == out.len() {
            // Gives the memory back: a session that flows holds none.
            *out = Vec::new();
        } else {
            out.drain(..written);
        }
        Ok(written > 0)
    }

    fn socket(&mut self, leg: Leg) -> &mut TcpStream {
        match leg {
            Leg::Client => &mut self.pair.client,
            Leg::Origin => &mut self.pair.origin,
        }
    }

    /// Reads once from a leg and passes it on. `Ready` also at its end.
    fn read(&mut self, cx: &mut Context<'_>, from: Leg) -> Poll<Result<(), F::Fault>> {
        thread_local! {
            static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            match ready!(Pin::new(self.socket(from)).poll_read(cx, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => self.closing = Some((from, from.closed())),
                Ok(()) => return Poll::Ready(self.pass(cx, from, buffer.filled())),
                Err(_) => self.closing = Some((from, from.lost())),
            }
            Poll::Ready(Ok(()))
        })
    }

    fn pass(&mut self, cx: &mut Context<'_>, from: Leg, bytes: &[u8]) -> Result<(), F::Fault> {
        let to = from.other();
        if self.filter.is_waiting() {
            acknowledge_now(self.socket(from));
        }
        if self.filter.pass(from, bytes, &mut self.pair.out)? == Passed::Written {
            return Ok(());
        }
        let socket = self.socket(to);
        // Nothing waits for this leg, or it would not have been read for. A write error shows
        // again when the rest is flushed.
        let written = write(socket, cx, bytes).unwrap_or(0);
        self.meter.add(to.inwards(), written as u64);
        self.pair.out.towards(to).extend_from_slice(bytes.get(written..).unwrap_or_default());
        Ok(())
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

/// Looks now and then whether anything moved, so that a byte costs no clock and no timer.
struct Watch {
    patience: Patience,
    next: Instant,
    /// What was written to each leg at the last look.
    seen: [u64; 2],
    /// Since when nothing moved at all, and towards each leg.
    still: Instant,
    stuck: [Instant; 2],
}

impl Watch {
    fn new(patience: Patience, meter: &Meter) -> Self {
        let now = Instant::now();
        let mut watch =
            Self { patience, next: now, seen: meter.read(), still: now, stuck: [now, now] };
        watch.schedule(now);
        watch
    }

    fn schedule(&mut self, now: Instant) {
        self.next = now + self.patience.idle.min(self.patience.stall) / 4;
    }

    fn look(&mut self, meter: &Meter, out: &Outbox) -> Option<End> {
        let now = Instant::now();
        let bytes = meter.read();
        let waiting = [out.to_origin.len(), out.to_client.len()];
        if bytes != self.seen {
            self.still = now;
        }
        for (((since, seen), bytes), waiting) in
            self.stuck.iter_mut().zip(self.seen).zip(bytes).zip(waiting)
        {
            if seen != bytes || waiting == 0 {
                *since = now;
            }
        }
        self.seen = bytes;
        self.schedule(now);
        if self.stuck.iter().any(|since| now - *since >= self.patience.stall) {
            Some(End::Stalled)
        } else if now - self.still >= self.patience.idle {
            Some(End::Idle)
        } else {
            None
        }
    }
}
