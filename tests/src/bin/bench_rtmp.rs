//! What relaying RTMP players costs: our proxy beside HAProxy, same machine, same run.
//!
//! Usage: `bench_rtmp [rounds] [seconds] [bulk|paced|memory]`.

use std::path::Path;

use anyhow::Result;
use srs_proxy_tests::bench::{self, Bench, Case, Column, Contender, Relay, Scene, drain};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};

fn main() -> Result<()> {
    let bench = Bench::from_arguments()?;
    bench.introduce(&[("haproxy", "-v")])?;
    bench.run(&Players, CASES, CONTENDERS)
}

const COLUMNS: &[Column] = &[Column::CpuPerGib, Column::Gigabits, Column::Memory];

const CASES: &[Case<Feed>] = &[
    Case {
        name: "bulk",
        title: "4 players, as fast as they take it",
        load: Feed::Bulk,
        clients: 4,
        columns: COLUMNS,
    },
    Case {
        name: "paced",
        title: "200 players of 4 Mb/s",
        load: Feed::Paced(4_000_000),
        clients: 200,
        columns: COLUMNS,
    },
    Case {
        name: "memory",
        title: "500 players of nothing",
        load: Feed::Silence,
        clients: 500,
        columns: COLUMNS,
    },
];

const CONTENDERS: &[Contender<Origin>] = &[
    Contender {
        name: "srs-proxy",
        is_reference: false,
        start: |folder, origin| {
            let proxy = Proxy::start(folder, &[("PROXY_LOG", "warn")])?;
            origin.register_at(proxy.system_api(), "bench")?;
            let address = proxy.rtmp();
            Ok(Relay::new(proxy.process, address))
        },
    },
    Contender {
        name: "HAProxy, no splice",
        is_reference: true,
        start: |folder, origin| haproxy(folder, origin, "nosplice", ""),
    },
    Contender {
        name: "HAProxy, splice-auto",
        is_reference: false,
        start: |folder, origin| haproxy(folder, origin, "", "option splice-auto"),
    },
];

/// TCP mode, two threads.
fn haproxy(folder: &Path, origin: &Origin, global: &str, default: &str) -> Result<Relay> {
    let origin = origin.address();
    bench::haproxy(folder, |listen| {
        format!(
            "global
    nbthread 2
    maxconn 4096
    {global}
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    {default}
listen rtmp
    bind {listen}
    server origin {origin}
"
        )
    })
}

/// A scripted origin, and players of a stream each.
struct Players;

impl Scene for Players {
    type Load = Feed;
    type Origin = Origin;
    type Hint = ();

    fn origin(&self, feed: &Feed) -> Result<Origin> {
        Origin::start(Script::Serve(*feed))
    }

    fn try_out(&self, _: &Feed, _: &Origin, relay: &Relay) -> Result<()> {
        Client::play(relay.address, "warm").map(drop)
    }

    fn clients(&self, (): &(), relay: &Relay, count: usize) -> Result<Vec<bench::Client>> {
        let player = |number| -> Result<bench::Client> {
            let client = Client::play(relay.address, &format!("stream{number}"))?;
            Ok(Box::new(move |tally| drain(client.socket(), tally)))
        };
        (0..count).map(player).collect()
    }
}
