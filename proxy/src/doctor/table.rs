//! Findings as a table.

use std::fmt::Write;

use super::Report;

/// One line of the table, and what is shown below it.
#[derive(Debug)]
pub(super) struct Finding {
    verdict: Verdict,
    subject: String,
    words: String,
    below: Vec<String>,
}

/// Lines of a log that are shown.
const LINES: usize = 20;

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
        Self::new(Verdict::Good, subject, words)
    }

    pub(super) fn note(subject: &str, words: impl Into<String>) -> Self {
        Self::new(Verdict::Note, subject, words)
    }

    pub(super) fn no(subject: &str, words: impl Into<String>) -> Self {
        Self::new(Verdict::Bad, subject, words)
    }

    fn new(verdict: Verdict, subject: &str, words: impl Into<String>) -> Self {
        Self { verdict, subject: subject.into(), words: words.into(), below: Vec::new() }
    }

    /// With the last lines of a log below it.
    pub(super) fn with_end_of(mut self, log: &str) -> Self {
        let lines: Vec<_> = log.lines().collect();
        let end = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
        self.below = end.iter().copied().map(str::to_owned).collect();
        self
    }
}

/// The table, and what it comes to.
pub(super) fn report(findings: &[Finding]) -> Report {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { verdict, subject, words, below } in findings {
        let mark = match verdict {
            Verdict::Good => "ok",
            Verdict::Note => "-",
            Verdict::Bad => "NO",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{mark:2}  {subject:width$}  {words}");
        for line in below {
            let _ = writeln!(text, "        {line}");
        }
    }
    let works = findings.iter().all(|finding| finding.verdict != Verdict::Bad);
    text.push_str(if works {
        "\nMedia of WebRTC and SRT can be forwarded in the kernel.\n"
    } else {
        "\nMedia of WebRTC and SRT cannot be forwarded in the kernel; the relay in userspace carries it.\n"
    });
    Report { text, works }
}

#[cfg(test)]
mod tests {
    use super::{Finding, Verdict, report};

    fn finding(verdict: Verdict, subject: &str) -> Finding {
        Finding::new(verdict, subject, "so")
    }

    #[test]
    fn one_thing_that_is_bad_is_enough() {
        let fine = [finding(Verdict::Good, "kernel"), finding(Verdict::Note, "JIT")];
        let text = "ok  kernel  so\n-   JIT     so\n\nMedia of WebRTC and SRT can be forwarded in the kernel.\n";
        let found = report(&fine);
        assert_eq!((found.text.as_str(), found.works), (text, true));
        let found = report(&[finding(Verdict::Good, "kernel"), Finding::no("object", "none")]);
        assert!(found.text.contains("NO  object  none\n") && !found.works, "{}", found.text);
    }

    #[test]
    fn the_end_of_a_log_stands_below_its_finding() {
        let log = (1..=22).map(|n| format!("{n}: r0 = 0")).collect::<Vec<_>>().join("\n");
        let text = report(&[Finding::no("programs", "refused").with_end_of(&log)]).text;
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["NO  programs  refused", "        3: r0 = 0"]);
        assert_eq!(lines[20..22], ["        22: r0 = 0", ""]);
    }
}
