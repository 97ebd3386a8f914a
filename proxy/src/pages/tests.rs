//! Browsers, caches and strangers ask for pages and files.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use http::header::{
    ACCEPT_RANGES, CONTENT_RANGE, CONTENT_SECURITY_POLICY, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::listen::TrustedProxies;
use crate::proto::proxy_protocol::Ends;
use crate::session::{Live, Protocol, Role, SessionLimits};
use crate::stream::{Ask, StreamKey, Vhosts};

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: impl http::header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn ask(pages: &Pages, request: http::request::Builder) -> Answer {
    let request = request.body(()).unwrap();
    let response = pages.answer(&request).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    let answer = Answer { status: head.status.as_u16(), headers: head.headers, body };
    assert_eq!(answer.header(SERVER), SERVER_NAME);
    assert_eq!(answer.header(X_CONTENT_TYPE_OPTIONS), "nosniff");
    if answer.status != 304 && request.method() != Method::HEAD {
        let length = answer.body.len().to_string();
        assert_eq!(answer.header(CONTENT_LENGTH), length, "{}", request.uri());
    }
    answer
}

async fn get(pages: &Pages, target: &str) -> Answer {
    ask(pages, Request::get(target)).await
}

fn nobody() -> Arc<Sessions> {
    Sessions::new(SessionLimits {
        total: 5000,
        per_client: 5000,
        shared: TrustedProxies::default(),
    })
}

fn built_in() -> Pages {
    Pages::new(None, nobody(), Some(11935))
}

/// A live session with this stream, to be held.
fn session(sessions: &Arc<Sessions>, role: Role, tc_url: &str, stream: &str) -> Live {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let ends = Ends { source: address, destination: address };
    let live = sessions.admit(ends, Protocol::Rtmp).unwrap();
    let ask = Ask::Rtmp { tc_url, app: "", stream };
    let key = StreamKey::new(&ask, &Vhosts::new(["tv.example"])).unwrap();
    live.session().note(|progress| progress.stream = Some(key));
    live.established(role);
    live
}

#[tokio::test]
async fn the_version_is_said_as_srs_says_it() {
    let folder = TempDir::new().unwrap();
    for pages in [built_in(), Pages::new(Some(folder.path().into()), nobody(), None)] {
        let answer = get(&pages, "/api/v1/versions").await;
        let said: Value = serde_json::from_str(answer.text()).unwrap();
        assert_eq!(said["code"], 0);
        assert_eq!(said["pid"], std::process::id().to_string());
        let data = &said["data"];
        let numbers = format!("{}.{}.{}", data["major"], data["minor"], data["revision"]);
        assert_eq!(data["version"], numbers);
        assert_eq!(answer.header(CONTENT_TYPE), "application/json");
    }
}

#[tokio::test]
async fn only_get_and_head_are_answered() {
    let pages = built_in();
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"] {
        let answer = ask(&pages, Request::builder().method(method).uri("/")).await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header(ALLOW), "GET, HEAD, OPTIONS");
    }
    for target in ["/", "/style.css", "/players/flv.html", "/api/v1/versions", "/nothing"] {
        let (get, head) = (get(&pages, target).await, ask(&pages, Request::head(target)).await);
        assert!(head.body.is_empty(), "{target}");
        assert_eq!((head.status, &head.headers), (get.status, &get.headers), "{target}");
    }
}

#[tokio::test]
async fn the_index_lists_what_is_published_and_how_it_is_played() {
    let sessions = nobody();
    let pages = Pages::new(None, Arc::clone(&sessions), Some(11935));
    let _held = [
        session(&sessions, Role::Publish, "rtmp://h/live", "show"),
        session(&sessions, Role::Publish, "rtmp://tv.example/a/b", "news"),
        session(&sessions, Role::Play, "rtmp://h/live", "wanted"),
    ];
    let asked = |target: &str| Request::get(target).header("host", "media.example:18080");
    let index = ask(&pages, asked("/")).await;
    for part in [
        "<h2>live/show<small></small></h2>",
        "<h2>a/b/news<small>tv.example</small></h2>",
        "href=\"/players/flv.html?app=live&amp;stream=show&amp;autostart=true\"",
        "href=\"/players/hls.html?app=a%2Fb&amp;stream=news&amp;vhost=tv.example&amp;autostart=true\"",
        "href=\"/live/show.flv\"",
        "href=\"/a/b/news.m3u8?vhost=tv.example\"",
        "href=\"/a/b/news.mpd?vhost=tv.example\"",
        "<code>rtmp://media.example:11935/live/show</code>",
    ] {
        assert!(index.text().contains(part), "no {part} in {}", index.text());
    }
    assert!(!index.text().contains("wanted"), "a stream without a publisher is not live");
    assert_eq!(index.header("cache-control"), "no-store");

    let list: Value =
        serde_json::from_str(ask(&pages, asked("/streams.json")).await.text()).unwrap();
    assert_eq!((&list["code"], &list["total"]), (&json!(0), &json!(2)));
    let show = json!({
        "key": "__defaultVhost__/live/show",
        "flv": "/live/show.flv",
        "hls": "/live/show.m3u8",
        "dash": "/live/show.mpd",
        "rtmp": "rtmp://media.example:11935/live/show",
    });
    assert_eq!(list["streams"][0], show);
}

