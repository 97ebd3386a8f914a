//! What the host does to the plane: a stop, and what it does not allow.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::libc;
use nix::sys::signal::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use srs_proxy::config::TcpEngine;
use srs_proxy::plane::{Flow, Leg, StreamEngine, StreamPlane, StreamSettings};
use srs_proxy_tests::proxy::{Proxy, Session};
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::{story, wait};
use tokio::io::AsyncWriteExt;

use crate::stage::{self, Company, SOON, Stage, Terms, media, must_receive};

pub(crate) const COMPANY: Company = Company::Others;

pub(crate) async fn a_stop_lets_sessions_go_on_for_the_grace(stage: &Stage) -> Result<()> {
    let word = match stage.engine {
        StreamEngine::UringSplice => "uring",
        engine => engine.as_str(),
    };
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Paced(2_000_000)))?;
        let variables = [("PROXY_TCP_ENGINE", word), ("PROXY_GRACE_QUIT_TIMEOUT", "2s")];
        let mut proxy = Proxy::start(folder, &variables)?;
        origin.register_at(proxy.system_api(), "origin")?;
        let mut player = Client::play(proxy.rtmp(), "show")?;
        let mut publisher = Client::publish(proxy.rtmp(), "other")?;
        publisher.send_video(10_000)?;
        for stream in ["show", "other"] {
            must_be_carried(&proxy, stream, stage.engine)?;
        }
        player.read_bytes(100_000)?;
        let (told, received) = (Instant::now(), origin.received());
        proxy.process.signal(Signal::SIGTERM)?;
        let (bytes, is_there) = player.watch(told + Duration::from_millis(1200))?;
        ensure!(is_there && bytes > 100_000, "{bytes} bytes, connected: {is_there}");
        publisher.send_video(10_000)?;
        wait::until_true("what is published arrives", SOON, || Ok(origin.received() > received))?;
        player.must_be_closed_within(SOON)?;
        publisher.must_be_closed_within(SOON)?;
        let status = proxy.process.wait(SOON)?;
        let took = told.elapsed();
        ensure!(status.success(), "{status}");
        ensure!(took > Duration::from_millis(1700), "ended after {took:?} of 2 s grace");
        ensure!(took < Duration::from_secs(8), "ended {took:?} after the signal");
        Ok(())
    })
}

#[test]
fn without_io_uring_sessions_are_spliced_by_epoll_and_say_why() -> Result<()> {
    let _turn = stage::turn(COMPANY);
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Paced(2_000_000)))?;
        let proxy = without(&[libc::SYS_io_uring_setup], || {
            Proxy::start(folder, &[("PROXY_TCP_ENGINE", "auto")])
        })??;
        origin.register_at(proxy.system_api(), "origin")?;
        let mut player = Client::play(proxy.rtmp(), "show")?;
        let session = must_be_carried(&proxy, "show", StreamEngine::Splice)?;
        ensure!(session.plane_reason == NO_RING, "{session:?}");
        player.read_bytes(500_000)?;
        let planes = proxy.get("/api/v1/planes")?;
        let streams = planes.pointer("/planes/streams").context("no streams among the planes")?;
        let text = |name: &str| streams.get(name).and_then(|it| it.as_str());
        ensure!(text("engine") == Some("splice") && text("reason") == Some(NO_RING), "{streams}");
        Ok(())
    })
}

#[test]
fn who_does_not_want_it_is_relayed_and_told_so() -> Result<()> {
    let _turn = stage::turn(COMPANY);
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Paced(2_000_000)))?;
        let proxy = Proxy::start(folder, &[("PROXY_TCP_ENGINE", "relay")])?;
        origin.register_at(proxy.system_api(), "origin")?;
        let mut player = Client::play(proxy.rtmp(), "show")?;
        let session = must_be_carried(&proxy, "show", StreamEngine::Relay)?;
        ensure!(session.plane_reason == "PROXY_TCP_ENGINE=relay", "{session:?}");
        player.read_bytes(500_000)
    })
}

#[test]
fn what_the_host_refuses_decides_the_engine() -> Result<()> {
    let _turn = stage::turn(COMPANY);
    let start =
        |engine| move || StreamPlane::start(&StreamSettings { engine, threads: Some(2), room: 10 });
    let (ring, epoll) = (libc::SYS_io_uring_setup, libc::SYS_epoll_create1);
    for wanted in [TcpEngine::Auto, TcpEngine::Uring] {
        let view = without(&[ring], start(wanted))?.view();
        ensure!(view.engine == "splice" && view.reason.as_deref() == Some(NO_RING), "{view:?}");
    }
    for (wanted, refused) in
        [(TcpEngine::Auto, &[ring, epoll][..]), (TcpEngine::Splice, &[epoll][..])]
    {
        let view = without(refused, start(wanted))?.view();
        let reason = view.reason.clone().unwrap_or_default();
        ensure!(view.engine == "relay" && reason.contains("cannot be started"), "{view:?}");
    }
    Ok(())
}

#[test]
fn a_host_without_pipes_has_its_bytes_copied() -> Result<()> {
    let _turn = stage::turn(COMPANY);
    let runtime = tokio::runtime::Runtime::new()?;
    for engine in [StreamEngine::Splice, StreamEngine::UringSplice] {
        let plane = without(&[libc::SYS_pipe2], || stage::start(engine, 1, 10))?;
        if plane.engine() != engine {
            continue;
        }
        runtime.block_on(async {
            let mut session = stage::Session::begin(&plane, Terms::of(Flow::Both)).await?;
            let bytes = media(1, 4 << 20);
            let (client, origin) = session.ends(Leg::Client);
            let (sent, received) =
                tokio::join!(origin.write_all(&bytes), must_receive(client, &bytes));
            sent.map_err(Into::into).and(received)?;
            session.must_count(Leg::Client, bytes.len()).await
        })?;
        let [thread] = plane.view().threads[..] else { return Err(anyhow!("not one thread")) };
        ensure!((thread.pipes, thread.spliced_bytes) == (0, 0), "{thread:?}");
    }
    Ok(())
}

/// Waits until a stream's only session is carried by this engine.
fn must_be_carried(proxy: &Proxy, stream: &str, engine: StreamEngine) -> Result<Session> {
    wait::until(&format!("{stream} is carried by {}", engine.as_str()), SOON, || {
        let sessions = proxy.sessions_of(stream)?;
        let [session] = &sessions[..] else { return Ok(None) };
        ensure!(session.plane == engine.as_str(), "{session:?}");
        // Until its origin has said yes, the relay has it.
        ensure!(session.plane_reason != WATCHED, "{session:?}");
        Ok(Some(session.clone()))
    })
}

/// Does this where the kernel does not permit these system calls: in a thread of its own, of which
/// its threads and processes have it.
fn without<T: Send>(calls: &[libc::c_long], act: impl FnOnce() -> T + Send) -> Result<T> {
    let rules: BTreeMap<_, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let refusal = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    let arch = std::env::consts::ARCH.try_into()?;
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?.try_into()?;
    thread::scope(|scope| {
        let acting = scope.spawn(|| {
            apply_filter(&filter)?;
            anyhow::Ok(act())
        });
        acting.join().map_err(|_| anyhow!("it has panicked"))?
    })
}

/// Why the relay has a session that is not established yet.
const WATCHED: &str = "the origin's answer is waited for";

/// Why there is no ring behind such a filter.
const NO_RING: &str = "io_uring is not allowed here (seccomp?)";
