//! One session's datagrams: its own socket towards the origin, and the way out to its client.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::{Delta, Socket, Train};
use crate::plane::{Leg, Meter};

/// What both directions of a session share. Neither takes a lock or memory for a datagram.
#[derive(Debug)]
pub struct Lane {
    socket: Socket,
    origin: SocketAddr,
    exit: ArcSwapOption<(u64, Exit)>,
    meter: Arc<Meter>,
    heard: [AtomicU64; Leg::ALL.len()],
}

/// The way to a client.
#[derive(Clone, Debug)]
pub enum Exit {
    /// By a socket on which clients arrive.
    Udp {
        /// The socket.
        socket: Arc<Socket>,
        /// The client.
        to: SocketAddr,
        /// The address to which the client sends: it takes answers from no other.
        from: Option<IpAddr>,
    },
    /// By another way, such as a TCP connection.
    Other(Arc<dyn Outlet>),
}

/// What takes datagrams for a client.
pub trait Outlet: Send + Sync + std::fmt::Debug {
    /// Takes whole datagrams, and gives the bytes of those that it could take.
    fn send(&self, train: &Train<'_>) -> usize;
}

impl Outlet for Exit {
    fn send(&self, train: &Train<'_>) -> usize {
        match self {
            Self::Udp { socket, to, from } => socket.send_to(*to, *from, train),
            Self::Other(outlet) => outlet.send(train),
        }
    }
}

impl Lane {
    /// Between the origin, to which this socket is connected, and a client who is not known yet.
    pub fn new(socket: Socket, origin: SocketAddr, meter: Arc<Meter>) -> Self {
        Self { socket, origin, exit: ArcSwapOption::empty(), meter, heard: Default::default() }
    }

    /// The origin.
    pub fn origin(&self) -> SocketAddr {
        self.origin
    }

    /// The session's own address towards the origin.
    pub fn near(&self) -> SocketAddr {
        self.socket.local()
    }

    /// Passes on what the client has sent. The error is what the system has to say of the origin.
    pub fn to_origin(&self, train: &Train<'_>) -> io::Result<()> {
        self.hear(Leg::Client, train);
        let result = self.socket.send(self.origin, train);
        let sent = *result.as_ref().unwrap_or_else(|(sent, _)| sent);
        self.meter.wrote(Leg::Origin, sent);
        result.map(|_| ()).map_err(|(_, error)| error)
    }

    /// Sends the client what the origin has sent, by the way that media takes.
    pub fn to_client(&self, train: &Train<'_>) {
        if let Some(exit) = &*self.exit.load() {
            self.to_client_by(&exit.1, train);
        }
    }

    /// The same by another way.
    pub fn to_client_by(&self, exit: &Exit, train: &Train<'_>) {
        self.meter.wrote(Leg::Client, exit.send(train));
    }

    /// Gives what has come from the origin to `take`, when there is something. Returns what the
    /// system has to say of the origin.
    pub async fn listen(&self, mut take: impl FnMut(Train<'_>)) -> io::Error {
        loop {
            if let Err(error) = self.socket.readable().await {
                return error;
            }
            let received = self.socket.receive(|train| {
                // What had come before the socket was connected may be anybody's.
                if train.source == self.origin {
                    self.hear(Leg::Origin, &train);
                    take(train);
                }
            });
            match received {
                Ok(true) => tokio::task::consume_budget().await,
                Ok(false) => {}
                Err(error) => return error,
            }
        }
    }

    /// Sends media by the way of this generation of the flow from here on.
    pub(super) fn leave_by(&self, generation: u64, exit: Exit) {
        self.exit.store(Some(Arc::new((generation, exit))));
    }

    /// Sends media by that way no longer. To be called by nobody else at the same time.
    pub(super) fn leave_no_more_by(&self, generation: u64) {
        if self.exit.load().as_ref().is_some_and(|exit| exit.0 == generation) {
            self.exit.store(None);
        }
    }

    /// What was heard since the last call.
    pub(super) fn delta(&self) -> Delta {
        Delta { heard: self.heard.each_ref().map(|heard| heard.swap(0, Ordering::Relaxed)) }
    }

    fn hear(&self, from: Leg, train: &Train<'_>) {
        if let Some(heard) = self.heard.get(from as usize) {
            heard.fetch_add(train.count() as u64, Ordering::Relaxed);
        }
    }
}
