//! The SRT handshake (draft-sharabayko-srt 3.2.1): read strictly, and written again byte for byte.

use std::borrow::Cow;
use std::net::IpAddr;

use thiserror::Error;

use super::packet::{CONTROL, HEADER, Kind, Packet, Sequence, SocketId, write_words};
use super::rejection::Rejection;

/// Bytes of a handshake without extensions, its header included.
pub const BARE: usize = HEADER + 48;

/// Bytes of the longest handshake: what an Ethernet frame carries over IPv4 and UDP, which is
/// also SRT's default.
pub const MAX_HANDSHAKE: usize = 1472;

/// A whole handshake packet. What a proxy has no say in is kept as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// The header's type-specific information, which means nothing here.
    pub info: u32,
    /// Microseconds since the sender's socket began. The receiver takes its time base from it.
    pub timestamp: u32,
    /// The socket that the packet is for; [`SocketId::NONE`] from a caller.
    pub destination: SocketId,
    /// 4 in a caller's induction and from peers of the old protocol, else 5.
    pub version: u32,
    /// Cipher and key length, advertised.
    pub encryption: u16,
    /// Flags of a conclusion's extensions; [`SRT_MAGIC`] in the answer to an induction.
    pub extension: u16,
    /// The first data packet's number, in both directions.
    pub sequence: Sequence,
    /// Bytes of the largest packet, IP and UDP headers included.
    pub mtu: u32,
    /// Packets that the sender lets be in flight.
    pub window: u32,
    /// The step, or the refusal of it.
    pub step: Step,
    /// The sender's socket.
    pub socket_id: SocketId,
    /// What the listener gives out in its answer to an induction, and wants back.
    pub cookie: u32,
    /// The receiver's address as the sender knows it.
    pub peer: PeerIp,
    /// Behind the fixed part.
    pub extensions: Extensions<'a>,
}

/// What a listener of version 5 answers an induction with, as extension field (4.3.1.1).
pub const SRT_MAGIC: u16 = 0x4a17;

/// The handshake type (3.2.1, table 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first packet of each side.
    Induction,
    /// The second one.
    Conclusion,
    /// The listener says no.
    Rejection(Rejection),
    /// Rendezvous, or nothing known.
    Other(u32),
}

impl Step {
    const INDUCTION: u32 = 1;
    const CONCLUSION: u32 = u32::MAX;

    fn new(code: u32) -> Self {
        match (code, Rejection::new(code)) {
            (Self::INDUCTION, _) => Self::Induction,
            (Self::CONCLUSION, _) => Self::Conclusion,
            (_, Some(rejection)) => Self::Rejection(rejection),
            (other, None) => Self::Other(other),
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::Induction => Self::INDUCTION,
            Self::Conclusion => Self::CONCLUSION,
            Self::Rejection(rejection) => rejection.code(),
            Self::Other(code) => code,
        }
    }
}

/// Why a datagram is no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadHandshake {
    /// Another packet, or no packet at all.
    #[error("not a handshake packet")]
    NotAHandshake,
    /// Less than the fixed part.
    #[error("a handshake of {0} bytes")]
    TooShort(usize),
    /// More than [`MAX_HANDSHAKE`].
    #[error("a handshake of {0} bytes")]
    TooLong(usize),
    /// A sequence number of 32 bits.
    #[error("the initial sequence number has its first bit set")]
    Sequence,
    /// Extensions do not end where the packet does.
    #[error("an extension is cut short")]
    Extension,
}

