//! The origin's side: which one, and a connection to it.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::Http;
use super::answer::{self, Answer};
use crate::origin::{Lease, Listener, NoOrigin, ServerName};
use crate::session::{DialError, Session};
use crate::stream::StreamKey;

/// An origin that can be asked.
pub(super) struct Reached {
    pub(super) socket: TcpStream,
    pub(super) address: SocketAddr,
    /// Whether another request went over this connection before: the origin may just have closed
    /// it.
    pub(super) is_used: bool,
    pub(super) lease: Lease,
}

/// What the client is told instead of an origin's answer, and why, for the log.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) answer: Answer,
    pub(super) why: String,
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Down(why) => Self { answer: answer::UNREACHABLE, why },
            DialError::OutOfResources(why) => Self { answer: answer::NO_ROOM, why },
        }
    }
}

/// Whose origin is wanted, and by which of its listeners.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) stream: &'a StreamKey,
    /// This server rather than the stream's.
    pub(super) server: Option<&'a str>,
    pub(super) listener: Listener,
}

impl Http {
    /// Tries the stream's origins until one accepts, or `deadline`. One that was tried in vain is
    /// not tried again. Only connections of the listener of streams wait to be used again.
    pub(super) async fn reach(
        &self,
        wanted: Wanted<'_>,
        session: &Session,
        may_be_used: bool,
        deadline: Instant,
    ) -> Result<Reached, Refusal> {
        let mut tried = Vec::new();
        loop {
            let lease = self.pick(wanted, &tried).await?;
            let origin = lease.origin();
            let now = Instant::now().into_std();
            if may_be_used && let Some((socket, address)) = self.pool.take(origin, now) {
                return Ok(Reached { socket, address, is_used: true, lease });
            }
            let ends = session.ends();
            let dialled = self.dialer.dial(origin, wanted.listener, &ends);
            match timeout_at(deadline, dialled).await {
                Ok(Ok((socket, address))) => {
                    self.cluster.reached(&lease);
                    return Ok(Reached { socket, address, is_used: false, lease });
                }
                Ok(Err(DialError::Down(why))) => {
                    self.cluster.failed(&lease, &why);
                    tried.push(origin.server().clone());
                }
                Ok(Err(DialError::OutOfResources(why))) => {
                    if let Some(unsaid) = self.exhausted.say(Instant::now().into_std()) {
                        let error = &why;
                        warn!(error, unsaid, "this host has no resources left for new sessions");
                    }
                    return Err(Refusal { answer: answer::NO_ROOM, why });
                }
                Err(_) => {
                    return Err(Refusal {
                        answer: answer::TOO_LATE,
                        why: "no origin was reached in time".into(),
                    });
                }
            }
        }
    }

    /// The server that has listed the URI, if it is still there; else the stream's origin.
    async fn pick(&self, wanted: Wanted<'_>, tried: &[ServerName]) -> Result<Lease, Refusal> {
        let Wanted { stream, server, listener } = wanted;
        let listed =
            server.and_then(|server| self.cluster.pick_at(stream, server, listener, tried));
        let picked = match listed {
            Some(lease) => Ok(lease),
            None => self.cluster.pick(stream, listener, tried).await,
        };
        picked.map_err(|error| {
            let answer = match error {
                NoOrigin::TooManyStreams => answer::NO_ROOM,
                _ if !tried.is_empty() => answer::UNREACHABLE,
                _ if listener == Listener::Api => answer::NO_API,
                _ => answer::NO_ORIGIN,
            };
            Refusal { answer, why: error.to_string() }
        })
    }
}
