//! The plane of spliced streams: threads of their own that move the bytes of established pairs from
//! socket to socket, past this process's memory.
//!
//! A pair is handed over once nothing needs to be looked at any more, and comes back when it has
//! ended, when what was asked for was moved, or when a thread cannot go on with it: its [`journey`].
//! [`pump`] is what one session does, [`way`] one direction of it; [`worker`] gives each session its
//! turn when [`poller`] says so, which there are two of: [`ring`] and [`epoll`].

mod epoll;
mod inbox;
mod journey;
mod pipes;
mod poller;
mod pump;
mod ring;
mod side;
mod thread;
mod way;
mod worker;

use std::io;
use std::sync::Arc;

use self::epoll::EpollPoller;
pub(super) use self::journey::{Arrival, Place};
use self::pipes::Budget;
use self::ring::{RingPoller, why_no_ring};
use self::thread::Thread;
use super::Refused;
use super::stream::ThreadView;

/// The threads.
#[derive(Debug)]
pub(super) struct Splice {
    threads: Vec<Thread>,
    /// Sessions that each of them takes.
    room: usize,
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
        let budget = Arc::new(Budget::of_host());
        let start = match by {
            By::Ring => Thread::start::<RingPoller>,
            By::Epoll => Thread::start::<EpollPoller>,
        };
        let threads: io::Result<_> = (0..threads).map(|number| start(number, &budget)).collect();
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
        let living = || self.threads.iter().filter(|thread| thread.is_alive());
        let Some(least) = living().min_by_key(|thread| thread.inbox().sessions()) else {
            return Err("its threads have failed".into());
        };
        // Others may have taken its last places meanwhile.
        let mut threads = std::iter::once(least).chain(living());
        match threads.find(|thread| thread.inbox().reserve(self.room)) {
            Some(thread) => Ok(Place::at(thread.inbox())),
            None => Err("the threads have as many sessions as they take".into()),
        }
    }

    /// What each living thread has and has done, and what those that have failed have.
    pub(super) fn view(&self) -> [Vec<ThreadView>; 2] {
        let of = |is_alive| {
            let threads = self.threads.iter().filter(|thread| thread.is_alive() == is_alive);
            threads.map(Thread::view).collect()
        };
        [of(true), of(false)]
    }
}

/// Bytes that all pipes together may hold on this host, in full pages.
pub fn pipe_bytes() -> usize {
    Budget::of_host().bytes()
}

#[cfg(test)]
mod tests;
