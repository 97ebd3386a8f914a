//! Redis is gone for a while, or has lost everything.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::fleet::{
    BEAT, Fleet, NAMES, SOON, Show, must_go_on, owner_value, route_key, values,
};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::redis::Redis;
use srs_proxy_tests::rtmp::Client;
use srs_proxy_tests::wait;

use super::with_redis;

/// Streams with a publisher at one proxy and a player at the other.
const SHOWS: usize = 50;

#[test]
fn a_minute_without_redis_ends_none_of_a_hundred_sessions_and_new_ones_begin() -> Result<()> {
    with_redis(|folder, mut redis| {
        let (mut fleet, mut shows) = start(folder, &redis)?;
        let owners = owners(&fleet)?;
        redis.kill()?;
        let away = Instant::now();
        must_go_on(&mut shows, 5)?;
        let why = fleet.must_be_degraded()?;
        ensure!(why.starts_with("store: no connection"), "{why}");

        let mut round = 0;
        while away.elapsed() < Duration::from_mins(1) {
            // Heartbeats go on.
            for origin in 0..3 {
                fleet.register(origin, origin % 2)?;
            }
            for n in 0..2 {
                // A stream that is known is where it was, at both proxies.
                let known = (2 * round + n) % SHOWS;
                let stream = format!("known{known}");
                let start = Instant::now();
                for proxy in 0..2 {
                    Client::play(fleet.rtmp(proxy)?, &stream)
                        .with_context(|| format!("{stream} at proxy {proxy}"))?;
                }
                ensure!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
                // A new one is at the same origin for both.
                let mut new = fleet.must_show(&format!("new{round}-{n}"), n, 1 - n)?;
                new.beat()?;
                fleet.owner(&new.stream)?;
            }
            ensure!(fleet.degraded()?.iter().all(Option::is_some), "who says that it is there?");
            let next = Instant::now() + Duration::from_secs(4);
            while Instant::now() < next {
                for show in &mut shows {
                    show.beat()?;
                }
                thread::sleep(BEAT);
            }
            must_go_on(&mut shows, 3)?;
            round += 1;
        }
        let last = fleet.must_show("last", 0, 1)?;
        let of_last = fleet.owner("last")?;
        shows.push(last);
        // One that nobody else can be told of yet.
        let new = fleet.start_origin()?;
        fleet.register(new, 0)?;

        redis.restart()?;
        let back = Instant::now();
        fleet.must_be_healthy()?;
        let mut all = owners;
        all.push(("last".to_owned(), of_last));
        must_come_back(&redis, &all, 4)?;
        println!("all was back after {:?}", back.elapsed());
        fleet.must_know(4)?;
        let new = fleet.must_show("after", 1, 0)?;
        all.push(("after".to_owned(), fleet.owner("after")?));
        shows.push(new);
        must_come_back(&redis, &all, 4)?;
        must_go_on(&mut shows, 5)
    })
}

#[test]
fn an_emptied_redis_is_filled_again_and_nobody_notices() -> Result<()> {
    with_redis(|folder, redis| {
        let (fleet, mut shows) = start(folder, &redis)?;
        let mut owners = owners(&fleet)?;
        for round in 0..2 {
            redis.cli(&["FLUSHALL"])?;
            let start = Instant::now();
            // While nothing is there yet.
            let new = fleet.must_show(&format!("new{round}"), round, 1 - round)?;
            owners.push((new.stream.clone(), fleet.owner(&new.stream)?));
            shows.push(new);
            must_come_back(&redis, &owners, 3)?;
            println!("all was back after {:?}", start.elapsed());
            for proxy in 0..2 {
                Client::play(fleet.rtmp(proxy)?, "known1")?;
            }
            must_go_on(&mut shows, 3)?;
            fleet.must_know(3)?;
            fleet.must_be_healthy()?;
        }
        Ok(())
    })
}

#[test]
fn what_redis_answers_is_timed_and_what_it_does_not_is_counted() -> Result<()> {
    with_redis(|folder, mut redis| {
        let fleet = Fleet::start(folder, &redis, 2, 2)?;
        let _show = fleet.must_show("show", 0, 1)?;
        let count =
            |proxy: &Proxy, ask| proxy.metric("srs_proxy_store_seconds_count", &[("ask", ask)]);
        for proxy in &fleet.proxies {
            for ask in ["claim", "read", "write"] {
                let what = format!("each {ask} is timed");
                wait::until_true(&what, SOON, || Ok(count(proxy, ask)? > 0))?;
            }
        }
        redis.kill()?;
        for proxy in &fleet.proxies {
            let errors = || proxy.metric("srs_proxy_store_errors_total", &[("reason", "down")]);
            for _ in 0..3 {
                let before = errors()?;
                wait::until_true("errors are counted", SOON, || Ok(errors()? > before))?;
            }
        }
        redis.restart()?;
        fleet.must_be_healthy()?;
        for proxy in &fleet.proxies {
            let before = count(proxy, "read")?;
            wait::until_true("answers are timed", SOON, || Ok(count(proxy, "read")? > before))?;
        }
        Ok(())
    })
}

/// Two proxies, three origins, and a hundred sessions.
fn start(folder: &std::path::Path, redis: &Redis) -> Result<(Fleet, Vec<Show>)> {
    let fleet = Fleet::start(folder, redis, 2, 3)?;
    let show = |n: usize| fleet.show(&format!("known{n}"), n % 2, (n + 1) % 2);
    let mut shows = (0..SHOWS).map(show).collect::<Result<Vec<_>>>()?;
    must_go_on(&mut shows, 3)?;
    Ok((fleet, shows))
}

/// Each of those streams and its owner.
fn owners(fleet: &Fleet) -> Result<Vec<(String, usize)>> {
    let streams: Vec<_> = (0..SHOWS).map(|n| format!("known{n}")).collect();
    let owners = super::race::owners(fleet, &streams)?;
    Ok(streams.into_iter().zip(owners).collect())
}

/// Waits until Redis has these routes, and so many origins.
fn must_come_back(redis: &Redis, owners: &[(String, usize)], origins: usize) -> Result<()> {
    let keys: Vec<_> = owners.iter().map(|(stream, _)| route_key(stream)).collect();
    wait::until("Redis has every route and origin again", SOON, || {
        for ((stream, owner), value) in owners.iter().zip(values(redis, &keys)?) {
            ensure!(value == owner_value(*owner)?, "{stream} is of {owner}, not of {value:?}");
        }
        let list = redis.cli(&["GET", "srs-proxy-all-servers"])?;
        for name in NAMES.iter().take(origins) {
            let key = format!("srs-proxy-server:vid-{name}-{name}-1");
            ensure!(list.contains(&key), "{key} is not in {list}");
            ensure!(redis.cli(&["EXISTS", &key])? == "1", "there is no {key}");
        }
        Ok(Some(()))
    })
}
