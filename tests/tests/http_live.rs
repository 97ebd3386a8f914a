//! HTTP-FLV and HTTP-TS through the proxy, and how HTTP itself is passed on.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::nms::Nms;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::raw::{Client, Exchange, Request, Response, behind_a_proxy};
use srs_proxy_tests::{http, ports, story, wait};

const AT_ONCE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(20);

#[test]
fn ffmpeg_plays_over_rtmp_and_http_what_was_published_over_rtmp() -> Result<()> {
    story(|folder| {
        let source = ffmpeg::fixture_packets(folder)?;
        let origins = [Nms::start(folder, "a")?, Nms::start(folder, "b")?];
        let proxy = Proxy::start(folder, &[])?;
        for origin in &origins {
            origin.register_at(proxy.system_api())?;
        }
        for stream in ["one", "two", "three"] {
            let rtmp = proxy.url(stream);
            let flv = proxy.http_url(&format!("live/{stream}.flv"));
            // NMS holds its answer until the publisher is there.
            let early = ffmpeg::play(folder, &format!("{stream}-early"), &flv, Some(4))?;
            let publisher = format!("{stream}-publisher");
            let _publisher = ffmpeg::publish(folder, &publisher, Source::FixtureForEver, &rtmp)?;
            let late = ffmpeg::play(folder, &format!("{stream}-late"), &flv, Some(4))?;
            let beside = ffmpeg::play(folder, &format!("{stream}-rtmp"), &rtmp, Some(4))?;

            let expected =
                [("http", "play"), ("http", "play"), ("rtmp", "play"), ("rtmp", "publish")];
            wait::until_true("all four have a session", SOON, || {
                let sessions = proxy.sessions_of(stream)?;
                let mut kinds: Vec<_> =
                    sessions.iter().map(|it| (it.protocol.as_str(), it.role.as_str())).collect();
                kinds.sort_unstable();
                Ok(kinds == expected)
            })?;
            let all = ["http", "http", "rtmp"].map(str::to_owned).to_vec();
            wait::until_true("all are at one of the two origins", SOON, || {
                let mut homes = Vec::new();
                for origin in &origins {
                    let mut players = origin.players(stream)?;
                    players.sort();
                    homes.push((origin.has_publisher(stream)?, players));
                }
                homes.sort();
                Ok(homes == [(false, Vec::new()), (true, all.clone())])
            })?;
            for player in [early, late, beside] {
                player.finish(A_WHILE)?.must_be_a_part_of(&source, 75)?;
            }
        }
        Ok(())
    })
}

/// MPEG-TS as SRS sends it: chunked, a few packets in each piece, and closed at its end.
#[test]
fn ffmpeg_plays_every_packet_of_http_ts() -> Result<()> {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: video/MP2T\r\n";
    story(|folder| {
        ffmpeg::pack(folder, &["-f", "mpegts"], "source.ts")?;
        let file = folder.join("source.ts");
        let media = fs::read(&file)?;
        let source = ffmpeg::play(folder, "source", &file.to_string_lossy(), None)?;
        let source = source.finish(A_WHILE)?;
        let (proxy, origin) = behind_a_proxy(folder, &[], move |request, exchange| {
            exchange.close();
            let is_chunked = request.path() != "/live/until-close.ts";
            let pause =
                Duration::from_millis(if request.path() == "/live/paced.ts" { 10 } else { 0 });
            let coding = if is_chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
            exchange.send(format!("{HEAD}{coding}\r\n"))?;
            // An empty chunk is the last one.
            for piece in media.chunks(7 * 188).chain([&b""[..]]) {
                let size = format!("{:x}\r\n", piece.len());
                let framed = [size.as_bytes(), piece, b"\r\n"].concat();
                exchange.send(if is_chunked { &framed } else { piece })?;
                thread::sleep(pause);
            }
            Ok(())
        })?;
        for stream in ["paced", "at-once", "until-close"] {
            let url = proxy.http_url(&format!("live/{stream}.ts"));
            let packets = ffmpeg::play(folder, stream, &url, None)?.finish(A_WHILE)?;
            packets.must_be_a_part_of(&source, 300).context(stream)?;
            assert!(packets == source, "{stream}: not all of the packets");
        }
        assert_eq!(origin.count(), 3);
        Ok(())
    })
}

