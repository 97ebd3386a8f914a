//! Which server each stream was given to.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::health::Service;
use super::origin::ServerName;
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
    last_generation: Generation,
    max: usize,
    idle_ttl: Duration,
}

#[derive(Debug)]
struct Route {
    server: ServerName,
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
            last_generation: 0,
            max,
            idle_ttl,
        }
    }

    /// The server of a stream, and whether the route has users.
    pub(super) fn get(&self, key: &StreamKey) -> Option<(&ServerName, bool)> {
        self.table.get(key).map(|route| (&route.server, route.is_used()))
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
        if let Some(route) = route {
            route.is_found = true;
        }
    }

    /// Adds a user to a stream's route.
    pub(super) fn join(&mut self, key: &StreamKey, service: Service) -> Option<Generation> {
        let route = self.table.get_mut(key)?;
        if let Some(since) = route.idle_since.take() {
            self.idle.remove(&(since, route.generation));
        }
        if let Some(users) = route.users.get_mut(service as usize) {
            *users += 1;
        }
        Some(route.generation)
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

    /// Gives a stream to a server, in place of what it had, and counts one user. None if the
    /// table is full of routes in use.
    pub(super) fn place(
        &mut self,
        key: &StreamKey,
        server: &ServerName,
        service: Service,
    ) -> Option<Generation> {
        self.remove(key);
        if self.table.len() >= self.max {
            let (_, oldest) = self.idle.pop_first()?;
            self.remove(&oldest);
        }
        self.last_generation += 1;
        let route = Route {
            server: server.clone(),
            generation: self.last_generation,
            users: Service::ALL.map(|it| usize::from(it == service)),
            is_found: false,
            idle_since: None,
        };
        self.table.insert(key.clone(), route);
        *self.per_server.entry(server.clone()).or_default() += 1;
        Some(self.last_generation)
    }

    /// Takes a user from a stream's route, if it still is the one that was joined, and tells whether
    /// it has found the stream there. A route by which nobody has goes with its last user.
    pub(super) fn leave(
        &mut self,
        key: &StreamKey,
        generation: Generation,
        service: Service,
        has_found: bool,
        now: Instant,
    ) {
        let route = self.table.get_mut(key).filter(|route| route.generation == generation);
        let Some(route) = route else { return };
        if let Some(users) = route.users.get_mut(service as usize) {
            *users = users.saturating_sub(1);
        }
        route.is_found |= has_found;
        let is_used = route.is_used();
        if !is_used && !route.is_found {
            self.remove(key);
        } else if !is_used {
            route.idle_since = Some(now);
            self.idle.insert((now, generation), key.clone());
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
