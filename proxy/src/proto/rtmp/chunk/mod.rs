//! The chunk stream (RTMP 1.0 section 5.3).

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use self::reader::{ChunkError, ChunkEvent, ChunkHeader, ChunkLimits, ChunkReader, Format};
pub use self::writer::ChunkWriter;

/// Chunk size before any Set Chunk Size (RTMP 1.0 section 5.4.1), bytes.
pub const DEFAULT_CHUNK_SIZE: u32 = 128;

/// A chunk is never larger than a message, and a message's length has 24 bits.
const MAX_CHUNK_SIZE: u32 = 0x00ff_ffff;

/// In the place of a timestamp: the real one follows in four bytes (RTMP 1.0 section 5.3.1.3).
const EXTENDED: u32 = 0x00ff_ffff;
