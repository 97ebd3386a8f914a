//! The chunk stream: whatever the split, the same messages or the same error, and never more held
//! than the limits allow.

use std::collections::BTreeMap;

use bolero::check;
use srs_proxy::proto::rtmp::chunk::{
    ChunkError, ChunkEvent, ChunkLimits, ChunkReader, ChunkWriter, DEFAULT_CHUNK_SIZE,
};
use srs_proxy::proto::rtmp::message::{Message, kind};

use crate::split::{in_two, pieces};
use crate::{RANDOM, corpus};

/// Small, so that inputs of a few hundred bytes reach them.
const LIMITS: ChunkLimits = ChunkLimits { message_bytes: 2048, chunk_streams: 6 };

/// The longest header: three bytes of id, eleven of a message, four of extended timestamp.
const LONGEST_HEADER: usize = 3 + 11 + 4;

#[test]
fn reader() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let whole = Story::of(&[input]);
        assert_eq!(Story::of(&pieces(input)), whole, "another story in pieces");
        whole.can_be_written_and_read_again();
    });
}

#[test]
fn every_split_of_the_corpus_tells_the_same_story() {
    for (name, input) in corpus::of("chunk__reader") {
        let whole = Story::of(&[&input]);
        for two in in_two(&input) {
            assert_eq!(Story::of(&two), whole, "{name} cut at {}", two[0].len());
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(Story::of(&bytes), whole, "{name} byte by byte");
    }
}

#[test]
fn every_prefix_of_the_corpus_tells_the_beginning_of_the_story() {
    for (name, input) in corpus::of("chunk__reader") {
        let whole = Story::of(&[&input]);
        for end in 0..input.len() {
            let part = Story::of(&[&input[..end]]);
            assert!(whole.events.starts_with(&part.events), "{name}, the first {end} bytes");
            assert!(part.error.is_none() || part == whole, "{name}, the first {end} bytes");
        }
    }
}

/// Everything that a reader says of its input.
#[derive(Debug, PartialEq)]
struct Story {
    events: Vec<ChunkEvent>,
    error: Option<ChunkError>,
    /// The unfinished header at the end.
    left: Vec<u8>,
    chunk_size: u32,
    has_unfinished: bool,
}

impl Story {
    /// Reads `pieces` as a connection does: what is not taken comes again with more behind it.
    fn of(pieces: &[&[u8]]) -> Self {
        let mut reader = ChunkReader::new(LIMITS);
        let mut events = Vec::new();
        let mut held = Held::default();
        let mut left = Vec::new();
        let mut error = None;
        'pieces: for piece in pieces {
            left.extend_from_slice(piece);
            let mut input = left.as_slice();
            loop {
                let before = input.len();
                match reader.read(&mut input) {
                    Err(breach) => {
                        error = Some(breach);
                        left.clear();
                        break 'pieces;
                    }
                    Ok(event) => {
                        held.note(before - input.len(), event.as_ref());
                        let Some(event) = event else { break };
                        events.push(event);
                    }
                }
            }
            left = input.to_vec();
            assert!(left.len() < LONGEST_HEADER, "{} bytes of a header left", left.len());
        }
        let has_unfinished = reader.has_unfinished();
        Self { events, error, left, chunk_size: reader.chunk_size(), has_unfinished }
    }

    fn messages(&self) -> Vec<Message> {
        let message = |event: &ChunkEvent| match event {
            ChunkEvent::Message(message) => Some(message.clone()),
            ChunkEvent::Header(_) => None,
        };
        self.events.iter().filter_map(message).collect()
    }

    fn can_be_written_and_read_again(&self) {
        let messages = self.messages();
        let mut writer = ChunkWriter::new(DEFAULT_CHUNK_SIZE);
        let mut bytes = Vec::new();
        for message in &messages {
            writer.write(message, &mut bytes);
        }
        let again = Self::of(&[&bytes]);
        assert_eq!((again.messages(), again.error, again.left.len()), (messages, None, 0));
    }
}

/// Payload bytes of unfinished messages, counted from outside.
#[derive(Default)]
struct Held {
    by_chunk_stream: BTreeMap<u32, usize>,
    now: Option<u32>,
}

impl Held {
    /// One call of the reader took so many bytes and told this.
    fn note(&mut self, taken: usize, event: Option<&ChunkEvent>) {
        let header = match event {
            Some(ChunkEvent::Header(header)) => header.bytes,
            _ => 0,
        };
        if let Some(id) = self.now {
            *self.by_chunk_stream.entry(id).or_default() += taken - header;
        }
        match event {
            Some(ChunkEvent::Header(header)) => self.now = Some(header.chunk_stream),
            Some(ChunkEvent::Message(message)) => {
                let held = self.by_chunk_stream.remove(&message.chunk_stream);
                assert_eq!(held, Some(message.payload.len()), "a message of other bytes");
                if message.kind == kind::ABORT
                    && let Some(aborted) = message.control_value()
                {
                    self.by_chunk_stream.remove(&aborted);
                }
                self.now = None;
            }
            None => {}
        }
        let held: usize = self.by_chunk_stream.values().sum();
        assert!(held <= LIMITS.message_bytes, "{held} bytes of unfinished messages");
    }
}
