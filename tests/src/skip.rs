//! A test that cannot run here is named and counted.

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result};

/// Says that the test of this thread is skipped, and why.
///
/// The test harness counts it as passed; `cargo xtask test`, which names a file in
/// `SRS_PROXY_SKIPS`, reads there what it has to count as skipped instead.
pub fn skip(why: &str) -> Result<()> {
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
    print!("skipped: {line}");
    let Some(path) = std::env::var_os("SRS_PROXY_SKIPS") else { return Ok(()) };
    let mut file = File::options().create(true).append(true).open(&path)?;
    // One write, so that tests side by side do not mix their lines.
    file.write_all(line.as_bytes()).with_context(|| format!("writing {}", path.display()))
}
