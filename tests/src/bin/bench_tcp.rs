//! What relaying RTMP players costs: each of our engines beside HAProxy, nginx and socat, same
//! machine, same run.
//!
//! Usage: `bench_tcp [rounds] [seconds] [bulk|paced|many|memory|stalled]`.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use srs_proxy_tests::bench::tcp::{Feed, Load, Opener, Origin, Reading};
use srs_proxy_tests::bench::{
    self, Aim, Bench, Case, Client, Column, Contender, Limit, Relay, Scene,
};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::{process, rtmp, usage};

fn main() -> Result<()> {
    // Both ends of thousands of sessions; relays have the same limit.
    usage::allow_descriptors(16_384)?;
    // What some cases ask for is better missed now than then.
    usage::slab()?;
    process::find("ss")?;
    let bench = Bench::from_arguments()?;
    bench.introduce(&[("haproxy", "-v"), ("nginx", "-v"), ("socat", "-V")])?;
    let (longer, still) = (bench.window() * 2, Duration::from_secs(1));
    println!("- paced and many are measured for {longer:?}, memory and stalled for {still:?}");
    println!(
        "- over loopback, with its segments of up to 64 KiB; origin and players have a thread"
    );
    println!("  each, and players leave what they get in the kernel");
    println!("- CPU time is the relay's, user and system, with kernel workers that act for it");
    println!("- direct: players at the origin itself, which is what the load alone costs; added:");
    println!("  what the whole machine does beyond that, in the same round");
    println!("- latency: of one more player, that gets 500 messages a second of 200 bytes");
    println!("- socat has a process for each client: it takes part in bulk alone");
    let [direct, uring, splice, relay, plain, auto, nginx] = RELAYS;
    bench.run(&Players, BULK, &[direct, uring, splice, relay, plain, auto, nginx, SOCAT])?;
    // A p99 takes many messages.
    bench.run_for(longer, &Players, MANY, &RELAYS)?;
    // Where nothing moves there is nothing to count for longer.
    bench.run_for(still, &Players, STILL, &RELAYS)
}

const BULK: &[Case<Load>] = &[Case {
    name: "bulk",
    title: "4 players, as fast as they take it",
    load: Load { feed: Feed::Bulk, ..PLAIN },
    clients: 4,
    tables: &[COST],
    aims: &[
        beside(RELAY, Column::CpuPerGib, Limit::AtMost(0.55)),
        beside(HAPROXY, Column::CpuPerGib, Limit::AtMost(1.0)),
        beside(RELAY, Column::AddedPerGib, Limit::AtMost(0.55)),
        beside(HAPROXY, Column::AddedPerGib, Limit::AtMost(1.0)),
    ],
}];

const MANY: &[Case<Load>] = &[
    Case {
        name: "paced",
        title: "500 players of 4 Mb/s, 30 frames a second of 16 KB each",
        load: Load { feed: Feed::Paced(4_000_000), has_probe: true, ..PLAIN },
        clients: 500,
        tables: &[COST, LATENCY, MEMORY],
        aims: &[
            beside(RELAY, Column::CpuPerGib, Limit::AtMost(0.9)),
            beside(HAPROXY, Column::CpuPerGib, Limit::Below(1.0)),
            beside(RELAY, Column::AddedPerGib, Limit::AtMost(0.9)),
            beside(HAPROXY, Column::AddedPerGib, Limit::Below(1.0)),
            USER_MEMORY,
            SLAB,
        ],
    },
    Case {
        name: "many",
        title: "2,000 players of 1 Mb/s, 30 frames a second of 4 KB each",
        load: Load { feed: Feed::Paced(1_000_000), has_probe: true, ..PLAIN },
        clients: 2_000,
        tables: &[COST, LATENCY, MEMORY],
        aims: &[USER_MEMORY, SLAB],
    },
];

const STILL: &[Case<Load>] = &[
    Case {
        name: "memory",
        title: "1,000 players that have got a frame of 16 KiB, and get no more",
        load: Load { feed: Feed::Once, ..PLAIN },
        clients: 1_000,
        tables: &[MEMORY],
        aims: &[USER_MEMORY, SLAB],
    },
    Case {
        name: "stalled",
        title: "32 players, of an origin that sends as fast as it can: 16 never read, 16 stop after a \
                second",
        load: Load { feed: Feed::Bulk, reading: Reading::Stalled, ..PLAIN },
        clients: 32,
        tables: &[&[Column::MostHeld, Column::Memory]],
        aims: &[ours(Column::MostHeld, Limit::AtMost(2048.0))],
    },
];

