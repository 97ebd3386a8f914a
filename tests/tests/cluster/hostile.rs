//! Redis refuses the proxy, or has what no proxy has written.

use std::slice::from_mut;

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::fleet::{Fleet, SOON, at, must_go_on, route_key};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::redis::{Redis, obstacle};
use srs_proxy_tests::{skip, story, wait};

use super::with_redis;

#[test]
fn a_wrong_password_keeps_a_proxy_from_starting_and_a_changed_one_degrades_it() -> Result<()> {
    if let Some(why) = obstacle() {
        return skip(&why);
    }
    story(|folder| {
        let redis = Redis::options().user("proxy", "right", "~* &* +@all").start()?;
        let with = |password: &str| {
            let mut variables = at(redis.address());
            variables.push(("PROXY_REDIS_USER", "proxy".to_owned()));
            variables.push(("PROXY_REDIS_PASSWORD", password.to_owned()));
            variables
        };
        let wrong = [("PROXY_LOAD_BALANCER_TYPE", "redis".to_owned())];
        let wrong: Vec<_> = with("hunter-wrong").into_iter().chain(wrong).collect();
        let wrong: Vec<_> = wrong.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let started = Proxy::start_named(folder, "refused", &wrong);
        let why = started.err().context("a proxy without the password has started")?.to_string();
        ensure!(why.contains("ended with") && why.contains("Redis refuses"), "{why}");
        ensure!(why.contains("authentication failed"), "{why}");
        ensure!(!why.contains("hunter-wrong"), "the password is told: {why}");

        let mut fleet = Fleet::of(folder, 2, |_| with("right"))?;
        fleet.add_origins(2)?;
        let mut shows = vec![fleet.must_show("before", 0, 1)?];
        redis.cli(&["ACL", "SETUSER", "proxy", "resetpass", ">other"])?;
        redis.cli(&["CLIENT", "KILL", "USER", "proxy"])?;
        wait::until("both say that Redis refuses them", SOON, || {
            for why in fleet.degraded()? {
                let why = why.context("a proxy is not degraded")?;
                ensure!(why.contains("authentication failed"), "{why}");
            }
            Ok(Some(()))
        })?;
        shows.push(fleet.must_show("meanwhile", 1, 0)?);
        fleet.owner("meanwhile")?;
        redis.cli(&["ACL", "SETUSER", "proxy", "resetpass", ">right"])?;
        fleet.must_be_healthy()?;
        for proxy in &fleet.proxies {
            let log = proxy.process.log();
            ensure!(log.contains("store lost") && log.contains("store back"), "{log}");
            ensure!(!log.contains("right\""), "the password is told: {log}");
        }
        shows.push(fleet.must_show("after", 0, 1)?);
        must_go_on(&mut shows, 2)
    })
}

/// What a key of Redis is made to be, by a script of it.
const WRONG: [(&str, &str); 6] = [
    ("a list", "redis.call('DEL', KEYS[1]) redis.call('RPUSH', KEYS[1], 'x')"),
    ("a hash", "redis.call('DEL', KEYS[1]) redis.call('HSET', KEYS[1], 'x', 'y')"),
    ("deep", "redis.call('SET', KEYS[1], string.rep('[', 60000))"),
    ("deep objects", "redis.call('SET', KEYS[1], string.rep('{\"a\":', 10000))"),
    ("huge", "redis.call('SET', KEYS[1], '[\"' .. string.rep('x', 20000000) .. '\"]')"),
    ("not UTF-8", "redis.call('SET', KEYS[1], '[\"\\255\\254\\0\"]')"),
];

