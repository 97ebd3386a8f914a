//! WebRTC as a proxy sees it, for thousands of sessions: ICE by STUN (RFC 8489), and random bytes in
//! the shape of RTP.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::whip::{self, Endpoint, Media, Role, Session};
use crate::{heartbeat, wait};

/// A binding request of this user name, `<ufrag of the receiver>:<ufrag of the sender>`, with
/// integrity by this password.
pub fn binding_request(username: &str, password: &str, transaction: [u8; 12]) -> Vec<u8> {
    let attributes = [
        (USERNAME, username.as_bytes().to_vec()),
        (PRIORITY, 0x6e7f_1eff_u32.to_be_bytes().to_vec()),
        (USE_CANDIDATE, Vec::new()),
        (ICE_CONTROLLING, transaction.iter().copied().take(8).collect()),
    ];
    message(BINDING_REQUEST, transaction, &attributes, password)
}

fn binding_response(source: SocketAddr, password: &str, transaction: [u8; 12]) -> Vec<u8> {
    // RFC 8489 14.2: port and address, each xored with the cookie (and the transaction for IPv6).
    let port = source.port() ^ 0x2112;
    let mask = [COOKIE.to_be_bytes().as_slice(), &transaction].concat();
    let (family, address) = match source {
        SocketAddr::V4(source) => (1, source.ip().octets().to_vec()),
        SocketAddr::V6(source) => (2, source.ip().octets().to_vec()),
    };
    let address = address.iter().zip(&mask).map(|(byte, mask)| byte ^ mask);
    let mut mapped = vec![0, family];
    mapped.extend(port.to_be_bytes());
    mapped.extend(address);
    message(BINDING_SUCCESS, transaction, &[(XOR_MAPPED_ADDRESS, mapped)], password)
}

/// A message with MESSAGE-INTEGRITY and FINGERPRINT behind these attributes.
fn message(
    kind: u16,
    transaction: [u8; 12],
    attributes: &[(u16, Vec<u8>)],
    password: &str,
) -> Vec<u8> {
    let mut message = kind.to_be_bytes().to_vec();
    message.extend([0, 0]);
    message.extend(COOKIE.to_be_bytes());
    message.extend(transaction);
    for (name, value) in attributes {
        push(&mut message, *name, value);
    }
    // RFC 8489 14.5 and 14.7: either is computed as if it were the last.
    set_length(&mut message, 24);
    let integrity = integrity(&message, password);
    push(&mut message, MESSAGE_INTEGRITY, &integrity);
    set_length(&mut message, 8);
    let fingerprint = crc32(&message) ^ 0x5354_554e;
    push(&mut message, FINGERPRINT, &fingerprint.to_be_bytes());
    message
}

