//! Signalling of WebRTC over HTTP: WHIP, WHEP and the JSON of SRS, on both listeners.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use srs_proxy_tests::browser::Browser;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::raw::{Client, Exchange, Origin, Request, Response, behind_a_proxy, register};
use srs_proxy_tests::{ports, story, wait};

const SOON: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_secs(3);
const WHIP: &str = "/rtc/v1/whip/?app=live&stream=show";
const SDP: &str = "Content-Type: application/sdp\r\n";

/// What a client says later, of an address that no origin is to know.
const TRICKLED: &str = "a=mid:0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n";

/// A description of one side, whose ICE names nobody else has.
fn description(setup: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\n\
         a=ice-ufrag:name{number:04}\r\na=ice-pwd:password{number:024}\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=setup:{setup}\r\na=mid:0\r\na=rtcp-mux\r\n\
         a=rtpmap:111 opus/48000/2\r\n\
         a=candidate:0 1 udp 2130706431 127.0.0.1 8000 typ host generation 0\r\n",
        fingerprint = ["AB"; 32].join(":"),
    )
}

fn offer() -> String {
    description("actpass")
}

/// What a server of WHIP answers, as SRS and as others spell it.
fn serve(name: &str, request: &Request, exchange: &mut Exchange<'_>) -> Result<()> {
    let own = format!("X-Origin: {name}\r\n");
    if request.method() != "POST" {
        let trickle = "Content-Type: application/trickle-ice-sdpfrag\r\nETag: \"2\"\r\n";
        return match request.method() {
            "PATCH" if request.head.field("if-match") == Some("\"old\"") => {
                exchange.answer("412 Precondition Failed", &own, "")
            }
            "PATCH" if request.body.is_empty() => exchange.answer("204 No Content", &own, ""),
            "PATCH" => exchange.answer("200 OK", &format!("{own}{trickle}"), &request.body),
            "DELETE" if request.head.field("x-over").is_some() => {
                let status = request.head.field("x-over").unwrap_or_default();
                let location = "Location: http://10.0.0.1:1985/rtc/v1/whip/1?a=b\r\n";
                exchange.answer(status, &format!("{own}{location}"), "")
            }
            _ => exchange.answer("200 OK", &own, ""),
        };
    }
    let location = if request.target().contains("absolute") {
        format!("http://10.0.0.1:1985/rtc/v1/whip/?session={name}&of=/a/b")
    } else {
        format!("/rtc/v1/whip/?action=delete&token=x&session={name}:1")
    };
    let lines = format!(
        "{own}{SDP}Location: {location}\r\nETag: \"1\"\r\n\
         Link: <stun:stun.example>; rel=\"ice-server\"\r\nConnection: close\r\nX-Any: 1\r\n"
    );
    exchange.answer("201 Created", &lines, description("passive"))
}

/// A proxy with two origins, `a` and `b`.
fn start(folder: &Path) -> Result<(Proxy, [Origin; 2])> {
    let origin = |name| Origin::start(move |request, exchange| serve(name, request, exchange));
    let origins = [origin("a")?, origin("b")?];
    let proxy = Proxy::start(folder, &[])?;
    for (origin, name) in origins.iter().zip(["a", "b"]) {
        origin.register_at(proxy.system_api(), name)?;
    }
    Ok((proxy, origins))
}

fn post(
    client: &mut Client,
    target: &str,
    lines: &str,
    body: impl AsRef<[u8]>,
) -> Result<Response> {
    send(client, "POST", target, lines, body)
}

fn send(
    client: &mut Client,
    method: &str,
    target: &str,
    lines: &str,
    body: impl AsRef<[u8]>,
) -> Result<Response> {
    let body = body.as_ref();
    client.ask(method, target, &format!("{lines}Content-Length: {}\r\n", body.len()))?;
    client.send(body)?;
    client.answer(method).with_context(|| format!("{method} {target}"))
}

fn whose(answer: &Response) -> &str {
    answer.head.field("x-origin").unwrap_or_default()
}

