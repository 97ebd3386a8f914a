//! How a thread learns that sockets are ready.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Tells of sockets whose readiness has changed, and only then.
pub(super) trait Poller: Sized {
    /// One for this thread.
    fn new() -> io::Result<Self>;

    /// Tells by this token from here on when something is of interest, and first of all how it is now.
    fn watch(&mut self, token: Token, file: BorrowedFd<'_>, interest: Interest) -> io::Result<()>;

    /// Tells of it no more, but what was on its way already. The socket may be closed or go
    /// elsewhere behind the next [`Self::wait`], or at once where nobody waits for that.
    fn unwatch(&mut self, token: Token, socket: BorrowedFd<'_>);

    /// Waits until there are events, or for so long, and appends them.
    fn wait(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;
}

/// What is to be told; that a connection is lost is told in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// That there is something to read.
    Input,
    /// Everything about a socket.
    All,
}

impl Interest {
    /// In the bits of poll(2).
    pub(super) fn bits(self) -> u32 {
        let bits = match self {
            Self::Input => libc::POLLIN,
            Self::All => libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP,
        };
        bits.cast_unsigned().into()
    }
}

/// Which socket an event is about. Tokens that were taken out of use are not used again soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token(pub(super) u64);

/// What has happened to one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) token: Token,
    pub(super) news: News,
}

/// What there is to tell of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It has become ready.
    Ready(Readiness),
    /// The same, and it has to be watched anew to hear more.
    Last(Readiness),
    /// It cannot be watched, for this reason of the system's.
    Refused(i32),
}

/// What can be tried with a socket, in the bits of poll(2), which are those of epoll(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness(pub(super) u32);

impl Readiness {
    pub(super) fn is_readable(self) -> bool {
        self.has(libc::POLLIN | libc::POLLHUP | libc::POLLERR)
    }

    pub(super) fn is_writable(self) -> bool {
        self.has(libc::POLLOUT | libc::POLLHUP | libc::POLLERR)
    }

    /// Whether the peer sends no more.
    pub(super) fn is_ending(self) -> bool {
        self.has(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR)
    }

    /// Whether the connection is lost.
    pub(super) fn is_broken(self) -> bool {
        self.has(libc::POLLERR)
    }

    fn has(self, bits: i16) -> bool {
        self.0 & u32::from(bits.cast_unsigned()) != 0
    }
}
