//! `test`: everything that CI runs, one step after the other, and one line that sums it up.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;
use std::{env, thread};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::build_ebpf::NoCompiler;
use crate::command::{cargo, is_root, succeed, target_dir};
use crate::portable::Checked;
use crate::{build_ebpf, needs, portable, tidy};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run this step and no other; may be said several times.
    #[arg(long)]
    only: Vec<Step>,
    /// Arguments of `cargo test`.
    #[arg(last = true)]
    cargo_test: Vec<OsString>,
}

/// One thing that CI demands, in the order in which they run: quick answers first.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    Fmt,
    Tidy,
    Clippy,
    BuildEbpf,
    Portable,
    Tests,
}

pub(crate) fn test(args: &Args) -> Result<()> {
    let all = Step::value_variants().iter().copied();
    let chosen: Vec<Step> =
        all.filter(|step| args.only.is_empty() || args.only.contains(step)).collect();
    if chosen.contains(&Step::Tests) {
        needs::install(needs::DEMO)?;
        needs::install(needs::TESTS)?;
        needs::install_nms()?;
        needs::install_aiortc()?;
    }
    let ci = env::var("CI").is_ok_and(|ci| ci == "true");
    let mut sum = Tally::default();
    let mut notes = Vec::new();
    // Loading programs into the kernel is a right that a user's account seldom has.
    let mut without_ebpf = !ci && !is_root();
    for step in chosen {
        println!("\n== {} ==", step.name());
        let start = Instant::now();
        let outcome = step.run(args, without_ebpf);
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(Outcome::Done(tally)) => {
                notes.extend(tally.skips.iter().map(|skip| format!("skipped: {skip}")));
                println!("== {}: done in {seconds:.1} s ==", step.name());
                sum.add(&tally);
            }
            Ok(Outcome::NotHere(why)) if !ci => {
                sum.skipped += 1;
                without_ebpf |= step == Step::BuildEbpf;
                notes.push(format!("skipped: {}: {why}", step.name()));
            }
            Ok(Outcome::NotHere(why)) => {
                sum.failed += 1;
                notes.push(format!("failed: {}: CI requires it, but {why}", step.name()));
            }
            Err(error) => {
                // A failed test is counted by its own name; any other failure counts as one.
                match error.downcast::<TestsFailed>() {
                    Ok(TestsFailed(tally)) => {
                        notes.extend(tally.skips.iter().map(|skip| format!("skipped: {skip}")));
                        sum.add(&tally);
                    }
                    Err(error) => {
                        sum.failed += 1;
                        notes.push(format!("failed: {}: {error:#}", step.name()));
                    }
                }
            }
        }
    }
    println!();
    for note in notes {
        println!("{note}");
    }
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    if sum.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// What a step came to, when nothing failed.
enum Outcome {
    Done(Tally),
    /// This machine cannot run the step: why.
    NotHere(String),
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self, args: &Args, without_ebpf: bool) -> Result<Outcome> {
        match self {
            Self::Fmt => succeed(&mut cargo(["fmt", "--all", "--check"])?)?,
            Self::Tidy => tidy::check()?,
            Self::Clippy => succeed(&mut cargo([
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
                "--",
                "-Dwarnings",
            ])?)?,
            Self::BuildEbpf => {
                if let Err(error) = build_ebpf::build() {
                    let why = error.downcast::<NoCompiler>()?;
                    return Ok(Outcome::NotHere(why.to_string()));
                }
            }
            Self::Portable => match portable::check()? {
                Checked::All => {}
                Checked::NotHere(why) => return Ok(Outcome::NotHere(why)),
            },
            Self::Tests => return cargo_test(&args.cargo_test, without_ebpf).map(Outcome::Done),
        }
        Ok(Outcome::Done(Tally { passed: 1, ..Tally::default() }))
    }
}

/// Tests that were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Names of tests that skipped themselves, each with its reason.
    skips: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Tests that skipped themselves: for the harness, which knows nothing of it, they passed.
    fn move_to_skipped(&mut self, skips: Vec<String>) {
        let count = u64::try_from(skips.len()).unwrap_or(u64::MAX);
        self.passed = self.passed.saturating_sub(count);
        self.skipped += count;
        self.skips = skips;
    }

    /// What a `test result:` line of the test harness says; ignored tests are skipped ones.
    fn of_line(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |word: &str| {
            let part = counts.split("; ").find_map(|part| part.strip_suffix(word))?;
            part.trim().parse().ok()
        };
        let (passed, failed) = (count("passed")?, count("failed")?);
        Some(Self { passed, failed, skipped: count("ignored")?, skips: Vec::new() })
    }
}

#[derive(Debug)]
struct TestsFailed(Tally);

impl std::fmt::Display for TestsFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tests failed", self.0.failed)
    }
}

impl std::error::Error for TestsFailed {}

/// Tests at the same time.
const LEAST_THREADS: usize = 3;

/// Runs every test, shows what it says as it says it, and counts.
fn cargo_test(args: &[OsString], without_ebpf: bool) -> Result<Tally> {
    let skips = target_dir()?.join("skipped-tests.txt");
    fs::create_dir_all(target_dir()?)?;
    fs::write(&skips, "")?;
    let names_packages = args.iter().any(|arg| arg == "-p" || arg == "--package");
    let mut command = cargo(["test", "--locked", "--no-fail-fast"])?;
    command.args((!names_packages).then_some("--workspace"));
    command.args(args).env("SRS_PROXY_SKIPS", &skips);
    if without_ebpf {
        command.env("SRS_PROXY_SKIP_EBPF", "1");
    }
    // Cargo has built it for the proxy's own tests: the rig need not build it with other features.
    if args.is_empty() && env::var_os("SRS_PROXY_BIN").is_none() {
        let name = format!("srs-proxy{}", env::consts::EXE_SUFFIX);
        command.env("SRS_PROXY_BIN", target_dir()?.join("debug").join(name));
    }
    // Most tests wait for what they have set going: on few cores more of them fit beside each other.
    if env::var_os("RUST_TEST_THREADS").is_none() {
        let threads = thread::available_parallelism()?.get().max(LEAST_THREADS);
        command.env("RUST_TEST_THREADS", threads.to_string());
    }
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some(counted) = Tally::of_line(&line) {
            tally.add(&counted);
        }
    }
    let status = child.wait()?;
    tally.move_to_skipped(fs::read_to_string(&skips)?.lines().map(str::to_owned).collect());
    match (status.success(), tally.failed) {
        (true, _) => Ok(tally),
        // The harness never got to count: a test that does not compile, or took the process down.
        (false, 0) => bail!("cargo test ended with {status}"),
        (false, _) => Err(TestsFailed(tally).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn the_harness_s_last_line_is_counted() {
        let line = "test result: FAILED. 11 passed; 2 failed; 1 ignored; 0 measured; \
                    3 filtered out; finished in 0.33s";
        assert_eq!(
            Tally::of_line(line),
            Some(Tally { passed: 11, failed: 2, skipped: 1, ..Tally::default() })
        );
        assert_eq!(Tally::of_line("test rtmp::publish ... ok"), None);
    }
}
