//! SRT between hosts, by every engine: whole, moved and ended.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::echo::{Echo, Tally};
use srs_proxy_tests::engine::{Engine, Setting, Stage};
use srs_proxy_tests::netns::{Arms, Family};
use srs_proxy_tests::srt::{self, End, Peer, Program};
use srs_proxy_tests::srt_call::{Caller, Origin};
use srs_proxy_tests::{on_every_engine, wait};

const SOON: Duration = Duration::from_secs(10);
/// What the files take.
const MEDIA: Duration = Duration::from_secs(5);
const SECRET: &str = "a long secret of ours";
/// Packets a second of a scripted caller.
const RATE: u32 = 400;
const IDLE: Duration = Duration::from_secs(3);
const SHORT_IDLE: &[(&str, &str)] = &[("PROXY_SRT_IDLE_TIMEOUT", "3s")];

on_every_engine!(
    files_arrive_as_they_were_sent_over_ipv4,
    files_arrive_as_they_were_sent_over_ipv6,
    a_caller_goes_on_from_another_port_over_ipv6_by_one_arm,
    who_is_gone_ends_on_time_and_who_is_busy_does_not,
);

fn files_arrive_as_they_were_sent_over_ipv4(engine: Engine) -> Result<()> {
    exchange(engine, Family::V4, Peer::plain(Program::Ffmpeg))
}

fn files_arrive_as_they_were_sent_over_ipv6(engine: Engine) -> Result<()> {
    exchange(engine, Family::V6, Peer::secret(Program::Ffmpeg, SECRET))
}

/// A file is published, and another one played, at once.
fn exchange(engine: Engine, family: Family, peer: Peer) -> Result<()> {
    Setting { family, ..Setting::PLAIN }.tell(engine, |stage| {
        let folder = stage.folder;
        let file = srt::transport_stream(folder, 1)?;
        let server = stage.proxy.srt();
        // A listener takes one caller, so the second one is registered behind the first call.
        let first = SocketAddr::new(stage.network.origin_address(family), 10080);
        let arrived = stage.origin(|_| peer.receive(folder, "origin", End::Listener(first)))?;
        listens(stage, first, "first")?;
        let caller = End::Caller(server, "#!::r=live/published,m=publish");
        let publisher = peer.send(folder, "publisher", caller, &file, MEDIA)?;
        wait::until_true("the publisher is there", SOON, || Ok(stage.sessions()?.len() == 1))?;

        let second = SocketAddr::new(first.ip(), 10081);
        let end = End::Listener(second);
        let source = stage.origin(|_| peer.send(folder, "source", end, &file, MEDIA))?;
        listens(stage, second, "second")?;
        let played = peer.receive(folder, "player", End::Caller(server, "live/played"))?;
        stage.must_carry_all_of(2, || {
            arrived.must_have_all_of(&file, MEDIA + SOON)?;
            played.must_have_all_of(&file, MEDIA + SOON)
        })?;
        stage.must_have_right_checksums()?;
        drop((publisher, played));
        // Both programs say goodbye.
        wait::until_true("both have left", SOON, || Ok(stage.sessions()?.is_empty()))?;
        drop((source, arrived));
        Ok(())
    })
}

/// Waits for a listener, and registers it.
fn listens(stage: &Stage<'_>, address: SocketAddr, name: &str) -> Result<()> {
    stage.network.origin.within(|| srt::must_listen(address))?;
    stage.register(|api| srt::register(address, api, name))
}

