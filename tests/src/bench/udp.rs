//! Both ends of sessions over UDP: the clients' sockets, and the origin's only one.

mod offload;
mod packets;
mod traffic;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{self, SockaddrIn, sockopt::RcvBufForce};
use socket2::SockRef;

pub use self::offload::Asked;
use self::packets::{Header, Kind, READ, SIZE};
use self::traffic::Traffic;
use super::{Client, Relay};
use crate::netns::Namespace;
use crate::{ports, stun, wait};

/// What the sessions of a case carry.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Where media goes.
    pub way: Way,
    /// When it is sent.
    pub pace: Pace,
    /// Whether the first client also sends a packet every millisecond that the origin sends back.
    pub has_echo: bool,
}

/// Which end sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The origin; the clients are players.
    ToClients,
    /// The clients, which publish.
    ToOrigin,
}

/// When packets are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many packets at once, so many times a second, of each session at a moment of its own.
    Bursts {
        /// Packets of a burst.
        packets: usize,
        /// Bursts of a session.
        per_second: u32,
    },
    /// As soon as a burst of so many finds room among those of the session that are on the way.
    Window {
        /// Packets of a burst.
        packets: usize,
        /// Packets of a session that may be on the way.
        most: u32,
    },
}

/// What a session is opened with where it is asked for.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The answerer's name in ICE.
    pub ufrag: String,
    /// Its password.
    pub password: String,
    /// Where media goes.
    pub candidate: SocketAddr,
}

/// Asks for a session of this number at a relay's address for signalling, under this ufrag.
pub type Ask = fn(SocketAddr, &str, usize, Way) -> Result<Answer>;

/// The origin's socket.
#[derive(Clone)]
pub struct OriginSocket {
    socket: Arc<UdpSocket>,
    password: String,
}

/// What opens sessions of a load.
pub struct Opener {
    load: Load,
    origin: OriginSocket,
    home: Option<Namespace>,
    ask: Ask,
}

struct Session {
    client: UdpSocket,
    /// Where its packets come from.
    at_origin: SockaddrIn,
    consent: Option<Consent>,
    /// Number of the packet that is sent next.
    next: u32,
    /// The packet behind the last one that has arrived, and when that was.
    arrived: u32,
    arrived_at: Instant,
}

/// What a session with ICE is opened and kept by.
struct Consent {
    user: String,
    password: String,
}

impl OriginSocket {
    /// On a free port of this host; answers binding requests with this password.
    pub fn bind(host: IpAddr, password: &str) -> Result<Self> {
        let socket = UdpSocket::bind((host, 0))?;
        prepare(&socket)?;
        Ok(Self { socket: Arc::new(socket), password: password.to_owned() })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Takes one packet, and sends back what it asks for; says from where it came.
    fn answer_one(&self) -> Result<SockaddrIn> {
        let mut buffer = [0; READ];
        let (length, from) = self.socket.recv_from(&mut buffer)?;
        let SocketAddr::V4(from) = from else { bail!("a packet from {from}") };
        let from = SockaddrIn::from(from);
        self.answer(buffer.get(..length).unwrap_or_default(), from)?;
        Ok(from)
    }

    /// Sends back what this packet asks for, if anything.
    fn answer(&self, packet: &[u8], from: SockaddrIn) -> Result<()> {
        let to = from.into();
        if let Some(success) = stun::success(packet, to, &self.password)? {
            self.socket.send_to(&success, to)?;
        } else if Header::read(packet).is_some_and(|header| header.kind == Kind::Echo) {
            self.socket.send_to(packet, to)?;
        }
        Ok(())
    }
}

impl Opener {
    /// For sessions with this origin, of clients that are in this namespace, if in any; they are
    /// asked for if a relay has signalling.
    pub fn new(load: Load, origin: &OriginSocket, home: Option<Namespace>, ask: Ask) -> Self {
        Self { load, origin: origin.clone(), home, ask }
    }

