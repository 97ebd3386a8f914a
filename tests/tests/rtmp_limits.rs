//! Limits and ends, each with its own counted reason, while others play on.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use socket2::{Domain, SockRef, Socket, Type};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::{story, wait};

const SOON: Duration = Duration::from_secs(10);

fn counted(proxy: &Proxy, reason: &str, least: u64) -> Result<()> {
    let what = format!("{least} sessions end as {reason}");
    wait::until_true(&what, SOON, || Ok(proxy.ends(reason)? >= least))
}

#[test]
fn a_client_over_its_limit_is_cut_off_at_once_and_let_in_when_a_place_is_free() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Paced(1_000_000)))?;
        let proxy = Proxy::start(folder, &[("PROXY_MAX_SESSIONS_PER_CLIENT", "2")])?;
        origin.register_at(proxy.system_api(), "origin")?;
        let first = Client::play(proxy.rtmp(), "a")?;
        let mut second = Client::play(proxy.rtmp(), "a")?;
        ensure!(Client::connect(proxy.rtmp()).is_err(), "a third session was let in");
        counted(&proxy, "too_many_from_client", 1)?;
        second.read_bytes(10_000)?;
        drop(first);
        wait::until_true("a place is free", SOON, || {
            Ok(Client::play(proxy.rtmp(), "a")
                .is_ok_and(|mut third| third.read_bytes(1000).is_ok()))
        })
    })
}

#[test]
fn the_limit_of_all_sessions_has_its_own_reason() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Paced(1_000_000)))?;
        let proxy = Proxy::start(folder, &[("PROXY_MAX_SESSIONS", "1")])?;
        origin.register_at(proxy.system_api(), "origin")?;
        let mut only = Client::play(proxy.rtmp(), "a")?;
        ensure!(Client::connect(proxy.rtmp()).is_err(), "a second session was let in");
        counted(&proxy, "too_many_sessions", 1)?;
        only.read_bytes(10_000)
    })
}

#[test]
fn a_session_in_which_nothing_moves_ends_as_idle() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Silence))?;
        let proxy = Proxy::start(folder, &[("PROXY_IDLE_TIMEOUT", "1s")])?;
        origin.register_at(proxy.system_api(), "origin")?;
        let mut player = Client::play(proxy.rtmp(), "quiet")?;
        player.must_be_closed_within(SOON)?;
        counted(&proxy, "idle", 1)
    })
}

#[test]
fn a_client_that_leaves_before_its_origin_answers_is_noticed_at_once() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Mute)?;
        let limits =
            [("PROXY_ORIGIN_CONNECT_TIMEOUT", "20s"), ("PROXY_ORIGIN_SETUP_TIMEOUT", "90s")];
        let proxy = Proxy::start(folder, &limits)?;
        origin.register_at(proxy.system_api(), "mute")?;
        let mut client = Client::connect(proxy.rtmp())?;
        client.ask_to_publish("left")?;
        wait::until_true("the origin is connected", SOON, || {
            Ok(proxy.sessions_of("left")?.iter().any(|s| !s.origin_address.is_empty()))
        })?;
        drop(client);
        counted(&proxy, "client_closed", 1)?;
        ensure!(proxy.sessions()?.is_empty(), "the session lives on");
        Ok(())
    })
}

#[test]
fn media_that_comes_before_the_origin_s_answer_is_not_lost() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Silence))?;
        let proxy = Proxy::start(folder, &[])?;
        origin.register_at(proxy.system_api(), "origin")?;
        let mut client = Client::connect(proxy.rtmp())?;
        client.ask_to_publish("eager")?;
        for _ in 0..100 {
            client.send_video(10_000)?;
        }
        wait::until_true("all of it is at the origin", SOON, || {
            Ok(origin.received() >= 100 * 10_000)
        })
    })
}

#[test]
fn a_reset_is_told_from_a_close() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Paced(1_000_000)))?;
        let proxy = Proxy::start(folder, &[])?;
        origin.register_at(proxy.system_api(), "origin")?;
        let player = Client::play(proxy.rtmp(), "a")?;
        SockRef::from(player.socket()).set_linger(Some(Duration::ZERO))?;
        drop(player);
        counted(&proxy, "client_lost", 1)
    })
}

#[test]
fn a_name_that_is_none_is_refused_as_such() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &[])?;
        for name in ["", "a\u{7}b", "x".repeat(600).as_str()] {
            let mut client = Client::connect(proxy.rtmp())?;
            client.ask_to_publish(name)?;
            let status = client.status()?;
            assert_eq!(status.code, "NetStream.Publish.BadName", "{name:?}: {status}");
        }
        counted(&proxy, "bad_stream", 3)
    })
}

#[test]
fn a_host_out_of_descriptors_blames_no_origin() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Paced(1_000_000)))?;
        let proxy = Proxy::start(folder, &[])?;
        origin.register_at(proxy.system_api(), "origin")?;
        let mut player = Client::play(proxy.rtmp(), "a")?;
        let mut client = Client::connect(proxy.rtmp())?;
        // None but the first three, which are open: no new one at all.
        limit_descriptors(&proxy, 3)?;
        client.ask_to_play("a")?;
        let status = client.status()?;
        ensure!(status.description.contains("resources"), "said {status}");
        limit_descriptors(&proxy, 1000)?;
        counted(&proxy, "out_of_resources", 1)?;
        let origins = proxy.get("/api/v1/origins")?.to_string();
        ensure!(origins.contains("\"connect_failures\":0"), "an origin was blamed: {origins}");
        player.read_bytes(10_000)
    })
}

fn limit_descriptors(proxy: &Proxy, limit: u32) -> Result<()> {
    let (id, limit) = (proxy.process.id().to_string(), format!("--nofile={limit}:"));
    let status = Command::new("prlimit").args(["--pid", &id, &limit]).status()?;
    ensure!(status.success(), "prlimit {limit} ended with {status}");
    Ok(())
}

#[test]
fn strangers_to_the_api_cannot_keep_the_origins_out() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &[("PROXY_SYSTEM_API_ALLOW", "127.0.0.1")])?;
        // Half a request from each of many addresses, as many as the API has connections.
        let mut strangers = Vec::new();
        for address in 2..6 {
            for _ in 0..64 {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.bind(&SocketAddr::from(([127, 0, 0, address], 0)).into())?;
                socket.connect(&proxy.system_api().into())?;
                let mut socket = TcpStream::from(socket);
                // It may be closed already.
                let _ = socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n");
                strangers.push(socket);
            }
        }
        let origin = Origin::start(Script::Serve(Feed::Silence))?;
        let start = Instant::now();
        for beat in 0..20 {
            origin.register_at(proxy.system_api(), &format!("beat{beat}"))?;
        }
        ensure!(start.elapsed() < SOON / 2, "20 heartbeats took {:?}", start.elapsed());
        Ok(())
    })
}
