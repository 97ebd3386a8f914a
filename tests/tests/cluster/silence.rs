//! An origin that serves as before, and is left by all who come again: its heartbeats have stopped, or
//! it was taken out.

use std::slice::from_mut;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::fleet::{Fleet, NAMES, SOON, Show, at, must_go_on, owner_value, route_key};
use srs_proxy_tests::redis::Redis;
use srs_proxy_tests::rtmp::Client;
use srs_proxy_tests::{http, wait};

use super::with_redis;

#[test]
fn who_comes_again_after_the_heartbeats_have_stopped_meets_at_one_new_owner() -> Result<()> {
    with_redis(|folder, redis| {
        let mut fleet = Fleet::of(folder, 2, |_| {
            let mut variables = at(redis.address());
            variables.push(("PROXY_ORIGIN_SERVER_TTL", "3s".to_owned()));
            variables
        })?;
        for _ in 0..3 {
            fleet.start_origin()?;
        }
        let silent = AtomicUsize::new(usize::MAX);
        with_heartbeats(&fleet, &silent, || {
            fleet.must_know(3)?;
            let mut shows = Vec::new();
            for n in 0..6 {
                shows.push(fleet.must_show(&format!("show{n}"), n % 2, (n + 1) % 2)?);
            }
            let home = fleet.owner("show0")?;
            silent.store(home, Ordering::Relaxed);
            let start = Instant::now();
            fleet.must_know(2)?;
            println!("it was gone after {:?}", start.elapsed());
            let key = format!("srs-proxy-server:vid-{0}-{0}-1", NAMES[home]);
            ensure!(redis.cli(&["EXISTS", &key])? == "0", "{key} is still there");
            // Whoever is there stays.
            must_go_on(&mut shows, 2)?;

            let mut hit = Vec::new();
            let mut others = Vec::new();
            for (n, show) in shows.into_iter().enumerate() {
                if fleet.owner(&show.stream)? == home {
                    hit.push((n, show.stream));
                } else {
                    others.push(show);
                }
            }
            let mut again = Vec::new();
            for (n, stream) in &hit {
                // Each at the proxy where the other was.
                again.push(meet(&fleet, stream, (n + 1) % 2, &[n % 2])?);
            }
            must_go_on(&mut again, 3)?;
            for show in &again {
                let owner = must_have_one_owner(&fleet, &redis, &show.stream)?;
                ensure!(owner != home, "{} is back where it was", show.stream);
            }
            println!("{} of 6 streams were there", again.len());
            must_go_on(&mut others, 2)
        })
    })
}

#[test]
fn who_comes_after_an_origin_was_taken_out_meets_at_one_new_owner_and_who_is_there_stays()
-> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::start(folder, &redis, 2, 3)?;
        let nobody = AtomicUsize::new(usize::MAX);
        with_heartbeats(&fleet, &nobody, || {
            let mut old = fleet.must_show("show", 0, 1)?;
            let home = fleet.owner("show")?;
            let path = format!("/api/v1/origins/vid-{}", NAMES[home]);
            let answer = http::delete(fleet.proxy(0)?.system_api(), &path)?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
            fleet.must_know(2)?;
            for proxy in 0..2 {
                let why = fleet.register(home, proxy).err().context("its heartbeat is taken")?;
                ensure!(why.to_string().contains("409"), "{why}");
            }
            must_go_on(from_mut(&mut old), 2)?;

            let mut new = meet(&fleet, "show", 1, &[0, 1])?;
            must_go_on(from_mut(&mut new), 3)?;
            must_go_on(from_mut(&mut old), 2)?;
            let mut sessions = fleet.proxy(0)?.media_of("show")?;
            sessions.extend(fleet.proxy(1)?.media_of("show")?);
            let address = fleet.origin(home)?.address().to_string();
            let (stay, come): (Vec<_>, Vec<_>) =
                sessions.into_iter().partition(|it| it.origin_address == address);
            assert_eq!((stay.len(), come.len()), (2, 3), "old and new sessions");
            let owner = fleet.owner_of(&come)?;

            drop(old);
            assert_eq!(must_have_one_owner(&fleet, &redis, "show")?, owner, "the owner");
            must_go_on(from_mut(&mut new), 2)?;
            // Its heartbeats have gone on all the while.
            fleet.must_know(2)
        })
    })
}

/// A publisher and players that ask for a stream at the same time.
fn meet(fleet: &Fleet, stream: &str, publisher: usize, players: &[usize]) -> Result<Show> {
    let start = &Barrier::new(players.len() + 1);
    let publisher = fleet.rtmp(publisher)?;
    let players = players.iter().map(|it| fleet.rtmp(*it)).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let play = |server| {
            scope.spawn(move || {
                start.wait();
                Client::play(server, stream)
            })
        };
        let players: Vec<_> = players.into_iter().map(play).collect();
        start.wait();
        let publisher =
            Client::publish(publisher, stream).with_context(|| format!("publishing {stream}"))?;
        let join = |player: thread::ScopedJoinHandle<'_, Result<Client>>| {
            let player = player.join().ok().context("a player has panicked")?;
            player.with_context(|| format!("playing {stream}"))
        };
        let players = players.into_iter().map(join).collect::<Result<_>>()?;
        Ok(Show::of(stream, publisher, players))
    })
}

/// Waits until all sessions of a stream, at both proxies, are at the origin that Redis names.
fn must_have_one_owner(fleet: &Fleet, redis: &Redis, stream: &str) -> Result<usize> {
    wait::until(&format!("{stream} has one owner"), SOON, || {
        let owner = fleet.owner(stream)?;
        let value = redis.cli(&["GET", &route_key(stream)])?;
        ensure!(value == owner_value(owner)?, "its sessions are at {owner}, its key has {value}");
        Ok(Some(owner))
    })
}

/// All origins send heartbeats meanwhile, but the silent one.
fn with_heartbeats(
    fleet: &Fleet,
    silent: &AtomicUsize,
    tell: impl FnOnce() -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let (told, is_told) = mpsc::channel::<()>();
        scope.spawn(move || {
            while is_told.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                for origin in 0..fleet.origins.len() {
                    if origin != silent.load(Ordering::Relaxed) {
                        // One that was taken out is refused.
                        let _ = fleet.register(origin, origin % 2);
                    }
                }
            }
        });
        let end = tell();
        drop(told);
        end
    })
}

const HEARTBEAT: Duration = Duration::from_millis(500);
