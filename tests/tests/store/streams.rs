//! Whose a stream is.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use srs_proxy::cluster::store::{Hold, OriginName};

use crate::fleet::{Fleet, claim, hold, id, left, of, over, proxy_id, published, stream};

/// Five proxies ask two hundred times for fifty streams at once: each has one owner.
pub(crate) async fn first_claims(fleet: Fleet) -> Result<()> {
    let mut proxies = Vec::new();
    for n in 0..5 {
        proxies.push(fleet.proxy(&format!("p{n}")).await?);
    }
    let mut asked = Vec::new();
    for n in 0..200 {
        let proxy = proxies.get(n % 5).context("five proxies")?.clone();
        let key = stream(&format!("s{}", n % 50))?;
        asked.push(async move {
            let owned = proxy.claim(&claim(&key, &format!("o{}", n % 7))).await?;
            anyhow::Ok((key, owned))
        });
    }
    let mut owners: BTreeMap<_, (OriginName, u64)> = BTreeMap::new();
    let mut changes = 0;
    for (key, owned) in try_join_all(asked).await? {
        let now = (owned.origin.clone(), owned.epoch);
        changes += usize::from(owned.is_changed);
        let first = owners.entry(key.clone()).or_insert_with(|| now.clone());
        assert_eq!(*first, now, "{key} has two owners");
        assert!(owned.rivals.is_empty());
    }
    assert_eq!((owners.len(), changes), (50, 50), "one claim of each stream is the first");
    Ok(())
}

pub(crate) async fn replaced(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    let key = stream("s")?;
    let first = one.claim(&claim(&key, "a")).await?;
    assert_eq!(of(&first), ("a", true));
    assert_eq!(of(&one.claim(&over(&key, "b", "other", true)).await?), ("a", false), "not its");
    assert_eq!(of(&one.claim(&over(&key, "a", "a", true)).await?), ("a", false), "nothing to do");
    assert_eq!(of(&two.claim(&claim(&key, "b")).await?), ("a", false));
    let refused = two.claim(&over(&key, "b", "a", false)).await?;
    assert_eq!(of(&refused), ("a", false), "the other proxy holds it there");
    assert_eq!(refused.epoch, first.epoch);
    let moved = two.claim(&over(&key, "b", "a", true)).await?;
    assert_eq!(of(&moved), ("b", true), "a is out");
    assert!(moved.epoch > first.epoch, "{} after {}", moved.epoch, first.epoch);
    assert_eq!(of(&one.claim(&over(&key, "c", "a", true)).await?), ("b", false), "too late");
    two.leave(&left(&key, "b", false)).await?;
    two.leave(&left(&key, "a", false)).await?;
    let alone = one.claim(&over(&key, "c", "b", false)).await?;
    assert_eq!(of(&alone), ("c", true), "nobody else holds it");
    assert!(alone.epoch > moved.epoch, "{} after {}", alone.epoch, moved.epoch);
    Ok(())
}

/// What a store has lost, those who use it tell it again.
pub(crate) async fn comes_back(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    let key = stream("s")?;
    let held = one.hold(&hold(&key, "a")).await?;
    assert_eq!(of(&held), ("a", true));
    assert_eq!(of(&two.claim(&claim(&key, "b")).await?), ("a", false));
    let other = two.hold(&hold(&key, "b")).await?;
    assert_eq!(of(&other), ("a", false), "it has an owner");
    assert_eq!(other.epoch, held.epoch);
    Ok(())
}

/// A publisher takes a stream from an owner where nobody publishes it.
pub(crate) async fn publishers(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    let key = stream("s")?;
    let first = one.hold(&hold(&key, "a")).await?;
    let out = Hold { is_out: true, ..published(&key, "b") };
    assert_eq!(of(&two.hold(&out).await?), ("a", false), "b is out");
    two.leave(&left(&key, "b", false)).await?;
    let taken = two.hold(&published(&key, "b")).await?;
    assert_eq!(of(&taken), ("b", true), "nobody publishes it at a");
    assert!(taken.epoch > first.epoch, "{} after {}", taken.epoch, first.epoch);
    assert_eq!(of(&two.hold(&published(&key, "b")).await?), ("b", false));
    assert_eq!(of(&one.hold(&published(&key, "a")).await?), ("b", false), "published there");
    two.claim(&claim(&key, "c")).await?;
    assert_eq!(of(&one.hold(&published(&key, "a")).await?), ("b", false), "and still is");
    two.hold(&hold(&key, "b")).await?;
    assert_eq!(of(&one.hold(&published(&key, "a")).await?), ("a", true), "published no more");
    Ok(())
}

/// Whoever publishes a stream that is published elsewhere, too, hears of it.
pub(crate) async fn rivals(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    let key = stream("s")?;
    assert!(one.hold(&published(&key, "a")).await?.rivals.is_empty());
    assert!(two.hold(&published(&key, "a")).await?.rivals.is_empty(), "one origin");
    two.leave(&left(&key, "a", false)).await?;
    for (me, mine, other, theirs) in [(&two, "b", "one", "a"), (&one, "a", "two", "b")] {
        let rivals = me.hold(&published(&key, mine)).await?.rivals;
        let rival = rivals.first().with_context(|| format!("no rival of {mine}"))?;
        assert_eq!((&rival.proxy, &*rival.origin), (&proxy_id(other)?, &*id(theirs).to_string()));
        assert_eq!(rivals.len(), 1);
    }
    two.leave(&left(&key, "b", false)).await?;
    assert!(one.hold(&published(&key, "a")).await?.rivals.is_empty(), "it is over");
    Ok(())
}

