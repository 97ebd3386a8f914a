//! Connects to an origin: by each of its addresses in turn, and never to this proxy itself.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use crate::listen::is_served;
use crate::listen::media::MediaOptions;
use crate::origin::{Listener, Origin};
use crate::proto::proxy_protocol::{self, Ends, Header, Version};

/// Why an origin is not connected.
#[derive(Debug, Error)]
pub enum DialError {
    /// It is not there: it counts as down, and another one may be up.
    #[error("{0}")]
    Down(String),
    /// The proxy has no descriptor, port or memory left; no origin could be reached.
    #[error("{0}")]
    OutOfResources(String),
}

/// How origins are connected, whatever is spoken with them.
#[derive(Debug)]
pub struct Dialer {
    /// For one origin to accept a connection.
    pub connect_timeout: Duration,
    /// Every address on which this proxy accepts TCP.
    pub listening: Vec<SocketAddr>,
    /// The form in which origins are told of the client, if they are.
    pub announce: Option<Version>,
    /// Of the connections on behalf of clients.
    pub options: MediaOptions,
}

impl Dialer {
    /// Connects to the first of the origin's addresses that accepts, each with its share of the
    /// time. If clients are announced, the origin has been told of this one.
    pub async fn dial(
        &self,
        origin: &Origin,
        listener: Listener,
        client: &Ends,
    ) -> Result<(TcpStream, SocketAddr), DialError> {
        let limit = self.connect_timeout;
        let mut addresses = Vec::new();
        let mut failure = format!("the origin has no {} endpoint", listener.as_str());
        let ports: Vec<u16> = origin.targets(listener).map(|(_, port)| port).collect();
        match timeout(limit, lookup_host((origin.host().as_str(), 0))).await {
            Ok(Ok(found)) => {
                let hosts: Vec<_> = found.take(MAX_ADDRESSES).map(|address| address.ip()).collect();
                let of_port = |&port: &u16| hosts.iter().map(move |&ip| SocketAddr::new(ip, port));
                addresses.extend(ports.iter().flat_map(of_port));
            }
            Ok(Err(error)) if TcpSocket::new_v4().is_err() => return Err(out_of_resources(error)),
            Ok(Err(error)) => failure = error.to_string(),
            Err(_) => failure = "its name is not found in time".into(),
        }
        addresses.truncate(MAX_ADDRESSES);
        // Enough for a second SYN.
        let share = if addresses.len() > 1 { limit / 2 } else { limit };
        for address in addresses {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            let socket = match socket {
                Ok(socket) => socket,
                // A host may be without IPv6; without IPv4 sockets it is out of descriptors.
                Err(error) if TcpSocket::new_v4().is_err() => return Err(out_of_resources(error)),
                Err(error) => {
                    failure = format!("{address}: {error}");
                    continue;
                }
            };
            match timeout(share, socket.connect(address)).await {
                Ok(Ok(mut socket)) => {
                    if self.is_own(&socket) {
                        return Err(DialError::Down("it is this proxy itself".into()));
                    }
                    self.options.set(&socket);
                    let introduced = self.introduce(&mut socket, Header::Proxy(*client)).await;
                    introduced.map_err(|error| DialError::Down(format!("{address}: {error}")))?;
                    return Ok((socket, address));
                }
                // No port is left towards this address; of IPv6 it may mean that there is none
                // here.
                Ok(Err(error))
                    if error.kind() == io::ErrorKind::AddrNotAvailable && address.is_ipv4() =>
                {
                    return Err(out_of_resources(error));
                }
                Ok(Err(error)) => failure = format!("{address}: {error}"),
                Err(_) => failure = format!("{address}: no connection in {share:?}"),
            }
        }
        Err(DialError::Down(failure))
    }

    /// Connects to this address of an origin for a question of the proxy's own. The caller limits
    /// the time.
    pub async fn dial_for_itself(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let mut socket = TcpStream::connect(address).await?;
        self.introduce(&mut socket, Header::Local).await?;
        Ok(socket)
    }

    /// Says first of all on whose behalf a connection is, if that is said here. The system takes
    /// the first bytes of a connection at once.
    async fn introduce(&self, socket: &mut TcpStream, header: Header) -> io::Result<()> {
        let mut out = Vec::new();
        if let Some(version) = self.announce {
            proxy_protocol::write(version, &header, &mut out);
        }
        socket.write_all(&out).await
    }

    /// Whether a connection to an origin has come back to this proxy: a client of it would
    /// go round in circles until the limit of sessions.
    fn is_own(&self, socket: &TcpStream) -> bool {
        let (Ok(near), Ok(far)) = (socket.local_addr(), socket.peer_addr()) else { return false };
        is_served(&self.listening, far, near.ip())
    }
}

/// Addresses of one origin that are tried.
const MAX_ADDRESSES: usize = 8;

fn out_of_resources(error: impl Display) -> DialError {
    DialError::OutOfResources(error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    fn dialer(listening: Vec<SocketAddr>, announce: Option<Version>) -> Dialer {
        let limit = Duration::from_secs(5);
        let options = MediaOptions { stall: limit, held: MediaOptions::LEAST_HELD, max_rate: None };
        Dialer { connect_timeout: limit, listening, announce, options }
    }

    /// A listener on loopback, and the origin that says it is there by RTMP.
    async fn origin() -> (TcpListener, SocketAddr, Origin) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoints = [(Listener::Rtmp, &*address.port().to_string())];
        let origin = Origin::fixed("127.0.0.1", &endpoints).unwrap();
        (listener, address, origin)
    }

    fn client() -> Ends {
        Ends {
            source: "192.0.2.1:56324".parse().unwrap(),
            destination: "198.51.100.1:1935".parse().unwrap(),
        }
    }

    /// All that comes by the next connection.
    async fn heard(listener: &TcpListener) -> Vec<u8> {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn an_origin_is_told_of_the_client_before_anything_else() {
        let (listener, address, origin) = origin().await;
        for (announce, told, untold) in [
            (None, b"".as_slice(), b"".as_slice()),
            (
                Some(Version::V1),
                b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 1935\r\n",
                b"PROXY UNKNOWN\r\n",
            ),
            (
                Some(Version::V2),
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\
                  \xc0\0\x02\x01\xc6\x33\x64\x01\xdc\x04\x07\x8f",
                b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
            ),
        ] {
            let dialer = dialer(Vec::new(), announce);
            let dialled = dialer.dial(&origin, Listener::Rtmp, &client()).await.unwrap();
            assert_eq!(dialled.1, address);
            drop(dialled);
            assert_eq!(heard(&listener).await, told, "{announce:?}");
            drop(dialer.dial_for_itself(address).await.unwrap());
            assert_eq!(heard(&listener).await, untold, "{announce:?}");
        }
    }

    #[tokio::test]
    async fn the_proxy_is_no_origin_of_its_own() {
        let (_listener, address, origin) = origin().await;
        let everywhere = SocketAddr::new([0, 0, 0, 0].into(), address.port());
        for own in [address, everywhere] {
            let dialled = dialer(vec![own], None).dial(&origin, Listener::Rtmp, &client()).await;
            assert_eq!(dialled.unwrap_err().to_string(), "it is this proxy itself");
        }
    }

    #[tokio::test]
    async fn an_origin_without_the_endpoint_is_not_dialled() {
        let (_listener, _, origin) = origin().await;
        let dialled = dialer(Vec::new(), None).dial(&origin, Listener::Http, &client()).await;
        assert_eq!(dialled.unwrap_err().to_string(), "the origin has no http endpoint");
    }
}
