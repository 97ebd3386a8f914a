//! A session of WebRTC is of all proxies: its offer, its media and its end may come to different
//! ones, and its client may go from one to another.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use srs_proxy_tests::aiortc;
use srs_proxy_tests::fleet::{Fleet, NAMES, SOON, at};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::redis::Redis;
use srs_proxy_tests::rtc::{Client, Origin};
use srs_proxy_tests::whip::Role;
use srs_proxy_tests::{usage, wait};

use super::with_redis;

/// For peers to connect, and for media to come after that.
const A_WHILE: Duration = Duration::from_secs(40);
/// In which all proxies have heard that a session was deleted.
const HEARD: Duration = Duration::from_secs(6);
/// Packets a second of a publisher.
pub(super) const RATE: u32 = 100;

/// Proxies with one Redis, and two origins, of which each proxy knows.
pub(super) fn start(folder: &Path, redis: &Redis, count: usize) -> Result<(Fleet, [Origin; 2])> {
    let fleet = Fleet::of(folder, count, |_| at(redis.address()))?;
    let origins = [Origin::start()?, Origin::start()?];
    for ((place, origin), name) in origins.iter().enumerate().zip(NAMES) {
        origin.register_at(fleet.proxy(place % count)?.system_api(), name)?;
    }
    fleet.must_know(origins.len())?;
    Ok((fleet, origins))
}

/// Waits until so many seconds of media have come to each player, and fails if any packet was lost
/// meanwhile.
pub(super) fn must_get_all(players: &[&Client], seconds: u32) -> Result<()> {
    let before: Vec<_> = players.iter().map(|it| it.tally()).collect();
    wait::until("media at every player", A_WHILE, || {
        for (place, (player, before)) in players.iter().zip(&before).enumerate() {
            let (now, goal) = (player.tally(), before.packets + u64::from(seconds * RATE));
            ensure!(now.packets >= goal, "player {place}: {now:?} behind {before:?}");
        }
        Ok(Some(()))
    })?;
    for (place, (player, before)) in players.iter().zip(&before).enumerate() {
        let now = player.tally();
        let lost = (now.missing, now.repeated) != (before.missing, before.repeated);
        ensure!(!lost, "player {place}: {now:?} behind {before:?}");
    }
    Ok(())
}

/// Waits until media comes again, whatever was lost before.
fn must_go_on(player: &Client) -> Result<()> {
    player.must_get(u64::from(RATE), SOON).map(drop)
}

/// Waits until no proxy has a session of these streams.
fn must_be_gone(fleet: &Fleet, streams: &[&str]) -> Result<()> {
    wait::until("every proxy has heard of the end", HEARD, || {
        for (place, proxy) in fleet.proxies.iter().enumerate() {
            for stream in streams {
                let left = proxy.media_of(stream)?;
                ensure!(left.is_empty(), "proxy {place}: {left:?}");
            }
        }
        Ok(Some(()))
    })
}

fn descriptors(fleet: &Fleet) -> Result<Vec<usize>> {
    fleet.proxies.iter().map(|it| usage::descriptors(it.process.id())).collect()
}

#[test]
fn offers_media_and_ends_of_sessions_come_to_different_proxies() -> Result<()> {
    with_redis(|folder, redis| {
        let (fleet, origins) = start(folder, &redis, 3)?;
        let [a, b, c] = &fleet.proxies[..] else { unreachable!("three proxies") };
        let before = descriptors(&fleet)?;
        let by = |api: &Proxy, media: &Proxy, stream| {
            Client::play_by(api.http_api(), media.webrtc(), stream)
        };
        let early = Client::play(b.http(), "one")?;
        early.must_connect_within(SOON)?;
        let one = Client::publish_by(a.http_api(), b.webrtc(), "one", RATE)?;
        let two = Client::publish(c.http_api(), "two", RATE)?;
        let of_one =
            [early, Client::play(a.http_api(), "one")?, by(a, b, "one")?, by(c, a, "one")?];
        let of_two = [Client::play(a.http(), "two")?, by(a, b, "two")?, by(b, c, "two")?];
        for client in of_one.iter().chain(&of_two).chain([&one, &two]) {
            client.must_connect_within(A_WHILE)?;
        }
        let players: Vec<_> = of_one.iter().chain(&of_two).collect();
        must_get_all(&players, 3)?;
        // From the first packet on.
        for player in &players {
            let tally = player.tally();
            ensure!((tally.missing, tally.repeated) == (0, 0), "{tally:?}");
        }
        let early = of_one[0].tally().packets;
        ensure!(early + 20 >= one.sent(), "{early} of {} packets", one.sent());
        let sessions: usize = origins.iter().map(Origin::sessions).sum();
        assert_eq!(sessions, 9, "one at an origin for each client");

        // At the proxy of its media it is what it is at the proxy of its offer.
        let publishers = |proxy: &Proxy| -> Result<Vec<_>> {
            let mut sessions = proxy.media_of("one")?;
            sessions.retain(|it| it.role == "publish" && it.protocol == "webrtc");
            Ok(sessions)
        };
        let (offered, sent) = (publishers(a)?, publishers(b)?);
        assert_eq!((offered.len(), sent.len(), publishers(c)?.len()), (1, 1, 0));
        assert_eq!(offered[0].origin_address, sent[0].origin_address);
        ensure!(offered[0].bytes_to_origin == 0 && sent[0].bytes_to_origin > 300_000, "{sent:?}");

        for (client, at) in players.iter().chain(&[&one, &two]).zip([a, b, c].iter().cycle()) {
            assert_eq!(client.session().at(at.http_api()).delete()?.status(), 200);
        }
        assert_eq!(origins.iter().map(Origin::sessions).sum::<usize>(), 0);
        must_be_gone(&fleet, &["one", "two"])?;
        // Their clients have not heard of it, and go on asking.
        wait::until("every socket is closed", SOON, || {
            let now = descriptors(&fleet)?;
            let is_back = now.iter().zip(&before).all(|(now, before)| now <= before);
            ensure!(is_back, "{now:?} behind {before:?}");
            Ok(Some(()))
        })?;
        must_be_gone(&fleet, &["one", "two"])?;
        let kept = redis.cli(&["KEYS", "srs-proxy-ufrag:*"])?;
        let placed = redis.cli(&["KEYS", "srs-proxy-place:*"])?;
        ensure!(kept.is_empty() && placed.is_empty(), "still found: {kept} {placed}");
        Ok(())
    })
}

