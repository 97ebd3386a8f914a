//! Origins and routes behind one lock, and the decision between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use super::balance::{Candidate, Policy, choose, scramble};
use super::health::Service;
use super::origin::{Endpoint, Listener, Origin, ServerName};
use super::registry::{Member, NotRegistered, Registered, Registry};
use super::routes::{Generation, Routes};
use crate::stream::{Candidates, StreamKey};
use crate::telemetry::seconds;

/// What a balancer is made of.
#[derive(Clone, Debug)]
pub struct BalancerSettings {
    /// How a new stream gets its origin.
    pub policy: Policy,
    /// How long an origin lives after a heartbeat.
    pub origin_ttl: Duration,
    /// How long a stream keeps its origin after its last client.
    pub route_idle_ttl: Duration,
    /// Most origins; the default one is not counted against registrations of others, but is in
    /// the table.
    pub max_origins: usize,
    /// Most streams; should exceed the limit of sessions, since a route in use stays.
    pub max_routes: usize,
    /// The default origin: a member like those that register, which never expires.
    pub fixed: Option<Origin>,
    /// Start of the random numbers of the policy `random`.
    pub seed: u64,
}

impl Default for BalancerSettings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            origin_ttl: Duration::from_mins(5),
            route_idle_ttl: Duration::from_mins(5),
            max_origins: 1000,
            max_routes: 100_000,
            fixed: None,
            seed: 0,
        }
    }
}

/// Gives each stream to one origin. Safe to share; every call holds one lock shortly.
///
/// `now` must come from one clock. It may run backwards a little between threads.
#[derive(Debug)]
pub struct Balancer {
    policy: Policy,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    routes: Routes,
    /// The latest `now`: the time of a dropped lease, which cannot ask for it.
    latest: Option<Instant>,
    rolls: u64,
}

/// Why a stream has no origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoOrigin {
    /// No origin is alive.
    #[error("no origin is registered")]
    NoneAlive,
    /// Origins are alive, but those that could take the stream do not listen for the protocol.
    #[error("no origin listens for this protocol")]
    NotOffered,
    /// Every origin that could take the stream was tried.
    #[error("every origin was tried")]
    AllTried,
    /// The table of streams is full of streams in use.
    #[error("the limit of streams is reached")]
    TooManyStreams,
}

impl Balancer {
    /// A balancer that knows the default origin, if there is one.
    pub fn new(settings: BalancerSettings) -> Self {
        let fixed = usize::from(settings.fixed.is_some());
        let max_origins = settings.max_origins.saturating_add(fixed);
        let mut registry = Registry::new(max_origins, settings.origin_ttl);
        if let Some(origin) = settings.fixed {
            registry.add_fixed(origin);
        }
        let state = State {
            registry,
            routes: Routes::new(settings.max_routes, settings.route_idle_ttl),
            latest: None,
            rolls: settings.seed,
        };
        Self { policy: settings.policy, state: Arc::new(Mutex::new(state)) }
    }

    /// Takes a heartbeat. A server that restarted takes the place of its former run at once,
    /// and keeps its streams.
    pub fn register(&self, origin: Origin, now: Instant) -> Result<Registered, NotRegistered> {
        let known = origin.clone();
        let registered = self.at(now).registry.register(origin, now)?;
        if registered != Registered::Again {
            let [rtmp, http, api, srt, rtc] = Listener::ALL.map(|listener| {
                let targets = known.targets(listener).map(|(host, port)| format!("{host} {port}"));
                let targets: Vec<_> = targets.collect();
                (!targets.is_empty()).then(|| targets.join(", "))
            });
            let change = registered.as_str();
            tracing::info!(
                origin = &**known.name(),
                rtmp,
                http,
                api,
                srt,
                rtc,
                change,
                "origin registered"
            );
        }
        Ok(registered)
    }

