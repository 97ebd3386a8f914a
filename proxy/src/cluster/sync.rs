//! The loop that brings what others have done, and takes to them what was done here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::Cluster;
use super::condition::Ask;
use super::outbox::Due;
use super::probe::probe;
use super::store::{
    Answer, Change, Conflict, Heard, Hold, Holder, Left, Mark, News, Owned, Presence, ProxyId,
    StoreError, Survey, Vote,
};
use crate::origin::{Hearsay, Origin, ServerName, Service, Use, UsedStream};
use crate::stream::StreamKey;

/// How often what others have told is read: no route is staler than this and one answer.
const READ: Duration = Duration::from_millis(250);

/// How often origins and proxies are looked at although nobody has told of a change.
const SURVEY: Duration = Duration::from_secs(2);

/// How often this proxy says that it is there.
const GREET: Duration = Duration::from_secs(2);

/// How often this proxy says what it uses, and looks at origins again that it could not reach.
const HOLD: Duration = Duration::from_secs(10);

/// How often all routes are read, for those that nobody has told of.
const LIST: Duration = Duration::from_secs(30);

/// For what is done together to be told together.
const GATHER: Duration = Duration::from_millis(5);

/// What is asked of the store at the same time.
const AT_ONCE: usize = 64;

/// Most routes of others that are known.
const MAX_LISTED: usize = 100_000;

/// Most names of deleted sessions that wait to be taken.
const MAX_DELETED: usize = 4096;

/// How many proxies have to be unable to reach an origin for it to be out.
const QUORUM: usize = 2;

/// What went wrong in a turn and is no loss of the store: the rest of the turn is done.
#[derive(Default)]
struct Trouble(Option<StoreError>);

impl Trouble {
    fn none_in(&mut self, step: Result<(), StoreError>) -> Result<(), StoreError> {
        match step {
            Err(error) if !error.is_loss() => self.0 = Some(error),
            other => other?,
        }
        Ok(())
    }
}

/// Where the loop is.
#[derive(Default)]
struct Cycle {
    mark: Option<Mark>,
    surveyed: Option<Instant>,
    greeted: Option<Instant>,
}

impl Cluster {
    /// Keeps this proxy and the store of one mind. Returns never. `sessions` counts those that this
    /// proxy has, by server.
    pub async fn watch(self: &Arc<Self>, sessions: impl Fn() -> BTreeMap<ServerName, usize>) {
        // What takes long is done beside what others wait for.
        tokio::join!(self.read_and_write(sessions), self.repeat());
    }

