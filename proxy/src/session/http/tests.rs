//! The machine between a client and an origin: what each gets of the other, and what may follow.

use std::io::Write;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::exchange::{Exchange, Fault, MAX_PLAYLIST, Reuse, Token, Turn};
use super::heads::{self, Client};
use super::request::{Asked, Request};
use crate::listen::TrustedProxies;
use crate::origin::{Balancer, BalancerSettings, Listener, Origin, registration};
use crate::plane::relay::filter::{Filter, Passed};
use crate::plane::{Leg, Outbox};
use crate::proto::http::{MAX_HEAD, RequestHead};
use crate::stream::{Ask, Kind, StreamKey, Tokens, Vhosts};

const GET: &str = "GET /live/s-1.ts HTTP/1.1\r\nHost: proxy\r\n\r\n";
const GET_10: &str = "GET /live/s-1.ts HTTP/1.0\r\n\r\n";
const HEAD: &str = "HEAD /live/s-1.ts HTTP/1.1\r\nHost: proxy\r\n\r\n";
const LIVE: &str = "GET /live/s.flv HTTP/1.1\r\nHost: proxy\r\n\r\n";
const PLAYLIST: &str = "GET /live/s.m3u8 HTTP/1.1\r\nHost: proxy\r\n\r\n";

/// What is added to every answer that does not have it.
const CORS: &str = "Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: *\r\n";

const BOTH: Reuse = Reuse { client: true, origin: true };
const CLIENT: Reuse = Reuse { client: true, origin: false };
const ORIGIN: Reuse = Reuse { client: false, origin: true };
const NEITHER: Reuse = Reuse { client: false, origin: false };

/// One exchange: what came out of it so far.
struct Fed {
    machine: Exchange,
    got: Outbox,
    turns: Vec<Turn>,
    fault: Option<Fault>,
}

impl Fed {
    /// A request, with all that its client sent behind the head.
    fn asked(asked: impl AsRef<[u8]>) -> Self {
        let (request, behind) = understood(asked.as_ref());
        Self::begun(&request, behind)
    }

    fn begun(request: &Request, behind: &[u8]) -> Self {
        let client = client_of(&request.head);
        let token = Token { value: "T".into(), host: "proxy".into() };
        let mut machine = Exchange::new(request, client, token);
        let mut got = Outbox::default();
        let mut fault = None;
        match machine.begin(behind.to_vec()) {
            Ok(body) => got.to_origin = body,
            Err(error) => fault = Some(error),
        }
        Self { machine, got, turns: Vec::new(), fault }
    }

    /// One read of a leg, as the relay passes it on.
    fn says(mut self, from: Leg, bytes: impl AsRef<[u8]>) -> Self {
        if self.is_over() {
            return self;
        }
        let bytes = bytes.as_ref();
        let mut out = Outbox::default();
        match self.machine.pass(from, bytes, &mut out) {
            Ok(Passed::Verbatim) => {
                assert_eq!(out.waiting(), [0, 0], "what was written is behind what follows it");
                out.towards(from.other()).extend_from_slice(bytes);
            }
            Ok(Passed::Written) => {}
            Err(fault) => self.fault = Some(fault),
        }
        self.flush(&mut out);
        if self.fault.is_none() {
            while !self.is_over()
                && let Some(turn) = self.machine.turn(&Outbox::default())
            {
                self.turns.push(turn);
            }
        }
        self
    }

    fn client(self, bytes: impl AsRef<[u8]>) -> Self {
        self.says(Leg::Client, bytes)
    }

    fn origin(self, bytes: impl AsRef<[u8]>) -> Self {
        self.says(Leg::Origin, bytes)
    }

    /// The origin closes in order.
    fn closed(mut self) -> Self {
        if self.is_over() {
            return self;
        }
        let mut out = Outbox::default();
        match self.machine.origin_closed(&mut out) {
            Some(Ok(reuse)) => self.turns.push(Turn::Finished(reuse)),
            Some(Err(fault)) => self.fault = Some(fault),
            None => {}
        }
        self.flush(&mut out);
        self
    }

    fn flush(&mut self, out: &mut Outbox) {
        self.got.to_client.append(&mut out.to_client);
        self.got.to_origin.append(&mut out.to_origin);
    }

    fn is_over(&self) -> bool {
        self.fault.is_some() || matches!(self.turns.last(), Some(Turn::Endless | Turn::Finished(_)))
    }

    fn come(self) -> Came {
        Came {
            to_client: text(&self.got.to_client),
            to_origin: text(&self.got.to_origin),
            has_answered: self.machine.has_answered(),
            turns: self.turns,
            fault: self.fault.map(|fault| fault.to_string()),
            early: text(&self.machine.into_early()),
        }
    }
}

