//! Who is there, and what is wanted of whom.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use srs_proxy::cluster::store::{Conflict, Heard, Holder, OriginName, Presence, Store, Vote};
use srs_proxy::origin::{ServerName, Service, Standing};

use crate::fleet::{Fleet, LIFE, heard, id, origin, proxy_id};

async fn names(store: &dyn Store) -> Result<Vec<String>> {
    let origins = store.survey().await?.origins;
    let mut names: Vec<_> = origins.iter().map(|it| it.origin.name().to_string()).collect();
    names.sort();
    Ok(names)
}

/// Twenty origins that are announced at once by five proxies are all there.
pub(crate) async fn announced(fleet: Fleet) -> Result<()> {
    let mut proxies = Vec::new();
    for n in 0..5 {
        proxies.push(fleet.proxy(&format!("p{n}")).await?);
    }
    let mut announced = Vec::new();
    for n in 0..20 {
        let proxy = proxies.get(n % 5).context("five proxies")?.clone();
        let heard = heard(&format!("vid-{n:02}"), "x")?;
        announced.push(async move { proxy.announce(&heard, false).await });
    }
    assert_eq!(try_join_all(announced).await?, [true; 20]);
    let expected: Vec<_> = (0..20).map(|n| format!("vid-{n:02}-x-7")).collect();
    for proxy in &proxies {
        assert_eq!(names(&**proxy).await?, expected);
    }
    let store = proxies.first().context("five proxies")?;
    let found = store.origin("vid-03-x-7").await?.context("an origin")?;
    assert_eq!(*found.origin, origin("vid-03", "x")?, "as it registered");
    assert!(found.life <= LIFE && found.life > LIFE / 2, "{:?}", found.life);
    assert_eq!(store.origin("vid-03-y-7").await?, None);

    store.announce(&heard("vid-03", "y")?, false).await?;
    let names = names(&**store).await?;
    assert_eq!(names.len(), 20, "an earlier run goes: {names:?}");
    assert_eq!(store.origin("vid-03-x-7").await?, None);
    assert!(store.origin("vid-03-y-7").await?.is_some());
    Ok(())
}

/// What was heard long ago only fills gaps.
pub(crate) async fn old_news(fleet: Fleet) -> Result<()> {
    let store = fleet.proxy("one").await?;
    assert!(store.announce(&heard("a", "x")?, true).await?, "it is brought back");
    assert_eq!(names(&*store).await?, ["a-x-7"]);
    store.announce(&heard("b", "y")?, false).await?;
    assert!(store.announce(&heard("b", "x")?, true).await?);
    assert_eq!(names(&*store).await?, ["a-x-7", "b-y-7"], "the other run stays");
    let short = Heard { life: Duration::from_secs(1), ..heard("b", "y")? };
    store.announce(&short, true).await?;
    let life = store.origin("b-y-7").await?.context("b")?.life;
    assert!(life > LIFE / 2, "{life:?}");
    Ok(())
}

pub(crate) async fn expired(fleet: Fleet) -> Result<()> {
    let store = fleet.proxy("one").await?;
    store.announce(&Heard { life: fleet.hasty_life(), ..heard("a", "x")? }, false).await?;
    store.announce(&heard("b", "x")?, false).await?;
    assert_eq!(names(&*store).await?, ["a-x-7", "b-x-7"]);
    fleet.pass().await;
    store.announce(&heard("c", "x")?, false).await?;
    assert_eq!(names(&*store).await?, ["b-x-7", "c-x-7"]);
    assert!(store.announce(&heard("a", "x")?, true).await?);
    assert_eq!(names(&*store).await?, ["a-x-7", "b-x-7", "c-x-7"], "it is brought back");
    Ok(())
}

