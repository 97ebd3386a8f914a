//! What was done here and the store is to be told of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Cluster;
use super::store::{Change, HlsRecord, Vote, WebrtcRecord};
use crate::origin::ServerName;

/// What waits to be told. Bounded: of what is told again anyway, the surplus is left out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    announce: BTreeSet<ServerName>,
    votes: BTreeMap<Vote, bool>,
    changes: Vec<Change>,
    sessions: Sessions,
    over: Vec<WebrtcRecord>,
    playlists: Playlists,
}

/// What the loop takes out at once.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) announce: BTreeSet<ServerName>,
    pub(super) votes: BTreeMap<Vote, bool>,
    pub(super) changes: Vec<Change>,
    pub(super) sessions: Vec<WebrtcRecord>,
    pub(super) over: Vec<WebrtcRecord>,
    pub(super) playlists: Vec<HlsRecord>,
    /// Whether as much again is due.
    pub(super) is_more: bool,
}

/// Most of what waits, of each kind.
const MAX_WAITING: usize = 65_536;

/// Records that live two minutes are written again after this.
const AGAIN: Duration = Duration::from_secs(40);

/// Records of each kind that are taken at once.
const AT_ONCE: usize = 512;

impl Outbox {
    /// As many as the registry has taken.
    pub(super) fn announce(&mut self, server: ServerName) {
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

    pub(super) fn keep(&mut self, record: WebrtcRecord, now: Instant) {
        self.sessions.keep(record, now);
    }

    /// It is over, whoever keeps it.
    fn end(&mut self, record: &WebrtcRecord) {
        self.sessions.remove(&record.name);
        if self.over.len() < MAX_WAITING {
            self.over.push(record.clone());
        }
    }

    /// True if it has to be written: one that was written lately is there.
    pub(super) fn keep_hls(&mut self, record: HlsRecord, now: Instant) -> bool {
        self.playlists.keep(record, now)
    }

    /// The store may have lost its records: all that are kept are written again.
    pub(super) fn say_again(&mut self, now: Instant) {
        self.sessions.say_again(now);
        self.playlists.say_again();
    }

    /// What is due; what could not be told comes back by [`Self::put_back`].
    pub(super) fn take(&mut self, now: Instant) -> Due {
        let (sessions, playlists) = (self.sessions.take(now), self.playlists.take());
        Due {
            announce: std::mem::take(&mut self.announce),
            votes: std::mem::take(&mut self.votes),
            changes: std::mem::take(&mut self.changes),
            is_more: sessions.len() == AT_ONCE || playlists.len() == AT_ONCE,
            sessions,
            over: std::mem::take(&mut self.over),
            playlists,
        }
    }

    /// What the store could not be told now. Of what was said since, the later word counts.
    pub(super) fn put_back(&mut self, due: Due, now: Instant) {
        self.announce.extend(due.announce);
        for (vote, is_down) in due.votes {
            self.votes.entry(vote).or_insert(is_down);
        }
        for change in due.changes {
            self.tell(change);
        }
        for record in due.sessions {
            self.sessions.put_back(record, now);
        }
        for record in due.over {
            if self.over.len() < MAX_WAITING {
                self.over.push(record);
            }
        }
        self.playlists.put_back(due.playlists);
    }

    /// How much waits.
    pub(super) fn waiting(&self, now: Instant) -> usize {
        let records = self.sessions.due(now) + self.over.len() + self.playlists.due.len();
        self.announce.len() + self.votes.len() + self.changes.len() + records
    }
}

/// Sessions to be kept findable, and when each is to be written.
#[derive(Debug, Default)]
struct Sessions {
    kept: HashMap<Arc<str>, Kept>,
    order: BTreeSet<(Instant, Arc<str>)>,
}

#[derive(Debug)]
struct Kept {
    record: WebrtcRecord,
    due: Instant,
    /// Who keeps it; with none it is only written once.
    holders: usize,
}

impl Sessions {
    fn keep(&mut self, record: WebrtcRecord, now: Instant) {
        let name: Arc<str> = record.name.as_str().into();
        let former = self.remove(&name);
        // Those that nobody keeps any more may be many while nothing can be written.
        if former.is_none() && self.kept.len() >= 2 * MAX_WAITING {
            return;
        }
        let holders = former.map_or(0, |kept| kept.holders) + 1;
        self.insert(name, Kept { record, due: now, holders });
    }

    fn insert(&mut self, name: Arc<str>, kept: Kept) {
        self.order.insert((kept.due, Arc::clone(&name)));
        self.kept.insert(name, kept);
    }

    fn remove(&mut self, name: &str) -> Option<Kept> {
        let (name, kept) = self.kept.remove_entry(name)?;
        self.order.remove(&(kept.due, name));
        Some(kept)
    }

    /// One who has kept it does so no more.
    fn release(&mut self, name: &str, now: Instant) {
        let Some(kept) = self.kept.get_mut(name) else { return };
        kept.holders = kept.holders.saturating_sub(1);
        if kept.holders == 0 && kept.due > now {
            self.remove(name);
        }
    }

