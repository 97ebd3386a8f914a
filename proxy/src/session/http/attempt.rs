//! One request at one origin: drives the exchange until there is an answer, or none to come.

use std::time::Instant as Clock;

use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::Http;
use super::answer::{self, Answer};
use super::exchange::{Exchange, Fault, Reuse, Turn};
use super::request::{Request, has_no_body};
use crate::cluster::store::HlsRecord;
use crate::origin::{Lease, Origin};
use crate::plane::relay::filter::Filter;
use crate::plane::relay::stream::{Exit, carry};
use crate::plane::{Carried, Closed, Flow, Leg, StreamEngine, StreamPair, StreamStanding};
use crate::session::{End, Live, Role, Session};
use crate::stream::{Kind, StreamKey};

/// Why bytes do not move by the fastest way while the end of an answer is looked for.
const WATCHED: &str = "the end of the answer is watched for, so that another request may follow";

/// Bytes of an answer in one piece from which on it is worth handing over: below, the way to another
/// thread and back costs more than the copies.
const LARGE: u64 = 256 * 1024;

/// One request at one origin.
pub(super) struct Attempt<'a> {
    pub(super) http: &'a Http,
    pub(super) live: &'a Live,
    pub(super) request: &'a Request,
    pub(super) lease: &'a Lease,
    /// The playlist, if the existing proxy may be asked for its segments.
    pub(super) listed: Option<HlsRecord>,
    /// Whether another request went over the origin's connection before.
    pub(super) is_used: bool,
    pub(super) machine: Exchange,
    /// The sockets, while nobody else has them.
    pub(super) pair: Option<StreamPair>,
}

/// What an attempt came to.
pub(super) enum Outcome {
    /// The client has its answer.
    Finished(Reuse),
    /// What is left of the answer ends with the origin's connection.
    Endless,
    /// Nothing was answered on a connection that had been used before.
    Stale,
    /// There is no answer: why the session ends if the client was told the beginning of one, and
    /// what it is told if not.
    Failed(End, Answer),
    /// The session ends here.
    Over(End),
}

