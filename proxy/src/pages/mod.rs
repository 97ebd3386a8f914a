//! What the HTTP server answers itself: everything that is no stream.
//!
//! `folder` serves the operator's files; without any, `built_in` serves an index of the live
//! streams, made in `streams`, and pages that play and publish.

mod built_in;
mod folder;
#[cfg(test)]
mod fuzz;
mod streams;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, SERVER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes};
use serde_json::{Value, json};

use self::built_in::BuiltIn;
use self::folder::Folder;
use crate::session::Sessions;

/// Body of an answer, never longer than its `Content-Length`. That of a file that shrinks while it
/// is read ends early: the connection is of no more use then.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Pages and files.
pub struct Pages {
    content: Content,
}

enum Content {
    Folder(Folder),
    BuiltIn(BuiltIn),
}

impl Pages {
    /// The files of `folder`, or the built-in pages if there is none. The index shows the streams
    /// that `sessions` publish, and URLs of the RTMP server at `rtmp_port` if there is one.
    pub fn new(folder: Option<PathBuf>, sessions: Arc<Sessions>, rtmp_port: Option<u16>) -> Self {
        let content = match folder {
            Some(folder) => Content::Folder(Folder::new(folder)),
            None => Content::BuiltIn(BuiltIn::new(sessions, rtmp_port)),
        };
        Self { content }
    }

    /// The answer to a request of any method but OPTIONS. `Content-Length` is in every head but
    /// that of a 304; the body of an answer to HEAD is empty.
    pub async fn answer(&self, request: &Request<()>) -> Response<Body> {
        let response = if is_read(request) {
            self.get(request).await
        } else {
            let mut refusal = refusal(StatusCode::METHOD_NOT_ALLOWED, "method not allowed here");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            refusal
        };
        finish(response, request)
    }

    /// The answer to GET or HEAD, of the same form, if there is a folder and a file in it: for paths
    /// that could be a stream's.
    pub async fn file(&self, request: &Request<()>) -> Option<Response<Body>> {
        match &self.content {
            Content::Folder(folder) if is_read(request) => {
                Some(finish(folder.file(request).await?, request))
            }
            Content::Folder(_) | Content::BuiltIn(_) => None,
        }
    }

    async fn get(&self, request: &Request<()>) -> Response<Body> {
        if request.uri().path() == "/api/v1/versions" {
            return json(StatusCode::OK, &versions());
        }
        let found = match &self.content {
            Content::Folder(folder) => folder.get(request).await,
            Content::BuiltIn(pages) => pages.get(request),
        };
        found.unwrap_or_else(|| refusal(StatusCode::NOT_FOUND, "no such page or stream"))
    }
}

fn is_read(request: &Request<()>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

/// What all answers have in common.
fn finish(mut response: Response<Body>, request: &Request<()>) -> Response<Body> {
    let length = response.body().size_hint().exact();
    let is_unchanged = response.status() == StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    if let Some(length) = length.filter(|_| !is_unchanged) {
        headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    headers.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if request.method() == Method::HEAD { response.map(|_| bytes("")) } else { response }
}

/// As the system API signs its answers.
pub const SERVER_NAME: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// What SRS's own HTTP server says of itself, and what its clients read.
fn versions() -> Value {
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    json!({
        "code": 0,
        "pid": std::process::id().to_string(),
        "data": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "revision": number(env!("CARGO_PKG_VERSION_PATCH")),
            "version": env!("CARGO_PKG_VERSION"),
        },
    })
}

/// An answer that is not the one asked for, in the system API's form.
fn refusal(status: StatusCode, error: &str) -> Response<Body> {
    json(status, &json!({"code": status.as_u16(), "error": error}))
}

fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(bytes(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn bytes(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests;
