//! The client's leg until it says what it wants: handshake, connect, createStream, and at last
//! publish or play. Every byte behind C2 is kept, as it came, for the origin.

use crate::proto::rtmp::amf::Value;
use crate::proto::rtmp::chunk::{
    ChunkEvent, ChunkHeader, ChunkLimits, ChunkReader, ChunkWriter, DEFAULT_CHUNK_SIZE,
};
use crate::proto::rtmp::command::{Command, Status};
use crate::proto::rtmp::handshake::{Nonce, ServerHandshake, Style};
use crate::proto::rtmp::message::{Message, kind};
use crate::session::{End, Role};

use super::fault::Fault;

/// Bytes a client may send before publish or play. FFmpeg and OBS need about 500; Flash's
/// connect objects, tokens and cookies stay below 8 KiB.
pub(super) const BEFORE_STREAM: usize = 64 * 1024;

/// Streams a client may create before it uses one.
const MAX_CREATED: usize = 16;

/// What SRS announces; large enough that no acknowledgement is due before the origin speaks.
const WINDOW: u32 = 2_500_000;

/// What the client wants, and everything that the origin must hear of it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) role: Role,
    pub(super) tc_url: String,
    pub(super) app: String,
    /// The name in publish or play, with its query string.
    pub(super) name: String,
    /// The message stream of that publish or play.
    pub(super) stream: u32,
    /// The transaction of connect.
    pub(super) connect: f64,
    /// Each createStream: its transaction and the id that the client was given.
    pub(super) created: Vec<(f64, u32)>,
    /// After how many bytes the client wants an acknowledgement, if it said so.
    pub(super) window: Option<u32>,
    /// How the client shook hands.
    pub(super) style: Style,
    /// Raw bytes behind C2, up to the chunk where publish or play begins.
    pub(super) head: Vec<u8>,
    /// Raw bytes from there on.
    pub(super) tail: Vec<u8>,
    /// A reader that has read `head` and nothing of `tail`.
    pub(super) reader: ChunkReader,
}

impl Wanted {
    /// A fault that the client understands as the answer to its publish or play.
    pub(super) fn refuse(&self, end: End, text: String) -> Fault {
        let code = match self.role {
            Role::Publish => "NetStream.Publish.BadName",
            Role::Play => "NetStream.Play.StreamNotFound",
        };
        self.pass_on(end, &Status::error(code, text))
    }

    /// The same with a status of the origin's.
    pub(super) fn pass_on(&self, end: End, status: &Status) -> Fault {
        let message = Command::on_status(status).to_message(self.stream);
        Fault::new(end, &status.description).saying(&message)
    }
}

/// The machine. It ends with [`Wanted`] or a [`Fault`].
#[derive(Debug)]
pub(super) struct Client {
    handshake: Option<ServerHandshake>,
    style: Style,
    chunks: Chunks,
    writer: ChunkWriter,
    connect: Option<Connect>,
    created: Vec<(f64, u32)>,
    window: Option<u32>,
}

#[derive(Debug)]
struct Connect {
    transaction: f64,
    tc_url: String,
    app: String,
}

impl Client {
    pub(super) fn new(nonce: Box<Nonce>, chunk_streams: usize) -> Self {
        Self {
            handshake: Some(ServerHandshake::new(nonce)),
            style: Style::Simple,
            chunks: Chunks::new(chunk_streams),
            writer: ChunkWriter::new(DEFAULT_CHUNK_SIZE),
            connect: None,
            created: Vec::new(),
            window: None,
        }
    }

    /// Whether the handshake is done, so that another deadline counts.
    pub(super) fn has_shaken_hands(&self) -> bool {
        self.handshake.is_none()
    }

