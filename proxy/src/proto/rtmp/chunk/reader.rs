//! Puts messages together again.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{DEFAULT_CHUNK_SIZE, EXTENDED, MAX_CHUNK_SIZE};
use crate::proto::rtmp::message::{Message, kind};

/// What a peer may make the reader hold.
#[derive(Clone, Copy, Debug)]
pub struct ChunkLimits {
    /// Bytes of one message, and of all unfinished messages together.
    pub message_bytes: usize,
    /// Chunk streams with a header to remember.
    pub chunk_streams: usize,
}

/// The peer broke the rules or a limit; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// A compressed header refers to one that never came.
    #[error("chunk stream {0} begins with a header of type {1}")]
    NoHeaderYet(u32, u8),
    /// A header with a length, in the middle of a message.
    #[error("chunk stream {0} begins a message inside another")]
    Interrupted(u32),
    /// A chunk size of zero, or with the top bit set.
    #[error("chunk size {0} is not allowed")]
    ChunkSize(u32),
    /// A Set Chunk Size or Abort without its four bytes.
    #[error("protocol control message of {0} bytes")]
    ShortControl(usize),
    /// Over [`ChunkLimits::message_bytes`].
    #[error("message of {0} bytes is over the limit")]
    MessageTooLarge(usize),
    /// Over [`ChunkLimits::chunk_streams`].
    #[error("more than {0} chunk streams")]
    TooManyChunkStreams(usize),
}

/// Header types 0 to 3, from full to nothing (RTMP 1.0 section 5.3.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Type 0: everything.
    Full,
    /// Type 1: no message stream id, the timestamp is a delta.
    SameStream,
    /// Type 2: a timestamp delta only.
    DeltaOnly,
    /// Type 3: everything as before.
    Nothing,
}

/// A chunk header, as it passes the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Chunk stream id, 2 to 65599.
    pub chunk_stream: u32,
    /// How much it left out.
    pub format: Format,
    /// Whether a message begins here.
    pub begins_message: bool,
    /// Bytes of the header itself.
    pub bytes: usize,
}

/// What the reader found next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkEvent {
    /// A header passed.
    Header(ChunkHeader),
    /// A message is whole. Set Chunk Size and Abort have already taken effect.
    Message(Message),
}

/// What a chunk stream remembers.
#[derive(Clone, Debug, Default)]
struct ChunkStream {
    timestamp: u32,
    /// What a type 3 header adds when it begins a message.
    delta: u32,
    /// The extended timestamp, if the last header with a timestamp had one.
    extended: Option<u32>,
    length: usize,
    kind: u8,
    stream: u32,
    /// The unfinished message; `Some` also while it is empty.
    partial: Option<Vec<u8>>,
}

/// Reads one direction of a connection, in whatever pieces it comes.
#[derive(Clone, Debug)]
pub struct ChunkReader {
    limits: ChunkLimits,
    chunk_size: u32,
    streams: BTreeMap<u32, ChunkStream>,
    /// The chunk whose payload comes next: chunk stream and bytes to come.
    inside: Option<(u32, usize)>,
    /// Bytes that the headers of all unfinished messages announced.
    announced: usize,
}

impl ChunkReader {
    /// A reader at the start of the chunk stream.
    pub fn new(limits: ChunkLimits) -> Self {
        Self {
            limits,
            chunk_size: DEFAULT_CHUNK_SIZE,
            streams: BTreeMap::new(),
            inside: None,
            announced: 0,
        }
    }

    /// The peer's chunk size now, bytes.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Other limits from now on; they bind what begins next.
    pub fn set_limits(&mut self, limits: ChunkLimits) {
        self.limits = limits;
    }

    /// Whether a message has begun and is not whole.
    pub fn has_unfinished(&self) -> bool {
        self.streams.values().any(|stream| stream.partial.is_some())
    }

