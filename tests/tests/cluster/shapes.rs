//! Redis behind Sentinels, as a Cluster, and with TLS.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::fleet::{Fleet, SOON, by_url, must_go_on, owner_value, route_key};
use srs_proxy_tests::redis::{Certificates, Redis, RedisCluster, Sentinel, obstacle};
use srs_proxy_tests::{skip, story, wait};

use super::race::{owners, race};

#[test]
fn a_replica_takes_over_from_a_killed_master_and_nobody_notices() -> Result<()> {
    if let Some(why) = obstacle() {
        return skip(&why);
    }
    story(|folder| {
        let mut master = Redis::start()?;
        let replica = Redis::options().replica_of(&master).start()?;
        let sentinel = Sentinel::start(&master, 1)?;
        let url = format!("redis+sentinel://{}/{}", sentinel.address(), Sentinel::MASTER);
        let mut fleet = Fleet::of(folder, 2, |_| by_url(url.clone()))?;
        fleet.add_origins(2)?;
        let mut shows = vec![fleet.must_show("before", 0, 1)?];
        let home = fleet.owner("before")?;
        master.kill()?;
        let death = Instant::now();
        fleet.must_be_degraded()?;
        shows.push(fleet.must_show("meanwhile", 1, 0)?);
        fleet.owner("meanwhile")?;
        fleet.must_be_healthy()?;
        println!("the replica was found after {:?}", death.elapsed());
        assert_eq!(sentinel.master()?, replica.address(), "the master");
        shows.push(fleet.must_show("after", 0, 1)?);
        wait::until("the replica has the routes", SOON, || {
            for (stream, owner) in [
                ("before", home),
                ("meanwhile", fleet.owner("meanwhile")?),
                ("after", fleet.owner("after")?),
            ] {
                let value = replica.cli(&["GET", &route_key(stream)])?;
                ensure!(value == owner_value(owner)?, "{stream}: {value}");
            }
            Ok(Some(()))
        })?;
        must_go_on(&mut shows, 2)
    })
}

#[test]
fn a_cluster_of_three_is_as_good_as_one_server_and_a_dead_node_ends_no_session() -> Result<()> {
    if let Some(why) = obstacle() {
        return skip(&why);
    }
    story(|folder| {
        let mut redis = RedisCluster::start(3)?;
        let nodes: Vec<_> = redis.nodes.iter().map(|it| it.address().to_string()).collect();
        let url = format!("redis+cluster://{}", nodes.join(","));
        let mut fleet = Fleet::of(folder, 3, |_| {
            let mut variables = by_url(url.clone());
            variables.push(("PROXY_BALANCER_POLICY", "random".to_owned()));
            variables
        })?;
        fleet.add_origins(3)?;
        let streams: Vec<_> = (0..15).map(|n| format!("stream{n}")).collect();
        let clients = race(&fleet, &streams, 60)?;
        for (stream, owner) in streams.iter().zip(owners(&fleet, &streams)?) {
            let key = route_key(stream);
            let node = redis.nodes.get(redis.node_of(&key)?).context("no node")?;
            assert_eq!(node.cli(&["GET", &key])?, owner_value(owner)?, "the key of {stream}");
        }
        drop(clients);

        let mut shows = Vec::new();
        for n in 0..9 {
            shows.push(fleet.must_show(&format!("before{n}"), n % 3, (n + 1) % 3)?);
        }
        // That which does not have the list of origins.
        let dead = (redis.node_of("srs-proxy-all-servers")? + 1) % 3;
        redis.nodes.get_mut(dead).context("no node")?.kill()?;
        must_be_of_one_mind(&fleet)?;
        for n in 0..9 {
            let start = Instant::now();
            let show = fleet.must_show(&format!("after{n}"), n % 3, (n + 1) % 3)?;
            fleet.owner(&show.stream)?;
            ensure!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
            shows.push(show);
        }
        must_go_on(&mut shows, 3)
    })
}

/// Waits until for a second every proxy says the same of the store.
fn must_be_of_one_mind(fleet: &Fleet) -> Result<()> {
    let mut since = None;
    wait::until_true("the proxies are of one mind", SOON, || {
        let degraded = fleet.degraded()?;
        let first = degraded.first().map(Option::is_some);
        let are_all_alike = degraded.iter().all(|it| Some(it.is_some()) == first);
        since = since.filter(|(last, _)| are_all_alike && *last == first);
        let (_, at) = since.get_or_insert((first, Instant::now()));
        Ok(at.elapsed() >= Duration::from_secs(1))
    })?;
    println!("a node is dead: {:?}", fleet.degraded()?);
    Ok(())
}

#[test]
fn user_password_and_tls_are_one_matter_of_configuration() -> Result<()> {
    if let Some(why) = obstacle() {
        return skip(&why);
    }
    story(|folder| {
        let certificates = Certificates::create(folder, "redis")?;
        let options = Redis::options().tls(&certificates).password("default");
        let redis = options.user("proxy", "p@ss", "~* &* +@all").start()?;
        let ca = certificates.ca.display().to_string();
        let mut fleet = Fleet::of(folder, 2, |_| {
            let mut variables = by_url(format!("rediss://proxy:p%40ss@{}/3", redis.address()));
            variables.push(("PROXY_REDIS_TLS_CA", ca.clone()));
            variables.push(("PROXY_REDIS_KEY_PREFIX", "fleet".to_owned()));
            variables
        })?;
        fleet.add_origins(2)?;
        let mut show = fleet.must_show("secret", 0, 1)?;
        let owner = fleet.owner("secret")?;
        let key = format!("fleet:{}", route_key("secret"));
        let value = redis.cli(&["-n", "3", "GET", &key])?;
        assert_eq!(value, format!("fleet:{}", owner_value(owner)?), "{key}");
        must_go_on(std::slice::from_mut(&mut show), 2)
    })
}
