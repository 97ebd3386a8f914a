//! Connections to origins between two requests.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::TcpStream;

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
    pub(super) fn take(&self, origin: &str, now: Instant) -> Option<(TcpStream, SocketAddr)> {
        let mut idle = self.idle.lock();
        let idle = &mut *idle;
        let waiting = idle.by_origin.get_mut(origin)?;
        while let Some(last) = waiting.pop() {
            idle.total -= 1;
            if last.is_usable(now) {
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
    /// Not too old, and silent: an origin that has closed, or speaks unasked, cannot be asked.
    fn is_usable(&self, now: Instant) -> bool {
        let is_silent = matches!(
            self.socket.try_read(&mut [0]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock
        );
        is_silent && now.saturating_duration_since(self.since) < WAIT
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect(address).await.unwrap();
        (near, listener.accept().await.unwrap().0, address)
    }

    #[tokio::test]
    async fn what_waits_is_taken_once_and_never_more_than_its_share_waits() {
        let (pool, name) = (Pool::new(1), Arc::<str>::from("origin"));
        let now = Instant::now();
        let (one, _far, address) = pair().await;
        let (two, _far_too, _) = pair().await;
        let port = one.local_addr().unwrap();
        pool.give(&name, one, address, now);
        pool.give(&name, two, address, now);
        let (taken, _) = pool.take(&name, now).unwrap();
        assert_eq!(taken.local_addr().unwrap(), port);
        assert!(pool.take(&name, now).is_none());
        assert_eq!(pool.idle.lock().total, 0);
    }

    #[tokio::test]
    async fn what_is_old_closed_or_speaks_unasked_is_not_taken() {
        let (pool, name) = (Pool::new(8), Arc::<str>::from("origin"));
        let now = Instant::now();
        let (old, _far, address) = pair().await;
        pool.give(&name, old, address, now);
        assert!(pool.take(&name, now + WAIT).is_none());

        let (closed, far, address) = pair().await;
        drop(far);
        closed.readable().await.unwrap();
        pool.give(&name, closed, address, now);
        assert!(pool.take(&name, now).is_none());

        let (speaking, mut far, address) = pair().await;
        far.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        speaking.readable().await.unwrap();
        pool.give(&name, speaking, address, now);
        assert!(pool.take(&name, now).is_none());
        assert_eq!(pool.idle.lock().total, 0);
    }

    #[tokio::test]
    async fn a_sweep_closes_what_is_old_and_forgets_the_origin() {
        let (pool, name) = (Pool::new(8), Arc::<str>::from("origin"));
        let now = Instant::now();
        let (socket, _far, address) = pair().await;
        pool.give(&name, socket, address, now);
        pool.sweep(now);
        assert_eq!(pool.idle.lock().total, 1);
        pool.sweep(now + WAIT);
        assert_eq!(pool.idle.lock().total, 0);
        assert!(pool.idle.lock().by_origin.is_empty());
    }
}
