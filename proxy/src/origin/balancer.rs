//! Origins and routes behind one lock, and the decision between them.
//!
//! This is what one proxy knows. What the others have to say in it comes through
//! [`crate::cluster`], which asks ([`Balancer::ask`]), has the store decide, and settles
//! ([`Balancer::settle`]).

mod hearsay;
mod lease;
mod shown;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use self::hearsay::Hearsay;
pub use self::lease::Lease;
use super::balance::{Candidate, Policy, choose, scramble};
use super::health::Service;
use super::mirror::Mirror;
use super::origin::{Listener, Origin, ServerName};
use super::registry::{Member, NotRegistered, Registered, Registry};
use super::routes::{Generation, Routes, Use};
use super::standing::Standing;
use crate::stream::{Candidates, StreamKey};

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
    /// What other proxies have placed.
    mirror: Mirror,
    /// Streams that other proxies use, by server.
    elsewhere: BTreeMap<ServerName, usize>,
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
    /// Those that could take the stream are being drained, or in maintenance.
    #[error("no origin takes new streams")]
    NoneTakes,
    /// The table of streams is full of streams in use.
    #[error("the limit of streams is reached")]
    TooManyStreams,
}

/// What a proxy that is not alone does about a client.
#[derive(Debug)]
pub enum Asked {
    /// It has a route for the stream.
    Lease(Lease),
    /// The stream is to be claimed.
    Wish(Wish),
}

/// To whom a stream shall belong, unless somebody has it.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The origin that was chosen.
    pub origin: Arc<Origin>,
    /// The name of the run that has the stream as far as this proxy knows, and may be replaced.
    pub over: Option<Arc<str>>,
    /// Whether that is out for certain.
    pub is_out: bool,
}

/// Why a stream cannot be used where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// No live origin is known by that name.
    Unknown,
    /// It is in maintenance, or cannot be reached by several proxies.
    Out,
    /// It was tried in vain, and others hold the stream there.
    Tried,
    /// Nothing can be done.
    Not(NoOrigin),
}

