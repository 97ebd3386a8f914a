//! An HTTP client's connection, from its first request to its last.
//!
//! [`request`] understands what is asked for; [`exchange`] is the machine of one request at one
//! origin, and [`heads`] what is changed on the way. The drivers do what they say: [`client`] reads
//! heads, [`origin`] finds somebody to ask, [`pool`] keeps connections for the next request, and
//! this file goes from one to the other.

mod answer;
mod client;
mod counts;
mod exchange;
mod heads;
mod origin;
mod pool;
mod request;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::answer::Answer;
use self::client::{Connection, HeadPatience, NoHead};
pub use self::counts::{Counts, StatusClass};
use self::exchange::{Exchange, Fault, Reuse, Token, Turn};
use self::origin::{Reached, Unreached};
use self::pool::Pool;
use self::request::{Asked, Request, has_no_body};
use super::close::close;
use crate::listen::TrustedProxies;
use crate::origin::Balancer;
use crate::pages::Pages;
use crate::plane::relay::stream::{Exit, carry};
use crate::plane::{Closed, Flow, Leg, Outbox, Patience, StreamPair, StreamPlane};
use crate::proto::http::{Headers, RequestHead, ResponseHead, Version};
use crate::session::{Dialer, End, Live, Protocol, Role, Serve, Session};
use crate::stream::{Kind, Tokens, Vhosts};
use crate::telemetry::Seldom;

/// Deadlines and limits of HTTP.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// For a request's head, from its first byte on; and for a new connection to begin.
    pub head_timeout: Duration,
    /// Between two requests.
    pub keepalive_timeout: Duration,
    /// For an origin's head. A live stream is waited for as long as a session may be idle.
    pub origin_timeout: Duration,
    /// For an origin to be found and connected.
    pub setup_timeout: Duration,
    /// When a session that does not move ends.
    pub patience: Patience,
    /// Connections to one origin that wait for another request.
    pub idle_connections: usize,
    /// Whose word on their clients is taken.
    pub trusted: TrustedProxies,
}

/// Whom HTTP sessions ask.
pub struct HttpPeers {
    /// Who serves a stream.
    pub balancer: Arc<Balancer>,
    /// How it is connected.
    pub dialer: Arc<Dialer>,
    /// By which hosts are read.
    pub vhosts: Vhosts,
    /// What is added to the URIs of playlists.
    pub tokens: Tokens,
    /// What is no stream.
    pub pages: Arc<Pages>,
    /// What is counted.
    pub counts: Arc<Counts>,
}

/// What all HTTP sessions share.
pub struct Http {
    settings: HttpSettings,
    balancer: Arc<Balancer>,
    dialer: Arc<Dialer>,
    vhosts: Vhosts,
    tokens: Tokens,
    pages: Arc<Pages>,
    counts: Arc<Counts>,
    pool: Pool,
    draining: CancellationToken,
    /// Warnings of a host without resources, and of origins that answer badly.
    exhausted: Seldom,
    bad_answers: Seldom,
}

/// What follows a request.
enum Next {
    /// Another one.
    Another(Connection),
    /// Nothing.
    Over(End),
}

impl Serve for Http {
    const PROTOCOL: Protocol = Protocol::Http;

    async fn run(&self, client: TcpStream, live: &Live) -> End {
        let mut client = Connection::new(client);
        let HttpSettings { head_timeout: head, keepalive_timeout, .. } = self.settings;
        let mut patience = HeadPatience { first_byte: head, head };
        loop {
            let is_idle = client.buffer.is_empty();
            let head = tokio::select! {
                head = client.head(patience) => head,
                () = self.draining.cancelled(), if is_idle => Err(NoHead::Quiet),
            };
            // Kept off the session's own future: it is large, and gone between two requests.
            let next = match head {
                Ok(head) => Box::pin(self.answer(client, head, live)).await,
                Err(why) => Next::Over(Box::pin(self.give_up(client, why, live.session())).await),
            };
            match next {
                Next::Another(connection) => client = connection,
                Next::Over(end) => return end,
            }
            patience.first_byte = keepalive_timeout;
        }
    }
}

