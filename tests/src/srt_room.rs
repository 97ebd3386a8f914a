//! An origin of SRT between one publisher and one player: srt-live-transmit with two listeners, behind
//! one port.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::process::Process;
use crate::srt::{self, CONNECTED, End, Peer, Program};
use crate::{ports, wait};

/// Whoever calls first is the player, so that it misses nothing; the next one is the publisher.
/// Ended when dropped.
#[derive(Debug)]
pub struct Room {
    process: Process,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The listeners, in the order in which callers come.
    listeners: [SocketAddr; 2],
    callers: AtomicU64,
    over: AtomicBool,
}

impl Room {
    /// Starts one on free ports of loopback, and waits until it listens.
    pub fn start(folder: &Path, name: &str) -> Result<Self> {
        let (player, publisher) = (ports::free()?, ports::free()?);
        let url = |at| Peer::plain(Program::LiveTransmit).url(End::Listener(at));
        let mut transmit = srt::transmit(&url(publisher), &url(player))?;
        let process = Process::start(&mut transmit, folder, name)?;
        srt::must_listen(player)?;
        srt::must_listen(publisher)?;
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.set_read_timeout(Some(PAUSE))?;
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            listeners: [player, publisher],
            callers: AtomicU64::default(),
            over: AtomicBool::default(),
        });
        let inside = Arc::clone(&shared);
        thread::spawn(move || inside.forth(&Arc::new(socket)));
        Ok(Self { process, address, shared })
    }

    /// Registers it with a proxy under this name.
    pub fn register_at(&self, proxy: SocketAddr, name: &str) -> Result<()> {
        srt::register(self.address, proxy, name)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many have called.
    pub fn callers(&self) -> u64 {
        self.shared.callers.load(Ordering::Relaxed)
    }

    /// Whether its player is connected.
    pub fn has_player(&self) -> bool {
        self.process.log().contains(CONNECTED)
    }
}

/// Waits until one of these has a player, and gives it.
pub fn must_have_player(rooms: &[Room], limit: Duration) -> Result<&Room> {
    wait::until("an origin has the player", limit, || Ok(rooms.iter().find(|it| it.has_player())))
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// From callers to their listeners; each caller gets a thread for the way back.
    fn forth(self: &Arc<Self>, socket: &Arc<UdpSocket>) {
        let mut known: HashMap<SocketAddr, UdpSocket> = HashMap::new();
        let mut buffer = [0; DATAGRAM];
        while !self.over.load(Ordering::Relaxed) {
            let Ok((length, caller)) = socket.recv_from(&mut buffer) else { continue };
            let Some(datagram) = buffer.get(..length) else { continue };
            if !known.contains_key(&caller)
                && let Some(listener) = self.listeners.get(known.len())
                && let Ok(server) = self.welcome(*listener, caller, socket)
            {
                known.insert(caller, server);
            }
            if let Some(server) = known.get(&caller) {
                // What is lost is sent again.
                let _ = server.send(datagram);
            }
        }
    }

    /// A socket towards a listener, whose answers go to the caller.
    fn welcome(
        self: &Arc<Self>,
        listener: SocketAddr,
        caller: SocketAddr,
        socket: &Arc<UdpSocket>,
    ) -> Result<UdpSocket> {
        let server = UdpSocket::bind(("127.0.0.1", 0))?;
        server.connect(listener)?;
        server.set_read_timeout(Some(PAUSE))?;
        let (shared, back, from) = (Arc::clone(self), Arc::clone(socket), server.try_clone()?);
        thread::spawn(move || {
            let mut buffer = [0; DATAGRAM];
            while !shared.over.load(Ordering::Relaxed) {
                let Ok(length) = from.recv(&mut buffer) else { continue };
                let _ = back.send_to(buffer.get(..length).unwrap_or_default(), caller);
            }
        });
        self.callers.fetch_add(1, Ordering::Relaxed);
        Ok(server)
    }
}

const DATAGRAM: usize = 2000;
/// How long the end may go unnoticed.
const PAUSE: Duration = Duration::from_millis(50);
