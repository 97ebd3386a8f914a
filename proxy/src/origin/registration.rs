//! The register body: what an SRS origin's heartbeat says of itself.

use serde_json::{Map, Value};

use super::origin::{Endpoint, Listener, Origin, OriginHost, OriginId, ServerName};

/// Reads a heartbeat.
///
/// Members, checked in this order: `ip`, `server`, `service`, `pid` (text, or a number), `rtmp`
/// (array of at least one endpoint), then the optional `http`, `api`, `srt`, `rtc` (arrays) and
/// `device_id` (text). Others are ignored. An optional member may be null.
pub fn parse(body: &[u8]) -> Result<Origin, BadRegistration> {
    parse_members(&object(body)?)
}

/// The members of a JSON object.
pub(crate) fn object(body: &[u8]) -> Result<Map<String, Value>, BadRegistration> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Problem::Type("an object").of("body")),
        Err(error) => Err(Problem::Json(error.to_string()).of("body")),
    }
}

/// Reads the members of a heartbeat, as [`parse`] does.
pub(crate) fn parse_members(body: &Map<String, Value>) -> Result<Origin, BadRegistration> {
    let host = OriginHost::parse(&required(body, "ip")?).map_err(|problem| problem.of("ip"))?;
    let id = OriginId {
        server: ServerName::from(required(body, "server")?.as_str()),
        service: required(body, "service")?,
        pid: required(body, "pid")?,
    };
    let mut endpoints = Vec::new();
    for listener in Listener::ALL {
        for endpoint in read_endpoints(body, listener)? {
            endpoints.push((listener, endpoint));
        }
    }
    let mut origin = Origin::new(id, optional(body, "device_id")?, host);
    for (listener, endpoint) in endpoints {
        origin.add(listener, endpoint);
    }
    if !origin.offers(Listener::Rtmp) {
        return Err(Problem::Missing.of("rtmp"));
    }
    Ok(origin)
}

/// Why a body registers nothing: a member, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadRegistration {
    field: &'static str,
    problem: Problem,
}

/// What is wrong with a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// It is absent or empty.
    #[error("missing or empty")]
    Missing,
    /// It is of another JSON type.
    #[error("not {0}")]
    Type(&'static str),
    /// It is longer than any that SRS sends.
    #[error("too long")]
    TooLong,
    /// It has a control character.
    #[error("has a control character")]
    ControlCharacter,
    /// No host can be dialled by it.
    #[error("neither an IP address nor a host name to dial")]
    Host,
    /// No port can be dialled by it.
    #[error("not an endpoint of this protocol: {0:?}")]
    Endpoint(String),
}

impl Problem {
    /// The problem of this member.
    pub(super) fn of(self, field: &'static str) -> BadRegistration {
        BadRegistration { field, problem: self }
    }
}

/// Longest text of a member, in bytes.
const MAX_TEXT: usize = 256;
/// Most endpoints of a listener.
const MAX_ENDPOINTS: usize = 16;

fn required(body: &Map<String, Value>, field: &'static str) -> Result<String, BadRegistration> {
    optional(body, field)?.filter(|text| !text.is_empty()).ok_or(Problem::Missing.of(field))
}

fn optional(
    body: &Map<String, Value>,
    field: &'static str,
) -> Result<Option<String>, BadRegistration> {
    let text = match body.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        // SRS writes text; other origins' scripts write what the shell gives them.
        Some(Value::Number(number)) if field == "pid" && number.is_u64() => number.to_string(),
        Some(_) if field == "pid" => return Err(Problem::Type("text or a number").of(field)),
        Some(_) => return Err(Problem::Type("text").of(field)),
    };
    if text.len() > MAX_TEXT {
        return Err(Problem::TooLong.of(field));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::ControlCharacter.of(field));
    }
    Ok(Some(text))
}