impl Http {
    /// Sessions that take no new request once `draining` is cancelled.
    pub fn new(settings: HttpSettings, peers: HttpPeers, draining: CancellationToken) -> Arc<Self> {
        let HttpPeers { balancer, dialer, vhosts, tokens, pages, counts } = peers;
        // A header in front of a connection tells of one client: it cannot serve the next one.
        let per_origin = if dialer.announce.is_some() { 0 } else { settings.idle_connections };
        let pool = Pool::new(per_origin);
        Arc::new(Self {
            settings,
            balancer,
            dialer,
            vhosts,
            tokens,
            pages,
            counts,
            pool,
            draining,
            exhausted: Seldom::default(),
            bad_answers: Seldom::default(),
        })
    }

    /// Closes connections to origins that nobody needs. To be called every few seconds.
    pub fn sweep(&self, now: Clock) {
        self.pool.sweep(now);
    }

    /// There is no further request, or none that can be understood.
    async fn give_up(&self, client: Connection, why: NoHead, session: &Session) -> End {
        let (answer, end) = match why {
            NoHead::Quiet => return End::Idle,
            NoHead::Closed => return End::ClientClosed,
            NoHead::Lost(error) => {
                session.note(|progress| progress.why = Some(error.to_string()));
                return End::ClientLost;
            }
            NoHead::Slow => {
                self.counts.count(Kind::Page, answer::TOO_SLOW.status.as_u16());
                (answer::TOO_SLOW.to_whatever(), End::HeadTimeout)
            }
            NoHead::Bad(bad) => {
                self.counts.count(Kind::Page, 400);
                let why = bad.to_string();
                let answer = answer::bad_request(&why);
                session.note(|progress| progress.why = Some(why));
                (answer, End::BadRequest)
            }
        };
        self.say_and_close(client, &answer, session).await;
        end
    }

    /// Answers one request.
    async fn answer(&self, client: Connection, head: RequestHead, live: &Live) -> Next {
        let session = live.session();
        session.note(|progress| {
            progress.requests += 1;
            progress.why = None;
        });
        let method = head.method.as_str();
        if method == "OPTIONS" {
            let stays = self.stays(&head);
            self.counts.count(Kind::Page, 200);
            return self.say(client, &answer::preflight(&head, stays), stays, session).await;
        }
        if !matches!(method, "GET" | "HEAD" | "POST" | "PUT") {
            return self.refuse(client, answer::BAD_METHOD, &head, Kind::Page, session).await;
        }
        match Request::understand(head, &self.tokens, &self.vhosts, &self.balancer) {
            Asked::Stream(request) => self.ask(client, request, live).await,
            Asked::Page(head) => self.page(client, &head, session).await,
            Asked::Unclear(head, error) => {
                session.note(|progress| progress.why = Some(error.to_string()));
                self.refuse(client, answer::BAD_STREAM, &head, Kind::Page, session).await
            }
        }
    }

    /// Whether another request may follow one that the proxy answers itself: not behind a body that
    /// nobody reads, nor when the proxy stops.
    fn stays(&self, head: &RequestHead) -> bool {
        head.keeps_alive() && has_no_body(head) && !self.draining.is_cancelled()
    }

    async fn refuse(
        &self,
        client: Connection,
        answer: Answer,
        head: &RequestHead,
        kind: Kind,
        session: &Session,
    ) -> Next {
        self.counts.count(kind, answer.status.as_u16());
        let stays = self.stays(head);
        self.say(client, &answer.to(head, stays), stays, session).await
    }

    async fn say(&self, client: Connection, bytes: &[u8], stays: bool, session: &Session) -> Next {
        if !stays {
            self.say_and_close(client, bytes, session).await;
            return Next::Over(End::Answered);
        }
        match self.write(&client.socket, bytes, session).await {
            Ok(()) => Next::Another(client),
            Err(_) => Next::Over(End::ClientLost),
        }
    }

    async fn say_and_close(&self, client: Connection, bytes: &[u8], session: &Session) {
        if self.write(&client.socket, bytes, session).await.is_ok() {
            close(client.socket).await;
        }
    }

    async fn write(&self, client: &TcpStream, bytes: &[u8], session: &Session) -> io::Result<()> {
        client::write(client, bytes, self.settings.patience.stall, &session.meter).await
    }

