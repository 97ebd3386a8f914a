//! Proxies that share a store, of any kind.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use srs_proxy::cluster::memory::{MemoryLimits, MemoryStore};
use srs_proxy::cluster::redis::{Link, RedisLives, RedisStore};
use srs_proxy::cluster::store::{
    Claim, HOLD_LIFE, Heard, Hold, Left, Over, Owned, ProxyId, Store, VOTE_LIFE,
};
use srs_proxy::config::{RedisNode, RedisShape, RedisTarget, Secret};
use srs_proxy::origin::{Origin, OriginId, registration};
use srs_proxy::stream::{Ask, StreamKey, Vhosts};
use srs_proxy_tests::redis::{Redis, RedisCluster, Sentinel, obstacle};
use srs_proxy_tests::skip;

/// Proxies of one address.
pub(crate) enum Fleet {
    Memory(MemoryStore),
    Redis { target: RedisTarget, prefix: String },
}

/// Long, for a run that is heard of all the time.
pub(crate) const LIFE: Duration = Duration::from_mins(5);

const MEMORY: MemoryLimits = MemoryLimits {
    route_life: Duration::from_hours(24),
    withdrawn_life: Duration::from_mins(10),
    max_routes: 10_000,
    max_records: 1000,
};

impl Fleet {
    pub(crate) fn in_memory() -> Result<Self> {
        Ok(Self::Memory(MemoryStore::new(proxy_id("first")?, MEMORY)))
    }

    pub(crate) fn in_redis(place: &Where<'_>, prefix: &str) -> Self {
        Self::Redis { target: place.target.clone(), prefix: prefix.to_owned() }
    }

    /// The store as this proxy sees it.
    pub(crate) async fn proxy(&self, name: &str) -> Result<Arc<dyn Store>> {
        self.with(name, RedisLives::new(Some(MEMORY.route_life), MEMORY.withdrawn_life)).await
    }

    /// The same; what it says counts for [`Self::hasty_life`] only.
    pub(crate) async fn hasty_proxy(&self, name: &str) -> Result<Arc<dyn Store>> {
        let (hold, vote) = (self.hasty_life(), self.hasty_life());
        let lives = RedisLives::new(Some(MEMORY.route_life), MEMORY.withdrawn_life);
        self.with(name, RedisLives { hold, vote, ..lives }).await
    }

    pub(crate) fn hasty_life(&self) -> Duration {
        match self {
            Self::Memory(_) => HOLD_LIFE.max(VOTE_LIFE),
            Self::Redis { .. } => Duration::from_millis(500),
        }
    }

    /// Until what a hasty proxy has said is over.
    pub(crate) async fn pass(&self) {
        tokio::time::sleep(self.hasty_life() + Duration::from_millis(50)).await;
    }

    async fn with(&self, name: &str, lives: RedisLives) -> Result<Arc<dyn Store>> {
        let me = proxy_id(name)?;
        Ok(match self {
            Self::Memory(store) => Arc::new(store.join(me)),
            Self::Redis { target, prefix } => {
                let link = Link::open(target, DEADLINE);
                link.greet(Duration::from_secs(10)).await?;
                Arc::new(RedisStore::new(link, prefix, me, lives))
            }
        })
    }
}

/// Enough on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) fn proxy_id(name: &str) -> Result<ProxyId> {
    ProxyId::new(name).with_context(|| format!("{name} names no proxy"))
}

/// Where Redis is, and how it is seen from outside.
pub(crate) struct Where<'a> {
    pub(crate) target: RedisTarget,
    /// Those that are written to.
    pub(crate) masters: Vec<&'a Redis>,
    /// Of the default user.
    password: Option<&'a str>,
}

impl<'a> Where<'a> {
    pub(crate) fn single(redis: &'a Redis, login: Option<(&str, &str)>) -> Self {
        let shape = RedisShape::Single { node: node(redis.address()), db: 0 };
        let mut place = Self::of(shape, vec![redis]);
        place.target.user = login.map(|(user, _)| user.to_owned());
        place.target.password = login.map(|(_, password)| Secret::new(password));
        place
    }

    /// With this password of the default user.
    pub(crate) fn password(self, password: &'a str) -> Self {
        Self { password: Some(password), ..self }
    }

