//! How bytes move once a session stands.

pub mod datagram;
pub mod ebpf_object;
pub mod kernel;
mod meter;
pub mod relay;
#[cfg(target_os = "linux")]
mod splice;
#[cfg(not(target_os = "linux"))]
#[path = "splice/elsewhere.rs"]
mod splice;
mod stream;

use tokio::net::TcpStream;

pub use self::datagram::Refused;
pub use self::meter::Meter;
pub use self::relay::watch::Patience;
#[cfg(target_os = "linux")]
pub use self::splice::pipe_bytes;
pub use self::stream::{
    Carried, StreamEngine, StreamPlane, StreamSettings, StreamStanding, StreamsView, ThreadView,
};

/// One of a session's two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// The origin's.
    Origin,
    /// The client's.
    Client,
}

impl Leg {
    /// Both, in the order in which they are counted.
    pub const ALL: [Self; 2] = [Self::Origin, Self::Client];

    /// The opposite leg.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Origin,
            Self::Origin => Self::Client,
        }
    }

    /// This leg's of two things in the order of [`Self::ALL`].
    pub(crate) const fn of<T>(self, [origin, client]: &mut [T; Self::ALL.len()]) -> &mut T {
        match self {
            Self::Origin => origin,
            Self::Client => client,
        }
    }

    /// The word for bytes written to this leg.
    pub const fn inwards(self) -> &'static str {
        match self {
            Self::Origin => "to_origin",
            Self::Client => "to_client",
        }
    }
}

/// Bytes waiting to be written to each leg.
#[derive(Debug, Default)]
pub struct Outbox {
    /// For the origin.
    pub to_origin: Vec<u8>,
    /// For the client.
    pub to_client: Vec<u8>,
}

impl Outbox {
    /// What waits for `leg`.
    pub fn towards(&mut self, leg: Leg) -> &mut Vec<u8> {
        match leg {
            Leg::Client => &mut self.to_client,
            Leg::Origin => &mut self.to_origin,
        }
    }

    /// How many bytes wait for `leg`.
    pub fn waiting_for(&self, leg: Leg) -> usize {
        match leg {
            Leg::Client => self.to_client.len(),
            Leg::Origin => self.to_origin.len(),
        }
    }

    /// How many bytes wait, in the order of [`Leg::ALL`].
    pub fn waiting(&self) -> [usize; Leg::ALL.len()] {
        Leg::ALL.map(|leg| self.waiting_for(leg))
    }
}

/// Two connected legs, and what was read of one and is not yet written to the other.
#[derive(Debug)]
pub struct StreamPair {
    /// The client's socket.
    pub client: TcpStream,
    /// The origin's socket.
    pub origin: TcpStream,
    /// Bytes that must go out before any other.
    pub out: Outbox,
}

impl StreamPair {
    /// A leg's socket, and what waits for it.
    pub fn leg(&mut self, leg: Leg) -> (&mut TcpStream, &mut Vec<u8>) {
        match leg {
            Leg::Client => (&mut self.client, &mut self.out.to_client),
            Leg::Origin => (&mut self.origin, &mut self.out.to_origin),
        }
    }
}

/// Why bytes move no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// This leg closed in order; what it had sent was written to the other.
    InOrder(Leg),
    /// This leg's connection was reset or lost.
    Lost(Leg),
    /// No byte moved in either direction for the idle time.
    Idle,
    /// A leg took too few of the bytes that waited for it in the stall time.
    Stalled,
}

/// Which way bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From each leg to the other. The end of one is passed on, and the opposite direction goes on
    /// as long as anything moves.
    Both,
    /// From the origin to the client. The client is read, so that its end shows, but what it
    /// sends goes nowhere. The client's end is the end of all.
    ToClient,
    /// So many bytes from this leg to the other, and then no further: what comes behind them stays in
    /// the socket, as does all that the other leg sends.
    Exactly(Leg, u64),
}
