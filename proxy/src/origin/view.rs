//! What operators see of origins and routes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::health::Service;
use super::origin::{Endpoint, Listener, ServerName};
use super::registry::Member;
use super::standing::Standing;
use crate::telemetry::seconds;

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
    /// What an operator wants, `draining` or `maintenance`; else `down` while RTMP or HTTP is left
    /// alone after a failed connection, or several proxies cannot reach it; else `active`.
    pub state: &'static str,
    /// What could not be connected last time: `streams` (RTMP and HTTP), `api`, `srt`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<&'static str>,
    /// Whether it is the default origin, which sends no heartbeat.
    pub fixed: bool,
    /// Since the last heartbeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// Streams that this proxy has routed to it.
    pub streams: usize,
    /// Streams that other proxies use there; one that two of them use counts twice.
    pub streams_elsewhere: usize,
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
    /// The id of the origin that it belongs to, by the last word of the other proxies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Arc<str>>,
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
    /// Origins by [`OriginView::state`], in the order of [`OriginView::STATES`].
    pub origins: [usize; OriginView::STATES.len()],
    /// Streams with clients.
    pub routes_in_use: usize,
    /// Streams remembered for their next client.
    pub routes_idle: usize,
    /// Streams that other proxies have told of.
    pub routes_mirrored: usize,
}

impl Counts {
    /// Origins that are alive.
    pub fn alive(&self) -> usize {
        self.origins.iter().sum()
    }

    pub(super) fn count(&mut self, state: &str) {
        let states = OriginView::STATES.iter().zip(&mut self.origins);
        for (_, count) in states.filter(|(it, _)| **it == state) {
            *count += 1;
        }
    }
}

impl OriginView {
    /// Every state.
    pub const STATES: [&'static str; 4] = ["active", "draining", "maintenance", "down"];

    pub(super) fn state_of(member: &Member) -> &'static str {
        let is_down = member.health.is_failing(Service::Streams) || member.is_out(Service::Streams);
        match member.standing {
            Standing::Active if is_down => "down",
            standing => standing.as_str(),
        }
    }

    pub(super) fn of(member: &Member, streams: usize, elsewhere: usize, now: Instant) -> Self {
        let Member { origin, heard, health, .. } = member;
        let endpoints = Listener::ALL.into_iter().filter_map(|listener| {
            let endpoints = origin.endpoints(listener);
            (!endpoints.is_empty()).then(|| (listener.as_str(), endpoints.to_vec()))
        });
        let is_failing = |it: &Service| health.is_failing(*it) || member.is_out(*it);
        Self {
            id: Arc::clone(origin.name()),
            server: origin.server().clone(),
            service: origin.id().service.clone(),
            pid: origin.id().pid.clone(),
            device_id: origin.device_id().map(str::to_owned),
            ip: origin.host().as_str().to_owned(),
            endpoints: endpoints.collect(),
            state: Self::state_of(member),
            failing: Service::ALL.into_iter().filter(is_failing).map(Service::as_str).collect(),
            fixed: heard.is_none(),
            age_seconds: heard.map(|heard| seconds(now.saturating_duration_since(heard))),
            streams,
            streams_elsewhere: elsewhere,
            connect_failures: health.failures(),
        }
    }
}
