//! Readiness by `io_uring`: one poll per socket that lasts as long as the socket, and one system
//! call for all that has changed since the last.

#![expect(
    unsafe_code,
    reason = "what is put into a ring must stay valid as long as the kernel reads it"
)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;
use std::{fs, io};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::poller::{Event, Interest, News, Poller, Readiness, Token};
use crate::plane::Refused;

/// A ring.
pub(super) struct RingPoller {
    ring: IoUring,
    /// Cancels for which there was no room.
    unsent: Vec<squeue::Entry>,
}

impl Poller for RingPoller {
    fn new() -> io::Result<Self> {
        let ring = build()?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self { ring, unsent: Vec::new() })
    }

    fn watch(&mut self, token: Token, file: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        let poll = opcode::PollAdd::new(Fd(file.as_raw_fd()), interest.bits()).multi(true);
        self.push(&poll.build().user_data(token.0))
    }

    fn unwatch(&mut self, token: Token, _: BorrowedFd<'_>) {
        // Not `PollRemove`, which leaves a poll alone of which something is to be told at the moment:
        // it would keep the socket open when everybody else has closed it.
        let cancel = opcode::AsyncCancel::new(token.0).build().user_data(NOBODY);
        if self.push(&cancel).is_err() {
            self.unsent.push(cancel);
        }
    }

    fn wait(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        while let Some(cancel) = self.unsent.pop() {
            if self.push(&cancel).is_err() {
                self.unsent.push(cancel);
                break;
            }
        }
        let queue = self.ring.submission();
        let has_work = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        let submitter = self.ring.submitter();
        let entered = match limit {
            // Whether there is anything to be asked for can be seen without asking.
            Some(Duration::ZERO) if !has_work => Ok(0),
            Some(Duration::ZERO) => submitter.submit(),
            None => submitter.submit_and_wait(1),
            Some(limit) => {
                let limit = Timespec::from(limit);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&limit))
            }
        };
        match entered {
            Ok(_) => {}
            // The time is over, a signal has come, or there are completions to be taken first.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(error) => return Err(error),
        }
        let told = self.ring.completion().filter(|entry| entry.user_data() != NOBODY);
        events.extend(told.map(|entry| event(&entry)));
        Ok(())
    }
}

impl RingPoller {
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: neither a poll nor its cancellation gives the kernel any memory of ours, and the
        // descriptor that it names is looked up while the entry is submitted.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        self.ring.submit()?;
        // SAFETY: as above.
        unsafe { self.ring.submission().push(entry) }
            .map_err(|_full| io::ErrorKind::WouldBlock.into())
    }
}

fn event(entry: &cqueue::Entry) -> Event {
    let news = match entry.result() {
        // It was cancelled. Where not by us, as by kernels that are short of memory, everything may have
        // become ready; where by us, the token is not in use any more.
        error if error == -libc::ECANCELED => News::Last(Readiness(Interest::All.bits())),
        error if error < 0 => News::Refused(-error),
        bits if cqueue::more(entry.flags()) => News::Ready(Readiness(bits.cast_unsigned())),
        bits => News::Last(Readiness(bits.cast_unsigned())),
    };
    Event { token: Token(entry.user_data()), news }
}

/// A ring that does its work when it is asked (Linux 6.1), or without interrupting anybody
/// (5.19), or as ever.
fn build() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_cqsize(COMPLETIONS).setup_clamp();
    let mut coop = builder.clone();
    coop.setup_coop_taskrun().setup_taskrun_flag();
    let mut defer = coop.clone();
    defer.setup_single_issuer().setup_defer_taskrun();
    defer.build(ENTRIES).or_else(|_| coop.build(ENTRIES)).or_else(|_| builder.build(ENTRIES))
}

/// What the system says when it does not let a ring be made, in words.
pub(super) fn why_no_ring(error: &io::Error) -> Refused {
    let switch = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let switch = switch.trim();
    match (error.raw_os_error(), switch) {
        (Some(libc::ENOSYS), _) => "the kernel has no io_uring".into(),
        (Some(libc::EPERM | libc::EACCES), "1" | "2") => {
            format!("io_uring is not allowed here (kernel.io_uring_disabled={switch})").into()
        }
        (Some(libc::EPERM | libc::EACCES), _) => "io_uring is not allowed here (seccomp?)".into(),
        (Some(libc::ENOMEM), _) => "io_uring may lock no memory here (ulimit -l)".into(),
        (Some(libc::EINVAL) | None, _) => "the kernel's io_uring is too old".into(),
        _ => format!("io_uring: {error}").into(),
    }
}

/// The token of what nobody waits for.
const NOBODY: u64 = u64::MAX;

/// Submissions between two calls.
const ENTRIES: u32 = 256;

/// Completions that have a place; the kernel keeps those that have none.
const COMPLETIONS: u32 = 1024;