/// Bytes to compare and to read: each is one character.
fn text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// What an exchange came to.
#[derive(Clone, Debug, PartialEq)]
struct Came {
    to_client: String,
    /// Of the request's body.
    to_origin: String,
    has_answered: bool,
    turns: Vec<Turn>,
    fault: Option<String>,
    early: String,
}

impl Came {
    fn head(&self) -> &str {
        self.to_client.split_once("\r\n\r\n").map_or("", |(head, _)| head)
    }

    fn body(&self) -> &str {
        self.to_client.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    fn has(&self, header: &str) -> bool {
        self.head().lines().any(|line| line == header)
    }

    fn names(&self, name: &str) -> bool {
        let name = format!("{name}:").to_ascii_lowercase();
        self.head().lines().any(|line| line.to_ascii_lowercase().starts_with(&name))
    }

    /// Which connections can be used again; None if the exchange is not finished.
    fn reuse(&self) -> Option<Reuse> {
        self.turns.iter().find_map(|turn| match turn {
            Turn::Finished(reuse) => Some(*reuse),
            _ => None,
        })
    }
}

fn understood(asked: &[u8]) -> (Request, &[u8]) {
    let (head, used) = RequestHead::parse(asked).unwrap().expect("a whole head");
    let (tokens, balancer) = (Tokens::new(b"secret"), Balancer::new(BalancerSettings::default()));
    match Request::understand(head, &tokens, &Vhosts::default(), &balancer) {
        Asked::Stream(request) => (request, &asked[used..]),
        other => panic!("no request for a stream: {other:?}"),
    }
}

fn client_of(head: &RequestHead) -> Client {
    Client {
        address: "192.0.2.7:4000".parse().unwrap(),
        version: head.version,
        keeps_alive: head.keeps_alive(),
    }
}

/// A request and its answer, in every split in two of either, and byte by byte.
fn in_every_split(asked: impl AsRef<[u8]>, answer: impl AsRef<[u8]>, closes: bool) -> Came {
    let (asked, answer) = (asked.as_ref(), answer.as_ref());
    let (request, behind) = understood(asked);
    let close = |fed: Fed| if closes { fed.closed().come() } else { fed.come() };
    let whole = close(Fed::begun(&request, behind).origin(answer));
    for at in 0..=answer.len() {
        let (first, second) = answer.split_at(at);
        let parts = close(Fed::begun(&request, behind).origin(first).origin(second));
        assert_eq!(parts, whole, "the answer in two pieces, at {at}");
    }
    for at in 0..=behind.len() {
        let (first, second) = behind.split_at(at);
        let parts = close(Fed::begun(&request, first).client(second).origin(answer));
        assert_eq!(parts, whole, "the request's body in two pieces, at {at}");
    }
    let mut bytes = Fed::begun(&request, b"");
    for byte in behind {
        bytes = bytes.client([*byte]);
    }
    for byte in answer {
        bytes = bytes.origin([*byte]);
    }
    assert_eq!(close(bytes), whole, "byte by byte");
    whole
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn with_body(head: &str, body: &[u8]) -> Vec<u8> {
    [head.as_bytes(), format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

#[test]
fn a_body_of_known_length_passes_as_it_is_and_both_connections_stay() {
    let answer = "HTTP/1.1 200 Fine\r\nContent-Type: video/mp2t\r\nContent-Length: 5\r\n\
                  ETag: \"a\"\r\nCache-Control: max-age=1\r\nX-Own: 1\r\n\r\nhello";
    let came = in_every_split(GET, answer, false);
    let head = answer.trim_end_matches("\r\n\r\nhello");
    assert_eq!(came.to_client, format!("{head}\r\n{CORS}\r\nhello"));
    assert_eq!(came.turns, [Turn::Answered(200), Turn::Finished(BOTH)]);
    let empty = in_every_split(GET, "HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", false);
    assert_eq!(empty.turns, [Turn::Answered(404), Turn::Finished(BOTH)]);
}

#[test]
fn chunks_pass_byte_for_byte_with_their_extensions_and_trailers() {
    let body = "3;a=b\r\nabc\r\n00A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let came = in_every_split(GET, answer, false);
    assert!(came.has("Transfer-Encoding: chunked") && !came.names("Connection"));
    assert_eq!((came.body(), came.reuse()), (body, Some(BOTH)));
}

#[test]
fn a_body_that_ends_with_the_connection_ends_the_clients_too() {
    let came = in_every_split(GET, "HTTP/1.1 200 OK\r\nServer: x\r\n\r\nhello", true);
    assert!(came.has("Connection: close"));
    assert_eq!((came.body(), came.reuse()), ("hello", Some(NEITHER)));
    let open = in_every_split(GET, "HTTP/1.1 200 OK\r\n\r\nhello", false);
    assert_eq!(open.turns, [Turn::Answered(200)], "nothing tells that it is over");
}

#[test]
fn a_client_of_http_1_0_gets_the_payload_without_the_chunks() {
    let chunks = "3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let stays = GET_10.replace("\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n");
    for asked in [GET_10, &stays] {
        let came = in_every_split(asked, &answer, false);
        assert!(!came.names("Transfer-Encoding") && came.has("Connection: close"));
        assert_eq!((came.body(), came.reuse()), ("abcde", Some(ORIGIN)));
    }
}

#[test]
fn each_version_is_told_in_its_own_way_whether_its_connection_stays() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
    for (version, wants, told, stays) in [
        ("1.1", "", None, true),
        ("1.1", "Connection: keep-alive\r\n", None, true),
        ("1.1", "Connection: close\r\n", Some("Connection: close"), false),
        ("1.0", "", Some("Connection: close"), false),
        ("1.0", "Connection: keep-alive\r\n", Some("Connection: keep-alive"), true),
        ("1.0", "Connection: keep-alive, close\r\n", Some("Connection: close"), false),
    ] {
        let asked = format!("GET /live/s-1.ts HTTP/{version}\r\nHost: proxy\r\n{wants}\r\n");
        let came = in_every_split(&asked, answer, false);
        let line = came.head().lines().find(|line| line.starts_with("Connection"));
        assert_eq!(line, told, "{asked}");
        assert_eq!(came.reuse(), Some(Reuse { client: stays, origin: true }), "{asked}");
    }
}

#[test]
fn an_origin_is_asked_again_only_if_it_stays() {
    for (first, stays) in [
        ("HTTP/1.1 200 OK\r\n", true),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n", false),
        ("HTTP/1.1 200 OK\r\nConnection: Keep-Alive, CLOSE\r\n", false),
        ("HTTP/1.0 200 OK\r\n", false),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", true),
    ] {
        let came = in_every_split(GET, format!("{first}Content-Length: 1\r\n\r\nx"), false);
        assert_eq!(came.reuse(), Some(Reuse { client: true, origin: stays }), "{first}");
        assert!(!came.names("Connection"), "{first}");
    }
}

#[test]
fn answers_without_a_body_end_with_their_head_whatever_they_say_of_its_length() {
    for (asked, first) in [
        (HEAD, "HTTP/1.1 200 OK\r\n"),
        (GET, "HTTP/1.1 204 No Content\r\n"),
        (GET, "HTTP/1.1 304 Not Modified\r\n"),
    ] {
        for length in ["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
            let came = in_every_split(asked, format!("{first}{length}\r\n"), false);
            assert_eq!((came.body(), came.reuse()), ("", Some(BOTH)), "{first}{length}");
            assert!(!came.names("Transfer-Encoding"), "{first}{length}");
            // RFC 9110 8.6: of 204 it would be a length that the client may wait for.
            let kept = length.starts_with("Content") && !first.contains("204");
            assert_eq!(came.names("Content-Length"), kept, "{first}{length}");
        }
        // A body where there must be none is no part of the next answer.
        let answer = format!("{first}Content-Length: 5\r\n\r\nHTTP/");
        let came = Fed::asked(asked).origin(answer).come();
        assert_eq!((came.body(), came.reuse()), ("", Some(CLIENT)), "{first}");
    }
}

#[test]
fn bytes_behind_an_answer_are_not_the_clients_and_end_the_origins_connection() {
    let behind = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for body in ["Content-Length: 2\r\n\r\nhi", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{body}");
        let quiet = Fed::asked(GET).origin(&answer).come();
        let whole = Fed::asked(GET).origin(format!("{answer}{behind}")).come();
        assert_eq!((&whole.to_client, whole.reuse()), (&quiet.to_client, Some(CLIENT)), "{body}");
        // The end of the body and what is behind it in a read of their own.
        let (first, last) = answer.split_at(answer.len() - 1);
        let parts = Fed::asked(GET).origin(first).origin(format!("{last}{behind}")).come();
        assert_eq!((&parts.to_client, parts.reuse()), (&quiet.to_client, Some(CLIENT)), "{body}");
    }
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let older = Fed::asked(GET_10).origin(format!("{chunked}{behind}")).come();
    assert_eq!((older.body(), older.reuse()), ("x", Some(NEITHER)));
    let playlist = with_body("HTTP/1.1 200 OK\r\n", b"#EXTM3U\n");
    let list = Fed::asked(PLAYLIST).origin([&playlist, behind.as_bytes()].concat()).come();
    assert_eq!((list.body(), list.reuse()), ("#EXTM3U\n", Some(CLIENT)));
}

#[test]
fn bytes_behind_an_answer_that_still_waits_for_its_client_end_the_origins_connection() {
    let (request, behind) = understood(GET.as_bytes());
    let mut fed = Fed::begun(&request, behind);
    let mut out = Outbox::default();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
    fed.machine.pass(Leg::Origin, answer, &mut out).unwrap();
    assert_eq!(fed.machine.turn(&out), Some(Turn::Answered(200)));
    assert_eq!(fed.machine.turn(&out), None, "the last bytes would be lost");
    let waiting = out.to_client.clone();
    assert_eq!(fed.machine.pass(Leg::Origin, b"HTTP", &mut out).unwrap(), Passed::Written);
    assert_eq!(out.to_client, waiting);
    assert_eq!(fed.machine.turn(&Outbox::default()), Some(Turn::Finished(CLIENT)));
}

#[test]
fn what_precedes_the_answer_passes_without_what_is_for_one_hop() {
    let before = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\
                  Connection: close, X-Hop\r\nX-Hop: 1\r\nContent-Length: 9\r\n\r\n";
    let answer = format!("{before}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let came = in_every_split(GET, &answer, false);
    assert_eq!(
        came.to_client,
        format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{CORS}\r\nhi"
        )
    );
    assert_eq!(came.turns, [Turn::Answered(200), Turn::Finished(BOTH)]);
    let older = in_every_split(GET_10, &answer, false);
    assert!(older.to_client.starts_with("HTTP/1.1 200 OK\r\n"), "{}", older.to_client);
    let alone = in_every_split(GET, before, true);
    assert_eq!((alone.turns, alone.has_answered), (vec![], false), "100 is no answer");
}

#[test]
fn a_change_of_protocol_is_refused_and_asked_by_nobody() {
    let came = in_every_split(GET, "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nbytes", false);
    assert!(came.fault.is_some() && !came.has_answered && came.to_client.is_empty());
    let asked = "GET /live/s.flv HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                 Upgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n";
    let head = for_origin(asked, false);
    assert!(!head.headers.has("Upgrade") && !head.headers.has("HTTP2-Settings"));
}

#[test]
fn malformed_answers_end_the_exchange_before_the_client_hears_of_them() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        "HTTP/2 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "<html>\r\n\r\n",
    ] {
        let came = in_every_split(GET, answer, true);
        assert!(came.fault.is_some(), "{answer}");
        assert!(!came.has_answered && came.to_client.is_empty(), "{answer}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD));
    assert!(Fed::asked(GET).origin(endless).fault.is_some());
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi!\r\n";
    let came = Fed::asked(GET).origin(chunks).come();
    assert!(came.fault.is_some() && came.has_answered && came.reuse().is_none());
}

#[test]
fn an_answer_that_breaks_off_finishes_nothing() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ] {
        for asked in [GET, GET_10, PLAYLIST] {
            let came = in_every_split(asked, answer, true);
            assert_eq!(came.reuse(), None, "{answer}");
            assert!(asked != PLAYLIST || came.to_client.is_empty(), "half a playlist");
        }
    }
}

#[test]
fn a_request_goes_to_the_origin_with_its_body_and_the_next_one_is_kept() {
    let next = "GET /live/s-2.ts HTTP/1.1\r\nHost: proxy\r\n\r\nGET /";
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for body in [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        "\r\n",
    ] {
        let asked = format!("POST /live/s-1.ts HTTP/1.1\r\nHost: proxy\r\n{body}{next}");
        let came = in_every_split(asked, answer, false);
        let sent = body.split_once("\r\n\r\n").map_or("", |(_, sent)| sent);
        assert_eq!((came.to_origin.as_str(), came.early.as_str()), (sent, next));
        assert_eq!(came.reuse(), Some(BOTH), "{body}");
    }
}

#[test]
fn requests_that_nobody_waits_for_stay_in_their_socket() {
    let fed = Fed::asked(GET).client(vec![b'x'; MAX_HEAD - 1]);
    assert!(fed.machine.has_room(Leg::Client));
    let fed = fed.client("x");
    assert!(!fed.machine.has_room(Leg::Client) && fed.machine.has_room(Leg::Origin));
    let came = fed.origin("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").come();
    assert_eq!((came.reuse(), came.early.len()), (Some(BOTH), MAX_HEAD));
    assert!(came.to_origin.is_empty());
}

#[test]
fn a_malformed_request_body_ends_the_exchange() {
    let asked = "POST /live/s-1.ts HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in ["x\r\n", "1\nx", "1\r\nxx", "0\r\nGET / HTTP/1.1\r\n", "11111111111111111\r\n"] {
        let begun = Fed::asked(format!("{asked}{body}")).come();
        let later = Fed::asked(asked).client(body).come();
        for came in [begun, later] {
            assert!(came.fault.as_ref().is_some_and(|fault| fault.starts_with("request body")));
            assert!(came.reuse().is_none(), "{body}");
        }
    }
}

