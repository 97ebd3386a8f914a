//! A UDP relay on loopback that loses some of what it should pass.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

/// A relay between any number of clients and one server, with a port of its own towards the server
/// for each client. Gone when dropped.
#[derive(Debug)]
pub struct Lossy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    percent: u64,
    seed: u64,
    over: AtomicBool,
    passed: AtomicU64,
    lost: AtomicU64,
}

impl Lossy {
    /// Relays to `server`, and loses `percent` of the datagrams of each direction; which ones, this
    /// seed decides. The first ten are spared: libsrt's caller does not get over the loss of the
    /// listener's last word in the handshake.
    pub fn start(server: SocketAddr, percent: u64, seed: u64) -> Result<Self> {
        ensure!(percent < 100, "{percent} % is all of them");
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        let address = socket.local_addr()?;
        let counters = [(); 2].map(|()| AtomicU64::default());
        let [passed, lost] = counters;
        let over = AtomicBool::default();
        let shared = Arc::new(Shared { server, percent, seed, over, passed, lost });
        socket.set_read_timeout(Some(PAUSE))?;
        let inside = Arc::clone(&shared);
        thread::spawn(move || inside.forth(&Arc::new(socket)));
        Ok(Self { address, shared })
    }

    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Datagrams that went on, and those that did not.
    pub fn passed_and_lost(&self) -> (u64, u64) {
        (self.shared.passed.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed))
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// From the clients to the server; each new client gets a thread for the way back.
    fn forth(self: &Arc<Self>, socket: &Arc<UdpSocket>) {
        let mut servers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut dice = Dice(self.seed);
        self.relay(socket, &mut dice, |datagram, client| {
            let server = if let Some(server) = servers.get(&client) {
                Arc::clone(server)
            } else {
                let server = Arc::new(UdpSocket::bind(("127.0.0.1", 0))?);
                server.connect(self.server)?;
                server.set_read_timeout(Some(PAUSE))?;
                let mut dice = Dice(self.seed ^ u64::try_from(servers.len() + 1)?);
                servers.insert(client, Arc::clone(&server));
                let (shared, back, from) =
                    (Arc::clone(self), Arc::clone(socket), Arc::clone(&server));
                thread::spawn(move || {
                    shared.relay(&from, &mut dice, |datagram, _| {
                        back.send_to(datagram, client)?;
                        Ok(())
                    });
                });
                server
            };
            server.send(datagram)?;
            Ok(())
        });
    }

    fn relay(
        &self,
        socket: &UdpSocket,
        dice: &mut Dice,
        mut pass: impl FnMut(&[u8], SocketAddr) -> Result<()>,
    ) {
        let mut buffer = vec![0; 65536];
        let mut spared = SPARED;
        while !self.over.load(Ordering::Relaxed) {
            // A pause, or an answer of ICMP to an earlier datagram.
            let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
            let is_lost = spared == 0 && dice.percent() < self.percent;
            spared = spared.saturating_sub(1);
            let counter = if is_lost { &self.lost } else { &self.passed };
            counter.fetch_add(1, Ordering::Relaxed);
            if !is_lost && let Some(datagram) = buffer.get(..length) {
                // What cannot be sent is lost as well.
                let _ = pass(datagram, source);
            }
        }
    }
}

/// Numbers that look like chance and are the same for the same seed (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn percent(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % 100
    }
}

/// Datagrams of each direction that are passed before any is lost.
const SPARED: u32 = 10;
/// How long the end may go unnoticed.
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn five_percent_of_many_are_about_five_percent() {
        let mut dice = Dice(1);
        let lost = (0..10_000).filter(|_| dice.percent() < 5).count();
        assert!((450..550).contains(&lost), "{lost} of 10000");
    }
}
