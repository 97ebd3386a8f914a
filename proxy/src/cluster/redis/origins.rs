//! Origins and proxies in Redis: who is there, and what is wanted of whom.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures_util::future::{join, join3, try_join, try_join4};
use redis::cmd;

use super::record;
use super::store::{RedisStore, Text, all, flag, millis};
use crate::cluster::store::{Heard, OriginName, Presence, ProxyId, StoreError, Survey, Vote};
use crate::origin::{Origin, OriginId, ServerName, Service, Standing};

/// An origin's key lives this long after it was heard, as the existing proxy has it.
const SERVER_LIFE: Duration = Duration::from_mins(5);

/// Most names of a kind that are read.
const MAX_NAMES: usize = 4096;

/// How often a value that others change at the same time is read again.
const TRIES: usize = 4;

impl RedisStore {
    pub(super) async fn all_origins(&self) -> Result<Survey, StoreError> {
        let (withdrawn, votes, there) =
            (self.keys.withdrawn(), self.keys.votes(), self.keys.proxies());
        let noted = join3(self.noted(&withdrawn), self.noted(&votes), self.noted(&there));
        let (listed, standings, noted) = join3(self.listed(), self.standings(), noted).await;
        let listed = listed?;
        let mut trouble = None;
        let (standings, withdrawn, votes, there) = {
            let mut known = self.known.lock();
            let Parts { standings: of_servers, withdrawn, votes, there } = &mut *known;
            (
                last(of_servers, standings, &mut trouble)?,
                last(withdrawn, noted.0, &mut trouble)?,
                last(votes, noted.1, &mut trouble)?,
                last(there, noted.2, &mut trouble)?,
            )
        };
        let is_in = |name: &OriginName| !withdrawn.iter().any(|it| **it == **name);
        let names = listed.keys.iter().filter_map(|key| self.keys.origin_of(key)).filter(is_in);
        let names: Vec<OriginName> = names.collect();
        let there: Vec<ProxyId> = there.iter().filter_map(|it| ProxyId::new(it)).collect();
        let (origins, proxies) = join(
            all(names.iter().map(|name| self.server(name))),
            all(there.iter().map(|proxy| self.presence(proxy))),
        )
        .await;
        let origins: Vec<Option<Heard>> = origins.into_iter().collect::<Result<_, _>>()?;
        let mut origins: Vec<Heard> = origins.into_iter().flatten().collect();
        // The existing proxy leaves a server's earlier run there until it expires.
        let mut servers = HashSet::new();
        origins.sort_by_key(|it| Reverse(it.life));
        origins.retain(|it| servers.insert(it.origin.server().clone()));
        let proxies: Vec<Option<Presence>> = proxies.into_iter().collect::<Result<_, _>>()?;
        Ok(Survey {
            origins,
            standings,
            withdrawn: withdrawn.iter().map(|it| it.as_str().into()).collect(),
            votes: votes.iter().filter_map(|it| read_vote(it)).collect(),
            proxies: proxies.into_iter().flatten().collect(),
            trouble,
        })
    }

    pub(super) async fn one_origin(&self, name: &str) -> Result<Option<Heard>, StoreError> {
        let out = self.keys.withdrawn();
        let (is_out, heard) = join(self.is_noted(&out, name), self.server(name)).await;
        let is_out = last(&mut false, is_out, &mut None)?;
        Ok(heard?.filter(|_| !is_out))
    }

    /// The text of a key; none if there is none, or the key holds something else.
    async fn usable(&self, key: &str) -> Result<Option<Text>, StoreError> {
        match self.record(key).await {
            Err(error) if !error.is_loss() => {
                self.skip(key, &error);
                Ok(None)
            }
            read => read,
        }
    }

    /// An origin by its key; none if that has no origin.
    async fn server(&self, name: &str) -> Result<Option<Heard>, StoreError> {
        let key = self.keys.server(name);
        let Some(value) = self.usable(&key).await? else { return Ok(None) };
        match record::read_server(&value.bytes) {
            Ok(origin) if **origin.name() == *name => {
                let life = value.life.unwrap_or(SERVER_LIFE);
                Ok(Some(Heard { origin: origin.into(), life }))
            }
            Ok(other) => {
                self.skip(&key, &format_args!("it is of {}", other.name()));
                Ok(None)
            }
            Err(error) => {
                self.skip(&key, &error);
                Ok(None)
            }
        }
    }

