//! Which server each stream was given to, and what of that the other proxies are to be told.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::Service;
use super::origin::{Origin, ServerName};
use crate::stream::StreamKey;

/// The routes, one per stream. Bounded: a route that nobody uses goes after its idle time, or
/// earlier if room is needed, the longest idle first.
#[derive(Debug)]
pub(super) struct Routes {
    table: HashMap<StreamKey, Route>,
    /// The unused routes, by the time they were left.
    idle: BTreeMap<(Instant, Generation), StreamKey>,
    /// Routes per server; a server without one has no entry.
    per_server: HashMap<ServerName, usize>,
    /// Clients that publish, which may be at another server than new clients are sent to.
    publishers: HashMap<(StreamKey, ServerName), usize>,
    /// What has changed since somebody was told.
    untold: HashMap<(StreamKey, ServerName), Use>,
    last_generation: Generation,
    max: usize,
    idle_ttl: Duration,
}

/// How a stream is used at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It has clients.
    Held {
        /// Whether one of them has found it.
        is_found: bool,
        /// Whether one of them publishes it.
        is_published: bool,
    },
    /// It has none any more.
    Left,
    /// It has none any more, and none had found it.
    Unfound,
}

#[derive(Debug)]
struct Route {
    server: ServerName,
    /// Name of the run of the server that the stream was given to.
    run: Arc<str>,
    generation: Generation,
    /// By the service through which they came.
    users: [usize; Service::ALL.len()],
    /// Whether any of its users has found the stream.
    is_found: bool,
    /// Set while there are no users.
    idle_since: Option<Instant>,
}

impl Route {
    fn is_used(&self) -> bool {
        self.users.iter().any(|&users| users > 0)
    }
}

/// Tells a route from those that its stream had before: who used an old one leaves the new one
/// alone.
pub(super) type Generation = u64;

impl Routes {
    pub(super) fn new(max: usize, idle_ttl: Duration) -> Self {
        Self {
            table: HashMap::new(),
            idle: BTreeMap::new(),
            per_server: HashMap::new(),
            publishers: HashMap::new(),
            untold: HashMap::new(),
            last_generation: 0,
            max,
            idle_ttl,
        }
    }

    /// The server of a stream, and whether the route has users.
    pub(super) fn get(&self, key: &StreamKey) -> Option<(&ServerName, bool)> {
        self.table.get(key).map(|route| (&route.server, route.is_used()))
    }

    /// The name of the run of its server that a stream was given to.
    pub(super) fn run(&self, key: &StreamKey) -> Option<&Arc<str>> {
        self.table.get(key).map(|route| &route.run)
    }

    /// The services through which a stream is used.
    pub(super) fn users(&self, key: &StreamKey) -> impl Iterator<Item = Service> {
        let users = self.table.get(key).map(|route| route.users).unwrap_or_default();
        Service::ALL.into_iter().zip(users).filter(|(_, users)| *users > 0).map(|(it, _)| it)
    }

    /// Whether a stream has users, and one of them has found it.
    pub(super) fn is_alive(&self, key: &StreamKey) -> bool {
        self.table.get(key).is_some_and(|route| route.is_used() && route.is_found)
    }

    /// Notes that a user of a stream's route has found it, if it still is the one that was joined.
    pub(super) fn find(&mut self, key: &StreamKey, generation: Generation) {
        let route = self.table.get_mut(key).filter(|route| route.generation == generation);
        if let Some(route) = route
            && !std::mem::replace(&mut route.is_found, true)
        {
            let server = route.server.clone();
            self.note(key, &server);
        }
    }

    /// Notes that a client publishes a stream at a server, or does so no more.
    pub(super) fn publish(&mut self, key: &StreamKey, server: &ServerName, is_on: bool) {
        let at = (key.clone(), server.clone());
        let publishers = self.publishers.entry(at.clone()).or_default();
        *publishers = if is_on { *publishers + 1 } else { publishers.saturating_sub(1) };
        if *publishers == 0 {
            self.publishers.remove(&at);
        }
        self.note(key, server);
    }

    /// How every stream is used that has clients here.
    pub(super) fn held(&self) -> Vec<(StreamKey, ServerName, Use)> {
        let routed = self.table.iter().filter(|(_, route)| route.is_used());
        let mut held: Vec<_> = routed
            .map(|(key, route)| {
                (key.clone(), route.server.clone(), self.use_of(key, &route.server))
            })
            .collect();
        let elsewhere = self.publishers.keys().filter(|(key, server)| {
            self.table.get(key).is_none_or(|route| route.server != *server || !route.is_used())
        });
        held.extend(
            elsewhere.map(|(key, server)| (key.clone(), server.clone(), self.use_of(key, server))),
        );
        held
    }

    /// What has changed since this was asked last.
    pub(super) fn take_untold(&mut self) -> Vec<(StreamKey, ServerName, Use)> {
        let untold = std::mem::take(&mut self.untold);
        untold.into_iter().map(|((key, server), it)| (key, server, it)).collect()
    }

    pub(super) fn use_of(&self, key: &StreamKey, server: &ServerName) -> Use {
        let is_published = self.publishers.contains_key(&(key.clone(), server.clone()));
        let route = self.table.get(key).filter(|route| route.server == *server);
        let is_used = route.is_some_and(Route::is_used);
        if is_used || is_published {
            let is_found = is_published || route.is_some_and(|route| route.is_found);
            Use::Held { is_found, is_published }
        } else {
            Use::Left
        }
    }

