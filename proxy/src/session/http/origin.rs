//! The origin's side: which one, and a connection to it.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::Http;
use super::answer::{self, Answer};
use super::request::{Request, Whence};
use crate::origin::{Lease, Listener, NoOrigin, ServerName};
use crate::session::{DialError, Session};

/// An origin that can be asked.
pub(super) struct Reached {
    pub(super) socket: TcpStream,
    pub(super) address: SocketAddr,
    /// Whether another request went over this connection before: the origin may just have closed
    /// it.
    pub(super) is_used: bool,
    pub(super) lease: Lease,
}

/// Why no origin can be asked, for the client and for the log.
pub(super) struct Unreached {
    pub(super) answer: Answer,
    pub(super) why: String,
}

impl Http {
    /// Tries the stream's origins until one accepts, or `deadline`. One that was `tried` in vain is
    /// not tried again.
    pub(super) async fn reach(
        &self,
        request: &Request,
        session: &Session,
        may_be_used: bool,
        deadline: Instant,
    ) -> Result<Reached, Unreached> {
        let mut tried = Vec::new();
        loop {
            let lease = self.pick(request, &tried)?;
            let origin = lease.origin();
            let now = Instant::now().into_std();
            if may_be_used && let Some((socket, address)) = self.pool.take(origin, now) {
                return Ok(Reached { socket, address, is_used: true, lease });
            }
            let ends = session.ends();
            let dialled = self.dialer.dial(origin, Listener::Http, &ends);
            match timeout_at(deadline, dialled).await {
                Ok(Ok((socket, address))) => {
                    self.balancer.reached(&lease);
                    return Ok(Reached { socket, address, is_used: false, lease });
                }
                Ok(Err(DialError::Down(why))) => {
                    self.balancer.failed(&lease, &why, Instant::now().into_std());
                    tried.push(origin.server().clone());
                }
                Ok(Err(DialError::OutOfResources(why))) => {
                    if let Some(unsaid) = self.exhausted.say(Instant::now().into_std()) {
                        let error = &why;
                        warn!(error, unsaid, "this host has no resources left for new sessions");
                    }
                    return Err(Unreached { answer: answer::NO_ROOM, why });
                }
                Err(_) => {
                    return Err(Unreached {
                        answer: answer::TOO_LATE,
                        why: "no origin was reached in time".into(),
                    });
                }
            }
        }
    }

    /// The server that has listed the URI, if it is still there; else the stream's origin.
    fn pick(&self, request: &Request, tried: &[ServerName]) -> Result<Lease, Unreached> {
        let now = Instant::now().into_std();
        let stream = &request.stream;
        let listed = match &request.whence {
            Whence::Listed(server) => {
                self.balancer.pick_at(stream, server, Listener::Http, tried, now)
            }
            Whence::Routed | Whence::Guessed => None,
        };
        let picked = match listed {
            Some(lease) => Ok(lease),
            None => self.balancer.pick(stream, Listener::Http, tried, now),
        };
        picked.map_err(|error| {
            let answer = match error {
                NoOrigin::TooManyStreams => answer::NO_ROOM,
                _ if !tried.is_empty() => answer::UNREACHABLE,
                _ => answer::NO_ORIGIN,
            };
            Unreached { answer, why: error.to_string() }
        })
    }
}
