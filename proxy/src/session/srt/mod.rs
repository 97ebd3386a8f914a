//! An SRT session, from a caller's induction to its end.
//!
//! The machines say what should happen: [`Door`] answers inductions and checks conclusions, and
//! keeps nothing; [`OriginHandshake`] repeats one conclusion at an origin and brings the answer
//! back; [`Established`] notices shutdowns, and a client that comes from another port. Here
//! datagrams find their machine; [`call`] drives a handshake, and [`media`] what comes behind it.

mod adopt;
mod call;
mod cookie;
mod door;
mod established;
#[cfg(test)]
mod fuzz;
mod handshake;
mod media;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

use self::call::Call;
pub use self::cookie::Cookies;
pub use self::door::{Asked, Door, Knock};
use self::established::SILENCE;
pub use self::established::{Established, Verdict};
pub use self::handshake::{Action, OriginHandshake};
use self::media::Known;
use super::flow::{Dropped, Drops, FlowId, FlowTable, Media, Name};
use super::{End, Live, Protocol, Sessions};
use crate::cluster::Cluster;
use crate::drain::Stop;
use crate::listen::source;
use crate::plane::Leg;
use crate::plane::datagram::{Exit, FlowKey, Lane, Lanes, Medium, Outlet, Planes, Socket, Train};
use crate::plane::kernel::Kernel;
use crate::proto::proxy_protocol::Ends;
use crate::proto::srt::handshake::Handshake;
use crate::proto::srt::packet::{Packet, SocketId};
use crate::proto::srt::rejection::{Rejection, reject};
use crate::stream::{Ask, StreamKey, Vhosts};
use crate::telemetry::Seldom;

/// Deadlines and limits of SRT.
#[derive(Clone, Debug)]
pub struct SrtSettings {
    /// Where it takes datagrams.
    pub udp: Vec<SocketAddr>,
    /// For each of an origin's two answers to a handshake.
    pub origin_timeout: Duration,
    /// For all origins that are tried.
    pub setup_timeout: Duration,
    /// How long a session lives of which a peer is silent.
    pub idle_timeout: Duration,
    /// Handshakes of one client at once.
    pub pending_per_client: usize,
    /// Receive buffer of each session's socket, in bytes.
    pub buffer: usize,
}

/// What all SRT sessions share.
#[derive(Debug)]
pub struct Srt {
    settings: SrtSettings,
    sessions: Arc<Sessions>,
    cluster: Arc<Cluster>,
    vhosts: Vhosts,
    door: Door,
    state: Mutex<State>,
    lanes: Lanes,
    drops: Arc<Drops>,
    stop: Stop,
    /// Warnings of a host without resources, and lines of those who are rejected.
    exhausted: Seldom,
    refusals: Seldom,
}

#[derive(Debug)]
struct State {
    table: FlowTable<Packets, Planes>,
    /// By the caller, for as long as the session lives: a conclusion may come again.
    calls: HashMap<Caller, Arc<Call>>,
    /// Handshakes under way, by [`source`]; one without any has no entry.
    pending: HashMap<IpAddr, usize>,
}

/// What is kept for each session.
#[derive(Debug)]
struct Packets;

impl Media for Packets {
    type Session = Arc<Known>;
    type Lane = Arc<Lane>;
    type Exit = Exit;
}

/// A client's socket, of which several may share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Caller {
    client: SocketAddr,
    local: SocketAddr,
    socket: SocketId,
}

/// Why no plane carries a session for a while.
const MOVING: &str = "its client may have another port now";

/// How often it is asked which sessions are silent.
const TICK: Duration = Duration::from_secs(1);

impl Srt {
    /// No session yet.
    pub fn new(
        settings: SrtSettings,
        sessions: Arc<Sessions>,
        cluster: Arc<Cluster>,
        vhosts: Vhosts,
        cookies: Cookies,
        kernel: Kernel,
        stop: Stop,
    ) -> Arc<Self> {
        let lanes = Lanes::default();
        let table = FlowTable::new(Planes::new(lanes.clone(), kernel, Medium::Srt));
        Arc::new(Self {
            settings,
            sessions,
            cluster,
            vhosts,
            door: Door::new(cookies),
            state: Mutex::new(State { table, calls: HashMap::new(), pending: HashMap::new() }),
            lanes,
            drops: Arc::default(),
            stop,
            exhausted: Seldom::default(),
            refusals: Seldom::default(),
        })
    }

