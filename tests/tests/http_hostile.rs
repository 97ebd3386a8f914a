//! HTTP that means no good, from clients and from origins: it is refused, nothing of it reaches
//! the other side, and nobody else notices.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::raw::{Client, Head, Origin, behind_a_proxy};
use srs_proxy_tests::{story, usage, wait};

const SOON: Duration = Duration::from_secs(10);
/// Longest life of a connection that is refused: the limits below, and some slack.
const BOUND: Duration = Duration::from_secs(4);

/// A proxy and an origin whose FLV streams never end; anything else is `ok`.
fn start(folder: &Path) -> Result<(Proxy, Origin)> {
    let limits = [("PROXY_HTTP_HEAD_TIMEOUT", "1s"), ("PROXY_HTTP_KEEPALIVE_TIMEOUT", "1s")];
    behind_a_proxy(folder, &limits, |request, exchange| {
        if request.extension() != "flv" {
            return exchange.answer("200 OK", "", "ok");
        }
        exchange.send("HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n\r\n")?;
        loop {
            exchange.send(vec![9; TICK_BYTES])?;
            std::thread::sleep(TICK);
        }
    })
}

const TICK: Duration = Duration::from_millis(40);
const TICK_BYTES: usize = 4000;

/// What stands behind every malformed head or body: a request that must never be one.
const SMUGGLED: &str = "GET /live/smuggled-1.ts HTTP/1.1\r\nHost: a\r\n\r\n";

