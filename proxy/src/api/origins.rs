//! What operators want of origins, and what still goes on there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use super::answer::Refusal;
use super::{Answer, ApiState, Shared, answer};
use crate::cluster::store::StoreError;
use crate::origin::{OriginView, ServerName, Standing};

/// The endpoints below `/api/v1/origins`. An origin is named by its id or its server.
pub(super) fn router() -> Router<Arc<ApiState>> {
    let orders = [
        ("/api/v1/origins/{id}/drain", Standing::Draining),
        ("/api/v1/origins/{id}/maintenance", Standing::Maintenance),
        ("/api/v1/origins/{id}/activate", Standing::Active),
    ];
    let router = Router::new()
        .route("/api/v1/origins", get(all))
        .route("/api/v1/origins/{id}", get(one).delete(withdraw));
    orders.into_iter().fold(router, |router, (path, standing)| {
        router.route(path, post(move |state: Shared, id: Path<String>| stand(state, id, standing)))
    })
}

#[derive(Serialize)]
struct Origins {
    origins: Vec<OriginView>,
}

async fn all(State(state): Shared) -> Json<Answer<Origins>> {
    answer(Origins { origins: state.cluster.balancer().origins(Instant::now()) })
}

#[derive(Serialize)]
struct One {
    /// None if it is activated, and has not been heard since.
    origin: Option<Report>,
}

/// One origin, and how much is left to go on there.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    view: OriginView,
    progress: Progress,
}

/// What goes on at an origin.
#[derive(Serialize)]
struct Progress {
    /// Streams with clients of this proxy.
    streams: usize,
    /// Streams with clients of other proxies; one that two of them use counts twice.
    streams_elsewhere: usize,
    /// Sessions of this proxy.
    sessions: usize,
    /// Sessions of the other proxies.
    sessions_elsewhere: usize,
    /// Whether nothing is left, by the word of all proxies.
    is_empty: bool,
}

impl Report {
    fn of(view: OriginView, state: &ApiState) -> Self {
        let (server, streams_elsewhere) = (&view.server, view.streams_elsewhere);
        let at = |counts: BTreeMap<ServerName, usize>| counts.get(server).copied().unwrap_or(0);
        let streams = at(state.cluster.balancer().streams_by_server());
        let sessions = at(state.sessions.by_server());
        let sessions_elsewhere = state.cluster.sessions_elsewhere(server);
        let left = [streams, streams_elsewhere, sessions, sessions_elsewhere];
        let is_told = !state.cluster.condition().is_lost();
        let is_empty = is_told && left.iter().all(|left| *left == 0);
        let progress =
            Progress { streams, streams_elsewhere, sessions, sessions_elsewhere, is_empty };
        Self { view, progress }
    }
}

async fn one(State(state): Shared, Path(id): Path<String>) -> Result<Json<Answer<One>>, Refusal> {
    let origin = state.cluster.balancer().view(&id, Instant::now()).ok_or_else(unknown)?;
    Ok(answer(One { origin: Some(Report::of(origin, &state)) }))
}

async fn stand(
    State(state): Shared,
    Path(id): Path<String>,
    standing: Standing,
) -> Result<Json<Answer<One>>, Refusal> {
    let balancer = state.cluster.balancer();
    let server = balancer.server_named(&id, Instant::now()).ok_or_else(unknown)?;
    state.cluster.stand(&server, standing).await.map_err(|error| unanswered(&error))?;
    let view = balancer.view(server.as_str(), Instant::now());
    Ok(answer(One { origin: view.map(|view| Report::of(view, &state)) }))
}

async fn withdraw(
    State(state): Shared,
    Path(id): Path<String>,
) -> Result<Json<Answer<One>>, Refusal> {
    let (balancer, now) = (state.cluster.balancer(), Instant::now());
    let origin = balancer.named(&id, now).ok_or_else(unknown)?;
    let view = balancer.view(origin.name(), now).ok_or_else(unknown)?;
    if view.fixed {
        let why =
            "the default origin is configured, and cannot be taken out; put it into maintenance";
        return Err(Refusal::new(StatusCode::CONFLICT, why));
    }
    state.cluster.withdraw(&origin).await.map_err(|error| unanswered(&error))?;
    let view = OriginView { state: "withdrawn", ..view };
    Ok(answer(One { origin: Some(Report::of(view, &state)) }))
}

fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "no such origin")
}

/// All proxies are to know it, or none.
fn unanswered(error: &StoreError) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &format!("store: {error}"))
}
