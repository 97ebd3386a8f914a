//! Fuzz targets of the machines, each fed as its sockets would feed it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bolero::check;

use super::established::{Established, Verdict};
use super::recorded::PUBLISH;
use super::{Action, Asked, Cookies, Door, Knock, OriginHandshake};
use crate::plane::datagram::FlowKey;
use crate::proto::srt::handshake::{Handshake, MAX_HANDSHAKE, Step};
use crate::proto::srt::packet::{Packet, Sequence, SocketId};
use crate::proto::srt::rejection::Rejection;
use crate::proto::srt::stream_id::Mode;

const CLIENT: [u8; 4] = [192, 0, 2, 9];

/// Random inputs of each target where no fuzzing engine runs.
const RANDOM: usize = 1000;

/// The input is a byte whose lowest bit says whether the cookie is made fresh, and a datagram to
/// socket zero.
#[test]
fn door() {
    let now = Instant::now();
    let cookies = Cookies::new(&[1; 32], now);
    let door = Door::new(cookies.clone());
    let client: SocketAddr = "192.0.2.9:40448".parse().unwrap();
    check!().with_iterations(RANDOM).with_max_len(2000).for_each(|input: &[u8]| {
        let Some((&fresh, datagram)) = input.split_first() else { return };
        let mut datagram = datagram.to_vec();
        if let Some(socket) = word(&datagram, 40).filter(|_| fresh & 1 == 1)
            && let Some(cookie) = datagram.get_mut(44..48)
        {
            let baked = cookies.bake(client, SocketId(socket), now);
            cookie.copy_from_slice(&baked.get().to_be_bytes());
        }
        let is_fresh = |cookie| {
            let socket = SocketId(word(&datagram, 40).unwrap_or_default());
            cookies.is_fresh(cookie, client, socket, now)
        };
        let shown = word(&datagram, 44).is_some_and(is_fresh);
        let (answer, step) = match door.knock(&datagram, client, now) {
            Knock::Induction(answer) => (answer, Step::Induction),
            Knock::Reject(answer, why) => {
                assert!(shown, "a rejection without a cookie");
                (answer, Step::Rejection(why))
            }
            Knock::Ask(asked) => {
                assert!(shown, "a stream without a cookie");
                assert!(asked.stream_id.len() <= 512, "{} bytes", asked.stream_id.len());
                assert!(asked.handshake.version >= 5, "a caller that has no stream id");
                return;
            }
            Knock::Drop(_) => return,
        };
        assert!(answer.len() <= datagram.len(), "{} bytes for {}", answer.len(), datagram.len());
        let answer = Handshake::parse(&answer).expect("an answer");
        assert_eq!(answer.step, step);
        assert_eq!((answer.destination, answer.socket_id), (answer.socket_id, answer.destination));
        assert!(is_fresh(answer.cookie), "an answer with another cookie");
    });
}

/// The input is events. Each begins with a byte: its kind, by the lower three bits, and how long
/// ago the last one was, in units of 20 ms. A datagram of the origin follows with its length, one
/// byte, for the lowest kinds.
#[test]
fn handshake() {
    check!().with_iterations(RANDOM).with_max_len(2000).for_each(|input: &[u8]| {
        let mut now = Instant::now();
        let asked = Asked {
            client: "192.0.2.9:40448".parse().unwrap(),
            handshake: Handshake::parse(PUBLISH.conclusion).unwrap(),
            stream_id: String::new(),
            mode: Mode::Publish,
        };
        let patience = Duration::from_secs(1);
        let deadline = now + 5 * patience;
        let mut machine = OriginHandshake::new(asked, patience, deadline, now);
        let origin: IpAddr = "198.51.100.7".parse().unwrap();
        let mut heard = Heard::default();
        heard.check(&machine.begin(origin, patience, now), &[]);
        let mut rest = input;
        while let Some((&event, behind)) = rest.split_first() {
            rest = behind;
            now += Duration::from_millis(20) * u32::from(event >> 3);
            let mut datagram = &b""[..];
            let actions = match event % 8 {
                0..=2 => {
                    let Some((&length, behind)) = rest.split_first() else { return };
                    (datagram, rest) = behind.split_at(usize::from(length).min(behind.len()));
                    machine.receive(datagram, now)
                }
                3 | 4 => machine.wake(now),
                5 => machine.repeated(now),
                6 => {
                    if heard.is_settled {
                        machine.confirm();
                    }
                    Vec::new()
                }
                _ if heard.is_idle => machine.reject(Rejection::GATEWAY, now),
                _ => Vec::new(),
            };
            heard.check(&actions, datagram);
            if heard.is_idle && !heard.is_settled && event & 0x80 == 0 {
                heard.check(&machine.begin(origin, patience, now), &[]);
            }
            assert_eq!(
                machine.deadline().is_some(),
                !heard.is_settled && !heard.is_idle,
                "a timer for nothing, or none for something"
            );
        }
    });
}

