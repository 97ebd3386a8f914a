//! One live session, as logs and the API see it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use tracing::Level;

use super::{End, Protocol, Role};
use crate::plane::datagram::{Amounts, Course, Standing};
use crate::plane::{Meter, StreamEngine, StreamStanding};
use crate::proto::proxy_protocol::Ends;
use crate::stream::{Kind, StreamKey};
use crate::telemetry::seconds;

/// Name of a session in logs and in the API, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub(super) u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{:06}", self.0)
    }
}

/// What is known of a session as it goes on.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Publish or play, once said.
    pub role: Option<Role>,
    /// What its origin has said yes to, and goes on.
    pub established: Option<Role>,
    /// Requests so far, where the protocol has them.
    pub requests: u64,
    /// What was asked for last, where the protocol has requests.
    pub kind: Option<Kind>,
    /// The status of the last answer, where the protocol has them.
    pub status: Option<u16>,
    /// The client of which a trusted proxy in front has told last.
    pub forwarded_for: Option<String>,
    /// The stream, once known.
    pub stream: Option<StreamKey>,
    /// The origin's name and the address that was connected.
    pub origin: Option<(Arc<str>, SocketAddr)>,
    /// Where the client's media comes from, and whether by TCP, if it comes on a way of its own.
    pub media: Option<(SocketAddr, bool)>,
    /// Why there is no session, in words.
    pub why: Option<String>,
    /// How the bytes move.
    pub plane: Option<Carriage>,
}

/// How the bytes of a session move.
#[derive(Clone, Debug)]
pub enum Carriage {
    /// A stream, by an engine that changes as its protocol needs.
    Stream(StreamStanding),
    /// Datagrams, by engines that change as they go on.
    Datagrams(Arc<Course>),
}

/// One live session.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// What the client speaks.
    pub protocol: Protocol,
    /// Where the client is.
    pub client: SocketAddr,
    /// The address it came to.
    pub destination: SocketAddr,
    /// Bytes so far.
    pub meter: Arc<Meter>,
    started: Instant,
    progress: Mutex<Progress>,
}

impl Session {
    /// One that has begun `age` ago.
    pub(super) fn new(id: SessionId, protocol: Protocol, ends: Ends, age: Duration) -> Self {
        let now = Instant::now();
        Self {
            id,
            protocol,
            client: ends.source,
            destination: ends.destination,
            meter: Arc::default(),
            started: now.checked_sub(age).unwrap_or(now),
            progress: Mutex::default(),
        }
    }

    /// Both ends of the client's connection, as origins are told of them.
    pub fn ends(&self) -> Ends {
        Ends { source: self.client, destination: self.destination }
    }

    /// Notes what has become known.
    pub fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock());
    }

    /// Notes what carries it from now on.
    pub fn carried_by(&self, standing: StreamStanding) {
        self.note(|progress| progress.plane = Some(Carriage::Stream(standing)));
    }

    /// What is known now.
    pub fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }

    /// The stream that it publishes with its origin's consent.
    pub fn published(&self) -> Option<StreamKey> {
        let progress = self.progress.lock();
        progress.stream.clone().filter(|_| progress.established == Some(Role::Publish))
    }

    /// What carries its stream, if it has one and something does.
    pub fn stream_engine(&self) -> Option<StreamEngine> {
        match &self.progress.lock().plane {
            Some(Carriage::Stream(standing)) => Some(standing.engine),
            Some(Carriage::Datagrams(_)) | None => None,
        }
    }

    /// Time since the client was admitted.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the client was admitted, in seconds of the Unix epoch.
    pub fn started(&self) -> u64 {
        let started = SystemTime::now().checked_sub(self.age());
        let since = started.and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok());
        since.unwrap_or_default().as_secs()
    }

    /// The session as the API shows it.
    pub fn view(&self) -> SessionView {
        let progress = self.progress();
        let [to_origin, to_client] = self.meter.read();
        let (origin, origin_address) = progress.origin.unzip();
        let carried = progress.plane.map(CarriageView::of);
        let (media_client, is_tcp) = progress.media.unzip();
        SessionView {
            id: self.id.to_string(),
            protocol: self.protocol.as_str(),
            role: progress.role.map(Role::as_str),
            client: self.client,
            kind: progress.kind.map(Kind::as_str),
            requests: (progress.requests > 0).then_some(progress.requests),
            status: progress.status,
            forwarded_for: progress.forwarded_for,
            stream: progress.stream.map(|key| key.to_string()),
            origin,
            origin_address,
            media_client: media_client
                .map(|client| SocketAddr::new(client.ip().to_canonical(), client.port())),
            media_transport: is_tcp.map(|is_tcp| if is_tcp { "tcp" } else { "udp" }),
            carried,
            bytes_to_origin: to_origin,
            bytes_to_client: to_client,
            seconds: seconds(self.age()),
            why: progress.why,
        }
    }
}

