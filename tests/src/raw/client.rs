//! A scripted HTTP client.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::message::{Framing, Head, Reader, Response};

/// One connection. Closed when dropped.
pub struct Client {
    reader: Reader,
    server: SocketAddr,
}

impl Client {
    /// Connects; reads and writes fail after some seconds.
    pub fn connect(server: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect_timeout(&server, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { reader: Reader::new(socket), server })
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.reader.socket.write_all(bytes.as_ref())?)
    }

    /// Sends these bytes if the other end takes them within a second; says how many it took.
    pub fn send_some(&mut self, bytes: impl AsRef<[u8]>) -> Result<usize> {
        self.reader.socket.set_write_timeout(Some(Duration::from_secs(1)))?;
        let taken = self.reader.socket.write(bytes.as_ref()).unwrap_or_default();
        self.reader.socket.set_write_timeout(Some(PATIENCE))?;
        Ok(taken)
    }

    /// Sends the head of a request with these further lines, each ended by CR LF.
    pub fn ask(&mut self, method: &str, target: &str, lines: &str) -> Result<()> {
        let host = self.server;
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n"))
    }

    /// A request without a body, and its answer.
    pub fn request(&mut self, method: &str, target: &str, lines: &str) -> Result<Response> {
        self.ask(method, target, lines)?;
        self.answer(method).with_context(|| format!("{method} {target}"))
    }

    /// GET.
    pub fn get(&mut self, target: &str) -> Result<Response> {
        self.request("GET", target, "")
    }

    /// The next response's head.
    pub fn head(&mut self) -> Result<Head> {
        self.reader.head()?.context("the server closed the connection instead of an answer")
    }

    /// The next response, to a request of this method.
    pub fn answer(&mut self, method: &str) -> Result<Response> {
        let head = self.head()?;
        let body = self.body(&head, method, usize::MAX)?;
        Ok(Response { head, body })
    }

    /// The body behind this head, without its chunks; of a long one about `least` bytes, and the
    /// rest in further calls.
    pub fn body(&mut self, head: &Head, method: &str, least: usize) -> Result<Vec<u8>> {
        let status = head.status()?;
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(Vec::new());
        }
        self.reader.body(head.framing(Framing::UntilClose)?, least)
    }

    /// The next bytes as they are on the wire, as many as these.
    pub fn wire(&mut self, count: usize) -> Result<Vec<u8>> {
        self.reader.exactly(count)
    }

    /// Reads whatever comes until the server closes or `limit` is over: the bytes, and whether
    /// the connection is still open.
    pub fn watch(&mut self, limit: Duration) -> Result<(Vec<u8>, bool)> {
        let deadline = Instant::now() + limit;
        let open = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break true;
            }
            self.reader.socket.set_read_timeout(Some(left))?;
            match self.reader.more() {
                Ok(true) => {}
                Ok(false) => break false,
                Err(error) => match error.downcast_ref().map(io::Error::kind) {
                    Some(ErrorKind::WouldBlock | ErrorKind::TimedOut) => break true,
                    _ => return Err(error),
                },
            }
        };
        self.reader.socket.set_read_timeout(Some(PATIENCE))?;
        Ok((self.reader.take_waiting(), open))
    }

    /// What comes until the server closes; fails unless it does within this time.
    pub fn must_be_closed_within(&mut self, limit: Duration) -> Result<Vec<u8>> {
        match self.watch(limit)? {
            (bytes, false) => Ok(bytes),
            (_, true) => bail!("the connection was still open after {limit:?}"),
        }
    }

    /// Whether the end that was read was a reset, and no end in order.
    pub fn was_reset(&self) -> bool {
        self.reader.was_reset
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&mut self) -> Result<()> {
        Ok(self.reader.socket.shutdown(Shutdown::Write)?)
    }
}

/// How long a client waits for the server.
const PATIENCE: Duration = Duration::from_secs(15);
