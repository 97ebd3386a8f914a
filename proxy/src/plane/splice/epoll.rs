//! Readiness by epoll, for hosts that do not allow `io_uring`.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::poller::{Event, Interest, News, Poller, Readiness, Token};

/// An epoll instance.
#[derive(Debug)]
pub(super) struct EpollPoller {
    epoll: Epoll,
    events: Box<[EpollEvent]>,
}

impl Poller for EpollPoller {
    fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); AT_ONCE].into() })
    }

    fn watch(&mut self, token: Token, file: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        let flags = EpollFlags::from_bits_truncate(interest.bits().cast_signed());
        Ok(self.epoll.add(file, EpollEvent::new(flags | EpollFlags::EPOLLET, token.0))?)
    }

    fn unwatch(&mut self, _: Token, socket: BorrowedFd<'_>) {
        // It is there, or was never added: both end in its not being there.
        let _gone = self.epoll.delete(socket);
    }

    fn wait(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let limit = limit.map_or(EpollTimeout::NONE, rounded_up);
        let count = match self.epoll.wait(&mut self.events, limit) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let told = self.events.get(..count).unwrap_or_default();
        events.extend(told.iter().map(|event| Event {
            token: Token(event.data()),
            news: News::Ready(Readiness(event.events().bits().cast_unsigned())),
        }));
        Ok(())
    }
}

/// In whole milliseconds: a wait that is too short would be one more turn for nothing.
fn rounded_up(limit: Duration) -> EpollTimeout {
    let milliseconds = limit.as_nanos().div_ceil(1_000_000);
    i32::try_from(milliseconds)
        .ok()
        .and_then(|ms| EpollTimeout::try_from(ms).ok())
        .unwrap_or(EpollTimeout::MAX)
}

/// Events of one call.
const AT_ONCE: usize = 256;
