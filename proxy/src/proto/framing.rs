//! Datagrams on a stream, as ICE over TCP sends them: the length in two bytes, then the datagram
//! (RFC 4571 2, RFC 6544 3).

use thiserror::Error;

/// What stands in front of a datagram. None if it is longer than a frame can be.
pub fn frame(datagram: &[u8]) -> Option<[u8; HEADER]> {
    u16::try_from(datagram.len()).ok().map(u16::to_be_bytes)
}

/// A frame that is longer than the reader takes; where the next one begins is not looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("frame of {0} bytes is too long")]
pub struct TooLong(pub u16);

/// Gives datagrams of a stream, however its bytes come.
///
/// Holds one frame at most.
#[derive(Debug)]
pub struct Deframer {
    max: u16,
    /// Header and payload of a frame, as far as they have come.
    held: Vec<u8>,
    /// The frame in `held` is the last one given.
    is_given: bool,
}

impl Deframer {
    /// A reader at the start of a stream that takes frames of up to `max` bytes.
    pub const fn new(max: u16) -> Self {
        Self { max, held: Vec::new(), is_given: false }
    }

    /// The next datagram, of one byte at least, and the input goes on behind it. None when the
    /// input is used up: it is asked again with what comes next. An error is the stream's end.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<&[u8]>, TooLong> {
        loop {
            if self.is_given {
                self.held.clear();
                self.is_given = false;
            }
            if !self.fill(HEADER, input) {
                return Ok(None);
            }
            let Some(&length) = self.held.first_chunk() else { return Ok(None) };
            let length = u16::from_be_bytes(length);
            if length > self.max {
                return Err(TooLong(length));
            }
            if !self.fill(HEADER + usize::from(length), input) {
                return Ok(None);
            }
            self.is_given = true;
            // RFC 4571 2: a null packet, nothing to anybody.
            if length > 0 {
                return Ok(self.held.get(HEADER..));
            }
        }
    }

    /// Takes of the input what is missing up to `size` bytes; whether they are there.
    fn fill(&mut self, size: usize, input: &mut &[u8]) -> bool {
        let missing = size.saturating_sub(self.held.len());
        let (now, later) = input.split_at(missing.min(input.len()));
        self.held.extend_from_slice(now);
        *input = later;
        self.held.len() >= size
    }
}

/// Bytes in front of a datagram.
pub const HEADER: usize = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(datagrams: &[Vec<u8>]) -> Vec<u8> {
        let frames = datagrams.iter().map(|datagram| {
            let header = frame(datagram).unwrap();
            [header.as_slice(), datagram].concat()
        });
        frames.collect::<Vec<_>>().concat()
    }

    fn read_all(deframer: &mut Deframer, mut input: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut datagrams = Vec::new();
        while let Some(datagram) = deframer.read(&mut input)? {
            datagrams.push(datagram.to_vec());
        }
        assert!(input.is_empty(), "{} bytes left", input.len());
        Ok(datagrams)
    }

    #[test]
    fn every_split_gives_the_same_datagrams() {
        let datagrams = vec![vec![1], vec![2; 300], vec![], vec![], vec![3; 5]];
        let stream = framed(&datagrams);
        let expected: Vec<_> = datagrams.into_iter().filter(|d| !d.is_empty()).collect();
        for at in 0..=stream.len() {
            let mut deframer = Deframer::new(300);
            let mut read = read_all(&mut deframer, &stream[..at]).unwrap();
            read.extend(read_all(&mut deframer, &stream[at..]).unwrap());
            assert_eq!(read, expected, "cut at {at}");
        }
        let mut deframer = Deframer::new(300);
        let bytes = stream.chunks(1).map(|byte| read_all(&mut deframer, byte).unwrap());
        assert_eq!(bytes.flatten().collect::<Vec<_>>(), expected, "byte by byte");
    }

    #[test]
    fn a_frame_that_is_too_long_ends_the_stream_before_it_comes() {
        let mut deframer = Deframer::new(2048);
        assert_eq!(read_all(&mut deframer, &framed(&[vec![7; 2048]])), Ok(vec![vec![7; 2048]]));
        assert_eq!(read_all(&mut deframer, &[0x08]), Ok(vec![]));
        let mut input = [0x01, 5, 5].as_slice();
        assert_eq!(deframer.read(&mut input), Err(TooLong(2049)));
        assert_eq!(deframer.read(&mut input), Err(TooLong(2049)), "it does not go on");
        assert!(deframer.held.capacity() < 4096, "{} bytes held", deframer.held.capacity());
        assert_eq!(Deframer::new(2048).read(&mut [0xff, 0xff].as_slice()), Err(TooLong(u16::MAX)));
    }

    #[test]
    fn a_datagram_that_fits_no_frame_has_no_header() {
        assert_eq!(frame(&[]), Some([0, 0]));
        assert_eq!(frame(&vec![0; 65535]), Some([0xff, 0xff]));
        assert_eq!(frame(&vec![0; 65536]), None);
    }

    proptest! {
        #[test]
        fn any_datagrams_come_out_of_any_pieces(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..400), 0..9),
            pieces in prop::collection::vec(1..500usize, 1..20),
        ) {
            let stream = framed(&datagrams);
            let mut deframer = Deframer::new(400);
            let (mut read, mut rest) = (Vec::new(), stream.as_slice());
            for length in pieces.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(length.min(rest.len()));
                read.extend(read_all(&mut deframer, now)?);
                rest = later;
            }
            prop_assert_eq!(read, datagrams);
        }
    }
}
