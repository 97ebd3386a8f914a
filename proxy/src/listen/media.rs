//! The options of the TCP sockets that carry streams, clients' and origins' alike.

#[cfg(target_os = "linux")]
mod linux;

use std::num::NonZeroU64;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Whether this system holds a connection to a rate.
pub const HAS_RATES: bool = cfg!(target_os = "linux");

/// What the operator wants of every such socket.
#[derive(Clone, Copy, Debug)]
pub struct MediaOptions {
    /// After this time the proxy itself gives up a peer that takes nothing.
    pub stall: Duration,
    /// Bytes that a session may hold for a receiver that does not read, in each direction; more than
    /// [`Self::LEAST_HELD`].
    pub held: usize,
    /// The most that a connection sends, in bits per second.
    pub max_rate: Option<NonZeroU64>,
}

impl MediaOptions {
    /// Bytes of [`Self::held`] below which too little would be left to receive into.
    pub const LEAST_HELD: usize = 768 * 1024;

    /// Sets them on a connection. What the system does not have, it does without: no option is worth
    /// losing the session for.
    pub fn set(&self, socket: &TcpStream) {
        let socket = SockRef::from(socket);
        // Media is written when it is there: nothing waits to fill segments.
        let _nodelay = socket.set_tcp_nodelay(true);
        // A peer whose host is gone is found even on an idle session.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_mins(1))
            .with_interval(Duration::from_secs(10));
        let _keepalive = socket.set_tcp_keepalive(&keepalive);
        #[cfg(target_os = "linux")]
        linux::set(&socket, self);
        #[cfg(not(target_os = "linux"))]
        let _received = socket.set_recv_buffer_size(self.received());
    }

    /// Bytes of the receive buffer: what is left of all beside [`Self::unsent`] and [`IN_BETWEEN`].
    fn received(&self) -> usize {
        self.held.saturating_sub(self.unsent() + IN_BETWEEN)
    }

    /// Bytes that a socket takes beyond those that are on their way to the peer.
    fn unsent(&self) -> usize {
        self.held / 4
    }
}

/// Bytes between two sockets: the largest pipe, and the last write before a socket takes no more.
const IN_BETWEEN: usize = (256 + 64) * 1024;
