//! The seam between those who decide about flows and the planes that carry them.

use std::net::SocketAddr;

use thiserror::Error;

use crate::plane::Leg;

/// By what a client's datagrams are known to belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Whether they come framed by TCP (RFC 4571); a UDP port has another space of addresses.
    pub is_tcp: bool,
    /// The client, in the form in which the system gives and takes its address.
    pub client: SocketAddr,
    /// The address that it sends to. Unspecified where the system does not tell.
    pub local: SocketAddr,
    /// The destination socket id, where the protocol has one: SRT's.
    pub socket_id: Option<u32>,
}

/// One way between a client and its session's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What comes from the client.
    pub key: FlowKey,
    /// The session's own address towards the origin: what comes there is for the client.
    pub near: SocketAddr,
    /// The origin.
    pub origin: SocketAddr,
    /// Greater than that of every flow before: a late removal cannot hit a newer one.
    pub generation: u64,
}

/// What has come by a flow since it was asked last, in the order of [`Leg::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Datagrams heard of each leg.
    pub heard: [u64; Leg::ALL.len()],
    /// Bytes sent to each leg that no meter has counted yet: those of a plane that cannot.
    pub sent: [u64; Leg::ALL.len()],
}

/// Why a plane does not take a flow: the word of logs and of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Refused(pub &'static str);

/// A plane for datagrams. `L` is a session's socket towards its origin, `X` the way out to its
/// client; a plane in the kernel needs neither.
pub trait Offload<L, X>: Send {
    /// Carries this flow from here on, in the place of one that has the same key.
    fn install(&mut self, flow: &Flow, lane: &L, exit: &X) -> Result<(), Refused>;

    /// Carries it no longer. Another one that has taken its place stays.
    fn remove(&mut self, flow: &Flow, lane: &L);

    /// Gives what has come by each flow by which something has.
    fn counters(&mut self, sink: &mut dyn FnMut(&FlowKey, Delta));
}
