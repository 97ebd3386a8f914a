//! The machines together: a client, an origin, and what each gets of the other.

use super::bridge::Bridge;
use super::client::{Client, Wanted};
use super::fault::Fault;
use super::origin::{Agreement, Origin, OriginError};
use crate::plane::relay::filter::{Filter, Passed};
use crate::plane::{Leg, Outbox};
use crate::proto::rtmp::amf::Value;
use crate::proto::rtmp::chunk::{
    ChunkEvent, ChunkLimits, ChunkReader, ChunkWriter, DEFAULT_CHUNK_SIZE,
};
use crate::proto::rtmp::command::{Command, Status};
use crate::proto::rtmp::handshake::{ClientHandshake, PACKET, Scheme, ServerHandshake, Style};
use crate::proto::rtmp::message::{Message, kind};
use crate::session::{End, Role};

const LIMITS: ChunkLimits = ChunkLimits { message_bytes: 1 << 20, chunk_streams: 16 };

/// Shakes hands as a client would and says `chunks`, `step` bytes at a time. Gives back what is
/// wanted, what the client was answered as chunks, and the bytes not yet said.
fn ask(style: Style, chunks: &[u8], step: usize) -> Result<(Wanted, Vec<u8>, Vec<u8>), Fault> {
    let mut proxy = Client::new(Box::new([3; PACKET]), 16);
    let (mut said, mut answered) = (Vec::new(), Vec::new());
    let mut client = ClientHandshake::start(Box::new([4; PACKET]), style, &mut said);
    assert!(proxy.receive(&said, &mut answered)?.is_none());
    said.clear();
    assert!(client.read(&mut answered.as_slice(), &mut said).unwrap());
    answered.clear();
    assert!(proxy.receive(&said, &mut answered)?.is_none());
    let mut rest = chunks;
    while let Some((now, later)) = rest.split_at_checked(step.min(rest.len()).max(1)) {
        rest = later;
        if let Some(wanted) = proxy.receive(now, &mut answered)? {
            return Ok((wanted, answered, rest.to_vec()));
        }
    }
    panic!("the client has said everything and wants nothing");
}

/// Lets the origin shake hands and say `chunks`, `step` bytes at a time. Gives back the
/// agreement, what the origin got behind C2, and the bytes it has not yet said.
fn answer(
    wanted: &Wanted,
    chunks: &[u8],
    step: usize,
) -> Result<(Agreement, Vec<u8>, Vec<u8>), OriginError> {
    let mut got = Vec::new();
    let mut proxy = Origin::start(wanted, Box::new([5; PACKET]), 16, &mut got);
    let mut said = Vec::new();
    let mut origin = ServerHandshake::new(Box::new([6; PACKET]));
    assert_eq!(origin.read(&mut got.as_slice(), &mut said).unwrap(), None);
    got.clear();
    assert!(proxy.receive(&said, &mut got)?.is_none());
    let mut behind_c2 = got.as_slice();
    assert_eq!(origin.read(&mut behind_c2, &mut Vec::new()).unwrap(), Some(wanted.style));
    let behind_c2 = behind_c2.to_vec();
    let mut rest = chunks;
    while let Some((now, later)) = rest.split_at_checked(step.min(rest.len()).max(1)) {
        rest = later;
        if let Some(agreement) = proxy.receive(now, &mut Vec::new())? {
            return Ok((agreement, behind_c2, rest.to_vec()));
        }
    }
    Err(OriginError::Malformed("the origin has said everything and agreed to nothing".into()))
}

/// A whole session of a client and an origin that say these chunks.
struct Joined {
    wanted: (Role, String, String),
    /// All chunks the client and the origin got.
    client_got: Vec<u8>,
    origin_got: Vec<u8>,
    bridge: Bridge,
}

fn join(style: Style, client: &[u8], origin: &[u8], step: usize) -> Joined {
    let (wanted, mut client_got, to_say) = ask(style, client, step).unwrap();
    let (agreement, mut origin_got, to_answer) = answer(&wanted, origin, step).unwrap();
    let asked = (wanted.role, wanted.tc_url.clone(), wanted.name.clone());
    let mut out = Outbox::default();
    let mut bridge = Bridge::new(wanted, agreement, LIMITS, &mut out).unwrap();
    for (from, bytes) in [(Leg::Client, to_say), (Leg::Origin, to_answer)] {
        for piece in bytes.chunks(step) {
            if let Passed::Verbatim = bridge.pass(from, piece, &mut out).unwrap() {
                out.towards(from.other()).extend_from_slice(piece);
            }
        }
    }
    client_got.append(&mut out.to_client);
    origin_got.append(&mut out.to_origin);
    Joined { wanted: asked, client_got, origin_got, bridge }
}

fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut reader = ChunkReader::new(LIMITS);
    let mut messages = Vec::new();
    while let Some(event) = reader.read(&mut bytes).expect("chunks a peer can read") {
        if let ChunkEvent::Message(message) = event {
            messages.push(message);
        }
    }
    assert!(bytes.is_empty(), "{} bytes of an unfinished header", bytes.len());
    messages
}

fn media(bytes: &[u8]) -> Vec<Message> {
    messages(bytes).into_iter().filter(Message::is_media).collect()
}

/// Says messages with full headers.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn message(mut self, message: &Message) -> Self {
        ChunkWriter::new(DEFAULT_CHUNK_SIZE).write(message, &mut self.0);
        self
    }

    fn command(self, stream: u32, name: &str, transaction: f64, arguments: &[Value]) -> Self {
        let arguments = [&[Value::Null], arguments].concat();
        let command = Command { name: name.into(), transaction, arguments };
        self.message(&command.to_message(stream))
    }

    fn connect(self) -> Self {
        let object = Value::Object(vec![
            ("app".into(), "live".into()),
            ("tcUrl".into(), "rtmp://127.0.0.1/live".into()),
        ]);
        let connect = Command { name: "connect".into(), transaction: 1.0, arguments: vec![object] };
        self.message(&connect.to_message(0))
    }

    fn connected(self) -> Self {
        self.message(&Command::connect_result(1.0).to_message(0))
    }

    fn stream_begin(self, stream: u8) -> Self {
        let payload = vec![0, 0, 0, 0, 0, stream];
        let kind = kind::USER_CONTROL;
        self.message(&Message { chunk_stream: 2, timestamp: 0, kind, stream: 0, payload })
    }

    fn video(self, stream: u32, fill: u8) -> Self {
        let payload = vec![fill; 300];
        self.message(&Message {
            chunk_stream: 6,
            timestamp: 40,
            kind: kind::VIDEO,
            stream,
            payload,
        })
    }
}

fn publisher() -> Script {
    Script::default()
        .connect()
        .command(0, "releaseStream", 2.0, &["s".into()])
        .command(0, "FCPublish", 3.0, &["s".into()])
        .command(0, "createStream", 4.0, &[])
        .command(1, "publish", 5.0, &["s".into(), "live".into()])
        .video(1, 7)
}

fn published(stream: f64) -> Script {
    let start = Status { level: "status".into(), ..Status::error("NetStream.Publish.Start", "") };
    Script::default()
        .connected()
        .command(0, "_result", 4.0, &[stream.into()])
        .message(&Command::on_status(&start).to_message(1))
}

#[test]
fn a_recorded_publish_reaches_the_origin_byte_for_byte_in_every_split() {
    let client = include_bytes!("../../../testdata/rtmp/srs7-publish.client");
    let origin = include_bytes!("../../../testdata/rtmp/srs7-publish.origin");
    for step in [1, 7, 128, 1460, 1 << 20] {
        let joined = join(Style::Simple, client, origin, step);
        let asked = (Role::Publish, "rtmp://127.0.0.1:19351/live", "livestream?token=abc");
        assert_eq!((joined.wanted.0, &*joined.wanted.1, &*joined.wanted.2), asked);
        assert!(joined.bridge.is_aligned(), "not handed over: {:?}", joined.bridge.obstacle());
        assert!(joined.origin_got == client, "the origin got other bytes, in pieces of {step}");
        let last = messages(&joined.client_got).pop().unwrap();
        assert_eq!(last.chunk_stream, messages(origin).pop().unwrap().chunk_stream);
        assert_eq!(
            last,
            messages(origin).pop().unwrap(),
            "the client misses the origin's last word"
        );
    }
}

