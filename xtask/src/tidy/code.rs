//! The code of a Rust file: without comments, contents of strings, and test modules.

/// Lines that have code, numbered from 1.
///
/// A test module is an item under `#[cfg(test)]`, laid out by rustfmt: it ends at the first
/// line with a closing brace in the attribute's own column.
pub(super) fn code_lines(text: &str) -> Vec<(usize, String)> {
    let bare = without_comments_and_strings(text);
    let mut kept = Vec::new();
    let mut lines = bare.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            let column = line.len() - line.trim_start().len();
            let closes = |line: &str| {
                let brace = line.get(..column).is_some_and(|start| start.trim().is_empty());
                brace && line.get(column..).is_some_and(|rest| rest.starts_with('}'))
            };
            // An item of one line, such as `mod tests;`, has no brace of its own.
            let one_line = |line: &str| line.trim_end().ends_with(';');
            let item = lines.by_ref().find(|(_, line)| !line.trim_start().starts_with("#["));
            if item.is_some_and(|(_, item)| !one_line(item)) {
                lines.by_ref().find(|(_, line)| closes(line));
            }
        } else if !line.trim().is_empty() {
            kept.push((index + 1, line.to_owned()));
        }
    }
    kept
}

/// The text with comments and contents of literals left out, line by line as it was.
fn without_comments_and_strings(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = comment(rest).or_else(|| literal(rest, out.chars().next_back()));
        if let Some((gone, after)) = skipped.and_then(|length| rest.split_at_checked(length)) {
            // What went leaves its line breaks, and a literal its quotes.
            out.push_str(if gone.starts_with('/') { "" } else { "\"\"" });
            out.extend(gone.chars().filter(|&c| c == '\n'));
            rest = after;
        } else {
            out.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        }
    }
    out
}

/// Length of the comment that begins here.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    text.starts_with("/*").then(|| text.find("*/").map_or(text.len(), |end| end + 2))
}

/// Length of the string or character literal that begins here, after the character `before`.
fn literal(text: &str, before: Option<char>) -> Option<usize> {
    let after_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if let Some(raw) = text.strip_prefix('r').filter(|_| !after_name || before == Some('b')) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw.get(hashes..).is_some_and(|quote| quote.starts_with('"')) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = 1 + hashes + 1;
            let end = text.get(open..)?.find(&close).map(|end| open + end + close.len());
            return Some(end.unwrap_or(text.len()));
        }
    }
    let quote = text.chars().next().filter(|&c| c == '"' || c == '\'')?;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            // `'a` without a closing quote is a lifetime.
            _ if quote == '\'' && !escaped && at > 1 + 4 && !text.starts_with("'\\") => {
                return None;
            }
            '\n' if quote == '\'' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => {
                let inner = text.get(1..at)?;
                let is_char = inner.starts_with('\\') || inner.chars().count() == 1;
                return (quote == '"' || is_char).then_some(at + 1);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::code_lines;

    fn lines(text: &str) -> Vec<(usize, String)> {
        code_lines(text)
    }

    #[test]
    fn comments_strings_and_tests_are_no_code() {
        let text = r##"//! unsafe
let a = "tokio:: \" unsafe"; // unsafe
/* unsafe
 unsafe */ let b = r#"unsafe " unsafe"#;
#[cfg(test)]
mod tests {
    fn unsafe_one() {
    }
}
let c = 'x'; fn f<'a>(x: &'a str, y: &'a str) {} let d = '"'; let e = '\'';
"##;
        let expected = [
            (2, "let a = \"\"; ".to_owned()),
            (4, " let b = \"\";".to_owned()),
            (
                10,
                "let c = \"\"; fn f<'a>(x: &'a str, y: &'a str) {} let d = \"\"; let e = \"\";"
                    .into(),
            ),
        ];
        assert_eq!(lines(text), expected);
    }

    #[test]
    fn code_after_a_test_item_counts() {
        let text = "#[cfg(test)]\nmod tests;\nlet a = 1;\nimpl X {\n    #[cfg(test)]\n    fn of() {\n        b\n    }\n    fn c() {}\n}\n";
        let kept: Vec<usize> = lines(text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(kept, [3, 4, 9, 10]);
    }
}
