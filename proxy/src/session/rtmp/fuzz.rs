//! Fuzz targets of the machines, each fed as a connection would feed it.

use bolero::check;

use super::bridge::Bridge;
use super::client::{BEFORE_STREAM, Client, Wanted};
use super::fault::Fault;
use super::origin::{Agreement, Origin, OriginError};
use crate::plane::relay::filter::{Filter, Passed};
use crate::plane::{Leg, Outbox};
use crate::proto::rtmp::amf::Value;
use crate::proto::rtmp::chunk::{
    ChunkEvent, ChunkLimits, ChunkReader, ChunkWriter, DEFAULT_CHUNK_SIZE,
};
use crate::proto::rtmp::command::Command;
use crate::proto::rtmp::handshake::PACKET;
use crate::proto::rtmp::message::Message;
use crate::session::dice::Dice;

/// Random inputs of each target where no fuzzing engine runs.
const RANDOM: usize = 200;

/// What the proxy lets a leg do.
const CHUNK_STREAMS: usize = 16;
const LIMITS: ChunkLimits = ChunkLimits { message_bytes: 4096, chunk_streams: CHUNK_STREAMS };

/// What a peer of the proxy allows: the proxy's own chunk streams come on top.
const PEER: ChunkLimits = ChunkLimits { message_bytes: 1 << 24, chunk_streams: CHUNK_STREAMS + 2 };

/// The input is what a client says behind its C2.
#[test]
fn client() {
    check!().with_iterations(RANDOM).for_each(|said: &[u8]| {
        let whole = ask(said, &mut Dice(None));
        let parts = ask(said, &mut Dice::of(said));
        match (whole, parts) {
            (Asked::Nothing(whole), Asked::Nothing(parts)) => assert_eq!(parts, whole),
            (Asked::Refused(whole, _), Asked::Refused(parts, _)) => {
                assert_eq!((parts.end, &parts.text), (whole.end, &whole.text));
                assert_eq!(parts.last_words, whole.last_words, "other last words in pieces");
                assert!(read(&parts.last_words).left == 0, "half a last word");
            }
            (Asked::For(whole, _), Asked::For(parts, taken)) => {
                let all = [parts.head.as_slice(), &parts.tail].concat();
                assert!(all == said[..taken], "head and tail are not what was said");
                assert!(all.len() <= BEFORE_STREAM + said.len().min(16 * 1024), "too much kept");
                assert_eq!(parts.head, whole.head, "another boundary in pieces");
                let asked = |w: &Wanted| {
                    (w.role, w.tc_url.clone(), w.app.clone(), w.name.clone(), w.stream, w.window)
                };
                assert_eq!(asked(&parts), asked(&whole), "another stream in pieces");
                assert!(!parts.reader.has_unfinished(), "the head ends inside a message");
            }
            (whole, parts) => panic!("whole: {whole:?}\nin pieces: {parts:?}"),
        }
    });
}

/// The input is what an origin says behind its S2 to a client that has connected, created a
/// stream and published.
#[test]
fn origin() {
    let publisher = publisher();
    check!().with_iterations(RANDOM).for_each(|said: &[u8]| {
        let Asked::For(wanted, _) = ask(&publisher, &mut Dice(None)) else {
            panic!("the publisher publishes nothing");
        };
        let whole = answer(&wanted, said, &mut Dice(None));
        let parts = answer(&wanted, said, &mut Dice::of(said));
        match (whole, parts) {
            (Ok(None), Ok(None)) => {}
            (Ok(Some((whole, _))), Ok(Some((parts, taken)))) => {
                let read = taken - parts.rest.len();
                assert_eq!(parts.rest, said[read..taken], "what is left is not what was said");
                assert_eq!(parts.received, (1 + 2 * PACKET + read) as u64);
                assert_eq!(parts.received, whole.received, "another boundary in pieces");
                assert_eq!(parts.streams, whole.streams);
                assert_eq!(parts.preface, whole.preface);
                assert_eq!(parts.obstacle(), whole.obstacle());
            }
            (Err(OriginError::Refused(whole)), Err(OriginError::Refused(parts))) => {
                assert_eq!(parts, whole);
            }
            (Err(OriginError::Malformed(whole)), Err(OriginError::Malformed(parts))) => {
                assert_eq!(parts, whole);
            }
            (whole, parts) => panic!("whole: {whole:?}\nin pieces: {parts:?}"),
        }
    });
}

/// The input is a whole session: a byte for the pieces, the length of what the client says (two
/// bytes, big-endian), that, and what the origin says.
#[test]
fn bridge() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let Some((client, origin, dice)) = both_sides(input) else { return };
        run_session(client, origin, dice);
    });
}

