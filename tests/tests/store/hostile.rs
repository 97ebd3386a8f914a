//! Redis belongs to others as well: what they may put where a proxy reads.

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use redis::{Commands, Connection, cmd};
use srs_proxy::cluster::store::{
    Change, HlsRecord, Presence, Store, StoreError, Vote, WebrtcRecord,
};
use srs_proxy::origin::{ServerName, Service, Standing};
use srs_proxy_tests::redis::Redis;

use crate::fleet::{self, Fleet, Where, claim, heard, hold, id, left, proxy_id, stream};

/// Every key, after everything was written once.
const KEYS: [&str; 17] = [
    "srs-proxy-all-servers",
    "srs-proxy-server:vid-a-x-7",
    "srs-proxy-url:__defaultVhost__/live/s",
    "srs-proxy-claim:{srs-proxy-url:__defaultVhost__/live/s}",
    "srs-proxy-hls:__defaultVhost__/live/s",
    "srs-proxy-spbhid:3a08a3f",
    "srs-proxy-rtc:__defaultVhost__/live/s",
    "srs-proxy-ufrag:a:b",
    "srs-proxy-place:a:b",
    "srs-proxy-standings",
    "srs-proxy-withdrawn",
    "srs-proxy-votes",
    "srs-proxy-proxies",
    "srs-proxy-proxy:one",
    "srs-proxy-log",
    "srs-proxy-secret",
    "srs-proxy-url:__defaultVhost__/live/\u{ff}",
];

/// Does everything. The answers of each kind, and those to another stream and origin.
async fn everything(store: &dyn Store) -> Result<Vec<Result<(), StoreError>>> {
    async fn said<T>(answer: BoxFuture<'_, Result<T, StoreError>>) -> Result<(), StoreError> {
        answer.await.map(|_| ())
    }
    let (key, a) = (stream("s")?, heard("vid-a", "x")?);
    let vote = Vote { origin: "vid-a-x-7".into(), service: Service::Srt };
    let hls = HlsRecord { id: "3a08a3f".to_owned(), stream: key.clone(), url: "u".to_owned() };
    let place = serde_json::from_str(
        r#"{"server": "vid-a", "media": "192.0.2.7:8000", "password": "p", "role": "Publish"}"#,
    )?;
    let name = "a:b".to_owned();
    let webrtc = WebrtcRecord { name, stream: key.clone(), place: Some(place) };
    let me = Presence {
        proxy: proxy_id("one")?,
        version: "1".to_owned(),
        streams: std::collections::BTreeMap::default(),
        sessions: std::collections::BTreeMap::default(),
        conflicts: Vec::new(),
    };
    let draining = ServerName::from("vid-a");
    let (claim, hold, left) =
        (claim(&key, "vid-a"), hold(&key, "vid-a"), left(&key, "vid-a", true));
    let changes = [Change::Origins];
    let mark = srs_proxy::cluster::store::Mark("0-0".to_owned());
    let (b, z) = (heard("vid-b", "x")?, id("vid-z"));
    Ok(vec![
        said(store.announce(&a, true)).await,
        said(store.announce(&a, false)).await,
        said(store.announce(&b, false)).await,
        said(store.withdraw(&z)).await,
        said(store.stand(&draining, Standing::Draining)).await,
        said(store.vote(&vote, true)).await,
        said(store.greet(&me)).await,
        said(store.survey()).await,
        said(store.origin("vid-a-x-7")).await,
        said(store.claim(&claim)).await,
        said(store.hold(&hold)).await,
        said(store.leave(&left)).await,
        said(store.routes(100)).await,
        said(store.tell(&changes)).await,
        said(store.changes(None)).await,
        said(store.changes(Some(&mark))).await,
        said(store.keep_webrtc(&webrtc)).await,
        said(store.webrtc("a:b")).await,
        said(store.keep_hls(&hls)).await,
        said(store.hls("3a08a3f")).await,
        said(store.secret([7; 32])).await,
    ])
}

/// What is wrong with one key is an error of what needs it; the others go on.
async fn goes_on(store: &dyn Store, what: &str) -> Result<()> {
    let answers = everything(store).await?;
    for error in answers.iter().filter_map(|it| it.as_ref().err()) {
        assert!(!error.is_loss(), "{what}: the store counts as lost: {error}");
        assert!(error.to_string().len() < 600, "{what}: {error}");
    }
    let other = stream("other")?;
    let owned = store.claim(&claim(&other, "vid-b")).await.with_context(|| what.to_owned())?;
    assert_eq!(&*owned.origin, "vid-b-x-7", "{what}");
    let listed = store.routes(10_000).await.with_context(|| what.to_owned())?;
    assert!(listed.iter().any(|(key, _)| *key == other), "{what}");
    assert!(
        store.origin("vid-b-x-7").await.is_ok_and(|it| it.is_some()) || what.contains("withdrawn")
    );
    Ok(())
}

fn with_hostile(tale: impl AsyncFnOnce(&dyn Store, &mut Connection) -> Result<()>) -> Result<()> {
    fleet::with_redis(|| {
        let redis = Redis::start()?;
        let place = Where::single(&redis, None);
        let mut client = place.connections()?.pop().context("one server")?;
        fleet::run(async {
            let store = Fleet::in_redis(&place, "").proxy("one").await?;
            tale(&*store, &mut client).await
        })
    })
}