    async fn read_and_write(self: &Arc<Self>, sessions: impl Fn() -> BTreeMap<ServerName, usize>) {
        let mut tick = interval(READ);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cycle = Cycle::default();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.wake.notified() => sleep(GATHER).await,
            }
            // It is counted, and the next turn tries again.
            let _error = self.turn(&mut cycle, &sessions).await;
        }
    }

    /// Says again and again what is used here, and lists what others use.
    async fn repeat(self: &Arc<Self>) {
        let mut tick = interval(HOLD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listed = None;
        loop {
            let is_all_due = tokio::select! {
                _ = tick.tick() => false,
                () = self.say_all.notified() => true,
            };
            if self.condition.is_lost() {
                continue;
            }
            let now = super::now();
            // They are counted; the next time tries again.
            let _error = self.hold_all(now).await;
            let _error = self.announce_fixed(now).await;
            self.look_again(now);
            let is_fresh = |at: Instant| now.saturating_duration_since(at) + HOLD <= LIST;
            if (is_all_due || !listed.is_some_and(is_fresh)) && self.list().await.is_ok() {
                listed = Some(now);
            }
        }
    }

    /// One turn, up to the first sign that the store is lost.
    async fn turn(
        self: &Arc<Self>,
        cycle: &mut Cycle,
        sessions: &impl Fn() -> BTreeMap<ServerName, usize>,
    ) -> Result<(), StoreError> {
        let now = super::now();
        let is_due = |at: Option<Instant>, every| {
            at.is_none_or(|at| now.saturating_duration_since(at) >= every)
        };
        let was_lost = self.condition.is_lost();
        if was_lost {
            // Whoever has it back knows nothing of what has become of it.
            *cycle = Cycle::default();
        }
        let mut trouble = Trouble::default();
        let is_asked = std::mem::take(&mut self.known.lock().is_survey_due);
        if is_due(cycle.surveyed, SURVEY) || is_asked {
            trouble.none_in(self.survey(now).await)?;
            cycle.surveyed = Some(now);
        }
        if was_lost {
            self.outbox.lock().say_again(now);
        }
        trouble.none_in(self.push(now).await)?;
        trouble.none_in(self.pull(cycle).await)?;
        if was_lost {
            trouble.none_in(self.hold_all(now).await)?;
            trouble.none_in(self.list().await)?;
        }
        if is_due(cycle.greeted, GREET) {
            trouble.none_in(self.greet(sessions()).await)?;
            cycle.greeted = Some(now);
        }
        let now = super::now();
        self.condition.read(now, trouble.0);
        if let Some(lost) = self.condition.found(now) {
            self.balancer.listen(None, now);
            info!(store = self.store.as_str(), seconds = lost.as_secs(), "store back");
        }
        Ok(())
    }

    async fn list(&self) -> Result<(), StoreError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        self.balancer.begin_listing();
        let routes = self.asked(Ask::Read, self.store.routes(MAX_LISTED)).await?;
        self.balancer.mirror(routes);
        Ok(())
    }

    /// Learns of origins and proxies, and tells of origins that the store has lost.
    pub(super) async fn survey(self: &Arc<Self>, now: Instant) -> Result<(), StoreError> {
        let survey = self.asked(Ask::Read, self.store.survey()).await?;
        let lost: Vec<_> = self
            .balancer
            .lives(now)
            .into_iter()
            .filter(|(origin, _)| !is_told_of(&survey, origin))
            .map(|(origin, life)| Heard { origin, life })
            .collect();
        self.each(&lost, |heard| self.store.announce(heard, true)).await?;
        let out = self.judge(&survey, now);
        let mut elsewhere = BTreeMap::<_, usize>::new();
        for other in survey.proxies.iter().filter(|it| it.proxy != self.me) {
            for (server, streams) in &other.streams {
                *elsewhere.entry(server.clone()).or_default() += streams;
            }
        }
        self.known.lock().proxies = survey.proxies;
        let hearsay = Hearsay {
            origins: survey.origins.into_iter().map(|heard| (heard.origin, heard.life)).collect(),
            standings: survey.standings.into_iter().collect(),
            withdrawn: survey.withdrawn.into_iter().collect(),
            out,
            elsewhere,
        };
        self.balancer.learn(hearsay, now);
        // Of one key, and everything else is known.
        survey.trouble.map_or(Ok(()), |error| self.complain(error, now))
    }

    /// The services that are out by the word of several proxies. What one says that this proxy has
    /// not seen, it looks at itself.
    fn judge(self: &Arc<Self>, survey: &Survey, now: Instant) -> BTreeSet<(Arc<str>, Service)> {
        let is_there = |proxy: &ProxyId| {
            *proxy == self.me || survey.proxies.iter().any(|it| it.proxy == *proxy)
        };
        let mut voters = BTreeMap::<&Vote, BTreeSet<&ProxyId>>::new();
        for (proxy, vote) in survey.votes.iter().filter(|(proxy, _)| is_there(proxy)) {
            voters.entry(vote).or_default().insert(proxy);
        }
        for vote in voters.iter().filter(|(_, it)| !it.contains(&self.me)).map(|(vote, _)| vote) {
            self.look((*vote).clone(), now);
        }
        let out = voters.into_iter().filter(|(_, it)| it.len() >= QUORUM);
        out.map(|(vote, _)| (Arc::clone(&vote.origin), vote.service)).collect()
    }

    /// Looks at an origin, and votes by what is seen.
    fn look(self: &Arc<Self>, vote: Vote, now: Instant) {
        let Some(origin) = self.balancer.named(&vote.origin, now) else { return };
        let mut known = self.known.lock();
        if known.probed.len() >= AT_ONCE || !known.probed.insert(vote.clone()) {
            return;
        }
        drop(known);
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            let seen = probe(&origin, vote.service).await;
            let now = super::now();
            match seen {
                Some(true) => {
                    cluster.balancer.reached(&origin, vote.service);
                    cluster.vote(vote.clone(), false);
                }
                Some(false) => {
                    let why = "this proxy cannot connect it, either";
                    cluster.balancer.failed(&origin, vote.service, why, now);
                    cluster.vote(vote.clone(), true);
                }
                // The word of this proxy ends with its time.
                None => {}
            }
            let mut known = cluster.known.lock();
            known.probed.remove(&vote);
            if seen != Some(false) {
                known.votes.remove(&vote);
            }
        });
    }

    /// Looks again at what this proxy could not reach.
    fn look_again(self: &Arc<Self>, now: Instant) {
        let mut known = self.known.lock();
        let is_due = |at: &Instant| now.saturating_duration_since(*at) >= HOLD / 2;
        let due: Vec<_> =
            known.votes.iter().filter(|(_, at)| is_due(at)).map(|(it, _)| it.clone()).collect();
        for vote in &due {
            known.votes.insert(vote.clone(), now);
        }
        known.votes.retain(|vote, _| self.balancer.named(&vote.origin, now).is_some());
        drop(known);
        for vote in due {
            self.look(vote, now);
        }
    }

    /// Tells what was done here.
    async fn push(&self, now: Instant) -> Result<(), StoreError> {
        let untold = self.balancer.take_untold(now);
        let due = self.outbox.lock().take(now);
        let told = self.push_due(&due, now).await;
        if told.is_err() {
            self.outbox.lock().put_back(due, now);
        } else if due.is_more {
            self.wake.notify_one();
        }
        if told.as_ref().is_err_and(StoreError::is_loss) {
            // Holds are told again anyway, and who does not hold any more is forgotten.
            return told;
        }
        self.hold(untold).await.and(told)
    }

    async fn push_due(&self, due: &Due, now: Instant) -> Result<(), StoreError> {
        let lives = if due.announce.is_empty() { Vec::new() } else { self.balancer.lives(now) };
        let lives = lives.into_iter().filter(|(it, _)| due.announce.contains(it.server()));
        let heard: Vec<_> = lives.map(|(origin, life)| Heard { origin, life }).collect();
        self.each(&heard, |heard| self.store.announce(heard, false)).await?;
        let votes: Vec<_> = due.votes.iter().collect();
        self.each(&votes, |(vote, is_down)| self.store.vote(vote, **is_down)).await?;
        for (vote, is_down) in &due.votes {
            let mut known = self.known.lock();
            if *is_down {
                known.votes.insert(vote.clone(), now);
            } else {
                known.votes.remove(vote);
            }
        }
        self.each(&due.sessions, |record| self.store.keep_webrtc(record)).await?;
        self.each(&due.over, |record| self.store.drop_webrtc(record)).await?;
        self.each(&due.playlists, |record| self.store.keep_hls(record)).await?;
        // Behind everything that it tells of.
        self.tell_all(&due.changes).await
    }

    async fn tell_all(&self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() || !self.store.is_shared() {
            return Ok(());
        }
        self.asked(Ask::Write, self.store.tell(changes)).await
    }

    /// Asks the same of many, some at a time. An error of one is none of the others, unless the
    /// store is lost.
    async fn each<'a, I, T>(
        &'a self,
        items: &'a [I],
        ask: impl Fn(&'a I) -> Answer<'a, T>,
    ) -> Result<Vec<Option<T>>, StoreError> {
        let mut answers = Vec::with_capacity(items.len());
        for some in items.chunks(AT_ONCE) {
            for answer in join_all(some.iter().map(|it| self.asked(Ask::Write, ask(it)))).await {
                match answer {
                    Err(error) if error.is_loss() => return Err(error),
                    answer => answers.push(answer.ok()),
                }
            }
        }
        Ok(answers)
    }

    /// Tells of everything that is used here, and forgets the conflicts about anything else.
    async fn hold_all(&self, now: Instant) -> Result<(), StoreError> {
        let used = self.balancer.used(now);
        let is_published = |used: &UsedStream| {
            matches!(used.usage, Use::Held { is_published: true, .. }).then(|| used.key.clone())
        };
        let published: BTreeSet<_> = used.iter().filter_map(is_published).collect();
        self.known.lock().conflicts.retain(|stream, _| published.contains(stream));
        let mut trouble = Trouble::default();
        for some in used.chunks(AT_ONCE) {
            // What was left meanwhile is told as left by the other loop.
            let still = self.balancer.used_still(some, super::now());
            trouble.none_in(self.hold(still).await)?;
        }
        trouble.0.map_or(Ok(()), Err)
    }

    /// Tells how streams are used here, and learns to whom they belong.
    async fn hold(&self, used: Vec<UsedStream>) -> Result<(), StoreError> {
        let (mut holds, mut left) = (Vec::new(), Vec::new());
        for UsedStream { key, origin, usage, is_out } in used {
            let (stream, server, origin) = (key, origin.server().clone(), origin.id().clone());
            match usage {
                // Its claim may be there already: whoever has it tells at its end.
                Use::Left | Use::Unfound if self.known.lock().claimed.contains_key(&stream) => {
                    self.balancer.given_up(&stream, &server);
                }
                Use::Held { is_found, is_published } => {
                    holds.push(Hold { stream, origin, is_found, is_published, is_out });
                }
                Use::Left | Use::Unfound => {
                    left.push(Left { stream, origin, is_unfound: usage == Use::Unfound });
                }
            }
        }
        let gone = self.each(&left, |left| self.store.leave(left)).await?;
        let owned = self.each(&holds, |hold| self.store.hold(hold)).await?;
        let gone = left.into_iter().zip(gone);
        let gone = gone.filter_map(|(left, epoch)| Some(Change::Gone(left.stream, epoch??)));
        let mut changes: Vec<_> = gone.collect();
        for (hold, owned) in holds.into_iter().zip(owned) {
            changes.extend(owned.and_then(|owned| self.held(hold, owned)));
        }
        self.tell_all(&changes).await
    }

    /// What the answer to a hold comes to.
    fn held(&self, hold: Hold, owned: Owned) -> Option<Change> {
        let Hold { stream, origin, is_published, .. } = hold;
        if is_published && !owned.rivals.is_empty() {
            let mine = Holder { proxy: self.me.clone(), origin: origin.to_string().into() };
            let publishers = owned.rivals.into_iter().chain([mine]).collect();
            let conflict = Conflict { stream: stream.to_string(), publishers };
            if self.known.lock().conflicts.insert(stream.clone(), conflict).is_none() {
                let at = &*owned.origin;
                warn!(%stream, here = %origin, owner = at, "stream published at two origins");
            }
        } else {
            self.settled(&stream);
        }
        if self.store.is_shared() {
            self.balancer.placed(&stream, &owned.origin, owned.epoch);
        }
        owned.is_changed.then_some(Change::Route(stream, owned.origin, owned.epoch))
    }

    /// A stream is published at one origin at most, as far as this proxy sees.
    fn settled(&self, stream: &StreamKey) {
        if self.known.lock().conflicts.remove(stream).is_some() {
            info!(%stream, "stream published at one origin again");
        }
    }

    /// Learns what others have told.
    async fn pull(&self, cycle: &mut Cycle) -> Result<(), StoreError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let news = self.asked(Ask::Read, self.store.changes(cycle.mark.as_ref())).await?;
        let News { changes, mark, is_broken } = news;
        cycle.mark = Some(mark);
        if is_broken {
            // The store was emptied, or this proxy has slept: it tells and asks for everything.
            cycle.surveyed = None;
            self.outbox.lock().say_again(super::now());
            self.say_all.notify_one();
            self.survey_soon();
        }
        for change in changes {
            match change {
                Change::Route(stream, run, epoch) => self.balancer.placed(&stream, &run, epoch),
                Change::Gone(stream, epoch) => self.balancer.unplaced(&stream, epoch),
                Change::Origins => self.survey_soon(),
                Change::Deleted(name) => {
                    let mut known = self.known.lock();
                    if known.deleted.len() < MAX_DELETED {
                        known.deleted.push(name);
                    }
                }
            }
        }
        Ok(())
    }

    /// The default origin sends no heartbeat: the proxies that have it speak for it.
    async fn announce_fixed(&self, now: Instant) -> Result<(), StoreError> {
        let fixed = self.balancer.fixed(now).filter(|_| self.store.is_shared());
        let Some((origin, life)) = fixed else { return Ok(()) };
        self.asked(Ask::Write, self.store.announce(&Heard { origin, life }, false)).await?;
        Ok(())
    }

    async fn greet(&self, sessions: BTreeMap<ServerName, usize>) -> Result<(), StoreError> {
        let conflicts: Vec<_> = self.known.lock().conflicts.values().cloned().collect();
        let me = Presence {
            proxy: self.me.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            streams: self.balancer.streams_by_server(),
            sessions,
            conflicts: conflicts.into_iter().take(Presence::MAX_CONFLICTS).collect(),
        };
        self.asked(Ask::Write, self.store.greet(&me)).await
    }
}

/// Whether the store has this run of an origin, a later one, or knows that it was taken out.
fn is_told_of(survey: &Survey, origin: &Origin) -> bool {
    let is_known = |heard: &Heard| heard.origin.server() == origin.server();
    survey.origins.iter().any(is_known) || survey.withdrawn.contains(origin.name())
}
