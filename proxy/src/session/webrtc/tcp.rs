//! ICE-TCP: datagrams framed by a connection (RFC 6544, RFC 4571), for clients without UDP.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::Webrtc;
use crate::listen::source;
use crate::plane::datagram::{Exit, FlowKey, Outlet, Sent, Train};
use crate::proto::datagram::Kind;
use crate::proto::framing::{Deframer, frame};
use crate::proto::proxy_protocol::Ends;
use crate::session::flow::Dropped;

/// Connections whose clients have not yet proved a session: of all, and of one client.
const STRANGERS: [usize; 2] = [256, 64];

/// For a connection to prove its session.
const PROOF: Duration = Duration::from_secs(10);

/// Bytes that wait for a slow client; more are lost, as datagrams are.
const WAITING: usize = 256 * 1024;

/// Bytes of one frame: more than any datagram that WebRTC sends.
const FRAME: u16 = 4096;

impl Webrtc {
    /// Serves one connection for as long as it belongs to a session.
    pub async fn serve_tcp(self: Arc<Self>, stream: TcpStream, ends: Ends) {
        let Some(stranger) = self.strangers.let_in(ends.source.ip()) else {
            self.drops.count(Dropped::TooManyPending, 1);
            return;
        };
        let mut stranger = Some(stranger);
        let (client, local) = (ends.source, ends.destination);
        let key = FlowKey { is_tcp: true, client, local, socket_id: None };
        let leg = Arc::new(Leg::default());
        let way = Arc::new(Way(Arc::clone(&leg)));
        // Only the session holds it once there is one: when it lets go, the connection ends.
        let (way, mut held) = (Arc::downgrade(&way), Some(way));
        let mut frames = Deframer::new(FRAME);
        let proof = Instant::now() + PROOF;
        let mut buffer = vec![0; 16 * 1024];
        let why = loop {
            let is_waiting = leg.is_waiting();
            tokio::select! {
                ready = stream.readable() => {
                    let read = match ready.and_then(|()| stream.try_read(&mut buffer)) {
                        Ok(0) => break "closed",
                        Ok(read) => read,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(_) => break "lost",
                    };
                    let mut bytes = buffer.get(..read).unwrap_or_default();
                    let Some(way) = way.upgrade() else { break "no session" };
                    if !self.frames(&key, &way, &mut frames, &mut bytes) {
                        break "malformed";
                    }
                    if stranger.is_some() && self.table.lock().owner(&key).is_some() {
                        (stranger, held) = (None, None);
                    }
                }
                () = leg.news.notified(), if !is_waiting => {
                    if way.strong_count() == 0 {
                        break "no session";
                    }
                }
                ready = stream.writable(), if is_waiting => {
                    if ready.and_then(|()| leg.write(&stream)).is_err() {
                        break "lost";
                    }
                }
                () = sleep_until(proof), if held.is_some() => {
                    // A guest is proved by its origin, perhaps behind the last frame.
                    if self.table.lock().owner(&key).is_none() {
                        break "no session";
                    }
                    (stranger, held) = (None, None);
                }
            }
        };
        // Another client may come from there: it is nobody's way any more.
        self.table.lock().forget(&key);
        debug!(%client, why, "connection of WebRTC ended");
    }

    /// Takes all frames that are whole. False if what comes are none.
    fn frames(
        self: &Arc<Self>,
        key: &FlowKey,
        way: &Arc<Way>,
        frames: &mut Deframer,
        bytes: &mut &[u8],
    ) -> bool {
        let source: SocketAddr = key.client;
        loop {
            let datagram = match frames.read(bytes) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => return true,
                Err(_) => return false,
            };
            if Kind::of(datagram) == Kind::Other {
                return false;
            }
            let train = Train::alone(source, datagram);
            self.take(key, &train, &|| Exit::Other(Arc::clone(way) as Arc<dyn Outlet>));
        }
    }
}

/// What waits for the client of one connection.
#[derive(Debug, Default)]
struct Leg {
    waiting: Mutex<Vec<u8>>,
    news: Notify,
}

impl Leg {
    fn is_waiting(&self) -> bool {
        !self.waiting.lock().is_empty()
    }

    fn write(&self, stream: &TcpStream) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        match stream.try_write(&waiting) {
            Ok(written) => {
                waiting.drain(..written);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The way to the client, for as long as a session has it.
#[derive(Debug)]
struct Way(Arc<Leg>);

impl Drop for Way {
    fn drop(&mut self) {
        self.0.news.notify_one();
    }
}

impl Outlet for Way {
    fn send(&self, train: &Train<'_>) -> Sent {
        let mut waiting = self.0.waiting.lock();
        let mut sent = Sent::default();
        for datagram in train.datagrams() {
            let header = frame(datagram);
            let has_room = waiting.len() + datagram.len() < WAITING;
            let Some(header) = header.filter(|_| has_room) else {
                sent.lost += 1;
                continue;
            };
            waiting.extend_from_slice(&header);
            waiting.extend_from_slice(datagram);
            sent.bytes += datagram.len();
        }
        drop(waiting);
        self.0.news.notify_one();
        sent
    }
}

/// How many connections have not yet proved a session, by [`source`]; one without any has no entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them. Its drop is its end.
struct Stranger {
    all: Strangers,
    source: IpAddr,
}

impl Strangers {
    /// One more of this client, if it may.
    fn let_in(&self, client: IpAddr) -> Option<Stranger> {
        let source = source(client.to_canonical());
        let [most, most_of_one] = STRANGERS;
        let mut strangers = self.0.lock();
        let is_full = strangers.values().sum::<usize>() >= most;
        let own = strangers.get(&source).copied().unwrap_or_default();
        if is_full || own >= most_of_one {
            return None;
        }
        strangers.insert(source, own + 1);
        Some(Stranger { all: self.clone(), source })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut strangers = self.all.0.lock();
        if let Some(own) = strangers.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                strangers.remove(&self.source);
            }
        }
    }
}
