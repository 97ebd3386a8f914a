//! How the proxy stops: new clients are refused, those that are there may finish, and nothing
//! waits for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::session::Sessions;

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

/// Requests to stop: each SIGTERM, SIGINT or SIGHUP, or Ctrl-C.
#[derive(Debug)]
pub struct Signals(UnboundedReceiver<()>);

impl Signals {
    /// Hears signals from here on. The process is gone `force` after the first, whatever hangs:
    /// neither the runtime nor the log is asked.
    pub fn hear(force: Duration) -> Result<Self, ctrlc::Error> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut is_first = true;
        ctrlc::try_set_handler(move || {
            if std::mem::take(&mut is_first) {
                std::thread::spawn(move || {
                    std::thread::sleep(force);
                    std::process::exit(0);
                });
            }
            // Nobody listens any more once the process is about to end.
            let _ended = sender.send(());
        })?;
        Ok(Self(receiver))
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
    info!(sessions = sessions.count(), ?grace, "stopping: no new sessions");
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
