//! One caller's handshake, repeated at an origin.
//!
//! The caller's induction was answered at the door and is forgotten; all that an origin wants to
//! know of it stands in the conclusion.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::door::Asked;
use super::established::Established;
use crate::proto::srt::handshake::{Extensions, Handshake, SRT_MAGIC, Step};
use crate::proto::srt::packet::SocketId;
use crate::proto::srt::rejection::{Rejection, reject};

/// An unanswered packet is sent again so often; libsrt does the same.
const RETRY: Duration = Duration::from_millis(250);

/// The handshake with the origins of one accepted conclusion, from the first origin to the answer.
#[derive(Debug)]
pub struct OriginHandshake {
    client: IpAddr,
    /// As the client sent it, with its cookie.
    conclusion: Handshake<'static>,
    /// When it came.
    since: Instant,
    /// How long an origin has for its answer to the conclusion.
    patience: Duration,
    /// When the client has to be answered.
    deadline: Instant,
    stage: Stage,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Send this to the origin.
    ToOrigin(Vec<u8>),
    /// Send this to the client, from the listener's socket.
    ToClient(Vec<u8>),
    /// The client has its answer, and packets may pass.
    Established(Established),
    /// The client is refused.
    Rejected(Rejection),
    /// The origin did not answer in time. The client knows nothing of it: there may be another
    /// origin, for [`OriginHandshake::begin`], or else a [`OriginHandshake::reject`].
    TimedOut,
}

#[derive(Debug)]
enum Stage {
    /// No origin is asked.
    Idle,
    /// An origin is asked.
    Asked(Attempt),
    /// The client is answered.
    Answered {
        /// With the client's cookie and address.
        answer: Handshake<'static>,
        at: Instant,
    },
    /// The client has shown that it has the answer.
    Confirmed,
}

/// The handshake with one origin.
#[derive(Debug)]
struct Attempt {
    origin: IpAddr,
    /// Of the origin's answer to the induction.
    cookie: Option<u32>,
    /// When the same is sent again.
    retry: Instant,
    /// When the origin is given up, unless it answers the induction before.
    end: Instant,
}

impl OriginHandshake {
    /// Waits for [`Self::begin`]. `patience` is how long an origin has for its answer to the
    /// conclusion, `deadline` when the last one is given up.
    pub fn new(asked: Asked<'_>, patience: Duration, deadline: Instant, now: Instant) -> Self {
        Self {
            client: asked.client.ip(),
            conclusion: asked.handshake.into_owned(),
            since: now,
            patience,
            deadline,
            stage: Stage::Idle,
        }
    }

    /// Whether a conclusion of the same client is this one, sent again. If not, it is that of a
    /// new connection.
    pub fn is_repeated_by(&self, asked: &Asked<'_>) -> bool {
        let Handshake { socket_id, sequence, extensions, .. } = &self.conclusion;
        let other = &asked.handshake;
        (*socket_id, *sequence) == (other.socket_id, other.sequence)
            && *extensions == other.extensions
            && self.client == asked.client.ip()
    }

    /// Asks an origin, which has `patience` for its answer to the induction; what another one says
    /// from now on has to be kept away.
    pub fn begin(&mut self, origin: IpAddr, patience: Duration, now: Instant) -> Vec<Action> {
        self.stage =
            Stage::Asked(Attempt { origin, cookie: None, retry: now + RETRY, end: now + patience });
        self.ask(now)
    }

    /// The client's conclusion has come once more: answered again, or still under way.
    pub fn repeated(&self, now: Instant) -> Vec<Action> {
        match &self.stage {
            Stage::Answered { answer, at } => vec![Action::ToClient(aged(answer, *at, now))],
            Stage::Idle | Stage::Asked(_) | Stage::Confirmed => Vec::new(),
        }
    }

    /// The client has sent something to the origin's socket: it has the answer.
    pub fn confirm(&mut self) {
        if matches!(self.stage, Stage::Answered { .. }) {
            self.stage = Stage::Confirmed;
        }
    }

    /// Reads what the origin sent. What is no answer to the last question is dropped.
    pub fn receive(&mut self, datagram: &[u8], now: Instant) -> Vec<Action> {
        let Stage::Asked(attempt) = &mut self.stage else { return Vec::new() };
        let Ok(answer) = Handshake::parse(datagram) else { return Vec::new() };
        if answer.destination != self.conclusion.socket_id {
            return Vec::new();
        }
        match (answer.step, attempt.cookie) {
            (Step::Rejection(why), _) => self.answer(answer, Action::Rejected(why), now),
            // 4.3.1.1: an older listener does not understand the conclusion of an HSv5 caller.
            (Step::Induction, None) if answer.version < 5 || answer.extension != SRT_MAGIC => {
                self.reject(Rejection::VERSION, now)
            }
            (Step::Induction, None) => {
                attempt.cookie = Some(answer.cookie);
                attempt.retry = now + RETRY;
                attempt.end = (now + self.patience).min(self.deadline);
                self.ask(now)
            }
            (Step::Conclusion, Some(_)) if answer.socket_id != SocketId::NONE => {
                let established = Established::new(self.client, &self.conclusion, &answer);
                self.answer(answer, Action::Established(established), now)
            }
            _ => Vec::new(),
        }
    }

