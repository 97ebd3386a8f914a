//! What a datagram of a flow carries: media and what media needs, or something for userspace.
#![expect(clippy::inline_always, reason = "as in parse")]

use crate::frame::Frame;
use crate::maps::Tally;
use crate::reason::Reason;

/// Protocols of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SRTP and SRTCP, among STUN and DTLS.
    WebRtc,
    /// SRT.
    Srt,
}

/// How far a flow of SRT has come, as far as one datagram says: as in [`Tally`], zero for not
/// at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Sequence number of a data packet, with [`Tally::IS_SET`].
    pub data: u32,
    /// Sequence number up to which all has come, with [`Tally::IS_SET`].
    pub acknowledged: u32,
}

impl Progress {
    /// Adds what a later datagram says.
    #[must_use]
    #[inline(always)]
    pub const fn then(self, later: Self) -> Self {
        Self {
            data: if later.data == 0 { self.data } else { later.data },
            acknowledged: if later.acknowledged == 0 {
                self.acknowledged
            } else {
                later.acknowledged
            },
        }
    }
}

/// Whether the `length` bytes at `offset` stay in the kernel, and why not.
#[inline(always)]
pub fn classify(
    frame: &(impl Frame + ?Sized),
    protocol: Protocol,
    offset: usize,
    length: u32,
) -> Result<Progress, Reason> {
    match protocol {
        Protocol::WebRtc => webrtc(frame, offset, length),
        Protocol::Srt => srt(frame, offset, length),
    }
}

/// The destination socket id (draft-sharabayko-srt 3), if these bytes can be of SRT.
#[inline(always)]
pub fn socket_id(frame: &(impl Frame + ?Sized), offset: usize, length: u32) -> Option<[u8; 4]> {
    if length < SRT_HEADER {
        return None;
    }
    frame.read_payload(offset + 12)
}

/// By the first byte (RFC 7983 7). One byte alone is nobody's packet.
#[inline(always)]
fn webrtc(frame: &(impl Frame + ?Sized), offset: usize, length: u32) -> Result<Progress, Reason> {
    if length < 2 {
        return Err(Reason::NotMedia);
    }
    let [first, _] = frame.read_payload(offset).ok_or(Reason::Truncated)?;
    match first {
        128..=191 => Ok(Progress::default()),
        0..=3 => Err(Reason::Stun),
        20..=63 => Err(Reason::Dtls),
        _ => Err(Reason::NotMedia),
    }
}

/// By the first bit, and a control packet by its type (draft-sharabayko-srt 3.1 and 3.2).
#[inline(always)]
fn srt(frame: &(impl Frame + ?Sized), offset: usize, length: u32) -> Result<Progress, Reason> {
    if length < SRT_HEADER {
        return Err(Reason::NotMedia);
    }
    let word = frame.read_payload(offset).map(u32::from_be_bytes).ok_or(Reason::Truncated)?;
    if word & Tally::IS_SET == 0 {
        return Ok(Progress { data: word | Tally::IS_SET, acknowledged: 0 });
    }
    match (word >> 16) & 0x7fff {
        // Acknowledgement: the number stands behind the header in all three forms (3.2.4).
        2 => {
            if length < SRT_HEADER + 4 {
                return Err(Reason::NotMedia);
            }
            let number = frame.read_payload(offset + SRT_HEADER as usize);
            let number = number.map(u32::from_be_bytes).ok_or(Reason::Truncated)?;
            Ok(Progress { data: 0, acknowledged: number | Tally::IS_SET })
        }
        // Keep-alive, negative acknowledgement, congestion warning, acknowledgement of an
        // acknowledgement, message drop request, peer error.
        1 | 3 | 4 | 6 | 7 | 8 => Ok(Progress::default()),
        0 => Err(Reason::Handshake),
        5 => Err(Reason::Shutdown),
        _ => Err(Reason::NotMedia),
    }
}

/// Bytes of the header that all packets have.
const SRT_HEADER: u32 = 16;