/// Heads that are refused, RFC 9112 and RFC 9110 5.
fn malformed_heads() -> Vec<(&'static str, Vec<u8>)> {
    let fields = |name, lines: &str| {
        let head = format!("POST /live/show-1.ts HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        (name, head.into_bytes())
    };
    let line = |name, line: &str| (name, format!("{line}\r\nHost: a\r\n\r\n").into_bytes());
    let whole = |name, head: &str| (name, head.to_owned().into_bytes());
    vec![
        fields("both lengths", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        fields("both, the other way", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        fields("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        fields("a list of lengths", "Content-Length: 5, 6\r\n"),
        fields("a length with a sign", "Content-Length: +5\r\n"),
        fields("a negative length", "Content-Length: -1\r\n"),
        fields("a hexadecimal length", "Content-Length: 0x5\r\n"),
        fields("a length of two words", "Content-Length: 5 5\r\n"),
        fields("a length of none", "Content-Length: \r\n"),
        fields("a length of many digits", &format!("Content-Length: {}\r\n", "9".repeat(40))),
        fields("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        fields("a coding behind chunked", "Transfer-Encoding: chunked, gzip\r\n"),
        fields("chunked twice", "Transfer-Encoding: chunked, chunked\r\n"),
        fields("an unknown coding", "Transfer-Encoding: xchunked\r\n"),
        fields("a coding with a vertical tab", "Transfer-Encoding: \u{b}chunked\r\n"),
        fields("a coding with a parameter", "Transfer-Encoding: chunked;a=b\r\n"),
        fields("a coding in quotes", "Transfer-Encoding: \"chunked\"\r\n"),
        fields("an empty coding", "Transfer-Encoding:\r\nContent-Length: 5\r\n"),
        fields("a blank before the colon", "Transfer-Encoding : chunked\r\n"),
        fields("a tab before the colon", "Content-Length\t: 5\r\n"),
        fields("a blank in a name", "X Y: 1\r\n"),
        fields("a name of none", ": 1\r\n"),
        fields("a name with a control character", "X\u{1}: 1\r\n"),
        fields("a line without a colon", "nonsense\r\n"),
        fields("a folded line", "X: 1\r\n Transfer-Encoding: chunked\r\n"),
        fields("a line feed alone", "X: 1\nTransfer-Encoding: chunked\r\n"),
        fields("a carriage return alone", "X: 1\rTransfer-Encoding: chunked\r\n"),
        fields("a zero byte", "X: \0\r\n"),
        fields("a second host", "Host: b\r\n"),
        fields("101 fields", &"X: 1\r\n".repeat(100)),
        fields("a head of 33 KiB", &format!("X: {}\r\n", "a".repeat(33 << 10))),
        whole("a folded first line", "GET /live/show-1.ts HTTP/1.1\r\n X: 1\r\nHost: a\r\n\r\n"),
        whole("line feeds only", "GET /live/show-1.ts HTTP/1.1\nHost: a\n\n"),
        whole("no host", "GET /live/show-1.ts HTTP/1.1\r\n\r\n"),
        line("two blanks", "GET  /live/show-1.ts HTTP/1.1"),
        line("a blank in the target", "GET /live/show 1.ts HTTP/1.1"),
        line("a zero byte in the target", "GET /live/show\0.ts HTTP/1.1"),
        line("a target of 33 KiB", &format!("GET /{} HTTP/1.1", "a".repeat(33 << 10))),
        line("no version", "GET /live/show-1.ts"),
        line("a version of another protocol", "GET /live/show-1.ts RTSP/1.0"),
        line("a version in small letters", "GET /live/show-1.ts http/1.1"),
        line("a method that is none", "G(T /live/show-1.ts HTTP/1.1"),
        line("a tab for a blank", "GET\t/live/show-1.ts HTTP/1.1"),
        whole("noise", "\u{1}\u{2}\u{3}\r\n\r\n"),
        ("a TLS client", [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0; 512]].concat()),
    ]
}

#[test]
fn malformed_heads_are_refused_and_what_follows_is_no_request() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = start(folder)?;
        for (name, head) in malformed_heads() {
            let mut client = Client::connect(proxy.http())?;
            // A refusal may come before all is sent, and a reset with it.
            let sent = client.send([&head[..], SMUGGLED.as_bytes()].concat());
            let said = client.must_be_closed_within(BOUND).context(name)?;
            let said = String::from_utf8_lossy(&said).into_owned();
            ensure!(said.starts_with("HTTP/1.1 400 "), "{name}: {said:?}, sent: {sent:?}");
            ensure!(
                said.matches("HTTP/1.1 4").count() == 1 && !said.contains("HTTP/1.1 2"),
                "{name}: more than one answer: {said}"
            );
        }
        assert_eq!((origin.count(), origin.faults()), (0, Vec::new()), "what reached the origin");
        // None of it is wrong up to its limit.
        let mut client = Client::connect(proxy.http())?;
        for lines in ["X: 1\r\n".repeat(90), format!("X: {}\r\n", "a".repeat(31 << 10))] {
            assert_eq!(client.request("GET", "/live/show-1.ts", &lines)?.status(), 200);
        }
        Ok(())
    })
}

/// A malformed body is found when its head has gone on already.
#[test]
fn malformed_bodies_end_their_connections() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = start(folder)?;
        let chunked =
            "POST /live/show-1.ts HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (name, body) in [
            ("a size of no digit", "x\r\nabc\r\n0\r\n\r\n"),
            ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
            ("a size with a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
            ("a size before a blank line", "\r\n3\r\nabc\r\n0\r\n\r\n"),
            ("a size of many digits", "fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
            ("a chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
            ("a size ended by a line feed", "3\nabc\r\n0\r\n\r\n"),
            ("a chunk ended by a line feed", "3\r\nabc\n0\r\n\r\n"),
            ("a line feed in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
            ("a trailer that is none", "0\r\nGET / HTTP/1.1\r\n\r\n"),
        ] {
            let mut client = Client::connect(proxy.http())?;
            client.send(format!("{chunked}{body}{SMUGGLED}"))?;
            let said = client.must_be_closed_within(BOUND).context(name)?;
            let said = String::from_utf8_lossy(&said).into_owned();
            ensure!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{name}: {said:?}");
        }
        let seen = origin.requests();
        let smuggled = seen.iter().filter(|request| request.target().contains("smuggled"));
        assert_eq!(smuggled.count(), 0, "requests: {seen:?}");
        // A client that stops in the middle of its body has asked for nothing whole.
        let before = origin.count();
        let mut client = Client::connect(proxy.http())?;
        client.send(format!("{chunked}3\r\nab"))?;
        client.finish_sending()?;
        client.must_be_closed_within(BOUND)?;
        assert_eq!(origin.count(), before, "half a body became a whole one");
        Ok(())
    })
}

#[test]
fn slow_and_silent_clients_are_ended() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = start(folder)?;
        let mut silent = Client::connect(proxy.http())?;
        let mut slow = Client::connect(proxy.http())?;
        let mut idle = Client::connect(proxy.http())?;
        assert_eq!(idle.get("/live/show-1.ts")?.status(), 200);
        let mut slow_later = Client::connect(proxy.http())?;
        assert_eq!(slow_later.get("/live/show-1.ts")?.status(), 200);
        let head = format!("GET /live/show-1.ts HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(1000));
        let start = Instant::now();
        for byte in head.bytes() {
            // Until it is cut off.
            if slow.send([byte]).is_err() && slow_later.send([byte]).is_err() {
                break;
            }
            if start.elapsed() > BOUND {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for (name, client) in [
            ("slow", &mut slow),
            ("slow after a request", &mut slow_later),
            ("silent", &mut silent),
            ("idle", &mut idle),
        ] {
            let said = client.must_be_closed_within(BOUND).context(name)?;
            let said = String::from_utf8_lossy(&said).into_owned();
            ensure!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "{name}: {said:?}");
        }
        assert!(start.elapsed() < 2 * BOUND, "ended after {:?}", start.elapsed());
        assert_eq!(origin.count(), 2, "only whole requests reached the origin");
        Ok(())
    })
}

