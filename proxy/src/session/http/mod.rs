//! An HTTP client's connection, from its first request to its last.
//!
//! [`request`] understands what is asked for; [`exchange`] is the machine of one request at one
//! origin, and [`heads`] what is changed on the way. The drivers do what they say: [`client`] reads
//! heads, [`origin`] finds somebody to ask, [`pool`] keeps connections for the next request, and
//! this file goes from one to the other. What is changed inside, the descriptions of WebRTC, is
//! held [`whole`]: [`negotiate`] takes them to an origin and back. [`origin_api`] leads to the API
//! of the right origin.

mod answer;
mod ask;
mod attempt;
mod client;
mod counts;
mod exchange;
#[cfg(test)]
mod fuzz;
mod heads;
mod listed;
mod negotiate;
mod origin;
mod origin_api;
mod pool;
mod request;
mod room;
mod signal;
mod survey;
#[cfg(test)]
mod tests;
mod whole;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock, SystemTime};

use http_body_util::BodyExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::answer::Answer;
use self::client::{Connection, HeadPatience, NoHead};
pub use self::counts::{Counts, StatusClass};
pub use self::heads::Hop;
use self::listed::ListedIds;
use self::pool::Pool;
use self::request::{Asked, Request, Whence, has_no_body};
use self::room::Room;
use self::survey::Known;
use super::close::close;
use super::webrtc::Webrtc;
use crate::cluster::Cluster;
use crate::origin::Lease;
use crate::pages::{Body, Pages};
use crate::plane::{Carried, Flow, Patience, StreamPair, StreamPlane};
use crate::proto::http::{Headers, RequestHead, ResponseHead, Version};
use crate::session::{Dialer, End, Live, Progress, Protocol, Serve, Session};
use crate::stream::{Kind, Tokens, Vhosts};
use crate::telemetry::Seldom;

/// Bytes of bodies that all sessions together may hold.
const HELD: usize = 256 * 1024 * 1024;

/// Requests at once of which each has all origins asked.
const SURVEYS: usize = 16;

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
    /// This proxy, to those before and behind it.
    pub hop: Hop,
}

/// Whom HTTP sessions ask.
pub struct HttpPeers {
    /// Who serves a stream.
    pub cluster: Arc<Cluster>,
    /// How it is connected.
    pub dialer: Arc<Dialer>,
    /// What moves media and large bodies.
    pub plane: StreamPlane,
    /// By which hosts are read.
    pub vhosts: Vhosts,
    /// What is added to the URIs of playlists.
    pub tokens: Tokens,
    /// What is no stream.
    pub pages: Arc<Pages>,
    /// Where the media of signalled sessions goes.
    pub webrtc: Arc<Webrtc>,
    /// What is counted.
    pub counts: Arc<Counts>,
}

/// What all HTTP sessions share.
pub struct Http {
    settings: HttpSettings,
    cluster: Arc<Cluster>,
    dialer: Arc<Dialer>,
    plane: StreamPlane,
    vhosts: Vhosts,
    tokens: Arc<Tokens>,
    pages: Arc<Pages>,
    counts: Arc<Counts>,
    webrtc: Arc<Webrtc>,
    pool: Pool,
    held: Room,
    /// Where streams and clients of the origins' API were found.
    known: Known,
    /// Questions to all origins at once.
    surveys: Semaphore,
    /// Streams of segments that the existing proxy has listed.
    listed: ListedIds,
    draining: CancellationToken,
    /// Warnings of a host without resources, and of origins that answer badly.
    exhausted: Seldom,
    bad_answers: Seldom,
}

/// What follows a request.
enum Next {
    /// Another one.
    Another(Connection),
    /// The rest of an answer that ends with the origin's connection.
    Endless(StreamPair, Option<Lease>),
    /// Nothing.
    Over(End),
}

impl Serve for Http {
    const PROTOCOL: Protocol = Protocol::Http;

    async fn run(&self, client: TcpStream, live: &Live) -> End {
        self.serve(client, Door::Streams, live).await
    }
}

/// The same, for clients that come to the listener of the API.
pub struct HttpApi(pub Arc<Http>);

impl Serve for HttpApi {
    const PROTOCOL: Protocol = Protocol::Http;

    async fn run(&self, client: TcpStream, live: &Live) -> End {
        self.0.serve(client, Door::Api, live).await
    }
}

/// Where a client has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Where streams are played.
    Streams,
    /// Where the origins' API is served as well.
    Api,
}

impl Http {
    /// Sessions that take no new request once `draining` is cancelled.
    pub fn new(settings: HttpSettings, peers: HttpPeers, draining: CancellationToken) -> Arc<Self> {
        let HttpPeers { cluster, dialer, plane, vhosts, tokens, pages, webrtc, counts } = peers;
        // A header in front of a connection tells of one client: it cannot serve the next one.
        let per_origin = if dialer.announce.is_some() { 0 } else { settings.idle_connections };
        let pool = Pool::new(per_origin);
        Arc::new(Self {
            settings,
            cluster,
            dialer,
            plane,
            vhosts,
            tokens: Arc::new(tokens),
            pages,
            counts,
            webrtc,
            pool,
            held: Room::new(HELD),
            known: Known::default(),
            surveys: Semaphore::new(SURVEYS),
            listed: ListedIds::default(),
            draining,
            exhausted: Seldom::default(),
            bad_answers: Seldom::default(),
        })
    }

