//! The origin's leg until it has answered what the proxy answered before it: it gets the client's
//! own bytes, and its answers are compared with ours.
//!
//! The boundary is the last answer to connect and createStream. An origin that gave the stream
//! ids we gave, and writes full headers, can go on as plain bytes: every chunk stream that the
//! client will see begins anew. Any other is relayed message by message.

use std::collections::BTreeMap;

use crate::proto::rtmp::amf::Value;
use crate::proto::rtmp::chunk::{
    ChunkEvent, ChunkLimits, ChunkReader, ChunkWriter, DEFAULT_CHUNK_SIZE, Format,
};
use crate::proto::rtmp::command::{Command, Status};
use crate::proto::rtmp::handshake::{ClientHandshake, Nonce, Style};
use crate::proto::rtmp::message::{Message, kind};

use super::HANDSHAKE;
use super::client::{BEFORE_STREAM, Wanted};

/// Event type of a User Control message (RTMP 1.0 section 7.1.7).
const PING_RESPONSE: [u8; 2] = [0, 7];

/// Why the origin's leg cannot go on.
#[derive(Debug)]
pub(super) enum OriginError {
    /// What it sent is not RTMP, or over a limit.
    Malformed(String),
    /// It answered connect or createStream with no.
    Refused(Status),
}

/// The origin has answered everything, and its next byte is the client's.
#[derive(Debug)]
pub(super) struct Agreement {
    /// Every created stream: the client's id and the origin's.
    pub(super) streams: Vec<(u32, u32)>,
    /// Messages of the origin that the client must see before the rest: window, chunk size,
    /// user control.
    pub(super) preface: Vec<Message>,
    /// The origin's acknowledgement window, bytes, if it announced one.
    pub(super) window: Option<u32>,
    /// Chunk streams that the origin has used, and whether it compressed a header there.
    pub(super) used: BTreeMap<u32, bool>,
    /// A reader that has read up to the boundary.
    pub(super) reader: ChunkReader,
    /// Bytes behind the boundary.
    pub(super) rest: Vec<u8>,
    /// Bytes received up to the boundary, handshake included.
    pub(super) received: u64,
}

impl Agreement {
    /// Why the legs cannot go on as plain bytes, if they cannot.
    pub(super) fn obstacle(&self) -> Option<&'static str> {
        if self.streams.iter().any(|(ours, theirs)| ours != theirs) {
            Some("the origin gave another stream id")
        } else if self.streams.len() > 1 {
            // Another publish or play may follow, for which ids and routes are checked.
            Some("the client created several streams")
        } else if self.used.values().any(|&compressed| compressed) {
            Some("the origin compresses chunk headers")
        } else if self.reader.has_unfinished() {
            Some("the origin interleaves messages at the hand-over")
        } else {
            None
        }
    }
}

/// An answer that must come, and what the client was told.
#[derive(Debug)]
struct Expected {
    transaction: f64,
    /// The id of a createStream; `None` for connect.
    stream: Option<u32>,
}

/// The machine. It ends with an [`Agreement`] or an [`OriginError`].
#[derive(Debug)]
pub(super) struct Origin {
    handshake: Option<ClientHandshake>,
    /// The client's bytes up to publish or play, sent behind C2.
    head: Vec<u8>,
    expected: Vec<Expected>,
    streams: Vec<(u32, u32)>,
    preface: Vec<Message>,
    window: Option<u32>,
    used: BTreeMap<u32, bool>,
    reader: ChunkReader,
    input: Vec<u8>,
    received: u64,
}

impl Origin {
    /// Appends C0 and C1 to `out`.
    pub(super) fn start(
        wanted: &Wanted,
        nonce: Box<Nonce>,
        chunk_streams: usize,
        out: &mut Vec<u8>,
    ) -> Self {
        let connect = Expected { transaction: wanted.connect, stream: None };
        let created = wanted
            .created
            .iter()
            .map(|&(transaction, id)| Expected { transaction, stream: Some(id) });
        let expected = std::iter::once(connect).chain(created).collect();
        let handshake = ClientHandshake::start(nonce, wanted.style, out);
        Self::new(handshake, wanted.head.clone(), expected, chunk_streams)
    }

    fn new(
        handshake: ClientHandshake,
        head: Vec<u8>,
        expected: Vec<Expected>,
        chunk_streams: usize,
    ) -> Self {
        Self {
            handshake: Some(handshake),
            head,
            expected,
            streams: Vec::new(),
            preface: Vec::new(),
            window: None,
            used: BTreeMap::new(),
            reader: ChunkReader::new(ChunkLimits { message_bytes: BEFORE_STREAM, chunk_streams }),
            input: Vec::new(),
            received: 0,
        }
    }

    /// Whether the origin has proven to speak RTMP; before that it counts as not reached.
    pub(super) fn has_shaken_hands(&self) -> bool {
        self.handshake.is_none()
    }

