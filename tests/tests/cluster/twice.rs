//! One stream that is published at two origins.

use std::collections::BTreeSet;
use std::slice::from_mut;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use srs_proxy_tests::fleet::{Fleet, NAMES, SOON, Show, must_go_on, owner_value, route_key};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::Client;
use srs_proxy_tests::wait;

use super::with_redis;

/// Fifteen seconds, on a busy machine.
const OVER: Duration = Duration::from_secs(20);

#[test]
fn a_stream_published_at_two_origins_is_shown_with_both_until_one_publisher_ends() -> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::start(folder, &redis, 2, 2)?;
        let mut show = fleet.must_show("twice", 0, 0)?;
        let home = fleet.owner("twice")?;
        let other = 1 - home;
        must_all_show(&fleet, &BTreeSet::new(), SOON)?;

        let key = route_key("twice");
        let second = wait::until("it is published at the other origin, too", SOON, || {
            // As the existing proxy does, for whom nobody has it; the next hold of ours makes it good
            // unless somebody publishes there.
            redis.cli(&["SET", &key, &owner_value(other)?])?;
            let second = Client::publish(fleet.rtmp(1)?, "twice")?;
            Ok(fleet.origin(other)?.has_publisher("twice").then_some(second))
        })?;
        let start = Instant::now();
        let holder = |proxy: usize, origin: usize| -> Result<(String, String)> {
            let name = NAMES[origin];
            Ok((name_of(fleet.proxy(proxy)?)?, format!("vid-{name}-{name}-1")))
        };
        must_all_show(&fleet, &[holder(0, home)?, holder(1, other)?].into(), SOON)?;
        println!("both proxies have shown both owners after {:?}", start.elapsed());
        let has_said = |it: &Proxy| it.process.log().contains("stream published at two origins");
        ensure!(fleet.proxies.iter().any(has_said), "no log says it");
        // Nobody is thrown out.
        must_go_on(from_mut(&mut show), 2)?;
        ensure!(fleet.origin(other)?.has_publisher("twice"), "the second one is gone");

        drop(second);
        let end = Instant::now();
        must_all_show(&fleet, &BTreeSet::new(), OVER)?;
        println!("it was over after {:?}", end.elapsed());
        wait::until("the stream is of who publishes it", SOON, || {
            let value = redis.cli(&["GET", &key])?;
            ensure!(value == owner_value(home)?, "{value}");
            Ok(Some(()))
        })?;
        let next = Client::play(fleet.rtmp(1)?, "twice")?;
        let Show { publisher, .. } = show;
        must_go_on(from_mut(&mut Show::of("twice", publisher, vec![next])), 3)?;
        ensure!(fleet.owner("twice")? == home, "and so is its next player");
        Ok(())
    })
}

/// Waits until every proxy shows the stream with these publishers, each a proxy and an origin, or no
/// conflict if there are none; and counts it.
fn must_all_show(
    fleet: &Fleet,
    publishers: &BTreeSet<(String, String)>,
    limit: Duration,
) -> Result<()> {
    let count = usize::from(!publishers.is_empty());
    for (place, proxy) in fleet.proxies.iter().enumerate() {
        wait::until(&format!("proxy {place} shows {publishers:?}"), limit, || {
            let cluster = proxy.get("/api/v1/cluster")?;
            let all = cluster.pointer("/cluster/conflicts").and_then(Value::as_array);
            let all = all.context("no conflicts")?;
            ensure!(all.len() == count, "{all:?}");
            for conflict in all {
                let stream = conflict.get("stream").and_then(Value::as_str);
                ensure!(stream == Some("__defaultVhost__/live/twice"), "{conflict}");
                let shown = conflict.get("publishers").and_then(Value::as_array);
                let text = |it: &Value, name: &str| {
                    it.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
                };
                let holder = |it: &Value| (text(it, "proxy"), text(it, "origin"));
                let shown: BTreeSet<_> = shown.into_iter().flatten().map(holder).collect();
                ensure!(shown == *publishers, "{conflict}");
            }
            let counted = proxy.metric("srs_proxy_stream_conflicts", &[])?;
            ensure!(usize::try_from(counted)? == count, "the metric says {counted}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

fn name_of(proxy: &Proxy) -> Result<String> {
    let cluster = proxy.get("/api/v1/cluster")?;
    let name = cluster.pointer("/cluster/proxy").and_then(Value::as_str);
    Ok(name.context("a proxy without a name")?.to_owned())
}
