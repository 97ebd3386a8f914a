//! What a WebRTC session sends beside media: STUN, session descriptions, what tells datagrams
//! apart, and datagrams on a stream. str0m, another implementation, reads the same.

use std::collections::HashSet;
use std::net::SocketAddr;

use bolero::check;
use srs_proxy::proto::datagram::{Kind, is_dtls_alert};
use srs_proxy::proto::framing::{Deframer, TooLong, frame};
use srs_proxy::proto::sdp::{self, Candidate, Offered, Transport};
use srs_proxy::proto::stun::{Class, Message};
use str0m::change::SdpAnswer;
use str0m::crypto::from_feature_flags;
use str0m::ice::StunMessage;

use crate::split::{in_two, pieces};
use crate::{RANDOM, corpus};

/// The input is a datagram, in the corpus signed with `mr5763103m10691d7wsdjs0eh38559o8`.
#[test]
fn stun() {
    check!().with_iterations(RANDOM).for_each(check_stun);
}

fn check_stun(datagram: &[u8]) {
    let Ok(message) = Message::parse(datagram) else { return };
    assert!(Kind::of(datagram) == Kind::Stun || !message.is_binding(), "{message:?}");
    assert_eq!(datagram.len() % 4, 0, "{} bytes", datagram.len());
    assert!(message.username().is_none_or(|name| name.len() <= 513));
    let is_authentic = message.is_authentic(PASSWORD);
    assert!(!(is_authentic && message.is_authentic(b"another")), "signed with anything");
    let longer = [datagram, &[0; 4]].concat();
    assert!(Message::parse(&longer).is_err(), "what follows a message is part of it");
    agrees_with_str0m(datagram, &message);
}

/// str0m reads more attributes, and refuses a message for them; where it takes one, both say the
/// same of it, but that it lets the last of several count, and those behind the signature.
fn agrees_with_str0m(datagram: &[u8], message: &Message<'_>) {
    let Ok(theirs) = StunMessage::parse(datagram) else { return };
    let is_request = message.is_binding() && message.class() == Class::Request;
    assert_eq!(theirs.is_binding_request(), is_request);
    if has_one_of_each(datagram) {
        assert_eq!(theirs.username(), message.username());
        assert_eq!(theirs.prio(), message.priority());
        assert_eq!(theirs.use_candidate(), message.has_use_candidate());
        assert_eq!(is_authentic_to_str0m(&theirs), message.is_authentic(PASSWORD));
    }
}

fn is_authentic_to_str0m(message: &StunMessage<'_>) -> bool {
    let hmac = from_feature_flags().sha1_hmac_provider;
    message.verify(PASSWORD, |key, parts| hmac.sha1_hmac(key, parts))
}

/// Whether no attribute comes twice, and none but FINGERPRINT behind a signature. One that signs
/// the header alone str0m 0.24 cannot check.
fn has_one_of_each(datagram: &[u8]) -> bool {
    let mut kinds = Vec::new();
    let mut rest = &datagram[20..];
    while let [k0, k1, l0, l1, behind @ ..] = rest {
        kinds.push(u16::from_be_bytes([*k0, *k1]));
        let length = usize::from(u16::from_be_bytes([*l0, *l1])).next_multiple_of(4);
        rest = &behind[length..];
    }
    let signed = kinds.iter().position(|kind| [0x0008, 0x001c].contains(kind));
    if signed == Some(0) {
        return false;
    }
    let behind = &kinds[signed.map_or(kinds.len(), |at| at + 1)..];
    let is_last = behind.is_empty() || behind == [0x8028];
    is_last && kinds.iter().collect::<HashSet<_>>().len() == kinds.len()
}

/// That of the recorded answer of SRS to Chromium.
const PASSWORD: &[u8] = b"mr5763103m10691d7wsdjs0eh38559o8";

#[test]
fn recorded_messages_are_to_str0m_what_they_are_to_us() {
    for (name, datagram) in corpus::of("ice__stun") {
        let Ok(ours) = Message::parse(&datagram) else { continue };
        if name.starts_with("chromium") {
            let theirs = StunMessage::parse(&datagram).expect(&name);
            assert!(is_authentic_to_str0m(&theirs) && ours.is_authentic(PASSWORD), "{name}");
        }
    }
}

#[test]
fn a_message_that_is_cut_is_none_and_one_that_differs_in_a_bit_is_safe() {
    for (name, datagram) in corpus::of("ice__stun") {
        for at in 0..datagram.len() {
            assert!(Message::parse(&datagram[..at]).is_err(), "{name}, the first {at} bytes");
            for bit in 0..8 {
                let mut other = datagram.clone();
                other[at] ^= 1 << bit;
                check_stun(&other);
            }
        }
    }
}

