//! Pipes for bytes between two sockets: pooled, and bounded in memory.
//!
//! A pipe belongs to a session only while there are bytes in it, and comes back empty: what was in
//! one session's pipe is never written to another's socket.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{pipe2, read};

use super::side::Side;

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    entrance: OwnedFd,
    exit: OwnedFd,
    held: usize,
    pages: usize,
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
            let read = read(&self.exit, into.get_mut(filled..).unwrap_or_default())?;
            filled += read;
            self.held -= read;
        }
        Ok(())
    }

    /// Bytes that were taken and not written.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Bytes that it can hold of full pages.
    pub(super) fn capacity(&self) -> usize {
        self.pages * PAGE
    }
}

/// The pipes of one thread.
#[derive(Debug)]
pub(super) struct Pipes {
    spare: Vec<Pipe>,
    large: Vec<Pipe>,
    /// Pages of memory that its pipes may still take.
    room: usize,
    /// How many there are, those in use included.
    count: usize,
}

impl Pipes {
    /// None yet, and at most for so many pages of memory.
    pub(super) fn new(pages: usize) -> Self {
        Self { spare: Vec::new(), large: Vec::new(), room: pages, count: 0 }
    }

    /// An empty pipe, a large one if there is much to move; none if there is no room or descriptor
    /// for it: copying needs neither.
    pub(super) fn take(&mut self, is_much: bool) -> Option<Pipe> {
        if is_much && let Some(pipe) = self.large.pop().or_else(|| self.widened()) {
            return Some(pipe);
        }
        self.spare.pop().or_else(|| self.made())
    }

    /// Takes back a pipe. One with bytes in it is closed, and they are gone.
    pub(super) fn give(&mut self, pipe: Pipe) {
        let spare = if pipe.pages > PAGES { &mut self.large } else { &mut self.spare };
        if pipe.held == 0 && spare.len() < SPARE {
            spare.push(pipe);
        } else {
            self.room += pipe.pages;
            self.count -= 1;
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn made(&mut self) -> Option<Pipe> {
        let room = self.room.checked_sub(PAGES)?;
        let (exit, entrance) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        self.room = room;
        self.count += 1;
        Some(Pipe { entrance, exit, held: 0, pages: PAGES })
    }

    fn widened(&mut self) -> Option<Pipe> {
        let mut pipe = self.spare.pop().or_else(|| self.made())?;
        let Some(room) = self.room.checked_sub(LARGE - pipe.pages) else { return Some(pipe) };
        let bytes = i32::try_from(LARGE * PAGE).ok()?;
        if fcntl(&pipe.entrance, FcntlArg::F_SETPIPE_SZ(bytes)).is_err() {
            // The user's limit (`pipe-user-pages-soft`) is reached.
            return Some(pipe);
        }
        self.room = room;
        pipe.pages = LARGE;
        Some(pipe)
    }
}

/// Never `MORE`: it would keep the end of a picture in the kernel until the next one comes.
const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK);

/// What the kernel counts pipes in.
const PAGE: usize = 4096;

/// Pages of a pipe as it is made.
const PAGES: usize = 16;

/// Pages of a pipe for bulk.
const LARGE: usize = 64;

/// Pipes of each size that are kept for use.
const SPARE: usize = 64;

#[cfg(test)]
mod tests;
