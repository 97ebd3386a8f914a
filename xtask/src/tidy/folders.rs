//! Protocol code and decisions do no I/O and read no clock.

use super::{Finding, Tree};

/// Where the code is pure: it takes slices and `now`, and returns what should happen.
const PURE: &[&str] = &[
    "proxy/src/proto",
    "proxy/src/sniff.rs",
    "proxy/src/stream",
    "proxy/src/origin",
    "proxy/src/plane/kernel/hops/mirror.rs",
    "proxy/src/plane/kernel/hops/policies.rs",
    "proxy/src/plane/kernel/hops/wire.rs",
    "proxy/src/session/flow",
    "proxy/src/session/http",
    "proxy/src/session/rtmp",
    "proxy/src/session/srt",
    "proxy/src/session/webrtc",
    "proxy-ebpf/src",
];

/// Files in those folders that drive the pure ones.
const DRIVERS: &[&str] = &[
    "proxy/src/session/http/ask.rs",
    "proxy/src/session/http/attempt.rs",
    "proxy/src/session/http/client.rs",
    "proxy/src/session/http/listed.rs",
    "proxy/src/session/http/mod.rs",
    "proxy/src/session/http/negotiate.rs",
    "proxy/src/session/http/origin.rs",
    "proxy/src/session/http/origin_api.rs",
    "proxy/src/session/http/pool.rs",
    "proxy/src/session/http/survey.rs",
    "proxy/src/session/http/whole.rs",
    "proxy/src/session/rtmp/mod.rs",
    "proxy/src/session/rtmp/reach.rs",
    "proxy/src/session/srt/adopt.rs",
    "proxy/src/session/srt/call.rs",
    "proxy/src/session/srt/media.rs",
    "proxy/src/session/srt/mod.rs",
    "proxy/src/session/webrtc/adopt.rs",
    "proxy/src/session/webrtc/guest.rs",
    "proxy/src/session/webrtc/mod.rs",
    "proxy/src/session/webrtc/signalling.rs",
    "proxy/src/session/webrtc/tcp.rs",
];

/// What a pure file has no use for. A clock's type is fine: `now` is an argument.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::io::stdin",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "Instant::now",
    "SystemTime::now",
    ".elapsed(",
    "getrandom",
    "rand::",
    "std::env",
];

pub(super) fn pure_folders_do_no_io(tree: &Tree) -> Vec<Finding> {
    let files = PURE.iter().flat_map(|folder| tree.rust(folder));
    let pure = files.filter(|file| !DRIVERS.contains(&file.path.as_str()) && !file.is_test());
    pure.flat_map(|file| file.words(IMPURE, "pure code")).collect()
}

#[cfg(test)]
mod tests {
    use super::pure_folders_do_no_io;
    use crate::tidy::Tree;

    #[test]
    fn a_clock_in_a_parser_is_found_and_one_in_its_tests_is_not() {
        let text = "use std::time::Instant;\nlet now = Instant::now();\n\
                    #[cfg(test)]\nmod tests {\n    let now = Instant::now();\n}\n";
        let tree = Tree::of(&[("proxy/src/proto/rtmp/chunk.rs", text), ("proxy/src/app.rs", text)]);
        let found: Vec<_> = pure_folders_do_no_io(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["proxy/src/proto/rtmp/chunk.rs:2: pure code: `Instant::now`"]);
    }
}
