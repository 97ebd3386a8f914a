//! What an established session notices in the packets that pass: that a side shuts down, and that
//! the client comes from another address.
//!
//! A socket id can be guessed: SRS counts them. So a packet from an address that is not the
//! client's goes on only if its numbers are where the session is, which nobody knows who has not
//! seen it, and only while the client's own address is silent. Nothing is sent to the new address
//! before the origin's answer has proved it. A packet with wrong numbers must not reach the
//! origin at all: libsrt breaks a connection over a single one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::plane::Leg;
use crate::proto::srt::handshake::Handshake;
use crate::proto::srt::packet::{Kind, Packet, Sequence, SocketId};

/// How long the client's address is silent before another one counts. libsrt keeps alive every
/// second, so a client that is there and has nothing to say just reaches it.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a candidate has to be proved by the origin.
const PROBATION: Duration = Duration::from_secs(2);

/// Acknowledgements of a candidate that an ACKACK may name. libsrt sends a hundred in a second.
const MAX_ACKS: usize = 64;

/// Packets in flight, at most, whatever the handshake says: libsrt's default.
const MAX_WINDOW: u32 = 25_600;

/// The two sockets of a session, and where its packets are.
#[derive(Debug)]
pub struct Established {
    client: SocketId,
    origin: SocketId,
    /// Packets that may be in flight.
    window: i32,
    /// The first data packet that the origin has not acknowledged.
    acknowledged: Sequence,
    /// The data packet that the origin will send next.
    next: Sequence,
    candidate: Option<Candidate>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It goes nowhere.
    Drop,
    /// It goes on, and is the last one: this side has shut down.
    End(Leg),
    /// It goes on, to this address, which is the client's own from now on, and has just been heard.
    Moved(SocketAddr),
}

/// An address that may be the client's.
#[derive(Debug)]
struct Candidate {
    address: SocketAddr,
    since: Instant,
    /// The earliest of its data packets.
    data: Option<Sequence>,
    /// The numbers of its latest acknowledgements.
    acks: VecDeque<u32>,
}

impl Established {
    /// After a conclusion and its answer.
    pub(super) fn new(conclusion: &Handshake<'_>, answer: &Handshake<'_>) -> Self {
        let window = conclusion.window.max(answer.window).clamp(1, MAX_WINDOW);
        Self {
            client: conclusion.socket_id,
            origin: answer.socket_id,
            window: window.cast_signed(),
            // HSv5: both directions begin with the same number (3.2.1).
            acknowledged: answer.sequence,
            next: answer.sequence,
            candidate: None,
        }
    }

    /// The socket to which the origin sends.
    pub fn client(&self) -> SocketId {
        self.client
    }

    /// The socket to which the client sends.
    pub fn origin(&self) -> SocketId {
        self.origin
    }

    /// A packet to the origin's socket, from the client's address.
    pub fn from_client(packet: &Packet<'_>) -> Verdict {
        match packet.kind() {
            Kind::Shutdown => Verdict::End(Leg::Client),
            _ => Verdict::Pass,
        }
    }

    /// A packet to the origin's socket from another address. `heard` is when the client's own
    /// address was heard last.
    pub fn from_elsewhere(
        &mut self,
        packet: &Packet<'_>,
        from: SocketAddr,
        heard: Instant,
        now: Instant,
    ) -> Verdict {
        self.candidate.take_if(|candidate| candidate.is_over(heard, now));
        let is_silent = now.saturating_duration_since(heard) >= SILENCE;
        let is_free = self.candidate.as_ref().is_none_or(|candidate| candidate.address == from);
        if packet.destination() != self.origin || !is_silent || !is_free {
            return Verdict::Drop;
        }
        match packet.kind() {
            Kind::Data(sequence) if self.may_come(sequence) => {
                self.candidate(from, now).sent(sequence);
                Verdict::Pass
            }
            Kind::Ack { number, next } if number != 0 && self.may_be_acknowledged(next) => {
                self.candidate(from, now).acknowledged(number);
                Verdict::Pass
            }
            _ => Verdict::Drop,
        }
    }