    /// Ends what is silent. Returns never.
    pub async fn watch(&self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let patience = self.settings.idle_timeout;
        loop {
            tick.tick().await;
            let now = Instant::now();
            let mut state = self.state.lock();
            let silent = state.table.tick(now, now.checked_sub(patience), |known, heard| {
                known.heard(heard);
                let oldest = heard.into_iter().min()?;
                let is_over = now.saturating_duration_since(oldest) >= patience;
                is_over.then(|| Arc::clone(known))
            });
            let held: Vec<_> = state.table.held().collect();
            drop(state);
            for (_, known) in silent {
                known.ending.end(End::Idle);
            }
            for id in held {
                self.release(id, now);
            }
        }
    }

    /// What went nowhere.
    pub fn drops(&self) -> &Arc<Drops> {
        &self.drops
    }

    /// Takes what has come by a socket for datagrams.
    pub fn arrived(self: &Arc<Self>, socket: &Arc<Socket>, train: &Train<'_>) {
        let local = socket.local();
        let local = SocketAddr::new(train.destination.unwrap_or(local.ip()), local.port());
        let key = |socket_id| FlowKey {
            is_tcp: false,
            client: train.source,
            local,
            socket_id: Some(socket_id),
        };
        let from = train.destination;
        let exit = || Exit::udp(socket, train.source, from);
        if train.bytes.is_empty() {
            self.drops.count(Dropped::NotTheProtocol, 1);
        }
        // Mostly all are for one socket, and go on as they came.
        let mut rest = train.bytes;
        while let Some(first) = train.part(rest).datagrams().next() {
            let Some(packet) = Packet::parse(first) else {
                self.drops.count(Dropped::NotTheProtocol, 1);
                rest = rest.get(first.len()..).unwrap_or_default();
                continue;
            };
            let to = packet.destination();
            let alike = |datagram: &&[u8]| {
                Packet::parse(datagram).is_some_and(|packet| packet.destination() == to)
            };
            let length = train.part(rest).datagrams().take_while(alike).map(<[u8]>::len).sum();
            let (these, others) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = others;
            let these = train.part(these);
            if to == SocketId::NONE {
                for datagram in these.datagrams() {
                    self.knocked(&these.part(datagram), local, &exit());
                }
            } else {
                self.pass(&key(to.0), &these, exit);
            }
        }
    }

    /// Passes on what is for a session's socket.
    fn pass(&self, key: &FlowKey, train: &Train<'_>, exit: impl Fn() -> Exit) {
        match self.lanes.with(key, |lane| lane.to_origin(train)) {
            Some(sent) => {
                let is_lost = sent.is_err();
                let says_goodbye = train
                    .datagrams()
                    .filter_map(Packet::parse)
                    .any(|packet| matches!(Established::from_client(&packet), Verdict::End(_)));
                if is_lost || says_goodbye {
                    let state = self.state.lock();
                    let known = state.table.owner(key).and_then(|id| state.table.get(id));
                    if let Some((known, _)) = known {
                        let end = if is_lost { End::OriginLost } else { End::ClientClosed };
                        known.ending.end(end);
                    }
                }
            }
            None => self.moves(key, train, exit),
        }
    }

    /// A session's packets from where its client is not: perhaps it has another port now.
    fn moves(&self, key: &FlowKey, train: &Train<'_>, exit: impl Fn() -> Exit) {
        let Some(name) = key.socket_id.map(Name::SocketId) else { return };
        let now = Instant::now();
        let mut state = self.state.lock();
        let table = &mut state.table;
        // Two origins can have given out one socket id.
        let ids: Vec<_> = table.find_all(&name).collect();
        let named = ids.into_iter().filter_map(|id| {
            let (known, lane) = table.get(id).filter(|(known, _)| known.is_at(key.client.ip()))?;
            let (known, lane) = (Arc::clone(known), Arc::clone(lane));
            let heard = table.heard(id, Leg::Client, now)?;
            // Who may have moved is proved by what the origin answers: that has to be seen.
            let is_silent = now.saturating_duration_since(heard) >= SILENCE;
            let progress = is_silent.then(|| table.hold(id, MOVING)).flatten();
            Some((known, lane, heard, progress))
        });
        let named: Vec<_> = named.collect();
        drop(state);
        for (known, .., progress) in &named {
            if let Some(progress) = progress {
                known.catch_up(*progress);
            }
        }
        for datagram in train.datagrams() {
            let Some(packet) = Packet::parse(datagram) else { continue };
            let taken = named
                .iter()
                .find(|(known, _, heard, _)| known.may_come(&packet, key, &exit, *heard, now));
            if let Some((_, lane, ..)) = taken {
                // The lane has heard nothing of its client by this.
                let _silence_ends_it = lane.for_origin(&train.part(datagram));
            } else {
                self.drops.count(Dropped::UnknownFlow, 1);
            }
        }
    }