    /// The origin of a stream: the one it has, if that can be used, or a new one. Whoever races,
    /// all get the same.
    ///
    /// A stream leaves its origin when that is dead or in `tried`, or in back-off while another
    /// is not and nobody uses the stream: what one client's connection came to is no reason to
    /// part the others from their publisher. Origins in back-off are used when there are no
    /// others. An origin that does not listen for this protocol keeps its streams: they are
    /// there by another one.
    pub fn pick(
        &self,
        key: &StreamKey,
        listener: Listener,
        tried: &[ServerName],
        now: Instant,
    ) -> Result<Lease, NoOrigin> {
        let service = Service::of(listener);
        let mut state = self.at(now);
        let state = &mut *state;
        let (origin, generation) = match state.decide(key, listener, tried, now)? {
            Decision::Keep(member) => {
                let origin = Arc::clone(&member.origin);
                (origin, state.routes.join(key, service).ok_or(NoOrigin::TooManyStreams)?)
            }
            Decision::Place(candidates) => {
                state.rolls = state.rolls.wrapping_add(GOLDEN_GAMMA);
                let chosen = choose(self.policy, key, &candidates, scramble(state.rolls));
                let server = &chosen.ok_or(NoOrigin::NoneAlive)?.server;
                let member = state.registry.get(server, now).ok_or(NoOrigin::NoneAlive)?;
                let origin = Arc::clone(&member.origin);
                let generation = state.routes.place(key, server, service);
                tracing::debug!(stream = %key, origin = &**origin.name(), "stream placed");
                (origin, generation.ok_or(NoOrigin::TooManyStreams)?)
            }
        };
        if let Some(member) = state.registry.same(&origin) {
            member.health.hand_out(service, now);
        }
        let (generation, key) = (Some(generation), key.clone());
        let state = Arc::clone(&self.state);
        Ok(Lease { origin, key, service, generation, has_found: true, state })
    }

    /// This server for a piece of a stream that it has made: none if it is not there, in back-off
    /// or was tried. A stream that is routed elsewhere by now stays there.
    pub fn pick_at(
        &self,
        key: &StreamKey,
        server: &str,
        listener: Listener,
        tried: &[ServerName],
        now: Instant,
    ) -> Option<Lease> {
        let service = Service::of(listener);
        let mut state = self.at(now);
        let state = &mut *state;
        let member = state.registry.get(&ServerName::from(server), now)?;
        let origin = Arc::clone(&member.origin);
        if !origin.offers(listener)
            || member.health.is_down(service, now)
            || tried.contains(origin.server())
        {
            return None;
        }
        let generation = state.settle(key, &origin, service);
        if let Some(member) = state.registry.same(&origin) {
            member.health.hand_out(service, now);
        }
        let (key, state) = (key.clone(), Arc::clone(&self.state));
        Some(Lease { origin, key, service, generation, has_found: true, state })
    }

    /// A hold on a stream's origin that an earlier process had. An origin that has not been heard
    /// yet counts as if it had, now. A stream that is routed elsewhere by now stays there.
    pub fn adopt(
        &self,
        origin: &Origin,
        key: &StreamKey,
        listener: Listener,
        now: Instant,
    ) -> Result<Lease, NotRegistered> {
        let service = Service::of(listener);
        let mut state = self.at(now);
        let state = &mut *state;
        let server = origin.server();
        if state.registry.get(server, now).is_none() {
            state.registry.register(origin.clone(), now)?;
        }
        let member = state.registry.get(server, now).ok_or(NotRegistered::Full)?;
        let origin = Arc::clone(&member.origin);
        let generation = state.settle(key, &origin, service);
        let (key, state) = (key.clone(), Arc::clone(&self.state));
        Ok(Lease { origin, key, service, generation, has_found: true, state })
    }

