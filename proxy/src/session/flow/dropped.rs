//! Datagrams that go nowhere, by the reason.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a datagram goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// It has no byte, or is of no protocol that is served here.
    NotTheProtocol,
    /// It begins like one of the protocol and is malformed.
    Malformed,
    /// No session has the name that it gives.
    UnknownName,
    /// It belongs to no session by its address.
    UnknownFlow,
    /// It is not signed with the session's password.
    Forged,
    /// It was sent before, from another address.
    Replayed,
    /// Its cookie is not one that this proxy gives out, or too old.
    BadCookie,
    /// Too many handshakes of this client are under way.
    TooManyPending,
    /// Nobody is there to whom it could go yet.
    NotConnected,
    /// It may not come now.
    Unexpected,
}

impl Dropped {
    /// Every reason, in the order in which they are counted.
    pub const ALL: [Self; 10] = [
        Self::NotTheProtocol,
        Self::Malformed,
        Self::UnknownName,
        Self::UnknownFlow,
        Self::Forged,
        Self::Replayed,
        Self::BadCookie,
        Self::TooManyPending,
        Self::NotConnected,
        Self::Unexpected,
    ];

    /// The word used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotTheProtocol => "not_the_protocol",
            Self::Malformed => "malformed",
            Self::UnknownName => "unknown_name",
            Self::UnknownFlow => "unknown_flow",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::BadCookie => "bad_cookie",
            Self::TooManyPending => "too_many_pending",
            Self::NotConnected => "not_connected",
            Self::Unexpected => "unexpected",
        }
    }
}

/// How many datagrams of one protocol went nowhere.
#[derive(Debug, Default)]
pub struct Drops([AtomicU64; Dropped::ALL.len()]);

impl Drops {
    /// Counts so many.
    pub fn count(&self, why: Dropped, datagrams: usize) {
        if let Some(count) = self.0.get(why as usize) {
            // Only ever read as a statistic: nothing is ordered by it.
            count.fetch_add(datagrams as u64, Ordering::Relaxed);
        }
    }

    /// Counts so far, in the order of [`Dropped::ALL`].
    pub fn read(&self) -> [u64; Dropped::ALL.len()] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}
