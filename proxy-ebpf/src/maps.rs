//! The maps: names, capacities, keys and values.
//!
//! Everything in network order is a byte array; whole numbers are in the order of the host.

use core::net::{IpAddr, SocketAddr};

use crate::checksum;
use crate::media::Progress;
use crate::reason::Reason;

/// Packets per [`Reason`], per CPU, of both programs.
pub const COUNTERS: Map = Map::of::<CounterKey, Counter>("SRS_COUNTERS", Reason::ALL.len());

/// Where the packets of each flow go: hash of [`Key`] to [`Way`]. Two entries for each session.
pub const WAYS: Map = Map::of::<Key, Way>("SRS_WAYS", 2 * DEFAULT_FLOWS);

/// Which ports have flows, and of which protocols: array of [`Ports::PER_WORD`] ports in a word.
/// Userspace maps it into its memory.
pub const PORTS: Map = Map::of::<u32, u64>("SRS_PORTS", Ports::WORDS);

/// What has come by each flow: array of [`Tally`], see [`tally_index`]. Userspace maps it into its
/// memory. Made for all possible CPUs when it is loaded.
pub const TALLIES: Map = Map::of::<u32, Tally>("SRS_TALLIES", 2 * DEFAULT_FLOWS);

/// What a daemon that takes over has to know of each session: hash of slots to [`Memo`]. No program
/// reads it.
pub const MEMOS: Map = Map::of::<u32, Memo>("SRS_MEMOS", DEFAULT_FLOWS);

/// The devices that take frames: a `BPF_MAP_TYPE_DEVMAP_HASH` from the index of an interface to
/// a [`Device`] of the same index. The daemon lists each interface that has a program and is up,
/// whichever hook it is, and strikes it out when it goes down: what would leave elsewhere passes up.
/// The kernel strikes out devices that are gone by itself. The library's type is
/// `aya::maps::xdp::DevMapHash`: `insert(index, index, None, 0)`, in the thread's namespace.
pub const DEVICES: Map = Map::of::<u32, Device>("SRS_DEVICES", 64);

/// Every map of the object that is part of the contract.
pub const ALL: [Map; 6] = [COUNTERS, WAYS, PORTS, TALLIES, MEMOS, DEVICES];

/// Every map as it is made for this many `flows`, on a machine with so many possible CPUs.
pub const fn sizes(flows: u32, cpus: u32) -> [Map; ALL.len()] {
    let legs = flows.saturating_mul(2);
    [
        COUNTERS,
        Map { capacity: legs, ..WAYS },
        PORTS,
        Map { capacity: legs.saturating_mul(cpus), ..TALLIES },
        Map { capacity: flows, ..MEMOS },
        DEVICES,
    ]
}

/// Flows for which the maps are made, unless the daemon says otherwise when it loads them.
pub const DEFAULT_FLOWS: usize = 16_384;

/// Name of the constant that says for how many flows the maps were made: a `u32`.
pub const FLOWS_GLOBAL: &str = "SRS_FLOWS";

/// A [`Reason`] as its index.
pub type CounterKey = u32;

/// Packets since the program was loaded, in host byte order. Of what the kernel has merged into
/// one before the TC hook, each counts.
pub type Counter = u64;

/// As the kernel has it (`struct bpf_devmap_val`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Device {
    /// Its index.
    pub interface: u32,
    /// The program that sees frames there as they leave: zero for none.
    pub program: u32,
}

/// By what a datagram finds its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Key {
    /// Who has sent it. IPv4 addresses are mapped ones, `::ffff:192.0.2.1` (RFC 4291 2.5.5.2).
    pub source: [u8; 16],
    /// To whom.
    pub destination: [u8; 16],
    /// The sender's port.
    pub source_port: [u8; 2],
    /// The port it is for.
    pub destination_port: [u8; 2],
    /// SRT's destination socket id (draft-sharabayko-srt 3); zero for WebRTC.
    pub socket_id: [u8; 4],
}

