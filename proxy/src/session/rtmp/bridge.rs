//! Both legs after the answers: plain bytes wherever that is right, whole messages elsewhere.
//!
//! As plain bytes the bridge only watches, until the origin has said yes or no to publish or
//! play: then the sockets can go to any plane. If a chunk header shows on the way that the two
//! legs are not aligned after all, or if that was known before, the bridge relays messages and
//! rewrites what differs: chunk sizes, header compression, acknowledgements, stream ids.

use std::collections::BTreeSet;

use crate::plane::relay::stream::{Filter, Leg, Outbox, Passed};
use crate::proto::rtmp::amf::Value;
use crate::proto::rtmp::chunk::{
    ChunkEvent, ChunkHeader, ChunkLimits, ChunkReader, ChunkWriter, DEFAULT_CHUNK_SIZE, Format,
};
use crate::proto::rtmp::command::{Command, Status};
use crate::proto::rtmp::message::{CONTROL_CHUNK_STREAM, Message, kind, map_user_control_stream};

use super::client::Wanted;
use super::fault::Fault;
use super::origin::{Agreement, stream_id};

/// Calls of createStream that the origin has not answered yet, at most.
const MAX_ASKED: usize = 16;

/// The largest chunk stream id (RTMP 1.0 section 5.3.1.1).
const LAST_CHUNK_STREAM: u32 = 65_599;

/// A peer that wants to hear more often costs more to answer than to serve, bytes.
const SMALLEST_WINDOW: u32 = 4096;

/// What the bridge does with bytes.
#[derive(Debug)]
enum Mode {
    /// Passes them on as they are, and watches for a compressed header on these chunk streams,
    /// where the client has not seen what the origin refers to.
    Verbatim(BTreeSet<u32>),
    /// The origin has answered, and nothing needs to be watched any more.
    Aligned,
    /// Decodes and encodes messages, for this reason.
    Messages(&'static str),
}

/// One direction: what comes from a leg, and how it goes on to the other.
#[derive(Debug)]
struct Way {
    reader: ChunkReader,
    /// Bytes that have not gone on: an unfinished header, and as long as bytes pass verbatim the
    /// unfinished chunk, so that a message can be taken back behind what has gone on.
    held: Vec<u8>,
    /// How many of them, at the end, the reader has not taken.
    unread: usize,
    /// Towards the other leg.
    writer: ChunkWriter,
    /// After how many bytes the sender wants to hear of it, while messages are relayed.
    window: Option<u32>,
    received: u64,
    acknowledged: u64,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Bridge {
    mode: Mode,
    from_client: Way,
    from_origin: Way,
    ids: StreamIds,
    answer: Option<Status>,
}

impl Bridge {
    /// Joins the legs. `out` gets the first bytes for both.
    pub(super) fn new(
        wanted: Wanted,
        agreement: Agreement,
        limits: ChunkLimits,
        out: &mut Outbox,
    ) -> Result<Self, Fault> {
        let obstacle = agreement.obstacle();
        let sent = wanted.head.len() as u64;
        let mut bridge = Self {
            mode: Mode::Verbatim(agreement.used.keys().copied().collect()),
            from_client: Way::new(wanted.reader, limits, wanted.window, sent),
            from_origin: Way::new(agreement.reader, limits, agreement.window, agreement.received),
            ids: StreamIds { pairs: agreement.streams, active: wanted.stream, asked: Vec::new() },
            answer: None,
        };
        let mut writer = ChunkWriter::new(DEFAULT_CHUNK_SIZE);
        for message in &agreement.preface {
            writer.write(message, &mut out.to_client);
        }
        if let Some(reason) = obstacle {
            bridge.relay_messages(reason, out);
        }
        for (leg, bytes) in [(Leg::Client, wanted.tail), (Leg::Origin, agreement.rest)] {
            if let Passed::Verbatim = bridge.pass(leg, &bytes, out)? {
                out.towards(leg.other()).extend_from_slice(&bytes);
            }
        }
        Ok(bridge)
    }

    /// Why messages are relayed, if they are.
    pub(super) fn obstacle(&self) -> Option<&'static str> {
        match self.mode {
            Mode::Messages(reason) => Some(reason),
            Mode::Verbatim(_) | Mode::Aligned => None,
        }
    }

    /// Whether the origin has said no to publish or play.
    pub(super) fn refused(&self) -> bool {
        self.answer.as_ref().is_some_and(Status::is_error)
    }

    /// Whether the origin leaves something out of a header that the client cannot know.
    fn is_out_of_step(&mut self, from: Leg, header: ChunkHeader) -> bool {
        let Mode::Verbatim(watched) = &mut self.mode else { return false };
        from == Leg::Origin
            && header.begins_message
            && watched.remove(&header.chunk_stream)
            && header.format != Format::Full
    }

