//! `bench`: the proxy beside HAProxy, same machine, same run.

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
    /// CPU seconds per GiB and memory per session of RTMP players.
    Rtmp {
        /// Rounds of each case; the cases take turns.
        #[arg(long, default_value_t = 6)]
        rounds: u32,
        /// Seconds that are measured in each round.
        #[arg(long, default_value_t = 8)]
        seconds: u32,
        /// Only this case.
        #[arg(long)]
        case: Option<Case>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Case {
    Bulk,
    Paced,
    Memory,
}

pub(crate) fn bench(args: &Args) -> Result<()> {
    needs::install(needs::BENCHES)?;
    let proxy = run::build_release()?;
    let What::Rtmp { rounds, seconds, case } = &args.what;
    let mut bench = cargo(["run", "--release", "--quiet", "--locked", "-p", "srs-proxy-tests"])?;
    bench.args(["--bin", "bench_rtmp", "--", &rounds.to_string(), &seconds.to_string()]);
    if let Some(name) = case.and_then(|case| case.to_possible_value()) {
        bench.arg(name.get_name());
    }
    become_it(bench.env("SRS_PROXY_BIN", proxy))
}