    /// Lets a plane carry a session again, if nobody is any more who may be its client.
    fn release(&self, id: FlowId, now: Instant) {
        let state = self.state.lock();
        let heard = state.table.heard(id, Leg::Client, now);
        let known = state.table.get(id).map(|(known, _)| Arc::clone(known));
        drop(state);
        if let Some((known, heard)) = known.zip(heard)
            && !known.is_tried(heard, now)
        {
            self.state.lock().table.release(id);
        }
    }

    /// Takes what is for no socket: a handshake.
    fn knocked(self: &Arc<Self>, train: &Train<'_>, local: SocketAddr, exit: &Exit) {
        let now = Instant::now();
        let answer = |bytes: &[u8]| {
            exit.send(&Train::alone(train.source, bytes));
        };
        match self.door.knock(train.bytes, train.source, now) {
            // Who is turned away at the end need not begin.
            Knock::Induction(_) if self.stop.draining.is_cancelled() => {
                if let Ok(induction) = Handshake::parse(train.bytes) {
                    answer(&reject(&induction, Rejection::CLOSE).bare());
                }
            }
            Knock::Induction(bytes) => answer(&bytes),
            Knock::Drop(why) => self.drops.count(why, 1),
            Knock::Reject(bytes, why) => {
                let end =
                    if why == Rejection::VERSION { End::NotTheProtocol } else { End::BadStream };
                self.sessions.refuse(Protocol::Srt, end);
                self.say_rejected(train.source, why);
                answer(&bytes);
            }
            Knock::Ask(asked) => {
                let rejected = self.asked(&asked, local, exit.clone(), now);
                if let Err((end, why)) = rejected {
                    self.say_rejected(train.source, why);
                    if let Some(end) = end {
                        self.sessions.refuse(Protocol::Srt, end);
                    }
                    answer(&asked.reject(why));
                }
            }
        }
    }

    /// Tells the operator of a caller without a session: of all codes, most players show none.
    fn say_rejected(&self, client: SocketAddr, why: Rejection) {
        if let Some(unsaid) = self.refusals.say(Instant::now()) {
            let client = SocketAddr::new(client.ip().to_canonical(), client.port());
            info!(%client, why = why.as_str(), unsaid, "SRT caller rejected");
        }
    }

    /// Takes a conclusion whose caller is where it says. The error is the answer that it gets, and
    /// the reason to be counted, if it is not counted yet.
    fn asked(
        self: &Arc<Self>,
        asked: &Asked<'_>,
        local: SocketAddr,
        exit: Exit,
        now: Instant,
    ) -> Result<(), (Option<End>, Rejection)> {
        let caller = Caller { client: asked.client, local, socket: asked.handshake.socket_id };
        let known = self.state.lock().calls.get(&caller).cloned();
        if let Some(call) = known {
            if call.is_repeated_by(asked, now) {
                return Ok(());
            }
            // The client has begun anew with the same socket id.
            call.ending.end(End::ClientLost);
        }
        if self.stop.draining.is_cancelled() {
            return Err((Some(End::Shutdown), Rejection::CLOSE));
        }
        let ask = Ask::Srt { stream_id: asked.stream_id.as_str().into() };
        let key = StreamKey::new(&ask, &self.vhosts);
        let key = key.map_err(|_| (Some(End::BadStream), Rejection::BAD_REQUEST))?;
        let pending = self.pend(asked.client.ip()).ok_or_else(|| {
            self.drops.count(Dropped::TooManyPending, 1);
            (None, Rejection::BACKLOG)
        })?;
        let ends = Ends { source: asked.client, destination: local };
        let live = self.sessions.admit(ends, Protocol::Srt);
        let live: Live = live.map_err(|_| (None, Rejection::OVERLOAD))?;
        let call = Arc::new(Call::new(asked.clone(), caller, exit, &self.settings, now));
        self.state.lock().calls.insert(caller, Arc::clone(&call));
        self.answer(call, key, live, pending);
        Ok(())
    }

    /// One more handshake of this client, if it may.
    fn pend(self: &Arc<Self>, client: IpAddr) -> Option<Pending> {
        let client = source(client.to_canonical());
        let mut state = self.state.lock();
        let pending = state.pending.entry(client).or_default();
        let may = *pending < self.settings.pending_per_client;
        if may {
            *pending += 1;
        }
        may.then(|| Pending { srt: Arc::clone(self), client })
    }
}

/// A handshake that is under way. Its drop is its end.
struct Pending {
    srt: Arc<Srt>,
    client: IpAddr,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut state = self.srt.state.lock();
        if let Some(pending) = state.pending.get_mut(&self.client) {
            *pending -= 1;
            if *pending == 0 {
                state.pending.remove(&self.client);
            }
        }
    }
}
