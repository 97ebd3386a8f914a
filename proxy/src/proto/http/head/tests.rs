use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::proto::http::BodyReader;

fn request(bytes: impl AsRef<[u8]>) -> Result<Option<(RequestHead, usize)>, BadHead> {
    RequestHead::parse(bytes.as_ref())
}

fn response(bytes: impl AsRef<[u8]>) -> Result<Option<(ResponseHead, usize)>, BadHead> {
    ResponseHead::parse(bytes.as_ref())
}

/// A request of HTTP/1.1 with these lines behind its Host.
fn posted(lines: &str) -> Result<RequestHead, BadHead> {
    let whole = request(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))?;
    Ok(whole.expect("a whole head").0)
}

/// A response with these lines behind this status line.
fn answered(status_line: &str, lines: &str) -> Result<ResponseHead, BadHead> {
    let whole = response(format!("{status_line}\r\n{lines}\r\n"))?;
    Ok(whole.expect("a whole head").0)
}

const PLAYER: &str = "GET /live/s.flv?token=a%20b HTTP/1.1\r\nHost: example.com:8080\r\n\
     User-Agent: Lavf/59.27.100\r\nAccept: */*\r\nX-Empty:\r\nX-Tab:\ta\tb \r\nRange: bytes=0-\r\n\
     Connection: close\r\n\r\n";

#[test]
fn a_player_is_read_as_it_wrote() {
    let (head, length) = request(format!("{PLAYER}GET /next")).unwrap().unwrap();
    assert_eq!(length, PLAYER.len());
    assert_eq!((head.method.as_str(), head.version), ("GET", Version::Http11));
    assert_eq!(head.target, "/live/s.flv?token=a%20b");
    assert_eq!(head.headers.len(), 7);
    assert_eq!(head.headers.text("x-empty"), Some(""));
    assert_eq!(head.headers.text("x-tab"), Some("a\tb"));
    assert_eq!(head.body_length(), BodyLength::Known(0));
    assert!(!head.keeps_alive());
}