    /// Takes bytes from the client and appends answers to `out`.
    pub(super) fn receive(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Wanted>, Fault> {
        if let Some(handshake) = &mut self.handshake {
            let done = handshake
                .read(&mut input, out)
                .map_err(|error| Fault::new(End::NotTheProtocol, error))?;
            let Some(style) = done else { return Ok(None) };
            self.style = style;
            self.handshake = None;
        }
        self.chunks.raw.extend_from_slice(input);
        while let Some(message) = self.chunks.next()? {
            if message.kind == kind::WINDOW_SIZE {
                self.window = message.control_value();
            }
            // Acknowledgements, buffer lengths and data before the stream are for the origin.
            if message.is_command()
                && let Some(wanted) = self.obey(&message, out)?
            {
                return Ok(Some(wanted));
            }
        }
        if self.chunks.raw.len() > BEFORE_STREAM {
            let text = format!("no publish or play within {BEFORE_STREAM} bytes");
            return Err(self.refuse(End::TooMuchBeforeStream, text));
        }
        Ok(None)
    }

    fn obey(&mut self, message: &Message, out: &mut Vec<u8>) -> Result<Option<Wanted>, Fault> {
        let command = Command::parse(message)
            .map_err(|error| self.refuse(End::BadCommand, error.to_string()))?;
        let transaction = command.transaction;
        if self.connect.is_none() {
            self.connect(&command, out)?;
            return Ok(None);
        }
        match command.name.as_str() {
            "connect" => return Err(self.refuse(End::BadCommand, "connect was said twice".into())),
            "createStream" => {
                let id = self.create_stream(transaction)?;
                self.answer(&Command::create_stream_result(transaction, id), out);
            }
            "publish" => return self.want(Role::Publish, &command, message.stream).map(Some),
            "play" => return self.want(Role::Play, &command, message.stream).map(Some),
            // Only the origin knows the length; its answer follows the hand-over.
            "getStreamLength" => {}
            // releaseStream, FCPublish, FCSubscribe, _checkbw ...: some encoders wait for an
            // answer, and not every origin gives one.
            _ if transaction != 0.0 => self.answer(&Command::empty_result(transaction), out),
            _ => {}
        }
        Ok(None)
    }

    fn connect(&mut self, command: &Command, out: &mut Vec<u8>) -> Result<(), Fault> {
        if command.name != "connect" {
            let text = format!("{:.32} was said before connect", command.name);
            return Err(Fault::new(End::BadCommand, text));
        }
        let object = command.arguments.first();
        let member = |name| object.and_then(|object| object.member(name));
        let text = |name| member(name).and_then(Value::as_str).unwrap_or_default();
        let (tc_url, app) = (text("tcUrl").to_owned(), text("app").to_owned());
        let encoding = member("objectEncoding").and_then(Value::as_number).unwrap_or(0.0);
        let transaction = command.transaction;
        self.connect = Some(Connect { transaction, tc_url, app });
        for message in [Message::window_size(WINDOW), Message::peer_bandwidth(WINDOW)] {
            self.writer.write(&message, out);
        }
        self.answer(&Command::connect_result(transaction, encoding), out);
        Ok(())
    }

    fn create_stream(&mut self, transaction: f64) -> Result<u32, Fault> {
        if self.created.len() == MAX_CREATED {
            let text = format!("more than {MAX_CREATED} streams created");
            return Err(self.refuse(End::BadCommand, text));
        }
        let id = u32::try_from(self.created.len()).unwrap_or(0) + 1;
        self.created.push((transaction, id));
        Ok(id)
    }

    fn want(&mut self, role: Role, command: &Command, stream: u32) -> Result<Wanted, Fault> {
        let name = command.text(1).unwrap_or_default().to_owned();
        let Some(connect) = self.connect.take() else {
            return Err(Fault::new(End::BadCommand, "stream before connect"));
        };
        let (head, tail, reader) = self.chunks.split();
        Ok(Wanted {
            role,
            tc_url: connect.tc_url,
            app: connect.app,
            name,
            stream,
            connect: connect.transaction,
            created: std::mem::take(&mut self.created),
            window: self.window,
            style: self.style,
            head,
            tail,
            reader,
        })
    }

    fn answer(&mut self, command: &Command, out: &mut Vec<u8>) {
        self.writer.write(&command.to_message(0), out);
    }

    /// A fault with a word for the client, which has said connect or was about to.
    fn refuse(&self, end: End, text: String) -> Fault {
        let command = if self.connect.is_some() {
            Command::on_status(&Status::error("NetConnection.Call.Failed", &*text))
        } else {
            let status = Status::error("NetConnection.Connect.Rejected", &*text);
            Command::connect_error(1.0, &status)
        };
        Fault::new(end, text).saying(&command.to_message(0))
    }
}

/// The raw bytes behind C2, and how far they were read as chunks.
#[derive(Debug)]
struct Chunks {
    raw: Vec<u8>,
    limits: ChunkLimits,
    reader: ChunkReader,
    /// Bytes of `raw` that the reader took.
    read: usize,
    /// Where in `raw` the message that is whole next begins, by chunk stream.
    begins: Vec<(u32, usize)>,
    /// Where the last whole message began.
    last_began: usize,
}

impl Chunks {
    fn new(chunk_streams: usize) -> Self {
        let limits = ChunkLimits { message_bytes: BEFORE_STREAM, chunk_streams };
        let reader = ChunkReader::new(limits);
        Self { raw: Vec::new(), limits, reader, read: 0, begins: Vec::new(), last_began: 0 }
    }

    /// The next whole message.
    fn next(&mut self) -> Result<Option<Message>, Fault> {
        loop {
            let mut input = self.raw.get(self.read..).unwrap_or_default();
            let before = input.len();
            let event = self.reader.read(&mut input)?;
            self.read += before - input.len();
            match event {
                None => return Ok(None),
                Some(ChunkEvent::Header(ChunkHeader {
                    chunk_stream,
                    begins_message,
                    bytes,
                    ..
                })) => {
                    if begins_message {
                        // An aborted message has left its begin behind.
                        self.begins.retain(|&(id, _)| id != chunk_stream);
                        // The end of another message's chunk may have been read with the header.
                        self.begins.push((chunk_stream, self.read - bytes));
                    }
                }
                Some(ChunkEvent::Message(message)) => {
                    let of_message = |&(id, _): &(u32, usize)| id == message.chunk_stream;
                    if let Some(index) = self.begins.iter().position(of_message) {
                        self.last_began = self.begins.swap_remove(index).1;
                    }
                    return Ok(Some(message));
                }
            }
        }
    }

    /// The bytes before and from the begin of the last whole message, and a reader of the first.
    fn split(&mut self) -> (Vec<u8>, Vec<u8>, ChunkReader) {
        let mut head = std::mem::take(&mut self.raw);
        let tail = head.split_off(self.last_began.min(head.len()));
        // The reader is past the split, and cannot go back: the head is short, read it again.
        let mut reader = ChunkReader::new(self.limits);
        let mut input = head.as_slice();
        while let Ok(Some(_)) = reader.read(&mut input) {}
        (head, tail, reader)
    }
}
