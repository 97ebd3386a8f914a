//! WebRTC as a proxy sees it, for thousands of sessions: ICE by STUN (RFC 8489), and random bytes in
//! the shape of RTP.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use str0m::ice::StunMessage;

use crate::whip::{self, Endpoint, Media, Role, Session};
use crate::{heartbeat, stun, wait};

/// An origin of one UDP port that answers ICE and sends every other packet back to whom it came
/// from. Ended when dropped.
pub struct Origin {
    endpoint: Endpoint,
    media: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// By the ufrag of the origin: its password, and where the client was last.
    sessions: Mutex<HashMap<String, (String, Option<SocketAddr>)>>,
    names: AtomicU64,
    over: AtomicBool,
}

impl Origin {
    /// Starts an origin on free ports.
    pub fn start() -> Result<Self> {
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.set_read_timeout(Some(PAUSE))?;
        enlarge(&socket)?;
        let media = socket.local_addr()?;
        let shared = Arc::<Shared>::default();
        let inside = Arc::clone(&shared);
        thread::spawn(move || inside.serve(&socket));
        let endpoint = Endpoint::start(Desk(Arc::clone(&shared), media))?;
        Ok(Self { endpoint, media, shared })
    }

    /// Where it takes offers.
    pub fn http(&self) -> SocketAddr {
        self.endpoint.address()
    }

    /// Sessions that were not deleted.
    pub fn sessions(&self) -> usize {
        lock(&self.shared.sessions).len()
    }

    /// Registers it with a proxy under this name.
    pub fn register_at(&self, proxy: SocketAddr, name: &str) -> Result<()> {
        let media = format!("udp://0.0.0.0:{}", self.media.port());
        heartbeat::register(proxy, name, &[("api", self.http().port().to_string()), ("rtc", media)])
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn serve(&self, socket: &UdpSocket) {
        let mut buffer = [0; DATAGRAM];
        let mut known: HashMap<SocketAddr, String> = HashMap::new();
        while !self.over.load(Ordering::Relaxed) {
            let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
            let Some(datagram) = buffer.get(..length) else { continue };
            let answer = match StunMessage::parse(datagram) {
                // Media of who is known, and nobody else's.
                Err(_) => known.contains_key(&source).then(|| datagram.to_vec()),
                Ok(check) => self.check(datagram, &check, source, &mut known),
            };
            if let Some(answer) = answer {
                // Who has gone gets nothing.
                let _ = socket.send_to(&answer, source);
            }
        }
    }

    /// The answer to a check that a session's password covers; its client is where it came from.
    fn check(
        &self,
        datagram: &[u8],
        check: &StunMessage<'_>,
        source: SocketAddr,
        known: &mut HashMap<SocketAddr, String>,
    ) -> Option<Vec<u8>> {
        let SocketAddr::V4(from) = source else { return None };
        let (ufrag, _) = check.split_username()?;
        let mut sessions = lock(&self.sessions);
        let (password, address) = sessions.get_mut(ufrag)?;
        if !check.verify(password.as_bytes(), stun::sha1_hmac) {
            return None;
        }
        let answer = stun::success(datagram, from, password).ok()?;
        if let Some(old) = address.replace(source) {
            known.remove(&old);
        }
        known.insert(source, ufrag.to_owned());
        answer
    }
}

struct Desk(Arc<Shared>, SocketAddr);

impl Media for Desk {
    fn open(&self, role: Role, _: &str, _: &str) -> Result<String> {
        let Self(shared, media) = self;
        let name = shared.names.fetch_add(1, Ordering::Relaxed);
        // Origins side by side do not share names.
        let ufrag = format!("{:04x}{name:06x}", media.port());
        let password = format!("{:024x}", mix(name));
        lock(&shared.sessions).insert(ufrag.clone(), (password.clone(), None));
        let direction = match role {
            Role::Publish => "recvonly",
            Role::Play => "sendonly",
        };
        let candidate = format!(
            "a=ice-lite\r\na=candidate:0 1 udp 2130706431 {} {} typ host generation 0\r\n",
            media.ip(),
            media.port()
        );
        Ok(description(&ufrag, &password, direction, "passive", &candidate))
    }

    fn patch(&self, _: &str, _: &str) -> Result<Option<String>> {
        Ok(None)
    }