    /// The leg of nobody: it asks for an application that need not exist, as plainly as can be.
    /// Gives back the machine and what it says first.
    pub(super) fn ask_for_a_sign(nonce: Box<Nonce>) -> (Self, Vec<u8>) {
        let mut out = Vec::new();
        let object = Value::Object(vec![
            ("app".into(), "live".into()),
            ("tcUrl".into(), "rtmp://localhost/live".into()),
        ]);
        let connect = Command { name: "connect".into(), transaction: 1.0, arguments: vec![object] };
        let mut head = Vec::new();
        ChunkWriter::new(DEFAULT_CHUNK_SIZE).write(&connect.to_message(0), &mut head);
        let connect = Expected { transaction: connect.transaction, stream: None };
        let handshake = ClientHandshake::start(nonce, Style::Simple, &mut out);
        (Self::new(handshake, head, vec![connect], 8), out)
    }

    /// Whether the origin has said anything behind the handshake.
    pub(super) fn has_spoken(&self) -> bool {
        self.received > HANDSHAKE
    }

    /// Takes bytes from the origin and appends what it must get to `out`.
    pub(super) fn receive(
        &mut self,
        mut bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Agreement>, OriginError> {
        self.received += bytes.len() as u64;
        if let Some(handshake) = &mut self.handshake {
            let done = handshake.read(&mut bytes, out).map_err(malformed)?;
            if !done {
                return Ok(None);
            }
            self.handshake = None;
            out.append(&mut self.head);
        }
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        while !self.expected.is_empty() {
            match self.reader.read(&mut rest).map_err(malformed)? {
                None => {
                    self.input = rest.to_vec();
                    return Ok(None);
                }
                Some(ChunkEvent::Header(header)) => {
                    let compressed = self.used.entry(header.chunk_stream).or_default();
                    *compressed |= header.begins_message && header.format != Format::Full;
                }
                Some(ChunkEvent::Message(message)) => self.swallow(message)?,
            }
        }
        Ok(Some(Agreement {
            streams: std::mem::take(&mut self.streams),
            preface: std::mem::take(&mut self.preface),
            window: self.window,
            used: std::mem::take(&mut self.used),
            reader: self.reader.clone(),
            rest: rest.to_vec(),
            received: self.received - rest.len() as u64,
        }))
    }

    fn swallow(&mut self, message: Message) -> Result<(), OriginError> {
        match message.kind {
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 => self.hear(&message)?,
            kind::WINDOW_SIZE => {
                self.window = message.control_value();
                self.preface.push(message);
            }
            kind::ABORT | kind::ACKNOWLEDGEMENT => {}
            // An answer to a ping of the client's, which does not wait for it.
            kind::USER_CONTROL if message.payload.starts_with(&PING_RESPONSE) => {}
            _ => self.preface.push(message),
        }
        let held: usize = self.preface.iter().map(|message| message.payload.len() + 64).sum();
        if held > BEFORE_STREAM {
            return Err(malformed("too much before the answer to createStream"));
        }
        Ok(())
    }

    /// Compares an answer with the one that the client was given; others are dropped, because the
    /// client had its answer, or (onBWDone) needs none.
    fn hear(&mut self, message: &Message) -> Result<(), OriginError> {
        // One that cannot be read answers nothing.
        let Ok(command) = Command::parse(message) else { return Ok(()) };
        let failed = command.status().filter(Status::is_error);
        let theirs = command.number(1).and_then(stream_id);
        let is_result = command.name == "_result";
        let index = self.expected.iter().position(|expected| {
            // Both are copies of the same eight bytes, or the answer is not to this call; nor is
            // a result without a stream id one of createStream.
            expected.transaction.to_bits() == command.transaction.to_bits()
                && (expected.stream.is_none() || !is_result || theirs.is_some())
        });
        match (command.name.as_str(), index) {
            ("_result", Some(index)) if failed.is_none() => {
                let expected = self.expected.remove(index);
                self.streams.extend(expected.stream.zip(theirs));
            }
            ("_result" | "_error", Some(_)) => Err(OriginError::Refused(refusal(failed)))?,
            ("_result" | "_error", None) => {}
            _ if failed.is_some() => Err(OriginError::Refused(refusal(failed)))?,
            _ => {}
        }
        Ok(())
    }
}

fn refusal(status: Option<Status>) -> Status {
    status.unwrap_or_else(|| {
        Status::error("NetConnection.Call.Failed", "the origin refused without a reason")
    })
}

/// A message stream id out of an AMF number: a whole number of 32 bits, not the connection's.
pub(super) fn stream_id(number: f64) -> Option<u32> {
    let whole = number.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(&number);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and inside u32 by the line above"
    )]
    whole.then_some(number as u32)
}

fn malformed(text: impl std::fmt::Display) -> OriginError {
    OriginError::Malformed(text.to_string())
}