#[test]
fn an_offer_reaches_the_origin_and_the_answer_has_all_that_was_said() -> Result<()> {
    story(|folder| {
        let (proxy, origins) = start(folder)?;
        for listener in [proxy.http(), proxy.http_api()] {
            let mut client = Client::connect(listener)?;
            assert_eq!(client.get("/api/v1/versions")?.status(), 200);
            let asked = format!("{SDP}Authorization: Bearer secret\r\nX-Own: 2\r\n");
            let answer = post(&mut client, WHIP, &asked, offer())?;
            assert_eq!(answer.status(), 201, "{}", answer.text());
            for (name, value) in [
                ("content-type", "application/sdp"),
                ("etag", "\"1\""),
                ("link", "<stun:stun.example>; rel=\"ice-server\""),
                ("x-any", "1"),
                ("access-control-allow-origin", "*"),
            ] {
                assert_eq!(answer.head.field(name), Some(value), "{name}");
            }
            assert!(answer.head.field("access-control-expose-headers").is_some());
            assert_eq!(answer.head.field("connection"), None, "the client's own stays open");
            let text = answer.text();
            assert!(text.starts_with("v=0\r\n") && text.contains("a=setup:passive\r\n"), "{text}");
            let media = format!(" {} typ host", proxy.webrtc().port());
            assert!(text.contains(&media), "{text}");
            let location = answer.head.field("location").context("a location")?;
            assert!(location.starts_with("/rtc/v1/whip/?action=delete&token=x&session="));
            assert!(location.contains("&spt="), "{location}");
            assert_eq!(client.get("/players/whip.html")?.status(), 200);
        }
        let requests: Vec<_> = origins.iter().flat_map(Origin::requests).collect();
        assert_eq!(requests.len(), 2);
        for request in requests {
            assert_eq!((request.method(), request.target()), ("POST", WHIP));
            let head = &request.head;
            assert_eq!(head.field("authorization"), Some("Bearer secret"));
            assert_eq!(
                (head.field("x-own"), head.field("x-real-ip")),
                (Some("2"), Some("127.0.0.1"))
            );
            assert_eq!(head.field("content-type"), Some("application/sdp"));
            assert!(head.field("via").is_some() && head.field("host").is_some());
            assert!(String::from_utf8_lossy(&request.body).contains("a=setup:actpass\r\n"));
        }
        let counted = |kind| {
            proxy.metric("srs_proxy_http_requests_total", &[("kind", kind), ("status", "2xx")])
        };
        assert_eq!(counted("signalling")?, 2);
        Ok(())
    })
}

#[test]
fn a_session_s_url_leads_back_to_its_origin() -> Result<()> {
    story(|folder| {
        let (proxy, origins) = start(folder)?;
        let mut client = Client::connect(proxy.http_api())?;
        for stream in ["one", "two", "three", "four"] {
            let target = format!("/rtc/v1/whep/live/{stream}?absolute");
            let answer = post(&mut client, &target, SDP, offer())?;
            assert_eq!(answer.status(), 201, "{}", answer.text());
            let (home, location) = (whose(&answer), answer.head.field("location"));
            let location = location.context("a location")?;
            let own = format!("/rtc/v1/whip/?session={home}&of=/a/b");
            assert!(location.starts_with(&format!("{own}&spt=")), "{location}");
            // A candidate comes by PATCH, an ICE restart too.
            let patched = send(&mut client, "PATCH", location, "", "")?;
            assert_eq!((patched.status(), whose(&patched)), (204, home));
            let stale = "If-Match: \"old\"\r\n";
            let refused = send(&mut client, "PATCH", location, stale, "a=candidate:1")?;
            assert_eq!((refused.status(), whose(&refused)), (412, home));
            let known = "If-Match: \"1\"\r\n";
            let taken = send(&mut client, "PATCH", location, known, TRICKLED)?;
            assert_eq!((taken.status(), taken.text()), (200, "a=mid:0\r\n".to_owned()));
            assert_eq!(taken.head.field("etag"), Some("\"2\""));
            let fragment = description("passive").split_off("v=0\r\n".len());
            let restarted = send(&mut client, "PATCH", location, "If-Match: \"*\"\r\n", &fragment)?;
            let media = format!(" {} typ host", proxy.webrtc().port());
            assert!(restarted.text().contains(&media), "{}", restarted.text());
            let head = client.request("HEAD", location, "")?;
            assert_eq!((head.status(), whose(&head)), (200, home));
            let gone = client.request("DELETE", location, "Authorization: Bearer x\r\n")?;
            assert_eq!((gone.status(), whose(&gone)), (200, home));
            let origin = if home == "a" { &origins[0] } else { &origins[1] };
            for request in origin.requests() {
                let body = String::from_utf8(request.body)?;
                assert!(!body.contains("192.0.2.1"), "the client's own candidate: {body}");
            }
            let last = origin.requests().pop().context("a request")?;
            assert_eq!((last.method(), last.target()), ("DELETE", &*own), "without the token");
            assert_eq!(last.head.field("authorization"), Some("Bearer x"));
        }
        ensure!(origins.iter().all(|origin| origin.count() > 0), "both had sessions");
        wait::until_true("the ends of all", SOON, || Ok(proxy.ends("deleted")? == 4))?;
        let left = proxy.sessions()?;
        assert!(left.iter().all(|session| session.protocol == "http"), "{left:?}");
        Ok(())
    })
}

