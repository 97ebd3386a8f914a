//! What becomes of a datagram: everything is known before anything is changed.
#![expect(clippy::inline_always, reason = "as in parse")]

use crate::checksum;
use crate::frame::Frame;
use crate::maps::{Key, Ports, Way};
use crate::media::{self, Progress, Protocol};
use crate::parse::Datagram;
use crate::reason::Reason;

/// The flows there are: maps in the kernel, and on the host whatever a test has.
pub trait Flows {
    /// A word of [`crate::maps::PORTS`]; zero where there is none.
    fn ports(&self, word: u32) -> u64;

    /// Where the datagrams of `key` go.
    fn way(&self, key: &Key) -> Option<&Way>;
}

/// What a hook knows of a frame beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Index of the interface where it has come.
    pub interface: u32,
    /// The tag that the kernel has taken off it, zero for none.
    pub vlan: [u8; 2],
    /// Whether its MAC can be this host's.
    pub to_us: bool,
    /// Whether a checksum that was left to a network card is finished on the way.
    pub finishes_checksums: bool,
    /// Bytes of each datagram in a train that the kernel has merged into one, zero for no train.
    pub segment: u32,
}

impl Arrival {
    /// At the XDP hook of an interface.
    #[inline(always)]
    pub const fn xdp(interface: u32) -> Self {
        Self { interface, vlan: [0; 2], to_us: true, finishes_checksums: false, segment: 0 }
    }
}

/// A datagram, or a train of them, that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward<'a> {
    /// Its way.
    pub way: &'a Way,
    /// How many datagrams.
    pub datagrams: u32,
    /// What the last ones say.
    pub progress: Progress,
}

/// The longest train whose datagrams are looked at.
pub const MAX_TRAIN: u32 = 128;

/// Where `datagram` of `frame` goes, or why it passes up.
#[inline(always)]
pub fn decide<'a>(
    frame: &(impl TrainFrame + ?Sized),
    datagram: &Datagram,
    arrival: Arrival,
    flows: &'a impl Flows,
) -> Result<Forward<'a>, Reason> {
    let (way, socket_id, protocol) = find(frame, datagram, arrival, flows)?;
    let first = match arrival.segment {
        0 => datagram.payload_length,
        segment => datagram.payload_length.min(segment),
    };
    let progress = media::classify(frame, protocol, datagram.payload(), first)?;
    if way.flags & Way::HELD != 0 {
        return Err(Reason::Held);
    }
    if way.from_interface != arrival.interface || !is_in_vlan(datagram, arrival, way.from_vlan) {
        return Err(Reason::OtherInterface);
    }
    if datagram.hops <= 1 {
        return Err(Reason::LastHop);
    }
    if datagram.ip_length - (datagram.payload_length - first) > u32::from(way.mtu) {
        return Err(Reason::TooLarge);
    }
    if !arrival.finishes_checksums && is_partial(datagram) {
        return Err(Reason::PartialChecksum);
    }
    if first == datagram.payload_length {
        return Ok(Forward { way, datagrams: 1, progress });
    }
    let mut train = Train {
        protocol,
        socket_id,
        at: datagram.payload(),
        left: datagram.payload_length,
        segment: first,
        datagrams: 0,
        progress,
    };
    frame.walk(&mut train);
    if train.left != 0 {
        return Err(Reason::Merged);
    }
    Ok(Forward { way, datagrams: train.datagrams, progress: train.progress })
}

/// A frame into which the kernel may have merged datagrams.
pub trait TrainFrame: Frame {
    /// Steps along `train` until it says to stop, at most [`MAX_TRAIN`] times.
    #[inline(always)]
    fn walk(&self, train: &mut Train) {
        for _ in 0..MAX_TRAIN {
            if !train.step(self) {
                return;
            }
        }
    }
}

impl TrainFrame for [u8] {}

/// A walk along a train of datagrams, which have to be media of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    protocol: Protocol,
    socket_id: [u8; 4],
    /// Where the next one begins.
    at: usize,
    /// Bytes from there to the end.
    left: u32,
    /// Bytes of each but the last.
    segment: u32,
    /// How many have been seen.
    datagrams: u32,
    progress: Progress,
}

impl Train {
    /// Looks at the next datagram, and says whether to go on.
    #[inline(always)]
    pub fn step(&mut self, frame: &(impl Frame + ?Sized)) -> bool {
        let length = self.segment.min(self.left);
        if self.protocol == Protocol::Srt
            && media::socket_id(frame, self.at, length) != Some(self.socket_id)
        {
            return false;
        }
        let Ok(later) = media::classify(frame, self.protocol, self.at, length) else {
            return false;
        };
        self.progress = self.progress.then(later);
        self.datagrams += 1;
        self.at += length as usize;
        self.left -= length;
        self.left != 0
    }
}

/// The way of `datagram`, by which key, and by which protocol. On a port of both, SRT is the one
/// to be sure of: its packets name their socket.
#[inline(always)]
fn find<'a>(
    frame: &(impl Frame + ?Sized),
    datagram: &Datagram,
    arrival: Arrival,
    flows: &'a impl Flows,
) -> Result<(&'a Way, [u8; 4], Protocol), Reason> {
    let (word, shift) = Ports::place(u16::from_be_bytes(datagram.key.destination_port));
    let protocols = flows.ports(word) >> shift;
    if protocols & (Ports::WEBRTC | Ports::SRT) == 0 {
        return Err(Reason::OtherPort);
    }
    if !arrival.to_us || !datagram.is_unicast {
        return Err(Reason::UnknownFlow);
    }
    if protocols & Ports::SRT != 0 {
        let length = datagram.payload_length;
        // Zero is the first handshake's (draft-sharabayko-srt 3.2.1), and the key of WebRTC.
        if let Some(id) = media::socket_id(frame, datagram.payload(), length)
            && id != [0; 4]
            && let Some(way) = flows.way(&OnStack(Key { socket_id: id, ..datagram.key }).0)
        {
            return Ok((way, id, Protocol::Srt));
        }
    }
    if protocols & Ports::WEBRTC != 0
        && let Some(way) = flows.way(&datagram.key)
    {
        return Ok((way, [0; 4], Protocol::WebRtc));
    }
    Err(Reason::UnknownFlow)
}

/// Whether a datagram has come in the VLAN of this tag. One for identifier zero gives a priority
/// alone, and is of no VLAN (IEEE 802.1Q 9.6).
#[inline(always)]
fn is_in_vlan(datagram: &Datagram, arrival: Arrival, tag: [u8; 2]) -> bool {
    // At most one of both is there.
    let came = u16::from_be_bytes(datagram.vlan) | u16::from_be_bytes(arrival.vlan);
    (came ^ u16::from_be_bytes(tag)) & IDENTIFIER == 0
}

/// The bits of a tag that name the VLAN.
const IDENTIFIER: u16 = 0x0fff;

/// A key where the verifier wants it.
#[repr(align(8))]
struct OnStack(Key);

/// Whether the checksum is the pseudo-header's alone: a sender on this machine has left the rest
/// to a network card (`CHECKSUM_PARTIAL`). One in 65536 others looks alike, and goes by the
/// relay.
#[inline(always)]
fn is_partial(datagram: &Datagram) -> bool {
    let Key { source, destination, .. } = &datagram.key;
    #[expect(clippy::cast_possible_truncation, reason = "it was read from 16 bits")]
    let udp_length = (datagram.payload_length + 8) as u16;
    datagram.checksum == checksum::pseudo_header(source, destination, udp_length)
}
