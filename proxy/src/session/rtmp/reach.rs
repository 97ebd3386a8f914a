//! Finds an origin that answers: the stream's own, or the next one before the client notices.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
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
        }
        match outcome {
            Ok((socket, agreement)) => return Ok(Reached { socket, agreement, lease }),
            Err(Failure::Refused(status)) => {
                return Err(wanted.pass_on(End::OriginRefused, &status));
            }
            Err(Failure::Late) => {
                if let Some(unsaid) = rtmp.late.say(Instant::now().into_std()) {
                    warn!(origin = %origin.name(), stream = %key, unsaid, "origin answers too late");
                }
                let text = "the origin does not answer in time".into();
                return Err(wanted.refuse(End::OriginUnreachable, text));
            }
            Err(Failure::Down(error)) => {
                rtmp.balancer.failed(&lease, &error, Instant::now().into_std());
                tried.push(origin.server().clone());
            }
            Err(Failure::OutOfResources(error)) => {
                if let Some(unsaid) = rtmp.exhausted.say(Instant::now().into_std()) {
                    warn!(error, unsaid, "this host has no resources left for new sessions");
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
            Err(_) if machine.has_spoken() => return Err(Failure::Late),
            Err(_) => {
                return Err(match ask_for_a_sign(rtmp, address, limit).await {
                    Sign::Answered | Sign::Unknown => Failure::Late,
                    Sign::Silent => down("accepts connections and answers nobody"),
                });
            }
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

/// What a question of the proxy's own came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Answered,
    Silent,
    /// The question could not be asked.
    Unknown,
}

/// Asks an origin that was silent to a client something that cannot be misunderstood. What that
/// client said may be the reason for its silence, so that is not held against it.
async fn ask_for_a_sign(rtmp: &Rtmp, address: SocketAddr, limit: Duration) -> Sign {
    // Many silent sessions are no reason for as many questions.
    let (Ok(_one_of_few), Ok(nonce)) = (rtmp.questions.try_acquire(), nonce()) else {
        return Sign::Unknown;
    };
    let (mut machine, mut out) = Origin::ask_for_a_sign(nonce);
    let ask = async {
        let Ok(mut socket) = TcpStream::connect(address).await else { return Sign::Unknown };
        let mut buffer = [0; 1024];
        while !machine.has_spoken() {
            let step = async {
                socket.write_all(&out).await?;
                socket.read(&mut buffer).await
            };
            let n = step.await.unwrap_or(0);
            out.clear();
            let bytes = buffer.get(..n).unwrap_or_default();
            // Behind the handshake a close is an answer, too, in order or not.
            if n == 0 || machine.receive(bytes, &mut out).is_err() {
                break;
            }
        }
        if machine.has_shaken_hands() { Sign::Answered } else { Sign::Silent }
    };
    timeout(limit, ask).await.unwrap_or(Sign::Silent)
}

/// Connects to the first of the origin's addresses that accepts, each with its share of the time.
async fn connect(lease: &Lease, limit: Duration) -> Result<(TcpStream, SocketAddr), Failure> {
    let mut addresses = Vec::new();
    let mut failure = "the origin has no RTMP endpoint".to_owned();
    let origin = lease.origin();
    let ports: Vec<u16> = origin.targets(Listener::Rtmp).map(|(_, port)| port).collect();
    match timeout(limit, lookup_host((origin.host().as_str(), 0))).await {
        Ok(Ok(found)) => {
            let hosts: Vec<_> = found.take(MAX_ADDRESSES).map(|address| address.ip()).collect();
            let of_port = |&port: &u16| hosts.iter().map(move |&ip| SocketAddr::new(ip, port));
            addresses.extend(ports.iter().flat_map(of_port));
        }
        Ok(Err(error)) if TcpSocket::new_v4().is_err() => {
            return Err(Failure::OutOfResources(error.to_string()));
        }
        Ok(Err(error)) => failure = error.to_string(),
        Err(_) => failure = "its name is not found in time".into(),
    }
    addresses.truncate(MAX_ADDRESSES);
    // Enough for a second SYN.
    let share = if addresses.len() > 1 { limit / 2 } else { limit };
    for address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = match socket {
            Ok(socket) => socket,
            // A host may be without IPv6; without IPv4 sockets it is out of descriptors.
            Err(error) if TcpSocket::new_v4().is_err() => {
                return Err(Failure::OutOfResources(error.to_string()));
            }
            Err(error) => {
                failure = format!("{address}: {error}");
                continue;
            }
        };
        match timeout(share, socket.connect(address)).await {
            Ok(Ok(socket)) => {
                for_media(&socket);
                return Ok((socket, address));
            }
            // No port is left towards this address; of IPv6 it may mean that there is none here.
            Ok(Err(error))
                if error.kind() == io::ErrorKind::AddrNotAvailable && address.is_ipv4() =>
            {
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