pub(crate) async fn withdrawn(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    for server in ["vid-a", "vid-b"] {
        one.announce(&heard(server, "x")?, false).await?;
    }
    one.withdraw(&id("vid-a")).await?;
    assert_eq!(names(&*two).await?, ["vid-b-x-7"]);
    assert_eq!(two.origin("vid-a-x-7").await?, None);
    let survey = two.survey().await?;
    assert_eq!(survey.withdrawn, [OriginName::from("vid-a-x-7")]);
    for is_old in [false, true] {
        assert!(!two.announce(&heard("vid-a", "x")?, is_old).await?, "it stays out");
    }
    assert_eq!(names(&*two).await?, ["vid-b-x-7"]);
    assert!(two.announce(&heard("vid-a", "y")?, false).await?, "it runs anew");
    assert_eq!(names(&*one).await?, ["vid-a-y-7", "vid-b-x-7"]);
    one.withdraw(&id("vid-b")).await?;
    one.stand(&ServerName::from("vid-b"), Standing::Active).await?;
    assert!(two.announce(&heard("vid-b", "x")?, false).await?, "it is wanted again");
    assert_eq!(two.survey().await?.withdrawn, [OriginName::from("vid-a-x-7")]);
    Ok(())
}

pub(crate) async fn standings(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    let (a, b) = (ServerName::from("a"), ServerName::from("b"));
    one.stand(&a, Standing::Draining).await?;
    one.stand(&b, Standing::Maintenance).await?;
    let mut known = two.survey().await?.standings;
    known.sort_by_key(|(server, _)| server.clone());
    assert_eq!(known, [(a.clone(), Standing::Draining), (b.clone(), Standing::Maintenance)]);
    two.stand(&a, Standing::Maintenance).await?;
    two.stand(&b, Standing::Active).await?;
    assert_eq!(one.survey().await?.standings, [(a, Standing::Maintenance)]);
    Ok(())
}

pub(crate) async fn votes(fleet: Fleet) -> Result<()> {
    let (one, hasty) = (fleet.proxy("one").await?, fleet.hasty_proxy("hasty").await?);
    let vote = |service| Vote { origin: "vid-a-x-7".into(), service };
    hasty.vote(&vote(Service::Streams), true).await?;
    hasty.vote(&vote(Service::Api), true).await?;
    one.vote(&vote(Service::Api), true).await?;
    hasty.vote(&vote(Service::Api), false).await?;
    one.vote(&vote(Service::Srt), false).await?;
    let mut votes = one.survey().await?.votes;
    votes.sort();
    let mine = (proxy_id("one")?, vote(Service::Api));
    assert_eq!(votes, [(proxy_id("hasty")?, vote(Service::Streams)), mine.clone()]);
    fleet.pass().await;
    one.vote(&vote(Service::Api), true).await?;
    assert_eq!(one.survey().await?.votes, [mine], "a vote counts for a while");
    one.part().await?;
    assert_eq!(hasty.survey().await?.votes, []);
    Ok(())
}

pub(crate) async fn proxies(fleet: Fleet) -> Result<()> {
    let (one, hasty) = (fleet.proxy("one").await?, fleet.hasty_proxy("hasty").await?);
    let presence = |name: &str| -> Result<Presence> {
        let publisher = Holder { proxy: proxy_id(name)?, origin: "vid-a-x-7".into() };
        Ok(Presence {
            proxy: proxy_id(name)?,
            version: "1.2.3".to_owned(),
            streams: BTreeMap::from([("vid-a".into(), 3)]),
            sessions: BTreeMap::from([("vid-a".into(), 5)]),
            conflicts: vec![Conflict { stream: "s".to_owned(), publishers: vec![publisher] }],
        })
    };
    one.greet(&presence("one")?).await?;
    hasty.greet(&presence("hasty")?).await?;
    let mut there = one.survey().await?.proxies;
    there.sort_by_key(|it| it.proxy.clone());
    assert_eq!(there, [presence("hasty")?, presence("one")?]);
    fleet.pass().await;
    one.greet(&presence("one")?).await?;
    assert_eq!(one.survey().await?.proxies, [presence("one")?]);
    one.part().await?;
    assert_eq!(hasty.survey().await?.proxies, []);
    Ok(())
}
