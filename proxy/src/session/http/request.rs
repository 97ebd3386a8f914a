//! What a client asks for, understood once.

use super::origin::Wanted;
use super::path_of;
use super::signal::Signal;
use crate::cluster::store::HlsRecord;
use crate::origin::{Balancer, Listener};
use crate::proto::addition::take_parameter;
use crate::proto::http::{BodyLength, RequestHead};
use crate::session::Role;
use crate::stream::{BadStream, Candidates, Claim, Kind, StreamKey, Tokens, Vhosts};

/// A request for a piece of a stream.
#[derive(Debug)]
pub(super) struct Request {
    /// Without the parameter that the proxy had added to the target.
    pub(super) head: RequestHead,
    pub(super) kind: Kind,
    pub(super) stream: StreamKey,
    pub(super) whence: Whence,
}

/// Whence it is known to which stream a request belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whence {
    /// This server had listed the URI.
    Listed(String),
    /// The path says so, and the stream has an origin.
    Routed,
    /// The path says so, and nobody has asked for the stream lately.
    Guessed,
}

/// Who answers a request.
#[derive(Debug)]
pub(super) enum Asked {
    /// The stream's origin.
    Stream(Request),
    /// An origin, about a session of WebRTC.
    Session(Signal),
    /// The proxy itself.
    Page(RequestHead),
    /// Nobody: a stream is meant, and none is named.
    Unclear(RequestHead, BadStream),
}

impl Request {
    /// Reads a request. A token is believed for what playlists list; otherwise the path tells the
    /// stream, and of several that it may belong to, the one that has an origin.
    pub(super) fn understand(
        mut head: RequestHead,
        tokens: &Tokens,
        vhosts: &Vhosts,
        balancer: &Balancer,
    ) -> Asked {
        let (token, target) = take_parameter(&head.target, Tokens::PARAMETER);
        let (token, target) = (token.map(str::to_owned), target.into_owned());
        head.target = target;
        let session = token.as_deref().and_then(|token| {
            // It opens nothing but what it was issued for.
            tokens.read_session(token, &head.origin_form()).ok()
        });
        let head = match Signal::of(head, session) {
            Ok(signal) => return Asked::Session(signal),
            Err(head) => head,
        };
        // A token that is not of this fleet, or none at all, is no fault: the path still tells.
        let claim = token.and_then(|token| tokens.read(&token).ok());
        let kind = claim.as_ref().map(|claim| Kind::of_piece(&head.target, &claim.key));
        let claim = claim.zip(kind).filter(|(_, kind)| {
            // A live stream is no piece of another: its name alone says where it is.
            is_read(&head) && matches!(kind, Kind::Playlist | Kind::Media)
        });
        if let Some((Claim { key: stream, server }, kind)) = claim {
            let whence = Whence::Listed(server);
            return Asked::Stream(Self { head, kind, stream, whence });
        }
        let candidates = Candidates::of(head.headers.text("Host"), &head.target, vhosts);
        match candidates {
            Err(error) => Asked::Unclear(head, error),
            Ok(None) => Asked::Page(head),
            Ok(Some(candidates)) => {
                let (stream, is_routed) = balancer.attribute(&candidates);
                let (kind, stream) = (candidates.kind(stream), stream.clone());
                let whence = if is_routed { Whence::Routed } else { Whence::Guessed };
                Asked::Stream(Self { head, kind, stream, whence })
            }
        }
    }

    /// The id of a segment that the existing proxy has listed; none of one that has a token.
    pub(super) fn listed_by_id(&self) -> Option<&str> {
        let is_segment =
            path_of(&self.head.target).strip_suffix(".ts").is_some() && is_read(&self.head);
        let is_open = is_segment && !matches!(self.whence, Whence::Listed(_));
        let (id, _) = take_parameter(&self.head.target, HlsRecord::PARAMETER);
        let is_id = |id: &&str| {
            (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        id.filter(|_| is_open).filter(is_id)
    }

    /// Whether asking twice is asking once (RFC 9110 9.2.2), and nothing but the head is asked.
    pub(super) fn can_be_repeated(&self) -> bool {
        is_read(&self.head) && has_no_body(&self.head)
    }

    /// Who is to be asked.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        let server = match &self.whence {
            Whence::Listed(server) => Some(server.as_str()),
            Whence::Routed | Whence::Guessed => None,
        };
        Wanted { stream: &self.stream, server, listener: Listener::Http }
    }

