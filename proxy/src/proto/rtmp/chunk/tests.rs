//! Reader and writer against each other, recorded traffic, and rule breakers.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::proto::rtmp::message::{Message, kind};

const LIMITS: ChunkLimits = ChunkLimits { message_bytes: 100_000, chunk_streams: 8 };

fn abort(chunk_stream: u32) -> Message {
    let payload = chunk_stream.to_be_bytes().into();
    Message { chunk_stream: 2, timestamp: 0, kind: kind::ABORT, stream: 0, payload }
}

fn message(chunk_stream: u32, payload: Vec<u8>) -> Message {
    Message { chunk_stream, timestamp: 7, kind: kind::VIDEO, stream: 1, payload }
}

/// Reads everything, `step` bytes at a time, and gives back what is whole.
fn read_all(bytes: &[u8], step: usize) -> Result<Vec<Message>, ChunkError> {
    let mut reader = ChunkReader::new(LIMITS);
    let mut messages = Vec::new();
    let mut held = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        held.extend_from_slice(piece);
        let mut input = held.as_slice();
        while let Some(event) = reader.read(&mut input)? {
            if let ChunkEvent::Message(message) = event {
                messages.push(message);
            }
        }
        held = input.to_vec();
        assert!(held.len() < 18, "{} bytes of an unfinished header", held.len());
    }
    Ok(messages)
}