#[test]
fn a_key_of_another_type_is_an_error_of_that_key() -> Result<()> {
    with_hostile(async |store, client| {
        for key in KEYS {
            cmd("FLUSHALL").exec(client)?;
            everything(store).await?;
            client.del::<_, ()>(key)?;
            // The type that no proxy uses.
            client.sadd::<_, _, ()>(key, "x")?;
            goes_on(store, &format!("a set in {key}")).await?;
            if !key.contains("proxies") && !key.contains("server:") {
                let errors = everything(store).await?;
                let named = errors.iter().filter_map(|it| it.as_ref().err());
                let mut named = named.map(ToString::to_string);
                let is_told = named.any(|it| it.contains(key) && it.contains("WRONGTYPE"));
                let is_passed_over = ["proxy:", "url:", "claim:"].iter().any(|it| key.contains(it));
                let is_set_anew = ["hls:", "spbhid:", "rtc:", "ufrag:", "place:"];
                let is_set_anew = is_set_anew.iter().any(|it| key.contains(it));
                assert!(is_told || is_passed_over || is_set_anew, "nobody tells of {key}");
            }
        }
        Ok(())
    })
}

#[test]
fn hostile_values_are_passed_over() -> Result<()> {
    with_hostile(async |store, client| {
        let deep = "[".repeat(60_000);
        let values: [(&str, Vec<u8>); 7] = [
            ("nothing", Vec::new()),
            ("no UTF-8", vec![0xff; 300]),
            ("deep JSON", deep.clone().into_bytes()),
            ("deep JSON in a member", format!("{{\"ip\":{deep}").into_bytes()),
            ("a number", b"1e999".to_vec()),
            ("other JSON", br#"{"ip":7,"rtmp":{},"stream_url":[],"ufrag":null}"#.to_vec()),
            ("a huge text", vec![b'"'; 20_000_000]),
        ];
        for key in KEYS {
            if ["claim:", "standings", "withdrawn", "votes", "proxies", "log"]
                .iter()
                .any(|it| key.contains(it))
            {
                continue;
            }
            for (what, value) in &values {
                cmd("FLUSHALL").exec(client)?;
                everything(store).await?;
                client.set::<_, _, ()>(key, value.as_slice())?;
                goes_on(store, &format!("{what} in {key}")).await?;
            }
        }
        Ok(())
    })
}

/// Without the password of its place a session would be anybody's.
#[test]
fn a_session_whose_place_cannot_be_read_is_none() -> Result<()> {
    with_hostile(async |store, client| {
        let key = "srs-proxy-place:a:b";
        for value in ["", "x", "{}", r#"{"server":"vid-a"}"#, &"[".repeat(1_000_000)] {
            everything(store).await?;
            let session = serde_json::json!({"stream_url": stream("s")?.as_str(), "ufrag": "a:b"});
            client.set::<_, _, ()>("srs-proxy-ufrag:a:b", session.to_string())?;
            client.set::<_, _, ()>(key, value)?;
            assert_eq!(store.webrtc("a:b").await?, None, "{value:.20}");
            client.del::<_, ()>(key)?;
            assert!(store.webrtc("a:b").await?.is_some_and(|it| it.place.is_none()));
        }
        Ok(())
    })
}

#[test]
fn hostile_members_are_passed_over() -> Result<()> {
    with_hostile(async |store, client| {
        everything(store).await?;
        let hash = "srs-proxy-claim:{srs-proxy-url:__defaultVhost__/live/s}";
        for (field, value) in [
            ("epoch", "1e308"),
            ("epoch", "-7"),
            ("epoch", "99999999999999999999999999"),
            ("found", "x"),
            ("owner", "\0\n"),
            ("use|", "1"),
            ("use|one|", "9999999999999999999999|P"),
            ("use|\u{1}|vid-b-x-7", "9999999999999|P"),
            ("use||", "x|P"),
        ] {
            client.hset::<_, _, _, ()>(hash, field, value)?;
            goes_on(store, &format!("{field} of a claim is {value}")).await?;
        }
        for (key, member) in [
            ("srs-proxy-votes", &b"x"[..]),
            ("srs-proxy-votes", b"a|b|c"),
            ("srs-proxy-votes", b"\xff\xff"),
            ("srs-proxy-proxies", b"\0"),
            ("srs-proxy-withdrawn", b"{\xff"),
        ] {
            client.zadd::<_, _, _, ()>(key, member, 9_999_999_999_999_i64)?;
        }
        client.hset::<_, _, _, ()>("srs-proxy-standings", b"\xff".as_slice(), "draining")?;
        client.hset::<_, _, _, ()>("srs-proxy-standings", "s", "asleep")?;
        for fields in [["kind", "route"], ["text", "x"], ["", ""], ["kind", "\u{1}"]] {
            let [name, value] = fields;
            cmd("XADD").arg("srs-proxy-log").arg("*").arg(name).arg(value).exec(client)?;
        }
        goes_on(store, "odd members").await?;
        let survey = store.survey().await?;
        assert_eq!(survey.standings, [(ServerName::from("vid-a"), Standing::Draining)]);
        Ok(())
    })
}

/// A list of origins that somebody has let grow without end.
#[test]
fn a_list_without_end_is_cut() -> Result<()> {
    with_hostile(async |store, client| {
        let list = "srs-proxy-all-servers";
        let keys: Vec<String> =
            (0..100_000).map(|n| format!("srs-proxy-server:vid-{n}-service-1")).collect();
        client.set::<_, _, ()>(list, serde_json::to_string(&keys)?)?;
        assert!(store.survey().await?.origins.is_empty());
        store.announce(&heard("vid-new", "x")?, false).await?;
        let survey = store.survey().await?;
        assert_eq!(survey.origins.len(), 1, "the origin is found behind them");
        let length: usize = client.strlen(list)?;
        assert!(length < 256 * 1024, "{length} bytes");
        Ok(())
    })
}
