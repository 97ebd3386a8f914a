//! A client's hold on the origin of its stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::State;
use crate::origin::health::Service;
use crate::origin::origin::Origin;
use crate::origin::routes::Generation;
use crate::stream::StreamKey;

/// One client's hold on a stream's origin. While it lives, the route does not expire. With the last
/// one the route goes if nobody has [found](Lease::found) the stream there, so that nobody places a
/// stream by asking for it too early, or for its neighbour.
#[derive(Debug)]
pub struct Lease {
    origin: Arc<Origin>,
    key: StreamKey,
    /// By what the origin is to be connected.
    service: Service,
    /// None if the stream's route is another one's.
    generation: Option<Generation>,
    is_publisher: AtomicBool,
    state: Arc<Mutex<State>>,
}

impl Lease {
    pub(super) fn new(
        origin: Arc<Origin>,
        key: StreamKey,
        service: Service,
        generation: Option<Generation>,
        state: Arc<Mutex<State>>,
    ) -> Self {
        let is_publisher = AtomicBool::new(false);
        Self { origin, key, service, generation, is_publisher, state }
    }

    /// The origin to connect.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// The stream.
    pub fn key(&self) -> &StreamKey {
        &self.key
    }

    /// Notes that the origin has the stream.
    pub fn found(&self) {
        if let Some(generation) = self.generation {
            self.state.lock().routes.find(&self.key, generation);
        }
    }

    /// By what the origin is connected.
    pub fn service(&self) -> Service {
        self.service
    }

    /// Notes that the client publishes the stream, from now to the end of this lease.
    pub fn publishes(&self) {
        if !self.is_publisher.swap(true, Ordering::Relaxed) {
            self.state.lock().routes.publish(&self.key, self.origin.server(), true);
        }
    }

    /// Another hold on the same route.
    #[must_use]
    pub fn share(&self) -> Self {
        let mut state = self.state.lock();
        let generation =
            self.generation.filter(|it| state.routes.rejoin(&self.key, *it, self.service));
        drop(state);
        let (origin, key) = (Arc::clone(&self.origin), self.key.clone());
        let (service, state) = (self.service, Arc::clone(&self.state));
        Self::new(origin, key, service, generation, state)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if self.is_publisher.load(Ordering::Relaxed) {
            state.routes.publish(&self.key, self.origin.server(), false);
        }
        if let (Some(now), Some(generation)) = (state.latest, self.generation) {
            state.routes.leave(&self.key, generation, self.service, now);
        }
    }
}
