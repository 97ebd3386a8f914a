//! To which origin requests go, whatever anybody else asks for, and what is counted as a stream.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::raw::{Client, Exchange, Origin, Request, Response, behind_a_proxy};
use srs_proxy_tests::{http, ports, story, wait};

const SOON: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_secs(3);

/// Answers at the origin of this name; every answer should have the line [`named`].
type Answer = fn(&str, &Request, &mut Exchange<'_>) -> Result<()>;

/// A proxy with two origins, `a` and `b`.
fn start(folder: &Path, answer: Answer) -> Result<(Proxy, [Origin; 2])> {
    let origin = |name| Origin::start(move |request, exchange| answer(name, request, exchange));
    let origins = [origin("a")?, origin("b")?];
    let proxy = Proxy::start(folder, &[])?;
    for (origin, name) in origins.iter().zip(["a", "b"]) {
        origin.register_at(proxy.system_api(), name)?;
    }
    Ok((proxy, origins))
}

/// A header's line by which an answer tells whose it is.
fn named(name: &str) -> String {
    format!("X-Origin: {name}\r\n")
}

/// Whose answer it is; empty if it is the proxy's own.
fn whose(answer: &Response) -> String {
    answer.head.field("x-origin").unwrap_or_default().to_owned()
}

fn get(proxy: &Proxy, target: &str) -> Result<Response> {
    Client::connect(proxy.http())?.get(target)
}

/// Every origin has a playlist, and pages of its own.
fn serve(name: &str, _: &Request, exchange: &mut Exchange<'_>) -> Result<()> {
    exchange.answer("200 OK", &named(name), "#EXTM3U\n#EXTINF:1,\nshow-1.ts\n")
}

/// A playlist's origin, and the token that it has given out.
fn token_of(proxy: &Proxy, target: &str) -> Result<(String, String)> {
    let playlist = get(proxy, target)?;
    let text = playlist.text();
    let (_, token) = text.split_once("spt=").with_context(|| format!("no token: {text}"))?;
    let token = token.split_whitespace().next().unwrap_or_default();
    Ok((whose(&playlist), token.to_owned()))
}

#[test]
fn a_token_opens_no_page_of_an_origin() -> Result<()> {
    story(|folder| {
        let (proxy, origins) = start(folder, serve)?;
        let (home, token) = token_of(&proxy, "/live/show.m3u8")?;
        for page in [
            "/stat",
            "/control/drop/publisher",
            "/api/v1/clients",
            "/live/../stat",
            "/live/./../stat",
            "/live/%2e%2e/stat",
            "/live/..%2fstat",
            "/live/..;/stat",
            "/live/..\\stat",
            "/live/%252e%252e/stat",
            "http://a/live/../stat",
            "/livestat",
            "/",
        ] {
            for method in ["GET", "HEAD"] {
                let target = format!("{page}?spt={token}");
                let answer = Client::connect(proxy.http())?.request(method, &target, "")?;
                assert_eq!(whose(&answer), "", "{method} {page}");
            }
        }
        for page in ["/stat", "/live/hook", "/live/thumb.jpg"] {
            for method in ["POST", "PUT"] {
                let target = format!("{page}?spt={token}");
                let mut client = Client::connect(proxy.http())?;
                let answer = client.request(method, &target, "Content-Length: 0\r\n")?;
                assert_eq!(whose(&answer), "", "{method} {page}");
            }
        }
        let seen: usize = origins.iter().map(Origin::count).sum();
        assert_eq!(seen, 1, "requests at the origins");
        // What else belongs to the show is served, and the origin does not see the token.
        for target in ["/live/thumb.jpg?spt=TOKEN", "/live/show/poster?a=b&spt=TOKEN"] {
            let answer = get(&proxy, &target.replace("TOKEN", &token))?;
            assert_eq!((answer.status(), whose(&answer)), (200, home.clone()), "{target}");
        }
        let mut targets: Vec<_> = origins.iter().flat_map(Origin::requests).collect();
        targets.retain(|request| request.extension() != "m3u8");
        let targets: Vec<_> = targets.iter().map(Request::target).collect();
        assert_eq!(targets, ["/live/thumb.jpg", "/live/show/poster?a=b"]);
        Ok(())
    })
}

#[test]
fn a_token_does_not_lead_a_live_stream_to_another_origin() -> Result<()> {
    story(|folder| {
        let (proxy, _origins) = start(folder, serve)?;
        let (home, token) = token_of(&proxy, "/live/show.m3u8")?;
        let other = wait::until("a stream that is elsewhere", SOON, || {
            for n in 0..20 {
                let path = format!("/live/other{n}.flv");
                if whose(&get(&proxy, &path)?) != home {
                    return Ok(Some(path));
                }
            }
            Ok(None)
        })?;
        let elsewhere = whose(&get(&proxy, &other)?);
        assert_eq!(whose(&get(&proxy, &format!("{other}?spt={token}"))?), elsewhere);
        // Nor does it place one that nobody has asked for.
        for n in 0..8 {
            let path = format!("/live/new{n}.flv");
            let with_token = whose(&get(&proxy, &format!("{path}?spt={token}"))?);
            assert_eq!(whose(&get(&proxy, &path)?), with_token, "{path}");
        }
        Ok(())
    })
}

#[test]
fn nobody_moves_a_live_stream_s_players() -> Result<()> {
    fn answer(name: &str, request: &Request, exchange: &mut Exchange<'_>) -> Result<()> {
        match request.path() {
            "/live/cam.m3u8" => exchange.answer("404 Not Found", &named(name), ""),
            "/live/cam.flv" => exchange.hold(|| false),
            "/live/cam-1.flv" => {
                exchange.send(format!("HTTP/1.1 200 OK\r\n{}\r\nFLV", named(name)))?;
                exchange.hold(|| false)
            }
            _ => exchange.answer("200 OK", &named(name), "TS"),
        }
    }
    story(|folder| {
        let (proxy, origins) = start(folder, answer)?;
        let mut player = Client::connect(proxy.http())?;
        player.ask("GET", "/live/cam-1.flv", "")?;
        let home = player.head()?.field("x-origin").context("a name")?.to_owned();
        let moved = |when: &str| -> Result<()> {
            let answer = get(&proxy, "/live/cam-1.ts").context(when.to_owned())?;
            ensure!(whose(&answer) == home, "{when}: {:?}", answer.head);
            Ok(())
        };
        moved("before anybody asks for another stream")?;
        // The stream of which cam-1 could be a piece is placed where fewer streams are.
        let missing = get(&proxy, "/live/cam.m3u8")?;
        assert_eq!(missing.status(), 404);
        assert_ne!(whose(&missing), home, "both streams are at one origin");
        moved("after a stream that is not there")?;
        let mut held = Client::connect(proxy.http())?;
        held.ask("GET", "/live/cam.flv", "")?;
        wait::until_true("it waits at the other origin", SOON, || {
            let mut seen = origins.iter().flat_map(Origin::requests);
            Ok(seen.any(|request| request.path() == "/live/cam.flv"))
        })?;
        moved("beside a stream that does not begin")
    })
}

#[test]
fn nobody_binds_the_streams_of_a_folder_to_one_origin() -> Result<()> {
    fn answer(name: &str, request: &Request, exchange: &mut Exchange<'_>) -> Result<()> {
        match request.path() {
            "/hls/live.m3u8" => exchange.answer("404 Not Found", &named(name), ""),
            "/hls/live.flv" => exchange.hold(|| false),
            _ => exchange.answer("200 OK", &named(name), "#EXTM3U\n"),
        }
    }
    story(|folder| {
        let (proxy, _origins) = start(folder, answer)?;
        let spread = |when: &str, names: &str| -> Result<()> {
            let homes =
                (0..8).map(|n| Ok(whose(&get(&proxy, &format!("/hls/live/{names}{n}.m3u8"))?)));
            let homes = homes.collect::<Result<Vec<_>>>()?;
            for name in ["a", "b"] {
                ensure!(homes.iter().any(|home| home == name), "{when}: {homes:?}");
            }
            Ok(())
        };
        assert_eq!(get(&proxy, "/hls/live.m3u8")?.status(), 404);
        spread("after a stream that is not there", "s")?;
        let mut held = Client::connect(proxy.http())?;
        held.ask("GET", "/hls/live.flv", "")?;
        wait::until_true("it is routed", SOON, || {
            Ok(proxy.metric("srs_proxy_routes", &[("state", "in_use")])? == 1)
        })?;
        spread("beside a stream that does not begin", "t")
    })
}

#[test]
fn a_stream_that_is_not_there_leaves_no_route() -> Result<()> {
    fn answer(name: &str, request: &Request, exchange: &mut Exchange<'_>) -> Result<()> {
        let status = if request.path().contains("none") { "404 Not Found" } else { "200 OK" };
        exchange.answer(status, &named(name), "#EXTM3U\n")
    }
    story(|folder| {
        let (proxy, _origins) = start(folder, answer)?;
        let routes = || proxy.metric("srs_proxy_routes", &[]);
        for n in 0..10 {
            for form in ["flv", "ts", "m3u8", "mpd", "mp4"] {
                assert_eq!(get(&proxy, &format!("/live/none{n}.{form}"))?.status(), 404);
            }
        }
        // Nor do several who ask at once.
        let ask = || {
            let mut client = Client::connect(proxy.http())?;
            client.ask("GET", "/live/none.flv", "")?;
            Ok(client)
        };
        for mut client in (0..20).map(|_| ask()).collect::<Result<Vec<_>>>()? {
            assert_eq!(client.answer("GET")?.status(), 404);
        }
        wait::until_true("no route is left", SOON, || Ok(routes()? == 0))?;
        for form in ["flv", "m3u8"] {
            assert_eq!(get(&proxy, &format!("/live/show.{form}"))?.status(), 200);
            // One that is there keeps its route, whatever of it is missing.
            assert_eq!(get(&proxy, "/live/show/none-1.ts")?.status(), 404);
            assert_eq!(routes()?, 1);
        }
        Ok(())
    })
}

#[test]
fn a_request_that_goes_in_circles_is_answered() -> Result<()> {
    story(|folder| {
        let (one, other) = (ports::free()?, ports::free()?);
        let start = |name: &str, own: &str, next: &str| {
            let variables = [
                ("PROXY_HTTP_SERVER", own),
                ("PROXY_DEFAULT_BACKEND_ENABLED", "on"),
                ("PROXY_DEFAULT_BACKEND_IP", "127.0.0.1"),
                ("PROXY_DEFAULT_BACKEND_HTTP", next),
            ];
            Proxy::start_named(folder, name, &variables)
        };
        let proxies = [
            start("one", &one.to_string(), &other.port().to_string())?,
            start("other", &other.to_string(), &one.port().to_string())?,
        ];
        for path in ["/live/show.flv", "/live/show.m3u8", "/live/show-1.ts"] {
            let asked = Instant::now();
            let answer = Client::connect(one)?.get(path)?;
            assert_eq!(answer.status(), 508, "{path}");
            assert!(asked.elapsed() < AT_ONCE, "{path}: {:?}", asked.elapsed());
        }
        for proxy in &proxies {
            let live = proxy.metric("srs_proxy_sessions", &[])?;
            let over = proxy.metric("srs_proxy_session_ends_total", &[])?;
            assert!(live + over <= 6, "{live} and {over} sessions for three requests");
        }
        Ok(())
    })
}

/// Anybody may send POST: what no origin has agreed to is no stream yet.
#[test]
fn who_publishes_what_nobody_takes_is_no_publisher() -> Result<()> {
    story(|folder| {
        // It answers behind the body, which does not end.
        let (proxy, origin) =
            behind_a_proxy(folder, &[], |_, exchange| exchange.answer("200 OK", "", ""))?;
        let listed = || -> Result<String> { Ok(http::get(proxy.http(), "/streams.json")?.body) };
        let setups = || proxy.metric("srs_proxy_session_setups_total", &[]);
        let chunk = |length: usize| format!("{length:x}\r\n{}\r\n", "x".repeat(length));
        let mut publishers = Vec::new();
        for n in 0..4 {
            let mut client = Client::connect(proxy.http())?;
            client.ask("POST", &format!("/live/anon{n}.flv"), "Transfer-Encoding: chunked\r\n")?;
            client.send(chunk(20_000))?;
            publishers.push(client);
        }
        wait::until_true("all of it is at the origin", SOON, || {
            let sessions = proxy.sessions()?;
            let there = sessions.iter().filter(|it| it.bytes_to_origin > 20_000).count();
            Ok(origin.open() == 4 && there == 4)
        })?;
        let list = listed()?;
        assert!(!list.contains("anon"), "{list}");
        assert_eq!(setups()?, 0);
        let one = publishers.get_mut(2).context("a publisher")?;
        one.send(chunk(60_000))?;
        wait::until_true("one has sent enough", SOON, || Ok(listed()?.contains("anon2")))?;
        let list = listed()?;
        assert!(list.contains("\"total\":1"), "{list}");
        assert_eq!(setups()?, 1);
        Ok(())
    })
}
