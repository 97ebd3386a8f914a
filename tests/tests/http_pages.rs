//! What the proxy answers itself over HTTP: its pages in a real browser, and an operator's files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use srs_proxy_tests::browser::Browser;
use srs_proxy_tests::cluster::Cluster;
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::nms::Nms;
use srs_proxy_tests::packets::Kind;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::raw::{Client, Response, behind_a_proxy};
use srs_proxy_tests::{story, wait};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(40);

#[test]
fn the_flv_page_plays_what_is_played_over_rtmp_and_http_from_one_origin() -> Result<()> {
    story(|folder| {
        let origins = [Nms::start(folder, "a")?, Nms::start(folder, "b")?];
        let proxy = Proxy::start(folder, &[])?;
        for origin in &origins {
            origin.register_at(proxy.system_api())?;
        }
        let rtmp = proxy.url("show");
        let _publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &rtmp)?;
        wait::until_true("an origin has the stream", SOON, || {
            Ok(origins[0].has_publisher("show")? || origins[1].has_publisher("show")?)
        })?;
        let beside = ffmpeg::play(folder, "rtmp", &rtmp, None)?;
        let flv = ffmpeg::play(folder, "flv", &proxy.http_url("live/show.flv"), None)?;

        let mut browser = Browser::start(folder, "browser")?;
        let page = proxy.http_url("players/flv.html?app=live&stream=show&autostart=true");
        browser.play(&page, 4.0, A_WHILE)?;
        shows_the_fixture(&mut browser, 4.0)?;
        pictures(&mut browser, folder, "flv")?;

        wait::until_true("all three play at one origin", SOON, || {
            let mut players = [origins[0].players("show")?, origins[1].players("show")?];
            for list in &mut players {
                list.sort();
            }
            players.sort();
            Ok(players == [vec![], vec!["http".to_owned(), "http".into(), "rtmp".into()]])
        })?;
        for (name, player) in [("RTMP", &beside), ("FLV", &flv)] {
            let frames = player.packets().of(Kind::Video).len();
            assert!(frames > 75, "{name}: {frames} frames");
        }

        // The button stops the stream, and starts it again.
        browser.evaluate("document.querySelector('button').click()")?;
        wait::until_true("the page's player has left", SOON, || {
            Ok(proxy.sessions_of("show")?.len() == 3)
        })?;
        assert_eq!(text(&mut browser, "#state")?, "stopped");
        browser.evaluate("document.querySelector('button').click()")?;
        wait::until_true("it is back", SOON, || Ok(text(&mut browser, "#state")? == "playing"))?;

        // An origin that waits for a publisher says nothing; the page does.
        browser.open(&proxy.http_url("players/flv.html?stream=nothing&autostart=true"))?;
        wait::until_true("the page says that nothing comes", SOON, || {
            Ok(text(&mut browser, "#state")?.contains("is it published?"))
        })?;
        complains_of_nothing(&browser)
    })
}

#[test]
fn the_hls_page_plays_what_is_played_over_rtmp_hls_and_dash_from_one_origin() -> Result<()> {
    story(|folder| {
        let (mut cluster, _publisher, home) = Cluster::start_with(folder, "show")?;
        let rtmp = cluster.proxy.url("show");
        let mut players = vec![("rtmp", ffmpeg::play(folder, "rtmp", &rtmp, None)?)];
        for (name, file) in [("hls", "live/show.m3u8"), ("dash", "live/show.mpd")] {
            cluster.origin(home)?.wait_for(&format!("/{file}"))?;
            players.push((name, ffmpeg::play(folder, name, &cluster.proxy.http_url(file), None)?));
        }
        let mut browser = Browser::start(folder, "browser")?;
        let page = cluster.proxy.http_url("players/hls.html?app=live&stream=show&autostart=true");
        browser.play(&page, 4.0, A_WHILE)?;
        shows_the_fixture(&mut browser, 4.0)?;
        pictures(&mut browser, folder, "hls")?;
        for (name, player) in players {
            let frames = player.packets().of(Kind::Video).len();
            assert!(frames > 75, "{name}: {frames} frames");
        }
        let other = cluster.origin(1 - home)?.log();
        assert!(!other.contains("/live/show"), "the other origin was asked as well: {other}");
        complains_of_nothing(&browser)
    })
}

