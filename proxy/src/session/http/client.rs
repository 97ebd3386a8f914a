//! The client's side: heads in, the proxy's own answers out.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::plane::{Leg, Meter};
use crate::proto::http::{BadHead, MAX_HEAD, RequestHead};

/// Bytes of one read of a head.
const READ: usize = 4 * 1024;

/// A client's connection, between two requests.
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    /// What was read and is no part of any request yet. Without memory while there is nothing.
    pub(super) buffer: Vec<u8>,
}

/// Why there is no request.
#[derive(Debug)]
pub(super) enum NoHead {
    /// What came is none.
    Bad(BadHead),
    /// It began, and did not end in time.
    Slow,
    /// It did not begin in time.
    Quiet,
    /// It had not begun when the proxy was told to stop.
    Draining,
    /// The client has closed in order.
    Closed,
    /// The client is lost.
    Lost(io::Error),
}

/// How long a head may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadPatience {
    /// To begin.
    pub(super) first_byte: Duration,
    /// From the first byte to the last.
    pub(super) head: Duration,
}

impl Connection {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, buffer: Vec::new() }
    }

    /// The next request's head.
    pub(super) async fn head(&mut self, patience: HeadPatience) -> Result<RequestHead, NoHead> {
        let is_begun = !self.buffer.is_empty();
        let wait = if is_begun { patience.head } else { patience.first_byte };
        let mut deadline = Instant::now() + wait;
        // A head cannot be complete, nor malformed in a new way, but at the end of a line.
        let mut is_new_line = is_begun;
        loop {
            if is_new_line
                && let Some((head, used)) = RequestHead::parse(&self.buffer).map_err(NoHead::Bad)?
            {
                self.buffer.drain(..used);
                if self.buffer.is_empty() {
                    self.buffer = Vec::new();
                }
                return Ok(head);
            }
            let before = self.buffer.len();
            match timeout_at(deadline, self.read()).await {
                Err(_) if before == 0 => return Err(NoHead::Quiet),
                Err(_) => return Err(NoHead::Slow),
                Ok(Err(error)) => return Err(NoHead::Lost(error)),
                Ok(Ok(0)) => return Err(NoHead::Closed),
                Ok(Ok(_)) => {}
            }
            if before == 0 {
                deadline = Instant::now() + patience.head;
            }
            let came = self.buffer.get(before..).unwrap_or_default();
            is_new_line = came.contains(&b'\n') || self.buffer.len() > MAX_HEAD;
        }
    }

    /// The next request's head, if some of it is here.
    pub(super) async fn last_head(
        &mut self,
        patience: HeadPatience,
    ) -> Result<RequestHead, NoHead> {
        if self.buffer.is_empty() { Err(NoHead::Draining) } else { self.head(patience).await }
    }

    /// Reads what is there into the buffer. Nothing is allocated before something is.
    pub(super) async fn read(&mut self) -> io::Result<usize> {
        let Self { socket, buffer } = self;
        // Polled as the relay does: a read that empties the socket is known to have done so, and
        // the relay need not ask again.
        poll_fn(|cx| {
            let mut bytes = [const { MaybeUninit::uninit() }; READ];
            let mut came = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut *socket).poll_read(cx, &mut came))?;
            buffer.extend_from_slice(came.filled());
            Poll::Ready(Ok(came.filled().len()))
        })
        .await
    }
}

/// Writes all of this. An error also if the client takes none of it for `stall`.
pub(super) async fn write(
    client: &TcpStream,
    mut bytes: &[u8],
    stall: Duration,
    meter: &Meter,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match client.try_write(bytes) {
            Ok(written) => {
                meter.wrote(Leg::Client, written);
                bytes = bytes.get(written..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let writable = timeout(stall, client.writable()).await;
                writable.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