fn a_caller_goes_on_from_another_port_over_ipv6_by_one_arm(engine: Engine) -> Result<()> {
    let setting = Setting { arms: Arms::One, family: Family::V6, ..Setting::PLAIN };
    setting.tell(engine, |stage| {
        let _origin = start_origin(stage, "origin", 10080)?;
        let echo = Echo::start(call(stage, 1, "show")?, RATE, 0);
        stage.must_carry_all_of(1, || echo.must_go_on_for(RATE.into(), SOON))?;
        let (mut caller, Tally { sent: mut next, .. }) = echo.must_finish_without_loss()?;
        let ids = ids(stage)?;
        for _ in 0..2 {
            caller.rebind()?;
            // What comes in the first second, in which the former port may still be used, is lost.
            let echo = Echo::start(caller, RATE, next);
            echo.must_go_on_for(RATE.into(), SOON).context("from another port")?;
            let (again, tally) = echo.finish()?;
            ensure!(tally.wrong == 0, "{tally:?}");
            next += tally.sent;
            let echo = Echo::start(again, RATE, next);
            stage.must_carry_all_of(1, || echo.must_go_on_for(RATE.into(), SOON))?;
            let (again, tally) = echo.must_finish_without_loss()?;
            (caller, next) = (again, next + tally.sent);
        }
        ensure!(self::ids(stage)? == ids, "moved, not made anew");
        stage.must_have_right_checksums()?;
        Ok(())
    })
}

fn who_is_gone_ends_on_time_and_who_is_busy_does_not(engine: Engine) -> Result<()> {
    Setting::PLAIN.with(SHORT_IDLE).tell(engine, |stage| {
        let _origin = start_origin(stage, "busy", 10080)?;
        let busy = Echo::start(call(stage, 1, "busy")?, RATE, 0);
        stage.must_carry(1)?;
        let since = Instant::now();
        let stays = ids(stage)?;
        let must_end = |what: &str| -> Result<()> {
            let since = Instant::now();
            wait::until_true(what, IDLE + SOON, || Ok(ids(stage)? == stays))?;
            let time = since.elapsed();
            ensure!(time < IDLE + Duration::from_secs(3), "{what}: after {time:?}");
            Ok(())
        };
        // Streams go to the origin that has fewer sessions.
        let origin = start_origin(stage, "gone", 10081)?;

        let silent = Echo::start(call(stage, 2, "gone")?, RATE, 0);
        stage.must_carry(2)?;
        silent.must_go_on_for(10, SOON)?;
        drop(silent.must_finish_without_loss()?);
        must_end("the session of a silent caller ends")?;
        ensure!(stage.proxy.ends("idle")? == 1, "it has ended for another reason");

        let orphan = Echo::start(call(stage, 4, "gone")?, RATE, 0);
        stage.must_carry(2)?;
        orphan.must_go_on_for(10, SOON)?;
        drop(origin);
        must_end("the session of a closed origin ends")?;
        let closed = stage.proxy.ends("origin_lost")? + stage.proxy.ends("origin_closed")?;
        ensure!(closed == 1, "it has ended for another reason");

        // A new stream goes to the origin that has fewest; maybe by way of the one that has gone.
        let mute = start_origin(stage, "mute", 10082)?;
        let unheard = Echo::start(call(stage, 3, "mute")?, RATE, 0);
        stage.must_carry(2)?;
        unheard.must_go_on_for(10, SOON)?;
        mute.be_mute(true);
        must_end("the session of a mute origin ends")?;
        ensure!(stage.proxy.ends("idle")? == 2, "it has ended for another reason");
        drop(unheard);

        wait::until_true("longer than any idle time", SOON, || Ok(since.elapsed() > 2 * IDLE))?;
        ensure!(ids(stage)? == stays, "the busy session has ended");
        busy.must_go_on_for(RATE.into(), SOON)?;
        busy.must_finish_without_loss()?.0.leave()?;
        wait::until_true("it has left", SOON, || Ok(stage.sessions()?.is_empty()))
    })
}

fn start_origin(stage: &Stage<'_>, name: &str, port: u16) -> Result<Origin> {
    // Its socket ids are its own.
    let origin = stage.origin(|host| Origin::start((host, port).into(), u32::from(port) << 12))?;
    stage.register(|api| origin.register_at(api, name))?;
    Ok(origin)
}

fn call(stage: &Stage<'_>, id: u32, stream: &str) -> Result<Caller> {
    Caller::call(stage.proxy.srt(), id, &format!("#!::r=live/{stream},m=publish"), SOON)
}

fn ids(stage: &Stage<'_>) -> Result<Vec<String>> {
    let mut ids: Vec<_> = stage.sessions()?.into_iter().map(|it| it.id).collect();
    ids.sort_unstable();
    Ok(ids)
}