#[test]
fn the_index_lists_what_is_live_and_leads_to_the_players() -> Result<()> {
    story(|folder| {
        let origin = Nms::start(folder, "origin")?;
        let proxy = Proxy::start(folder, &[])?;
        origin.register_at(proxy.system_api())?;
        let mut browser = Browser::start(folder, "browser")?;
        browser.open(&proxy.http_url(""))?;
        let server = format!("rtmp://{}/live", proxy.rtmp());
        let nothing = text(&mut browser, "main")?;
        ensure!(nothing.contains("Nothing is live") && nothing.contains(&server), "{nothing}");
        pictures(&mut browser, folder, "index-empty")?;

        // The page learns by itself of streams that come.
        let names = ["show", "news<24>&more"];
        let mut publishers = Vec::new();
        for (place, name) in names.iter().enumerate() {
            let url = proxy.url(name);
            let log = format!("publisher-{place}");
            publishers.push(ffmpeg::publish(folder, &log, Source::FixtureForEver, &url)?);
        }
        let links = "document.querySelectorAll('.streams li').length";
        wait::until_true("the streams are listed", SOON, || Ok(browser.evaluate(links)? == 2))?;
        let list = text(&mut browser, ".streams")?;
        for said in ["live/show", &server, "/live/show.flv", "/live/show.m3u8", "/live/show.mpd"] {
            ensure!(list.contains(said), "{said} is not in the list: {list}");
        }
        pictures(&mut browser, folder, "index")?;

        browser
            .evaluate("document.querySelector('a[href*=\"flv.html\"][href*=\"=show\"]').click()")?;
        wait::until_true("the player plays", A_WHILE, || {
            Ok(browser.evaluate("document.querySelector('video')?.currentTime > 1")? == true)
        })?;
        shows_the_fixture(&mut browser, 1.0)?;

        // And of streams that go.
        browser.open(&proxy.http_url(""))?;
        drop(publishers);
        wait::until_true("nothing is listed", SOON, || Ok(browser.evaluate(links)? == 0))?;
        complains_of_nothing(&browser)
    })
}

#[test]
fn a_page_says_in_words_why_nothing_plays() -> Result<()> {
    story(|folder| {
        let mut cluster = Cluster::start(folder, &[])?;
        let http = cluster.proxy.http();
        let mut browser = Browser::start(folder, "browser")?;
        let mut fails = |page: &str, query: &str, words: &[&str]| -> Result<()> {
            browser.open(&format!("http://{http}/players/{page}.html?{query}autostart=true"))?;
            let name = format!("{page}-fails");
            let what = format!("{page} says {words:?}");
            let said = wait::until(&what, SOON, || {
                let said = text(&mut browser, "#error")?;
                ensure!(words.iter().all(|word| said.contains(word)), "the page says: {said}");
                Ok(Some(said))
            })?;
            ensure!(said.len() < 300, "{page}: {said}");
            ensure!(
                text(&mut browser, "#state")? == "failed"
                    && text(&mut browser, "button")? != "Stop"
            );
            pictures(&mut browser, folder, &name)
        };
        // nginx has neither this stream nor HTTP-FLV.
        fails("flv", "stream=nothing&", &["404 Not Found", "nobody publishes this stream"])?;
        fails("hls", "stream=nothing&", &["404 Not Found", "nobody publishes this stream"])?;
        // It is there, and something else.
        fails("hls", "url=/style.css&", &["This is no HLS playlist"])?;
        // nginx does not take part in WebRTC.
        for page in ["whep", "whip"] {
            fails(page, "", &["503", "no origin of this stream"])?;
        }
        fails(
            "flv",
            "url=http://elsewhere.example/live/show.flv&",
            &["Only streams of this server"],
        )?;
        for origin in &mut cluster.origins {
            origin.kill()?;
        }
        for page in ["flv", "hls"] {
            fails(page, "", &["502", "origin cannot be reached"])?;
        }
        Ok(())
    })
}

