//! Every origin that is known, and since when it was last heard of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::{Healths, Service};
use super::origin::{Origin, OriginId, ServerName};
use super::standing::Standing;

/// The origins, one per server. Bounded.
#[derive(Debug)]
pub(super) struct Registry {
    /// Ordered, so that a choice by index means the same each time.
    members: BTreeMap<ServerName, Member>,
    /// What operators want of servers, whether they are there or not; the others are active.
    standings: BTreeMap<ServerName, Standing>,
    /// Runs that were taken out, by name.
    withdrawn: BTreeSet<Arc<str>>,
    max: usize,
    ttl: Duration,
    /// Since when nothing is heard of origins that others have heard: they do not expire.
    deaf_since: Option<Instant>,
}

/// One origin of the table.
#[derive(Debug)]
pub(super) struct Member {
    /// The same allocation as long as the origin is the same: leases compare it.
    pub(super) origin: Arc<Origin>,
    /// The last heartbeat; none for the default origin.
    pub(super) heard: Option<Instant>,
    pub(super) health: Healths,
    pub(super) standing: Standing,
    /// Services that several proxies cannot reach.
    out: [bool; Service::ALL.len()],
    /// Whether it was given more time since it was heard.
    is_spared: bool,
}

/// What a heartbeat changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The server was not known.
    New,
    /// The server runs anew: another service or pid.
    Restarted,
    /// The same run, with other addresses.
    Changed,
    /// Nothing but the time.
    Again,
}

impl Registered {
    /// The word used in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Restarted => "restarted",
            Self::Changed => "changed",
            Self::Again => "none",
        }
    }
}

/// Why a heartbeat was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRegistered {
    /// The table is full of origins that are alive.
    #[error("server: the limit of origins is reached")]
    Full,
    /// The server calls itself like the default origin of the configuration.
    #[error("server: the name is taken by the default origin")]
    Reserved,
    /// An operator has taken this run of the server out.
    #[error("server: taken out; restart it, or let it be activated")]
    Withdrawn,
}

/// For origins to be heard of again by those that were deaf.
const GRACE: Duration = Duration::from_secs(30);

impl Registry {
    pub(super) fn new(max: usize, ttl: Duration) -> Self {
        Self {
            members: BTreeMap::new(),
            standings: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            max,
            ttl,
            deaf_since: None,
        }
    }

    /// Adds an origin that needs no heartbeat.
    pub(super) fn add_fixed(&mut self, origin: Origin) {
        self.insert(origin.into(), None);
    }

    fn insert(&mut self, origin: Arc<Origin>, heard: Option<Instant>) {
        let server = origin.server().clone();
        let standing = self.standings.get(&server).copied().unwrap_or_default();
        let (health, out) = (Healths::default(), Default::default());
        self.members
            .insert(server, Member { origin, heard, health, standing, out, is_spared: false });
    }

    /// Takes a heartbeat. A failed connection is not forgiven by it, unless the origin is no
    /// longer where it was.
    pub(super) fn register(
        &mut self,
        origin: Origin,
        now: Instant,
    ) -> Result<Registered, NotRegistered> {
        if self.withdrawn.contains(origin.name()) {
            return Err(NotRegistered::Withdrawn);
        }
        self.hear(origin, now, now)
    }

    /// Notes that an origin was heard by somebody, some time ago. An older word than what is known
    /// changes nothing.
    pub(super) fn hear(
        &mut self,
        origin: Origin,
        heard: Instant,
        now: Instant,
    ) -> Result<Registered, NotRegistered> {
        if let Some(member) = self.members.get_mut(origin.server()) {
            if member.heard.is_none() {
                return Err(NotRegistered::Reserved);
            }
            let is_older = member.heard > Some(heard);
            if member.heard < Some(heard) {
                (member.heard, member.is_spared) = (Some(heard), false);
            }
            if is_older || *member.origin == origin {
                return Ok(Registered::Again);
            }
            let same_run = member.origin.id() == origin.id();
            if !(same_run && member.origin.is_where(&origin)) {
                member.health = Healths::default();
                member.out = Default::default();
            }
            member.origin = origin.into();
            return Ok(if same_run { Registered::Changed } else { Registered::Restarted });
        }
        if self.members.len() >= self.max {
            self.expire(now);
        }
        if self.members.len() >= self.max {
            return Err(NotRegistered::Full);
        }
        self.insert(origin.into(), Some(heard));
        Ok(Registered::New)
    }