    pub(super) async fn register(&self, heard: &Heard, is_old: bool) -> Result<bool, StoreError> {
        let Heard { origin, life } = heard;
        let out = self.keys.withdrawn();
        let is_out = self.note(&out, origin.name(), self.lives.withdrawn, true).await;
        if last(&mut false, is_out, &mut None)? {
            return Ok(false);
        }
        let key = self.keys.server(origin.name());
        let (former, listed) = try_join(self.record(&key), self.listed()).await?;
        let is_run =
            |it: &&String| self.keys.origin_of(it).is_some_and(|it| origin.id().is_server_of(&it));
        let runs: Vec<&String> = listed.keys.iter().filter(is_run).collect();
        if is_old {
            let is_there = all(runs.iter().map(|run| self.exists(run))).await;
            let is_there: Vec<bool> = is_there.into_iter().collect::<Result<_, _>>()?;
            if is_there.contains(&true) {
                return Ok(true);
            }
            // The list may have lost a key that is there: the existing proxy writes what it has read.
            if former.is_none() {
                let value = record::write_server(origin, SystemTime::now(), None);
                if !self.swap(&key, None, &value, *life).await? {
                    return Ok(true);
                }
            }
        } else {
            self.write_server(&key, origin, *life, former).await?;
        }
        if *runs != [&key] || listed.is_cut {
            let server = self.keys.server(&format!("{}-", origin.server()));
            self.enlist(&key, &server, is_old, &listed.keys).await?;
        }
        Ok(true)
    }

