//! `portable`: the proxy type-checks where it is not tested.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::command::{cargo, find, succeed, succeeds_within, workspace};

const TARGETS: [&str; 3] =
    ["aarch64-apple-darwin", "x86_64-unknown-freebsd", "x86_64-pc-windows-gnu"];

/// How long getting the standard library of one target may take.
const DOWNLOAD: Duration = Duration::from_mins(2);

/// What a check came to.
pub(crate) enum Checked {
    /// Every target type-checks.
    All,
    /// This machine cannot check: why.
    NotHere(String),
}

pub(crate) fn check() -> Result<Checked> {
    if find("rustup").is_none() {
        return Ok(Checked::NotHere(
            "rustup, which brings other systems' libraries, is not here".into(),
        ));
    }
    for target in TARGETS {
        let mut add = Command::new("rustup");
        add.args(["target", "add", target]).current_dir(workspace()?);
        if !is_installed(target)? && !succeeds_within(&mut add, DOWNLOAD) {
            return Ok(Checked::NotHere(format!("`rustup target add {target}` does not succeed")));
        }
        println!("cargo check for {target}");
        let package = ["check", "--quiet", "--locked", "-p", "srs-proxy", "--lib", "--bins"];
        let mut check = cargo(package)?;
        // Types need no objects: what a crate has of C is compiled by nobody.
        for tool in ["CC", "AR"] {
            check.env(format!("{tool}_{}", target.replace('-', "_")), "true");
        }
        // A warning elsewhere is a warning: off Linux nobody would ever see it.
        succeed(check.args(["--target", target]).env("RUSTFLAGS", "-Dwarnings"))?;
    }
    println!("{} systems: portable", TARGETS.len());
    Ok(Checked::All)
}

fn is_installed(target: &str) -> Result<bool> {
    let mut list = Command::new("rustup");
    let output = list.args(["target", "list", "--installed"]).current_dir(workspace()?).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().any(|line| line == target))
}
