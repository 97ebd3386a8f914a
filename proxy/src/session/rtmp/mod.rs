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
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use self::bridge::Bridge;
use self::client::{Client, Wanted};
use self::fault::Fault;
use self::reach::{Reached, reach};
use crate::cluster::Cluster;
use crate::origin::Lease;
use crate::plane::relay::stream::{Exit, carry};
use crate::plane::{Carried, Flow, Leg, Outbox, Patience, StreamPair, StreamPlane, StreamStanding};
use crate::proto::rtmp::chunk::ChunkLimits;
use crate::proto::rtmp::handshake::{Nonce, PACKET};
use crate::session::close::{LINGER, close};
use crate::session::{Dialer, End, Live, Protocol, Role, Serve, Session};
use crate::stream::{Ask, StreamKey, Vhosts};
use crate::telemetry::Seldom;

/// Bytes of a whole handshake in one direction.
const HANDSHAKE: u64 = 1 + 2 * PACKET as u64;

/// Bytes of one read before the hand-over.
const READ: usize = 4 * 1024;

/// Why bytes do not move by the fastest way before the origin has said yes or no.
const WATCHED: &str = "the origin's answer is waited for";

/// Questions to silent origins at a time.
const QUESTIONS: usize = 8;

/// Deadlines and limits of RTMP sessions.
#[derive(Clone, Copy, Debug)]
pub struct RtmpSettings {
    /// From accept to C2.
    pub handshake_timeout: Duration,
    /// From C2 to publish or play.
    pub command_timeout: Duration,
    /// For one origin to shake hands, and for one that is asked whether it lives to answer.
    pub connect_timeout: Duration,
    /// For one origin, behind the handshake, to answer connect and createStream.
    pub answer_timeout: Duration,
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
    cluster: Arc<Cluster>,
    dialer: Arc<Dialer>,
    plane: StreamPlane,
    vhosts: Vhosts,
    /// Places for questions to silent origins.
    questions: Semaphore,
    /// Warnings of origins that answer too late, and of a host without resources.
    late: Seldom,
    exhausted: Seldom,
}

impl Serve for Rtmp {
    const PROTOCOL: Protocol = Protocol::Rtmp;

    async fn run(&self, client: TcpStream, live: &Live) -> End {
        // Kept off the session's own future: large, and done with before the media flows.
        let Plain { pair, lease: _lease, is_accepted } =
            match Box::pin(self.open(client, live)).await {
                Ok(plain) => plain,
                Err(end) => return end,
            };
        debug!("handed over as plain bytes");
        let (session, patience) = (live.session(), self.settings.patience);
        let tell = |standing| session.carried_by(standing);
        let carried = self.plane.carry(pair, Flow::Both, patience, &session.meter, tell);
        let Carried { pair, closed } = carried.await;
        if let Some(pair) = pair {
            Box::pin(close_both(pair)).await;
        }
        match closed {
            _ if !is_accepted => End::OriginRefused,
            Some(closed) => closed.into(),
            None => End::Aborted,
        }
    }
}

