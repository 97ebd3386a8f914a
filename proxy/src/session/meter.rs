//! Bytes of one session, counted while they move.

use std::sync::atomic::{AtomicU64, Ordering};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the origin.
    ToOrigin,
    /// From the origin to the client.
    ToClient,
}

impl Direction {
    /// Both, in the order in which they are counted.
    pub const ALL: [Self; 2] = [Self::ToOrigin, Self::ToClient];

    /// The word used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ToOrigin => "to_origin",
            Self::ToClient => "to_client",
        }
    }
}

/// Bytes the proxy has written to each leg's socket.
#[derive(Debug, Default)]
pub struct Meter([AtomicU64; 2]);

impl Meter {
    /// Adds `bytes` written in `direction`.
    pub fn add(&self, direction: Direction, bytes: u64) {
        let [to_origin, to_client] = &self.0;
        match direction {
            Direction::ToOrigin => to_origin,
            Direction::ToClient => to_client,
        }
        // Only ever read as a statistic: nothing is ordered by it.
        .fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes written so far, `[to_origin, to_client]`.
    pub fn read(&self) -> [u64; 2] {
        let [to_origin, to_client] = &self.0;
        [
            to_origin.load(Ordering::Relaxed),
            to_client.load(Ordering::Relaxed),
        ]
    }
}