#[test]
fn what_stands_behind_an_endless_answer_waits_for_ever_and_costs_little() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = start(folder)?;
        let mut player = Client::connect(proxy.http())?;
        player.ask("GET", "/live/show.flv", "")?;
        player.send(SMUGGLED)?;
        assert_eq!(player.head()?.status()?, 200);
        let memory = usage::memory(proxy.process.id())?;
        let start = Instant::now();
        // As much as the proxy takes: then either it reads no more, or it has ended this session.
        let mut sent = 0;
        while start.elapsed() < Duration::from_secs(3) && sent < (64 << 20) {
            let (_, open) = player.watch(Duration::from_millis(1))?;
            if !open || player.send_some(SMUGGLED.repeat(1000))? == 0 {
                break;
            }
            sent += SMUGGLED.len() * 1000;
        }
        let grown = usage::memory(proxy.process.id())?.saturating_sub(memory);
        assert!(grown < 4 << 20, "{sent} bytes behind an endless answer cost {grown} of memory");
        let targets: Vec<_> = origin.requests().iter().map(|it| it.target().to_owned()).collect();
        assert_eq!(targets, ["/live/show.flv"]);
        assert_eq!(origin.faults(), Vec::<String>::new());
        Ok(())
    })
}

/// A player that is not read would hold its origin for ever: nobody would see it leave.
#[test]
fn who_sends_many_requests_behind_a_live_stream_is_ended() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            match request.path() {
                "/live/held.flv" => return exchange.hold(|| false),
                "/live/first-1.ts" => {
                    let asked = Instant::now();
                    exchange.hold(|| asked.elapsed() > SOON / 20)?;
                    return exchange.answer("200 OK", "Connection: close\r\n", "first");
                }
                _ => {}
            }
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                exchange.send("5\r\nmedia\r\n")?;
                std::thread::sleep(TICK);
            }
        })?;
        for (place, path) in ["/live/held.flv", "/live/running.flv"].into_iter().enumerate() {
            let mut player = Client::connect(proxy.http())?;
            player.ask("GET", path, "")?;
            wait::until_true("it is at the origin", SOON, || Ok(origin.count() == place + 1))?;
            // It may be ended before it has said all.
            let _ = player.send(SMUGGLED.repeat((64 << 10) / SMUGGLED.len()));
            let said = player.must_be_closed_within(BOUND).context(path)?;
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(said.matches("HTTP/1.1 ").count() <= 1, "{path}: {said}");
            wait::until_true("the origin is free", BOUND, || Ok(origin.open() == 0))?;
            let last = origin.requests().pop().context("a request")?;
            assert_eq!((last.path(), origin.count()), (path, place + 1));
        }
        // The live stream itself is one of those sent ahead, and many more are behind it.
        let mut player = Client::connect(proxy.http())?;
        player.ask("GET", "/live/first-1.ts", "")?;
        player.ask("GET", "/live/held.flv", "")?;
        player.send(SMUGGLED.repeat((64 << 10) / SMUGGLED.len()))?;
        assert_eq!(player.answer("GET")?.text(), "first");
        let said = player.must_be_closed_within(BOUND).context("ahead")?;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            said.starts_with("HTTP/1.1 400 ") && said.matches("HTTP/1.1 ").count() == 1,
            "{said}"
        );
        wait::until_true("the origin is free", BOUND, || Ok(origin.open() == 0))?;
        assert_eq!(origin.count(), 3, "requests at the origin");
        Ok(())
    })
}