    /// A packet of the origin, before it is sent. Each has to pass here: its numbers say where the
    /// session is. `heard` is when the client's own address was heard last.
    pub fn from_origin(&mut self, packet: &Packet<'_>, heard: Instant, now: Instant) -> Verdict {
        if packet.destination() != self.client {
            return Verdict::Drop;
        }
        let kind = packet.kind();
        match kind {
            // The client has its answer, with its own cookie.
            Kind::Handshake => return Verdict::Drop,
            Kind::Shutdown => return Verdict::End(Leg::Origin),
            Kind::Data(sequence) if sequence.distance_from(self.next) >= 0 => {
                self.next = sequence.next();
            }
            Kind::Ack { next, .. } if next.distance_from(self.acknowledged) > 0 => {
                self.acknowledged = next;
            }
            _ => {}
        }
        self.candidate.take_if(|candidate| candidate.is_over(heard, now));
        match self.candidate.take_if(|candidate| candidate.is_proved_by(kind)) {
            Some(proved) => Verdict::Moved(proved.address),
            None => Verdict::Pass,
        }
    }

    /// Data that the origin waits for, within what may be in flight.
    fn may_come(&self, sequence: Sequence) -> bool {
        (0..self.window).contains(&sequence.distance_from(self.acknowledged))
    }

    /// Data that the origin has sent, and that may be in flight.
    fn may_be_acknowledged(&self, next: Sequence) -> bool {
        (0..=self.window).contains(&self.next.distance_from(next))
    }

    fn candidate(&mut self, address: SocketAddr, now: Instant) -> &mut Candidate {
        self.candidate.get_or_insert_with(|| Candidate {
            address,
            since: now,
            data: None,
            acks: VecDeque::new(),
        })
    }
}

impl Candidate {
    /// Not proved in time, or refuted by the client.
    fn is_over(&self, heard: Instant, now: Instant) -> bool {
        heard > self.since || now.saturating_duration_since(self.since) >= PROBATION
    }

    fn sent(&mut self, sequence: Sequence) {
        if self.data.is_none_or(|first| sequence.distance_from(first) < 0) {
            self.data = Some(sequence);
        }
    }

    fn acknowledged(&mut self, number: u32) {
        if self.acks.len() == MAX_ACKS {
            self.acks.pop_front();
        }
        self.acks.push_back(number);
    }

    /// The origin has got data of the candidate, or answers an acknowledgement of it. Its data was
    /// not acknowledged when it came.
    fn is_proved_by(&self, kind: Kind) -> bool {
        match kind {
            Kind::Ack { next, .. } => self.data.is_some_and(|data| next.distance_from(data) > 0),
            Kind::AckAck(number) => self.acks.contains(&number),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{PLAY, PLAY_PACKETS, PUBLISH, PUBLISH_PACKETS, Recorded};
    use super::*;
    use crate::proto::srt::packet::shutdown;

    const ACK: u32 = 0x8002_0000;
    const ACKACK: u32 = 0x8006_0000;
    const NAK: u32 = 0x8003_0000;
    const KEEPALIVE: u32 = 0x8001_0000;

    /// A session whose client is silent from the start, a second ago.
    struct Story {
        session: Established,
        first: Sequence,
        heard: Instant,
        now: Instant,
    }

    impl Story {
        fn of(recorded: &Recorded) -> Self {
            let conclusion = Handshake::parse(recorded.conclusion).unwrap();
            let answer = Handshake::parse(recorded.conclusion_answer).unwrap();
            let heard = Instant::now();
            Self {
                session: Established::new(&conclusion, &answer),
                first: answer.sequence,
                heard,
                now: heard + SILENCE,
            }
        }

        /// A packet from another address, on whose way `from` is the last octet.
        fn elsewhere(&mut self, from: u8, first: u32, info: u32, body: &[u8]) -> Verdict {
            let datagram = packet(self.session.origin, first, info, body);
            let packet = Packet::parse(&datagram).unwrap();
            let from = address(from);
            self.session.from_elsewhere(&packet, from, self.heard, self.now)
        }

        fn data(&mut self, from: u8, number: Sequence) -> Verdict {
            self.elsewhere(from, number.get(), 0, b"media")
        }

        fn ack(&mut self, from: u8, number: u32, next: Sequence) -> Verdict {
            self.elsewhere(from, ACK, number, &next.get().to_be_bytes())
        }

        fn origin(&mut self, first: u32, info: u32, body: &[u8]) -> Verdict {
            let datagram = packet(self.session.client, first, info, body);
            let packet = Packet::parse(&datagram).unwrap();
            self.session.from_origin(&packet, self.heard, self.now)
        }

        fn origin_acks(&mut self, next: Sequence) -> Verdict {
            self.origin(ACK, 1, &next.get().to_be_bytes())
        }

        fn nth(&self, n: u32) -> Sequence {
            Sequence::new(self.first.get().wrapping_add(n))
        }
    }

    fn packet(to: SocketId, first: u32, info: u32, body: &[u8]) -> Vec<u8> {
        let words = [first, info, 0, to.0].map(u32::to_be_bytes);
        [words.as_flattened(), body].concat()
    }

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 5000).into()
    }