impl<'a> Handshake<'a> {
    /// Reads a datagram that is one handshake, to its last byte.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, BadHandshake> {
        let packet = Packet::parse(datagram).ok_or(BadHandshake::NotAHandshake)?;
        let [first, info, timestamp, destination] = packet.words();
        // libsrt knows no subtype of a handshake.
        if packet.kind() != Kind::Handshake || first != CONTROL {
            return Err(BadHandshake::NotAHandshake);
        }
        if datagram.len() > MAX_HANDSHAKE {
            return Err(BadHandshake::TooLong(datagram.len()));
        }
        let too_short = BadHandshake::TooShort(datagram.len());
        let (fixed, rest) = packet.body().split_first_chunk::<32>().ok_or(too_short)?;
        let (peer, extensions) = rest.split_first_chunk::<16>().ok_or(too_short)?;
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(fixed.as_chunks().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        let [version, fields, sequence, mtu, window, step, socket_id, cookie] = words;
        if Sequence::new(sequence).get() != sequence {
            return Err(BadHandshake::Sequence);
        }
        let [e0, e1, x0, x1] = fields.to_be_bytes();
        Ok(Self {
            info,
            timestamp,
            destination: SocketId(destination),
            version,
            encryption: u16::from_be_bytes([e0, e1]),
            extension: u16::from_be_bytes([x0, x1]),
            sequence: Sequence::new(sequence),
            mtu,
            window,
            step: Step::new(step),
            socket_id: SocketId(socket_id),
            cookie,
            peer: PeerIp(*peer),
            extensions: Extensions::parse(extensions)?,
        })
    }

    /// The fixed part as a packet of its own: all of an induction, an answer to one, and a
    /// rejection.
    pub fn bare(&self) -> [u8; BARE] {
        let words = [
            CONTROL,
            self.info,
            self.timestamp,
            self.destination.0,
            self.version,
            u32::from(self.encryption) << 16 | u32::from(self.extension),
            self.sequence.get(),
            self.mtu,
            self.window,
            self.step.code(),
            self.socket_id.0,
            self.cookie,
        ];
        let mut packet = [0; BARE];
        write_words(&words, &mut packet);
        if let Some(peer) = packet.last_chunk_mut() {
            *peer = self.peer.0;
        }
        packet
    }

    /// Appends the whole packet. What was parsed gives the bytes that it was parsed from.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bare());
        out.extend_from_slice(&self.extensions.0);
    }

    /// The same, apart from the datagram.
    pub fn into_owned(self) -> Handshake<'static> {
        let Self { extensions: Extensions(bytes), .. } = self;
        Handshake { extensions: Extensions(Cow::Owned(bytes.into_owned())), ..self }
    }
}

/// The address of the receiver, which tells it how the sender reaches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerIp([u8; 16]);

impl From<IpAddr> for PeerIp {
    /// The draft does not say in which order the bytes stand; libsrt turns around each word, as
    /// its little-endian peers always have. IPv4 is the first word, and zeros.
    fn from(ip: IpAddr) -> Self {
        let mut bytes = [0; 16];
        match ip.to_canonical() {
            IpAddr::V4(v4) => {
                if let Some(first) = bytes.first_chunk_mut() {
                    *first = v4.octets();
                }
            }
            IpAddr::V6(v6) => bytes = v6.octets(),
        }
        for word in bytes.as_chunks_mut::<4>().0 {
            word.reverse();
        }
        Self(bytes)
    }
}

/// Type and content. A content is whole words of 32 bits.
pub type Extension<'a> = (u16, &'a [u8]);

/// The extensions of a handshake (3.2.1.1), as they came: known to end where the packet ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a>(Cow<'a, [u8]>);

impl<'a> Extensions<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, BadHandshake> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = split_extension(rest).ok_or(BadHandshake::Extension)?;
        }
        Ok(Self(Cow::Borrowed(bytes)))
    }

    /// Each, in their order.
    pub fn iter(&self) -> impl Iterator<Item = Extension<'_>> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (extension, behind) = split_extension(rest)?;
            rest = behind;
            Some(extension)
        })
    }
}