/// Splits and orders that one byte of the input does not reach.
#[test]
fn every_session_of_the_corpus_goes_well_in_any_pieces() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/session/rtmp/__fuzz__/session__rtmp__fuzz__bridge/corpus"
    );
    for entry in std::fs::read_dir(folder).expect("the corpus of the bridge") {
        let path = entry.unwrap().path();
        let mut input = std::fs::read(&path).unwrap();
        for pieces in 0..=64 {
            if let Some(first) = input.first_mut() {
                *first = pieces;
            }
            let Some((client, origin, dice)) = both_sides(&input) else { continue };
            let session = || run_session(client, origin, dice);
            let outcome = std::panic::catch_unwind(session);
            assert!(outcome.is_ok(), "{} in pieces of {pieces}", path.display());
        }
    }
}

fn both_sides(input: &[u8]) -> Option<(&[u8], &[u8], Dice)> {
    let (&[pieces, high, low], said) = input.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes([high, low])).min(said.len());
    let (client, origin) = said.split_at(length);
    Some((client, origin, Dice(Some(u64::from(pieces)))))
}

/// Runs a session as far as it goes.
fn run_session(client: &[u8], origin: &[u8], mut dice: Dice) {
    let Asked::For(wanted, asked) = ask(client, &mut dice) else { return };
    let Ok(Some((agreement, answered))) = answer(&wanted, origin, &mut dice) else { return };
    let boundary = answered - agreement.rest.len();
    // What the peers have heard so far; the client's answers are the proxy's own.
    let mut got = Outbox { to_client: Vec::new(), to_origin: wanted.head.clone() };
    let preface: Vec<Message> = agreement.preface.clone();
    let mut to_come =
        Outbox { to_client: origin[answered..].to_vec(), to_origin: client[asked..].to_vec() };
    let mut came =
        Outbox { to_client: origin[..answered].to_vec(), to_origin: client[..asked].to_vec() };
    let mut fault = None;
    let Ok(mut bridge) = Bridge::new(*wanted, *agreement, LIMITS, &mut got) else { return };
    let mut preface_bytes = Vec::new();
    let mut writer = ChunkWriter::new(DEFAULT_CHUNK_SIZE);
    for message in &preface {
        writer.write(message, &mut preface_bytes);
    }
    assert!(got.to_client.starts_with(&preface_bytes), "the preface is not first");
    while !(to_come.to_client.is_empty() && to_come.to_origin.is_empty()) && fault.is_none() {
        let from =
            if to_come.to_client.is_empty() || dice.roll(2) == 0 && !to_come.to_origin.is_empty() {
                Leg::Client
            } else {
                Leg::Origin
            };
        let waiting = to_come.towards(from.other());
        let length = dice.piece(waiting.len());
        let piece: Vec<u8> = waiting.drain(..length).collect();
        came.towards(from.other()).extend_from_slice(&piece);
        match bridge.pass(from, &piece, &mut got) {
            Ok(Passed::Verbatim) => got.towards(from.other()).extend_from_slice(&piece),
            Ok(Passed::Written) => {}
            Err(error) => fault = Some(error),
        }
        if bridge.obstacle().is_none() {
            let to_client = &got.to_client[preface_bytes.len()..];
            assert!(came.to_origin.starts_with(&got.to_origin), "the origin got other bytes");
            assert!(
                came.to_client[boundary..].starts_with(to_client),
                "the client got other bytes"
            );
        }
    }
    if bridge.is_aligned() {
        // Plain bytes from here on, in both directions; nothing is held back.
        assert!(got.to_origin == came.to_origin, "the origin misses bytes");
        let to_client = &got.to_client[preface_bytes.len()..];
        assert!(to_client == &came.to_client[boundary..], "the client misses bytes");
        return;
    }
    // Verbatim, what stands behind an unfinished message waits for its end, or for the answer.
    let is_verbatim = bridge.obstacle().is_none();
    let whole = |came: &[u8]| fault.is_none() && !(is_verbatim && read(came).is_unfinished);
    let (to_origin, to_client) = (whole(&came.to_origin), whole(&came.to_client));
    check_media("origin", &came.to_origin, &got.to_origin, to_origin, false);
    check_media("client", &came.to_client, &got.to_client, to_client, is_verbatim);
    for (came, got) in [(&came.to_origin, &got.to_origin), (&came.to_client, &got.to_client)] {
        // The shortest chunk is a byte, and the longest header twelve and four; aborts and
        // acknowledgements come on top.
        assert!(got.len() <= 32 * came.len() + 4096, "{} bytes became {}", came.len(), got.len());
    }
}

