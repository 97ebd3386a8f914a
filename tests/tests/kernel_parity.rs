//! What happens to hosts, interfaces, neighbours and the proxy while media flows, by every engine.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use srs_proxy_tests::calls::{Origins, RATE, SECOND};
use srs_proxy_tests::echo::Echo;
use srs_proxy_tests::engine::{Engine, Setting, Stage};
use srs_proxy_tests::hands::by_all_hands;
use srs_proxy_tests::ice_client::Client;
use srs_proxy_tests::netns::{Arms, Family, Network};
use srs_proxy_tests::pins::Pins;
use srs_proxy_tests::proxy::Session;
use srs_proxy_tests::whip::Role;
use srs_proxy_tests::{ice, on_every_engine, usage, wait};

const SOON: Duration = Duration::from_secs(10);

on_every_engine!(
    an_interface_goes_down_and_comes_back,
    a_neighbour_gets_another_mac,
    a_neighbour_fails_and_answers_again,
    an_ipsec_policy_is_left_to_the_stack,
    a_full_map_leaves_the_rest_to_the_relay,
    programs_that_somebody_removes_are_missed,
    an_origin_on_the_proxys_own_host_is_relayed,
    a_killed_proxy_leaves_nothing_that_is_not_pinned,
    a_stop_in_order_leaves_nothing,
);

fn an_interface_goes_down_and_comes_back(engine: Engine) -> Result<()> {
    Setting::PLAIN.tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        let ids = ids(stage)?;
        stage.network.proxy.ip("link set back down")?;
        must_be_relayed(stage, 2, "the interface is down")?;
        stage.network.proxy.ip("link set back up")?;
        calls.must_go_on().context("up again")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        ensure!(self::ids(stage)? == ids, "sessions were made anew");
        Ok(())
    })
}

fn a_neighbour_gets_another_mac(engine: Engine) -> Result<()> {
    Setting::PLAIN.tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        let Stage { network, .. } = stage;
        // It tells its neighbours.
        network.origin.set("ipv4/conf/eth0/arp_notify", "1")?;
        // A neighbour that has just been heard is not believed to be another within a second.
        wait::until("its address is changed and learned", SOON, || {
            network.origin.ip("link set eth0 address 02:00:00:00:00:81")?;
            let neighbours = network.proxy.run("ip", "neighbour show dev back")?;
            Ok(neighbours.contains("02:00:00:00:00:81").then_some(()))
        })?;
        calls.must_go_on().context("by its new address")?;
        stage.must_carry_all_of(2, || calls.must_go_on())
    })
}

fn an_ipsec_policy_is_left_to_the_stack(engine: Engine) -> Result<()> {
    Setting::PLAIN.tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        // One that the stack does not apply in the end: of another port.
        let origin = stage.network.origin_address(Family::V4);
        let selector = format!("dst {origin}/32 proto udp dport 9 dir out");
        stage.network.proxy.ip(&format!("xfrm policy add {selector} action block"))?;
        must_be_relayed(stage, 2, "an IPsec policy applies")?;
        calls.must_go_on().context("by the stack")?;
        stage.network.proxy.ip(&format!("xfrm policy delete {selector}"))?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        calls.must_finish_without_loss().map(drop)
    })
}

fn a_neighbour_fails_and_answers_again(engine: Engine) -> Result<()> {
    Setting::PLAIN.tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        let ids = ids(stage)?;
        let Network { proxy, origin, .. } = &stage.network;
        let address = stage.network.origin_address(Family::V4);
        // It does not answer to its address (ip-sysctl), and is asked for it.
        origin.set("ipv4/conf/eth0/arp_ignore", "8")?;
        proxy.ip(&format!("neighbour change {address} dev back nud failed"))?;
        must_be_relayed(stage, 2, "the next hop's MAC address is unknown")?;
        origin.set("ipv4/conf/eth0/arp_ignore", "0")?;
        calls.must_go_on().context("found again")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        ensure!(self::ids(stage)? == ids, "sessions were made anew");
        Ok(())
    })
}

