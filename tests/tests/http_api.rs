//! The HTTP API of the origins, behind the proxy's address.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::raw::{Client, Exchange, Origin, Request, Response, behind_a_proxy, register};
use srs_proxy_tests::{ports, story, wait};

const SOON: Duration = Duration::from_secs(10);

/// SRS's API at an origin of this name, with one stream and one client.
fn serve_api(name: &str, request: &Request, exchange: &mut Exchange<'_>) -> Result<()> {
    let own = format!("X-Origin: {name}\r\nContent-Type: application/json\r\n");
    let path = request.path().trim_end_matches('/');
    if path == "/api/v1/vhosts" && request.head.field("authorization").is_none() {
        let asks = format!("{own}WWW-Authenticate: Basic realm=\"SRS\"\r\n");
        return exchange.answer("401 Unauthorized", &asks, "");
    }
    let body = match path {
        "/api/v1/streams" => {
            format!(
                "{{\"code\":0,\"server\":\"{name}\",\"streams\":[{{\"z\":1.50,\"id\":\"s-{name}\"}}]}}"
            )
        }
        _ if path.ends_with(&format!("/c-{name}")) => "{\"code\":0,\"client\":{}}".to_owned(),
        "/api/v1/open" => {
            let opens = format!("{own}Access-Control-Allow-Origin: https://page\r\n");
            return exchange.answer("200 OK", &opens, "{\"code\":0}");
        }
        "/api/v1/summaries" => format!("{{\"code\":0,\"data\":\"{name}\"}}"),
        // As SRS says that it does not know.
        _ => "{\"code\":2049}".to_owned(),
    };
    exchange.answer("200 OK", &own, body)
}

fn whose(answer: &Response) -> &str {
    answer.head.field("x-origin").unwrap_or_default()
}

#[test]
fn the_origins_api_is_one() -> Result<()> {
    story(|folder| {
        let start =
            |name| Origin::start(move |request, exchange| serve_api(name, request, exchange));
        let origins = [start("a")?, start("b")?];
        let proxy = Proxy::start(folder, &[])?;
        origins[0].register_at(proxy.system_api(), "a")?;
        let mut client = Client::connect(proxy.http_api())?;
        let only = client.get("/api/v1/summaries")?;
        assert_eq!((only.status(), whose(&only)), (200, "a"));
        origins[1].register_at(proxy.system_api(), "b")?;
        let dead: SocketAddr = ports::free()?;
        register(dead, proxy.system_api(), "dead")?;

        let list = client.get("/api/v1/streams/?count=10")?.text();
        let both = "\"streams\":[{\"z\":1.50,\"id\":\"s-a\"},{\"z\":1.50,\"id\":\"s-b\"}]}";
        assert!(list.starts_with("{\"code\":0,") && list.ends_with(both), "{list}");
        assert!(list.contains("\"missing\":[\"vid-dead\"]"), "{list}");
        assert_eq!(
            origins[0].requests().pop().context("a request")?.target(),
            "/api/v1/streams/?count=10"
        );

        for name in ["a", "b"] {
            for method in ["GET", "DELETE", "DELETE"] {
                let found = client.request(method, &format!("/api/v1/clients/c-{name}"), "")?;
                assert_eq!((found.status(), whose(&found)), (200, name), "{method}");
            }
        }
        let kicked = |origin: &Origin| {
            let methods = origin.requests();
            methods.iter().filter(|request| request.method() == "DELETE").count()
        };
        assert_eq!(origins.each_ref().map(kicked), [2, 2], "nobody else is kicked");
        for (path, code) in [("/api/v1/clients/x", 2049), ("/api/v1/streams/x", 2048)] {
            for method in ["GET", "DELETE"] {
                let none = client.request(method, path, "")?;
                assert_eq!((none.status(), none.text()), (404, format!("{{\"code\":{code}}}")));
            }
        }
        let which = client.get("/api/v1/summaries")?;
        assert_eq!(which.status(), 400);
        for server in ["vid-a", "vid-b", "vid-dead"] {
            assert!(which.text().contains(server), "{}", which.text());
        }
        let locked = client.get("/api/v1/vhosts")?;
        assert_eq!(locked.status(), 401);
        assert_eq!(locked.head.field("www-authenticate"), Some("Basic realm=\"SRS\""));
        let named = client.get("/api/v1/summaries?server=vid-b")?;
        assert_eq!((named.status(), whose(&named)), (200, "b"));
        let asked = origins[1].requests().pop().context("a request")?;
        assert_eq!(asked.target(), "/api/v1/summaries");
        assert_eq!(client.get("/api/v1/summaries?server=vid-x")?.status(), 404);
        assert_eq!(client.get("/api/v1/summaries?server=vid-dead")?.status(), 502);
        let head = client.request("HEAD", "/api/v1/streams", "")?;
        assert_eq!((head.status(), head.body.len()), (200, 0));
        assert!(head.head.field("content-length").is_some_and(|length| length != "0"));

        // The proxy's own, and nothing of the origins where anybody plays.
        let version: Value = serde_json::from_str(&client.get("/api/v1/versions")?.text())?;
        assert_eq!(version["code"], 0);
        let mut player = Client::connect(proxy.http())?;
        for path in ["/api/v1/streams", "/api/v1/clients/c-a", "/api/v1/summaries?server=vid-b"] {
            assert_eq!(player.get(path)?.status(), 404, "{path}");
        }
        let refused = player.request("DELETE", "/api/v1/clients/c-a", "")?;
        assert_eq!(refused.status(), 405);
        Ok(())
    })
}

