//! `bench`: the proxy beside others, same machine, same run.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

use crate::command::{become_it, cargo};
use crate::{needs, run};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// RTMP players, beside HAProxy: CPU seconds per GiB and memory per session.
    Rtmp(Turns<RtmpCase>),
    /// HLS and HTTP-FLV players, beside nginx and HAProxy: CPU seconds per GiB and requests/s.
    Http(Turns<HttpCase>),
    /// WebRTC sessions, beside nginx and socat: CPU time per packet, packets/s, added latency.
    Udp(Turns<UdpCase>),
}

#[derive(clap::Args)]
struct Turns<C: ValueEnum + Send + Sync + 'static> {
    /// Rounds of each case; the contenders take turns.
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// Seconds that are measured in each round.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// Only this case.
    #[arg(long)]
    case: Option<C>,
}

#[derive(Clone, Copy, ValueEnum)]
enum RtmpCase {
    Bulk,
    Paced,
    Memory,
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
}

pub(crate) fn bench(args: &Args) -> Result<()> {
    match &args.what {
        What::Rtmp(turns) => start("bench_rtmp", turns),
        What::Http(turns) => start("bench_http", turns),
        What::Udp(turns) => start("bench_udp", turns),
    }
}

fn start<C: ValueEnum + Send + Sync>(program: &str, turns: &Turns<C>) -> Result<()> {
    needs::install(needs::BENCHES)?;
    let proxy = run::build_release()?;
    let Turns { rounds, seconds, case } = turns;
    let mut bench = cargo(["run", "--release", "--quiet", "--locked", "-p", "srs-proxy-tests"])?;
    bench.args(["--bin", program, "--", &rounds.to_string(), &seconds.to_string()]);
    if let Some(name) = case.as_ref().and_then(ValueEnum::to_possible_value) {
        bench.arg(name.get_name());
    }
    become_it(bench.env("SRS_PROXY_BIN", proxy))
}
