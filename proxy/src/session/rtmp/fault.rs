//! Why an RTMP session cannot go on, for the log, the counters and the client.

use std::fmt::Display;

use crate::proto::rtmp::chunk::{ChunkError, ChunkWriter, DEFAULT_CHUNK_SIZE};
use crate::proto::rtmp::message::Message;
use crate::session::End;

/// An end with its story.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) end: End,
    /// For the log.
    pub(super) text: String,
    /// What the client is told before the connection closes: chunks, ready to send.
    pub(super) last_words: Vec<u8>,
}

impl Fault {
    /// A fault of which the client learns by the closed connection only.
    pub(super) fn new(end: End, text: impl Display) -> Self {
        Self { end, text: text.to_string(), last_words: Vec::new() }
    }

    /// The same, with `message` for the client. Until the hand-over every client reads chunks of
    /// the default size.
    pub(super) fn saying(mut self, message: &Message) -> Self {
        ChunkWriter::new(DEFAULT_CHUNK_SIZE).write(message, &mut self.last_words);
        self
    }
}

impl From<ChunkError> for Fault {
    fn from(error: ChunkError) -> Self {
        let end = match error {
            ChunkError::MessageTooLarge(_) => End::MessageTooLarge,
            ChunkError::TooManyChunkStreams(_) => End::TooManyChunkStreams,
            ChunkError::NoHeaderYet(..)
            | ChunkError::Interrupted(_)
            | ChunkError::ChunkSize(_)
            | ChunkError::ShortControl(_) => End::BadChunk,
        };
        Self::new(end, error)
    }
}
