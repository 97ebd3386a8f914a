//! SRT packets (draft-sharabayko-srt 3): a header of 16 bytes, and the few fields that a relay
//! reads.

use std::fmt;

/// Bytes of every packet's header.
pub const HEADER: usize = 16;

/// Bytes of [`shutdown`].
pub const SHUTDOWN: usize = HEADER + 4;

/// One SRT socket of a peer. Several may share an address and port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

impl SocketId {
    /// The destination of handshakes, before there is a socket.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// The number of a data packet, on a circle of 31 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sequence(u32);

impl Sequence {
    const BITS: u32 = 0x7fff_ffff;

    /// Of the lower 31 bits.
    pub const fn new(number: u32) -> Self {
        Self(number & Self::BITS)
    }

    /// As on the wire.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number behind this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.0 + 1)
    }

    /// How many packets this one is behind `other` in the stream, the shorter way around the
    /// circle; negative if it comes before it.
    pub const fn distance_from(self, other: Self) -> i32 {
        // The sign bit of 31 bits is moved to where an integer has it, and back.
        (self.0.wrapping_sub(other.0) << 1).cast_signed() >> 1
    }
}

/// A datagram's header, and what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    words: [u32; 4],
    body: &'a [u8],
}

/// What a packet is, with the fields that a relay reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Media, by its number (3.1).
    Data(Sequence),
    /// A handshake (3.2.1), to be read by [`super::handshake`].
    Handshake,
    /// All data before `next` has come (3.2.4). The number is zero if no ACKACK is asked for.
    Ack {
        /// Counts the acknowledgements.
        number: u32,
        /// The first data packet that has not come.
        next: Sequence,
    },
    /// Data is missing, up to this number, and what is behind it has come (3.2.5).
    Nak(Sequence),
    /// The acknowledgement of that number has come (3.2.8).
    AckAck(u32),
    /// The peer's socket is closed (3.2.7).
    Shutdown,
    /// Any other control packet, by its type.
    Other(u16),
}

impl<'a> Packet<'a> {
    /// None if there is no whole header.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, body) = datagram.split_first_chunk::<HEADER>()?;
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(header.as_chunks().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        Some(Self { words, body })
    }

    /// What it is. A control packet that is too short for its type is of no use, and
    /// [`Kind::Other`].
    pub fn kind(&self) -> Kind {
        let [first, info, ..] = self.words;
        if first & CONTROL == 0 {
            return Kind::Data(Sequence::new(first));
        }
        match control_type(first) {
            types::HANDSHAKE => Kind::Handshake,
            types::ACK => match self.body.first_chunk() {
                Some(next) => {
                    Kind::Ack { number: info, next: Sequence::new(u32::from_be_bytes(*next)) }
                }
                None => Kind::Other(types::ACK),
            },
            // Ranges and single numbers, in order: the last word is where the last gap ends.
            types::NAK => match self.body.last_chunk() {
                Some(last) => Kind::Nak(Sequence::new(u32::from_be_bytes(*last))),
                None => Kind::Other(types::NAK),
            },
            types::ACKACK => Kind::AckAck(info),
            types::SHUTDOWN => Kind::Shutdown,
            other => Kind::Other(other),
        }
    }

    /// Microseconds since the sender's socket began, modulo 2^32.
    pub fn timestamp(&self) -> u32 {
        self.words[2]
    }

    /// The socket that the packet is for.
    pub fn destination(&self) -> SocketId {
        SocketId(self.words[3])
    }

    /// What stands behind the header.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The four words of the header.
    pub(super) fn words(&self) -> [u32; 4] {
        self.words
    }
}

/// Tells the socket `destination` that its peer is closed. libsrt gives every control packet at
/// least one word of body.
pub fn shutdown(timestamp: u32, destination: SocketId) -> [u8; SHUTDOWN] {
    let first = CONTROL | u32::from(types::SHUTDOWN) << 16;
    let mut packet = [0; SHUTDOWN];
    write_words(&[first, 0, timestamp, destination.0], &mut packet);
    packet
}

/// Writes words from the first byte of `out` on, as many as fit.
pub(super) fn write_words(words: &[u32], out: &mut [u8]) {
    for (bytes, word) in out.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_be_bytes();
    }
}

/// The first bit of a control packet.
pub(super) const CONTROL: u32 = 1 << 31;

fn control_type(first: u32) -> u16 {
    u16::try_from((first & !CONTROL) >> 16).unwrap_or_default()
}

/// Control packets (3.2, table 1).
mod types {
    pub(super) const HANDSHAKE: u16 = 0;
    pub(super) const ACK: u16 = 2;
    pub(super) const SHUTDOWN: u16 = 5;
    pub(super) const NAK: u16 = 3;
    pub(super) const ACKACK: u16 = 6;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(hex: &str) -> Kind {
        Packet::parse(&bytes(hex)).expect("a header").kind()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|two| u8::try_from(two[0] << 4 | two[1]).unwrap()).collect()
    }

    #[test]
    fn each_kind_is_read_as_srs_and_ffmpeg_wrote_it() {
        assert_eq!(
            kind("6175026b e0000001 0000080d 183c0564 47401110"),
            Kind::Data(Sequence::new(0x6175_026b))
        );
        let ack = "80020000 00000001 000001f2 19d4748e 6175026f 000186a0 0000c350 00001fff";
        assert_eq!(kind(ack), Kind::Ack { number: 1, next: Sequence::new(0x6175_026f) });
        assert_eq!(kind("80060000 00000001 00001234 183c0564 00000000"), Kind::AckAck(1));
        assert_eq!(kind("80050000 00000000 0000206a 18bcde2b 00000000"), Kind::Shutdown);
        assert_eq!(kind("80000000 00000000 000000d5 00000000"), Kind::Handshake);
        assert_eq!(kind("80010000 00000000 00000000 183c0564 00000000"), Kind::Other(1));
        assert_eq!(kind("ffff0000 00000000 00000000 183c0564"), Kind::Other(0x7fff));
    }

    #[test]
    fn what_is_shorter_than_its_type_is_of_no_use() {
        assert_eq!(kind("80020000 00000001 000001f2 19d4748e 617502"), Kind::Other(2));
        for length in 0..HEADER {
            assert_eq!(Packet::parse(&vec![0; length]), None);
        }
    }

    #[test]
    fn a_shutdown_is_the_one_that_srs_sends() {
        let recorded = bytes("80050000 00000000 0000206a 18bcde2b 00000000");
        assert_eq!(shutdown(0x206a, SocketId(0x18bc_de2b)).as_slice(), recorded);
    }

    #[test]
    fn numbers_are_compared_the_shorter_way_around() {
        let last = Sequence::new(u32::MAX);
        assert_eq!(last.next(), Sequence::new(0));
        assert_eq!(last.next().distance_from(last), 1);
        assert_eq!(last.distance_from(last.next()), -1);
        assert_eq!(Sequence::new(5).distance_from(Sequence::new(5)), 0);
        assert_eq!(Sequence::new(1 << 30).distance_from(Sequence::new(0)), -(1 << 30));
        assert_eq!(Sequence::new((1 << 30) - 1).distance_from(Sequence::new(0)), (1 << 30) - 1);
    }
}
