//! What relaying RTMP players costs: our proxy beside HAProxy, same machine, same run.
//!
//! Usage: `bench_rtmp [rounds] [seconds] [bulk|paced|memory]`. An origin and players in this
//! process load one relay at a time; the relays take turns, so that a busy moment of the
//! machine hits all of them. Figures are the relay's alone: CPU time by `/proc/<pid>/stat`, all
//! threads, and memory by PSS. Sockets' buffers in the kernel are in neither.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use srs_proxy_tests::process::{self, Process};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::{ports, usage, wait};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().map_or(Ok(6), |text| text.parse::<usize>())?;
    let seconds = arguments.next().map_or(Ok(8), |text| text.parse::<u64>())?;
    let only = arguments.next();
    let folder = tempfile::Builder::new().prefix("srs-proxy-bench-").tempdir()?;
    for case in CASES.iter().filter(|case| only.as_ref().is_none_or(|only| case.name == only)) {
        let mut runs = Vec::new();
        for round in 0..rounds {
            for relay in RELAYS {
                let run = measure(folder.path(), case, relay, Duration::from_secs(seconds))?;
                eprintln!("{} round {}: {}: {run:?}", case.name, round + 1, relay.name());
                runs.push((relay, run));
            }
        }
        print_table(case, &runs);
    }
    Ok(())
}

/// A load.
struct Case {
    name: &'static str,
    title: &'static str,
    players: usize,
    feed: Feed,
}

const CASES: &[Case] = &[
    Case {
        name: "bulk",
        title: "4 players, as fast as they take it",
        players: 4,
        feed: Feed::Bulk,
    },
    Case {
        name: "paced",
        title: "200 players of 4 Mb/s",
        players: 200,
        feed: Feed::Paced(4_000_000),
    },
    Case { name: "memory", title: "500 players of nothing", players: 500, feed: Feed::Silence },
];

/// What carries the load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relay {
    SrsProxy,
    /// TCP mode, two threads, bytes copied.
    HaproxyCopy,
    /// The same with `option splice-auto`.
    HaproxySplice,
}

const RELAYS: [Relay; 3] = [Relay::SrsProxy, Relay::HaproxyCopy, Relay::HaproxySplice];

impl Relay {
    fn name(self) -> &'static str {
        match self {
            Self::SrsProxy => "srs-proxy",
            Self::HaproxyCopy => "HAProxy, no splice",
            Self::HaproxySplice => "HAProxy, splice-auto",
        }
    }

    /// Starts it in front of the origin; the process, and where players connect.
    fn start(self, folder: &Path, origin: &Origin) -> Result<(Process, SocketAddr)> {
        let splice = match self {
            Self::SrsProxy => {
                let proxy = Proxy::start(folder, &[("PROXY_LOG", "warn")])?;
                origin.register_at(proxy.system_api(), "bench")?;
                let address = proxy.rtmp();
                return Ok((proxy.process, address));
            }
            Self::HaproxyCopy => ("nosplice", ""),
            Self::HaproxySplice => ("", "option splice-auto"),
        };
        let listen = ports::free()?;
        let config = folder.join("haproxy.cfg");
        fs::write(&config, haproxy_config(splice, listen, origin.address()))?;
        let mut command = Command::new(process::find("haproxy")?);
        let mut haproxy =
            Process::start(command.arg("-db").arg("-f").arg(&config), folder, "haproxy")?;
        wait::until_true("HAProxy listens", Duration::from_secs(5), || {
            if let Some(status) = haproxy.ended()? {
                bail!("HAProxy ended with {status}: {}", haproxy.log());
            }
            Ok(Client::connect(listen).is_ok())
        })?;
        Ok((haproxy, listen))
    }
}

fn haproxy_config(splice: (&str, &str), listen: SocketAddr, origin: SocketAddr) -> String {
    let (global, default) = splice;
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
}

/// What one run came to.
#[derive(Debug)]
struct Run {
    /// CPU seconds per GiB that players got; none if they got nothing.
    cpu_per_gib: Option<f64>,
    /// Gigabits per second that players got, all together.
    gigabits: f64,
    /// Memory per session, KiB.
    kib_per_session: f64,
}