fn push(message: &mut Vec<u8>, name: u16, value: &[u8]) {
    message.extend(name.to_be_bytes());
    message.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Makes the header count what is there and `more` bytes.
fn set_length(message: &mut [u8], more: usize) {
    let length = u16::try_from(message.len() - HEADER + more).unwrap_or(u16::MAX);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

fn integrity(message: &[u8], password: &str) -> Vec<u8> {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(password.as_bytes()) else { return Vec::new() };
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

/// What either side has to know of a message.
struct Stun<'a> {
    kind: u16,
    transaction: [u8; 12],
    username: &'a str,
    /// Where MESSAGE-INTEGRITY begins, and its value.
    integrity: Option<(usize, &'a [u8])>,
}

impl<'a> Stun<'a> {
    /// None if it is no STUN.
    fn read(datagram: &'a [u8]) -> Option<Self> {
        let kind = u16::from_be_bytes(*datagram.first_chunk()?);
        if kind >> 14 != 0 || datagram.get(4..8)? != COOKIE.to_be_bytes() {
            return None;
        }
        let transaction = *datagram.get(8..)?.first_chunk()?;
        let mut stun = Self { kind, transaction, username: "", integrity: None };
        let mut place = HEADER;
        while let Some([n1, n2, l1, l2]) = datagram.get(place..).and_then(|it| it.first_chunk()) {
            let length = usize::from(u16::from_be_bytes([*l1, *l2]));
            let value = datagram.get(place + 4..place + 4 + length)?;
            match u16::from_be_bytes([*n1, *n2]) {
                USERNAME => stun.username = str::from_utf8(value).ok()?,
                MESSAGE_INTEGRITY => stun.integrity = Some((place, value)),
                _ => {}
            }
            place += 4 + length.next_multiple_of(4);
        }
        Some(stun)
    }

    fn is_of(&self, datagram: &[u8], password: &str) -> bool {
        let Some((place, value)) = self.integrity else { return false };
        let Some(mut covered) = datagram.get(..place).map(<[u8]>::to_vec) else { return false };
        set_length(&mut covered, 24);
        integrity(&covered, password) == value
    }
}

/// An origin of one UDP port that answers ICE and sends every other packet back to whom it came
/// from. Ended when dropped.
pub struct Origin {
    endpoint: Endpoint,
    media: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    media: Option<SocketAddr>,
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
        let shared = Arc::new(Shared { media: Some(media), ..Shared::default() });
        let inside = Arc::clone(&shared);
        thread::spawn(move || inside.serve(&socket));
        let endpoint = Endpoint::start(Desk(Arc::clone(&shared)))?;
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
            let answer = match Stun::read(datagram) {
                // Media of who is known, and nobody else's.
                None => known.contains_key(&source).then(|| datagram.to_vec()),
                Some(stun) if stun.kind == BINDING_REQUEST => {
                    let ufrag = stun.username.split(':').next().unwrap_or_default();
                    let mut sessions = lock(&self.sessions);
                    let session = sessions.get_mut(ufrag);
                    session.filter(|it| stun.is_of(datagram, &it.0)).map(|(password, address)| {
                        if let Some(old) = address.replace(source) {
                            known.remove(&old);
                        }
                        known.insert(source, ufrag.to_owned());
                        binding_response(source, password, stun.transaction)
                    })
                }
                Some(_) => None,
            };
            if let Some(answer) = answer {
                // Who has gone gets nothing.
                let _ = socket.send_to(&answer, source);
            }
        }
    }
}

struct Desk(Arc<Shared>);

impl Media for Desk {
    fn open(&self, role: Role, _: &str, _: &str) -> Result<String> {
        let media = self.0.media.context("no port")?;
        let name = self.0.names.fetch_add(1, Ordering::Relaxed);
        // Origins side by side do not share names.
        let ufrag = format!("{:04x}{name:06x}", media.port());
        let password = format!("{:024x}", mix(name));
        lock(&self.0.sessions).insert(ufrag.clone(), (password.clone(), None));
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

    /// Moves every client to a new port, and waits until it is there.
    pub fn move_all(&self, limit: Duration) -> Result<()> {
        self.state.echoing.store(0, Ordering::Relaxed);
        self.state.moved.store(0, Ordering::Relaxed);
        self.state.generation.fetch_add(1, Ordering::Relaxed);
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
    server: SocketAddr,
    username: String,
    password: String,
    generation: u64,
    has_moved: bool,
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
            server: SocketAddr::new(ip.parse()?, port.parse()?),
            username: format!("{}:{ufrag}", whip::ufrag(answer)?),
            password: whip::attribute(answer, "ice-pwd")?.to_owned(),
            generation: 0,
            has_moved: false,
            is_connected: false,
            is_echoing: false,
            sent: 0,
            next_check: now,
            next_packet: now,
        })
    }

    /// Does what is due; an error is one of the socket's.
    fn step(&mut self, state: &State) -> Result<()> {
        let generation = state.generation.load(Ordering::Relaxed);
        if generation != self.generation || !self.has_moved {
            if generation != self.generation {
                self.socket = socket()?;
                self.next_check = Instant::now();
            }
            (self.generation, self.has_moved) = (generation, true);
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
            let request = binding_request(&self.username, &self.password, transaction);
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
        if let Some(stun) = Stun::read(datagram) {
            let is_own = stun.kind == BINDING_SUCCESS && stun.is_of(datagram, &self.password);
            self.is_connected |= is_own;
            state.foreign.fetch_add(u64::from(!is_own), Ordering::Relaxed);
            return;
        }
        let (ssrc, generation) = (datagram.get(8..12), datagram.get(12..20));
        let is_own = ssrc == Some(&self.ssrc());
        state.foreign.fetch_add(u64::from(!is_own), Ordering::Relaxed);
        let is_new = generation == Some(&self.generation.to_be_bytes());
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
        packet.extend(self.generation.to_be_bytes());
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

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLING: u16 = 0x802a;
const COOKIE: u32 = 0x2112_a442;
const HEADER: usize = 20;
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

#[cfg(test)]
mod tests {
    use super::{Stun, binding_response, crc32};

    /// RFC 5769 2.2: the sample IPv4 response, but for its SOFTWARE.
    #[test]
    fn integrity_and_fingerprint_are_those_of_the_rfc() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let request = data_encoding::HEXLOWER
            .decode(
                b"000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465\
                737420636c69656e74002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659\
                202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf",
            )
            .expect("hexadecimal");
        let stun = Stun::read(&request).expect("a message");
        assert_eq!(stun.username, "evtj:h6vY");
        assert!(stun.is_of(&request, "VOkJxbRl1RmTxUk/WvJxBt"));
        assert!(!stun.is_of(&request, "VOkJxbRl1RmTxUk/WvJxBu"));
        let response = binding_response(([192, 0, 2, 1], 32853).into(), "x", stun.transaction);
        assert_eq!(
            response.get(20..32),
            Some([0, 32, 0, 8, 0, 1, 161, 71, 225, 18, 166, 67].as_slice())
        );
    }
}
