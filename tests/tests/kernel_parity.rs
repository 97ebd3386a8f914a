//! What happens to hosts, interfaces, neighbours and the proxy while media flows, by every engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use serde_json::Value;
use srs_proxy_tests::echo::Echo;
use srs_proxy_tests::engine::{Engine, Setting, Stage};
use srs_proxy_tests::hands::by_all_hands;
use srs_proxy_tests::ice_client::Client;
use srs_proxy_tests::netns::{Arms, Family};
use srs_proxy_tests::srt_call::Caller;
use srs_proxy_tests::whip::Role;
use srs_proxy_tests::{ice, on_every_engine, srt_call, usage, wait};

const SOON: Duration = Duration::from_secs(10);
/// Packets a second of a client.
const RATE: u32 = 200;
const SECOND: u64 = 200;

on_every_engine!(
    an_interface_goes_down_and_comes_back,
    a_neighbour_gets_another_mac,
    a_full_map_leaves_the_rest_to_the_relay,
    programs_that_somebody_removes_are_missed,
    an_origin_on_the_proxys_own_host_is_relayed,
    a_killed_proxy_leaves_nothing_that_is_not_pinned,
    a_stop_in_order_leaves_nothing,
);

fn an_interface_goes_down_and_comes_back(engine: Engine) -> Result<()> {
    Setting::PLAIN.tell(engine, |stage| {
        let pair = Pair::start(stage)?;
        stage.must_carry_all_of(2, || pair.must_go_on())?;
        let ids = ids(stage)?;
        stage.network.proxy.ip("link set back down")?;
        must_be_relayed(stage, 2)?;
        stage.network.proxy.ip("link set back up")?;
        pair.must_go_on().context("up again")?;
        stage.must_carry_all_of(2, || pair.must_go_on())?;
        ensure!(self::ids(stage)? == ids, "sessions were made anew");
        Ok(())
    })
}

fn a_neighbour_gets_another_mac(engine: Engine) -> Result<()> {
    Setting::PLAIN.tell(engine, |stage| {
        let pair = Pair::start(stage)?;
        stage.must_carry_all_of(2, || pair.must_go_on())?;
        let Stage { network, .. } = stage;
        // It tells its neighbours.
        network.origin.set("ipv4/conf/eth0/arp_notify", "1")?;
        // A neighbour that has just been heard is not believed to be another within a second.
        wait::until("its address is changed and learned", SOON, || {
            network.origin.ip("link set eth0 address 02:00:00:00:00:81")?;
            let neighbours = network.proxy.run("ip", "neighbour show dev back")?;
            Ok(neighbours.contains("02:00:00:00:00:81").then_some(()))
        })?;
        pair.must_go_on().context("by its new address")?;
        stage.must_carry_all_of(2, || pair.must_go_on())
    })
}

fn a_full_map_leaves_the_rest_to_the_relay(engine: Engine) -> Result<()> {
    Setting::PLAIN.with(&[("PROXY_EBPF_FLOWS", "8")]).tell(engine, |stage| {
        let (_origin, clients) = clients(stage, 12)?;
        let mut echoes: Vec<_> =
            clients.into_iter().map(|client| Echo::start(client, RATE / 4, 0)).collect();
        let all_go_on = |echoes: &[Echo<Client>]| {
            echoes.iter().try_for_each(|echo| echo.must_go_on_for(SECOND / 4, SOON))
        };
        all_go_on(&echoes)?;
        let room = if engine == Engine::Relay { 12 } else { 8 };
        must_be_shared(stage, room, 12 - room)?;
        all_go_on(&echoes)?;
        // Who has waited moves up when there is room.
        for echo in echoes.drain(..6) {
            let (client, _) = echo.must_finish_without_loss()?;
            ensure!(client.session.delete()?.status() == 200, "DELETE was refused");
        }
        must_be_shared(stage, 6, 0)?;
        stage.must_carry_all_of(6, || all_go_on(&echoes))?;
        echoes.into_iter().try_for_each(|echo| echo.must_finish_without_loss().map(drop))
    })
}

