//! The flows of the tests, and the core on the host with them.

#![expect(clippy::expect_used, reason = "all flows are made here")]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use proxy_ebpf::maps::{Key, Ports, Tally, Way};
use proxy_ebpf::rewrite::rewrite;
use proxy_ebpf::{
    Arrival, Flows, Frame, FrameMut, MovableFrame, Reason, TrainFrame, decide, parse,
};

/// Ports of a protocol each, and one of both.
pub(crate) const WEBRTC: u16 = 8000;
pub(crate) const SRT: u16 = 10080;
pub(crate) const BOTH: u16 = 9000;

/// Ports of clients: an ordinary one; one whose flow is held, goes through a narrow link, into a
/// VLAN, out of one, or from one to another; one that is behind another interface; one whose flow
/// goes where there is no device; and one without a flow.
pub(crate) const CLIENT: u16 = 50000;
pub(crate) const HELD: u16 = 50001;
pub(crate) const NARROW: u16 = 50002;
pub(crate) const TAGGED: u16 = 50003;
pub(crate) const UNTAGGED: u16 = 50004;
pub(crate) const RETAGGED: u16 = 50005;
pub(crate) const ASIDE: u16 = 50006;
pub(crate) const GONE: u16 = 50007;
pub(crate) const STRANGER: u16 = 50008;
const KNOWN: [u16; 8] = [CLIENT, HELD, NARROW, TAGGED, UNTAGGED, RETAGGED, ASIDE, GONE];

/// The one interface: the loopback device, where the kernel makes test runs.
pub(crate) const INTERFACE: u32 = 1;

/// The tag of frames in a VLAN. Who comes out of it has another priority.
pub(crate) const TAG: [u8; 2] = [0x20, 0x64];

/// The SRT socket of each flow.
pub(crate) const SOCKET: u32 = 0x1122_3344;

/// Client, proxy and origin.
pub(crate) const V4: [[u8; 4]; 3] = [[192, 0, 2, 1], [198, 51, 100, 1], [203, 0, 113, 77]];
pub(crate) const V6: [[u8; 16]; 3] = [host(1), host(2), host(0xff77)];

/// All flows, as the maps have them.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) ports: HashMap<u32, u64>,
    pub(crate) ways: HashMap<Key, Way>,
}

/// What became of a frame on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) reason: Reason,
    /// The frame as it is now.
    pub(crate) frame: Vec<u8>,
    /// Where it went, and what was counted there; the time is left out.
    pub(crate) forwarded: Option<(Way, Tally)>,
}

impl World {
    /// A flow of each kind, both ways apart.
    pub(crate) fn new() -> Self {
        let mut world = Self::default();
        for (port, protocols) in
            [(WEBRTC, Ports::WEBRTC), (SRT, Ports::SRT), (BOTH, Ports::WEBRTC | Ports::SRT)]
        {
            for from in KNOWN {
                world.add(port, protocols, from);
            }
        }
        world
    }

    fn add(&mut self, port: u16, protocols: u64, from: u16) {
        let (word, shift) = Ports::place(port);
        *self.ports.entry(word).or_default() |= protocols << shift;
        let v4 = V4.map(IpAddr::from);
        let v6 = V6.map(IpAddr::from);
        for [client, proxy, origin] in [v4, v6] {
            let at = SocketAddr::new;
            for (bit, socket_id) in [(Ports::WEBRTC, 0), (Ports::SRT, SOCKET)] {
                if protocols & bit == 0 {
                    continue;
                }
                let key = Key::new(at(client, from), at(proxy, port), socket_id);
                let key = key.expect("one family");
                let slot = self.ways.len() as u32;
                let way = Way::new(&key, at(proxy, 20_000 + slot as u16), at(origin, 4000));
                let way = Way {
                    destination_mac: [6, 1, 2, 3, 4, 5],
                    source_mac: [6, 0xa, 0xb, 0xc, 0xd, 0xe],
                    vlan: if [TAGGED, RETAGGED].contains(&from) { [0x20, 0x7b] } else { [0; 2] },
                    mtu: if from == NARROW { 600 } else { 1500 },
                    from_vlan: if [UNTAGGED, RETAGGED].contains(&from) {
                        [0, 0x64]
                    } else {
                        [0; 2]
                    },
                    from_interface: if from == ASIDE { INTERFACE + 1 } else { INTERFACE },
                    flags: if from == HELD { Way::HELD } else { 0 },
                    interface: if from == GONE { INTERFACE + 1 } else { INTERFACE },
                    slot,
                    leg: slot % 2,
                    generation: u64::from(slot) << 33,
                    ..way.expect("one family")
                };
                self.ways.insert(key, way);
            }
        }
    }

    /// What the core makes of `frame` here.
    pub(crate) fn run(&self, frame: &[u8], arrival: Arrival, has_room: bool) -> Outcome {
        let mut host = HostFrame { bytes: frame.to_vec(), has_room };
        let (reason, forwarded) = match self.forward(&mut host, arrival) {
            Ok(forwarded) => (Reason::Forwarded, Some(forwarded)),
            Err(reason) => (reason, None),
        };
        Outcome { reason, frame: host.bytes, forwarded }
    }

    fn forward(&self, frame: &mut HostFrame, arrival: Arrival) -> Result<(Way, Tally), Reason> {
        let datagram = parse::datagram(frame)?;
        let forward = decide(frame, &datagram, arrival, self)?;
        if forward.way.interface != INTERFACE {
            return Err(Reason::NoDevice);
        }
        rewrite(frame, &datagram, forward.way).ok_or(Reason::NoRoom)?;
        let mut tally = Tally::default();
        tally.add(forward.datagrams, datagram.payload_length, 0, forward.progress);
        Ok((*forward.way, tally))
    }
}

impl Flows for World {
    fn ports(&self, word: u32) -> u64 {
        self.ports.get(&word).copied().unwrap_or_default()
    }

    fn way(&self, key: &Key) -> Option<&Way> {
        self.ways.get(key)
    }
}

/// A frame that can be changed as the kernel would let it.
struct HostFrame {
    bytes: Vec<u8>,
    has_room: bool,
}

impl Frame for HostFrame {
    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.read(offset)
    }
}

impl TrainFrame for HostFrame {}

impl FrameMut for HostFrame {
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.bytes.get_mut(offset..)?.first_chunk_mut()? = bytes;
        Some(())
    }
}

impl MovableFrame for HostFrame {
    fn move_start(&mut self, by: i32) -> Option<()> {
        match usize::try_from(by) {
            Ok(less) => drop(self.bytes.drain(..less)),
            Err(_) if !self.has_room => return None,
            Err(_) => drop(self.bytes.splice(..0, vec![0; by.unsigned_abs() as usize])),
        }
        Some(())
    }
}

const fn host(last: u16) -> [u8; 16] {
    let [high, low] = last.to_be_bytes();
    [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low]
}
