//! HTTP/1.1 messages read from a socket (RFC 9112).

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};

/// The head of a message, as it came.
#[derive(Clone, Debug)]
pub struct Head {
    /// The request line or status line.
    pub line: String,
    /// Names and values, in order.
    pub fields: Vec<(String, String)>,
    /// All of it, with the empty line.
    pub wire: Vec<u8>,
}

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its head.
    pub head: Head,
    /// Its body, without chunks.
    pub body: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// Which request of that connection it is, counted from 0.
    pub place: usize,
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its head.
    pub head: Head,
    /// Its body, without chunks.
    pub body: Vec<u8>,
}

impl Head {
    /// Reads a head that ends with its empty line; only CR LF ends a line.
    pub fn parse(wire: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(wire).into_owned();
        let text = text.strip_suffix("\r\n\r\n").context("no empty line")?;
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(|line| {
            ensure!(!line.contains(['\r', '\n', '\0']), "a control character in {line:?}");
            let (name, value) = line.split_once(':').with_context(|| format!("{line:?}"))?;
            ensure!(!name.is_empty() && !name.contains([' ', '\t']), "a field's name: {line:?}");
            Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
        });
        Ok(Self { line, fields: fields.collect::<Result<_>>()?, wire: wire.to_vec() })
    }

    /// Values of this field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(own, _): &&(String, String)| own.eq_ignore_ascii_case(name);
        self.fields.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field that stands there once.
    pub fn field(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The status code of a response.
    pub fn status(&self) -> Result<u16> {
        let rest = self.line.strip_prefix("HTTP/1.1 ").or(self.line.strip_prefix("HTTP/1.0 "));
        let code = rest.and_then(|rest| rest.get(..3)).with_context(|| self.line.clone())?;
        Ok(code.parse()?)
    }

    /// Whether a list field such as Connection has this word.
    pub(super) fn lists(&self, name: &str, word: &str) -> bool {
        let mut words = self.all(name).into_iter().flat_map(|value| value.split(','));
        words.any(|own| own.trim().eq_ignore_ascii_case(word))
    }

    /// How long the body of this message is, RFC 9112 6.3; `otherwise` if the head is silent.
    pub(super) fn framing(&self, otherwise: Framing) -> Result<Framing> {
        match (&self.all("transfer-encoding")[..], &self.all("content-length")[..]) {
            ([], []) => Ok(otherwise),
            ([], [length]) => Ok(Framing::Length(length.parse()?)),
            ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            _ => bail!("conflicting lengths: {self:?}"),
        }
    }
}

impl Request {
    /// The method.
    pub fn method(&self) -> &str {
        self.word(0)
    }

    /// The target: path and query.
    pub fn target(&self) -> &str {
        self.word(1)
    }

    /// The target up to its query.
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// What kind of file the path names: what stands behind its last dot.
    pub fn extension(&self) -> &str {
        self.path().rsplit('.').next().unwrap_or_default()
    }

    fn word(&self, place: usize) -> &str {
        self.head.line.split(' ').nth(place).unwrap_or_default()
    }
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status().unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// The receiving half of a connection.
pub(super) struct Reader {
    pub(super) socket: TcpStream,
    /// Read, and not yet asked for.
    waiting: Vec<u8>,
    /// The connection has ended, and not in order.
    pub(super) was_reset: bool,
}

impl Reader {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, waiting: Vec::new(), was_reset: false }
    }

    /// A head; none if the other end closes before one begins.
    pub(super) fn head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.waiting, b"\r\n\r\n") {
                return Head::parse(&self.take(end + 4)).map(Some);
            }
            if !self.more()? {
                ensure!(self.waiting.is_empty(), "the end came in a head: {}", self.text());
                return Ok(None);
            }
        }
    }

    /// The next bytes, as many as these.
    pub(super) fn exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.waiting.len() < count {
            ensure!(self.more()?, "the end came after {} of {count} bytes", self.waiting.len());
        }
        Ok(self.take(count))
    }

    /// The next chunk, RFC 9112 7.1; an empty one is the last, and its trailers are read as well.
    pub(super) fn chunk(&mut self) -> Result<Vec<u8>> {
        let size = self.line()?;
        let size = size.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("{size:?}"))?;
        if size == 0 {
            while !self.line()?.is_empty() {}
            return Ok(Vec::new());
        }
        let mut chunk = self.exactly(size + 2)?;
        ensure!(chunk.split_off(size) == b"\r\n", "a chunk of {size} bytes does not end there");
        Ok(chunk)
    }

    /// A body: all of it, or as much of it as comes with its first `least` bytes.
    pub(super) fn body(&mut self, framing: Framing, least: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        match framing {
            Framing::Length(length) => return self.exactly(length.min(least)),
            Framing::Chunked => {
                while body.len() < least {
                    match self.chunk()? {
                        chunk if chunk.is_empty() => break,
                        chunk => body.extend(chunk),
                    }
                }
            }
            Framing::UntilClose => {
                while self.waiting.len() < least && self.more()? {}
                body = std::mem::take(&mut self.waiting);
            }
        }
        Ok(body)
    }

    /// Reads what has come or comes next; false at the end of the connection.
    pub(super) fn more(&mut self) -> Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let count = match self.socket.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                self.was_reset = true;
                0
            }
            Err(error) => return Err(error).with_context(|| format!("after {}", self.text())),
        };
        self.waiting.extend(buffer.iter().take(count));
        Ok(count > 0)
    }

    /// What was read and not asked for.
    pub(super) fn take_waiting(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.waiting)
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = find(&self.waiting, b"\r\n") {
                let line = self.take(end + 2);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            ensure!(self.more()?, "the end came in a line: {}", self.text());
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.waiting.split_off(count);
        std::mem::replace(&mut self.waiting, rest)
    }

    /// The start of what waits, for errors.
    fn text(&self) -> String {
        let start: Vec<u8> = self.waiting.iter().copied().take(200).collect();
        format!("{:?}", String::from_utf8_lossy(&start))
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
