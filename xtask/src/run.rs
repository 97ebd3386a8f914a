//! `run`: a release of the proxy, in the folder the user stands in.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command::{become_it, cargo, succeed, target_dir};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments of the proxy.
    #[arg(last = true)]
    proxy: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // The proxy reads `.env` where it stands, so the folder stays the caller's.
    become_it(Command::new(build_release()?).args(&args.proxy))
}

/// Builds the release and says where it is.
pub(crate) fn build_release() -> Result<PathBuf> {
    eprintln!("building a release of the proxy: some minutes the first time");
    succeed(&mut cargo(["build", "--release", "--locked", "-p", "srs-proxy"])?)?;
    Ok(target_dir()?.join("release").join(format!("srs-proxy{}", std::env::consts::EXE_SUFFIX)))
}
