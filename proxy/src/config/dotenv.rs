//! The `.env` file.
//!
//! The existing proxy has had three readers of it. This one reads what any of them wrote:
//! `export`, single quotes (literal), double quotes (escapes), comments after a blank and `#`.
//! Nothing is expanded: a `$` in a password stays one.

/// The names and values of the file, in order; or the number of the line that cannot be read,
/// from 1, and what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, &'static str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut pairs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        pairs.push(pair(line).map_err(|problem| (index + 1, problem))?);
    }
    Ok(pairs)
}

fn pair(line: &str) -> Result<(String, String), &'static str> {
    let (name, value) = line.split_once('=').ok_or("expected NAME=value")?;
    let name = name.trim();
    let name = match name.split_once(char::is_whitespace) {
        Some(("export", name)) => name.trim_start(),
        _ => name,
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err("expected NAME=value");
    }
    Ok((name.to_owned(), unquote(value.trim())?))
}

fn unquote(value: &str) -> Result<String, &'static str> {
    let (value, rest) = if let Some(quoted) = value.strip_prefix('\'') {
        let (value, rest) = quoted.split_once('\'').ok_or(OPEN_QUOTE)?;
        (value.to_owned(), rest)
    } else if let Some(quoted) = value.strip_prefix('"') {
        unescape(quoted)?
    } else {
        return Ok(without_comment(value).to_owned());
    };
    if without_comment(rest).is_empty() { Ok(value) } else { Err("text follows the closing quote") }
}

/// The value up to its closing double quote, and what follows.
fn unescape(quoted: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut rest = quoted.chars();
    loop {
        match rest.next().ok_or(OPEN_QUOTE)? {
            '"' => return Ok((value, rest.as_str())),
            '\\' => match rest.next().ok_or(OPEN_QUOTE)? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                escaped @ ('"' | '\\' | '$') => value.push(escaped),
                // No escape: a Windows path keeps its backslashes.
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
}

/// The text before a `#` that begins it or follows a blank.
fn without_comment(text: &str) -> &str {
    let is_comment = |&(at, _): &(usize, &str)| {
        text.get(..at).is_some_and(|before| before.is_empty() || before.ends_with([' ', '\t']))
    };
    let end = text.match_indices('#').find(is_comment).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or(text).trim_end()
}

const OPEN_QUOTE: &str = "the quote is not closed on its line";

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn every_way_of_writing_a_value_is_read() {
        for (line, value) in [
            ("N=1935", "1935"),
            ("  N = 1935  ", "1935"),
            ("\u{feff}N=1935", "1935"),
            ("N=1935\r", "1935"),
            ("export N=1935", "1935"),
            ("export\tN=1935", "1935"),
            ("N=1935 # the usual port", "1935"),
            ("N= # nothing", ""),
            ("N=#nothing", ""),
            ("N=", ""),
            ("N=a#b", "a#b"),
            ("N=a=b", "a=b"),
            ("N=two words", "two words"),
            ("N=pa$word", "pa$word"),
            ("N=c:\\dir", "c:\\dir"),
            ("N='it is # $literal\\n'", "it is # $literal\\n"),
            ("N='1935' # the usual port", "1935"),
            (r#"N="a \"b\" # \\ \$c\td""#, "a \"b\" # \\ $c\td"),
            (r#"N="c:\dir""#, "c:\\dir"),
            (r#"N="" "#, ""),
        ] {
            assert_eq!(parse(line), Ok(vec![("N".into(), value.into())]), "{line}");
        }
        assert_eq!(parse("\n# PROXY_RTMP_SERVER=1\n   # x\n"), Ok(vec![]));
    }

    #[test]
    fn a_malformed_line_is_known_by_its_number() {
        for line in ["N", "=1", "N 1=2", "N='1", "N=\"1", "N=\"1\\", "N='1'2"] {
            let text = format!("A=1\n\n{line}\nB=2\n");
            assert_eq!(parse(&text).unwrap_err().0, 3, "{line} is malformed");
        }
    }

    #[test]
    fn no_text_is_too_strange_to_be_answered() {
        let line = "export N=\"a\\\"é\\n\" # 'ü' \\";
        for (end, _) in line.char_indices() {
            let _ = parse(&line[..end]);
            let _ = parse(&line[end..]);
        }
    }
}
