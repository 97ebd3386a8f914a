//! How those who find a session by a datagram end it.

use std::sync::OnceLock;

use tokio::sync::Notify;

use super::End;

/// The end of a session that somebody else than its own task has seen coming.
#[derive(Debug, Default)]
pub(super) struct Ending {
    end: OnceLock<End>,
    news: Notify,
}

impl Ending {
    /// Ends the session, unless it has been ended for another reason.
    pub(super) fn end(&self, end: End) {
        if self.end.set(end).is_ok() {
            self.news.notify_one();
        }
    }

    /// Returns the reason when there is one. For the session's task alone.
    pub(super) async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end.get() {
                return *end;
            }
            self.news.notified().await;
        }
    }
}
