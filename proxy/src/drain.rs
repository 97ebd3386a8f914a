//! How the proxy stops: new clients are refused, those that are there may finish, and nothing
//! waits for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver};
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

/// Waits for a signal, and then for the sessions to end: until `grace` is over or a second
/// signal comes. After `force` the process is gone whatever hangs.
pub async fn until_stopped(
    stop: &Stop,
    sessions: &Arc<Sessions>,
    grace: Duration,
    force: Duration,
) -> std::io::Result<()> {
    let mut signals = signals()?;
    signals.recv().await;
    stop.draining.cancel();
    info!(sessions = sessions.count(), ?grace, "stopping: no new sessions");
    exit_after(force);
    tokio::select! {
        () = sessions.all_ended() => {}
        () = sleep(grace) => info!(sessions = sessions.count(), "grace time is over"),
        _ = signals.recv() => info!(sessions = sessions.count(), "second signal"),
    }
    stop.sessions.cancel();
    if timeout(GOODBYE, sessions.all_ended()).await.is_err() {
        warn!(sessions = sessions.count(), "sessions did not end");
    }
    info!("stopped");
    Ok(())
}

/// A thread of its own, because a runtime that hangs runs no timer.
fn exit_after(force: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(force);
        warn!("force quit");
        std::process::exit(0);
    });
}

/// Each message is one request to stop.
#[cfg(unix)]
fn signals() -> std::io::Result<Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Each message is one request to stop.
#[cfg(not(unix))]
fn signals() -> std::io::Result<Receiver<()>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() && sender.send(()).await.is_ok() {}
    });
    Ok(receiver)
}