#[test]
fn interim_answers_have_an_end() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |_, exchange| {
            exchange.send("HTTP/1.1 100 Continue\r\n\r\n".repeat(300))?;
            exchange.answer("200 OK", "", "#EXTM3U\n")
        })?;
        for path in ["/live/show.flv", "/live/show-1.ts", "/live/show.m3u8"] {
            let mut client = Client::connect(proxy.http())?;
            client.ask("GET", path, "")?;
            assert_eq!(final_head(&mut client)?.status()?, 502, "{path}");
        }
        wait::until_true("no connection remains", SOON, || Ok(origin.open() == 0))
    })
}

/// Each URI of a playlist grows by a token: one of many short ones grows most.
#[test]
fn a_playlist_of_many_uris_for_slow_readers_costs_little() -> Result<()> {
    const READERS: usize = 8;
    story(|folder| {
        let playlist = format!("#EXTM3U\n{}", "a\n".repeat(60_000));
        let (proxy, _origin) = behind_a_proxy(folder, &[], move |_, exchange| {
            exchange.answer("200 OK", "", &playlist)
        })?;
        let mut readers = Vec::new();
        Client::connect(proxy.http())?.get("/live/show.m3u8")?;
        let memory = usage::memory(proxy.process.id())?;
        // With a short token all of it has room, with a long one it has not.
        for name in ["show".to_owned(), "s".repeat(400)].iter().cycle().take(READERS) {
            let mut reader = Client::connect(proxy.http())?;
            reader.ask("GET", &format!("/live/{name}.m3u8"), "")?;
            let head = reader.head()?;
            assert_eq!(head.status()?, 200);
            readers.push((reader, head));
        }
        let grown = usage::memory(proxy.process.id())?.saturating_sub(memory);
        assert!(grown < (10 << 20) * READERS as u64, "{READERS} readers cost {grown}");
        for (reader, head) in &mut readers {
            let body = String::from_utf8(reader.body(head, "GET", usize::MAX)?)?;
            assert_eq!(body.lines().count(), 60_001);
        }
        Ok(())
    })
}

/// Answers of an origin that cannot be passed on: where such a body ends is a matter of opinion.
const MALFORMED_ANSWERS: &[(&str, &str)] = &[
    ("both lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    ("a length with a sign", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n"),
    ("a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n"),
    ("an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    ("chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    ("a folded line", "HTTP/1.1 200 OK\r\nX: 1\r\n Set-Cookie: a\r\n\r\n"),
    ("a carriage return alone", "HTTP/1.1 200 OK\r\nX: 1\rSet-Cookie: a\r\n\r\n"),
    ("a zero byte", "HTTP/1.1 200 OK\r\nX: \0\r\n\r\n"),
    ("a status of two digits", "HTTP/1.1 20 OK\r\n\r\n"),
    ("a status of no digit", "HTTP/1.1 abc OK\r\n\r\n"),
    ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    ("noise", "\u{1}\u{2}\u{3}\r\n\r\n"),
    ("no answer", ""),
];

#[test]
fn malformed_answers_are_not_passed_on() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            exchange.close();
            let name = request.target().rsplit('=').next().unwrap_or_default();
            if name == "endless" {
                exchange.send("HTTP/1.1 200 OK\r\n")?;
                loop {
                    exchange.send(format!("X: {}\r\n", "a".repeat(1000)))?;
                }
            }
            let place: usize = name.parse()?;
            let (_, head) = MALFORMED_ANSWERS.get(place).context("such an answer")?;
            exchange.send(format!("{head}5\r\nmedia\r\n0\r\n\r\n"))
        })?;
        let names = MALFORMED_ANSWERS.iter().map(|(name, _)| *name).enumerate();
        let numbered = names.map(|(place, name)| (place.to_string(), name));
        for (number, name) in numbered.chain([("endless".to_owned(), "an endless head")]) {
            for path in ["/live/show.flv", "/live/show-1.ts", "/live/show.m3u8"] {
                let mut client = Client::connect(proxy.http())?;
                let answer = client.get(&format!("{path}?say={number}"));
                let answer = answer.with_context(|| format!("{name}: {path}"))?;
                assert_eq!(answer.status(), 502, "{name}: {path}: {:?}", answer.head);
                let text = answer.text();
                assert!(!text.contains("media") && !text.contains("127.0.0.1"), "{name}: {text}");
            }
        }
        wait::until_true("no connection remains", SOON, || Ok(origin.open() == 0))
    })
}

