//! Finds an origin that answers: the stream's own, or the next one before the client notices.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::client::{BEFORE_STREAM, Wanted};
use super::fault::Fault;
use super::origin::{Agreement, Origin, OriginError};
use super::{READ, Rtmp, nonce};
use crate::listen::tcp::{acknowledge_now, for_media};
use crate::origin::{Lease, Listener, NoOrigin};
use crate::plane::Leg;
use crate::proto::rtmp::command::Status;
use crate::session::{End, Session};
use crate::stream::StreamKey;

/// Addresses of one origin that are tried.
const MAX_ADDRESSES: usize = 8;

/// An origin that has answered everything the client was answered.
pub(super) struct Reached {
    pub(super) socket: TcpStream,
    pub(super) agreement: Agreement,
    pub(super) lease: Lease,
}

/// Why one origin could not be used.
enum Failure {
    /// It is not there: it counts as down, and another one may be up.
    Down(String),
    /// It shook hands, and said no or hung up: an answer for the client. What an origin says
    /// from there on depends on what the client said, so it is never held against the origin.
    Refused(Status),
    /// It shook hands, and did not say yes or no in time.
    Late,
    /// The proxy has no descriptor, port or memory left; no origin could be reached.
    OutOfResources(String),
}

/// Tries the stream's origins until one answers, the set-up time is over, or the client leaves.
pub(super) async fn reach(
    rtmp: &Rtmp,
    key: &StreamKey,
    wanted: &mut Wanted,
    client: &mut TcpStream,
    session: &Session,
) -> Result<Reached, Fault> {
    let mut early = Vec::new();
    let reached = tokio::select! {
        reached = try_origins(rtmp, key, wanted, session) => reached?,
        fault = client_leaves(client, &mut early) => return Err(fault),
    };
    wanted.tail.append(&mut early);
    Ok(reached)
}

async fn try_origins(
    rtmp: &Rtmp,
    key: &StreamKey,
    wanted: &Wanted,
    session: &Session,
) -> Result<Reached, Fault> {
    let deadline = Instant::now() + rtmp.settings.setup_timeout;
    let unreachable =
        || wanted.refuse(End::OriginUnreachable, "no origin of this stream can be reached".into());
    let mut tried = Vec::new();
    loop {
        let now = Instant::now().into_std();
        let lease = match rtmp.balancer.pick(key, Listener::Rtmp, &tried, now) {
            Ok(lease) => lease,
            Err(NoOrigin::TooManyStreams) => {
                let text = "the proxy has no room for another stream".into();
                return Err(wanted.refuse(End::TooManyStreams, text));
            }
            Err(error) if tried.is_empty() => {
                return Err(wanted.refuse(End::NoOrigin, error.to_string()));
            }
            Err(_) => return Err(unreachable()),
        };
        let attempt = try_origin(rtmp, &lease, wanted, session);
        let outcome = timeout_at(deadline, attempt).await.unwrap_or(Err(Failure::Late));
        let origin = lease.origin();
        if matches!(outcome, Ok(_) | Err(Failure::Refused(_))) {
            rtmp.balancer.reached(&lease);
            rtmp.is_exhausted.store(false, Ordering::Relaxed);
        }
        match outcome {
            Ok((socket, agreement)) => return Ok(Reached { socket, agreement, lease }),
            Err(Failure::Refused(status)) => {
                return Err(wanted.pass_on(End::OriginRefused, &status));
            }
            Err(Failure::Late) => {
                debug!(origin = %origin.name(), "origin does not answer in time");
                return Err(unreachable());
            }
            Err(Failure::Down(error)) => {
                rtmp.balancer.failed(&lease, &error, Instant::now().into_std());
                tried.push(origin.server().clone());
            }
            Err(Failure::OutOfResources(error)) => {
                if !rtmp.is_exhausted.swap(true, Ordering::Relaxed) {
                    warn!(error, "this host has no resources left for new sessions");
                }
                let text = "the proxy has no resources left".into();
                return Err(wanted.refuse(End::OutOfResources, text));
            }
        }
    }
}

