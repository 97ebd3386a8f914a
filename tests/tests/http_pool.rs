//! Connections to origins that serve many requests, and what an origin is told of its clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use srs_proxy_tests::raw::{Client, Head, behind_a_proxy};
use srs_proxy_tests::{story, wait};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn short_requests_share_a_connection_and_live_ones_have_their_own() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            if request.extension() == "flv" {
                exchange.send("HTTP/1.1 200 OK\r\n\r\nFLV")?;
                return exchange.hold(|| false);
            }
            exchange.answer("200 OK", "", request.path())
        })?;
        let mut player = Client::connect(proxy.http())?;
        player.ask("GET", "/live/show.flv", "")?;
        player.head()?;
        for n in 0..40 {
            let target = format!("/live/show-{n}.ts");
            // Some from one client, some from clients of their own.
            let answer = match n % 4 {
                0 => {
                    Client::connect(proxy.http())?.request("GET", &target, "Connection: close\r\n")
                }
                _ => Client::connect(proxy.http())?.get(&target),
            };
            assert_eq!(answer?.text(), target);
        }
        assert_eq!(origin.count(), 41);
        // One for the player; a second one for segments if the first was not yet back in time.
        assert!(origin.accepted() <= 4, "{} connections for 41 requests", origin.accepted());
        drop(player);
        wait::until_true("the player's connection is closed", SOON, || {
            Ok(origin.accepted() - origin.open() >= 1)
        })
    })
}

#[test]
fn few_idle_connections_are_kept_and_none_for_long() -> Result<()> {
    const CLIENTS: usize = 60;
    const KEPT: usize = 4;
    story(|folder| {
        let let_go = Arc::new(AtomicBool::default());
        let may_go = Arc::clone(&let_go);
        let variables = [("PROXY_HTTP_ORIGIN_IDLE", "4")];
        let (proxy, origin) = behind_a_proxy(folder, &variables, move |_, exchange| {
            exchange.hold(|| may_go.load(Ordering::Relaxed))?;
            exchange.answer("200 OK", "", "media")
        })?;
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            let mut client = Client::connect(proxy.http())?;
            client.ask("GET", &format!("/live/show-{n}.ts"), "")?;
            clients.push(client);
        }
        wait::until_true("all wait at the origin", SOON, || Ok(origin.open() == CLIENTS))?;
        let_go.store(true, Ordering::Relaxed);
        for client in &mut clients {
            assert_eq!(client.answer("GET")?.text(), "media");
        }
        wait::until_true("few are kept", SOON, || Ok(origin.open() <= KEPT))?;
        assert_eq!(origin.open(), KEPT, "connections that are kept");
        let idle = Instant::now();
        // An idle connection lives four seconds, the clients' longer.
        wait::until_true("none is kept", 2 * SOON, || Ok(origin.open() == 0))?;
        assert!(idle.elapsed() > SOON / 4, "closed after {:?} already", idle.elapsed());
        for client in &mut clients {
            assert_eq!(client.get("/live/show-0.ts")?.text(), "media");
        }
        Ok(())
    })
}

#[test]
fn a_connection_that_the_origin_has_given_up_costs_no_player_a_segment() -> Result<()> {
    story(|folder| {
        // The worst moment: the request is read, and the connection closed for its age.
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            if request.place > 0 {
                bail!("too old");
            }
            exchange.answer("200 OK", "", request.path())
        })?;
        let mut client = Client::connect(proxy.http())?;
        for n in 0..20 {
            for (method, target) in [
                ("GET", format!("/live/show-{n}.ts")),
                ("HEAD", format!("/live/show-{n}.ts")),
                ("GET", format!("/live/show{n}.m3u8")),
            ] {
                assert_eq!(client.request(method, &target, "")?.status(), 200, "{method} {target}");
            }
        }
        let tries = origin.count();
        assert!((60..=120).contains(&tries), "{tries} tries of 60 requests");

        // What may have had an effect is not said twice.
        for n in 0..10 {
            client.get(&format!("/live/show-{n}.ts"))?;
            let body = format!("number {n}");
            let length = format!("Content-Length: {}\r\n", body.len());
            client.ask("POST", &format!("/live/hook-{n}.ts"), &length)?;
            client.send(&body)?;
            let status = client.answer("POST")?.status();
            assert!(status == 200 || status == 502, "POST {n}: {status}");
            let posts = origin.requests();
            let posts =
                posts.iter().filter(|it| it.method() == "POST" && it.body == body.as_bytes());
            assert_eq!(posts.count(), 1, "POST {n} at the origin");
        }
        Ok(())
    })
}