/// What is left of the request's body would be read as the next request.
#[test]
fn an_answer_before_the_end_of_its_request_is_the_last_one_and_says_so() {
    let hidden = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let asked = |target: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: proxy\r\nExpect: 100-continue\r\n\
             Content-Length: {}\r\n\r\n",
            hidden.len() + 3
        )
    };
    for answer in [
        "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n#EXTM3U\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n#EXTM3U\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n#EXTM3U\n",
    ] {
        for target in ["/live/s-1.ts", "/live/s.m3u8", "/live/s.flv"] {
            let came = Fed::asked(asked(target) + "abc").origin(answer).closed().come();
            assert_eq!(came.reuse(), Some(NEITHER), "{target}\n{answer}");
            assert!(came.has("Connection: close"), "{target}\n{answer}");
            assert!(came.early.is_empty());
        }
    }
    // The rest came while the answer did: the origin has it all, the client was told already.
    let came = Fed::asked(asked("/live/s-1.ts") + "abc")
        .origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh")
        .client(format!("{hidden}GET"))
        .origin("i")
        .come();
    assert_eq!((came.reuse(), came.early.as_str()), (Some(ORIGIN), "GET"));
    assert_eq!(came.to_origin, format!("abc{hidden}"));
}

#[test]
fn a_stream_without_an_end_is_handed_over_with_its_first_bytes() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n",
        "HTTP/1.0 200 OK\r\nConnection: close\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let came = in_every_split(LIVE, format!("{head}\r\n"), false);
        assert_eq!(came.turns, [Turn::Answered(200), Turn::Endless], "{head}");
        assert!(came.has("Connection: close") && came.has_answered);
        assert_eq!(came.names("Transfer-Encoding"), head.contains("chunked"));
        let first = Fed::asked(LIVE).origin(format!("{head}\r\n5\r\nhello\r\n")).come();
        assert_eq!(first.body(), "5\r\nhello\r\n", "{head}");
    }
}

