//! A scripted RTMP origin.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rml_rtmp::messages::{PeerBandwidthLimitType, RtmpMessage, UserControlEventType};
use rml_rtmp::rml_amf0::Amf0Value;
use serde_json::json;

use super::peer::{Command, KEY_FRAME, Peer, object, status, text};
use crate::http;

/// An origin of one thread per connection. Its connections close when dropped.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the origin does with everyone who comes.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    /// Players are fed, publishers may send.
    Serve(Feed),
    /// Says no to publishers and players, with this code and description.
    Refuse(&'static str, &'static str),
    /// Takes connections and never says a word.
    Mute,
    /// Shakes hands, and says no word behind that.
    Deaf,
}

/// A player that has been told that its stream begins, and gets it from somebody else.
pub struct Player {
    /// What it plays.
    pub stream: String,
    /// Its connection.
    pub peer: Peer,
}

/// What players get.
#[derive(Clone, Copy, Debug)]
pub enum Feed {
    /// Nothing.
    Silence,
    /// Frames 25 times a second that come to this many bits a second.
    Paced(u32),
    /// As much as the player takes.
    Bulk,
    /// The pictures of whoever publishes their stream here, as long as somebody does.
    Live,
}

/// A stream of [`Feed::Live`].
#[derive(Default)]
struct Room {
    publishers: usize,
    players: Vec<TcpStream>,
}

struct Shared {
    script: Script,
    over: AtomicBool,
    received: AtomicU64,
    sockets: Mutex<Vec<TcpStream>>,
    /// Every stream that was ever asked for.
    rooms: Mutex<HashMap<String, Room>>,
    /// Takes players instead of the script.
    desk: Option<Desk>,
}

type Desk = Box<dyn Fn(Player) -> Result<()> + Send + Sync>;

impl Origin {
    /// Listens on a free port.
    pub fn start(script: Script) -> Result<Self> {
        Self::start_with(script, None)
    }

    /// The same; players are left to this, which feeds thousands better than a thread for each.
    pub fn start_for(
        players: impl Fn(Player) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::start_with(Script::Serve(Feed::Silence), Some(Box::new(players)))
    }