    /// Takes bytes off the front of `input` up to the next event. `None`: all that is left of
    /// `input` (an unfinished header, at most 17 bytes) must come again with more behind it.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<ChunkEvent>, ChunkError> {
        let Some((id, to_come)) = self.inside else {
            return Ok(self.read_header(input)?.map(ChunkEvent::Header));
        };
        let (now, later) = input.split_at_checked(to_come).unwrap_or((input, &[]));
        *input = later;
        let stream = self.streams.entry(id).or_default();
        let partial = stream.partial.get_or_insert_default();
        // Grows with what has come, never with what was announced.
        partial.extend_from_slice(now);
        if now.len() < to_come {
            self.inside = Some((id, to_come - now.len()));
            return Ok(None);
        }
        self.inside = None;
        if partial.len() < stream.length {
            return self.read(input);
        }
        let payload = stream.partial.take().unwrap_or_default();
        self.announced -= payload.len();
        let message = Message {
            chunk_stream: id,
            timestamp: stream.timestamp,
            kind: stream.kind,
            stream: stream.stream,
            payload,
        };
        self.obey(&message)?;
        Ok(Some(ChunkEvent::Message(message)))
    }

    fn read_header(&mut self, input: &mut &[u8]) -> Result<Option<ChunkHeader>, ChunkError> {
        let mut rest = *input;
        let Some((format, id)) = basic_header(&mut rest) else { return Ok(None) };
        if !self.streams.contains_key(&id) {
            // RTMP 1.0 5.3.1.2.1: a chunk stream starts with type 0. librtmp starts some with
            // type 1; SRS takes that as type 0 on message stream 0, and so do we.
            if matches!(format, Format::DeltaOnly | Format::Nothing) {
                return Err(ChunkError::NoHeaderYet(id, format as u8));
            }
            if self.streams.len() >= self.limits.chunk_streams {
                return Err(ChunkError::TooManyChunkStreams(self.limits.chunk_streams));
            }
        }
        let fresh = ChunkStream::default();
        let known = self.streams.get(&id).unwrap_or(&fresh);
        let begins_message = known.partial.is_none();
        let Some(next) = message_header(&mut rest, format, begins_message, known) else {
            return Ok(None);
        };
        // Inside a message a header has nothing to say. Like SRS, take one of type 1 or 2 that
        // says the same again.
        let says_the_same = (next.length, next.kind) == (known.length, known.kind);
        if !begins_message && (format == Format::Full || !says_the_same) {
            return Err(ChunkError::Interrupted(id));
        }
        let missing = next.length.saturating_sub(known.partial.as_ref().map_or(0, Vec::len));
        if begins_message && self.announced.saturating_add(next.length) > self.limits.message_bytes
        {
            return Err(ChunkError::MessageTooLarge(next.length));
        }
        let bytes = input.len() - rest.len();
        let header = ChunkHeader { chunk_stream: id, format, begins_message, bytes };
        let stream = self.streams.entry(id).or_default();
        let partial = stream.partial.take().unwrap_or_default();
        *stream = ChunkStream { partial: Some(partial), ..next };
        if begins_message {
            self.announced += stream.length;
        }
        self.inside = Some((id, missing.min(self.chunk_size as usize)));
        *input = rest;
        Ok(Some(header))
    }

    /// Does what Set Chunk Size and Abort ask of a reader.
    fn obey(&mut self, message: &Message) -> Result<(), ChunkError> {
        match message.kind {
            kind::SET_CHUNK_SIZE => {
                let size = control_value(message)?;
                if size == 0 || size > i32::MAX.cast_unsigned() {
                    return Err(ChunkError::ChunkSize(size));
                }
                self.chunk_size = size.min(MAX_CHUNK_SIZE);
            }
            kind::ABORT => {
                let aborted = self.streams.get_mut(&control_value(message)?);
                if let Some(stream) = aborted
                    && stream.partial.take().is_some()
                {
                    self.announced -= stream.length;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn control_value(message: &Message) -> Result<u32, ChunkError> {
    message.control_value().ok_or(ChunkError::ShortControl(message.payload.len()))
}

/// RTMP 1.0 section 5.3.1.1. Advances `input` past the header if it is whole.
fn basic_header(input: &mut &[u8]) -> Option<(Format, u32)> {
    let (&first, rest) = input.split_first()?;
    let format = match first >> 6 {
        0 => Format::Full,
        1 => Format::SameStream,
        2 => Format::DeltaOnly,
        _ => Format::Nothing,
    };
    let (id, rest) = match first & 0x3f {
        0 => {
            let (&low, rest) = rest.split_first()?;
            (64 + u32::from(low), rest)
        }
        1 => {
            let (two, rest) = rest.split_first_chunk::<2>()?;
            (64 + u32::from(u16::from_le_bytes(*two)), rest)
        }
        id => (u32::from(id), rest),
    };
    *input = rest;
    Some((format, id))
}

/// RTMP 1.0 sections 5.3.1.2 and 5.3.1.3: what `known` becomes with this header, its unfinished
/// message aside. Advances `input` past the header if it is whole.
fn message_header(
    input: &mut &[u8],
    format: Format,
    begins_message: bool,
    known: &ChunkStream,
) -> Option<ChunkStream> {
    let mut rest = *input;
    let field = match format {
        Format::Nothing => None,
        Format::Full | Format::SameStream | Format::DeltaOnly => Some(be24(&mut rest)?),
    };
    let (mut length, mut kind, mut stream) = (known.length, known.kind, known.stream);
    if matches!(format, Format::Full | Format::SameStream) {
        length = be24(&mut rest)? as usize;
        let (&id, after) = rest.split_first()?;
        (kind, rest) = (id, after);
    }
    if format == Format::Full {
        let (four, after) = rest.split_first_chunk::<4>()?;
        (stream, rest) = (u32::from_le_bytes(*four), after);
    }
    let extended = match (field, known.extended) {
        (Some(EXTENDED), _) => Some(be32(&mut rest)?),
        (Some(_), _) | (None, None) => None,
        (None, Some(_)) if begins_message => Some(be32(&mut rest)?),
        (None, Some(before)) => {
            skip_repeated(&mut rest, before)?;
            Some(before)
        }
    };
    let value = extended.or(field);
    let (timestamp, delta) = match (format, value) {
        _ if !begins_message => (known.timestamp, known.delta),
        (Format::Full, Some(absolute)) => (absolute, absolute),
        // RTMP 1.0 5.3.1.2.4: after type 0, type 3 adds the timestamp itself. SRS does the same.
        (_, value) => {
            let delta = value.unwrap_or(known.delta);
            (known.timestamp.wrapping_add(delta), delta)
        }
    };
    *input = rest;
    Some(ChunkStream { timestamp, delta, extended, length, kind, stream, partial: None })
}

/// RTMP 1.0 5.3.1.3: a type 3 chunk repeats the extended timestamp. Some encoders leave it out;
/// like SRS, take the four bytes for it only if they are equal. `None`: not decided yet.
fn skip_repeated(input: &mut &[u8], extended: u32) -> Option<()> {
    let expected = extended.to_be_bytes();
    if let Some(rest) = input.strip_prefix(&expected) {
        *input = rest;
        return Some(());
    }
    let undecided = input.len() < expected.len() && expected.starts_with(input);
    (!undecided).then_some(())
}

fn be24(input: &mut &[u8]) -> Option<u32> {
    let (&[a, b, c], rest) = input.split_first_chunk::<3>()?;
    *input = rest;
    Some(u32::from_be_bytes([0, a, b, c]))
}

fn be32(input: &mut &[u8]) -> Option<u32> {
    let (four, rest) = input.split_first_chunk::<4>()?;
    *input = rest;
    Some(u32::from_be_bytes(*four))
}