    /// The stream that a path belongs to, and whether that has an origin: the live stream of this
    /// name if that is there and has clients, because nothing but its own name tells it; else the
    /// likeliest that has an origin; else the likeliest.
    pub fn attribute<'a>(&self, candidates: &'a Candidates) -> (&'a StreamKey, bool) {
        let state = self.state.lock();
        let live = candidates.live().filter(|key| state.routes.is_alive(key));
        let routed = || candidates.keys().find(|key| state.routes.get(key).is_some());
        match live.or_else(routed) {
            Some(key) => (key, true),
            None => (candidates.likeliest(), false),
        }
    }

    /// Notes that the lease's origin could not be connected, and why: it is left alone for a
    /// while.
    pub fn failed(&self, lease: &Lease, why: &str, now: Instant) {
        let mut state = self.at(now);
        let member = state.registry.same(&lease.origin);
        if member.is_some_and(|member| member.health.fail(lease.service, now)) {
            drop(state);
            let service = lease.service.as_str();
            tracing::warn!(origin = &**lease.origin.name(), service, why, "origin down");
        }
    }

    /// Notes that the lease's origin was connected.
    pub fn reached(&self, lease: &Lease) {
        let mut state = self.state.lock();
        let member = state.registry.same(&lease.origin);
        if member.is_some_and(|member| member.health.clear(lease.service)) {
            drop(state);
            let service = lease.service.as_str();
            tracing::info!(origin = &**lease.origin.name(), service, "origin up again");
        }
    }

    /// Drops what has expired. To be called every few seconds.
    pub fn sweep(&self, now: Instant) {
        let mut state = self.at(now);
        state.routes.expire(now);
        let gone = state.registry.expire(now);
        let gone: Vec<_> =
            gone.into_iter().map(|origin| (state.routes.of(origin.server()), origin)).collect();
        drop(state);
        for (streams, origin) in gone {
            let origin = &**origin.name();
            // Its clients go on, and new ones of the same streams go elsewhere.
            if streams > 0 {
                tracing::warn!(origin, streams, "origin gone: no heartbeat");
            } else {
                tracing::info!(origin, "origin gone: no heartbeat");
            }
        }
    }

    /// Where a client of this stream would go, and why. Changes nothing.
    pub fn explain(&self, key: &StreamKey, listener: Listener, now: Instant) -> Explanation {
        let state = self.state.lock();
        let (chosen, reason) = match state.decide(key, listener, &[], now) {
            Ok(Decision::Keep(member)) => (Some(member), "the stream is routed to it".to_owned()),
            Ok(Decision::Place(_)) if self.policy == Policy::Random => {
                (None, "a new route, to any origin that is up".to_owned())
            }
            Ok(Decision::Place(candidates)) => {
                let chosen = choose(self.policy, key, &candidates, 0);
                let member = chosen.and_then(|chosen| state.registry.get(&chosen.server, now));
                (member, format!("a new route, by the policy {}", self.policy.as_str()))
            }
            Err(none) => (None, none.to_string()),
        };
        Explanation {
            stream: key.to_string(),
            listener: listener.as_str(),
            origin: chosen.map(|member| Arc::clone(member.origin.name())),
            target: chosen.and_then(|member| {
                let (host, port) = member.origin.targets(listener).next()?;
                Some(Target { host: host.to_owned(), port })
            }),
            reason,
            policy: self.policy.as_str(),
            origins: state.registry.alive(now).map(|member| state.view(member, now)).collect(),
        }
    }

    /// The server of this name, if it is alive and has such a listener.
    pub fn server(&self, server: &str, listener: Listener, now: Instant) -> Option<Arc<Origin>> {
        let state = self.state.lock();
        let member = state.registry.get(&ServerName::from(server), now)?;
        member.origin.offers(listener).then(|| Arc::clone(&member.origin))
    }

    /// Every server that is alive and has such a listener.
    pub fn servers(&self, listener: Listener, now: Instant) -> Vec<Arc<Origin>> {
        let state = self.state.lock();
        let alive = state.registry.alive(now).map(|member| &member.origin);
        alive.filter(|origin| origin.offers(listener)).map(Arc::clone).collect()
    }

    /// Every origin that is alive.
    pub fn origins(&self, now: Instant) -> Vec<OriginView> {
        let state = self.state.lock();
        state.registry.alive(now).map(|member| state.view(member, now)).collect()
    }

    /// How much there is of everything.
    pub fn counts(&self, now: Instant) -> Counts {
        let state = self.state.lock();
        let down = state
            .registry
            .alive(now)
            .filter(|member| member.health.is_failing(Service::Streams))
            .count();
        Counts {
            up: state.registry.alive(now).count() - down,
            down,
            routes_idle: state.routes.len() - state.routes.in_use(),
            routes_in_use: state.routes.in_use(),
        }
    }

    fn at(&self, now: Instant) -> parking_lot::MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.latest = state.latest.max(Some(now));
        state
    }
}

