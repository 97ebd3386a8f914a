//! A TCP relay on loopback that is slow, or swallows everything.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// A relay before one server. Gone when dropped, with its connections.
#[derive(Debug)]
pub struct Delay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    micros: AtomicU64,
    is_black_hole: AtomicBool,
    is_over: AtomicBool,
}

impl Delay {
    /// Relays to `server`; its answers come so much later.
    pub fn before(server: SocketAddr, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            micros: AtomicU64::default(),
            is_black_hole: AtomicBool::default(),
            is_over: AtomicBool::default(),
        });
        let relay = Self { address, shared: shared.clone() };
        relay.set(delay);
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.is_over.load(Ordering::Relaxed) {
                    break;
                }
                if let Ok(client) = client {
                    // A client that cannot be served sees its connection close.
                    let _ = serve(client, &shared);
                }
            }
        });
        Ok(relay)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the delay of what is answered from now on.
    pub fn set(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.shared.micros.store(micros, Ordering::Relaxed);
    }

    /// Accepts connections and lets no byte through, in either direction; what was held goes on
    /// when this ends, as on a network that was cut.
    pub fn black_hole(&self, is_on: bool) {
        self.shared.is_black_hole.store(is_on, Ordering::Relaxed);
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes the one that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(client: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    let server = TcpStream::connect(shared.server)?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PAUSE))?;
    }
    carry(client.try_clone()?, server.try_clone()?, shared, false);
    carry(server, client, shared, true);
    Ok(())
}

/// One direction: a thread reads and notes when, another writes when it is time.
fn carry(mut from: TcpStream, mut to: TcpStream, shared: &Arc<Shared>, is_delayed: bool) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    let state = shared.clone();
    thread::spawn(move || {
        let mut buffer = [0; 1 << 14];
        while !state.is_over.load(Ordering::Relaxed) {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(size) => {
                    let micros = if is_delayed { state.micros.load(Ordering::Relaxed) } else { 0 };
                    let due = Instant::now() + Duration::from_micros(micros);
                    let bytes = buffer.iter().take(size).copied().collect();
                    if sender.send((due, bytes)).is_err() {
                        break;
                    }
                }
                Err(error) if is_pause(&error) => {}
                Err(_) => break,
            }
        }
    });
    let state = shared.clone();
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            while state.is_black_hole.load(Ordering::Relaxed) {
                if state.is_over.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// How often a reader looks whether it is over.
const PAUSE: Duration = Duration::from_millis(50);
