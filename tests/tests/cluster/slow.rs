//! Redis is slow, or what is sent to it vanishes.

use std::slice::from_mut;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::fleet::{Fleet, SOON, at, must_go_on};
use srs_proxy_tests::redis::Delay;
use srs_proxy_tests::rtmp::Client;
use srs_proxy_tests::srt_call::{self, Caller};
use srs_proxy_tests::whip::Role;
use srs_proxy_tests::{heartbeat, ice, ice_client, raw, wait};

use super::with_redis;

/// What Redis is given for an answer.
const DEADLINE: Duration = Duration::from_secs(4);
/// How long its answers take: much more than anything else that a client waits for.
const DELAY: Duration = Duration::from_millis(2500);

#[test]
fn only_who_asks_for_a_new_stream_waits_for_a_slow_redis() -> Result<()> {
    with_redis(|folder, redis| {
        let relay = Delay::before(redis.address(), Duration::ZERO)?;
        let mut fleet = Fleet::of(folder, 2, |place| {
            let mut variables = at(if place == 0 { relay.address() } else { redis.address() });
            variables.push(("PROXY_REDIS_TIMEOUT", "4s".to_owned()));
            variables
        })?;
        fleet.add_origins(2)?;
        let mut known = fleet.must_show("known", 0, 1)?;
        let slow = fleet.rtmp(0)?;

        relay.set(DELAY);
        let new = |n: usize| {
            let start = Instant::now();
            let client = Client::publish(slow, &format!("new{n}"));
            (client, start.elapsed())
        };
        let new = &new;
        thread::scope(|scope| -> Result<()> {
            let waiting: Vec<_> = (0..10).map(|n| scope.spawn(move || new(n))).collect();
            let took = handshakes(slow, "known", 60, DELAY)?;
            println!("with a delay of {DELAY:?}, a known stream took {took:?} at p99");
            for one in waiting {
                let (client, took) = one.join().ok().context("a client has panicked")?;
                client.context("a new stream")?;
                ensure!(took >= DELAY, "Redis was not asked: {took:?}");
                ensure!(took < 2 * DEADLINE, "a new stream took {took:?}");
            }
            Ok(())
        })?;
        ensure!(fleet.degraded()?.iter().all(Option::is_none), "slow is not lost");

        // Slower than it may be: one wait at most, and no other one behind it.
        relay.set(3 * DEADLINE);
        let start = Instant::now();
        fleet.must_show("later", 0, 0)?;
        ensure!(start.elapsed() < 2 * DEADLINE, "a new stream took {:?}", start.elapsed());
        handshakes(slow, "known", 20, DEADLINE)?;
        let degraded = fleet.degraded()?;
        ensure!(degraded.iter().map(Option::is_some).eq([true, false]), "{degraded:?}");
        handshakes(slow, "another", 20, 2 * DEADLINE)?;
        must_go_on(from_mut(&mut known), 3)?;

        relay.set(Duration::ZERO);
        fleet.must_be_healthy()?;
        fleet.must_show("at last", 0, 1)?;
        must_go_on(from_mut(&mut known), 3)
    })
}

#[test]
fn no_other_protocol_waits_for_a_slow_redis_before_a_known_stream() -> Result<()> {
    with_redis(|folder, redis| {
        let relay = Delay::before(redis.address(), Duration::ZERO)?;
        let fleet = Fleet::of(folder, 2, |place| {
            let mut variables = at(if place == 0 { relay.address() } else { redis.address() });
            variables.push(("PROXY_REDIS_TIMEOUT", "4s".to_owned()));
            variables
        })?;
        let [slow, other] = &fleet.proxies[..] else { unreachable!("two proxies") };
        let srt = srt_call::Origin::start(([127, 0, 0, 1], 0).into(), 1 << 20)?;
        srt.register_at(slow.system_api(), "srt")?;
        let flv = raw::Origin::start(raw::live::show())?;
        // It takes no offers of WebRTC.
        let http = [("http", flv.address().port().to_string())];
        heartbeat::register(other.system_api(), "flv", &http)?;
        let webrtc = ice::Origin::start()?;
        webrtc.register_at(slow.system_api(), "webrtc")?;
        fleet.must_know(3)?;

        let call = |id: u32, stream: &str| -> Result<Caller> {
            let caller = Caller::call(slow.srt(), id, &format!("#!::r=live/{stream}"), SOON)?;
            caller.must_echo(SOON)?;
            Ok(caller)
        };
        let watch = || -> Result<raw::Client> {
            let mut client = raw::Client::connect(slow.http())?;
            client.ask("GET", "/live/flv.flv", "")?;
            let head = client.head()?;
            ensure!(head.status()? == 200, "{}", head.line);
            client.body(&head, "GET", 1)?;
            Ok(client)
        };
        let meet = |ufrag: &str| -> Result<ice_client::Client> {
            let client = ice_client::Client::open(slow.http_api(), Role::Play, "webrtc", ufrag)?;
            client.connect()?;
            Ok(client)
        };
        // Each is known: somebody has it.
        let _known = (call(1, "srt")?, watch()?, meet("early")?);

        relay.set(DELAY);
        thread::scope(|scope| -> Result<()> {
            let new = scope.spawn(|| {
                let start = Instant::now();
                call(2, "new").map(|_| start.elapsed())
            });
            for n in 0..5 {
                let within = |what: &str, start: Instant| {
                    let took = start.elapsed();
                    println!("{what} {n} took {took:?}");
                    ensure!(took < DELAY, "{what} {n} has waited {took:?}");
                    Ok(())
                };
                let start = Instant::now();
                let _caller = call(3 + n, "srt")?;
                within("SRT", start)?;
                let start = Instant::now();
                let _viewer = watch()?;
                within("HTTP-FLV", start)?;
                let start = Instant::now();
                let _player = meet(&format!("late{n}"))?;
                within("WHEP", start)?;
            }
            let took = new.join().ok().context("a caller has panicked")??;
            ensure!(took >= DELAY, "Redis was not slow: {took:?}");
            Ok(())
        })?;
        ensure!(fleet.degraded()?.iter().all(Option::is_none), "slow is not lost");
        Ok(())
    })
}

