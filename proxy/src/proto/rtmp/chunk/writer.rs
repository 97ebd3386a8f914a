//! Cuts messages into chunks.

use super::{EXTENDED, MAX_CHUNK_SIZE};
use crate::proto::rtmp::message::{Message, kind};

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