    /// Notes what operators want, and which runs they have taken out; those go.
    pub(super) fn stand(
        &mut self,
        standings: BTreeMap<ServerName, Standing>,
        withdrawn: BTreeSet<Arc<str>>,
    ) -> Vec<Arc<Origin>> {
        (self.standings, self.withdrawn) = (standings, withdrawn);
        for (server, member) in &mut self.members {
            member.standing = self.standings.get(server).copied().unwrap_or_default();
        }
        let withdrawn = &self.withdrawn;
        let is_out =
            |member: &Member| member.heard.is_some() && withdrawn.contains(member.origin.name());
        let gone = self.members.extract_if(.., |_, member| is_out(member));
        gone.map(|(_, member)| member.origin).collect()
    }

    /// The server of this name, or of a run of this name, of which an operator wants something.
    pub(super) fn remembered(&self, name: &str) -> Option<ServerName> {
        let server = ServerName::from(name);
        if self.standings.contains_key(name) || self.withdrawn.iter().any(|it| server.is_of(it)) {
            return Some(server);
        }
        let run = self.withdrawn.get(name)?;
        OriginId::server_of(run).map(ServerName::from)
    }

    /// Notes which services, by the name of the run, several proxies cannot reach.
    pub(super) fn doubt(&mut self, out: &BTreeSet<(Arc<str>, Service)>) {
        for member in self.members.values_mut() {
            let name = member.origin.name();
            member.out = Service::ALL.map(|service| out.contains(&(Arc::clone(name), service)));
        }
    }

    /// From now on origins expire again, or no longer: nothing is heard of what others hear.
    pub(super) fn listen(&mut self, deaf_since: Option<Instant>, now: Instant) {
        if deaf_since.is_some() {
            self.deaf_since = self.deaf_since.or(deaf_since);
            // Nobody says any more when they can be reached again: connections tell.
            self.doubt(&BTreeSet::new());
            return;
        }
        let (ttl, until) = (self.ttl, self.until(now));
        self.deaf_since = None;
        // Who hears them has not told yet.
        let spared = now.checked_sub(ttl.saturating_sub(GRACE));
        let alive = self.members.values_mut().filter(|member| member.is_alive(until, ttl));
        for member in alive.filter(|member| !member.is_spared) {
            let later = spared.filter(|spared| member.heard.is_some_and(|heard| heard < *spared));
            if later.is_some() {
                (member.heard, member.is_spared) = (later, true);
            }
        }
    }

    /// Whether nothing is heard of what others hear.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf_since.is_some()
    }

    /// How long an origin lives after a heartbeat.
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The live origin that a run of this name is, or is an earlier run of.
    pub(super) fn named(&self, run: &str, now: Instant) -> Option<&Member> {
        let exact = self.alive(now).find(|member| &**member.origin.name() == run);
        exact.or_else(|| self.alive(now).find(|member| member.origin.server().is_of(run)))
    }

    /// The origin of this server, if it is alive.
    pub(super) fn get(&self, server: &ServerName, now: Instant) -> Option<&Member> {
        let now = self.until(now);
        self.members.get(server).filter(|member| member.is_alive(now, self.ttl))
    }

    /// Up to when it is known who is alive.
    fn until(&self, now: Instant) -> Instant {
        self.deaf_since.map_or(now, |since| now.min(since))
    }

    /// The member that a lease's origin still is.
    pub(super) fn same(&mut self, origin: &Arc<Origin>) -> Option<&mut Member> {
        let member = self.members.get_mut(origin.server());
        member.filter(|member| Arc::ptr_eq(&member.origin, origin))
    }

    /// Every origin that is alive, in the order of their servers' names.
    pub(super) fn alive(&self, now: Instant) -> impl Iterator<Item = &Member> {
        let now = self.until(now);
        self.members.values().filter(move |member| member.is_alive(now, self.ttl))
    }

    /// Drops the origins that were not heard of for their time to live, and returns them.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Arc<Origin>> {
        let (ttl, now) = (self.ttl, self.until(now));
        let gone = self.members.extract_if(.., |_, member| !member.is_alive(now, ttl));
        gone.map(|(_, member)| member.origin).collect()
    }
}

impl Member {
    /// Whether several proxies cannot reach this service.
    pub(super) fn is_out(&self, service: Service) -> bool {
        self.out.get(service as usize).copied().unwrap_or_default()
    }

    /// Whether nobody shall be sent there, whoever is there already.
    pub(super) fn is_barred(&self, service: Service) -> bool {
        self.standing == Standing::Maintenance || self.is_out(service)
    }

    fn is_alive(&self, now: Instant, ttl: Duration) -> bool {
        self.heard.is_none_or(|heard| now.saturating_duration_since(heard) < ttl)
    }
}
