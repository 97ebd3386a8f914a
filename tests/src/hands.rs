//! Many things that are done by a few threads.

use std::thread;

use anyhow::{Context, Result};

/// Does it to each, a few at once.
pub fn by_all_hands<T: Sync, R: Send>(
    all: &[T],
    act: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let act = &act;
    thread::scope(|scope| {
        let parts: Vec<_> = all
            .chunks(all.len().div_ceil(HANDS).max(1))
            .map(|part| scope.spawn(move || part.iter().map(act).collect::<Result<Vec<_>>>()))
            .collect();
        let mut done = Vec::new();
        for part in parts {
            done.extend(part.join().ok().context("a hand has panicked")??);
        }
        Ok(done)
    })
}

/// Threads.
const HANDS: usize = 8;
