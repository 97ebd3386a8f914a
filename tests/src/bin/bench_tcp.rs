//! What relaying RTMP players costs: each of our engines beside HAProxy, nginx and socat, same
//! machine, same run.
//!
//! Usage: `bench_tcp [rounds] [seconds] [bulk|paced|many|latency|memory|stalled|halted]`.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use srs_proxy_tests::bench::tcp::{Feed, Load, Opener, Origin, Reading};
use srs_proxy_tests::bench::{self, Bench, Case, Client, Column, Contender, Relay, Scene};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::{rtmp, usage, wait};

fn main() -> Result<()> {
    // Both ends of thousands of sessions; relays have the same limit.
    usage::allow_descriptors(16_384)?;
    let bench = Bench::from_arguments()?;
    bench.introduce(&[("haproxy", "-v"), ("nginx", "-v"), ("socat", "-V")])?;
    println!(
        "- over loopback, with its segments of up to 64 KiB; origin and players have a thread"
    );
    println!("  each, and players leave what they get in the kernel");
    println!("- CPU time is the relay's, user and system, with kernel workers that act for it");
    println!("- direct: players at the origin itself, which is what the load alone costs; added:");
    println!("  what the whole machine does beyond that, in the same round");
    println!("- socat has a process for each client: it takes part in bulk alone");
    let [direct, uring, splice, relay, plain, auto, nginx] = RELAYS;
    bench.run(&Players, BULK, &[direct, uring, splice, relay, plain, auto, nginx, SOCAT])?;
    bench.run(&Players, MANY, &RELAYS)?;
    bench.run_for(STILL_WINDOW, &Players, STILL, &RELAYS)
}

const COST: &[Column] =
    &[Column::CpuPerGib, Column::AddedPerGib, Column::MachinePerGib, Column::Gigabits];

const BULK: &[Case<Load>] = &[Case {
    name: "bulk",
    title: "4 players, as fast as they take it",
    load: Load { feed: Feed::Bulk, ..PLAIN },
    clients: 4,
    columns: COST,
}];

const MANY: &[Case<Load>] = &[
    Case {
        name: "paced",
        title: "500 players of 4 Mb/s, 30 frames a second of 16 KB each",
        load: Load { feed: Feed::Paced(4_000_000), ..PLAIN },
        clients: 500,
        columns: COST,
    },
    Case {
        name: "many",
        title: "2,000 players of 1 Mb/s, 30 frames a second of 4 KB each",
        load: Load { feed: Feed::Paced(1_000_000), ..PLAIN },
        clients: 2_000,
        columns: COST,
    },
    Case {
        name: "latency",
        title: "A player of 500 messages a second of 200 bytes, beside 200 players of 4 Mb/s",
        load: Load { feed: Feed::Paced(4_000_000), has_probe: true, ..PLAIN },
        clients: 200,
        columns: &[
            Column::LatencyP50,
            Column::LatencyP99,
            Column::AddedP50,
            Column::AddedP99,
            Column::Gigabits,
        ],
    },
];

const STILL: &[Case<Load>] = &[
    Case {
        name: "memory",
        title: "1,000 players that have got a frame of 16 KiB, and get no more",
        load: Load { feed: Feed::Once, ..PLAIN },
        clients: 1_000,
        columns: &[Column::Memory, Column::AddedSlab],
    },
    Case {
        name: "stalled",
        title: "32 players that never read, of an origin that sends as fast as it can",
        load: Load { feed: Feed::Bulk, reading: Reading::Nothing, ..PLAIN },
        clients: 32,
        columns: &[Column::MostHeld, Column::Memory, Column::AddedSlab],
    },
    Case {
        name: "halted",
        title: "32 players that read as fast as they can for a second, and then nothing more",
        load: Load { feed: Feed::Bulk, reading: Reading::AtFirst, ..PLAIN },
        clients: 32,
        columns: &[Column::MostHeld, Column::Memory, Column::AddedSlab],
    },
];

const PLAIN: Load = Load { feed: Feed::Once, reading: Reading::All, has_probe: false };

/// Where nothing moves there is nothing to count for longer.
const STILL_WINDOW: Duration = Duration::from_secs(1);

const RELAYS: [Contender<Origin>; 7] = [
    Contender {
        name: "direct",
        is_reference: false,
        start: |_, origin| Ok(Relay::none(origin.address())),
    },
    Contender {
        name: "srs-proxy uring",
        is_reference: false,
        start: |folder, origin| srs_proxy(folder, origin, "uring", "uring-splice"),
    },
    Contender {
        name: "srs-proxy splice",
        is_reference: false,
        start: |folder, origin| srs_proxy(folder, origin, "splice", "splice"),
    },
    Contender {
        name: "srs-proxy relay",
        is_reference: true,
        start: |folder, origin| srs_proxy(folder, origin, "relay", "relay"),
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
    let planes = proxy.get("/api/v1/planes")?;
    let chosen = planes.pointer("/planes/streams/engine").and_then(Value::as_str);
    ensure!(chosen == Some(engine), "PROXY_TCP_ENGINE={setting} came to {chosen:?}: {planes}");
    origin.register_at(proxy.system_api(), "bench")?;
    let address = proxy.rtmp();
    let _session = rtmp::Client::play(address, "engine")?;
    wait::until_true(&format!("a session by {engine}"), Duration::from_secs(5), || {
        Ok(proxy.sessions_of("engine")?.iter().any(|session| session.plane == engine))
    })?;
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