#[test]
fn what_srs_sends_arrives_as_it_was_sent() -> Result<()> {
    let recorded = include_bytes!("../fixtures/http/flv-first-20k.http");
    let end = recorded.windows(4).position(|window| window == b"\r\n\r\n").context("a head")?;
    let (head, media) = recorded.split_at(end + 4);
    // The record has the body without its chunks: as SRS cuts them, one for each tag or so.
    let chunk =
        |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    let body = media.chunks(1500).flat_map(chunk).collect::<Vec<u8>>();
    let sent = [head, &body].concat();
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], move |_, exchange| {
            exchange.send(&sent)?;
            exchange.hold(|| false)
        })?;
        let mut player = Client::connect(proxy.http())?;
        player.ask("GET", "/live/livestream.flv", "")?;
        let head = player.head()?;
        assert_eq!(head.line, "HTTP/1.1 200 OK");
        for (name, value) in [
            ("Content-Type", "video/x-flv"),
            ("Server", "SRS/7.0.18(Hang)"),
            ("Transfer-Encoding", "chunked"),
        ] {
            assert_eq!(head.field(name), Some(value), "{name}");
        }
        assert!(player.wire(body.len())? == body, "other bytes than SRS has sent");
        assert_eq!(origin.count(), 1);
        Ok(())
    })
}

#[test]
fn a_player_gets_each_byte_before_the_origin_sends_the_next() -> Result<()> {
    story(|folder| {
        let step = Arc::new(AtomicBool::default());
        let next = Arc::clone(&step);
        let (proxy, _origin) = behind_a_proxy(folder, &[], move |_, exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")?;
            for byte in ["G", "O"] {
                exchange.hold(|| next.swap(false, Ordering::Relaxed))?;
                exchange.send(byte)?;
            }
            exchange.hold(|| false)
        })?;
        // Each form of a live stream; without a length it lasts until the origin closes.
        for stream in ["show.flv", "show.ts", "show.aac", "show.mp3"] {
            let mut player = Client::connect(proxy.http())?;
            player.ask("GET", &format!("/live/{stream}"), "")?;
            assert_eq!(player.head()?.status()?, 200, "{stream}");
            for byte in [b"G", b"O"] {
                // The next is sent when this one has arrived: none can wait for company.
                step.store(true, Ordering::Relaxed);
                assert_eq!(player.wire(1).context(stream)?, byte, "{stream}");
            }
        }
        Ok(())
    })
}

#[test]
fn the_query_reaches_the_origin_byte_for_byte() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], echo)?;
        for target in [
            "/live/show.flv?token=a%2Fb+c&x==&y=%C3%A9&&z",
            "/live/show.ts?",
            "/live/show.m3u8?_HLS_msn=3&_HLS_part=1",
            "/live/show-1.ts?hls_ctx=9ed7l37i&e=1",
            "/live/%73how.flv?a=/../b?c",
            "//live//show.flv?vhost=example.com",
        ] {
            let answer = Client::connect(proxy.http())?.get(target)?;
            assert_eq!(answer.status(), 200, "{target}");
            let seen = origin.requests().last().map(|request| request.target().to_owned());
            assert_eq!(seen.as_deref(), Some(target));
        }
        Ok(())
    })
}

