//! Every live session within its limits, and the counts of those that ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::record::summarize;
use super::{End, Progress, Protocol, Role, Session, SessionId};
use crate::listen::{TrustedProxies, source};
use crate::origin::{OriginId, ServerName};
use crate::plane::{Leg, StreamEngine};
use crate::proto::proxy_protocol::Ends;
use crate::stream::StreamKey;

/// How many sessions may live at once.
#[derive(Clone, Debug)]
pub struct SessionLimits {
    /// In total.
    pub total: usize,
    /// Of one client address, or of one IPv6 network of 64 bits.
    pub per_client: usize,
    /// Many clients stand behind each of these addresses: the limit of one is not theirs.
    pub shared: TrustedProxies,
}

/// Counts since start, for metrics.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Sessions whose origin has said yes, by protocol and role.
    pub setups: [[u64; Role::ALL.len()]; Protocol::ALL.len()],
    /// Ended sessions, by protocol and reason.
    pub ends: [[u64; End::ALL.len()]; Protocol::ALL.len()],
    /// Bytes of ended and live sessions, by protocol and direction.
    pub bytes: [[u64; Leg::ALL.len()]; Protocol::ALL.len()],
    /// Datagrams of ended and live sessions that no socket has taken, by protocol.
    pub lost: [u64; Protocol::ALL.len()],
    /// Live sessions, by protocol.
    pub live: [u64; Protocol::ALL.len()],
    /// Live sessions of streams, by what carries them, in the order of [`StreamEngine::ALL`].
    pub streams: [u64; StreamEngine::ALL.len()],
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
    /// Live sessions per [`source`]; one without any has no entry.
    clients: HashMap<IpAddr, usize>,
    totals: Totals,
}

