//! The pages that are part of the program.

use std::collections::HashMap;
use std::sync::Arc;

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH, LOCATION,
    REFERRER_POLICY,
};
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Bytes;
use sha2::{Digest, Sha256};

use super::streams::{self, RtmpServer, Streams};
use super::{Body, bytes, json};
use crate::session::Sessions;

/// The index, the players and what they need, from memory.
pub(super) struct BuiltIn {
    streams: Streams,
    rtmp_port: Option<u16>,
    assets: HashMap<String, Asset>,
}

/// Something that stays as it is for the life of the process.
struct Asset {
    content_type: &'static str,
    caching: &'static str,
    etag: HeaderValue,
    bytes: Bytes,
}

impl BuiltIn {
    pub(super) fn new(sessions: Arc<Sessions>, rtmp_port: Option<u16>) -> Self {
        let own = OWN.iter().map(|&(path, content_type, text)| {
            (path.to_owned(), Asset::new(content_type, REVALIDATE, text.into()))
        });
        let vendored = VENDORED
            .iter()
            .map(|&(path, text)| (path.to_owned(), Asset::new(JAVASCRIPT, FOR_EVER, text.into())));
        let players = PLAYERS.iter().map(|player| {
            (format!("/players/{}.html", player.name), Asset::new(HTML, REVALIDATE, player.page()))
        });
        let streams = Streams::new(sessions);
        Self { streams, rtmp_port, assets: own.chain(vendored).chain(players).collect() }
    }

    /// The answer to GET or HEAD, if there is such a page.
    pub(super) fn get(&self, request: &Request<()>) -> Option<Response<Body>> {
        let host = host(request);
        let rtmp = host.as_ref().map(Authority::host).zip(self.rtmp_port);
        let mut response = match request.uri().path() {
            "/" | "/index.html" => self.index(rtmp),
            "/streams.json" => {
                fresh(json(StatusCode::OK, &streams::json(&self.streams.live(), rtmp)))
            }
            path => match self.assets.get(path) {
                Some(asset) => asset.answer(request),
                None => redirect(path, request.uri().query().unwrap_or_default())?,
            },
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        Some(response)
    }

    fn index(&self, rtmp: RtmpServer<'_>) -> Response<Body> {
        let page = INDEX.replacen("{{streams}}", &streams::html(&self.streams.live(), rtmp), 1);
        let mut response = Response::new(bytes(page));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(HTML));
        fresh(response)
    }
}

/// How the viewer calls this host; RFC 9112 3.2.2: the target's authority before `Host`.
fn host(request: &Request<()>) -> Option<Authority> {
    let named = || request.headers().get(HOST)?.to_str().ok()?.parse().ok();
    request.uri().authority().cloned().or_else(named)
}

/// The live streams of a moment ago are of no use to anybody.
fn fresh(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Asset {
    fn new(content_type: &'static str, caching: &'static str, bytes: Bytes) -> Self {
        let hash = Sha256::digest(&bytes).first_chunk().map_or(0, |part| u64::from_be_bytes(*part));
        let etag = HeaderValue::try_from(format!("\"{hash:016x}\""));
        let etag = etag.unwrap_or(HeaderValue::from_static("\"\""));
        Self { content_type, caching, etag, bytes }
    }

    fn answer(&self, request: &Request<()>) -> Response<Body> {
        let known = request.headers().get_all(IF_NONE_MATCH);
        let is_known = known.iter().any(|tags| self.is_among(tags));
        let mut response = Response::new(bytes(self.bytes.clone()));
        let headers = response.headers_mut();
        headers.insert(ETAG, self.etag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(self.caching));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if is_known {
            headers.remove(CONTENT_TYPE);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = bytes("");
        }
        response
    }

    /// RFC 9110 13.1.2: whether the list has this tag, by weak comparison. No tag of ours has a
    /// comma.
    fn is_among(&self, tags: &HeaderValue) -> bool {
        let mut tags = tags.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        tags.any(|tag| tag == b"*" || self.etag == *tag.strip_prefix(b"W/").unwrap_or(tag))
    }
}

/// To the player that does what a page of this name among SRS's own does.
fn redirect(path: &str, query: &str) -> Option<Response<Body>> {
    let player = match path {
        "/players" | "/players/" | "/players/index.html" => "/".to_owned(),
        "/players/srs_player.html" if query.contains(".m3u8") => format!("hls.html?{query}"),
        "/players/srs_player.html" => format!("flv.html?{query}"),
        "/players/rtc_player.html" => format!("whep.html?{query}"),
        "/players/rtc_publisher.html" => format!("whip.html?{query}"),
        _ => return None,
    };
    let mut response = Response::new(bytes(""));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(LOCATION, HeaderValue::try_from(player).ok()?);
    Some(response)
}

/// A page with a video.
struct Player {
    name: &'static str,
    title: &'static str,
    /// What its module needs beside it.
    library: Option<&'static str>,
}

impl Player {
    fn page(&self) -> Bytes {
        let library =
            self.library.map(|library| format!("<script defer src=\"{library}\"></script>"));
        let page = include_str!("assets/player.html").replace("{{title}}", self.title);
        let page = page.replace("{{library}}", &library.unwrap_or_default());
        page.replace("{{module}}", &format!("{}.js", self.name)).into()
    }
}

const PLAYERS: &[Player] = &[
    Player { name: "flv", title: "Play FLV", library: Some("vendor/mpegts-1.8.2.js") },
    Player { name: "hls", title: "Play HLS", library: None },
    Player { name: "whep", title: "Play WebRTC", library: None },
    Player { name: "whip", title: "Publish WebRTC", library: None },
];

const OWN: &[(&str, &str, &str)] = &[
    ("/style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("/index.js", JAVASCRIPT, include_str!("assets/index.js")),
    ("/players/page.js", JAVASCRIPT, include_str!("assets/page.js")),
    ("/players/flv.js", JAVASCRIPT, include_str!("assets/flv.js")),
    ("/players/hls.js", JAVASCRIPT, include_str!("assets/hls.js")),
    ("/players/rtc.js", JAVASCRIPT, include_str!("assets/rtc.js")),
    ("/players/whep.js", JAVASCRIPT, include_str!("assets/whep.js")),
    ("/players/whip.js", JAVASCRIPT, include_str!("assets/whip.js")),
];

/// Each path has the version of what is behind it.
pub(super) const VENDORED: &[(&str, &str)] = &[
    (
        "/players/vendor/hls-1.7.4.light.min.mjs",
        include_str!("assets/vendor/hls-1.7.4.light.min.mjs"),
    ),
    ("/players/vendor/mpegts-1.8.2.js", include_str!("assets/vendor/mpegts-1.8.2.js")),
];

const INDEX: &str = include_str!("assets/index.html");
const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const REVALIDATE: &str = "no-cache";
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Everything from this server; a blob is how a media source gets into a video.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; media-src 'self' blob:; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'self'";