fn programs_that_somebody_removes_are_missed(engine: Engine) -> Result<()> {
    Setting::PLAIN.tell(engine, |stage| {
        let pair = Pair::start(stage)?;
        stage.must_carry_all_of(2, || pair.must_go_on())?;
        let ids = ids(stage)?;
        detach_all(stage)?;
        // Media goes up, where the relay has it, or there is another program in a moment.
        pair.must_go_on().context("without a program")?;
        wait::until("sessions fall to the relay, or are carried by new programs", SOON, || {
            let all = stage.sessions()?;
            let is_relayed = all.iter().all(|it| it.plane == "relay" && !it.plane_reason.is_empty());
            let is_renewed = !stage.attached()?.is_empty();
            ensure!(is_relayed || is_renewed, "{all:?}");
            Ok(Some(()))
        })?;
        pair.must_go_on()?;
        ensure!(self::ids(stage)? == ids, "sessions were made anew");
        pair.must_finish_without_loss()
    })
}

fn an_origin_on_the_proxys_own_host_is_relayed(engine: Engine) -> Result<()> {
    Setting { arms: Arms::One, ..Setting::PLAIN }.tell(engine, |stage| {
        let host = stage.network.proxy_address(Family::V4);
        let origin = stage.network.proxy.within(|| ice::Origin::start_at(host))?;
        stage.register(|api| origin.register_at(api, "here"))?;
        let echo = Echo::start(open(stage, "show", 0)?, RATE, 0);
        echo.must_go_on_for(SECOND, SOON)?;
        must_be_relayed(stage, 1)?;
        echo.must_go_on_for(SECOND, SOON)?;
        echo.must_finish_without_loss().map(drop)
    })
}

fn a_killed_proxy_leaves_nothing_that_is_not_pinned(engine: Engine) -> Result<()> {
    Setting::PLAIN.tell(engine, |stage| {
        let pair = Pair::start(stage)?;
        stage.must_carry_all_of(2, || pair.must_go_on())?;
        stage.proxy.process.kill()?;
        wait::until("nothing is attached", SOON, || {
            let attached = stage.attached()?;
            ensure!(attached.is_empty(), "{attached:?}");
            Ok(Some(()))
        })?;
        stage.start_again(&[])?;
        ensure!(stage.sessions()?.is_empty(), "sessions out of nothing");
        // Others can begin.
        let again = Pair::call(stage, &pair.origins, "again")?;
        again.must_go_on()?;
        stage.must_carry_all_of(2, || again.must_go_on())
    })
}

fn a_stop_in_order_leaves_nothing(engine: Engine) -> Result<()> {
    let mounts = Mounts::new()?;
    Setting::PLAIN.with(&[("PROXY_EBPF_PIN", mounts.text()?)]).tell(engine, |stage| {
        let pair = Pair::start(stage)?;
        stage.must_carry_all_of(2, || pair.must_go_on())?;
        let wanted = usize::from(engine != Engine::Relay) * 2;
        let attached = stage.attached()?;
        ensure!(attached.len() == wanted, "attached: {attached:?}");
        // Once to drain, twice to end what goes on.
        stage.proxy.process.signal(Signal::SIGTERM)?;
        wait::until("it ends", SOON, || {
            stage.proxy.process.signal(Signal::SIGTERM)?;
            stage.proxy.process.ended()
        })?;
        let attached = stage.attached()?;
        ensure!(attached.is_empty(), "still attached: {attached:?}");
        let pins = mounts.pins()?;
        ensure!(pins.is_empty(), "still pinned: {pins:?}");
        Ok(())
    })
}

#[test]
fn pinned_sessions_outlive_a_killed_proxy_by_tc() -> Result<()> {
    pinned_sessions_outlive_a_killed_proxy(Engine::Tc)
}

#[test]
fn pinned_sessions_outlive_a_killed_proxy_by_xdp() -> Result<()> {
    pinned_sessions_outlive_a_killed_proxy(Engine::Xdp)
}

