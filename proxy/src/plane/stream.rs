//! What carries streams whose bytes need no look: chosen once for the host, and told of each session.

use std::future::Future;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Instant;

use serde::Serialize;
use tracing::{debug, info};

use super::relay::stream::{Counted, Exit, Listening, Plain, carry};
use super::splice::{Arrival, By, Splice};
use super::{Closed, Flow, Meter, Patience, Refused, StreamPair};
use crate::config::TcpEngine;

/// What moves the bytes of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamEngine {
    /// Copies through this process; works everywhere.
    Relay,
    /// splice(2), with epoll telling when.
    Splice,
    /// splice(2), with `io_uring` telling when.
    UringSplice,
}

impl StreamEngine {
    /// All of them, the slowest first.
    pub const ALL: [Self; 3] = [Self::Relay, Self::Splice, Self::UringSplice];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Splice => "splice",
            Self::UringSplice => "uring-splice",
        }
    }
}

/// What carries a session, since when, and why it is not something faster; no reason if there is
/// nothing faster.
#[derive(Clone, Debug)]
pub struct StreamStanding {
    /// Which engine.
    pub engine: StreamEngine,
    /// Since when.
    pub since: Instant,
    /// Why not a faster one.
    pub why: Option<Refused>,
}

impl StreamStanding {
    /// From now on.
    pub fn now(engine: StreamEngine, why: Option<Refused>) -> Self {
        Self { engine, since: Instant::now(), why }
    }

    /// By the relay, from now on.
    pub fn relay(why: impl Into<Refused>) -> Self {
        Self::now(StreamEngine::Relay, Some(why.into()))
    }
}

/// What the operator wants of the plane.
#[derive(Clone, Copy, Debug)]
pub struct StreamSettings {
    /// Which engine.
    pub engine: TcpEngine,
    /// Threads; as many as there are cores without a number.
    pub threads: Option<usize>,
    /// Sessions that each thread takes.
    pub room: usize,
}

/// The plane. A clone is the same one; the last one ends its threads.
#[derive(Clone, Debug)]
pub struct StreamPlane(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: StreamEngine,
    why: Option<Refused>,
    splice: Option<Splice>,
}

/// What comes back of a pair.
#[derive(Debug)]
pub struct Carried {
    /// The sockets, to be closed or used as the protocol wants. None if there was no way to give them
    /// back: they are closed.
    pub pair: Option<StreamPair>,
    /// Why bytes move no longer; none if all that was to be moved was.
    pub closed: Option<Closed>,
}

/// What there is of the plane, as the API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct StreamsView {
    /// What carries sessions, unless something is in the way of one.
    pub engine: &'static str,
    /// Why it is not the fastest one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes that went by a pipe since the start, those of threads that have failed included.
    pub spliced_bytes: u64,
    /// The same that threads have copied.
    pub copied_bytes: u64,
    /// The living threads of the engine; the relay has none of its own.
    pub threads: Vec<ThreadView>,
}

/// One thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ThreadView {
    /// Sessions that it carries.
    pub sessions: usize,
    /// Pipes that it has, those that wait for use included.
    pub pipes: usize,
    /// Bytes that went by a pipe.
    pub spliced_bytes: u64,
    /// Bytes that were copied: those that came in small pieces, the first of each session, and all for
    /// which there was no pipe.
    pub copied_bytes: u64,
}

impl StreamPlane {
    /// Starts the fastest engine of those that are wanted and that this host allows.
    pub fn start(settings: &StreamSettings) -> Self {
        let threads =
            settings.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
        let start = |by| Splice::start(by, threads, settings.room);
        let (by_epoll, before) = match settings.engine {
            TcpEngine::Relay => return Self::none("PROXY_TCP_ENGINE=relay"),
            TcpEngine::Splice => (start(By::Epoll), "PROXY_TCP_ENGINE=splice".into()),
            TcpEngine::Auto | TcpEngine::Uring => match start(By::Ring) {
                Ok(splice) => return Self::of(StreamEngine::UringSplice, None, Some(splice)),
                Err(why) => (start(By::Epoll), why),
            },
        };
        match by_epoll {
            Ok(splice) => Self::of(StreamEngine::Splice, Some(before), Some(splice)),
            Err(why) => Self::none(why),
        }
    }

