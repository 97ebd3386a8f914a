use proptest::prelude::*;

use super::*;

const PASSWORD: &[u8] = b"mr5763103m10691d7wsdjs0eh38559o8";
const REQUEST: &[u8] = include_bytes!("../../../testdata/webrtc/whip-chromium-request.stun");
const RESPONSE: &[u8] = include_bytes!("../../../testdata/webrtc/whip-chromium-response.stun");

/// The samples of RFC 5769, without their transaction, which is the same in the first three.
const SAMPLE_TRANSACTION: &str = "b7e7a701bc34d686fa87dfae";
const SAMPLE_PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const SAMPLE_REQUEST: [&str; 2] = [
    "000100582112a442",
    "802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36\
     000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2\
     80280004e57a3bcf",
];
const SAMPLE_RESPONSE_IPV4: [&str; 2] = [
    "0101003c2112a442",
    "8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599fd9e90c3\
     8c7489f92af9ba53f06be7d780280004c07d4c96",
];
const SAMPLE_RESPONSE_IPV6: [&str; 2] = [
    "010100482112a442",
    "8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9\
     00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c",
];

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn sample([start, attributes]: [&str; 2]) -> Vec<u8> {
    hex(&[start, SAMPLE_TRANSACTION, attributes].concat())
}

/// A binding request of these attributes.
fn request(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (attribute, value) in attributes {
        body.extend(attribute.to_be_bytes());
        body.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[0, 1], length.as_slice(), &COOKIE, &[7; 12], &body].concat()
}

/// The same message with these attributes, whatever its length said before.
fn with_length(mut message: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(message.len() - HEADER).unwrap();
    message[2..4].copy_from_slice(&length.to_be_bytes());
    message
}

#[test]
fn the_samples_of_rfc_5769_are_read_and_authentic() {
    let bytes = sample(SAMPLE_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert!(message.is_binding() && message.class() == Class::Request);
    assert_eq!(message.transaction().0.as_slice(), hex(SAMPLE_TRANSACTION));
    assert_eq!(message.username(), Some("evtj:h6vY"));
    assert_eq!(message.priority(), Some(0x6e00_01ff));
    assert!(message.is_authentic(SAMPLE_PASSWORD) && !message.is_authentic(b"another"));
    for bytes in [sample(SAMPLE_RESPONSE_IPV4), sample(SAMPLE_RESPONSE_IPV6)] {
        let message = Message::parse(&bytes).unwrap();
        assert!(message.is_binding() && message.class() == Class::Success);
        assert!(message.is_authentic(SAMPLE_PASSWORD) && !message.is_authentic(b""));
    }
}

/// RFC 5769 2.4; its key is the MD5 of "マトリックス:example.org:TheMatrIX".
#[test]
fn the_sample_with_a_name_of_many_scripts_is_read_and_authentic() {
    let bytes =
        hex("000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382af\
                     e382b900000015001c662f2f3439396b39353464364f4c33346f4c394653547679363473410014\
                     000b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666");
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.username(), Some("マトリックス"));
    assert!(message.is_authentic(&hex("e8ca7ad59d5eb0518e312911d2dab2a9")));
}

#[test]
fn recorded_requests_are_authentic_with_the_password_of_the_recorded_answer() {
    for (request, answer, name, nominates) in [
        (
            REQUEST,
            include_str!("../../../testdata/webrtc/whip-chromium-answer.sdp"),
            "745d7336:+Nfv",
            true,
        ),
        (
            include_bytes!("../../../testdata/webrtc/whep-chromium-request.stun"),
            include_str!("../../../testdata/webrtc/whep-chromium-answer.sdp"),
            "4003yu8i:VEzC",
            false,
        ),
        (
            include_bytes!("../../../testdata/webrtc/whip-aiortc-request.stun"),
            include_str!("../../../testdata/webrtc/whip-aiortc-answer.sdp"),
            "3o89at73:hunt",
            false,
        ),
        (
            include_bytes!("../../../testdata/webrtc/whip-aiortc-nomination.stun"),
            include_str!("../../../testdata/webrtc/whip-aiortc-answer.sdp"),
            "3o89at73:hunt",
            true,
        ),
    ] {
        let message = Message::parse(request).unwrap();
        let password = answer.lines().find_map(|line| line.strip_prefix("a=ice-pwd:")).unwrap();
        assert!(message.is_binding() && message.class() == Class::Request, "{name}");
        assert_eq!((message.username(), message.has_use_candidate()), (Some(name), nominates));
        assert!(message.priority().is_some(), "{name} has no priority");
        assert!(message.is_authentic(password.as_bytes()), "{name} is not signed by {password}");
    }
    let response = Message::parse(RESPONSE).unwrap();
    assert_eq!(response.transaction(), Message::parse(REQUEST).unwrap().transaction());
    assert!(response.class() == Class::Success && response.is_authentic(PASSWORD));
}

