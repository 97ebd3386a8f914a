//! One client of WebRTC as a proxy sees it, which a test leads by the hand: checks, packets that are
//! numbered, other ports, and its end. Its origin is [`crate::ice::Origin`], which sends packets back.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::echo::{Peer, look_finished};
use crate::whip::{self, Role, Session};
use crate::{ports, stun};

/// An offer of one audio section with these names.
pub fn offer(ufrag: &str, password: &str) -> String {
    let fingerprint = ["00"; 32].join(":");
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\n\
         a=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=setup:actpass\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\n"
    )
}

/// A client with a socket of its own. It vanishes when dropped.
#[derive(Debug)]
pub struct Client {
    /// The session as HTTP knows it.
    pub session: Session,
    /// Where its media goes.
    pub server: SocketAddr,
    /// `<ufrag of the answer>:<ufrag of the offer>`.
    pub username: String,
    /// Of its checks.
    pub password: String,
    socket: RwLock<UdpSocket>,
    /// Packets and checks so far.
    numbers: AtomicU64,
}

/// What has come to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Come {
    /// The answer to a check.
    Answer,
    /// A packet of this number.
    Packet(u64),
    /// Something else.
    Other,
}

impl Client {
    /// Makes a session at the server of WHIP, by an offer with this ICE user name.
    pub fn open(api: SocketAddr, role: Role, stream: &str, ufrag: &str) -> Result<Self> {
        let session = Session::open(api, role, stream, &offer(ufrag, PASSWORD))?;
        let server = session.media()?;
        Ok(Self {
            server,
            username: format!("{}:{ufrag}", whip::ufrag(&session.answer)?),
            password: whip::attribute(&session.answer, "ice-pwd")?.to_owned(),
            session,
            socket: RwLock::new(socket(server)?),
            numbers: AtomicU64::new(0),
        })
    }

    /// Where it is.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.socket().local_addr()?)
    }

    /// A check that was not sent yet.
    pub fn request(&self) -> Result<Vec<u8>> {
        let mut transaction = [0x77; 12];
        let number = self.number().to_be_bytes();
        transaction.iter_mut().zip(number).for_each(|(byte, value)| *byte = value);
        stun::request(transaction, &self.username, &self.password)
    }

    /// Sends a check.
    pub fn check(&self) -> Result<()> {
        self.send(&self.request()?)
    }

    /// Sends anything.
    pub fn send(&self, datagram: &[u8]) -> Result<()> {
        self.socket().send_to(datagram, self.server)?;
        Ok(())
    }

    /// Sends a packet in the shape of RTP (RFC 3550 5.1); gives its number.
    pub fn send_packet(&self) -> Result<u64> {
        let number = self.number();
        self.send_number(number)?;
        Ok(number)
    }

    fn packet(number: u64) -> Vec<u8> {
        let [.., s1, s2] = number.to_be_bytes();
        let mut packet = vec![0x80, 111, s1, s2, 0, 0, s1, s2, 0, 0, 0, 1];
        packet.extend(number.to_be_bytes());
        packet.resize(160, s2);
        packet
    }

    /// What comes next; None if nothing does for a moment.
    pub fn next(&self) -> Option<Come> {
        let mut buffer = [0; 2000];
        let length = self.socket().recv(&mut buffer).ok()?;
        let datagram = buffer.get(..length)?;
        Some(match datagram {
            [1, 1, ..] => Come::Answer,
            [0x80, 111, ..] => match datagram.get(12..).and_then(|it| it.first_chunk()) {
                Some(number) => Come::Packet(u64::from_be_bytes(*number)),
                None => Come::Other,
            },
            _ => Come::Other,
        })
    }

    /// Checks until it is answered.
    pub fn connect(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.check()?;
            let again = Instant::now() + RETRY;
            while Instant::now() < again {
                if self.next() == Some(Come::Answer) {
                    return Ok(());
                }
            }
        }
        bail!("{}: no check is answered", self.username)
    }

    /// Sends so many packets, and waits until each has come back.
    pub fn must_echo(&self, packets: u64) -> Result<()> {
        let mut missing = HashSet::new();
        for _ in 0..packets {
            missing.insert(self.send_packet()?);
        }
        let deadline = Instant::now() + PATIENCE;
        while !missing.is_empty() && Instant::now() < deadline {
            match self.next() {
                Some(Come::Packet(number)) => {
                    ensure!(missing.remove(&number), "packet {number} is another's, or came twice");
                }
                Some(Come::Other) => bail!("{}: not its own has come", self.username),
                Some(Come::Answer) | None => {}
            }
        }
        ensure!(missing.is_empty(), "{}: {} packets got lost", self.username, missing.len());
        Ok(())
    }

    /// Goes on from another port.
    pub fn rebind(&self) -> Result<()> {
        let socket = socket(self.server)?;
        *self.socket.write().unwrap_or_else(PoisonError::into_inner) = socket;
        Ok(())
    }

    /// Goes on from the port of a client that has left.
    pub fn take_port_of(&self, former: Self) -> Result<()> {
        let socket = former.socket.into_inner().unwrap_or_else(PoisonError::into_inner);
        // What came for the former one is not its own.
        socket.set_nonblocking(true)?;
        while socket.recv(&mut [0; 2000]).is_ok() {}
        socket.set_nonblocking(false)?;
        *self.socket.write().unwrap_or_else(PoisonError::into_inner) = socket;
        Ok(())
    }

    /// Says that DTLS is over (RFC 6347 4.1, an alert that is encrypted).
    pub fn alert(&self) -> Result<()> {
        let record = [&[21, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 26][..], &[0x5a; 26]].concat();
        self.send(&record)
    }

    fn socket(&self) -> RwLockReadGuard<'_, UdpSocket> {
        self.socket.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

impl Peer for Client {
    fn send_number(&self, number: u64) -> Result<()> {
        let mut packet = Self::packet(number);
        look_finished(&mut packet, self.address()?, self.server);
        self.send(&packet)
    }

    fn next_number(&self) -> Option<u64> {
        match self.next() {
            Some(Come::Packet(number)) => Some(number),
            _ => None,
        }
    }

    fn keep(&self) -> Result<()> {
        self.check()
    }
}

fn socket(server: SocketAddr) -> Result<UdpSocket> {
    let socket = ports::towards(server)?;
    socket.set_read_timeout(Some(MOMENT))?;
    Ok(socket)
}

const PASSWORD: &str = "0123456789abcdef01234567";
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);
const MOMENT: Duration = Duration::from_millis(20);
