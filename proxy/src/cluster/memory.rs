//! The store in memory: of one proxy alone, or of several in one process.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt, ready};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::store::{
    Answer, Change, Claim, HOLD_LIFE, Heard, HlsRecord, Hold, Holder, Left, Mark, News, OriginName,
    Owned, Presence, ProxyId, RECORD_LIFE, Store, StoreError, Survey, UNFOUND_LIFE, VOTE_LIFE,
    Vote, WebrtcRecord,
};
use crate::origin::{OriginId, ServerName, Standing};
use crate::stream::StreamKey;

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// How long a stream belongs to its origin after its last use.
    pub route_life: Duration,
    /// How long a run stays out that was withdrawn and is heard of no more.
    pub withdrawn_life: Duration,
    /// Most streams; those that are held come on top.
    pub max_routes: usize,
    /// Most records of each kind.
    pub max_records: usize,
}

/// What one proxy sees of the store.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    me: ProxyId,
    limits: MemoryLimits,
    is_for_many: bool,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    origins: BTreeMap<OriginName, (Heard, Instant)>,
    standings: BTreeMap<ServerName, Standing>,
    withdrawn: HashMap<OriginName, Instant>,
    votes: HashMap<(ProxyId, Vote), Instant>,
    proxies: BTreeMap<ProxyId, (Presence, Instant)>,
    streams: HashMap<StreamKey, Stream>,
    /// By the time at which they are over if nobody uses them.
    ends: BTreeMap<(Instant, u64), StreamKey>,
    last_epoch: u64,
    log: VecDeque<Change>,
    /// How many changes were told before those of the log.
    forgotten: u64,
    webrtc: HashMap<String, (WebrtcRecord, Instant)>,
    hls: HashMap<String, (StreamKey, Instant)>,
    secret: Option<[u8; 32]>,
}

#[derive(Debug)]
struct Stream {
    origin: OriginName,
    epoch: u64,
    is_found: bool,
    uses: Vec<Use>,
    until: Instant,
    /// Tells it from others that end at the same time.
    number: u64,
}

#[derive(Debug)]
struct Use {
    holder: Holder,
    is_published: bool,
    until: Instant,
}

/// Streams that are looked at to make room for one.
const MAX_LOOKS: usize = 64;

/// Changes that are kept for those who read late.
const MAX_LOG: usize = 4096;

impl MemoryStore {
    /// An empty store of this proxy alone.
    pub fn new(me: ProxyId, limits: MemoryLimits) -> Self {
        Self { me, limits, is_for_many: false, shared: Arc::default() }
    }

    /// An empty store that others can [join](Self::join), as this proxy sees it.
    pub fn for_many(me: ProxyId, limits: MemoryLimits) -> Self {
        Self { is_for_many: true, ..Self::new(me, limits) }
    }

    /// The same store, as another proxy sees it.
    #[must_use]
    pub fn join(&self, other: ProxyId) -> Self {
        Self { me: other, ..self.clone() }
    }

    fn answer<T: Send + 'static>(
        &self,
        with: impl FnOnce(&mut Shared, Instant) -> Result<T, StoreError>,
    ) -> Answer<'_, T> {
        let answer = with(&mut self.shared.lock(), Instant::now());
        ready(answer).boxed()
    }
}

