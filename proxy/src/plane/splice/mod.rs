//! The plane of spliced streams: threads of their own that move the bytes of established pairs from
//! socket to socket, past this process's memory.
//!
//! A pair is handed over once nothing needs to be looked at any more, and comes back when it has
//! ended, when what was asked for was moved, or when a thread cannot go on with it. [`pump`] is what
//! one session does, [`way`] one direction of it; [`worker`] gives each session its turn when
//! [`poller`] says so, which there are two of: `ring` and `epoll`.

mod epoll;
mod inbox;
mod pipes;
mod poller;
mod pump;
mod ring;
mod side;
mod way;
mod worker;

use std::fs;
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, ready};
use std::thread::{Builder, JoinHandle};

use nix::sys::signal::{SigSet, Signal};
use tokio::sync::oneshot;
use tracing::error;

use self::epoll::EpollPoller;
use self::inbox::Inbox;
use self::pipes::Pipes;
use self::poller::Poller;
use self::ring::RingPoller;
use self::way::{Kit, Moved};
use self::worker::Worker;
use super::stream::ThreadView;
use super::{Closed, Flow, Leg, Meter, Outbox, Patience, Refused, StreamPair};

/// The threads.
#[derive(Debug)]
pub(super) struct Splice {
    threads: Vec<Thread>,
    /// Sessions that each of them takes.
    room: usize,
}

#[derive(Debug)]
struct Thread {
    inbox: Inbox,
    tally: Arc<Tally>,
    handle: Option<JoinHandle<()>>,
}

/// A session on its way to a thread.
#[derive(Debug)]
struct Job {
    legs: [TcpStream; Leg::ALL.len()],
    out: Outbox,
    flow: Flow,
    patience: Patience,
    meter: Arc<Meter>,
    reply: Reply,
}

/// A session on its way back.
#[derive(Debug)]
struct Returned {
    legs: [TcpStream; Leg::ALL.len()],
    out: Outbox,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// As [`super::Carried::closed`].
    Over(Option<Closed>),
    /// The thread cannot go on; this is left to be done.
    Refused(Refused, Flow),
}

/// Where a session goes back to. It comes boxed, so that those that wait take no room for it.
#[derive(Debug)]
struct Reply(oneshot::Sender<Box<Returned>>);

impl Reply {
    /// Whether nobody waits for it.
    fn is_left(&self) -> bool {
        self.0.is_closed()
    }

    fn give(self, returned: Returned) {
        // If nobody waits the sockets are closed here.
        let _left = self.0.send(Box::new(returned));
    }
}

/// What one thread has done.
#[derive(Debug, Default)]
struct Tally {
    spliced: AtomicU64,
    copied: AtomicU64,
    pipes: AtomicUsize,
}

impl Tally {
    fn add(&self, Moved { spliced, copied }: Moved, pipes: usize) {
        // Read as statistics alone: nothing is ordered by them.
        self.spliced.fetch_add(spliced, Ordering::Relaxed);
        self.copied.fetch_add(copied, Ordering::Relaxed);
        self.pipes.store(pipes, Ordering::Relaxed);
    }
}

/// By what the threads learn that sockets are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Ring,
    Epoll,
}

impl Splice {
    /// So many threads, each for so many sessions; or why there can be none.
    pub(super) fn start(by: By, threads: usize, room: usize) -> Result<Self, Refused> {
        let pages = pipe_pages() / threads.max(1);
        let start = match by {
            By::Ring => start::<RingPoller>,
            By::Epoll => start::<EpollPoller>,
        };
        let threads: io::Result<_> = (0..threads).map(|number| start(number, pages)).collect();
        match threads {
            Ok(threads) => Ok(Self { threads, room }),
            Err(error) => Err(match by {
                By::Ring => why_no_ring(&error),
                By::Epoll => format!("its threads cannot be started: {error}").into(),
            }),
        }
    }

    /// A place for a session in the thread that has the fewest, or why there is none.
    pub(super) fn reserve(&self) -> Result<Place, Refused> {
        let least = self.threads.iter().min_by_key(|thread| thread.inbox.sessions());
        // Others may have taken its last places meanwhile.
        let mut threads = least.into_iter().chain(&self.threads);
        match threads.find(|thread| thread.inbox.reserve(self.room)) {
            Some(thread) => Ok(Place(thread.inbox.clone())),
            None => Err("the threads have as many sessions as they take".into()),
        }
    }

    /// What each thread has and has done.
    pub(super) fn view(&self) -> Vec<ThreadView> {
        let view = |thread: &Thread| ThreadView {
            sessions: thread.inbox.sessions(),
            pipes: thread.tally.pipes.load(Ordering::Relaxed),
            spliced_bytes: thread.tally.spliced.load(Ordering::Relaxed),
            copied_bytes: thread.tally.copied.load(Ordering::Relaxed),
        };
        self.threads.iter().map(view).collect()
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        for thread in &self.threads {
            thread.inbox.end();
        }
        for handle in self.threads.iter_mut().filter_map(|thread| thread.handle.take()) {
            // It has said in the log why it has failed, if it has.
            let _ended = handle.join();
        }
    }
}