#[test]
fn a_token_opens_the_url_of_its_session_and_nothing_else() -> Result<()> {
    story(|folder| {
        let (proxy, origins) = start(folder)?;
        let mut client = Client::connect(proxy.http())?;
        let answer = post(&mut client, WHIP, SDP, offer())?;
        let location = answer.head.field("location").context("a location")?.to_owned();
        let (url, token) = location.split_once("&spt=").context("a token")?;
        let before: usize = origins.iter().map(Origin::count).sum();
        let mut forged = token.to_owned();
        forged.replace_range(20..21, if &token[20..21] == "A" { "B" } else { "A" });
        for target in [
            format!("/control/kick?spt={token}"),
            format!("/api/v1/clients/1?spt={token}"),
            format!("/session/1?spt={forged}"),
            format!("{}?spt={token}", url.replace("/rtc/v1/whip/", "/x/")),
        ] {
            for method in ["DELETE", "PATCH"] {
                let refused = client.request(method, &target, "Content-Length: 0\r\n")?;
                assert_eq!((refused.status(), whose(&refused)), (405, ""), "{method} {target}");
            }
        }
        assert_eq!(origins.iter().map(Origin::count).sum::<usize>(), before);
        // A session that the proxy does not know is the stream's origin's to know.
        let home = whose(&answer).to_owned();
        let unknown = format!("{WHIP}&session=1&spt={forged}");
        let passed = client.request("DELETE", &unknown, "")?;
        assert_eq!((passed.status(), whose(&passed)), (200, &*home));
        let origin = if home == "a" { &origins[0] } else { &origins[1] };
        let last = origin.requests().pop().context("a request")?;
        assert_eq!(last.target(), format!("{WHIP}&session=1"));
        let patched = send(&mut client, "PATCH", WHIP, "", TRICKLED)?;
        assert_eq!((patched.status(), patched.text()), (200, "a=mid:0\r\n".to_owned()));
        let last = origin.requests().pop().context("a request")?;
        assert_eq!(String::from_utf8(last.body)?, "a=mid:0\r\n", "no candidate of the client's");
        Ok(())
    })
}

#[test]
fn a_session_that_its_origin_does_not_have_any_more_ends_here_too() -> Result<()> {
    story(|folder| {
        let (proxy, _origins) = start(folder)?;
        let mut client = Client::connect(proxy.http())?;
        for (status, ended) in
            [("409 Conflict", 0), ("307 Elsewhere", 0), ("404 Not Found", 1), ("410 Gone", 2)]
        {
            let answer = post(&mut client, WHIP, SDP, offer())?;
            let location = answer.head.field("location").context("a location")?;
            let over = format!("X-Over: {status}\r\n");
            let told = client.request("DELETE", location, &over)?;
            assert!(status.starts_with(&told.status().to_string()));
            assert_eq!(told.head.field("location"), Some("/rtc/v1/whip/1?a=b"), "{status}");
            wait::until_true("the ends", SOON, || Ok(proxy.ends("deleted")? == ended))?;
        }
        Ok(())
    })
}

