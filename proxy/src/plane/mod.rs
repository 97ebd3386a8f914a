//! How bytes move once a session stands.

pub mod datagram;
pub mod ebpf_object;
pub mod kernel;
mod meter;
pub mod relay;

use tokio::net::TcpStream;

pub use self::meter::Meter;
use self::relay::stream::{Exit, Listening, Plain};
pub use self::relay::watch::Patience;

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
    /// A leg took no byte for the stall time while some were waiting for it.
    Stalled,
}

/// Which way bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From each leg to the other.
    Both,
    /// From the origin to the client. The client is read, so that its end shows, but what it
    /// sends goes nowhere.
    ToClient,
}

/// The engines that can carry a [`StreamPair`] whose bytes need no look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamPlane {
    /// Copies through userspace; works everywhere.
    Relay,
}

impl StreamPlane {
    /// The engine for a new session, and why it is not a faster one.
    pub const fn choose() -> (Self, &'static str) {
        (Self::Relay, "this version has no faster stream plane")
    }

    /// The word used in logs and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
        }
    }

    /// Moves bytes until a leg ends or patience does. The sockets stay with the caller, to be
    /// closed as its protocol wants.
    pub async fn carry(
        self,
        pair: &mut StreamPair,
        flow: Flow,
        patience: Patience,
        meter: &Meter,
    ) -> Closed {
        let exit = match (self, flow) {
            (Self::Relay, Flow::Both) => {
                relay::stream::carry(pair, &mut Plain, patience, meter).await
            }
            (Self::Relay, Flow::ToClient) => {
                relay::stream::carry(pair, &mut Listening, patience, meter).await
            }
        };
        match exit {
            Exit::Closed(closed) => closed,
            Exit::Turn(never) | Exit::Fault(never) => match never {},
        }
    }
}