/// What a handshake has come to, as its sockets see it.
#[derive(Default)]
struct Heard {
    /// No origin is asked.
    is_idle: bool,
    /// The client is answered.
    is_settled: bool,
}

impl Heard {
    fn check(&mut self, actions: &[Action], received: &[u8]) {
        assert!(actions.len() <= 2, "{actions:?}");
        let client = Handshake::parse(PUBLISH.conclusion).unwrap();
        for action in actions {
            match action {
                Action::ToOrigin(packet) => {
                    let packet = Handshake::parse(packet).expect("a handshake");
                    assert!(!self.is_settled, "a question after the answer");
                    self.is_idle = false;
                    assert_eq!(packet.socket_id, client.socket_id);
                    assert_eq!(packet.destination, SocketId::NONE);
                    match packet.step {
                        Step::Induction => assert_eq!(packet.cookie, 0),
                        step => {
                            assert_eq!(step, Step::Conclusion);
                            assert_eq!(packet.extensions, client.extensions);
                        }
                    }
                }
                Action::ToClient(packet) => {
                    assert!(packet.len() <= MAX_HANDSHAKE);
                    let packet = Handshake::parse(packet).expect("a handshake");
                    assert_eq!(
                        (packet.destination, packet.cookie),
                        (client.socket_id, client.cookie)
                    );
                    assert!(matches!(packet.step, Step::Conclusion | Step::Rejection(_)));
                }
                Action::Established(session) => {
                    let answer = Handshake::parse(received).expect("an answer");
                    assert_eq!(session.origin(), answer.socket_id);
                    assert!(!self.is_settled, "two answers");
                    self.is_settled = true;
                }
                Action::Rejected(_) => {
                    assert!(!self.is_settled, "two answers");
                    (self.is_settled, self.is_idle) = (true, false);
                }
                Action::TimedOut => self.is_idle = true,
            }
        }
    }
}

/// The input is events of three bytes: the kind, and a number (big-endian) that counts from the
/// session's first packet, or milliseconds.
#[test]
fn established() {
    check!().with_iterations(RANDOM).with_max_len(600).for_each(|input: &[u8]| {
        let conclusion = Handshake::parse(PUBLISH.conclusion).unwrap();
        let answer = Handshake::parse(PUBLISH.conclusion_answer).unwrap();
        let mut session = Established::new(CLIENT.into(), &conclusion, &answer);
        let mut now = Instant::now();
        let mut heard = now;
        // Who has reached the origin, and when.
        let mut passed: Vec<(FlowKey, Instant)> = Vec::new();
        for &[kind, high, low] in input.as_chunks::<3>().0 {
            let number = u32::from(u16::from_be_bytes([high, low]));
            let sequence = Sequence::new(answer.sequence.get().wrapping_add(number)).get();
            let [a, b, c, last] = CLIENT;
            let client = ([a, b, c, last + (kind >> 6 & 1)], 5000 + u16::from(kind >> 7));
            let local = ([198, 51, 100, 1], 20080).into();
            let from = FlowKey {
                is_tcp: false,
                client: client.into(),
                local,
                socket_id: Some(session.origin().0),
            };
            let (first, info, to) = match kind % 8 {
                0 => (sequence, 0, session.origin()),
                1 => (0x8002_0000, number, session.origin()),
                2 => (u32::from(kind) << 24 | number, 0, session.origin()),
                3 => (sequence, 0, session.client()),
                4 => (0x8002_0000, number, session.client()),
                5 => (0x8006_0000, number, session.client()),
                6 => {
                    now += Duration::from_millis(number.into());
                    continue;
                }
                _ => {
                    heard = now;
                    continue;
                }
            };
            let datagram = [first, info, 0, to.0, sequence].map(u32::to_be_bytes).concat();
            let packet = Packet::parse(&datagram).unwrap();
            if to == session.origin() {
                match session.from_elsewhere(&packet, &from, heard, now) {
                    Verdict::Pass => {
                        assert!(now - heard >= Duration::from_secs(1), "the client is there");
                        assert_eq!(from.client.ip(), IpAddr::from(CLIENT), "of another host");
                        assert_eq!(session.trying(), Some(from));
                        passed.push((from, now));
                    }
                    verdict => assert_eq!(verdict, Verdict::Drop),
                }
            } else if let Verdict::Moved(to) = session.from_origin(&packet, heard, now) {
                let since = now.checked_sub(Duration::from_secs(2)).unwrap();
                let is_recent = |at: &Instant| *at > since && *at >= heard;
                assert!(
                    passed.iter().any(|(from, at)| *from == to && is_recent(at)),
                    "moved to one that the origin has not heard of"
                );
                assert_eq!(session.trying(), None);
                heard = now;
            }
        }
    });
}

/// The big-endian word at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