#[test]
fn a_live_answer_with_an_end_is_watched_and_its_origin_not_asked_again() {
    for (answer, reuse) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", CLIENT),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", CLIENT),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", CLIENT),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", CLIENT),
        ("HTTP/1.1 503 Busy\r\nConnection: close\r\n\r\nbusy", NEITHER),
    ] {
        let came = in_every_split(LIVE, answer, true);
        assert_eq!(came.reuse(), Some(reuse), "{answer}");
        assert!(!came.turns.contains(&Turn::Endless), "{answer}");
    }
    let head = LIVE.replace("GET", "HEAD");
    let came = in_every_split(head, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", false);
    assert_eq!(came.reuse(), Some(CLIENT));
    // Chunks cannot go on as they are, so somebody must look.
    let older = LIVE.replace("1.1", "1.0");
    let chunked = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                   2\r\nhi\r\n0\r\n\r\n";
    let came = in_every_split(older, chunked, false);
    assert_eq!((came.body(), came.reuse()), ("hi", Some(NEITHER)));
    let publish = "POST /live/s.flv HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let came = Fed::asked(publish).origin("HTTP/1.1 200 OK\r\n\r\n").client("1\r\nx\r\n").come();
    assert_eq!((came.turns, came.to_origin.as_str()), (vec![Turn::Answered(200)], "1\r\nx\r\n"));
}

