//! The system API: origins register, operators ask.
//!
//! [`router`] is what is answered, [`serve`] keeps those who ask within bounds, and `gate`
//! decides who may. `docs/api.md` shows each endpoint with an example.

mod answer;
mod gate;
mod origins;
mod server;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::answer::Refusal;
pub use self::server::serve;
use crate::cluster::{Cluster, ClusterView};
use crate::metrics;
use crate::origin::{Explanation, Listener, NotRegistered, registration};
use crate::plane::kernel::{Kernel, KernelView};
use crate::plane::{StreamPlane, StreamsView};
use crate::session::{SessionView, Sessions};
use crate::stream::{Ask, BadStream, Candidates, StreamKey, Vhosts};
use crate::telemetry::Seldom;

/// What the API answers from, and whom.
pub struct ApiState {
    /// Origins and routes.
    pub cluster: Arc<Cluster>,
    /// Live sessions.
    pub sessions: Arc<Sessions>,
    /// The plane in the kernel.
    pub kernel: Kernel,
    /// The plane of streams over TCP.
    pub streams: StreamPlane,
    /// By which URLs are read.
    pub vhosts: Vhosts,
    /// Answered as `/metrics`.
    pub metrics: Arc<Registry>,
    /// The bearer token of `/api/v1/`; none if nobody needs one.
    pub auth: Option<String>,
    /// Who may ask anything but the health; empty if everybody may.
    pub allow: Vec<IpNet>,
    /// Of registrations, for the log.
    pub refusals: Seldom,
    /// Cancelled when the proxy takes no more sessions.
    pub draining: CancellationToken,
}

type Shared = State<Arc<ApiState>>;

/// Every endpoint.
pub fn router(state: ApiState) -> Router {
    let state = Arc::new(state);
    let with_token = Router::new()
        .merge(origins::router())
        .route("/api/v1/cluster", get(cluster))
        .route("/api/v1/streams/route", get(route))
        .route("/api/v1/sessions", get(sessions))
        .route("/api/v1/sessions/{id}", get(session))
        .route("/api/v1/planes", get(planes))
        .method_not_allowed_fallback(answer::method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&state), gate::bearer));
    let registration = Router::new()
        .route("/api/v1/srs/register", post(register))
        .method_not_allowed_fallback(answer::method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&state), gate::bearer))
        .layer(from_fn_with_state(Arc::clone(&state), gate::allowed))
        .layer(from_fn_with_state(Arc::clone(&state), gate::noted));
    let from_allowed = Router::new()
        .route("/api/v1/versions", get(versions))
        .route("/metrics", get(metrics_text))
        .method_not_allowed_fallback(answer::method_not_allowed)
        .merge(with_token)
        .fallback(answer::not_found)
        .layer(from_fn_with_state(Arc::clone(&state), gate::allowed));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(answer::method_not_allowed)
        .merge(from_allowed)
        .merge(registration)
        .layer(map_response(answer::signed))
        .with_state(state)
}

/// An origin's heartbeat; the content type is not looked at.
async fn register(State(state): Shared, body: Body) -> Result<Json<Value>, Refusal> {
    let body = answer::read_body(body).await?;
    let origin = registration::parse(&body)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, &error))?;
    let registered = state.cluster.register(origin);
    registered.map_err(|error| {
        let status = match error {
            NotRegistered::Full => StatusCode::SERVICE_UNAVAILABLE,
            NotRegistered::Reserved => StatusCode::BAD_REQUEST,
            NotRegistered::Withdrawn => StatusCode::CONFLICT,
        };
        Refusal::new(status, &error)
    })?;
    Ok(Json(json!({"code": 0, "pid": std::process::id().to_string()})))
}

/// An answer of one member beside the code. Serialized as it is: a list of all sessions need not
/// be in memory twice.
#[derive(Serialize)]
struct Answer<Body> {
    code: u16,
    #[serde(flatten)]
    body: Body,
}

fn answer<Body>(body: Body) -> Json<Answer<Body>> {
    Json(Answer { code: 0, body })
}

#[derive(Deserialize)]
struct RouteQuery {
    url: String,
}