#[test]
fn no_part_of_a_message_is_one() {
    for n in 0..REQUEST.len() {
        let expected = if n < HEADER { BadStun::Header } else { BadStun::Length };
        assert_eq!(Message::parse(&REQUEST[..n]), Err(expected), "{n} bytes");
    }
    let longer = [REQUEST, &[0]].concat();
    assert_eq!(Message::parse(&longer), Err(BadStun::Length));
}

#[test]
fn a_message_of_which_one_byte_differs_is_refused_or_not_authentic() {
    let without_fingerprint = with_length(REQUEST[..REQUEST.len() - 8].to_vec());
    assert!(Message::parse(&without_fingerprint).unwrap().is_authentic(PASSWORD));
    for whole in [REQUEST, &without_fingerprint] {
        for (at, change) in (0..whole.len()).flat_map(|at| (1..=u8::MAX).map(move |c| (at, c))) {
            let mut changed = whole.to_vec();
            changed[at] ^= change;
            let is_authentic =
                Message::parse(&changed).is_ok_and(|message| message.is_authentic(PASSWORD));
            // Behind the signature a fingerprint may become an attribute that is not read.
            let is_fingerprint_s_kind = (96..98).contains(&at);
            assert_eq!(is_authentic, is_fingerprint_s_kind, "byte {at} with {change:#04x}");
        }
    }
}

#[test]
fn lengths_that_lie_are_found() {
    // Both killed a proxy once.
    let two_bytes = [&[0, 1, 0, 2], COOKIE.as_slice(), &[7; 12], &[0, 6]].concat();
    assert_eq!(Message::parse(&two_bytes), Err(BadStun::Length));
    let unpadded = [&[0, 1, 0, 5], COOKIE.as_slice(), &[7; 12], &[0, 6, 0, 1, b'a']].concat();
    assert_eq!(Message::parse(&unpadded), Err(BadStun::Length));

    let behind_the_end = [&[0, 1, 0, 8], COOKIE.as_slice(), &[7; 12], b"\0\x06\0\x05abcd"].concat();
    assert_eq!(Message::parse(&behind_the_end), Err(BadStun::Attribute));
    let most = [&[0, 1, 0, 4], COOKIE.as_slice(), &[7; 12], &[0, 6, 0xff, 0xff]].concat();
    assert_eq!(Message::parse(&most), Err(BadStun::Attribute));
}

#[test]
fn what_is_not_stun_is_not_taken_for_it() {
    let other = |change: fn(&mut [u8])| {
        let mut bytes = REQUEST.to_vec();
        change(&mut bytes);
        bytes
    };
    for bytes in [
        Vec::new(),
        other(|bytes| bytes[0] |= 0x80),
        other(|bytes| bytes[0] |= 0x40),
        other(|bytes| bytes[4] = 0),
    ] {
        assert_eq!(Message::parse(&bytes), Err(BadStun::Header));
    }
}

#[test]
fn values_have_the_length_that_they_must_have() {
    let long = [b'u'; MAX_USERNAME + 1];
    for (attribute, value) in [
        (USERNAME, long.as_slice()),
        (USERNAME, &[0xff, 0xfe]),
        (PRIORITY, &[1, 2, 3]),
        (PRIORITY, &[]),
        (USE_CANDIDATE, &[0]),
        (MESSAGE_INTEGRITY, &[0; 19]),
        (MESSAGE_INTEGRITY, &[0; 32]),
    ] {
        let bytes = request(&[(attribute, value)]);
        assert_eq!(Message::parse(&bytes), Err(BadStun::Value), "{attribute:#06x}");
    }
    let longest = request(&[(USERNAME, &long[1..])]);
    assert_eq!(Message::parse(&longest).unwrap().username().map(str::len), Some(MAX_USERNAME));
}

