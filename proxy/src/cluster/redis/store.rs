//! The store in Redis: each call as commands and scripts.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue};
use tokio::time::Instant;
use tracing::warn;

use super::keys::Keys;
use super::link::{Link, LinkError, Script};
use super::origins::Parts;
use super::record;
use super::scripts::Scripts;
use crate::cluster::store::{
    Answer, Change, Claim, HOLD_LIFE, Heard, HlsRecord, Hold, Left, Mark, News, OriginName, Owned,
    Presence, ProxyId, Store, StoreError, Survey, UNFOUND_LIFE, VOTE_LIFE, Vote, WebrtcRecord,
};
use crate::origin::{OriginId, ServerName, Standing};
use crate::stream::StreamKey;
use crate::telemetry::Seldom;

/// How long what is kept in Redis is kept.
#[derive(Clone, Copy, Debug)]
pub struct RedisLives {
    /// A stream belongs to its origin this long after its last use; none for ever.
    pub route: Option<Duration>,
    /// A run that was withdrawn stays out this long after it was last heard.
    pub withdrawn: Duration,
    /// A stream that none has found belongs to its origin this long after its last use.
    pub unfound: Duration,
    /// A proxy's use of a stream, and its presence.
    pub hold: Duration,
    /// A proxy's word that an origin cannot be reached.
    pub vote: Duration,
}

impl RedisLives {
    /// As the contract has them.
    pub fn new(route: Option<Duration>, withdrawn: Duration) -> Self {
        Self { route, withdrawn, unfound: UNFOUND_LIFE, hold: HOLD_LIFE, vote: VOTE_LIFE }
    }
}

/// What one proxy sees of the store in Redis.
pub struct RedisStore {
    pub(super) me: ProxyId,
    pub(super) keys: Keys,
    pub(super) lives: RedisLives,
    pub(super) scripts: Scripts,
    pub(super) known: Mutex<Parts>,
    /// The streams that this proxy may hold, and since when it has last said so.
    pub(super) held: Mutex<HashMap<StreamKey, Instant>>,
    pub(super) link: Link,
    skipped: Seldom,
}

impl RedisStore {
    /// Over this link, with this prefix of all keys, which may be empty.
    pub fn new(link: Link, prefix: &str, me: ProxyId, lives: RedisLives) -> Self {
        Self {
            me,
            keys: Keys::new(prefix),
            lives,
            scripts: Scripts::new(),
            known: Mutex::default(),
            held: Mutex::default(),
            link,
            skipped: Seldom::default(),
        }
    }

    /// The answer to a command on a key.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        key: &str,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        self.link.query(command).await.map_err(|error| failed(key, error))
    }

    /// The answer of a script on keys of one slot.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
    ) -> Result<T, StoreError> {
        let key = keys.first().copied().unwrap_or_default();
        self.link.script(script, keys, args).await.map_err(|error| failed(key, error))
    }

    /// The beginning of a text.
    pub(super) async fn read(&self, key: &str, most: usize) -> Result<Option<Text>, StoreError> {
        let most = most.to_string();
        let args = [most.as_bytes()];
        let answer = self.script(&self.scripts.read, &[key], &args).await?;
        let (length, life, bytes): (usize, i64, Vec<u8>) = answer;
        // -2 says that there is no key, -1 that it stays.
        let life = match life {
            -2 => return Ok(None),
            life => u64::try_from(life).ok().map(Duration::from_millis),
        };
        Ok(Some(Text { is_cut: length > bytes.len(), bytes, life }))
    }

    /// A text of usual length; another one counts as none.
    pub(super) async fn record(&self, key: &str) -> Result<Option<Text>, StoreError> {
        let text = self.read(key, record::MAX_BYTES).await?;
        Ok(text.filter(|it| {
            if it.is_cut {
                self.skip(key, &"too long");
            }
            !it.is_cut
        }))
    }

    /// Says that a value is passed over.
    pub(super) fn skip(&self, key: &str, why: &dyn std::fmt::Display) {
        if let Some(unsaid) = self.skipped.say(std::time::Instant::now()) {
            let key: String = key.chars().take(200).collect();
            warn!(key, %why, unsaid, "a value in Redis is no good and is passed over");
        }
    }

    /// Makes of a text another one, or none of it, if it still is as it was.
    pub(super) async fn swap(
        &self,
        key: &str,
        former: Option<&[u8]>,
        text: &str,
        life: Duration,
    ) -> Result<bool, StoreError> {
        let is_there = flag(former.is_some());
        let life = millis(life);
        let args = [is_there, former.unwrap_or_default(), text.as_bytes(), life.as_bytes()];
        self.script(&self.scripts.swap, &[key], &args).await
    }
}

