//! SRT as far as a proxy reads it (draft-sharabayko-srt 3): callers by the hundred, and an origin that
//! sends data back, of which each packet is counted.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::echo::{Peer, look_finished};
use crate::{ports, srt};

/// A handshake packet (3.2.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// Socket id of who is to get it.
    pub to: u32,
    /// 4 in an induction, 5 behind it.
    pub version: u32,
    /// The fields of encryption and extension.
    pub fields: u32,
    /// First number of the data.
    pub sequence: u32,
    /// 1: induction, -1: conclusion, 1000 and more: a rejection.
    pub step: u32,
    /// Socket id of who has sent it.
    pub from: u32,
    /// The listener's cookie.
    pub cookie: u32,
    /// What stands behind the fields.
    pub extensions: Vec<u8>,
}

/// First of all.
pub const INDUCTION: u32 = 1;
/// With the listener's cookie, and its answer.
pub const CONCLUSION: u32 = u32::MAX;

impl Handshake {
    /// The induction of this socket.
    pub fn induction(from: u32) -> Self {
        Self { version: 4, fields: 2, sequence: 1000, step: INDUCTION, from, ..Self::default() }
    }

    /// The conclusion of this socket, which asks for a stream.
    pub fn conclusion(from: u32, cookie: u32, stream_id: &str) -> Self {
        // HSREQ (3.2.1.1.1): version 1.5.0, and half a second of latency for either side.
        let mut extensions = vec![0, 1, 0, 3, 0, 1, 5, 0, 0, 0, 0, 0xbf, 1, 0xf4, 1, 0xf4];
        // Stream id (3.2.1.3): words of four bytes, each turned around.
        let words = stream_id.len().div_ceil(4);
        extensions.extend([0, 5, 0, u8::try_from(words).unwrap_or(u8::MAX)]);
        for word in stream_id.as_bytes().chunks(4) {
            let mut turned = word.to_vec();
            turned.resize(4, 0);
            extensions.extend(turned.iter().rev());
        }
        Self {
            version: 5,
            fields: 5,
            sequence: 1000,
            step: CONCLUSION,
            from,
            cookie,
            extensions,
            to: 0,
        }
    }

    /// The packet.
    pub fn bytes(&self) -> Vec<u8> {
        let mut packet = vec![0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let (mtu, window) = (1500, 8192);
        for field in [self.to, self.version, self.fields, self.sequence, mtu, window] {
            packet.extend(field.to_be_bytes());
        }
        for field in [self.step, self.from, self.cookie, 0x0100_007f, 0, 0, 0] {
            packet.extend(field.to_be_bytes());
        }
        packet.extend(&self.extensions);
        packet
    }

    /// None if it is another packet.
    pub fn read(datagram: &[u8]) -> Option<Self> {
        if datagram.get(..4)? != [0x80, 0, 0, 0] {
            return None;
        }
        Some(Self {
            to: field(datagram, 12)?,
            version: field(datagram, 16)?,
            fields: field(datagram, 20)?,
            sequence: field(datagram, 24)?,
            step: field(datagram, 36)?,
            from: field(datagram, 40)?,
            cookie: field(datagram, 44)?,
            extensions: datagram.get(64..)?.to_vec(),
        })
    }
}

/// A data packet (3.1) to this socket, of this number.
pub fn data(to: u32, number: u64) -> Vec<u8> {
    let [.., s0, s1, s2, s3] = (number + 1000).to_be_bytes();
    let mut packet = vec![s0 & 0x7f, s1, s2, s3, 0xe0, s1, s2, s3, 0, 0, 0, 1];
    packet.extend(to.to_be_bytes());
    packet.extend(number.to_be_bytes());
    packet.resize(332, s3);
    packet
}

/// The number of a data packet to this socket.
pub fn number(packet: &[u8], to: u32) -> Option<u64> {
    let is_data = packet.first()? & 0x80 == 0 && field(packet, 12)? == to;
    let number = packet.get(16..)?.first_chunk()?;
    is_data.then(|| u64::from_be_bytes(*number))
}

/// An acknowledgement (3.2.4) of all data before this number.
fn ack(to: u32, next: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 2, 0, 0];
    for field in [next, 1, to, next] {
        packet.extend(field.to_be_bytes());
    }
    packet
}