    /// Writes an origin's value, with what others have put into it.
    async fn write_server(
        &self,
        key: &str,
        origin: &Origin,
        life: Duration,
        mut former: Option<Text>,
    ) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let bytes = former.as_ref().map(|it| it.bytes.as_slice());
            let value = record::write_server(origin, SystemTime::now(), bytes);
            if self.swap(key, bytes, &value, life).await? {
                return Ok(());
            }
            former = self.record(key).await?;
        }
        self.set(key, &record::write_server(origin, SystemTime::now(), None), life).await
    }

    /// Puts an origin into the list in place of its other runs; those that are gone leave it.
    async fn enlist(
        &self,
        key: &str,
        server: &str,
        is_old: bool,
        listed: &[String],
    ) -> Result<(), StoreError> {
        let is_ours = |it: &&String| *it != key && self.keys.origin_of(it).is_some();
        let others: Vec<&String> = listed.iter().filter(is_ours).collect();
        let is_there = all(others.iter().map(|it| self.exists(it))).await;
        let mut gone = Vec::new();
        for (other, is_there) in others.into_iter().zip(is_there) {
            if !is_there? {
                gone.push(other.as_str());
            }
        }
        let Some(former) = self.change_list(key, server, is_old, &gone).await? else {
            return self.delete(key).await;
        };
        let deleted = all(former.iter().map(|it| self.delete(it))).await;
        deleted.into_iter().collect::<Result<(), _>>()?;
        // One that came back in between was in the list still, and is not any more.
        let is_back = all(gone.iter().map(|it| self.exists(it))).await;
        for (name, is_back) in gone.into_iter().zip(is_back) {
            if is_back? && !former.iter().any(|it| it == name) {
                self.change_list(name, "", false, &[]).await?;
            }
        }
        Ok(())
    }

    /// Changes the list of all origins in one step; the answer is the keys of the other runs that
    /// had to leave it, or none if another run is there and `is_old`.
    async fn change_list(
        &self,
        key: &str,
        server: &str,
        is_old: bool,
        gone: &[&str],
    ) -> Result<Option<Vec<String>>, StoreError> {
        let (bytes, names) = (record::MAX_LIST_BYTES.to_string(), record::MAX_SERVERS.to_string());
        let mut args = vec![
            key.as_bytes(),
            server.as_bytes(),
            flag(is_old),
            bytes.as_bytes(),
            names.as_bytes(),
        ];
        args.extend(gone.iter().map(|it| it.as_bytes()));
        let said: Vec<String> =
            self.script(&self.scripts.enlist, &[&self.keys.servers()], &args).await?;
        let mut said = said.into_iter();
        Ok((said.next().as_deref() == Some("1")).then(|| said.collect()))
    }

    /// The keys of all origins.
    async fn listed(&self) -> Result<Listed, StoreError> {
        let key = self.keys.servers();
        let text = match self.read(&key, record::MAX_LIST_BYTES).await {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Listed { keys: Vec::new(), is_cut: false }),
            Err(error) if error.is_loss() => return Err(error),
            Err(error) => {
                self.skip(&key, &error);
                return Ok(Listed { keys: Vec::new(), is_cut: true });
            }
        };
        if let Some(keys) = record::read_list(&text.bytes, text.is_cut) {
            return Ok(Listed { is_cut: text.is_cut || keys.len() == record::MAX_SERVERS, keys });
        }
        self.skip(&key, &"no list");
        Ok(Listed { keys: Vec::new(), is_cut: true })
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        self.query(key, cmd("EXISTS").arg(key)).await
    }

    pub(super) async fn take_out(&self, origin: &OriginId) -> Result<(), StoreError> {
        let name = origin.to_string();
        self.note(&self.keys.withdrawn(), &name, self.lives.withdrawn, false).await?;
        let key = self.keys.server(&name);
        self.delete(&key).await?;
        self.change_list("", "", false, &[&key]).await?;
        Ok(())
    }

    pub(super) async fn want(
        &self,
        server: &ServerName,
        standing: Standing,
    ) -> Result<(), StoreError> {
        let key = self.keys.standings();
        if standing != Standing::Active {
            let mut set = cmd("HSET");
            set.arg(&key).arg(server.as_str()).arg(standing.as_str());
            return self.query(&key, &set).await;
        }
        self.query::<()>(&key, cmd("HDEL").arg(&key).arg(server.as_str())).await?;
        let out = self.keys.withdrawn();
        let runs = self.noted(&out).await?;
        let again: Vec<&String> = runs.iter().filter(|run| server.is_of(run)).collect();
        self.drop_noted(&out, &again).await
    }

    async fn standings(&self) -> Result<Vec<(ServerName, Standing)>, StoreError> {
        let most = MAX_NAMES.to_string();
        let key = self.keys.standings();
        let said: Vec<Vec<u8>> =
            self.script(&self.scripts.words, &[&key], &[most.as_bytes()]).await?;
        let standing = |pair: &[Vec<u8>]| {
            let [server, word] = pair else { return None };
            let word = |it: &Standing| it.as_str().as_bytes() == word;
            let standing = Standing::ALL.into_iter().find(word)?;
            Some((ServerName::from(std::str::from_utf8(server).ok()?), standing))
        };
        Ok(said.chunks_exact(2).filter_map(standing).collect())
    }

    pub(super) async fn note_vote(&self, vote: &Vote, is_down: bool) -> Result<(), StoreError> {
        let life = if is_down { self.lives.vote } else { Duration::ZERO };
        let vote = written_vote(&self.me, vote);
        self.note(&self.keys.votes(), &vote, life, false).await?;
        Ok(())
    }

    pub(super) async fn note_presence(&self, me: &Presence) -> Result<(), StoreError> {
        self.forget_uses();
        let value = record::json(me);
        let (key, there) = (self.keys.proxy(self.me.as_str()), self.keys.proxies());
        let note = self.note(&there, self.me.as_str(), self.lives.hold, false);
        try_join(self.set(&key, &value, self.lives.hold), note).await?;
        Ok(())
    }

    async fn presence(&self, proxy: &ProxyId) -> Result<Option<Presence>, StoreError> {
        let key = self.keys.proxy(proxy.as_str());
        let Some(value) = self.usable(&key).await? else { return Ok(None) };
        match serde_json::from_slice::<Presence>(&value.bytes) {
            Ok(mut presence) if presence.proxy == *proxy => {
                presence.conflicts.truncate(Presence::MAX_CONFLICTS);
                Ok(Some(presence))
            }
            Ok(_) => Ok(None),
            Err(error) => {
                self.skip(&key, &error);
                Ok(None)
            }
        }
    }

    pub(super) async fn forget_me(&self) -> Result<(), StoreError> {
        let me = self.me.as_str();
        let (there, votes, presence) =
            (self.keys.proxies(), self.keys.votes(), self.keys.proxy(me));
        let votes = async {
            let cast = self.noted(&votes).await?;
            let is_mine = |it: &&String| read_vote(it).is_some_and(|(proxy, _)| proxy == self.me);
            self.drop_noted(&votes, &cast.iter().filter(is_mine).collect::<Vec<_>>()).await
        };
        let gone = self.note(&there, me, Duration::ZERO, false);
        try_join4(gone, self.delete(&presence), votes, self.end_uses()).await?;
        Ok(())
    }

    /// Keeps a name for some time, or drops it if that is none; whether it was there.
    async fn note(
        &self,
        key: &str,
        name: &str,
        life: Duration,
        only_again: bool,
    ) -> Result<bool, StoreError> {
        let life = if life.is_zero() { "0".to_owned() } else { millis(life) };
        let args = [name.as_bytes(), life.as_bytes(), flag(only_again)];
        self.script(&self.scripts.note, &[key], &args).await
    }

    /// The names that are kept.
    async fn noted(&self, key: &str) -> Result<Vec<String>, StoreError> {
        let most = MAX_NAMES.to_string();
        let names: Vec<Vec<u8>> =
            self.script(&self.scripts.noted, &[key], &[most.as_bytes()]).await?;
        Ok(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect())
    }

    async fn is_noted(&self, key: &str, name: &str) -> Result<bool, StoreError> {
        Ok(self.noted(key).await?.iter().any(|it| it == name))
    }

    async fn drop_noted(&self, key: &str, names: &[&String]) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        self.query(key, cmd("ZREM").arg(key).arg(names)).await
    }
}