impl Key {
    /// The key of what `source` sends to `destination`; `None` if they are of two families.
    /// Mapped addresses are those of IPv4. `socket_id` is zero for WebRTC.
    pub fn new(source: SocketAddr, destination: SocketAddr, socket_id: u32) -> Option<Self> {
        if !is_one_family(source, destination) {
            return None;
        }
        Some(Self {
            source: mapped(source),
            destination: mapped(destination),
            source_port: source.port().to_be_bytes(),
            destination_port: destination.port().to_be_bytes(),
            socket_id: socket_id.to_be_bytes(),
        })
    }
}

/// What becomes of a datagram that has been found. Of the same family as its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Way {
    /// The sender's address from here on.
    pub source: [u8; 16],
    /// Who gets it.
    pub destination: [u8; 16],
    /// The sender's port from here on.
    pub source_port: [u8; 2],
    /// The port of who gets it.
    pub destination_port: [u8; 2],
    /// Next hop.
    pub destination_mac: [u8; 6],
    /// Own address on the interface where it leaves.
    pub source_mac: [u8; 6],
    /// Tag in which it leaves (IEEE 802.1Q 9.6), zero for none.
    pub vlan: [u8; 2],
    /// What the addresses change in a checksum, for [`crate::checksum`].
    pub addresses_delta: u16,
    /// What the ports change.
    pub ports_delta: u16,
    /// Bytes of the largest IP packet that can leave there.
    pub mtu: u16,
    /// Tag in which it has to come, of which the identifier counts alone; zero for none. It is
    /// that of the next hop towards its sender, as is the interface: what comes from elsewhere
    /// was not sent by whom it says.
    pub from_vlan: [u8; 2],
    /// Zero.
    pub reserved: [u8; 2],
    /// Index of the interface where it has to come.
    pub from_interface: u32,
    /// [`Way::HELD`] or none.
    pub flags: u32,
    /// Index of the interface where it leaves.
    pub interface: u32,
    /// Index of the flow's tallies.
    pub slot: u32,
    /// [`TO_ORIGIN`] or [`TO_CLIENT`].
    pub leg: u32,
    /// Which of the flows that had these addresses, one after the other.
    pub generation: u64,
}

impl Way {
    /// Its packets pass up for the time being.
    pub const HELD: u32 = 1;

    /// The way from `source` to `destination` of what came by `key`, with what both change in a
    /// checksum. All else is left to fill in: `Way { interface, ..way }`. `None` if the three are
    /// not of one family.
    pub fn new(key: &Key, source: SocketAddr, destination: SocketAddr) -> Option<Self> {
        let way = Key::new(source, destination, 0)?;
        if is_mapped(&way.source) != is_mapped(&key.source) {
            return None;
        }
        let before = [key.source, key.destination];
        let after = [way.source, way.destination];
        let ports = |key: &Key| [key.source_port, key.destination_port];
        Some(Self {
            source: way.source,
            destination: way.destination,
            source_port: way.source_port,
            destination_port: way.destination_port,
            destination_mac: [0; 6],
            source_mac: [0; 6],
            vlan: [0; 2],
            addresses_delta: checksum::delta(before.as_flattened(), after.as_flattened()),
            ports_delta: checksum::delta(ports(key).as_flattened(), ports(&way).as_flattened()),
            mtu: 0,
            from_vlan: [0; 2],
            reserved: [0; 2],
            from_interface: 0,
            flags: 0,
            interface: 0,
            slot: 0,
            leg: TO_ORIGIN,
            generation: 0,
        })
    }
}

fn is_one_family(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip().to_canonical().is_ipv4() == other.ip().to_canonical().is_ipv4()
}