#[test]
fn a_path_that_an_origin_could_read_otherwise_is_refused() -> Result<()> {
    story(|folder| {
        let (proxy, origins) = start(folder)?;
        for listener in [proxy.http(), proxy.http_api()] {
            let mut client = Client::connect(listener)?;
            for path in [
                "../../../api/v1/clients/xyz",
                "%2e%2e/%2E%2e/%2e./api/v1/clients/xyz",
                "%252e%252e/%252e%252e/%252e%252e/api/v1/clients/xyz",
                "..%2f..%2f..%2fapi/v1/clients/xyz",
                "..%5c..\\..%5capi/v1/clients/xyz",
                "..;/..;x=y/..%3b/api/v1/clients/xyz",
                "/api/v1/clients/xyz",
                "live/./s",
                "..",
            ] {
                for endpoint in ["whip", "whep", "whip-play", "publish", "play"] {
                    let target = format!("/rtc/v1/{endpoint}/{path}?app=live&stream=s");
                    for method in ["POST", "PATCH", "DELETE", "GET"] {
                        let refused = send(&mut client, method, &target, SDP, "")?;
                        assert_eq!(refused.status(), 400, "{method} {target}");
                    }
                }
            }
        }
        assert_eq!(origins.iter().map(Origin::count).sum::<usize>(), 0);
        Ok(())
    })
}

#[test]
fn an_origin_that_is_down_is_passed_over() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(|request, exchange| serve("up", request, exchange))?;
        let proxy = Proxy::start(folder, &[])?;
        origin.register_at(proxy.system_api(), "up")?;
        register(ports::free()?, proxy.system_api(), "down")?;
        let mut client = Client::connect(proxy.http_api())?;
        for n in 0..6 {
            let target = format!("/rtc/v1/whip/live/s{n}");
            let answer = post(&mut client, &target, SDP, offer())?;
            assert_eq!((answer.status(), whose(&answer)), (201, "up"), "{}", answer.text());
        }
        Ok(())
    })
}