#[test]
fn a_playlist_comes_with_the_token_and_its_own_length_however_it_was_framed() {
    let list = "#EXTM3U\n#EXT-X-MAP:URI=\"i.mp4\"\n#EXTINF:1,\ns-1.ts?a=b\n";
    let expected = "#EXTM3U\n#EXT-X-MAP:URI=\"i.mp4?spt=T\"\n#EXTINF:1,\ns-1.ts?a=b&spt=T\n";
    let length = list.len();
    for (framed, closes, origin) in [
        (format!("Content-Length: {length}\r\nX: 1\r\n\r\n{list}"), false, true),
        (
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x};a\r\n{list}\r\n0\r\n\r\n"),
            false,
            true,
        ),
        (format!("\r\n{list}"), true, false),
    ] {
        for asked in [PLAYLIST, &PLAYLIST.replace("1.1", "1.0"), &GET.replace("-1.ts", "/x.m4s")] {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: Application/X-mpegURL ; charset=utf-8\r\n\
                 Content-MD5: x\r\nAccept-Ranges: bytes\r\nETag: \"e\"\r\n{framed}"
            );
            let came = in_every_split(asked, answer, closes);
            assert_eq!(came.body(), expected);
            assert!(came.has(&format!("Content-Length: {}", length + 2 * "?spt=T".len())));
            assert!(came.has("ETag: \"e\"") && !came.names("Transfer-Encoding"));
            assert!(!came.names("Content-MD5") && !came.names("Accept-Ranges"));
            let client = asked.contains("1.1");
            assert_eq!(came.has("Connection: close"), !client);
            assert_eq!(came.reuse(), Some(Reuse { client, origin }));
        }
    }
}

