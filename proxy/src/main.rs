//! `srs-proxy`: puts a media cluster behind one address.

use std::io::{self, Write};
use std::process::ExitCode;

use srs_proxy::app::App;
use srs_proxy::config::{Command, Config, Error};
use srs_proxy::{drain, listen, telemetry};

fn main() -> ExitCode {
    match Command::from_process() {
        Ok(Command::Run { config, warnings }) => match run(&config, &warnings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("srs-proxy: {error:#}");
                ExitCode::FAILURE
            }
        },
        Ok(Command::Print { text, warnings }) => {
            // A reader that goes away, as `head` does, is no failure.
            let _gone = io::stdout().write_all(text.as_bytes());
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

fn run(config: &Config, warnings: &[String]) -> anyhow::Result<()> {
    telemetry::init(&config.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    listen::allow_descriptors(config.session.max);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = App::bind(config)?;
        let (stop, sessions) = app.start();
        let timeouts = &config.shutdown;
        drain::until_stopped(&stop, &sessions, timeouts.grace, timeouts.force).await?;
        Ok(())
    })
}