#[test]
fn what_the_origin_refuses_is_told_in_its_own_words() -> Result<()> {
    fn refuse(request: &Request, exchange: &mut Exchange<'_>) -> Result<()> {
        // The proxy says in the query what the client has said in the path.
        match request.target().split("stream=").nth(1) {
            Some("auth") => exchange.answer(
                "401 Unauthorized",
                "WWW-Authenticate: Bearer realm=\"live\"\r\n",
                "no token",
            ),
            Some("busy") => {
                exchange.answer("503 Service Unavailable", "Retry-After: 7\r\n", "later")
            }
            Some("moved") => {
                let location = "Location: https://other.example/whip/1\r\n";
                exchange.answer("307 Temporary Redirect", location, "")
            }
            Some("inside") => {
                let location = "Location: http://10.0.0.1:1985/rtc/v1/whip/live/x?spt=1&a=b\r\n";
                exchange.answer("307 Temporary Redirect", location, "")
            }
            Some("nowhere") => exchange.answer("409 No", "Location: ftp://10.0.0.1/\r\n", ""),
            Some("chunks") => exchange.send(
                "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 409 Conflict\r\n\
                 Content-Type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n\
                 4\r\nbusy\r\n3\r\n ab\r\n0\r\n\r\n",
            ),
            Some("short") => {
                exchange.close();
                exchange.send("HTTP/1.1 403 No\r\n\r\nnot you")
            }
            Some("empty") => exchange.answer("201 Created", "", ""),
            Some("text") => exchange.answer("200 OK", SDP, "hello"),
            Some("large") => exchange.answer("201 Created", SDP, vec![b'a'; 256 * 1024 + 1]),
            Some("zipped") => exchange.answer("201 Created", "Content-Encoding: gzip\r\n", offer()),
            Some("garbage") => exchange.send("v=0\r\n\r\n"),
            Some("silent") => exchange.hold(|| false),
            // As SRS does if it does not like an offer.
            _ => {
                exchange.close();
                Ok(())
            }
        }
    }
    story(|folder| {
        let variables = [("PROXY_HTTP_ORIGIN_TIMEOUT", "1s")];
        let (proxy, _origin) = behind_a_proxy(folder, &variables, refuse)?;
        let mut client = Client::connect(proxy.http_api())?;
        let mut ask =
            |name: &str| post(&mut client, &format!("/rtc/v1/whip/live/{name}"), SDP, offer());
        let refused = ask("auth")?;
        assert_eq!((refused.status(), refused.text()), (401, "no token".to_owned()));
        assert_eq!(refused.head.field("www-authenticate"), Some("Bearer realm=\"live\""));
        let refused = ask("busy")?;
        assert_eq!((refused.status(), refused.head.field("retry-after")), (503, Some("7")));
        // Only the proxy can be reached by a client.
        for (name, location) in [
            ("moved", Some("/whip/1")),
            ("inside", Some("/rtc/v1/whip/live/x?a=b")),
            ("nowhere", None),
        ] {
            let refused = ask(name)?;
            assert_eq!(refused.head.field("location"), location, "{name}");
        }
        let refused = ask("chunks")?;
        assert_eq!((refused.status(), refused.text()), (409, "busy ab".to_owned()));
        assert_eq!(refused.head.field("content-type"), Some("text/x"));
        let refused = ask("short")?;
        assert_eq!((refused.status(), refused.text()), (403, "not you".to_owned()));
        for name in ["empty", "text", "large", "zipped", "garbage", "closed"] {
            assert_eq!(ask(name)?.status(), 502, "{name}");
        }
        assert_eq!(ask("silent")?.status(), 504);
        let routes = proxy.metric("srs_proxy_routes", &[])?;
        assert_eq!(routes, 0, "nobody has found any of these streams");
        let ends = |reason| {
            let labels = [("protocol", "webrtc"), ("reason", reason)];
            proxy.metric("srs_proxy_session_ends_total", &labels)
        };
        let expected = [("origin_refused", 7), ("bad_answer", 6), ("origin_unreachable", 1)];
        for (reason, count) in expected {
            assert_eq!(ends(reason)?, count, "{reason}");
        }
        assert_eq!(ends("aborted")?, 0);
        Ok(())
    })
}