/// Step of `SplitMix64`, whose finalizer makes the random numbers.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// What to do about a stream.
enum Decision<'a> {
    /// Use the origin it has.
    Keep(&'a Member),
    /// Choose one of these.
    Place(Vec<Candidate>),
}

impl State {
    fn decide(
        &self,
        key: &StreamKey,
        listener: Listener,
        tried: &[ServerName],
        now: Instant,
    ) -> Result<Decision<'_>, NoOrigin> {
        let service = Service::of(listener);
        let untried = |member: &&Member| !tried.contains(member.origin.server());
        if self.is_held(key, service, tried, now) {
            return Err(NoOrigin::AllTried);
        }
        let routed = self.routes.get(key).and_then(|(server, in_use)| {
            let member = self.registry.get(server, now).filter(untried)?;
            Some((member, in_use))
        });
        if let Some((member, in_use)) = routed {
            if !member.origin.offers(listener) {
                return Err(NoOrigin::NotOffered);
            }
            if in_use || !member.health.is_down(service, now) {
                return Ok(Decision::Keep(member));
            }
        }
        if self.registry.alive(now).next().is_none() {
            return Err(NoOrigin::NoneAlive);
        }
        let offering = || self.registry.alive(now).filter(|member| member.origin.offers(listener));
        if offering().next().is_none() {
            return Err(NoOrigin::NotOffered);
        }
        let candidate = |member: &Member| {
            let server = member.origin.server().clone();
            Candidate { streams: self.routes.of(&server), server }
        };
        let up = |member: &&Member| !member.health.is_down(service, now);
        let candidates: Vec<_> = offering().filter(untried).filter(up).map(candidate).collect();
        if !candidates.is_empty() {
            return Ok(Decision::Place(candidates));
        }
        if let Some((member, _)) = routed {
            return Ok(Decision::Keep(member));
        }
        let candidates: Vec<_> = offering().filter(untried).map(candidate).collect();
        if candidates.is_empty() {
            Err(NoOrigin::AllTried)
        } else {
            Ok(Decision::Place(candidates))
        }
    }

    /// Whether a stream stays where it was tried in vain by one service, because it is used there by
    /// another that works.
    fn is_held(
        &self,
        key: &StreamKey,
        service: Service,
        tried: &[ServerName],
        now: Instant,
    ) -> bool {
        let routed = self.routes.get(key).filter(|(server, _)| tried.contains(server));
        let member = routed.and_then(|(server, _)| self.registry.get(server, now));
        let mut others = self.routes.users(key).filter(|other| *other != service);
        member.is_some_and(|member| others.any(|other| !member.health.is_failing(other)))
    }

    /// Routes a stream to an origin, unless it is routed elsewhere.
    fn settle(&mut self, key: &StreamKey, origin: &Origin, service: Service) -> Option<Generation> {
        match self.routes.get(key) {
            Some((routed, _)) if routed == origin.server() => self.routes.join(key, service),
            Some(_) => None,
            None => self.routes.place(key, origin.server(), service),
        }
    }

    fn view(&self, member: &Member, now: Instant) -> OriginView {
        let Member { origin, heard, health } = member;
        let endpoints = Listener::ALL.into_iter().filter_map(|listener| {
            let endpoints = origin.endpoints(listener);
            (!endpoints.is_empty()).then(|| (listener.as_str(), endpoints.to_vec()))
        });
        OriginView {
            id: Arc::clone(origin.name()),
            server: origin.server().clone(),
            service: origin.id().service.clone(),
            pid: origin.id().pid.clone(),
            device_id: origin.device_id().map(str::to_owned),
            ip: origin.host().as_str().to_owned(),
            endpoints: endpoints.collect(),
            state: if health.is_failing(Service::Streams) { "down" } else { "up" },
            failing: Service::ALL
                .into_iter()
                .filter(|it| health.is_failing(*it))
                .map(Service::as_str)
                .collect(),
            fixed: heard.is_none(),
            age_seconds: heard.map(|heard| seconds(now.saturating_duration_since(heard))),
            streams: self.routes.of(origin.server()),
            connect_failures: health.failures(),
        }
    }
}