    /// Begins to relay messages. What has gone on of unfinished ones is taken back.
    fn relay_messages(&mut self, reason: &'static str, out: &mut Outbox) {
        self.mode = Mode::Messages(reason);
        for from in [Leg::Client, Leg::Origin] {
            let way = self.way(from);
            // Every Set Chunk Size has gone on so far.
            way.writer = ChunkWriter::new(way.reader.chunk_size());
            // The other way may be inside a chunk that it holds back; the reader has its bytes.
            way.held.drain(..way.held.len() - way.unread);
            let unfinished: Vec<u32> = way.reader.unfinished().collect();
            // A message on the control chunk stream may itself be unfinished.
            let free =
                (CONTROL_CHUNK_STREAM..=LAST_CHUNK_STREAM).find(|id| !unfinished.contains(id));
            let chunk_stream = free.unwrap_or(CONTROL_CHUNK_STREAM);
            for aborted in unfinished {
                let abort = Message { chunk_stream, ..Message::abort(aborted) };
                way.writer.write(&abort, out.towards(from.other()));
            }
        }
    }

    fn way(&mut self, from: Leg) -> &mut Way {
        match from {
            Leg::Client => &mut self.from_client,
            Leg::Origin => &mut self.from_origin,
        }
    }

    /// A message is whole: watch it, or send it on.
    fn message(&mut self, from: Leg, message: Message, out: &mut Outbox) {
        if from == Leg::Origin && self.answer.is_none() {
            self.listen_for_answer(&message);
        }
        if matches!(self.mode, Mode::Messages(_))
            && let Some(message) = self.translate(from, message)
        {
            self.way(from).writer.write(&message, out.towards(from.other()));
        }
    }

    fn listen_for_answer(&mut self, message: &Message) {
        if message.is_command()
            && let Ok(command) = Command::parse(message)
            && command.name == "onStatus"
        {
            self.answer = command.status();
        } else if message.is_media() {
            // Media says yes.
            self.answer = Some(Status::default());
        }
        if self.answer.is_some() && matches!(self.mode, Mode::Verbatim(_)) {
            self.mode = Mode::Aligned;
        }
    }

    /// The message as the other leg must see it; `None` if it concerns this leg alone.
    fn translate(&mut self, from: Leg, mut message: Message) -> Option<Message> {
        match message.kind {
            kind::WINDOW_SIZE => {
                self.way(from).window = message.control_value();
                return None;
            }
            kind::SET_CHUNK_SIZE | kind::ABORT | kind::ACKNOWLEDGEMENT | kind::PEER_BANDWIDTH => {
                return None;
            }
            kind::USER_CONTROL => {
                map_user_control_stream(&mut message.payload, |id| self.ids.map(from, id));
            }
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 => self.translate_command(from, &mut message),
            _ => {}
        }
        message.stream = self.ids.map(from, message.stream);
        Some(message)
    }

    /// Replaces the stream ids that createStream and deleteStream carry in their arguments.
    fn translate_command(&mut self, from: Leg, message: &mut Message) {
        // What cannot be read has no id to replace, and the origin may understand it.
        let Ok(mut command) = Command::parse(message) else { return };
        let replace = match (from, command.name.as_str()) {
            (Leg::Client, "createStream") => {
                self.ids.ask(command.transaction);
                None
            }
            (Leg::Client, "publish" | "play") => {
                self.ids.active = message.stream;
                None
            }
            (Leg::Client, "deleteStream") => {
                command.number(1).and_then(stream_id).map(|id| self.ids.map(from, id))
            }
            (Leg::Origin, "_result") if self.ids.answers(command.transaction) => {
                command.number(1).and_then(stream_id).map(|id| self.ids.add(id))
            }
            _ => None,
        };
        if let Some(id) = replace
            && let Some(argument) = command.arguments.get_mut(1)
        {
            *argument = Value::Number(f64::from(id));
            let rewritten = command.to_message(message.stream);
            (message.kind, message.payload) = (rewritten.kind, rewritten.payload);
        }
    }
}

impl Filter for Bridge {
    type Fault = Fault;