impl Store for MemoryStore {
    fn as_str(&self) -> &'static str {
        "memory"
    }

    fn is_shared(&self) -> bool {
        self.is_for_many
    }

    fn survey(&self) -> Answer<'_, Survey> {
        self.answer(|shared, now| {
            shared.expire(now);
            let heard = |(heard, until): &(Heard, Instant)| Heard {
                life: until.saturating_duration_since(now),
                ..heard.clone()
            };
            Ok(Survey {
                origins: shared.origins.values().map(heard).collect(),
                standings: shared.standings.iter().map(|(it, at)| (it.clone(), *at)).collect(),
                withdrawn: shared.withdrawn.keys().cloned().collect(),
                votes: shared.votes.keys().cloned().collect(),
                proxies: shared.proxies.values().map(|(it, _)| it.clone()).collect(),
                trouble: None,
            })
        })
    }

    fn origin<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Heard>> {
        self.answer(|shared, now| {
            shared.expire(now);
            let found = shared.origins.get(name).map(|(heard, until)| Heard {
                life: until.saturating_duration_since(now),
                ..heard.clone()
            });
            Ok(found)
        })
    }

    fn announce<'a>(&'a self, heard: &'a Heard, is_old: bool) -> Answer<'a, bool> {
        self.answer(|shared, now| {
            shared.expire(now);
            let name = heard.origin.name();
            if let Some(until) = shared.withdrawn.get_mut(name) {
                *until = now + self.limits.withdrawn_life;
                return Ok(false);
            }
            let id = heard.origin.id();
            let is_known = |other: &OriginName| id.is_server_of(other);
            if is_old && shared.origins.keys().any(is_known) {
                return Ok(true);
            }
            shared.origins.retain(|other, _| !id.is_server_of(other));
            shared.origins.insert(Arc::clone(name), (heard.clone(), now + heard.life));
            Ok(true)
        })
    }

    fn withdraw<'a>(&'a self, origin: &'a OriginId) -> Answer<'a, ()> {
        self.answer(|shared, now| {
            let name: OriginName = origin.to_string().into();
            shared.origins.remove(&name);
            shared.withdrawn.insert(name, now + self.limits.withdrawn_life);
            Ok(())
        })
    }

    fn stand<'a>(&'a self, server: &'a ServerName, standing: Standing) -> Answer<'a, ()> {
        self.answer(|shared, _| {
            if standing == Standing::Active {
                shared.standings.remove(server);
                shared.withdrawn.retain(|name, _| !server.is_of(name));
            } else {
                shared.standings.insert(server.clone(), standing);
            }
            Ok(())
        })
    }

    fn vote<'a>(&'a self, vote: &'a Vote, is_down: bool) -> Answer<'a, ()> {
        self.answer(|shared, now| {
            let key = (self.me.clone(), vote.clone());
            if is_down {
                shared.votes.insert(key, now + VOTE_LIFE);
            } else {
                shared.votes.remove(&key);
            }
            Ok(())
        })
    }

    fn greet<'a>(&'a self, me: &'a Presence) -> Answer<'a, ()> {
        self.answer(|shared, now| {
            shared.proxies.insert(self.me.clone(), (me.clone(), now + HOLD_LIFE));
            Ok(())
        })
    }

    fn part(&self) -> Answer<'_, ()> {
        self.answer(|shared, _| {
            shared.proxies.remove(&self.me);
            shared.votes.retain(|(proxy, _), _| *proxy != self.me);
            for stream in shared.streams.values_mut() {
                stream.uses.retain(|it| it.holder.proxy != self.me);
            }
            Ok(())
        })
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Owned> {
        self.answer(|shared, now| {
            let name: OriginName = claim.origin.to_string().into();
            if shared.stream(&claim.stream, now).is_none() {
                shared.make_room(self.limits.max_routes, now);
            }
            let Some(stream) = shared.stream(&claim.stream, now) else {
                return Ok(shared.give(self, &claim.stream, &name, now));
            };
            let may_replace = claim.over.as_ref().is_some_and(|over| {
                let is_it =
                    over.origin == stream.origin || same_server(&over.origin, &stream.origin);
                let counts = |it: &Use| {
                    let is_there = same_server(&it.holder.origin, &stream.origin);
                    it.holder.proxy != self.me || (over.has_company && it.is_published && is_there)
                };
                is_it && (over.is_out || !stream.uses.iter().any(counts))
            });
            if may_replace && stream.origin != name {
                return Ok(shared.give(self, &claim.stream, &name, now));
            }
            let origin = Arc::clone(&stream.origin);
            stream.hold(self.holder(&origin), None, now);
            let owned = stream.owned(false, &origin);
            shared.keep(&claim.stream, &self.limits, now);
            Ok(owned)
        })
    }

    fn hold<'a>(&'a self, hold: &'a Hold) -> Answer<'a, Owned> {
        self.answer(|shared, now| {
            let name: OriginName = hold.origin.to_string().into();
            let is_new = shared.stream(&hold.stream, now).is_none();
            if is_new {
                shared.make_room(self.limits.max_routes, now);
                shared.give(self, &hold.stream, &name, now);
            }
            shared.last_epoch += 1;
            let epoch = shared.last_epoch;
            let stream = shared.stream(&hold.stream, now);
            let stream = stream.ok_or_else(|| StoreError::Failed("no room".into()))?;
            if !hold.is_published {
                // A claim that was late may have left one at another origin.
                let is_left = |it: &Use| it.holder.proxy == self.me && it.holder.origin != name;
                stream.uses.retain(|it| it.is_published || !is_left(it));
            }
            let former = Arc::clone(&stream.origin);
            let mut there = stream.uses.iter().filter(|it| same_server(&it.holder.origin, &former));
            let is_published_there = there.clone().any(|it| it.is_published);
            let runs_anew = former != name && hold.origin.is_server_of(&former);
            let is_free = !stream.is_found && there.next().is_none();
            let takes = !hold.is_out && (hold.is_published && !is_published_there || is_free);
            let is_changed = former != name && (runs_anew || takes);
            if is_changed {
                stream.origin = Arc::clone(&name);
                stream.epoch = epoch;
            }
            stream.is_found |= hold.is_found;
            stream.hold(self.holder(&name), Some(hold.is_published), now);
            let owned = stream.owned(is_new || is_changed, &name);
            shared.keep(&hold.stream, &self.limits, now);
            Ok(owned)
        })
    }

    fn leave<'a>(&'a self, left: &'a Left) -> Answer<'a, Option<u64>> {
        self.answer(|shared, now| {
            let Some(stream) = shared.stream(&left.stream, now) else { return Ok(None) };
            let is_its = |run: &str| left.origin.is_server_of(run);
            stream.uses.retain(|it| it.holder.proxy != self.me || !is_its(&it.holder.origin));
            let is_free = !stream.is_found && stream.uses.is_empty() && is_its(&stream.origin);
            let ended = (left.is_unfound && is_free).then_some(stream.epoch);
            if ended.is_some() {
                shared.remove(&left.stream);
            }
            Ok(ended)
        })
    }

    fn routes(&self, most: usize) -> Answer<'_, Vec<(StreamKey, OriginName)>> {
        self.answer(|shared, now| {
            let is_used = |it: &Stream| it.uses.iter().any(|it| it.until > now);
            let kept = shared.streams.iter().filter(|(_, it)| it.until > now || is_used(it));
            let routes = kept.map(|(key, stream)| (key.clone(), Arc::clone(&stream.origin)));
            Ok(routes.take(most).collect())
        })
    }

    fn tell<'a>(&'a self, changes: &'a [Change]) -> Answer<'a, ()> {
        self.answer(|shared, _| {
            shared.log.extend(changes.iter().cloned());
            while shared.log.len() > MAX_LOG {
                shared.log.pop_front();
                shared.forgotten += 1;
            }
            Ok(())
        })
    }

    fn changes<'a>(&'a self, mark: Option<&'a Mark>) -> Answer<'a, News> {
        self.answer(|shared, _| {
            let end = shared.forgotten + shared.log.len() as u64;
            let from = match mark {
                None => end,
                Some(Mark(text)) => text.parse().map_err(|_| malformed("a mark"))?,
            };
            let is_broken = from < shared.forgotten || from > end;
            let skip = from.clamp(shared.forgotten, end) - shared.forgotten;
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            let changes = shared.log.iter().skip(skip).cloned().collect();
            Ok(News { changes, mark: Mark(end.to_string()), is_broken })
        })
    }

    fn keep_webrtc<'a>(&'a self, record: &'a WebrtcRecord) -> Answer<'a, ()> {
        self.answer(|shared, now| {
            shared.webrtc.retain(|_, (_, until)| *until > now);
            if shared.webrtc.len() < self.limits.max_records {
                let kept = (record.clone(), now + RECORD_LIFE);
                shared.webrtc.insert(record.name.clone(), kept);
            }
            Ok(())
        })
    }

    fn webrtc<'a>(&'a self, name: &'a str) -> Answer<'a, Option<WebrtcRecord>> {
        self.answer(|shared, now| {
            let kept = shared.webrtc.get(name).filter(|(_, until)| *until > now);
            Ok(kept.map(|(record, _)| record.clone()))
        })
    }

    fn drop_webrtc<'a>(&'a self, record: &'a WebrtcRecord) -> Answer<'a, ()> {
        self.answer(|shared, _| {
            shared.webrtc.remove(&record.name);
            Ok(())
        })
    }

    fn keep_hls<'a>(&'a self, record: &'a HlsRecord) -> Answer<'a, ()> {
        self.answer(|shared, now| {
            shared.hls.retain(|_, (_, until)| *until > now);
            if shared.hls.len() < self.limits.max_records {
                let kept = (record.stream.clone(), now + RECORD_LIFE);
                shared.hls.insert(record.id.clone(), kept);
            }
            Ok(())
        })
    }

    fn hls<'a>(&'a self, id: &'a str) -> Answer<'a, Option<StreamKey>> {
        self.answer(|shared, now| {
            let kept = shared.hls.get(id).filter(|(_, until)| *until > now);
            Ok(kept.map(|(stream, _)| stream.clone()))
        })
    }

    fn secret(&self, proposed: [u8; 32]) -> Answer<'_, [u8; 32]> {
        self.answer(|shared, _| Ok(*shared.secret.get_or_insert(proposed)))
    }
}

