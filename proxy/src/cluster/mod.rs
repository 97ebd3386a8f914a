//! What proxies of one address share, so that they act as one.
//!
//! [`Cluster`] is what sessions ask. It answers from what this proxy knows, its
//! [`Balancer`]; what it does not know it asks the [`store`]. One loop, [`Cluster::watch`], brings
//! what others have done, and takes to them what was done here. A store that does not answer is
//! [lost](condition) at once, and nobody waits for it until that loop has it back.

pub mod condition;
pub mod memory;
mod outbox;
mod probe;
pub mod redis;
pub mod store;
mod sync;
mod view;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

use self::condition::{Ask, Condition};
use self::memory::{MemoryLimits, MemoryStore};
pub use self::outbox::KeptSession;
use self::outbox::Outbox;
use self::store::{
    Answer, Change, Claim, Conflict, HlsRecord, Over, Presence, ProxyId, Store, StoreError, Vote,
    WebrtcRecord,
};
pub use self::view::{ClusterView, ProxyView, StoreView};
use crate::origin::{
    Asked, Balancer, BalancerSettings, Lease, Listener, NoOrigin, NotRegistered, Origin, OriginId,
    Registered, ServerName, Standing, Unsettled,
};
use crate::stream::StreamKey;
use crate::telemetry::Seldom;

/// Finds the origin of each stream, together with the other proxies.
#[derive(Debug)]
pub struct Cluster {
    me: ProxyId,
    balancer: Balancer,
    store: Arc<dyn Store>,
    condition: Condition,
    outbox: Mutex<Outbox>,
    /// There is something to be told, or to be asked.
    wake: Notify,
    /// The store has lost what it was told.
    say_all: Notify,
    known: Mutex<Known>,
    complaints: Seldom,
}

/// What the loop knows of others.
#[derive(Debug, Default)]
struct Known {
    proxies: Vec<Presence>,
    /// Those that this proxy sees itself, by stream.
    conflicts: BTreeMap<StreamKey, Conflict>,
    /// What this proxy has voted, and when it looked last.
    votes: BTreeMap<Vote, Instant>,
    /// What it is looking at.
    probed: BTreeSet<Vote>,
    is_survey_due: bool,
    /// Streams that are just claimed, and for how many clients.
    claimed: HashMap<StreamKey, usize>,
    /// Sessions that others have seen deleted.
    deleted: Vec<String>,
}

/// How long a run that was taken out stays out.
pub const WITHDRAWN: Duration = Duration::from_hours(24);

/// For the proxies to find out whether an origin is out: one of them was refused, the others look
/// for themselves, or wait in vain for its answer.
const VERDICT: Duration = Duration::from_secs(4);

/// Between two looks at what became of an origin.
const LOOK: Duration = Duration::from_millis(300);

/// Turns of one search: owners of a stream that are not there any more, one after the other.
const MAX_TURNS: usize = 32;

impl Cluster {
    /// One proxy among those that have this store.
    pub fn new(me: ProxyId, balancer: Balancer, store: Arc<dyn Store>) -> Self {
        Self {
            me,
            balancer,
            store,
            condition: Condition::new(now()),
            outbox: Mutex::default(),
            wake: Notify::new(),
            say_all: Notify::new(),
            known: Mutex::default(),
            complaints: Seldom::default(),
        }
    }

    /// One proxy that shares with nobody.
    pub fn alone(balancer: BalancerSettings) -> Arc<Self> {
        let me = ProxyId::of_host("alone", 0);
        let limits = MemoryLimits {
            route_life: balancer.route_idle_ttl,
            withdrawn_life: WITHDRAWN,
            max_routes: balancer.max_routes,
            max_records: balancer.max_routes,
        };
        let store = Arc::new(MemoryStore::new(me.clone(), limits));
        Arc::new(Self::new(me, Balancer::new(balancer), store))
    }

    /// What this proxy knows itself.
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// Whether the store answers.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Takes a heartbeat, and tells the others of it as soon as they can be told.
    pub fn register(&self, origin: Origin) -> Result<Registered, NotRegistered> {
        let server = origin.server().clone();
        let registered = self.balancer.register(origin, now())?;
        self.outbox.lock().announce(server);
        if registered == Registered::Again {
            self.wake.notify_one();
        } else {
            self.tell(Change::Origins);
        }
        Ok(registered)
    }