#[test]
fn an_mpd_comes_with_the_token() {
    let mpd = b"<?xml version=\"1.0\"?><MPD><SegmentURL media=\"1.m4s\"/></MPD>";
    let asked = PLAYLIST.replace("m3u8", "mpd");
    let came = in_every_split(asked, with_body("HTTP/1.1 200 OK\r\n", mpd), false);
    assert_eq!(came.reuse(), Some(BOTH));
    assert!(came.body().contains("<SegmentURL media=\"1.m4s?spt=T\"/>"), "{}", came.body());
}

#[test]
fn recorded_playlists_of_srs_come_with_the_token() {
    for recorded in [
        &include_bytes!("../../../testdata/http/hls-master.http")[..],
        include_bytes!("../../../testdata/http/hls-media.http"),
        include_bytes!("../../../testdata/http/dash.http"),
    ] {
        let asked = PLAYLIST;
        let came = Fed::asked(asked).origin(recorded).closed().come();
        assert!(matches!(came.reuse(), Some(Reuse { client: true, .. })), "{came:?}");
        assert!(came.body().contains("spt=T"), "{}", came.body());
    }
}

#[test]
fn a_playlist_is_read_whatever_way_its_coding_is_spelled() {
    let list = b"#EXTM3U\ns-1.ts\n";
    let halves = [gzip(&list[..9]), gzip(&list[9..])].concat();
    for (coding, body) in [
        ("gzip", gzip(list)),
        ("GZip", gzip(list)),
        ("identity, gzip", halves),
        ("identity", list.to_vec()),
        ("", list.to_vec()),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n");
        let came = in_every_split(PLAYLIST, with_body(&head, &body), false);
        assert_eq!(came.body(), "#EXTM3U\ns-1.ts?spt=T\n", "{coding}");
        assert!(!came.names("Content-Encoding"), "{coding}");
    }
    // What cannot be read goes on as it came.
    for coding in ["br", "gzip, br", "gzip, gzip"] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n");
        let came = in_every_split(PLAYLIST, with_body(&head, list), false);
        assert_eq!(came.body(), "#EXTM3U\ns-1.ts\n", "{coding}");
        assert!(came.has(&format!("Content-Encoding: {coding}")));
    }
}

#[test]
fn what_is_no_playlist_after_all_stays_as_it_is() {
    let page = b"<p>no stream</p>".as_slice();
    let latin = b"#EXTM3U\ncaf\xe9.ts\n".as_slice();
    for body in [page, latin, b"", b"hello", &gzip(latin)] {
        let is_zipped = body.starts_with(&[0x1f, 0x8b]);
        let coding = if is_zipped { "Content-Encoding: gzip\r\n" } else { "" };
        let head = format!("HTTP/1.1 200 OK\r\n{coding}Content-MD5: x\r\nAccept-Ranges: bytes\r\n");
        let came = in_every_split(PLAYLIST, with_body(&head, body), false);
        assert_eq!(came.body(), text(body));
        assert!(came.has(&format!("Content-Length: {}", body.len())));
        assert!(came.has("Content-MD5: x") && came.has("Accept-Ranges: bytes"));
        assert_eq!(came.has("Content-Encoding: gzip"), is_zipped);
    }
    for status in ["404 Not Found", "302 Found", "206 Partial Content"] {
        let head = format!("HTTP/1.1 {status}\r\n");
        let came = in_every_split(PLAYLIST, with_body(&head, b"#EXTM3U\ns.ts\n"), false);
        assert_eq!(came.body(), "#EXTM3U\ns.ts\n", "{status}");
    }
}

#[test]
fn a_playlist_that_is_too_large_is_refused_before_the_client_hears_of_it() {
    let head = "HTTP/1.1 200 OK\r\n";
    let list = |size: usize| [b"#EXTM3U\n#".as_slice(), &vec![b'x'; size - 9]].concat();
    let fits = Fed::asked(PLAYLIST).origin(with_body(head, &list(MAX_PLAYLIST))).come();
    assert_eq!((fits.reuse(), fits.fault.as_ref()), (Some(BOTH), None));
    let large = list(MAX_PLAYLIST + 1);
    let zipped = with_body("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n", &gzip(&large));
    for answer in [with_body(head, &large), zipped] {
        let mut fed = Fed::asked(PLAYLIST);
        for piece in answer.chunks(64 * 1024) {
            fed = fed.origin(piece);
        }
        let came = fed.come();
        assert!(came.fault.as_ref().is_some_and(|fault| fault.contains("too large")));
        assert!(!came.has_answered && came.to_client.is_empty());
    }
    let came = Fed::asked(PLAYLIST)
        .origin(with_body("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n", b"not gzip"))
        .come();
    assert!(came.fault.is_some() && !came.has_answered && came.to_client.is_empty());
}

