//! `tidy`: rules of the architecture that no compiler checks.
//!
//! Each rule is one function from the tree of tracked files to findings.

mod code;
mod documented;
mod folders;
mod imports;
mod platform;
mod text;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use self::code::code_lines;
use crate::command::workspace;

/// Runs every rule and prints `file:line: rule: what` for each finding.
pub(crate) fn check() -> Result<()> {
    let tree = Tree::of_workspace()?;
    let findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("{} files, {} rules: tidy", tree.files.len(), RULES.len());
            Ok(())
        }
        n => bail!("{n} findings"),
    }
}

const RULES: &[fn(&Tree) -> Vec<Finding>] = &[
    folders::pure_folders_do_no_io,
    imports::proto_imports_nothing_of_ours,
    imports::plane_never_imports_api,
    platform::unsafe_is_listed,
    platform::system_cfgs_are_listed,
    documented::variables,
    documented::metrics,
    text::files_are_short,
    text::no_machine_paths,
    text::nothing_left_open,
];

/// Text files of the repository, by path from its root.
#[derive(Default)]
struct Tree {
    files: Vec<File>,
}

struct File {
    /// With forward slashes, from the root.
    path: String,
    text: String,
}

/// One break of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From 1.
    line: usize,
    rule: &'static str,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.what)
    }
}

impl Tree {
    /// What git knows or would add; files that are not text are left out.
    fn of_workspace() -> Result<Self> {
        let root = workspace()?;
        let mut git = std::process::Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let output = git.current_dir(&root).output().context("cannot start git")?;
        if !output.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let listed = String::from_utf8(output.stdout).context("a path is not text")?;
        let files = listed.split_terminator('\0').filter_map(|path| {
            let text = std::fs::read_to_string(root.join(path)).ok()?;
            Some(File { path: path.to_owned(), text })
        });
        Ok(Self { files: files.collect() })
    }

    fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Rust files at or below this path.
    fn rust(&self, under: &str) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| {
            let rest = file.path.strip_prefix(under);
            let is_under =
                |rest: &str| under.is_empty() || rest.is_empty() || rest.starts_with('/');
            file.has_extension("rs") && rest.is_some_and(is_under)
        })
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(path, text)| File { path: (*path).to_owned(), text: (*text).to_owned() });
        Self { files: files.collect() }
    }
}

impl File {
    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|it| it == extension)
    }

    /// Whether the whole file is a test module of the file beside or above it.
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        matches!(name, "tests.rs" | "fuzz.rs") || self.path.contains("/tests/")
    }

    fn finding(&self, line: usize, rule: &'static str, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, rule, what: what.into() }
    }

    /// Findings for each line of code, tests apart, that has one of these words.
    fn words(&self, words: &[&str], rule: &'static str) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (line, code) in code_lines(&self.text) {
            for word in words.iter().filter(|word| has_word(&code, word)) {
                findings.push(self.finding(line, rule, format!("`{word}`")));
            }
        }
        findings
    }
}

/// Whether `word` stands in `code` and does not go on as a longer name at either end.
fn has_word(code: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let open_start = word.starts_with(is_name);
    let open_end = word.ends_with(is_name);
    code.match_indices(word).any(|(at, _)| {
        let before = code.get(..at).and_then(|text| text.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|text| text.chars().next());
        !(open_start && before.is_some_and(is_name) || open_end && after.is_some_and(is_name))
    })
}
