//! Findings as a table.

use std::fmt::Write;

use super::Report;

/// One line of the table.
#[derive(Debug)]
pub(super) struct Finding {
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
    pub(super) fn ok(subject: &str, words: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, subject: subject.into(), words: words.into() }
    }

    pub(super) fn note(subject: &str, words: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, subject: subject.into(), words: words.into() }
    }

    pub(super) fn no(subject: &str, words: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, subject: subject.into(), words: words.into() }
    }
}

/// The table, and what it comes to.
pub(super) fn report(findings: &[Finding]) -> Report {
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
