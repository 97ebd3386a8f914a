//! Connections to origins between two requests.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::origin::{Listener, Origin};

/// How long a connection waits for another request: shorter than any common origin lets it, so
/// that few are found closed. (Node closes after 5 s, SRS at once, nginx after 75 s.)
const WAIT: Duration = Duration::from_secs(4);

/// Connections that wait, over all origins: they are descriptors that no session accounts for.
const TOTAL: usize = 256;

/// Idle connections, by the origin's name. Bounded; what nobody takes is closed after its time.
#[derive(Debug)]
pub(super) struct Pool {
    per_origin: usize,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// The one that came last is taken first, so that those that are not needed grow old.
    by_origin: HashMap<Arc<str>, Vec<Waiting>>,
    total: usize,
}

#[derive(Debug)]
struct Waiting {
    socket: TcpStream,
    address: SocketAddr,
    since: Instant,
}

impl Pool {
    pub(super) fn new(per_origin: usize) -> Self {
        Self { per_origin, idle: Mutex::default() }
    }

    /// A connection to this origin that is open as far as one can know.
    pub(super) fn take(&self, origin: &Origin, now: Instant) -> Option<(TcpStream, SocketAddr)> {
        let mut idle = self.idle.lock();
        let idle = &mut *idle;
        let waiting = idle.by_origin.get_mut(&**origin.name())?;
        while let Some(last) = waiting.pop() {
            idle.total -= 1;
            if last.is_usable(now) && last.is_of(origin) {
                return Some((last.socket, last.address));
            }
        }
        None
    }

    /// Keeps a connection on which nothing is under way, if there is room.
    pub(super) fn give(
        &self,
        origin: &Arc<str>,
        socket: TcpStream,
        address: SocketAddr,
        now: Instant,
    ) {
        let mut idle = self.idle.lock();
        let idle = &mut *idle;
        if idle.total >= TOTAL {
            return;
        }
        let waiting = idle.by_origin.entry(Arc::clone(origin)).or_default();
        if waiting.len() < self.per_origin {
            waiting.push(Waiting { socket, address, since: now });
            idle.total += 1;
        }
    }

    /// Closes what has waited too long. To be called every few seconds.
    pub(super) fn sweep(&self, now: Instant) {
        let mut idle = self.idle.lock();
        let idle = &mut *idle;
        idle.by_origin.retain(|_, waiting| {
            waiting.retain(|waiting| waiting.is_usable(now));
            !waiting.is_empty()
        });
        idle.total = idle.by_origin.values().map(Vec::len).sum();
    }
}

impl Waiting {
    /// Whether the origin still is where the connection leads: it may have registered anew.
    fn is_of(&self, origin: &Origin) -> bool {
        let is_host = match origin.host().as_str().parse::<IpAddr>() {
            Ok(ip) => ip == self.address.ip(),
            // A name may have several addresses.
            Err(_) => true,
        };
        let mut targets = origin.targets(Listener::Http);
        is_host && targets.any(|(_, port)| port == self.address.port())
    }

    /// Not too old, and silent: an origin that has closed, or speaks unasked, cannot be asked.
    fn is_usable(&self, now: Instant) -> bool {
        self.is_silent() && now.saturating_duration_since(self.since) < WAIT
    }

    /// The system is asked itself: the runtime may not have heard yet of a socket that has just come
    /// back from another thread.
    fn is_silent(&self) -> bool {
        let peeked = SockRef::from(&self.socket).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// An origin, and where it listens.
    struct Place {
        listener: TcpListener,
        origin: Origin,
    }

    impl Place {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port().to_string();
            let origin = Origin::fixed("127.0.0.1", &[(Listener::Http, &port)]).unwrap();
            Self { listener, origin }
        }

        /// A connection that waits in the pool, the name of its own end, and the other end.
        async fn wait(&self, pool: &Pool, now: Instant) -> (SocketAddr, TcpStream) {
            let address = self.listener.local_addr().unwrap();
            let near = TcpStream::connect(address).await.unwrap();
            let far = self.listener.accept().await.unwrap().0;
            let own = near.local_addr().unwrap();
            pool.give(self.origin.name(), near, address, now);
            (own, far)
        }
    }

    #[tokio::test]
    async fn what_waits_is_taken_once_and_never_more_than_its_share_waits() {
        let (pool, place, now) = (Pool::new(1), Place::new().await, Instant::now());
        let (own, _far) = place.wait(&pool, now).await;
        let _too_many = place.wait(&pool, now).await;
        let (taken, _) = pool.take(&place.origin, now).unwrap();
        assert_eq!(taken.local_addr().unwrap(), own);
        assert!(pool.take(&place.origin, now).is_none());
        assert_eq!(pool.idle.lock().total, 0);
    }

    /// Returns when the pool can see what has become of its connections.
    async fn is_noticed(pool: &Pool) {
        let is_usable = |waiting: &Waiting| waiting.is_silent();
        while pool.idle.lock().by_origin.values().flatten().any(is_usable) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_old_closed_or_speaks_unasked_is_not_taken() {
        let (pool, place, now) = (Pool::new(8), Place::new().await, Instant::now());
        let _old = place.wait(&pool, now).await;
        assert!(pool.take(&place.origin, now + WAIT).is_none());

        let (_, far) = place.wait(&pool, now).await;
        drop(far);
        is_noticed(&pool).await;
        assert!(pool.take(&place.origin, now).is_none());

        let (_, mut far) = place.wait(&pool, now).await;
        far.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        is_noticed(&pool).await;
        assert!(pool.take(&place.origin, now).is_none());
        assert_eq!(pool.idle.lock().total, 0);
    }

    #[tokio::test]
    async fn an_origin_that_has_moved_is_not_asked_where_it_was() {
        let (pool, now) = (Pool::new(8), Instant::now());
        let (before, behind) = (Place::new().await, Place::new().await);
        let _far = before.wait(&pool, now).await;
        assert_eq!(before.origin.name(), behind.origin.name(), "the same origin");
        assert!(pool.take(&behind.origin, now).is_none());
    }

    #[tokio::test]
    async fn a_sweep_closes_what_is_old_and_forgets_the_origin() {
        let (pool, place, now) = (Pool::new(8), Place::new().await, Instant::now());
        let _far = place.wait(&pool, now).await;
        pool.sweep(now);
        assert_eq!(pool.idle.lock().total, 1);
        pool.sweep(now + WAIT);
        assert_eq!(pool.idle.lock().total, 0);
        assert!(pool.idle.lock().by_origin.is_empty());
    }
}
