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
    let ring = started(TcpEngine::Uring, Some(1));
    let threads = settings.threads.unwrap_or_else(|| available_parallelism().map_or(1, Into::into));
    let limit = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap_or_default();
    let StreamsView { engine, reason, threads: running, .. } =
        started(settings.engine, settings.threads);
    vec![
        io_uring(ring.reason),
        pipes(pipe_bytes() / 1024, threads, limit.trim()),
        streams(engine, running.len(), reason),
    ]
}

fn io_uring(refused: Option<String>) -> Finding {
    match refused {
        None => Finding::ok("io_uring", "allowed"),
        Some(reason) => Finding::note("io_uring", reason),
    }
}

/// So much for so many threads, where the kernel's limit is this.
fn pipes(kib: usize, threads: usize, limit: &str) -> Finding {
    let words = format!("{kib} KiB of memory for all threads; fs.pipe-user-pages-soft is {limit}");
    if kib / threads.max(1) < FEW_KIB {
        Finding::note("pipes", format!("{words}: more is copied than with a higher one"))
    } else {
        Finding::ok("pipes", words)
    }
}

fn streams(engine: &str, threads: usize, reason: Option<String>) -> Finding {
    let words = match threads {
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

#[cfg(test)]
mod tests {
    use super::super::table::report;
    use super::*;

    #[test]
    fn what_slows_streams_down_is_said_and_is_in_the_way_of_nothing() {
        let refused = Some("io_uring is not allowed here (seccomp?)".to_owned());
        let asked = Some("PROXY_TCP_ENGINE=relay".to_owned());
        for (finding, row) in [
            (io_uring(None), "ok  io_uring  allowed"),
            (io_uring(refused.clone()), "-   io_uring  io_uring is not allowed here (seccomp?)"),
            (
                pipes(32 * 1024, 2, "16384"),
                "ok  pipes  32768 KiB of memory for all threads; fs.pipe-user-pages-soft is 16384",
            ),
            (
                pipes(2 * 1024 - 1, 2, "1023"),
                "-   pipes  2047 KiB of memory for all threads; fs.pipe-user-pages-soft is 1023: \
                 more is copied than with a higher one",
            ),
            (streams("uring-splice", 2, None), "ok  streams  uring-splice, 2 threads"),
            (
                streams("splice", 1, refused),
                "-   streams  splice, 1 thread: io_uring is not allowed here (seccomp?)",
            ),
            (
                streams("relay", 0, asked),
                "-   streams  relay, which copies: PROXY_TCP_ENGINE=relay",
            ),
        ] {
            let found = report(&[finding]);
            assert_eq!((found.text.lines().next(), found.works), (Some(row), true));
        }
    }
}
