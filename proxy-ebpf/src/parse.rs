//! Ethernet, VLAN, IPv4, IPv6 and UDP headers, as far as they matter for a datagram's way.
#![expect(
    clippy::inline_always,
    reason = "the verifier follows packet pointers only within one function"
)]

use crate::frame::Frame;
use crate::maps::{Key, is_mapped};
use crate::reason::Reason;

/// The most bytes that [`datagram`] reads from the front of a frame.
pub const MAX_HEADERS: u32 = 14 + 4 + 40 + 8;

/// A whole UDP datagram in its frame. In the kernel it stands on the stack, where the verifier
/// wants words to be aligned: the key is, which comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Datagram {
    /// From where to where, without a socket id.
    pub key: Key,
    /// Which IP it came by.
    pub family: Family,
    /// Whether the frame has a VLAN tag.
    pub is_tagged: bool,
    /// That tag (IEEE 802.1Q 9.6), zero for none.
    pub vlan: [u8; 2],
    /// Whether the frame is for one host alone (IEEE 802.3 3.2.3).
    pub is_unicast: bool,
    /// How often it may still be forwarded, and once more: time to live or hop limit.
    pub hops: u8,
    /// UDP's checksum.
    pub checksum: [u8; 2],
    /// Bytes of the IP packet.
    pub ip_length: u32,
    /// Bytes that the datagram carries.
    pub payload_length: u32,
}

impl Datagram {
    /// Where the IP header is.
    #[inline(always)]
    pub const fn ip(&self) -> usize {
        if self.is_tagged { 14 + 4 } else { 14 }
    }

    /// Where what the datagram carries is.
    #[inline(always)]
    pub const fn payload(&self) -> usize {
        self.ip() + self.family.header() + 8
    }
}

/// Versions of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Family {
    /// Bytes of its header, without options.
    #[inline(always)]
    pub const fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

/// The UDP datagram in `frame`, which starts with its Ethernet header; or else what it is.
#[inline(always)]
pub fn datagram(frame: &(impl Frame + ?Sized)) -> Result<Datagram, Reason> {
    let [first, _] = frame.read(0).ok_or(Reason::Truncated)?;
    let (ethertype, tag) = ethernet(frame)?;
    let ip = if tag.is_some() { 14 + 4 } else { 14 };
    let headers = match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, ip)?,
        ETHERTYPE_IPV6 => ipv6(frame, ip)?,
        _ => return Err(Reason::NotIp),
    };
    udp(frame, tag, &headers, first & 1 == 0)
}

/// The type behind at most one tag, and the tag. A provider's (IEEE 802.1ad) is a type as any other.
/// A length instead of a type (IEEE 802.3 3.2.6) is below every type that is known here.
#[inline(always)]
fn ethernet(frame: &(impl Frame + ?Sized)) -> Result<(u16, Option<[u8; 2]>), Reason> {
    let ethertype = frame.read(12).map(u16::from_be_bytes).ok_or(Reason::Truncated)?;
    if ethertype != ETHERTYPE_VLAN {
        return Ok((ethertype, None));
    }
    let [t0, t1, e0, e1] = frame.read(14).ok_or(Reason::Truncated)?;
    Ok((u16::from_be_bytes([e0, e1]), Some([t0, t1])))
}

/// What an IP header says of a datagram.
struct Ip {
    family: Family,
    source: [u8; 16],
    destination: [u8; 16],
    hops: u8,
    /// Bytes of the packet.
    length: u32,
}

/// RFC 791 3.1.
#[inline(always)]
fn ipv4(frame: &(impl Frame + ?Sized), offset: usize) -> Result<Ip, Reason> {
    let header: [u8; 12] = frame.read(offset).ok_or(Reason::Truncated)?;
    let source = frame.read(offset + 12).ok_or(Reason::Truncated)?;
    let destination = frame.read(offset + 16).ok_or(Reason::Truncated)?;
    let [version_ihl, _, total_0, total_1, _, _, fragment_0, fragment_1, hops, protocol, ..] =
        header;
    let words = version_ihl & 0x0f;
    if version_ihl >> 4 != 4 || words < 5 {
        return Err(Reason::Malformed);
    }
    if protocol != PROTOCOL_UDP {
        return Err(Reason::NotUdp);
    }
    // More fragments, or not the first; reserved and don't-fragment do not matter.
    if u16::from_be_bytes([fragment_0, fragment_1]) & 0x3fff != 0 {
        return Err(Reason::Fragment);
    }
    if words > 5 {
        return Err(Reason::Options);
    }
    Ok(Ip {
        family: Family::V4,
        source: mapped(source),
        destination: mapped(destination),
        hops,
        length: u32::from(u16::from_be_bytes([total_0, total_1])),
    })
}

