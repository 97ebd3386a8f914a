//! How a stop ends clients of HTTP: what is idle at once, what is under way in order.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::raw::{Client, Origin, behind_a_proxy};
use srs_proxy_tests::{story, wait};

const AT_ONCE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

/// A proxy with one client of each kind.
struct Busy {
    proxy: Proxy,
    _origin: Origin,
    /// Plays a live stream without end.
    player: Client,
    /// Has half of a segment; the other half comes with `release`.
    fetching: Client,
    release: Arc<AtomicBool>,
    /// Has had an answer.
    idle: Client,
    /// Has been let in, and said nothing.
    silent: Client,
}

fn busy(folder: &Path, grace: &str) -> Result<Busy> {
    let release = Arc::new(AtomicBool::default());
    let released = Arc::clone(&release);
    let variables = [("PROXY_GRACE_QUIT_TIMEOUT", grace)];
    let (proxy, origin) =
        behind_a_proxy(folder, &variables, move |request, exchange| match request.path() {
            "/live/show.flv" => {
                exchange.send("HTTP/1.1 200 OK\r\n\r\n")?;
                loop {
                    exchange.send(TAG)?;
                    let next = Instant::now() + Duration::from_millis(20);
                    exchange.hold(|| Instant::now() > next)?;
                }
            }
            "/live/show-1.ts" => {
                exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
                exchange.hold(|| released.load(Ordering::Relaxed))?;
                exchange.send("other")
            }
            path => exchange.answer("200 OK", "", path),
        })?;
    let connect = || Client::connect(proxy.http());
    let (mut player, mut fetching, mut idle, silent) =
        (connect()?, connect()?, connect()?, connect()?);
    player.ask("GET", "/live/show.flv", "")?;
    assert_eq!(player.head()?.status()?, 200);
    fetching.ask("GET", "/live/show-1.ts", "")?;
    assert_eq!(fetching.head()?.status()?, 200);
    assert_eq!(fetching.wire(5)?, b"first");
    assert_eq!(idle.get("/live/show-2.ts")?.text(), "/live/show-2.ts");
    wait::until_true("all are let in", SOON, || Ok(proxy.sessions()?.len() == 4))?;
    Ok(Busy { proxy, _origin: origin, player, fetching, release, idle, silent })
}

#[test]
fn a_stop_ends_each_client_as_gently_as_it_can() -> Result<()> {
    story(|folder| {
        let mut busy = busy(folder, "25s")?;
        // The next request stands behind the segment before the stop, another one half of it.
        busy.fetching.ask("GET", "/live/show-3.ts", "")?;
        busy.silent.send("GET /live/show-4.ts HTT")?;
        // Who is answered later was heard later: the proxy knows of both.
        assert_eq!(busy.idle.get("/live/show-2.ts")?.status(), 200);
        let proxy = &mut busy.proxy;
        proxy.process.signal(Signal::SIGTERM)?;
        assert!(busy.idle.must_be_closed_within(AT_ONCE)?.is_empty(), "an answer unasked");
        wait::until_true("three remain", SOON, || Ok(proxy.sessions()?.len() == 3))?;
        assert!(TcpStream::connect(proxy.http()).is_err(), "nobody new is let in");

        busy.silent.send("P/1.1\r\nHost: here\r\n\r\n")?;
        let answer = busy.silent.answer("GET")?;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "/live/show-4.ts"));
        assert_eq!(answer.head.field("connection"), Some("close"));
        busy.silent.must_be_closed_within(AT_ONCE)?;

        busy.player.wire(50 * TAG.len())?;
        busy.release.store(true, Ordering::Relaxed);
        assert_eq!(busy.fetching.wire(5)?, b"other", "the segment's other half");
        let next = busy.fetching.answer("GET")?;
        assert_eq!((next.status(), next.text().as_str()), (200, "/live/show-3.ts"));
        assert_eq!(next.head.field("connection"), Some("close"));
        busy.fetching.must_be_closed_within(AT_ONCE)?;

        busy.player.wire(50 * TAG.len())?;
        for (end, count) in [("shutdown", 1), ("answered", 2)] {
            wait::until_true(&format!("{count} ended as {end}"), SOON, || {
                Ok(proxy.ends(end)? == count)
            })?;
        }
        drop(busy.player);
        let status = proxy.process.wait(SOON)?;
        assert_eq!(status.code(), Some(0), "{status}");
        Ok(())
    })
}

#[test]
fn a_player_goes_on_until_the_grace_is_over() -> Result<()> {
    story(|folder| {
        let mut busy = busy(folder, "3s")?;
        let told = Instant::now();
        busy.proxy.process.signal(Signal::SIGTERM)?;
        busy.silent.must_be_closed_within(AT_ONCE)?;
        // Two seconds of the stream.
        busy.player.wire(100 * TAG.len())?;
        let status = busy.proxy.process.wait(SOON)?;
        let took = told.elapsed();
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(took > Duration::from_millis(2500), "ended after {took:?} of 3 s grace");
        assert!(took < Duration::from_secs(6), "ended {took:?} after the signal");
        busy.player.must_be_closed_within(AT_ONCE)?;
        busy.fetching.must_be_closed_within(AT_ONCE)?;
        Ok(())
    })
}

#[test]
fn a_second_signal_ends_clients_of_http_at_once() -> Result<()> {
    story(|folder| {
        let mut busy = busy(folder, "25s")?;
        busy.proxy.process.signal(Signal::SIGTERM)?;
        busy.idle.must_be_closed_within(AT_ONCE)?;
        busy.player.wire(10 * TAG.len())?;
        busy.proxy.process.signal(Signal::SIGTERM)?;
        let status = busy.proxy.process.wait(Duration::from_secs(2))?;
        assert_eq!(status.code(), Some(0), "{status}");
        busy.player.must_be_closed_within(AT_ONCE)?;
        busy.fetching.must_be_closed_within(AT_ONCE)?;
        Ok(())
    })
}

/// What a live stream is made of here.
const TAG: &str = "a tag of FLV";
