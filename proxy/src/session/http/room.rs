//! Memory for the bodies that are held, playlists and what is signalled: bounded for all sessions
//! together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of bodies that may be held at once, collected or not yet written.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<AtomicUsize>);

/// One exchange's part of it, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Room,
    bytes: usize,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// A share of nothing yet.
    pub(super) fn share(&self) -> Share {
        Share { room: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Makes the share this large. False if there is no room for it: it stays as it was.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let left = &self.room.0;
        // Nothing but the number itself is shared by it.
        let is_there = if let Some(more) = bytes.checked_sub(self.bytes) {
            let take = |left: usize| left.checked_sub(more);
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        } else {
            left.fetch_add(self.bytes - bytes, Ordering::Relaxed);
            true
        };
        if is_there {
            self.bytes = bytes;
        }
        is_there
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::Room;

    #[test]
    fn what_one_gives_back_another_can_have() {
        let room = Room::new(10);
        let (mut one, mut other) = (room.share(), room.share());
        assert!(one.resize(6));
        assert!(!other.resize(5), "11 of 10 bytes");
        assert!(other.resize(4));
        assert!(one.resize(2));
        assert!(other.resize(8));
        drop(one);
        assert!(other.resize(10));
        drop(other);
        assert!(room.share().resize(10));
    }
}