#[test]
fn a_recorded_play_reaches_the_client_message_for_message_in_every_split() {
    let client = include_bytes!("../../../testdata/rtmp/srs7-play.client");
    let origin = include_bytes!("../../../testdata/rtmp/srs7-play.origin");
    for step in [1, 7, 128, 1460, 1 << 20] {
        let joined = join(Style::Digest(Scheme::KeyFirst), client, origin, step);
        assert_eq!(joined.wanted.0, Role::Play);
        assert!(joined.bridge.is_aligned(), "not handed over: {:?}", joined.bridge.obstacle());
        assert!(joined.origin_got == client, "the origin got other bytes, in pieces of {step}");
        assert!(media(origin).len() > 100, "the recording has media");
        assert!(media(&joined.client_got) == media(origin), "media differs, in pieces of {step}");
        // From the first message behind the answers on, the bytes themselves are the origin's.
        let tail = &origin[origin.len() - 60_000..];
        assert!(joined.client_got.ends_with(tail), "bytes differ, in pieces of {step}");
    }
}

#[test]
fn an_origin_with_another_stream_id_gets_and_gives_its_own() {
    for step in [1, 100, 1 << 20] {
        let client = publisher().command(0, "deleteStream", 6.0, &[1.0.into()]).0;
        let origin = published(5.0).stream_begin(5).video(5, 9).0;
        let joined = join(Style::Simple, &client, &origin, step);
        assert_eq!(joined.bridge.obstacle(), Some("the origin gave another stream id"));
        let got = messages(&joined.origin_got);
        let publish = got.iter().find(|m| m.stream == 5 && m.is_command()).unwrap();
        assert_eq!(Command::parse(publish).unwrap().name, "publish");
        assert_eq!(media(&joined.origin_got)[0].stream, 5);
        let delete = Command::parse(got.last().unwrap()).unwrap();
        assert_eq!((delete.name.as_str(), delete.number(1)), ("deleteStream", Some(5.0)));
        let client_got = messages(&joined.client_got);
        assert!(client_got.iter().any(|m| m.payload == [0, 0, 0, 0, 0, 1]), "StreamBegin(1)");
        assert_eq!(media(&joined.client_got)[0].stream, 1);
        assert_eq!(media(&joined.client_got)[0].payload, vec![9; 300]);
    }
}

/// An origin that compresses: the same messages, all but the first of a chunk stream with type 1.
fn compress(script: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    let mut out = Vec::new();
    for message in messages(script) {
        let mut whole = Vec::new();
        ChunkWriter::new(DEFAULT_CHUNK_SIZE).write(&message, &mut whole);
        let id = message.chunk_stream;
        if seen.contains(&(id, message.stream)) {
            // Type 1: 7 bytes, without the message stream id. The timestamp delta is zero as long
            // as all are equal.
            whole.drain(8..12);
            whole[0] |= 0x40;
            whole[1..4].fill(0);
        }
        seen.push((id, message.stream));
        out.append(&mut whole);
    }
    out
}

#[test]
fn an_origin_that_compresses_headers_is_relayed_message_by_message() {
    for step in [1, 100, 1 << 20] {
        let origin = compress(&published(1.0).video(1, 1).video(1, 2).0);
        let joined = join(Style::Simple, &publisher().0, &origin, step);
        assert_eq!(joined.bridge.obstacle(), Some("the origin compresses chunk headers"));
        let fills: Vec<_> = media(&joined.client_got).iter().map(|m| m.payload[0]).collect();
        assert_eq!(fills, [1, 2]);
        assert_eq!(media(&joined.origin_got)[0].payload, vec![7; 300]);
    }
}

#[test]
fn a_first_compressed_header_behind_the_answers_ends_the_plain_bytes() {
    for step in [1, 100, 1 << 20] {
        // The answers all have full headers; onStatus refers to the last of them.
        let start = Status { level: "status".into(), ..Status::error("NetStream.Play.Start", "") };
        let answers = Script::default().connected().command(0, "_result", 4.0, &[1.0.into()]).0;
        let mut late = Script::default().message(&Command::on_status(&start).to_message(0)).0;
        late.drain(8..12);
        late[0] |= 0x40;
        let origin = [answers, late, Script::default().video(1, 5).0].concat();
        let joined = join(Style::Simple, &publisher().0, &origin, step);
        assert_eq!(joined.bridge.obstacle(), Some("the origin compresses chunk headers"));
        let statuses: Vec<_> = messages(&joined.client_got)
            .iter()
            .filter_map(|m| Command::parse(m).ok()?.status())
            .map(|status| status.code)
            .collect();
        assert_eq!(statuses.last().map(String::as_str), Some("NetStream.Play.Start"));
        assert_eq!(media(&joined.client_got)[0].payload, vec![5; 300]);
        assert_eq!(media(&joined.origin_got)[0].payload, vec![7; 300]);
    }
}

