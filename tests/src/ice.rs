//! WebRTC as a proxy sees it, for thousands of sessions: ICE by STUN (RFC 8489), and random bytes in
//! the shape of RTP.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use str0m::ice::StunMessage;

use crate::echo::look_finished;
use crate::whip::{Endpoint, Media, Role};
use crate::{heartbeat, stun};

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
    /// Starts an origin on free ports of loopback.
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into())
    }

    /// Starts an origin on free ports of this host.
    pub fn start_at(host: IpAddr) -> Result<Self> {
        let socket = UdpSocket::bind((host, 0))?;
        socket.set_read_timeout(Some(PAUSE))?;
        enlarge(&socket)?;
        let media = socket.local_addr()?;
        let shared = Arc::<Shared>::default();
        let inside = Arc::clone(&shared);
        thread::spawn(move || inside.serve(&socket, media));
        let endpoint = Endpoint::start_at(host, Desk(Arc::clone(&shared), media))?;
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
        let listeners = [("api", self.http().port().to_string()), ("rtc", media)];
        heartbeat::register_host(self.media.ip(), proxy, name, &listeners)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn serve(&self, socket: &UdpSocket, media: SocketAddr) {
        let mut buffer = [0; DATAGRAM];
        let mut known: HashMap<SocketAddr, String> = HashMap::new();
        while !self.over.load(Ordering::Relaxed) {
            let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
            let Some(datagram) = buffer.get(..length) else { continue };
            let answer = match StunMessage::parse(datagram) {
                // Media of who is known, and nobody else's.
                Err(_) => known.contains_key(&source).then(|| {
                    let mut datagram = datagram.to_vec();
                    look_finished(&mut datagram, media, source);
                    datagram
                }),
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
/// How long the end may go unnoticed.
const PAUSE: Duration = Duration::from_millis(50);
