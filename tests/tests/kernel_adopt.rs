//! A proxy that is killed, and the next one that goes on with its sessions, by both programs.

use std::fs;
use std::net::{Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use srs_proxy_tests::calls::{self, Calls, Origins, RATE, SECOND};
use srs_proxy_tests::echo::Echo;
use srs_proxy_tests::engine::{Engine, Setting, Stage};
use srs_proxy_tests::netns::Family;
use srs_proxy_tests::pins::Pins;
use srs_proxy_tests::{rtc, wait};

const SOON: Duration = Duration::from_secs(10);
/// Of a session that is silent.
const PATIENCE: Duration = Duration::from_secs(4);
const SHORT: [(&str, &str); 2] =
    [("PROXY_WEBRTC_CONSENT_TIMEOUT", "4s"), ("PROXY_SRT_IDLE_TIMEOUT", "4s")];

macro_rules! by_both_programs {
    ($($scenario:ident),+ $(,)?) => {
        mod tc {
            $(#[test]
            fn $scenario() -> anyhow::Result<()> {
                super::$scenario(super::Engine::Tc)
            })+
        }
        mod xdp {
            $(#[test]
            fn $scenario() -> anyhow::Result<()> {
                super::$scenario(super::Engine::Xdp)
            })+
        }
    };
}

by_both_programs!(
    media_goes_on_over_ipv6_and_ends_when_it_is_told_to,
    sessions_go_on_through_one_proxy_after_another_and_move_as_before,
    who_is_gone_ends_on_time,
    what_another_version_has_left_is_taken_away,
    a_proxy_that_cannot_start_ends_nothing,
    who_is_switched_off_takes_away_what_is_there,
);

fn media_goes_on_over_ipv6_and_ends_when_it_is_told_to(engine: Engine) -> Result<()> {
    let pins = Pins::new()?;
    let variables = [("PROXY_EBPF_PIN", pins.text()?)];
    let setting = Setting { family: Family::V6, ..Setting::PLAIN };
    setting.with(&variables).tell(engine, |stage| {
        let origin = stage.origin(rtc::Origin::start_at)?;
        let receiver = stage.origin(calls::start_receiver)?;
        stage.register(|api| {
            origin.register_at(api, "webrtc")?;
            receiver.register_at(api, "srt")
        })?;
        let publisher = rtc::Client::publish(stage.proxy.http_api(), "show", RATE)?;
        let player = rtc::Client::play(stage.proxy.http(), "show")?;
        let srt = calls::call_srt(stage, "show")?;
        let watch = |packets: u64| -> Result<()> {
            player.must_get(packets, SOON)?;
            srt.must_go_on_for(packets / 2, SOON)
        };
        stage.must_carry_all_of(3, || watch(SECOND))?;
        publisher.restart_ice()?;
        stage.must_carry_all_of(3, || watch(SECOND))?;
        let before = streams(stage)?;
        stage.proxy.process.kill()?;
        watch(SECOND).context("without a proxy")?;
        stage.start_again(&variables)?;
        ensure!(streams(stage)? == before, "other streams than before");
        stage.must_carry_all_of(3, || watch(SECOND))?;
        // XDP takes one in 65536 for unfinished, and who encrypts cannot avoid it.
        let (tally, unlucky) = (player.tally(), stage.frames("partial_checksum")?);
        ensure!(tally.missing <= unlucky && tally.repeated == 0, "{tally:?}, {unlucky}");
        let (caller, _) = srt.must_finish_without_loss().context("SRT")?;
        caller.leave()?;
        // By the passwords that were kept.
        publisher.move_to_new_port()?;
        player.must_get(SECOND, SOON).context("from another port")?;
        publisher.restart_ice().context("the URL leads to the session")?;
        stage.must_carry_all_of(2, || player.must_get(SECOND, SOON))?;
        ensure!(publisher.session().delete()?.status() == 200, "DELETE was refused");
        player.hang_up()?;
        wait::until_true("both have left", SOON, || {
            Ok(stage.sessions()?.is_empty() && origin.sessions() == 0)
        })?;
        must_have_no_flows(stage)
    })
}

fn sessions_go_on_through_one_proxy_after_another_and_move_as_before(engine: Engine) -> Result<()> {
    let pins = Pins::new()?;
    let variables = [("PROXY_EBPF_PIN", pins.text()?)];
    Setting::PLAIN.with(&variables).tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        let before = streams(stage)?;
        for life in 0..3 {
            stage.must_carry_all_of(2, || calls.must_go_on())?;
            stage.proxy.process.kill()?;
            calls.must_go_on().with_context(|| format!("after life {life}"))?;
            stage.start_again(&variables)?;
            ensure!(streams(stage)? == before, "other streams than before");
        }
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        let (client, mut caller, next) = calls.must_finish_without_loss()?;
        let ids = ids(stage)?;
        client.rebind()?;
        client.connect().context("from another port")?;
        caller.rebind()?;
        // What comes in the first second, in which the former port may still be used, is lost.
        let echo = Echo::start(caller, RATE, next);
        echo.must_go_on_for(SECOND, SOON).context("from another port")?;
        let (caller, tally) = echo.finish()?;
        ensure!(tally.wrong == 0, "{tally:?}");
        let webrtc = Echo::start(client, RATE, next);
        let calls = Calls { webrtc, srt: Echo::start(caller, RATE, next + tally.sent) };
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        ensure!(self::ids(stage)? == ids, "moved, not made anew");
        // Others find room beside them.
        let others = origins.call(stage, "other")?;
        stage.must_carry_all_of(4, || others.must_go_on())?;
        for calls in [calls, others] {
            let (client, caller, _) = calls.must_finish_without_loss()?;
            ensure!(client.session.delete()?.status() == 200, "DELETE was refused");
            caller.leave()?;
        }
        wait::until_true("all have ended", SOON, || Ok(stage.sessions()?.is_empty()))?;
        let ends = |reason| stage.proxy.metric(ENDS, &[("reason", reason)]);
        ensure!((ends("deleted")?, ends("client_closed")?) == (2, 2), "they ended otherwise");
        must_have_no_flows(stage)
    })
}