    /// Serves a client to its last request.
    async fn serve(&self, client: TcpStream, door: Door, live: &Live) -> End {
        // Kept off the session's own future: large, and done with before an endless answer flows.
        let (pair, _lease) = match Box::pin(self.answer_all(client, door, live)).await {
            Ok(endless) => endless,
            Err(end) => return end,
        };
        let session = live.session();
        let (patience, meter) = (self.settings.patience, &session.meter);
        let tell = |standing| session.carried_by(standing);
        let carried = self.plane.carry(pair, Flow::ToClient, patience, meter, tell);
        let Carried { pair, closed } = carried.await;
        if let Some(pair) = pair {
            Box::pin(close(pair.client)).await;
        }
        closed.map_or(End::Aborted, End::from)
    }

    /// Answers one request after the other, up to an answer without an end, of which the rest is
    /// still to come. The lease keeps its route alive as long.
    async fn answer_all(
        &self,
        client: TcpStream,
        door: Door,
        live: &Live,
    ) -> Result<(StreamPair, Option<Lease>), End> {
        let mut client = Connection::new(client);
        let HttpSettings { head_timeout: head, keepalive_timeout, .. } = self.settings;
        let mut patience = HeadPatience { first_byte: head, head };
        loop {
            let head = tokio::select! {
                biased;
                head = client.head(patience) => head,
                () = self.draining.cancelled() => client.last_head(patience).await,
            };
            // On the heap for itself: it is large, and gone between two requests.
            let next = match head {
                Ok(head) => Box::pin(self.answer(client, head, door, live)).await,
                Err(why) => Next::Over(Box::pin(self.give_up(client, why, live.session())).await),
            };
            match next {
                Next::Another(connection) => {
                    // An answered request publishes and plays nothing more.
                    live.session().note(|progress| progress.established = None);
                    client = connection;
                }
                Next::Endless(pair, lease) => return Ok((pair, lease)),
                Next::Over(end) => return Err(end),
            }
            patience.first_byte = keepalive_timeout;
        }
    }

    /// Closes connections to origins that nobody needs. To be called every few seconds.
    pub fn sweep(&self, now: Clock) {
        self.pool.sweep(now);
    }

    /// There is no further request, or none that can be understood.
    async fn give_up(&self, client: Connection, why: NoHead, session: &Session) -> End {
        let (answer, end) = match why {
            NoHead::Quiet => return End::Idle,
            NoHead::Draining => return End::Shutdown,
            NoHead::Closed => return End::ClientClosed,
            NoHead::Lost(error) => {
                session.note(|progress| progress.why = Some(error.to_string()));
                return End::ClientLost;
            }
            NoHead::Slow => {
                self.count(Kind::Page, answer::TOO_SLOW.status.as_u16(), session);
                (answer::TOO_SLOW.to_whatever(SystemTime::now()), End::HeadTimeout)
            }
            NoHead::Bad(bad) => {
                self.count(Kind::Page, 400, session);
                let why = bad.to_string();
                let answer = answer::bad_request(&why, SystemTime::now());
                session.note(|progress| progress.why = Some(why));
                (answer, End::BadRequest)
            }
        };
        self.say_and_close(client, &answer, session).await;
        end
    }

    /// Answers one request.
    async fn answer(&self, client: Connection, head: RequestHead, door: Door, live: &Live) -> Next {
        let session = live.session();
        let HttpSettings { hop, .. } = &self.settings;
        let forwarded_for = heads::on_behalf_of(&head.headers, session.client.ip(), &hop.trusted);
        let forwarded_for = forwarded_for.map(str::to_owned);
        session.note(|progress| {
            let Progress { requests, .. } = *progress;
            *progress = Progress {
                requests: requests + 1,
                kind: Some(Kind::Page),
                role: progress.role,
                forwarded_for,
                ..Progress::default()
            };
        });
        debug!(method = head.method, path = path_of(&head.target), "asked");
        let method = head.method.as_str();
        if method == "OPTIONS" {
            let stays = self.stays(&head);
            self.count(Kind::Page, 200, session);
            return self
                .say(client, &answer::preflight(&head, stays, SystemTime::now()), stays, session)
                .await;
        }
        let is_of_streams = matches!(method, "GET" | "HEAD" | "POST" | "PUT");
        match Request::understand(head, &self.tokens, &self.vhosts, self.cluster.balancer()) {
            Asked::Session(signal) => self.signal(client, signal, session).await,
            Asked::Page(head) if door == Door::Api && origin_api::is_asked(&head) => {
                self.origin_api(client, head, session).await
            }
            Asked::Stream(Request { head, .. }) | Asked::Page(head) if !is_of_streams => {
                self.refuse(client, answer::BAD_METHOD, &head, Kind::Page, session).await
            }
            Asked::Stream(request) => {
                let request = self.recall(request).await;
                match self.file(&request).await {
                    Some(file) => self.show(client, &request.head, file, session).await,
                    None => self.ask(client, request, live).await,
                }
            }
            Asked::Page(head) => self.page(client, &head, session).await,
            Asked::Unclear(head, error) => {
                session.note(|progress| progress.why = Some(error.to_string()));
                self.refuse(client, answer::BAD_STREAM, &head, Kind::Page, session).await
            }
        }
    }