#[test]
fn a_path_that_an_origin_could_read_otherwise_is_refused() -> Result<()> {
    story(|folder| {
        let answer = |request: &Request, it: &mut Exchange<'_>| serve_api("a", request, it);
        let (proxy, origin) = behind_a_proxy(folder, &[], answer)?;
        let mut client = Client::connect(proxy.http_api())?;
        for path in [
            "/api/v1/../../rtc/v1/whip/",
            "/api/v1/streams/%2e%2e/clients/c-a",
            "/api/v1/streams/%252e%252e/clients/c-a",
            "/api/v1/streams/..%2fclients/c-a",
            "/api/v1/streams/..%5cclients",
            "/api/v1/clients/c-a;x",
            "/api/v1//clients/c-a",
        ] {
            for query in ["", "?server=vid-a", "?app=live&stream=s"] {
                for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
                    let target = format!("{path}{query}");
                    let refused = client.request(method, &target, "Content-Length: 0\r\n")?;
                    assert_eq!(refused.status(), 400, "{method} {target}");
                }
            }
        }
        assert_eq!(origin.count(), 0);
        Ok(())
    })
}

#[test]
fn pages_of_other_hosts_may_read_what_the_origin_lets_them() -> Result<()> {
    story(|folder| {
        let answer = |request: &Request, it: &mut Exchange<'_>| serve_api("a", request, it);
        let (proxy, origin) = behind_a_proxy(folder, &[], answer)?;
        let mut client = Client::connect(proxy.http_api())?;
        let lines = "Origin: https://page\r\nAccess-Control-Request-Method: DELETE\r\n";
        for (method, path, status) in [
            ("OPTIONS", "/api/v1/clients/c-a", 200),
            ("GET", "/api/v1/streams", 200),
            ("GET", "/api/v1/clients/c-a", 200),
            ("DELETE", "/api/v1/clients/c-a", 200),
            ("GET", "/api/v1/clients/x", 404),
            ("GET", "/api/v1/clients/../x", 400),
            ("PATCH", "/api/v1/clients/c-a", 405),
        ] {
            let told = client.request(method, path, lines)?;
            assert_eq!(told.status(), status, "{method} {path}");
            let names = told.head.fields.iter().map(|(name, _)| name.to_ascii_lowercase());
            let opens: Vec<_> = names.filter(|name| name.starts_with("access-control-")).collect();
            assert!(opens.is_empty(), "{method} {path}: {opens:?}");
            let allow = told.head.field("allow").unwrap_or("DELETE");
            assert!(allow.contains("DELETE"), "{allow}");
        }
        assert!(origin.requests().iter().all(|request| request.method() != "OPTIONS"));
        let opened = client.get("/api/v1/open")?;
        assert_eq!(opened.head.field("access-control-allow-origin"), Some("https://page"));
        assert_eq!(opened.head.field("access-control-expose-headers"), None);
        // The proxy's own page is for all.
        let version = client.get("/api/v1/versions")?;
        assert_eq!(version.head.field("access-control-allow-origin"), Some("*"));
        Ok(())
    })
}

#[test]
fn all_origins_are_asked_for_a_few_clients_at_once_and_no_more() -> Result<()> {
    story(|folder| {
        let hold = |request: &Request, it: &mut Exchange<'_>| match request.path() {
            "/api/v1/streams" => it.hold(|| false),
            _ => serve_api("a", request, it),
        };
        let (proxy, origin) = behind_a_proxy(folder, &[], hold)?;
        let mut asking = Vec::new();
        for _ in 0..16 {
            let mut client = Client::connect(proxy.http_api())?;
            client.ask("GET", "/api/v1/streams", "")?;
            asking.push(client);
        }
        wait::until_true("all have been asked for", SOON, || Ok(origin.count() == 16))?;
        let mut client = Client::connect(proxy.http_api())?;
        for path in ["/api/v1/streams", "/api/v1/clients/c-a"] {
            assert_eq!(client.get(path)?.status(), 503, "{path}");
        }
        assert_eq!(client.get("/api/v1/summaries")?.status(), 200, "one origin is asked");
        for mut client in asking {
            let told = client.answer("GET")?;
            assert!(told.text().contains("\"missing\":[\"vid-"), "{}", told.text());
        }
        assert_eq!(client.get("/api/v1/clients/c-a")?.status(), 200);
        Ok(())
    })
}