impl Rtmp {
    /// Sessions that find their origins by `cluster`, reach them by `dialer`, and move their media
    /// by `plane`.
    pub fn new(
        settings: RtmpSettings,
        cluster: Arc<Cluster>,
        dialer: Arc<Dialer>,
        plane: StreamPlane,
        vhosts: Vhosts,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            cluster,
            dialer,
            plane,
            vhosts,
            questions: Semaphore::new(QUESTIONS),
            late: Seldom::default(),
            exhausted: Seldom::default(),
        })
    }

    /// From the first byte to two legs that have heard the same, and then until their bytes need no
    /// look; to the session's end, if it comes to neither.
    async fn open(&self, mut client: TcpStream, live: &Live) -> Result<Plain, End> {
        let joined = match Box::pin(self.set_up(&mut client, live.session())).await {
            Ok(joined) => joined,
            Err(fault) => return Err(give_up(client, fault, live.session()).await),
        };
        self.bridge(client, joined, live).await
    }

    /// From the first byte to two legs that have heard the same.
    async fn set_up(&self, client: &mut TcpStream, session: &Session) -> Result<Joined, Fault> {
        let mut wanted = self.greet(client, session).await?;
        session.note(|progress| progress.role = Some(wanted.role));
        let ask = Ask::Rtmp { tc_url: &wanted.tc_url, app: &wanted.app, stream: &wanted.name };
        let key = StreamKey::new(&ask, &self.vhosts)
            .map_err(|error| wanted.refuse(End::BadStream, error.to_string()))?;
        session.note(|progress| progress.stream = Some(key.clone()));
        debug!(role = wanted.role.as_str(), stream = %key, "stream asked for");
        let Reached { socket, agreement, lease } =
            reach(self, &key, &mut wanted, client, session).await?;
        let role = wanted.role;
        let mut out = Outbox::default();
        let limits = ChunkLimits {
            message_bytes: self.settings.max_message,
            chunk_streams: self.settings.max_chunk_streams,
        };
        let bridge = Box::new(Bridge::new(wanted, agreement, limits, &mut out)?);
        Ok(Joined { role, bridge, socket, out, lease })
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
                Ok(Ok(())) => session.meter.wrote(Leg::Client, answers.len()),
            }
            answers.clear();
            if let Some(wanted) = wanted? {
                return Ok(wanted);
            }
        }
    }

    /// Looks at what moves until nothing needs to be looked at any more, or to the end.
    async fn bridge(&self, client: TcpStream, joined: Joined, live: &Live) -> Result<Plain, End> {
        let Joined { role, mut bridge, socket, out, lease } = joined;
        let (session, patience) = (live.session(), self.settings.patience);
        let mut pair = StreamPair { client, origin: socket, out };
        let mut is_established = false;
        let end = loop {
            let why = bridge.obstacle().unwrap_or(WATCHED);
            session.carried_by(StreamStanding::relay(why));
            let is_accepted = bridge.is_accepted() == Some(true);
            if is_accepted && !is_established {
                is_established = true;
                lease.found();
                if role == Role::Publish {
                    lease.publishes();
                }
                live.established(role);
            }
            if bridge.is_aligned() {
                return Ok(Plain { pair, lease, is_accepted });
            }
            match carry(&mut pair, &mut *bridge, patience, &session.meter).await {
                Exit::Turn(()) => debug!(relay = bridge.obstacle(), "origin answered"),
                Exit::Closed(_) if bridge.is_accepted() == Some(false) => break End::OriginRefused,
                Exit::Closed(closed) => break closed.into(),
                Exit::Fault(fault) => {
                    session.note(|progress| progress.why = Some(fault.text));
                    break fault.end;
                }
            }
        };
        Box::pin(close_both(pair)).await;
        Err(end)
    }
}

/// A client and an origin that have heard the same.
struct Joined {
    role: Role,
    bridge: Box<Bridge>,
    socket: TcpStream,
    out: Outbox,
    /// Keeps the route alive as long as the session.
    lease: Lease,
}

/// The same once their bytes need no look.
struct Plain {
    pair: StreamPair,
    lease: Lease,
    /// Whether the origin has said yes.
    is_accepted: bool,
}

async fn close_both(pair: StreamPair) {
    tokio::join!(close(pair.client), close(pair.origin));
}

/// Tells the client why there will be no session.
async fn give_up(mut client: TcpStream, fault: Fault, session: &Session) -> End {
    let Fault { end, text, last_words } = fault;
    session.note(|progress| progress.why = Some(text));
    if !last_words.is_empty()
        && let Ok(Ok(())) = timeout(LINGER, client.write_all(&last_words)).await
    {
        session.meter.wrote(Leg::Client, last_words.len());
        close(client).await;
    }
    end
}

/// Random bytes for one side of a handshake.
fn nonce() -> Result<Box<Nonce>, Fault> {
    let mut nonce = Box::new([0; PACKET]);
    getrandom::fill(&mut *nonce).map_err(|error| Fault::new(End::Aborted, error))?;
    Ok(nonce)
}
