//! A scripted RTMP client.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rml_rtmp::messages::{MessagePayload, RtmpMessage};
use rml_rtmp::rml_amf0::Amf0Value;
use rml_rtmp::time::RtmpTimestamp;

use super::APP;
use super::peer::{Command, KEY_FRAME, PATIENCE, Peer, object, text};
use crate::flv::Tag;

/// A client with one stream. Its connection closes when dropped.
pub struct Client {
    peer: Peer,
    stream: u32,
}

/// What a server says of a stream or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `status` or `error`.
    pub level: String,
    /// For machines.
    pub code: String,
    /// For people.
    pub description: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.level, self.code, self.description)
    }
}

impl Client {
    /// Handshake and `connect`.
    pub fn connect(server: SocketAddr) -> Result<Self> {
        Self::connect_over(TcpStream::connect_timeout(&server, PATIENCE)?)
    }

    /// The same over a connection by which something else may have been said before.
    pub fn connect_over(socket: TcpStream) -> Result<Self> {
        let server = socket.peer_addr()?;
        let mut peer = Peer::greet(socket)?;
        let arguments = object([
            ("app", text(APP)),
            ("tcUrl", text(&format!("rtmp://{server}/{APP}"))),
            ("flashVer", text("LNX 9,0,124,2")),
            ("objectEncoding", Amf0Value::Number(0.0)),
        ]);
        peer.call(0, "connect", 1.0, arguments, Vec::new())?;
        let mut client = Self { peer, stream: 0 };
        client.result(1.0).context("connect")?;
        Ok(client)
    }

    /// A player of `live/<stream>`, up to the server's word that it begins.
    pub fn play(server: SocketAddr, stream: &str) -> Result<Self> {
        let mut client = Self::connect(server)?;
        client.ask_to_play(stream)?;
        client.expect("NetStream.Play.Start")?;
        Ok(client)
    }

    /// A publisher of `live/<stream>`, up to the server's word that it may send.
    pub fn publish(server: SocketAddr, stream: &str) -> Result<Self> {
        let mut client = Self::connect(server)?;
        client.ask_to_publish(stream)?;
        client.expect("NetStream.Publish.Start")?;
        Ok(client)
    }

    /// `createStream` and `play`, without waiting for what comes of it.
    pub fn ask_to_play(&mut self, stream: &str) -> Result<()> {
        self.create_stream()?;
        self.peer.call(self.stream, "play", 4.0, Amf0Value::Null, vec![text(stream)])
    }

    /// `createStream` and `publish`, without waiting for what comes of it.
    pub fn ask_to_publish(&mut self, stream: &str) -> Result<()> {
        self.create_stream()?;
        let arguments = vec![text(stream), text("live")];
        self.peer.call(self.stream, "publish", 4.0, Amf0Value::Null, arguments)
    }

    /// The next `onStatus`.
    pub fn status(&mut self) -> Result<Status> {
        loop {
            let command = self.peer.command()?;
            if command.name == "onStatus" || command.name == "_error" {
                return Status::of(&command);
            }
        }
    }

    /// Sends a key frame of this many bytes.
    pub fn send_video(&mut self, bytes: usize) -> Result<()> {
        let data = vec![KEY_FRAME; bytes].into();
        self.peer.send(RtmpMessage::VideoData { data }, self.stream)
    }

    /// Sends a tag of a file as the message that it is.
    pub fn send_tag(&mut self, tag: &Tag) -> Result<()> {
        self.peer.send_payload(&MessagePayload {
            timestamp: RtmpTimestamp::new(tag.timestamp),
            type_id: tag.kind,
            message_stream_id: self.stream,
            data: tag.data.clone().into(),
        })
    }

    /// The next message of media or metadata.
    pub fn next_tag(&mut self) -> Result<Tag> {
        loop {
            let message = self.peer.read()?;
            if matches!(message.type_id, 8 | 9 | 18) {
                let (kind, timestamp) = (message.type_id, message.timestamp.value);
                return Ok(Tag { kind, timestamp, data: message.data.to_vec() });
            }
        }
    }

    /// Reads until this many bytes have come, whatever they are.
    pub fn read_bytes(&mut self, least: u64) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut sum = 0;
        while sum < least {
            match self.socket().read(&mut buffer)? {
                0 => bail!("the server closed the connection after {sum} bytes"),
                n => sum += u64::try_from(n)?,
            }
        }
        Ok(())
    }

    /// Reads whatever comes until `deadline`; the number of bytes, and whether the server is
    /// still there.
    pub fn watch(&mut self, deadline: Instant) -> Result<(u64, bool)> {
        let mut buffer = vec![0; 64 * 1024];
        let mut sum = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok((sum, true));
            }
            self.socket().set_read_timeout(Some(left))?;
            match self.socket().read(&mut buffer) {
                Ok(0) => return Ok((sum, false)),
                Ok(n) => sum += u64::try_from(n)?,
                Err(error) if is_timeout(error.kind()) => return Ok((sum, true)),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Ok((sum, false));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Fails unless the server closes the connection within this time.
    pub fn must_be_closed_within(&mut self, limit: Duration) -> Result<()> {
        match self.watch(Instant::now() + limit)? {
            (_, false) => Ok(()),
            (_, true) => bail!("the connection was still open after {limit:?}"),
        }
    }

    /// The connection.
    pub fn socket(&self) -> &TcpStream {
        self.peer.socket()
    }

    /// Waits for this status; an error before it fails.
    pub fn expect(&mut self, code: &str) -> Result<()> {
        loop {
            let status = self.status().with_context(|| format!("waiting for {code}"))?;
            if status.code == code {
                return Ok(());
            }
            if status.level == "error" {
                bail!("{code} expected, but the server said: {status}");
            }
        }
    }

    /// One more stream; the last one is used.
    pub fn create_stream(&mut self) -> Result<()> {
        self.peer.call(0, "createStream", 2.0, Amf0Value::Null, Vec::new())?;
        match self.result(2.0).context("createStream")?.arguments.first() {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a stream id is a small whole number, sent as a double"
            )]
            Some(Amf0Value::Number(id)) => self.stream = *id as u32,
            other => bail!("createStream gave {other:?}"),
        }
        Ok(())
    }

    fn result(&mut self, transaction: f64) -> Result<Command> {
        loop {
            let command = self.peer.command()?;
            // Transaction ids are small whole numbers.
            let is_ours = (command.transaction - transaction).abs() < 0.5;
            match command.name.as_str() {
                "_result" if is_ours => return Ok(command),
                "_error" | "onStatus" => bail!("the server said: {}", Status::of(&command)?),
                _ => {}
            }
        }
    }
}

impl Status {
    fn of(command: &Command) -> Result<Self> {
        let Some(Amf0Value::Object(members)) = command.arguments.first() else {
            bail!("{} without an object", command.name);
        };
        let text = |name| match members.get(name) {
            Some(Amf0Value::Utf8String(text)) => text.clone(),
            _ => String::new(),
        };
        Ok(Self { level: text("level"), code: text("code"), description: text("description") })
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
