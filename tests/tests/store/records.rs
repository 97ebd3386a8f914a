//! Sessions and playlists that may be asked for anywhere.

use anyhow::Result;
use futures_util::future::try_join_all;
use srs_proxy::cluster::store::{HlsRecord, WebrtcPlace, WebrtcRecord};
use srs_proxy::session::Role;

use crate::fleet::{Fleet, stream};

pub(crate) async fn kept(fleet: Fleet) -> Result<()> {
    let (one, two) = (fleet.proxy("one").await?, fleet.proxy("two").await?);
    let key = stream("s")?;
    let place = WebrtcPlace {
        password: "secret".into(),
        server: "vid-a".into(),
        media: "192.0.2.7:8000".parse()?,
        role: Role::Publish,
        former: Some("a:before".into()),
    };
    let record =
        |name: &str, place| WebrtcRecord { name: name.to_owned(), stream: key.clone(), place };
    let (ours, theirs) = (record("a:b", Some(place)), record("c:d", None));
    for record in [&ours, &theirs] {
        one.keep_webrtc(record).await?;
        assert_eq!(two.webrtc(&record.name).await?.as_ref(), Some(record));
    }
    two.drop_webrtc(&ours).await?;
    assert_eq!(one.webrtc("a:b").await?, None);
    assert_eq!(one.webrtc("c:d").await?, Some(theirs));

    let url = "http://127.0.0.1/live/s.m3u8?a=b&c=<d>".to_owned();
    let hls = HlsRecord { id: "3a08a3f".to_owned(), stream: key.clone(), url };
    one.keep_hls(&hls).await?;
    assert_eq!(two.hls("3a08a3f").await?, Some(key));
    assert_eq!(two.hls("3a08a30").await?, None);
    Ok(())
}

/// Of those who propose a secret at once one wins.
pub(crate) async fn secret(fleet: Fleet) -> Result<()> {
    let mut proposals = Vec::new();
    for n in 0..5_u8 {
        let proxy = fleet.proxy(&format!("p{n}")).await?;
        proposals.push(async move { proxy.secret([n; 32]).await });
    }
    let agreed = try_join_all(proposals).await?;
    let first = agreed.first().copied().unwrap_or_default();
    assert!(agreed.iter().all(|it| *it == first), "{agreed:?}");
    assert!((0..5).any(|n| first == [n; 32]), "{first:?}");
    Ok(())
}