#[test]
fn idle_connections_that_an_origin_closes_are_not_used() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            exchange.answer("200 OK", "", &request.body)
        })?;
        let mut client = Client::connect(proxy.http())?;
        for n in 0..10 {
            client.get("/live/show-1.ts")?;
            origin.close_all();
            wait::until_true("they are closed", SOON, || Ok(origin.open() == 0))?;
            // Not even what may not be said twice gets into one.
            let length = "Content-Length: 2\r\n";
            client.ask("POST", "/live/hook-1.ts", length)?;
            client.send("ok")?;
            assert_eq!(client.answer("POST")?.text(), "ok", "POST {n}");
        }
        Ok(())
    })
}

#[test]
fn an_origin_that_answers_nothing_is_asked_twice_at_most() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |_, _| bail!("no"))?;
        let mut client = Client::connect(proxy.http())?;
        for n in 1..=5 {
            assert_eq!(client.get("/live/show-1.ts")?.status(), 502);
            assert!(origin.count() <= 2 * n, "{} tries of {n} requests", origin.count());
        }
        Ok(())
    })
}

#[test]
fn a_connection_with_something_left_in_it_is_not_used_again() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n";
            match request.path() {
                "/live/more-1.ts" => {
                    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
                    exchange.send(format!("{head}\r\nok{poison}"))
                }
                "/live/close-1.ts" => exchange.send(format!("{head}Connection: close\r\n\r\nok")),
                "/live/old-1.ts" => exchange.send("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
                "/live/long-1.ts" => exchange.answer("200 OK", "", vec![b'x'; 64 << 20]),
                "/live/none-1.ts" => exchange.send("HTTP/1.1 304 Not Modified\r\n\r\n"),
                path => exchange.answer("200 OK", "", path),
            }
        })?;
        let plain = || -> Result<()> {
            for target in ["/live/show-1.ts", "/live/show-2.ts"] {
                assert_eq!(Client::connect(proxy.http())?.get(target)?.text(), target);
            }
            Ok(())
        };
        for n in 0..5 {
            for target in ["/live/more-1.ts", "/live/close-1.ts", "/live/old-1.ts"] {
                let text = Client::connect(proxy.http())?.get(target)?.text();
                assert_eq!(text, "ok", "{target}, round {n}");
                plain().with_context(|| format!("after {target}"))?;
            }
            // HEAD and 304 have a length and no body.
            let mut client = Client::connect(proxy.http())?;
            assert_eq!(client.request("HEAD", "/live/show-1.ts", "")?.status(), 200);
            assert_eq!(client.get("/live/none-1.ts")?.status(), 304);
            plain().context("after answers without a body")?;
            // A client that has seen enough of a long body.
            let mut client = Client::connect(proxy.http())?;
            client.ask("GET", "/live/long-1.ts", "")?;
            let head = client.head()?;
            client.body(&head, "GET", 1000)?;
            drop(client);
            plain().context("after half a body")?;
        }
        wait::until_true("the long bodies are over", SOON, || Ok(origin.open() <= 4))
    })
}

