//! What this host has of that which the kernel path needs, as a table for the operator.

#[cfg(target_os = "linux")]
mod linux;

use std::fmt::Write;

use crate::config;

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// For standard output.
    pub text: String,
    /// Whether the kernel path can work here.
    pub works: bool,
}

/// Examines this host. Loads the programs, if it may, and attaches nothing.
pub fn examine(settings: &config::Kernel) -> Report {
    #[cfg(target_os = "linux")]
    let findings = linux::examine(settings);
    #[cfg(not(target_os = "linux"))]
    let findings = {
        let _unused = settings;
        vec![Finding::no("system", "the kernel path is Linux's alone")]
    };
    report(&findings)
}

/// One line of the table.
#[derive(Debug)]
struct Finding {
    verdict: Verdict,
    subject: String,
    words: String,
}

/// What a finding means for the kernel path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As it has to be.
    Good,
    /// It works, with less or otherwise.
    Note,
    /// It does not work like this.
    Bad,
}

impl Finding {
    #[cfg(target_os = "linux")]
    fn ok(subject: &str, words: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, subject: subject.into(), words: words.into() }
    }

    #[cfg(target_os = "linux")]
    fn note(subject: &str, words: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, subject: subject.into(), words: words.into() }
    }

    fn no(subject: &str, words: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, subject: subject.into(), words: words.into() }
    }
}

fn report(findings: &[Finding]) -> Report {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { verdict, subject, words } in findings {
        let mark = match verdict {
            Verdict::Good => "ok",
            Verdict::Note => "-",
            Verdict::Bad => "NO",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{mark:2}  {subject:width$}  {words}");
    }
    let works = findings.iter().all(|finding| finding.verdict != Verdict::Bad);
    text.push_str(if works {
        "\nMedia can be forwarded in the kernel.\n"
    } else {
        "\nMedia cannot be forwarded in the kernel; the relay in userspace carries it.\n"
    });
    Report { text, works }
}

#[cfg(test)]
mod tests {
    use super::{Finding, Verdict, report};

    fn finding(verdict: Verdict, subject: &str) -> Finding {
        Finding { verdict, subject: subject.into(), words: "so".into() }
    }

    #[test]
    fn one_thing_that_is_bad_is_enough() {
        let fine = [finding(Verdict::Good, "kernel"), finding(Verdict::Note, "JIT")];
        let text = "ok  kernel  so\n-   JIT     so\n\nMedia can be forwarded in the kernel.\n";
        let found = report(&fine);
        assert_eq!((found.text.as_str(), found.works), (text, true));
        let found = report(&[finding(Verdict::Good, "kernel"), Finding::no("object", "none")]);
        assert!(found.text.contains("NO  object  none\n") && !found.works, "{}", found.text);
    }
}