    fn pass(&mut self, from: Leg, bytes: &[u8], out: &mut Outbox) -> Result<Passed, Fault> {
        if matches!(self.mode, Mode::Aligned) {
            return Ok(Passed::Verbatim);
        }
        let way = self.way(from);
        way.received += bytes.len() as u64;
        let mut buffer = std::mem::take(&mut way.held);
        let read_before = buffer.len() - std::mem::take(&mut way.unread);
        buffer.extend_from_slice(bytes);
        let mut rest = buffer.get(read_before..).unwrap_or_default();
        // Where the last chunk ended: bytes before it can go on, if they go on verbatim.
        let mut boundary = 0;
        // Behind the answer nothing is read, wherever it stands in the buffer.
        while !self.is_done()
            && let Some(event) = self.way(from).reader.read(&mut rest)?
        {
            let read = buffer.len() - rest.len();
            match event {
                ChunkEvent::Header(header) => {
                    boundary = read - header.bytes;
                    if self.is_out_of_step(from, header) {
                        let fine = buffer.get(..boundary).unwrap_or_default();
                        out.towards(from.other()).extend_from_slice(fine);
                        self.relay_messages("the origin compresses chunk headers", out);
                    }
                }
                ChunkEvent::Message(message) => {
                    boundary = read;
                    self.message(from, message, out);
                }
            }
        }
        let unread = rest.len();
        let read = buffer.len() - unread;
        let between_chunks = self.way(from).reader.is_between_chunks();
        let goes_on = match self.mode {
            Mode::Aligned => buffer.len(),
            Mode::Verbatim(_) if between_chunks => read,
            Mode::Verbatim(_) => boundary,
            Mode::Messages(_) => 0,
        };
        let keep_from = if self.obstacle().is_some() { read } else { goes_on };
        out.towards(from.other()).extend_from_slice(buffer.get(..goes_on).unwrap_or_default());
        let way = self.way(from);
        way.held = buffer.split_off(keep_from.min(buffer.len()));
        way.unread = unread.min(way.held.len());
        match self.mode {
            Mode::Verbatim(_) => {}
            Mode::Messages(_) => self.acknowledge(from, out),
            Mode::Aligned => {
                let held = std::mem::take(&mut self.way(from.other()).held);
                out.towards(from).extend(held);
            }
        }
        Ok(Passed::Written)
    }

    fn is_waiting(&self) -> bool {
        self.answer.is_none()
    }

    fn is_done(&self) -> bool {
        matches!(self.mode, Mode::Aligned)
    }
}

impl Bridge {
    /// Tells a sender what has come, each leg by its own count (RTMP 1.0 section 5.4.3).
    fn acknowledge(&mut self, from: Leg, out: &mut Outbox) {
        let way = self.way(from);
        let due = way.window.is_some_and(|window| {
            way.received - way.acknowledged >= u64::from(window.max(SMALLEST_WINDOW))
        });
        if !due {
            return;
        }
        way.acknowledged = way.received;
        #[expect(clippy::cast_possible_truncation, reason = "the sequence number wraps")]
        let acknowledgement = Message::acknowledgement(way.received as u32);
        // It goes back to the sender, so it is written as the other way's messages are.
        self.way(from.other()).writer.write(&acknowledgement, out.towards(from));
    }
}

impl Way {
    fn new(
        mut reader: ChunkReader,
        limits: ChunkLimits,
        window: Option<u32>,
        received: u64,
    ) -> Self {
        reader.set_limits(limits);
        let writer = ChunkWriter::new(DEFAULT_CHUNK_SIZE);
        Self { reader, held: Vec::new(), unread: 0, writer, window, received, acknowledged: 0 }
    }
}

/// Message stream ids that differ between the legs. Others are the same on both.
#[derive(Debug)]
struct StreamIds {
    /// The client's and the origin's.
    pairs: Vec<(u32, u32)>,
    /// The client's id in the last publish or play: the one that an id of the origin means if
    /// the origin gives the same to several streams, as nginx-rtmp and SRS do.
    active: u32,
    /// Transactions of createStream without an answer.
    asked: Vec<f64>,
}

impl StreamIds {
    /// The other leg's id for one that came from `from`.
    fn map(&self, from: Leg, id: u32) -> u32 {
        let found = match from {
            Leg::Client => self.pairs.iter().find(|pair| pair.0 == id).map(|pair| pair.1),
            Leg::Origin => {
                let mut same = self.pairs.iter().filter(|pair| pair.1 == id).map(|pair| pair.0);
                same.clone().find(|&ours| ours == self.active).or(same.next_back())
            }
        };
        found.unwrap_or(id)
    }

    fn ask(&mut self, transaction: f64) {
        if self.asked.len() < MAX_ASKED {
            self.asked.push(transaction);
        }
    }

    /// Whether this answers a createStream; it is then no longer asked for.
    fn answers(&mut self, transaction: f64) -> bool {
        let index = self.asked.iter().position(|asked| asked.to_bits() == transaction.to_bits());
        index.map(|index| self.asked.swap_remove(index)).is_some()
    }

    /// Gives the client an id of its own for a new stream of the origin.
    fn add(&mut self, origin: u32) -> u32 {
        let next = self.pairs.iter().map(|pair| pair.0).max().unwrap_or(0).saturating_add(1);
        // A client that goes on creating streams re-uses the places of its first ones.
        if self.pairs.len() >= MAX_ASKED {
            self.pairs.remove(0);
        }
        self.pairs.push((next, origin));
        next
    }
}