    fn start_with(script: Script, desk: Option<Desk>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script,
            over: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sockets: Mutex::default(),
            rooms: Mutex::default(),
            desk,
        });
        let inside = Arc::clone(&shared);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if inside.over.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(ours), Ok(listed)) = (socket.try_clone(), socket.try_clone()) else {
                    continue;
                };
                inside.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(listed);
                let connection = Arc::clone(&inside);
                thread::spawn(move || {
                    // An end by the other side is the usual end, and so are errors of an end.
                    if let Ok(Some(player)) = connection.serve(socket)
                        && let Some(desk) = &connection.desk
                        && desk(player).is_ok()
                    {
                        return;
                    }
                    let _ = ours.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Media bytes that publishers have sent.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Whether somebody has published this stream here, or played it.
    pub fn has_seen(&self, stream: &str) -> bool {
        self.shared.rooms().contains_key(stream)
    }

    /// Whether somebody publishes this stream here.
    pub fn has_publisher(&self, stream: &str) -> bool {
        self.shared.rooms().get(stream).is_some_and(|room| room.publishers > 0)
    }

    /// Registers it with a proxy under this name.
    pub fn register_at(&self, proxy: SocketAddr, name: &str) -> Result<()> {
        let body = json!({
            "ip": self.address.ip(),
            "server": format!("vid-{name}"),
            "service": name,
            "pid": "1",
            "rtmp": [self.address.port().to_string()],
        });
        let answer = http::post(proxy, "/api/v1/srs/register", &body.to_string())?;
        if answer.status != 200 {
            bail!("{name} was not registered: {} {}", answer.status, answer.body);
        }
        Ok(())
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for socket in self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes the listener, so that it sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// Serves a connection to its end, or until it is that of a player for somebody else.
    fn serve(&self, socket: TcpStream) -> Result<Option<Player>> {
        if let Script::Mute = self.script {
            while !self.over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
            }
            return Ok(None);
        }
        let mut peer = Peer::welcome(socket)?;
        loop {
            let command = peer.command()?;
            if let Script::Deaf = self.script {
                continue;
            }
            match command.name.as_str() {
                "connect" => answer_connect(&mut peer, command.transaction)?,
                "createStream" => {
                    let id = vec![Amf0Value::Number(f64::from(STREAM))];
                    peer.call(0, "_result", command.transaction, Amf0Value::Null, id)?;
                }
                "play" if self.desk.is_some() => {
                    let Some(Amf0Value::Utf8String(stream)) = command.arguments.first() else {
                        bail!("a play of no stream");
                    };
                    begin(&mut peer)?;
                    return Ok(Some(Player { stream: stream.clone(), peer }));
                }
                "play" | "publish" => {
                    match self.script {
                        Script::Refuse(code, why) => say(&mut peer, status("error", code, why)),
                        Script::Serve(Feed::Live) => self.serve_live(peer, &command),
                        Script::Serve(feed) if command.name == "play" => serve_player(peer, feed),
                        _ => self.serve_publisher(&mut peer),
                    }?;
                    return Ok(None);
                }
                // releaseStream, FCPublish and the like need no answer.
                _ => {}
            }
        }
    }

    fn serve_publisher(&self, peer: &mut Peer) -> Result<()> {
        say(peer, status("status", "NetStream.Publish.Start", "Go on"))?;
        loop {
            let bytes = peer.read()?.data.len();
            self.received.fetch_add(bytes.try_into()?, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn rooms(&self) -> MutexGuard<'_, HashMap<String, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One who publishes, or plays what others publish.
    fn serve_live(&self, mut peer: Peer, command: &Command) -> Result<()> {
        let Some(Amf0Value::Utf8String(stream)) = command.arguments.first() else {
            bail!("a {} of no stream", command.name);
        };
        // A player says nothing for as long as it likes.
        peer.socket().set_read_timeout(None)?;
        if command.name == "play" {
            begin(&mut peer)?;
            let player = peer.socket().try_clone()?;
            self.rooms().entry(stream.clone()).or_default().players.push(player);
            loop {
                peer.read()?;
            }
        }
        self.rooms().entry(stream.clone()).or_default().publishers += 1;
        let ended = self.pass(&mut peer, stream);
        self.rooms().entry(stream.clone()).or_default().publishers -= 1;
        ended
    }

    /// Passes a publisher's pictures to all who play its stream, until it goes.
    fn pass(&self, peer: &mut Peer, stream: &str) -> Result<()> {
        say(peer, status("status", "NetStream.Publish.Start", "Go on"))?;
        loop {
            let message = peer.read()?;
            if message.type_id != VIDEO {
                continue;
            }
            // Its headers are full: the same bytes do for every player.
            let bytes = peer.encode(key_frame(message.data.len()), STREAM)?;
            let mut rooms = self.rooms();
            let room = rooms.entry(stream.to_owned()).or_default();
            room.players.retain_mut(|player| player.write_all(&bytes).is_ok());
        }
    }
}

fn answer_connect(peer: &mut Peer, transaction: f64) -> Result<()> {
    peer.send(RtmpMessage::WindowAcknowledgement { size: WINDOW }, 0)?;
    let limit_type = PeerBandwidthLimitType::Dynamic;
    peer.send(RtmpMessage::SetPeerBandwidth { size: WINDOW, limit_type }, 0)?;
    peer.set_chunk_size(CHUNK_SIZE)?;
    let properties =
        object([("fmsVer", text("FMS/3,0,1,123")), ("capabilities", Amf0Value::Number(31.0))]);
    let code = "NetConnection.Connect.Success";
    let information = vec![status("status", code, "Connection succeeded")];
    peer.call(0, "_result", transaction, properties, information)
}

fn say(peer: &mut Peer, status: Amf0Value) -> Result<()> {
    peer.call(STREAM, "onStatus", 0.0, Amf0Value::Null, vec![status])
}

/// Tells a player that its stream begins.
fn begin(peer: &mut Peer) -> Result<()> {
    let begin = RtmpMessage::UserControl {
        event_type: UserControlEventType::StreamBegin,
        stream_id: Some(STREAM),
        buffer_length: None,
        timestamp: None,
    };
    peer.send(begin, 0)?;
    say(peer, status("status", "NetStream.Play.Start", "Here it comes"))
}

fn serve_player(mut peer: Peer, feed: Feed) -> Result<()> {
    begin(&mut peer)?;
    let mut frame = |bytes| peer.encode(key_frame(bytes), STREAM);
    let (bytes, pause) = match feed {
        Feed::Silence => loop {
            peer.read()?;
        },
        Feed::Paced(bits) => {
            let second = Duration::from_secs(1);
            (frame((bits / 8 / FRAMES_PER_SECOND).try_into()?)?, Some(second / FRAMES_PER_SECOND))
        }
        Feed::Bulk => (frame(64 * 1024)?.repeat(8), None),
        Feed::Live => bail!("a live stream has a publisher"),
    };
    // What players say from here on is not read: their few acknowledgements fit the socket.
    let mut socket = peer.socket();
    let mut due = Instant::now();
    loop {
        socket.write_all(&bytes)?;
        if let Some(pause) = pause {
            due += pause;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
}

/// A frame of so many bytes.
pub fn key_frame(bytes: usize) -> RtmpMessage {
    RtmpMessage::VideoData { data: vec![KEY_FRAME; bytes].into() }
}

/// Whether this is what is in one.
pub fn is_key_frame(data: &[u8]) -> bool {
    data.iter().all(|&byte| byte == KEY_FRAME)
}

/// The message stream of every player and publisher.
pub const STREAM: u32 = 1;
const VIDEO: u8 = 9;
const WINDOW: u32 = 2_500_000;
const CHUNK_SIZE: u32 = 4096;
const FRAMES_PER_SECOND: u32 = 25;
