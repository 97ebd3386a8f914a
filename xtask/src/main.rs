//! The project's own commands: `cargo xtask <command>`.

mod bench;
mod build_ebpf;
mod command;
mod demo;
mod needs;
mod portable;
mod run;
mod test;
mod tidy;
mod verify_ebpf;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build a release and run it; arguments after `--` are the proxy's.
    Run(run::Args),
    /// Make sure of what the tests need, then run everything that CI runs.
    Test(test::Args),
    /// Bring up two origins and a test picture behind the proxy; Ctrl-C ends it.
    Demo(demo::Args),
    /// Build the kernel programs.
    BuildEbpf,
    /// Build the kernel programs twice and compare; load them, and print what they cost.
    VerifyEbpf,
    /// Type-check the proxy for the systems it is not tested on.
    Portable,
    /// Check the rules of the architecture that no compiler checks.
    Tidy,
    /// Measure the proxy beside another one.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Causes in one line; where in this program it came up helps nobody.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Test(args) => test::test(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::BuildEbpf => build_ebpf::build().map(drop),
        Command::VerifyEbpf => verify_ebpf::verify(),
        Command::Portable => match portable::check()? {
            portable::Checked::All => Ok(()),
            portable::Checked::NotHere(why) => anyhow::bail!("{why}"),
        },
        Command::Tidy => tidy::check(),
        Command::Bench(args) => bench::bench(&args),
    }
}