#[test]
fn description() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let sdp = String::from_utf8_lossy(input);
        if let Ok(ice) = sdp::ice(&sdp) {
            let again = format!("a=ice-ufrag:{}\na=ice-pwd:{}", ice.ufrag, ice.password);
            assert_eq!(sdp::ice(&again), Ok(ice));
        }
        let found = sdp::candidates(&sdp);
        assert!(found.len() <= 64, "{} candidates", found.len());
        for candidate in found {
            assert_eq!(Candidate::parse(&candidate.to_string()), Some(candidate));
        }
        for offered in [[].as_slice(), &offered()[..1], &offered()] {
            let edited = sdp::with_candidates(&sdp, offered);
            assert!(others(&edited).eq(others(&sdp)), "{sdp:?} became {edited:?}");
            let most = (offered.len() + 1) * (sdp.len() + 200);
            assert!(edited.len() <= most, "{} bytes became {}", sdp.len(), edited.len());
            for line in edited.lines().filter(|line| line.starts_with("a=candidate:")) {
                let candidate = Candidate::parse(line).expect("a candidate of the proxy");
                let address = (candidate.transport, candidate.address, candidate.port);
                let ours = offered.iter().map(|o| (o.transport, o.address.ip(), o.address.port()));
                let mut ours = ours.map(|(transport, ip, port)| (transport, ip.to_string(), port));
                assert!(ours.any(|ours| ours == address), "{address:?} is not offered");
            }
        }
    });
}

fn offered() -> [Offered; 4] {
    let at = |address: &str, transport| {
        let address: SocketAddr = address.parse().unwrap();
        Offered { address, transport }
    };
    [
        at("203.0.113.7:8000", Transport::Udp),
        at("203.0.113.7:8443", Transport::Tcp),
        at("[2001:db8::7]:8000", Transport::Udp),
        at("[2001:db8::7]:8443", Transport::Tcp),
    ]
}

/// Without their ends: a last line that has none gets one when a line is put behind it.
fn others(sdp: &str) -> impl Iterator<Item = &str> {
    let lines = sdp.lines().filter(|line| !line.starts_with("a=candidate:"));
    lines.map(|line| line.trim_end_matches('\r'))
}

#[test]
fn str0m_reads_the_answers_that_were_edited() {
    for (name, answer) in corpus::of("ice__description") {
        let answer = String::from_utf8_lossy(&answer);
        let edited = sdp::with_candidates(&answer, &offered());
        for line in edited.lines().filter_map(|line| line.strip_prefix("a=")) {
            if line.starts_with("candidate:") {
                let read = str0m::Candidate::from_sdp_string(line);
                let address = read.unwrap_or_else(|error| panic!("{line}: {error}")).addr();
                assert!(offered().iter().any(|offered| offered.address == address), "{line}");
            }
        }
        if name.starts_with("answer") {
            let read = SdpAnswer::from_sdp_string(&edited);
            assert!(read.is_ok(), "{name}: {read:?}");
        }
    }
}

#[test]
fn datagram() {
    check!().with_iterations(RANDOM).for_each(|datagram: &[u8]| {
        let kind = Kind::of(datagram);
        let first = datagram.get(..1).unwrap_or_default();
        assert_eq!(Kind::of(first), kind, "what follows the first byte counts");
        if is_dtls_alert(datagram) {
            let more = [datagram, b"more"].concat();
            assert!(is_dtls_alert(&more), "what follows an alert takes it back");
        }
    });
}

#[test]
fn framing() {
    check!().with_iterations(RANDOM).for_each(|stream: &[u8]| {
        for max in [0, 20, 2048, u16::MAX] {
            let whole = Datagrams::of(max, &[stream]);
            assert_eq!(Datagrams::of(max, &pieces(stream)), whole, "other datagrams in pieces");
            whole.can_be_framed_again();
        }
    });
}

#[test]
fn every_split_of_the_corpus_gives_the_same_datagrams() {
    for (name, stream) in corpus::of("ice__framing") {
        let whole = Datagrams::of(2048, &[&stream]);
        for two in in_two(&stream) {
            assert_eq!(Datagrams::of(2048, &two), whole, "{name}, {}", two[0].len());
        }
    }
}

/// Everything that a reader says of a stream.
#[derive(Debug, PartialEq)]
struct Datagrams {
    max: u16,
    read: Vec<Vec<u8>>,
    end: Option<TooLong>,
}

impl Datagrams {
    fn of(max: u16, pieces: &[&[u8]]) -> Self {
        let mut deframer = Deframer::new(max);
        let mut datagrams = Self { max, read: Vec::new(), end: None };
        for mut input in pieces.iter().copied() {
            loop {
                match deframer.read(&mut input) {
                    Ok(Some(datagram)) => datagrams.read.push(datagram.to_vec()),
                    Ok(None) => break,
                    Err(end) => {
                        datagrams.end = Some(end);
                        return datagrams;
                    }
                }
            }
            assert!(input.is_empty(), "{} bytes left", input.len());
        }
        datagrams
    }

    fn can_be_framed_again(&self) {
        let mut stream = Vec::new();
        for datagram in &self.read {
            assert!((1..=usize::from(self.max)).contains(&datagram.len()), "{}", datagram.len());
            stream.extend(frame(datagram).expect("it came in one"));
            stream.extend_from_slice(datagram);
        }
        assert_eq!(Self::of(self.max, &[&stream]).read, self.read);
    }
}