    /// What passed between FFmpeg and SRS passes here, and is followed when it comes from another
    /// port from some packet on: what comes in the first second there is lost.
    #[test]
    fn recorded_sessions_pass_and_move() {
        for (recorded, packets) in [(PUBLISH, PUBLISH_PACKETS), (PLAY, PLAY_PACKETS)] {
            let mut story = Story::of(&recorded);
            let half = packets.len() / 2;
            let mut moved = None;
            for (index, [is_origin, datagram @ ..]) in packets.iter().enumerate() {
                let packet = Packet::parse(datagram).unwrap();
                if index < half {
                    story.heard = story.now;
                }
                let verdict = match is_origin {
                    0 if index < half => Established::from_client(&packet),
                    0 => story.session.from_elsewhere(&packet, address(2), story.heard, story.now),
                    _ => story.session.from_origin(&packet, story.heard, story.now),
                };
                match verdict {
                    Verdict::Moved(to) => moved = moved.or(Some((index, to))),
                    Verdict::Pass => {}
                    Verdict::Drop => assert!(index >= half, "packet {index} is dropped"),
                    Verdict::End(leg) => panic!("{leg:?} ended at packet {index}"),
                }
                story.now += Duration::from_millis(if index == half { 1000 } else { 5 });
            }
            let (index, to) = moved.expect("nobody moved");
            assert_eq!(to, address(2));
            assert!(index < half + 20, "moved {} packets later", index - half);
        }
    }

    #[test]
    fn a_publisher_that_moved_is_followed_once_the_origin_has_its_data() {
        let mut story = Story::of(&PUBLISH);
        assert_eq!(story.origin_acks(story.nth(10)), Verdict::Pass);
        assert_eq!(story.data(2, story.nth(12)), Verdict::Pass);
        assert_eq!(story.data(2, story.nth(11)), Verdict::Pass);
        assert_eq!(story.origin_acks(story.nth(11)), Verdict::Pass, "10 was sent before");
        assert_eq!(story.origin_acks(story.nth(13)), Verdict::Moved(address(2)));
        assert_eq!(story.origin_acks(story.nth(14)), Verdict::Pass, "moved twice");
    }

    #[test]
    fn a_player_that_moved_is_followed_once_the_origin_answers_its_acknowledgement() {
        let mut story = Story::of(&PLAY);
        for n in 0..20 {
            assert_eq!(story.origin(story.nth(n).get(), 0, b"media"), Verdict::Pass);
        }
        assert_eq!(story.ack(2, 77, story.nth(18)), Verdict::Pass);
        assert_eq!(story.origin(ACKACK, 76, b""), Verdict::Pass, "another's");
        assert_eq!(story.origin(ACKACK, 77, b""), Verdict::Moved(address(2)));
    }

    #[test]
    fn nobody_moves_a_session_whose_client_is_there() {
        let mut story = Story::of(&PUBLISH);
        story.now = story.heard + SILENCE.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(story.data(6, story.nth(0)), Verdict::Drop);
        assert_eq!(story.ack(6, 1, story.nth(0)), Verdict::Drop);
        // A client that is heard again refutes who came in its silence.
        story.now = story.heard + SILENCE;
        assert_eq!(story.data(6, story.nth(0)), Verdict::Pass);
        story.heard = story.now + Duration::from_millis(1);
        story.now = story.heard;
        assert_eq!(story.origin_acks(story.nth(1)), Verdict::Pass);
        assert_eq!(story.data(6, story.nth(1)), Verdict::Drop);
    }

