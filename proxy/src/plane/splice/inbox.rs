//! How sessions come to a thread that waits for sockets.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, mem};

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use super::journey::Job;
use crate::plane::Refused;

/// The door of one thread. A clone is the same one.
#[derive(Clone, Debug)]
pub(super) struct Inbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    door: Mutex<Door>,
    bell: EventFd,
    /// Sessions that the thread has, or will find here.
    sessions: AtomicUsize,
}

#[derive(Debug, Default)]
struct Door {
    mail: Mail,
    /// The bell was rung.
    is_told: bool,
    /// The thread has ended.
    is_closed: bool,
}

/// What has come since the thread looked last.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) jobs: Vec<Job>,
    /// Somebody does not wait for a session any more.
    pub(super) is_left: bool,
    /// The thread is to end.
    pub(super) is_over: bool,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (door, sessions) = (Mutex::default(), AtomicUsize::new(0));
        Ok(Self(Arc::new(Inner { door, bell, sessions })))
    }

    /// What becomes readable when something has come.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }

    /// How many sessions the thread has, places that were reserved included.
    pub(super) fn sessions(&self) -> usize {
        self.0.sessions.load(Ordering::Relaxed)
    }

    /// Reserves a place for a session, if there are not so many already.
    pub(super) fn reserve(&self, room: usize) -> bool {
        let more = |sessions| (sessions < room).then_some(sessions + 1);
        self.0.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives a place back.
    pub(super) fn release(&self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Hands a session over, for which there is a place. Gives it back if the thread has ended.
    pub(super) fn put(&self, job: Job) -> Result<(), Box<Job>> {
        let mut door = self.0.door.lock();
        if door.is_closed {
            return Err(Box::new(job));
        }
        door.mail.jobs.push(job);
        self.ring(&mut door);
        Ok(())
    }

    /// Nobody waits for one of the sessions any more.
    pub(super) fn leave(&self) {
        let mut door = self.0.door.lock();
        door.mail.is_left = true;
        self.ring(&mut door);
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        let mut door = self.0.door.lock();
        door.mail.is_over = true;
        self.ring(&mut door);
    }

    /// Everything that has come.
    pub(super) fn open(&self) -> Mail {
        let mut door = self.0.door.lock();
        // It was rung, or there is nothing in here: either is fine.
        let _silent = self.0.bell.read();
        door.is_told = false;
        mem::take(&mut door.mail)
    }

    /// Takes no more, and refuses what has come.
    pub(super) fn close(&self, why: &Refused) {
        let mut door = self.0.door.lock();
        door.is_closed = true;
        let jobs = mem::take(&mut door.mail.jobs);
        drop(door);
        for job in jobs {
            self.release();
            job.refuse(why.clone());
        }
    }

    /// Whether the thread has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.0.door.lock().is_closed
    }

    fn ring(&self, door: &mut Door) {
        if !mem::replace(&mut door.is_told, true) {
            // It can only fail when it rings already.
            let _rung = self.0.bell.write(1);
        }
    }
}
