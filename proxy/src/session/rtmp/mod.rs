//! An RTMP session, from C0 to its end.
//!
//! The machines say what should happen: [`client`] until the client has said what it wants,
//! [`origin`] until the origin has answered the same, [`bridge`] until the bytes need no look.
//! The drivers, here and in [`reach`], do it, each step under its deadline.

mod bridge;
mod client;
mod fault;
#[cfg(test)]
mod fuzz;
mod origin;
mod reach;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info_span};

use self::bridge::Bridge;
use self::client::{Client, Wanted};
use self::fault::Fault;
use self::reach::{Reached, reach};
use crate::origin::{Balancer, Lease};
use crate::plane::relay::stream::{Exit, Outbox, Patience, Plain, carry};
use crate::plane::{StreamPair, StreamPlane};
use crate::proto::rtmp::chunk::ChunkLimits;
use crate::proto::rtmp::handshake::{Nonce, PACKET};
use crate::session::{Direction, End, Live, Session};
use crate::stream::{Ask, StreamKey, Vhosts};

/// Bytes of one read before the hand-over.
const READ: usize = 16 * 1024;

/// How long a leg that was closed may still send what nobody reads, so that what it was told
/// last is not overtaken by a reset.
const LINGER: Duration = Duration::from_secs(1);

/// Deadlines and limits of RTMP sessions.
#[derive(Clone, Copy, Debug)]
pub struct RtmpSettings {
    /// From accept to C2.
    pub handshake_timeout: Duration,
    /// From C2 to publish or play.
    pub command_timeout: Duration,
    /// For one origin to accept a connection and shake hands.
    pub connect_timeout: Duration,
    /// For an origin to be found and to answer, other origins tried before it included.
    pub setup_timeout: Duration,
    /// When a session that does not move ends.
    pub patience: Patience,
    /// Bytes of one message where messages are relayed.
    pub max_message: usize,
    /// Chunk streams in each direction.
    pub max_chunk_streams: usize,
}

/// What all RTMP sessions share.
#[derive(Debug)]
pub struct Rtmp {
    settings: RtmpSettings,
    balancer: Arc<Balancer>,
    vhosts: Vhosts,
    stop: CancellationToken,
}