#[test]
fn a_preflight_is_answered_by_the_proxy_and_head_by_the_origin() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            let lines = "Access-Control-Allow-Origin: https://player.example\r\n\
                         Access-Control-Max-Age: 7\r\nContent-Type: video/x-flv\r\n";
            ensure!(request.method() != "OPTIONS", "a preflight at the origin");
            exchange.answer("200 OK", lines, "media")
        })?;
        let mut client = Client::connect(proxy.http())?;
        let lines = "Origin: https://player.example\r\nAccess-Control-Request-Method: GET\r\n\
                     Access-Control-Request-Headers: range\r\n";
        let preflight = client.request("OPTIONS", "/live/show.flv", lines)?;
        assert_eq!((preflight.status(), preflight.text().as_str()), (200, ""));
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "*"),
            ("access-control-allow-headers", "*, Authorization"),
        ] {
            assert_eq!(preflight.head.field(name), Some(value), "{name}");
        }
        let head = client.request("HEAD", "/live/show.flv", "")?;
        assert_eq!((head.status(), head.head.field("content-length")), (200, Some("5")));
        // Nothing of a body lies between the answers.
        let get = client.get("/live/show.flv")?;
        assert_eq!((get.status(), get.text().as_str()), (200, "media"));
        // An origin that has rules of its own keeps them.
        for answer in [&head, &get] {
            let allowed = answer.head.field("access-control-allow-origin");
            assert_eq!(allowed, Some("https://player.example"));
            assert_eq!(answer.head.field("access-control-max-age"), Some("7"));
        }
        let requests = origin.requests();
        let methods: Vec<_> = requests.iter().map(Request::method).collect();
        assert_eq!(methods, ["HEAD", "GET"]);
        Ok(())
    })
}

#[test]
fn a_connection_serves_one_request_after_the_other_in_order() -> Result<()> {
    story(|folder| {
        let (proxy, origin) =
            behind_a_proxy(folder, &[], |request, exchange| match request.path() {
                "/live/chunks.flv" => {
                    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                    exchange.send(format!("{head}3\r\nFLV\r\n"))?;
                    exchange.send("4;a=b\r\nDONE\r\n0\r\nX-Trailer: 1\r\n\r\n")
                }
                "/live/none.flv" => exchange.answer("404 Not Found", "", "no such stream"),
                _ => exchange.answer("200 OK", "", request.target()),
            })?;
        let targets =
            ["/live/a-1.ts", "/live/chunks.flv", "/live/none.flv", "/live/a.m3u8", "/live/a-2.ts"];
        let check = |place: usize, answer: &Response| -> Result<()> {
            let text = answer.text();
            match targets[place] {
                "/live/chunks.flv" => ensure!(text == "FLVDONE", "{text}"),
                "/live/none.flv" => ensure!(answer.status() == 404, "{:?}", answer.head),
                target => ensure!(text.starts_with(target), "{target}: {text}"),
            }
            Ok(())
        };
        let mut client = Client::connect(proxy.http())?;
        for (place, target) in targets.iter().enumerate() {
            check(place, &client.get(target)?)?;
        }
        // And all at once: each is asked for before the one before it is answered.
        for target in targets {
            client.ask("GET", target, "")?;
        }
        for place in 0..targets.len() {
            check(place, &client.answer("GET")?)?;
        }
        let seen: Vec<_> = origin.requests().iter().map(|it| it.target().to_owned()).collect();
        assert_eq!(seen, targets.repeat(2), "requests at the origin");
        // The client's wish to end is honoured.
        let last = client.request("GET", "/live/a-3.ts", "Connection: close\r\n")?;
        assert_eq!(last.status(), 200);
        client.must_be_closed_within(AT_ONCE)?;
        Ok(())
    })
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() -> Result<()> {
    story(|folder| {
        let (proxy, _origin) = behind_a_proxy(folder, &[], |request, exchange| {
            exchange.close();
            if request.head.line.ends_with("HTTP/1.0") {
                return exchange.send("HTTP/1.0 200 OK\r\n\r\nFLVDONE");
            }
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            exchange.send(format!("{head}3\r\nFLV\r\n4\r\nDONE\r\n0\r\n\r\n"))
        })?;
        for target in ["/live/show.flv", "/live/show-1.ts"] {
            let mut client = Client::connect(proxy.http())?;
            // HTTP/1.0 knows no Host field.
            client.send(format!("GET {target} HTTP/1.0\r\n\r\n"))?;
            let answer = client.answer("GET")?;
            assert_eq!((answer.status(), answer.text().as_str()), (200, "FLVDONE"), "{target}");
            assert_eq!(answer.head.all("transfer-encoding"), [""; 0], "{target}");
            client.must_be_closed_within(AT_ONCE)?;
        }
        Ok(())
    })
}

/// RFC 9112 3.2.2: the target's host stands above the field.
#[test]
fn an_absolute_target_is_a_path_at_the_origin() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], echo)?;
        let mut client = Client::connect(proxy.http())?;
        let answer = client.get("http://example.com:8080/live/show.flv?a=http://b/c")?;
        assert_eq!(answer.status(), 200);
        let request = origin.requests().pop().context("a request at the origin")?;
        assert_eq!(request.target(), "/live/show.flv?a=http://b/c");
        assert_eq!(request.head.field("host"), Some("example.com:8080"));
        Ok(())
    })
}