fn read_endpoints(
    body: &Map<String, Value>,
    listener: Listener,
) -> Result<Vec<Endpoint>, BadRegistration> {
    let field = listener.as_str();
    let list = match body.get(field) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Problem::Type("an array").of(field)),
    };
    if list.len() > MAX_ENDPOINTS {
        return Err(Problem::TooLong.of(field));
    }
    let endpoint = |value: &Value| match value {
        Value::String(text) => Endpoint::parse(listener, text),
        _ => Err(Problem::Type("an array of texts")),
    };
    list.iter().map(|value| endpoint(value).map_err(|problem| problem.of(field))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The recorded request of SRS 7.0.18 with summaries; the body follows the empty line.
    fn recorded() -> &'static str {
        let request = include_str!("../api/testdata/register-srs7-summaries.http");
        request.split("\r\n\r\n").nth(1).expect("a body").trim()
    }

    fn ports(origin: &Origin, listener: Listener) -> Vec<String> {
        origin.endpoints(listener).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_heartbeat_of_a_real_origin_is_understood() {
        let origin = parse(recorded().as_bytes()).unwrap();
        assert_eq!(&**origin.name(), "vid-0831146-312k9529-3556");
        assert_eq!(origin.server().as_str(), "vid-0831146");
        assert_eq!(origin.device_id(), Some("origin1"));
        assert_eq!(origin.targets(Listener::Rtmp).next(), Some(("127.0.0.1", 19351)));
        assert_eq!(ports(&origin, Listener::Http), ["tcp://:8081"]);
        assert_eq!(ports(&origin, Listener::Api), ["tcp://:19851"]);
        assert_eq!(ports(&origin, Listener::Srt), ["udp://:10081"]);
        assert_eq!(ports(&origin, Listener::Rtc), ["udp://:8001"]);
    }

    #[test]
    fn several_endpoints_and_a_number_as_pid_are_kept() {
        let body = json!({
            "ip": "origin.example", "server": "s", "service": "x", "pid": 42,
            "rtmp": ["1935", "[::]:1936"], "http": null, "rtc": ["udp://:8000", "tcp://:8000"],
        });
        let origin = parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(&**origin.name(), "s-x-42");
        assert_eq!(ports(&origin, Listener::Rtmp), ["tcp://:1935", "tcp://:1936"]);
        assert_eq!(ports(&origin, Listener::Rtc), ["udp://:8000", "tcp://:8000"]);
    }

    #[test]
    fn each_mistake_names_its_member() {
        let good = json!({
            "ip": "127.0.0.1", "server": "s", "service": "x", "pid": "1", "rtmp": ["1935"],
        });
        assert!(parse(good.to_string().as_bytes()).is_ok());
        let long = "x".repeat(300);
        let many = vec!["1935"; 17];
        let mistakes = [
            ("ip", json!(null)),
            ("ip", json!("")),
            ("ip", json!(7)),
            ("ip", json!("not a host")),
            ("server", json!(long)),
            ("server", json!(["s"])),
            ("service", json!("a\nb")),
            ("service", json!("")),
            ("pid", json!(-1)),
            ("pid", json!(1.5)),
            ("pid", json!(true)),
            ("rtmp", json!([])),
            ("rtmp", json!("1935")),
            ("rtmp", json!([1935])),
            ("rtmp", json!(["99999"])),
            ("rtmp", json!(many)),
            ("http", json!(["x"])),
            ("api", json!({})),
            ("srt", json!(["tcp://:1"])),
            ("rtc", json!([""])),
            ("device_id", json!(1)),
        ];
        for (field, value) in mistakes {
            let mut body = good.clone();
            body[field] = value.clone();
            let error = parse(body.to_string().as_bytes()).expect_err(field).to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{field}={value} gave {error:?}");
            if ["ip", "server", "service", "pid", "rtmp"].contains(&field) {
                body.as_object_mut().unwrap().remove(field);
                let error = parse(body.to_string().as_bytes()).expect_err(field).to_string();
                assert_eq!(error, format!("{field}: missing or empty"));
            }
        }
        for body in ["", "{", "[]", "null", "\"x\"", "{\"ip\":}", &"[".repeat(5000)] {
            let error = parse(body.as_bytes()).expect_err(body).to_string();
            assert!(error.starts_with("body: "), "{body:?} gave {error:?}");
        }
    }

    #[test]
    fn a_body_cut_anywhere_registers_nothing() {
        let body = recorded().as_bytes();
        for end in 0..body.len() {
            assert!(parse(&body[..end]).is_err(), "the first {end} bytes were taken");
        }
    }

    proptest! {
        #[test]
        fn no_body_brings_the_parser_down(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&body);
        }
    }
}