#[test]
fn an_answer_that_is_cut_short_is_not_made_whole() -> Result<()> {
    story(|folder| {
        let (proxy, _origin) = behind_a_proxy(folder, &[], |request, exchange| {
            exchange.close();
            let head = "HTTP/1.1 200 OK\r\n";
            match request.target().rsplit('=').next() {
                Some("length") => exchange.send(format!("{head}Content-Length: 9\r\n\r\nmedia")),
                Some("chunk") => {
                    exchange.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n9\r\nmedia"))
                }
                Some("chunks") => {
                    let chunk = "5\r\nmedia\r\n";
                    exchange.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}"))
                }
                _ => exchange.send(format!("{head}Transfer-Encoding: chunked\r\n\r\nz\r\nmedia")),
            }
        })?;
        for path in ["/live/show.flv", "/live/show-1.ts", "/live/show.m3u8", "/live/show.mpd"] {
            for cut in ["length", "chunk", "chunks", "nonsense"] {
                let mut client = Client::connect(proxy.http())?;
                client.ask("GET", &format!("{path}?cut={cut}"), "")?;
                let head = client.head()?;
                // A playlist is read before anything of it is sent.
                if head.status()? == 502 {
                    continue;
                }
                let body = client.body(&head, "GET", usize::MAX);
                assert!(body.is_err(), "{path}, cut in {cut}: a whole body: {body:?}");
                client.must_be_closed_within(SOON)?;
            }
        }
        Ok(())
    })
}

/// RFC 9110 15.2.
#[test]
fn the_final_answer_is_found_behind_interim_ones() -> Result<()> {
    story(|folder| {
        let (proxy, _origin) = behind_a_proxy(folder, &[], |_, exchange| {
            exchange
                .send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n")?;
            exchange.answer("200 OK", "", "#EXTM3U\n")
        })?;
        let mut client = Client::connect(proxy.http())?;
        for path in ["/live/show.flv", "/live/show-1.ts", "/live/show.m3u8"] {
            client.ask("GET", path, "")?;
            let head = final_head(&mut client)?;
            let body = client.body(&head, "GET", usize::MAX)?;
            assert_eq!((head.status()?, &body[..]), (200, &b"#EXTM3U\n"[..]), "{path}");
        }
        Ok(())
    })
}

fn final_head(client: &mut Client) -> Result<Head> {
    loop {
        let head = client.head()?;
        if head.status()? >= 200 {
            return Ok(head);
        }
    }
}

#[test]
fn malformed_requests_cost_a_neighbour_nothing() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = start(folder)?;
        let mut player = Client::connect(proxy.http())?;
        player.ask("GET", "/live/show.flv", "")?;
        let head = player.head()?;
        let memory = usage::memory(proxy.process.id())?;
        let start = Instant::now();
        for (name, head) in malformed_heads().iter().cycle().take(300) {
            let mut client = Client::connect(proxy.http())?;
            // A refusal may come before all is sent.
            let _ = client.send(head);
            client.must_be_closed_within(BOUND).context(*name)?;
        }
        let due = start.elapsed().as_millis() / TICK.as_millis();
        let due = usize::try_from(due)? * TICK_BYTES / 2;
        let body = player.body(&head, "GET", due)?;
        assert!(body.iter().all(|&byte| byte == 9), "other bytes than the origin's");
        assert!(start.elapsed() < SOON * 3, "the player was slow: {:?}", start.elapsed());
        let grown = usage::memory(proxy.process.id())?.saturating_sub(memory);
        assert!(grown < 8 << 20, "300 malformed requests left {grown} bytes");
        assert_eq!(origin.count(), 1, "requests at the origin");
        wait::until_true("only the player is there", SOON, || Ok(proxy.sessions()?.len() == 1))
    })
}
