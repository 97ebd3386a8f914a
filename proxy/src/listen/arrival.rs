//! Who has come: the peer of a connection, or the client that a proxy in front names.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::TrustedProxies;
use crate::proto::proxy_protocol::{self, BadHeader, Ends, Header};

/// A connection whose client is known. What is read from it now is the client's.
#[derive(Debug)]
pub struct Arrival {
    /// The connection.
    pub socket: TcpStream,
    /// The client's address and the one it came to, as they are told or else the connection's
    /// own.
    pub ends: Ends,
    /// The connection's own other end.
    pub peer: SocketAddr,
}

/// Why nobody has arrived by a connection. It is closed by then.
#[derive(Debug, Error)]
pub enum NoArrival {
    /// The trusted proxy said something else.
    #[error(transparent)]
    BadHeader(#[from] BadHeader),
    /// The trusted proxy did not say enough in time, or closed the connection in between.
    #[error("unfinished PROXY header")]
    Unfinished,
    /// The trusted proxy closed the connection without a word, as health checks do.
    #[error("closed without a word")]
    Silent,
    /// The connection is lost.
    #[error(transparent)]
    Lost(#[from] io::Error),
    /// Too many others wait for their headers.
    #[error("too many connections wait for a PROXY header")]
    TooMany,
}

/// Where TCP connections come in, whatever is spoken behind it.
#[derive(Debug)]
pub struct Entrance {
    trusted: TrustedProxies,
    is_header_expected: bool,
    waiting: Semaphore,
    limit: Duration,
}

impl Entrance {
    /// `is_header_expected`: every connection of the trusted proxies begins with a PROXY header.
    pub fn new(trusted: TrustedProxies, is_header_expected: bool) -> Self {
        Self { trusted, is_header_expected, waiting: Semaphore::new(WAITING), limit: LIMIT }
    }

    /// Finds out who has come. Of the connection exactly the header is read, if there has to be
    /// one: whether there is must not be guessed (2 of the protocol's text), and nobody else's
    /// word is taken.
    ///
    /// Waits for the peer, so it is for a task of the connection's own.
    pub async fn receive(
        &self,
        mut socket: TcpStream,
        peer: SocketAddr,
    ) -> Result<Arrival, NoArrival> {
        let own = Ends { source: peer, destination: socket.local_addr()? };
        let ends = if self.is_header_expected && self.trusted.contains(peer.ip()) {
            let _place = self.waiting.try_acquire().map_err(|_| NoArrival::TooMany)?;
            // Kept off the connection's own future, which lives as long as the session.
            let header = Box::pin(timeout(self.limit, read_header(&mut socket))).await;
            match header.map_err(|_| NoArrival::Unfinished)?? {
                Header::Proxy(ends) => ends,
                Header::Local => own,
            }
        } else {
            own
        };
        Ok(Arrival { socket, ends: ends.to_canonical(), peer })
    }
}

/// Time for a PROXY header. It is sent with the connection, so this is for lost packets.
const LIMIT: Duration = Duration::from_secs(5);

/// Connections that wait for their headers at once.
const WAITING: usize = 256;

/// Reads a header, and not a byte behind it.
async fn read_header(socket: &mut TcpStream) -> Result<Header, NoArrival> {
    let mut header = Vec::new();
    let mut buffer = [0; 256];
    loop {
        let seen = socket.peek(&mut buffer).await?;
        if seen == 0 {
            return Err(if header.is_empty() { NoArrival::Silent } else { NoArrival::Unfinished });
        }
        let before = header.len();
        header.extend_from_slice(buffer.get(..seen).unwrap_or_default());
        let found = proxy_protocol::parse(&header)?;
        let length = found.map_or(header.len(), |(_, length)| length);
        let piece = buffer.get_mut(..length.saturating_sub(before)).unwrap_or_default();
        socket.read_exact(piece).await?;
        if let Some((header, _)) = found {
            return Ok(header);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::proto::proxy_protocol::{Version, write};

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 1935\r\n";

    fn entrance(trusted: &str, limit: Duration) -> Arc<Entrance> {
        let networks = vec![trusted.parse().unwrap()];
        Arc::new(Entrance { limit, ..Entrance::new(networks.into(), true) })
    }

    /// A connection from this host to `entrance`, and what becomes of it.
    async fn come(entrance: &Arc<Entrance>) -> (TcpStream, JoinHandle<Result<Arrival, NoArrival>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        near.set_nodelay(true).unwrap();
        let (far, peer) = listener.accept().await.unwrap();
        let entrance = Arc::clone(entrance);
        (near, tokio::spawn(async move { entrance.receive(far, peer).await }))
    }

    #[tokio::test]
    async fn a_trusted_proxy_names_the_client_and_nothing_of_the_client_is_taken() {
        let entrance = entrance("127.0.0.0/8", LIMIT);
        let told = Ends {
            source: "[2001:db8::1]:56324".parse().unwrap(),
            destination: "[2001:db8::2]:1935".parse().unwrap(),
        };
        let mut binary = Vec::new();
        write(Version::V2, &Header::Proxy(told), &mut binary);
        // With more behind the addresses than one look shows.
        binary[15] += 0xd0;
        binary.extend([0; 0xd0]);
        for (header, source) in [(LINE, "192.0.2.1:56324"), (&binary, "[2001:db8::1]:56324")] {
            for at_once in [true, false] {
                let (mut near, arrival) = come(&entrance).await;
                if at_once {
                    near.write_all(&[header, b"\x03 client"].concat()).await.unwrap();
                } else {
                    for byte in header.iter().chain(b"\x03 client") {
                        near.write_all(&[*byte]).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
                let Arrival { mut socket, ends, peer } = arrival.await.unwrap().unwrap();
                assert_eq!(ends.source.to_string(), source);
                assert_eq!(peer, near.local_addr().unwrap());
                drop(near);
                let mut rest = Vec::new();
                socket.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, b"\x03 client");
            }
        }
    }

    #[tokio::test]
    async fn a_proxy_that_speaks_for_itself_is_the_client() {
        let (mut near, arrival) = come(&entrance("127.0.0.1/32", LIMIT)).await;
        near.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
        let ends = arrival.await.unwrap().unwrap().ends;
        let own = (near.local_addr().unwrap(), near.peer_addr().unwrap());
        assert_eq!((ends.source, ends.destination), own);
    }

    #[tokio::test]
    async fn nobody_else_is_asked_or_believed() {
        let (mut near, arrival) = come(&entrance("192.0.2.9/32", LIMIT)).await;
        let mut arrival = arrival.await.unwrap().expect("nothing is waited for");
        assert_eq!(arrival.ends.source, near.local_addr().unwrap());
        near.write_all(LINE).await.unwrap();
        let mut read = vec![0; LINE.len()];
        arrival.socket.read_exact(&mut read).await.unwrap();
        assert_eq!(read, LINE, "the client's own bytes");
    }

    #[tokio::test]
    async fn a_trusted_proxy_without_a_header_is_turned_away() {
        let entrance = entrance("127.0.0.1/32", LIMIT);
        for (said, why) in [
            (b"\x03\0\0\0\0".as_slice(), "no PROXY header"),
            (b"PROXY TCP4 nonsense\r\n", "malformed PROXY line"),
            (&LINE[..20], "unfinished PROXY header"),
            (b"", "closed without a word"),
        ] {
            let (mut near, arrival) = come(&entrance).await;
            near.write_all(said).await.unwrap();
            drop(near);
            assert_eq!(arrival.await.unwrap().unwrap_err().to_string(), why, "{said:?}");
        }
    }

    #[tokio::test]
    async fn slow_headers_have_a_deadline_and_bounded_places() {
        let mut entrance = entrance("127.0.0.1/32", Duration::from_millis(50));
        let (mut near, slow) = come(&entrance).await;
        near.write_all(b"PROXY TCP4").await.unwrap();
        assert!(matches!(slow.await.unwrap(), Err(NoArrival::Unfinished)));
        Arc::get_mut(&mut entrance).unwrap().waiting = Semaphore::new(0);
        let (_near, one_more) = come(&entrance).await;
        assert!(matches!(one_more.await.unwrap(), Err(NoArrival::TooMany)));
    }
}
