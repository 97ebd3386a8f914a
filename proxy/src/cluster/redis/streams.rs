//! Streams in Redis: whose they are, and who uses them there.

use std::collections::BTreeMap;

use redis::{Value, cmd};
use tokio::time::Instant;

use super::link::Script;
use super::record;
use super::store::{RedisStore, all, flag};
use crate::cluster::store::{Claim, Hold, Holder, Left, OriginName, Owned, ProxyId, StoreError};
use crate::origin::OriginId;
use crate::stream::StreamKey;

impl RedisStore {
    pub(super) async fn ask_for(&self, claim: &Claim) -> Result<Owned, StoreError> {
        let over = claim.over.as_ref();
        let replaced = over.map_or("", |it| &*it.origin).as_bytes();
        let is_out = flag(over.is_some_and(|it| it.is_out));
        let has_company = flag(over.is_some_and(|it| it.has_company));
        let Claim { stream, origin, .. } = claim;
        self.used(stream);
        let said = self
            .route(&self.scripts.claim, stream, origin, &[replaced, is_out, has_company])
            .await?;
        owned(stream, said)
    }

    pub(super) async fn note_use(&self, hold: &Hold) -> Result<Owned, StoreError> {
        let Hold { stream, origin, .. } = hold;
        let flags = [flag(hold.is_found), flag(hold.is_published), flag(hold.is_out)];
        self.used(stream);
        owned(stream, self.route(&self.scripts.hold, stream, origin, &flags).await?)
    }

    pub(super) async fn end_use(&self, left: &Left) -> Result<Option<u64>, StoreError> {
        let Left { stream, origin, is_unfound } = left;
        let said = self.route(&self.scripts.leave, stream, origin, &[flag(*is_unfound)]).await?;
        Ok(said.first().and_then(|epoch| epoch.parse().ok()))
    }

    /// Every use of this proxy ends.
    pub(super) async fn end_uses(&self) -> Result<(), StoreError> {
        let held = std::mem::take(&mut *self.held.lock());
        let streams: Vec<_> = held.into_iter().filter(|(_, at)| self.may_hold(*at)).collect();
        let end = async |stream: StreamKey| {
            let beside = self.keys.claim(&self.keys.route(&stream));
            let args = [self.me.as_str().as_bytes()];
            self.script::<()>(&self.scripts.part, &[&beside], &args).await
        };
        all(streams.into_iter().map(|(stream, _)| end(stream))).await.into_iter().collect()
    }

    /// Forgets which streams were used, as far as Redis has forgotten it.
    pub(super) fn forget_uses(&self) {
        self.held.lock().retain(|_, at| self.may_hold(*at));
    }

    fn used(&self, stream: &StreamKey) {
        self.held.lock().insert(stream.clone(), Instant::now());
    }

    fn may_hold(&self, since: Instant) -> bool {
        since.elapsed() <= self.lives.hold
    }

    /// Runs one of the scripts of a stream's route.
    async fn route(
        &self,
        script: &Script,
        stream: &StreamKey,
        origin: &OriginId,
        more: &[&[u8]],
    ) -> Result<Vec<String>, StoreError> {
        let url = self.keys.route(stream);
        let beside = self.keys.claim(&url);
        let name = origin.to_string();
        let route_life = self.lives.route.map_or(0, |it| it.as_millis().max(1)).to_string();
        let hold_life = self.lives.hold.as_millis().to_string();
        let unfound_life = self.lives.unfound.as_millis().to_string();
        let mut args = vec![
            self.me.as_str().as_bytes(),
            self.keys.server_head().as_bytes(),
            name.as_bytes(),
            origin.server.as_str().as_bytes(),
            route_life.as_bytes(),
            hold_life.as_bytes(),
            unfound_life.as_bytes(),
        ];
        args.extend(more);
        let said = self.script(script, &[&url, &beside], &args).await;
        // A dead node of a Cluster takes only its own streams with it. That all nodes are dead is
        // known by the keys that every proxy reads.
        said.map_err(|error| match error {
            StoreError::Late | StoreError::Down(_) if self.link.is_cluster() => {
                StoreError::Failed(format!("the node of {stream}: {error}"))
            }
            error => error,
        })
    }