fn measure(folder: &Path, case: &Case, relay: Relay, window: Duration) -> Result<Run> {
    let origin = Origin::start(Script::Serve(case.feed))?;
    let (process, address) = relay.start(folder, &origin)?;
    let id = process.id();
    // One player warms up what a relay allocates once.
    drop(Client::play(address, "warm")?);
    let memory_before = usage::memory(id)?;
    let bytes = Arc::new(AtomicU64::new(0));
    let mut players = Vec::new();
    for n in 0..case.players {
        let patience = window + Duration::from_secs(30);
        players.push(Player::start(address, &format!("stream{n}"), Arc::clone(&bytes), patience)?);
    }
    thread::sleep(WARM_UP);
    let (start, cpu, count) = (Instant::now(), usage::cpu(id)?, bytes.load(Ordering::Relaxed));
    thread::sleep(window);
    let count = bytes.load(Ordering::Relaxed) - count;
    let cpu = usage::cpu(id)?.saturating_sub(cpu);
    let seconds = start.elapsed().as_secs_f64();
    let memory = usage::memory(id)?.saturating_sub(memory_before);
    // Ends the feed, and by it every player.
    drop(origin);
    for player in players {
        player.thread.join().ok().context("a player panicked")?;
    }
    let bytes = as_float(count);
    let gib = bytes / f64::from(1 << 30);
    Ok(Run {
        cpu_per_gib: (count > 1 << 20).then(|| cpu.as_secs_f64() / gib),
        gigabits: bytes * 8e-9 / seconds,
        kib_per_session: as_float(memory) / 1024.0 / as_float(case.players.try_into()?),
    })
}

/// A player on a thread of its own that counts bytes until it is cut off.
struct Player {
    thread: thread::JoinHandle<()>,
}

impl Player {
    fn start(
        server: SocketAddr,
        stream: &str,
        bytes: Arc<AtomicU64>,
        patience: Duration,
    ) -> Result<Self> {
        let client = Client::play(server, stream)?;
        // Silence is no end.
        client.socket().set_read_timeout(Some(patience))?;
        let count = move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = client.socket().read(&mut buffer) {
                bytes.fetch_add(n as u64, Ordering::Relaxed);
            }
        };
        Ok(Self { thread: thread::Builder::new().stack_size(64 * 1024).spawn(count)? })
    }
}

fn print_table(case: &Case, runs: &[(Relay, Run)]) {
    let of = |relay: Relay, pick: fn(&Run) -> Option<f64>| {
        let runs = runs.iter().filter(|(it, _)| *it == relay);
        Spread::of(runs.filter_map(|(_, run)| pick(run)).collect())
    };
    let reference = of(Relay::HaproxyCopy, |run| run.cpu_per_gib);
    println!("\n{}:\n", case.title);
    println!(
        "| relay | CPU s/GiB min / median / max | of HAProxy, no splice | Gb/s | KiB per session |"
    );
    println!("|---|---|---|---|---|");
    for relay in RELAYS {
        let cpu = of(relay, |run| run.cpu_per_gib);
        let gigabits = of(relay, |run| Some(run.gigabits));
        let memory = of(relay, |run| Some(run.kib_per_session));
        let show = |spread: &Option<Spread>, show: fn(&Spread) -> String| {
            spread.as_ref().map_or("-".to_owned(), show)
        };
        let ratio = cpu.as_ref().zip(reference.as_ref()).map(|(a, b)| a.median / b.median);
        println!(
            "| {} | {} | {} | {} | {} |",
            relay.name(),
            show(&cpu, |it| format!("{:.3} / {:.3} / {:.3}", it.least, it.median, it.most)),
            ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            show(&gigabits, |it| format!("{:.2}", it.median)),
            show(&memory, |it| format!("{:.1}", it.median)),
        );
    }
}

/// Least, middle and most of some figures.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let upper = figures.get(middle)?;
        let lower = if figures.len().is_multiple_of(2) { figures.get(middle - 1)? } else { upper };
        let (least, most) = (*figures.first()?, *figures.last()?);
        Some(Self { least, median: f64::midpoint(*lower, *upper), most })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a benchmark's byte count needs no 53 bits")]
fn as_float(count: u64) -> f64 {
    count as f64
}

const WARM_UP: Duration = Duration::from_secs(1);