/// Who asks too early for a stream places it for nobody else.
pub(crate) async fn unfound(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    let key = stream("freed")?;
    let first = one.claim(&claim(&key, "a")).await?;
    one.leave(&left(&key, "b", true)).await?;
    assert_eq!(of(&two.claim(&claim(&key, "b")).await?), ("a", false), "that was not left");
    one.leave(&left(&key, "a", true)).await?;
    assert_eq!(of(&one.claim(&claim(&key, "b")).await?), ("a", false), "the other holds it");
    one.leave(&left(&key, "a", true)).await?;
    two.leave(&left(&key, "a", true)).await?;
    let again = one.claim(&claim(&key, "b")).await?;
    assert_eq!(of(&again), ("b", true), "nobody has found it");
    assert!(again.epoch > first.epoch, "{} after {}", again.epoch, first.epoch);

    let key = stream("kept")?;
    one.hold(&hold(&key, "a")).await?;
    one.leave(&left(&key, "a", true)).await?;
    assert_eq!(of(&two.claim(&claim(&key, "b")).await?), ("a", false), "somebody found it");

    let key = stream("left")?;
    one.claim(&claim(&key, "a")).await?;
    one.leave(&left(&key, "a", false)).await?;
    assert_eq!(of(&two.claim(&claim(&key, "b")).await?), ("a", false), "it stays for a while");
    two.leave(&left(&stream("never")?, "a", true)).await?;
    Ok(())
}

/// The streams of a server are those of its next run.
pub(crate) async fn restarted(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    let key = stream("s")?;
    let first = one.hold(&published(&key, "vid-a")).await?;
    let mut anew = hold(&key, "vid-a");
    anew.origin.service = String::from("y");
    let moved = two.hold(&anew).await?;
    assert_eq!((&*moved.origin, moved.is_changed), ("vid-a-y-7", true));
    assert!(moved.epoch > first.epoch);
    assert!(moved.rivals.is_empty(), "one server is no rival of itself");
    two.leave(&left(&key, "vid-a", false)).await?;
    one.leave(&left(&key, "vid-a", false)).await?;
    let replaced = two.claim(&over(&key, "b", "vid-a", false)).await?;
    assert_eq!(of(&replaced), ("b", true), "any run of the server may be replaced");
    Ok(())
}

pub(crate) async fn uses_end(fleet: Fleet) -> Result<()> {
    let (hasty, other) = (fleet.hasty_proxy("hasty").await?, fleet.proxy("other").await?);
    let key = stream("s")?;
    hasty.hold(&published(&key, "a")).await?;
    assert_eq!(of(&other.claim(&over(&key, "b", "a", false)).await?), ("a", false));
    let rival = other.hold(&published(&key, "b")).await?;
    assert_eq!((of(&rival), rival.rivals.len()), (("a", false), 1));
    fleet.pass().await;
    let over = other.hold(&published(&key, "b")).await?;
    assert_eq!((of(&over), over.rivals.len()), (("b", true), 0), "nobody publishes at a any more");
    Ok(())
}

pub(crate) async fn parted(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    let keys = [stream("s1")?, stream("s2")?, stream("s3")?];
    for key in &keys {
        one.hold(&published(key, "a")).await?;
        two.hold(&hold(key, "a")).await?;
    }
    one.part().await?;
    for key in &keys {
        let moved = two.claim(&over(key, "b", "a", false)).await?;
        assert_eq!(of(&moved), ("b", true), "only two held it");
    }
    Ok(())
}

pub(crate) async fn listing(fleet: Fleet) -> Result<()> {
    let one = fleet.proxy("one").await?;
    let mut expected = BTreeMap::new();
    for n in 0..40 {
        let key = stream(&format!("s{n}"))?;
        let owned = one.claim(&claim(&key, &format!("o{}", n % 3))).await?;
        expected.insert(key, owned.origin);
    }
    let routes: BTreeMap<_, _> = one.routes(1000).await?.into_iter().collect();
    assert_eq!(routes, expected);
    assert_eq!(one.routes(7).await?.len(), 7);
    Ok(())
}

/// Names with what means something to Redis.
pub(crate) async fn odd_names(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    for name in ["{a}", "a{b", "a}b", "{}", "a{}b{c}", "*[x]?", "ünïcode|x", "a'b\"c\\d"] {
        let key = stream(name)?;
        let first = one.claim(&claim(&key, "a|{b}\"")).await?;
        assert_eq!(of(&first), ("a|{b}\"", true), "{key}");
        let other = two.hold(&published(&key, "c")).await?;
        assert_eq!(of(&other), ("c", true), "{key}");
        let rivals = one.hold(&published(&key, "a|{b}\"")).await?.rivals;
        assert_eq!(rivals.len(), 1, "{key}");
        assert!(one.routes(100).await?.iter().any(|(it, _)| *it == key), "{key}");
    }
    Ok(())
}