fn mapped(address: SocketAddr) -> [u8; 16] {
    match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Whether an address is one of IPv4, in the form of a [`Key`].
#[expect(clippy::inline_always, reason = "as in parse")]
#[inline(always)]
pub(crate) fn is_mapped(address: &[u8; 16]) -> bool {
    matches!(address, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
}

/// Leg of packets for the origin.
pub const TO_ORIGIN: u32 = 0;
/// Leg of packets for the client.
pub const TO_CLIENT: u32 = 1;

/// What one CPU has forwarded of one flow towards one leg. Only grows while the flow is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    /// Datagrams.
    pub packets: u64,
    /// Bytes of their UDP payload.
    pub bytes: u64,
    /// When the last one came, in nanoseconds of `CLOCK_MONOTONIC`.
    pub seen: u64,
    /// SRT: sequence number of the last data packet, with [`Tally::IS_SET`].
    pub data: u32,
    /// SRT: sequence number up to which the last acknowledgement says that all has come, with
    /// [`Tally::IS_SET`].
    pub acknowledged: u32,
}

impl Tally {
    /// Set where there is a sequence number, which has 31 bits (draft-sharabayko-srt 3.1).
    pub const IS_SET: u32 = 1 << 31;

    /// Counts this many `datagrams` with `bytes` in all, which came `now`.
    #[expect(clippy::inline_always, reason = "as in parse")]
    #[inline(always)]
    pub const fn add(&mut self, datagrams: u32, bytes: u32, now: u64, progress: Progress) {
        self.packets += datagrams as u64;
        self.bytes += bytes as u64;
        self.seen = now;
        if progress.data != 0 {
            self.data = progress.data;
        }
        if progress.acknowledged != 0 {
            self.acknowledged = progress.acknowledged;
        }
    }
}

/// Index of a tally: those of one CPU stand together, so that no two CPUs write to one line.
pub const fn tally_index(flows: u32, cpu: u32, slot: u32, leg: u32) -> u32 {
    (cpu * flows + slot) * 2 + leg
}

/// Protocols that have flows on a port, as bits in a word of [`PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports(pub u64);

impl Ports {
    /// A flow of WebRTC.
    pub const WEBRTC: u64 = 1;
    /// A flow of SRT.
    pub const SRT: u64 = 2;
    /// Ports in a word.
    pub const PER_WORD: u16 = 32;
    /// Words of all ports.
    pub const WORDS: usize = 65_536 / Self::PER_WORD as usize;

    /// Where a port stands: the index of its word, and how far its two bits are shifted there.
    pub const fn place(port: u16) -> (u32, u32) {
        ((port / Self::PER_WORD) as u32, (port % Self::PER_WORD) as u32 * 2)
    }
}

/// What is kept of a session for another daemon. The daemon alone knows its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Memo {
    /// How many of the bytes count.
    pub length: u32,
    /// The bytes.
    pub bytes: [u8; Self::MAX],
}

impl Memo {
    /// Bytes of a memo, at most: with it all keys and values of a session are below one KiB, with the
    /// tallies of up to three CPUs.
    pub const MAX: usize = 508;
}

const _: () = assert!(size_of::<CounterKey>() == size_of::<Reason>());
const _: () = assert!(size_of::<CounterKey>() == 4 && size_of::<Counter>() == 8);
const _: () = assert!(size_of::<Key>() == 40 && align_of::<Key>() == 1);
const _: () = assert!(size_of::<Way>() == 88 && align_of::<Way>() == 8);
const _: () = assert!(size_of::<Device>() == 8);
const _: () = assert!(size_of::<Tally>() == 32 && size_of::<Memo>() == 512);

/// What both sides rely on about one map. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its name in the object and in the kernel.
    pub name: &'static str,
    /// Size of a key.
    pub key_size: u32,
    /// Size of a value; a per-CPU map holds one of it per CPU.
    pub value_size: u32,
    /// How many entries it can hold.
    pub capacity: u32,
}

impl Map {
    #[expect(clippy::cast_possible_truncation, reason = "evaluated at build time, and asserted")]
    const fn of<K, V>(name: &'static str, capacity: usize) -> Self {
        // BPF_OBJ_NAME_LEN is 16, with the closing zero.
        assert!(name.len() < 16, "the kernel would cut the name");
        assert!(capacity <= u32::MAX as usize);
        let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
        Self { name, key_size, value_size, capacity: capacity as u32 }
    }
}
