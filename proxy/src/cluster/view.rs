//! What operators see of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;

use super::store::{Conflict, Presence, ProxyId};
use super::{Cluster, Known};
use crate::origin::ServerName;
use crate::telemetry::seconds;

/// The answer of `GET /api/v1/cluster`.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterView {
    /// This proxy.
    pub proxy: ProxyId,
    /// What the proxies share their knowledge by.
    pub store: StoreView,
    /// The proxies that are there, as each says of itself.
    pub proxies: Vec<ProxyView>,
    /// Streams that are published at two origins, as far as any proxy sees.
    pub conflicts: Vec<Conflict>,
}

/// The store, as this proxy finds it.
#[derive(Clone, Debug, Serialize)]
pub struct StoreView {
    /// `memory` or `redis`.
    pub kind: &'static str,
    /// `healthy`, or `degraded` while it does not answer, or has something that cannot be used.
    pub state: &'static str,
    /// Why it is degraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For how long it has not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_seconds: Option<f64>,
    /// How old what is known of others is.
    pub staleness_seconds: f64,
    /// What waits to be written.
    pub waiting: usize,
    /// Streams of other proxies that are known here.
    pub known_routes: usize,
}

/// One proxy.
#[derive(Clone, Debug, Serialize)]
pub struct ProxyView {
    /// Its name.
    pub proxy: ProxyId,
    /// Version of the program.
    pub version: String,
    /// Streams that it uses, by server.
    pub streams: BTreeMap<ServerName, usize>,
    /// Sessions that it has, by server.
    pub sessions: BTreeMap<ServerName, usize>,
}

impl Cluster {
    /// The cluster, as this proxy knows it.
    pub fn view(&self, now: Instant) -> ClusterView {
        let (loss, reason) = (self.condition.loss(), self.condition.reason());
        let known = self.known.lock();
        let proxy = |it: &Presence| ProxyView {
            proxy: it.proxy.clone(),
            version: it.version.clone(),
            streams: it.streams.clone(),
            sessions: it.sessions.clone(),
        };
        ClusterView {
            proxy: self.me.clone(),
            store: StoreView {
                kind: self.store.as_str(),
                state: if reason.is_some() { "degraded" } else { "healthy" },
                lost_seconds: loss
                    .as_ref()
                    .map(|loss| seconds(now.saturating_duration_since(loss.since))),
                reason,
                staleness_seconds: seconds(self.condition.staleness(now)),
                waiting: self.outbox.lock().waiting(now),
                known_routes: self.balancer.counts(now).routes_mirrored,
            },
            proxies: known.proxies.iter().map(proxy).collect(),
            conflicts: known.all_conflicts(),
        }
    }

    /// Sessions that the other proxies have at a server, as each said last.
    pub fn sessions_elsewhere(&self, server: &ServerName) -> usize {
        let known = self.known.lock();
        let others = known.proxies.iter().filter(|it| it.proxy != self.me);
        others.filter_map(|proxy| proxy.sessions.get(server)).sum()
    }
}

impl Known {
    /// Those of this proxy and of all others, one per stream.
    fn all_conflicts(&self) -> Vec<Conflict> {
        let told = self.proxies.iter().flat_map(|proxy| &proxy.conflicts);
        let mut conflicts = BTreeMap::<&str, BTreeSet<_>>::new();
        for conflict in self.conflicts.values().chain(told) {
            conflicts.entry(&conflict.stream).or_default().extend(&conflict.publishers);
        }
        let conflict = |(stream, publishers): (&str, BTreeSet<_>)| Conflict {
            stream: stream.to_owned(),
            publishers: publishers.into_iter().cloned().collect(),
        };
        conflicts.into_iter().map(conflict).collect()
    }
}