/// One client's hold on a stream's origin. While it lives, the route does not expire.
#[derive(Debug)]
pub struct Lease {
    origin: Arc<Origin>,
    key: StreamKey,
    /// By what the origin is to be connected.
    service: Service,
    /// None if the stream's route is another one's.
    generation: Option<Generation>,
    /// Whether the origin has the stream, as far as the client knows.
    has_found: bool,
    state: Arc<Mutex<State>>,
}

impl Lease {
    /// The origin to connect.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// The stream.
    pub fn key(&self) -> &StreamKey {
        &self.key
    }

    /// Notes that the origin has the stream.
    pub fn found(&self) {
        if let Some(generation) = self.generation {
            self.state.lock().routes.find(&self.key, generation);
        }
    }

    /// Another hold on the same route, which says nothing of whether the origin has the stream.
    #[must_use]
    pub fn share(&self) -> Self {
        let mut state = self.state.lock();
        let generation =
            self.generation.filter(|it| state.routes.rejoin(&self.key, *it, self.service));
        drop(state);
        let (origin, key) = (Arc::clone(&self.origin), self.key.clone());
        let (service, state) = (self.service, Arc::clone(&self.state));
        Self { origin, key, service, generation, has_found: false, state }
    }

    /// Gives the stream back: the origin does not have it. If nobody has found it there, no route
    /// is left, so that nobody can place a stream by asking for it too early, or for its neighbour.
    pub fn not_found(mut self) {
        self.has_found = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if let (Some(now), Some(generation)) = (state.latest, self.generation) {
            state.routes.leave(&self.key, generation, self.service, self.has_found, now);
        }
    }
}

/// One origin in `GET /api/v1/origins`.
#[derive(Clone, Debug, Serialize)]
pub struct OriginView {
    /// `server-service-pid`
    pub id: Arc<str>,
    /// The server, whichever run.
    pub server: ServerName,
    /// New at each start of the server.
    pub service: String,
    /// Process id of the server.
    pub pid: String,
    /// The operator's label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Address or host name that is dialled.
    pub ip: String,
    /// By listener; those without an endpoint are absent.
    pub endpoints: BTreeMap<&'static str, Vec<Endpoint>>,
    /// `up`, or `down` while left alone after a failed connection of RTMP or HTTP.
    pub state: &'static str,
    /// What could not be connected last time: `streams` (RTMP and HTTP), `api`, `srt`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<&'static str>,
    /// Whether it is the default origin, which sends no heartbeat.
    pub fixed: bool,
    /// Since the last heartbeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// Streams routed to it.
    pub streams: usize,
    /// Failed connections of this run.
    pub connect_failures: u64,
}

/// The answer of `GET /api/v1/streams/route`.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The stream's key.
    pub stream: String,
    /// Which listener of the origin would be connected.
    pub listener: &'static str,
    /// The origin's id; null if there is none, or if chance decides.
    pub origin: Option<Arc<str>>,
    /// Where the origin would be connected.
    pub target: Option<Target>,
    /// Why.
    pub reason: String,
    /// The policy for new routes.
    pub policy: &'static str,
    /// Every origin that is alive.
    pub origins: Vec<OriginView>,
}

/// What would be dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Address or host name.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// How much a balancer has of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Origins in use.
    pub up: usize,
    /// Origins in back-off.
    pub down: usize,
    /// Streams with clients.
    pub routes_in_use: usize,
    /// Streams remembered for their next client.
    pub routes_idle: usize,
}

#[cfg(test)]
mod tests;
