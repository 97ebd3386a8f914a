//! Frames of the benches, and the flows to which they belong.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use proxy_ebpf::maps::Key;

/// Who sends a datagram to whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
}

impl Pair {
    /// By what the programs know its datagrams, as WebRTC.
    pub(super) fn key(self) -> Result<Key> {
        Key::new(self.from, self.to, 0).context("addresses of two families")
    }

    /// An RTP packet of this payload size, in a frame that goes over one more hop than it is asked
    /// for.
    pub(super) fn rtp(self, macs: Macs, size: u16, hops: u8) -> Result<Vec<u8>> {
        let length = size + 8;
        let mut datagram = [self.from.port(), self.to.port(), length, 0].map(u16::to_be_bytes);
        let payload: Vec<u8> =
            [0x80, 96].into_iter().chain(0..=u8::MAX).cycle().take(size.into()).collect();
        let (source, destination) = (octets(self.from.ip()), octets(self.to.ip()));
        let pseudo =
            [&[0, PROTOCOL_UDP][..], &length.to_be_bytes(), &source, &destination].concat();
        // What makes addresses mapped ones is 0xffff twice, which is nothing to a checksum.
        let checksum = checksum(&[&pseudo, datagram.as_flattened(), &payload].concat());
        let [.., field] = &mut datagram;
        *field = checksum.to_be_bytes();
        let datagram = [datagram.as_flattened(), &payload].concat();
        self.frame(macs, PROTOCOL_UDP, hops, &datagram)
    }

    /// A frame with these bytes of an IP protocol.
    pub(super) fn frame(self, macs: Macs, protocol: u8, hops: u8, bytes: &[u8]) -> Result<Vec<u8>> {
        let hops = hops + 1;
        let length = u16::try_from(bytes.len())?;
        let ips = (self.from.ip(), self.to.ip());
        let (ethertype, header) = if let (IpAddr::V4(from), IpAddr::V4(to)) = ips {
            let words = [0x4500, length + 20, 0, 0x4000, u16::from_be_bytes([hops, protocol]), 0];
            let words = words.map(u16::to_be_bytes);
            let mut header = [words.as_flattened(), &from.octets(), &to.octets()].concat();
            let sum = checksum(&header).to_be_bytes();
            header.splice(10..12, sum);
            (0x0800_u16, header)
        } else {
            let [high, low] = length.to_be_bytes();
            let front = [0x60, 0, 0, 0, high, low, protocol, hops];
            (0x86dd, [&front[..], &octets(ips.0), &octets(ips.1)].concat())
        };
        Ok([&macs.to[..], &macs.from, &ethertype.to_be_bytes(), &header, bytes].concat())
    }
}

/// Ethernet addresses of a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Macs {
    pub(super) from: [u8; 6],
    pub(super) to: [u8; 6],
}

/// An address as the programs have it.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from_be_bytes([0, 0, high, low]),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while let Ok(carry @ 1..) = u16::try_from(sum >> 16) {
        sum = (sum & 0xffff) + u32::from(carry);
    }
    !u16::try_from(sum).unwrap_or_default()
}

pub(super) const PROTOCOL_UDP: u8 = 17;