#[tokio::test(start_paused = true)]
async fn the_sessions_are_gone_through_once_a_second_however_many_ask() {
    let sessions = nobody();
    let pages = Pages::new(None, Arc::clone(&sessions), None);
    let total = async || {
        let list: Value = serde_json::from_str(get(&pages, "/streams.json").await.text()).unwrap();
        list["total"].clone()
    };
    assert_eq!(total().await, 0);
    let held = session(&sessions, Role::Publish, "rtmp://h/live", "show");
    assert!(get(&pages, "/").await.text().contains("Nothing is live"));
    assert_eq!(total().await, 0, "one list for all pages");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(total().await, 1);
    drop(held);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(total().await, 0);
}

#[tokio::test]
async fn an_empty_index_says_how_to_publish() {
    let asked = Request::get("/").header("host", "[::1]:18080");
    let index = ask(&built_in(), asked).await;
    assert!(index.text().contains("<code>rtmp://[::1]:11935/live</code>"), "{}", index.text());
    let nameless = get(&built_in(), "/").await;
    assert!(!nameless.text().contains("rtmp://"), "who names no host gets no URL of it");
}

#[tokio::test]
async fn no_name_becomes_markup() {
    let hostile = [
        "<script>alert(1)</script>",
        "\"onmouseover=\"alert(1)",
        "'><img/src=x/onerror=alert(1)>",
        "&lt;script&gt;",
        "javascript:alert(1)",
        "{{streams}}",
        "a\u{202e}txt.exe",
        "%3Cscript%3Ealert(2)%3C/script%3E",
    ];
    let plain = {
        let sessions = nobody();
        let held: Vec<_> = (0..hostile.len())
            .map(|n| session(&sessions, Role::Publish, "rtmp://h/live", &n.to_string()))
            .collect();
        let text = get(&Pages::new(None, sessions, None), "/").await.text().to_owned();
        drop(held);
        text
    };
    let sessions = nobody();
    let tc_url = |name: &str| format!("rtmp://h/{name}");
    let _held: Vec<_> =
        hostile.iter().map(|name| session(&sessions, Role::Publish, &tc_url(name), name)).collect();
    let pages = Pages::new(None, sessions, Some(1935));
    // A host that tries the same.
    let index = ask(&pages, Request::get("/").header("host", "<script>alert(3)</script>")).await;
    // Every tag is the page's own, and no attribute has ended early: as many of each sign as
    // among harmless names.
    for sign in ["<", ">", "\""] {
        let (found, own) = (index.text().matches(sign).count(), plain.matches(sign).count());
        assert_eq!(found, own, "{sign} in {}", index.text());
    }
    for link in index.text().split("href=\"").skip(1) {
        assert!(link.starts_with('/'), "a link to {link:.40}");
        assert!(!link.starts_with("//"), "a link to {link:.40}");
    }
    assert!(!index.text().contains('\u{202e}'));
    assert!(index.text().contains("{{streams}}/{{streams}}"), "a name is shown as it is");
}

#[tokio::test]
async fn an_index_of_many_streams_is_bounded() {
    let sessions = nobody();
    let count = streams::MOST + 5;
    let _held: Vec<_> = (0..count)
        .map(|n| session(&sessions, Role::Publish, "rtmp://h/live", &format!("s{n}")))
        .collect();
    let pages = Pages::new(None, sessions, None);
    let index = get(&pages, "/").await;
    assert_eq!(index.text().matches("<li>").count(), streams::MOST);
    assert!(index.text().contains(&format!("of {count} live streams")));
    let list: Value = serde_json::from_str(get(&pages, "/streams.json").await.text()).unwrap();
    assert_eq!(list["total"], count);
    assert_eq!(list["streams"].as_array().map(Vec::len), Some(streams::MOST));
}

