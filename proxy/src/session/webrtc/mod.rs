//! WebRTC: sessions that are signalled over HTTP, and whose media finds them by its ICE names.
//!
//! [`signalling`] makes a session of an offer and its answer. Its media is told apart here, by the
//! first byte (RFC 7983): STUN names its session and is checked by the password of the answer;
//! everything else goes by its address, which only STUN can teach. [`ice`] decides, the
//! [`FlowTable`] remembers, and lanes carry. [`tcp`] is another way in for the same datagrams.
//! A [`guest`] was signalled at another proxy.

mod adopt;
mod guest;
mod ice;
mod names;
mod signalling;
mod tcp;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace};

use self::guest::{Guest, Guests};
use self::ice::{Check, Ice, UNCHECKED};
pub use self::signalling::{BadDescription, Draft, Elsewhere, Invited, Placeless};
use self::tcp::Strangers;
use super::flow::{Dropped, Drops, FlowId, FlowTable, Media, Name};
use super::memo::Matter;
use super::{Ending, Session, Sessions};
use crate::cluster::{Cluster, KeptSession};
use crate::config::Candidate;
use crate::origin::Origin;
use crate::plane::Leg;
use crate::plane::datagram::{Exit, FlowKey, Gone, Lane, Lanes, Medium, Planes, Socket, Train};
use crate::plane::kernel::Kernel;
use crate::proto::datagram::{Kind, is_dtls_alert};
use crate::proto::sdp::{Offered, Transport};
use crate::proto::stun::{Class, Message};
use crate::telemetry::Seldom;

/// Limits of WebRTC, and where clients reach it.
#[derive(Clone, Debug)]
pub struct WebrtcSettings {
    /// Where clients reach it, as the operator says.
    pub candidates: Vec<Candidate>,
    /// Where it takes datagrams.
    pub udp: Vec<SocketAddr>,
    /// Where it takes them framed by TCP.
    pub tcp: Vec<SocketAddr>,
    /// How long a session lives without its origin's consent.
    pub consent_timeout: Duration,
    /// Receive buffer of each session's socket, in bytes.
    pub buffer: usize,
}

/// What all WebRTC sessions share.
#[derive(Debug)]
pub struct Webrtc {
    settings: WebrtcSettings,
    sessions: Arc<Sessions>,
    cluster: Arc<Cluster>,
    table: Mutex<FlowTable<Datagrams, Planes>>,
    lanes: Lanes,
    drops: Arc<Drops>,
    strangers: Strangers,
    guests: Arc<Guests>,
    /// Lines of those who get no session.
    refusals: Seldom,
    stop: CancellationToken,
}

/// What is kept for each session.
#[derive(Debug)]
struct Datagrams;

impl Media for Datagrams {
    type Session = Known;
    type Lane = Arc<Lane>;
    type Exit = Exit;
}

/// A session, to those who find it by a datagram.
#[derive(Debug)]
struct Known {
    /// As in the session's URL.
    name: Box<str>,
    ice: Ice,
    ending: Arc<Ending>,
    /// The address at which its client reached the API.
    reached: IpAddr,
    origin: Arc<Origin>,
    session: Arc<Session>,
    /// If another proxy has signalled it.
    guest: Option<Guest>,
    /// Under each name that counts it is found at every proxy.
    kept: Vec<KeptSession>,
}

/// How often the table is asked, and so how late it knows what was heard.
const TICK: Duration = Duration::from_secs(1);

/// Sessions of one name whose passwords are tried.
const MAX_NAMESAKES: usize = 8;

impl Webrtc {
    /// No session yet. All end when `stop` is cancelled.
    pub fn new(
        settings: WebrtcSettings,
        sessions: Arc<Sessions>,
        cluster: Arc<Cluster>,
        kernel: Kernel,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let lanes = Lanes::default();
        let planes = Planes::new(lanes.clone(), kernel, Medium::WebRtc);
        let table = Mutex::new(FlowTable::new(planes));
        Arc::new(Self {
            settings,
            sessions,
            cluster,
            table,
            lanes,
            drops: Arc::default(),
            strangers: Strangers::default(),
            guests: Arc::default(),
            refusals: Seldom::default(),
            stop,
        })
    }

