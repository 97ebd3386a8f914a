//! One session's datagrams: its own socket towards the origin, and the way out to its client.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::time::sleep;
use tracing::debug;

use super::{Course, Delta, Joins, Sent, Socket, Train};
use crate::plane::Leg;

/// What both directions of a session share. Neither takes a lock or memory for a datagram.
#[derive(Debug)]
pub struct Lane {
    socket: Socket,
    origin: SocketAddr,
    exit: ArcSwapOption<(u64, Exit)>,
    course: Arc<Course>,
    heard: [AtomicU64; Leg::ALL.len()],
}

/// The system says that nobody listens where the origin was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Gone {
    /// Whether an error says so. What the system says of the way there may be otherwise in a
    /// moment.
    pub fn is_said_by(error: &io::Error) -> bool {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset};
        matches!(error.kind(), ConnectionRefused | ConnectionReset)
    }
}

/// How long to wait if the way to an origin is broken again and again.
const PAUSE: Duration = Duration::from_millis(100);

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
        /// Of the way there.
        joins: Arc<Joins>,
    },
    /// By another way, such as a TCP connection.
    Other(Arc<dyn Outlet>),
}

/// What takes datagrams for a client.
pub trait Outlet: Send + Sync + std::fmt::Debug {
    /// Takes whole datagrams, as many as it can.
    fn send(&self, train: &Train<'_>) -> Sent;
}

impl Exit {
    /// By a socket on which clients arrive.
    pub fn udp(socket: &Arc<Socket>, to: SocketAddr, from: Option<IpAddr>) -> Self {
        Self::Udp { socket: Arc::clone(socket), to, from, joins: Arc::default() }
    }
}

impl Outlet for Exit {
    fn send(&self, train: &Train<'_>) -> Sent {
        match self {
            Self::Udp { socket, to, from, joins } => socket.send_to(*to, *from, joins, train),
            Self::Other(outlet) => outlet.send(train),
        }
    }
}

impl Lane {
    /// Between the origin, to which this socket is connected, and a client who is not known yet.
    pub fn new(socket: Socket, origin: SocketAddr, course: Arc<Course>) -> Self {
        Self { socket, origin, exit: ArcSwapOption::empty(), course, heard: Default::default() }
    }

    /// What carries the session's datagrams.
    pub fn course(&self) -> &Arc<Course> {
        &self.course
    }

    /// The origin.
    pub fn origin(&self) -> SocketAddr {
        self.origin
    }

    /// The session's own address towards the origin.
    pub fn near(&self) -> SocketAddr {
        self.socket.local()
    }

    /// Passes on what the client has sent.
    pub fn to_origin(&self, train: &Train<'_>) -> Result<(), Gone> {
        self.hear(Leg::Client, train);
        self.for_origin(train)
    }

    /// The same for what may be the client's, and does not count as a word of it.
    pub fn for_origin(&self, train: &Train<'_>) -> Result<(), Gone> {
        let result = self.socket.send(self.origin, train);
        self.count(Leg::Origin, train, *result.as_ref().unwrap_or_else(|(sent, _)| sent));
        match result {
            Err((_, error)) if Gone::is_said_by(&error) => Err(Gone),
            // What is wrong with the way there may be right in a moment.
            Err(_) | Ok(_) => Ok(()),
        }
    }

    /// Sends the client what the origin has sent, by the way that media takes.
    pub fn to_client(&self, train: &Train<'_>) {
        match &*self.exit.load() {
            Some(exit) => self.to_client_by(&exit.1, train),
            None => self.course.relayed(Leg::Client, 0, 0, train.count()),
        }
    }

    /// The same by another way.
    pub fn to_client_by(&self, exit: &Exit, train: &Train<'_>) {
        self.count(Leg::Client, train, exit.send(train));
    }

    fn count(&self, leg: Leg, train: &Train<'_>, sent: Sent) {
        let packets = train.count().saturating_sub(sent.lost);
        self.course.relayed(leg, packets, sent.bytes, sent.lost);
    }

    /// Gives what comes from the origin to `take`, for as long as the origin is there.
    pub async fn listen(&self, mut take: impl FnMut(Train<'_>)) -> Gone {
        let mut failed = None;
        loop {
            let received = match self.socket.readable().await {
                Ok(()) => self.socket.receive(|train| {
                    // What had come before the socket was connected may be anybody's.
                    if train.source == self.origin {
                        self.hear(Leg::Origin, &train);
                        take(train);
                    }
                }),
                Err(error) => Err(error),
            };
            match received {
                Ok(true) => tokio::task::consume_budget().await,
                Ok(false) => {}
                Err(error) if Gone::is_said_by(&error) => return Gone,
                // Said once: what has come meanwhile waits.
                Err(error)
                    if failed.replace(Instant::now()).is_none_or(|at| at.elapsed() > PAUSE) =>
                {
                    debug!(origin = %self.origin, %error, "of the way to the origin");
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Whether something was heard of this leg since the planes were asked last.
    pub fn has_heard(&self, from: Leg) -> bool {
        self.heard.get(from as usize).is_some_and(|heard| heard.load(Ordering::Relaxed) > 0)
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
        let heard = self.heard.each_ref().map(|heard| heard.swap(0, Ordering::Relaxed));
        Delta { heard }
    }

    fn hear(&self, from: Leg, train: &Train<'_>) {
        if let Some(heard) = self.heard.get(from as usize) {
            heard.fetch_add(train.count() as u64, Ordering::Relaxed);
        }
    }
}