    /// A segment that the existing proxy has listed, by the id that it has given to the stream.
    async fn recall(&self, request: Request) -> Request {
        let Some(id) = request.listed_by_id().filter(|_| self.cluster.is_shared()) else {
            return request;
        };
        match self.listed.stream(id, self.cluster.hls(id), Clock::now()).await {
            Some(stream) => {
                Request { stream, kind: Kind::Media, whence: Whence::Routed, ..request }
            }
            None => request,
        }
    }

    /// The status of an answer is known.
    fn count(&self, kind: Kind, status: u16, session: &Session) {
        self.counts.count(kind, status);
        session.note(|progress| progress.status = Some(status));
    }

    /// Whether another request may follow one that the proxy answers itself: not behind a body that
    /// nobody reads, nor when the proxy stops.
    fn stays(&self, head: &RequestHead) -> bool {
        head.keeps_alive() && has_no_body(head) && !self.draining.is_cancelled()
    }

    /// The same behind this answer. Requests that were too many are not answered one by one.
    fn stays_behind(&self, answer: Answer, head: &RequestHead) -> bool {
        answer != answer::TOO_EARLY && self.stays(head)
    }

    async fn refuse(
        &self,
        client: Connection,
        answer: Answer,
        head: &RequestHead,
        kind: Kind,
        session: &Session,
    ) -> Next {
        self.count(kind, answer.status.as_u16(), session);
        let stays = self.stays_behind(answer, head);
        self.say(client, &answer.to(head, kind, stays, SystemTime::now()), stays, session).await
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

    /// Answers what is no stream.
    async fn page(&self, client: Connection, head: &RequestHead, session: &Session) -> Next {
        let Some(request) = as_request(head) else {
            return self.refuse(client, answer::BAD_STREAM, head, Kind::Page, session).await;
        };
        let response = self.pages.answer(&request).await;
        self.show(client, head, response, session).await
    }

    /// The file of the folder, if there is one, where the path could be that of a stream which
    /// nobody has asked for lately.
    async fn file(&self, request: &Request) -> Option<http::Response<Body>> {
        match request.whence {
            Whence::Guessed => self.pages.file(&as_request(&request.head)?).await,
            Whence::Listed(_) | Whence::Routed => None,
        }
    }

    /// Gives the client a page or a file. Its head says how long it is, or that there is no body.
    async fn show(
        &self,
        client: Connection,
        head: &RequestHead,
        response: http::Response<Body>,
        session: &Session,
    ) -> Next {
        let (parts, mut body) = response.into_parts();
        self.count(Kind::Page, parts.status.as_u16(), session);
        let mut headers = Headers::default();
        for (name, value) in &parts.headers {
            headers.push(title_case(name.as_str()), value.as_bytes());
        }
        heads::sign(&mut headers, SystemTime::now());
        let has_body = head.method != "HEAD";
        let length = headers.text("Content-Length").filter(|_| has_body);
        let mut left = length.and_then(|length| length.parse().ok()).unwrap_or_default();
        let stays = self.stays(head);
        heads::connection(&mut headers, head.version, stays);
        heads::cross_origin(&mut headers, Kind::Page);
        let reason = parts.status.canonical_reason().unwrap_or_default().into();
        let status = parts.status.as_u16();
        let mut bytes = Vec::new();
        ResponseHead { version: Version::Http11, status, reason, headers }.write(&mut bytes);
        if has_body {
            // The head and the first piece in one segment.
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return Next::Over(End::BadAnswer) };
                let data = frame.data_ref().map_or(&[][..], |data| data);
                left = usize::saturating_sub(left, data.len());
                bytes.extend_from_slice(data);
                if self.write(&client.socket, &bytes, session).await.is_err() {
                    return Next::Over(End::ClientLost);
                }
                bytes.clear();
            }
        }
        // What follows a file that has shrunk meanwhile would be read as the rest of it.
        self.say(client, &bytes, stays && left == 0, session).await
    }
}

/// A target without its query, which may hold a secret.
fn path_of(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// A header's name as people write it.
fn title_case(name: &str) -> String {
    let mut is_first = true;
    let letter = |c: char| {
        let letter = if is_first { c.to_ascii_uppercase() } else { c };
        is_first = c == '-';
        letter
    };
    match name {
        "etag" => "ETag".to_owned(),
        _ => name.chars().map(letter).collect(),
    }
}

/// The request as the pages understand it.
fn as_request(head: &RequestHead) -> Option<http::Request<()>> {
    let mut request = http::Request::builder().method(head.method.as_str()).uri(&head.target);
    for (name, value) in head.headers.iter() {
        request = request.header(name, value);
    }
    request.body(()).ok()
}