    /// The origin of a stream, the same for whoever asks at whichever proxy.
    ///
    /// One that was `tried` in vain by this client is only replaced if no other proxy uses the
    /// stream there, or if another one cannot reach it either; that is waited for, [`VERDICT`] at
    /// most.
    pub async fn pick(
        &self,
        key: &StreamKey,
        listener: Listener,
        tried: &[ServerName],
    ) -> Result<Lease, NoOrigin> {
        let start = now();
        let mut over = None;
        let mut claimed = Claimed::begin(self, key);
        for _ in 0..MAX_TURNS {
            let now = now();
            if self.condition.is_given_up(now) {
                return self.balancer.pick_alone(key, listener, tried, now);
            }
            let wish = match self.balancer.ask(key, listener, tried, now)? {
                Asked::Lease(lease) => return Ok(lease),
                Asked::Wish(wish) => wish,
            };
            let has_company = self.has_company();
            let known = wish.over.map(|origin| Over { origin, is_out: wish.is_out, has_company });
            let origin = wish.origin.id().clone();
            let claim = Claim { stream: key.clone(), origin, over: over.take().or(known) };
            claimed.servers.insert(wish.origin.server().clone());
            let Ok(owned) = self.asked(Ask::Claim, self.store.claim(&claim)).await else {
                self.survey_soon();
                return self.balancer.pick_alone(key, listener, tried, now);
            };
            let run = &owned.origin;
            claimed.servers.extend(OriginId::server_of(run).map(ServerName::from));
            if self.is_shared() {
                self.balancer.placed(key, run, owned.epoch);
            }
            if owned.is_changed {
                self.tell(Change::Route(key.clone(), Arc::clone(run), owned.epoch));
            }
            let still = Over { origin: Arc::clone(run), is_out: false, has_company };
            let is_refused = claim.over.as_ref().is_some_and(|over| over.origin == *run);
            if !is_refused && self.balancer.is_draining(run, now) {
                // It stays there only if others use it.
                over = Some(still);
                continue;
            }
            match self.balancer.settle(key, run, listener, tried, now) {
                Ok(lease) => return Ok(lease),
                Err(Unsettled::Not(error)) => return Err(error),
                Err(Unsettled::Tried) => {
                    if is_refused && now.saturating_duration_since(start) >= VERDICT {
                        break;
                    }
                    if is_refused {
                        self.survey_soon();
                        sleep(LOOK).await;
                    }
                    over = Some(still);
                }
                Err(Unsettled::Out) => over = Some(Over { is_out: true, ..still }),
                Err(Unsettled::Unknown) => {
                    match self.asked(Ask::Claim, self.store.origin(run)).await {
                        Ok(Some(heard)) => {
                            let origin = Arc::unwrap_or_clone(heard.origin);
                            self.balancer.learn_of(origin, heard.life, now);
                        }
                        Ok(None) => over = Some(Over { is_out: true, ..still }),
                        // Nobody knows whether it is there.
                        Err(_) => return self.balancer.pick_alone(key, listener, tried, now),
                    }
                }
            }
        }
        Err(NoOrigin::AllTried)
    }

    /// Whether there are other proxies that can look at an origin.
    fn has_company(&self) -> bool {
        self.known.lock().proxies.iter().any(|it| it.proxy != self.me)
    }

    /// This server for a piece of a stream that it has made; see [`Balancer::pick_at`].
    pub fn pick_at(
        &self,
        key: &StreamKey,
        server: &str,
        listener: Listener,
        tried: &[ServerName],
    ) -> Option<Lease> {
        self.balancer.pick_at(key, server, listener, tried, now())
    }

    /// Notes that the lease's origin could not be connected, and why.
    pub fn failed(&self, lease: &Lease, why: &str) {
        let (origin, service) = (lease.origin(), lease.service());
        if self.balancer.failed(origin, service, why, now()) {
            self.vote(Vote { origin: Arc::clone(origin.name()), service }, true);
        }
    }

    /// Notes that the lease's origin was connected.
    pub fn reached(&self, lease: &Lease) {
        let (origin, service) = (lease.origin(), lease.service());
        if self.balancer.reached(origin, service) {
            self.vote(Vote { origin: Arc::clone(origin.name()), service }, false);
        }
    }

    /// What an operator wants of a server: here from now on, at the other proxies as soon as they
    /// have heard of it.
    pub async fn stand(
        self: &Arc<Self>,
        server: &ServerName,
        standing: Standing,
    ) -> Result<(), StoreError> {
        self.asked(Ask::Write, self.store.stand(server, standing)).await?;
        info!(origin = %server, standing = standing.as_str(), "origin");
        self.tell(Change::Origins);
        self.follow().await
    }

    /// Takes a run of an origin out, at every proxy, until it runs anew or is activated.
    pub async fn withdraw(self: &Arc<Self>, origin: &Origin) -> Result<(), StoreError> {
        self.asked(Ask::Write, self.store.withdraw(origin.id())).await?;
        info!(origin = %origin.name(), "origin taken out by an operator");
        self.tell(Change::Origins);
        self.follow().await
    }

    /// Learns at once of an order that was given here.
    async fn follow(self: &Arc<Self>) -> Result<(), StoreError> {
        match self.survey(now()).await {
            Err(error) if error.is_loss() => Err(error),
            _ => Ok(()),
        }
    }

