//! Datagrams that come and go together.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use quinn_udp::EcnCodepoint;

/// Datagrams of one sender that came at once, all of one size but for the last.
///
/// The system joins them where it can (UDP GRO), and takes them joined (UDP GSO).
#[derive(Clone, Copy, Debug)]
pub struct Train<'a> {
    /// Who has sent them.
    pub source: SocketAddr,
    /// The address they were sent to, if the system tells it.
    pub destination: Option<IpAddr>,
    /// The datagrams, one behind the other.
    pub bytes: &'a [u8],
    /// Bytes of each but the last. Never zero.
    pub stride: usize,
    /// Marks of congestion on the way (RFC 3168 5).
    pub ecn: Option<EcnCodepoint>,
}

impl<'a> Train<'a> {
    /// Each datagram. One without a byte is none.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.stride)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.stride)
    }

    /// One datagram.
    pub fn alone(source: SocketAddr, bytes: &'a [u8]) -> Self {
        Self { source, destination: None, bytes, stride: bytes.len().max(1), ecn: None }
    }

    /// These bytes out of the same train: whole datagrams.
    #[must_use]
    pub fn part(&self, bytes: &'a [u8]) -> Self {
        Self { bytes, ..*self }
    }
}

/// Bytes of joined datagrams, at most: what IP can carry (RFC 768).
pub(super) const MAX_TRAIN: usize = 64 * 1024;

/// The same for sending, without the headers.
pub(super) const MAX_GSO: usize = 65_000;

thread_local! {
    /// What was joined last on this thread.
    static JOINED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(MAX_TRAIN));
}

/// Joins datagrams of one sender, as the system does where the network card has taken part: what
/// is copied here costs less than a call of the system for each. Gives trains of at most `most`.
pub(super) fn join<'a>(
    trains: impl Iterator<Item = Train<'a>>,
    most: usize,
    take: &mut impl FnMut(Train<'_>),
) {
    JOINED.with_borrow_mut(|joined| {
        let mut trains = trains.peekable();
        while let Some(first) = trains.next() {
            let mut count = first.count();
            // One without a byte is alone.
            let mut is_open = count > 0 && first.bytes.len() == count * first.stride;
            joined.clear();
            while let Some(next) = trains.next_if(|next| {
                let is_alike = next.source == first.source
                    && next.destination == first.destination
                    && next.ecn == first.ecn;
                // One alone: the datagrams of a train have ends of their own.
                let fits = next.bytes.len() <= first.stride.min(next.stride)
                    && !next.bytes.is_empty()
                    && first.bytes.len() + joined.len() + next.bytes.len() <= MAX_GSO;
                is_open && is_alike && fits && count < most
            }) {
                if joined.is_empty() {
                    joined.extend_from_slice(first.bytes);
                }
                joined.extend_from_slice(next.bytes);
                count += 1;
                is_open = next.bytes.len() == first.stride;
            }
            if joined.is_empty() {
                take(first);
            } else {
                take(Train { bytes: joined, ..first });
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn address(source: u8) -> SocketAddr {
        SocketAddr::new([192, 0, 2, source].into(), 5000)
    }

    fn joined(came: &[(u8, &[u8])], most: usize) -> Vec<(u8, usize, Vec<u8>)> {
        let mut trains = Vec::new();
        let came = came.iter().map(|&(source, bytes)| Train::alone(address(source), bytes));
        join(came, most, &mut |train| {
            let IpAddr::V4(ip) = train.source.ip() else { panic!("{}", train.source) };
            trains.push((ip.octets()[3], train.count(), train.bytes.to_vec()));
        });
        trains
    }

    #[test]
    fn datagrams_of_one_sender_and_size_are_joined_and_a_shorter_one_ends_the_train() {
        let came: &[(u8, &[u8])] = &[
            (1, b"aaa"),
            (1, b"bbb"),
            (1, b"cc"),
            (1, b"dd"),
            (1, b"eee"),
            (2, b"fff"),
            (2, b""),
            (2, b"ggg"),
            (2, b""),
            (2, b"h"),
        ];
        let expected = [
            (1, 3, b"aaabbbcc".to_vec()),
            (1, 1, b"dd".to_vec()),
            (1, 1, b"eee".to_vec()),
            (2, 1, b"fff".to_vec()),
            (2, 0, Vec::new()),
            (2, 1, b"ggg".to_vec()),
            (2, 0, Vec::new()),
            (2, 1, b"h".to_vec()),
        ];
        assert_eq!(joined(came, 64), expected);
        let one_by_one: Vec<_> = joined(came, 1).into_iter().map(|(.., bytes)| bytes).collect();
        let sent: Vec<_> = came.iter().map(|(_, bytes)| bytes.to_vec()).collect();
        assert_eq!(one_by_one, sent);
    }

    proptest! {
        /// Whatever the system has joined, each datagram stays itself.
        #[test]
        fn joining_changes_no_datagram(
            came in vec((1..3_u8, 1..40_usize, vec(any::<u8>(), 1..200)), 0..20),
            most in 1..70_usize,
        ) {
            let trains = came.iter().map(|(source, stride, bytes)| {
                Train { stride: *stride, ..Train::alone(address(*source), bytes) }
            });
            let sent: Vec<_> =
                trains.clone().flat_map(|train| train.datagrams().map(<[u8]>::to_vec)).collect();
            let mut got = Vec::new();
            join(trains, most, &mut |train| got.extend(train.datagrams().map(<[u8]>::to_vec)));
            prop_assert_eq!(got, sent);
        }
    }

    #[test]
    fn a_train_is_no_longer_than_can_be_sent_at_once() {
        let datagram = [7; 1000];
        let came = vec![(1, datagram.as_slice()); 200];
        let trains = joined(&came, 64);
        assert_eq!(trains.iter().map(|(_, count, _)| count).sum::<usize>(), 200);
        assert!(trains.iter().all(|(_, count, bytes)| *count <= 64 && bytes.len() <= MAX_GSO));
    }
}
