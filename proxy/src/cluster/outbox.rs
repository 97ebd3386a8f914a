//! What was done here and the store is to be told of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Cluster;
use super::store::{Change, HlsRecord, Left, Vote, WebrtcRecord};
use crate::origin::ServerName;

/// What waits to be told. Bounded: of what is told again anyway, the surplus is left out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    announce: BTreeSet<ServerName>,
    votes: BTreeMap<Vote, bool>,
    changes: Vec<Change>,
    left: Vec<Left>,
    /// Sessions to be kept findable, and whether the store has them.
    sessions: HashMap<String, Kept>,
    over: Vec<WebrtcRecord>,
    playlists: HashMap<String, (HlsRecord, bool, Instant)>,
}

#[derive(Debug)]
struct Kept {
    record: WebrtcRecord,
    written: Option<Instant>,
    /// Who keeps it; with none it is only written once.
    holders: usize,
}

/// What the loop takes out at once.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) announce: BTreeSet<ServerName>,
    pub(super) votes: BTreeMap<Vote, bool>,
    pub(super) changes: Vec<Change>,
    pub(super) left: Vec<Left>,
    pub(super) sessions: Vec<WebrtcRecord>,
    pub(super) over: Vec<WebrtcRecord>,
    pub(super) playlists: Vec<HlsRecord>,
}

/// Most of what waits, of each kind.
const MAX_WAITING: usize = 65_536;

/// Records that live two minutes are written again after this.
const AGAIN: Duration = Duration::from_secs(40);

impl Outbox {
    pub(super) fn announce(&mut self, server: ServerName) {
        // As many as the registry has taken.
        self.announce.insert(server);
    }

    pub(super) fn vote(&mut self, vote: Vote, is_down: bool) {
        if self.votes.len() < MAX_WAITING {
            self.votes.insert(vote, is_down);
        }
    }

    pub(super) fn tell(&mut self, change: Change) {
        let is_known = change == Change::Origins && self.changes.contains(&change);
        if self.changes.len() < MAX_WAITING && !is_known {
            self.changes.push(change);
        }
    }

    pub(super) fn leave(&mut self, left: Left) {
        if self.left.len() < MAX_WAITING {
            self.left.push(left);
        }
    }

    /// As many as there are sessions.
    pub(super) fn keep(&mut self, record: WebrtcRecord) {
        let holders = self.sessions.get(&record.name).map_or(0, |kept| kept.holders) + 1;
        self.sessions.insert(record.name.clone(), Kept { record, written: None, holders });
    }

    /// One who has kept it does so no more.
    fn leave_session(&mut self, name: &str) {
        let Some(kept) = self.sessions.get_mut(name) else { return };
        kept.holders = kept.holders.saturating_sub(1);
        if kept.holders == 0 && kept.written.is_some() {
            self.sessions.remove(name);
        }
    }

    /// It is over, whoever keeps it.
    fn end(&mut self, record: &WebrtcRecord) {
        let was_written = self.sessions.remove(&record.name).is_some_and(|it| it.written.is_some());
        if was_written && self.over.len() < MAX_WAITING {
            self.over.push(record.clone());
        }
    }

    /// True if it has to be written: one that was written lately is there.
    pub(super) fn keep_hls(&mut self, record: HlsRecord, now: Instant) -> bool {
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < AGAIN;
        if self.playlists.get(&record.id).is_some_and(|(_, _, at)| is_fresh(*at)) {
            return false;
        }
        if self.playlists.len() >= MAX_WAITING {
            self.playlists.retain(|_, (_, _, at)| is_fresh(*at));
        }
        if self.playlists.len() < MAX_WAITING {
            self.playlists.insert(record.id.clone(), (record, true, now));
        }
        true
    }

    /// All that is due; what could not be told comes back by [`Self::put_back`].
    pub(super) fn take(&mut self, now: Instant) -> Due {
        let is_due =
            |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= AGAIN);
        let due = self.sessions.values_mut().filter(|kept| is_due(kept.written));
        let sessions = due.map(|kept| {
            kept.written = Some(now);
            kept.record.clone()
        });
        let sessions = sessions.collect();
        self.sessions.retain(|_, kept| kept.holders > 0);
        let unwritten = self.playlists.values_mut().filter(|(_, is_due, _)| *is_due);
        let playlists = unwritten.map(|(record, is_due, _)| {
            *is_due = false;
            record.clone()
        });
        let playlists = playlists.collect();
        self.playlists.retain(|_, (_, _, at)| now.saturating_duration_since(*at) < AGAIN);
        Due {
            announce: std::mem::take(&mut self.announce),
            votes: std::mem::take(&mut self.votes),
            changes: std::mem::take(&mut self.changes),
            left: std::mem::take(&mut self.left),
            sessions,
            over: std::mem::take(&mut self.over),
            playlists,
        }
    }

    /// What the store could not be told now. Of what was said since, the later word counts.
    pub(super) fn put_back(&mut self, due: Due) {
        self.announce.extend(due.announce);
        for (vote, is_down) in due.votes {
            self.votes.entry(vote).or_insert(is_down);
        }
        for change in due.changes {
            self.tell(change);
        }
        for left in due.left {
            self.leave(left);
        }
        for record in due.sessions {
            if let Some(kept) = self.sessions.get_mut(&record.name) {
                kept.written = None;
            }
        }
        for record in due.over {
            if self.over.len() < MAX_WAITING {
                self.over.push(record);
            }
        }
        for record in due.playlists {
            if let Some((_, is_due, _)) = self.playlists.get_mut(&record.id) {
                *is_due = true;
            }
        }
    }

    /// How much waits.
    pub(super) fn waiting(&self) -> usize {
        let unwritten = self.sessions.values().filter(|kept| kept.written.is_none()).count();
        self.announce.len() + self.votes.len() + self.changes.len() + self.left.len() + unwritten
    }
}

/// A session of WebRTC that every proxy finds. Behind its drop the store forgets it in its own time:
/// the client may have gone on to another proxy, or this one may stop.
#[derive(Debug)]
pub struct KeptSession {
    cluster: Arc<Cluster>,
    record: WebrtcRecord,
}

impl KeptSession {
    pub(super) fn new(cluster: Arc<Cluster>, record: WebrtcRecord) -> Self {
        Self { cluster, record }
    }

    /// The name by which it is found.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// The session is over at every proxy: it is found no more.
    pub fn over(self) {
        self.cluster.outbox.lock().end(&self.record);
    }
}

impl Drop for KeptSession {
    fn drop(&mut self) {
        self.cluster.outbox.lock().leave_session(&self.record.name);
    }
}