    /// Lets the session of WebRTC be found at every proxy while what is returned lives, and two
    /// minutes longer.
    pub fn keep_webrtc(self: &Arc<Self>, record: WebrtcRecord) -> KeptSession {
        self.outbox.lock().keep(record.clone(), now());
        self.wake.notify_one();
        KeptSession::new(Arc::clone(self), record)
    }

    /// A session of WebRTC that another proxy has begun, or the other kind of proxy.
    pub async fn webrtc(&self, name: &str) -> Option<WebrtcRecord> {
        if self.condition.is_lost() {
            return None;
        }
        self.asked(Ask::Recall, self.store.webrtc(name)).await.ok().flatten()
    }

    /// Tells every proxy that a session of WebRTC was deleted.
    pub fn deleted(&self, name: &str) {
        self.tell(Change::Deleted(name.to_owned()));
    }

    /// The sessions of WebRTC that were deleted at other proxies, since this was asked last.
    pub fn take_deleted(&self) -> Vec<String> {
        std::mem::take(&mut self.known.lock().deleted)
    }

    /// Lets the segments of a playlist be found by the other kind of proxy.
    pub fn keep_hls(&self, record: HlsRecord) {
        if self.store.is_shared() && self.outbox.lock().keep_hls(record, now()) {
            self.wake.notify_one();
        }
    }

    /// The stream of a segment that the other kind of proxy has listed.
    pub async fn hls(&self, id: &str) -> Option<StreamKey> {
        if self.condition.is_lost() {
            return None;
        }
        self.asked(Ask::Recall, self.store.hls(id)).await.ok().flatten()
    }

    /// The secret of all proxies: this one, if none has proposed another before.
    pub async fn secret(&self, proposed: [u8; 32]) -> Result<[u8; 32], StoreError> {
        self.asked(Ask::Write, self.store.secret(proposed)).await
    }

    /// Whether there may be other proxies.
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Takes leave of the others. What this proxy has used is free for them.
    pub async fn part(&self) {
        // They find out by themselves if they cannot be told.
        let _told = self.asked(Ask::Write, self.store.part()).await;
    }

    /// Notes an error that came with an answer.
    fn complain(&self, error: StoreError, now: Instant) -> Result<(), StoreError> {
        self.condition.count(&error);
        if let Some(unsaid) = self.complaints.say(now) {
            warn!(store = self.store.as_str(), %error, unsaid, "the store has what cannot be read");
        }
        Err(error)
    }

    /// An answer of the store, noted.
    async fn asked<T>(&self, ask: Ask, answer: Answer<'_, T>) -> Result<T, StoreError> {
        let start = now();
        let answer = answer.await;
        let now = now();
        let is_lost = self.condition.note(ask, now.saturating_duration_since(start), &answer, now);
        if is_lost {
            self.balancer.listen(Some(now), now);
        }
        if let Err(error) = &answer
            && (is_lost || !error.is_loss())
            && let Some(unsaid) = self.complaints.say(now)
        {
            let store = self.store.as_str();
            if is_lost {
                warn!(store, %error, unsaid, "store lost: this proxy goes on with what it knows");
            } else {
                warn!(store, %error, unsaid, "the store cannot do what it was asked");
            }
        }
        answer
    }

    fn tell(&self, change: Change) {
        self.outbox.lock().tell(change);
        self.wake.notify_one();
    }

    fn vote(&self, vote: Vote, is_down: bool) {
        if self.store.is_shared() {
            self.outbox.lock().vote(vote, is_down);
            self.tell(Change::Origins);
        }
    }

    /// Lets the loop look at origins at once.
    fn survey_soon(&self) {
        self.known.lock().is_survey_due = true;
        self.wake.notify_one();
    }
}

/// A stream that is claimed for a client, who may leave before it has it. At its drop the stream is
/// given up wherever it is not used here.
struct Claimed<'a> {
    cluster: &'a Cluster,
    key: &'a StreamKey,
    servers: BTreeSet<ServerName>,
}

impl<'a> Claimed<'a> {
    fn begin(cluster: &'a Cluster, key: &'a StreamKey) -> Self {
        *cluster.known.lock().claimed.entry(key.clone()).or_default() += 1;
        Self { cluster, key, servers: BTreeSet::new() }
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        let mut known = self.cluster.known.lock();
        if let Entry::Occupied(mut claims) = known.claimed.entry(self.key.clone()) {
            *claims.get_mut() -= 1;
            if *claims.get() == 0 {
                claims.remove();
            }
        }
        drop(known);
        for server in &self.servers {
            self.cluster.balancer.given_up(self.key, server);
        }
        self.cluster.wake.notify_one();
    }
}

/// The runtime's clock, which tests can turn.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
pub(crate) mod tests;