#[test]
fn offers_are_bounded_and_must_be_offers() -> Result<()> {
    story(|folder| {
        let variables = [("PROXY_HTTP_HEAD_TIMEOUT", "1s")];
        let answer = |request: &Request, exchange: &mut Exchange<'_>| serve("a", request, exchange);
        let (proxy, origin) = behind_a_proxy(folder, &variables, answer)?;
        let api = proxy.http_api();
        let mut client = Client::connect(api)?;
        for (body, why) in [
            (offer().replace("a=ice-ufrag", "a=x").into_bytes(), "ice-ufrag"),
            (b"v=0\r\na=ice-ufrag:\xff\r\n".to_vec(), "UTF-8"),
            (Vec::new(), "ice-ufrag"),
        ] {
            let refused = post(&mut client, WHIP, SDP, body)?;
            assert_eq!(refused.status(), 400);
            assert!(refused.text().contains(why), "{}", refused.text());
        }
        assert_eq!(origin.count(), 0, "no origin is asked");

        // Chunks, and the next request behind them.
        let offer = offer();
        let (first, second) = offer.split_at(100);
        let length = second.len();
        client.ask("POST", WHIP, "Transfer-Encoding: chunked\r\n")?;
        client.send(format!(
            "64;x=y\r\n{first}\r\n{length:x}\r\n{second}\r\n0\r\nX-Sum: 1\r\n\r\n"
        ))?;
        client.ask("GET", "/api/v1/versions", "")?;
        assert_eq!(client.answer("POST")?.status(), 201);
        assert_eq!(client.answer("GET")?.status(), 200);
        let came = origin.requests().pop().context("a request")?;
        assert_eq!(came.head.field("transfer-encoding"), None);
        let length = came.body.len().to_string();
        assert_eq!(came.head.field("content-length"), Some(&*length));

        // Who waits for leave to send gets it, and the origin is not asked to wait.
        let lines = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", offer.len());
        client.ask("POST", WHIP, &lines)?;
        assert_eq!(client.head()?.status()?, 100);
        client.send(&offer)?;
        assert_eq!(client.answer("POST")?.status(), 201);
        let came = origin.requests().pop().context("a request")?;
        assert_eq!(came.head.field("expect"), None);
        let asked = origin.count();

        let most = 256 * 1024;
        let padded = format!("{offer}{}", "a".repeat(most - offer.len()));
        let fits = post(&mut client, WHIP, SDP, &padded)?;
        assert_ne!(fits.status(), 413, "{}", fits.text());
        for declared in [true, false] {
            let mut client = Client::connect(api)?;
            if declared {
                client.ask("POST", WHIP, &format!("Content-Length: {}\r\n", most + 1))?;
            } else {
                client.ask("POST", WHIP, "Transfer-Encoding: chunked\r\n")?;
                client.send(format!("{:x}\r\n{padded}b\r\n0\r\n\r\n", most + 1))?;
            }
            assert_eq!(client.answer("POST")?.status(), 413, "declared: {declared}");
            client.must_be_closed_within(SOON)?;
        }
        let mut client = Client::connect(api)?;
        client.ask("POST", WHIP, "Transfer-Encoding: chunked\r\n")?;
        client.send("5\r\nv=0\r\n")?;
        client.send("x\r\n")?;
        assert_eq!(client.answer("POST")?.status(), 400);
        let mut client = Client::connect(api)?;
        client.ask("POST", WHIP, "Content-Length: 10\r\n")?;
        client.send("v=0\r\n")?;
        assert_eq!(client.answer("POST")?.status(), 408);
        client.must_be_closed_within(AT_ONCE)?;
        assert!(origin.count() <= asked + 1);
        wait::until_true("the end of the slow one", SOON, || Ok(proxy.ends("head_timeout")? == 1))?;
        Ok(())
    })
}

#[test]
fn a_page_that_cannot_use_the_answer_says_so_and_ends_the_session() -> Result<()> {
    story(|folder| {
        // One section of media, where the page has offered two.
        let answer = |request: &Request, exchange: &mut Exchange<'_>| serve("a", request, exchange);
        let (proxy, origin) = behind_a_proxy(folder, &[], answer)?;
        let mut browser = Browser::start(folder, "browser")?;
        browser.open(&proxy.http_url("players/whep.html?stream=show&autostart=true"))?;
        wait::until_true("the page says what is wrong", SOON, || {
            let failed = "document.getElementById('state').textContent === 'failed'";
            Ok(browser.evaluate(failed)? == true)
        })?;
        let ended = |request: &Request| {
            request.method() == "DELETE" && request.target().contains("session=a:1")
        };
        wait::until_true("the session's end", SOON, || Ok(origin.requests().iter().any(ended)))?;
        wait::until_true("its end here", SOON, || Ok(proxy.ends("deleted")? == 1))
    })
}

