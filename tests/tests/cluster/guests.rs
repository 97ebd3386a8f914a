//! Clients of WebRTC at proxies that have not seen their offers: of the existing proxy's sessions,
//! beside those who only pretend, and without the store.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use srs_proxy_tests::fleet::{Fleet, NAMES, SOON, at, route_key};
use srs_proxy_tests::flood::Flood;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::redis::Redis;
use srs_proxy_tests::rtc::{Client, Origin};
use srs_proxy_tests::{stun, wait};

use super::webrtc::{RATE, must_get_all, start};
use super::with_redis;

#[test]
fn a_session_that_the_existing_proxy_has_begun_has_its_media_here() -> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::of(folder, 2, |_| at(redis.address()))?;
        let [a, b] = &fleet.proxies[..] else { unreachable!("two proxies") };
        let origins = [Origin::start()?, Origin::start()?];
        let mut keys = Vec::new();
        for (origin, name) in origins.iter().zip(NAMES) {
            let key = format!("srs-proxy-server:vid-{name}-{name}-1");
            let server = json!({
                "ip": "127.0.0.1", "device_id": name, "server_id": format!("vid-{name}"),
                "service_id": name, "pid": "1", "rtmp": ["1"],
                "api": [origin.http().port().to_string()],
                "rtc": [format!("udp://0.0.0.0:{}", origin.media().port())],
                "update_at": "2026-11-22T13:32:50.925404432Z",
            });
            redis.cli(&["SET", &key, &server.to_string(), "EX", "300"])?;
            keys.push(key);
        }
        redis.cli(&["SET", "srs-proxy-all-servers", &json!(keys).to_string()])?;
        fleet.must_know(2)?;

        // It has passed their offers to the origin that it has chosen, and noted their names.
        let [_, origin] = &origins;
        redis.cli(&["SET", &route_key("show"), &keys[1]])?;
        let player = Client::play_by(origin.http(), a.webrtc(), "show")?;
        note(&redis, &player, "show")?;
        player.must_connect_within(SOON)?;
        let publisher = Client::publish_by(origin.http(), b.webrtc(), "show", RATE)?;
        note(&redis, &publisher, "show")?;
        must_get_all(&[&player], 2)?;
        let media = origin.media().to_string();
        for proxy in [a, b] {
            let sessions = proxy.media_of("show")?;
            ensure!(sessions.len() == 1 && sessions[0].origin_address == media, "{sessions:?}");
        }
        player.hang_up()?;
        publisher.hang_up()?;
        wait::until_true("both have left", SOON, || {
            Ok(a.media_of("show")?.is_empty() && b.media_of("show")?.is_empty())
        })
    })
}

/// Notes a client as the existing proxy does.
fn note(redis: &Redis, client: &Client, stream: &str) -> Result<()> {
    let name = client.session().name()?;
    let stream = format!("__defaultVhost__/live/{stream}");
    let record = json!({ "stream_url": stream, "ufrag": name }).to_string();
    for key in [format!("srs-proxy-rtc:{stream}"), format!("srs-proxy-ufrag:{name}")] {
        redis.cli(&["SET", &key, &record, "EX", "120"])?;
    }
    Ok(())
}

#[test]
fn who_has_heard_a_name_gets_nothing_at_another_proxy() -> Result<()> {
    with_redis(|folder, redis| {
        let (fleet, origins) = start(folder, &redis, 3)?;
        let [a, b, c] = &fleet.proxies[..] else { unreachable!("three proxies") };
        let publisher = Client::publish(a.http_api(), "show", RATE)?;
        publisher.must_connect_within(SOON)?;
        let home = origins.iter().find(|it| it.sessions() == 1).context("no origin has it")?;
        let own = Client::play(b.http_api(), "show")?;
        let roamer = Client::play_by(a.http_api(), b.webrtc(), "show")?;
        // Of the existing proxy, which tells nobody by what its client signs.
        let guest = Client::play_by(home.http(), b.webrtc(), "show")?;
        note(&redis, &guest, "show")?;
        let players = [&own, &roamer, &guest];
        for player in players {
            player.must_connect_within(SOON)?;
        }
        must_get_all(&players, 1)?;
        assert_eq!(b.media_of("show")?.len(), 3);

        let thieves = (0..20).map(|_| UdpSocket::bind(("127.0.0.1", 0)));
        let thieves = thieves.collect::<Result<Vec<_>, _>>()?;
        let before = players.map(Client::tally);
        let targets = [(&roamer, b), (&roamer, c), (&own, c), (&guest, b)];
        let targets = targets.map(|(of, at)| Ok((of.session().name()?, at.webrtc())));
        let targets = targets.into_iter().collect::<Result<Vec<_>>>()?;
        let (start, mut most, mut number) = (Instant::now(), 0, 0_u64);
        while start.elapsed() < Duration::from_secs(3) {
            for (thief, (name, target)) in thieves.iter().zip(targets.iter().cycle()) {
                number += 1;
                let mut transaction = [9; 12];
                transaction[..8].copy_from_slice(&number.to_be_bytes());
                let forged = stun::request(transaction, name, "not the password at all")?;
                thief.send_to(&forged, *target)?;
            }
            most = most.max(b.media_of("show")?.len());
            ensure!(c.media_of("show")?.is_empty(), "a forged check has made a session");
            thread::sleep(Duration::from_millis(20));
        }
        ensure!((4..=10).contains(&most), "{most} sessions at once, of which two are no guests");
        ensure!(c.metric(DROPPED, &[("reason", "forged")])? > 0, "they are seen for what they are");
        // Nobody's media has moved.
        must_get_all(&players, 1)?;
        for (player, before) in players.into_iter().zip(before) {
            let now = player.tally();
            ensure!(now.missing == before.missing, "{now:?} behind {before:?}");
        }
        for thief in &thieves {
            thief.set_nonblocking(true)?;
            ensure!(thief.recv_from(&mut [0; 2000]).is_err(), "something came to a thief");
        }
        wait::until_true("guests that nobody answers have ended", SOON, || {
            Ok(b.media_of("show")?.len() == 3)
        })?;
        ensure!(b.ends("not_connected")? >= 1, "they end for what they are");
        for player in [&roamer, &guest] {
            player.move_to_new_port()?;
            player.must_get(u64::from(RATE), SOON)?;
        }
        Ok(())
    })
}