#[test]
fn a_publisher_who_asks_may_continue() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], echo)?;
        let body = b"FLV".repeat(100_000);
        let length = format!("Content-Length: {}\r\n", body.len());
        for framing in [length.as_str(), "Transfer-Encoding: chunked\r\n"] {
            let mut client = Client::connect(proxy.http())?;
            let lines = format!("{framing}Expect: 100-continue\r\n");
            client.ask("POST", "/live/show.flv", &lines)?;
            assert_eq!(client.head()?.status()?, 100, "{framing}");
            if framing == length {
                client.send(&body)?;
            } else {
                for chunk in body.chunks(70_000) {
                    client.send(format!("{:x}\r\n", chunk.len()))?;
                    client.send([chunk, b"\r\n"].concat())?;
                }
                client.send("0\r\n\r\n")?;
            }
            let answer = client.answer("POST")?;
            assert!(answer.status() == 200 && answer.body == body, "{framing}");
            let request = origin.requests().pop().context("a request at the origin")?;
            assert!(request.method() == "POST" && request.body == body, "{framing}");
        }
        Ok(())
    })
}

#[test]
fn an_origin_s_refusal_is_told_in_its_own_words() -> Result<()> {
    story(|folder| {
        let (proxy, _origin) = behind_a_proxy(folder, &[], |request, exchange| {
            let status = request.target().rsplit('=').next().unwrap_or_default();
            let lines = "Content-Type: application/json\r\nX-Reason: sold out\r\n\
                         WWW-Authenticate: Bearer\r\nLocation: /elsewhere\r\n";
            exchange.answer(&status.replace("%20", " "), lines, "{\"code\":2048}")
        })?;
        let mut client = Client::connect(proxy.http())?;
        for status in ["404 Not Found", "403 No Ticket", "401 Who", "302 Found", "500 Oops"] {
            for path in ["/live/show.flv", "/live/show.m3u8", "/live/show-0.ts", "/live/show.mpd"] {
                let target = format!("{path}?say={}", status.replace(' ', "%20"));
                let answer = client.get(&target)?;
                assert_eq!(answer.head.line, format!("HTTP/1.1 {status}"), "{path}");
                assert_eq!(answer.text(), "{\"code\":2048}", "{path}");
                for (name, value) in [
                    ("content-type", "application/json"),
                    ("x-reason", "sold out"),
                    ("www-authenticate", "Bearer"),
                    ("location", "/elsewhere"),
                ] {
                    assert_eq!(answer.head.field(name), Some(value), "{path}: {name}");
                }
            }
        }
        Ok(())
    })
}

