//! The machine between a client and an origin: what each gets of the other, and what may follow.

pub(super) mod fed;

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use self::fed::{Fed, in_every_split, parameter, text, token_of, understood};
use super::exchange::{MAX_PLAYLIST, Reuse, Token, Turn};
use crate::cluster::store::HlsRecord;
use crate::plane::relay::filter::{Filter, Passed};
use crate::plane::{Leg, Outbox};
use crate::proto::http::MAX_HEAD;

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
fn a_change_of_protocol_is_refused() {
    let came = in_every_split(GET, "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nbytes", false);
    assert!(came.fault.is_some() && !came.has_answered && came.to_client.is_empty());
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
    assert!(fed.machine.room(Leg::Client) > 0);
    let fed = fed.client("x");
    assert_eq!(fed.machine.room(Leg::Client), 0);
    assert!(fed.machine.room(Leg::Origin) > 0);
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
            let spt = parameter(asked);
            let expected =
                format!("#EXTM3U\n#EXT-X-MAP:URI=\"i.mp4?{spt}\"\n#EXTINF:1,\ns-1.ts?a=b&{spt}\n");
            assert_eq!(came.body(), expected);
            assert!(came.has(&format!("Content-Length: {}", expected.len())));
            assert!(came.has("ETag: W/\"e\"") && !came.names("Transfer-Encoding"));
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
    let came = in_every_split(&asked, with_body("HTTP/1.1 200 OK\r\n", mpd), false);
    assert_eq!(came.reuse(), Some(BOTH));
    let expected = format!("<SegmentURL media=\"1.m4s?{}\"/>", parameter(&asked));
    assert!(came.body().contains(&expected), "{}", came.body());
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
        assert!(came.body().contains(&parameter(asked)), "{}", came.body());
    }
}

#[test]
fn segments_have_the_id_of_the_existing_proxy_beside_the_token_if_it_may_be_there() {
    let (request, _) = understood(PLAYLIST.as_bytes());
    let url = "http://proxy/live/s.m3u8".to_owned();
    let HlsRecord { id, .. } = HlsRecord::of(request.stream.clone(), url);
    assert_eq!((id.len(), &id), (16, &HlsRecord::of(request.stream.clone(), String::new()).id));
    let token = Token { id: Some(id.clone()), ..token_of(&request) };
    let playlist = "#EXTM3U\ns-1.ts\ns-2.ts?hls_ctx=a\nt.m3u8\n";
    let length = playlist.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{playlist}");
    let came = Fed::with(&request, token, b"").origin(answer).come();
    let spt = parameter(PLAYLIST);
    let expected = format!(
        "#EXTM3U\ns-1.ts?spbhid={id}&{spt}\ns-2.ts?hls_ctx=a&spbhid={id}&{spt}\nt.m3u8?{spt}\n"
    );
    assert_eq!(came.body(), expected);
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
        let expected = format!("#EXTM3U\ns-1.ts?{}\n", parameter(PLAYLIST));
        assert_eq!(came.body(), expected, "{coding}");
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
