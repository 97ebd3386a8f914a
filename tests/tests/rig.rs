//! The rig is trusted only as far as it is seen to work: FFmpeg and the scripted peers meet
//! nginx, and each other, with no proxy between them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use srs_proxy_tests::browser::Browser;
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::nginx::Nginx;
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::{story, wait};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn ffmpeg_gets_from_nginx_the_packets_that_ffmpeg_sent() -> Result<()> {
    story(|folder| {
        let source = ffmpeg::fixture_packets(folder)?;
        let origin = Nginx::start(folder, "a")?;
        let url = origin.url("direct");
        let mut publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        wait::until_true("the origin has the stream", SOON, || origin.has_publisher("direct"))?;
        let player = ffmpeg::play(folder, "player", &url, Some(3))?;
        player.finish(Duration::from_secs(15))?.must_be_a_part_of(&source, 50)?;
        publisher.kill()?;
        wait::until_true(
            "the origin lost the stream",
            SOON,
            || Ok(!origin.has_publisher("direct")?),
        )
    })
}

#[test]
fn scripted_clients_publish_to_nginx_and_play_from_it() -> Result<()> {
    story(|folder| {
        let origin = Nginx::start(folder, "a")?;
        let mut publisher = Client::publish(origin.rtmp(), "scripted")?;
        let mut player = Client::play(origin.rtmp(), "scripted")?;
        let mut second = Client::connect(origin.rtmp())?;
        second.ask_to_publish("scripted")?;
        let refusal = second.status()?;
        assert_eq!(refusal.code, "NetStream.Publish.BadName", "{refusal}");
        for _ in 0..10 {
            publisher.send_video(10_000)?;
        }
        player.read_bytes(100_000)
    })
}

#[test]
fn scripted_peers_understand_each_other() -> Result<()> {
    let bulk = Origin::start(Script::Serve(Feed::Bulk))?;
    Client::play(bulk.address(), "any")?.read_bytes(10_000_000)?;

    let paced = Origin::start(Script::Serve(Feed::Paced(4_000_000)))?;
    let mut player = Client::play(paced.address(), "any")?;
    let (bytes, open) = player.watch(Instant::now() + Duration::from_secs(2))?;
    assert!(open, "a paced player is fed for ever");
    assert!((800_000..1_200_000).contains(&bytes), "{bytes} bytes in 2 s at 4 Mb/s");
    let mut publisher = Client::publish(paced.address(), "any")?;
    publisher.send_video(5000)?;
    wait::until_true("the origin got it", SOON, || Ok(paced.received() >= 5000))?;
    drop(paced);
    player.must_be_closed_within(SOON)?;

    let strict = Origin::start(Script::Refuse("NetStream.Publish.BadName", "not you"))?;
    let mut refused = Client::connect(strict.address())?;
    refused.ask_to_publish("any")?;
    assert_eq!(refused.status()?.description, "not you");
    refused.must_be_closed_within(SOON)
}

#[test]
fn the_browser_opens_a_page_runs_its_script_and_shows_it() -> Result<()> {
    story(|folder| {
        let mut browser = Browser::start(folder, "browser")?;
        let page = "data:text/html,<title>page</title><script>var n = 40</script>";
        browser.open(page)?;
        assert_eq!(browser.evaluate("[document.title, n + 2]")?, json!(["page", 42]));
        let later = "new Promise(done => setTimeout(() => done('later'), 50))";
        assert_eq!(browser.evaluate(later)?, "later");
        let error = browser.evaluate("nothing.at.all").expect_err("a name that is none");
        assert!(error.to_string().contains("nothing is not defined"), "{error}");
        assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
        browser.open("data:text/html,<script>throw new Error('broken page')</script>")?;
        let complaints = browser.complaints().join("");
        assert!(complaints.contains("broken page"), "{complaints}");
        let camera = "<video id=video autoplay muted></video><script>navigator.mediaDevices\
            .getUserMedia({video: true}).then(camera => video.srcObject = camera)\
            .catch(error => document.body.append(error))</script>";
        fs::write(folder.join("camera.html"), camera)?;
        let page = format!("file://{}", folder.join("camera.html").display());
        browser.play(&page, 0.5, SOON)?;
        browser.resize(320, 200)?;
        let picture = folder.join("page.png");
        browser.screenshot(&picture)?;
        // PNG 11.2.2: width and height follow the first chunk's name.
        let picture = fs::read(picture)?;
        assert_eq!(picture.get(16..24), Some([0, 0, 1, 64, 0, 0, 0, 200].as_slice()));
        assert!(browser.open("http://127.0.0.1:1/").is_err(), "nobody listens there");
        Ok(())
    })
}