const COST: &[Column] =
    &[Column::CpuPerGib, Column::AddedPerGib, Column::MachinePerGib, Column::Gigabits];

const LATENCY: &[Column] =
    &[Column::LatencyP50, Column::LatencyP99, Column::AddedP50, Column::AddedP99];

const MEMORY: &[Column] = &[Column::Memory, Column::AddedSlab];

/// KiB of a session.
const USER_MEMORY: Aim = ours(Column::Memory, Limit::AtMost(2.0));

/// KiB of a session.
const SLAB: Aim = ours(Column::AddedSlab, Limit::AtMost(12.0));

/// What the engine that is chosen by itself is held to.
const fn ours(column: Column, limit: Limit) -> Aim {
    Aim { of: URING, column, beside: None, limit }
}

/// The same, beside another contender.
const fn beside(other: &'static str, column: Column, limit: Limit) -> Aim {
    Aim { of: URING, column, beside: Some(other), limit }
}

const PLAIN: Load = Load { feed: Feed::Once, reading: Reading::All, has_probe: false };

const URING: &str = "srs-proxy uring";
const RELAY: &str = "srs-proxy relay";
const HAPROXY: &str = "HAProxy, splice-auto";

const RELAYS: [Contender<Origin>; 7] = [
    Contender {
        name: "direct",
        is_reference: false,
        start: |_, origin| Ok(Relay::none(origin.address())),
    },
    Contender {
        name: URING,
        is_reference: false,
        start: |folder, origin| srs_proxy(folder, origin, "uring", "uring-splice"),
    },
    Contender {
        name: "srs-proxy splice",
        is_reference: false,
        start: |folder, origin| srs_proxy(folder, origin, "splice", "splice"),
    },
    Contender {
        name: RELAY,
        is_reference: true,
        start: |folder, origin| srs_proxy(folder, origin, "relay", "relay"),
    },
    Contender {
        name: "HAProxy, no splice",
        is_reference: false,
        start: |folder, origin| haproxy(folder, origin, "nosplice", ""),
    },
    Contender {
        name: HAPROXY,
        is_reference: true,
        start: |folder, origin| haproxy(folder, origin, "", "option splice-auto"),
    },
    Contender {
        name: "nginx",
        is_reference: false,
        start: |folder, origin| {
            let origin = origin.address();
            // Without `reuseport` one worker may get most of the clients.
            bench::nginx_tcp(folder, |listen| {
                format!("listen {listen} reuseport backlog=1024; proxy_pass {origin};")
            })
        },
    },
];

const SOCAT: Contender<Origin> = Contender {
    name: "socat",
    is_reference: false,
    start: |folder, origin| bench::socat_tcp(folder, origin.address()),
};

/// The proxy with this `PROXY_TCP_ENGINE`; fails unless this is the engine of its sessions.
fn srs_proxy(folder: &Path, origin: &Origin, setting: &str, engine: &str) -> Result<Relay> {
    let variables = [
        ("PROXY_LOG", "warn"),
        ("PROXY_TCP_ENGINE", setting),
        ("PROXY_MAX_SESSIONS_PER_CLIENT", "10000"),
    ];
    let proxy = Proxy::start(folder, &variables)?;
    let chosen = proxy.stream_engine()?;
    ensure!(chosen.word == engine, "PROXY_TCP_ENGINE={setting} came to {chosen:?}");
    origin.register_at(proxy.system_api(), "bench")?;
    let address = proxy.rtmp();
    let _session = rtmp::Client::play(address, "engine")?;
    proxy.must_carry("engine", engine)?;
    Ok(Relay::new(proxy.process, address))
}

/// TCP mode, a thread for each core.
fn haproxy(folder: &Path, origin: &Origin, global: &str, default: &str) -> Result<Relay> {
    let origin = origin.address();
    let threads = thread::available_parallelism()?;
    bench::haproxy(folder, |listen| {
        format!(
            "global
    nbthread {threads}
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
    type Load = Load;
    type Origin = Origin;
    type Hint = Opener;

    fn origin(&self, load: &Load) -> Result<Origin> {
        Origin::start(*load)
    }

    fn try_out(&self, _: &Load, origin: &Origin, relay: &Relay) -> Result<Opener> {
        let opener = origin.opener();
        opener.try_out(relay)?;
        Ok(opener)
    }

    fn clients(&self, opener: &Opener, relay: &Relay, count: usize) -> Result<Vec<Client>> {
        opener.clients(relay, count)
    }
}