/// RFC 9110 7.6.1.
#[test]
fn fields_pass_save_those_of_one_hop() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |_, exchange| {
            let lines = "Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nx-odd-CASE: \t kept \r\n\
                         Cache-Control: no-cache, max-age=3\r\nETag: \"x\"\r\n";
            exchange.answer("200 Fine By Me", lines, "media")
        })?;
        for target in ["/live/show.flv", "/live/show-1.ts"] {
            let mut client = Client::connect(proxy.http())?;
            let lines = "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\n\
                         Upgrade: h2c\r\nCookie: a=1\r\nAuthorization: Bearer abc\r\n\
                         User-Agent: VLC/3\r\nReferer: https://page.example/\r\n\
                         Accept-Encoding: gzip\r\nx-Odd-case: a:b, c\r\n";
            let answer = client.request("GET", target, lines)?;
            assert_eq!(answer.head.line, "HTTP/1.1 200 Fine By Me", "{target}");
            for hop in ["x-hop", "keep-alive"] {
                assert_eq!(answer.head.all(hop), [""; 0], "{target}: {hop} of the origin");
            }
            assert_eq!(answer.head.all("set-cookie"), ["a=1", "b=2"]);
            let odd = answer.head.fields.iter().find(|(name, _)| name == "x-odd-CASE");
            assert_eq!(odd.map(|(_, value)| value.as_str()), Some("kept"), "{:?}", answer.head);
            assert_eq!(answer.head.field("cache-control"), Some("no-cache, max-age=3"));

            let request = origin.requests().pop().context("a request at the origin")?;
            for hop in ["x-mine", "te", "upgrade"] {
                assert_eq!(request.head.all(hop), [""; 0], "{target}: {hop} of the client");
            }
            let host = proxy.http().to_string();
            for (name, value) in [
                ("host", host.as_str()),
                ("cookie", "a=1"),
                ("authorization", "Bearer abc"),
                ("user-agent", "VLC/3"),
                ("referer", "https://page.example/"),
                ("accept-encoding", "gzip"),
                ("x-odd-case", "a:b, c"),
            ] {
                assert_eq!(request.head.field(name), Some(value), "{target}: {name}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_player_who_stops_waiting_for_a_publisher_is_forgotten() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |_, exchange| exchange.hold(|| false))?;
        let mut waiting = Vec::new();
        for n in 0..20 {
            let mut player = Client::connect(proxy.http())?;
            player.ask("GET", &format!("/live/show{n}.flv"), "")?;
            waiting.push(player);
        }
        wait::until_true("all are held", SOON, || Ok(origin.open() == 20))?;
        drop(waiting);
        wait::until_true("the origin is told", SOON, || Ok(origin.open() == 0))?;
        wait::until_true("no session remains", SOON, || Ok(proxy.sessions()?.is_empty()))
    })
}

#[test]
fn a_live_stream_may_begin_late_and_a_segment_may_not() -> Result<()> {
    story(|folder| {
        let published = Arc::new(AtomicBool::default());
        let is_published = Arc::clone(&published);
        let variables = [("PROXY_HTTP_ORIGIN_TIMEOUT", "1s")];
        let (proxy, origin) = behind_a_proxy(folder, &variables, move |request, exchange| {
            exchange.hold(|| is_published.load(Ordering::Relaxed))?;
            exchange.answer("200 OK", "", request.path())
        })?;
        let mut player = Client::connect(proxy.http())?;
        player.ask("GET", "/live/show.flv", "")?;
        for target in ["/live/show-1.ts", "/live/other.m3u8", "/live/other.mpd"] {
            let asked = Instant::now();
            let answer = Client::connect(proxy.http())?.get(target)?;
            says_nothing_of_the_inside(&answer, 504, origin.address().port())?;
            assert!(asked.elapsed() < 3 * AT_ONCE, "{target}: {:?}", asked.elapsed());
        }
        published.store(true, Ordering::Relaxed);
        assert_eq!(player.answer("GET")?.text(), "/live/show.flv");
        Ok(())
    })
}

