//! What a balancer knows through others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Balancer;
use crate::origin::health::Service;
use crate::origin::origin::{Origin, ServerName};
use crate::origin::registry::{NotRegistered, Registered};
use crate::origin::standing::Standing;
use crate::stream::StreamKey;

/// What is known through others.
#[derive(Clone, Debug, Default)]
pub struct Hearsay {
    /// Origins, and how long each lives without another word of it.
    pub origins: Vec<(Arc<Origin>, Duration)>,
    /// What operators want.
    pub standings: BTreeMap<ServerName, Standing>,
    /// Names of runs that were taken out.
    pub withdrawn: BTreeSet<Arc<str>>,
    /// Services that several proxies cannot reach, by the name of the run.
    pub out: BTreeSet<(Arc<str>, Service)>,
    /// Streams that other proxies use, by server.
    pub elsewhere: BTreeMap<ServerName, usize>,
}

impl Balancer {
    /// Takes what is known through others.
    pub fn learn(&self, hearsay: Hearsay, now: Instant) {
        let mut state = self.at(now);
        let state = &mut *state;
        let mut gone = state.registry.stand(hearsay.standings, hearsay.withdrawn);
        let ttl = state.registry.ttl();
        for (origin, life) in hearsay.origins {
            let ago = ttl.saturating_sub(life);
            let heard = now.checked_sub(ago).unwrap_or(now);
            let name = Arc::clone(origin.name());
            match state.registry.hear(Arc::unwrap_or_clone(origin), heard, now) {
                Ok(Registered::Again) | Err(NotRegistered::Reserved) => {}
                Ok(change) => {
                    let change = change.as_str();
                    tracing::info!(origin = &*name, change, "origin known through others");
                }
                Err(error) => tracing::debug!(origin = &*name, %error, "origin not taken"),
            }
        }
        state.registry.doubt(&hearsay.out);
        state.elsewhere = hearsay.elsewhere;
        for origin in gone.drain(..) {
            tracing::info!(origin = &**origin.name(), "origin taken out");
        }
    }

    /// Takes one more origin that is known through others.
    pub fn learn_of(&self, origin: Origin, life: Duration, now: Instant) {
        let mut state = self.at(now);
        let heard = now.checked_sub(state.registry.ttl().saturating_sub(life)).unwrap_or(now);
        // What cannot be taken stays unknown.
        let _known = state.registry.hear(origin, heard, now);
    }

    /// From `Some` time on nothing is heard of other proxies: origins do not expire, and new streams
    /// go where all proxies would place them.
    pub fn listen(&self, deaf_since: Option<Instant>, now: Instant) {
        self.at(now).registry.listen(deaf_since, now);
    }

    /// A stream belongs to a run of an origin since this epoch, by the word of the store. One of an
    /// earlier epoch than what is known changes nothing.
    pub fn placed(&self, key: &StreamKey, run: &Arc<str>, epoch: u64) {
        let mut state = self.state.lock();
        if !state.mirror.insert(key, Arc::clone(run), epoch) {
            return;
        }
        let is_here = |server: &ServerName| {
            server.is_of(run) || state.routes.run(key).is_some_and(|it| it == run)
        };
        if state.routes.get(key).is_some_and(|(server, _)| !is_here(server)) {
            state.routes.forget(key);
        }
    }

    /// A stream belongs to nobody since the owner of this epoch. If a later one is known, that stays.
    pub fn unplaced(&self, key: &StreamKey, epoch: u64) {
        let mut state = self.state.lock();
        if !state.mirror.end(key, epoch) {
            return;
        }
        if state.routes.get(key).is_some_and(|(_, in_use)| !in_use) {
            state.routes.forget(key);
        }
    }

    /// The streams that others have placed are about to be listed.
    pub fn begin_listing(&self) {
        self.state.lock().mirror.begin_listing();
    }

    /// Every stream that others have placed, in place of those that were known.
    pub fn mirror(&self, routes: Vec<(StreamKey, Arc<str>)>) {
        self.state.lock().mirror.replace(routes);
    }
}
