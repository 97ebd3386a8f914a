//! One test: a folder of its own, and every log in it told when the test fails.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use anyhow::Result;

/// Runs a test in a temporary folder that is gone afterwards.
///
/// Processes that the test starts in this folder write their logs there; when the test fails,
/// the end of each log is printed.
pub fn story(tell: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("srs-proxy-test-").tempdir()?;
    let outcome = catch_unwind(AssertUnwindSafe(|| tell(folder.path())));
    if !matches!(outcome, Ok(Ok(()))) {
        print_logs(folder.path());
    }
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

fn print_logs(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut logs: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    for log in logs {
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.iter().skip(lines.len().saturating_sub(LINES));
        println!("--- {} ({} lines)", log.display(), lines.len());
        end.for_each(|line| println!("{line}"));
    }
}

/// Lines of each log that are printed.
const LINES: usize = 40;
