//! The header fields of a message, in the order and spelling of the wire.

use std::fmt;
use std::ops::Range;

/// Names and values. Names are compared without case (RFC 9110 section 5.1).
#[derive(Clone, Default)]
pub struct Headers {
    fields: Vec<Field>,
    /// The names and values of all fields, and of those that were removed.
    text: Vec<u8>,
}

/// Where a header stands in the text.
#[derive(Clone)]
struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

impl Headers {
    /// None yet, and room for so many, with so many bytes of names and values.
    pub(super) fn with_capacity(fields: usize, bytes: usize) -> Self {
        Self { fields: Vec::with_capacity(fields), text: Vec::with_capacity(bytes) }
    }

    /// The value of the first header of this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The same, if it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| str::from_utf8(value).ok())
    }

    /// The values of all headers of this name.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let is = |other: &[u8]| other.eq_ignore_ascii_case(name.as_bytes());
        self.lines().filter(move |(other, _)| is(other)).map(|(_, value)| value)
    }

    /// True if there is a header of this name, also an empty one.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Adds a header at the end. It is written as it is: line ends have no place in it.
    pub fn push(&mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) {
        let name = self.append(name.as_ref().as_bytes());
        let value = self.append(value.as_ref());
        self.fields.push(Field { name, value });
    }

    /// Puts one header in the place of all of its name.
    pub fn set(&mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) {
        self.remove(name.as_ref());
        self.push(name, value);
    }

    /// Removes all headers of this name.
    pub fn remove(&mut self, name: &str) {
        self.retain(|other| !other.eq_ignore_ascii_case(name));
    }

    /// The elements of the comma-separated values of all headers of this name, without the white
    /// space around them and without empty ones (RFC 9110 section 5.6.1). A comma in quotes
    /// separates nothing. Elements that are not UTF-8 are left out.
    pub fn list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let elements = self.all(name).flat_map(|value| Elements { rest: Some(value) });
        elements.filter_map(|element| str::from_utf8(element).ok()).filter(|text| !text.is_empty())
    }

    /// True if this token, in any case, is an element of the list of this name.
    pub fn names_token(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token))
    }

    /// Removes what is meant for the next hop alone (RFC 9110 section 7.6.1): what Connection
    /// names, and the fields that do not need to be named. Transfer-Encoding is one of them: ask
    /// for the body's length before, and set it again if the chunks go on as they come.
    ///
    /// `Proxy-Authenticate` and `Proxy-Authorization` are no such fields: who did not ask for
    /// them passes them on (RFC 9110 section 11.7).
    pub fn remove_hop_by_hop(&mut self) {
        let named: Vec<String> = self
            .list("Connection")
            .filter(|name| !is_end_to_end(name))
            .map(str::to_owned)
            .collect();
        self.retain(|name| {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            !HOP_BY_HOP.iter().any(|other| is(other)) && !named.iter().any(|other| is(other))
        });
    }

    /// Names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines().map(|(name, value)| (str::from_utf8(name).unwrap_or_default(), value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Appends each as a line, and the empty line behind them.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let lines = self.lines().map(|(name, value)| name.len() + value.len() + ": \r\n".len());
        out.reserve(lines.sum::<usize>() + "\r\n".len());
        for (name, value) in self.lines() {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let text = |at: &Range<usize>| self.text.get(at.clone()).unwrap_or_default();
        self.fields.iter().map(move |field| (text(&field.name), text(&field.value)))
    }

    fn append(&mut self, text: &[u8]) -> Range<usize> {
        let start = self.text.len();
        self.text.extend_from_slice(text);
        start..self.text.len()
    }

    /// Removes all headers but those whose names are to be kept.
    pub fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        let Self { fields, text } = self;
        let name = |field: &Field| str::from_utf8(text.get(field.name.clone())?).ok();
        fields.retain(|field| name(field).is_some_and(&is_kept));
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.lines().eq(other.lines())
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.iter().map(|(name, value)| (name, String::from_utf8_lossy(value)));
        f.debug_map().entries(lines).finish()
    }
}

