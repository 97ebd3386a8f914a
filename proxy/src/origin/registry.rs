//! Every origin that is known, and since when it was last heard of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::Healths;
use super::origin::{Origin, ServerName};

/// The origins, one per server. Bounded.
#[derive(Debug)]
pub(super) struct Registry {
    /// Ordered, so that a choice by index means the same each time.
    members: BTreeMap<ServerName, Member>,
    max: usize,
    ttl: Duration,
}

/// One origin of the table.
#[derive(Debug)]
pub(super) struct Member {
    /// The same allocation as long as the origin is the same: leases compare it.
    pub(super) origin: Arc<Origin>,
    /// The last heartbeat; none for the default origin.
    pub(super) heard: Option<Instant>,
    pub(super) health: Healths,
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
}

impl Registry {
    pub(super) fn new(max: usize, ttl: Duration) -> Self {
        Self { members: BTreeMap::new(), max, ttl }
    }

    /// Adds an origin that needs no heartbeat.
    pub(super) fn add_fixed(&mut self, origin: Origin) {
        let member = Member { origin: origin.into(), heard: None, health: Healths::default() };
        self.members.insert(member.origin.server().clone(), member);
    }

    /// Takes a heartbeat. A failed connection is not forgiven by it, unless the origin is no
    /// longer where it was.
    pub(super) fn register(
        &mut self,
        origin: Origin,
        now: Instant,
    ) -> Result<Registered, NotRegistered> {
        if let Some(member) = self.members.get_mut(origin.server()) {
            if member.heard.is_none() {
                return Err(NotRegistered::Reserved);
            }
            member.heard = Some(now);
            if *member.origin == origin {
                return Ok(Registered::Again);
            }
            let same_run = member.origin.id() == origin.id();
            if !(same_run && member.origin.is_where(&origin)) {
                member.health = Healths::default();
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
        let member = Member { origin: origin.into(), heard: Some(now), health: Healths::default() };
        self.members.insert(member.origin.server().clone(), member);
        Ok(Registered::New)
    }

    /// The origin of this server, if it is alive.
    pub(super) fn get(&self, server: &ServerName, now: Instant) -> Option<&Member> {
        self.members.get(server).filter(|member| member.is_alive(now, self.ttl))
    }

    /// The member that a lease's origin still is.
    pub(super) fn same(&mut self, origin: &Arc<Origin>) -> Option<&mut Member> {
        let member = self.members.get_mut(origin.server());
        member.filter(|member| Arc::ptr_eq(&member.origin, origin))
    }

    /// Every origin that is alive, in the order of their servers' names.
    pub(super) fn alive(&self, now: Instant) -> impl Iterator<Item = &Member> {
        self.members.values().filter(move |member| member.is_alive(now, self.ttl))
    }

    /// Drops the origins that were not heard of for their time to live, and returns them.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Arc<Origin>> {
        let ttl = self.ttl;
        let gone = self.members.extract_if(.., |_, member| !member.is_alive(now, ttl));
        gone.map(|(_, member)| member.origin).collect()
    }
}

impl Member {
    fn is_alive(&self, now: Instant, ttl: Duration) -> bool {
        self.heard.is_none_or(|heard| now.saturating_duration_since(heard) < ttl)
    }
}
