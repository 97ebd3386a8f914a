//! What an operator asks of one proxy is done by all.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use srs_proxy_tests::fleet::{Fleet, NAMES, SOON, Show, must_go_on};
use srs_proxy_tests::{http, wait};

use super::with_redis;

#[test]
fn an_origin_is_drained_put_into_maintenance_and_taken_out_at_every_proxy() -> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::start(folder, &redis, 2, 2)?;
        let mut old = fleet.must_show("old", 0, 1)?;
        let home = fleet.owner("old")?;
        let server = format!("vid-{}", NAMES[home]);
        let order = |word: &str| -> Result<()> {
            let path = format!("/api/v1/origins/{server}/{word}");
            let answer = http::post(fleet.proxy(0)?.system_api(), &path, "")?;
            ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
            Ok(())
        };
        let mut count = 0;
        let mut new_ones_are_at = |here: bool| -> Result<()> {
            let mut owners = Vec::new();
            let mut shows = Vec::new();
            for n in 0..6 {
                count += 1;
                let show = fleet.must_show(&format!("new{count}"), n % 2, (n + 1) % 2)?;
                owners.push(fleet.owner(&show.stream)?);
                shows.push(show);
            }
            ensure!(owners.contains(&home) == here, "new ones, {home} is told of: {owners:?}");
            Ok(())
        };

        order("drain")?;
        must_be(&fleet, &server, "draining")?;
        new_ones_are_at(false)?;
        must_go_on(std::slice::from_mut(&mut old), 3)?;
        ensure!(fleet.owner("old")? == home, "an old one stays");
        let progress = fleet.proxy(1)?.get(&format!("/api/v1/origins/{server}"))?;
        let left = progress.pointer("/origin/progress").context("no progress")?;
        ensure!(left.get("is_empty") == Some(&false.into()), "{progress}");
        old = fleet.must_show("old", 1, 0)?;
        ensure!(fleet.owner("old")? == home, "and so do its next clients");

        order("activate")?;
        must_be(&fleet, &server, "active")?;
        new_ones_are_at(true)?;

        order("maintenance")?;
        must_be(&fleet, &server, "maintenance")?;
        new_ones_are_at(false)?;
        drop(old);
        let moved = fleet.must_show("old", 1, 0)?;
        ensure!(fleet.owner("old")? != home, "its old streams go elsewhere");
        drop(moved);
        order("activate")?;
        must_be(&fleet, &server, "active")?;

        let answer =
            http::delete(fleet.proxy(1)?.system_api(), &format!("/api/v1/origins/{server}"))?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        fleet.must_know(1)?;
        for proxy in 0..2 {
            ensure!(fleet.register(home, proxy).is_err(), "a heartbeat brings it back");
        }
        new_ones_are_at(false)?;
        order("activate")?;
        wait::until("it may come back", SOON, || fleet.register(home, 1).map(Some))?;
        fleet.must_know(2)?;
        new_ones_are_at(true)
    })
}

#[test]
fn a_drained_origin_is_empty_when_the_last_client_of_either_proxy_has_left() -> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::start(folder, &redis, 2, 2)?;
        let show = fleet.must_show("last", 0, 1)?;
        let server = format!("vid-{}", NAMES[fleet.owner("last")?]);
        let path = format!("/api/v1/origins/{server}/drain");
        let answer = http::post(fleet.proxy(0)?.system_api(), &path, "")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        must_be(&fleet, &server, "draining")?;
        must_have_left(&fleet, &server, [1, 1])?;
        let Show { publisher, players, .. } = show;
        drop(players);
        must_have_left(&fleet, &server, [1, 0])?;
        drop(publisher);
        must_have_left(&fleet, &server, [0, 0])
    })
}

/// Waits until both proxies show that each has so many streams and sessions at an origin.
fn must_have_left(fleet: &Fleet, server: &str, left: [usize; 2]) -> Result<()> {
    let [a, b] = left;
    for (proxy, [here, elsewhere]) in fleet.proxies.iter().zip([[a, b], [b, a]]) {
        let expected = json!({
            "streams": here, "streams_elsewhere": elsewhere,
            "sessions": here, "sessions_elsewhere": elsewhere,
            "is_empty": left == [0, 0],
        });
        wait::until(&format!("{left:?} are left at {server}"), SOON, || {
            let origin = proxy.get(&format!("/api/v1/origins/{server}"))?;
            let progress = origin.pointer("/origin/progress").context("no progress")?;
            ensure!(*progress == expected, "{progress}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// Waits until both proxies show the origin in this state.
fn must_be(fleet: &Fleet, server: &str, state: &str) -> Result<()> {
    for proxy in &fleet.proxies {
        wait::until(&format!("{server} is {state}"), SOON, || {
            let origin = proxy.get(&format!("/api/v1/origins/{server}"))?;
            let shown = origin.pointer("/origin/state").and_then(Value::as_str);
            ensure!(shown == Some(state), "{origin}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}