/// Fields that are always for the next hop. Trailer is one by RFC 2616 section 13.5.1: without TE
/// nobody behind the proxy was told that trailers are welcome.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A Connection header must not name what is meant for all recipients (RFC 9110 section 7.6.1).
/// Obeyed, it would let a client take away what the receiver decides by: whose body ends where,
/// who is asking and by which way, and what may be cached.
fn is_end_to_end(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "accept",
        "accept-encoding",
        "authorization",
        "cache-control",
        "cookie",
        "date",
        "etag",
        "expect",
        "expires",
        "forwarded",
        "host",
        "last-modified",
        "location",
        "origin",
        "pragma",
        "range",
        "referer",
        "server",
        "set-cookie",
        "user-agent",
        "vary",
        "via",
        "x-real-ip",
    ];
    const PREFIXES: &[&str] = &["access-control-", "content-", "if-", "x-forwarded-"];
    let name = name.to_ascii_lowercase();
    NAMES.contains(&name.as_str()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Splits at commas outside of quoted strings (RFC 9110 section 5.6.4), and trims.
struct Elements<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (mut quoted, mut escaped) = (false, false);
        let comma = rest.iter().position(|&byte| {
            let literal = escaped;
            escaped = quoted && !escaped && byte == b'\\';
            quoted ^= byte == b'"' && !literal;
            byte == b',' && !quoted
        });
        let (element, behind) = match comma.and_then(|at| rest.split_at_checked(at)) {
            Some((element, behind)) => (element, behind.get(1..)),
            None => (rest, None),
        };
        self.rest = behind;
        Some(element.trim_ascii())
    }
}

/// What names are made of (RFC 9110 section 5.6.2).
pub(super) fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        for &(name, value) in lines {
            headers.push(name, value);
        }
        headers
    }

    #[test]
    fn names_are_found_in_any_case_and_kept_as_written() {
        let mut headers = headers(&[("X-A", "1"), ("x-b", "2"), ("x-a", "3")]);
        assert_eq!(headers.get("X-a"), Some(b"1".as_slice()));
        assert_eq!(headers.all("x-A").collect::<Vec<_>>(), [b"1", b"3"]);
        assert!(headers.has("X-B") && !headers.has("X-C"));
        headers.set("X-A", "4");
        let mut written = Vec::new();
        headers.write(&mut written);
        assert_eq!(written, b"x-b: 2\r\nX-A: 4\r\n\r\n");
    }

    #[test]
    fn text_is_utf_8_or_nothing() {
        let mut headers = headers(&[("A", "gr\u{fc}n")]);
        headers.push("B", b"gr\xfcn".as_slice());
        assert_eq!(headers.text("a"), Some("gr\u{fc}n"));
        assert_eq!(headers.text("b"), None);
    }

    #[test]
    fn lists_are_read_over_all_headers_of_the_name() {
        let cases: [(&[&str], &[&str]); 7] = [
            (&["a"], &["a"]),
            (&["a, b", "c"], &["a", "b", "c"]),
            (&[" ,a\t,, b ,", "", ","], &["a", "b"]),
            (&[r#"for="1,2";by=x, for=3"#], &[r#"for="1,2";by=x"#, "for=3"]),
            (&[r#""a\",b", c"#], &[r#""a\",b""#, "c"]),
            (&[r"a\, b"], &[r"a\", "b"]),
            (&[r#""open, b"#, "c"], &[r#""open, b"#, "c"]),
        ];
        for (values, elements) in cases {
            let lines: Vec<_> = values.iter().map(|&value| ("List", value)).collect();
            let headers = headers(&lines);
            assert_eq!(headers.list("list").collect::<Vec<_>>(), elements, "{values:?}");
        }
        let mut headers = headers(&[]);
        headers.push("List", b"a, \xff, b".as_slice());
        assert_eq!(headers.list("List").collect::<Vec<_>>(), ["a", "b"]);
        assert!(headers.names_token("list", "B") && !headers.names_token("list", "a, "));
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let mut headers = headers(&[
            ("Host", "a"),
            ("Connection", "keep-alive, X-Secret"),
            ("connection", "Close"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers"),
            ("Trailer", "X-Sum"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "websocket"),
            ("x-secret", "1"),
            ("Proxy-Authorization", "Basic eA=="),
            ("Accept", "*/*"),
        ]);
        headers.remove_hop_by_hop();
        let left: Vec<_> = headers.iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["Host", "Proxy-Authorization", "Accept"]);
    }

    #[test]
    fn connection_names_no_end_to_end_header_away() {
        let kept = [
            "Host",
            "Content-Length",
            "Content-Type",
            "Authorization",
            "Cookie",
            "X-Forwarded-For",
            "X-Real-IP",
            "Forwarded",
            "Via",
            "If-None-Match",
            "Range",
            "Access-Control-Allow-Origin",
        ];
        let mut headers = Headers::default();
        for name in kept {
            headers.push(name, "1");
            headers.push("Connection", name.to_ascii_lowercase());
        }
        headers.remove_hop_by_hop();
        assert_eq!(headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), kept);
    }
}