/// A message cut behind its first chunk, and what is missing.
fn first_chunk(script: &Script) -> (&[u8], &[u8]) {
    script.0.split_at(12 + 128)
}

#[test]
fn a_publish_inside_another_message_is_no_cut_through_it() {
    let video = Script::default().video(1, 7);
    let (begin, end) = first_chunk(&video);
    let asked = Script::default().connect().command(0, "createStream", 4.0, &[]).0;
    let publish = Script::default().command(1, "publish", 5.0, &["s".into()]).0;
    let client = [&asked, begin, &publish, end].concat();
    let (wanted, _, _) = ask(Style::Simple, &client, 1 << 20).unwrap();
    assert_eq!(wanted.head, asked, "the head ends between messages");
    for (step, stream) in [(1, 1.0), (1, 5.0), (1 << 20, 1.0), (1 << 20, 5.0)] {
        let joined = join(Style::Simple, &client, &published(stream).0, step);
        assert_eq!(media(&joined.origin_got)[0].payload, vec![7; 300]);
    }
}

#[test]
fn an_unfinished_message_on_the_control_chunk_stream_is_relayed_whole() {
    let video = Script::default().message(&Message {
        chunk_stream: 2,
        ..messages(&Script::default().video(1, 7).0).remove(0)
    });
    let (begin, end) = first_chunk(&video);
    let asked = Script::default().connect().command(0, "createStream", 4.0, &[]).0;
    let publish = Script::default().command(1, "publish", 5.0, &["s".into()]).0;
    let client = [&asked, begin, &publish, end, &video.0].concat();
    let joined = join(Style::Simple, &client, &published(5.0).0, 100);
    let payloads: Vec<_> = media(&joined.origin_got).into_iter().map(|m| m.payload).collect();
    assert_eq!(payloads, [vec![7; 300], vec![7; 300]]);
}

#[test]
fn nothing_behind_the_answer_is_read_wherever_the_pieces_end() {
    let message_over_the_limit = [6, 0, 0, 0, 0xff, 0xff, 0xff, 9, 1, 0, 0, 0];
    let origin = [published(1.0).0.as_slice(), &message_over_the_limit].concat();
    for step in [1, 100, 1 << 20] {
        let joined = join(Style::Simple, &publisher().0, &origin, step);
        assert!(joined.bridge.is_aligned());
        assert!(joined.client_got.ends_with(&message_over_the_limit), "in pieces of {step}");
    }
}

#[test]
fn each_leg_hears_of_its_own_bytes_where_messages_are_relayed() {
    let mut client = publisher();
    for _ in 0..100 {
        client = client.video(1, 7);
    }
    let window = Script::default().message(&Message::window_size(5000)).0;
    let client = [window, client.0].concat();
    let joined = join(Style::Simple, &client, &published(5.0).0, 1000);
    let acknowledged: Vec<u32> = messages(&joined.client_got)
        .iter()
        .filter(|m| m.kind == kind::ACKNOWLEDGEMENT)
        .filter_map(Message::control_value)
        .collect();
    assert!(acknowledged.len() >= 5, "acknowledged only {acknowledged:?}");
    assert!(acknowledged.is_sorted());
    let sent = u32::try_from(client.len()).unwrap();
    assert!(acknowledged.iter().all(|n| *n <= sent), "{acknowledged:?} of {sent}");
}

#[test]
fn a_refusal_of_the_origin_keeps_its_code_and_words() {
    let no = Status::error("NetStream.Publish.BadName", "Already publishing");
    let origin = Script::default()
        .connected()
        .command(0, "_result", 4.0, &[1.0.into()])
        .message(&Command::on_status(&no).to_message(1));
    let joined = join(Style::Simple, &publisher().0, &origin.0, 64);
    assert_eq!(joined.bridge.is_accepted(), Some(false));
    let last = Command::parse(messages(&joined.client_got).last().unwrap()).unwrap();
    assert_eq!(last.status(), Some(no));
}

