//! The way of a session from a task to a thread, and back.

use std::future::Future;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::inbox::Inbox;
use crate::plane::{Closed, Flow, Leg, Meter, Outbox, Patience, Refused, StreamPair};

/// A place for one session.
pub(in crate::plane) struct Place(Inbox);

/// A session on its way to a thread.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) legs: [TcpStream; Leg::ALL.len()],
    pub(super) out: Outbox,
    pub(super) flow: Flow,
    pub(super) patience: Patience,
    pub(super) meter: Arc<Meter>,
    pub(super) reply: Reply,
}

/// A session on its way back.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) legs: [TcpStream; Leg::ALL.len()],
    pub(super) out: Outbox,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// As [`crate::plane::Carried::closed`].
    Over(Option<Closed>),
    /// The thread cannot go on; this is left to be done.
    Refused(Refused, Flow),
}

/// Where a session goes back to. It comes boxed, so that those that wait take no room for it.
#[derive(Debug)]
pub(super) struct Reply(oneshot::Sender<Box<Returned>>);

/// A session while a thread has it. Dropped before its end, it closes both sockets.
pub(in crate::plane) struct Journey {
    receiver: oneshot::Receiver<Box<Returned>>,
    inbox: Inbox,
}

/// What a [`Journey`] comes to.
pub(in crate::plane) enum Arrival {
    /// As [`crate::plane::Carried`].
    Over(Option<StreamPair>, Option<Closed>),
    /// Somebody else has to go on.
    Refused(StreamPair, Flow, Refused),
}

impl Place {
    /// One that was reserved behind this door.
    pub(super) fn at(inbox: &Inbox) -> Self {
        Self(inbox.clone())
    }

    /// Hands a pair over.
    pub(in crate::plane) fn take(
        self,
        pair: StreamPair,
        flow: Flow,
        patience: Patience,
        meter: &Arc<Meter>,
    ) -> Journey {
        let Self(inbox) = self;
        let (sender, receiver) = oneshot::channel();
        let journey = Journey { receiver, inbox: inbox.clone() };
        let StreamPair { client, origin, out } = pair;
        // Off the runtime's own poller: each readiness would wake a thread of it for nothing.
        let (Ok(origin), Ok(client)) = (origin.into_std(), client.into_std()) else {
            // They are closed, which the journey's end tells.
            inbox.release();
            return journey;
        };
        let (legs, reply) = ([origin, client], Reply(sender));
        let job = Job { legs, out, flow, patience, meter: Arc::clone(meter), reply };
        if let Err(job) = inbox.put(job) {
            inbox.release();
            job.refuse("its thread has ended".into());
        }
        journey
    }
}

impl Job {
    /// Gives it back as it came.
    pub(super) fn refuse(self, why: Refused) {
        let Self { legs, out, flow, reply, .. } = self;
        reply.give(Returned { legs, out, outcome: Outcome::Refused(why, flow) });
    }
}

impl Reply {
    /// Whether nobody waits for it.
    pub(super) fn is_left(&self) -> bool {
        self.0.is_closed()
    }

    pub(super) fn give(self, returned: Returned) {
        // If nobody waits the sockets are closed here.
        let _left = self.0.send(Box::new(returned));
    }
}

impl Future for Journey {
    type Output = Arrival;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Arrival> {
        let returned = ready!(Pin::new(&mut self.receiver).poll(cx));
        let lost = Arrival::Over(None, None);
        let Ok(returned) = returned else { return Poll::Ready(lost) };
        let Returned { legs: [origin, client], out, outcome } = *returned;
        let (origin, client) =
            (tokio::net::TcpStream::from_std(origin), tokio::net::TcpStream::from_std(client));
        let pair = match (origin, client) {
            (Ok(origin), Ok(client)) => Some(StreamPair { client, origin, out }),
            _ => None,
        };
        Poll::Ready(match (outcome, pair) {
            (Outcome::Over(closed), pair) => Arrival::Over(pair, closed),
            (Outcome::Refused(why, flow), Some(pair)) => Arrival::Refused(pair, flow, why),
            (Outcome::Refused(..), None) => lost,
        })
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if !self.receiver.is_terminated() {
            self.receiver.close();
            self.inbox.leave();
        }
    }
}
