//! An origin dies, or a proxy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::fleet::{Fleet, SOON, must_go_on, owner_value, route_key, values};
use srs_proxy_tests::rtmp::Client;
use srs_proxy_tests::wait;

use super::with_redis;

/// For a stream to be back at another origin: a machine that is busy has twice what it should take.
const BACK: Duration = Duration::from_secs(12);

#[test]
fn streams_of_a_dead_origin_are_at_one_other_as_soon_as_their_publishers_are_back() -> Result<()> {
    with_redis(|folder, redis| {
        let mut fleet = Fleet::start(folder, &redis, 2, 3)?;
        // Each is played at both proxies; one publisher comes back by the other proxy, one by the
        // same.
        let ways = [(0, 1), (0, 0), (1, 0), (1, 1)];
        let mut shows = Vec::new();
        for n in 0..24 {
            let (before, _) = ways.get(n % 4).context("a way")?;
            let mut show = fleet.show(&format!("show{n}"), *before, 0)?;
            show.players.push(Client::play(fleet.rtmp(1)?, &show.stream)?);
            show.players.remove(0);
            shows.push(show);
        }
        must_go_on(&mut shows, 2)?;
        let home = fleet.owner("show0")?;
        let mut hit = Vec::new();
        for (n, show) in shows.iter().enumerate() {
            if fleet.owner(&show.stream)? == home {
                hit.push(n);
            }
        }
        ensure!(hit.len() > 3, "streams of one of three origins: {hit:?}");
        fleet.kill_origin(home)?;
        let death = Instant::now();
        let mut others = Vec::new();
        for (n, mut show) in shows.into_iter().enumerate() {
            if hit.contains(&n) {
                show.publisher.must_be_closed_within(SOON)?;
            } else {
                others.push(show);
            }
        }
        let mut again = Vec::new();
        for n in &hit {
            let (_, after) = ways.get(n % 4).context("a way")?;
            let stream = format!("show{n}");
            let show = wait::until(&format!("{stream} is back"), BACK, || {
                fleet.must_show(&stream, *after, 0).map(Some)
            })?;
            again.push(show);
        }
        let gap = death.elapsed();
        println!("{} streams were back after {gap:?}", again.len());
        ensure!(gap < BACK, "{} streams were away for {gap:?}", again.len());
        for (n, show) in hit.iter().zip(&mut again) {
            show.players.push(Client::play(fleet.rtmp(1)?, &format!("show{n}"))?);
        }
        for show in &again {
            let owner = fleet.owner(&show.stream)?;
            ensure!(owner != home, "{} is back at the dead origin", show.stream);
            let value = values(&redis, &[route_key(&show.stream)])?.concat();
            assert_eq!(value, owner_value(owner)?, "the key of {}", show.stream);
        }
        // Those of the other origins have noticed nothing.
        must_go_on(&mut others, 3)?;
        must_go_on(&mut again, 0)
    })
}

#[test]
fn what_a_killed_proxy_has_claimed_stays_where_its_clients_had_it() -> Result<()> {
    with_redis(|folder, redis| {
        let mut fleet = Fleet::start(folder, &redis, 3, 3)?;
        let dying = fleet.rtmp(0)?;
        let (start, published) = (Barrier::new(51), AtomicUsize::new(0));
        let told = Mutex::new(Vec::new());
        let victim = &mut fleet.proxies[0];
        thread::scope(|scope| -> Result<()> {
            for n in 0..50 {
                let (start, published, told) = (&start, &published, &told);
                scope.spawn(move || {
                    let stream = format!("stream{n}");
                    let client = Client::connect(dying);
                    start.wait();
                    // Some are answered, and others see their proxy die.
                    let asked = client.and_then(|mut client| {
                        client.ask_to_publish(&stream)?;
                        client.expect("NetStream.Publish.Start")?;
                        Ok(client)
                    });
                    if let Ok(client) = asked {
                        published.fetch_add(1, Ordering::Relaxed);
                        told.lock().expect("no panic").push((stream, client));
                    }
                });
            }
            start.wait();
            let deadline = Instant::now() + SOON;
            while published.load(Ordering::Relaxed) < 10 && Instant::now() < deadline {
                thread::yield_now();
            }
            victim.process.kill()
        })?;
        let victim = fleet.proxies.remove(0);
        let told: Vec<_> = told.into_inner()?.into_iter().map(|(stream, _)| stream).collect();
        println!("{} of 50 had their stream", told.len());

        let streams: Vec<_> = (0..50).map(|n| format!("stream{n}")).collect();
        let had = |stream: &String| {
            (0..3).filter(|it| fleet.origin(*it).is_ok_and(|it| it.has_seen(stream))).collect()
        };
        let had: Vec<Vec<usize>> = streams.iter().map(had).collect();
        let mut players = Vec::new();
        for stream in &streams {
            for proxy in 0..2 {
                players.push(Client::play(fleet.rtmp(proxy)?, stream)?);
            }
        }
        let owners = super::race::owners(&fleet, &streams)?;
        for ((stream, owner), had) in streams.iter().zip(&owners).zip(&had) {
            ensure!(!told.contains(stream) || had.len() == 1, "{stream} was at {had:?}");
            if let [had] = had[..] {
                assert_eq!(*owner, had, "the owner of {stream}, which the dead proxy's client had");
            }
        }
        let keys: Vec<_> = streams.iter().map(|it| route_key(it)).collect();
        for ((stream, owner), value) in streams.iter().zip(&owners).zip(values(&redis, &keys)?) {
            assert_eq!(value, owner_value(*owner)?, "the key of {stream}");
        }
        drop(victim);
        holds_must_end(&redis, &keys)
    })
}

/// Every use of a stream that is noted ends within half a minute unless it is noted again.
fn holds_must_end(redis: &srs_proxy_tests::redis::Redis, routes: &[String]) -> Result<()> {
    let seconds: u64 = redis.cli(&["TIME"])?.lines().next().context("no time")?.parse()?;
    let mut uses = 0;
    for route in routes {
        let noted = redis.cli(&["HGETALL", &format!("srs-proxy-claim:{{{route}}}")])?;
        let lines: Vec<_> = noted.lines().collect();
        for pair in lines.chunks_exact(2) {
            let [field, value] = pair else { continue };
            if field.starts_with("use|") {
                let ends = value.split('|').next().unwrap_or_default();
                let ends: u64 = ends.parse().with_context(|| format!("{field} {value}"))?;
                ensure!(ends <= (seconds + 31) * 1000, "{field} of {route} ends at {ends}");
                uses += 1;
            }
        }
    }
    ensure!(uses >= 100, "{uses} uses of {} streams by two proxies", routes.len());
    Ok(())
}
