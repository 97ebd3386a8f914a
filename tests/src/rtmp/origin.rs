//! A scripted RTMP origin.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rml_rtmp::messages::{PeerBandwidthLimitType, RtmpMessage, UserControlEventType};
use rml_rtmp::rml_amf0::Amf0Value;
use serde_json::json;

use super::peer::{KEY_FRAME, Peer, object, status, text};
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
    /// The same with full headers alone, as SRS has them: such a session can be plain bytes.
    ServePlainly(Feed),
    /// Says no to publishers and players, with this code and description.
    Refuse(&'static str, &'static str),
    /// Takes connections and never says a word.
    Mute,
    /// Shakes hands, and says no word behind that.
    Deaf,
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
}

struct Shared {
    script: Script,
    over: AtomicBool,
    received: AtomicU64,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Origin {
    /// Listens on a free port.
    pub fn start(script: Script) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script,
            over: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sockets: Mutex::default(),
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
                    let _ = connection.serve(socket);
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
    fn serve(&self, socket: TcpStream) -> Result<()> {
        if let Script::Mute = self.script {
            while !self.over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
            }
            return Ok(());
        }
        let mut peer = Peer::welcome(socket)?;
        if let Script::ServePlainly(_) = self.script {
            peer.write_full_headers();
        }
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
                "play" | "publish" => {
                    return match self.script {
                        Script::Refuse(code, why) => say(&mut peer, status("error", code, why)),
                        Script::Serve(feed) | Script::ServePlainly(feed)
                            if command.name == "play" =>
                        {
                            serve_player(peer, feed)
                        }
                        _ => self.serve_publisher(&mut peer),
                    };
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

fn serve_player(mut peer: Peer, feed: Feed) -> Result<()> {
    let begin = RtmpMessage::UserControl {
        event_type: UserControlEventType::StreamBegin,
        stream_id: Some(STREAM),
        buffer_length: None,
        timestamp: None,
    };
    peer.send(begin, 0)?;
    say(&mut peer, status("status", "NetStream.Play.Start", "Here it comes"))?;
    let mut frame = |bytes: usize| {
        let data = vec![KEY_FRAME; bytes].into();
        peer.encode(RtmpMessage::VideoData { data }, STREAM)
    };
    let (bytes, pause) = match feed {
        Feed::Silence => loop {
            peer.read()?;
        },
        Feed::Paced(bits) => {
            let second = Duration::from_secs(1);
            (frame((bits / 8 / FRAMES_PER_SECOND).try_into()?)?, Some(second / FRAMES_PER_SECOND))
        }
        Feed::Bulk => (frame(64 * 1024)?.repeat(8), None),
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

const STREAM: u32 = 1;
const WINDOW: u32 = 2_500_000;
const CHUNK_SIZE: u32 = 4096;
const FRAMES_PER_SECOND: u32 = 25;
