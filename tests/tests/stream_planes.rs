//! Streams of real peers are spliced: the session says so, counts them to the byte, and the threads
//! neither read nor write what they move.
//!
//! Where `io_uring` or ptrace(2) is not allowed these tests are skipped, and say so.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use srs_proxy_tests::counter::Counter;
use srs_proxy_tests::nginx::Nginx;
use srs_proxy_tests::nms::Nms;
use srs_proxy_tests::proxy::{Proxy, Session};
use srs_proxy_tests::raw::{Client, Origin};
use srs_proxy_tests::strace::{self, Strace, Traced};
use srs_proxy_tests::{ffmpeg, heartbeat, skip, story, usage, wait};

const SOON: Duration = Duration::from_secs(15);

#[test]
fn rtmp_and_http_flv_of_ffmpeg_are_spliced_and_counted_to_the_byte() -> Result<()> {
    const ENOUGH: u64 = 32 << 20;
    story(|folder| {
        let Some(proxy) = followed(folder)? else { return Ok(()) };
        let origin = Nms::start(folder, "a")?;
        let at_origin = Counter::towards(origin.rtmp())?;
        let listeners = [
            ("rtmp", at_origin.address().port().to_string()),
            ("http", origin.http().port().to_string()),
        ];
        heartbeat::register(proxy.system_api(), "counted", &listeners)?;
        let media = ffmpeg::heavy(folder, "heavy.flv")?;
        let mut publisher = ffmpeg::publish_file(folder, "publisher", &media, &proxy.url("show"))?;
        wait::until_true("a publisher", SOON, || origin.has_publisher("show"))?;

        let ways = [Counter::towards(proxy.rtmp())?, Counter::towards(proxy.http())?];
        let [rtmp, flv] = ways.each_ref().map(Counter::address);
        let rtmp = format!("rtmp://{rtmp}/live/show");
        let flv = format!("http://{flv}/live/show.flv");
        let _rtmp = ffmpeg::play(folder, "rtmp-player", &rtmp, None)?;
        let _flv = ffmpeg::play(folder, "flv-player", &flv, None)?;
        let expected = [("http", "play"), ("rtmp", "play"), ("rtmp", "publish")];
        wait::until_true("all three are spliced", SOON, || {
            let sessions = proxy.sessions_of("show")?;
            let mut kinds: Vec<_> =
                sessions.iter().map(|it| (it.protocol.as_str(), it.role.as_str())).collect();
            kinds.sort_unstable();
            let planes = sessions.iter().map(|it| (&*it.plane, &*it.plane_reason));
            let planes: Vec<_> = planes.collect();
            ensure!(kinds == expected && planes == [SPLICED; 3], "{sessions:?}");
            Ok(true)
        })?;

        let engine = [("engine", SPLICED.0)];
        assert_eq!(proxy.metric("srs_proxy_stream_sessions", &engine)?, 3);

        let strace = Strace::follow(folder, proxy.process.id(), THREADS)?;
        let before = moved(&proxy.sessions_of("show")?);
        wait::until_true("media", 4 * SOON, || {
            Ok(moved(&proxy.sessions_of("show")?) > before + ENOUGH)
        })?;
        strace.finish()?.must_have_spliced(ENOUGH)?;

        // When nothing is under way any more the counts have to be the same.
        publisher.signal(Signal::SIGSTOP)?;
        let counts = || -> Result<_> {
            let sessions = proxy.sessions_of("show")?;
            let of = |protocol: &str, role: &str| {
                let mut of =
                    sessions.iter().filter(|it| it.protocol == protocol && it.role == role);
                of.next().cloned().context("a session less")
            };
            let [publish, rtmp, flv] =
                [of("rtmp", "publish")?, of("rtmp", "play")?, of("http", "play")?];
            let told = [
                rtmp.bytes_to_client,
                flv.bytes_to_client,
                publish.bytes_to_origin + rtmp.bytes_to_origin,
            ];
            let [rtmp, flv] = ways.each_ref().map(Counter::to_client);
            Ok((told, [rtmp, flv, at_origin.to_server()]))
        };
        let equal = wait::until_true("equal counts", SOON, || {
            let (told, came) = counts()?;
            ensure!(told == came, "the API says {told:?}, there came {came:?}");
            Ok(true)
        });
        publisher.signal(Signal::SIGCONT)?;
        equal
    })
}

