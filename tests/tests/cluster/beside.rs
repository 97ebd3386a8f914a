//! SRS's own proxy on the same Redis, as far as it is seen there: the commands that it sends.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use srs_proxy_tests::fleet::{Fleet, NAMES, SOON, must_go_on};
use srs_proxy_tests::redis::Redis;
use srs_proxy_tests::wait;

use super::with_redis;

const LIST: &str = "srs-proxy-all-servers";

/// What SRS's own proxy does with Redis: nothing of it is atomic.
struct OldProxy<'a> {
    redis: &'a Redis,
    rolls: Cell<usize>,
}

impl OldProxy<'_> {
    fn of(redis: &Redis) -> OldProxy<'_> {
        OldProxy { redis, rolls: Cell::new(0) }
    }

    fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(Some(self.redis.cli(&["GET", key])?).filter(|value| !value.is_empty()))
    }

    fn listed(&self) -> Result<Vec<String>> {
        let list = self.get(LIST)?.unwrap_or_else(|| "[]".to_owned());
        serde_json::from_str(&list).with_context(|| list)
    }

    /// Takes a heartbeat: its key, then the list, read, changed and written back.
    fn register(&self, name: &str, rtmp: u16) -> Result<String> {
        let server = json!({
            "ip": "127.0.0.1", "device_id": name, "server_id": format!("vid-{name}"),
            "service_id": name, "pid": "1", "rtmp": [rtmp.to_string()],
            "update_at": "2026-11-22T13:32:50.925404432Z",
        });
        let key = format!("srs-proxy-server:vid-{name}-{name}-1");
        self.redis.cli(&["SET", &key, &server.to_string(), "EX", "300"])?;
        let mut servers = Vec::new();
        for other in self.listed()? {
            if self.get(&other)?.is_some() {
                servers.push(other);
            }
        }
        if !servers.contains(&key) {
            servers.push(key.clone());
        }
        self.redis.cli(&["SET", LIST, &json!(servers).to_string()])?;
        Ok(key)
    }

    /// The key of a stream's origin, and the port of its RTMP.
    fn pick(&self, stream: &str) -> Result<(String, String)> {
        let url = srs_proxy_tests::fleet::route_key(stream);
        if let Some(server) = self.get(&url)?
            && let Some(value) = self.get(&server)?
        {
            return Ok((server, rtmp_of(&value)?));
        }
        let servers = self.listed()?;
        for _ in 0..3 {
            self.rolls.set(self.rolls.get() + 7);
            let server = servers.get(self.rolls.get() % servers.len()).context("no server")?;
            if let Some(value) = self.get(server)? {
                self.redis.cli(&["SET", &url, server])?;
                return Ok((server.clone(), rtmp_of(&value)?));
            }
        }
        bail!("no server available for {stream}")
    }
}

fn rtmp_of(server: &str) -> Result<String> {
    let server: Value = serde_json::from_str(server).with_context(|| server.to_owned())?;
    let port = server.pointer("/rtmp/0").and_then(Value::as_str);
    Ok(port.context("an origin without RTMP")?.to_owned())
}

/// The place of the origin with this port.
fn place_of(fleet: &Fleet, port: &str) -> Result<usize> {
    let is_it = |place: &usize| {
        fleet.origin(*place).is_ok_and(|it| it.address().port().to_string() == port)
    };
    (0..fleet.origins.len()).find(is_it).with_context(|| format!("{port} is of no origin"))
}

#[test]
fn origins_and_streams_are_the_same_for_the_existing_proxy_and_this_one() -> Result<()> {
    with_redis(|folder, redis| {
        let mut fleet = Fleet::start(folder, &redis, 2, 2)?;
        let old = OldProxy::of(&redis);
        let third = fleet.start_origin()?;
        let name = NAMES[third];
        old.register(name, fleet.origin(third)?.address().port())?;
        fleet.must_know(3)?;

        // What it has placed is played there by clients of either, and the other way round.
        let mut shows = Vec::new();
        let mut homes = [0; 3];
        for n in 0..12 {
            let (of_old, ours) = (format!("old{n}"), format!("new{n}"));
            let (_, port) = old.pick(&of_old)?;
            let home = place_of(&fleet, &port)?;
            shows.push(fleet.must_show(&of_old, n % 2, (n + 1) % 2)?);
            assert_eq!(fleet.owner(&of_old)?, home, "{of_old}, which the existing proxy placed");

            shows.push(fleet.must_show(&ours, n % 2, (n + 1) % 2)?);
            let (_, port) = old.pick(&ours)?;
            assert_eq!(fleet.owner(&ours)?, place_of(&fleet, &port)?, "{ours}, placed here");
            homes[home] += 1;
            homes[fleet.owner(&ours)?] += 1;
        }
        assert!(homes.iter().all(|count| *count > 1), "streams of each origin: {homes:?}");

        // It drops what was registered between its reading and its writing.
        let stale = redis.cli(&["GET", LIST])?;
        let fourth = fleet.start_origin()?;
        fleet.register(fourth, 0)?;
        fleet.must_know(4)?;
        redis.cli(&["SET", LIST, &stale])?;
        must_list(&old, 4)?;
        // Heartbeats of both kinds at the same time.
        for _ in 0..15 {
            old.register(name, fleet.origin(third)?.address().port())?;
            for place in 0..fleet.origins.len() {
                fleet.register(place, place % 2)?;
            }
        }
        must_list(&old, 4)?;
        let listed = old.listed()?.len();
        assert_eq!(listed, 4, "nobody is listed twice");
        fleet.must_know(4)?;
        must_go_on(&mut shows, 2)
    })
}

#[test]
fn no_heartbeat_is_lost_while_the_existing_proxy_writes_the_list() -> Result<()> {
    with_redis(|folder, redis| {
        let mut fleet = Fleet::start(folder, &redis, 2, 2)?;
        for _ in 0..2 {
            fleet.start_origin()?;
        }
        thread::scope(|scope| -> Result<()> {
            let beats = scope.spawn(|| -> Result<()> {
                let old = OldProxy::of(&redis);
                for _ in 0..40 {
                    old.register("old", 1)?;
                }
                Ok(())
            });
            while !beats.is_finished() {
                for place in 0..fleet.origins.len() {
                    fleet.register(place, place % 2)?;
                }
                thread::sleep(Duration::from_millis(20));
            }
            beats.join().ok().context("the existing proxy has panicked")?
        })?;
        must_list(&OldProxy::of(&redis), 4)?;
        fleet.must_know(5)
    })
}

/// Waits until the list has our first so many origins, as the existing proxy reads it.
fn must_list(old: &OldProxy<'_>, origins: usize) -> Result<()> {
    wait::until("every origin is in the list", SOON, || {
        let list = old.listed()?;
        for name in NAMES.iter().take(origins) {
            let key = format!("srs-proxy-server:vid-{name}-{name}-1");
            ensure!(list.contains(&key), "{key} is not in {list:?}");
            ensure!(old.get(&key)?.is_some(), "{key} is not there");
        }
        Ok(Some(()))
    })
}