#[test]
fn the_head_of_a_playlist_does_not_tell_the_length_of_another_one() {
    let asked = PLAYLIST.replace("GET", "HEAD");
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\n\
                  Content-Length: 20\r\n\r\n";
    let came = in_every_split(asked, answer, false);
    assert_eq!((came.body(), came.reuse()), ("", Some(BOTH)));
    assert!(!came.names("Content-Length") && came.names("Content-Type"));
    let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 20\r\n\r\n";
    let came = in_every_split(PLAYLIST.replace("GET", "HEAD"), missing, false);
    assert!(came.has("Content-Length: 20"));
}

#[test]
fn what_is_meant_for_one_hop_does_not_reach_the_client() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop, Content-Length\r\nX-Hop: 1\r\n\
                  Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTrailer: X\r\n\
                  Upgrade: h2c\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n";
    let came = in_every_split(GET, answer, false);
    assert_eq!(
        came.to_client,
        format!(
            "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n{CORS}\r\n"
        )
    );
}

#[test]
fn an_origin_with_rules_for_other_hosts_keeps_them() {
    let own =
        "access-control-allow-origin: https://a\r\nAccess-Control-Allow-Credentials: true\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\n{own}Content-Length: 0\r\n\r\n");
    let came = in_every_split(GET, &answer, false);
    assert_eq!(came.to_client, answer);
}

/// Behind a client whose address is not trusted, or is, and another proxy in front of it.
fn for_origin(asked: &str, is_trusted: bool) -> RequestHead {
    let (request, _) = understood(asked.as_bytes());
    let client = client_of(&request.head);
    let networks = if is_trusted { vec!["192.0.2.0/24".parse().unwrap()] } else { Vec::new() };
    heads::for_origin(&request.head, request.kind, client, &networks.into(), "10.0.0.1:8080")
}

/// All values of these names, one line each.
fn lines(head: &RequestHead, names: &[&str]) -> Vec<String> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let of = |name: &&str| {
        let values = head.headers.all(name).map(text);
        values.map(|value| format!("{name}: {value}")).collect::<Vec<_>>()
    };
    names.iter().flat_map(of).collect()
}

const TOLD: [&str; 7] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Real-IP",
    "Forwarded",
    "Via",
];

const CLAIMS: &str = "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2, 3.3.3.3\r\n\
                      X-Forwarded-Proto: https\r\nX-Forwarded-Host: front\r\n\
                      X-Forwarded-Port: 443\r\nForwarded: for=\"[::1]:5, x\";proto=https\r\n\
                      Via: 1.0 first\r\n";

#[test]
fn what_a_client_says_of_itself_does_not_reach_the_origin() {
    let asked = format!(
        "GET /live/s-1.ts HTTP/1.1\r\nHost: proxy:80\r\n{CLAIMS}X-Real-IP: 9.9.9.9\r\n\
         Connection: x-real-ip, forwarded\r\n\r\n"
    );
    assert_eq!(
        lines(&for_origin(&asked, false), &TOLD),
        [
            "X-Forwarded-For: 192.0.2.7",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: proxy:80",
            "X-Real-IP: 192.0.2.7",
            "Forwarded: for=192.0.2.7;host=\"proxy:80\";proto=http",
            "Via: 1.0 first, 1.1 srs-proxy",
        ]
    );
}

#[test]
fn what_a_trusted_proxy_says_is_taken_over_with_its_own_address_behind() {
    let asked = format!("GET /live/s-1.ts HTTP/1.1\r\nHost: proxy:80\r\n{CLAIMS}\r\n");
    assert_eq!(
        lines(&for_origin(&asked, true), &TOLD),
        [
            "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.7",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: front",
            "X-Forwarded-Port: 443",
            // The last is the proxy's word; those before may be its client's invention.
            "X-Real-IP: 3.3.3.3",
            "Forwarded: for=\"[::1]:5, x\";proto=https, for=192.0.2.7;host=\"proxy:80\";proto=http",
            "Via: 1.0 first, 1.1 srs-proxy",
        ]
    );
    let asked =
        format!("GET /live/s-1.ts HTTP/1.1\r\nHost: a\r\n{CLAIMS}X-Real-IP: 9.9.9.9\r\n\r\n");
    assert_eq!(lines(&for_origin(&asked, true), &["X-Real-IP"]), ["X-Real-IP: 9.9.9.9"]);
    for (told, real) in [
        ("1.1.1.1, 3.3.3.3, 192.0.2.9", "3.3.3.3"),
        ("192.0.2.8, 192.0.2.9", "192.0.2.8"),
        ("unknown, 192.0.2.9", "unknown"),
    ] {
        let asked =
            format!("GET /live/s-1.ts HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {told}\r\n\r\n");
        let head = for_origin(&asked, true);
        assert_eq!(lines(&head, &["X-Real-IP"]), [format!("X-Real-IP: {real}")], "{told}");
    }
}