fn a_full_map_leaves_the_rest_to_the_relay(engine: Engine) -> Result<()> {
    Setting::PLAIN.with(&[("PROXY_EBPF_FLOWS", "8")]).tell(engine, |stage| {
        let (_origin, clients) = clients(stage, 12)?;
        let mut echoes: Vec<_> =
            clients.into_iter().map(|client| Echo::start(client, RATE / 2, 0)).collect();
        let all_go_on = |echoes: &[Echo<Client>]| {
            echoes.iter().try_for_each(|echo| echo.must_go_on_for(10, SOON))
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
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        let ids = ids(stage)?;
        // One of two, then the other.
        for left in [1, 0] {
            detach_one(stage)?;
            // Media goes up, where the relay has it.
            calls.must_go_on().context("without a program")?;
            must_be_relayed(stage, 2, "removed by somebody else")?;
            wait::until_true("its link is closed", SOON, || {
                Ok(stage.engine == Engine::Relay || stage.links()?.len() == left)
            })?;
        }
        calls.must_go_on()?;
        ensure!(self::ids(stage)? == ids, "sessions were made anew");
        calls.must_finish_without_loss().map(drop)
    })
}

fn an_origin_on_the_proxys_own_host_is_relayed(engine: Engine) -> Result<()> {
    Setting { arms: Arms::One, ..Setting::PLAIN }.tell(engine, |stage| {
        let host = stage.network.proxy_address(Family::V4);
        let origin = stage.network.proxy.within(|| ice::Origin::start_at(host))?;
        stage.register(|api| origin.register_at(api, "here"))?;
        let echo = Echo::start(open(stage, "show", 0)?, RATE, 0);
        echo.must_go_on_for(SECOND, SOON)?;
        must_be_relayed(stage, 1, "on this host")?;
        echo.must_go_on_for(SECOND, SOON)?;
        echo.must_finish_without_loss().map(drop)
    })
}

fn a_killed_proxy_leaves_nothing_that_is_not_pinned(engine: Engine) -> Result<()> {
    Setting::PLAIN.tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        let links = must_be_attached(stage)?;
        stage.proxy.process.kill()?;
        wait::until("nothing is attached", SOON, || {
            let attached = stage.attached(&links)?;
            ensure!(attached.is_empty(), "{attached:?}");
            Ok(Some(()))
        })?;
        stage.start_again(&[])?;
        ensure!(stage.sessions()?.is_empty(), "sessions out of nothing");
        // Others can begin.
        drop(calls);
        origins.register(stage)?;
        let again = origins.call(stage, "again")?;
        again.must_go_on()?;
        stage.must_carry_all_of(2, || again.must_go_on())
    })
}

fn a_stop_in_order_leaves_nothing(engine: Engine) -> Result<()> {
    let pins = Pins::new()?;
    Setting::PLAIN.with(&[("PROXY_EBPF_PIN", pins.text()?)]).tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        let links = must_be_attached(stage)?;
        // Once to drain, twice to end what goes on.
        stage.proxy.process.signal(Signal::SIGTERM)?;
        wait::until("it ends", SOON, || {
            stage.proxy.process.signal(Signal::SIGTERM)?;
            stage.proxy.process.ended()
        })?;
        let attached = stage.attached(&links)?;
        ensure!(attached.is_empty(), "still attached: {attached:?}");
        let left = pins.left()?;
        ensure!(left.is_empty(), "still pinned: {left:?}");
        Ok(())
    })
}

#[test]
fn generic_xdp_carries_all_when_it_is_asked_for() -> Result<()> {
    Setting::PLAIN.tell(Engine::XdpGeneric, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        stage.must_have_right_checksums()?;
        calls.must_finish_without_loss().map(drop)
    })
}

/// Sessions that the kernel carries at once.
const SESSIONS: usize = 5000;

#[test]
fn five_thousand_sessions_are_carried_by_tc_and_leave_nothing() -> Result<()> {
    thousands_are_carried_and_leave_nothing(Engine::Tc)
}

