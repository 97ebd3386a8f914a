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
    /// A leg takes too few of the bytes that wait for it: not all, and less than [`LEAST`].
    pub stall: Duration,
}

impl Patience {
    /// A session ends at most a quarter of its time late.
    fn look_again_after(self) -> Duration {
        // Never at once, or a loop would do nothing else.
        (self.idle.min(self.stall) / 4).max(Duration::from_millis(1))
    }
}

/// Looks after one session.
#[derive(Debug)]
pub(in crate::plane) struct Watch {
    patience: Patience,
    /// When to look again.
    pub(in crate::plane) next: Instant,
    still: Stillness,
    /// What each leg for which bytes wait has to take, counted from the session's beginning, and since
    /// when; in the order of [`Leg::ALL`].
    due: [Option<(u64, Instant)>; Leg::ALL.len()],
}

impl Watch {
    pub(in crate::plane) fn new(patience: Patience, meter: &Meter, now: Instant) -> Self {
        let next = now + patience.look_again_after();
        Self { patience, next, still: Stillness::new(meter, now), due: [None; 2] }
    }

    /// `waiting` is how many bytes wait for each leg, in the order of [`Leg::ALL`].
    pub(in crate::plane) fn look(
        &mut self,
        meter: &Meter,
        waiting: [usize; Leg::ALL.len()],
        now: Instant,
    ) -> Option<Closed> {
        self.next = now + self.patience.look_again_after();
        for (due, (written, waiting)) in self.due.iter_mut().zip(meter.read().iter().zip(waiting)) {
            let is_taken = due.is_none_or(|(due, _)| *written >= due);
            if waiting == 0 {
                *due = None;
            } else if is_taken {
                *due = Some((written + waiting.min(LEAST) as u64, now));
            }
        }
        let is_late = |due: &Option<(u64, Instant)>| {
            due.is_some_and(|(_, since)| now - since >= self.patience.stall)
        };
        if self.due.iter().any(is_late) {
            Some(Closed::Stalled)
        } else if self.still.lasts(meter, now) >= self.patience.idle {
            Some(Closed::Idle)
        } else {
            None
        }
    }
}

/// For how long nothing was written to either leg.
#[derive(Clone, Copy, Debug)]
pub(in crate::plane) struct Stillness {
    written: [u64; Leg::ALL.len()],
    since: Instant,
}

impl Stillness {
    pub(in crate::plane) fn new(meter: &Meter, now: Instant) -> Self {
        Self { written: meter.read(), since: now }
    }

    /// For how long it lasts, as far as one knows who looks now and then.
    pub(in crate::plane) fn lasts(&mut self, meter: &Meter, now: Instant) -> Duration {
        let written = meter.read();
        if written != self.written {
            (self.written, self.since) = (written, now);
        }
        now - self.since
    }
}

/// Bytes that a leg has to take within the stall time, if so many wait: some hundred a second, which is
/// less than any media has. Who takes less holds memory and pipes as if it took nothing.
pub const LEAST: usize = 16 * 1024;

/// How often a session is looked at that is coming to its end.
pub(in crate::plane) const LAST_LOOKS: Duration = Duration::from_secs(1);

/// For a leg to take anything of what the other had sent before it was lost. Behind a leg that closed
/// in order the stall time counts.
pub(in crate::plane) const LAST_WORDS: Duration = Duration::from_secs(2);

/// For the rest of a session of which one leg has ended in order to move, or to end as well.
pub(in crate::plane) const HALF_CLOSED: Duration = Duration::from_secs(5);
