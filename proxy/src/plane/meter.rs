//! Bytes of one session, counted while they move.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Leg;

/// Bytes the proxy has written to each leg's socket.
#[derive(Debug, Default)]
pub struct Meter {
    to_origin: AtomicU64,
    to_client: AtomicU64,
    lost: AtomicU64,
}

impl Meter {
    /// Adds `bytes` written to `leg`.
    pub fn wrote(&self, leg: Leg, bytes: usize) {
        let count = match leg {
            Leg::Origin => &self.to_origin,
            Leg::Client => &self.to_client,
        };
        // Only ever read as a statistic: nothing is ordered by it.
        count.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Adds datagrams that no socket has taken.
    pub fn lost(&self, datagrams: usize) {
        self.lost.fetch_add(datagrams as u64, Ordering::Relaxed);
    }

    /// Datagrams lost so far.
    pub fn read_lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Bytes written so far, in the order of [`Leg::ALL`].
    pub fn read(&self) -> [u64; Leg::ALL.len()] {
        [self.to_origin.load(Ordering::Relaxed), self.to_client.load(Ordering::Relaxed)]
    }
}