    /// Does what [`Self::deadline`] was for.
    pub fn wake(&mut self, now: Instant) -> Vec<Action> {
        let Stage::Asked(attempt) = &mut self.stage else { return Vec::new() };
        if now >= attempt.end {
            self.stage = Stage::Idle;
            return vec![Action::TimedOut];
        }
        if now < attempt.retry {
            return Vec::new();
        }
        attempt.retry = now + RETRY;
        self.ask(now)
    }

    /// When [`Self::wake`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Asked(attempt) => Some(attempt.retry.min(attempt.end)),
            Stage::Idle | Stage::Answered { .. } | Stage::Confirmed => None,
        }
    }

    /// Tells the client that it gets no origin.
    pub fn reject(&mut self, why: Rejection, now: Instant) -> Vec<Action> {
        self.answer(reject(&self.conclusion, why), Action::Rejected(why), now)
    }

    /// Whether the client is told, for as long as it asks, that it gets no origin.
    pub fn is_rejected(&self) -> bool {
        let Stage::Answered { answer, .. } = &self.stage else { return false };
        matches!(answer.step, Step::Rejection(_))
    }

    /// The packet that the origin has to answer next.
    fn ask(&self, now: Instant) -> Vec<Action> {
        let Stage::Asked(attempt) = &self.stage else { return Vec::new() };
        let question = match attempt.cookie {
            Some(cookie) => Handshake { cookie, ..self.conclusion.clone() },
            None => induction(&self.conclusion),
        };
        let question = Handshake { peer: attempt.origin.into(), ..question };
        vec![Action::ToOrigin(aged(&question, self.since, now))]
    }

    /// Brings an answer to the client, and keeps it in case that it is lost.
    fn answer(&mut self, answer: Handshake<'_>, outcome: Action, now: Instant) -> Vec<Action> {
        let answer = Handshake {
            cookie: self.conclusion.cookie,
            peer: self.client.into(),
            ..answer.into_owned()
        };
        let to_client = aged(&answer, now, now);
        self.stage = Stage::Answered { answer, at: now };
        vec![Action::ToClient(to_client), outcome]
    }
}

/// The induction of the caller of a conclusion, as libsrt writes it (4.3.1.1): the extension
/// field is UDT's type of socket, datagrams.
fn induction<'a>(conclusion: &Handshake<'a>) -> Handshake<'a> {
    Handshake {
        version: 4,
        encryption: 0,
        extension: 2,
        step: Step::Induction,
        cookie: 0,
        extensions: Extensions::default(),
        ..*conclusion
    }
}