impl Rtmp {
    /// Sessions that find their origins by `balancer`, and end when `stop` is cancelled.
    pub fn new(
        settings: RtmpSettings,
        balancer: Arc<Balancer>,
        vhosts: Vhosts,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { settings, balancer, vhosts, stop })
    }

    /// Serves one client until the session's end.
    pub async fn serve(self: Arc<Self>, client: TcpStream, live: Live) {
        let span = info_span!("session", id = %live.session().id);
        let session = async {
            let end = tokio::select! {
                end = self.run(client, &live) => end,
                () = self.stop.cancelled() => End::Shutdown,
            };
            live.end(end);
        };
        session.instrument(span).await;
    }

    async fn run(&self, mut client: TcpStream, live: &Live) -> End {
        // Kept off the session's own future: it is large, and done with before the media flows.
        let fault = match Box::pin(self.set_up(&mut client, live)).await {
            Ok((bridge, origin)) => return self.carry(client, *bridge, origin, live).await,
            Err(fault) => fault,
        };
        debug!(end = fault.end.as_str(), text = fault.text, "session failed");
        if !fault.last_words.is_empty()
            && timeout(LINGER, client.write_all(&fault.last_words)).await.is_ok_and(|r| r.is_ok())
        {
            live.session().meter.add(Direction::ToClient, fault.last_words.len() as u64);
            close(client).await;
        }
        fault.end
    }

    /// From the first byte to two legs that have heard the same.
    async fn set_up(
        &self,
        client: &mut TcpStream,
        live: &Live,
    ) -> Result<(Box<Bridge>, Joined), Fault> {
        let session = live.session();
        let mut wanted = self.greet(client, session).await?;
        let ask = Ask::Rtmp { tc_url: &wanted.tc_url, app: &wanted.app, stream: &wanted.name };
        let key = StreamKey::new(&ask, &self.vhosts)
            .map_err(|error| wanted.refuse(End::BadStream, error.to_string()))?;
        session.note(|progress| {
            progress.role = Some(wanted.role);
            progress.stream = Some(key.clone());
        });
        debug!(role = wanted.role.as_str(), stream = %key, "stream asked for");
        let Reached { socket, agreement, lease } =
            reach(self, &key, &mut wanted, client, session).await?;
        let role = wanted.role;
        let mut out = Outbox::default();
        let limits = ChunkLimits {
            message_bytes: self.settings.max_message,
            chunk_streams: self.settings.max_chunk_streams,
        };
        let bridge = Bridge::new(wanted, agreement, limits, &mut out)?;
        live.established(role);
        Ok((Box::new(bridge), Joined { socket, out, _lease: lease }))
    }

    /// Talks to the client until it has said publish or play.
    async fn greet(&self, client: &mut TcpStream, session: &Session) -> Result<Wanted, Fault> {
        let mut machine = Client::new(nonce()?, self.settings.max_chunk_streams);
        let mut deadline = Instant::now() + self.settings.handshake_timeout;
        let mut end = End::HandshakeTimeout;
        let mut buffer = vec![0; READ];
        let mut answers = Vec::new();
        loop {
            let read = timeout_at(deadline, client.read(&mut buffer)).await;
            let n = match read {
                Err(_) => return Err(Fault::new(end, "the client is too slow")),
                Ok(Err(error)) => return Err(Fault::new(End::ClientLost, error)),
                Ok(Ok(0)) => return Err(Fault::new(End::ClientClosed, "nothing was asked for")),
                Ok(Ok(n)) => n,
            };
            let before = machine.has_shaken_hands();
            let wanted = machine.receive(buffer.get(..n).unwrap_or_default(), &mut answers);
            if !before && machine.has_shaken_hands() {
                deadline = Instant::now() + self.settings.command_timeout;
                end = End::CommandTimeout;
            }
            // What was answered before a fault still goes out before its last words.
            match timeout_at(deadline, client.write_all(&answers)).await {
                Err(_) => return Err(Fault::new(end, "the client takes no answer")),
                Ok(Err(error)) => return Err(Fault::new(End::ClientLost, error)),
                Ok(Ok(())) => session.meter.add(Direction::ToClient, answers.len() as u64),
            }
            answers.clear();
            if let Some(wanted) = wanted? {
                return Ok(wanted);
            }
        }
    }

    /// Moves the media until the end.
    async fn carry(
        &self,
        client: TcpStream,
        mut bridge: Bridge,
        joined: Joined,
        live: &Live,
    ) -> End {
        let Joined { socket, out, _lease } = joined;
        let session = live.session();
        let patience = self.settings.patience;
        let mut pair = StreamPair { client, origin: socket, out };
        note_plane(session, &bridge);
        let end = match carry(&mut pair, &mut bridge, patience, &session.meter).await {
            Exit::Done => {
                let refused = bridge.refused();
                drop(bridge);
                debug!("handed over as plain bytes");
                match carry(&mut pair, &mut Plain, patience, &session.meter).await {
                    Exit::Ended(_) if refused => End::OriginRefused,
                    Exit::Ended(end) => end,
                    Exit::Done => End::Aborted,
                    Exit::Fault(never) => match never {},
                }
            }
            Exit::Ended(_) if bridge.refused() => End::OriginRefused,
            Exit::Ended(end) => end,
            Exit::Fault(fault) => {
                debug!(end = fault.end.as_str(), text = fault.text, "session failed");
                fault.end
            }
        };
        tokio::join!(close(pair.client), close(pair.origin));
        end
    }
}

/// The origin's side of a session that stands.
struct Joined {
    socket: TcpStream,
    out: Outbox,
    /// Keeps the route alive as long as the session.
    _lease: Lease,
}

fn note_plane(session: &Session, bridge: &Bridge) {
    let (plane, reason) = StreamPlane::choose();
    let reason = bridge.obstacle().unwrap_or(reason);
    session.note(|progress| progress.plane = Some((plane.as_str(), reason)));
}

/// Random bytes for one side of a handshake.
fn nonce() -> Result<Box<Nonce>, Fault> {
    let mut nonce = Box::new([0; PACKET]);
    getrandom::fill(&mut *nonce).map_err(|error| Fault::new(End::Aborted, error))?;
    Ok(nonce)
}

/// Closes a leg in order: what it was sent is read by it, whatever it is still sending.
async fn close(mut socket: TcpStream) {
    let drain = async {
        socket.shutdown().await?;
        let mut nobody_reads = [0; 4096];
        while socket.read(&mut nobody_reads).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whatever goes wrong here, the socket is closed behind it.
    let _closed = timeout(LINGER, drain).await;
}
