//! What an established session notices in the packets that pass: that a side shuts down, and that
//! the client comes from another port.
//!
//! A socket id can be guessed: SRS counts them. So a packet from a port that is not the client's
//! goes on only if its numbers are where the session is, which nobody knows who has not seen it,
//! and only while the client's own port is silent. Nothing is sent to the new port before the
//! origin's answer has proved it. A packet with wrong numbers must not reach the origin at all:
//! libsrt breaks a connection over a single one.
//!
//! Another IP address is never believed. The numbers show who sends, and nothing of SRT shows that
//! the sender receives where it says: a client could have its stream sent to anybody.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::plane::Leg;
use crate::plane::datagram::{FlowKey, Progress};
use crate::proto::srt::handshake::Handshake;
use crate::proto::srt::packet::{Kind, Packet, Sequence, SocketId};

/// How long the client's port is silent before another one counts. libsrt keeps alive every
/// second, so a client that is there and has nothing to say just reaches it.
pub(super) const SILENCE: Duration = Duration::from_secs(1);

/// How long a candidate has to be proved by the origin.
const PROBATION: Duration = Duration::from_secs(2);

/// Acknowledgements of a candidate that an ACKACK may name. libsrt sends a hundred in a second.
const MAX_ACKS: usize = 64;

/// Wrong packets within one silence, from which on nobody is considered: who guesses has no more
/// than these.
const MAX_WRONG: u32 = 16;

/// Packets in flight, at most, whatever the handshake says: libsrt's default.
const MAX_WINDOW: u32 = 25_600;

/// The two sockets of a session, and where its packets are.
#[derive(Debug)]
pub struct Established {
    ip: IpAddr,
    client: SocketId,
    origin: SocketId,
    /// Packets that may be in flight.
    window: i32,
    /// The first data packet that the origin has not acknowledged. None if nothing of it was seen
    /// since the session was taken over.
    acknowledged: Option<Sequence>,
    /// The data packet that the origin will send next. None as above.
    next: Option<Sequence>,
    candidate: Option<Candidate>,
    wrong: Wrong,
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
    /// It goes on, by this way, which is the client's own from now on, and has just been heard.
    Moved(FlowKey),
}

/// A port that may be the client's.
#[derive(Debug)]
struct Candidate {
    key: FlowKey,
    since: Instant,
    /// The earliest of its data packets.
    data: Option<Sequence>,
    /// The numbers of its latest acknowledgements.
    acks: VecDeque<u32>,
}

/// Packets whose numbers are nowhere near the session.
#[derive(Debug, Default)]
struct Wrong {
    count: u32,
    /// In which silence: when the client was heard before it.
    since: Option<Instant>,
}

impl Established {
    /// After a conclusion from this address, and its answer.
    pub(super) fn new(ip: IpAddr, conclusion: &Handshake<'_>, answer: &Handshake<'_>) -> Self {
        let window = conclusion.window.max(answer.window).clamp(1, MAX_WINDOW);
        Self {
            ip: ip.to_canonical(),
            client: conclusion.socket_id,
            origin: answer.socket_id,
            window: window.cast_signed(),
            // HSv5: both directions begin with the same number (3.2.1).
            acknowledged: Some(answer.sequence),
            next: Some(answer.sequence),
            candidate: None,
            wrong: Wrong::default(),
        }
    }

    /// One that an earlier process has called: where its packets are will be seen.
    pub(super) fn adopted(ip: IpAddr, (client, origin): (SocketId, SocketId), window: u32) -> Self {
        Self {
            ip: ip.to_canonical(),
            client,
            origin,
            window: window.clamp(1, MAX_WINDOW).cast_signed(),
            acknowledged: None,
            next: None,
            candidate: None,
            wrong: Wrong::default(),
        }
    }

    /// Where the client is.
    pub(super) fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Packets that may be in flight.
    pub(super) fn window(&self) -> u32 {
        self.window.cast_unsigned()
    }

    /// The socket to which the origin sends.
    pub fn client(&self) -> SocketId {
        self.client
    }

    /// The socket to which the client sends.
    pub fn origin(&self) -> SocketId {
        self.origin
    }

    /// The way that is tried: it may be the client's.
    pub(super) fn trying(&self) -> Option<FlowKey> {
        self.candidate.as_ref().map(|candidate| candidate.key)
    }