/// The first extension, and what stands behind it. None if it is cut short.
fn split_extension(bytes: &[u8]) -> Option<(Extension<'_>, &[u8])> {
    let (&[t0, t1, w0, w1], rest) = bytes.split_first_chunk()?;
    let words = u16::from_be_bytes([w0, w1]);
    let (content, behind) = rest.split_at_checked(usize::from(words) * 4)?;
    Some(((u16::from_be_bytes([t0, t1]), content), behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDUCTION: &[u8; BARE] = &{
        let mut packet = [0; BARE];
        packet[0] = 0x80;
        packet[19] = 4;
        packet[39] = 1;
        packet
    };

    fn with_extensions(extensions: &[u8]) -> Vec<u8> {
        [INDUCTION.as_slice(), extensions].concat()
    }

    #[test]
    fn the_peers_address_is_turned_around_word_by_word() {
        let of = |ip: &str| PeerIp::from(ip.parse::<IpAddr>().unwrap());
        let v4 = of("127.0.0.1");
        assert_eq!(v4.0, [1, 0, 0, 127, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mapped = of("::ffff:127.0.0.1");
        assert_eq!(mapped, v4);
        let v6 = of("2001:db8:102:304:506:708:90a:b0c");
        assert_eq!(v6.0, [0xb8, 0x0d, 0x01, 0x20, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9]);
    }

    #[test]
    fn extensions_end_where_the_packet_does() {
        for (extensions, expected) in [
            (&b""[..], Ok(vec![])),
            (b"\0\x05\0\0", Ok(vec![(5, 0)])),
            (b"\0\x01\0\x01abcd\0\x05\0\0", Ok(vec![(1, 4), (5, 0)])),
            // Two and three bytes end the existing proxy.
            (b"\0", Err(BadHandshake::Extension)),
            (b"\0\x05", Err(BadHandshake::Extension)),
            (b"\0\x05\0", Err(BadHandshake::Extension)),
            (b"\0\x05\0\x01", Err(BadHandshake::Extension)),
            (b"\0\x05\0\x01abc", Err(BadHandshake::Extension)),
            (b"\0\x05\xff\xffabcd", Err(BadHandshake::Extension)),
            (b"\0\x05\0\x01abcde", Err(BadHandshake::Extension)),
        ] {
            let packet = with_extensions(extensions);
            let found = Handshake::parse(&packet).map(|h| {
                h.extensions.iter().map(|(kind, content)| (kind, content.len())).collect()
            });
            assert_eq!(found, expected, "{extensions:02x?}");
        }
    }

    #[test]
    fn no_prefix_of_a_handshake_is_one() {
        for length in 0..HEADER {
            assert_eq!(Handshake::parse(&INDUCTION[..length]), Err(BadHandshake::NotAHandshake));
        }
        for length in HEADER..BARE {
            assert_eq!(Handshake::parse(&INDUCTION[..length]), Err(BadHandshake::TooShort(length)));
        }
        assert!(Handshake::parse(INDUCTION).is_ok());
    }

    #[test]
    fn what_is_longer_than_a_frame_is_refused() {
        let words = u16::try_from((MAX_HANDSHAKE - BARE) / 4 - 1).unwrap();
        let mut extension = vec![0, 9];
        extension.extend(words.to_be_bytes());
        extension.resize(MAX_HANDSHAKE - BARE, 7);
        assert!(Handshake::parse(&with_extensions(&extension)).is_ok());
        extension.extend([0, 9, 0, 0]);
        let long = with_extensions(&extension);
        assert_eq!(Handshake::parse(&long), Err(BadHandshake::TooLong(MAX_HANDSHAKE + 4)));
    }

    #[test]
    fn other_packets_are_no_handshakes() {
        for (at, value) in [(0, 0), (1, 1), (2, 1), (3, 1)] {
            let mut packet = *INDUCTION;
            packet[at] = value;
            assert_eq!(Handshake::parse(&packet), Err(BadHandshake::NotAHandshake));
        }
        let mut packet = *INDUCTION;
        packet[24] = 0x80;
        assert_eq!(Handshake::parse(&packet), Err(BadHandshake::Sequence));
    }

    #[test]
    fn steps_are_told_by_their_numbers() {
        for (code, step) in [
            (0, Step::Other(0)),
            (1, Step::Induction),
            (u32::MAX, Step::Conclusion),
            (u32::MAX - 1, Step::Other(u32::MAX - 1)),
            (999, Step::Other(999)),
            (1011, Step::Rejection(Rejection::UNSECURE)),
            (0x8000_03f3, Step::Other(0x8000_03f3)),
        ] {
            assert_eq!((Step::new(code), step.code()), (step, code));
        }
    }
}
