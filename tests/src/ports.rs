//! Free ports on loopback, and free sockets towards a host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};
use socket2::SockRef;

/// An address on loopback on which nothing listens by TCP or UDP, given out once by this process.
///
/// Its port is below those that the system gives to outgoing connections, so that none of
/// those can take it before its listener starts.
pub fn free() -> Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..RANGE {
        // Processes begin at places of their own, far apart for neighbouring ids.
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = std::process::id().wrapping_mul(97).wrapping_add(step) % RANGE;
        let port = FIRST + u16::try_from(offset)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port from {FIRST} on")
}

/// A socket on a free port of the address from which this host sends to that server. It takes
/// packets from anybody.
pub fn towards(server: SocketAddr) -> Result<UdpSocket> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let probe = UdpSocket::bind((any, 0))?;
    probe.connect(server)?;
    at(probe.local_addr()?.ip())
}

/// A socket on a free port of this host, with room for what comes while its reader has no CPU.
pub fn at(host: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((host, 0))?;
    SockRef::from(&socket).set_recv_buffer_size(2 << 20)?;
    Ok(socket)
}

const FIRST: u16 = 20_000;
const RANGE: u32 = 12_000;
