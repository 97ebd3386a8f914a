//! What proxies tell each other.

use anyhow::Result;
use futures_util::future::try_join_all;
use srs_proxy::cluster::store::{Change, Mark};

use crate::fleet::{Fleet, stream};

/// More than any store keeps.
const MANY: usize = 6000;

pub(crate) async fn told(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    let start = two.changes(None).await?;
    assert_eq!((start.changes, start.is_broken), (vec![], false));
    let key = stream("s")?;
    let said = [
        Change::Route(key.clone(), "vid-a-x-7".into(), 7),
        Change::Gone(key, 8),
        Change::Origins,
        Change::Deleted("a:b".to_owned()),
    ];
    one.tell(&said).await?;
    two.tell(&[Change::Origins]).await?;
    let news = two.changes(Some(&start.mark)).await?;
    let expected: Vec<_> = said.iter().cloned().chain([Change::Origins]).collect();
    assert_eq!((news.changes, news.is_broken), (expected, false));
    let quiet = two.changes(Some(&news.mark)).await?;
    assert_eq!((quiet.changes, quiet.is_broken), (vec![], false));
    let now = one.changes(None).await?;
    assert_eq!(now.changes, []);
    two.tell(&[Change::Deleted("c:d".to_owned())]).await?;
    for mark in [&quiet.mark, &now.mark] {
        let next = one.changes(Some(mark)).await?;
        assert_eq!(next.changes, [Change::Deleted("c:d".to_owned())]);
    }

    let numbered = |n: usize| Change::Deleted(n.to_string());
    let many: Vec<_> = (0..MANY).map(numbered).collect();
    one.tell(&many).await?;
    let late = two.changes(Some(&quiet.mark)).await?;
    assert!(late.is_broken, "something was forgotten");
    assert_eq!(late.changes.last(), many.last());
    assert!(late.changes.len() < MANY, "{}", late.changes.len());
    let again = two.changes(Some(&late.mark)).await?;
    assert_eq!((again.changes, again.is_broken), (vec![], false));

    // What several tell at once arrives whole, and in everybody's own order.
    let mut told = Vec::new();
    for (proxy, first) in [(&one, 0), (&two, 1000)] {
        let changes: Vec<_> = (first..first + 300).map(numbered).collect();
        told.push(async move { proxy.tell(&changes).await });
    }
    try_join_all(told).await?;
    let news = one.changes(Some(&again.mark)).await?;
    assert_eq!((news.changes.len(), news.is_broken), (600, false));
    for first in [0, 1000] {
        let order = (first..first + 300).map(numbered);
        let mut read = news.changes.iter();
        assert!(order.into_iter().all(|it| read.any(|other| *other == it)), "out of order");
    }
    for mark in ["", "x", "-1", "99999999999999999999999999"] {
        let error = one.changes(Some(&Mark(mark.to_owned()))).await.err();
        assert_eq!(error.map(|it| it.as_str()), Some("malformed"), "{mark:?}");
    }
    Ok(())
}
