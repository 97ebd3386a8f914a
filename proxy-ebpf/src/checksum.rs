//! The Internet checksum (RFC 1071), and what a change of some words does to it (RFC 1624).
//!
//! Words are read in the order of the host: the sum does not mind (RFC 1071 2), and the kernel's
//! helpers want it so.
#![expect(clippy::inline_always, reason = "as in parse")]

/// What replacing `old` by `new` adds to the sum under a checksum. Both start at an even offset.
pub fn delta(old: &[u8], new: &[u8]) -> u16 {
    fold(u64::from(!fold(sum(old))) + sum(new))
}

/// The checksum of an IPv4 header after a change.
#[inline(always)]
pub const fn change(checksum: [u8; 2], delta: u32) -> [u8; 2] {
    // RFC 1624 3, equation 3.
    let before = !u16::from_ne_bytes(checksum);
    (!fold(before as u64 + delta as u64)).to_ne_bytes()
}

/// The checksum of a UDP datagram after a change: none stays none, and zero, which would say
/// that there is none, becomes its other form (RFC 768).
#[inline(always)]
pub const fn change_udp(checksum: [u8; 2], delta: u32) -> [u8; 2] {
    match (checksum, change(checksum, delta)) {
        ([0, 0], _) => [0, 0],
        (_, [0, 0]) => [0xff, 0xff],
        (_, changed) => changed,
    }
}

/// The sum of the pseudo-header (RFC 768, RFC 8200 8.1), which a checksum has that is left to a
/// network card. IPv4 addresses are mapped ones: what is before them adds up to nothing.
#[inline(always)]
pub fn pseudo_header(source: &[u8; 16], destination: &[u8; 16], udp_length: u16) -> [u8; 2] {
    let protocol = u16::from_ne_bytes([0, 17]);
    let rest = u64::from(protocol) + u64::from(udp_length.to_be());
    fold(sum(source) + sum(destination) + rest).to_ne_bytes()
}

/// What takes one off the hops of IPv4, whose byte is the first of its word.
pub const HOP_V4: u32 = !u16::from_ne_bytes([1, 0]) as u32;
/// What takes one off the hops of IPv6, whose byte is the last of its word.
pub const HOP_V6: u32 = !u16::from_ne_bytes([0, 1]) as u32;

/// The sum of 32-bit words, not folded; what is left behind them counts as one with zeroes.
#[inline(always)]
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let words = words.iter().chain([&last]);
    words.map(|word| u64::from(u32::from_ne_bytes(*word))).sum()
}

/// Down to 16 bits, carries added (RFC 1071 1).
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "each line halves what can be above")]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