    /// What the client does with a live stream; none if it only fetches a piece.
    pub(super) fn role(&self) -> Option<Role> {
        match (self.kind, self.head.method.as_str()) {
            (Kind::Live, "GET") => Some(Role::Play),
            (Kind::Live, "POST" | "PUT") => Some(Role::Publish),
            _ => None,
        }
    }
}

/// Letters and digits of an id: the existing proxy gives seven, this one sixteen.
const MAX_ID: usize = 32;

/// Whether the client only wants to have something.
fn is_read(head: &RequestHead) -> bool {
    matches!(head.method.as_str(), "GET" | "HEAD")
}

/// Whether nothing follows a request's head.
pub(super) fn has_no_body(head: &RequestHead) -> bool {
    head.body_length() == BodyLength::Known(0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::tests::fed::understood;
    use super::*;
    use crate::origin::{BalancerSettings, Origin, registration};
    use crate::stream::Ask;

    fn origin(server: &str) -> Origin {
        let body = serde_json::json!({
            "ip": "10.0.0.1", "server": server, "service": "s", "pid": "1",
            "rtmp": ["1935"], "http": ["8080"],
        });
        registration::parse(body.to_string().as_bytes()).unwrap()
    }

    fn key(path: &str) -> StreamKey {
        StreamKey::new(&Ask::Http { host: None, target: path }, &Vhosts::default()).unwrap()
    }

    /// What is asked, of whom, and with which target, by a client of a proxy with these streams.
    fn understand(target: &str, routed: &[&str]) -> Option<(Kind, String, Option<String>, String)> {
        let balancer = Balancer::new(BalancerSettings::default());
        let now = Instant::now();
        balancer.register(origin("a"), now).unwrap();
        for path in routed {
            balancer.pick(&key(path), Listener::Http, &[], now).unwrap().found();
        }
        let asked = format!("GET {target} HTTP/1.1\r\nHost: proxy\r\n\r\n");
        let (head, _) = RequestHead::parse(asked.as_bytes()).unwrap().unwrap();
        match Request::understand(head, &Tokens::new(b"secret"), &Vhosts::default(), &balancer) {
            Asked::Stream(Request { head, kind, stream, whence }) => {
                let server = match whence {
                    Whence::Listed(server) => Some(server),
                    Whence::Routed | Whence::Guessed => None,
                };
                let path = stream.as_str().trim_start_matches("__defaultVhost__/").to_owned();
                Some((kind, path, server, head.target))
            }
            Asked::Page(_) => None,
            Asked::Session(signal) => panic!("{target}: {signal:?}"),
            Asked::Unclear(_, error) => panic!("{target}: {error}"),
        }
    }

    #[test]
    fn a_token_wins_over_the_path_and_the_routes() {
        let token = Tokens::new(b"secret").issue(&key("/live/t.flv"), "b");
        for (target, kind, left) in [
            ("/live/s-1.ts?spt=TOKEN", Kind::Media, "/live/s-1.ts"),
            ("/live/s.ts?a=b&spt=TOKEN&c", Kind::Media, "/live/s.ts?a=b&c"),
            ("/live/s.m3u8?spt=TOKEN", Kind::Playlist, "/live/s.m3u8"),
            ("/live/thumbnail.jpg?spt=TOKEN", Kind::Media, "/live/thumbnail.jpg"),
            ("http://proxy/x.mp4?spt=TOKEN", Kind::Media, "http://proxy/x.mp4"),
        ] {
            let asked = understand(&target.replace("TOKEN", &token), &["/live/s.flv"]);
            let expected = (kind, "live/t".to_owned(), Some("b".to_owned()), left.to_owned());
            assert_eq!(asked, Some(expected), "{target}");
        }
    }

    #[test]
    fn a_token_opens_neither_other_pages_of_the_origin_nor_another_live_stream() {
        let token = Tokens::new(b"secret").issue(&key("/live/t.flv"), "b");
        for page in [
            "/",
            "/stat",
            "/control/drop/publisher",
            "/live/../stat",
            "/live/%2e%2e/stat",
            "/live/..%2fstat",
            "/live/..;/stat",
            "/live/%252e%252e/stat",
            "/live//stat",
            "/live/a%2fstat",
            "/livestat",
        ] {
            assert_eq!(understand(&format!("{page}?spt={token}"), &[]), None, "{page}");
        }
        let asked = understand(&format!("/live/s.flv?spt={token}"), &[]);
        assert_eq!(asked, Some((Kind::Live, "live/s".into(), None, "/live/s.flv".into())));
    }

    #[test]
    fn a_token_that_is_not_believed_is_ignored_and_kept_from_the_origin() {
        let foreign = Tokens::new(b"other").issue(&key("/live/t.flv"), "b");
        let cut = Tokens::new(b"secret").issue(&key("/live/t.flv"), "b").split_off(1);
        for token in [&foreign, &cut, "", "x", "%00"] {
            let asked = understand(&format!("/live/s-1.ts?spt={token}&a=b"), &[]);
            let expected = (Kind::Media, "live/s".to_owned(), None, "/live/s-1.ts?a=b".to_owned());
            assert_eq!(asked, Some(expected), "{token}");
            assert_eq!(understand(&format!("/index.html?spt={token}"), &[]), None);
        }
    }

    #[test]
    fn without_a_token_the_stream_that_has_an_origin_is_meant_and_else_the_likeliest() {
        let told = |target, routed: &[&str]| {
            let (kind, path, server, _) = understand(target, routed).expect("a stream");
            assert_eq!(server, None);
            (kind, path)
        };
        let (stream, piece) = ("/live/cam.flv", "/live/cam-1.flv");
        assert_eq!(told("/live/cam-1.ts", &[]), (Kind::Media, "live/cam".into()));
        assert_eq!(told("/live/cam-1.ts", &[stream]), (Kind::Media, "live/cam".into()));
        assert_eq!(told("/live/cam-1.ts", &[piece]), (Kind::Live, "live/cam-1".into()));
        assert_eq!(told("/live/cam-1.ts", &[piece, stream]), (Kind::Media, "live/cam".into()));
        assert_eq!(told("/live/cam-1.flv", &[stream]), (Kind::Live, "live/cam-1".into()));
        assert_eq!(told("/live/s/video-1.m4s", &["/live/s.flv"]), (Kind::Media, "live/s".into()));
        assert_eq!(told("/live/s/index.m3u8", &[]), (Kind::Playlist, "live/s".into()));
    }

    #[test]
    fn a_segment_of_the_existing_proxy_has_an_id() {
        let token = Tokens::new(b"secret").issue(&key("/live/s.flv"), "b");
        for (target, id) in [
            ("/live/s-1.ts?spbhid=8e204cd&&hls_ctx=p95des96", Some("8e204cd")),
            ("/live/s-1.ts?spbhid=8e204cd", Some("8e204cd")),
            ("/live/s-1.ts?hls_ctx=a&spbhid=0123456789abcdef", Some("0123456789abcdef")),
            ("/live/s-1.ts?spbhid=8e204cd&spt=TOKEN", None),
            ("/live/s-1.ts?spbhid=", None),
            ("/live/s-1.ts?spbhid=a%3ab", None),
            ("/live/s-1.ts?spbhid=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", None),
            ("/live/s-1.ts", None),
            ("/live/s.flv?spbhid=8e204cd", None),
            ("/live/s.m3u8?spbhid=8e204cd", None),
        ] {
            let target = target.replace("TOKEN", &token);
            let asked = format!("GET {target} HTTP/1.1\r\nHost: proxy\r\n\r\n");
            assert_eq!(understood(asked.as_bytes()).0.listed_by_id(), id, "{target}");
        }
    }

    #[test]
    fn only_requests_that_carry_nothing_are_asked_twice() {
        let get = "GET /live/s-1.ts HTTP/1.1\r\nHost: proxy\r\n\r\n";
        for (asked, can) in [
            (get.to_owned(), true),
            (get.replace("GET", "HEAD"), true),
            (get.replace("GET", "POST"), false),
            (get.replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"), true),
            (get.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx"), false),
            (get.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"), false),
        ] {
            assert_eq!(understood(asked.as_bytes()).0.can_be_repeated(), can, "{asked}");
        }
    }
}