/// The packet with its timestamp moved on by the time that it was kept here. The receiver takes
/// the timestamp for the time at which the packet came, and plays the media by that.
fn aged(handshake: &Handshake<'_>, since: Instant, now: Instant) -> Vec<u8> {
    let kept = now.saturating_duration_since(since).as_micros();
    // Modulo 2^32, as timestamps are.
    let kept = u32::try_from(kept & u128::from(u32::MAX)).unwrap_or_default();
    let timestamp = handshake.timestamp.wrapping_add(kept);
    let mut packet = Vec::new();
    Handshake { timestamp, ..handshake.clone() }.write(&mut packet);
    packet
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::recorded::{PLAY, PUBLISH, REFUSED, Recorded};
    use super::super::{Cookies, Door, Knock};
    use super::*;
    use crate::proto::srt::handshake::PeerIp;

    const CLIENT: &str = "192.0.2.9:40448";
    const ORIGIN: &str = "198.51.100.7";
    const PATIENCE: Duration = Duration::from_secs(1);

    /// A caller that has come through the door.
    struct Story {
        handshake: OriginHandshake,
        /// What the door gave it.
        cookie: u32,
        now: Instant,
    }

    impl Story {
        fn of(recorded: &Recorded) -> Self {
            let now = Instant::now();
            let client: SocketAddr = CLIENT.parse().unwrap();
            let door = Door::new(Cookies::new(&[1; 32], now));
            let Knock::Induction(answer) = door.knock(recorded.induction, client, now) else {
                panic!("the induction is not answered");
            };
            let cookie = Handshake::parse(&answer).unwrap().cookie;
            let mut conclusion = Handshake::parse(recorded.conclusion).unwrap();
            conclusion.cookie = cookie;
            let mut datagram = Vec::new();
            conclusion.write(&mut datagram);
            let Knock::Ask(asked) = door.knock(&datagram, client, now) else {
                panic!("the conclusion is not taken");
            };
            let handshake = OriginHandshake::new(*asked, PATIENCE, now + 5 * PATIENCE, now);
            Self { handshake, cookie, now }
        }

        fn begin(&mut self) -> Vec<Action> {
            self.handshake.begin(ORIGIN.parse().unwrap(), PATIENCE, self.now)
        }

        /// `milliseconds` later.
        fn pass(&mut self, milliseconds: u64) {
            self.now += Duration::from_millis(milliseconds);
        }

        fn receive(&mut self, datagram: &[u8]) -> Vec<Action> {
            self.handshake.receive(datagram, self.now)
        }
    }

    fn to_origin(actions: &[Action]) -> &[u8] {
        let [Action::ToOrigin(packet)] = actions else { panic!("{actions:?}") };
        packet
    }

    /// The packet of a recording with another cookie, address or timestamp.
    fn changed(packet: &[u8], change: impl FnOnce(&mut Handshake<'_>)) -> Vec<u8> {
        let mut handshake = Handshake::parse(packet).unwrap();
        change(&mut handshake);
        let mut packet = Vec::new();
        handshake.write(&mut packet);
        packet
    }

    fn peer(ip: &str) -> PeerIp {
        ip.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn both_legs_see_what_was_recorded_without_a_proxy() {
        for recorded in [PUBLISH, PLAY, REFUSED] {
            let mut story = Story::of(&recorded);
            let asked_at = Handshake::parse(recorded.conclusion).unwrap().timestamp;
            let expected = changed(recorded.induction, |induction| {
                induction.peer = peer(ORIGIN);
                induction.timestamp = asked_at;
            });
            assert_eq!(to_origin(&story.begin()), expected);

            story.pass(3);
            let expected = changed(recorded.conclusion, |conclusion| {
                conclusion.peer = peer(ORIGIN);
                conclusion.timestamp = asked_at + 3000;
            });
            assert_eq!(to_origin(&story.receive(recorded.induction_answer)), expected);

            let actions = story.receive(recorded.conclusion_answer);
            let [Action::ToClient(answer), outcome] = actions.as_slice() else {
                panic!("{actions:?}");
            };
            let cookie = story.cookie;
            let expected = changed(recorded.conclusion_answer, |answer| {
                answer.cookie = cookie;
                answer.peer = peer("192.0.2.9");
            });
            assert_eq!(*answer, expected);
            match Handshake::parse(recorded.conclusion_answer).unwrap() {
                Handshake { step: Step::Rejection(why), .. } => {
                    assert!(matches!(outcome, Action::Rejected(found) if *found == why));
                    assert_eq!(why, Rejection::UNSECURE);
                }
                Handshake { socket_id, .. } => {
                    let Action::Established(established) = outcome else { panic!("{outcome:?}") };
                    assert_eq!(established.origin(), socket_id);
                }
            }
            assert_eq!(story.handshake.deadline(), None);
        }
    }

    #[test]
    fn a_lost_packet_is_sent_again_until_the_origins_time_is_over() {
        let mut story = Story::of(&PUBLISH);
        let induction = to_origin(&story.begin()).to_vec();
        story.pass(249);
        assert!(story.handshake.wake(story.now).is_empty(), "too early");
        story.pass(1);
        assert_eq!(story.handshake.deadline(), Some(story.now));
        let again = story.handshake.wake(story.now);
        let later = changed(&induction, |induction| induction.timestamp += 250_000);
        assert_eq!(to_origin(&again), later);

        let conclusion = to_origin(&story.receive(PUBLISH.induction_answer)).to_vec();
        assert!(story.receive(PUBLISH.induction_answer).is_empty(), "the second induction's");
        story.pass(250);
        let again = story.handshake.wake(story.now);
        let later = changed(&conclusion, |conclusion| conclusion.timestamp += 250_000);
        assert_eq!(to_origin(&again), later);

        story.pass(749);
        assert!(matches!(story.handshake.wake(story.now).as_slice(), [Action::ToOrigin(_)]));
        story.pass(1);
        let actions = story.handshake.wake(story.now);
        assert!(matches!(actions.as_slice(), [Action::TimedOut]), "{actions:?}");
        assert!(story.receive(PUBLISH.conclusion_answer).is_empty(), "too late");
        assert_eq!(story.handshake.deadline(), None);

        // Another origin knows nothing of the first one's cookie.
        let actions = story.begin();
        let again = Handshake::parse(to_origin(&actions)).unwrap();
        assert_eq!((again.step, again.cookie), (Step::Induction, 0));
        assert!(story.receive(PUBLISH.conclusion_answer).is_empty(), "the first origin's");
    }

    #[test]
    fn the_conclusion_has_its_own_time_until_the_client_has_to_be_answered() {
        let mut story = Story::of(&PUBLISH);
        let is_over = |story: &mut Story| {
            matches!(story.handshake.wake(story.now).as_slice(), [Action::TimedOut])
        };
        story.begin();
        story.pass(999);
        story.receive(PUBLISH.induction_answer);
        story.pass(999);
        assert!(!is_over(&mut story), "the origin was slow before");
        story.pass(1);
        assert!(is_over(&mut story));

        story.pass(2300);
        story.begin();
        story.pass(200);
        story.receive(PUBLISH.induction_answer);
        story.pass(500);
        assert!(!is_over(&mut story));
        story.pass(2);
        assert!(is_over(&mut story), "five seconds after the client asked");
    }

    #[test]
    fn a_client_that_repeats_its_conclusion_is_answered_once_there_is_an_answer() {
        let mut story = Story::of(&PUBLISH);
        story.begin();
        assert!(story.handshake.repeated(story.now).is_empty());
        story.receive(PUBLISH.induction_answer);
        assert!(story.handshake.repeated(story.now).is_empty());
        let actions = story.receive(PUBLISH.conclusion_answer);
        let [Action::ToClient(answer), Action::Established(_)] = actions.as_slice() else {
            panic!("{actions:?}");
        };
        assert!(story.receive(PUBLISH.conclusion_answer).is_empty(), "the answer twice");
        for _ in 0..3 {
            story.pass(250);
            let actions = story.handshake.repeated(story.now);
            let [Action::ToClient(again)] = actions.as_slice() else { panic!("{actions:?}") };
            let [first, again] =
                [answer, again].map(|packet| changed(packet, |answer| answer.timestamp = 0));
            assert_eq!(again, first);
        }
        story.handshake.confirm();
        assert!(story.handshake.repeated(story.now).is_empty(), "the client has the answer");
    }

    #[test]
    fn a_client_without_an_origin_is_told_so_as_often_as_it_asks() {
        let mut story = Story::of(&PUBLISH);
        let actions = story.handshake.reject(Rejection::GATEWAY, story.now);
        let [Action::ToClient(answer), Action::Rejected(Rejection::GATEWAY)] = actions.as_slice()
        else {
            panic!("{actions:?}");
        };
        let read = Handshake::parse(answer).unwrap();
        assert_eq!(read.step, Step::Rejection(Rejection::GATEWAY));
        assert!(story.handshake.is_rejected());
        assert_eq!((read.destination, read.cookie), (SocketId(0x19d4_748e), story.cookie));
        let actions = story.handshake.repeated(story.now);
        assert!(matches!(actions.as_slice(), [Action::ToClient(again)] if again == answer));
    }

    #[test]
    fn an_origin_that_speaks_hsv4_only_cannot_be_asked() {
        let mut story = Story::of(&PUBLISH);
        story.begin();
        let old = changed(PUBLISH.induction_answer, |answer| answer.version = 4);
        let actions = story.receive(&old);
        assert!(
            matches!(actions.as_slice(), [_, Action::Rejected(Rejection::VERSION)]),
            "{actions:?}"
        );
    }

    #[test]
    fn what_is_no_answer_to_the_last_question_is_dropped() {
        let mut story = Story::of(&PUBLISH);
        story.begin();
        assert!(story.receive(PUBLISH.conclusion_answer).is_empty(), "before its question");
        let others = changed(PUBLISH.induction_answer, |answer| answer.destination.0 ^= 1);
        assert!(story.receive(&others).is_empty(), "for another socket");
        assert!(story.receive(b"").is_empty());
        story.receive(PUBLISH.induction_answer);
        let nobodys = changed(PUBLISH.conclusion_answer, |a| a.socket_id = SocketId::NONE);
        assert!(story.receive(&nobodys).is_empty(), "of no socket");
    }

    #[test]
    fn a_new_connection_is_told_from_a_repeated_conclusion() {
        let story = Story::of(&PUBLISH);
        let client = CLIENT.parse().unwrap();
        let handshake = Handshake::parse(PUBLISH.conclusion).unwrap();
        let mut asked = Asked {
            client,
            handshake,
            stream_id: String::new(),
            mode: crate::proto::srt::stream_id::Mode::Publish,
        };
        asked.handshake.timestamp += 250_000;
        assert!(story.handshake.is_repeated_by(&asked));
        asked.handshake.sequence = asked.handshake.sequence.next();
        assert!(!story.handshake.is_repeated_by(&asked));
    }
}