#[test]
fn an_address_of_ipv6_is_quoted_where_it_must_be() {
    let (request, _) = understood(GET_10.as_bytes());
    for (address, plain, quoted) in [
        ("[2001:db8::1]:5", "2001:db8::1", "\"[2001:db8::1]\""),
        ("[::ffff:192.0.2.1]:5", "192.0.2.1", "192.0.2.1"),
    ] {
        let client = Client { address: address.parse().unwrap(), ..client_of(&request.head) };
        let (nobody, authority) = (TrustedProxies::default(), "10.0.0.1:8080");
        let head = heads::for_origin(&request.head, request.kind, client, &nobody, authority);
        assert_eq!(
            lines(&head, &["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"]),
            [
                format!("X-Forwarded-For: {plain}"),
                format!("X-Real-IP: {plain}"),
                format!("Forwarded: for={quoted};host=\"10.0.0.1:8080\";proto=http"),
                "Via: 1.0 srs-proxy".to_owned(),
            ]
        );
    }
}

#[test]
fn the_host_of_an_absolute_target_counts_and_the_origin_gets_the_path() {
    for (target, host, got) in [
        ("http://other:81/live/s-1.ts?a=b", "other:81", "/live/s-1.ts?a=b"),
        ("/live/s-1.ts?a=b", "proxy", "/live/s-1.ts?a=b"),
    ] {
        let head = for_origin(&format!("GET {target} HTTP/1.1\r\nHost: proxy\r\n\r\n"), false);
        assert_eq!((head.target.as_str(), head.headers.text("Host")), (got, Some(host)));
        assert_eq!(head.headers.all("Host").count(), 1);
    }
    let unnamed = for_origin(GET_10, false);
    assert_eq!(unnamed.headers.text("Host"), Some("10.0.0.1:8080"));
}

#[test]
fn playlists_are_asked_for_whole_and_plain_and_nothing_else_is() {
    let wants = "Range: bytes=0-9\r\nIf-Range: \"a\"\r\nAccept-Encoding: gzip, br\r\n\
                 If-None-Match: \"a\"\r\n\r\n";
    let names = ["Range", "If-Range", "Accept-Encoding", "If-None-Match", "Connection"];
    let asked =
        |target| format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{wants}");
    assert_eq!(
        lines(&for_origin(&asked("/live/s.m3u8"), false), &names),
        ["Accept-Encoding: identity", "If-None-Match: \"a\""]
    );
    let kept = [
        "Range: bytes=0-9",
        "If-Range: \"a\"",
        "Accept-Encoding: gzip, br",
        "If-None-Match: \"a\"",
    ];
    assert_eq!(lines(&for_origin(&asked("/live/s-1.ts"), false), &names), kept);
    let live = lines(&for_origin(&asked("/live/s.flv"), false), &names);
    assert_eq!(live[..4], kept);
    assert_eq!(live[4..], ["Connection: close"]);
}

#[test]
fn the_origin_is_told_where_the_body_ends_as_the_client_told_it() {
    for (told, expected) in [
        ("Content-Length: 5\r\nConnection: content-length\r\n", "Content-Length: 5"),
        ("Transfer-Encoding: Chunked\r\n", "Transfer-Encoding: chunked"),
    ] {
        let asked = format!("POST /live/s-1.ts HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n{told}\r\n");
        let head = for_origin(&asked, false);
        let names = ["Content-Length", "Transfer-Encoding", "TE", "Connection"];
        assert_eq!(lines(&head, &names), [expected]);
        assert_eq!(head.body_length(), understood(asked.as_bytes()).0.head.body_length());
    }
}

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
        drop(balancer.pick(&key(path), Listener::Http, &[], now).unwrap());
    }
    let asked = format!("GET {target} HTTP/1.1\r\nHost: proxy\r\n\r\n");
    let (head, _) = RequestHead::parse(asked.as_bytes()).unwrap().unwrap();
    match Request::understand(head, &Tokens::new(b"secret"), &Vhosts::default(), &balancer) {
        Asked::Stream(Request { head, kind, stream, server }) => {
            let path = stream.as_str().trim_start_matches("__defaultVhost__/").to_owned();
            Some((kind, path, server, head.target))
        }
        Asked::Page(_) => None,
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
        ("http://proxy/x.flv?spt=TOKEN", Kind::Live, "http://proxy/x.flv"),
    ] {
        let asked = understand(&target.replace("TOKEN", &token), &["/live/s.flv"]);
        let expected = (kind, "live/t".to_owned(), Some("b".to_owned()), left.to_owned());
        assert_eq!(asked, Some(expected), "{target}");
    }
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
fn only_requests_that_carry_nothing_are_asked_twice() {
    for (asked, can) in [
        (GET.to_owned(), true),
        (HEAD.to_owned(), true),
        (GET.replace("GET", "POST"), false),
        (GET.replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"), true),
        (GET.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx"), false),
        (GET.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"), false),
    ] {
        assert_eq!(understood(asked.as_bytes()).0.can_be_repeated(), can, "{asked}");
    }
}