impl Attempt<'_> {
    /// Moves the request and its answer. The sockets are gone behind it if there was no way to give
    /// them back.
    pub(super) async fn run(&mut self) -> Outcome {
        let Some(mut pair) = self.pair.take() else { return Outcome::Over(End::Aborted) };
        let http = self.http;
        let patience = http.settings.patience;
        self.session().carried_by(StreamStanding::relay(WATCHED));
        if http.plane.engine() != StreamEngine::Relay {
            self.machine.spare_large(LARGE);
        }
        // A body takes its time, and so does a stream that is not published yet.
        let is_short = self.request.kind != Kind::Live && has_no_body(&self.request.head);
        let mut deadline = is_short.then(|| Instant::now() + http.settings.origin_timeout);
        let outcome = loop {
            let meter = &self.live.session().meter;
            let step = carry(&mut pair, &mut self.machine, patience, meter);
            let exit = match deadline {
                Some(deadline) => timeout_at(deadline, step).await,
                None => Ok(step.await),
            };
            let Ok(exit) = exit else {
                self.complain("it did not answer in time");
                break Outcome::Failed(End::OriginUnreachable, answer::TOO_LATE);
            };
            break match exit {
                Exit::Turn(Turn::Publishing) => {
                    self.establish();
                    continue;
                }
                Exit::Turn(Turn::Answered(status)) => {
                    deadline = None;
                    self.answered(status);
                    continue;
                }
                Exit::Turn(Turn::Endless) => Outcome::Endless,
                Exit::Turn(Turn::Payload(bytes)) => {
                    let session = self.live.session();
                    let flow = Flow::Exactly(Leg::Origin, bytes);
                    let tell = |standing| session.carried_by(standing);
                    let carried = http.plane.carry(pair, flow, patience, &session.meter, tell);
                    let Carried { pair: back, closed } = carried.await;
                    let Some(back) = back else {
                        return Outcome::Over(closed.map_or(End::Aborted, End::from));
                    };
                    pair = back;
                    match closed {
                        Some(closed) => self.closed(closed, &mut pair).await,
                        None => match self.machine.passed(bytes, &mut pair.out) {
                            Ok(()) => {
                                // What has moved the end of an answer is what has carried it.
                                if !self.machine.is_finished() {
                                    session.carried_by(StreamStanding::relay(WATCHED));
                                }
                                continue;
                            }
                            Err(fault) => self.faulty(&fault),
                        },
                    }
                }
                Exit::Turn(Turn::Finished(reuse)) => Outcome::Finished(reuse),
                Exit::Closed(closed) => self.closed(closed, &mut pair).await,
                Exit::Fault(fault) => self.faulty(&fault),
            };
        };
        self.pair = Some(pair);
        outcome
    }

    fn session(&self) -> &Session {
        self.live.session()
    }

    /// The client has got the origin's head.
    fn answered(&self, status: u16) {
        let kind = self.request.kind;
        self.http.count(kind, status, self.session());
        debug!(status, kind = kind.as_str(), "answered");
        if (200..300).contains(&status) {
            if let Some(record) = &self.listed {
                self.http.cluster.keep_hls(record.clone());
            }
            self.establish();
        } else if status < 400 {
            self.lease.found();
        }
    }

    /// The origin has the stream; a live one is played or published from here on.
    fn establish(&self) {
        self.lease.found();
        let is_new = self.session().progress().established.is_none();
        if let Some(role) = self.request.role().filter(|_| is_new) {
            self.session().note(|progress| progress.role = Some(role));
            if role == Role::Publish {
                self.lease.publishes();
            }
            self.live.established(role);
        }
    }

    /// A connection has ended while the exchange was under way.
    async fn closed(&mut self, closed: Closed, pair: &mut StreamPair) -> Outcome {
        let failed = Outcome::Failed(closed.into(), answer::BAD_ANSWER);
        let (machine, request) = (&mut self.machine, self.request);
        match closed {
            Closed::InOrder(Leg::Client) | Closed::Lost(Leg::Client) => {
                Outcome::Over(closed.into())
            }
            Closed::Idle | Closed::Stalled => Outcome::Failed(closed.into(), answer::TOO_LATE),
            // The origin had closed it, and has not seen the request.
            Closed::InOrder(Leg::Origin) | Closed::Lost(Leg::Origin)
                if self.is_used && !machine.has_heard() && request.can_be_repeated() =>
            {
                Outcome::Stale
            }
            Closed::Lost(Leg::Origin) => failed,
            Closed::InOrder(Leg::Origin) => match machine.origin_closed(&mut pair.out) {
                None => failed,
                Some(Err(fault)) => self.faulty(&fault),
                Some(Ok(reuse)) => self.finish(reuse, pair).await,
            },
        }
    }

    /// The answer has ended with the origin's connection: what is left of it goes out.
    async fn finish(&mut self, reuse: Reuse, pair: &mut StreamPair) -> Outcome {
        if let Some(Turn::Answered(status)) = self.machine.turn(&pair.out) {
            self.answered(status);
        }
        let rest = std::mem::take(&mut pair.out.to_client);
        match self.http.write(&pair.client, &rest, self.session()).await {
            Ok(()) => Outcome::Finished(reuse),
            Err(_) => Outcome::Over(End::ClientLost),
        }
    }

    fn faulty(&self, fault: &Fault) -> Outcome {
        let (end, answer) = match fault {
            Fault::Request(_) => (End::BadRequest, answer::BAD_BODY),
            Fault::TooEarly => (End::BadRequest, answer::TOO_EARLY),
            Fault::NoRoom => (End::OutOfResources, answer::TOO_MANY_PLAYLISTS),
            Fault::Answer(why) => {
                self.complain(why);
                return Outcome::Failed(End::BadAnswer, answer::BAD_ANSWER);
            }
        };
        self.session().note(|progress| progress.why = Some(fault.to_string()));
        Outcome::Failed(end, answer)
    }

    /// Tells the operator of an origin that takes connections and gives no valid answers.
    fn complain(&self, why: &str) {
        self.session().note(|progress| progress.why = Some(format!("origin: {why}")));
        self.http.complain(self.lease.origin(), &self.request.stream, why);
    }
}

impl Http {
    /// Warns of an origin, once in a while.
    pub(super) fn complain(&self, origin: &Origin, stream: &StreamKey, why: &str) {
        if let Some(unsaid) = self.bad_answers.say(Clock::now()) {
            let origin = &**origin.name();
            warn!(origin, %stream, why, unsaid, "origin gave no valid answer");
        }
    }
}
