//! Unsafe code and code for one operating system stand in few, named files.

use super::{File, Finding, Tree};

/// Files with unsafe code, each with the reason in the file itself.
const UNSAFE: &[&str] = &[
    "proxy-ebpf/src/pod.rs",
    "proxy-ebpf/src/programs/event.rs",
    "proxy-ebpf/src/programs/maps.rs",
    "proxy-ebpf/src/programs/mod.rs",
    "proxy-ebpf/src/programs/packet.rs",
    "proxy-ebpf/src/programs/tc_udp.rs",
    "proxy-ebpf/src/programs/xdp_udp.rs",
    "proxy/src/plane/kernel/programs/shared.rs",
    "proxy/src/plane/splice/ring.rs",
];

/// Files that ask which system they are built for.
const SYSTEMS: &[&str] = &[
    "proxy/src/cluster/redis/dial.rs",
    "proxy/src/doctor/mod.rs",
    "proxy/src/drain.rs",
    "proxy/src/listen/media.rs",
    "proxy/src/listen/tcp.rs",
    "proxy/src/listen/udp.rs",
    "proxy/src/pages/tests.rs",
    "proxy/src/plane/datagram/system.rs",
    "proxy/src/plane/kernel/mod.rs",
    "proxy/src/plane/mod.rs",
    "tests/tests/attach.rs",
    "tests/tests/doctor.rs",
    "tests/tests/ebpf/main.rs",
    "tests/tests/next_hops.rs",
    "tests/tests/plane_parity/main.rs",
    "tests/tests/privileges.rs",
    "tests/tests/stream_planes.rs",
    "xtask/src/command.rs",
    "xtask/src/verify_ebpf.rs",
];

pub(super) fn unsafe_is_listed(tree: &Tree) -> Vec<Finding> {
    listed(tree, UNSAFE, &["unsafe"], "unlisted unsafe")
}

pub(super) fn system_cfgs_are_listed(tree: &Tree) -> Vec<Finding> {
    let words =
        ["target_os", "target_family", "cfg(unix)", "cfg(windows)", "not(unix)", "not(windows)"];
    listed(tree, SYSTEMS, &words, "unlisted system")
}

/// Findings for each of these words outside of the listed files, and for a listed file that has
/// none of them: a list that is longer than the truth hides what comes next.
fn listed(tree: &Tree, list: &[&str], words: &[&str], rule: &'static str) -> Vec<Finding> {
    let is_listed = |file: &File| list.contains(&file.path.as_str());
    let findings = tree.rust("").flat_map(|file| {
        let found = file.words(words, rule);
        match (is_listed(file), found.is_empty()) {
            (true, true) => vec![file.finding(1, rule, "is listed for nothing")],
            (true, false) => Vec::new(),
            (false, _) => found,
        }
    });
    findings.collect()
}

#[cfg(test)]
mod tests {
    use super::{system_cfgs_are_listed, unsafe_is_listed};
    use crate::tidy::Tree;

    #[test]
    fn unsafe_in_any_file_is_found_but_not_the_lint_of_that_name() {
        let text = "#![forbid(unsafe_code)]\nfn f() {\n    unsafe { g() }\n}\n";
        let found = unsafe_is_listed(&Tree::of(&[("proxy/src/app.rs", text)]));
        assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_system_in_any_file_is_found() {
        let text = "#[cfg(target_os = \"linux\")]\nmod linux;\n";
        assert_eq!(system_cfgs_are_listed(&Tree::of(&[("proxy/src/app.rs", text)])).len(), 1);
        assert_eq!(system_cfgs_are_listed(&Tree::of(&[("proxy/src/listen/tcp.rs", text)])), []);
    }

    #[test]
    fn a_listed_file_that_needs_no_place_in_the_list_is_found() {
        let tree = Tree::of(&[("proxy/src/listen/tcp.rs", "fn f() {}\n")]);
        let found = system_cfgs_are_listed(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, "is listed for nothing");
    }
}