/// Starts a thread; returns when it has all it needs.
fn start<P: Poller>(number: usize, pages: usize) -> io::Result<Thread> {
    let inbox = Inbox::new()?;
    let tally = Arc::<Tally>::default();
    let (ready, is_ready) = mpsc::sync_channel(1);
    let thread = Builder::new().name(format!("splice-{number}")).spawn({
        let (inbox, tally) = (inbox.clone(), Arc::clone(&tally));
        move || {
            // splice(2) into a connection that is gone raises it, as no flag can prevent.
            let _blocked = SigSet::from(Signal::SIGPIPE).thread_block();
            let worker = Worker::<P>::new(inbox, Kit::new(Pipes::new(pages)), tally);
            let (worker, result) = match worker {
                Ok(worker) => (Some(worker), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Whoever starts it waits for this.
            let _heard = ready.send(result);
            if let Some(Err(error)) = worker.map(Worker::run) {
                error!(%error, "a thread of spliced streams has failed: its sessions go on by the relay");
            }
        }
    })?;
    is_ready.recv().map_err(|_| io::Error::other("the thread has ended"))??;
    Ok(Thread { inbox, tally, handle: Some(thread) })
}

/// A place for one session.
pub(super) struct Place(Inbox);

impl Place {
    /// Hands a pair over.
    pub(super) fn take(
        self,
        pair: StreamPair,
        flow: Flow,
        patience: Patience,
        meter: &Arc<Meter>,
    ) -> Journey {
        let Self(inbox) = self;
        let (sender, receiver) = oneshot::channel();
        let journey = Journey { receiver, inbox: inbox.clone() };
        let StreamPair { client, origin, out } = pair;
        // Off the runtime's own poller: each readiness would wake a thread of it for nothing.
        let (Ok(origin), Ok(client)) = (origin.into_std(), client.into_std()) else {
            // They are closed, which the journey's end tells.
            inbox.release();
            return journey;
        };
        let (legs, reply) = ([origin, client], Reply(sender));
        let job = Job { legs, out, flow, patience, meter: Arc::clone(meter), reply };
        if let Err(job) = inbox.put(job) {
            inbox.release();
            job.refuse("its thread has ended".into());
        }
        journey
    }
}

impl Job {
    /// Gives it back as it came.
    fn refuse(self, why: Refused) {
        let Self { legs, out, flow, reply, .. } = self;
        reply.give(Returned { legs, out, outcome: Outcome::Refused(why, flow) });
    }
}

/// A session while a thread has it. Dropped before its end, it closes both sockets.
pub(super) struct Journey {
    receiver: oneshot::Receiver<Box<Returned>>,
    inbox: Inbox,
}

/// What a [`Journey`] comes to.
pub(super) enum Arrival {
    /// As [`super::Carried`].
    Over(Option<StreamPair>, Option<Closed>),
    /// Somebody else has to go on.
    Refused(StreamPair, Flow, Refused),
}

impl Future for Journey {
    type Output = Arrival;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Arrival> {
        let returned = ready!(Pin::new(&mut self.receiver).poll(cx));
        let lost = Arrival::Over(None, None);
        let Ok(returned) = returned else { return Poll::Ready(lost) };
        let Returned { legs: [origin, client], out, outcome } = *returned;
        let (origin, client) =
            (tokio::net::TcpStream::from_std(origin), tokio::net::TcpStream::from_std(client));
        let pair = match (origin, client) {
            (Ok(origin), Ok(client)) => Some(StreamPair { client, origin, out }),
            _ => None,
        };
        Poll::Ready(match (outcome, pair) {
            (Outcome::Over(closed), pair) => Arrival::Over(pair, closed),
            (Outcome::Refused(why, flow), Some(pair)) => Arrival::Refused(pair, flow, why),
            (Outcome::Refused(..), None) => lost,
        })
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if !self.receiver.is_terminated() {
            self.receiver.close();
            self.inbox.leave();
        }
    }
}

/// Pages that all pipes together may take: half of what the system lets a user have before it makes
/// pipes smaller, so that others of the same user have theirs.
pub fn pipe_pages() -> usize {
    let limit = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft");
    let limit = limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if limit == 0 { PIPE_PAGES } else { PIPE_PAGES.min(limit / 2) }
}

/// What the system says when it does not let a ring be made, in words.
fn why_no_ring(error: &io::Error) -> Refused {
    let switch = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match (error.raw_os_error(), switch.trim()) {
        (Some(libc::ENOSYS), _) => "the kernel has no io_uring".into(),
        (Some(libc::EPERM | libc::EACCES), "1" | "2") => {
            format!("io_uring is not allowed here (kernel.io_uring_disabled={})", switch.trim())
                .into()
        }
        (Some(libc::EPERM | libc::EACCES), _) => "io_uring is not allowed here (seccomp?)".into(),
        (Some(libc::EINVAL) | None, _) => "the kernel's io_uring is too old".into(),
        _ => format!("io_uring: {error}").into(),
    }
}

/// Pages that all pipes together take at most: 64 MiB.
const PIPE_PAGES: usize = 16 * 1024;

#[cfg(test)]
mod tests;
