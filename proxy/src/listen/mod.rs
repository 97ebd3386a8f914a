//! Sockets in.

mod arrival;
pub mod tcp;
mod trusted;
pub mod udp;

use std::net::{IpAddr, Ipv6Addr};

use tracing::{info, warn};

pub use self::arrival::{Arrival, Entrance, NoArrival};
pub use self::trusted::TrustedProxies;

/// Descriptors that are not sessions': listeners, runtime, API connections, logs, and connections
/// that wait for a PROXY header.
const OWN_DESCRIPTORS: u64 = 768;

/// What counts as one client: an IPv4 address, or the IPv6 network that one subscriber gets.
pub fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

/// How many of these sessions the process may have open files for, after raising its limit as
/// far as the system allows: sessions must not take the files that the API needs.
pub fn room_for(sessions: usize) -> usize {
    let wanted = u64::try_from(sessions).unwrap_or(u64::MAX);
    let files = wanted.saturating_mul(2).saturating_add(OWN_DESCRIPTORS);
    let allowed = match rlimit::increase_nofile_limit(files) {
        Ok(allowed) => allowed,
        Err(error) => {
            warn!(%error, "the limit of open files is not known");
            return sessions;
        }
    };
    let room = allowed.saturating_sub(OWN_DESCRIPTORS) / 2;
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