/// Media reaches the other leg as it came, stream ids aside; of a session that ended in a fault
/// at least in the order in which it came.
fn check_media(leg: &str, came: &[u8], got: &[u8], whole: bool, verbatim: bool) {
    let (came, got) = (read(came), read(got));
    assert!(got.fault.is_none() || verbatim, "the {leg} cannot read: {:?}", got.fault);
    let media = |read: Read| -> Vec<Message> {
        let media = read.messages.into_iter().filter(Message::is_media);
        media.map(|message| Message { stream: 0, ..message }).collect()
    };
    let (came, got) = (media(came), media(got));
    if whole {
        assert_eq!(got, came, "the {leg} got other media");
    } else {
        assert!(came.starts_with(&got), "the {leg} got other media:\n{got:?}\nof\n{came:?}");
    }
}

/// What a client's words came to.
#[derive(Debug)]
enum Asked {
    /// Not yet anything; what the client was answered.
    Nothing(Vec<u8>),
    /// The fault, and what the client was answered before it.
    Refused(Fault, #[expect(dead_code, reason = "for the message of a failure")] Vec<u8>),
    /// A stream, and how many bytes the proxy had taken by then.
    For(Box<Wanted>, usize),
}

/// Shakes hands as a client and says `said` in pieces.
fn ask(said: &[u8], dice: &mut Dice) -> Asked {
    let mut client = Client::new(Box::new([3; PACKET]), CHUNK_STREAMS);
    let mut answers = Vec::new();
    let mut hello = vec![3];
    hello.resize(1 + 2 * PACKET, 0);
    assert!(matches!(client.receive(&hello, &mut answers), Ok(None)), "the handshake");
    answers.clear();
    let mut taken = 0;
    while taken < said.len() {
        let length = dice.piece(said.len() - taken);
        let piece = &said[taken..taken + length];
        taken += length;
        let outcome = client.receive(piece, &mut answers);
        assert!(read(&answers).left == 0, "half an answer");
        match outcome {
            Ok(None) => {}
            Ok(Some(wanted)) => return Asked::For(Box::new(wanted), taken),
            Err(fault) => return Asked::Refused(fault, answers),
        }
    }
    Asked::Nothing(answers)
}

/// Shakes hands as an origin and says `said` in pieces. Gives back the agreement and how many
/// bytes the proxy had taken by then.
fn answer(
    wanted: &Wanted,
    said: &[u8],
    dice: &mut Dice,
) -> Result<Option<(Box<Agreement>, usize)>, OriginError> {
    let mut got = Vec::new();
    let mut origin = Origin::start(wanted, Box::new([5; PACKET]), CHUNK_STREAMS, &mut got);
    assert_eq!(got.len(), 1 + PACKET, "C0 and C1");
    got.clear();
    let mut hello = vec![3];
    hello.resize(1 + 2 * PACKET, 0);
    assert!(matches!(origin.receive(&hello, &mut got), Ok(None)), "the handshake");
    assert!(got[PACKET..] == wanted.head, "the origin got another head");
    let mut taken = 0;
    while taken < said.len() {
        let length = dice.piece(said.len() - taken);
        let piece = &said[taken..taken + length];
        taken += length;
        got.clear();
        let agreement = origin.receive(piece, &mut got)?;
        assert!(got.is_empty(), "the origin hears more than the head");
        if let Some(agreement) = agreement {
            return Ok(Some((Box::new(agreement), taken)));
        }
    }
    Ok(None)
}

/// What a peer reads.
struct Read {
    messages: Vec<Message>,
    fault: Option<String>,
    /// Bytes of an unfinished header.
    left: usize,
    /// Whether a message has begun and is not whole.
    is_unfinished: bool,
}

fn read(mut bytes: &[u8]) -> Read {
    let mut reader = ChunkReader::new(PEER);
    let mut messages = Vec::new();
    let fault = loop {
        match reader.read(&mut bytes) {
            Ok(Some(ChunkEvent::Message(message))) => messages.push(message),
            Ok(Some(ChunkEvent::Header(_))) => {}
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    Read { messages, fault, left: bytes.len(), is_unfinished: reader.has_unfinished() }
}

/// What a publisher says up to its publish.
fn publisher() -> Vec<u8> {
    let object = Value::Object(vec![
        ("app".into(), "live".into()),
        ("tcUrl".into(), "rtmp://127.0.0.1/live".into()),
    ]);
    let commands = [
        (0, "connect", 1.0, vec![object]),
        (0, "createStream", 4.0, vec![Value::Null]),
        (1, "publish", 5.0, vec![Value::Null, "s".into(), "live".into()]),
    ];
    let mut bytes = Vec::new();
    for (stream, name, transaction, arguments) in commands {
        let command = Command { name: name.into(), transaction, arguments };
        ChunkWriter::new(DEFAULT_CHUNK_SIZE).write(&command.to_message(stream), &mut bytes);
    }
    bytes
}
