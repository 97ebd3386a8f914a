//! Side by side with the existing proxy: what it has left is acted on, and it can go on with ours.

use std::time::Duration;

use anyhow::{Context, Result};
use redis::Commands;
use serde_json::Value;
use srs_proxy::cluster::store::{HlsRecord, OriginName, Store, WebrtcRecord};
use srs_proxy::origin::{Listener, registration};
use srs_proxy_tests::redis::Redis;

use crate::check;
use crate::fleet::{self, Fleet, Where, claim, heard, hold, left, of, over, stream};

/// What the existing proxy has left: keys, values and lives.
const RECORDED: &str = include_str!("../../fixtures/redis/redis-existing-proxy.json");

const THEIRS: &str = "vid-5t8x41s-48x447o9-6899";

fn load(redis: &mut redis::Connection) -> Result<()> {
    let recorded: Vec<Value> = serde_json::from_str(RECORDED)?;
    for it in recorded {
        let text = |name: &str| it.get(name).and_then(Value::as_str).context("a text");
        redis.set::<_, _, ()>(text("key")?, text("value")?)?;
        if let Some(life) = it.get("ttl_s").and_then(Value::as_i64).filter(|it| *it > 0) {
            redis.expire::<_, ()>(text("key")?, life)?;
        }
    }
    Ok(())
}

fn beside(tale: impl AsyncFnOnce(&dyn Store, &mut redis::Connection) -> Result<()>) -> Result<()> {
    fleet::with_redis(|| {
        let redis = Redis::start()?;
        let place = Where::single(&redis, None);
        let mut client = place.connections()?.pop().context("one server")?;
        load(&mut client)?;
        fleet::run(async {
            let store = Fleet::in_redis(&place, "").proxy("one").await?;
            tale(&*store, &mut client).await
        })
    })
}

#[test]
fn what_the_existing_proxy_has_left_is_acted_on() -> Result<()> {
    beside(async |store, _| {
        let survey = store.survey().await?;
        let mut names: Vec<_> = survey.origins.iter().map(|it| it.origin.name().clone()).collect();
        names.sort();
        let expected = ["vid-2331d97-947shqm1-6884", THEIRS, "vid-8v62975-o2db8t87-6888"];
        assert_eq!(names, expected.map(OriginName::from));
        let found = store.origin(THEIRS).await?.context("an origin")?;
        assert_eq!(found.origin.device_id(), Some("origin3"));
        let srt = found.origin.targets(Listener::Srt).next();
        assert_eq!(srt, Some(("127.0.0.1", 10083)));
        assert!(found.life <= Duration::from_mins(5) && found.life > Duration::from_mins(4));

        let key = stream("livestream")?;
        assert_eq!(store.routes(10).await?, [(key.clone(), THEIRS.into())]);
        assert_eq!(store.webrtc("u3u2e000:Iqyv").await?.map(|it| it.stream), Some(key.clone()));
        for id in ["2d54ffe", "3e095a9"] {
            assert_eq!(store.hls(id).await?, Some(key.clone()));
        }
        let owned = store.claim(&claim(&key, "vid-2331d97")).await?;
        assert_eq!(of(&owned), ("vid-5t8x41s", false), "it is placed");
        store.leave(&left(&key, "vid-5t8x41s", true)).await?;
        assert_eq!(store.routes(10).await?.len(), 1, "clients of the other proxy may use it");
        let moved = store.claim(&over(&key, "vid-2331d97", "vid-5t8x41s", false)).await?;
        assert_eq!(of(&moved), ("vid-2331d97", true));
        assert!(moved.epoch > owned.epoch);
        Ok(())
    })
}

/// The existing proxy leaves a server's earlier run beside the one that it has heard since.
#[test]
fn of_two_runs_of_a_server_the_later_one_counts() -> Result<()> {
    beside(async |store, client| {
        let value: String = client.get(format!("srs-proxy-server:{THEIRS}"))?;
        let anew = format!("srs-proxy-server:{}", THEIRS.replace("48x447o9", "later"));
        client.set::<_, _, ()>(&anew, value.replace("48x447o9", "later"))?;
        client.expire::<_, ()>(&anew, 300)?;
        client.expire::<_, ()>(format!("srs-proxy-server:{THEIRS}"), 250)?;
        let listed: String = client.get("srs-proxy-all-servers")?;
        let more = listed.replace(']', &format!(",\"{anew}\"]"));
        client.set::<_, _, ()>("srs-proxy-all-servers", more)?;
        let origins = store.survey().await?.origins;
        assert_eq!(origins.len(), 3);
        assert!(origins.iter().any(|it| it.origin.id().service == "later"), "{origins:?}");
        Ok(())
    })
}

