//! `bench`: the proxy beside others, same machine, same run.

use std::process::Command;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

use crate::command::{become_it, cargo};
use crate::{build_ebpf, needs, run};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// RTMP players by each engine, beside HAProxy, nginx and socat: CPU seconds per GiB, added
    /// latency, memory per session, bytes held for a player that does not read.
    Tcp(Turns<TcpCase>),
    /// HLS and HTTP-FLV players, beside nginx and HAProxy: CPU seconds per GiB and requests/s.
    Http(Turns<HttpCase>),
    /// WebRTC sessions, beside nginx, socat and the kernel's own forwarding: CPU time per packet,
    /// packets/s, added latency; and the kernel's packet path alone.
    Udp(Turns<UdpCase>),
}

#[derive(clap::Args)]
struct Turns<C: ValueEnum + Send + Sync + 'static> {
    /// Rounds of each case; the contenders take turns. Six, and three of the many cases of `udp`.
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds that are measured in each round; `tcp` takes twice that for `paced` and `many`, one for
    /// `memory` and `stalled`. Eight, two of `tcp`, and three of `udp`.
    #[arg(long)]
    seconds: Option<u32>,
    /// Only this case.
    #[arg(long)]
    case: Option<C>,
}

#[derive(Clone, Copy, ValueEnum)]
enum TcpCase {
    Bulk,
    Paced,
    Many,
    Memory,
    Stalled,
}

#[derive(Clone, Copy, ValueEnum)]
enum HttpCase {
    Segments,
    Small,
    Playlist,
    Flv,
    FlvBulk,
}

#[derive(Clone, Copy, ValueEnum)]
enum UdpCase {
    Play,
    Publish,
    Flood,
    Single,
    Latency,
    Paths,
    PathsPublish,
    PathsLatency,
    Sessions,
    Programs,
    Frames,
}

pub(crate) fn bench(args: &Args) -> Result<()> {
    match &args.what {
        What::Tcp(turns) => start("bench_tcp", turns, (6, 2)),
        What::Http(turns) => start("bench_http", turns, (6, 8)),
        What::Udp(turns) => {
            // Before the proxy, which embeds it.
            let built = build_ebpf::build()?;
            let mut bench = prepare("bench_udp", turns, (3, 3))?;
            become_it(bench.env("SRS_PROXY_BPF_OBJECT", built.object))
        }
    }
}

/// Runs a bench; without other words so many rounds of so many seconds.
fn start<C>(program: &str, turns: &Turns<C>, usual: (u32, u32)) -> Result<()>
where
    C: ValueEnum + Send + Sync,
{
    become_it(&mut prepare(program, turns, usual)?)
}

fn prepare<C>(program: &str, turns: &Turns<C>, usual: (u32, u32)) -> Result<Command>
where
    C: ValueEnum + Send + Sync,
{
    needs::install(needs::BENCHES)?;
    let proxy = run::build_release()?;
    let Turns { rounds, seconds, case } = turns;
    let (rounds, seconds) = (rounds.unwrap_or(usual.0), seconds.unwrap_or(usual.1));
    let mut bench = cargo(["run", "--release", "--quiet", "--locked", "-p", "srs-proxy-tests"])?;
    bench.args(["--bin", program, "--", &rounds.to_string(), &seconds.to_string()]);
    if let Some(name) = case.as_ref().and_then(ValueEnum::to_possible_value) {
        bench.arg(name.get_name());
    }
    bench.env("SRS_PROXY_BIN", proxy);
    Ok(bench)
}
