//! The live streams as the index shows them. Publishers choose the names: all of it is escaped.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::session::Sessions;
use crate::stream::StreamKey;

/// Streams that are shown at most.
pub(super) const MOST: usize = 1000;

/// Where the RTMP server is, as the viewer reaches it: host and port.
pub(super) type RtmpServer<'a> = Option<(&'a str, u16)>;

/// The streams that have a publisher.
pub(super) struct Streams {
    sessions: Arc<Sessions>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    since: Option<Instant>,
    live: Arc<BTreeSet<StreamKey>>,
}

impl Streams {
    /// Those that `sessions` publish.
    pub(super) fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, known: Mutex::default() }
    }

    /// As of a moment ago, in order. Anybody may ask, and as often as they like: the sessions are
    /// gone through once in that time.
    pub(super) fn live(&self) -> Arc<BTreeSet<StreamKey>> {
        let mut known = self.known.lock();
        if known.since.is_none_or(|since| since.elapsed() >= MOMENT) {
            *known =
                Known { since: Some(Instant::now()), live: Arc::new(self.sessions.published()) };
        }
        Arc::clone(&known.live)
    }
}

/// How old a list of streams may be.
const MOMENT: Duration = Duration::from_secs(1);

/// `{"code":0,"total":n,"streams":[...]}`: live streams by name, and their URLs.
pub(super) fn json(live: &BTreeSet<StreamKey>, rtmp: RtmpServer<'_>) -> Value {
    let streams: Vec<_> = live.iter().take(MOST).map(|key| Stream::new(key, rtmp)).collect();
    json!({"code": 0, "total": live.len(), "streams": streams})
}

/// The part of the index that lists them.
pub(super) fn html(live: &BTreeSet<StreamKey>, rtmp: RtmpServer<'_>) -> String {
    if live.is_empty() {
        return nothing_live(rtmp);
    }
    let mut html = String::from("<ul class=\"streams\">");
    for key in live.iter().take(MOST) {
        let stream = Stream::new(key, rtmp);
        // Writing to a string does not fail.
        let (name, vhost) = (escape(stream.name), escape(stream.vhost.unwrap_or_default()));
        let _ = write!(html, "<li><h2>{name}<small>{vhost}</small></h2><p class=\"play\">");
        for (page, label) in [("flv", "FLV"), ("hls", "HLS"), ("whep", "WebRTC")] {
            let query = escape(&stream.query);
            let _ = write!(
                html,
                "<a class=\"button\" href=\"/players/{page}.html?{query}&amp;autostart=true\">{label}</a>"
            );
        }
        html.push_str("</p><p class=\"urls\">");
        for url in [&stream.flv, &stream.hls, &stream.dash] {
            let _ = write!(html, "<a href=\"{0}\">{0}</a> ", escape(url));
        }
        if let Some(url) = &stream.rtmp {
            let _ = write!(html, "<code>{}</code>", escape(url));
        }
        html.push_str("</p></li>");
    }
    html.push_str("</ul>");
    if live.len() > MOST {
        let _ = write!(html, "<p>{MOST} of {} live streams are shown.</p>", live.len());
    }
    html
}

fn nothing_live(rtmp: RtmpServer<'_>) -> String {
    let mut html = String::from("<div class=\"empty\"><h2>Nothing is live</h2>");
    if let Some(server) = rtmp.map(server) {
        let server = escape(&server);
        let _ = write!(
            html,
            "<p>Publish with an encoder such as OBS:</p>\
             <dl><dt>Server</dt><dd><code>{server}/live</code></dd>\
             <dt>Stream key</dt><dd><code>show</code></dd></dl>\
             <p>or with FFmpeg:</p>\
             <pre>ffmpeg -re -i show.mp4 -c copy -f flv {server}/live/show</pre>"
        );
    }
    html.push_str("<p><a href=\"/players/whip.html\">Publish from this browser</a></p></div>");
    html
}

#[derive(Serialize)]
pub(super) struct Stream<'a> {
    key: &'a str,
    /// App and stream.
    #[serde(skip)]
    name: &'a str,
    /// Unless it is the default one.
    #[serde(skip)]
    vhost: Option<&'a str>,
    pub(super) flv: String,
    hls: String,
    dash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtmp: Option<String>,
    /// As the player pages read it.
    #[serde(skip)]
    query: String,
}

impl<'a> Stream<'a> {
    pub(super) fn new(key: &'a StreamKey, rtmp: RtmpServer<'_>) -> Self {
        let key = key.as_str();
        let (vhost, name) = key.split_once('/').unwrap_or_default();
        let (app, stream) = name.rsplit_once('/').unwrap_or_default();
        let path = name.split('/').map(encode).collect::<Vec<_>>().join("/");
        let vhost = Some(vhost).filter(|vhost| *vhost != DEFAULT_VHOST);
        let named = vhost.map(|vhost| format!("vhost={}", encode(vhost)));
        let (and_vhost, only_vhost) = match named {
            Some(named) => (format!("&{named}"), format!("?{named}")),
            None => Default::default(),
        };
        Self {
            key,
            name,
            vhost,
            flv: format!("/{path}.flv{only_vhost}"),
            hls: format!("/{path}.m3u8{only_vhost}"),
            dash: format!("/{path}.mpd{only_vhost}"),
            rtmp: rtmp.map(|rtmp| format!("{}/{path}{only_vhost}", server(rtmp))),
            query: format!("app={}&stream={}{and_vhost}", encode(app), encode(stream)),
        }
    }
}

/// The vhost of every host that is none of its own.
const DEFAULT_VHOST: &str = "__defaultVhost__";

fn server((host, port): (&str, u16)) -> String {
    if port == 1935 { format!("rtmp://{host}") } else { format!("rtmp://{host}:{port}") }
}

fn encode(text: &str) -> String {
    // RFC 3986 2.3
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, KEPT).to_string()
}

/// For text and for attributes in double quotes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // What turns the direction of writing makes one name look like another.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                escaped.push('\u{fffd}');
            }
            _ => escaped.push(c),
        }
    }
    escaped
}
