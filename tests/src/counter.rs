//! A way to a server that counts what passes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

/// Takes connections on loopback and passes their bytes on to a server and back. Its threads end with
/// the connections.
#[derive(Debug)]
pub struct Counter {
    address: SocketAddr,
    to_server: Arc<AtomicU64>,
    to_client: Arc<AtomicU64>,
}

impl Counter {
    /// A way to this server.
    pub fn towards(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let counter = Self { address, to_server: Arc::default(), to_client: Arc::default() };
        let counts = [Arc::clone(&counter.to_server), Arc::clone(&counter.to_client)];
        thread::spawn(move || -> Result<()> {
            loop {
                let (client, _) = listener.accept()?;
                let server = TcpStream::connect(server)?;
                let [to_server, to_client] = counts.clone();
                pass(client.try_clone()?, server.try_clone()?, to_server);
                pass(server, client, to_client);
            }
        });
        Ok(counter)
    }

    /// Where it takes connections.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that have come from clients.
    pub fn to_server(&self) -> u64 {
        self.to_server.load(Ordering::Relaxed)
    }

    /// Bytes that have come from the server.
    pub fn to_client(&self) -> u64 {
        self.to_client.load(Ordering::Relaxed)
    }
}

/// Passes on what comes, until its end, in a thread of its own.
fn pass(mut from: TcpStream, mut to: TcpStream, count: Arc<AtomicU64>) {
    thread::spawn(move || -> Result<()> {
        let mut buffer = vec![0; PIECE];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            if read == 0 {
                return Ok(to.shutdown(Shutdown::Write)?);
            }
            count.fetch_add(u64::try_from(read)?, Ordering::Relaxed);
            to.write_all(buffer.get(..read).unwrap_or_default())?;
        }
    });
}

/// Bytes of one read.
const PIECE: usize = 256 * 1024;
