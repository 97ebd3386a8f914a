//! Heads: the first line and the headers of a request or a response, read strictly, so that nobody
//! before or behind the proxy can read another message out of the same bytes (RFC 9112 section 11).

use std::borrow::Cow;

use httparse::{EMPTY_HEADER, Status};
use thiserror::Error;

use super::body::{BodyLength, MAX_LENGTH};
use super::headers::Headers;
use super::target::{Target, is_host};

/// The longest head in bytes, with the empty line.
pub const MAX_HEAD: usize = 32 * 1024;

/// The most headers of a head.
pub const MAX_HEADERS: usize = 100;

/// Bytes; methods in use have at most 17.
const MAX_METHOD: usize = 32;

/// Bytes; RFC 9112 section 3 wants at least 8000.
const MAX_TARGET: usize = 8 * 1024;

/// Empty lines before a request, which some clients send behind a body (RFC 9112 section 2.2).
const MAX_EMPTY_LINES: usize = 4;

/// The versions that the proxy reads. It writes 1.1 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// As written: methods have a case.
    pub method: String,
    /// As written: [`Target`] tells its form.
    pub target: String,
    /// What the client speaks.
    pub version: Version,
    /// Everything else.
    pub headers: Headers,
}

impl RequestHead {
    /// Reads the head at the beginning of `bytes`, and says how many they are. None: more bytes
    /// are needed. What is wrong with the lines is said as soon as it is there.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, BadHead> {
        let Some((empty, rest)) = skip_empty_lines(bytes)? else { return Ok(None) };
        let end = find_end(rest, MAX_HEAD - empty)?;
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(until(rest, end))?;
        let Some(end) = agree(end, status)? else { return Ok(None) };
        let head = Self {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            version: version(request.version)?,
            headers: collect(request.headers),
        };
        head.check()?;
        Ok(Some((head, empty + end)))
    }

    /// Appends the head, target and headers as they are. The version is always the proxy's own,
    /// HTTP/1.1 (RFC 9112 section 2.3), which wants a Host: an older client may have sent none.
    pub fn write(&self, out: &mut Vec<u8>) {
        for part in [&self.method, " ", &self.target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        self.headers.write(out);
    }

    /// The host, and port if there is one, that is asked: the target's, and Host only if that has
    /// none (RFC 9112 section 3.2.2).
    pub fn authority(&self) -> Option<&str> {
        match Target::parse(&self.method, &self.target) {
            Some(Target::Absolute { authority, .. } | Target::Authority(authority)) => {
                Some(authority)
            }
            _ => self.headers.text("Host"),
        }
    }

    /// The target as an origin is asked for it, whatever its form was (RFC 9112 sections 3.2.1 and
    /// 3.2.4): `/path?query`, or `*`.
    pub fn origin_form(&self) -> Cow<'_, str> {
        match Target::parse(&self.method, &self.target) {
            Some(Target::Absolute { path: "", .. }) if self.method == "OPTIONS" => "*".into(),
            Some(Target::Absolute { path, .. }) if path.starts_with('/') => path.into(),
            Some(Target::Absolute { path, .. }) => format!("/{path}").into(),
            _ => self.target.as_str().into(),
        }
    }

    /// True if the client would like to send another request on its connection (RFC 9112 section
    /// 9.3). That a proxy must not keep connections of HTTP/1.0 is not about one that stands for
    /// the server: its clients speak to nobody else.
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(self.version, &self.headers)
    }

    /// How long the body is (RFC 9112 section 6.3). Nothing said is nothing sent.
    pub fn body_length(&self) -> BodyLength {
        body_length(self.version, &self.headers).ok().flatten().unwrap_or(BodyLength::Known(0))
    }

    fn check(&self) -> Result<(), BadHead> {
        if self.method.len() > MAX_METHOD {
            return Err(BadHead::Method);
        }
        if self.target.len() > MAX_TARGET {
            return Err(BadHead::TargetTooLong);
        }
        Target::parse(&self.method, &self.target).ok_or(BadHead::Target)?;
        // RFC 9112 section 3.2, and no more than one in HTTP/1.0 either.
        match (self.version, self.headers.all("Host").count()) {
            (Version::Http10, 0) => {}
            (_, 1) if self.headers.text("Host").is_some_and(is_host) => {}
            _ => return Err(BadHead::Host),
        }
        body_length(self.version, &self.headers).map(|_| ())
    }
}

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// What the origin speaks.
    pub version: Version,
    /// 100 to 999; classes above 5 are nobody's, and passed on.
    pub status: u16,
    /// As written, in whatever encoding; often empty.
    pub reason: Vec<u8>,
    /// Everything else.
    pub headers: Headers,
}