async fn try_origin(
    rtmp: &Rtmp,
    lease: &Lease,
    wanted: &Wanted,
    session: &Session,
) -> Result<(TcpStream, Agreement), Failure> {
    let limit = rtmp.settings.connect_timeout;
    let (mut socket, address) = connect(lease, limit).await?;
    if rtmp.is_own(&socket) {
        return Err(down("it is this proxy itself"));
    }
    let name = lease.origin().name().clone();
    session.note(|progress| progress.origin = Some((name, address)));
    let mut out = Vec::new();
    let nonce = nonce().map_err(|fault| Failure::OutOfResources(fault.text))?;
    let mut machine = Origin::start(wanted, nonce, rtmp.settings.max_chunk_streams, &mut out);
    let mut deadline = Instant::now() + limit;
    let mut buffer = vec![0; READ];
    loop {
        let step = async {
            socket.write_all(&out).await?;
            session.meter.wrote(Leg::Origin, out.len());
            socket.read(&mut buffer).await
        };
        let n = match timeout_at(deadline, step).await {
            Ok(Ok(0)) => {
                return Err(hung_up(
                    &machine,
                    "the origin closed the connection without an answer",
                ));
            }
            Ok(Ok(n)) => n,
            Ok(Err(error)) => return Err(hung_up(&machine, error)),
            Err(_) if !machine.has_shaken_hands() => {
                return Err(down("accepted the connection and did not shake hands in time"));
            }
            // Did it fall silent at what this client said, or does it hang?
            Err(_) if machine.has_spoken() || answers(address, limit).await => {
                return Err(Failure::Late);
            }
            Err(_) => return Err(down("accepts connections and answers nobody")),
        };
        acknowledge_now(&socket);
        out.clear();
        let was_shaking_hands = !machine.has_shaken_hands();
        match machine.receive(buffer.get(..n).unwrap_or_default(), &mut out) {
            Ok(None) => {}
            Ok(Some(agreement)) => return Ok((socket, agreement)),
            Err(OriginError::Refused(status)) => return Err(Failure::Refused(status)),
            Err(OriginError::Malformed(text)) => return Err(hung_up(&machine, text)),
        }
        if was_shaking_hands && machine.has_shaken_hands() {
            deadline = Instant::now() + rtmp.settings.answer_timeout;
        }
    }
}

/// Whether an origin says anything to a client that cannot be misunderstood, be it no. What other
/// clients said may be the reason for its silence to them, so that is not held against it.
async fn answers(address: SocketAddr, limit: Duration) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(address).await?;
        let nonce = nonce().map_err(|fault| io::Error::other(fault.text))?;
        let (mut machine, mut out) = Origin::ask_for_a_sign(nonce);
        let mut buffer = [0; 1024];
        while !machine.has_spoken() {
            socket.write_all(&out).await?;
            out.clear();
            match socket.read(&mut buffer).await? {
                0 => break,
                n => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    if machine.receive(bytes, &mut out).is_err() {
                        break;
                    }
                }
            }
        }
        // A close behind the handshake is an answer, too.
        Ok::<_, io::Error>(machine.has_shaken_hands())
    };
    timeout(limit, ask).await.is_ok_and(|answer| answer.unwrap_or(false))
}

/// Connects to the first of the origin's addresses that accepts, each with its share of the time.
async fn connect(lease: &Lease, limit: Duration) -> Result<(TcpStream, SocketAddr), Failure> {
    let mut addresses = Vec::new();
    let mut failure = "the origin has no RTMP endpoint".to_owned();
    for target in lease.origin().targets(Listener::Rtmp) {
        match timeout(limit, lookup_host(target)).await {
            Ok(Ok(found)) => addresses.extend(found.take(MAX_ADDRESSES)),
            Ok(Err(error)) => failure = error.to_string(),
            Err(_) => failure = "its name is not found in time".into(),
        }
    }
    addresses.truncate(MAX_ADDRESSES);
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    for address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(|error| Failure::OutOfResources(error.to_string()))?;
        match timeout(share, socket.connect(address)).await {
            Ok(Ok(socket)) => {
                for_media(&socket);
                return Ok((socket, address));
            }
            // No port is left towards this address.
            Ok(Err(error)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(Failure::OutOfResources(error.to_string()));
            }
            Ok(Err(error)) => failure = format!("{address}: {error}"),
            Err(_) => failure = format!("{address}: no connection in {share:?}"),
        }
    }
    Err(down(failure))
}

/// Before the handshake a lost connection means that the origin is not there; behind it, that it
/// does not want this client.
fn hung_up(machine: &Origin, error: impl Display) -> Failure {
    if machine.has_shaken_hands() {
        debug!(%error, "origin gave no answer");
        let text = "the origin gave no answer";
        Failure::Refused(Status::error("NetConnection.Connect.Closed", text))
    } else {
        down(error)
    }
}

fn down(error: impl Display) -> Failure {
    Failure::Down(error.to_string())
}

/// Returns when the client has gone; keeps what it sends meanwhile, up to a bound.
async fn client_leaves(client: &mut TcpStream, early: &mut Vec<u8>) -> Fault {
    let mut buffer = [0; 4096];
    while early.len() < BEFORE_STREAM {
        match client.read(&mut buffer).await {
            Ok(0) => return Fault::new(End::ClientClosed, "left before the origin answered"),
            Ok(n) => early.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(error) => return Fault::new(End::ClientLost, error),
        }
    }
    // It has more to say and is not listened to now; only a reset shows.
    let _error = client.ready(Interest::ERROR).await;
    Fault::new(End::ClientLost, "lost before the origin answered")
}
