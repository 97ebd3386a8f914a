//! The RTMP handshake, accepting and connecting.

use bolero::check;
use srs_proxy::proto::rtmp::handshake::{
    ClientHandshake, HandshakeError, PACKET, Scheme, ServerHandshake, Style,
};

use crate::split::{in_two, pieces};
use crate::{RANDOM, corpus};

/// What a side made of its input: the outcome, what it sent, and what it left.
type Outcome<T> = (Result<T, HandshakeError>, Vec<u8>, Vec<u8>);

#[test]
fn server() {
    check!().with_iterations(RANDOM).with_max_len(3100).for_each(|input: &[u8]| {
        let whole = accept(&[input]);
        assert_eq!(accept(&pieces(input)), whole, "another outcome in pieces");
        let (outcome, sent, left) = whole;
        let came = input.len() - left.len();
        match outcome {
            Ok(Some(_)) => assert_eq!((came, sent.len()), (1 + 2 * PACKET, 1 + 2 * PACKET)),
            Ok(None) if came <= PACKET => assert_eq!((sent.len(), left.len()), (0, 0)),
            Ok(None) => assert_eq!((sent.len(), left.len()), (1 + 2 * PACKET, 0)),
            Err(HandshakeError::Version(first)) => {
                assert_eq!((Some(&first), sent.len()), (input.first(), 0));
            }
        }
    });
}

#[test]
fn client() {
    check!().with_iterations(RANDOM).with_max_len(3100).for_each(|input: &[u8]| {
        for style in [Style::Simple, Style::Digest(Scheme::KeyFirst)] {
            let whole = connect(style, &[input]);
            assert_eq!(connect(style, &pieces(input)), whole, "another outcome in pieces");
            let (outcome, sent, left) = whole;
            let came = input.len() - left.len();
            match outcome {
                Ok(true) => assert_eq!((came, sent.len()), (1 + 2 * PACKET, PACKET)),
                Ok(false) => assert_eq!((sent.len(), left.len()), (0, 0)),
                Err(HandshakeError::Version(first)) => {
                    assert_eq!((Some(&first), sent.len()), (input.first(), 0));
                }
            }
        }
    });
}

#[test]
fn every_split_of_the_corpora_ends_as_the_whole_does() {
    for (name, input) in corpus::of("handshake__server") {
        let whole = accept(&[&input]);
        for two in in_two(&input).step_by(7) {
            assert_eq!(accept(&two), whole, "{name} cut at {}", two[0].len());
        }
    }
    for (name, input) in corpus::of("handshake__client") {
        let whole = connect(Style::Simple, &[&input]);
        for two in in_two(&input).step_by(7) {
            assert_eq!(connect(Style::Simple, &two), whole, "{name} cut at {}", two[0].len());
        }
    }
}

fn accept(pieces: &[&[u8]]) -> Outcome<Option<Style>> {
    let mut server = ServerHandshake::new(Box::new([7; PACKET]));
    let mut sent = Vec::new();
    let outcome = feed(pieces, |input| match server.read(input, &mut sent) {
        Ok(None) => None,
        done => Some(done),
    });
    (outcome.0.unwrap_or(Ok(None)), sent, outcome.1)
}

fn connect(style: Style, pieces: &[&[u8]]) -> Outcome<bool> {
    let mut sent = Vec::new();
    let mut client = ClientHandshake::start(Box::new([7; PACKET]), style, &mut sent);
    assert_eq!(sent.len(), 1 + PACKET, "C0 and C1");
    sent.clear();
    let outcome = feed(pieces, |input| match client.read(input, &mut sent) {
        Ok(false) => None,
        done => Some(done),
    });
    (outcome.0.unwrap_or(Ok(false)), sent, outcome.1)
}

/// Hands over one piece after the other until `read` has an outcome. Gives back that and what was
/// not taken. An unfinished handshake takes everything.
fn feed<T>(
    pieces: &[&[u8]],
    mut read: impl FnMut(&mut &[u8]) -> Option<T>,
) -> (Option<T>, Vec<u8>) {
    for (index, piece) in pieces.iter().enumerate() {
        let mut input = *piece;
        if let Some(outcome) = read(&mut input) {
            return (Some(outcome), [&[input], &pieces[index + 1..]].concat().concat());
        }
        assert!(input.is_empty(), "{} bytes left without an outcome", input.len());
    }
    (None, Vec::new())
}