#[test]
fn what_one_key_has_is_nothing_to_other_streams() -> Result<()> {
    with_redis(|folder, redis| {
        let mut fleet = Fleet::start(folder, &redis, 2, 2)?;
        let mut old = fleet.must_show("old", 0, 1)?;
        let home = fleet.owner("old")?;
        for (n, (what, script)) in WRONG.into_iter().enumerate() {
            let ruin = |key: &str| redis.cli(&["EVAL", script, "1", key]);
            let before = errors(&fleet)?;
            // A stream that nobody has asked for yet, and one that is in use.
            let stream = format!("broken{n}");
            ruin(&route_key(&stream))?;
            ruin(&route_key("old"))?;
            ruin(&format!("srs-proxy-claim:{{{}}}", route_key(&stream)))?;
            let mut broken = fleet.must_show(&stream, 0, 1).context(what)?;
            must_go_on(from_mut(&mut old), 2).context(what)?;
            fleet.must_show(&format!("new{n}"), 1, 0).context(what)?;
            fleet.owner(&stream)?;
            must_go_on(from_mut(&mut broken), 2).context(what)?;
            wait::until_true("the error is counted", SOON, || Ok(errors(&fleet)? > before))
                .with_context(|| format!("{what} as a stream's owner"))?;
            redis.cli(&["DEL", &route_key("old")])?;
            fleet.must_be_healthy().with_context(|| format!("{what} as a stream's owner"))?;
        }
        ensure!(fleet.owner("old")? == home, "the old stream stays");
        alive(&mut fleet)
    })
}

#[test]
fn what_the_list_or_an_origin_s_key_has_keeps_nobody_from_going_on() -> Result<()> {
    with_redis(|folder, redis| {
        let mut fleet = Fleet::start(folder, &redis, 2, 2)?;
        let mut old = fleet.must_show("old", 0, 1)?;
        let keys = ["srs-proxy-all-servers", "srs-proxy-server:vid-a-a-1"];
        for key in keys {
            for (n, (what, script)) in WRONG.into_iter().enumerate() {
                let about = || format!("{what} in {key}");
                redis.cli(&["EVAL", script, "1", key])?;
                let stream = format!("new-{}-{n}", key.len());
                let mut new = fleet.must_show(&stream, n % 2, (n + 1) % 2).with_context(about)?;
                fleet.owner(&stream).with_context(about)?;
                must_go_on(from_mut(&mut old), 2).with_context(about)?;
                must_go_on(from_mut(&mut new), 2).with_context(about)?;
                fleet.must_know(2).with_context(about)?;
                fleet.must_be_healthy().with_context(about)?;
                // What is told to others is told.
                let mark = format!("told-{stream}");
                let told = fleet.must_show(&mark, 0, 0).with_context(about)?;
                wait::until_true("the other proxy hears of a stream", SOON, || {
                    let asked = format!("/api/v1/streams/route?url=rtmp://x/live/{mark}");
                    Ok(fleet.proxy(1)?.get(&asked)?.to_string().contains("owner"))
                })
                .with_context(about)?;
                drop(told);
            }
            // It is made good by the next heartbeat at the latest.
            for place in 0..2 {
                // Redis may have what nobody dares to replace.
                let _ = fleet.register(place, place);
            }
            wait::until("the key is as it should be", SOON, || {
                let value = redis.cli(&["GET", key])?;
                ensure!(value.contains("vid-a"), "{value:.100}");
                Ok(Some(()))
            })
            .with_context(|| key.to_owned())?;
        }
        // Entries that are no origins, in a list that is one.
        let list = r#"["srs-proxy-server:","x",7,null,["y"],"srs-proxy-server:no-such-1"]"#;
        redis.cli(&["SET", "srs-proxy-all-servers", list])?;
        wait::until("both origins are listed again", SOON, || {
            let list = redis.cli(&["GET", "srs-proxy-all-servers"])?;
            ensure!(list.contains("vid-a-a-1") && list.contains("vid-b-b-1"), "{list}");
            Ok(Some(()))
        })?;
        alive(&mut fleet)
    })
}

fn errors(fleet: &Fleet) -> Result<u64> {
    let mut sum = 0;
    for proxy in &fleet.proxies {
        for reason in ["failed", "malformed"] {
            sum += proxy.metric("srs_proxy_store_errors_total", &[("reason", reason)])?;
        }
    }
    Ok(sum)
}

/// No proxy has ended or said that it panicked, and each goes on.
fn alive(fleet: &mut Fleet) -> Result<()> {
    for proxy in &mut fleet.proxies {
        let ended = proxy.process.ended()?;
        ensure!(ended.is_none(), "a proxy has ended with {ended:?}");
        ensure!(!proxy.process.log().contains("panicked"), "{}", proxy.process.log());
    }
    fleet.must_be_healthy()
}
