//! Who may ask: by address, and by bearer token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use subtle::ConstantTimeEq;

use super::ApiState;
use super::answer::{Refusal, Why};

/// Whether this address may ask anything but the health.
pub(super) fn is_allowed(allow: &[IpNet], ip: ClientIp) -> bool {
    allow.is_empty() || allow.iter().any(|net| net.contains(&ip.0))
}

/// The address of who asks, an IPv4-mapped one as IPv4. Put into each request by the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientIp(IpAddr);

impl From<SocketAddr> for ClientIp {
    fn from(address: SocketAddr) -> Self {
        Self(address.ip().to_canonical())
    }
}

impl From<ClientIp> for IpAddr {
    fn from(client: ClientIp) -> Self {
        client.0
    }
}

/// Lets pass who is in the list of allowed networks.
pub(super) async fn allowed(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Response {
    let client = request.extensions().get::<ClientIp>();
    if client.is_some_and(|client| is_allowed(&state.allow, *client)) {
        return next.run(request).await;
    }
    Refusal::new(StatusCode::FORBIDDEN, "this address is not allowed here").into_response()
}

/// Says, now and then, who was refused to register and why: SRS does not look at the answer.
pub(super) async fn noted(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Response {
    let client = request.extensions().get::<ClientIp>().copied();
    let answer = next.run(request).await;
    if !answer.status().is_success()
        && let Some(unsaid) = state.refusals.say(Instant::now())
    {
        let why = answer.extensions().get::<Why>().map(|why| why.0.as_str());
        let client = client.map(|client| client.0.to_string());
        tracing::warn!(client, status = answer.status().as_u16(), why, unsaid, "not registered");
    }
    answer
}

/// Lets pass who has the token, if there is one (RFC 6750 2.1).
pub(super) async fn bearer(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(token) = &state.auth else {
        return next.run(request).await;
    };
    let given = token_of(request.headers()).unwrap_or_default();
    if bool::from(given.ct_eq(token.as_bytes())) {
        return next.run(request).await;
    }
    let mut refusal =
        Refusal::new(StatusCode::UNAUTHORIZED, "a bearer token is needed").into_response();
    refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refusal
}

fn token_of(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
