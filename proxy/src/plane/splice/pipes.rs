//! Pipes for bytes between two sockets: pooled, and bounded in memory.
//!
//! A pipe belongs to a session only while there are bytes in it, and comes back empty: what was in
//! one session's pipe is never written to another's socket.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{SysconfVar, pipe2, read, sysconf};
use rlimit::Resource;

use super::side::Side;
use crate::listen::pipes_among;

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    entrance: OwnedFd,
    exit: OwnedFd,
    held: usize,
    slots: usize,
    /// Bytes of full pages.
    capacity: usize,
    /// Where its slots go back to.
    budget: Arc<Budget>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.budget.give(self.slots);
    }
}

impl Pipe {
    /// Takes up to `most` bytes out of a socket; none at its end. The pipe must be empty: only then
    /// does `WouldBlock` say that the socket has nothing, and not that the pipe is full.
    pub(super) fn fill(&mut self, from: &Side, most: usize) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "a pipe is filled when it is empty");
        self.held = splice(from.socket(), None, &self.entrance, None, most, FLAGS)?;
        Ok(self.held)
    }

    /// Writes to a socket what it takes now, at least a byte. `WouldBlock` if it takes none.
    pub(super) fn empty(&mut self, to: &Side) -> io::Result<usize> {
        let written = splice(&self.exit, None, to.socket(), None, self.held, FLAGS)?;
        self.held -= written;
        Ok(written)
    }

    /// Takes the bytes out of it, into this process.
    pub(super) fn drain(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        let mut filled = into.len();
        into.resize(filled + self.held, 0);
        while self.held > 0 {
            match read(&self.exit, into.get_mut(filled..).unwrap_or_default()) {
                Ok(read) if read > 0 => {
                    filled += read;
                    self.held -= read;
                }
                Err(Errno::EINTR) => {}
                result => {
                    into.truncate(filled);
                    return Err(result.err().unwrap_or(Errno::EIO).into());
                }
            }
        }
        Ok(())
    }

    /// Bytes that were taken and not written.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Bytes that it can hold of full pages.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }
}

/// The pipes of one thread.
#[derive(Debug)]
pub(super) struct Pipes {
    spare: Vec<Pipe>,
    large: Vec<Pipe>,
    budget: Arc<Budget>,
    /// How many there are, those in use included.
    count: usize,
}

/// What the pipes of all threads together may take.
#[derive(Debug)]
pub(super) struct Budget {
    /// Slots, each of which holds a page or a reference to a piece of one.
    slots: AtomicUsize,
    /// Bytes of a page.
    page: usize,
}

impl Budget {
    /// What this host lets them have: half of what a user may have before the kernel makes pipes
    /// smaller, so that others of the same user have theirs, and a share of the open files.
    pub(super) fn of_host() -> Self {
        let limit = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft");
        let limit = limit.ok().and_then(|text| text.trim().parse().ok()).filter(|&soft| soft > 0);
        let files = rlimit::getrlimit(Resource::NOFILE).map_or(0, |(soft, _)| soft);
        let by_files = usize::try_from(pipes_among(files)).unwrap_or(usize::MAX);
        Self::new(limit.map_or(usize::MAX, |soft: usize| soft / 2).min(by_files * SLOTS))
    }

    fn new(slots: usize) -> Self {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        let page = page.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(4096);
        Self { slots: slots.into(), page }
    }

    /// Bytes of full pages.
    pub(super) fn bytes(&self) -> usize {
        self.left().saturating_mul(self.page)
    }

    fn left(&self) -> usize {
        self.slots.load(Ordering::Relaxed)
    }

    fn take(&self, slots: usize) -> bool {
        let rest = |left: usize| left.checked_sub(slots);
        self.slots.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }

    fn give(&self, slots: usize) {
        self.slots.fetch_add(slots, Ordering::Relaxed);
    }
}

impl Pipes {
    /// None yet.
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { spare: Vec::new(), large: Vec::new(), budget, count: 0 }
    }

    /// An empty pipe, rather a large one if there is much to move; none if there is no room or
    /// descriptor for it: copying needs neither.
    pub(super) fn take(&mut self, is_much: bool) -> Option<Pipe> {
        if is_much && let Some(pipe) = self.large.pop().or_else(|| self.widened()) {
            return Some(pipe);
        }
        self.spare.pop().or_else(|| self.made()).or_else(|| self.large.pop())
    }

    /// Takes back a pipe. One with bytes in it is closed, and they are gone.
    pub(super) fn give(&mut self, pipe: Pipe) {
        let spare = if pipe.slots > SLOTS { &mut self.large } else { &mut self.spare };
        // Where there are few left, other threads may need what this one would only keep.
        if pipe.held == 0 && spare.len() < SPARE && self.budget.left() >= FEW {
            spare.push(pipe);
        } else {
            self.count -= 1;
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn made(&mut self) -> Option<Pipe> {
        if !self.budget.take(SLOTS) {
            return None;
        }
        let Ok((exit, entrance)) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK) else {
            self.budget.give(SLOTS);
            return None;
        };
        self.count += 1;
        let (budget, capacity) = (Arc::clone(&self.budget), SLOTS * self.budget.page);
        Some(Pipe { entrance, exit, held: 0, slots: SLOTS, capacity, budget })
    }

    fn widened(&mut self) -> Option<Pipe> {
        let mut pipe = self.spare.pop().or_else(|| self.made())?;
        let more = LARGE - pipe.slots;
        if !self.budget.take(more) {
            return Some(pipe);
        }
        let capacity = LARGE * self.budget.page;
        let bytes = i32::try_from(capacity).unwrap_or(i32::MAX);
        if fcntl(&pipe.entrance, FcntlArg::F_SETPIPE_SZ(bytes)).is_err() {
            // The user's limit (`pipe-user-pages-soft`) is reached.
            self.budget.give(more);
            return Some(pipe);
        }
        (pipe.slots, pipe.capacity) = (LARGE, capacity);
        Some(pipe)
    }
}

/// Never `MORE`: it would keep the end of a picture in the kernel until the next one comes.
const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK);

/// Slots of a pipe as it is made (`PIPE_DEF_BUFFERS` of Linux).
const SLOTS: usize = 16;

/// Slots of a pipe for bulk.
const LARGE: usize = 64;

/// Slots that are few for all threads together.
const FEW: usize = 16 * SLOTS;

/// Pipes of each size that are kept for use.
const SPARE: usize = 64;

#[cfg(test)]
pub(super) mod tests;
