//! Ethernet, VLAN, IPv4, IPv6 and UDP headers, read as far as is needed to name a frame.

use crate::frame::Frame;
use crate::reason::Reason;

/// The most bytes that [`classify`] reads from the front of a frame.
pub const MAX_HEADERS: u32 = 14 + 4 * MAX_VLAN_TAGS + 40 + 8;

/// What `frame` is. It starts with its Ethernet header.
#[expect(
    clippy::inline_always,
    reason = "the verifier follows packet pointers only within one function"
)]
#[inline(always)]
pub fn classify(frame: &(impl Frame + ?Sized)) -> Reason {
    match datagram(frame) {
        Ok(()) => Reason::OtherPort,
        Err(reason) => reason,
    }
}

/// Succeeds for a whole UDP datagram, and else says what the frame is.
#[expect(clippy::inline_always, reason = "as classify")]
#[inline(always)]
fn datagram(frame: &(impl Frame + ?Sized)) -> Result<(), Reason> {
    let (ethertype, offset) = ethernet(frame)?;
    let (offset, room) = match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, offset)?,
        ETHERTYPE_IPV6 => ipv6(frame, offset)?,
        _ => return Err(Reason::NotIp),
    };
    udp(frame, offset, room)
}

/// The type behind at most [`MAX_VLAN_TAGS`] tags, and the offset of what it announces.
/// A length instead of a type (IEEE 802.3 3.2.6) is below every type that is known here.
#[expect(clippy::inline_always, reason = "as classify")]
#[inline(always)]
fn ethernet(frame: &(impl Frame + ?Sized)) -> Result<(u16, usize), Reason> {
    let mut offset = 12;
    for _ in 0..=MAX_VLAN_TAGS {
        let ethertype = frame.read(offset).map(u16::from_be_bytes).ok_or(Reason::Truncated)?;
        if !matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) {
            return Ok((ethertype, offset + 2));
        }
        offset += 4;
    }
    Err(Reason::NotIp)
}

/// The offset of the UDP header, and the bytes that the IPv4 header (RFC 791 3.1) has for it.
#[expect(clippy::inline_always, reason = "as classify")]
#[inline(always)]
fn ipv4(frame: &(impl Frame + ?Sized), offset: usize) -> Result<(usize, u16), Reason> {
    let header: [u8; 20] = frame.read(offset).ok_or(Reason::Truncated)?;
    let [version_ihl, _, total_0, total_1, _, _, fragment_0, fragment_1, _, protocol, ..] = header;
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
    let total = u16::from_be_bytes([total_0, total_1]);
    let room = total.checked_sub(20).ok_or(Reason::Malformed)?;
    Ok((offset + 20, room))
}

/// The offset of the UDP header, and the bytes that the IPv6 header (RFC 8200 3) has for it.
#[expect(clippy::inline_always, reason = "as classify")]
#[inline(always)]
fn ipv6(frame: &(impl Frame + ?Sized), offset: usize) -> Result<(usize, u16), Reason> {
    let header: [u8; 40] = frame.read(offset).ok_or(Reason::Truncated)?;
    let [version, _, _, _, length_0, length_1, next_header, ..] = header;
    if version >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    match next_header {
        PROTOCOL_UDP => Ok((offset + 40, u16::from_be_bytes([length_0, length_1]))),
        44 => Err(Reason::Fragment),
        // IANA's list of extension headers, less ESP (50), behind which nothing can be read.
        0 | 43 | 51 | 60 | 135 | 139 | 140 => Err(Reason::Options),
        _ => Err(Reason::NotUdp),
    }
}

/// The UDP length counts its own header, and at most what the IP header has for it (RFC 768).
#[expect(clippy::inline_always, reason = "as classify")]
#[inline(always)]
fn udp(frame: &(impl Frame + ?Sized), offset: usize, room: u16) -> Result<(), Reason> {
    let header: [u8; 8] = frame.read(offset).ok_or(Reason::Truncated)?;
    let [_, _, _, _, length_0, length_1, ..] = header;
    let length = u16::from_be_bytes([length_0, length_1]);
    if length < 8 || length > room {
        return Err(Reason::Malformed);
    }
    Ok(())
}

const MAX_VLAN_TAGS: u32 = 2;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q 9.6, table 9-1: customer and service tags.
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
const PROTOCOL_UDP: u8 = 17;