#[test]
fn a_client_is_told_of_by_its_own_address_and_not_by_its_own_words() -> Result<()> {
    let head = told(&[], FORGED)?;
    assert_eq!(head.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.field("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(head.field("x-forwarded-proto"), Some("http"));
    assert_eq!(head.field("x-forwarded-host"), Some("media.example:8080"));
    assert_eq!(head.field("host"), Some("media.example:8080"));
    let forwarded = head.field("forwarded").context("one Forwarded")?.to_ascii_lowercase();
    assert!(forwarded.contains("for=127.0.0.1"), "{forwarded}");
    assert!(forwarded.contains("proto=http") && !forwarded.contains("203.0.113."), "{forwarded}");
    // RFC 9110 7.6.3: what stood there stays, whoever said it.
    let via = head.all("via").join(", ");
    assert!(via.starts_with("1.0 edge, 1.1 "), "{via}");

    let head = told(&[], "")?;
    assert_eq!(head.field("x-forwarded-for"), Some("127.0.0.1"));
    assert!(head.field("via").is_some_and(|via| via.starts_with("1.1 ")), "{head:?}");
    Ok(())
}

/// CGI and WSGI read both spellings alike, and would take the client's word.
#[test]
fn a_client_s_word_does_not_come_in_another_spelling() -> Result<()> {
    let forged = "X_Forwarded_For: 203.0.113.7\r\nX-Real_IP: 203.0.113.7\r\nX_Other: 1\r\n\
                  Content_Length: 5\r\nTransfer_Encoding: chunked\r\n";
    for networks in ["", "127.0.0.1"] {
        let head = told(&[("PROXY_TRUSTED_PROXIES", networks)], forged)?;
        let odd = head.fields.iter().map(|(name, _)| name.as_str());
        let odd: Vec<_> = odd.filter(|name| name.contains('_')).collect();
        assert_eq!(odd, ["X_Other"]);
        assert_eq!(head.field("x-real-ip"), Some("127.0.0.1"));
    }
    Ok(())
}

#[test]
fn a_trusted_proxy_s_word_is_taken_and_its_address_added() -> Result<()> {
    for networks in ["127.0.0.1", "10.0.0.0/8,127.0.0.0/8"] {
        let head = told(&[("PROXY_TRUSTED_PROXIES", networks)], FORGED)?;
        let chain = head.all("x-forwarded-for").join(", ");
        assert_eq!(chain, "203.0.113.7, 203.0.113.8, 127.0.0.1");
        assert_eq!(head.field("x-real-ip"), Some("203.0.113.9"));
        assert_eq!(head.field("x-forwarded-proto"), Some("https"));
        assert_eq!(head.field("x-forwarded-host"), Some("public.example"));
        let forwarded = head.all("forwarded").join(", ").to_ascii_lowercase();
        let taken = forwarded.starts_with("for=203.0.113.7;proto=https, ");
        assert!(taken && forwarded.contains("for=127.0.0.1"), "{forwarded}");
    }
    // Another one is trusted: this one is not.
    let head = told(&[("PROXY_TRUSTED_PROXIES", "10.0.0.0/8")], FORGED)?;
    assert_eq!(head.field("x-forwarded-for"), Some("127.0.0.1"));
    Ok(())
}

/// What a client says of whom it asks for.
const FORGED: &str = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 203.0.113.8\r\n\
    X-Real-IP: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: public.example\r\n\
    Forwarded: for=203.0.113.7;proto=https\r\nVia: 1.0 edge\r\n";

/// The head that an origin gets of a client that says this; the same for each kind of request.
fn told(variables: &[(&str, &str)], lines: &str) -> Result<Head> {
    let mut told = None;
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, variables, |_, exchange| {
            exchange.answer("200 OK", "", "#EXTM3U\n")
        })?;
        let mut client = Client::connect(proxy.http())?;
        for path in ["/live/show.flv", "/live/show.m3u8", "/live/show-1.ts"] {
            client
                .send(format!("GET {path} HTTP/1.1\r\nHost: media.example:8080\r\n{lines}\r\n"))?;
            assert_eq!(client.answer("GET")?.status(), 200);
        }
        let seen = origin.requests();
        let mut kinds: Vec<_> =
            seen.iter().map(|request| about_the_client(&request.head)).collect();
        kinds.dedup();
        assert_eq!(kinds.len(), 1, "one kind of request is told more than another: {kinds:?}");
        told = seen.into_iter().next().map(|request| request.head);
        Ok(())
    })?;
    told.context("a request at the origin")
}

fn about_the_client(head: &Head) -> Vec<(String, String)> {
    let mut fields = head.fields.clone();
    fields.retain(|(name, _)| {
        let name = name.to_ascii_lowercase();
        name == "via" || name == "x-real-ip" || name.contains("forwarded")
    });
    fields
}

/// Many at once, each with its own answer: no answer goes to another one's client.
#[test]
fn each_client_gets_its_own_answer() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            exchange.answer("200 OK", "", request.target().repeat(50))
        })?;
        let server = proxy.http();
        let clients: Vec<_> = (0..20)
            .map(|who| {
                thread::spawn(move || -> Result<()> {
                    let mut client = Client::connect(server)?;
                    for n in 0..100 {
                        let target = format!("/live/show{}-{n}.ts?who={who}", who % 5);
                        let answer = client.get(&target)?;
                        if answer.text() != target.repeat(50) {
                            bail!("{target}: {} {}", answer.head.line, answer.text());
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for client in clients {
            client.join().ok().context("a client panicked")??;
        }
        assert_eq!((origin.count(), origin.faults()), (2000, Vec::new()));
        assert!(origin.accepted() <= 60, "{} connections of 20 clients", origin.accepted());
        Ok(())
    })
}
