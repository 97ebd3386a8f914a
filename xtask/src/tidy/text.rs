//! What any text in the repository keeps to.

use super::code::code_lines;
use super::{Finding, Tree};

/// Lines of code, without comments and tests, up to which a file is one idea.
const LONGEST: usize = 600;

pub(super) fn files_are_short(tree: &Tree) -> Vec<Finding> {
    let long = tree.rust("").filter_map(|file| {
        let lines = code_lines(&file.text).len();
        let what = format!("{lines} lines of code, more than {LONGEST}");
        (lines > LONGEST).then(|| file.finding(1, "long file", what))
    });
    long.collect()
}

/// Folders of the machine that somebody works on mean nothing on another one.
pub(super) fn no_machine_paths(tree: &Tree) -> Vec<Finding> {
    // In parts, so that this list does not find itself.
    let paths = ["work", "root", "farm"].map(|folder| format!("/{folder}/"));
    let is_absolute = |line: &str, at: usize| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '}'))
    };
    in_lines(tree, "machine path", |line| {
        let mut found = paths
            .iter()
            .filter(|path| line.match_indices(path.as_str()).any(|(at, _)| is_absolute(line, at)));
        found.next().cloned()
    })
}

pub(super) fn nothing_left_open(tree: &Tree) -> Vec<Finding> {
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|parts| parts.concat());
    in_lines(tree, "left open", |line| {
        marks.iter().find(|mark| super::has_word(line, mark)).cloned()
    })
}

/// Findings for lines in which `find` sees something; the lock file is Cargo's own.
fn in_lines(
    tree: &Tree,
    rule: &'static str,
    find: impl Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| !file.has_extension("lock")) {
        for (index, line) in file.text.lines().enumerate() {
            if let Some(what) = find(line) {
                findings.push(file.finding(index + 1, rule, format!("`{what}`")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, files_are_short, no_machine_paths, nothing_left_open};
    use crate::tidy::Tree;

    #[test]
    fn a_file_is_long_by_its_code_alone() {
        let code = "f();\n".repeat(LONGEST);
        let commented = format!("{code}{}", "// why\n\n".repeat(LONGEST));
        let long = format!("{code}g();\n");
        let tree = Tree::of(&[("a.rs", &commented), ("b.rs", &long)]);
        let found = files_are_short(&tree);
        assert_eq!(found.iter().map(|finding| finding.path.as_str()).collect::<Vec<_>>(), ["b.rs"]);
    }

    #[test]
    fn a_path_of_one_machine_is_found_and_a_relative_one_is_not() {
        let work = ["/wo", "rk/main"].concat();
        let text = format!("see {work}\nsee net{work}\nsee ../work/x\n");
        let found = no_machine_paths(&Tree::of(&[("README.md", &text)]));
        assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn an_open_end_is_found() {
        let text = ["// TO", "DO: later\nlet todo = 1;\n"].concat();
        let found = nothing_left_open(&Tree::of(&[("a.rs", &text)]));
        assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [1]);
    }
}
