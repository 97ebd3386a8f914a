//! A request goes to the stream's origin, and the answer to the client.

use std::time::{Instant as Clock, SystemTime};

use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::answer::{self, Answer};
use super::client::Connection;
use super::exchange::{Exchange, Fault, Reuse, Token, Turn};
use super::origin::{Reached, Unreached};
use super::request::{Request, has_no_body};
use super::{Http, Next, heads};
use crate::plane::relay::filter::Filter;
use crate::plane::relay::stream::{Exit, carry};
use crate::plane::{Closed, Flow, Leg, Outbox, StreamPair, StreamPlane};
use crate::proto::http::RequestHead;
use crate::session::close::{close, reset};
use crate::session::{End, Live, Session};
use crate::stream::Kind;

/// Why bytes do not move by the fastest way while the end of an answer is looked for.
const WATCHED: &str = "the end of the answer is watched for, so that another request may follow";

impl Http {
    /// Asks the stream's origin, and once more if a connection that had served before turns out to
    /// be closed.
    pub(super) async fn ask(&self, mut client: Connection, request: Request, live: &Live) -> Next {
        let session = live.session();
        session.note(|progress| {
            progress.kind = Some(request.kind);
            progress.stream = Some(request.stream.clone());
        });
        if request.head.headers.list("Via").any(|by| by.ends_with(&self.settings.hop.pseudonym)) {
            let (answer, head) = (answer::IN_CIRCLES, &request.head);
            return self.refuse(client, answer, head, request.kind, session).await;
        }
        let deadline = Instant::now() + self.settings.setup_timeout;
        let mut may_be_used = request.can_be_repeated() && request.kind != Kind::Live;
        loop {
            let reached = match self.reach(&request, session, may_be_used, deadline).await {
                Ok(reached) => reached,
                Err(Unreached { answer, why }) => {
                    session.note(|progress| progress.why = Some(why));
                    return self.refuse(client, answer, &request.head, request.kind, session).await;
                }
            };
            match self.attempt(client, &request, reached, live).await {
                Ok(next) => return next,
                Err(unanswered) => client = unanswered,
            }
            may_be_used = false;
        }
    }

    /// Asks one origin. Gives the client back if that had closed its connection before.
    async fn attempt(
        &self,
        mut client: Connection,
        request: &Request,
        reached: Reached,
        live: &Live,
    ) -> Result<Next, Connection> {
        let Reached { socket, address, is_used, lease } = reached;
        let (session, origin) = (live.session(), lease.origin());
        session.note(|progress| progress.origin = Some((origin.name().clone(), address)));
        let about = self.about(&request.head, session);
        let token = Token {
            tokens: self.tokens.clone(),
            stream: request.stream.clone(),
            server: origin.server().clone(),
            host: request.head.authority().unwrap_or_default().to_owned(),
        };
        let mut machine = Exchange::new(request, about, token, self.playlists.share());
        let body = match machine.begin(std::mem::take(&mut client.buffer)) {
            Ok(body) => body,
            Err(fault) => {
                session.note(|progress| progress.why = Some(fault.to_string()));
                let answer = match fault {
                    Fault::TooEarly => answer::TOO_EARLY,
                    _ => answer::BAD_BODY,
                };
                let head = &request.head;
                return Ok(self.refuse(client, answer, head, request.kind, session).await);
            }
        };
        let mut out = Outbox::default();
        let (head, hop) = (&request.head, &self.settings.hop);
        heads::for_origin(head, request.kind, about, hop, address).write(&mut out.to_origin);
        out.to_origin.extend_from_slice(&body);
        let [_, before] = session.meter.read();
        let mut pair = StreamPair { client: client.socket, origin: socket, out };
        let outcome = self.carry(&mut pair, &mut machine, request, is_used, live).await;
        let StreamPair { client: socket, origin: connection, out } = pair;
        let [_, behind] = session.meter.read();
        // An answer of which nothing has left the proxy can still be another one.
        let is_told = behind != before;
        let is_answered = is_told && machine.has_answered();
        let looks_whole = machine.ends_with_the_connection();
        let is_found = machine.status().is_some_and(|status| status < 400);
        let client = Connection { socket, buffer: machine.into_early() };
        let name = origin.name().clone();
        if !is_found {
            lease.not_found();
        }
        let end = match outcome {
            Outcome::Stale => {
                debug!(origin = &*name, "the origin had closed a connection");
                return Err(client);
            }
            Outcome::Finished(reuse) => {
                if reuse.origin {
                    self.pool.give(&name, connection, address, Clock::now());
                }
                if reuse.client {
                    return Ok(Next::Another(client));
                }
                End::Answered
            }
            Outcome::Failed(_, answer) if !is_answered => {
                self.count(request.kind, answer.status.as_u16(), session);
                let stays = self.stays_behind(answer, &request.head);
                // Behind an interim answer that has gone out in part.
                let mut bytes = if is_told { out.to_client } else { Vec::new() };
                bytes.append(&mut answer.to(&request.head, stays, SystemTime::now()));
                return Ok(self.say(client, &bytes, stays, session).await);
            }
            Outcome::Failed(end, _) if looks_whole => {
                reset(client.socket);
                return Ok(Next::Over(end));
            }
            Outcome::Failed(end, _) | Outcome::Over(end) => end,
        };
        close(client.socket).await;
        Ok(Next::Over(end))
    }

