//! Finds sessions that do not move. It looks now and then, so that a byte costs no clock and no
//! timer.

use std::time::Duration;

use tokio::time::Instant;

use crate::plane::{Closed, Leg, Meter};

/// When a session that does not move ends.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// No byte in either direction.
    pub idle: Duration,
    /// A leg takes none of the bytes that wait for it.
    pub stall: Duration,
}

impl Patience {
    /// A session ends at most a quarter of its time late.
    fn look_again_after(self) -> Duration {
        self.idle.min(self.stall) / 4
    }
}

#[derive(Debug)]
pub(in crate::plane) struct Watch {
    patience: Patience,
    /// When to look again.
    pub(in crate::plane) next: Instant,
    /// What was written to each leg at the last look.
    seen: [u64; Leg::ALL.len()],
    /// Since when nothing moved at all.
    still: Instant,
    /// Since when each leg takes nothing of what waits for it.
    stuck: [Instant; Leg::ALL.len()],
}

impl Watch {
    pub(in crate::plane) fn new(patience: Patience, meter: &Meter, now: Instant) -> Self {
        let next = now + patience.look_again_after();
        Self { patience, next, seen: meter.read(), still: now, stuck: [now; Leg::ALL.len()] }
    }

    /// `waiting` is how many bytes wait for each leg, in the order of [`Leg::ALL`].
    pub(in crate::plane) fn look(
        &mut self,
        meter: &Meter,
        waiting: [usize; Leg::ALL.len()],
        now: Instant,
    ) -> Option<Closed> {
        self.next = now + self.patience.look_again_after();
        let written = meter.read();
        if written != self.seen {
            self.still = now;
        }
        let legs = self.seen.iter().zip(&written).zip(waiting);
        for (since, ((seen, written), waiting)) in self.stuck.iter_mut().zip(legs) {
            if seen != written || waiting == 0 {
                *since = now;
            }
        }
        self.seen = written;
        if self.stuck.iter().any(|since| now - *since >= self.patience.stall) {
            Some(Closed::Stalled)
        } else if now - self.still >= self.patience.idle {
            Some(Closed::Idle)
        } else {
            None
        }
    }
}
