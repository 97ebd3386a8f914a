//! The chunk stream (RTMP 1.0 section 5.3): a reader that puts messages together, and a writer
//! that cuts them.

use std::collections::BTreeMap;

use thiserror::Error;

use super::message::{Message, kind};

/// Chunk size before any Set Chunk Size (RTMP 1.0 section 5.4.1), bytes.
pub const DEFAULT_CHUNK_SIZE: u32 = 128;

/// A chunk is never larger than a message, and a message's length has 24 bits.
const MAX_CHUNK_SIZE: u32 = 0x00ff_ffff;

/// In the place of a timestamp: the real one follows in four bytes (RTMP 1.0 section 5.3.1.3).
const EXTENDED: u32 = 0x00ff_ffff;

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

    /// Allows larger messages from now on.
    pub fn set_limits(&mut self, limits: ChunkLimits) {
        self.limits = limits;
    }

    /// The chunk streams on which a message has begun and is not whole.
    pub fn unfinished(&self) -> impl Iterator<Item = u32> {
        self.streams.iter().filter(|(_, stream)| stream.partial.is_some()).map(|(id, _)| *id)
    }

    /// Whether the next byte begins a chunk header.
    pub fn is_between_chunks(&self) -> bool {
        self.inside.is_none()
    }

    /// Takes bytes off the front of `input` up to the next event. `None`: all that is left of
    /// `input` (an unfinished header, at most 17 bytes) must come again with more behind it.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<ChunkEvent>, ChunkError> {
        let Some((id, to_come)) = self.inside else {
            return Ok(self.read_header(input)?.map(ChunkEvent::Header));
        };
        let (now, later) = input.split_at_checked(to_come).unwrap_or((input, &[]));
        *input = later;
        let Some(stream) = self.streams.get_mut(&id) else {
            self.inside = None;
            return Ok(None);
        };
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
        if !begins_message && format != Format::Nothing {
            return Err(ChunkError::Interrupted(id));
        }
        let Some(next) = message_header(&mut rest, format, begins_message, known) else {
            return Ok(None);
        };
        let missing = next.length.saturating_sub(known.partial.as_ref().map_or(0, Vec::len));
        if begins_message && self.announced.saturating_add(next.length) > self.limits.message_bytes
        {
            return Err(ChunkError::MessageTooLarge(next.length));
        }
        let header = ChunkHeader {
            chunk_stream: id,
            format,
            begins_message,
            bytes: input.len() - rest.len(),
        };
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

/// Writes one direction of a connection. Every message gets a full header, so that it can begin
/// anywhere, whatever the peer remembers of its chunk stream.
#[derive(Debug)]
pub struct ChunkWriter {
    chunk_size: u32,
}

impl ChunkWriter {
    /// A writer whose peer reads chunks of `chunk_size` bytes.
    pub fn new(chunk_size: u32) -> Self {
        Self { chunk_size: chunk_size.clamp(1, MAX_CHUNK_SIZE) }
    }

    /// Appends `message` to `out`. A Set Chunk Size takes effect behind itself.
    pub fn write(&mut self, message: &Message, out: &mut Vec<u8>) {
        let field = message.timestamp.min(EXTENDED);
        let extended = (field == EXTENDED).then_some(message.timestamp.to_be_bytes());
        write_basic_header(0, message.chunk_stream, out);
        out.extend(be24_bytes(field));
        // The length has 24 bits; a longer payload cannot come out of the reader.
        out.extend(be24_bytes(u32::try_from(message.payload.len()).unwrap_or(u32::MAX)));
        out.push(message.kind);
        out.extend(message.stream.to_le_bytes());
        out.extend(extended.into_iter().flatten());
        let mut chunks = message.payload.chunks(self.chunk_size as usize);
        out.extend(chunks.next().unwrap_or_default());
        for chunk in chunks {
            write_basic_header(3, message.chunk_stream, out);
            out.extend(extended.into_iter().flatten());
            out.extend(chunk);
        }
        if message.kind == kind::SET_CHUNK_SIZE
            && let Some(size) = message.control_value()
        {
            self.chunk_size = size.clamp(1, MAX_CHUNK_SIZE);
        }
    }
}

/// RTMP 1.0 section 5.3.1.1.
fn write_basic_header(format: u8, id: u32, out: &mut Vec<u8>) {
    let format = format << 6;
    // No reader gives out an id that does not fit.
    let above = u16::try_from(id.saturating_sub(64)).unwrap_or(u16::MAX);
    match (u8::try_from(id), u8::try_from(above)) {
        (Ok(id @ 2..=63), _) => out.push(format | id),
        (_, Ok(above)) => out.extend([format, above]),
        (_, Err(_)) => {
            out.push(format | 1);
            out.extend(above.to_le_bytes());
        }
    }
}

fn be24_bytes(value: u32) -> [u8; 3] {
    let [_, a, b, c] = value.to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: ChunkLimits = ChunkLimits { message_bytes: 100_000, chunk_streams: 8 };

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
        let recorded = include_bytes!("../../../testdata/rtmp/srs7-publish.client");
        let start = &recorded[..2048];
        for end in 0..start.len() {
            read_all(&start[..end], 4096).expect("a prefix is no fault");
        }
    }

    #[test]
    fn a_recorded_publish_reads_the_same_in_every_split() {
        let recorded = include_bytes!("../../../testdata/rtmp/srs7-publish.client");
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
        writer.write(&Message::abort(6), &mut bytes);
        writer.write(&message(6, vec![2; 10]), &mut bytes);
        let read = read_all(&bytes, 5).unwrap();
        assert_eq!(read, [Message::abort(6), message(6, vec![2; 10])]);
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
}
