//! How answers end: what is not whole does not look so, and who waits no longer is let go.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::raw::{Client, behind_a_proxy, register};
use srs_proxy_tests::{story, wait};

const SOON: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_secs(4);

#[test]
fn an_answer_cut_short_does_not_end_in_order_where_the_end_is_its_end() -> Result<()> {
    story(|folder| {
        let let_go = Arc::new(AtomicBool::default());
        let may_go = Arc::clone(&let_go);
        let (proxy, _origin) = behind_a_proxy(folder, &[], move |request, exchange| {
            let (start, end) = match request.target().rsplit('=').next() {
                Some("chunks") => ("Transfer-Encoding: chunked\r\n\r\n5\r\nmedia\r\n", "z\r\n"),
                Some("chunks-lost") => ("Transfer-Encoding: chunked\r\n\r\n5\r\nmedia\r\n", ""),
                _ => ("\r\nmedia", ""),
            };
            exchange.send(format!("HTTP/1.1 200 OK\r\n{start}"))?;
            exchange.hold(|| may_go.swap(false, Ordering::Relaxed))?;
            exchange.send(end)?;
            exchange.close();
            match request.target().rsplit('=').next() {
                Some("reset" | "chunks-lost") => exchange.reset(),
                _ => Ok(()),
            }
        })?;
        for (cut, version, is_whole) in [
            ("reset", "1.1", false),
            ("reset", "1.0", false),
            ("chunks", "1.0", false),
            ("chunks-lost", "1.0", false),
            ("none", "1.1", true),
        ] {
            for path in ["/live/show-1.ts", "/live/show.mp4"] {
                let target = format!("{path}?cut={cut}");
                let mut client = Client::connect(proxy.http())?;
                client.send(format!("GET {target} HTTP/{version}\r\nHost: a\r\n\r\n"))?;
                assert_eq!(client.head()?.status()?, 200, "{target}");
                assert_eq!(client.wire(5)?, b"media", "{target}");
                let_go.store(true, Ordering::Relaxed);
                let rest = client.must_be_closed_within(AT_ONCE).context(target.clone())?;
                let ended = (rest.len(), client.was_reset());
                assert_eq!(ended, (0, !is_whole), "{target}, HTTP/{version}");
            }
        }
        Ok(())
    })
}

#[test]
fn an_answer_before_the_end_of_the_request_frees_the_client() -> Result<()> {
    story(|folder| {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let is_full = Arc::new(AtomicBool::default());
        let may_answer = Arc::clone(&is_full);
        // It reads nothing of the body, answers when no more of it has room, and keeps the
        // connection.
        thread::spawn(move || -> Result<()> {
            let mut kept = Vec::new();
            loop {
                let (mut socket, _) = listener.accept()?;
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte)? > 0 {
                    head.extend(byte);
                }
                wait::until_true("a full connection", 2 * SOON, || {
                    Ok(may_answer.swap(false, Ordering::Relaxed))
                })?;
                socket.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n")?;
                kept.push(socket);
            }
        });
        let proxy = Proxy::start(folder, &[])?;
        register(address, proxy.system_api(), "origin")?;
        for path in ["/live/show-1.ts", "/live/show.flv"] {
            let mut client = Client::connect(proxy.http())?;
            client.ask("POST", path, "Content-Length: 100000000\r\n")?;
            while client.send_some(vec![7; 1 << 20])? > 0 {}
            is_full.store(true, Ordering::Relaxed);
            let answered = Instant::now();
            let answer = client.answer("POST")?;
            assert_eq!((answer.status(), answer.text().as_str()), (413, "no\n"), "{path}");
            client.must_be_closed_within(AT_ONCE)?;
            assert!(answered.elapsed() < AT_ONCE, "{path}: {:?}", answered.elapsed());
        }
        wait::until_true("no session remains", SOON, || Ok(proxy.sessions()?.is_empty()))
    })
}

#[test]
fn who_says_no_more_gets_what_was_asked_for() -> Result<()> {
    const LATER: Duration = Duration::from_millis(500);
    story(|folder| {
        let playlist = "#EXTM3U\n#EXTINF:1,\nhttp://elsewhere/show-1.ts\n";
        let (proxy, origin) = behind_a_proxy(folder, &[], move |request, exchange| {
            // Long enough for the client's end to be known to the proxy.
            let asked = Instant::now();
            exchange.hold(|| asked.elapsed() > LATER)?;
            match request.extension() {
                "m3u8" => exchange.answer("200 OK", "", playlist),
                _ => exchange.answer("200 OK", "", vec![7; 4 << 20]),
            }
        })?;
        for (path, length) in [("/live/show.m3u8", playlist.len()), ("/live/show-1.ts", 4 << 20)] {
            let mut client = Client::connect(proxy.http())?;
            client.ask("GET", path, "")?;
            client.finish_sending()?;
            let answer = client.answer("GET").context(path)?;
            assert_eq!((answer.status(), answer.body.len()), (200, length), "{path}");
            client.must_be_closed_within(AT_ONCE)?;
        }
        // Both of two that were sent ahead.
        let mut client = Client::connect(proxy.http())?;
        client.ask("GET", "/live/show.m3u8", "")?;
        client.ask("GET", "/live/show-1.ts", "")?;
        client.finish_sending()?;
        for length in [playlist.len(), 4 << 20] {
            assert_eq!(client.answer("GET")?.body.len(), length);
        }
        assert_eq!((origin.count(), origin.faults()), (4, Vec::new()));
        Ok(())
    })
}

#[test]
fn who_says_no_more_to_a_live_stream_has_left_it() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            match request.path() {
                "/live/held.flv" => {}
                "/live/chunks.flv" => {
                    exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                }
                _ => exchange.send("HTTP/1.1 200 OK\r\n\r\n")?,
            }
            exchange.hold(|| false)
        })?;
        for path in ["/live/held.flv", "/live/chunks.flv", "/live/endless.flv"] {
            let mut player = Client::connect(proxy.http())?;
            player.ask("GET", path, "")?;
            if path != "/live/held.flv" {
                assert_eq!(player.head()?.status()?, 200, "{path}");
            }
            wait::until_true("it is at the origin", SOON, || Ok(origin.open() == 1))?;
            player.finish_sending()?;
            player.must_be_closed_within(AT_ONCE).context(path)?;
            wait::until_true("the origin is free", AT_ONCE, || Ok(origin.open() == 0))?;
        }
        Ok(())
    })
}
