//! Whether a path means the same to everybody who reads it.

use percent_encoding::percent_decode_str;

/// True if no server reads another path in this one: nothing leads upwards or is left out, and no
/// sign in it, escaped or not, ends a part or the path. What is still escaped when it has been
/// decoded once is refused as well, since some decode it twice.
pub fn is_plain_path(path: &str) -> bool {
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    matches!(path, "" | "/") || inner.split('/').all(is_plain)
}

fn is_plain(part: &str) -> bool {
    let ends = |c: char| matches!(c, '/' | '\\' | ';' | '?' | '#' | '%') || c.is_control();
    let name = percent_decode_str(part).decode_utf8();
    name.is_ok_and(|name| !matches!(&*name, "" | "." | "..") && !name.contains(ends))
}

#[cfg(test)]
mod tests {
    use super::is_plain_path;

    #[test]
    fn a_path_that_could_be_read_in_two_ways_is_not_plain() {
        for path in [
            "",
            "/",
            "/rtc/v1/whip",
            "/rtc/v1/whip/",
            "/rtc/v1/whip/live/s",
            "/live/caf%C3%A9/..s/s../...",
            "/live/a%20b:c=d&e,f+g@h",
        ] {
            assert!(is_plain_path(path), "{path}");
        }
        for path in [
            "//",
            "//live/s",
            "/live//s",
            "/live/s//",
            "/live/./s",
            "/live/../s",
            "/live/..",
            "/live/../",
            "/live/%2e/s",
            "/live/%2E%2e/s",
            "/live/.%2e/s",
            "/live/%252e%252e/s",
            "/live/%25252e./s",
            "/live/..%2fs",
            "/live/a%2Fs",
            "/live/a\\s",
            "/live/a%5cs",
            "/live/..;/s",
            "/live/s;x=y",
            "/live/%3b/s",
            "/live/..#",
            "/live/s%3fx",
            "/live/s%00",
            "/live/100%",
            "/live/100%25",
            "/live/%c0%ae%c0%ae/s",
        ] {
            assert!(!is_plain_path(path), "{path}");
        }
    }
}
