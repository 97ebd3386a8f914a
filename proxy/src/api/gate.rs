//! Who may ask: by address, and by bearer token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use subtle::ConstantTimeEq;

use super::ApiState;
use super::answer::Refusal;

/// Whether anyone who reaches these addresses may register an origin: worth a warning at start.
pub fn is_open_to_all(auth: Option<&str>, allow: &[IpNet], listening: &[SocketAddr]) -> bool {
    let reachable = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    auth.is_none() && allow.is_empty() && listening.iter().any(reachable)
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
    let listed = client.is_some_and(|ip| state.allow.iter().any(|net| net.contains(&ip.0)));
    if state.allow.is_empty() || listed {
        return next.run(request).await;
    }
    Refusal::new(StatusCode::FORBIDDEN, "this address is not allowed here").into_response()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_due_only_where_strangers_can_come() {
        let everywhere: SocketAddr = "0.0.0.0:12025".parse().unwrap();
        let here: SocketAddr = "127.0.0.1:12025".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:12025".parse().unwrap();
        let net = ["10.0.0.0/8".parse().unwrap()];
        assert!(is_open_to_all(None, &[], &[here, everywhere]));
        assert!(!is_open_to_all(None, &[], &[here, mapped]));
        assert!(!is_open_to_all(Some("token"), &[], &[everywhere]));
        assert!(!is_open_to_all(None, &net, &[everywhere]));
    }
}
