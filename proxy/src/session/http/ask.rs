//! A request goes to the stream's origin, and the answer to the client.

use std::time::{Instant as Clock, SystemTime};

use tokio::time::Instant;
use tracing::debug;

use super::answer;
use super::attempt::{Attempt, Outcome};
use super::client::Connection;
use super::exchange::{Exchange, Fault, Token};
use super::origin::{Reached, Refusal};
use super::request::Request;
use super::{Http, Next, heads, path_of};
use crate::cluster::store::HlsRecord;
use crate::plane::{Outbox, StreamPair};
use crate::proto::http::RequestHead;
use crate::session::close::{close, reset};
use crate::session::{End, Live, Session};
use crate::stream::Kind;

impl Http {
    /// Asks the stream's origin, and once more if a connection that had served before turns out to
    /// be closed.
    pub(super) async fn ask(&self, mut client: Connection, request: Request, live: &Live) -> Next {
        let session = live.session();
        session.note(|progress| {
            progress.kind = Some(request.kind);
            progress.stream = Some(request.stream.clone());
        });
        let head = &request.head;
        if self.is_in_circles(head) {
            return self.refuse(client, answer::IN_CIRCLES, head, request.kind, session).await;
        }
        let deadline = Instant::now() + self.settings.setup_timeout;
        let mut may_be_used = request.can_be_repeated() && request.kind != Kind::Live;
        loop {
            let reached = match self.reach(request.wanted(), session, may_be_used, deadline).await {
                Ok(reached) => reached,
                Err(Refusal { answer, why }) => {
                    session.note(|progress| progress.why = Some(why));
                    return self.refuse(client, answer, head, request.kind, session).await;
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
        let Request { head, kind, .. } = request;
        let (session, origin) = (live.session(), lease.origin());
        session.note(|progress| progress.origin = Some((origin.name().clone(), address)));
        let (about, hop) = (self.about(head, session), &self.settings.hop);
        let host = heads::asked_by(head, session.client.ip(), &hop.trusted);
        let is_listed = *kind == Kind::Playlist && self.cluster.is_shared();
        let listed = is_listed.then(|| {
            let url = format!("http://{host}{}", path_of(&head.origin_form()));
            HlsRecord::of(request.stream.clone(), url)
        });
        let token = Token {
            tokens: self.tokens.clone(),
            stream: request.stream.clone(),
            server: origin.server().clone(),
            host,
            id: listed.as_ref().map(|record| record.id.clone()),
        };
        let mut machine = Exchange::new(request, about, token, self.held.share());
        let body = match machine.begin(std::mem::take(&mut client.buffer)) {
            Ok(body) => body,
            Err(fault) => {
                session.note(|progress| progress.why = Some(fault.to_string()));
                let is_early = matches!(fault, Fault::TooEarly);
                let answer = if is_early { answer::TOO_EARLY } else { answer::BAD_BODY };
                return Ok(self.refuse(client, answer, head, *kind, session).await);
            }
        };
        let mut out = Outbox::default();
        heads::for_origin(head, *kind, about, hop, address).write(&mut out.to_origin);
        out.to_origin.extend_from_slice(&body);
        let [_, before] = session.meter.read();
        let pair = Some(StreamPair { client: client.socket, origin: socket, out });
        let lease_ = &lease;
        let mut attempt =
            Attempt { http: self, live, request, lease: lease_, listed, is_used, machine, pair };
        let outcome = attempt.run().await;
        let Attempt { machine, pair, .. } = attempt;
        let [_, behind] = session.meter.read();
        // An answer of which nothing has left the proxy can still be another one.
        let is_told = behind != before;
        let is_answered = is_told && machine.has_answered();
        let looks_whole = machine.ends_with_the_connection();
        let is_found = machine.status().is_some_and(|status| status < 400);
        let name = origin.name().clone();
        let lease = if is_found {
            Some(lease)
        } else {
            drop(lease);
            None
        };
        let Some(pair) = pair else {
            let (Outcome::Over(end) | Outcome::Failed(end, _)) = outcome else {
                return Ok(Next::Over(End::Aborted));
            };
            return Ok(Next::Over(end));
        };
        let client = Connection { socket: pair.client, buffer: machine.into_early() };
        let end = match outcome {
            Outcome::Endless => {
                return Ok(Next::Endless(StreamPair { client: client.socket, ..pair }, lease));
            }
            Outcome::Stale => {
                debug!(origin = &*name, "the origin had closed a connection");
                return Err(client);
            }
            Outcome::Finished(reuse) => {
                if reuse.origin {
                    self.pool.give(&name, pair.origin, address, Clock::now());
                }
                if reuse.client {
                    return Ok(Next::Another(client));
                }
                End::Answered
            }
            Outcome::Failed(_, answer) if !is_answered => {
                self.count(*kind, answer.status.as_u16(), session);
                let stays = self.stays_behind(answer, head);
                // Behind an interim answer that has gone out in part.
                let mut bytes = if is_told { pair.out.to_client } else { Vec::new() };
                bytes.append(&mut answer.to(head, *kind, stays, SystemTime::now()));
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

    /// Whether a request has passed this proxy before.
    pub(super) fn is_in_circles(&self, head: &RequestHead) -> bool {
        head.headers.list("Via").any(|by| by.ends_with(&self.settings.hop.pseudonym))
    }

    /// What heads depend on.
    pub(super) fn about(&self, head: &RequestHead, session: &Session) -> heads::Client {
        heads::Client {
            address: session.client,
            version: head.version,
            keeps_alive: head.keeps_alive() && !self.draining.is_cancelled(),
        }
    }
}
