//! The same names where there is no splice(2).

use std::sync::Arc;

use super::stream::ThreadView;
use super::{Closed, Flow, Meter, Patience, Refused, StreamPair};

/// There is none.
#[derive(Debug)]
pub(super) enum Splice {}

/// There is no place either.
pub(super) enum Place {}

impl Place {
    pub(super) fn take(self, _: StreamPair, _: Flow, _: Patience, _: &Arc<Meter>) -> Journey {
        match self {}
    }
}

/// A session that no thread has.
pub(super) type Journey = std::future::Ready<Arrival>;

/// What comes of it.
#[expect(dead_code, reason = "no thread has a session, and none comes back")]
pub(super) enum Arrival {
    Over(Option<StreamPair>, Option<Closed>),
    Refused(StreamPair, Flow, Refused),
}

/// By what threads would learn that sockets are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Ring,
    Epoll,
}

impl Splice {
    pub(super) fn start(_: By, _: usize, _: usize) -> Result<Self, Refused> {
        Err("only Linux has splice".into())
    }

    pub(super) fn reserve(&self) -> Result<Place, Refused> {
        match *self {}
    }

    pub(super) fn view(&self) -> [Vec<ThreadView>; 2] {
        match *self {}
    }
}
