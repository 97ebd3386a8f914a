//! Origins that die, come back, refuse, or never say a word.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use srs_proxy_tests::cluster::Cluster;
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::nginx::Nginx;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::{http, ports, story, wait};

const AT_ONCE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_dead_origin_s_stream_is_back_on_the_other_one_within_three_seconds() -> Result<()> {
    story(|folder| {
        let (mut cluster, mut publisher, home) = Cluster::start_with(folder, "show")?;
        let url = cluster.proxy.url("show");
        let mut players = Vec::new();
        for _ in 0..3 {
            let mut player = Client::play(cluster.proxy.rtmp(), "show")?;
            player.read_bytes(10_000)?;
            players.push(player);
        }

        cluster.origin(home)?.kill()?;
        let death = Instant::now();
        for player in &mut players {
            player.must_be_closed_within(AT_ONCE)?;
        }
        publisher.wait(AT_ONCE).context("the publisher was not told")?;
        // An encoder comes back by itself; FFmpeg is started again.
        let _publisher = ffmpeg::publish(folder, "after", Source::FixtureForEver, &url)?;
        let mut player = Client::play(cluster.proxy.rtmp(), "show")?;
        player.read_bytes(10_000)?;
        let gap = death.elapsed();
        assert!(gap < Duration::from_secs(3), "media was away for {gap:?}");
        assert_ne!(cluster.home_of("show")?, home, "the stream's new home");
        Ok(())
    })
}

#[test]
fn a_restarted_origin_takes_the_place_of_its_old_self() -> Result<()> {
    story(|folder| {
        let (mut cluster, mut publisher, home) = Cluster::start_with(folder, "show")?;
        cluster.origin(home)?.kill()?;
        publisher.wait(SOON)?;
        let system_api = cluster.proxy.system_api();
        let origin = cluster.origin(home)?;
        origin.start_again()?;
        origin.register_at(system_api)?;

        let origins = cluster.proxy.get("/api/v1/origins")?;
        let list = origins.get("origins").and_then(Value::as_array).context("no list")?;
        assert_eq!(list.len(), 2, "the old self is gone: {origins}");
        // Streams are spread over both again.
        let mut homes = [0, 0];
        let mut publishers = Vec::new();
        for name in ["one", "two", "three", "four"] {
            publishers.push(Client::publish(cluster.proxy.rtmp(), name)?);
            homes[cluster.home_of(name)?] += 1;
        }
        assert!(homes.iter().all(|&n| n > 0), "streams of each origin: {homes:?}");
        Ok(())
    })
}

#[test]
fn the_only_origin_serves_again_as_soon_as_it_is_back() -> Result<()> {
    story(|folder| {
        let mut origin = Nginx::start(folder, "only")?;
        let proxy = Proxy::start(folder, &[])?;
        origin.register_at(proxy.system_api())?;
        let mut publisher = Client::publish(proxy.rtmp(), "show")?;
        origin.kill()?;
        publisher.must_be_closed_within(AT_ONCE)?;
        assert!(Client::publish(proxy.rtmp(), "show").is_err(), "nobody is there to publish to");
        origin.start_again()?;
        origin.register_at(proxy.system_api())?;
        Client::publish(proxy.rtmp(), "show")?;
        Ok(())
    })
}

#[test]
fn nobody_notices_an_origin_that_refuses_connections() -> Result<()> {
    story(|folder| {
        let cluster = Cluster::start(folder, &[])?;
        let nobody = ports::free()?;
        let dead = serde_json::json!({
            "ip": nobody.ip(), "server": "dead", "service": "s", "pid": "1",
            "rtmp": [nobody.port().to_string()],
        });
        let path = "/api/v1/srs/register";
        http::post(cluster.proxy.system_api(), path, &dead.to_string())?;
        let mut publishers = Vec::new();
        for n in 0..12 {
            let start = Instant::now();
            publishers.push(Client::publish(cluster.proxy.rtmp(), &format!("stream{n}"))?);
            assert!(start.elapsed() < AT_ONCE, "stream {n} waited {:?}", start.elapsed());
        }
        Ok(())
    })
}

