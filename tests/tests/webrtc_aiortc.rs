//! aiortc publishes and plays through the proxy, and is the origin behind it.

use std::time::Duration;

use anyhow::{Result, ensure};
use srs_proxy_tests::aiortc::{Client, Origin};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::whip::Role;
use srs_proxy_tests::{rtc, story, wait};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(30);
const CANDIDATE: (&str, &str) = ("PROXY_CANDIDATE", "127.0.0.1");

#[test]
fn every_session_of_an_origin_with_many_ports_finds_its_own() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(folder, "origin")?;
        let proxy = Proxy::start(folder, &[CANDIDATE])?;
        origin.register_at(proxy.system_api())?;
        let start =
            |name: &str, role, stream| Client::start(folder, name, proxy.http_api(), role, stream);
        let mut players = Vec::new();
        let mut publishers = Vec::new();
        for stream in ["one", "two"] {
            // As with SRS, who comes before the publisher waits for him.
            players.push(start(&format!("{stream}-early"), Role::Play, stream)?);
            publishers.push(start(&format!("{stream}-publisher"), Role::Publish, stream)?);
            players.push(start(&format!("{stream}-late"), Role::Play, stream)?);
        }
        for player in &players {
            player.must_go_on_for(30, A_WHILE)?;
        }
        for player in &players {
            let counters = player.counters();
            assert_eq!(counters.lost.get("video"), Some(&0), "{counters:?}");
        }
        assert_eq!(origin.sessions()?.len(), 6, "sessions at the origin");
        let sessions = proxy.sessions_of("one")?;
        let mut roles: Vec<_> =
            sessions.iter().map(|it| (it.protocol.as_str(), it.role.as_str())).collect();
        roles.sort_unstable();
        assert_eq!(roles, [("webrtc", "play"), ("webrtc", "play"), ("webrtc", "publish")]);

        // Three ways to leave: by DELETE, by the DTLS alert alone, and by an origin that is gone.
        ensure!(players.remove(0).delete()? == 200, "the DELETE was refused");
        assert_eq!(proxy.ends("deleted")?, 1);
        players.remove(0).hang_up()?;
        wait::until_true("both have left the proxy and the origin", SOON, || {
            Ok(proxy.sessions_of("one")?.len() == 1 && origin.sessions()?.len() == 4)
        })?;
        players[0].must_go_on_for(30, A_WHILE)
    })
}

#[test]
fn aiortc_sees_what_aiortc_publishes_through_str0m() -> Result<()> {
    story(|folder| {
        let origin = rtc::Origin::start()?;
        let proxy = Proxy::start(folder, &[CANDIDATE])?;
        origin.register_at(proxy.system_api(), "origin")?;
        // The API's paths are served beside the players' as well.
        let publisher = Client::start(folder, "publisher", proxy.http(), Role::Publish, "show")?;
        let player = Client::start(folder, "player", proxy.http_api(), Role::Play, "show")?;
        player.must_go_on_for(30, A_WHILE)?;
        publisher.hang_up()?;
        wait::until_true("the publisher has left", SOON, || {
            Ok(origin.sessions() == 1 && proxy.sessions_of("show")?.len() == 1)
        })?;
        player.vanish()?;
        Ok(())
    })
}

#[test]
fn who_vanishes_is_gone_when_the_origin_has_forgotten_him() -> Result<()> {
    story(|folder| {
        let origin = rtc::Origin::start()?;
        let proxy = Proxy::start(folder, &[CANDIDATE, ("PROXY_WEBRTC_CONSENT_TIMEOUT", "5s")])?;
        origin.register_at(proxy.system_api(), "origin")?;
        let player = Client::start(folder, "player", proxy.http_api(), Role::Play, "show")?;
        wait::until_true("the player is connected", A_WHILE, || Ok(player.state() == "connected"))?;
        player.vanish()?;
        wait::until_true("its session has ended", 2 * SOON, || Ok(proxy.ends("no_consent")? == 1))?;
        assert!(proxy.sessions_of("show")?.is_empty());
        Ok(())
    })
}
