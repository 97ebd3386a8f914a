//! A thread with a worker: started whole or not at all, and ended with whoever has it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use nix::sys::signal::{SigSet, Signal};
use tracing::error;

use super::inbox::Inbox;
use super::pipes::{Budget, Pipes};
use super::poller::Poller;
use super::way::{Kit, Moved};
use super::worker::Worker;
use crate::plane::ThreadView;

/// A thread. Its drop ends it.
#[derive(Debug)]
pub(super) struct Thread {
    inbox: Inbox,
    tally: Arc<Tally>,
    handle: Option<JoinHandle<()>>,
}

/// What one thread has done.
#[derive(Debug, Default)]
pub(super) struct Tally {
    spliced: AtomicU64,
    copied: AtomicU64,
    pipes: AtomicUsize,
}

impl Tally {
    /// Adds what was moved, and notes how many pipes there are.
    pub(super) fn add(&self, Moved { spliced, copied }: Moved, pipes: usize) {
        // Read as statistics alone: nothing is ordered by them.
        self.spliced.fetch_add(spliced, Ordering::Relaxed);
        self.copied.fetch_add(copied, Ordering::Relaxed);
        self.pipes.store(pipes, Ordering::Relaxed);
    }
}

impl Thread {
    /// Starts one; returns when it has all it needs.
    pub(super) fn start<P: Poller>(number: usize, budget: &Arc<Budget>) -> io::Result<Self> {
        let inbox = Inbox::new()?;
        let tally = Arc::<Tally>::default();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let run = {
            let (inbox, tally, budget) = (inbox.clone(), Arc::clone(&tally), Arc::clone(budget));
            move || {
                let _closing = Closing(inbox.clone());
                // splice(2) into a connection that is gone raises it, as no flag can prevent.
                let _blocked = SigSet::from(Signal::SIGPIPE).thread_block();
                let (worker, result) =
                    match Worker::<P>::new(inbox, Kit::new(Pipes::new(budget)), tally) {
                        Ok(worker) => (Some(worker), Ok(())),
                        Err(error) => (None, Err(error)),
                    };
                // Whoever starts it waits for this.
                let _heard = ready.send(result);
                if let Some(Err(error)) = worker.map(Worker::run) {
                    error!(%error, "a thread of streams has failed: the relay goes on with its sessions");
                }
            }
        };
        let handle = Builder::new().name(format!("splice-{number}")).spawn(run)?;
        is_ready.recv().map_err(|_| io::Error::other("the thread has ended"))??;
        Ok(Self { inbox, tally, handle: Some(handle) })
    }

    /// Its door.
    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Whether it takes sessions.
    pub(super) fn is_alive(&self) -> bool {
        !self.inbox.is_closed()
    }

    /// What it has and has done.
    pub(super) fn view(&self) -> ThreadView {
        ThreadView {
            sessions: self.inbox.sessions(),
            pipes: self.tally.pipes.load(Ordering::Relaxed),
            spliced_bytes: self.tally.spliced.load(Ordering::Relaxed),
            copied_bytes: self.tally.copied.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.inbox.end();
        if let Some(handle) = self.handle.take() {
            // It has said in the log why it has failed, if it has.
            let _ended = handle.join();
        }
    }
}

/// However a thread ends, by a panic as well, nobody hands anything over behind it.
struct Closing(Inbox);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close(&"its thread has ended".into());
    }
}
