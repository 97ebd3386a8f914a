//! How the proxy stops: new clients are refused, those that are there may finish, and nothing
//! waits for ever.

use std::io;
use std::sync::Arc;
use std::time::Duration;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::session::Sessions;

/// How long a forced stop waits for its last word to be written.
const LAST_WORD: Duration = Duration::from_millis(100);

/// How long sessions that are told to end may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// The steps of a stop, each seen by those whom it concerns.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Nothing new: listeners close, readiness is withdrawn.
    pub draining: CancellationToken,
    /// Sessions end.
    pub sessions: CancellationToken,
}

/// Requests to stop: each SIGTERM or SIGINT, or Ctrl-C.
#[derive(Debug)]
pub struct Signals(UnboundedReceiver<()>);

impl Signals {
    /// Hears signals from here on, on a thread of its own. The process is gone `force` after the
    /// first, whatever hangs: neither the proxy's runtime nor its log is asked.
    pub fn hear(force: Duration) -> io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut requests = runtime.block_on(async { Requests::listen() })?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                requests.next().await;
                let exit_at = Instant::now() + force;
                // Nobody listens any more once the process is about to end.
                let _ended = sender.send(());
                while timeout_at(exit_at, requests.next()).await.is_ok() {
                    let _ended = sender.send(());
                }
                // On a thread of its own, because whoever reads it may hang as well.
                let last_word = || eprintln!("srs-proxy: forced to stop");
                let _no_thread = std::thread::Builder::new().spawn(last_word);
                sleep(LAST_WORD).await;
                std::process::exit(0);
            });
        });
        Ok(Self(receiver))
    }
}

#[cfg(unix)]
struct Requests {
    interrupt: Signal,
    terminate: Signal,
}

#[cfg(unix)]
impl Requests {
    fn listen() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Requests;

#[cfg(not(unix))]
impl Requests {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            // There is no console to come from.
            std::future::pending::<()>().await;
        }
    }
}

/// Waits for a signal, and then for the sessions to end: until `grace` is over or a second
/// signal comes.
pub async fn until_stopped(
    mut signals: Signals,
    stop: &Stop,
    sessions: &Arc<Sessions>,
    grace: Duration,
) {
    signals.0.recv().await;
    stop.draining.cancel();
    let seconds = grace.as_secs_f64();
    info!(sessions = sessions.count(), grace = seconds, "stopping: no new sessions");
    tokio::select! {
        () = sessions.all_ended() => {}
        () = sleep(grace) => info!(sessions = sessions.count(), "grace time is over"),
        _ = signals.0.recv() => info!(sessions = sessions.count(), "second signal"),
    }
    stop.sessions.cancel();
    if timeout(GOODBYE, sessions.all_ended()).await.is_err() {
        warn!(sessions = sessions.count(), "sessions did not end");
    }
    info!("stopped");
}
