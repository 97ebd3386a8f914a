//! One client, both legs, until its [`End`].
//!
//! [`Sessions`] admits clients within the limits and knows every live session; a [`Live`] is
//! the entry's owner, and its drop is the entry's end.

mod end;
mod meter;
pub mod rtmp;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tracing::Level;

pub use self::end::End;
pub use self::meter::{Direction, Meter};
use crate::stream::StreamKey;

/// The protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RTMP over TCP.
    Rtmp,
}

impl Protocol {
    /// Every protocol, in the order in which they are counted.
    pub const ALL: [Self; 1] = [Self::Rtmp];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
        }
    }
}

/// What a client does with its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sends media to the origin.
    Publish,
    /// Receives media from the origin.
    Play,
}

impl Role {
    /// Both roles, in the order in which they are counted.
    pub const ALL: [Self; 2] = [Self::Publish, Self::Play];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Play => "play",
        }
    }
}

/// Name of a session in logs and in the API, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u64);

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
    /// The stream, once known.
    pub stream: Option<StreamKey>,
    /// The origin's name and the address that was connected.
    pub origin: Option<(Arc<str>, SocketAddr)>,
    /// How the bytes move, and why not by a faster way.
    pub plane: Option<(&'static str, &'static str)>,
}

/// One live session, as logs and the API see it.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// What the client speaks.
    pub protocol: Protocol,
    /// Where the client is.
    pub client: SocketAddr,
    /// Bytes so far.
    pub meter: Meter,
    started: Instant,
    progress: Mutex<Progress>,
}

impl Session {
    /// Notes what has become known.
    pub fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock());
    }

    /// What is known now.
    pub fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }

    /// Time since the client was admitted.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The session as the API shows it.
    pub fn view(&self) -> SessionView {
        let progress = self.progress();
        let [to_origin, to_client] = self.meter.read();
        let (origin, origin_address) = progress.origin.unzip();
        let (plane, plane_reason) = progress.plane.unzip();
        SessionView {
            id: self.id.to_string(),
            protocol: self.protocol.as_str(),
            role: progress.role.map(Role::as_str),
            client: self.client,
            stream: progress.stream.map(|key| key.to_string()),
            origin,
            origin_address,
            plane,
            plane_reason,
            bytes_to_origin: to_origin,
            bytes_to_client: to_client,
            seconds: self.age().as_secs_f64(),
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
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin_address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plane: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plane_reason: Option<&'static str>,
    bytes_to_origin: u64,
    bytes_to_client: u64,
    seconds: f64,
}

/// How many sessions may live at once.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// In total.
    pub total: usize,
    /// Of one client address.
    pub per_client: usize,
}

/// Counts since start, for metrics.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Sessions that were handed to a plane, by protocol and role.
    pub setups: [[u64; Role::ALL.len()]; Protocol::ALL.len()],
    /// Ended sessions, by protocol and reason.
    pub ends: [[u64; End::ALL.len()]; Protocol::ALL.len()],
    /// Bytes of ended and live sessions, by protocol and direction.
    pub bytes: [[u64; Direction::ALL.len()]; Protocol::ALL.len()],
    /// Live sessions, by protocol.
    pub live: [u64; Protocol::ALL.len()],
}

/// Every live session, and the counts of those that ended.
#[derive(Debug)]
pub struct Sessions {
    limits: SessionLimits,
    table: Mutex<Table>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    live: HashMap<SessionId, Arc<Session>>,
    /// Live sessions per client address; an address without one has no entry.
    clients: HashMap<IpAddr, usize>,
    totals: Totals,
}