prop_compose! {
    fn any_message()(
        chunk_stream in prop_oneof![2..=63u32, 64..=319u32, 320..=65599u32],
        timestamp in prop_oneof![any::<u32>(), Just(EXTENDED - 1), Just(EXTENDED)],
        stream in any::<u32>(),
        payload in vec(any::<u8>(), 0..700),
    ) -> Message {
        Message { chunk_stream, timestamp, kind: kind::AUDIO, stream, payload }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_whatever_the_chunk_size_and_the_split(
        messages in vec(any_message(), 1..8),
        chunk_size in 1..900u32,
        step in 1..2000usize,
    ) {
        let mut writer = ChunkWriter::new(DEFAULT_CHUNK_SIZE);
        let mut bytes = Vec::new();
        writer.write(&Message::set_chunk_size(chunk_size), &mut bytes);
        for message in &messages {
            writer.write(message, &mut bytes);
        }
        let read = read_all(&bytes, step).unwrap();
        prop_assert_eq!(&read[1..], &messages[..]);
    }

    #[test]
    fn no_bytes_make_the_reader_panic_or_hold_more_than_its_limit(
        bytes in vec(any::<u8>(), 0..4000),
        step in 1..4000usize,
    ) {
        if let Ok(messages) = read_all(&bytes, step) {
            for message in messages {
                prop_assert!(message.payload.len() <= LIMITS.message_bytes);
            }
        }
    }
}

#[test]
fn every_prefix_of_a_connection_is_unfinished_and_never_malformed() {
    let recorded = include_bytes!("../../../../testdata/rtmp/srs7-publish.client");
    let start = &recorded[..2048];
    for end in 0..start.len() {
        read_all(&start[..end], 4096).expect("a prefix is no fault");
    }
}

#[test]
fn a_recorded_publish_reads_the_same_in_every_split() {
    let recorded = include_bytes!("../../../../testdata/rtmp/srs7-publish.client");
    let whole = read_all(recorded, recorded.len()).unwrap();
    let media = whole.iter().filter(|message| message.is_media()).count();
    assert!(media > 500, "only {media} media messages of 12 s at 25 frames/s");
    for step in [1, 2, 3, 11, 127, 128, 129, 1460] {
        assert_eq!(read_all(recorded, step).unwrap(), whole, "in pieces of {step}");
    }
}

#[test]
fn compressed_headers_repeat_what_they_leave_out() {
    let mut bytes = vec![0x04, 0, 0, 100, 0, 0, 1, 8, 1, 0, 0, 0, b'a'];
    bytes.extend([0x44, 0, 0, 20, 0, 0, 2, 9, b'b', b'c']);
    bytes.extend([0x84, 0, 0, 5, b'd', b'e']);
    bytes.extend([0xc4, b'f', b'g']);
    let read = read_all(&bytes, 1).unwrap();
    let seen: Vec<_> =
        read.iter().map(|m| (m.timestamp, m.kind, m.stream, m.payload.as_slice())).collect();
    assert_eq!(
        seen,
        [
            (100, 8, 1, &b"a"[..]),
            (120, 9, 1, &b"bc"[..]),
            (125, 9, 1, &b"de"[..]),
            (130, 9, 1, &b"fg"[..]),
        ]
    );
}

#[test]
fn messages_interleave_on_their_own_chunk_streams() {
    let video = message(6, vec![1; 200]);
    let audio = message(4, vec![2; 50]);
    let mut writer = ChunkWriter::new(128);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    writer.write(&video, &mut first);
    writer.write(&audio, &mut second);
    let (begin, end) = first.split_at(12 + 128);
    let bytes = [begin, &second, end].concat();
    assert_eq!(read_all(&bytes, 1).unwrap(), [audio, video]);
}

#[test]
fn a_long_message_with_an_extended_timestamp_reads_with_and_without_its_repetition() {
    let video = Message { timestamp: 0x0123_4567, ..message(6, vec![9; 300]) };
    let mut bytes = Vec::new();
    ChunkWriter::new(128).write(&video, &mut bytes);
    assert_eq!(read_all(&bytes, 1).unwrap(), std::slice::from_ref(&video));
    // The two later chunks begin behind 12 + 4 + 128 and 1 + 4 + 128 more bytes.
    let mut without = bytes[..144].to_vec();
    without.push(bytes[144]);
    without.extend(&bytes[149..277]);
    without.push(bytes[277]);
    without.extend(&bytes[282..]);
    assert_eq!(read_all(&without, 1).unwrap(), [video]);
}

#[test]
fn an_aborted_message_is_forgotten_and_its_chunk_stream_goes_on() {
    let mut bytes = Vec::new();
    let mut writer = ChunkWriter::new(128);
    writer.write(&message(6, vec![1; 300]), &mut bytes);
    bytes.truncate(12 + 128);
    writer.write(&abort(6), &mut bytes);
    writer.write(&message(6, vec![2; 10]), &mut bytes);
    let read = read_all(&bytes, 5).unwrap();
    assert_eq!(read, [abort(6), message(6, vec![2; 10])]);
}

#[test]
fn each_breach_has_its_own_error() {
    let too_large = [4, 0, 0, 0, 0xff, 0xff, 0xff, 9, 1, 0, 0, 0];
    assert_eq!(read_all(&too_large, 99), Err(ChunkError::MessageTooLarge(0xff_ffff)));
    assert_eq!(read_all(&[0xc4], 99), Err(ChunkError::NoHeaderYet(4, 3)));
    let interrupted = [4, 0, 0, 0, 0, 0, 200, 9, 1, 0, 0, 0];
    let bytes = [&interrupted[..], &[0; 128], &interrupted[..]].concat();
    assert_eq!(read_all(&bytes, 99), Err(ChunkError::Interrupted(4)));
    let size_of = |n: u32| {
        let mut bytes = Vec::new();
        ChunkWriter::new(128).write(&Message::set_chunk_size(n), &mut bytes);
        read_all(&bytes, 99)
    };
    assert_eq!(size_of(0), Err(ChunkError::ChunkSize(0)));
    assert_eq!(size_of(1 << 31), Err(ChunkError::ChunkSize(1 << 31)));
    assert!(size_of(1).is_ok());
    let short = [2, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 9];
    assert_eq!(read_all(&short, 99), Err(ChunkError::ShortControl(1)));
    let many: Vec<u8> = (3..=12).flat_map(|id| [id, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0]).collect();
    assert_eq!(read_all(&many, 99), Err(ChunkError::TooManyChunkStreams(8)));
}

#[test]
fn unfinished_messages_share_one_limit() {
    let begin = |id| [id, 0, 0, 0, 0, 0xea, 0x60, 9, 1, 0, 0, 0];
    let bytes = [&begin(4)[..], &[0; 128], &begin(5)].concat();
    assert_eq!(read_all(&bytes, 99), Err(ChunkError::MessageTooLarge(60_000)));
}