    /// Whether there is one still. `heard` is when the client's own port was heard last.
    pub(super) fn tries(&mut self, heard: Instant, now: Instant) -> bool {
        self.candidate.take_if(|candidate| candidate.is_over(heard, now));
        self.candidate.is_some()
    }

    /// How far the origin has come while nothing of it was seen here: however far that is, it is
    /// later than what was seen.
    pub(super) fn catch_up(&mut self, progress: Progress) {
        let Progress { data, acknowledged } = progress;
        self.next = data.map(|data| Sequence::new(data).next()).or(self.next);
        self.acknowledged = acknowledged.map(Sequence::new).or(self.acknowledged);
    }

    /// A packet to the origin's socket, from the client's own port.
    pub fn from_client(packet: &Packet<'_>) -> Verdict {
        match packet.kind() {
            Kind::Shutdown => Verdict::End(Leg::Client),
            _ => Verdict::Pass,
        }
    }

    /// A packet to the origin's socket from elsewhere. `heard` is when the client's own port was
    /// heard last.
    pub fn from_elsewhere(
        &mut self,
        packet: &Packet<'_>,
        key: &FlowKey,
        heard: Instant,
        now: Instant,
    ) -> Verdict {
        self.candidate.take_if(|candidate| candidate.is_over(heard, now));
        let is_here =
            packet.destination() == self.origin && key.client.ip().to_canonical() == self.ip;
        let is_silent = now.saturating_duration_since(heard) >= SILENCE;
        let is_free = self.candidate.as_ref().is_none_or(|candidate| candidate.key == *key);
        if !is_here || !is_silent || !is_free || self.wrong.are_too_many(heard) {
            return Verdict::Drop;
        }
        // How far data is ahead of what the origin waits for, and an acknowledgement behind what it
        // has sent: no farther than may be in flight.
        let distance = match packet.kind() {
            Kind::Data(sequence) => self.acknowledged.map(|it| sequence.distance_from(it)),
            Kind::Ack { number, next } if number != 0 => self.next.map(|it| it.distance_from(next)),
            _ => None,
        };
        let Some(distance) = distance else { return Verdict::Drop };
        if !(0..self.window).contains(&distance) {
            // What comes once more, because its acknowledgement went elsewhere, is nobody's guess.
            if distance <= -self.window || distance >= self.window {
                self.wrong.count += 1;
            }
            return Verdict::Drop;
        }
        let candidate = self.candidate.get_or_insert_with(|| Candidate {
            key: *key,
            since: now,
            data: None,
            acks: VecDeque::new(),
        });
        match packet.kind() {
            Kind::Data(sequence) => candidate.sent(sequence),
            Kind::Ack { number, .. } => candidate.acknowledged(number),
            _ => {}
        }
        Verdict::Pass
    }

    /// A packet of the origin, before it is sent. Each has to pass here: its numbers say where the
    /// session is. `heard` is when the client's own port was heard last.
    pub fn from_origin(&mut self, packet: &Packet<'_>, heard: Instant, now: Instant) -> Verdict {
        if packet.destination() != self.client {
            return Verdict::Drop;
        }
        let kind = packet.kind();
        match kind {
            // The client has its answer, with its own cookie.
            Kind::Handshake => return Verdict::Drop,
            Kind::Shutdown => return Verdict::End(Leg::Origin),
            Kind::Data(sequence) => self.sent(sequence),
            Kind::Ack { next, .. } => self.acknowledge(next),
            _ => {}
        }
        self.candidate.take_if(|candidate| candidate.is_over(heard, now));
        match self.candidate.take_if(|candidate| candidate.is_proved_by(kind)) {
            Some(proved) => Verdict::Moved(proved.key),
            None => Verdict::Pass,
        }
    }
}

impl Established {
    /// The origin has sent this data packet.
    fn sent(&mut self, sequence: Sequence) {
        if self.next.is_none_or(|next| sequence.distance_from(next) >= 0) {
            self.next = Some(sequence.next());
        }
    }

    /// The origin has all up to this one.
    fn acknowledge(&mut self, next: Sequence) {
        if self.acknowledged.is_none_or(|known| next.distance_from(known) > 0) {
            self.acknowledged = Some(next);
        }
    }
}

