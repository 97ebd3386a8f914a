//! `srs-proxy`: puts a media cluster behind one address.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use srs_proxy::app::App;
use srs_proxy::config::{Command, Config, Error};
use srs_proxy::drain::{self, Signals};
use srs_proxy::plane::kernel::Kernel;
use srs_proxy::{doctor, listen, telemetry};

fn main() -> ExitCode {
    match Command::from_process() {
        Ok(Command::Run { config, warnings }) => match run(&config, &warnings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("srs-proxy: {error:#}");
                ExitCode::FAILURE
            }
        },
        Ok(Command::Doctor { config }) => {
            let found = doctor::examine(&config.kernel, &config.tcp);
            let _gone = io::stdout().write_all(found.text.as_bytes());
            if found.works { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
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
    let files = listen::raise_file_limit(config.session.max);
    // Before there is any other thread: each has rights of its own, and what is not needed any more
    // is given up here.
    let kernel = Kernel::load(config);
    let signals = Signals::hear(config.shutdown.force)?;
    let _log = telemetry::init(&config.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let most_sessions = listen::room_for(config.session.max, files);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let kernel = kernel.open().await;
        kernel.introduce(&config.kernel);
        let mut app = App::bind(config, kernel, most_sessions).await?.start();
        let (stop, sessions) = (app.stop.clone(), Arc::clone(&app.sessions));
        tokio::select! {
            () = drain::until_stopped(signals, &stop, &sessions, config.shutdown.grace) => {}
            defect = app.until_a_task_fails() => {
                app.abandon();
                return Err(defect);
            }
        }
        app.finish().await;
        Ok(())
    });
    // A name look-up may still hang in a thread of the runtime's.
    runtime.shutdown_background();
    ended
}
