//! What all answers share: the refusal, the signature, and how much of a body is read.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http_body_util::BodyExt;
use serde_json::json;

/// The product, as `/api/v1/versions` and the header `Server` say it.
pub(super) const NAME: &str = env!("CARGO_PKG_NAME");
/// Its version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An answer that is not the one asked for: `{"code":N,"error":"..."}`, N being the status.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: String,
}

/// The error of a refusal, for the log.
#[derive(Clone, Debug)]
pub(super) struct Why(pub(super) String);

impl Refusal {
    pub(super) fn new(status: StatusCode, error: &(impl ToString + ?Sized)) -> Self {
        Self { status, error: error.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({"code": self.status.as_u16(), "error": self.error});
        (self.status, Extension(Why(self.error)), Json(body)).into_response()
    }
}

pub(super) async fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "no such endpoint")
}

pub(super) async fn method_not_allowed() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed here")
}

/// Adds the header `Server`.
pub(super) async fn signed(mut response: Response) -> Response {
    const SERVER: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static(SERVER));
    response
}

/// The whole body, at most 64 KiB.
pub(super) async fn read_body(mut body: Body) -> Result<Vec<u8>, Refusal> {
    const MAX: usize = 64 * 1024;
    // Read on for a while and forget: who is still sending when the connection closes is told
    // of a reset instead of the answer.
    const MAX_FORGOTTEN: usize = 16 * MAX;
    let mut kept = Vec::new();
    let mut length: usize = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "body: cut short"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        if length <= MAX {
            kept.extend_from_slice(&data);
        } else if length > MAX_FORGOTTEN {
            break;
        }
    }
    if length > MAX {
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body: more than 64 KiB"));
    }
    Ok(kept)
}
