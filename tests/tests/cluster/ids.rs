//! Ids of playlists, by which the existing proxy finds whose a segment is.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use srs_proxy_tests::fleet::{Fleet, NAMES, SOON, at, route_key};
use srs_proxy_tests::raw::{Client, Origin, Response};
use srs_proxy_tests::redis::Redis;
use srs_proxy_tests::wait;

use super::with_redis;

/// As SRS writes it.
const PLAYLIST: &str = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0, no desc\n\
    show-0.ts?hls_ctx=p95des96\n#EXTINF:2.0, no desc\nshow-1.ts\n";

/// Two proxies, and two origins that say who they are.
fn start(folder: &Path, redis: &Redis) -> Result<(Fleet, Vec<Origin>)> {
    let fleet = Fleet::of(folder, 2, |_| at(redis.address()))?;
    let mut origins = Vec::new();
    for (place, name) in NAMES.into_iter().take(2).enumerate() {
        let origin = Origin::start(move |request, exchange| {
            let own = format!("X-Origin: {name}\r\n");
            let body = if request.path().strip_suffix(".m3u8").is_some() { PLAYLIST } else { name };
            exchange.answer("200 OK", &own, body)
        })?;
        origin.register_at(fleet.proxy(place)?.system_api(), name)?;
        origins.push(origin);
    }
    fleet.must_know(2)?;
    Ok((fleet, origins))
}

fn whose(answer: &Response) -> &str {
    answer.head.field("x-origin").unwrap_or_default()
}

fn server_key(name: &str) -> String {
    format!("srs-proxy-server:vid-{name}-{name}-1")
}

#[test]
fn a_segment_that_the_existing_proxy_has_listed_is_its_stream_s() -> Result<()> {
    with_redis(|folder, redis| {
        let (fleet, origins) = start(folder, &redis)?;
        for (name, id) in NAMES.into_iter().zip(["3a08a3f", "8e204cd"]) {
            let stream = format!("__defaultVhost__/live/of-{name}");
            let record = json!({
                "spbhid": id, "stream_url": stream,
                "full_url": format!("http://127.0.0.1/live/of-{name}.m3u8"),
            });
            redis.cli(&["SET", &route_key(&format!("of-{name}")), &server_key(name)])?;
            for key in [format!("srs-proxy-hls:{stream}"), format!("srs-proxy-spbhid:{id}")] {
                redis.cli(&["SET", &key, &record.to_string(), "EX", "120"])?;
            }
        }
        // Of what the name of the segment says nothing comes true.
        redis.cli(&["SET", &route_key("cut"), &server_key("a")])?;
        for proxy in &fleet.proxies {
            let mut client = Client::connect(proxy.http())?;
            for (name, target) in [
                ("b", "/live/cut-0.ts?spbhid=8e204cd&&hls_ctx=p95des96"),
                ("a", "/live/cut-0.ts?spbhid=3a08a3f&&hls_ctx=p95des96"),
                ("b", "/live/cut-1.ts?spbhid=8e204cd"),
                ("a", "/live/cut-1.ts?spbhid=3a08a3f"),
            ] {
                let answer = client.get(target)?;
                assert_eq!((answer.status(), whose(&answer)), (200, name), "{target}");
            }
        }
        let requests = origins.iter().flat_map(Origin::requests);
        let with_context = requests.filter(|it| it.target().contains("hls_ctx=p95des96"));
        assert_eq!(with_context.count(), 4, "the origin's own parameter is kept");
        Ok(())
    })
}

#[test]
fn the_existing_proxy_finds_whose_the_segments_of_our_playlists_are() -> Result<()> {
    with_redis(|folder, redis| {
        let (fleet, origins) = start(folder, &redis)?;
        let playlist = Client::connect(fleet.proxy(0)?.http())?.get("/live/show.m3u8")?;
        assert_eq!(playlist.status(), 200);
        let (home, text) = (whose(&playlist), playlist.text());
        let segments: Vec<_> = text.lines().filter(|line| line.contains(".ts")).collect();
        assert_eq!(segments.len(), 2, "{text}");
        for segment in &segments {
            let (_, query) = segment.split_once('?').context("no query")?;
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let id = pairs.find_map(|(name, value)| (name == "spbhid").then_some(value));
            let id = id.with_context(|| format!("no id: {segment}"))?;
            let noted = wait::until("the id is noted", SOON, || {
                let value = redis.cli(&["GET", &format!("srs-proxy-spbhid:{id}")])?;
                Ok(Some(serde_json::from_str::<Value>(&value)?))
            })?;
            assert_eq!(noted["spbhid"], id);
            assert_eq!(noted["stream_url"], "__defaultVhost__/live/show");
            let url = noted["full_url"].as_str().unwrap_or_default();
            ensure!(url.starts_with("http://") && url.ends_with("/live/show.m3u8"), "{noted}");
            let life = redis.cli(&["TTL", &format!("srs-proxy-spbhid:{id}")])?;
            ensure!((100..=120).contains(&life.parse::<u64>()?), "{life} s");
            let of_stream = redis.cli(&["GET", "srs-proxy-hls:__defaultVhost__/live/show"])?;
            assert_eq!(serde_json::from_str::<Value>(&of_stream)?["spbhid"], id);

            // It asks the stream's origin for all of it.
            let server = redis.cli(&["GET", &route_key("show")])?;
            let server = redis.cli(&["GET", &server])?;
            let server: Value = serde_json::from_str(&server).with_context(|| server)?;
            let port: u16 = server["http"][0].as_str().context("no port")?.parse()?;
            let place = origins.iter().position(|it| it.address().port() == port);
            assert_eq!(place.map(|it| NAMES[it]), Some(home));
            let address = ([127, 0, 0, 1], port).into();
            assert_eq!(Client::connect(address)?.get(&format!("/live/{segment}"))?.status(), 200);
            // The other proxy of this kind needs no store for that.
            let mut other = Client::connect(fleet.proxy(1)?.http())?;
            let answer = other.get(&format!("/live/{segment}"))?;
            assert_eq!((answer.status(), whose(&answer)), (200, home), "{segment}");
        }
        Ok(())
    })
}