async fn route(
    State(state): Shared,
    query: Result<Query<RouteQuery>, QueryRejection>,
) -> Result<Json<Answer<Route>>, Refusal> {
    let bad = |error: &dyn ToString| {
        Refusal::new(StatusCode::BAD_REQUEST, &format!("url: {}", error.to_string()))
    };
    let Query(RouteQuery { url }) = query.map_err(|_| bad(&"missing from the query"))?;
    let ask = Ask::from_url(&url).map_err(|error| bad(&error))?;
    let key = key(&ask, &state).map_err(|error| bad(&error))?;
    let listener = match ask {
        Ask::Rtmp { .. } => Listener::Rtmp,
        Ask::Http { .. } => Listener::Http,
        Ask::Rtc { .. } | Ask::WebRtc { .. } => Listener::Api,
        Ask::Srt { .. } => Listener::Srt,
    };
    Ok(answer(Route { route: state.cluster.balancer().explain(&key, listener, Instant::now()) }))
}

/// The stream of a URL: of several that an HTTP URL may belong to, the one that has an origin.
fn key(ask: &Ask<'_>, state: &ApiState) -> Result<StreamKey, BadStream> {
    let candidates = match ask {
        Ask::Http { host, target } => Candidates::of(*host, target, &state.vhosts)?,
        _ => None,
    };
    match candidates {
        Some(candidates) => Ok(state.cluster.balancer().attribute(&candidates).0.clone()),
        None => StreamKey::new(ask, &state.vhosts),
    }
}

#[derive(Serialize)]
struct Route {
    route: Explanation,
}

#[derive(Serialize)]
struct List {
    sessions: Vec<SessionView>,
}

async fn sessions(State(state): Shared) -> Json<Answer<List>> {
    let list = state.sessions.list();
    answer(List { sessions: list.iter().map(|session| session.view()).collect() })
}

#[derive(Serialize)]
struct One {
    session: SessionView,
}

async fn session(
    State(state): Shared,
    Path(id): Path<String>,
) -> Result<Json<Answer<One>>, Refusal> {
    let session = state.sessions.get(&id);
    let session = session.ok_or(Refusal::new(StatusCode::NOT_FOUND, "no such live session"))?;
    Ok(answer(One { session: session.view() }))
}

#[derive(Serialize)]
struct Fleet {
    cluster: ClusterView,
}

async fn cluster(State(state): Shared) -> Json<Answer<Fleet>> {
    answer(Fleet { cluster: state.cluster.view(Instant::now()) })
}

#[derive(Serialize)]
struct Planes {
    planes: PlanesView,
}

/// What carries sessions here.
#[derive(Serialize)]
struct PlanesView {
    datagrams: KernelView,
    streams: StreamsView,
}

async fn planes(State(state): Shared) -> Json<Answer<Planes>> {
    let (datagrams, streams) = (state.kernel.view(), state.streams.view());
    answer(Planes { planes: PlanesView { datagrams, streams } })
}

async fn versions() -> Json<Value> {
    Json(json!({"signature": answer::NAME, "version": answer::VERSION}))
}

async fn metrics_text(State(state): Shared) -> Result<Response, Refusal> {
    let text = metrics::text(&state.metrics);
    let text = text.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, &error))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Says no more than that the process lives.
async fn healthz() -> Json<Value> {
    Json(json!({"alive": true}))
}

/// Ready is who listens and is not draining. Without an origin the proxy is ready too: it
/// answers clients, and an origin that registers needs no restart of whatever probes here. So it
/// is without its store: all proxies lose that at once, and none would be left.
async fn readyz(State(state): Shared) -> Response {
    let counts = state.cluster.balancer().counts(Instant::now());
    let draining = state.draining.is_cancelled();
    let body = Readiness {
        ready: !draining,
        reason: draining.then_some("draining"),
        degraded: state.cluster.condition().reason().map(|why| format!("store: {why}")),
        origins: counts.alive(),
        sessions: state.sessions.count(),
    };
    let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(body)).into_response()
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What it does without.
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<String>,
    origins: usize,
    sessions: usize,
}

#[cfg(test)]
mod tests;