    pub(super) async fn all_routes(
        &self,
        most: usize,
    ) -> Result<Vec<(StreamKey, OriginName)>, StoreError> {
        let mut routes = BTreeMap::new();
        for node in self.nodes().await? {
            let mut cursor = "0".to_owned();
            while routes.len() < most {
                let (next, streams) = self.scan(&node, &cursor).await?;
                let owners = all(streams.iter().map(|stream| self.owner(stream))).await;
                for (stream, owner) in streams.into_iter().zip(owners) {
                    if let Some(owner) = owner? {
                        routes.insert(stream, owner);
                    }
                }
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(routes.into_iter().take(most).collect())
    }

    /// The owner of a stream; none if it has none that a proxy has written.
    async fn owner(&self, stream: &StreamKey) -> Result<Option<OriginName>, StoreError> {
        let key = self.keys.route(stream);
        let mut get = cmd("GETRANGE");
        get.arg(&key).arg(0).arg(MAX_OWNER);
        let value: Vec<u8> = match self.query(&key, &get).await {
            Ok(value) => value,
            Err(error) if error.is_loss() => return Err(error),
            Err(error) => {
                self.skip(&key, &error);
                return Ok(None);
            }
        };
        let value = String::from_utf8(value).ok().filter(|it| it.len() <= MAX_OWNER);
        Ok(value.and_then(|it| self.keys.origin_of(&it)).filter(|it| is_name(it)))
    }

    /// The next streams that have an owner, and where to go on; `0` at the end.
    async fn scan(&self, node: &str, cursor: &str) -> Result<(String, Vec<StreamKey>), StoreError> {
        let pattern = self.keys.routes();
        let args = [cursor.as_bytes(), pattern.as_bytes(), b"1000"];
        let answer = self.script(&self.scripts.scan, &[node], &args).await?;
        let (next, keys): (String, Vec<Vec<u8>>) = answer;
        let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok());
        let stream = |key: String| record::stream(self.keys.stream_of(&key)?.as_str());
        Ok((next, keys.filter_map(stream).collect()))
    }

    /// A key by which each master can be asked, one for the only server.
    async fn nodes(&self) -> Result<Vec<String>, StoreError> {
        let mut slots = cmd("CLUSTER");
        slots.arg("SLOTS");
        let ranges: Vec<Value> = match self.query("CLUSTER SLOTS", &slots).await {
            Ok(ranges) => ranges,
            Err(error @ (StoreError::Late | StoreError::Down(_))) => return Err(error),
            // It is no Cluster; whether it is one may also be none of this user's business.
            Err(_) => return Ok(self.keys.scan(0).into_iter().collect()),
        };
        let mut first_slots = BTreeMap::new();
        for (first, master) in ranges.iter().filter_map(master) {
            first_slots.entry(master).or_insert(first);
        }
        Ok(first_slots.into_values().filter_map(|slot| self.keys.scan(slot)).collect())
    }
}

/// The first slot of a range, and its master's id.
fn master(range: &Value) -> Option<(u16, &[u8])> {
    let Value::Array(range) = range else { return None };
    let [Value::Int(first), _, Value::Array(master), ..] = range.as_slice() else { return None };
    let [_, _, Value::BulkString(id), ..] = master.as_slice() else { return None };
    Some((u16::try_from(*first).ok()?, id))
}

/// Longest value of a stream's owner, in bytes.
const MAX_OWNER: usize = 1024;

/// What a script of a stream's route has said: owner, epoch, whether that is new, and the rivals.
fn owned(stream: &StreamKey, said: Vec<String>) -> Result<Owned, StoreError> {
    let malformed = || StoreError::Malformed(format!("the owner of {stream}"));
    let mut said = said.into_iter();
    let mut next = || said.next().ok_or_else(malformed);
    let (origin, epoch, is_changed) = (next()?, next()?, next()?);
    if !is_name(&origin) {
        return Err(malformed());
    }
    let mut rivals = Vec::new();
    while let (Ok(proxy), Ok(origin)) = (next(), next()) {
        rivals.extend(
            ProxyId::new(&proxy).map(|proxy| Holder { proxy, origin: origin.as_str().into() }),
        );
    }
    Ok(Owned {
        origin: origin.into(),
        epoch: epoch.parse().map_err(|_| malformed())?,
        is_changed: is_changed == "1",
        rivals,
    })
}

fn is_name(origin: &str) -> bool {
    !origin.is_empty() && !origin.chars().any(char::is_control)
}