#[test]
fn an_operator_s_files_are_served_and_nothing_beside_them() -> Result<()> {
    story(|folder| {
        let files = folder.join("files");
        fs::create_dir_all(files.join("deep"))?;
        fs::write(folder.join("secret.txt"), "secret")?;
        fs::write(files.join("index.html"), "<title>mine</title>")?;
        fs::write(files.join("deep/index.html"), "deep")?;
        fs::write(files.join("style.css"), "0123456789")?;
        fs::write(files.join(".hidden"), "secret")?;
        std::os::unix::fs::symlink(folder.join("secret.txt"), files.join("link.txt"))?;
        let path = files.to_string_lossy();
        let proxy = Proxy::start(folder, &[("PROXY_STATIC_FILES", &path)])?;
        let mut client = Client::connect(proxy.http())?;

        let index = client.get("/")?;
        assert_eq!((index.status(), index.text().as_str()), (200, "<title>mine</title>"));
        assert_eq!(index.head.field("content-type"), Some("text/html"));
        let folder_of = client.get("/deep")?;
        assert_eq!((folder_of.status(), folder_of.head.field("location")), (301, Some("/deep/")));
        assert_eq!(client.get("/deep/")?.text(), "deep");

        let whole = client.get("/style.css")?;
        assert_eq!((whole.status(), whole.text().as_str()), (200, "0123456789"));
        assert_eq!(whole.head.field("content-type"), Some("text/css"));
        let head = client.request("HEAD", "/style.css", "")?;
        assert_eq!((head.status(), head.head.field("content-length")), (200, Some("10")));
        for (range, status, body, told) in [
            ("2-4", 206, "234", "bytes 2-4/10"),
            ("7-", 206, "789", "bytes 7-9/10"),
            ("-1", 206, "9", "bytes 9-9/10"),
            ("10-", 416, "", "bytes */10"),
        ] {
            let part = client.request("GET", "/style.css", &format!("Range: bytes={range}\r\n"))?;
            assert_eq!((part.status(), part.text().as_str()), (status, body), "{range}");
            assert_eq!(part.head.field("content-range"), Some(told), "{range}");
        }
        let modified = whole.head.field("last-modified").context("Last-Modified")?;
        let lines = format!("If-Modified-Since: {modified}\r\n");
        let known = client.request("GET", "/style.css", &lines)?;
        assert_eq!((known.status(), known.head.field("content-length")), (304, None));

        for target in [
            "/../secret.txt",
            "/deep/../../secret.txt",
            "/%2e%2e%2fsecret.txt",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/..%5csecret.txt",
            "/..\\secret.txt",
            "/deep/%2e%2e/%2e%2e/secret.txt",
            "/%252e%252e/secret.txt",
            "//secret.txt",
            "/./../secret.txt",
            "http://example.com/../secret.txt",
            "/link.txt",
            "/.hidden",
            "/%2ehidden",
            "/style.css%00.html",
            "/style.css/",
        ] {
            let mut client = Client::connect(proxy.http())?;
            let answer = client.get(target)?;
            ensure!(matches!(answer.status(), 400 | 404), "{target}: {:?}", answer.head);
            ensure!(!answer.text().contains("secret"), "{target}: {}", answer.text());
        }
        // Without a traversal all of that was one server's.
        assert_eq!(client.get("/index.html")?.status(), 200);
        versions(&client.get("/api/v1/versions")?)
    })
}

#[test]
fn nothing_follows_a_file_that_has_shrunk_meanwhile() -> Result<()> {
    story(|folder| {
        let file = fs::File::create(folder.join("large.bin"))?;
        file.set_len(256 << 20)?;
        let path = folder.to_string_lossy();
        let proxy = Proxy::start(folder, &[("PROXY_STATIC_FILES", &path)])?;
        let mut client = Client::connect(proxy.http())?;
        client.ask("GET", "/large.bin", "")?;
        client.ask("GET", "/api/v1/versions", "")?;
        assert_eq!(client.head()?.field("content-length"), Some("268435456"));
        file.set_len(0)?;
        let rest = client.must_be_closed_within(SOON)?;
        ensure!(rest.len() < 256 << 20 && rest.iter().all(|&byte| byte == 0));
        Ok(())
    })
}

