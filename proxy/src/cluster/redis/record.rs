//! The JSON that is shared with the existing proxy: written as that does, read from whomever.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde::{Deserialize, Serialize as Write};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::cluster::store::{HlsRecord, WebrtcRecord};
use crate::origin::registration::{self, BadRegistration};
use crate::origin::{Endpoint, Listener, Origin, Transport};
use crate::stream::StreamKey;

/// Longest value that is read, in bytes; longer ones are passed over.
pub const MAX_BYTES: usize = 64 * 1024;

/// Reads the value of an origin's key.
///
/// Members: `ip`, `device_id`, `server_id`, `service_id`, `pid` (texts), `rtmp`, `http`, `api`,
/// `srt`, `rtc` (arrays of endpoints). The rules are those of a registration.
pub fn read_server(value: &[u8]) -> Result<Origin, BadRegistration> {
    let mut members = registration::object(value)?;
    for (stored, registered) in [("server_id", "server"), ("service_id", "service")] {
        let value = members.remove(stored).unwrap_or(Value::Null);
        members.insert(registered.to_owned(), value);
    }
    registration::parse_members(&members)
}

/// Writes the value of an origin's key. Members of `former`, the value that others have left
/// there, go on as they are if they are unknown here.
pub fn write_server(origin: &Origin, heard: SystemTime, former: Option<&[u8]>) -> String {
    let mut others: Others =
        former.and_then(|it| serde_json::from_slice(it).ok()).unwrap_or_default();
    others.retain(|name, _| !KNOWN.contains(&name.as_str()));
    json(&Server { origin, heard, others })
}

/// The members that are known, in the order in which they are written.
const KNOWN: [&str; 11] = [
    "ip",
    "device_id",
    "server_id",
    "service_id",
    "pid",
    "rtmp",
    "http",
    "api",
    "srt",
    "rtc",
    "update_at",
];

type Others = BTreeMap<String, Box<RawValue>>;

struct Server<'a> {
    origin: &'a Origin,
    heard: SystemTime,
    others: Others,
}

impl Serialize for Server<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = self.origin.id();
        let mut members = serializer.serialize_map(None)?;
        for (name, text) in [
            ("ip", self.origin.host().as_str()),
            ("device_id", self.origin.device_id().unwrap_or_default()),
            ("server_id", id.server.as_str()),
            ("service_id", &id.service),
            ("pid", &id.pid),
        ] {
            if !text.is_empty() {
                members.serialize_entry(name, text)?;
            }
        }
        for listener in Listener::ALL {
            let endpoints = self.origin.endpoints(listener).iter();
            let endpoints: Vec<_> = endpoints.map(|it| endpoint(listener, *it)).collect();
            if !endpoints.is_empty() {
                members.serialize_entry(listener.as_str(), &endpoints)?;
            }
        }
        let heard = humantime::format_rfc3339_nanos(self.heard).to_string();
        members.serialize_entry("update_at", &heard)?;
        for (name, value) in &self.others {
            members.serialize_entry(name, value)?;
        }
        members.end()
    }
}

/// As the existing proxy can use it: a bare port, and three parts for SRT and WebRTC.
fn endpoint(listener: Listener, it: Endpoint) -> String {
    match (it.transport, listener) {
        (Transport::Udp, _) => format!("udp://0.0.0.0:{}", it.port),
        (Transport::Tcp, Listener::Rtc) => format!("tcp://0.0.0.0:{}", it.port),
        (Transport::Tcp, _) => it.port.to_string(),
    }
}

/// Reads the list of all origins: the keys that it names, at most [`MAX_SERVERS`] of them. None if
/// it is no array. Of a list of which only the first [`MAX_LIST_BYTES`] are given the whole names
/// count.
pub fn read_list(value: &[u8], is_cut: bool) -> Option<Vec<String>> {
    let listed: Vec<Value> = if is_cut {
        let text = String::from_utf8_lossy(value);
        let whole = text.rfind("\",").and_then(|end| text.get(..=end)).unwrap_or("[");
        serde_json::from_str(&format!("{whole}]")).ok()?
    } else {
        serde_json::from_slice(value).ok()?
    };
    let mut seen = HashSet::new();
    let name = |it| match it {
        Value::String(name) => Some(name),
        _ => None,
    };
    let names = listed.into_iter().filter_map(name).filter(|name| seen.insert(name.clone()));
    Some(names.take(MAX_SERVERS).collect())
}

/// Most bytes of the list of all origins that are read and kept.
pub const MAX_LIST_BYTES: usize = 256 * 1024;

/// Most origins in that list.
pub const MAX_SERVERS: usize = 1024;

/// What both keys of a session of WebRTC have.
pub fn write_webrtc(record: &WebrtcRecord) -> String {
    json(&Webrtc { stream_url: record.stream.as_str().into(), ufrag: record.name.clone() })
}

/// The stream of a session of WebRTC, and the session's name.
pub fn read_webrtc(value: &[u8]) -> Option<(StreamKey, String)> {
    let Webrtc { stream_url, ufrag } = serde_json::from_slice(value).ok()?;
    Some((stream(&stream_url)?, ufrag))
}

#[derive(Write, Deserialize)]
struct Webrtc {
    #[serde(default)]
    stream_url: String,
    #[serde(default)]
    ufrag: String,
}

/// What both keys of a playlist have.
pub fn write_hls(record: &HlsRecord) -> String {
    json(&Hls {
        spbhid: record.id.clone(),
        stream_url: record.stream.as_str().into(),
        full_url: record.url.clone(),
    })
}