/// RFC 4291 2.5.5.2, in whole words: byte by byte it takes the kernel some ten times as long.
#[inline(always)]
const fn mapped(address: [u8; 4]) -> [u8; 16] {
    let prefix = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    let [a, b, c, d] = address;
    let low = prefix | u64::from_ne_bytes([0, 0, 0, 0, a, b, c, d]);
    ((low as u128) << if cfg!(target_endian = "little") { 64 } else { 0 }).to_ne_bytes()
}

/// RFC 8200 3.
#[inline(always)]
fn ipv6(frame: &(impl Frame + ?Sized), offset: usize) -> Result<Ip, Reason> {
    let header: [u8; 8] = frame.read(offset).ok_or(Reason::Truncated)?;
    let source = frame.read(offset + 8).ok_or(Reason::Truncated)?;
    let destination = frame.read(offset + 24).ok_or(Reason::Truncated)?;
    let [version, _, _, _, length_0, length_1, next_header, hops] = header;
    if version >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    match next_header {
        PROTOCOL_UDP => {}
        44 => return Err(Reason::Fragment),
        // IANA's list of extension headers, less ESP (50), behind which nothing can be read.
        0 | 43 | 51 | 60 | 135 | 139 | 140 => return Err(Reason::Options),
        _ => return Err(Reason::NotUdp),
    }
    // On the wire these are nobody's (RFC 4291 2.5.5.2); as keys they are those of IPv4.
    if is_mapped(&source) || is_mapped(&destination) {
        return Err(Reason::Malformed);
    }
    let length = 40 + u32::from(u16::from_be_bytes([length_0, length_1]));
    Ok(Ip { family: Family::V6, source, destination, hops, length })
}

/// The UDP length counts its own header, and at most what the IP header has for it (RFC 768).
#[inline(always)]
fn udp(
    frame: &(impl Frame + ?Sized),
    tag: Option<[u8; 2]>,
    ip: &Ip,
    is_unicast: bool,
) -> Result<Datagram, Reason> {
    let offset = if tag.is_some() { 14 + 4 } else { 14 };
    let room = (ip.length as usize).checked_sub(ip.family.header()).ok_or(Reason::Malformed)?;
    let header: [u8; 8] = frame.read(offset + ip.family.header()).ok_or(Reason::Truncated)?;
    let [s0, s1, d0, d1, length_0, length_1, c0, c1] = header;
    let length = u32::from(u16::from_be_bytes([length_0, length_1]));
    if length < 8 || length as usize > room {
        return Err(Reason::Malformed);
    }
    // Without a checksum, over IPv6, is for tunnels alone (RFC 6935 5).
    if ip.family == Family::V6 && [c0, c1] == [0, 0] {
        return Err(Reason::Malformed);
    }
    if frame.length() < offset + ip.length as usize {
        return Err(Reason::Truncated);
    }
    Ok(Datagram {
        key: Key {
            source: ip.source,
            destination: ip.destination,
            source_port: [s0, s1],
            destination_port: [d0, d1],
            socket_id: [0; 4],
        },
        family: ip.family,
        is_tagged: tag.is_some(),
        vlan: tag.unwrap_or_default(),
        is_unicast,
        hops: ip.hops,
        checksum: [c0, c1],
        ip_length: ip.length,
        payload_length: length - 8,
    })
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q 9.6, table 9-1: a customer's tag.
const ETHERTYPE_VLAN: u16 = 0x8100;
const PROTOCOL_UDP: u8 = 17;