#[test]
fn pages_and_streams_share_a_connection() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            exchange.answer("200 OK", "", request.target())
        })?;
        let mut client = Client::connect(proxy.http())?;
        for _ in 0..2 {
            let index = client.get("/")?;
            assert_eq!(index.head.field("content-type"), Some("text/html; charset=utf-8"));
            assert_eq!(client.get("/live/show-1.ts")?.text(), "/live/show-1.ts");
            assert_eq!(client.request("HEAD", "/", "")?.status(), 200);
            let style = client.get("/style.css")?;
            let tag = style.head.field("etag").context("ETag")?;
            let known =
                client.request("GET", "/style.css", &format!("If-None-Match: {tag}\r\n"))?;
            assert_eq!((known.status(), known.body.len()), (304, 0));
            // RFC 9110 8.6: the length would be that of the page.
            assert_eq!(known.head.field("content-length"), None);
            let none = client.get("/nothing/here")?;
            assert_eq!(none.status(), 404);
            for answer in [&none, &index] {
                let [server, date] = ["server", "date"].map(|name| answer.head.field(name));
                let server = server.unwrap_or_default();
                assert!(server.starts_with("srs-proxy/") && date.is_some(), "{:?}", answer.head);
            }
            assert_eq!(none.head.field("content-type"), Some("application/json"));
            versions(&client.get("/api/v1/versions")?)?;
        }
        assert_eq!(proxy.sessions()?.len(), 1, "one connection is one session");
        assert_eq!(origin.count(), 2);
        // What has a body that nobody reads is the last one.
        client.ask("POST", "/rtc/v1/nothing/?app=live&stream=show", "Content-Length: 3\r\n")?;
        client.send("v=0")?;
        let refused = client.answer("POST")?;
        assert_eq!(refused.status(), 405);
        client.must_be_closed_within(SOON)?;
        Ok(())
    })
}

/// What SRS answers at this path, as its clients read it.
fn versions(answer: &Response) -> Result<()> {
    let said: Value = serde_json::from_slice(&answer.body)?;
    let at = |pointer: &str| said.pointer(pointer).cloned().unwrap_or_default();
    ensure!(answer.status() == 200 && at("/code") == 0, "{said}");
    ensure!(at("/pid").is_string(), "{said}");
    let numbers = ["major", "minor", "revision"].map(|name| at(&format!("/data/{name}")));
    ensure!(numbers.iter().all(Value::is_u64), "{said}");
    let [major, minor, revision] = numbers;
    ensure!(at("/data/version") == format!("{major}.{minor}.{revision}"), "{said}");
    Ok(())
}

/// Fails unless the page's video has decoded the fixture's picture, for about this long.
fn shows_the_fixture(browser: &mut Browser, seconds: f64) -> Result<()> {
    let seen = browser.evaluate(
        "(video => [video.videoWidth, video.videoHeight, video.currentTime, \
         video.getVideoPlaybackQuality().totalVideoFrames])(document.querySelector('video'))",
    )?;
    let number = |place: usize| seen.get(place).and_then(Value::as_f64).unwrap_or_default();
    ensure!((number(0), number(1)) == (320.0, 180.0), "another picture: {seen}");
    // At 25 frames a second, of which a busy machine may drop some.
    ensure!(number(3) > seconds * 15.0, "{} frames in {seconds} s", number(3));
    let shown = ["#state", "#resolution", "#bitrate"].map(|id| text(browser, id));
    let [state, resolution, bitrate] = shown;
    ensure!(resolution? == "320 × 180");
    let (state, bitrate) = (state?, bitrate?);
    ensure!(state == "playing" && bitrate.ends_with("bit/s"), "{state}, {bitrate}");
    Ok(())
}

/// The words of an element as a viewer sees them.
fn text(browser: &mut Browser, selector: &str) -> Result<String> {
    let text = browser.evaluate(&format!("document.querySelector({selector:?}).innerText"))?;
    Ok(text.as_str().context("no such element")?.to_owned())
}

/// The page on a desk and on a phone, for who wants to see it; nothing may be cut off.
fn pictures(browser: &mut Browser, folder: &Path, name: &str) -> Result<()> {
    for (device, width, height) in [("desk", 1200, 900), ("phone", 360, 740)] {
        browser.resize(width, height)?;
        let sizes = "[document.documentElement.scrollWidth, innerWidth]";
        let fits = browser.evaluate("document.documentElement.scrollWidth <= innerWidth")? == true;
        ensure!(fits, "{name} on a {device}: {}", browser.evaluate(sizes)?);
        browser.screenshot(&folder.join(format!("{name}-{device}.png")))?;
    }
    Ok(())
}

fn complains_of_nothing(browser: &Browser) -> Result<()> {
    ensure!(browser.complaints().is_empty(), "the console: {:?}", browser.complaints());
    Ok(())
}
