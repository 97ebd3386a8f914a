//! What the host does to the plane: a stop, and what it does not allow.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::libc;
use nix::sys::signal::Signal;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use srs_proxy::config::TcpEngine;
use srs_proxy::plane::{Flow, Leg, StreamEngine, StreamPlane, StreamSettings, ThreadView};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::{skip, story, wait};
use tokio::io::AsyncWriteExt;

use crate::session::{Session, Terms};
use crate::stage::{self, Company, Stage};
use crate::traffic::{SOON, eventually, media, must_receive};

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
            proxy.must_carry(stream, stage.engine.as_str())?;
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
        let session = proxy.must_carry("show", "splice")?;
        ensure!(is_no_ring(&session.plane_reason), "{session:?}");
        player.read_bytes(500_000)?;
        let engine = proxy.stream_engine()?;
        ensure!(engine.word == "splice" && is_no_ring(&engine.reason), "{engine:?}");
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
        let session = proxy.must_carry("show", "relay")?;
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
        let is_no_ring = view.reason.as_deref().is_some_and(is_no_ring);
        ensure!(view.engine == "splice" && is_no_ring, "{view:?}");
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
    bulk_where_the_host_refuses(&(libc::SYS_pipe2, Vec::new()), |thread| {
        ensure!((thread.pipes, thread.spliced_bytes) == (0, 0), "{thread:?}");
        Ok(())
    })
}

#[test]
fn a_host_that_makes_no_pipe_larger_has_its_bytes_spliced_by_small_ones() -> Result<()> {
    let set_size = u64::try_from(libc::F_SETPIPE_SZ)?;
    let is_set_size = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, set_size);
    let rule = SeccompRule::new(vec![is_set_size?])?;
    bulk_where_the_host_refuses(&(libc::SYS_fcntl, vec![rule]), |thread| {
        ensure!(thread.spliced_bytes > BULK as u64 / 100 * 95, "{thread:?}");
        ensure!((1..=2).contains(&thread.pipes), "one for each direction at most: {thread:?}");
        Ok(())
    })
}

/// Bytes of a session that is all bulk.
const BULK: usize = 16 << 20;

/// Such a session by each engine whose one thread may not do this, and what is to come of it.
fn bulk_where_the_host_refuses(
    refused: &(libc::c_long, Vec<SeccompRule>),
    must_be: impl Fn(ThreadView) -> Result<()>,
) -> Result<()> {
    let _turn = stage::turn(COMPANY);
    let runtime = tokio::runtime::Runtime::new()?;
    for engine in [StreamEngine::Splice, StreamEngine::UringSplice] {
        let plane = under([refused.clone()], || stage::start(engine, 1, 10))?;
        if plane.engine() != engine {
            skip(&format!("{}: {:?}", engine.as_str(), plane.view().reason))?;
            continue;
        }
        runtime.block_on(async {
            let mut session = Session::begin(&plane, Terms::of(Flow::Both)).await?;
            let bytes = media(1, BULK);
            let (client, origin) = session.ends(Leg::Client);
            let (sent, received) =
                tokio::join!(origin.write_all(&bytes), must_receive(client, &bytes));
            sent.map_err(Into::into).and(received)?;
            session.must_count(Leg::Client, bytes.len()).await?;
            eventually("the thread has told what it did", || {
                let [thread] = plane.view().threads[..] else { return false };
                thread.spliced_bytes + thread.copied_bytes == BULK as u64
            })
            .await
        })?;
        let [thread] = plane.view().threads[..] else { return Err(anyhow!("not one thread")) };
        must_be(thread).context(engine.as_str())?;
    }
    Ok(())
}

/// Does this where the kernel does not permit these system calls.
fn without<T: Send>(calls: &[libc::c_long], act: impl FnOnce() -> T + Send) -> Result<T> {
    under(calls.iter().map(|call| (*call, Vec::new())), act)
}

/// Does this where the kernel refuses what these rules say of system calls, each of them all if there
/// are none: in a thread of its own, of which its threads and processes have it.
fn under<T: Send>(
    rules: impl IntoIterator<Item = (libc::c_long, Vec<SeccompRule>)>,
    act: impl FnOnce() -> T + Send,
) -> Result<T> {
    let rules: BTreeMap<_, _> = rules.into_iter().collect();
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

/// Whether this is why there is no ring behind such a filter, which a host that allows none by itself
/// says in other words.
fn is_no_ring(reason: &str) -> bool {
    let by = reason.strip_prefix("io_uring is not allowed here (");
    by.is_some_and(|by| by == "seccomp?)" || by.starts_with("kernel.io_uring_disabled="))
}
