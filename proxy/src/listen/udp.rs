//! UDP listeners: bound all or none, each one a group of sockets that share its port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::tcp::BindError;
use crate::config::{ListenAddr, ListenAddrs};
use crate::plane::datagram::{Socket, Train};

/// The sockets of one address. The system spreads clients over them, and one client's datagrams
/// all come to the same one.
#[derive(Debug)]
pub struct Group {
    address: SocketAddr,
    sockets: Vec<RawSocket>,
}

impl Group {
    /// The address, with the port that the system has chosen if it was to choose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes datagrams from here on, and lets each socket be read `buffer` bytes late. Needs a
    /// runtime.
    pub fn open(self, buffer: usize) -> io::Result<Vec<Arc<Socket>>> {
        let open = |socket| Socket::new(socket, buffer).map(Arc::new);
        self.sockets.into_iter().map(open).collect()
    }
}

/// Binds every address, or none; each with a socket for every thread.
pub fn bind(addresses: &ListenAddrs) -> Result<Vec<Group>, BindError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let sockets = if SPREADS { threads } else { 1 };
    let bind = |address| {
        let dual_stack = addresses.is_dual_stack(address);
        bind_group(address, dual_stack, sockets).map_err(|error| BindError { address, error })
    };
    addresses.iter().map(bind).collect()
}

/// Gives everything that comes to `receive`, which must not block, until `stop`.
pub async fn receive(
    socket: Arc<Socket>,
    stop: CancellationToken,
    mut receive: impl FnMut(&Arc<Socket>, Train<'_>),
) {
    let serve = async {
        let mut is_failing = false;
        loop {
            let received = match socket.readable().await {
                Ok(()) => socket.receive(|train| receive(&socket, train)),
                Err(error) => Err(error),
            };
            match received {
                Ok(is_more) => {
                    is_failing = false;
                    if is_more {
                        tokio::task::consume_budget().await;
                    }
                }
                // What a peer's host says about what was sent to it is no fault of the socket's.
                Err(error) if is_of_a_peer(&error) => {}
                Err(error) => {
                    if !is_failing {
                        warn!(%error, address = %socket.local(), "cannot receive");
                    }
                    is_failing = true;
                    sleep(PAUSE).await;
                }
            }
        }
    };
    let _stopped = stop.run_until_cancelled(serve).await;
}

fn is_of_a_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable
    )
}

/// How long to wait when a socket fails.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether sockets that share a port share its clients, each client staying with one: elsewhere
/// the newest socket gets all, or it is not said who gets what.
const SPREADS: bool = cfg!(target_os = "linux");

fn bind_group(address: ListenAddr, dual_stack: bool, sockets: usize) -> io::Result<Group> {
    match address {
        ListenAddr::Socket(address) => bind_sockets(address, dual_stack, sockets),
        // A host without IPv6 has no socket for both families.
        ListenAddr::Port(port) => {
            bind_sockets((Ipv6Addr::UNSPECIFIED, port).into(), dual_stack, sockets).or_else(
                |error| match error.kind() {
                    io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
                    _ => bind_sockets((Ipv4Addr::UNSPECIFIED, port).into(), false, sockets),
                },
            )
        }
    }
}

fn bind_sockets(address: SocketAddr, dual_stack: bool, sockets: usize) -> io::Result<Group> {
    // A second proxy, started by mistake, would silently take its share of the clients.
    let alone = bind_socket(address, dual_stack, false)?;
    let address = alone.local_addr()?.as_socket().unwrap_or(address);
    if sockets < 2 {
        return Ok(Group { address, sockets: vec![alone] });
    }
    drop(alone);
    let shared = (0..sockets).map(|_| bind_socket(address, dual_stack, true));
    Ok(Group { address, sockets: shared.collect::<Result<_, _>>()? })
}

fn bind_socket(address: SocketAddr, dual_stack: bool, is_shared: bool) -> io::Result<RawSocket> {
    let domain = Domain::for_address(address);
    let socket = RawSocket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_reuse_port(is_shared)?;
    #[cfg(not(target_os = "linux"))]
    let _ = is_shared;
    socket.bind(&address.into())?;
    Ok(socket)
}
