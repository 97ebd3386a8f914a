//! Requests, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stream::Kind;

/// The first digit of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// It worked.
    Success,
    /// It is elsewhere, or has not changed.
    Redirection,
    /// The client is at fault.
    ClientError,
    /// The proxy or an origin is.
    ServerError,
}

impl StatusClass {
    /// Every class, in the order in which they are counted.
    pub const ALL: [Self; 4] =
        [Self::Success, Self::Redirection, Self::ClientError, Self::ServerError];

    /// The word used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }

    const fn of(status: u16) -> Self {
        match status {
            0..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

/// Answered requests since start, by kind and status.
#[derive(Debug, Default)]
pub struct Counts([[AtomicU64; StatusClass::ALL.len()]; Kind::ALL.len()]);

impl Counts {
    pub(super) fn count(&self, kind: Kind, status: u16) {
        let class = StatusClass::of(status);
        if let Some(n) = self.0.get(kind as usize).and_then(|row| row.get(class as usize)) {
            // Only ever read as a statistic: nothing is ordered by it.
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts, in the order of [`Kind::ALL`] and [`StatusClass::ALL`].
    pub fn read(&self) -> [[u64; StatusClass::ALL.len()]; Kind::ALL.len()] {
        self.0.each_ref().map(|row| row.each_ref().map(|n| n.load(Ordering::Relaxed)))
    }
}