impl Sessions {
    /// An empty table with these limits.
    pub fn new(limits: SessionLimits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default(), emptied: Notify::new() })
    }

    /// Takes a client in, or says which limit forbids it; a refusal is counted here.
    pub fn admit(self: &Arc<Self>, client: SocketAddr, protocol: Protocol) -> Result<Live, End> {
        // An IPv4 client of a dual-stack socket is one client with its IPv4 self.
        let ip = client.ip().to_canonical();
        let client = SocketAddr::new(ip, client.port());
        let mut table = self.table.lock();
        let refusal = if table.live.len() >= self.limits.total {
            Some(End::TooManySessions)
        } else if table.clients.get(&ip).is_some_and(|&n| n >= self.limits.per_client) {
            Some(End::TooManyFromClient)
        } else {
            None
        };
        if let Some(end) = refusal {
            table.totals.count_end(protocol, end);
            return Err(end);
        }
        table.last_id += 1;
        let session = Arc::new(Session {
            id: SessionId(table.last_id),
            protocol,
            client,
            meter: Meter::default(),
            started: Instant::now(),
            progress: Mutex::default(),
        });
        table.live.insert(session.id, Arc::clone(&session));
        *table.clients.entry(ip).or_default() += 1;
        Ok(Live { session, table: Arc::clone(self), end: End::Aborted })
    }

    /// The live session of this name.
    pub fn get(&self, id: &str) -> Option<Arc<Session>> {
        let number = id.strip_prefix('s')?.parse().ok()?;
        self.table.lock().live.get(&SessionId(number)).cloned()
    }

    /// Every live session, oldest first.
    pub fn list(&self) -> Vec<Arc<Session>> {
        let mut list: Vec<_> = self.table.lock().live.values().cloned().collect();
        list.sort_by_key(|session| session.id);
        list
    }

    /// How many sessions live.
    pub fn count(&self) -> usize {
        self.table.lock().live.len()
    }

    /// Returns when no session lives.
    pub async fn all_ended(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.count() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Counts since start; bytes of live sessions are in them.
    pub fn totals(&self) -> Totals {
        let table = self.table.lock();
        let mut totals = table.totals.clone();
        for session in table.live.values() {
            totals.count_bytes(session);
            if let Some(live) = totals.live.get_mut(session.protocol as usize) {
                *live += 1;
            }
        }
        totals
    }
}

impl Totals {
    fn count_end(&mut self, protocol: Protocol, end: End) {
        if let Some(n) = self.ends.get_mut(protocol as usize).and_then(|e| e.get_mut(end as usize))
        {
            *n += 1;
        }
    }

    fn count_bytes(&mut self, session: &Session) {
        if let Some(sums) = self.bytes.get_mut(session.protocol as usize) {
            for (sum, bytes) in sums.iter_mut().zip(session.meter.read()) {
                *sum += bytes;
            }
        }
    }
}

/// The owner of one session's place in the table. Its drop ends the session: once, counted,
/// with one line in the log.
#[derive(Debug)]
pub struct Live {
    session: Arc<Session>,
    table: Arc<Sessions>,
    end: End,
}

impl Live {
    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Counts the session as set up: from here its bytes are a plane's.
    pub fn established(&self, role: Role) {
        let mut table = self.table.table.lock();
        let setups = table.totals.setups.get_mut(self.session.protocol as usize);
        if let Some(n) = setups.and_then(|s| s.get_mut(role as usize)) {
            *n += 1;
        }
    }

    /// Ends the session for this reason.
    pub fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let session = &self.session;
        let mut table = self.table.table.lock();
        table.live.remove(&session.id);
        let ip = session.client.ip();
        if let Some(n) = table.clients.get_mut(&ip) {
            *n -= 1;
            if *n == 0 {
                table.clients.remove(&ip);
            }
        }
        table.totals.count_end(session.protocol, self.end);
        table.totals.count_bytes(session);
        let empty = table.live.is_empty();
        drop(table);
        if empty {
            self.table.emptied.notify_waiters();
        }
        summarize(&session.view(), self.end);
    }
}

/// The session's one line in the log. Whoever asked for no stream was a scanner or a health
/// check: counted, but not worth an operator's eye.
fn summarize(view: &SessionView, end: End) {
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                $level,
                protocol = view.protocol,
                role = view.role.unwrap_or("-"),
                client = %view.client,
                stream = view.stream.as_deref().unwrap_or("-"),
                origin = view.origin.as_deref().unwrap_or("-"),
                plane = view.plane.unwrap_or("-"),
                bytes_to_origin = view.bytes_to_origin,
                bytes_to_client = view.bytes_to_client,
                seconds = format_args!("{:.3}", view.seconds),
                end = end.as_str(),
                "session ended"
            )
        };
    }
    if view.stream.is_some() { line!(Level::INFO) } else { line!(Level::DEBUG) }
}