#[test]
fn a_large_segment_is_spliced_and_its_connection_serves_the_next_request() -> Result<()> {
    /// More than the buffers of all sockets between the files and a client who does not read.
    const SEGMENT: usize = 48 << 20;
    story(|folder| {
        let Some(proxy) = followed(folder)? else { return Ok(()) };
        let origin = Nginx::start(folder, "a")?;
        origin.register_at(proxy.system_api())?;
        let way = Counter::towards(proxy.http())?;
        let mut client = Client::connect(way.address())?;
        let strace = Strace::follow(folder, proxy.process.id(), THREADS)?;
        let mut id = None;
        for number in 1..=3_u8 {
            let name = format!("show-{number}.ts");
            let pattern: Vec<u8> = (0..=250).map(|byte| byte ^ number).collect();
            let media = pattern.repeat(SEGMENT / pattern.len() + 1);
            fs::write(folder.join("nginx-a/hls").join(&name), &media)?;
            client.ask("GET", &format!("/{name}"), "")?;
            let spliced = wait::until("it is spliced", SOON, || {
                let sessions = proxy.sessions()?;
                let planes: Vec<_> = sessions.iter().map(plane).collect();
                ensure!(planes == [SPLICED], "{sessions:?}");
                Ok(sessions.into_iter().next())
            })?;
            assert_eq!(*id.get_or_insert(spliced.id.clone()), spliced.id, "one connection");
            let answer = client.answer("GET")?;
            assert_eq!(answer.status(), 200);
            assert!(answer.body == media, "{name}: other bytes than the origin's");
            wait::until_true("it is back, and counted to the byte", SOON, || {
                let session = session(&proxy, &spliced.id)?;
                ensure!(
                    session["requests"] == number && session["plane"] == SPLICED.0,
                    "{session}"
                );
                ensure!(session["bytes_to_client"] == way.to_client(), "{session}");
                Ok(true)
            })?;
        }
        strace.finish()?.must_have_spliced(3 * SEGMENT as u64)
    })
}

#[test]
fn players_who_leave_at_once_leave_nothing_open() -> Result<()> {
    story(|folder| {
        let Some(proxy) = spliced(folder)? else { return Ok(()) };
        let origin = Origin::start(|_, exchange| {
            exchange.send("HTTP/1.1 200 OK\r\n\r\n")?;
            exchange.hold(|| false)
        })?;
        origin.register_at(proxy.system_api(), "origin")?;
        // The end is told while the thread has just begun to watch the socket.
        for _ in 0..30 {
            let mut player = Client::connect(proxy.http())?;
            player.ask("GET", "/live/show.flv", "")?;
            player.head()?;
            player.finish_sending()?;
            player.must_be_closed_within(SOON)?;
        }
        wait::until_true("the origin is free", SOON, || Ok(origin.open() == 0))
    })
}

#[test]
fn there_are_as_many_threads_as_were_asked_for() -> Result<()> {
    for count in [1, 3] {
        story(|folder| {
            let said = count.to_string();
            let variables = [("PROXY_TCP_ENGINE", "splice"), ("PROXY_TCP_THREADS", &*said)];
            let proxy = Proxy::start(folder, &variables)?;
            assert_eq!(proxy.stream_engine()?.threads, count);
            let threads = usage::threads_called(proxy.process.id(), THREADS)?;
            ensure!(threads.len() == count, "{threads:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// How the threads of the plane are called.
const THREADS: &str = "splice-";

/// Engine and reason of a session that nothing is in the way of.
const SPLICED: (&str, &str) = ("uring-splice", "");

/// The same as [`spliced`], if its threads can be followed.
fn followed(folder: &Path) -> Result<Option<Proxy>> {
    match strace::obstacle() {
        Some(obstacle) => skip(&obstacle).map(|()| None),
        None => spliced(folder),
    }
}

/// A proxy whose engine is the fastest one; none, and a skipped test, if this host does not allow it.
fn spliced(folder: &Path) -> Result<Option<Proxy>> {
    let proxy = Proxy::start(folder, &[("PROXY_TCP_ENGINE", "auto")])?;
    let engine = proxy.stream_engine()?;
    if !engine.reason.is_empty() {
        skip(&engine.reason)?;
        return Ok(None);
    }
    assert_eq!(engine.word, SPLICED.0);
    Ok(Some(proxy))
}

fn session(proxy: &Proxy, id: &str) -> Result<Value> {
    let answer = proxy.get(&format!("/api/v1/sessions/{id}"))?;
    Ok(answer.get("session").context("no session")?.clone())
}

fn plane(session: &Session) -> (&str, &str) {
    (&session.plane, &session.plane_reason)
}

fn moved(sessions: &[Session]) -> u64 {
    sessions.iter().map(|session| session.bytes_to_origin + session.bytes_to_client).sum()
}

trait Moved {
    /// Fails unless so many bytes have gone in and out of pipes, and hardly any through the process.
    fn must_have_spliced(&self, least: u64) -> Result<()>;
}

impl Moved for Traced {
    fn must_have_spliced(&self, least: u64) -> Result<()> {
        let Self { copied, spliced } = *self;
        // Each byte is counted twice, on its way in and out.
        ensure!(spliced >= 2 * least / 100 * 98, "of {least} bytes: {self:?}");
        ensure!(copied <= spliced / 50, "much was copied: {self:?}");
        Ok(())
    }
}