#[test]
fn what_the_existing_proxy_writes_over_a_route_is_true() -> Result<()> {
    beside(async |store, client| {
        let key = stream("s")?;
        let url = format!("srs-proxy-url:{key}");
        let first = store.claim(&claim(&key, "vid-2331d97")).await?;
        client.set::<_, _, ()>(&url, format!("srs-proxy-server:{THEIRS}"))?;
        let now = store.claim(&claim(&key, "vid-2331d97")).await?;
        assert_eq!((&*now.origin, now.is_changed), (THEIRS, false));
        assert!(now.epoch > first.epoch, "{} after {}", now.epoch, first.epoch);
        store.leave(&left(&key, "vid-5t8x41s", true)).await?;
        store.leave(&left(&key, "vid-2331d97", true)).await?;
        assert_eq!(client.get::<_, String>(&url)?, format!("srs-proxy-server:{THEIRS}"));
        client.del::<_, ()>(&url)?;
        let back = store.hold(&hold(&key, "vid-2331d97")).await?;
        assert_eq!(of(&back), ("vid-2331d97", true));
        assert!(back.epoch > now.epoch, "{} after {}", back.epoch, now.epoch);
        Ok(())
    })
}

#[test]
fn what_others_have_put_beside_stays() -> Result<()> {
    beside(async |store, client| {
        let key = format!("srs-proxy-server:{THEIRS}");
        let list = "srs-proxy-all-servers";
        let value: String = client.get(&key)?;
        let more = value.replacen('{', r#"{"zone":{"rack":[1.50,"x"]},"#, 1);
        client.set::<_, _, ()>(&key, &more)?;
        let foreign = r#"["gone-long-ago","srs-proxy-server:a-b-1","#;
        let listed = client.get::<_, String>(list)?.replacen('[', foreign, 1);
        client.set::<_, _, ()>(list, &listed)?;

        let theirs = store.origin(THEIRS).await?.context("an origin")?;
        store.announce(&theirs, false).await?;
        let written: String = client.get(&key)?;
        assert!(written.contains(r#""zone":{"rack":[1.50,"x"]}"#), "{written}");
        assert!(written.starts_with(value.split("update_at").next().unwrap_or_default()));
        assert!(client.ttl::<_, i64>(&key)? > 200);

        store.announce(&heard("vid-new", "x")?, false).await?;
        let keys: Vec<String> = serde_json::from_str(&client.get::<_, String>(list)?)?;
        assert!(keys.contains(&"gone-long-ago".to_owned()), "of somebody else: {keys:?}");
        assert!(!keys.contains(&"srs-proxy-server:a-b-1".to_owned()), "gone: {keys:?}");
        assert_eq!(keys.len(), 5, "{keys:?}");

        // The existing proxy starts the origin anew, and forgets us in the list.
        client.set::<_, _, ()>(list, r#"["srs-proxy-server:vid-8v62975-o2db8t87-6888"]"#)?;
        store.announce(&heard("vid-new", "x")?, false).await?;
        let keys: Vec<String> = serde_json::from_str(&client.get::<_, String>(list)?)?;
        assert_eq!(keys.last().map(String::as_str), Some("srs-proxy-server:vid-new-x-7"));
        assert_eq!(keys.len(), 2, "{keys:?}");
        store.announce(&heard("vid-8v62975", "x")?, false).await?;
        assert!(!client.exists::<_, bool>("srs-proxy-server:vid-8v62975-o2db8t87-6888")?);
        Ok(())
    })
}

#[test]
fn what_is_written_can_be_read_by_the_existing_proxy() -> Result<()> {
    fleet::with_redis(|| {
        let redis = Redis::start()?;
        let place = Where::single(&redis, None);
        fleet::run(async {
            let store = Fleet::in_redis(&place, "fleet").proxy("one").await?;
            let mut heard = heard("vid-1", "x")?;
            store.announce(&heard, false).await?;
            let odd = br#"{"ip": "origin.example", "server": "b", "service": "x", "pid": 42,
                "device_id": "one \"two\"", "rtmp": ["tcp://[::]:1935", "0.0.0.0:1936"],
                "srt": ["10080"], "rtc": ["[::]:8000"]}"#;
            heard.origin = registration::parse(odd)?.into();
            store.announce(&heard, false).await?;
            let key = stream("s")?;
            store.claim(&claim(&key, "vid-1")).await?;
            let name = "egzxi453:7OP6".to_owned();
            let webrtc = WebrtcRecord { name, stream: key.clone(), place: None };
            store.keep_webrtc(&webrtc).await?;
            let url = "http://127.0.0.1/live/s.m3u8?a=b".to_owned();
            store.keep_hls(&HlsRecord { id: "3a08a3f".to_owned(), stream: key, url }).await?;
            anyhow::Ok(())
        })?;
        let kinds = check::all(&place, "fleet")?;
        let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
        assert_eq!(kinds, ["all-servers", "hls", "rtc", "server", "spbhid", "ufrag", "url"]);
        Ok(())
    })
}