    pub(crate) fn sentinel(sentinel: &Sentinel, master: &'a Redis) -> Self {
        let nodes = vec![node(sentinel.address())];
        let shape = RedisShape::Sentinel { nodes, master: Sentinel::MASTER.into(), db: 0 };
        Self::of(shape, vec![master])
    }

    pub(crate) fn cluster(cluster: &'a RedisCluster) -> Self {
        let nodes = cluster.nodes.iter().map(|it| node(it.address())).collect();
        Self::of(RedisShape::Cluster { nodes }, cluster.nodes.iter().collect())
    }

    fn of(shape: RedisShape, masters: Vec<&'a Redis>) -> Self {
        let target =
            RedisTarget { shape, user: None, password: None, sentinel_password: None, tls: None };
        Self { target, masters, password: None }
    }

    /// As the default user, at every master.
    pub(crate) fn connections(&self) -> Result<Vec<redis::Connection>> {
        let password = self.password.map(|it| format!(":{it}@")).unwrap_or_default();
        let connect = |it: &&Redis| {
            let client = redis::Client::open(format!("redis://{password}{}", it.address()))?;
            Ok(client.get_connection()?)
        };
        self.masters.iter().map(connect).collect()
    }

    pub(crate) fn flush(&self) -> Result<()> {
        let flush = |mut it: redis::Connection| redis::cmd("FLUSHALL").exec(&mut it);
        Ok(self.connections()?.into_iter().try_for_each(flush)?)
    }
}

fn node(address: std::net::SocketAddr) -> RedisNode {
    RedisNode { host: address.ip().to_string(), port: address.port() }
}

/// Runs a test that needs Redis; skips it where there is none.
pub(crate) fn with_redis(story: impl FnOnce() -> Result<()>) -> Result<()> {
    match obstacle() {
        Some(why) => skip(&why),
        None => story(),
    }
}

pub(crate) fn run<T>(story: impl Future<Output = Result<T>>) -> Result<T> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build()?.block_on(story)
}

pub(crate) fn stream(name: &str) -> Result<StreamKey> {
    let ask = Ask::Rtmp { tc_url: "rtmp://127.0.0.1/live", app: "", stream: name };
    Ok(StreamKey::new(&ask, &Vhosts::default())?)
}

/// A run of a server.
pub(crate) fn origin(server: &str, run: &str) -> Result<Origin> {
    let body = serde_json::json!({
        "ip": "192.0.2.7", "server": server, "service": run, "pid": "7", "rtmp": ["1935"],
        "http": ["8080"], "api": ["1985"], "srt": ["udp://0.0.0.0:10080"],
        "rtc": ["udp://0.0.0.0:8000", "tcp://0.0.0.0:8000"],
    });
    Ok(registration::parse(body.to_string().as_bytes())?)
}

pub(crate) fn heard(server: &str, run: &str) -> Result<Heard> {
    Ok(Heard { origin: Arc::new(origin(server, run)?), life: LIFE })
}

/// The run `x` of a server.
pub(crate) fn id(server: &str) -> OriginId {
    OriginId { server: server.into(), service: "x".to_owned(), pid: "7".to_owned() }
}

pub(crate) fn claim(stream: &StreamKey, server: &str) -> Claim {
    Claim { stream: stream.clone(), origin: id(server), over: None }
}

/// A claim in the place of the run `x` of another server.
pub(crate) fn over(stream: &StreamKey, server: &str, other: &str, is_out: bool) -> Claim {
    let over = Over { origin: id(other).to_string().into(), is_out, has_company: true };
    Claim { over: Some(over), ..claim(stream, server) }
}

/// A use by players that have found the stream.
pub(crate) fn hold(stream: &StreamKey, server: &str) -> Hold {
    let origin = id(server);
    let stream = stream.clone();
    Hold { stream, origin, is_found: true, is_published: false, is_out: false }
}

pub(crate) fn published(stream: &StreamKey, server: &str) -> Hold {
    Hold { is_published: true, ..hold(stream, server) }
}

pub(crate) fn left(stream: &StreamKey, server: &str, is_unfound: bool) -> Left {
    Left { stream: stream.clone(), origin: id(server), is_unfound }
}

/// Server of the owner, and whether that is new.
pub(crate) fn of(owned: &Owned) -> (&str, bool) {
    let server = OriginId::server_of(&owned.origin).unwrap_or(&owned.origin);
    (server, owned.is_changed)
}
