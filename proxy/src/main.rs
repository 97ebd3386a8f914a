//! The daemon.

use std::io::{self, Write};
use std::process::ExitCode;

use srs_proxy::config::{Command, Error};

fn main() -> ExitCode {
    match Command::from_process() {
        Ok(Command::Run { .. }) => ExitCode::SUCCESS,
        Ok(Command::Print { text, warnings }) => {
            // A reader that goes away, as `head` does, is no failure.
            let _ = io::stdout().write_all(text.as_bytes());
            for warning in warnings {
                eprintln!("srs-proxy: warning: {warning}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("srs-proxy: {error}");
            ExitCode::from(Error::EXIT_CODE)
        }
    }
}