    /// Ends what is over. Returns never.
    pub async fn watch(&self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let patience = self.settings.consent_timeout;
        loop {
            tick.tick().await;
            for name in self.cluster.take_deleted() {
                self.end_named(&name);
            }
            let now = Instant::now();
            let mut table = self.table.lock();
            let over = table.tick(now, now.checked_sub(patience), |known, heard| {
                let end = known.ice.judge(heard, patience, now)?;
                Some((Arc::clone(&known.ending), end))
            });
            drop(table);
            for (_, (ending, end)) in over {
                ending.end(end);
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
        let key = FlowKey { is_tcp: false, client: train.source, local, socket_id: None };
        let from = train.destination;
        self.take(&key, train, &|| Exit::udp(socket, train.source, from));
    }

    /// Takes what has come from a client, who is answered by the way of `exit`.
    fn take(self: &Arc<Self>, key: &FlowKey, train: &Train<'_>, exit: &dyn Fn() -> Exit) {
        if train.datagrams().all(|datagram| Kind::of(datagram) == Kind::Media) {
            if train.bytes.is_empty() {
                self.drops.count(Dropped::NotTheProtocol, 1);
            } else {
                self.pass(key, train, true);
            }
            return;
        }
        for datagram in train.datagrams() {
            let one = train.part(datagram);
            match Kind::of(datagram) {
                Kind::Stun => self.stun(key, &one, exit),
                Kind::Media => self.pass(key, &one, true),
                Kind::Dtls => {
                    // Before the origin can say the same: who was first has closed.
                    if is_dtls_alert(datagram) {
                        self.alert(key);
                    }
                    self.pass(key, &one, true);
                }
                Kind::Zrtp | Kind::TurnChannel | Kind::Other => {
                    self.drops.count(Dropped::NotTheProtocol, 1);
                }
            }
        }
    }

    /// Passes on what names no session; `is_media` if it tells where the client sends media from.
    fn pass(&self, key: &FlowKey, train: &Train<'_>, is_media: bool) {
        if let Some(sent) = self.lanes.with(key, |lane| lane.to_origin(train)) {
            if sent.is_err() {
                self.gone(key);
            }
            return;
        }
        // Media comes by the pair of addresses that the client has chosen: by another one than
        // before, if it has proved since that it is there.
        let mut table = self.table.lock();
        let Some(id) = table.owner(key) else {
            drop(table);
            self.drops.count(Dropped::UnknownFlow, train.count());
            return;
        };
        let seen = table.seen(id, key);
        let is_later = seen.is_some_and(|(in_use, here)| in_use.is_none_or(|in_use| here > in_use));
        if is_media && is_later {
            select(&mut table, id, key);
        }
        let lane = table.get(id).map(|(_, lane)| Arc::clone(lane));
        drop(table);
        if let Some(Err(Gone)) = lane.map(|lane| lane.to_origin(train)) {
            self.gone(key);
        }
    }

    /// The origin of this flow is not there any more.
    fn gone(&self, key: &FlowKey) {
        let table = self.table.lock();
        if let Some((known, _)) = table.owner(key).and_then(|id| table.get(id)) {
            known.ending.end(known.ice.end_without_origin());
        }
    }

    /// The client has closed, or somebody who has its address says so.
    fn alert(&self, key: &FlowKey) {
        let mut table = self.table.lock();
        if let Some(known) = table.owner(key).and_then(|id| table.session_mut(id)) {
            known.ice.leave(Leg::Client, Instant::now());
        }
    }

    /// Takes a message of a client's ICE agent.
    fn stun(self: &Arc<Self>, key: &FlowKey, train: &Train<'_>, exit: &dyn Fn() -> Exit) {
        let sent = match Message::parse(train.bytes) {
            Ok(message) if message.is_binding() => match message.class() {
                Class::Request => self.check(key, &message, train.bytes, exit),
                // What the client says to the origin's own checks.
                Class::Indication | Class::Success | Class::Error => {
                    self.pass(key, train, false);
                    return;
                }
            },
            Ok(_) => Err(Dropped::Unexpected),
            Err(error) => {
                trace!(client = %key.client, %error, "malformed");
                Err(Dropped::Malformed)
            }
        };
        match sent.map(|lane| lane.map(|lane| (lane.to_origin(train), lane))) {
            // What waits for its session to be found comes again.
            Ok(None | Some((Ok(()), _))) => {}
            Ok(Some((Err(Gone), _))) => self.gone(key),
            Err(dropped) => {
                trace!(client = %key.client, dropped = dropped.as_str(), "dropped");
                self.drops.count(dropped, 1);
            }
        }
    }

    /// Learns from a check where the client is, if it is the client's (RFC 8445 7.3). None if that is
    /// not known yet.
    fn check(
        self: &Arc<Self>,
        key: &FlowKey,
        message: &Message<'_>,
        bytes: &[u8],
        exit: &dyn Fn() -> Exit,
    ) -> Result<Option<Arc<Lane>>, Dropped> {
        let username = message.username().ok_or(Dropped::UnknownName)?;
        let named = self.named(username, key);
        if named.is_empty() {
            return self.of_guest(key, message, bytes, exit);
        }
        // Outside of the lock: whoever sends many of these delays nobody.
        let signed = named.iter().find(|(_, word)| message.is_authentic(word.as_bytes()));
        let &(id, _) = signed.ok_or(Dropped::Forged)?;
        let now = Instant::now();
        let mut table = self.table.lock();
        let known = table.session_mut(id).ok_or(Dropped::UnknownName)?;
        if known.ice.check(message.transaction(), *key) == Check::Replayed {
            return Err(Dropped::Replayed);
        }
        known.ice.stay();
        table.learn(id, *key, exit(), now);
        // An agent may nominate every address that works, and again with each check; media tells
        // then which one it uses.
        let has_moved = message.has_use_candidate() && table.nominate(id, key);
        let in_use = table.seen(id, key).and_then(|(in_use, _)| in_use);
        let is_left = in_use.is_none_or(|seen| now.saturating_duration_since(seen) >= UNCHECKED);
        if has_moved || is_left {
            select(&mut table, id, key);
        }
        let lane = table.get(id).map(|(_, lane)| Arc::clone(lane));
        lane.map(Some).ok_or(Dropped::UnknownName)
    }

    /// The sessions of this name, and the password of their checks. Names are the agents' own: two
    /// sessions may have the same, and their passwords tell them apart. The one whose client was
    /// seen there is among the first.
    fn named(&self, username: &str, key: &FlowKey) -> Vec<(FlowId, Arc<str>)> {
        let table = self.table.lock();
        let name = Name::Ice(username.into());
        let here = table.owner(key).filter(|id| table.find_all(&name).any(|named| named == *id));
        // The oldest then, so that nobody is crowded out.
        let mut ids: Vec<_> = table.find_all(&name).collect();
        ids.reverse();
        let ids = here.into_iter().chain(ids);
        let signed = ids.filter_map(|id| Some((id, table.get(id)?.0.ice.password(username)?)));
        signed.take(MAX_NAMESAKES).collect()
    }

    /// Takes what has come from a session's origin. True if it is the first consent.
    fn answered(&self, id: FlowId, lane: &Lane, train: &Train<'_>) -> bool {
        if train.datagrams().all(|datagram| Kind::of(datagram) == Kind::Media) {
            lane.to_client(train);
            return false;
        }
        let mut is_first = false;
        for datagram in train.datagrams() {
            let one = train.part(datagram);
            match Kind::of(datagram) {
                Kind::Stun => is_first |= self.answered_stun(id, lane, &one),
                kind => {
                    lane.to_client(&one);
                    if kind == Kind::Dtls && is_dtls_alert(datagram) {
                        let mut table = self.table.lock();
                        if let Some(known) = table.session_mut(id) {
                            known.ice.leave(Leg::Origin, Instant::now());
                        }
                    }
                }
            }
        }
        is_first
    }

    /// Takes a message of the origin's ICE agent: an answer goes where it was asked from.
    fn answered_stun(&self, id: FlowId, lane: &Lane, train: &Train<'_>) -> bool {
        let Ok(message) = Message::parse(train.bytes) else {
            self.drops.count(Dropped::Malformed, 1);
            return false;
        };
        let is_answer = matches!(message.class(), Class::Success | Class::Error);
        let mut table = self.table.lock();
        let Some(known) = table.session_mut(id) else { return false };
        let asked_from = known.ice.asked_from(message.transaction()).filter(|_| is_answer);
        let is_consent = asked_from.is_some() && message.class() == Class::Success;
        let now = Instant::now();
        let is_first = is_consent && known.ice.consent(now);
        let mut found = None;
        if let Some((guest, key)) = known.guest.as_mut().zip(asked_from).filter(|_| is_consent) {
            known.ice.stay();
            found = is_first.then(|| guest.record.clone());
            if let Some(exit) = guest.prove() {
                table.learn(id, key, exit, now);
                select(&mut table, id, &key);
            }
        }
        let exit = match asked_from {
            Some(key) => table.exit(id, &key),
            // The origin checks the way back, to where media goes.
            None => table
                .flow(id)
                .map(|flow| flow.key)
                .and_then(|key| table.exit(id, &key))
                .or_else(|| table.latest_exit(id)),
        };
        let exit = exit.cloned();
        drop(table);
        self.keep_found(id, found);
        match exit {
            Some(exit) => lane.to_client_by(&exit, train),
            None => self.drops.count(Dropped::NotConnected, 1),
        }
        is_first
    }

    /// Where clients reach WebRTC, if they reached the API at `ip`.
    fn offered(&self, ip: IpAddr) -> Vec<Offered> {
        let WebrtcSettings { candidates, udp, tcp, .. } = &self.settings;
        let both = [(udp.as_slice(), Transport::Udp), (tcp, Transport::Tcp)];
        let offered = |(address, transport)| Offered { address, transport };
        if candidates.is_empty() {
            let ip = ip.to_canonical();
            let at =
                |(listeners, transport): (&[_], _)| Some((reached_at(listeners, ip)?, transport));
            return both.into_iter().filter_map(at).map(offered).collect();
        }
        let at = |&Candidate { ip, port }: &Candidate| {
            both.into_iter().filter_map(move |(listeners, transport)| {
                // The port that is named is that of UDP.
                let named = port.filter(|_| transport == Transport::Udp);
                let listener = reached_at(listeners, ip).or(listeners.first().copied())?;
                let port = named.unwrap_or(listener.port());
                Some((SocketAddr::new(ip, port), transport))
            })
        };
        candidates.iter().flat_map(at).map(offered).collect()
    }
}

/// Lets media of a session take this address of its client.
fn select(table: &mut FlowTable<Datagrams, Planes>, id: FlowId, key: &FlowKey) {
    if table.select(id, key) {
        debug!(client = %key.client, is_tcp = key.is_tcp, "client found");
        if let Some((known, _)) = table.get(id) {
            known.session.note(|progress| progress.media = Some((key.client, key.is_tcp)));
        }
        keep(table, id);
    }
}

/// Keeps what the next process has to know, after something of it has changed.
fn keep(table: &FlowTable<Datagrams, Planes>, id: FlowId) {
    if let Some(((known, _), flow)) = table.get(id).zip(table.flow(id)) {
        super::adopt::keep(table.plane(), &known.session, &known.origin, flow, || Matter::Webrtc {
            name: known.name.to_string(),
            passwords: known.ice.passwords(),
        });
    }
}

/// Where these listeners are reached by who came to `ip`: there, if one of them listens there; else
/// where one of the same family does. None if none can be.
fn reached_at(listeners: &[SocketAddr], ip: IpAddr) -> Option<SocketAddr> {
    let everywhere = |listener: &&SocketAddr| {
        listener.ip().is_unspecified() && (listener.is_ipv6() || ip.is_ipv4())
    };
    let here = listeners.iter().find(|listener| listener.ip() == ip || everywhere(listener));
    let of_family = |listener: &&SocketAddr| {
        !listener.ip().is_unspecified() && listener.is_ipv4() == ip.is_ipv4()
    };
    match here {
        Some(listener) => Some(SocketAddr::new(ip, listener.port())),
        None => listeners.iter().find(of_family).copied(),
    }
}
