//! Finds an origin that answers: the stream's own, or the next one before the client notices.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use super::client::{BEFORE_STREAM, Wanted};
use super::fault::Fault;
use super::origin::{Agreement, Origin, OriginError};
use super::{READ, Rtmp, nonce};
use crate::listen::tcp::{acknowledge_now, for_media};
use crate::origin::{Lease, Listener};
use crate::proto::rtmp::command::Status;
use crate::session::{Direction, End, Session};
use crate::stream::StreamKey;

/// An origin that has answered everything the client was answered.
pub(super) struct Reached {
    pub(super) socket: TcpStream,
    pub(super) agreement: Agreement,
    pub(super) lease: Lease,
}

/// Why one origin could not be used.
enum Failure {
    /// It is not there, or does not speak RTMP: another one may be.
    Unreachable(String),
    /// It took the connection and said no, or closed: an answer for the client.
    Refused(Status),
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
            Err(error) if tried.is_empty() => {
                return Err(wanted.refuse(End::NoOrigin, error.to_string()));
            }
            Err(_) => return Err(unreachable()),
        };
        let name = lease.origin().name();
        let attempt = try_origin(rtmp, &lease, wanted, session);
        match timeout_at(deadline, attempt).await {
            Ok(Ok((socket, agreement))) => {
                rtmp.balancer.reached(&lease);
                return Ok(Reached { socket, agreement, lease });
            }
            Ok(Err(Failure::Refused(status))) => {
                rtmp.balancer.reached(&lease);
                return Err(wanted.pass_on(End::OriginRefused, &status));
            }
            Ok(Err(Failure::Unreachable(error))) => {
                rtmp.balancer.failed(&lease, Instant::now().into_std());
                info!(origin = %name, stream = %key, error, "origin cannot be reached");
                tried.push(lease.origin().server().clone());
            }
            Err(_) => {
                info!(origin = %name, stream = %key, "origin does not answer in time");
                return Err(unreachable());
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
    let connecting = timeout(limit, connect(lease)).await;
    let (mut socket, address) =
        connecting.map_err(|_| unreachable(format_args!("no connection in {limit:?}")))??;
    let name = lease.origin().name().clone();
    session.note(|progress| progress.origin = Some((name, address)));
    let mut out = Vec::new();
    let nonce = nonce().map_err(|fault| unreachable(fault.text))?;
    let mut machine = Origin::start(wanted, nonce, rtmp.settings.max_chunk_streams, &mut out);
    let mut buffer = vec![0; READ];
    let shake_hands_by = Instant::now() + limit;
    loop {
        socket.write_all(&out).await.map_err(|error| lost(&machine, error))?;
        session.meter.add(Direction::ToOrigin, out.len() as u64);
        out.clear();
        let n = if machine.has_shaken_hands() {
            socket.read(&mut buffer).await
        } else {
            let late = |_| unreachable(format_args!("no handshake in {limit:?}"));
            timeout_at(shake_hands_by, socket.read(&mut buffer)).await.map_err(late)?
        };
        let n = n.map_err(|error| lost(&machine, error))?;
        if n == 0 {
            return Err(lost(&machine, "the origin closed the connection without an answer"));
        }
        acknowledge_now(&socket);
        let received = machine.receive(buffer.get(..n).unwrap_or_default(), &mut out);
        match received {
            Ok(None) => {}
            Ok(Some(agreement)) => {
                debug!(origin = %address, "origin agreed");
                return Ok((socket, agreement));
            }
            Err(OriginError::Refused(status)) => return Err(Failure::Refused(status)),
            Err(OriginError::Malformed(text)) => return Err(unreachable(text)),
        }
    }
}

/// Connects to the first of the origin's RTMP endpoints that accepts.
async fn connect(lease: &Lease) -> Result<(TcpStream, SocketAddr), Failure> {
    let mut failure = unreachable("the origin has no RTMP endpoint");
    for target in lease.origin().targets(Listener::Rtmp) {
        let addresses = match lookup_host(target).await {
            Ok(addresses) => addresses,
            Err(error) => {
                failure = unreachable(error);
                continue;
            }
        };
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(socket) => {
                    for_media(&socket);
                    return Ok((socket, address));
                }
                Err(error) => failure = unreachable(error),
            }
        }
    }
    Err(failure)
}

/// Before the handshake a lost connection means that the origin is not there; behind it, that it
/// does not want this client.
fn lost(machine: &Origin, error: impl std::fmt::Display) -> Failure {
    if machine.has_shaken_hands() {
        Failure::Refused(Status::error("NetConnection.Connect.Closed", error.to_string()))
    } else {
        unreachable(error)
    }
}

fn unreachable(error: impl std::fmt::Display) -> Failure {
    Failure::Unreachable(error.to_string())
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
    // The set-up time bounds the rest.
    std::future::pending().await
}