#[test]
fn five_thousand_sessions_are_carried_by_xdp_and_leave_nothing() -> Result<()> {
    thousands_are_carried_and_leave_nothing(Engine::Xdp)
}

fn thousands_are_carried_and_leave_nothing(engine: Engine) -> Result<()> {
    // Inherited by the proxy, which has a socket for each session.
    usage::allow_descriptors(3 * u64::try_from(SESSIONS)?)?;
    let variables =
        [("PROXY_MAX_SESSIONS_PER_CLIENT", "20000"), ("PROXY_WEBRTC_CONSENT_TIMEOUT", "60s")];
    Setting::PLAIN.with(&variables).tell(engine, |stage| {
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

/// A client of the stream `live/<stream>` that is connected.
fn open(stage: &Stage<'_>, stream: &str, number: usize) -> Result<Client> {
    let ufrag = format!("c{number:07x}");
    let client = Client::open(stage.proxy.http_api(), Role::Publish, stream, &ufrag)?;
    client.connect()?;
    Ok(client)
}

/// So many clients of one origin.
fn clients(stage: &Stage<'_>, count: usize) -> Result<(ice::Origin, Vec<Client>)> {
    let origin = stage.origin(ice::Origin::start_at)?;
    stage.register(|api| origin.register_at(api, "origin"))?;
    let clients = (0..count).map(|place| open(stage, &format!("show{place}"), place));
    Ok((origin, clients.collect::<Result<_>>()?))
}

fn ids(stage: &Stage<'_>) -> Result<Vec<String>> {
    let mut ids: Vec<_> = stage.sessions()?.into_iter().map(|it| it.id).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Waits until the relay has all of so many sessions, and says why: for this, if they were carried
/// by another engine.
fn must_be_relayed(stage: &Stage<'_>, count: usize, why: &str) -> Result<()> {
    let why = if stage.engine == Engine::Relay { "switched off" } else { why };
    wait::until("the relay carries all, and says why", SOON, || {
        let all = stage.sessions()?;
        let is_relayed = |it: &Session| it.plane == "relay" && it.plane_reason.contains(why);
        ensure!(all.len() == count && all.iter().all(is_relayed), "{all:?}");
        Ok(Some(()))
    })
}

/// Waits until the engine carries so many sessions, and the relay, for a reason, so many others.
fn must_be_shared(stage: &Stage<'_>, carried: usize, relayed: usize) -> Result<()> {
    let plane = stage.engine.plane();
    wait::until("engine and relay have their shares", SOON, || {
        let all = stage.sessions()?;
        let (by_engine, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|it| it.plane == plane);
        let is_said = others.iter().all(|it| it.plane == "relay" && !it.plane_reason.is_empty());
        ensure!((by_engine.len(), others.len()) == (carried, relayed) && is_said, "{others:?}");
        Ok(Some(()))
    })
}

/// Waits until the proxy says that the kernel has no flow.
fn must_have_no_flows(stage: &Stage<'_>) -> Result<()> {
    wait::until("the maps are empty", SOON, || {
        let planes = stage.proxy.get("/api/v1/planes")?;
        let flows = planes.pointer("/planes/datagrams/flows").and_then(Value::as_u64);
        ensure!(flows == Some(0), "{planes}");
        Ok(Some(()))
    })
}

/// What is attached, by links: something at each interface unless the relay carries all.
fn must_be_attached(stage: &Stage<'_>) -> Result<Vec<u32>> {
    let links = stage.links()?;
    let least = if stage.engine == Engine::Relay { 0 } else { 2 };
    ensure!(links.len() >= least, "links: {links:?}");
    Ok(links)
}

/// Takes off what is attached to one of the proxy's interfaces, as somebody else may.
fn detach_one(stage: &Stage<'_>) -> Result<()> {
    match stage.links()?.first() {
        Some(id) => stage.network.proxy.run("bpftool", &format!("link detach id {id}")).map(drop),
        None if stage.engine == Engine::Relay => Ok(()),
        None => bail!("nothing was attached"),
    }
}