impl ResponseHead {
    /// Reads the head at the beginning of `bytes`, and says how many they are. None: more bytes
    /// are needed. What is wrong with the lines is said as soon as it is there.
    ///
    /// The reason may be absent with its space, and a space before a colon is taken away (RFC 9112
    /// section 5.1). Lines and the body's length are as strict as a request's.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, BadHead> {
        let end = find_end(bytes, MAX_HEAD)?;
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let status = httparse::ParserConfig::default()
            .allow_spaces_after_header_name_in_responses(true)
            .parse_response(&mut response, until(bytes, end))?;
        let Some(end) = agree(end, status)? else { return Ok(None) };
        let head = Self {
            version: version(response.version)?,
            status: response.code.unwrap_or_default(),
            reason: reason(bytes).to_vec(),
            headers: collect(response.headers),
        };
        if head.status < 100 {
            return Err(BadHead::FirstLine);
        }
        body_length(head.version, &head.headers)?;
        Ok(Some((head, end)))
    }

    /// Appends the head, reason and headers as they are. The version is always the proxy's own,
    /// HTTP/1.1 (RFC 9112 section 2.3), to clients of HTTP/1.0 as well.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("HTTP/1.1 {} ", self.status).as_bytes());
        out.extend_from_slice(&self.reason);
        out.extend_from_slice(b"\r\n");
        self.headers.write(out);
    }

    /// True if the origin takes another request on its connection (RFC 9112 section 9.3), if the
    /// body does not end with the connection.
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(self.version, &self.headers)
    }

    /// How long the body is that answers a request of this method, other than CONNECT (RFC 9112
    /// section 6.3). A length that is said of a body that is not sent does not count.
    pub fn body_length(&self, method: &str) -> BodyLength {
        if method == "HEAD" || matches!(self.status, 100..=199 | 204 | 304) {
            return BodyLength::Known(0);
        }
        body_length(self.version, &self.headers).ok().flatten().unwrap_or(BodyLength::UntilClose)
    }
}

/// These bytes are no head that means one thing alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadHead {
    /// No empty line within [`MAX_HEAD`].
    #[error("the head is longer than {MAX_HEAD} bytes")]
    TooLong,
    /// More than [`MAX_HEADERS`].
    #[error("there are more than {MAX_HEADERS} headers")]
    TooManyHeaders,
    /// A line feed or a carriage return alone.
    #[error("a line does not end with CR LF")]
    LineEnd,
    /// A byte below 32 that is no tab, or 127.
    #[error("there is a control character")]
    Control,
    /// A line that goes on in the next (obs-fold), or a space before the first.
    #[error("a line begins with a space")]
    Folded,
    /// No request line or status line.
    #[error("the first line is malformed")]
    FirstLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    /// More than 32 bytes.
    #[error("the method is longer than {MAX_METHOD} bytes")]
    Method,
    /// None of the forms that the method may have.
    #[error("the target is malformed")]
    Target,
    /// More than 8 KiB.
    #[error("the target is longer than {MAX_TARGET} bytes")]
    TargetTooLong,
    /// Empty, or not a token: a space before the colon, or no colon.
    #[error("the name of a header is malformed")]
    HeaderName,
    /// None, several, or not a host.
    #[error("there must be one valid Host")]
    Host,
    /// Several, or not a number.
    #[error("Content-Length must be one number")]
    ContentLength,
    /// Anything but chunked, or in HTTP/1.0.
    #[error(
        "Transfer-Encoding must be chunked and nothing else, and not of a client of version 1.0"
    )]
    TransferEncoding,
    /// Both of the above.
    #[error("Content-Length and Transfer-Encoding exclude each other")]
    TwoLengths,
}

impl From<httparse::Error> for BadHead {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => Self::HeaderName,
            httparse::Error::HeaderValue => Self::Control,
            httparse::Error::NewLine => Self::LineEnd,
            httparse::Error::TooManyHeaders => Self::TooManyHeaders,
            httparse::Error::Version => Self::Version,
            httparse::Error::Status | httparse::Error::Token => Self::FirstLine,
        }
    }
}

