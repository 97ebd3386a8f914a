//! The contract of what proxies share, kept by every store: the same stories on each of them.

mod check;
mod existing;
mod fleet;
mod hostile;
mod log;
mod origins;
mod records;
mod streams;

use std::future::Future;
use std::pin::Pin;

use anyhow::{Context, Result};
use srs_proxy_tests::redis::{Redis, RedisCluster, Sentinel};

use self::fleet::{Fleet, Where};

/// What every store does. Each story has a store of its own.
const STORIES: &[(&str, Story)] = &[
    ("first claims", |fleet| Box::pin(streams::first_claims(fleet))),
    ("an owner in place of another", |fleet| Box::pin(streams::replaced(fleet))),
    ("what a proxy knows comes back", |fleet| Box::pin(streams::comes_back(fleet))),
    ("publishers", |fleet| Box::pin(streams::publishers(fleet))),
    ("rivals", |fleet| Box::pin(streams::rivals(fleet))),
    ("streams that nobody found", |fleet| Box::pin(streams::unfound(fleet))),
    ("a server that starts anew", |fleet| Box::pin(streams::restarted(fleet))),
    ("uses end", |fleet| Box::pin(streams::uses_end(fleet))),
    ("a proxy parts", |fleet| Box::pin(streams::parted(fleet))),
    ("the listing", |fleet| Box::pin(streams::listing(fleet))),
    ("odd names", |fleet| Box::pin(streams::odd_names(fleet))),
    ("origins are announced", |fleet| Box::pin(origins::announced(fleet))),
    ("old news", |fleet| Box::pin(origins::old_news(fleet))),
    ("origins expire", |fleet| Box::pin(origins::expired(fleet))),
    ("a run is withdrawn", |fleet| Box::pin(origins::withdrawn(fleet))),
    ("standings", |fleet| Box::pin(origins::standings(fleet))),
    ("votes", |fleet| Box::pin(origins::votes(fleet))),
    ("proxies", |fleet| Box::pin(origins::proxies(fleet))),
    ("the log", |fleet| Box::pin(log::told(fleet))),
    ("records", |fleet| Box::pin(records::kept(fleet))),
    ("the secret", |fleet| Box::pin(records::secret(fleet))),
];

type Story = fn(Fleet) -> Pin<Box<dyn Future<Output = Result<()>>>>;

#[test]
fn in_memory() -> Result<()> {
    for (name, story) in STORIES {
        let run = async { story(Fleet::in_memory()?).await };
        // Time passes when everybody waits for it.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build()?.block_on(run).context(*name)?;
    }
    Ok(())
}

#[test]
fn in_redis() -> Result<()> {
    fleet::with_redis(|| {
        let redis = Redis::start()?;
        all_in(&Where::single(&redis, None), "")
    })
}

#[test]
fn in_redis_with_a_prefix_and_a_password() -> Result<()> {
    fleet::with_redis(|| {
        // Nothing but what begins with the prefix, and nothing for which a proxy has no use.
        let rules = "~fleet-?1:* +@all -@dangerous +info";
        let redis = Redis::options().password("hunter2").user("proxy", "hunter3", rules).start()?;
        let proxy = Where::single(&redis, Some(("proxy", "hunter3"))).password("hunter2");
        all_in(&proxy, "fleet-?1")
    })
}

#[test]
fn in_redis_behind_a_sentinel() -> Result<()> {
    fleet::with_redis(|| {
        let master = Redis::start()?;
        let _replica = Redis::options().replica_of(&master).start()?;
        let sentinel = Sentinel::start(&master, 1)?;
        all_in(&Where::sentinel(&sentinel, &master), "")
    })
}

#[test]
fn in_a_redis_cluster() -> Result<()> {
    fleet::with_redis(|| {
        let cluster = RedisCluster::start(3)?;
        all_in(&Where::cluster(&cluster), "")
    })
}

fn all_in(place: &Where<'_>, prefix: &str) -> Result<()> {
    for (name, story) in STORIES {
        place.flush()?;
        let begun = std::time::Instant::now();
        fleet::run(story(Fleet::in_redis(place, prefix))).context(*name)?;
        println!("{name}: {:?}", begun.elapsed());
        check::all(place, prefix).with_context(|| format!("what is left of {name}"))?;
    }
    Ok(())
}