#[test]
fn aiortc_plays_by_one_proxy_what_it_publishes_by_two_others() -> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::of(folder, 3, |_| at(redis.address()))?;
        let [a, b, c] = &fleet.proxies[..] else { unreachable!("three proxies") };
        // Each of its sessions has a port of its own, of which only the answer tells.
        let origin = aiortc::Origin::start(folder, "origin")?;
        origin.register_at(c.system_api())?;
        fleet.must_know(1)?;
        let start = |name, api: &Proxy, media: &Proxy, role| {
            let (api, media) = (api.http_api(), Some(media.webrtc()));
            aiortc::Client::start_by(folder, name, api, media, role, "show")
        };
        let publisher = start("publisher", a, b, Role::Publish)?;
        let player = start("player", c, a, Role::Play)?;
        player.must_go_on_for(30, A_WHILE)?;
        let counters = player.counters();
        assert_eq!(counters.lost.get("video"), Some(&0), "{counters:?}");
        ensure!(publisher.delete()? == 200, "the DELETE was refused");
        ensure!(player.delete()? == 200, "the DELETE was refused");
        must_be_gone(&fleet, &["show"])?;
        ensure!(origin.sessions()?.is_empty(), "{:?}", origin.sessions()?);
        Ok(())
    })
}

#[test]
fn ice_restarts_at_a_third_proxy() -> Result<()> {
    with_redis(|folder, redis| {
        let (fleet, origins) = start(folder, &redis, 3)?;
        let [a, b, c] = &fleet.proxies[..] else { unreachable!("three proxies") };
        let player = Client::play_by(a.http_api(), b.webrtc(), "show")?;
        player.must_connect_within(SOON)?;
        let publisher = Client::publish_by(a.http_api(), b.webrtc(), "show", RATE)?;
        must_get_all(&[&player], 1)?;
        for client in [&player, &publisher] {
            client.restart_ice_at(c.http_api())?;
            must_go_on(&player)?;
            // The old credentials must not be what carries it.
            client.move_to_new_port()?;
            must_go_on(&player)?;
            // Wherever it goes.
            client.go_by(a.webrtc())?;
            must_go_on(&player)?;
        }
        must_get_all(&[&player], 1)?;
        assert_eq!(origins.iter().map(Origin::sessions).sum::<usize>(), 2);
        // Its URL has the name of before.
        for client in [&player, &publisher] {
            assert_eq!(client.session().at(c.http()).delete()?.status(), 200);
        }
        must_be_gone(&fleet, &["show"])
    })
}

#[test]
fn a_client_roams_to_another_proxy_and_back() -> Result<()> {
    with_redis(|folder, redis| {
        let (fleet, origins) = start(folder, &redis, 2)?;
        let [a, b] = &fleet.proxies[..] else { unreachable!("two proxies") };
        let player = Client::play(a.http_api(), "show")?;
        let publisher = Client::publish(a.http_api(), "show", RATE)?;
        must_get_all(&[&player], 1)?;
        for client in [&player, &publisher] {
            for way in [b, a, b] {
                client.go_by(way.webrtc())?;
                must_go_on(&player)?;
            }
            // As behind a NAT that has forgotten it.
            let old = client.address()?;
            client.move_to_new_port()?;
            assert_ne!(client.address()?, old);
            must_go_on(&player)?;
            must_get_all(&[&player], 1)?;
        }
        assert_eq!(origins.iter().map(Origin::sessions).sum::<usize>(), 2, "no new sessions");
        for client in [&player, &publisher] {
            client.go_by(a.webrtc())?;
            must_go_on(&player)?;
        }
        must_get_all(&[&player], 2)
    })
}
