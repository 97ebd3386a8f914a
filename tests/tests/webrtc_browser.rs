//! Headless Chromium publishes its fake camera by the proxy's own page, and plays it by another.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use srs_proxy_tests::browser::Browser;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::{ports, rtc, story, wait};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(40);

#[test]
fn a_camera_is_seen_through_the_proxy_until_its_page_is_left() -> Result<()> {
    story(|folder| {
        let origins = [rtc::Origin::start()?, rtc::Origin::start()?];
        let proxy = Proxy::start(folder, &[("PROXY_CANDIDATE", "127.0.0.1")])?;
        for (origin, name) in origins.iter().zip(["a", "b"]) {
            origin.register_at(proxy.system_api(), name)?;
        }
        let mut publisher = start(folder, "publisher")?;
        let mut player = start(folder, "player")?;
        for (browser, page) in [(&mut publisher, "whip"), (&mut player, "whep")] {
            let query = "app=live&stream=camera&autostart=true";
            browser.open(&proxy.http_url(&format!("players/{page}.html?{query}")))?;
        }
        let first = wait::until("pictures are decoded", A_WHILE, || {
            let seen = seen(&mut player)?;
            ensure!(seen.frames > 30.0 && seen.time > 0.5, "{seen:?}");
            Ok(Some(seen))
        })?;
        wait::until("and more of them", SOON, || {
            let now = seen(&mut player)?;
            ensure!(
                now.frames > first.frames + 30.0 && now.time > first.time,
                "{now:?}, {first:?}"
            );
            Ok(Some(()))
        })?;
        let mut sessions = origins.each_ref().map(rtc::Origin::sessions);
        sessions.sort_unstable();
        assert_eq!(sessions, [0, 2], "sessions at the two origins");

        // Who stops says so by DELETE.
        let deleted = proxy.ends("deleted")?;
        player.evaluate("document.querySelector('button').click()")?;
        wait::until_true("the player has left", SOON, || {
            let (ends, left) = (proxy.ends("deleted")?, proxy.media_of("camera")?);
            ensure!(ends == deleted + 1 && left.len() == 1, "{ends} were deleted, left: {left:?}");
            Ok(true)
        })?;
        publisher.open("about:blank")?;
        wait::until_true("the publisher has left", A_WHILE, || {
            Ok(proxy.media_of("camera")?.is_empty())
        })?;
        for browser in [&publisher, &player] {
            assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
        }
        Ok(())
    })
}

#[test]
fn a_camera_is_seen_by_tcp_where_udp_goes_nowhere() -> Result<()> {
    story(|folder| {
        let origin = rtc::Origin::start()?;
        let tcp = ports::free()?.to_string();
        // Nobody listens at the port of UDP that clients are told.
        let nowhere = ports::free()?.to_string();
        let variables =
            [("PROXY_CANDIDATE", nowhere.as_str()), ("PROXY_WEBRTC_TCP_SERVER", tcp.as_str())];
        let proxy = Proxy::start(folder, &variables)?;
        origin.register_at(proxy.system_api(), "a")?;
        let mut publisher = start(folder, "publisher")?;
        let mut player = start(folder, "player")?;
        for (browser, page) in [(&mut publisher, "whip"), (&mut player, "whep")] {
            let query = "app=live&stream=camera&autostart=true";
            browser.open(&proxy.http_url(&format!("players/{page}.html?{query}")))?;
        }
        wait::until("pictures are decoded", A_WHILE, || {
            let seen = seen(&mut player)?;
            ensure!(seen.frames > 60.0 && seen.time > 0.5, "{seen:?}");
            Ok(Some(()))
        })?;
        let sessions = proxy.get("/api/v1/sessions")?.to_string();
        assert_eq!(sessions.matches("\"media_transport\":\"tcp\"").count(), 2, "{sessions}");
        Ok(())
    })
}

/// A browser that keeps the connections of its pages where a test finds them.
fn start(folder: &Path, name: &str) -> Result<Browser> {
    let mut browser = Browser::start(folder, name)?;
    browser.run_first(
        "window.connections = [];
        window.RTCPeerConnection = class extends RTCPeerConnection {
            constructor(...words) { super(...words); connections.push(this); }
        };",
    )?;
    Ok(browser)
}

/// What a viewer has seen.
#[derive(Debug)]
struct Seen {
    /// Decoded by the connection.
    frames: f64,
    /// Of the video element, seconds.
    time: f64,
}

fn seen(browser: &mut Browser) -> Result<Seen> {
    let said = browser.evaluate(
        "(async () => {
            const all = await Promise.all(connections.map(it => it.getStats()));
            const reports = all.flatMap(it => [...it.values()]);
            const frames = reports.map(it => it.framesDecoded ?? 0);
            const time = document.querySelector('video').currentTime;
            return [Math.max(0, ...frames), time, document.body.innerText];
        })()",
    )?;
    let number = |place| said.get(place).and_then(Value::as_f64).with_context(|| said.to_string());
    Ok(Seen { frames: number(0)?, time: number(1)? })
}
