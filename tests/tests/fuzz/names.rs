//! Text that names something: streams, origins and their endpoints.

use bolero::check;
use serde_json::json;
use srs_proxy::origin::{Endpoint, Listener, OriginHost, registration};
use srs_proxy::stream::Tokens;
use srs_proxy::stream::{Ask, BadStream, Candidates, Kind, StreamKey, Vhosts};

use crate::{RANDOM, corpus};

/// The input is a URL, or three lines: `tcUrl`, app and stream of an RTMP client; `Host` header
/// and target of an HTTP client; an SRT stream id.
#[test]
fn stream_key() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let mut lines = text.splitn(3, '\n');
        let [a, b, c] = [(); 3].map(|()| lines.next().unwrap_or_default());
        let asks = [
            Ask::Rtmp { tc_url: a, app: b, stream: c },
            Ask::Http { host: Some(a), target: b },
            Ask::Http { host: None, target: &text },
            Ask::Rtc { host: Some(a), target: b },
            Ask::Srt { stream_id: a.into() },
            Ask::WebRtc { url: a },
        ];
        for vhosts in [Vhosts::default(), Vhosts::new(["*"]), Vhosts::new(["example.com"])] {
            for ask in asks.iter().cloned().chain(Ask::from_url(&text)) {
                check_key(&ask, &vhosts);
            }
        }
    });
}

/// The input is two lines: `Host` header and target of an HTTP client.
#[test]
fn candidates() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let (host, target) = text.split_once('\n').unwrap_or(("", &text));
        for vhosts in [Vhosts::default(), Vhosts::new(["*"]), Vhosts::new(["example.com"])] {
            let Ok(Some(candidates)) = Candidates::of(Some(host), target, &vhosts) else {
                continue;
            };
            let keys: Vec<_> = candidates.keys().collect();
            // As itself, by its name, by its folder.
            assert!((1..=3).contains(&keys.len()), "{keys:?} of {target:?}");
            for key in &keys {
                check_shape(key);
                assert_ne!(candidates.kind(key), Kind::Page, "{key} of {target:?}");
            }
            let own = StreamKey::new(&Ask::Http { host: Some(host), target }, &vhosts);
            assert!(keys.contains(&&own.unwrap()), "{target:?} is not among {keys:?}");
        }
    });
}

#[test]
fn registration_body() {
    check!().with_iterations(RANDOM).for_each(|body: &[u8]| {
        let Ok(origin) = registration::parse(body) else { return };
        assert!(origin.offers(Listener::Rtmp), "an origin without RTMP");
        assert!(origin.name().len() <= 3 * 256 + 2, "a name of {} bytes", origin.name().len());
        assert!(!origin.name().chars().any(char::is_control), "{:?}", origin.name());
        let ports = |listener| -> Vec<String> {
            origin.endpoints(listener).iter().map(ToString::to_string).collect()
        };
        assert!(Listener::ALL.into_iter().all(|listener| ports(listener).len() <= 16));
        let id = origin.id();
        let again = json!({
            "ip": origin.host().as_str(), "server": id.server.as_str(), "service": id.service,
            "pid": id.pid, "device_id": origin.device_id(), "rtmp": ports(Listener::Rtmp),
            "http": ports(Listener::Http), "api": ports(Listener::Api),
            "srt": ports(Listener::Srt), "rtc": ports(Listener::Rtc),
        });
        assert_eq!(registration::parse(again.to_string().as_bytes()), Ok(origin));
    });
}

/// The input is an endpoint or a host.
#[test]
fn endpoint() {
    check!().with_iterations(RANDOM).with_max_len(300).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        for listener in Listener::ALL {
            if let Ok(endpoint) = Endpoint::parse(listener, &text) {
                assert!(endpoint.port > 0, "{text:?} is no port to dial");
                assert_eq!(Endpoint::parse(listener, &endpoint.to_string()), Ok(endpoint));
            }
        }
        if let Ok(host) = OriginHost::parse(&text) {
            assert_eq!(OriginHost::parse(host.as_str()), Ok(host));
        }
    });
}

/// The secret is `secret`.
#[test]
fn token() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let tokens = Tokens::new(b"secret");
        let Ok(claim) = tokens.read(&text) else { return };
        assert_eq!(tokens.issue(&claim.key, &claim.server), text, "another spelling of a token");
        assert!(claim.server.len() <= 256, "a server of {} bytes", claim.server.len());
        assert!(claim.key.as_str().len() <= StreamKey::MAX_BYTES, "{}", claim.key);
        assert!(Tokens::new(b"other").read(&text).is_err(), "signed with any secret");
    });
}

/// The input is the token and the target, in two lines. The secret is `secret`.
#[test]
fn session_token() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let (token, target) = text.split_once('\n').unwrap_or((&text, "/"));
        let tokens = Tokens::new(b"secret");
        let Ok(claim) = tokens.read_session(token, target) else { return };
        assert_eq!(tokens.issue_session(&claim, target), token, "another spelling of a token");
        assert!(claim.server.len() <= 256 && claim.name.len() <= 600, "{claim:?}");
        assert!(tokens.read_session(token, &format!("{target}/")).is_err(), "opens another");
        assert!(tokens.read(token).is_err(), "lists something");
        assert!(Tokens::new(b"other").read_session(token, target).is_err(), "any secret");
    });
}

#[test]
fn a_registration_cut_anywhere_registers_nothing() {
    for (name, body) in corpus::of("names__registration_body") {
        for end in 0..body.trim_ascii_end().len() {
            assert!(registration::parse(&body[..end]).is_err(), "{name}, the first {end} bytes");
        }
    }
}

/// A key has a shape, whatever was asked for; and who asks for it by its own parts gets it.
fn check_key(ask: &Ask<'_>, vhosts: &Vhosts) {
    let key = match StreamKey::new(ask, vhosts) {
        Ok(key) => key,
        Err(BadStream::NotAUrl) => panic!("{ask:?} is no URL"),
        Err(_) => return,
    };
    check_shape(&key);
    let parts: Vec<String> = key.as_str().split('/').map(escaped).collect();
    let target = format!("/{}", parts[1..].join("/"));
    let again = Ask::Http { host: Some(&parts[0]), target: &target };
    match StreamKey::new(&again, vhosts) {
        // Escaped, a long key is longer than a request may be.
        Ok(again) => assert_eq!(again, key, "asked for by its own parts, {ask:?}"),
        Err(error) => assert_eq!(error, BadStream::TooLong, "{key} of {ask:?}"),
    }
}

/// Vhost, app and stream at least, none of them empty.
fn check_shape(key: &StreamKey) {
    let parts: Vec<&str> = key.as_str().split('/').collect();
    assert!(key.as_str().len() <= StreamKey::MAX_BYTES, "{} bytes", key.as_str().len());
    assert!(parts.len() >= 3 && parts.iter().all(|part| !part.is_empty()), "{key:?}");
    assert!(!key.as_str().chars().any(char::is_control), "{key:?}");
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |escaped, byte| format!("{escaped}%{byte:02x}"))
}