    fn end(&self, session: &str) -> Result<bool> {
        let ufrag = session.split(':').next().unwrap_or_default();
        Ok(lock(&self.0.sessions).remove(ufrag).is_some())
    }
}

/// One audio section, as little as a proxy and SRS demand.
fn description(ufrag: &str, password: &str, direction: &str, setup: &str, more: &str) -> String {
    let fingerprint = vec!["00"; 32].join(":");
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na={direction}\r\n\
         a=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=setup:{setup}\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\n\
         {more}"
    )
}

/// Clients in one thread, each with its socket and a stream of its own, that send a packet every half
/// second and expect it back. They vanish when dropped.
pub struct Swarm {
    sessions: Vec<Session>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// How often all have moved.
    generation: AtomicU64,
    /// Clients that have moved so often as well.
    moved: AtomicUsize,
    /// Clients that got back a packet they sent since.
    echoing: AtomicUsize,
    foreign: AtomicU64,
    over: AtomicBool,
}

impl Swarm {
    /// Opens so many sessions at this server, and starts their clients.
    pub fn start(server: SocketAddr, count: usize) -> Result<Self> {
        let open = |place: usize| -> Result<(Session, Member)> {
            let password = format!("{:024x}", mix(u64::try_from(place)?));
            let ufrag = format!("c{place:07x}");
            let offer = description(&ufrag, &password, "sendonly", "actpass", "");
            let stream = format!("swarm{place}");
            let session = Session::open(server, Role::Publish, &stream, &offer)?;
            let member = Member::new(place, &ufrag, &session.answer)?;
            Ok((session, member))
        };
        let places: Vec<usize> = (0..count).collect();
        let opened: Vec<_> = thread::scope(|scope| {
            let parts = places.chunks(count.div_ceil(DOORS).max(1));
            let threads: Vec<_> = parts
                .map(|part| scope.spawn(|| part.iter().map(|it| open(*it)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|it| it.join().unwrap_or_default()).collect()
        });
        let opened: Result<Vec<_>> = opened.into_iter().collect();
        let (sessions, members): (Vec<_>, Vec<_>) = opened?.into_iter().unzip();
        ensure!(sessions.len() == count, "{} of {count} sessions were opened", sessions.len());
        let state = Arc::<State>::default();
        let inside = Arc::clone(&state);
        thread::spawn(move || inside.run(members));
        Ok(Self { sessions, state })
    }

    /// The sessions as HTTP knows them.
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// Waits until every client has got back a packet that it sent from where it is now.
    pub fn must_all_echo(&self, limit: Duration) -> Result<()> {
        let (all, state) = (self.sessions.len(), &self.state);
        wait::until("every client's packets come back", limit, || {
            let moved = state.moved.load(Ordering::Relaxed);
            let echoing = state.echoing.load(Ordering::Relaxed);
            ensure!(moved == all && echoing == all, "{moved} are there, {echoing} of {all} echo");
            Ok(Some(()))
        })
    }

    /// Moves every client to a new port, and waits until it is there. All must echo before.
    pub fn move_all(&self, limit: Duration) -> Result<()> {
        self.state.echoing.store(0, Ordering::Relaxed);
        self.state.moved.store(0, Ordering::Relaxed);
        self.state.generation.fetch_add(1, Ordering::Release);
        wait::until_true("every client has moved", limit, || {
            Ok(self.state.moved.load(Ordering::Relaxed) == self.sessions.len())
        })
    }

    /// Packets that came to a client and were another's.
    pub fn foreign(&self) -> u64 {
        self.state.foreign.load(Ordering::Relaxed)
    }

    /// Asks for the end of every session.
    pub fn delete_all(&self) -> Result<()> {
        for session in &self.sessions {
            let status = session.delete()?.status();
            if status != 200 {
                bail!("{}: {status}", session.target);
            }
        }
        Ok(())
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
    }
}

struct Member {
    place: usize,
    socket: UdpSocket,
    /// Kept, so that no other member gets its port and what is under way there.
    former: Option<UdpSocket>,
    server: SocketAddr,
    username: String,
    password: String,
    /// Of the swarm when this one moved last; none before its first step.
    generation: Option<u64>,
    is_connected: bool,
    is_echoing: bool,
    sent: u64,
    next_check: Instant,
    next_packet: Instant,
}

impl Member {
    fn new(place: usize, ufrag: &str, answer: &str) -> Result<Self> {
        let candidate = whip::attribute(answer, "candidate")?;
        let mut words = candidate.split(' ').skip(4);
        let (ip, port) = words.next().zip(words.next()).context("a candidate cut short")?;
        let now = Instant::now();
        Ok(Self {
            place,
            socket: socket()?,
            former: None,
            server: SocketAddr::new(ip.parse()?, port.parse()?),
            username: format!("{}:{ufrag}", whip::ufrag(answer)?),
            password: whip::attribute(answer, "ice-pwd")?.to_owned(),
            generation: None,
            is_connected: false,
            is_echoing: false,
            sent: 0,
            next_check: now,
            next_packet: now,
        })
    }

    /// Does what is due; an error is one of the socket's.
    fn step(&mut self, state: &State) -> Result<()> {
        let generation = state.generation.load(Ordering::Acquire);
        if self.generation != Some(generation) {
            if self.generation.replace(generation).is_some() {
                self.former = Some(std::mem::replace(&mut self.socket, socket()?));
                self.next_check = Instant::now();
            }
            (self.is_connected, self.is_echoing) = (false, false);
            state.moved.fetch_add(1, Ordering::Relaxed);
        }
        let mut buffer = [0; DATAGRAM];
        while let Ok((length, _)) = self.socket.recv_from(&mut buffer) {
            if let Some(datagram) = buffer.get(..length) {
                self.take(datagram, state);
            }
        }
        let now = Instant::now();
        if now >= self.next_check {
            let transaction = self.transaction();
            let request = stun::request(transaction, &self.username, &self.password)?;
            self.send(&request);
            self.next_check = now + if self.is_connected { CONSENT } else { RETRY };
        }
        if self.is_connected && now >= self.next_packet {
            let packet = self.packet();
            self.send(&packet);
            self.next_packet = now + PACE;
        }
        Ok(())
    }

    fn take(&mut self, datagram: &[u8], state: &State) {
        if let Ok(answer) = StunMessage::parse(datagram) {
            let password = self.password.as_bytes();
            let is_own =
                answer.is_successful_binding_response() && answer.verify(password, stun::sha1_hmac);
            self.is_connected |= is_own;
            state.foreign.fetch_add(u64::from(!is_own), Ordering::Relaxed);
            return;
        }
        let (ssrc, generation) = (datagram.get(8..12), datagram.get(12..20));
        let is_own = ssrc == Some(&self.ssrc());
        state.foreign.fetch_add(u64::from(!is_own), Ordering::Relaxed);
        let is_new = generation == Some(&self.generation.unwrap_or_default().to_be_bytes());
        if is_own && is_new && !self.is_echoing {
            self.is_echoing = true;
            state.echoing.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// RTP (RFC 3550 5.1) of this member and generation, and chance.
    fn packet(&mut self) -> Vec<u8> {
        self.sent += 1;
        let [.., s1, s2] = self.sent.to_be_bytes();
        let mut packet = vec![0x80, 111, s1, s2, 0, 0, s1, s2];
        packet.extend(self.ssrc());
        packet.extend(self.generation.unwrap_or_default().to_be_bytes());
        let chance = (0..20).flat_map(|step| mix(self.sent ^ (step << 32)).to_be_bytes());
        packet.extend(chance);
        packet
    }

    fn ssrc(&self) -> [u8; 4] {
        u32::try_from(self.place).unwrap_or(u32::MAX).to_be_bytes()
    }

    fn transaction(&mut self) -> [u8; 12] {
        self.sent += 1;
        let mut transaction = [0; 12];
        let number = [self.ssrc().as_slice(), &self.sent.to_be_bytes()].concat();
        transaction.copy_from_slice(&number);
        transaction
    }

    fn send(&self, datagram: &[u8]) {
        // What a full socket does not take is lost, as on any way.
        let _ = self.socket.send_to(datagram, self.server);
    }
}

impl State {
    fn run(&self, mut members: Vec<Member>) {
        while !self.over.load(Ordering::Relaxed) {
            for member in &mut members {
                if member.step(self).is_err() {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Thousands of clients send at once.
fn enlarge(socket: &UdpSocket) -> Result<()> {
    Ok(socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20)?)
}

/// A number that looks like chance (`SplitMix64`).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const DATAGRAM: usize = 2000;
/// Between two checks of a client that has no answer yet, and of one that has.
const RETRY: Duration = Duration::from_millis(500);
const CONSENT: Duration = Duration::from_secs(2);
/// Between two packets.
const PACE: Duration = Duration::from_millis(500);
/// Threads that open sessions.
const DOORS: usize = 8;
/// How long the end may go unnoticed.
const PAUSE: Duration = Duration::from_millis(50);
