//! What a request is for: the forms of a request target, and hosts.

use std::net::Ipv6Addr;

/// A request target in one of its four forms (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `/path?query`, as servers are asked.
    Origin(&'a str),
    /// `http://host/path?query`, as proxies are asked.
    Absolute {
        /// Host, and port if there is one.
        authority: &'a str,
        /// All behind the authority: empty, or it begins with `/` or `?`.
        path: &'a str,
    },
    /// `host:port`, of CONNECT.
    Authority(&'a str),
    /// `*`, of OPTIONS.
    Asterisk,
}

impl<'a> Target<'a> {
    /// None if it is none of the forms that the method may have.
    pub fn parse(method: &str, target: &'a str) -> Option<Self> {
        // A fragment is never sent; some servers cut it off, others take it for the path.
        if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return None;
        }
        if method == "CONNECT" {
            let named = target.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty());
            return (named && is_host(target)).then_some(Self::Authority(target));
        }
        if target == "*" {
            return (method == "OPTIONS").then_some(Self::Asterisk);
        }
        if target.starts_with('/') {
            return Some(Self::Origin(target));
        }
        let (scheme, behind) = target.split_once("://")?;
        let at = behind.find(['/', '?']).unwrap_or(behind.len());
        let (authority, path) = behind.split_at_checked(at)?;
        let http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        (http && is_host(authority)).then_some(Self::Absolute { authority, path })
    }
}

/// True for a host with or without a port. The grammar has more (RFC 3986 section 3.2.2): empty
/// names, escapes, commas, parentheses. No host that one could fetch from has those, and receivers
/// differ about them. A user before the host is refused with them (RFC 9110 section 4.2.4).
pub(super) fn is_host(text: &str) -> bool {
    let (good, port) = if let Some(literal) = text.strip_prefix('[') {
        let (address, port) = literal.split_once(']').unwrap_or_default();
        (address.parse::<Ipv6Addr>().is_ok(), port)
    } else {
        let at = text.find(':').unwrap_or(text.len());
        let (name, port) = text.split_at_checked(at).unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        (!name.is_empty() && name.bytes().all(plain), port)
    };
    good && is_port(port)
}

/// Nothing, or a colon with or without a number (RFC 3986 section 3.2.3).
fn is_port(text: &str) -> bool {
    let Some(port) = text.strip_prefix(':') else { return text.is_empty() };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    digits && (port.is_empty() || port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_told_apart() {
        let absolute = |authority, path| Some(Target::Absolute { authority, path });
        let cases = [
            ("GET", "/", Some(Target::Origin("/"))),
            ("GET", "/live/s.flv?a=b%20c", Some(Target::Origin("/live/s.flv?a=b%20c"))),
            ("GET", "//twice", Some(Target::Origin("//twice"))),
            ("GET", "http://a/b?c", absolute("a", "/b?c")),
            ("GET", "HTTPS://a:443", absolute("a:443", "")),
            ("GET", "http://[::1]:80?c", absolute("[::1]:80", "?c")),
            ("OPTIONS", "http://a", absolute("a", "")),
            ("OPTIONS", "*", Some(Target::Asterisk)),
            ("CONNECT", "a:443", Some(Target::Authority("a:443"))),
            ("GET", "*", None),
            ("OPTIONS", "**", None),
            ("GET", "", None),
            ("GET", "live/s.flv", None),
            ("GET", "a:443", None),
            ("GET", "/a#b", None),
            ("GET", "/a b", None),
            ("GET", "/a\tb", None),
            ("GET", "/\u{fc}", None),
            ("GET", "ftp://a/b", None),
            ("GET", "http:///b", None),
            ("GET", "http://user@a/b", None),
            ("GET", "http://a:1:2/b", None),
            ("CONNECT", "/", None),
            ("CONNECT", "a", None),
            ("CONNECT", "a:", None),
            ("CONNECT", "http://a:80", None),
        ];
        for (method, target, form) in cases {
            assert_eq!(Target::parse(method, target), form, "{method} {target}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_or_without_a_port() {
        for good in ["a", "A-b_c.d~", "10.0.0.1:8080", "a:", "[::1]", "[2001:db8::1]:65535"] {
            assert!(is_host(good), "{good}");
        }
        let bad = [
            "", ":80", "a b", "a,b", "a:b", "a:-1", "a:+1", "a:65536", "a/b", "a@b", "a\\b", "::1",
            "[::1", "[::1]80", "[a]", "[]", "%41", "\u{fc}",
        ];
        for bad in bad {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
