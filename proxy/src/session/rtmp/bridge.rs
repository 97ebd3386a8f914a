//! Both legs after the answers: plain bytes wherever that is right, whole messages elsewhere.
//!
//! As plain bytes the bridge only watches, until the origin has said yes or no to publish or
//! play: then the sockets can go to any plane. If a chunk header shows on the way that the two
//! legs are not aligned after all, or if that was known before, the bridge relays messages and
//! rewrites what differs: chunk sizes, header compression, acknowledgements, stream ids.

use std::collections::BTreeSet;

use crate::plane::relay::filter::{Filter, Passed};
use crate::plane::{Leg, Outbox};
use crate::proto::rtmp::amf::Value;
use crate::proto::rtmp::chunk::{
    ChunkEvent, ChunkHeader, ChunkLimits, ChunkReader, ChunkWriter, DEFAULT_CHUNK_SIZE, Format,
};
use crate::proto::rtmp::command::{Command, Status};
use crate::proto::rtmp::message::{Message, kind, map_user_control_stream};

use super::HANDSHAKE;
use super::client::Wanted;
use super::fault::Fault;
use super::origin::{Agreement, stream_id};

/// Calls of createStream that the origin has not answered yet, at most.
const MAX_ASKED: usize = 16;

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
    /// Has read what has gone on. Verbatim that is always up to a point between messages, so
    /// that a reader of messages can take over there.
    reader: ChunkReader,
    /// What has come behind that.
    held: Vec<u8>,
    /// Reads ahead of `reader` while bytes pass verbatim.
    scout: ChunkReader,
    /// How much of `held` the scout has read.
    scouted: usize,
    /// Towards the other leg, while messages are relayed.
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
    /// Bytes that a way may hold while they pass verbatim.
    most_held: usize,
    /// The mode or the answer is new.
    turned: bool,
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
        let sent = HANDSHAKE + wanted.head.len() as u64;
        let mut bridge = Self {
            mode: Mode::Verbatim(agreement.used.keys().copied().collect()),
            from_client: Way::new(wanted.reader, limits, wanted.window, sent),
            from_origin: Way::new(agreement.reader, limits, agreement.window, agreement.received),
            ids: StreamIds { pairs: agreement.streams, active: wanted.stream, asked: Vec::new() },
            answer: None,
            most_held: limits.message_bytes,
            turned: false,
        };
        let mut writer = ChunkWriter::new(DEFAULT_CHUNK_SIZE);
        for message in &agreement.preface {
            writer.write(message, &mut out.to_client);
        }
        if let Some(reason) = obstacle {
            bridge.relay_messages(reason, out)?;
        }
        for (leg, bytes) in [(Leg::Client, wanted.tail), (Leg::Origin, agreement.rest)] {
            if let Passed::Verbatim = bridge.pass(leg, &bytes, out)? {
                out.towards(leg.other()).extend_from_slice(&bytes);
            }
        }
        Ok(bridge)
    }

    /// Whether the bytes need no further look.
    pub(super) fn is_aligned(&self) -> bool {
        matches!(self.mode, Mode::Aligned)
    }

    /// Why messages are relayed, if they are.
    pub(super) fn obstacle(&self) -> Option<&'static str> {
        match self.mode {
            Mode::Messages(reason) => Some(reason),
            Mode::Verbatim(_) | Mode::Aligned => None,
        }
    }

    /// What the origin has said to publish or play: yes, no, or nothing yet.
    pub(super) fn is_accepted(&self) -> Option<bool> {
        self.answer.as_ref().map(|answer| !answer.is_error())
    }

    fn way(&mut self, from: Leg) -> &mut Way {
        match from {
            Leg::Client => &mut self.from_client,
            Leg::Origin => &mut self.from_origin,
        }
    }

    /// Verbatim: lets go on what is fit to, up to the last point between messages. What is not
    /// fit has then not gone on, not even in part.
    fn watch(&mut self, from: Leg, bytes: &[u8], out: &mut Outbox) -> Result<(), Fault> {
        let way = self.way(from);
        way.held.extend_from_slice(bytes);
        let mut fit = 0;
        let mut obstacle = None;
        // Behind the answer nothing is read: those bytes pass whatever they are.
        while obstacle.is_none()
            && self.answer.is_none()
            && let Some(event) = self.way(from).scout()?
        {
            match event {
                ChunkEvent::Header(header) => {
                    if self.is_out_of_step(from, header) {
                        obstacle = Some("the origin compresses chunk headers");
                    }
                }
                ChunkEvent::Message(message) => {
                    if from == Leg::Origin {
                        self.listen_for_answer(&message);
                    }
                    let way = self.way(from);
                    if !way.scout.has_unfinished() {
                        way.reader.clone_from(&way.scout);
                        fit = way.scouted;
                    }
                }
            }
        }
        let way = self.way(from);
        way.scouted -= fit;
        out.towards(from.other()).extend(way.held.drain(..fit));
        if way.held.len() > self.most_held {
            obstacle = Some("messages are interleaved without an end");
        }
        if let Some(reason) = obstacle {
            return self.relay_messages(reason, out);
        }
        if self.answer.is_some() {
            self.mode = Mode::Aligned;
            for leg in Leg::ALL {
                out.towards(leg.other()).append(&mut self.way(leg).held);
            }
        }
        Ok(())
    }

    /// Whether the origin leaves something out of a header that the client cannot know.
    fn is_out_of_step(&mut self, from: Leg, header: ChunkHeader) -> bool {
        let Mode::Verbatim(watched) = &mut self.mode else { return false };
        from == Leg::Origin
            && header.begins_message
            && watched.remove(&header.chunk_stream)
            && header.format != Format::Full
    }

    fn listen_for_answer(&mut self, message: &Message) {
        if self.answer.is_some() {
            return;
        }
        if message.is_command() {
            let command = Command::parse(message).ok().filter(|c| c.name == "onStatus");
            self.answer = command.and_then(|command| command.status()).filter(Status::is_answer);
        } else if message.is_media() {
            // Media says yes.
            self.answer = Some(Status::default());
        }
        self.turned |= self.answer.is_some();
    }

    /// Begins to relay messages, from the points between messages where both ways stand.
    fn relay_messages(&mut self, reason: &'static str, out: &mut Outbox) -> Result<(), Fault> {
        self.mode = Mode::Messages(reason);
        self.turned = true;
        for from in Leg::ALL {
            let way = self.way(from);
            // Every Set Chunk Size that the reader has seen has gone on.
            way.writer = ChunkWriter::new(way.reader.chunk_size());
        }
        for from in Leg::ALL {
            self.relay(from, &[], out)?;
        }
        Ok(())
    }

    /// Sends on every message that is whole.
    fn relay(&mut self, from: Leg, bytes: &[u8], out: &mut Outbox) -> Result<(), Fault> {
        let mut held = std::mem::take(&mut self.way(from).held);
        held.extend_from_slice(bytes);
        let mut rest = held.as_slice();
        while let Some(event) = self.way(from).reader.read(&mut rest)? {
            let ChunkEvent::Message(message) = event else { continue };
            if from == Leg::Origin {
                self.listen_for_answer(&message);
            }
            if let Some(message) = self.translate(from, message) {
                self.way(from).writer.write(&message, out.towards(from.other()));
            }
        }
        self.way(from).held = rest.to_vec();
        self.acknowledge(from, out);
        Ok(())
    }

    /// Tells a sender what has come, each leg by its own count (RTMP 1.0 section 5.4.3). Like
    /// librtmp, the handshake counts.
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
    type Turn = ();
    type Fault = Fault;

    fn pass(&mut self, from: Leg, bytes: &[u8], out: &mut Outbox) -> Result<Passed, Fault> {
        self.way(from).received += bytes.len() as u64;
        match self.mode {
            Mode::Aligned => return Ok(Passed::Verbatim),
            Mode::Verbatim(_) => self.watch(from, bytes, out)?,
            Mode::Messages(_) => self.relay(from, bytes, out)?,
        }
        Ok(Passed::Written)
    }

    fn turn(&mut self, _: &Outbox) -> Option<()> {
        std::mem::take(&mut self.turned).then_some(())
    }

    fn is_waiting(&self) -> bool {
        self.answer.is_none()
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
        Self {
            scout: reader.clone(),
            reader,
            held: Vec::new(),
            scouted: 0,
            writer: ChunkWriter::new(DEFAULT_CHUNK_SIZE),
            window,
            received,
            acknowledged: 0,
        }
    }

    /// The next event of the scout.
    fn scout(&mut self) -> Result<Option<ChunkEvent>, Fault> {
        let mut rest = self.held.get(self.scouted..).unwrap_or_default();
        let event = self.scout.read(&mut rest)?;
        self.scouted = self.held.len() - rest.len();
        Ok(event)
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