#[test]
fn every_prefix_of_a_valid_head_waits_for_more() {
    let many = "X: y\r\n".repeat(MAX_HEADERS - 1);
    let requests = [
        PLAYER,
        "\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: [::1]\r\n\r\n",
        "POST http://a/b HTTP/1.1\r\nhost:a\r\nTransfer-Encoding: Chunked\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: \t a \t\r\nContent-Length: 10\r\n\r\n",
        &format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
    ];
    for whole in requests {
        assert_eq!(request(whole).unwrap().expect(whole).1, whole.len());
        for end in 0..whole.len() {
            assert_eq!(request(&whole[..end]), Ok(None), "{:?}", &whole[..end]);
        }
    }
    let responses = [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
        "HTTP/1.0 404\r\n\r\n",
        "HTTP/1.1 206 Partial \u{fc}\r\nA : \u{fc}\r\nTransfer-Encoding:chunked\r\n\r\n",
    ];
    for whole in responses {
        assert_eq!(response(whole).unwrap().expect(whole).1, whole.len());
        for end in 0..whole.len() {
            assert_eq!(response(&whole.as_bytes()[..end]), Ok(None), "{whole:?} {end}");
        }
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    use BadHead::*;
    let refused = [
        // Lines.
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n", LineEnd),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", LineEnd),
        ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", FirstLine),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n", Control),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\x7fc\r\n\r\n", Control),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\x0bc\r\n\r\n", Control),
        ("\x16\x03\x01\x02\0\x01\0\x01", Control),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", Folded),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n", Folded),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Folded),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Folded),
        // The first line.
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Version),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Version),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", LineEnd),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", FirstLine),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Version),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", FirstLine),
        ("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", FirstLine),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Version),
        ("GET /\r\n\r\n", FirstLine),
        ("GET\r\n\r\n", FirstLine),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", FirstLine),
        ("GET /\u{fc} HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        // Names.
        ("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nA\t: b\r\n\r\n", HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n", HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nA\r\n\r\n", HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\n\u{fc}: b\r\n\r\n", HeaderName),
        // Host.
        ("GET / HTTP/1.1\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Host),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", Host),
        ("GET / HTTP/1.0\r\nHost: a b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Host),
        ("GET http://a/ HTTP/1.1\r\n\r\n", Host),
    ];
    for (bytes, error) in refused {
        assert_eq!(request(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn a_length_is_said_once_and_clearly() {
    use BadHead::*;
    let known = |bytes| Ok(BodyLength::Known(bytes));
    let cases = [
        ("", known(0)),
        ("Content-Length: 0\r\n", known(0)),
        ("content-length:\t0012 \r\n", known(12)),
        ("Content-Length: 9223372036854775807\r\n", known(MAX_LENGTH)),
        ("Transfer-Encoding: chunked\r\n", Ok(BodyLength::Chunked)),
        ("TRANSFER-ENCODING:CHUNKED\r\n", Ok(BodyLength::Chunked)),
        ("Content-Length:\r\n", Err(ContentLength)),
        ("Content-Length: +1\r\n", Err(ContentLength)),
        ("Content-Length: -1\r\n", Err(ContentLength)),
        ("Content-Length: 1 2\r\n", Err(ContentLength)),
        ("Content-Length: 0x1\r\n", Err(ContentLength)),
        ("Content-Length: 1e1\r\n", Err(ContentLength)),
        ("Content-Length: 1.0\r\n", Err(ContentLength)),
        ("Content-Length: \u{b2}\r\n", Err(ContentLength)),
        ("Content-Length: 9223372036854775808\r\n", Err(ContentLength)),
        ("Content-Length: 18446744073709551621\r\n", Err(ContentLength)),
        ("Content-Length: 5, 5\r\n", Err(ContentLength)),
        ("Content-Length: 5, 6\r\n", Err(ContentLength)),
        ("Content-Length: 5,\r\n", Err(ContentLength)),
        ("Content-Length: 5\r\ncontent-length: 5\r\n", Err(ContentLength)),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(ContentLength)),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(TwoLengths)),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(TwoLengths)),
        ("Transfer-Encoding: x\r\nContent-Length: x\r\n", Err(TwoLengths)),
        ("Transfer-Encoding:\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: identity\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: gzip\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: gzip, chunked\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: chunked, chunked\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: chunked, identity\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: , chunked\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: chunked;a=b\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: \"chunked\"\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: xchunked\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: chunked\u{a0}\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Err(TransferEncoding)),
    ];
    for (lines, length) in cases {
        assert_eq!(posted(lines).map(|head| head.body_length()), length, "request, {lines:?}");
        let length = length.map(|length| match lines {
            "" => BodyLength::UntilClose,
            _ => length,
        });
        let answered = answered("HTTP/1.1 200 OK", lines);
        assert_eq!(answered.map(|head| head.body_length("GET")), length, "response, {lines:?}");
    }
    let old = request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old, Err(TransferEncoding), "HTTP/1.0 has no chunks");
    let old = answered("HTTP/1.0 200 OK", "Transfer-Encoding: chunked\r\n");
    assert_eq!(old, Err(TransferEncoding), "HTTP/1.0 has no chunks");
}

#[test]
fn what_is_wrong_is_said_before_the_head_is_whole() {
    use BadHead::*;
    let refused = [
        ("GET / HTTP/1.1\n", LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\rb", LineEnd),
        ("\r\n\rG", LineEnd),
        ("GET / HTTP/1.1\r\nA: b\0", Control),
        ("GET / HTTP/1.1\r\nA: b\r\n ", Folded),
        ("GET / HTTP/1.1\r\nA :", HeaderName),
        ("GET / HTTP/1.1\r\n:", HeaderName),
        ("GET / HTTP/3", Version),
        ("G\u{fc}", FirstLine),
    ];
    for (bytes, error) in refused {
        assert_eq!(request(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn heads_are_bounded() {
    let begin = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let fill = |length: usize| format!("{begin}{}", "x".repeat(length - begin.len()));
    let longest = format!("{}\r\n\r\n", fill(MAX_HEAD - 4));
    assert_eq!(request(&longest).unwrap().unwrap().1, MAX_HEAD);
    assert_eq!(request(format!("\r\n{longest}")), Err(BadHead::TooLong));
    assert_eq!(request(format!("{}\r\n\r\n", fill(MAX_HEAD - 3))), Err(BadHead::TooLong));
    assert_eq!(request(fill(MAX_HEAD - 1)), Ok(None));
    assert_eq!(request(fill(MAX_HEAD)), Err(BadHead::TooLong));
    assert_eq!(response(fill(MAX_HEAD)), Err(BadHead::TooLong));

    let count = |count: usize| format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(count));
    assert_eq!(response(format!("{}\r\n", count(100))).unwrap().unwrap().0.headers.len(), 100);
    assert_eq!(response(format!("{}\r\n", count(101))), Err(BadHead::TooManyHeaders));
    assert_eq!(response(count(102)), Err(BadHead::TooManyHeaders), "before the head is whole");

    let method = |length: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(length));
    assert!(request(method(MAX_METHOD)).is_ok());
    assert_eq!(request(method(MAX_METHOD + 1)), Err(BadHead::Method));

    let target = |length: usize| format!("GET /{} HTTP/1.0\r\n\r\n", "a".repeat(length - 1));
    assert!(request(target(MAX_TARGET)).is_ok());
    assert_eq!(request(target(MAX_TARGET + 1)), Err(BadHead::TargetTooLong));
}

#[test]
fn connections_are_kept_by_version_and_option() {
    let cases = [
        ("1.1", "", true),
        ("1.1", "Connection: Keep-Alive\r\n", true),
        ("1.1", "Connection: Close\r\n", false),
        ("1.1", "Connection: upgrade\r\nConnection: x, close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        ("1.0", "Proxy-Connection: keep-alive\r\n", false),
    ];
    for (version, lines, kept) in cases {
        let asked = request(format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n"));
        assert_eq!(asked.unwrap().unwrap().0.keeps_alive(), kept, "{version} {lines}");
        let answered = answered(&format!("HTTP/{version} 200 OK"), lines);
        assert_eq!(answered.unwrap().keeps_alive(), kept, "{version} {lines}");
    }
}

#[test]
fn origins_are_asked_in_their_own_form() {
    let cases = [
        ("GET", "/live/s.flv?a", "/live/s.flv?a", "host"),
        ("GET", "http://other:80/live/s.flv?a", "/live/s.flv?a", "other:80"),
        ("GET", "http://other", "/", "other"),
        ("GET", "http://other?a", "/?a", "other"),
        ("OPTIONS", "http://other", "*", "other"),
        ("OPTIONS", "http://other/", "/", "other"),
        ("OPTIONS", "*", "*", "host"),
    ];
    for (method, target, form, authority) in cases {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: host\r\n\r\n");
        let head = request(bytes).unwrap().unwrap().0;
        assert_eq!(head.origin_form(), form, "{method} {target}");
        assert_eq!(head.authority(), Some(authority), "{method} {target}");
    }
}

#[test]
fn some_answers_have_no_body_whatever_they_say() {
    let lines = ["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"];
    for lines in lines {
        for (status, method) in [("100", "GET"), ("204", "GET"), ("304", "GET"), ("200", "HEAD")] {
            let head = answered(&format!("HTTP/1.1 {status} x"), lines).unwrap();
            assert_eq!(head.body_length(method), BodyLength::Known(0), "{status} {lines}");
        }
    }
    let lower = answered("HTTP/1.1 200 OK", "Content-Length: 5\r\n").unwrap();
    assert_eq!(lower.body_length("head"), BodyLength::Known(5), "methods have a case");
}

#[test]
fn status_lines_of_real_origins_are_read() {
    let cases: [(&[u8], u16, &[u8]); 6] = [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 404 Not Found", 404, b"Not Found"),
        (b"HTTP/1.0 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.1 200 gr\xfcn", 200, b"gr\xfcn"),
        (b"HTTP/1.1 999  odd", 999, b" odd"),
    ];
    for (line, status, reason) in cases {
        let head = response([line, b"\r\nA: \xfc\r\n\r\n"].concat()).unwrap().unwrap().0;
        assert_eq!((head.status, head.reason.as_slice()), (status, reason));
        assert_eq!(head.headers.get("a"), Some(b"\xfc".as_slice()));
    }
}

#[test]
fn what_is_no_status_line_is_refused() {
    use BadHead::*;
    let refused = [
        ("ICY 200 OK\r\n\r\n", Version),
        ("HTTP/2.0 200 OK\r\n\r\n", Version),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", FirstLine),
        ("HTTP/1.1 099 OK\r\n\r\n", FirstLine),
        ("HTTP/1.1 20 OK\r\n\r\n", FirstLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", FirstLine),
        ("HTTP/1.1  200 OK\r\n\r\n", FirstLine),
        ("HTTP/1.1 +20 OK\r\n\r\n", FirstLine),
        ("HTTP/1.1 200 OK\nA: b\r\n\r\n", LineEnd),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Folded),
        ("HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", HeaderName),
    ];
    for (bytes, error) in refused {
        assert_eq!(response(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn a_space_before_a_colon_of_an_origin_hides_no_length() {
    let head = answered("HTTP/1.1 200 OK", "Content-Length : 5\r\n").unwrap();
    assert_eq!(head.body_length("GET"), BodyLength::Known(5));
    let both = answered("HTTP/1.1 200 OK", "Content-Length : 5\r\nTransfer-Encoding: chunked\r\n");
    assert_eq!(both, Err(BadHead::TwoLengths));
}

#[test]
fn the_proxy_writes_its_own_version() {
    let mut written = Vec::new();
    request("GET /a HTTP/1.0\r\nhOST: b\r\n\r\n").unwrap().unwrap().0.write(&mut written);
    assert_eq!(written, b"GET /a HTTP/1.1\r\nhOST: b\r\n\r\n");
    written.clear();
    answered("HTTP/1.0 304", "eTag: x\r\n").unwrap().write(&mut written);
    assert_eq!(written, b"HTTP/1.1 304 \r\neTag: x\r\n\r\n");
}

#[test]
fn recorded_playlists_of_srs_are_read() {
    let recorded: [(&[u8], &str, &[u8]); 3] = [
        (
            include_bytes!("../../../../testdata/http/hls-master.http"),
            "application/vnd.apple.mpegurl",
            b"#EXTM3U",
        ),
        (
            include_bytes!("../../../../testdata/http/hls-media.http"),
            "application/vnd.apple.mpegurl",
            b"#EXTM3U",
        ),
        (include_bytes!("../../../../testdata/http/dash.http"), "application/dash+xml", b"<?xml"),
    ];
    for (bytes, content_type, first) in recorded {
        let (head, length) = response(bytes).unwrap().unwrap();
        let body = &bytes[length..];
        assert_eq!((head.status, head.reason.as_slice()), (200, b"OK".as_slice()));
        assert_eq!(head.headers.text("content-type"), Some(content_type));
        assert_eq!(head.body_length("GET"), BodyLength::Known(body.len() as u64));
        assert!(body.starts_with(first) && !head.keeps_alive());
        let mut reader = BodyReader::new(head.body_length("GET"));
        assert_eq!(reader.read(body, &mut |_| {}), Ok(body.len()));
        assert!(reader.is_done());
        let mut written = Vec::new();
        head.write(&mut written);
        assert_eq!(written, bytes[..length], "SRS writes heads as we do");
    }
}

#[test]
fn recorded_flv_of_srs_is_read() {
    let bytes = include_bytes!("../../../../testdata/http/flv-first-20k.http");
    let (head, length) = response(bytes).unwrap().unwrap();
    assert_eq!(head.headers.text("content-type"), Some("video/x-flv"));
    assert_eq!(head.body_length("GET"), BodyLength::Chunked);
    let media = &bytes[length..];
    // The recording has the media without its chunks: here they are again, one for the FLV header
    // and one for the tags.
    let (start, tags) = media.split_at(13);
    let mut chunked = Vec::new();
    for piece in [start, tags] {
        chunked.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    let mut reader = BodyReader::new(head.body_length("GET"));
    let mut payload = Vec::new();
    let taken = reader.read(&chunked, &mut |piece| payload.extend_from_slice(piece));
    assert_eq!(taken, Ok(chunked.len()));
    assert!(payload.starts_with(b"FLV") && payload == media && !reader.is_done());
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        method in "[A-Z]{1,32}",
        path in "/[!-\"$-~]{0,40}",
        lines in vec(("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", "([!-~]([ -~\u{e4}]{0,20}[!-~])?)?"), 0..20),
        reason in "[ -~]{0,20}",
        status in 100..=999_u16,
    ) {
        prop_assume!(method != "CONNECT");
        let mut headers = Headers::default();
        headers.push("Host", "a");
        for (name, value) in lines {
            headers.push(format!("X-{name}"), value);
        }
        let mut bytes = Vec::new();
        let asked = RequestHead {
            method,
            target: path,
            version: Version::Http11,
            headers: headers.clone(),
        };
        asked.write(&mut bytes);
        prop_assert_eq!(request(&bytes), Ok(Some((asked, bytes.len()))));
        bytes.clear();
        let reason = reason.into_bytes();
        let answered = ResponseHead { version: Version::Http11, status, reason, headers };
        answered.write(&mut bytes);
        prop_assert_eq!(response(&bytes), Ok(Some((answered, bytes.len()))));
    }

    #[test]
    fn an_error_stays_one_whatever_follows(
        bytes in "(GET|\r\n|[ -~]){1,3} (/|\\*)[ -~]{0,3} HTTP/1.[01](\r\n|\n)([ -~]{0,9}(\r\n|\r|\n)){0,4}",
    ) {
        let bytes = bytes.as_bytes();
        let whole = request(bytes);
        let first = (0..=bytes.len()).map(|end| request(&bytes[..end])).find(|seen| seen != &Ok(None));
        match first {
            None => prop_assert_eq!(whole, Ok(None)),
            Some(Ok(seen)) => prop_assert_eq!(whole, Ok(seen)),
            Some(Err(_)) => prop_assert!(whole.is_err()),
        }
    }
}
