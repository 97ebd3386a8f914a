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
use crate::plane::datagram::{Exit, FlowKey, Outlet, Train};
use crate::proto::datagram::Kind;
use crate::proto::framing::{Deframer, frame};
use crate::proto::proxy_protocol::Ends;

/// Connections whose clients have not yet proved a session, by [`source`].
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<HashMap<IpAddr, usize>>);

/// How many there may be in all.
const STRANGERS: usize = 256;

/// How many there may be of one client, so that no one keeps out all others.
const STRANGERS_PER_CLIENT: usize = 64;

/// For a connection to prove its session.
const PROOF: Duration = Duration::from_secs(10);

/// How often it is asked whether the session still is.
const ASKED: Duration = Duration::from_secs(2);

/// Bytes that wait for a slow client; more are lost, as datagrams are.
const WAITING: usize = 256 * 1024;

/// Bytes of one frame: more than any datagram that WebRTC sends.
const FRAME: u16 = 4096;

impl Webrtc {
    /// Serves one connection for as long as it belongs to a session.
    pub async fn serve_tcp(self: Arc<Self>, stream: TcpStream, ends: Ends) {
        let (client, local) = (ends.source, ends.destination);
        let mut stranger = self.strangers.admit(client.ip());
        if stranger.is_none() {
            return;
        }
        let key = FlowKey { is_tcp: true, client, local, socket_id: None };
        let leg = Arc::new(Leg::default());
        let mut frames = Deframer::new(FRAME);
        let mut ask = Instant::now() + PROOF;
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
                    if !self.frames(&key, &leg, &mut frames, &mut bytes) {
                        break "malformed";
                    }
                    if stranger.is_some() && self.table.lock().owner(&key).is_some() {
                        stranger = None;
                        ask = Instant::now() + ASKED;
                    }
                }
                () = leg.news.notified(), if !is_waiting => {}
                ready = stream.writable(), if is_waiting => {
                    if ready.and_then(|()| leg.write(&stream)).is_err() {
                        break "lost";
                    }
                }
                () = sleep_until(ask) => {
                    if self.table.lock().owner(&key).is_none() {
                        break "no session";
                    }
                    ask = Instant::now() + ASKED;
                }
            }
        };
        debug!(%client, why, "connection of WebRTC ended");
    }

    /// Takes all frames that are whole. False if what comes are none.
    fn frames(
        &self,
        key: &FlowKey,
        leg: &Arc<Leg>,
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
            let stride = datagram.len().max(1);
            let train = Train { source, destination: None, bytes: datagram, stride, ecn: None };
            self.take(key, &train, || Exit::Other(Arc::clone(leg) as Arc<dyn Outlet>));
        }
    }
}

impl Strangers {
    /// One more of this client, if there may be.
    fn admit(&self, client: IpAddr) -> Option<Stranger<'_>> {
        let client = source(client.to_canonical());
        let mut waiting = self.0.lock();
        let own = waiting.get(&client).copied().unwrap_or_default();
        if own >= STRANGERS_PER_CLIENT || waiting.values().sum::<usize>() >= STRANGERS {
            return None;
        }
        waiting.insert(client, own + 1);
        Some(Stranger { strangers: self, client })
    }
}

/// A connection whose client has not yet proved a session. Its drop is the end of that.
struct Stranger<'a> {
    strangers: &'a Strangers,
    client: IpAddr,
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        let mut waiting = self.strangers.0.lock();
        if let Some(own) = waiting.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                waiting.remove(&self.client);
            }
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

impl Outlet for Leg {
    fn send(&self, train: &Train<'_>) -> usize {
        let mut waiting = self.waiting.lock();
        let mut sent = 0;
        for datagram in train.datagrams() {
            let Some(header) = frame(datagram) else { continue };
            if waiting.len() + header.len() + datagram.len() > WAITING {
                break;
            }
            waiting.extend_from_slice(&header);
            waiting.extend_from_slice(datagram);
            sent += datagram.len();
        }
        drop(waiting);
        self.news.notify_one();
        sent
    }
}