#[test]
fn a_flood_of_names_that_nobody_has_is_few_questions_and_stops_nobody() -> Result<()> {
    /// Datagrams a second.
    const FLOOD: u32 = 4000;
    with_redis(|folder, redis| {
        let (fleet, _origins) = start(folder, &redis, 2)?;
        let [a, b] = &fleet.proxies[..] else { unreachable!("two proxies") };
        let own = Client::play(b.http_api(), "show")?;
        let guest = Client::play_by(a.http_api(), b.webrtc(), "show")?;
        let _publisher = Client::publish_by(a.http_api(), b.webrtc(), "show", RATE)?;
        must_get_all(&[&own, &guest], 1)?;
        let idle = {
            let (start, before) = (Instant::now(), reads(&redis)?);
            must_get_all(&[&own, &guest], 2)?;
            f64::from(reads(&redis)? - before) / start.elapsed().as_secs_f64()
        };

        let check = |n: u32| stun::request([7; 12], &format!("nobody{n}:knows"), "a password");
        let checks = (0..20_000).map(check).collect::<Result<Vec<_>>>()?;
        let (start, before) = (Instant::now(), reads(&redis)?);
        let flood = Flood::start(b.webrtc(), 50, FLOOD, checks)?;
        must_get_all(&[&own, &guest], 3)?;
        // One who comes from elsewhere meanwhile is found all the same.
        guest.move_to([127, 0, 0, 2].into())?;
        guest.must_get(u64::from(RATE), SOON)?;
        let (flooded, asked) = (flood.stop()?, reads(&redis)? - before);
        let seconds = start.elapsed().as_secs_f64();
        ensure!(flooded.answers.is_empty(), "somebody answers");
        // Sixteen of one client in 200 ms, and two keys for each.
        let most = (1.5 * idle + 16.0 * 5.0 * 2.0) * seconds + 100.0;
        ensure!(f64::from(asked) < most, "{asked} of {} were asked for", flooded.total());
        ensure!(flooded.total() > 3 * u64::from(FLOOD), "{} is no flood", flooded.total());
        let sessions = b.media_of("show")?;
        ensure!(sessions.len() <= 4, "{sessions:?}");
        Ok(())
    })
}

const DROPPED: &str = "srs_proxy_datagrams_dropped_total";

/// Keys that Redis was asked for so far, by commands that read one or several.
fn reads(redis: &Redis) -> Result<u32> {
    let said = redis.cli(&["INFO", "commandstats"])?;
    let mut sum = 0;
    for name in ["get", "mget", "hget", "hgetall", "evalsha", "eval"] {
        let prefix = format!("cmdstat_{name}:calls=");
        let calls = said.lines().find_map(|line| line.strip_prefix(&prefix));
        let calls = calls.and_then(|it| it.split(',').next()).unwrap_or("0");
        sum += calls.parse::<u32>().with_context(|| said.clone())?;
    }
    Ok(sum)
}

#[test]
fn sessions_and_guests_go_on_without_redis() -> Result<()> {
    with_redis(|folder, mut redis| {
        let (fleet, _origins) = start(folder, &redis, 3)?;
        let [a, b, c] = &fleet.proxies[..] else { unreachable!("three proxies") };
        let own = Client::play(a.http_api(), "show")?;
        let guest = Client::play_by(a.http_api(), b.webrtc(), "show")?;
        let publisher = Client::publish_by(c.http_api(), a.webrtc(), "show", RATE)?;
        must_get_all(&[&own, &guest], 1)?;
        redis.kill()?;
        fleet.must_be_degraded()?;
        must_get_all(&[&own, &guest], 20)?;
        // Who is where its offer was needs nobody to find it.
        own.move_to_new_port()?;
        own.must_get(u64::from(RATE), SOON)?;
        let names = |proxy: &Proxy| -> Result<HashSet<String>> {
            Ok(proxy.media_of("show")?.into_iter().map(|it| it.id).collect())
        };
        let before = [names(a)?, names(b)?, names(c)?];
        redis.restart()?;
        fleet.must_be_healthy()?;
        must_get_all(&[&own, &guest], 1)?;
        for (before, proxy) in before.iter().zip([a, b, c]) {
            ensure!(before.is_subset(&names(proxy)?), "a session has ended");
        }
        // Found again, from where their media is.
        for client in [&guest, &publisher] {
            client.go_by(c.webrtc())?;
            guest.must_get(u64::from(RATE), SOON)?;
        }
        Ok(())
    })
}