/// A stream that is used here.
#[derive(Clone, Debug)]
pub struct UsedStream {
    /// Which.
    pub key: StreamKey,
    /// At which origin.
    pub origin: Arc<Origin>,
    /// How.
    pub usage: Use,
    /// Whether nobody shall be sent there.
    pub is_out: bool,
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
            mirror: Mirror::new(settings.max_routes),
            elsewhere: BTreeMap::new(),
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
    /// all get the same. What is shared with other proxies has no say in it.
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
        self.pick_by(self.policy, key, listener, tried, now)
    }

    /// The same for one of several proxies that cannot ask the others: the stream is where they had
    /// it last, and a new one where each of them would place it, whatever the policy.
    pub fn pick_alone(
        &self,
        key: &StreamKey,
        listener: Listener,
        tried: &[ServerName],
        now: Instant,
    ) -> Result<Lease, NoOrigin> {
        self.pick_by(Policy::Rendezvous, key, listener, tried, now)
    }

    fn pick_by(
        &self,
        policy: Policy,
        key: &StreamKey,
        listener: Listener,
        tried: &[ServerName],
        now: Instant,
    ) -> Result<Lease, NoOrigin> {
        let mut state = self.at(now);
        let (origin, is_kept) = match state.decide(key, listener, tried, now)? {
            Decision::Keep(member) => (Arc::clone(&member.origin), true),
            Decision::Place(candidates) => (state.choose(policy, key, &candidates, now)?, false),
        };
        self.lease(&mut state, key, origin, is_kept, listener, now)
    }

    /// The same for one of several proxies: a route that is used here is used, and for anything else
    /// the others have to be asked.
    pub fn ask(
        &self,
        key: &StreamKey,
        listener: Listener,
        tried: &[ServerName],
        now: Instant,
    ) -> Result<Asked, NoOrigin> {
        let mut state = self.at(now);
        let candidates = match state.decide(key, listener, tried, now)? {
            Decision::Keep(member) => {
                let origin = Arc::clone(&member.origin);
                if state.routes.get(key).is_some_and(|(_, in_use)| in_use) {
                    let lease = self.lease(&mut state, key, origin, true, listener, now);
                    return lease.map(Asked::Lease);
                }
                // Nobody here has kept it, so others may have moved it.
                return Ok(Asked::Wish(Wish { origin, over: None, is_out: false }));
            }
            Decision::Place(candidates) => candidates,
        };
        if !state.routes.has_room() && state.routes.get(key).is_none() {
            return Err(NoOrigin::TooManyStreams);
        }
        let origin = state.choose(self.policy, key, &candidates, now)?;
        let over = state.routes.run(key).map(Arc::clone);
        let routed = state.routes.get(key).and_then(|(server, _)| state.registry.get(server, now));
        let is_out = routed.is_none_or(|member| member.is_barred(Service::of(listener)));
        Ok(Asked::Wish(Wish { origin, over, is_out }))
    }

    /// A stream belongs to the run of this name, or to another one of its server: the client goes
    /// there, and so do those behind it.
    pub fn settle(
        &self,
        key: &StreamKey,
        run: &str,
        listener: Listener,
        tried: &[ServerName],
        now: Instant,
    ) -> Result<Lease, Unsettled> {
        let mut state = self.at(now);
        let member = state.registry.named(run, now).ok_or(Unsettled::Unknown)?;
        let origin = Arc::clone(&member.origin);
        // Where everybody is out, the one that was chosen all the same is as good as any.
        let others = state.registry.alive(now);
        let is_last = others.filter(|it| it.origin.offers(listener)).count() <= 1;
        if member.is_barred(Service::of(listener)) && !is_last {
            return Err(Unsettled::Out);
        }
        if tried.contains(origin.server()) {
            return Err(Unsettled::Tried);
        }
        if !origin.offers(listener) {
            return Err(Unsettled::Not(NoOrigin::NotOffered));
        }
        let routed = state.routes.get(key).map(|(server, _)| server);
        let is_kept = routed == Some(origin.server());
        self.lease(&mut state, key, origin, is_kept, listener, now).map_err(Unsettled::Not)
    }

    /// Whether the origin that a run of this name is, or is an earlier run of, is being drained.
    pub fn is_draining(&self, run: &str, now: Instant) -> bool {
        let state = self.state.lock();
        state.registry.named(run, now).is_some_and(|it| it.standing == Standing::Draining)
    }

    fn lease(
        &self,
        state: &mut State,
        key: &StreamKey,
        origin: Arc<Origin>,
        is_kept: bool,
        listener: Listener,
        now: Instant,
    ) -> Result<Lease, NoOrigin> {
        let service = Service::of(listener);
        let generation = if is_kept {
            state.routes.join(key, service)
        } else {
            let generation = state.routes.place(key, &origin, service);
            tracing::debug!(stream = %key, origin = &**origin.name(), "stream placed");
            generation
        };
        let generation = Some(generation.ok_or(NoOrigin::TooManyStreams)?);
        if let Some(member) = state.registry.same(&origin) {
            member.health.hand_out(service, now);
        }
        let (key, state) = (key.clone(), Arc::clone(&self.state));
        Ok(Lease::new(origin, key, service, generation, state))
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
            || member.is_barred(service)
            || tried.contains(origin.server())
        {
            return None;
        }
        let generation = state.settle(key, &origin, service);
        if let Some(member) = state.registry.same(&origin) {
            member.health.hand_out(service, now);
        }
        let (key, state) = (key.clone(), Arc::clone(&self.state));
        Some(Lease::new(origin, key, service, generation, state))
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
        Ok(Lease::new(origin, key, service, generation, state))
    }

    /// The stream that a path belongs to, and whether that has an origin: the live stream of this
    /// name if that is there and has clients, because nothing but its own name tells it; else the
    /// likeliest that has an origin; else the likeliest.
    pub fn attribute<'a>(&self, candidates: &'a Candidates) -> (&'a StreamKey, bool) {
        let state = self.state.lock();
        let live = candidates.live().filter(|key| state.routes.is_alive(key));
        let is_routed =
            |key: &&StreamKey| state.routes.get(key).is_some() || state.mirror.get(key).is_some();
        let routed = || candidates.keys().find(is_routed);
        match live.or_else(routed) {
            Some(key) => (key, true),
            None => (candidates.likeliest(), false),
        }
    }

    /// Notes that an origin could not be connected, and why: it is left alone for a while.
    /// True if it was not left alone before.
    pub fn failed(&self, origin: &Arc<Origin>, service: Service, why: &str, now: Instant) -> bool {
        let mut state = self.at(now);
        let member = state.registry.same(origin);
        let is_news = member.is_some_and(|member| member.health.fail(service, now));
        drop(state);
        if is_news {
            let service = service.as_str();
            tracing::warn!(origin = &**origin.name(), service, why, "origin down");
        }
        is_news
    }

    /// Notes that an origin was connected. True if the service had been failing.
    pub fn reached(&self, origin: &Arc<Origin>, service: Service) -> bool {
        let mut state = self.state.lock();
        let member = state.registry.same(origin);
        let was_failing = member.is_some_and(|member| member.health.clear(service));
        drop(state);
        if was_failing {
            let service = service.as_str();
            tracing::info!(origin = &**origin.name(), service, "origin up again");
        }
        was_failing
    }

    /// Every stream that is used here.
    pub fn used(&self, now: Instant) -> Vec<UsedStream> {
        let state = self.state.lock();
        state.registered(state.routes.held(), now)
    }

    /// A stream was asked for, for a client that does not use it. It is told that others need not
    /// wait for this proxy, unless it has clients of it.
    pub fn given_up(&self, key: &StreamKey, server: &ServerName) {
        self.state.lock().routes.give_up(key, server);
    }

    /// Of these streams those that are used still, as they are now.
    pub fn used_still(&self, used: &[UsedStream], now: Instant) -> Vec<UsedStream> {
        let state = self.state.lock();
        let again = |it: &UsedStream| {
            let server = it.origin.server();
            (it.key.clone(), server.clone(), state.routes.use_of(&it.key, server))
        };
        let held = used.iter().map(again).filter(|(_, _, it)| matches!(it, Use::Held { .. }));
        state.registered(held.collect(), now)
    }

    /// Every stream whose use has changed since this was asked last.
    pub fn take_untold(&self, now: Instant) -> Vec<UsedStream> {
        let mut state = self.state.lock();
        let untold = state.routes.take_untold();
        state.registered(untold, now)
    }

    /// How many streams have clients here, by server.
    pub fn streams_by_server(&self) -> BTreeMap<ServerName, usize> {
        self.state.lock().routes.in_use_by_server()
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

    /// The server or run of this name, if it is alive.
    pub fn named(&self, name: &str, now: Instant) -> Option<Arc<Origin>> {
        let state = self.state.lock();
        state.member(name, now).map(|member| Arc::clone(&member.origin))
    }

    /// Every origin that is alive, with how long it still lives; none that needs no heartbeat.
    pub fn lives(&self, now: Instant) -> Vec<(Arc<Origin>, Duration)> {
        let state = self.state.lock();
        let ttl = state.registry.ttl();
        let life = |member: &Member| {
            let age = now.saturating_duration_since(member.heard?);
            Some((Arc::clone(&member.origin), ttl.checked_sub(age)?))
        };
        state.registry.alive(now).filter_map(life).collect()
    }

    /// The default origin, and how long it would live if it was heard of now.
    pub fn fixed(&self, now: Instant) -> Option<(Arc<Origin>, Duration)> {
        let state = self.state.lock();
        let fixed = state.registry.alive(now).find(|member| member.heard.is_none())?;
        Some((Arc::clone(&fixed.origin), state.registry.ttl()))
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
    fn choose(
        &mut self,
        policy: Policy,
        key: &StreamKey,
        candidates: &[Candidate],
        now: Instant,
    ) -> Result<Arc<Origin>, NoOrigin> {
        self.rolls = self.rolls.wrapping_add(GOLDEN_GAMMA);
        let chosen = choose(policy, key, candidates, scramble(self.rolls));
        let server = &chosen.ok_or(NoOrigin::NoneAlive)?.server;
        let member = self.registry.get(server, now).ok_or(NoOrigin::NoneAlive)?;
        Ok(Arc::clone(&member.origin))
    }

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
            (!member.is_barred(service)).then_some((member, in_use))
        });
        if let Some((member, in_use)) = routed {
            if !member.origin.offers(listener) {
                return Err(NoOrigin::NotOffered);
            }
            let is_down = member.health.is_down(service, now);
            if in_use || (!is_down && member.standing == Standing::Active) {
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
            let elsewhere = self.elsewhere.get(&server).copied().unwrap_or(0);
            Candidate { streams: self.routes.of(&server) + elsewhere, server }
        };
        if let Some(member) = self.mirrored(key, now)
            && untried(&member)
            && !member.is_barred(service)
            && member.origin.offers(listener)
        {
            return Ok(Decision::Place(vec![candidate(member)]));
        }
        let taking = || offering().filter(|member| member.standing == Standing::Active);
        if routed.is_none() && taking().next().is_none() {
            // Others may use it where it is being drained; the store knows.
            let theirs = self.theirs(key, service, now).filter(|it| untried(it));
            let theirs = theirs.filter(|member| member.origin.offers(listener));
            let theirs = theirs.ok_or(NoOrigin::NoneTakes)?;
            return Ok(Decision::Place(vec![candidate(theirs)]));
        }
        let up = |member: &&Member| !member.health.is_down(service, now) && !member.is_out(service);
        let candidates: Vec<_> = taking().filter(untried).filter(up).map(candidate).collect();
        if !candidates.is_empty() {
            return Ok(Decision::Place(candidates));
        }
        if let Some((member, _)) = routed {
            return Ok(Decision::Keep(member));
        }
        let candidates: Vec<_> = taking().filter(untried).map(candidate).collect();
        if candidates.is_empty() {
            Err(NoOrigin::AllTried)
        } else {
            Ok(Decision::Place(candidates))
        }
    }

    /// The server or run of this name, if it is alive.
    fn member(&self, name: &str, now: Instant) -> Option<&Member> {
        let server = self.registry.get(&ServerName::from(name), now);
        let mut runs = self.registry.alive(now);
        server.or_else(|| runs.find(|member| **member.origin.name() == *name))
    }

    /// Where others had a stream last that has no route here, if it can be used.
    fn theirs(&self, key: &StreamKey, service: Service, now: Instant) -> Option<&Member> {
        let run = self.mirror.get(key).filter(|_| self.routes.get(key).is_none())?;
        self.registry.named(run, now).filter(|member| !member.is_barred(service))
    }

    /// Where others had a stream last. One that is being drained gets it back only if nobody can
    /// be asked whether it is used there.
    fn mirrored(&self, key: &StreamKey, now: Instant) -> Option<&Member> {
        let run = self.mirror.get(key).filter(|_| self.routes.get(key).is_none())?;
        let member = self.registry.named(run, now)?;
        (member.standing == Standing::Active || self.registry.is_deaf()).then_some(member)
    }

    /// Uses of streams, with the origins that are alive.
    fn registered(&self, used: Vec<(StreamKey, ServerName, Use)>, now: Instant) -> Vec<UsedStream> {
        let origin = |(key, server, usage)| {
            let member = self.registry.get(&server, now)?;
            let is_out = member.is_barred(Service::Streams);
            Some(UsedStream { key, origin: Arc::clone(&member.origin), usage, is_out })
        };
        used.into_iter().filter_map(origin).collect()
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
            None => {
                let generation = self.routes.place(key, origin, service);
                self.routes.note(key, origin.server());
                generation
            }
        }
    }
}

#[cfg(test)]
mod tests;