    /// The relay alone, and this is why.
    pub fn none(why: impl Into<Refused>) -> Self {
        Self::of(StreamEngine::Relay, Some(why.into()), None)
    }

    fn of(engine: StreamEngine, why: Option<Refused>, splice: Option<Splice>) -> Self {
        Self(Arc::new(Inner { engine, why, splice }))
    }

    /// The engine of sessions that nothing is in the way of.
    pub fn engine(&self) -> StreamEngine {
        self.0.engine
    }

    /// Says in the log what carries streams.
    pub fn introduce(&self) {
        let StreamsView { engine, reason, threads, .. } = self.view();
        let threads = Some(threads.len()).filter(|&count| count > 0);
        info!(engine, reason, threads, "streams");
    }

    /// What there is.
    pub fn view(&self) -> StreamsView {
        let Inner { engine, why, splice } = &*self.0;
        let [threads, failed] = splice.as_ref().map(Splice::view).unwrap_or_default();
        let failure =
            (!failed.is_empty()).then(|| format!("{} of its threads have failed", failed.len()));
        let sum = |bytes: fn(&ThreadView) -> u64| threads.iter().chain(&failed).map(bytes).sum();
        let engine =
            if splice.is_some() && threads.is_empty() { StreamEngine::Relay } else { *engine };
        StreamsView {
            engine: engine.as_str(),
            reason: failure.or_else(|| why.as_ref().map(ToString::to_string)),
            spliced_bytes: sum(|thread| thread.spliced_bytes),
            copied_bytes: sum(|thread| thread.copied_bytes),
            threads,
        }
    }

    /// Moves bytes until a leg ends, patience does, or all that was asked for is moved. `tell` hears
    /// by what, at once and whenever it changes.
    ///
    /// The pair is handed over here, before the future is polled: it is what a session waits with, and
    /// has no place for what is elsewhere.
    pub fn carry<'a>(
        &self,
        pair: StreamPair,
        flow: Flow,
        patience: Patience,
        meter: &'a Arc<Meter>,
        tell: impl Fn(StreamStanding) + Send + 'a,
    ) -> impl Future<Output = Carried> + Send + 'a {
        let Inner { engine, why, splice } = &*self.0;
        let boarded = match splice.as_ref().map(Splice::reserve) {
            Some(Ok(place)) => {
                debug!(engine = engine.as_str(), "carried by a thread");
                tell(StreamStanding::now(*engine, why.clone()));
                Ok(place.take(pair, flow, patience, meter))
            }
            Some(Err(refused)) => Err(Box::new((pair, flow, Some(refused)))),
            None => Err(Box::new((pair, flow, why.clone()))),
        };
        async move {
            let left = match boarded {
                Err(left) => left,
                Ok(journey) => match journey.await {
                    Arrival::Over(pair, closed) => return Carried { pair, closed },
                    Arrival::Refused(pair, flow, why) => Box::new((pair, flow, Some(why))),
                },
            };
            let (pair, flow, why) = *left;
            debug!(reason = why.as_ref().map(tracing::field::display), "carried by the relay");
            tell(StreamStanding::now(StreamEngine::Relay, why));
            Box::pin(relayed(pair, flow, patience, meter)).await
        }
    }
}

/// The same by the relay.
async fn relayed(mut pair: StreamPair, flow: Flow, patience: Patience, meter: &Meter) -> Carried {
    let closed = match flow {
        Flow::Both => carry(&mut pair, &mut Plain, patience, meter).await.into_closed(),
        Flow::ToClient => carry(&mut pair, &mut Listening, patience, meter).await.into_closed(),
        Flow::Exactly(from, left) => {
            match carry(&mut pair, &mut Counted { from, left }, patience, meter).await {
                Exit::Turn(()) => None,
                Exit::Closed(closed) => Some(closed),
                Exit::Fault(never) => match never {},
            }
        }
    };
    Carried { pair: Some(pair), closed }
}
