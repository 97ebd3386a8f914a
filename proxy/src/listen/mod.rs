//! Sockets in.

mod arrival;
pub mod media;
pub mod tcp;
mod trusted;
pub mod udp;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tracing::{info, warn};

pub use self::arrival::{Arrival, Entrance, NoArrival};
pub use self::trusted::TrustedProxies;

/// Descriptors that are neither sessions' nor pipes: listeners, runtime, API connections, logs, rings
/// and bells of threads, and connections that wait for a PROXY header.
const OWN_DESCRIPTORS: u64 = 768;

/// How many of so many open files may be pipes of the plane of streams, two each. They are a cache:
/// sessions and the API go before.
pub fn pipes_among(files: u64) -> u64 {
    (files / 16).min(512)
}

/// What counts as one client: an IPv4 address, or the IPv6 network that one subscriber gets.
pub fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

/// Whether what this host sends from `near` to `address` comes to one of these listeners.
pub fn is_served(listeners: &[SocketAddr], address: SocketAddr, near: IpAddr) -> bool {
    // To one of its own addresses a host sends from that address.
    let is_this_host = address.ip().is_loopback() || address.ip() == near;
    listeners.iter().any(|own| {
        let is_here = own.ip().is_unspecified() && is_this_host || own.ip() == address.ip();
        own.port() == address.port() && is_here
    })
}

/// Open files that the process may have, after raising its limit for so many sessions as far as the
/// system allows.
pub fn raise_file_limit(sessions: usize) -> io::Result<u64> {
    let wanted = u64::try_from(sessions).unwrap_or(u64::MAX);
    let wanted = wanted.saturating_mul(2).saturating_add(OWN_DESCRIPTORS);
    rlimit::increase_nofile_limit(wanted.saturating_add(2 * pipes_among(u64::MAX)))
}

/// How many of these sessions there are files for: they must not take those that the API needs.
pub fn room_for(sessions: usize, files: io::Result<u64>) -> usize {
    let allowed = match files {
        Ok(allowed) => allowed,
        Err(error) => {
            warn!(%error, "the limit of open files is not known");
            return sessions;
        }
    };
    let room = allowed.saturating_sub(OWN_DESCRIPTORS + 2 * pipes_among(allowed)) / 2;
    let room = usize::try_from(room).unwrap_or(usize::MAX).max(1);
    if room < sessions {
        info!(
            sessions = room,
            open_files = allowed,
            "fewer sessions than PROXY_MAX_SESSIONS={sessions}: the limit of open files is too low"
        );
    }
    room.min(sessions)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_is_sent_to_an_own_address_comes_back() {
        let [own, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        let served = |listener: &str, address: &str, near| {
            is_served(&[listener.parse().unwrap()], address.parse().unwrap(), near)
        };
        assert!(served("[::]:8000", "127.0.0.1:8000", Ipv4Addr::LOCALHOST.into()));
        assert!(served("0.0.0.0:8000", "192.0.2.1:8000", own));
        assert!(served("192.0.2.1:8000", "192.0.2.1:8000", own));
        assert!(!served("192.0.2.2:8000", "192.0.2.1:8000", own), "somebody else's listener");
        assert!(!served("0.0.0.0:8000", "192.0.2.1:8000", other), "another host");
        assert!(!served("0.0.0.0:8000", "192.0.2.1:8001", own));
    }
}