#[test]
fn without_an_origin_the_answer_is_short_and_says_nothing_of_the_inside() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &[("PROXY_ORIGIN_CONNECT_TIMEOUT", "1s")])?;
        let targets = ["/live/show.flv", "/live/show.m3u8", "/live/show-0.ts", "/live/show.mpd"];
        let mut client = Client::connect(proxy.http())?;
        for target in targets {
            says_nothing_of_the_inside(&client.get(target)?, 503, 0).context(target)?;
        }
        let nobody = register_nobody(&proxy)?;
        for target in targets {
            says_nothing_of_the_inside(&client.get(target)?, 502, nobody).context(target)?;
        }
        // HEAD has no body, and its connection goes on.
        let head = client.request("HEAD", "/live/show.flv", "")?;
        assert_eq!(head.status(), 502);
        assert_eq!(client.get("/live/show.flv")?.status(), 502);
        Ok(())
    })
}

#[test]
fn nobody_notices_an_origin_that_refuses_connections() -> Result<()> {
    story(|folder| {
        let (proxy, _origin) = behind_a_proxy(folder, &[], echo)?;
        register_nobody(&proxy)?;
        for n in 0..8 {
            for file in [format!("show{n}.flv"), format!("list{n}.m3u8"), format!("on{n}-1.ts")] {
                let asked = Instant::now();
                let answer = Client::connect(proxy.http())?.get(&format!("/live/{file}"))?;
                assert_eq!(answer.status(), 200, "{file}");
                assert!(asked.elapsed() < AT_ONCE, "{file} waited {:?}", asked.elapsed());
            }
        }
        Ok(())
    })
}

#[test]
fn requests_are_counted_by_what_was_asked_for_and_what_came_of_it() -> Result<()> {
    story(|folder| {
        let (proxy, _origin) = behind_a_proxy(folder, &[], |request, exchange| {
            let status = if request.path().contains("none") { "404 No Such" } else { "200 OK" };
            exchange.answer(status, "", "#EXTM3U\n")
        })?;
        let mut client = Client::connect(proxy.http())?;
        for (target, kind, status) in [
            ("/live/show.flv", "live", "2xx"),
            ("/live/none.flv", "live", "4xx"),
            ("/live/show.m3u8", "playlist", "2xx"),
            ("/live/none.m3u8", "playlist", "4xx"),
            ("/live/show-0.m4s", "media", "2xx"),
            ("/live/none-0.m4s", "media", "4xx"),
        ] {
            client.get(target)?;
            let labels = [("kind", kind), ("status", status)];
            wait::until_true(&format!("{target} is counted"), SOON, || {
                Ok(proxy.metric("srs_proxy_http_requests_total", &labels)? == 1)
            })?;
        }
        Ok(())
    })
}

/// Answers with the request's own body.
fn echo(request: &Request, exchange: &mut Exchange<'_>) -> Result<()> {
    exchange.answer("200 OK", "", &request.body)
}

/// Fails unless it is a short plain text of this status without an address or this port.
fn says_nothing_of_the_inside(answer: &Response, status: u16, port: u16) -> Result<()> {
    let text = answer.text();
    ensure!(answer.status() == status, "{status} expected: {} {text}", answer.head.line);
    let kind = answer.head.field("content-type").unwrap_or_default();
    ensure!(kind.starts_with("text/plain"), "the content type is {kind:?}");
    ensure!((1..200).contains(&text.len()), "{} bytes of text: {text}", text.len());
    let all = format!("{:?}{text}", answer.head.fields);
    for inside in ["127.0.0.1".to_owned(), "vid-".to_owned(), port.to_string()] {
        ensure!(port == 0 || !all.contains(&inside), "{inside} is in it: {all}");
    }
    Ok(())
}

/// Registers an origin on whose port nobody listens, and gives the port.
fn register_nobody(proxy: &Proxy) -> Result<u16> {
    let nobody = ports::free()?;
    let port = nobody.port().to_string();
    let heartbeat = json!({
        "ip": nobody.ip(), "server": "vid-nobody", "service": "s", "pid": "1",
        "rtmp": [port], "http": [port],
    });
    let answer = http::post(proxy.system_api(), "/api/v1/srs/register", &heartbeat.to_string())?;
    ensure!(answer.status == 200, "{}", answer.body);
    Ok(nobody.port())
}