    /// Notes that others are to be told how a stream is used. What nobody takes is bounded: holds
    /// are told again anyway, and end by themselves.
    pub(super) fn note(&mut self, key: &StreamKey, server: &ServerName) {
        let it = self.use_of(key, server);
        self.tell(key, server, it);
    }

    fn tell(&mut self, key: &StreamKey, server: &ServerName, it: Use) {
        if self.untold.len() < self.max {
            self.untold.insert((key.clone(), server.clone()), it);
        }
    }

    /// Adds a user to a stream's route.
    pub(super) fn join(&mut self, key: &StreamKey, service: Service) -> Option<Generation> {
        let route = self.table.get_mut(key)?;
        let since = route.idle_since.take();
        if let Some(since) = since {
            self.idle.remove(&(since, route.generation));
        }
        if let Some(users) = route.users.get_mut(service as usize) {
            *users += 1;
        }
        let (generation, server) = (route.generation, route.server.clone());
        if since.is_some() {
            self.note(key, &server);
        }
        Some(generation)
    }

    /// Adds a user to this very route of a stream. False if the stream has another one by now.
    pub(super) fn rejoin(
        &mut self,
        key: &StreamKey,
        generation: Generation,
        service: Service,
    ) -> bool {
        let is_same = self.table.get(key).is_some_and(|route| route.generation == generation);
        is_same && self.join(key, service).is_some()
    }

    /// Whether another route has room.
    pub(super) fn has_room(&self) -> bool {
        self.table.len() < self.max || !self.idle.is_empty()
    }

    /// Forgets a route: the stream is another server's. Its clients stay where they are, and new
    /// ones are not sent to them.
    pub(super) fn forget(&mut self, key: &StreamKey) {
        if let Some((server, _)) = self.get(key).map(|(server, in_use)| (server.clone(), in_use)) {
            self.remove(key);
            self.note(key, &server);
        }
    }

    /// Notes that a stream was asked for at a server in vain.
    pub(super) fn give_up(&mut self, key: &StreamKey, server: &ServerName) {
        let it = match self.use_of(key, server) {
            Use::Left if self.get(key).is_none_or(|(routed, _)| routed != server) => Use::Unfound,
            it => it,
        };
        self.tell(key, server, it);
    }

    /// How many streams have clients here, by server.
    pub(super) fn in_use_by_server(&self) -> BTreeMap<ServerName, usize> {
        let mut counts = BTreeMap::new();
        for route in self.table.values().filter(|route| route.is_used()) {
            *counts.entry(route.server.clone()).or_default() += 1;
        }
        counts
    }

    /// Gives a stream to a server, in place of what it had, and counts one user. None if the
    /// table is full of routes in use.
    pub(super) fn place(
        &mut self,
        key: &StreamKey,
        origin: &Origin,
        service: Service,
    ) -> Option<Generation> {
        let former = self.get(key).map(|(server, _)| server.clone());
        self.remove(key);
        if self.table.len() >= self.max {
            let (_, oldest) = self.idle.pop_first()?;
            self.remove(&oldest);
        }
        self.last_generation += 1;
        let server = origin.server();
        let route = Route {
            server: server.clone(),
            run: Arc::clone(origin.name()),
            generation: self.last_generation,
            users: Service::ALL.map(|it| usize::from(it == service)),
            is_found: false,
            idle_since: None,
        };
        self.table.insert(key.clone(), route);
        *self.per_server.entry(server.clone()).or_default() += 1;
        self.note(key, server);
        if let Some(former) = former.filter(|former| former != server) {
            self.note(key, &former);
        }
        Some(self.last_generation)
    }

    /// Takes a user from a stream's route, if it still is the one that was joined. A route by which
    /// nobody has found the stream goes with its last user.
    pub(super) fn leave(
        &mut self,
        key: &StreamKey,
        generation: Generation,
        service: Service,
        now: Instant,
    ) {
        let route = self.table.get_mut(key).filter(|route| route.generation == generation);
        let Some(route) = route else { return };
        if let Some(users) = route.users.get_mut(service as usize) {
            *users = users.saturating_sub(1);
        }
        let (is_used, is_found, server) = (route.is_used(), route.is_found, route.server.clone());
        if is_used {
            return;
        }
        if is_found {
            route.idle_since = Some(now);
            self.idle.insert((now, generation), key.clone());
            self.note(key, &server);
        } else {
            self.remove(key);
            self.give_up(key, &server);
        }
    }

    /// Drops the routes that nobody used for their idle time.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(((since, _), _)) = self.idle.first_key_value() {
            if now.saturating_duration_since(*since) < self.idle_ttl {
                return;
            }
            if let Some((_, key)) = self.idle.pop_first() {
                self.remove(&key);
            }
        }
    }

    /// How many streams a server has.
    pub(super) fn of(&self, server: &ServerName) -> usize {
        self.per_server.get(server).copied().unwrap_or(0)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// How many have users.
    pub(super) fn in_use(&self) -> usize {
        self.table.len() - self.idle.len()
    }

    fn remove(&mut self, key: &StreamKey) {
        let Some(route) = self.table.remove(key) else {
            return;
        };
        if let Some(since) = route.idle_since {
            self.idle.remove(&(since, route.generation));
        }
        if let Some(streams) = self.per_server.get_mut(&route.server) {
            *streams -= 1;
            if *streams == 0 {
                self.per_server.remove(&route.server);
            }
        }
    }
}