#[test]
fn a_refused_connect_reaches_the_client_as_the_answer_to_its_publish() {
    let (wanted, _, _) = ask(Style::Simple, &publisher().0, 1 << 20).unwrap();
    let no = Status::error("NetConnection.Connect.Rejected", "no such application");
    let origin = Script::default().message(&Command::connect_error(1.0, &no).to_message(0));
    let Err(OriginError::Refused(status)) = answer(&wanted, &origin.0, 10) else {
        panic!("the origin's no was not heard");
    };
    assert_eq!(status, no);
    let fault = wanted.pass_on(End::OriginRefused, &status);
    let told = messages(&fault.last_words);
    assert_eq!((told.len(), told[0].stream), (1, 1));
    assert_eq!(Command::parse(&told[0]).unwrap().status(), Some(no));
}

#[test]
fn several_streams_keep_the_ids_the_client_was_given() {
    let client = Script::default()
        .connect()
        .command(0, "createStream", 2.0, &[])
        .command(0, "createStream", 3.0, &[])
        .command(2, "publish", 4.0, &["b".into()])
        .video(2, 7)
        .command(0, "createStream", 5.0, &[]);
    // nginx-rtmp and SRS give the same id every time.
    let origin = Script::default()
        .connected()
        .command(0, "_result", 2.0, &[1.0.into()])
        .command(0, "_result", 3.0, &[1.0.into()])
        .video(1, 9)
        .command(0, "_result", 5.0, &[1.0.into()]);
    let joined = join(Style::Simple, &client.0, &origin.0, 1 << 20);
    assert_eq!(media(&joined.origin_got)[0].stream, 1);
    assert_eq!(media(&joined.client_got)[0].stream, 2, "media of the stream in use");
    let given: Vec<_> = messages(&joined.client_got)
        .iter()
        .filter_map(|m| Command::parse(m).ok()?.number(1))
        .collect();
    assert_eq!(given, [1.0, 2.0, 3.0]);
}

#[test]
fn flash_commands_in_amf3_are_understood() {
    let flash: Vec<u8> = messages(&publisher().0)
        .into_iter()
        .fold(Script::default(), |script, mut message| {
            if message.is_command() {
                message.kind = kind::COMMAND_AMF3;
                message.payload.insert(0, 0);
            }
            script.message(&message)
        })
        .0;
    let joined = join(Style::Digest(Scheme::DigestFirst), &flash, &published(1.0).0, 50);
    assert_eq!(joined.wanted.2, "s");
    assert_eq!(joined.origin_got, flash);
}

#[test]
fn what_a_client_does_wrong_has_its_own_reason() {
    let end = |chunks: &[u8]| ask(Style::Simple, chunks, 999).map(|_| ()).unwrap_err().end;
    let publish_first = Script::default().command(0, "publish", 1.0, &["s".into()]).0;
    assert_eq!(end(&publish_first), End::BadCommand);
    assert_eq!(end(&Script::default().connect().connect().0), End::BadCommand);
    let creating = |n: i32| {
        (0..n).fold(Script::default().connect(), |script, n| {
            script.command(0, "createStream", f64::from(n) + 2.0, &[])
        })
    };
    assert_eq!(end(&creating(17).0), End::BadCommand);
    let mut endless = Script::default().connect();
    for _ in 0..300 {
        endless = endless.video(1, 0);
    }
    assert_eq!(end(&endless.0), End::TooMuchBeforeStream);
    assert_eq!(end(&[0xc4]), End::BadChunk);
    assert_eq!(end(&[4, 0, 0, 0, 0xff, 0xff, 0xff, 9, 1, 0, 0, 0]), End::MessageTooLarge);
    let nested = Message {
        payload: [&[2, 0, 1, b'x'][..], &[0, 0, 0, 0, 0, 0, 0, 0, 0], &[3, 0, 1, b'a'].repeat(999)]
            .concat(),
        ..Command::empty_result(1.0).to_message(0)
    };
    assert_eq!(end(&Script::default().message(&nested).0), End::BadCommand);
}

#[test]
fn a_last_word_is_said_to_a_client_that_can_hear_it() {
    let fault = ask(Style::Simple, &Script::default().connect().connect().0, 999).unwrap_err();
    let told = Command::parse(&messages(&fault.last_words)[0]).unwrap();
    assert_eq!(told.status().unwrap().level, "error");
}