/// The beginning of a text in Redis.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    /// Whether it goes on.
    pub(super) is_cut: bool,
    /// How long it still stays; none for ever.
    pub(super) life: Option<Duration>,
}

/// The answers to all, in their order. Keys of different slots of a Cluster need commands of their
/// own; so many are on their way at once.
pub(super) async fn all<F: Future>(asked: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let asked: Vec<F> = asked.into_iter().collect();
    stream::iter(asked).buffered(AT_ONCE).collect().await
}

const AT_ONCE: usize = 64;

/// A truth, as scripts are told.
pub(super) fn flag(it: bool) -> &'static [u8] {
    if it { b"1" } else { b"0" }
}

/// A time in ms, as Redis is told, of which none is too short.
pub(super) fn millis(life: Duration) -> String {
    life.as_millis().max(1).to_string()
}

/// What the error of a command on a key says of the store.
fn failed(key: &str, error: LinkError) -> StoreError {
    let of_key = |what: &str| format!("{key}: {what}").chars().take(400).collect();
    match error {
        LinkError::Late => StoreError::Late,
        LinkError::Down(why) => StoreError::Down(why.to_string()),
        LinkError::Refused(why) => StoreError::Refused(why.to_string()),
        LinkError::Malformed(what) => StoreError::Malformed(of_key(&what)),
        LinkError::Server { code, text } => match &*code {
            "MALFORMED" => StoreError::Malformed(of_key(&text)),
            // The whole server, or its part of the Cluster, and for now only.
            "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "READONLY" => {
                StoreError::Down(format!("{code} {text}"))
            }
            _ => StoreError::Failed(of_key(&format!("{code} {text}"))),
        },
    }
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { me, keys, lives, .. } = self;
        f.debug_struct("RedisStore")
            .field("me", me)
            .field("keys", keys)
            .field("lives", lives)
            .finish()
    }
}

impl Store for RedisStore {
    fn as_str(&self) -> &'static str {
        "redis"
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn survey(&self) -> Answer<'_, Survey> {
        self.all_origins().boxed()
    }

    fn origin<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Heard>> {
        self.one_origin(name).boxed()
    }

    fn announce<'a>(&'a self, heard: &'a Heard, is_old: bool) -> Answer<'a, bool> {
        self.register(heard, is_old).boxed()
    }

    fn withdraw<'a>(&'a self, origin: &'a OriginId) -> Answer<'a, ()> {
        self.take_out(origin).boxed()
    }

    fn stand<'a>(&'a self, server: &'a ServerName, standing: Standing) -> Answer<'a, ()> {
        self.want(server, standing).boxed()
    }

    fn vote<'a>(&'a self, vote: &'a Vote, is_down: bool) -> Answer<'a, ()> {
        self.note_vote(vote, is_down).boxed()
    }

    fn greet<'a>(&'a self, me: &'a Presence) -> Answer<'a, ()> {
        self.note_presence(me).boxed()
    }

    fn part(&self) -> Answer<'_, ()> {
        self.forget_me().boxed()
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Owned> {
        self.ask_for(claim).boxed()
    }

    fn hold<'a>(&'a self, hold: &'a Hold) -> Answer<'a, Owned> {
        self.note_use(hold).boxed()
    }

    fn leave<'a>(&'a self, left: &'a Left) -> Answer<'a, Option<u64>> {
        self.end_use(left).boxed()
    }

    fn routes(&self, most: usize) -> Answer<'_, Vec<(StreamKey, OriginName)>> {
        self.all_routes(most).boxed()
    }

    fn tell<'a>(&'a self, changes: &'a [Change]) -> Answer<'a, ()> {
        self.append(changes).boxed()
    }

    fn changes<'a>(&'a self, mark: Option<&'a Mark>) -> Answer<'a, News> {
        self.since(mark).boxed()
    }

    fn keep_webrtc<'a>(&'a self, record: &'a WebrtcRecord) -> Answer<'a, ()> {
        self.write_webrtc(record).boxed()
    }

    fn webrtc<'a>(&'a self, name: &'a str) -> Answer<'a, Option<WebrtcRecord>> {
        self.read_webrtc(name).boxed()
    }

    fn drop_webrtc<'a>(&'a self, record: &'a WebrtcRecord) -> Answer<'a, ()> {
        self.delete_webrtc(record).boxed()
    }

    fn keep_hls<'a>(&'a self, record: &'a HlsRecord) -> Answer<'a, ()> {
        self.write_hls(record).boxed()
    }

    fn hls<'a>(&'a self, id: &'a str) -> Answer<'a, Option<StreamKey>> {
        self.read_hls(id).boxed()
    }

    fn secret(&self, proposed: [u8; 32]) -> Answer<'_, [u8; 32]> {
        self.agree(proposed).boxed()
    }
}
