//! `demo`: two real origins and a test picture behind the proxy.

use anyhow::Result;

use crate::command::{become_it, cargo};
use crate::{needs, run};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// End by itself after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
}

pub(crate) fn demo(args: &Args) -> Result<()> {
    needs::install(needs::DEMO)?;
    let proxy = run::build_release()?;
    eprintln!("building the demo: some minutes the first time");
    let mut demo = cargo(["run", "--quiet", "--locked", "-p", "srs-proxy-tests", "--bin", "demo"])?;
    demo.arg("--").args(args.seconds.map(|seconds| seconds.to_string()));
    // Cargo becomes the demo: a signal to this process is a signal to the demo.
    become_it(demo.env("SRS_PROXY_BIN", proxy))
}