    /// Moves one request and its answer.
    async fn carry(
        &self,
        pair: &mut StreamPair,
        machine: &mut Exchange,
        request: &Request,
        is_used: bool,
        live: &Live,
    ) -> Outcome {
        let (session, patience) = (live.session(), self.settings.patience);
        let (plane, reason) = StreamPlane::choose();
        session.note(|progress| progress.plane = Some((plane.as_str(), WATCHED)));
        // A body takes its time, and so does a stream that is not published yet.
        let is_short = request.kind != Kind::Live && has_no_body(&request.head);
        let mut deadline = is_short.then(|| Instant::now() + self.settings.origin_timeout);
        loop {
            let step = carry(pair, machine, patience, &session.meter);
            let exit = match deadline {
                Some(deadline) => timeout_at(deadline, step).await,
                None => Ok(step.await),
            };
            let Ok(exit) = exit else {
                self.complain(request, session, "it did not answer in time");
                return Outcome::Failed(End::OriginUnreachable, answer::TOO_LATE);
            };
            return match exit {
                Exit::Turn(Turn::Publishing) => {
                    establish(request, live);
                    continue;
                }
                Exit::Turn(Turn::Answered(status)) => {
                    deadline = None;
                    self.count(request.kind, status, session);
                    debug!(status, kind = request.kind.as_str(), "answered");
                    if (200..300).contains(&status) {
                        establish(request, live);
                    }
                    continue;
                }
                Exit::Turn(Turn::Endless) => {
                    session.note(|progress| progress.plane = Some((plane.as_str(), reason)));
                    let flow = Flow::ToClient;
                    Outcome::Over(plane.carry(pair, flow, patience, &session.meter).await.into())
                }
                Exit::Turn(Turn::Finished(reuse)) => Outcome::Finished(reuse),
                Exit::Closed(closed) => {
                    self.closed(closed, pair, machine, request, is_used, session).await
                }
                Exit::Fault(fault) => self.faulty(&fault, request, session),
            };
        }
    }

    /// A connection has ended while the exchange was under way.
    async fn closed(
        &self,
        closed: Closed,
        pair: &mut StreamPair,
        machine: &mut Exchange,
        request: &Request,
        is_used: bool,
        session: &Session,
    ) -> Outcome {
        let failed = Outcome::Failed(closed.into(), answer::BAD_ANSWER);
        match closed {
            Closed::InOrder(Leg::Client) | Closed::Lost(Leg::Client) => {
                Outcome::Over(closed.into())
            }
            Closed::Idle | Closed::Stalled => Outcome::Failed(closed.into(), answer::TOO_LATE),
            // The origin had closed it, and has not seen the request.
            Closed::InOrder(Leg::Origin) | Closed::Lost(Leg::Origin)
                if is_used && !machine.has_heard() && request.can_be_repeated() =>
            {
                Outcome::Stale
            }
            Closed::Lost(Leg::Origin) => failed,
            Closed::InOrder(Leg::Origin) => match machine.origin_closed(&mut pair.out) {
                None => failed,
                Some(Err(fault)) => self.faulty(&fault, request, session),
                Some(Ok(reuse)) => {
                    if let Some(Turn::Answered(status)) = machine.turn(&pair.out) {
                        self.count(request.kind, status, session);
                    }
                    let rest = std::mem::take(&mut pair.out.to_client);
                    match self.write(&pair.client, &rest, session).await {
                        Ok(()) => Outcome::Finished(reuse),
                        Err(_) => Outcome::Over(End::ClientLost),
                    }
                }
            },
        }
    }

    fn faulty(&self, fault: &Fault, request: &Request, session: &Session) -> Outcome {
        match fault {
            Fault::Request(_) => {
                session.note(|progress| progress.why = Some(fault.to_string()));
                Outcome::Failed(End::BadRequest, answer::BAD_BODY)
            }
            Fault::TooEarly => {
                session.note(|progress| progress.why = Some(fault.to_string()));
                Outcome::Failed(End::BadRequest, answer::TOO_EARLY)
            }
            Fault::NoRoom => {
                session.note(|progress| progress.why = Some(fault.to_string()));
                Outcome::Failed(End::OutOfResources, answer::TOO_MANY_PLAYLISTS)
            }
            Fault::Answer(why) => {
                self.complain(request, session, why);
                Outcome::Failed(End::BadAnswer, answer::BAD_ANSWER)
            }
        }
    }

    /// Tells the operator of an origin that takes connections and gives no valid answers.
    fn complain(&self, request: &Request, session: &Session, why: &str) {
        session.note(|progress| progress.why = Some(format!("origin: {why}")));
        if let Some(unsaid) = self.bad_answers.say(Clock::now()) {
            let origin = session.progress().origin.map(|(name, _)| name);
            let (origin, stream) = (origin.as_deref(), &request.stream);
            warn!(origin, %stream, why, unsaid, "origin gave no valid answer");
        }
    }

    /// What heads depend on.
    fn about(&self, head: &RequestHead, session: &Session) -> heads::Client {
        heads::Client {
            address: session.client,
            version: head.version,
            keeps_alive: head.keeps_alive() && !self.draining.is_cancelled(),
        }
    }
}

/// A live stream is played or published.
fn establish(request: &Request, live: &Live) {
    let is_new = live.session().progress().established.is_none();
    if let Some(role) = request.role().filter(|_| is_new) {
        live.session().note(|progress| progress.role = Some(role));
        live.established(role);
    }
}

/// What an attempt came to.
enum Outcome {
    /// The client has its answer.
    Finished(Reuse),
    /// Nothing was answered on a connection that had been used before.
    Stale,
    /// There is no answer: why the session ends if the client was told the beginning of one, and
    /// what it is told if not.
    Failed(End, Answer),
    /// The session ends here.
    Over(End),
}