/// Whether a packet to this socket is one, as [`Origin`] sends it.
pub fn is_ack(packet: &[u8], to: u32) -> bool {
    field(packet, 4).is_some_and(|next| packet == ack(to, next))
}

fn field(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

/// A caller that has its stream. It vanishes when dropped.
#[derive(Debug)]
pub struct Caller {
    /// Connected to the server.
    pub socket: UdpSocket,
    /// Its own socket id.
    pub id: u32,
    /// The other side's.
    pub peer: u32,
}

impl Caller {
    /// Calls as libsrt does, asking four times a second; a rejection is an error, and so is no
    /// answer within `limit`.
    pub fn call(server: SocketAddr, id: u32, stream_id: &str, limit: Duration) -> Result<Self> {
        let socket = socket(server)?;
        let deadline = Instant::now() + limit;
        let mut asked = Handshake::induction(id).bytes();
        let mut again = Instant::now();
        let mut buffer = [0; 2000];
        loop {
            let now = Instant::now();
            if now >= deadline {
                bail!("{stream_id}: no answer within {limit:?}");
            }
            if now >= again {
                socket.send(&asked)?;
                again = now + RETRY;
            }
            let Ok(length) = socket.recv(&mut buffer) else { continue };
            let answer = buffer.get(..length).and_then(Handshake::read);
            let Some(answer) = answer.filter(|it| it.to == id) else { continue };
            match answer.step {
                INDUCTION => {
                    asked = Handshake::conclusion(id, answer.cookie, stream_id).bytes();
                    again = now;
                }
                CONCLUSION => return Ok(Self { socket, id, peer: answer.from }),
                code => bail!("{stream_id}: rejected with {code}"),
            }
        }
    }

    /// Sends data and waits until it has come back.
    pub fn must_echo(&self, limit: Duration) -> Result<()> {
        let mut buffer = [0; 2000];
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            self.socket.send(&data(self.peer, 1))?;
            if let Ok(length) = self.socket.recv(&mut buffer)
                && buffer.get(..length).and_then(|it| number(it, self.id)).is_some()
            {
                return Ok(());
            }
        }
        bail!("no data comes back within {limit:?}")
    }

    /// Whether the other side shuts down within this time. Whatever else comes is skipped.
    pub fn is_shut_down(&self, limit: Duration) -> bool {
        let mut buffer = [0; 2000];
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Ok(length) = self.socket.recv(&mut buffer)
                && buffer.get(..length).is_some_and(|it| it.starts_with(&[0x80, 5]))
            {
                return true;
            }
        }
        false
    }

    /// Goes on from another port.
    pub fn rebind(&mut self) -> Result<()> {
        let server = self.socket.peer_addr()?;
        self.socket = socket(server)?;
        Ok(())
    }

    /// Shuts down.
    pub fn leave(self) -> Result<()> {
        let mut packet = vec![0x80, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        packet.extend(self.peer.to_be_bytes());
        packet.extend([0; 4]);
        self.socket.send(&packet)?;
        Ok(())
    }
}

impl Peer for Caller {
    fn send_number(&self, packet: u64) -> Result<()> {
        let mut packet = data(self.peer, packet);
        look_finished(&mut packet, self.socket.local_addr()?, self.socket.peer_addr()?);
        self.socket.send(&packet)?;
        Ok(())
    }

    fn next_number(&self) -> Option<u64> {
        let mut buffer = [0; 2000];
        let length = self.socket.recv(&mut buffer).ok()?;
        number(buffer.get(..length)?, self.id)
    }

