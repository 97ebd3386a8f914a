//! Sessions that outlive their process: what it keeps of them, and how the next one goes on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tracing::{Span, debug, info_span};

use super::memo::{BadMemo, Matter, Memo};
use super::{Carriage, End, Live, Role, Session, Sessions};
use crate::origin::registration::BadRegistration;
use crate::origin::{Balancer, KeptOrigin, Lease, Listener, NotRegistered, Origin};
use crate::plane::datagram::{Course, Exit, Flow, Lane, Planes, Socket};
use crate::proto::proxy_protocol::Ends;
use crate::stream::StreamKey;

/// What a process finds that goes on with sessions of another.
#[derive(Clone, Copy, Debug)]
pub struct Estate<'a> {
    /// Who serves their streams.
    pub balancer: &'a Balancer,
    /// Where clients of their protocol come.
    pub sockets: &'a [Arc<Socket>],
}

/// Why a session ends with the process that has served it.
#[derive(Debug, Error)]
pub enum NotAdopted {
    /// It is not known what it was.
    #[error("its memo: {0}")]
    Memo(#[from] BadMemo),
    /// It has no stream.
    #[error("its memo has no stream's key")]
    NoStream,
    /// The origin could not have registered.
    #[error("its origin: {0}")]
    Origin(#[from] BadRegistration),
    /// The origin is one too many.
    #[error("its origin: {0}")]
    Registry(#[from] NotRegistered),
    /// No listener is where its client sends.
    #[error("nobody listens at {0} any more")]
    NoListener(SocketAddr),
    /// Its address towards the origin cannot be had.
    #[error("its own address {0}: {1}")]
    Socket(SocketAddr, io::Error),
    /// A limit forbids it.
    #[error("{}", .0.as_str())]
    Refused(End),
    /// Another one has its flow.
    #[error("another session has its address")]
    Taken,
}

/// A session that goes on, not listed yet.
pub(super) struct Adopted {
    pub(super) live: Live,
    /// Of all that is said of it.
    pub(super) span: Span,
    pub(super) lease: Lease,
    pub(super) lane: Arc<Lane>,
    /// The way to its client.
    pub(super) exit: Exit,
}

/// Takes up a session: its origin, its own socket, and its place among the others.
pub(super) fn adopt(
    memo: &Memo,
    sessions: &Arc<Sessions>,
    listener: Listener,
    Estate { balancer, sockets }: Estate<'_>,
    buffer: usize,
) -> Result<Adopted, NotAdopted> {
    let now = Instant::now();
    let [near, far] = memo.ends;
    let [client, local] = memo.client;
    let stream = StreamKey::of_claim(&memo.stream).ok_or(NotAdopted::NoStream)?;
    let origin = memo.origin.origin()?;
    let comes_by = sockets.iter().find(|socket| is_reached(socket.local(), local));
    let comes_by = comes_by.ok_or(NotAdopted::NoListener(local))?;
    let socket = Socket::between(near, far, buffer);
    let socket = socket.map_err(|error| NotAdopted::Socket(near, error))?;
    let lease = balancer.adopt(&origin, &stream, listener, now)?;
    let [source, destination] = memo.admitted;
    let ends = Ends { source, destination };
    let live = match sessions.readmit(ends, memo.protocol(), age(memo.started)) {
        Ok(live) => live,
        Err(end) => {
            drop(lease);
            return Err(NotAdopted::Refused(end));
        }
    };
    lease.found();
    if memo.role == Role::Publish {
        lease.publishes();
    }
    let session = live.session();
    let course = Arc::new(Course::new(Arc::clone(&session.meter), now));
    session.note(|progress| {
        progress.role = Some(memo.role);
        progress.stream = Some(stream);
        progress.origin = Some((Arc::clone(lease.origin().name()), far));
        progress.plane = Some(Carriage::Datagrams(Arc::clone(&course)));
    });
    let span = info_span!(parent: None, "session", id = %session.id);
    span.in_scope(|| live.established(memo.role));
    let exit = Exit::udp(comes_by, client, Some(local.ip()));
    Ok(Adopted { live, span, lease, lane: Arc::new(Lane::new(socket, far, course)), exit })
}

/// Whether what is sent to `local` comes to a listener.
fn is_reached(listener: SocketAddr, local: SocketAddr) -> bool {
    listener.port() == local.port()
        && listener.is_ipv4() == local.is_ipv4()
        && (listener.ip() == local.ip() || listener.ip().is_unspecified())
}

fn age(started: u64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(started))
}

/// Keeps a session, as its flow is now, for the process that follows this one, if there can be one.
/// One that takes too many bytes ends with this process.
pub(super) fn keep(
    planes: &Planes,
    session: &Session,
    origin: &Origin,
    flow: &Flow,
    matter: impl FnOnce() -> Matter,
) {
    if !planes.keeps() {
        return;
    }
    let progress = session.progress();
    let Some((role, stream)) = progress.role.zip(progress.stream) else { return };
    let memo = Memo {
        role,
        stream: stream.as_str().to_owned(),
        origin: KeptOrigin::of(origin),
        admitted: [session.client, session.destination],
        client: [flow.key.client, flow.key.local],
        ends: [flow.ends.near, flow.ends.origin],
        started: session.started(),
        matter: matter(),
    };
    match memo.encode() {
        Ok(memo) => planes.keep(flow, &memo),
        Err(error) => debug!(id = %session.id, %error, "a session would not outlive this process"),
    }
}