/// How many bytes of empty lines stand before a request, and what stands behind them. None if that
/// is not there.
fn skip_empty_lines(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, BadHead> {
    let mut rest = bytes;
    for _ in 0..=MAX_EMPTY_LINES {
        match rest.strip_prefix(b"\r\n") {
            Some(behind) => rest = behind,
            None if rest.is_empty() => return Ok(None),
            None => return Ok(Some((bytes.len() - rest.len(), rest))),
        }
    }
    Err(BadHead::FirstLine)
}

/// Where the empty line ends, if it is there. `httparse` takes a line feed for the end of a line
/// (RFC 9112 section 2.2 allows it); a receiver that does not would see other lines.
fn find_end(bytes: &[u8], limit: usize) -> Result<Option<usize>, BadHead> {
    let head = bytes.get(..limit).unwrap_or(bytes);
    let mut lines = head;
    loop {
        if matches!(lines.first(), Some(b' ' | b'\t')) {
            return Err(BadHead::Folded);
        }
        let control = lines.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t');
        let Some((line, behind)) = control.and_then(|at| lines.split_at_checked(at)) else { break };
        match behind {
            [b'\r', b'\n', body @ ..] if line.is_empty() => {
                return Ok(Some(head.len() - body.len()));
            }
            [b'\r', b'\n', next @ ..] => lines = next,
            // A line feed may come.
            [b'\r'] => break,
            [b'\r' | b'\n', ..] => return Err(BadHead::LineEnd),
            _ => return Err(BadHead::Control),
        }
    }
    if bytes.len() < limit { Ok(None) } else { Err(BadHead::TooLong) }
}

fn until(bytes: &[u8], end: Option<usize>) -> &[u8] {
    end.and_then(|end| bytes.get(..end)).unwrap_or(bytes)
}

/// The end of the head if it is there, and both readers put it in the same place.
fn agree(end: Option<usize>, status: Status<usize>) -> Result<Option<usize>, BadHead> {
    match (end, status) {
        (Some(end), Status::Complete(other)) if end == other => Ok(Some(end)),
        (None, Status::Partial) => Ok(None),
        _ => Err(BadHead::FirstLine),
    }
}

fn version(minor: Option<u8>) -> Result<Version, BadHead> {
    match minor {
        Some(0) => Ok(Version::Http10),
        Some(1) => Ok(Version::Http11),
        _ => Err(BadHead::Version),
    }
}

fn collect(parsed: &[httparse::Header<'_>]) -> Headers {
    let bytes = parsed.iter().map(|header| header.name.len() + header.value.len()).sum();
    let mut headers = Headers::with_capacity(parsed.len(), bytes);
    for header in parsed {
        headers.push(header.name, header.value);
    }
    headers
}

/// What stands behind `HTTP/1.1 200 `.
fn reason(status_line: &[u8]) -> &[u8] {
    let behind = status_line.get("HTTP/1.1 200".len()..).unwrap_or_default();
    let line = behind.split(|&byte| byte == b'\r').next().unwrap_or_default();
    line.strip_prefix(b" ").unwrap_or(line)
}

/// RFC 9112 section 9.3.
fn keeps_alive(version: Version, headers: &Headers) -> bool {
    if headers.names_token("Connection", "close") {
        return false;
    }
    version == Version::Http11 || headers.names_token("Connection", "keep-alive")
}

/// The length that is said, if one is. What could be repaired is refused as well: the same number
/// twice (RFC 9112 section 6.3), other codings before chunked, empty elements of the list. No
/// program in use sends it by itself, and repairs differ.
fn body_length(version: Version, headers: &Headers) -> Result<Option<BodyLength>, BadHead> {
    let mut codings = headers.all("Transfer-Encoding");
    let mut lengths = headers.all("Content-Length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(BadHead::TwoLengths),
        (Some(coding), None) => {
            let chunked = coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            // RFC 9112 section 6.1: HTTP/1.0 has no chunks.
            let known = chunked && version == Version::Http11;
            known.then_some(Some(BodyLength::Chunked)).ok_or(BadHead::TransferEncoding)
        }
        (None, Some(length)) => {
            let length = decimal(length).filter(|_| lengths.next().is_none());
            length.map(|length| Some(BodyLength::Known(length))).ok_or(BadHead::ContentLength)
        }
    }
}

/// Digits alone: Rust's own reading would take a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()?;
    (number <= MAX_LENGTH).then_some(number)
}

#[cfg(test)]
mod tests;