    fn keep(&self) -> Result<()> {
        // Keep-alive (3.2.3).
        let head = [0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        self.socket.send(&[&head[..], &self.peer.to_be_bytes(), &[0; 4]].concat())?;
        Ok(())
    }
}

fn socket(server: SocketAddr) -> Result<UdpSocket> {
    let socket = ports::towards(server)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(MOMENT))?;
    Ok(socket)
}

/// An origin that takes every caller, and sends data back. Closed when dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_mute: AtomicBool,
    calls: AtomicU64,
    foreign: AtomicU64,
    over: AtomicBool,
}

impl Origin {
    /// Listens at this address; port 0 is any. Its socket ids begin with `first`.
    pub fn start(address: SocketAddr, first: u32) -> Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(MOMENT))?;
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
        let address = socket.local_addr()?;
        let shared = Arc::<Shared>::default();
        let inside = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || inside.serve(&socket, address, first)));
        Ok(Self { address, shared, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Registers it with a proxy under this name.
    pub fn register_at(&self, proxy: SocketAddr, name: &str) -> Result<()> {
        srt::register(self.address, proxy, name)
    }

    /// Takes what comes and says nothing, from now on or no longer.
    pub fn be_mute(&self, is_mute: bool) {
        self.shared.is_mute.store(is_mute, Ordering::Relaxed);
    }

    /// Callers so far.
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Packets that were neither handshakes nor of a caller.
    pub fn foreign(&self) -> u64 {
        self.shared.foreign.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Its port is closed when this returns.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn serve(&self, socket: &UdpSocket, address: SocketAddr, first: u32) {
        let mut buffer = vec![0; 70_000];
        // Its own socket ids by the caller, and the caller's by them.
        let mut calls: HashMap<(SocketAddr, u32), u32> = HashMap::new();
        let mut peers: HashMap<u32, (SocketAddr, u32)> = HashMap::new();
        let mut next = first;
        while !self.over.load(Ordering::Relaxed) {
            let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
            let Some(packet) = buffer.get_mut(..length) else { continue };
            if self.is_mute.load(Ordering::Relaxed) {
                continue;
            }
            let answer = if let Some(said) = Handshake::read(packet) {
                let mut answer = said.clone();
                answer.to = said.from;
                answer.version = 5;
                if said.step == INDUCTION {
                    (answer.fields, answer.cookie) = (0x4a17, COOKIE);
                } else {
                    if said.cookie != COOKIE {
                        continue;
                    }
                    answer.from = *calls.entry((source, said.from)).or_insert_with(|| {
                        self.calls.fetch_add(1, Ordering::Relaxed);
                        next += 1;
                        peers.insert(next, (source, said.from));
                        next
                    });
                    answer.fields = 1;
                    answer.extensions =
                        vec![0, 2, 0, 3, 0, 1, 5, 0, 0, 0, 0, 0xbf, 1, 0xf4, 1, 0xf4];
                }
                answer.bytes()
            } else {
                let peer = field(packet, 12).and_then(|to| peers.get(&to));
                let Some((_, id)) = peer.filter(|(from, _)| *from == source) else {
                    self.foreign.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                if packet.first().is_some_and(|first| first & 0x80 != 0) {
                    continue;
                }
                if let Some(sequence) = field(packet, 0) {
                    // What comes back is acknowledged as well.
                    let _ = socket.send_to(&ack(*id, sequence.wrapping_add(1)), source);
                }
                if let Some(to) = packet.get_mut(12..16) {
                    to.copy_from_slice(&id.to_be_bytes());
                }
                look_finished(packet, address, source);
                packet.to_vec()
            };
            // Who has gone gets nothing.
            let _ = socket.send_to(&answer, source);
        }
    }
}

const COOKIE: u32 = 0x0c00_71e5;
const RETRY: Duration = Duration::from_millis(250);
const MOMENT: Duration = Duration::from_millis(20);
