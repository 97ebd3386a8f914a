//! Whether the store answers, and how well.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;

use super::store::StoreError;

/// What is asked of a store, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A stream, for a client.
    Claim,
    /// A record of a session or a playlist, for a client.
    Recall,
    /// What others have done.
    Read,
    /// What this proxy has done.
    Write,
}

impl Ask {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Claim, Self::Recall, Self::Read, Self::Write];

    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Recall => "recall",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// The condition of a store.
#[derive(Debug)]
pub struct Condition {
    /// Asked for each client: without a lock.
    is_lost: AtomicBool,
    state: Mutex<State>,
    errors: [AtomicU64; StoreError::WORDS.len()],
    seconds: [Histogram; Ask::ALL.len()],
}

#[derive(Debug)]
struct State {
    lost_since: Option<Instant>,
    why: Option<StoreError>,
    /// What it could not do when it was asked last.
    trouble: Option<StoreError>,
    /// When what others have done was last known.
    read: Instant,
}

/// What is told of a store that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Since when.
    pub since: Instant,
    /// The last error.
    pub why: StoreError,
}

impl Condition {
    /// A store that nobody has asked yet.
    pub fn new(now: Instant) -> Self {
        // A local store answers within a millisecond, and none may take more than its deadline.
        let buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0];
        Self {
            is_lost: AtomicBool::new(false),
            state: Mutex::new(State { lost_since: None, why: None, trouble: None, read: now }),
            errors: Default::default(),
            seconds: std::array::from_fn(|_| Histogram::new(buckets)),
        }
    }

    /// Whether nobody is to wait for it.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Whether it has been of no use for so long that it is not to be asked for a client.
    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        let lost_for = |since| now.saturating_duration_since(since);
        self.is_lost() && self.state.lock().lost_since.is_some_and(|it| lost_for(it) >= ONE_LATE)
    }

    /// Since when it does not answer, and why.
    pub fn loss(&self) -> Option<Loss> {
        let state = self.state.lock();
        Some(Loss { since: state.lost_since?, why: state.why.clone()? })
    }

    /// What is wrong with it, if anything: it is lost, or has something that cannot be used.
    pub fn reason(&self) -> Option<String> {
        let state = self.state.lock();
        let why = state.why.as_ref().or(state.trouble.as_ref());
        why.map(ToString::to_string)
    }

    /// How old what is known of others is.
    pub fn staleness(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.state.lock().read)
    }

    /// Errors so far, by the word of [`StoreError`].
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.errors.iter().map(|count| count.load(Ordering::Relaxed));
        StoreError::WORDS.into_iter().zip(counts)
    }

    /// How long answers took.
    pub fn seconds(&self, ask: Ask) -> Option<&Histogram> {
        self.seconds.get(ask as usize)
    }

    /// Notes an answer. True if the store is lost by it, and was not before.
    pub(super) fn note<T>(
        &self,
        ask: Ask,
        took: Duration,
        answer: &Result<T, StoreError>,
        now: Instant,
    ) -> bool {
        if let Some(seconds) = self.seconds(ask) {
            seconds.observe(took.as_secs_f64());
        }
        let Err(error) = answer else { return false };
        self.count(error);
        if !error.is_loss() {
            return false;
        }
        let mut state = self.state.lock();
        state.why = Some(error.clone());
        self.is_lost.store(true, Ordering::Relaxed);
        let was_lost = state.lost_since.is_some();
        state.lost_since.get_or_insert(now);
        !was_lost
    }

    /// Counts an error.
    pub(super) fn count(&self, error: &StoreError) {
        let index = StoreError::WORDS.iter().position(|word| *word == error.as_str());
        if let Some(count) = index.and_then(|index| self.errors.get(index)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that the store has answered up to now, and what it could not do. With trouble, what
    /// others have done is not known up to now.
    pub(super) fn read(&self, now: Instant, trouble: Option<StoreError>) {
        let mut state = self.state.lock();
        if trouble.is_none() {
            state.read = now;
        }
        state.trouble = trouble;
    }

    /// Notes that the store is back. Gives how long it was lost, if it was.
    pub(super) fn found(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state.lock();
        let since = state.lost_since.take()?;
        state.why = None;
        self.is_lost.store(false, Ordering::Relaxed);
        Some(now.saturating_duration_since(since))
    }
}

/// One late answer is soon followed by others in time. Who would go on alone meanwhile could part
/// players from their publisher.
const ONE_LATE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_loss_is_enough_and_an_error_of_one_key_is_none() {
        let start = Instant::now();
        let condition = Condition::new(start);
        let note = |answer: Result<(), StoreError>, now| {
            condition.note(Ask::Claim, Duration::from_millis(1), &answer, now)
        };
        assert!(!note(Ok(()), start) && !note(Err(StoreError::Failed("WRONGTYPE".into())), start));
        assert!(!condition.is_lost() && condition.loss().is_none());
        let later = start + Duration::from_secs(1);
        assert!(note(Err(StoreError::Late), start), "lost");
        assert!(!note(Err(StoreError::Down("refused".into())), later), "lost already");
        let loss = condition.loss().unwrap();
        assert_eq!((loss.since, loss.why.as_str()), (start, "down"));
        assert_eq!(condition.staleness(later), Duration::from_secs(1));
        let errors: Vec<_> = condition.errors().filter(|(_, count)| *count > 0).collect();
        assert_eq!(errors, [("late", 1), ("down", 1), ("failed", 1)]);
        assert_eq!(condition.found(later), Some(Duration::from_secs(1)));
        assert!(!condition.is_lost() && condition.found(later).is_none());
    }
}