fn pinned_sessions_outlive_a_killed_proxy(engine: Engine) -> Result<()> {
    let mounts = Mounts::new()?;
    let variables = [("PROXY_EBPF_PIN", mounts.text()?)];
    Setting::PLAIN.with(&variables).tell(engine, |stage| {
        let pair = Pair::start(stage)?;
        stage.must_carry_all_of(2, || pair.must_go_on())?;
        let before = stage.sessions()?;
        stage.proxy.process.kill()?;
        pair.must_go_on().context("without a proxy")?;
        stage.start_again(&variables)?;
        stage.must_carry_all_of(2, || pair.must_go_on())?;
        let streams = |sessions: &[srs_proxy_tests::proxy::Session]| {
            let mut all: Vec<_> = sessions.iter().map(|it| it.stream.clone()).collect();
            all.sort_unstable();
            all
        };
        ensure!(streams(&before) == streams(&stage.sessions()?), "other streams than before");
        // Both end in order, and all is free again.
        let (webrtc, srt) = pair.must_finish()?;
        ensure!(webrtc.session.delete()?.status() == 200, "DELETE was refused");
        srt.leave()?;
        wait::until_true("both have ended", SOON, || Ok(stage.sessions()?.is_empty()))?;
        must_have_no_flows(stage)
    })
}

/// Sessions that the kernel carries at once.
const SESSIONS: usize = 5000;

#[test]
fn five_thousand_sessions_are_carried_and_leave_nothing() -> Result<()> {
    // Inherited by the proxy, which has a socket for each session.
    usage::allow_descriptors(3 * u64::try_from(SESSIONS)?)?;
    let variables =
        [("PROXY_MAX_SESSIONS_PER_CLIENT", "20000"), ("PROXY_WEBRTC_CONSENT_TIMEOUT", "60s")];
    Setting::PLAIN.with(&variables).tell(Engine::Tc, |stage| {
        let id = stage.proxy.process.id();
        let origin = stage.origin(ice::Origin::start_at)?;
        stage.register(|api| origin.register_at(api, "origin"))?;
        let before = usage::descriptors(id)?;
        let places: Vec<usize> = (0..SESSIONS).collect();
        let clients = by_all_hands(&places, |place| {
            let client = open(stage, &format!("show{}", place / 50), *place)?;
            client.must_echo(2)?;
            Ok(client)
        })?;
        stage.must_carry_all_of(SESSIONS, || by_all_hands(&clients, |it| it.must_echo(5)))?;
        by_all_hands(&clients, |client| {
            let status = client.session.delete()?.status();
            ensure!(status == 200, "DELETE: {status}");
            Ok(())
        })?;
        wait::until_true("all have ended", SOON, || Ok(stage.proxy.sessions()?.is_empty()))?;
        must_have_no_flows(stage)?;
        wait::until("descriptors are closed", SOON, || {
            let now = usage::descriptors(id)?;
            ensure!(now <= before + SPARE, "{now} descriptors, {before} before");
            Ok(Some(()))
        })
    })
}

/// Descriptors that a runtime may have more of than before.
const SPARE: usize = 8;

/// A client of WebRTC and a caller of SRT, each with packets that come back.
struct Pair {
    webrtc: Echo<Client>,
    srt: Echo<Caller>,
    origins: (ice::Origin, srt_call::Origin),
}

/// The same without its origins.
struct Calls {
    webrtc: Echo<Client>,
    srt: Echo<Caller>,
}

impl Pair {
    fn start(stage: &Stage<'_>) -> Result<Self> {
        let webrtc = stage.origin(ice::Origin::start_at)?;
        let srt = stage.origin(|host| srt_call::Origin::start((host, 10080).into(), 1 << 20))?;
        let origins = (webrtc, srt);
        let Calls { webrtc, srt } = Self::call(stage, &origins, "show")?;
        Ok(Self { webrtc, srt, origins })
    }

    /// Registers the origins, and calls them.
    fn call(
        stage: &Stage<'_>,
        (webrtc, srt): &(ice::Origin, srt_call::Origin),
        stream: &str,
    ) -> Result<Calls> {
        stage.register(|api| {
            webrtc.register_at(api, "webrtc")?;
            srt.register_at(api, "srt")
        })?;
        let client = open(stage, stream, 0)?;
        let id = format!("#!::r=live/{stream}-srt,m=publish");
        let caller = Caller::call(stage.proxy.srt(), 7, &id, SOON)?;
        Ok(Calls { webrtc: Echo::start(client, RATE, 0), srt: Echo::start(caller, RATE, 0) })
    }
}