    fn take(&mut self, now: Instant) -> Vec<WebrtcRecord> {
        let mut taken = Vec::new();
        while taken.len() < AT_ONCE {
            let Some((due, name)) = self.order.first() else { break };
            if *due > now {
                break;
            }
            let name = Arc::clone(name);
            let Some(mut kept) = self.remove(&name) else { break };
            taken.push(kept.record.clone());
            if kept.holders > 0 {
                kept.due = now + AGAIN;
                self.insert(name, kept);
            }
        }
        taken
    }

    fn put_back(&mut self, record: WebrtcRecord, now: Instant) {
        let name: Arc<str> = record.name.as_str().into();
        let kept = self.remove(&name).unwrap_or(Kept { record, due: now, holders: 0 });
        if kept.holders > 0 || self.kept.len() < 2 * MAX_WAITING {
            self.insert(name, Kept { due: now, ..kept });
        }
    }

    fn say_again(&mut self, now: Instant) {
        for kept in self.kept.values_mut() {
            kept.due = now;
        }
        self.order = self.kept.keys().map(|name| (now, Arc::clone(name))).collect();
    }

    /// How many are due.
    fn due(&self, now: Instant) -> usize {
        self.order.iter().take_while(|(due, _)| *due <= now).take(MAX_WAITING).count()
    }
}

/// Playlists that were asked for lately.
#[derive(Debug, Default)]
struct Playlists {
    fresh: HashMap<String, (HlsRecord, Instant)>,
    due: Vec<HlsRecord>,
    cleaned: Option<Instant>,
}

impl Playlists {
    fn keep(&mut self, record: HlsRecord, now: Instant) -> bool {
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < AGAIN;
        if self.fresh.get(&record.id).is_some_and(|(_, at)| is_fresh(*at)) {
            return false;
        }
        if !self.cleaned.is_some_and(is_fresh) {
            self.fresh.retain(|_, (_, at)| is_fresh(*at));
            self.cleaned = Some(now);
        }
        if self.fresh.len() < MAX_WAITING {
            self.fresh.insert(record.id.clone(), (record.clone(), now));
        }
        self.put_back(vec![record]);
        true
    }

    fn take(&mut self) -> Vec<HlsRecord> {
        self.due.split_off(self.due.len().saturating_sub(AT_ONCE))
    }

    fn put_back(&mut self, records: Vec<HlsRecord>) {
        let room = MAX_WAITING.saturating_sub(self.due.len());
        self.due.extend(records.into_iter().take(room));
    }

    fn say_again(&mut self) {
        self.due = self.fresh.values().map(|(record, _)| record.clone()).collect();
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
        self.cluster.outbox.lock().sessions.release(&self.record.name, super::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Ask, StreamKey, Vhosts};

    fn record(name: &str) -> WebrtcRecord {
        let ask = Ask::Rtmp { tc_url: "rtmp://proxy/live", app: "", stream: "show" };
        let stream = StreamKey::new(&ask, &Vhosts::default()).unwrap();
        WebrtcRecord { name: name.to_owned(), stream, place: None }
    }

    #[test]
    fn a_session_is_written_while_anybody_keeps_it_and_taken_out_only_if_it_is_over() {
        let start = Instant::now();
        let mut outbox = Outbox::default();
        outbox.keep(record("a:b"), start);
        outbox.keep(record("a:b"), start);
        assert_eq!(outbox.take(start).sessions, [record("a:b")]);
        assert_eq!(outbox.take(start).sessions, []);
        outbox.sessions.release("a:b", start);
        assert_eq!(outbox.take(start + AGAIN).sessions, [record("a:b")], "for the other one");
        outbox.say_again(start + AGAIN);
        assert_eq!(outbox.take(start + AGAIN).sessions, [record("a:b")], "the store was emptied");
        outbox.sessions.release("a:b", start + AGAIN);
        assert_eq!(outbox.take(start + AGAIN * 2).sessions, []);
        outbox.keep(record("e:f"), start);
        outbox.take(start);
        outbox.end(&record("e:f"));
        outbox.sessions.release("e:f", start);
        let due = outbox.take(start + AGAIN);
        assert_eq!((due.sessions, due.over), (vec![], vec![record("e:f")]));
        assert!(outbox.sessions.kept.is_empty() && outbox.sessions.order.is_empty());
    }

    #[test]
    fn one_that_nobody_keeps_is_told_of_once_also_if_the_store_was_lost_at_first() {
        let start = Instant::now();
        let mut outbox = Outbox::default();
        outbox.keep(record("c:d"), start);
        outbox.sessions.release("c:d", start);
        let due = outbox.take(start);
        assert_eq!(due.sessions, [record("c:d")]);
        outbox.put_back(due, start);
        assert_eq!(outbox.take(start).sessions, [record("c:d")]);
        assert_eq!(outbox.take(start + AGAIN).sessions, []);
    }

    #[test]
    fn what_is_much_is_taken_in_parts() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for n in 0..=AT_ONCE {
            outbox.keep(record(&format!("a:{n}")), now);
        }
        assert!(outbox.take(now).is_more);
        let due = outbox.take(now);
        assert_eq!((due.sessions.len(), due.is_more), (1, false));
    }
}