    /// The session of this number, once a packet has gone there and back through the relay and is
    /// what it was.
    fn open(&self, relay: &Relay, number: usize) -> Result<Session> {
        let (client, consent) = self.connect(relay, number)?;
        let header = Header { kind: Kind::Echo, session: u32::try_from(number)?, ..Header::EMPTY };
        let mut packet: Vec<u8> = (0..=u8::MAX).cycle().take(SIZE).collect();
        header.write(&mut packet)?;
        let is_same = |echo: &[u8]| echo == packet;
        let at_origin = self.converse(&client, &packet, is_same).context("an echo")?;
        let arrived_at = Instant::now();
        Ok(Session { client, at_origin, consent, next: 0, arrived: 0, arrived_at })
    }

    /// The same before any media.
    fn connect(&self, relay: &Relay, number: usize) -> Result<(UdpSocket, Option<Consent>)> {
        let (client, consent) = self.asked(relay, number)?;
        if let Some(consent) = &consent {
            let (transaction, request) = consent.request(number, 0)?;
            let is_success = |packet: &[u8]| stun::is_success(packet, transaction);
            self.converse(&client, &request, is_success).context("ICE")?;
        }
        Ok((client, consent))
    }

    /// A socket, and what its checks need if the relay has signalling.
    fn asked(&self, relay: &Relay, number: usize) -> Result<(UdpSocket, Option<Consent>)> {
        let consent = match relay.signalling {
            Some(address) => {
                let own = format!("client{number}");
                let answer = (self.ask)(address, &own, number, self.load.way)?;
                let Answer { ufrag, password, candidate } = answer;
                ensure!(candidate == relay.address, "{candidate} is not {}", relay.address);
                Some(Consent { user: format!("{ufrag}:{own}"), password })
            }
            None => None,
        };
        let client = ports::towards(relay.address)?;
        prepare(&client)?;
        client.connect(relay.address)?;
        Ok((client, consent))
    }

    /// Sends this until an answer is the one that is waited for; says where the origin saw it come
    /// from.
    fn converse(
        &self,
        client: &UdpSocket,
        packet: &[u8],
        is_answer: impl Fn(&[u8]) -> bool,
    ) -> Result<SockaddrIn> {
        wait::until("the answer", PATIENCE, || {
            client.send(packet)?;
            let from = self.origin.answer_one()?;
            let mut buffer = [0; READ];
            let length = client.recv(&mut buffer)?;
            Ok(buffer.get(..length).is_some_and(&is_answer).then_some(from))
        })
    }

    /// One session of the number behind all others, which ends as it begins.
    pub fn try_out(&self, relay: &Relay) -> Result<()> {
        self.at_home(|| self.open(relay, TRIAL)).map(drop)
    }

    /// So many sessions, as one client.
    pub fn client(&self, relay: &Relay, count: usize) -> Result<Client> {
        let open = || (0..count).map(|number| self.open(relay, number)).collect();
        let (load, origin, sessions) = (self.load, self.origin.clone(), self.at_home(open)?);
        Ok(Box::new(move |tally| Traffic::new(load, origin, sessions)?.run(tally)))
    }

    fn at_home<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.home {
            Some(home) => home.within(act),
            None => act(),
        }
    }
}

impl Consent {
    /// The binding request of this turn.
    fn request(&self, number: usize, turn: u32) -> Result<(stun::Transaction, Vec<u8>)> {
        let mut transaction = stun::Transaction::default();
        let words = [u32::try_from(number)?, turn].map(u32::to_be_bytes);
        for (to, from) in transaction.iter_mut().zip(words.concat()) {
            *to = from;
        }
        Ok((transaction, stun::request(transaction, &self.user, &self.password)?))
    }
}

/// Gives it room for what comes while the one thread is elsewhere, and has it wait only a moment
/// for packets.
fn prepare(socket: &UdpSocket) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    match socket::setsockopt(socket, RcvBufForce, &ROOM) {
        // Only root may; others get what the system allows.
        Err(Errno::EPERM) => Ok(SockRef::from(socket).set_recv_buffer_size(ROOM)?),
        done => Ok(done?),
    }
}

/// Bytes that a socket keeps.
const ROOM: usize = 8 << 20;
/// The session before all others.
const TRIAL: usize = 1_000_000;
/// How long a session may take to open.
const PATIENCE: Duration = Duration::from_secs(10);
