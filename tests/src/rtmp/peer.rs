//! One end of an RTMP connection after its handshake: messages in, messages out.

use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rml_rtmp::chunk_io::{ChunkDeserializer, ChunkSerializer};
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::messages::{MessagePayload, RtmpMessage};
use rml_rtmp::rml_amf0::Amf0Value;
use rml_rtmp::time::RtmpTimestamp;

/// A blocking connection; reads and writes fail after `PATIENCE`.
pub struct Peer {
    socket: TcpStream,
    /// First chunks that came with the handshake.
    early: Vec<u8>,
    chunks: ChunkDeserializer,
    writer: ChunkSerializer,
}

/// A command message.
#[derive(Debug)]
pub struct Command {
    /// What is called.
    pub name: String,
    /// Which answer belongs to it.
    pub transaction: f64,
    /// What follows the command object.
    pub arguments: Vec<Amf0Value>,
}

/// The first byte of a key frame of H.264, as FLV has it.
pub(super) const KEY_FRAME: u8 = 0x17;

/// How long a peer waits for the other end.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

impl Peer {
    /// The handshake as a client.
    pub fn greet(socket: TcpStream) -> Result<Self> {
        let mut handshake = Handshake::new(PeerType::Client);
        let first = handshake.generate_outbound_p0_and_p1()?;
        Self::shake(socket, handshake, &first)
    }

    /// The handshake as a server.
    pub fn welcome(socket: TcpStream) -> Result<Self> {
        Self::shake(socket, Handshake::new(PeerType::Server), &[])
    }

    fn shake(mut socket: TcpStream, mut handshake: Handshake, first: &[u8]) -> Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.write_all(first)?;
        let mut buffer = [0; 4096];
        loop {
            let bytes = read(&mut socket, &mut buffer).context("in the handshake")?;
            match handshake.process_bytes(bytes)? {
                HandshakeProcessResult::InProgress { response_bytes } => {
                    socket.write_all(&response_bytes)?;
                }
                HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                    socket.write_all(&response_bytes)?;
                    return Ok(Self {
                        socket,
                        early: remaining_bytes,
                        chunks: ChunkDeserializer::new(),
                        writer: ChunkSerializer::new(),
                    });
                }
            }
        }
    }

    /// The next message; a change of the chunk size is obeyed on the way.
    pub fn read(&mut self) -> Result<MessagePayload> {
        let mut buffer = [0; 16 * 1024];
        let early = mem::take(&mut self.early);
        let mut bytes = early.as_slice();
        loop {
            if let Some(message) = self.chunks.get_next_message(bytes)? {
                if message.type_id == SET_CHUNK_SIZE {
                    let size = message.data.get(..4).context("a chunk size of too few bytes")?;
                    let size = u32::from_be_bytes(size.try_into()?);
                    self.chunks.set_max_chunk_size(size.try_into()?)?;
                }
                return Ok(message);
            }
            bytes = read(&mut self.socket, &mut buffer)?;
        }
    }

    /// The next command; other messages are passed over.
    pub fn command(&mut self) -> Result<Command> {
        loop {
            let message = self.read()?;
            if message.type_id != AMF0_COMMAND {
                continue;
            }
            if let RtmpMessage::Amf0Command {
                command_name,
                transaction_id,
                additional_arguments,
                ..
            } = message.to_rtmp_message()?
            {
                return Ok(Command {
                    name: command_name,
                    transaction: transaction_id,
                    arguments: additional_arguments,
                });
            }
        }
    }

    /// Sends a message on this message stream.
    pub fn send(&mut self, message: RtmpMessage, stream: u32) -> Result<()> {
        let bytes = self.encode(message, stream)?;
        self.socket.write_all(&bytes)?;
        Ok(())
    }

    /// Sends a message as it is.
    pub fn send_payload(&mut self, message: &MessagePayload) -> Result<()> {
        let bytes = self.writer.serialize(message, false, true)?.bytes;
        self.socket.write_all(&bytes)?;
        Ok(())
    }

    /// Calls or answers.
    pub fn call(
        &mut self,
        stream: u32,
        name: &str,
        transaction: f64,
        object: Amf0Value,
        arguments: Vec<Amf0Value>,
    ) -> Result<()> {
        let message = RtmpMessage::Amf0Command {
            command_name: name.to_owned(),
            transaction_id: transaction,
            command_object: object,
            additional_arguments: arguments,
        };
        self.send(message, stream)
    }

    /// Says and then uses this chunk size.
    pub fn set_chunk_size(&mut self, size: u32) -> Result<()> {
        let packet = self.writer.set_max_chunk_size(size, RtmpTimestamp::new(0))?;
        self.socket.write_all(&packet.bytes)?;
        // A message that may be dropped, and is: behind it a header is full.
        self.encode(RtmpMessage::SetChunkSize { size }, 0)?;
        Ok(())
    }

    /// The chunks of a message, all headers of whole messages full (type 0).
    pub fn encode(&mut self, message: RtmpMessage, stream: u32) -> Result<Vec<u8>> {
        let payload = message.into_message_payload(RtmpTimestamp::new(0), stream)?;
        // What may be dropped is followed by a full header, but Set Chunk Size is the library's own:
        // behind it that has to be forced. It would be in every chunk, so only where there is one.
        let is_control = payload.type_id <= PEER_BANDWIDTH;
        Ok(self.writer.serialize(&payload, is_control, true)?.bytes)
    }

    /// The connection itself.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

/// An object of these members.
pub(super) fn object<'a>(members: impl IntoIterator<Item = (&'a str, Amf0Value)>) -> Amf0Value {
    Amf0Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// A string.
pub(super) fn text(text: &str) -> Amf0Value {
    Amf0Value::Utf8String(text.to_owned())
}

/// An `onStatus` object.
pub(super) fn status(level: &str, code: &str, description: &str) -> Amf0Value {
    object([("level", text(level)), ("code", text(code)), ("description", text(description))])
}

fn read<'a>(socket: &mut TcpStream, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    let length = loop {
        match socket.read(buffer) {
            // With a time limit it is not begun anew by the system.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            length => break length?,
        }
    };
    if length == 0 {
        bail!("the other end closed the connection");
    }
    buffer.get(..length).context("more bytes than asked for")
}

const SET_CHUNK_SIZE: u8 = 1;
/// The last of the control messages, which are of few bytes.
const PEER_BANDWIDTH: u8 = 6;
const AMF0_COMMAND: u8 = 20;
