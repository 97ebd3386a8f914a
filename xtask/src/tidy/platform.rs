//! Unsafe code and code for one operating system stand in few, named files.

use super::{Finding, Tree};

/// Files with unsafe code, each with the reason in the file itself.
const UNSAFE: &[&str] = &[
    "proxy-ebpf/src/programs/mod.rs",
    "proxy-ebpf/src/programs/packet.rs",
    "proxy-ebpf/src/programs/tc_udp.rs",
];

/// Files that ask which system they are built for.
const SYSTEMS: &[&str] = &[
    "proxy/src/drain.rs",
    "proxy/src/listen/mod.rs",
    "proxy/src/listen/tcp.rs",
    "proxy/src/plane/mod.rs",
    "tests/tests/ebpf.rs",
    "xtask/src/command.rs",
];

pub(super) fn unsafe_is_listed(tree: &Tree) -> Vec<Finding> {
    let files = tree.rust("").filter(|file| !UNSAFE.contains(&file.path.as_str()));
    files.flat_map(|file| file.words(&["unsafe"], "unlisted unsafe")).collect()
}

pub(super) fn system_cfgs_are_listed(tree: &Tree) -> Vec<Finding> {
    let words =
        ["target_os", "target_family", "cfg(unix)", "cfg(windows)", "not(unix)", "not(windows)"];
    let files = tree.rust("").filter(|file| !SYSTEMS.contains(&file.path.as_str()));
    files.flat_map(|file| file.words(&words, "unlisted system")).collect()
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
        assert_eq!(system_cfgs_are_listed(&Tree::of(&[("proxy/src/plane/mod.rs", text)])), []);
    }
}
