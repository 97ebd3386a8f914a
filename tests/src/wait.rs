//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks until the answer is there; an error names what never came.
///
/// An error of `ask` counts as "not yet", and the last one is told.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ask();
        if let Ok(Some(answer)) = answer {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            match answer {
                Err(error) => bail!("{what}: not within {limit:?}; last: {error:#}"),
                Ok(_) => bail!("{what}: not within {limit:?}"),
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Asks until it is true.
pub fn until_true(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<bool>,
) -> Result<()> {
    until(what, limit, || Ok(ask()?.then_some(())))
}

const PAUSE: Duration = Duration::from_millis(20);