/// One session in `GET /api/v1/sessions`. Members not yet known are absent.
#[derive(Debug, Serialize)]
pub struct SessionView {
    id: String,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    client: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded_for: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin_address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_client: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_transport: Option<&'static str>,
    #[serde(flatten)]
    carried: Option<CarriageView>,
    bytes_to_origin: u64,
    bytes_to_client: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// How a session's bytes move.
#[derive(Debug, Serialize)]
struct CarriageView {
    plane: &'static str,
    /// Why it is not a faster one.
    #[serde(skip_serializing_if = "Option::is_none")]
    plane_reason: Option<String>,
    /// For how long.
    plane_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    datagrams: Option<DatagramsView>,
}

/// Who has carried a session's datagrams.
#[derive(Debug, Serialize)]
struct DatagramsView {
    kernel: AmountsView,
    userspace: AmountsView,
}

#[derive(Debug, Serialize)]
struct AmountsView {
    packets_to_origin: u64,
    packets_to_client: u64,
    bytes_to_origin: u64,
    bytes_to_client: u64,
}

impl CarriageView {
    fn of(carriage: Carriage) -> Self {
        match carriage {
            Carriage::Stream(StreamStanding { engine, since, why }) => Self {
                plane: engine.as_str(),
                plane_reason: why.map(|why| why.to_string()),
                plane_seconds: seconds(since.elapsed()),
                datagrams: None,
            },
            Carriage::Datagrams(course) => {
                let Standing { engine, since, why } = course.standing();
                let (kernel, userspace) = (course.by_kernel().into(), course.by_userspace().into());
                Self {
                    plane: engine.as_str(),
                    plane_reason: why.map(|why| why.to_string()),
                    plane_seconds: seconds(since.elapsed()),
                    datagrams: Some(DatagramsView { kernel, userspace }),
                }
            }
        }
    }
}

impl From<Amounts> for AmountsView {
    fn from(Amounts { packets, bytes }: Amounts) -> Self {
        let [packets_to_origin, packets_to_client] = packets;
        let [bytes_to_origin, bytes_to_client] = bytes;
        Self { packets_to_origin, packets_to_client, bytes_to_origin, bytes_to_client }
    }
}

/// The session's one line in the log. Whoever said neither publish nor play was a scanner or a
/// health check: counted, but not worth an operator's eye.
pub(super) fn summarize(view: &SessionView, end: End) {
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                $level,
                protocol = view.protocol,
                role = view.role,
                kind = view.kind,
                requests = view.requests,
                status = view.status,
                client = %view.client,
                forwarded_for = view.forwarded_for,
                stream = view.stream,
                origin = view.origin.as_deref(),
                plane = view.carried.as_ref().map(|carried| carried.plane),
                plane_reason = view.carried.as_ref().and_then(|it| it.plane_reason.as_deref()),
                bytes_to_origin = view.bytes_to_origin,
                bytes_to_client = view.bytes_to_client,
                seconds = view.seconds,
                end = end.as_str(),
                why = view.why,
                "session ended"
            )
        };
    }
    if view.role.is_some() { line!(Level::INFO) } else { line!(Level::DEBUG) }
}