impl Sessions {
    /// An empty table with these limits.
    pub fn new(limits: SessionLimits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default(), emptied: Notify::new() })
    }

    /// Counts a client that was not even heard.
    pub fn refuse(&self, protocol: Protocol, end: End) {
        self.table.lock().totals.count_end(protocol, end);
    }

    /// Takes a client in, or says which limit forbids it; a refusal is counted here.
    pub fn admit(self: &Arc<Self>, ends: Ends, protocol: Protocol) -> Result<Live, End> {
        self.readmit(ends, protocol, Duration::ZERO)
    }

    /// The same for one that an earlier process has taken in, `age` ago.
    pub fn readmit(
        self: &Arc<Self>,
        ends: Ends,
        protocol: Protocol,
        age: Duration,
    ) -> Result<Live, End> {
        // An IPv4 client of a dual-stack socket is one client with its IPv4 self.
        let ends = ends.to_canonical();
        let ip = ends.source.ip();
        let most =
            if self.limits.shared.contains(ip) { usize::MAX } else { self.limits.per_client };
        let mut table = self.table.lock();
        let refusal = if table.live.len() >= self.limits.total {
            Some(End::TooManySessions)
        } else if table.clients.get(&source(ip)).is_some_and(|&n| n >= most) {
            Some(End::TooManyFromClient)
        } else {
            None
        };
        if let Some(end) = refusal {
            table.totals.count_end(protocol, end);
            return Err(end);
        }
        table.last_id += 1;
        let session = Arc::new(Session::new(SessionId(table.last_id), protocol, ends, age));
        table.live.insert(session.id, Arc::clone(&session));
        *table.clients.entry(source(ip)).or_default() += 1;
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

    /// How many sessions each server has.
    pub fn by_server(&self) -> BTreeMap<ServerName, usize> {
        let mut counts = BTreeMap::new();
        for session in self.list() {
            let Some((run, _)) = session.progress().origin else { continue };
            let server = ServerName::from(OriginId::server_of(&run).unwrap_or(&run));
            *counts.entry(server).or_default() += 1;
        }
        counts
    }

    /// The streams that are published with their origins' consent.
    pub fn published(&self) -> BTreeSet<StreamKey> {
        let table = self.table.lock();
        let keys: Vec<_> = table.live.values().filter_map(|session| session.published()).collect();
        drop(table);
        keys.into_iter().collect()
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
            let engine = session.stream_engine();
            let place = StreamEngine::ALL.into_iter().position(|one| Some(one) == engine);
            if let Some(streams) = place.and_then(|place| totals.streams.get_mut(place)) {
                *streams += 1;
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
        if let Some(lost) = self.lost.get_mut(session.protocol as usize) {
            *lost += session.meter.read_lost();
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

    /// Notes and counts the session as set up: its origin has said yes.
    pub fn established(&self, role: Role) {
        self.session.note(|progress| progress.established = Some(role));
        if role == Role::Publish {
            let Progress { stream, origin, .. } = self.session.progress();
            let stream = stream.as_ref().map(StreamKey::as_str);
            let origin = origin.as_ref().map(|(name, _)| &**name);
            tracing::info!(stream, origin, client = %self.session.client, "published");
        }
        let mut table = self.table.table.lock();
        let setups = table.totals.setups.get_mut(self.session.protocol as usize);
        if let Some(n) = setups.and_then(|s| s.get_mut(role as usize)) {
            *n += 1;
        }
    }

    /// The reason for which the session ends if nobody gives another.
    pub fn presume(&mut self, end: End) {
        self.end = end;
    }

    /// Ends the session for this reason.
    pub fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let session = &self.session;
        // Before the session stops counting, because the process may end with the last one.
        summarize(&session.view(), self.end);
        let mut table = self.table.table.lock();
        table.live.remove(&session.id);
        let source = source(session.client.ip());
        if let Some(n) = table.clients.get_mut(&source) {
            *n -= 1;
            if *n == 0 {
                table.clients.remove(&source);
            }
        }
        table.totals.count_end(session.protocol, self.end);
        table.totals.count_bytes(session);
        let is_last = table.live.is_empty();
        drop(table);
        if is_last {
            self.table.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::StreamStanding;
    use crate::session::Carriage;
    use crate::stream::{Ask, Vhosts};

    fn sessions(total: usize, per_client: usize) -> Arc<Sessions> {
        Sessions::new(SessionLimits { total, per_client, shared: TrustedProxies::default() })
    }

    fn admit(sessions: &Arc<Sessions>, client: &str) -> Result<Live, End> {
        let ends = Ends {
            source: client.parse().unwrap(),
            destination: "192.0.2.80:1935".parse().unwrap(),
        };
        sessions.admit(ends, Protocol::Rtmp)
    }

    #[test]
    fn a_session_is_known_while_it_lives_and_counted_when_it_ends() {
        let sessions = sessions(10, 10);
        let live = admit(&sessions, "192.0.2.1:1000").unwrap();
        live.session().meter.wrote(Leg::Client, 7);
        let name = live.session().id.to_string();
        assert!(sessions.get(&name).is_some());
        assert_eq!(sessions.totals().bytes, [[0, 7], [0, 0], [0, 0], [0, 0]]);
        live.end(End::Idle);
        assert!(sessions.get(&name).is_none(), "{name} is gone");
        let totals = sessions.totals();
        assert_eq!((totals.live, totals.bytes), ([0; 4], [[0, 7], [0, 0], [0, 0], [0, 0]]));
        assert_eq!(totals.ends[0][End::Idle as usize], 1);
        assert!(sessions.table.lock().clients.is_empty(), "a client without a session is kept");
    }

    #[test]
    fn each_limit_refuses_for_its_own_reason_until_a_place_is_free() {
        let sessions = sessions(3, 2);
        let first = admit(&sessions, "192.0.2.1:1").unwrap();
        // The same host through a dual-stack socket.
        let _second = admit(&sessions, "[::ffff:192.0.2.1]:2").unwrap();
        assert_eq!(admit(&sessions, "192.0.2.1:3").unwrap_err(), End::TooManyFromClient);
        let _other = admit(&sessions, "192.0.2.2:1").unwrap();
        assert_eq!(admit(&sessions, "192.0.2.3:1").unwrap_err(), End::TooManySessions);
        first.end(End::ClientClosed);
        assert!(admit(&sessions, "192.0.2.1:4").is_ok(), "a place is free again");
    }

    #[test]
    fn a_subscriber_does_not_get_a_place_for_each_of_its_addresses() {
        let sessions = sessions(10, 1);
        let _first = admit(&sessions, "[2001:db8::1]:1").unwrap();
        let second = admit(&sessions, "[2001:db8::2]:1");
        assert_eq!(second.unwrap_err(), End::TooManyFromClient);
        assert!(admit(&sessions, "[2001:db8:0:1::1]:1").is_ok(), "another network");
    }

    #[test]
    fn a_trusted_proxy_is_many_clients() {
        let shared = TrustedProxies::from(vec!["192.0.2.9/32".parse().unwrap()]);
        let sessions = Sessions::new(SessionLimits { total: 3, per_client: 1, shared });
        let _two = ["192.0.2.9:1", "192.0.2.9:2"].map(|client| admit(&sessions, client).unwrap());
        let _other = admit(&sessions, "192.0.2.1:1").unwrap();
        assert_eq!(admit(&sessions, "192.0.2.9:3").unwrap_err(), End::TooManySessions);
    }

    #[test]
    fn a_stream_is_published_once_its_origin_has_said_yes_and_until_its_publisher_leaves() {
        let sessions = sessions(10, 10);
        let ask = Ask::Http { host: None, target: "/live/show.flv" };
        let show = StreamKey::new(&ask, &Vhosts::default()).unwrap();
        let [publisher, player] = [Role::Publish, Role::Play].map(|role| {
            let live = admit(&sessions, "192.0.2.1:1").unwrap();
            live.session().note(|progress| {
                progress.role = Some(role);
                progress.stream = Some(show.clone());
                progress.plane = Some(Carriage::Stream(StreamStanding::relay("portable")));
            });
            live
        });
        player.established(Role::Play);
        assert_eq!(sessions.published(), BTreeSet::new());
        publisher.established(Role::Publish);
        assert_eq!(sessions.published(), BTreeSet::from([show]));
        drop(publisher);
        assert_eq!(sessions.published(), BTreeSet::new());
    }

    #[tokio::test]
    async fn whoever_waits_for_the_last_session_is_told() {
        let sessions = sessions(10, 10);
        let live = admit(&sessions, "192.0.2.1:1").unwrap();
        let waiting = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move { sessions.all_ended().await }
        });
        tokio::task::yield_now().await;
        drop(live);
        waiting.await.unwrap();
        assert_eq!(sessions.totals().ends[0][End::Aborted as usize], 1);
    }
}
