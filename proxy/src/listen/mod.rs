//! Sockets in.

pub mod tcp;

use tracing::{debug, info, warn};

/// Descriptors that are not sessions': listeners, runtime, API connections, logs.
const OWN_DESCRIPTORS: u64 = 256;

/// Raises the process's limit of open files to what `sessions` sessions need, as far as the
/// system allows, and says so if it does not.
pub fn allow_descriptors(sessions: usize) {
    let needed = u64::try_from(sessions)
        .unwrap_or(u64::MAX)
        .saturating_mul(2)
        .saturating_add(OWN_DESCRIPTORS);
    match rlimit::increase_nofile_limit(needed) {
        Ok(allowed) if allowed < needed => info!(
            allowed,
            needed,
            "PROXY_MAX_SESSIONS={sessions} needs more open files than this process may have"
        ),
        Ok(allowed) => debug!(allowed, "open files"),
        Err(error) => warn!(%error, "cannot read the limit of open files"),
    }
}
