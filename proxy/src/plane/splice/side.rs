//! One socket of a session, and what is known of its readiness.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use super::poller::Readiness;

/// A leg's socket. Readiness is that of edges: it holds until the system says `WouldBlock`.
#[derive(Debug)]
pub(super) struct Side {
    socket: TcpStream,
    is_readable: bool,
    is_writable: bool,
    /// The peer will send no more, so that behind a short read there is its end.
    is_ending: bool,
}

impl Side {
    /// Nothing is known, so everything is tried.
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, is_readable: true, is_writable: true, is_ending: false }
    }

    /// The system has told of a change.
    pub(super) fn heard(&mut self, readiness: Readiness) {
        self.is_readable |= readiness.is_readable();
        self.is_writable |= readiness.is_writable();
        self.is_ending |= readiness.is_ending();
    }

    pub(super) fn is_readable(&self) -> bool {
        self.is_readable
    }

    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Reads what is there; zero at the end. `WouldBlock` is remembered, and so is that a read that
    /// did not fill the buffer has left nothing behind.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&self.socket).read(buffer);
        let is_short = read.as_ref().is_ok_and(|&n| n < buffer.len()) && !self.is_ending;
        self.is_readable &= !(is_short || is_blocked(&read));
        read
    }

    /// Writes what the socket takes; less than all only if it takes no more now.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match (&self.socket).write(rest) {
                Ok(0) if written == 0 => return Err(io::ErrorKind::WriteZero.into()),
                Ok(0) => break,
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_writable = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What was taken counts; the error shows again.
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Takes note of what a splice out of this socket came to.
    pub(super) fn spliced_from(&mut self, result: &io::Result<usize>) {
        self.is_readable &= !is_blocked(result);
    }

    /// Takes note of what a splice into this socket came to.
    pub(super) fn spliced_to(&mut self, result: &io::Result<usize>) {
        self.is_writable &= !is_blocked(result);
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn end(&self) {
        // If it is gone there is nobody to tell.
        let _told = self.socket.shutdown(Shutdown::Write);
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn into_socket(self) -> TcpStream {
        self.socket
    }
}

fn is_blocked(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
pub(super) mod tests;
