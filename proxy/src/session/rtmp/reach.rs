//! Finds an origin that answers: the stream's own, or the next one before the client notices.

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::client::{BEFORE_STREAM, Wanted};
use super::fault::Fault;
use super::origin::{Agreement, Origin, OriginError};
use super::{READ, Rtmp, nonce};
use crate::listen::tcp::acknowledge_now;
use crate::origin::{Lease, Listener, NoOrigin};
use crate::plane::Leg;
use crate::proto::rtmp::command::Status;
use crate::session::{DialError, End, Session};
use crate::stream::StreamKey;

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

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Down(text) => Self::Down(text),
            DialError::OutOfResources(text) => Self::OutOfResources(text),
        }
    }
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
        let picked = rtmp.cluster.pick(key, Listener::Rtmp, &tried);
        let picked = timeout_at(deadline, picked).await.unwrap_or(Err(NoOrigin::AllTried));
        let lease = match picked {
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
            rtmp.cluster.reached(&lease);
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
                rtmp.cluster.failed(&lease, &error);
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
    let origin = lease.origin();
    let (mut socket, address) = rtmp.dialer.dial(origin, Listener::Rtmp, &session.ends()).await?;
    let name = origin.name().clone();
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
        let Ok(mut socket) = rtmp.dialer.dial_for_itself(address).await else {
            return Sign::Unknown;
        };
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
async fn client_leaves(client: &TcpStream, early: &mut Vec<u8>) -> Fault {
    while early.len() < BEFORE_STREAM {
        let ready = client.readable().await;
        // Not held while nothing comes.
        let mut buffer = [0; READ];
        match ready.and_then(|()| client.try_read(&mut buffer)) {
            Ok(0) => return Fault::new(End::ClientClosed, "left before the origin answered"),
            Ok(n) => early.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Fault::new(End::ClientLost, error),
        }
    }
    // It has more to say and is not listened to now; only a reset shows.
    let _error = client.ready(Interest::ERROR).await;
    Fault::new(End::ClientLost, "lost before the origin answered")
}