/// What was read last of keys that all proxies share: one that cannot be read costs no other.
#[derive(Debug, Default)]
pub(super) struct Parts {
    standings: Vec<(ServerName, Standing)>,
    withdrawn: Vec<String>,
    votes: Vec<String>,
    there: Vec<String>,
}

/// What was read now, or else what was `known` last, with the reason. The error is that the store is
/// lost.
fn last<T: Clone>(
    known: &mut T,
    read: Result<T, StoreError>,
    trouble: &mut Option<StoreError>,
) -> Result<T, StoreError> {
    match read {
        Ok(read) => known.clone_from(&read),
        Err(error) if error.is_loss() => return Err(error),
        Err(error) => *trouble = Some(error),
    }
    Ok(known.clone())
}

/// What was read of the list of all origins.
struct Listed {
    keys: Vec<String>,
    /// Whether it has more, or what cannot be read, so that it is to be written anew.
    is_cut: bool,
}

/// Proxy, service and origin of a vote.
fn written_vote(proxy: &ProxyId, Vote { origin, service }: &Vote) -> String {
    format!("{proxy}|{}|{origin}", service.as_str())
}

fn read_vote(text: &str) -> Option<(ProxyId, Vote)> {
    let (proxy, rest) = text.split_once('|')?;
    let (word, origin) = rest.split_once('|')?;
    let service = Service::ALL.into_iter().find(|it| it.as_str() == word)?;
    Some((ProxyId::new(proxy)?, Vote { origin: origin.into(), service }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_is_read_as_it_was_written() {
        let proxy = ProxyId::new("edge-1.x").unwrap();
        for service in Service::ALL {
            let vote = Vote { origin: "vid|1-x-7".into(), service };
            assert_eq!(read_vote(&written_vote(&proxy, &vote)), Some((proxy.clone(), vote)));
        }
        for malformed in ["", "a", "a|b|c", "a|srt", "|srt|o"] {
            assert_eq!(read_vote(malformed), None, "{malformed}");
        }
    }
}
