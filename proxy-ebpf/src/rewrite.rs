//! Changes a datagram's headers to those of its way.
#![expect(clippy::inline_always, reason = "as in parse")]

use crate::checksum::{self, HOP_V4};
use crate::frame::{FrameMut, MovableFrame};
use crate::maps::Way;
use crate::parse::{Datagram, Family};

/// Sends `frame`, in which `datagram` was found, on its way. `None`, and nothing is changed, if
/// there is no room for its tag.
#[inline(always)]
pub fn rewrite(frame: &mut impl MovableFrame, datagram: &Datagram, way: &Way) -> Option<()> {
    let is_tagged = way.vlan != [0; 2];
    match (datagram.is_tagged, is_tagged) {
        (false, true) => frame.move_start(-4)?,
        (true, false) => frame.move_start(4)?,
        _ => {}
    }
    if is_tagged {
        let [v0, v1] = way.vlan;
        // IEEE 802.1Q 9.6: a customer's tag.
        frame.write(12, [0x81, 0x00, v0, v1])?;
    }
    let datagram = Datagram { is_tagged, ..*datagram };
    let delta = u32::from(way.addresses_delta) + u32::from(way.ports_delta);
    frame.write(datagram.payload() - 2, checksum::change_udp(datagram.checksum, delta))?;
    headers(frame, &datagram, way)
}

/// MACs, addresses, hops and ports, where the frame has the tag that `datagram` says: all but the
/// tag itself and UDP's checksum.
#[inline(always)]
pub fn headers(frame: &mut impl FrameMut, datagram: &Datagram, way: &Way) -> Option<()> {
    let [d0, d1, d2, d3, d4, d5] = way.destination_mac;
    let [s0, s1, s2, s3, s4, s5] = way.source_mac;
    frame.write(0, [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5])?;
    let ip = datagram.ip();
    let hops = datagram.hops.wrapping_sub(1);
    match datagram.family {
        Family::V4 => {
            let before = frame.read(ip + 10)?;
            let delta = u32::from(way.addresses_delta) + HOP_V4;
            let [c0, c1] = checksum::change(before, delta);
            frame.write(ip + 8, [hops, UDP, c0, c1])?;
            let [.., s0, s1, s2, s3] = way.source;
            let [.., d0, d1, d2, d3] = way.destination;
            frame.write(ip + 12, [s0, s1, s2, s3, d0, d1, d2, d3])?;
        }
        Family::V6 => {
            frame.write(ip + 6, [UDP, hops])?;
            frame.write(ip + 8, way.source)?;
            frame.write(ip + 24, way.destination)?;
        }
    }
    let [s0, s1] = way.source_port;
    let [d0, d1] = way.destination_port;
    frame.write(datagram.payload() - 8, [s0, s1, d0, d1])
}

/// What stands beside the hops in both versions of IP.
const UDP: u8 = 17;
