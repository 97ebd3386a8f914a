//! Clients that ask for the same new streams at the same time, at different proxies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::thread;

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::fleet::{Fleet, at, owner_value, route_key, values};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::Client;

use super::with_redis;

#[test]
fn two_hundred_first_requests_for_fifty_streams_find_one_owner_each() -> Result<()> {
    with_redis(|folder, redis| {
        let mut fleet = Fleet::of(folder, 5, |_| {
            let mut variables = at(redis.address());
            variables.push(("PROXY_BALANCER_POLICY", "random".to_owned()));
            variables
        })?;
        fleet.add_origins(4)?;
        let streams: Vec<_> = (0..50).map(|n| format!("stream{n}")).collect();
        let clients = race(&fleet, &streams, 200)?;

        let owners = owners(&fleet, &streams)?;
        let keys: Vec<_> = streams.iter().map(|it| route_key(it)).collect();
        for ((stream, owner), value) in streams.iter().zip(&owners).zip(values(&redis, &keys)?) {
            assert_eq!(value, owner_value(*owner)?, "the key of {stream}");
        }
        let used: BTreeSet<_> = owners.iter().collect();
        assert_eq!(used.len(), 4, "random choices of fifty streams: {owners:?}");
        drop(clients);
        Ok(())
    })
}

/// The first requests of so many clients for these streams, all at once, spread over the proxies;
/// one of each stream publishes.
pub(super) fn race(fleet: &Fleet, streams: &[String], count: usize) -> Result<Vec<Client>> {
    let proxies: Vec<_> = fleet.proxies.iter().map(Proxy::rtmp).collect();
    let start = Barrier::new(count);
    let run = |n: usize| -> Result<Client> {
        let stream = streams.get(n % streams.len()).context("no stream")?;
        // Those who ask for one stream are at different proxies.
        let place = (n + n / streams.len()) % proxies.len();
        let proxy = *proxies.get(place).context("no proxy")?;
        let client = Client::connect(proxy);
        start.wait();
        let mut client = client?;
        if n < streams.len() {
            client.ask_to_publish(stream)?;
            client.expect("NetStream.Publish.Start")?;
        } else {
            client.ask_to_play(stream)?;
            client.expect("NetStream.Play.Start")?;
        }
        Ok(client)
    };
    let run = &run;
    thread::scope(|scope| {
        let runners: Vec<_> = (0..count).map(|n| scope.spawn(move || run(n))).collect();
        let join = |(n, runner): (usize, thread::ScopedJoinHandle<'_, Result<Client>>)| {
            let client = runner.join().ok().context("a client has panicked")?;
            client.with_context(|| format!("client {n}"))
        };
        runners.into_iter().enumerate().map(join).collect()
    })
}

/// The owner of each stream, by the word of all proxies together.
pub(super) fn owners(fleet: &Fleet, streams: &[String]) -> Result<Vec<usize>> {
    let mut sessions = BTreeMap::<String, Vec<_>>::new();
    for proxy in &fleet.proxies {
        for session in proxy.sessions()? {
            sessions.entry(session.stream.clone()).or_default().push(session);
        }
    }
    let owner = |stream: &String| {
        let sessions = sessions.get(&format!("__defaultVhost__/live/{stream}"));
        let sessions = sessions.with_context(|| format!("{stream} has no sessions"))?;
        ensure!(sessions.len() > 1, "{stream} has {} sessions", sessions.len());
        fleet.owner_of(sessions).with_context(|| stream.clone())
    };
    streams.iter().map(owner).collect()
}