#[test]
fn a_message_has_at_most_32_attributes() {
    let software: (u16, &[u8]) = (0x8022, b"x");
    assert!(Message::parse(&request(&[software; MAX_ATTRIBUTES])).is_ok());
    let more = request(&[software; MAX_ATTRIBUTES + 1]);
    assert_eq!(Message::parse(&more), Err(BadStun::TooMany));
}

#[test]
fn nothing_stands_behind_the_fingerprint() {
    let right = |mut bytes: Vec<u8>| {
        let length = u16::try_from(bytes.len() - HEADER + 8).unwrap();
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        let value = fingerprint(&bytes);
        [bytes.as_slice(), &FINGERPRINT.to_be_bytes(), &[0, 4], &value].concat()
    };
    let bytes = right(request(&[(USERNAME, b"a:b")]));
    assert_eq!(Message::parse(&bytes).unwrap().username(), Some("a:b"));
    let behind = [bytes.as_slice(), &[0x80, 0x22, 0, 0]].concat();
    assert_eq!(Message::parse(&with_length(behind)), Err(BadStun::Fingerprint));
    let twice = right(bytes);
    assert_eq!(Message::parse(&twice), Err(BadStun::Fingerprint));
    let short = request(&[(FINGERPRINT, &[0; 3])]);
    assert_eq!(Message::parse(&short), Err(BadStun::Fingerprint));
}

#[test]
fn of_several_the_first_counts_and_what_is_not_signed_does_not() {
    let bytes = request(&[
        (USERNAME, b"first"),
        (USERNAME, b"second"),
        (PRIORITY, &[0, 0, 0, 1]),
        (PRIORITY, &[0, 0, 0, 2]),
    ]);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.username(), message.priority()), (Some("first"), Some(1)));
    assert!(!message.is_authentic(b""), "nothing is signed");

    for seal in [(MESSAGE_INTEGRITY, [9; 20].as_slice()), (MESSAGE_INTEGRITY_SHA256, &[9; 32])] {
        let bytes = request(&[
            seal,
            (USERNAME, b"behind"),
            (PRIORITY, &[0]),
            (USE_CANDIDATE, &[]),
            (MESSAGE_INTEGRITY, &[8; 20]),
        ]);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.username(), message.priority()), (None, None));
        assert!(!message.has_use_candidate() && !message.is_authentic(b""));
    }
    let signed = with_length(REQUEST[..REQUEST.len() - 8].to_vec());
    let added = [signed.as_slice(), &[0, 0x25, 0, 0]].concat();
    assert!(Message::parse(&with_length(added)).unwrap().is_authentic(PASSWORD));
}

#[test]
fn classes_and_methods_are_told_apart() {
    for (kind, class, is_binding) in [
        (0x0001_u16, Class::Request, true),
        (0x0011, Class::Indication, true),
        (0x0101, Class::Success, true),
        (0x0111, Class::Error, true),
        (0x0003, Class::Request, false),
        (0x0016, Class::Indication, false),
        (0x0201, Class::Request, false),
    ] {
        let mut bytes = request(&[]);
        bytes[..2].copy_from_slice(&kind.to_be_bytes());
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.is_binding()), (class, is_binding), "{kind:#06x}");
    }
}

#[test]
fn each_reason_has_a_word_of_its_own() {
    let mut words = BadStun::ALL.map(BadStun::as_str);
    words.sort_unstable();
    assert!(words.windows(2).all(|two| two[0] != two[1]), "{words:?}");
}

proptest! {
    #[test]
    fn whatever_was_signed_by_somebody_else_is_not_authentic(
        other in prop::collection::vec(any::<u8>(), 0..80)
    ) {
        let message = Message::parse(REQUEST).unwrap();
        prop_assert_eq!(message.is_authentic(&other), other == PASSWORD);
    }
}
