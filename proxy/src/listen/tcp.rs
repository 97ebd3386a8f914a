//! TCP listeners: bound all or none, and accepted from until the proxy stops.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::media::MediaOptions;
use crate::config::{ListenAddr, ListenAddrs};

/// Connections that the kernel holds while the proxy is busy; the kernel caps it at its own
/// limit.
const BACKLOG: i32 = 4096;

/// How long to wait when the process is out of descriptors: some session must end first.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// An address that cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {error}")]
pub struct BindError {
    /// As it was configured.
    pub address: ListenAddr,
    /// What the system said.
    pub error: io::Error,
}

/// A port that is ours, and takes no connections yet.
#[derive(Debug)]
pub struct Bound(Socket);

impl Bound {
    /// Takes connections from here on. Needs a runtime.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.0.listen(BACKLOG)?;
        TcpListener::from_std(self.0.into())
    }
}

/// Binds every address, or none.
pub fn bind(addresses: &ListenAddrs) -> Result<Vec<Bound>, BindError> {
    let bind = |address| {
        let dual_stack = addresses.is_dual_stack(address);
        bind_one(address, dual_stack).map_err(|error| BindError { address, error })
    };
    addresses.iter().map(bind).collect()
}

fn bind_one(address: ListenAddr, dual_stack: bool) -> io::Result<Bound> {
    match address {
        ListenAddr::Socket(address) => bind_socket(address, dual_stack),
        // A host without IPv6 has no socket for both families.
        ListenAddr::Port(port) => bind_socket((Ipv6Addr::UNSPECIFIED, port).into(), dual_stack)
            .or_else(|error| match error.kind() {
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
                _ => bind_socket((Ipv4Addr::UNSPECIFIED, port).into(), false),
            }),
    }
}

fn bind_socket(address: SocketAddr, dual_stack: bool) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    // On Windows the option lets two processes share a port, which is not what is meant.
    if !cfg!(windows) {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(Bound(socket))
}

/// Hands every connection to `serve`, which must not block, until `stop`.
pub async fn accept(
    listener: TcpListener,
    options: MediaOptions,
    stop: CancellationToken,
    mut serve: impl FnMut(TcpStream, SocketAddr),
) {
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, address)) => {
                failing = false;
                options.set(&socket);
                serve(socket, address);
            }
            // The peer gave up between its SYN and our accept.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !failing {
                    warn!(%error, "cannot accept connections");
                }
                failing = true;
                sleep(OUT_OF_DESCRIPTORS).await;
            }
        }
    }
}

/// Acknowledges what was just read without delay. nginx-rtmp writes its answers one by one and
/// lets the system hold each until the one before is acknowledged: 40 ms every time.
pub fn acknowledge_now(socket: &TcpStream) {
    #[cfg(target_os = "linux")]
    {
        let _delayed = socket2::SockRef::from(socket).set_tcp_quickack(true);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}
