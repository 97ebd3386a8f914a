//! What there is to find for streams over TCP: found by starting what the proxy would start.

use std::fs;
use std::thread::available_parallelism;

use super::table::Finding;
use crate::config::{Tcp, TcpEngine};
use crate::plane::kernel::privilege;
use crate::plane::{StreamEngine, StreamPlane, StreamSettings, StreamsView, pipe_bytes};

/// None of these is in the way of a session: the relay carries it in any case.
pub(super) fn examine(settings: &Tcp) -> Vec<Finding> {
    // What is allowed may depend on rights that the proxy has given up by then. If they cannot be
    // given up here, nor can they there.
    let _kept = privilege::drop_spare();
    vec![io_uring(), pipes(settings), streams(settings)]
}

fn io_uring() -> Finding {
    let ring = started(TcpEngine::Uring, Some(1));
    match ring.reason {
        None => Finding::ok("io_uring", "allowed"),
        Some(reason) => Finding::note("io_uring", reason),
    }
}

fn pipes(settings: &Tcp) -> Finding {
    let threads = settings.threads.unwrap_or_else(|| available_parallelism().map_or(1, Into::into));
    let kib = pipe_bytes() / 1024;
    let limit = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap_or_default();
    let limit = limit.trim();
    let words = format!("{kib} KiB of memory for all threads; fs.pipe-user-pages-soft is {limit}");
    if kib / threads.max(1) < FEW_KIB {
        Finding::note("pipes", format!("{words}: more is copied than with a higher one"))
    } else {
        Finding::ok("pipes", words)
    }
}

fn streams(settings: &Tcp) -> Finding {
    let StreamsView { engine, reason, threads } = started(settings.engine, settings.threads);
    let words = match threads.len() {
        0 => engine.to_owned(),
        1 => format!("{engine}, 1 thread"),
        threads => format!("{engine}, {threads} threads"),
    };
    match reason {
        None => Finding::ok("streams", words),
        Some(reason) if engine == StreamEngine::Relay.as_str() => {
            Finding::note("streams", format!("{words}, which copies: {reason}"))
        }
        Some(reason) => Finding::note("streams", format!("{words}: {reason}")),
    }
}

/// The plane with so many threads, as it was for a moment.
fn started(engine: TcpEngine, threads: Option<usize>) -> StreamsView {
    StreamPlane::start(&StreamSettings { engine, threads, room: 0 }).view()
}

/// KiB of pipes of one thread that are few: some sessions with bytes to move at the same moment use
/// them up.
const FEW_KIB: usize = 1024;