/// The stream of a playlist.
pub fn read_hls(value: &[u8]) -> Option<StreamKey> {
    let Hls { stream_url, .. } = serde_json::from_slice(value).ok()?;
    stream(&stream_url)
}

#[derive(Write, Deserialize)]
struct Hls {
    #[serde(default)]
    spbhid: String,
    #[serde(default)]
    stream_url: String,
    #[serde(default)]
    full_url: String,
}

/// A stream that others have written.
pub fn stream(text: &str) -> Option<StreamKey> {
    if text.chars().any(char::is_control) { None } else { StreamKey::of_claim(text) }
}

/// Text of JSON. What is written here has names that are texts, so it always has one.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The example of the existing proxy.
    const RECORDED: &str = r#"{"ip":"127.0.0.1","device_id":"origin3","server_id":"vid-5894675","service_id":"0v0c9t91","pid":"8986","rtmp":["19353"],"http":["8083"],"api":["19853"],"srt":["udp://0.0.0.0:10083"],"rtc":["udp://0.0.0.0:8003"],"update_at":"2026-11-22T13:32:50.925404432Z"}"#;

    fn heard() -> SystemTime {
        humantime::parse_rfc3339("2026-11-22T13:32:50.925404432Z").unwrap()
    }

    #[test]
    fn an_origin_is_written_as_the_existing_proxy_writes_it() {
        let origin = read_server(RECORDED.as_bytes()).unwrap();
        assert_eq!(&**origin.name(), "vid-5894675-0v0c9t91-8986");
        assert_eq!(write_server(&origin, heard(), None), RECORDED);
        let later = heard() + Duration::from_nanos(1);
        let written = write_server(&origin, later, Some(RECORDED.as_bytes()));
        assert_eq!(written, RECORDED.replace("404432Z", "404433Z"));
    }

    #[test]
    fn what_is_empty_is_left_out() {
        let value = r#"{"ip":"192.0.2.1","server_id":"s","service_id":"x","pid":"1","rtmp":["1935"],"update_at":"2026-11-22T13:32:50.925404432Z"}"#;
        let origin = read_server(value.as_bytes()).unwrap();
        assert_eq!(write_server(&origin, heard(), None), value);
    }

    #[test]
    fn what_others_have_written_goes_on_as_it_is() {
        let odd = r#"{"zone":{"a":[1.50,12345678901234567890123]},"#;
        let former = RECORDED.replacen('{', odd, 1).replace("19353", "1");
        let origin = read_server(RECORDED.as_bytes()).unwrap();
        let written = write_server(&origin, heard(), Some(former.as_bytes()));
        let expected =
            RECORDED.replace("2Z\"}", "2Z\",\"zone\":{\"a\":[1.50,12345678901234567890123]}}");
        assert_eq!(written, expected);
        for no_object in ["", "[1]", "7", "{\"a\":", &"[".repeat(50_000)] {
            let written = write_server(&origin, heard(), Some(no_object.as_bytes()));
            assert_eq!(written, RECORDED, "{no_object:.20}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        let deep = format!("{{\"ip\":{}", "[".repeat(60_000));
        let strange = RECORDED.replace("server_id", "server");
        for value in ["", "null", "[]", "{}", &deep, &strange, &RECORDED.replace("19353", "x")] {
            assert!(read_server(value.as_bytes()).is_err(), "{value:.60}");
        }
        assert!(read_server(b"\xff\xfe").is_err());
    }

    #[test]
    fn a_list_is_read_as_far_as_it_goes() {
        let names = |text: &str, is_cut| read_list(text.as_bytes(), is_cut);
        let list = r#"["a","b",7,null,"a",["c"]]"#;
        assert_eq!(names(list, false).unwrap(), ["a", "b"]);
        assert_eq!(names(r#"["a","b","lon"#, true).unwrap(), ["a", "b"]);
        assert_eq!(names(r#"["lon"#, true).unwrap(), [""; 0]);
        for malformed in ["", "{}", "\"a\"", "[\"a\"", &"[".repeat(50_000)] {
            assert_eq!(names(malformed, false), None, "{malformed:.20}");
        }
        let many: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
        assert_eq!(names(&json(&many), false).unwrap().len(), MAX_SERVERS);
    }

    #[test]
    fn records_are_written_as_the_existing_proxy_writes_them() {
        let stream = stream("__defaultVhost__/live/s").unwrap();
        let url = "http://127.0.0.1/live/s.m3u8".to_owned();
        let hls = HlsRecord { id: "3a08a3f".into(), stream: stream.clone(), url };
        let written = write_hls(&hls);
        assert_eq!(
            written,
            r#"{"spbhid":"3a08a3f","stream_url":"__defaultVhost__/live/s","full_url":"http://127.0.0.1/live/s.m3u8"}"#
        );
        assert_eq!(read_hls(written.as_bytes()).as_ref(), Some(&stream));
        let name = "egzxi453:7OP6".to_owned();
        let webrtc = WebrtcRecord { name: name.clone(), stream: stream.clone(), place: None };
        let written = write_webrtc(&webrtc);
        assert_eq!(written, r#"{"stream_url":"__defaultVhost__/live/s","ufrag":"egzxi453:7OP6"}"#);
        assert_eq!(read_webrtc(written.as_bytes()), Some((stream, name)));
        assert_eq!(read_hls(br#"{"stream_url":7}"#), None);
        assert_eq!(read_webrtc(br#"{"ufrag":"a:b"}"#), None);
    }
}
