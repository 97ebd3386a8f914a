//! How bytes move once a session stands.

pub mod ebpf_object;
pub mod relay;

use tokio::net::TcpStream;

/// Two connected legs, and what was read of one and is not yet written to the other.
#[derive(Debug)]
pub struct StreamPair {
    /// The client's socket.
    pub client: TcpStream,
    /// The origin's socket.
    pub origin: TcpStream,
    /// Bytes that must go out before any other.
    pub out: relay::stream::Outbox,
}

/// The engines that can carry a [`StreamPair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamPlane {
    /// Copies through userspace; works everywhere, and looks at bytes where a session must.
    Relay,
}

impl StreamPlane {
    /// The word used in logs and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
        }
    }

    /// The engine for a session whose bytes need no look, and why it is not a faster one.
    pub const fn choose() -> (Self, &'static str) {
        (Self::Relay, "this version has no faster stream plane")
    }
}