/// Each path that a page names, starting with the index and the player pages.
#[tokio::test]
async fn every_part_of_a_page_is_here_and_revalidates() {
    let pages = built_in();
    let mut left: Vec<String> = ["/", "/players/flv.html", "/players/hls.html"]
        .into_iter()
        .chain(["/players/whep.html", "/players/whip.html"])
        .map(str::to_owned)
        .collect();
    let mut seen = 0;
    while let Some(path) = left.pop() {
        let answer = get(&pages, &path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header(CONTENT_SECURITY_POLICY).starts_with("default-src 'none';"));
        let kind = match path.rsplit_once('.').map_or("html", |(_, extension)| extension) {
            "js" | "mjs" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(answer.header(CONTENT_TYPE), kind, "{path}");
        seen += 1;
        if path.contains("/vendor/") {
            assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
        } else {
            let text = answer.text();
            assert!(!text.contains("{{"), "{path} has a hole");
            for mark in ["src=\"", "rel=\"stylesheet\" href=\"", "rel=\"icon\" href=\"", "from \""]
            {
                let named = text.split(mark).skip(1).filter_map(|rest| rest.split('"').next());
                left.extend(named.map(|name| {
                    let name = name.trim_start_matches("./");
                    if name.starts_with('/') { name.into() } else { format!("/players/{name}") }
                }));
            }
        }
        if path != "/" {
            let etag = answer.header(ETAG);
            for tags in [etag.to_owned(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".into()]
            {
                let again = ask(&pages, Request::get(&path).header(IF_NONE_MATCH, &tags)).await;
                assert_eq!((again.status, again.body.len()), (304, 0), "{path} {tags}");
                assert_eq!(again.header(ETAG), etag);
                assert_eq!(again.header(CONTENT_LENGTH), "");
            }
            let other = ask(&pages, Request::get(&path).header(IF_NONE_MATCH, "\"x\"")).await;
            assert_eq!(other.status, 200);
        }
    }
    assert!(seen > 20, "only {seen} parts found");
}

#[test]
fn no_page_names_another_host() {
    let own = [
        include_str!("assets/index.html"),
        include_str!("assets/player.html"),
        include_str!("assets/style.css"),
        include_str!("assets/index.js"),
        include_str!("assets/page.js"),
        include_str!("assets/flv.js"),
        include_str!("assets/hls.js"),
        include_str!("assets/rtc.js"),
        include_str!("assets/whep.js"),
        include_str!("assets/whip.js"),
        &include_str!("assets/icon.svg").replace("http://www.w3.org/2000/svg", ""),
    ];
    for text in own {
        for mark in ["http://", "https://", "ws://", "wss://", "\"//", "url("] {
            assert!(!text.contains(mark), "{mark} in {text:.200}");
        }
        assert!(text.len() < 8 * 1024, "not small: {text:.60}");
    }
}

#[tokio::test]
async fn the_names_of_srs_pages_lead_to_the_players() {
    let pages = built_in();
    for (asked, player) in [
        (
            "/players/srs_player.html?stream=show.flv&autostart=true",
            "flv.html?stream=show.flv&autostart=true",
        ),
        ("/players/srs_player.html?stream=show.m3u8", "hls.html?stream=show.m3u8"),
        ("/players/rtc_player.html?app=live", "whep.html?app=live"),
        ("/players/rtc_publisher.html", "whip.html?"),
        ("/players/", "/"),
    ] {
        let answer = get(&pages, asked).await;
        assert_eq!((answer.status, answer.header(LOCATION)), (307, player), "{asked}");
    }
    for nowhere in ["/players/none.html", "/favicon.ico", "/players/../style.css", "//style.css"] {
        assert_eq!(get(&pages, nowhere).await.status, 404, "{nowhere}");
    }
}

/// A folder with a page, a video and things that are none of anybody's business beside it.
fn site() -> (TempDir, Pages) {
    let outer = TempDir::new().unwrap();
    let root = outer.path().join("site");
    fs::create_dir_all(root.join("players/empty")).unwrap();
    fs::create_dir_all(root.join(".well-known")).unwrap();
    fs::write(outer.path().join("secret"), "secret").unwrap();
    fs::write(root.join(".env"), "secret").unwrap();
    fs::write(root.join(".well-known/ok.txt"), "ok").unwrap();
    fs::write(root.join("index.html"), "<h1>Site</h1>").unwrap();
    fs::write(root.join("a b+c.txt"), "blank").unwrap();
    fs::write(root.join("video.mp4"), "0123456789").unwrap();
    fs::write(root.join("players/index.html"), "<h1>Players</h1>").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink(outer.path(), root.join("out")).unwrap();
        symlink(outer.path().join("secret"), root.join("out.txt")).unwrap();
        symlink("video.mp4", root.join("latest.mp4")).unwrap();
        fs::create_dir(root.join("sly")).unwrap();
        symlink(outer.path().join("secret"), root.join("sly/index.html")).unwrap();
    }
    let pages = Pages::new(Some(root), nobody(), Some(1935));
    (outer, pages)
}

#[tokio::test]
async fn files_are_served_as_what_they_are() {
    let (_folder, pages) = site();
    for (target, kind, text) in [
        ("/", "text/html", "<h1>Site</h1>"),
        ("/index.html?x=1", "text/html", "<h1>Site</h1>"),
        ("/players/", "text/html", "<h1>Players</h1>"),
        ("/video.mp4", "video/mp4", "0123456789"),
        ("/a%20b+c.txt", "text/plain", "blank"),
        ("/.well-known/ok.txt", "text/plain", "ok"),
        #[cfg(unix)]
        ("/latest.mp4", "video/mp4", "0123456789"),
    ] {
        let answer = get(&pages, target).await;
        assert_eq!((answer.status, answer.text()), (200, text), "{target}");
        assert!(answer.header(CONTENT_TYPE).starts_with(kind), "{target}");
        assert_eq!(answer.header(ACCEPT_RANGES), "bytes");
    }
    let answer = get(&pages, "/players?a=b").await;
    assert_eq!((answer.status, answer.header(LOCATION)), (301, "/players/?a=b"));
    for target in ["/players/empty/", "/video.mp4/", "/none", "/style.css", "/streams.json"] {
        assert_eq!(get(&pages, target).await.status, 404, "{target}");
    }
    let head = ask(&pages, Request::head("/video.mp4").header(RANGE, "bytes=0-3")).await;
    assert_eq!((head.status, head.header(CONTENT_LENGTH), head.body.len()), (200, "10", 0));
}

#[tokio::test]
async fn a_file_is_asked_for_where_a_stream_could_be() {
    let (_folder, pages) = site();
    let file = async |request: http::request::Builder| {
        let response = pages.file(&request.body(()).unwrap()).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Some(Answer { status: head.status.as_u16(), headers: head.headers, body })
    };
    for request in [Request::get, Request::head] {
        let found = file(request("/video.mp4").header(RANGE, "bytes=2-4")).await.unwrap();
        let told = ask(&pages, request("/video.mp4").header(RANGE, "bytes=2-4")).await;
        assert_eq!(
            (found.status, found.headers, found.body),
            (told.status, told.headers, told.body)
        );
    }
    for target in ["/none.mp4", "/players", "/players/empty/", "/.env", "/../secret", "/out.txt"] {
        assert!(file(Request::get(target)).await.is_none(), "{target}");
    }
    assert!(file(Request::post("/video.mp4")).await.is_none());
    let style = Request::get("/style.css").body(()).unwrap();
    assert!(built_in().file(&style).await.is_none(), "there is no folder");
}

#[tokio::test]
async fn nothing_outside_the_folder_is_served() {
    let (folder, pages) = site();
    let absolute = format!("/{}", folder.path().join("secret").display());
    let encoded = absolute.replace('/', "%2f");
    for target in [
        "/../secret",
        "/players/../../secret",
        "/%2e%2e/secret",
        "/%2E%2e/secret",
        "/..%2fsecret",
        "/players%2f..%2f..%2fsecret",
        "/..%5csecret",
        "/..\\secret",
        "/%2e%2e%5csecret",
        "/.../secret",
        "/%252e%252e/secret",
        "/%c0%ae%c0%ae/secret",
        "/players/./index.html",
        "/players//index.html",
        "//players",
        "/video.mp4%00",
        "/video.mp4%00.html",
        "/%00",
        "/.env",
        "/%2eenv",
        "/out",
        "/out/secret",
        "/out.txt",
        "/sly/",
        "/c:/secret",
        "/video.mp4::$DATA",
        &absolute,
        &format!("/{encoded}"),
        "*",
    ] {
        let Ok(uri) = target.parse::<http::Uri>() else { continue };
        let answer = ask(&pages, Request::get(uri)).await;
        assert_eq!(answer.status, 404, "{target}: {}", answer.text());
        assert_eq!(answer.text(), "{\"code\":404,\"error\":\"no such page or stream\"}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_no_regular_file_is_not_opened() {
    let (folder, pages) = site();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("site/s")).unwrap();
    assert_eq!(get(&pages, "/s").await.status, 404);
}

#[tokio::test]
async fn the_folder_may_be_replaced_behind_a_link() {
    let outer = TempDir::new().unwrap();
    let pages = Pages::new(Some(outer.path().join("site")), nobody(), None);
    assert_eq!(get(&pages, "/").await.status, 404);
    fs::create_dir(outer.path().join("site")).unwrap();
    fs::write(outer.path().join("site/index.html"), "later").unwrap();
    assert_eq!(get(&pages, "/").await.text(), "later");
}

#[tokio::test]
async fn parts_of_a_file_are_served() {
    let (_folder, pages) = site();
    let part = async |range: &str| {
        let answer = ask(&pages, Request::get("/video.mp4").header(RANGE, range)).await;
        (answer.status, answer.header(CONTENT_RANGE).to_owned(), answer.text().to_owned())
    };
    let expected = |status, range: &str, text: &str| (status, range.to_owned(), text.to_owned());
    assert_eq!(part("bytes=2-4").await, expected(206, "bytes 2-4/10", "234"));
    assert_eq!(part("bytes=8-").await, expected(206, "bytes 8-9/10", "89"));
    assert_eq!(part("bytes=-3").await, expected(206, "bytes 7-9/10", "789"));
    assert_eq!(part("bytes=5-99").await, expected(206, "bytes 5-9/10", "56789"));
    assert_eq!(part("bytes=10-").await, expected(416, "bytes */10", ""));
    assert_eq!(part("lines=1-2").await, expected(200, "", "0123456789"));
    assert_eq!(part("bytes=0-1,3-4").await, expected(200, "", "0123456789"));
}

#[tokio::test]
async fn a_file_that_grows_meanwhile_is_served_as_long_as_it_was() {
    let (folder, pages) = site();
    for (range, length) in [("bytes=5-", 5), ("bytes=0-", 10), ("lines=1", 10)] {
        let request = Request::get("/video.mp4").header(RANGE, range).body(()).unwrap();
        let response = pages.answer(&request).await;
        fs::write(folder.path().join("site/video.mp4"), "x".repeat(100_000)).unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), length, "{range}");
        fs::write(folder.path().join("site/video.mp4"), "0123456789").unwrap();
    }
}

#[tokio::test]
async fn a_known_file_is_not_sent_again() {
    let (folder, pages) = site();
    let asked = async |name: http::HeaderName, value: &str| {
        ask(&pages, Request::get("/video.mp4").header(RANGE, "bytes=0-0").header(name, value)).await
    };
    let first = get(&pages, "/video.mp4").await;
    let (etag, date) = (first.header(ETAG), first.header(LAST_MODIFIED));
    assert!(etag.starts_with('"'), "a strong tag, not {etag}");
    for (name, value) in [(IF_NONE_MATCH, etag), (IF_MODIFIED_SINCE, date)] {
        let again = asked(name.clone(), value).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{name}");
        assert_eq!((again.header(ETAG), again.header(CONTENT_LENGTH)), (etag, ""));
    }
    for (value, status) in [(etag, 206), (date, 206), ("\"other\"", 200)] {
        assert_eq!(asked(IF_RANGE, value).await.status, status, "If-Range: {value}");
    }
    assert_eq!(asked(IF_RANGE, &format!("W/{etag}")).await.status, 200, "weak tags do not count");
    let old = "Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(asked(IF_RANGE, old).await.status, 200);
    fs::write(folder.path().join("site/video.mp4"), "9876543210+").unwrap();
    let changed = asked(IF_NONE_MATCH, etag).await;
    assert_eq!((changed.status, changed.text()), (206, "9"));
    assert_ne!(changed.header(ETAG), etag);
}

/// The table beside the libraries says what they are.
#[test]
fn the_libraries_are_those_that_are_listed() {
    let listed = include_str!("assets/vendor/README.md");
    for (path, text) in built_in::VENDORED {
        let hash: Vec<String> =
            Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        let name = path.rsplit('/').next().unwrap();
        let row = listed.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        assert!(row.is_some_and(|row| row.contains(&hash.concat())), "{name} {}", hash.concat());
    }
}