impl Wrong {
    /// Whether nobody is considered before the client is heard again.
    fn are_too_many(&mut self, heard: Instant) -> bool {
        if self.since != Some(heard) {
            *self = Self { count: 0, since: Some(heard) };
        }
        self.count >= MAX_WRONG
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
            // The gap that its coming has left: it ends where the candidate's data begins.
            Kind::Nak(last) => self.data == Some(last.next()),
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

    const CLIENT: [u8; 4] = [192, 0, 2, 9];

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
                session: Established::new(CLIENT.into(), &conclusion, &answer),
                first: answer.sequence,
                heard,
                now: heard + SILENCE,
            }
        }

        /// A packet from another port.
        fn elsewhere(&mut self, from: u16, first: u32, info: u32, body: &[u8]) -> Verdict {
            self.by(&port(from), first, info, body)
        }

        fn by(&mut self, key: &FlowKey, first: u32, info: u32, body: &[u8]) -> Verdict {
            let datagram = packet(self.session.origin, first, info, body);
            let packet = Packet::parse(&datagram).unwrap();
            self.session.from_elsewhere(&packet, key, self.heard, self.now)
        }

        fn data(&mut self, from: u16, number: Sequence) -> Verdict {
            self.elsewhere(from, number.get(), 0, b"media")
        }

        fn ack(&mut self, from: u16, number: u32, next: Sequence) -> Verdict {
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

    /// The way from this port of the client.
    fn port(port: u16) -> FlowKey {
        let local = ([198, 51, 100, 1], 20080).into();
        FlowKey { is_tcp: false, client: (CLIENT, port).into(), local, socket_id: Some(1) }
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
                    0 => story.session.from_elsewhere(&packet, &port(2), story.heard, story.now),
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
            assert_eq!(to, port(2));
            assert!(index < half + 20, "moved {} packets later", index - half);
        }
    }

    #[test]
    fn one_that_was_taken_over_follows_its_client_once_its_origin_was_seen() {
        let mut story = Story::of(&PUBLISH);
        let sockets = (story.session.client(), story.session.origin());
        story.session = Established::adopted(CLIENT.into(), sockets, story.session.window());
        assert_eq!(story.data(2, story.nth(12)), Verdict::Drop, "nobody knows what is right");
        assert_eq!(story.origin_acks(story.nth(12)), Verdict::Pass);
        assert_eq!(story.data(2, story.nth(12)), Verdict::Pass);
        assert_eq!(story.origin_acks(story.nth(13)), Verdict::Moved(port(2)));
    }

    #[test]
    fn a_publisher_that_moved_is_followed_once_the_origin_has_its_data() {
        let mut story = Story::of(&PUBLISH);
        assert_eq!(story.origin_acks(story.nth(10)), Verdict::Pass);
        assert_eq!(story.data(2, story.nth(12)), Verdict::Pass);
        assert_eq!(story.data(2, story.nth(11)), Verdict::Pass);
        assert_eq!(story.origin_acks(story.nth(11)), Verdict::Pass, "10 was sent before");
        assert_eq!(story.session.trying(), Some(port(2)));
        assert_eq!(story.origin_acks(story.nth(13)), Verdict::Moved(port(2)));
        assert_eq!(story.session.trying(), None);
        assert_eq!(story.origin_acks(story.nth(14)), Verdict::Pass, "moved twice");
    }

    #[test]
    fn a_publisher_that_moved_is_followed_once_the_origin_misses_what_was_sent_before() {
        let mut story = Story::of(&PUBLISH);
        assert_eq!(story.origin_acks(story.nth(10)), Verdict::Pass);
        assert_eq!(story.data(2, story.nth(50)), Verdict::Pass);
        let gap = |from: Sequence, to: Sequence| {
            [from.get() | 1 << 31, to.get()].map(u32::to_be_bytes).as_flattened().to_vec()
        };
        let former = gap(story.nth(3), story.nth(5));
        assert_eq!(story.origin(NAK, 0, &former), Verdict::Pass, "of before");
        let left = gap(story.nth(10), story.nth(49));
        assert!(matches!(story.origin(NAK, 0, &left), Verdict::Moved(_)));
    }

    #[test]
    fn a_player_that_moved_is_followed_once_the_origin_answers_its_acknowledgement() {
        let mut story = Story::of(&PLAY);
        for n in 0..20 {
            assert_eq!(story.origin(story.nth(n).get(), 0, b"media"), Verdict::Pass);
        }
        assert_eq!(story.ack(2, 77, story.nth(18)), Verdict::Pass);
        assert_eq!(story.origin(ACKACK, 76, b""), Verdict::Pass, "another's");
        assert_eq!(story.origin(ACKACK, 77, b""), Verdict::Moved(port(2)));
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
        assert_eq!(story.session.trying(), None, "a candidate out of nothing");
        // Nor is anything kept that would be in the way of the client.
        assert_eq!(story.data(2, story.nth(10)), Verdict::Pass);
    }

    #[test]
    fn another_ip_address_is_never_believed() {
        let mut story = Story::of(&PLAY);
        story.origin(story.nth(0).get(), 0, b"media");
        let next = story.nth(1).get().to_be_bytes();
        for ip in ["192.0.2.10", "2001:db8::9"] {
            let victim =
                FlowKey { client: (ip.parse::<IpAddr>().unwrap(), 5000).into(), ..port(2) };
            for number in 1..100 {
                assert_eq!(story.by(&victim, ACK, number, &next), Verdict::Drop, "{ip}");
                assert_eq!(story.origin(ACKACK, number, b""), Verdict::Pass, "{ip}");
            }
        }
        let mapped = IpAddr::from(CLIENT).to_string();
        let mapped: IpAddr = format!("::ffff:{mapped}").parse().unwrap();
        let mapped = FlowKey { client: (mapped, 5000).into(), ..port(2) };
        assert_eq!(story.by(&mapped, ACK, 1, &next), Verdict::Pass, "its own, on a socket of both");
        assert_eq!(story.origin(ACKACK, 1, b""), Verdict::Moved(mapped));
    }

    #[test]
    fn who_guesses_has_sixteen_guesses_until_the_client_is_heard() {
        let mut story = Story::of(&PUBLISH);
        story.origin_acks(story.nth(100));
        for n in 0..MAX_WRONG {
            assert_eq!(story.data(6, story.nth(n)), Verdict::Drop, "sent once more");
        }
        for n in 1..MAX_WRONG {
            assert_eq!(story.data(6, story.nth(n << 26)), Verdict::Drop, "a guess");
        }
        assert_eq!(story.data(2, story.nth(100)), Verdict::Pass, "there is one guess left");
        story.now += PROBATION;
        assert_eq!(story.data(6, story.nth(1 << 30)), Verdict::Drop);
        assert_eq!(story.data(2, story.nth(100)), Verdict::Drop, "nobody is considered");
        story.heard = story.now;
        story.now += SILENCE;
        assert_eq!(story.data(2, story.nth(100)), Verdict::Pass, "in another silence");
    }

    #[test]
    fn one_candidate_at_a_time_has_two_seconds() {
        let mut story = Story::of(&PUBLISH);
        assert_eq!(story.data(2, story.nth(0)), Verdict::Pass);
        assert_eq!(story.data(3, story.nth(0)), Verdict::Drop, "while another is tried");
        story.now += PROBATION;
        assert_eq!(story.origin_acks(story.nth(1)), Verdict::Pass, "too late");
        assert_eq!(story.data(3, story.nth(1)), Verdict::Pass);
        assert_eq!(story.origin_acks(story.nth(2)), Verdict::Moved(port(3)));
    }

    #[test]
    fn a_candidate_keeps_a_bounded_number_of_acknowledgements() {
        let mut story = Story::of(&PLAY);
        for number in 1..=1000 {
            assert_eq!(story.ack(2, number, story.nth(0)), Verdict::Pass);
        }
        assert_eq!(story.session.candidate.as_ref().map(|c| c.acks.len()), Some(MAX_ACKS));
        assert_eq!(story.origin(ACKACK, 1, b""), Verdict::Pass, "forgotten");
        assert_eq!(story.origin(ACKACK, 1000, b""), Verdict::Moved(port(2)));
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
        story.session.acknowledged = Some(last);
        assert_eq!(story.data(2, last), Verdict::Pass);
        assert_eq!(story.data(2, last.next()), Verdict::Pass);
        assert_eq!(story.origin_acks(last.next().next()), Verdict::Moved(port(2)));
    }
}
