//! What the proxy says itself: short, and nothing of what is behind it.

use std::time::SystemTime;

use http::StatusCode;

use super::heads::{connection, cross_origin, sign};
use super::origin_api;
use super::signal::Endpoint;
use crate::proto::http::{Headers, RequestHead, ResponseHead, Version};
use crate::stream::Kind;

/// What is answered, unless a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    text: &'static str,
    /// What is served instead of another method.
    allow: Option<&'static str>,
}

const fn answer(status: StatusCode, text: &'static str) -> Answer {
    Answer { status, text, allow: None }
}

pub(super) const TOO_SLOW: Answer =
    answer(StatusCode::REQUEST_TIMEOUT, "the request was not complete in time");
pub(super) const BAD_STREAM: Answer = answer(StatusCode::BAD_REQUEST, "the URL names no stream");
pub(super) const BAD_PATH: Answer =
    answer(StatusCode::BAD_REQUEST, "the path can be read in more than one way");
pub(super) const BAD_BODY: Answer =
    answer(StatusCode::BAD_REQUEST, "the request's body is malformed");
pub(super) const BAD_METHOD: Answer = Answer {
    allow: Some(METHODS),
    ..answer(StatusCode::METHOD_NOT_ALLOWED, "this method is not served here")
};
pub(super) const BAD_SIGNAL: Answer = Answer {
    allow: Some(SIGNALLING_METHODS),
    ..answer(StatusCode::METHOD_NOT_ALLOWED, "sessions begin by POST and end by DELETE")
};
pub(super) const BAD_API_METHOD: Answer = Answer {
    allow: Some(API_METHODS),
    ..answer(StatusCode::METHOD_NOT_ALLOWED, "this method is not served here")
};
pub(super) const NO_ORIGIN: Answer =
    answer(StatusCode::SERVICE_UNAVAILABLE, "no origin serves this stream over HTTP");
pub(super) const NO_API: Answer =
    answer(StatusCode::SERVICE_UNAVAILABLE, "no origin of this stream has an HTTP API");
pub(super) const NO_ROOM: Answer =
    answer(StatusCode::SERVICE_UNAVAILABLE, "the proxy has no room for another stream");
pub(super) const TOO_EARLY: Answer =
    answer(StatusCode::BAD_REQUEST, "too many requests ahead of a live stream's end");
pub(super) const TOO_MANY_PLAYLISTS: Answer =
    answer(StatusCode::SERVICE_UNAVAILABLE, "the proxy has no room for another playlist");
pub(super) const TOO_LARGE: Answer =
    answer(StatusCode::PAYLOAD_TOO_LARGE, "the request's body has more than 256 KiB");
pub(super) const NO_ROOM_FOR_BODY: Answer =
    answer(StatusCode::SERVICE_UNAVAILABLE, "the proxy has no room for another request");
pub(super) const TOO_MANY_SURVEYS: Answer =
    answer(StatusCode::SERVICE_UNAVAILABLE, "too many questions to all origins at once");
pub(super) const NOT_AN_OFFER: Answer =
    answer(StatusCode::BAD_REQUEST, "the request has no session description as UTF-8");
pub(super) const NO_ICE: Answer =
    answer(StatusCode::BAD_REQUEST, "the session description has no ice-ufrag and ice-pwd");
pub(super) const NO_SESSION: Answer =
    answer(StatusCode::SERVICE_UNAVAILABLE, "the proxy has no room for another session");
pub(super) const NOT_SHARED: Answer =
    answer(StatusCode::SERVICE_UNAVAILABLE, "the other proxies cannot be told of the restart now");
pub(super) const GONE: Answer =
    answer(StatusCode::NOT_FOUND, "the session's origin is not there any more");
pub(super) const IN_CIRCLES: Answer =
    answer(StatusCode::LOOP_DETECTED, "the request has been here before");
pub(super) const UNREACHABLE: Answer =
    answer(StatusCode::BAD_GATEWAY, "no origin of this stream can be reached");
pub(super) const BAD_ANSWER: Answer =
    answer(StatusCode::BAD_GATEWAY, "the origin gave no valid answer");
pub(super) const TOO_LATE: Answer =
    answer(StatusCode::GATEWAY_TIMEOUT, "the origin did not answer in time");

impl Answer {
    /// The answer to this request, as bytes.
    pub(super) fn to(
        self,
        request: &RequestHead,
        kind: Kind,
        stays_open: bool,
        now: SystemTime,
    ) -> Vec<u8> {
        let mut headers = Headers::default();
        cross_origin(&mut headers, kind);
        if let Some(methods) = self.allow {
            headers.push("Allow", methods);
        }
        let is_head = request.method == "HEAD";
        write(self.status, headers, self.text, is_head, request.version, stays_open, now)
    }

    /// The answer to a client whose request is not understood.
    pub(super) fn to_whatever(self, now: SystemTime) -> Vec<u8> {
        whatever(self.status, self.text, now)
    }
}

/// Why a head is refused.
pub(super) fn bad_request(why: &str, now: SystemTime) -> Vec<u8> {
    whatever(StatusCode::BAD_REQUEST, why, now)
}

const METHODS: &str = "GET, HEAD, POST, PUT, OPTIONS";

const SIGNALLING_METHODS: &str = "POST, PATCH, DELETE, OPTIONS";

const API_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS";

/// The answer to a page of another host that asks what it may do (WHATWG Fetch 3.2.2): as by the
/// existing proxy, anything. `*` does not stand for `Authorization`. Of the origins' API it is told
/// nothing, and so may not.
pub(super) fn preflight(request: &RequestHead, stays_open: bool, now: SystemTime) -> Vec<u8> {
    let mut headers = Headers::default();
    if origin_api::is_asked(request) {
        headers.push("Allow", API_METHODS);
        return write(StatusCode::OK, headers, "", false, request.version, stays_open, now);
    }
    cross_origin(&mut headers, Kind::Page);
    if Endpoint::of(request).is_some() {
        headers.push("Allow", SIGNALLING_METHODS);
        // RFC 9725 4.2
        headers.push("Accept-Post", "application/sdp");
    } else {
        headers.push("Allow", METHODS);
    }
    headers.push("Access-Control-Allow-Methods", "*");
    headers.push("Access-Control-Allow-Headers", "*, Authorization");
    headers.push("Access-Control-Max-Age", "86400");
    write(StatusCode::OK, headers, "", false, request.version, stays_open, now)
}

/// Of a head that is not understood not even the version counts.
fn whatever(status: StatusCode, text: &str, now: SystemTime) -> Vec<u8> {
    let mut headers = Headers::default();
    cross_origin(&mut headers, Kind::Page);
    write(status, headers, text, false, Version::Http11, false, now)
}

fn write(
    status: StatusCode,
    mut headers: Headers,
    text: &str,
    is_head: bool,
    version: Version,
    stays_open: bool,
    now: SystemTime,
) -> Vec<u8> {
    let body = if text.is_empty() { String::new() } else { format!("{text}\n") };
    sign(&mut headers, now);
    if !body.is_empty() {
        headers.push("Content-Type", "text/plain; charset=utf-8");
        headers.push("Cache-Control", "no-store");
    }
    headers.push("Content-Length", body.len().to_string());
    connection(&mut headers, version, stays_open);
    let head = ResponseHead {
        version: Version::Http11,
        status: status.as_u16(),
        reason: status.canonical_reason().unwrap_or_default().into(),
        headers,
    };
    let mut bytes = Vec::new();
    head.write(&mut bytes);
    if !is_head {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}