#[test]
fn the_json_of_srs_is_changed_in_its_description_alone() -> Result<()> {
    fn answer(request: &Request, exchange: &mut Exchange<'_>) -> Result<()> {
        let sdp = Value::from(description("passive"));
        let json = "Content-Type: application/json\r\n";
        match request.path() {
            "/rtc/v1/publish/" => {
                let body = format!(
                    "{{ \"code\":0,\"server\":\"v\", \"sdp\":{sdp},\"sessionid\":\"a:b\"}}"
                );
                exchange.answer("200 OK", json, body)
            }
            "/rtc/v1/play/" => exchange.answer("200 OK", json, "{\"code\":400, \"x\":1}"),
            _ => exchange.answer("200 OK", json, "{\"code\":0}"),
        }
    }
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], answer)?;
        let mut client = Client::connect(proxy.http_api())?;
        let offer = Value::from(offer());
        let before =
            "{ \"api\":\"http://h/rtc/v1/publish/\",\"streamurl\":\"webrtc://h/live/one\",\"sdp\":";
        let asked = format!("{before}{offer}, \"clientip\" : null }}");
        let answer = post(&mut client, "/rtc/v1/publish/", "", &asked)?;
        let text = answer.text();
        assert_eq!(answer.status(), 200, "{text}");
        assert!(text.starts_with("{ \"code\":0,\"server\":\"v\", \"sdp\":\"v=0\\r\\n"), "{text}");
        assert!(text.ends_with(",\"sessionid\":\"a:b\"}"), "{text}");
        let sdp = answer_sdp(&text)?;
        assert!(sdp.contains(&format!(" {} typ host", proxy.webrtc().port())), "{sdp}");
        let came = origin.requests().pop().context("a request")?;
        let came = String::from_utf8(came.body)?;
        assert!(came.starts_with(before) && came.ends_with(", \"clientip\" : null }"), "{came}");
        let route = proxy.get("/api/v1/streams/route?url=webrtc://h/live/one")?;
        assert_eq!(route["route"]["reason"], "the stream is routed to it");

        let refused = post(&mut client, "/rtc/v1/play/", "", &asked)?;
        assert_eq!((refused.status(), refused.text()), (200, "{\"code\":400, \"x\":1}".to_owned()));
        for bad in ["", "{}", "v=0", "{\"sdp\":\"v=0\"}", "{\"sdp\":\"a\",\"sdp\":\"b\"}"] {
            let refused = post(&mut client, "/rtc/v1/publish/", "", bad)?;
            assert_eq!(refused.status(), 400, "{bad}");
        }
        let refused = client.request("DELETE", "/rtc/v1/publish/", "")?;
        assert_eq!(refused.status(), 405);
        Ok(())
    })
}

fn answer_sdp(text: &str) -> Result<String> {
    let answer: Value = serde_json::from_str(text)?;
    let sdp = answer.get("sdp").and_then(Value::as_str);
    Ok(sdp.context("a description")?.to_owned())
}

#[test]
fn pages_of_other_hosts_may_ask_and_what_has_no_meaning_is_refused() -> Result<()> {
    story(|folder| {
        let (proxy, origins) = start(folder)?;
        for listener in [proxy.http(), proxy.http_api()] {
            let mut client = Client::connect(listener)?;
            let lines = "Origin: https://page\r\nAccess-Control-Request-Method: DELETE\r\n";
            let told = client.request("OPTIONS", WHIP, lines)?;
            assert_eq!(told.status(), 200);
            let allow = told.head.field("allow").context("methods")?;
            assert!(["POST", "PATCH", "DELETE"].iter().all(|it| allow.contains(it)), "{allow}");
            assert_eq!(told.head.field("accept-post"), Some("application/sdp"));
            assert_eq!(told.head.field("access-control-allow-methods"), Some("*"));
            for method in ["GET", "HEAD", "PUT"] {
                let refused = client.request(method, WHIP, "Content-Length: 0\r\n")?;
                assert_eq!(refused.status(), 405, "{method}");
                assert_eq!(refused.head.field("allow"), Some(allow));
            }
            assert_eq!(client.get("/rtc/v1/nothing/")?.status(), 404);
        }
        assert_eq!(origins.iter().map(Origin::count).sum::<usize>(), 0);
        let none = Proxy::start_named(folder, "alone", &[])?;
        let mut client = Client::connect(none.http_api())?;
        assert_eq!(post(&mut client, WHIP, SDP, offer())?.status(), 503, "no origin");
        Ok(())
    })
}