#[test]
fn nobody_waits_longer_than_the_deadline_for_a_redis_that_swallows_everything() -> Result<()> {
    with_redis(|folder, redis| {
        let relay = Delay::before(redis.address(), Duration::ZERO)?;
        let mut fleet = Fleet::of(folder, 2, |_| {
            let mut variables = at(relay.address());
            variables.push(("PROXY_REDIS_TIMEOUT", "1s".to_owned()));
            variables
        })?;
        fleet.add_origins(2)?;
        let mut shows = vec![fleet.must_show("known", 0, 1)?];
        relay.set(Duration::from_millis(150));
        shows.push(fleet.must_show("slow", 1, 0)?);
        relay.set(Duration::ZERO);
        fleet.must_be_healthy()?;
        fleet.owner("slow")?;

        relay.black_hole(true);
        let limit = Duration::from_secs(4);
        for n in 0..20 {
            let start = Instant::now();
            shows.push(fleet.show(&format!("new{n}"), n % 2, (n + 1) % 2)?);
            ensure!(start.elapsed() < limit, "stream {n} took {:?}", start.elapsed());
            handshakes(fleet.rtmp(n % 2)?, "known", 1, limit)?;
        }
        let why = fleet.must_be_degraded()?;
        println!("{why}");
        must_go_on(&mut shows, 3)?;
        for n in 0..20 {
            fleet.owner(&format!("new{n}"))?;
        }
        relay.black_hole(false);
        fleet.must_be_healthy()?;
        shows.push(fleet.must_show("after", 0, 1)?);
        must_go_on(&mut shows, 3)
    })
}

#[test]
fn a_proxy_that_missed_one_answer_agrees_with_the_others_all_the_same() -> Result<()> {
    with_redis(|folder, redis| {
        let relay = Delay::before(redis.address(), Duration::ZERO)?;
        let mut fleet = Fleet::of(folder, 2, |place| {
            let mut variables = at(if place == 0 { redis.address() } else { relay.address() });
            let timeout = if place == 0 { "2s" } else { "300ms" };
            variables.push(("PROXY_REDIS_TIMEOUT", timeout.to_owned()));
            variables.push(("PROXY_BALANCER_POLICY", "random".to_owned()));
            variables
        })?;
        fleet.add_origins(4)?;
        let mut shows = Vec::new();
        for round in 0..4 {
            relay.black_hole(true);
            wait::until_true("it has missed one", SOON, || {
                Ok(fleet.degraded()?.last().is_some_and(Option::is_some))
            })?;
            relay.black_hole(false);
            for n in 0..3 {
                shows.push(fleet.show(&format!("show{round}-{n}"), 0, 1)?);
            }
            must_go_on(&mut shows, 1)?;
            fleet.must_be_healthy()?;
        }
        Ok(())
    })
}

/// Players of a stream that come one after the other, each within this time; how long nearly all
/// of them took.
fn handshakes(
    server: std::net::SocketAddr,
    stream: &str,
    count: u32,
    limit: Duration,
) -> Result<Duration> {
    let mut all = Vec::new();
    for n in 0..count {
        let start = Instant::now();
        Client::play(server, stream).with_context(|| format!("player {n} of {stream}"))?;
        ensure!(start.elapsed() < limit, "player {n} of {stream} waited {:?}", start.elapsed());
        all.push(start.elapsed());
    }
    all.sort_unstable();
    let place = (all.len() * 99).div_ceil(100).saturating_sub(1);
    all.get(place).copied().context("nobody came")
}