impl MemoryStore {
    fn holder(&self, origin: &OriginName) -> Holder {
        Holder { proxy: self.me.clone(), origin: Arc::clone(origin) }
    }
}

impl Shared {
    fn expire(&mut self, now: Instant) {
        self.origins.retain(|_, (_, until)| *until > now);
        self.withdrawn.retain(|_, until| *until > now);
        self.votes.retain(|_, until| *until > now);
        self.proxies.retain(|_, (_, until)| *until > now);
    }

    /// A stream that belongs to somebody, without the uses that are over.
    fn stream(&mut self, key: &StreamKey, now: Instant) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(key)?;
        stream.uses.retain(|it| it.until > now);
        (stream.until > now || !stream.uses.is_empty()).then_some(stream)
    }

    /// Gives a stream to an origin, in place of whatever had it.
    fn give(
        &mut self,
        to: &MemoryStore,
        key: &StreamKey,
        origin: &OriginName,
        now: Instant,
    ) -> Owned {
        self.last_epoch += 1;
        let epoch = self.last_epoch;
        let uses = self.stream(key, now).map(|former| std::mem::take(&mut former.uses));
        self.remove(key);
        let mut stream = Stream {
            origin: Arc::clone(origin),
            epoch,
            is_found: false,
            uses: uses.unwrap_or_default(),
            until: now,
            number: epoch,
        };
        stream.hold(to.holder(origin), Some(false), now);
        let owned = stream.owned(true, origin);
        self.ends.insert((stream.until, stream.number), key.clone());
        self.streams.insert(key.clone(), stream);
        self.keep(key, &to.limits, now);
        owned
    }

    /// A stream was used now.
    fn keep(&mut self, key: &StreamKey, limits: &MemoryLimits, now: Instant) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        self.ends.remove(&(stream.until, stream.number));
        let unfound = limits.route_life.min(UNFOUND_LIFE);
        stream.until = now + if stream.is_found { limits.route_life } else { unfound };
        self.ends.insert((stream.until, stream.number), key.clone());
    }

    fn remove(&mut self, key: &StreamKey) {
        if let Some(stream) = self.streams.remove(key) {
            self.ends.remove(&(stream.until, stream.number));
        }
    }

    /// Streams that are over go, and if there is no room then, the one that would be over first.
    fn make_room(&mut self, max: usize, now: Instant) {
        // Those in use are looked at again later.
        for _ in 0..MAX_LOOKS {
            let Some((&(until, number), key)) = self.ends.first_key_value() else { return };
            if until > now && self.streams.len() < max {
                return;
            }
            let key = key.clone();
            let Some(stream) = self.streams.get_mut(&key) else { return };
            if stream.uses.iter().all(|it| it.until <= now) {
                self.remove(&key);
                continue;
            }
            stream.until = until.max(now) + HOLD_LIFE;
            let entry = (stream.until, number);
            self.ends.remove(&(until, number));
            self.ends.insert(entry, key);
        }
    }
}

impl Stream {
    /// Without a word of it, it publishes as before.
    fn hold(&mut self, holder: Holder, is_published: Option<bool>, now: Instant) {
        let until = now + HOLD_LIFE;
        if let Some(held) = self.uses.iter_mut().find(|it| it.holder == holder) {
            (held.is_published, held.until) = (is_published.unwrap_or(held.is_published), until);
        } else {
            let is_published = is_published.unwrap_or_default();
            self.uses.push(Use { holder, is_published, until });
        }
    }

    /// As it is told to one that uses it at `origin`.
    fn owned(&self, is_changed: bool, origin: &str) -> Owned {
        let rival = |it: &&Use| it.is_published && !same_server(&it.holder.origin, origin);
        Owned {
            origin: Arc::clone(&self.origin),
            epoch: self.epoch,
            is_changed,
            rivals: self.uses.iter().filter(rival).map(|it| it.holder.clone()).collect(),
        }
    }
}

/// Whether two names are of runs of one server.
fn same_server(one: &str, other: &str) -> bool {
    one == other
        || OriginId::server_of(one).is_some_and(|it| OriginId::server_of(other) == Some(it))
}

fn malformed(what: &str) -> StoreError {
    StoreError::Malformed(what.to_owned())
}