fn who_is_gone_ends_on_time(engine: Engine) -> Result<()> {
    let pins = Pins::new()?;
    let [consent, idle] = SHORT;
    let variables = [("PROXY_EBPF_PIN", pins.text()?), consent, idle];
    Setting::PLAIN.with(&variables).tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let stays = origins.call(stage, "stays")?;
        let leaves = origins.call(stage, "leaves")?;
        stage.must_carry_all_of(4, || leaves.must_go_on())?;
        stage.proxy.process.kill()?;
        drop(leaves.must_finish_without_loss()?);
        stage.start_again(&variables)?;
        let since = Instant::now();
        stage.must_carry(4)?;
        wait::until_true("those that are silent end", SOON, || Ok(stage.sessions()?.len() == 2))?;
        let time = since.elapsed();
        ensure!(time + Duration::from_secs(1) > PATIENCE, "they had no time: {time:?}");
        let ends = |reason| stage.proxy.metric(ENDS, &[("reason", reason)]);
        ensure!((ends("no_consent")?, ends("idle")?) == (1, 1), "they ended otherwise");
        stage.must_carry_all_of(2, || stays.must_go_on())?;
        // The system says that nobody listens there, to the sockets that were taken over.
        drop(origins);
        wait::until_true("those without an origin end", SOON, || Ok(stage.sessions()?.is_empty()))?;
        let ends = ends("origin_lost")? + ends("origin_closed")?;
        ensure!(ends == 2, "{ends} for the origin's sake");
        must_have_no_flows(stage)
    })
}

fn what_another_version_has_left_is_taken_away(engine: Engine) -> Result<()> {
    let pins = Pins::new()?;
    let variables = [("PROXY_EBPF_PIN", pins.text()?)];
    Setting::PLAIN.with(&variables).tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        let former = stage.links()?;
        stage.proxy.process.kill()?;
        calls.must_go_on().context("without a proxy")?;
        for own in pins.left()? {
            fs::rename(own, pins.path().join("v1"))?;
        }
        stage.start_again(&variables)?;
        ensure!(!pins.path().join("v1").exists(), "the other version's folder is still there");
        ensure!(stage.sessions()?.is_empty(), "sessions of another version");
        drop(calls);
        must_have_no_flows(stage)?;
        origins.register(stage)?;
        let again = origins.call(stage, "again")?;
        stage.must_carry_all_of(2, || again.must_go_on())?;
        let now = stage.links()?;
        ensure!(now.len() == former.len(), "links: {former:?}, then {now:?}");
        let attached = stage.attached(&former)?;
        ensure!(!attached.iter().any(|it| it.starts_with("link ")), "still there: {attached:?}");
        again.must_finish_without_loss().map(drop)
    })
}

fn a_proxy_that_cannot_start_ends_nothing(engine: Engine) -> Result<()> {
    let pins = Pins::new()?;
    let variables = [("PROXY_EBPF_PIN", pins.text()?)];
    Setting::PLAIN.with(&variables).tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        stage.proxy.process.kill()?;
        let port = stage.proxy.srt().port();
        let somebody =
            stage.proxy.within(|| Ok(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?))?;
        ensure!(stage.start_again(&variables).is_err(), "two have one port");
        calls.must_go_on().context("without a proxy")?;
        drop(somebody);
        stage.start_again(&variables)?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        calls.must_finish_without_loss().map(drop)
    })
}

fn who_is_switched_off_takes_away_what_is_there(engine: Engine) -> Result<()> {
    let pins = Pins::new()?;
    let variables = [("PROXY_EBPF_PIN", pins.text()?)];
    Setting::PLAIN.with(&variables).tell(engine, |stage| {
        let origins = Origins::start(stage)?;
        let calls = origins.call(stage, "show")?;
        stage.must_carry_all_of(2, || calls.must_go_on())?;
        let links = stage.links()?;
        stage.proxy.process.kill()?;
        calls.must_go_on().context("without a proxy")?;
        let [pin] = variables;
        stage.start_again(&[pin, ("PROXY_EBPF_MODE", "off")])?;
        ensure!(stage.sessions()?.is_empty(), "sessions out of nothing");
        let (attached, pinned) = (stage.attached(&links)?, pins.left()?);
        ensure!(attached.is_empty() && pinned.is_empty(), "left: {attached:?}, {pinned:?}");
        Ok(())
    })
}

const ENDS: &str = "srs_proxy_session_ends_total";

/// Stream, protocol and role of each session, whatever its number.
fn streams(stage: &Stage<'_>) -> Result<Vec<[String; 3]>> {
    let sessions = stage.sessions()?.into_iter();
    let mut streams: Vec<_> = sessions.map(|it| [it.stream, it.protocol, it.role]).collect();
    streams.sort_unstable();
    Ok(streams)
}

fn ids(stage: &Stage<'_>) -> Result<Vec<String>> {
    let mut ids: Vec<_> = stage.sessions()?.into_iter().map(|it| it.id).collect();
    ids.sort_unstable();
    Ok(ids)
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