    /// Asks the stream's origin.
    async fn ask(&self, mut client: Connection, request: Request, live: &Live) -> Next {
        let session = live.session();
        session.note(|progress| {
            progress.kind = Some(request.kind);
            progress.stream = Some(request.stream.clone());
            progress.role = progress.role.or(request.role());
        });
        let deadline = Instant::now() + self.settings.setup_timeout;
        let mut may_be_used = request.can_be_repeated() && request.kind != Kind::Live;
        loop {
            let reached = self.reach(&request, session, may_be_used, deadline).await;
            let Reached { socket, address, is_used, lease } = match reached {
                Ok(reached) => reached,
                Err(Unreached { answer, why }) => {
                    session.note(|progress| progress.why = Some(why));
                    return self.refuse(client, answer, &request.head, request.kind, session).await;
                }
            };
            let name = lease.origin().name();
            session.note(|progress| progress.origin = Some((name.clone(), address)));
            let about = heads::Client {
                address: session.client,
                is_trusted: self.settings.trusted.contains(session.client.ip()),
                version: request.head.version,
                keeps_alive: request.head.keeps_alive() && !self.draining.is_cancelled(),
            };
            let token = Token {
                value: self.tokens.issue(&request.stream, lease.origin().server().as_str()),
                host: request.head.authority().unwrap_or_default().to_owned(),
            };
            let mut machine = Exchange::new(&request, about, token);
            let mut out = Outbox::default();
            let authority = address.to_string();
            heads::for_origin(&request.head, request.kind, about, &authority)
                .write(&mut out.to_origin);
            let mut rest = Vec::new();
            let outcome = match machine.begin(std::mem::take(&mut client.buffer)) {
                Err(fault) => {
                    session.note(|progress| progress.why = Some(fault.to_string()));
                    Outcome::Refused(answer::BAD_BODY)
                }
                Ok(body) => {
                    out.to_origin.extend_from_slice(&body);
                    let mut pair = StreamPair { client: client.socket, origin: socket, out };
                    let outcome = self.carry(&mut pair, &mut machine, &request, is_used, live);
                    let outcome = outcome.await;
                    let StreamPair { client: socket, origin, out } = pair;
                    client.socket = socket;
                    // Of an interim answer.
                    rest = out.to_client;
                    if let Outcome::Finished(Reuse { origin: true, .. }) = outcome {
                        self.pool.give(name, origin, address, Clock::now());
                    }
                    outcome
                }
            };
            let has_asked = machine.has_asked();
            client.buffer = machine.into_early();
            return match outcome {
                Outcome::Stale => {
                    debug!(origin = &**name, "a connection had been closed by the origin");
                    may_be_used = false;
                    continue;
                }
                Outcome::Finished(reuse) if reuse.client => Next::Another(client),
                Outcome::Finished(_) => {
                    close(client.socket).await;
                    Next::Over(End::Answered)
                }
                Outcome::Refused(answer) => {
                    self.counts.count(request.kind, answer.status.as_u16());
                    let stays = has_asked && self.stays(&request.head);
                    rest.append(&mut answer.to(&request.head, stays));
                    self.say(client, &rest, stays, session).await
                }
                Outcome::Over(end) => {
                    close(client.socket).await;
                    Next::Over(end)
                }
            };
        }
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
        if request.role() == Some(Role::Publish) {
            live.established(Role::Publish);
        }
        loop {
            let step = carry(pair, machine, patience, &session.meter);
            let exit = match deadline {
                Some(deadline) => timeout_at(deadline, step).await,
                None => Ok(step.await),
            };
            let Ok(exit) = exit else {
                self.complain(request, session, "it did not answer in time");
                return Outcome::Refused(answer::TOO_LATE);
            };
            return match exit {
                Exit::Turn(Turn::Answered(status)) => {
                    deadline = None;
                    self.counts.count(request.kind, status);
                    debug!(status, kind = request.kind.as_str(), "answered");
                    if request.role() == Some(Role::Play) && (200..300).contains(&status) {
                        live.established(Role::Play);
                    }
                    continue;
                }
                Exit::Turn(Turn::Endless) => {
                    session.note(|progress| progress.plane = Some((plane.as_str(), reason)));
                    let closed = plane.carry(pair, Flow::ToClient, patience, &session.meter).await;
                    Outcome::Over(closed.into())
                }
                Exit::Turn(Turn::Finished(reuse)) => Outcome::Finished(reuse),
                Exit::Closed(closed) => {
                    self.closed(closed, pair, machine, request, is_used, session).await
                }
                Exit::Fault(fault) => {
                    let (answer, end) = match &fault {
                        Fault::Request(_) => (answer::BAD_BODY, End::BadRequest),
                        Fault::Answer(why) => {
                            self.complain(request, session, why);
                            (answer::BAD_ANSWER, End::BadAnswer)
                        }
                    };
                    session.note(|progress| progress.why = Some(fault.to_string()));
                    if machine.has_answered() {
                        Outcome::Over(end)
                    } else {
                        Outcome::Refused(answer)
                    }
                }
            };
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
        match closed {
            Closed::InOrder(Leg::Client) | Closed::Lost(Leg::Client) => {
                return Outcome::Over(closed.into());
            }
            // The origin had closed it, and has not seen the request.
            Closed::InOrder(Leg::Origin) | Closed::Lost(Leg::Origin)
                if is_used && !machine.has_heard() && request.can_be_repeated() =>
            {
                return Outcome::Stale;
            }
            Closed::InOrder(Leg::Origin) => match machine.origin_closed(&mut pair.out) {
                Some(Ok(reuse)) => {
                    let rest = std::mem::take(&mut pair.out.to_client);
                    return match self.write(&pair.client, &rest, session).await {
                        Ok(()) => Outcome::Finished(reuse),
                        Err(_) => Outcome::Over(End::ClientLost),
                    };
                }
                Some(Err(_)) => return Outcome::Refused(answer::BAD_ANSWER),
                None => {}
            },
            Closed::Lost(Leg::Origin) | Closed::Idle | Closed::Stalled => {}
        }
        match closed {
            _ if machine.has_answered() => Outcome::Over(closed.into()),
            Closed::Idle | Closed::Stalled => Outcome::Refused(answer::TOO_LATE),
            _ => Outcome::Refused(answer::BAD_ANSWER),
        }
    }

    /// Answers what is no stream.
    async fn page(&self, client: Connection, head: &RequestHead, session: &Session) -> Next {
        let Some(request) = as_request(head) else {
            return self.refuse(client, answer::BAD_STREAM, head, Kind::Page, session).await;
        };
        let (parts, mut body) = self.pages.answer(&request).await.into_parts();
        self.counts.count(Kind::Page, parts.status.as_u16());
        let mut headers = Headers::default();
        for (name, value) in &parts.headers {
            headers.push(name.as_str(), value.as_bytes());
        }
        let length = body.size_hint().exact();
        if let Some(length) = length.filter(|_| !headers.has("Content-Length")) {
            headers.push("Content-Length", length.to_string());
        }
        let stays = self.stays(head) && headers.has("Content-Length");
        heads::connection(&mut headers, head.version, stays);
        heads::cross_origin(&mut headers);
        let reason = parts.status.canonical_reason().unwrap_or_default().into();
        let status = parts.status.as_u16();
        let mut bytes = Vec::new();
        ResponseHead { version: Version::Http11, status, reason, headers }.write(&mut bytes);
        if head.method != "HEAD" {
            // The head and the first piece in one segment.
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return Next::Over(End::OutOfResources) };
                bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                if self.write(&client.socket, &bytes, session).await.is_err() {
                    return Next::Over(End::ClientLost);
                }
                bytes.clear();
            }
        }
        self.say(client, &bytes, stays, session).await
    }
}

/// What a request to an origin came to.
enum Outcome {
    /// The client has its answer.
    Finished(Reuse),
    /// Nothing was answered on a connection that had been used before.
    Stale,
    /// The client is to be told why there is no answer.
    Refused(Answer),
    /// The session is over.
    Over(End),
}

/// Why bytes do not move by the fastest way while the end of an answer is looked for.
const WATCHED: &str = "the end of the answer is watched for, so that another request may follow";

/// The request as the pages understand it.
fn as_request(head: &RequestHead) -> Option<http::Request<()>> {
    let mut request = http::Request::builder().method(head.method.as_str()).uri(&head.target);
    for (name, value) in head.headers.iter() {
        request = request.header(name, value);
    }
    request.body(()).ok()
}