    #[test]
    fn who_does_not_know_the_numbers_reaches_nobody() {
        let mut story = Story::of(&PUBLISH);
        let window = u32::try_from(story.session.window).unwrap();
        story.origin_acks(story.nth(10));
        for n in [0, 9, 10 + window, 1 << 30] {
            assert_eq!(story.data(6, story.nth(n)), Verdict::Drop, "data {n}");
        }
        story.origin(story.nth(0).get(), 0, b"media");
        for n in [2, 1 << 29, (1_u32 << 31) - window] {
            assert_eq!(story.ack(6, 1, story.nth(n)), Verdict::Drop, "ack of {n}");
        }
        assert_eq!(story.ack(6, 0, story.nth(1)), Verdict::Drop, "a light one");
        let next = story.nth(1).get().to_be_bytes();
        for control in [NAK, KEEPALIVE, ACKACK, 0x8005_0000, 0x8000_0000, 0xffff_0000] {
            assert_eq!(story.elsewhere(6, control, 1, &next), Verdict::Drop, "{control:#x}");
        }
        assert!(story.session.candidate.is_none(), "a candidate out of nothing");
        // Nor is anything kept that would be in the way of the client.
        assert_eq!(story.data(2, story.nth(10)), Verdict::Pass);
    }

    #[test]
    fn one_candidate_at_a_time_has_two_seconds() {
        let mut story = Story::of(&PUBLISH);
        assert_eq!(story.data(2, story.nth(0)), Verdict::Pass);
        assert_eq!(story.data(3, story.nth(0)), Verdict::Drop, "while another is tried");
        story.now += PROBATION;
        assert_eq!(story.origin_acks(story.nth(1)), Verdict::Pass, "too late");
        assert_eq!(story.data(3, story.nth(1)), Verdict::Pass);
        assert_eq!(story.origin_acks(story.nth(2)), Verdict::Moved(address(3)));
    }

    #[test]
    fn a_candidate_keeps_a_bounded_number_of_acknowledgements() {
        let mut story = Story::of(&PLAY);
        for number in 1..=1000 {
            assert_eq!(story.ack(2, number, story.nth(0)), Verdict::Pass);
        }
        assert_eq!(story.session.candidate.as_ref().map(|c| c.acks.len()), Some(MAX_ACKS));
        assert_eq!(story.origin(ACKACK, 1, b""), Verdict::Pass, "forgotten");
        assert_eq!(story.origin(ACKACK, 1000, b""), Verdict::Moved(address(2)));
    }

    #[test]
    fn either_side_ends_the_session_by_its_shutdown() {
        let mut story = Story::of(&PUBLISH);
        let datagram = shutdown(1, story.session.origin());
        let from_client = Packet::parse(&datagram).unwrap();
        assert_eq!(Established::from_client(&from_client), Verdict::End(Leg::Client));
        assert_eq!(story.origin(0x8005_0000, 0, &[0; 4]), Verdict::End(Leg::Origin));
        assert_eq!(story.origin(0x8000_0000, 0, &[0; 48]), Verdict::Drop, "a late handshake");
        let datagram = packet(SocketId(1), KEEPALIVE, 0, b"");
        let to_another = Packet::parse(&datagram).unwrap();
        let verdict = story.session.from_origin(&to_another, story.heard, story.now);
        assert_eq!(verdict, Verdict::Drop);
    }

    #[test]
    fn numbers_wrap() {
        let mut story = Story::of(&PUBLISH);
        let last = Sequence::new(u32::MAX);
        story.session.acknowledged = last;
        assert_eq!(story.data(2, last), Verdict::Pass);
        assert_eq!(story.data(2, last.next()), Verdict::Pass);
        assert_eq!(story.origin_acks(last.next().next()), Verdict::Moved(address(2)));
    }
}
