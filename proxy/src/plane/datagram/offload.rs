//! The seam between those who decide about flows and the planes that carry them.

use std::net::SocketAddr;

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

/// What a flow carries, and so which of its datagrams are media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// RTP and RTCP of WebRTC, beside STUN and DTLS (RFC 7983).
    WebRtc,
    /// SRT, of which handshakes and shutdowns are no media.
    Srt,
}

/// One way between a client and its session's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What comes from the client.
    pub key: FlowKey,
    /// Between which ends.
    pub ends: FlowEnds,
    /// Greater than that of every flow before: a late removal cannot hit a newer one.
    pub generation: u64,
}

/// The ends of a session that stay as they are, wherever its client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEnds {
    /// The session's own address towards the origin: what comes there is for the client.
    pub near: SocketAddr,
    /// The origin.
    pub origin: SocketAddr,
    /// The client's socket id, to which the origin sends, where the protocol has one: SRT's.
    pub client_socket_id: Option<u32>,
}

/// What has come by a flow since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Datagrams heard of each leg, in the order of [`Leg::ALL`].
    pub heard: [u64; Leg::ALL.len()],
}

/// How far the origin of an SRT session has come, as a plane has noticed it: sequence numbers
/// (draft-sharabayko-srt 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Of its last data packet.
    pub data: Option<u32>,
    /// Up to which it has acknowledged that all has come.
    pub acknowledged: Option<u32>,
}

/// A plane for datagrams. `L` is a session's socket towards its origin, `X` the way out to its
/// client; a plane in the kernel needs neither.
pub trait Offload<L, X>: Send {
    /// Carries this flow from here on, in the place of one that has the same key.
    fn install(&mut self, flow: &Flow, lane: &L, exit: &X);

    /// Carries it no longer. Another one that has taken its place stays.
    fn remove(&mut self, flow: &Flow, lane: &L);

    /// Lets this process see each datagram of a flow until it is released, and says how far its
    /// origin has come without that.
    fn hold(&mut self, flow: &Flow, why: &'static str) -> Progress;

    /// Ends a hold.
    fn release(&mut self, flow: &Flow);

    /// Whether something has come of this leg by a flow since the counters were asked last.
    fn has_heard(&self, flow: &Flow, lane: &L, leg: Leg) -> bool;

    /// Gives what has come by each flow by which something has.
    fn counters(&mut self, sink: &mut dyn FnMut(&FlowKey, Delta));
}