#[test]
fn nobody_waits_long_for_an_origin_that_never_answers() -> Result<()> {
    story(|folder| {
        let mute = Origin::start(Script::Mute)?;
        let good = Origin::start(Script::Serve(Feed::Paced(1_000_000)))?;
        let limit = [("PROXY_ORIGIN_CONNECT_TIMEOUT", "1s")];
        let proxy = Proxy::start(folder, &limit)?;
        mute.register_at(proxy.system_api(), "mute")?;
        good.register_at(proxy.system_api(), "good")?;
        for n in 0..4 {
            let start = Instant::now();
            Client::play(proxy.rtmp(), &format!("stream{n}"))?.read_bytes(1000)?;
            assert!(start.elapsed() < 4 * AT_ONCE, "stream {n} waited {:?}", start.elapsed());
        }

        drop(good);
        let mut refused = Client::connect(proxy.rtmp())?;
        refused.ask_to_play("alone")?;
        let status = refused.status()?;
        assert_eq!(status.level, "error", "{status}");
        refused.must_be_closed_within(SOON)?;
        wait::until_true(
            "the reason is counted",
            SOON,
            || Ok(proxy.ends("origin_unreachable")? > 0),
        )
    })
}

#[test]
fn an_origin_that_shakes_hands_and_hangs_is_found_out() -> Result<()> {
    story(|folder| {
        let deaf = Origin::start(Script::Deaf)?;
        let limits =
            [("PROXY_ORIGIN_ANSWER_TIMEOUT", "500ms"), ("PROXY_ORIGIN_CONNECT_TIMEOUT", "1s")];
        let proxy = Proxy::start(folder, &limits)?;
        deaf.register_at(proxy.system_api(), "deaf")?;
        let mut refused = Client::connect(proxy.rtmp())?;
        refused.ask_to_play("stream")?;
        assert_eq!(refused.status()?.level, "error");
        let origins = proxy.get("/api/v1/origins")?.to_string();
        assert!(origins.contains("\"state\":\"down\""), "{origins}");
        // The stream is served as soon as there is somebody who answers.
        let good = Origin::start(Script::Serve(Feed::Paced(1_000_000)))?;
        good.register_at(proxy.system_api(), "good")?;
        Client::play(proxy.rtmp(), "stream")?.read_bytes(1000)
    })
}

#[test]
fn a_proxy_that_is_its_own_origin_does_not_go_round_in_circles() -> Result<()> {
    story(|folder| {
        let here = ports::free()?;
        let port = here.port().to_string();
        let proxy = Proxy::start(folder, &[("PROXY_RTMP_SERVER", &port)])?;
        // As Debian's hosts file has the machine's own name.
        let itself = serde_json::json!({
            "ip": "127.0.1.1", "server": "itself", "service": "s", "pid": "1",
            "rtmp": [port],
        });
        http::post(proxy.system_api(), "/api/v1/srs/register", &itself.to_string())?;
        let mut client = Client::connect(here)?;
        client.ask_to_publish("circle")?;
        assert_eq!(client.status()?.level, "error");
        client.must_be_closed_within(SOON)?;
        let sessions = proxy.metric("srs_proxy_session_ends_total", &[])?;
        assert!(sessions < 5, "{sessions} sessions of one client");
        Ok(())
    })
}

#[test]
fn without_any_origin_the_client_hears_so_and_nothing_of_the_inside() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &[])?;
        for ask in [Client::ask_to_play, Client::ask_to_publish] {
            let mut client = Client::connect(proxy.rtmp())?;
            ask(&mut client, "lonely")?;
            let status = client.status()?;
            assert_eq!(status.level, "error", "{status}");
            assert!(!status.description.is_empty(), "a description: {status}");
            assert!(!status.description.contains("127.0.0.1"), "{status}");
            client.must_be_closed_within(SOON)?;
        }
        wait::until_true("both are counted", SOON, || Ok(proxy.ends("no_origin")? >= 2))
    })
}

#[test]
fn the_origin_s_own_refusal_reaches_the_client() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Refuse("NetStream.Play.Failed", "not on Sundays"))?;
        let proxy = Proxy::start(folder, &[])?;
        origin.register_at(proxy.system_api(), "strict")?;
        let mut client = Client::connect(proxy.rtmp())?;
        client.ask_to_play("any")?;
        let status = client.status()?;
        assert_eq!(
            (status.code.as_str(), status.description.as_str()),
            ("NetStream.Play.Failed", "not on Sundays")
        );
        client.must_be_closed_within(SOON)
    })
}
