//! WebRTC between hosts, by every engine: whole, moved, restarted and ended.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::engine::{Engine, Setting, Stage};
use srs_proxy_tests::netns::{Arms, Checksums, Family, Network};
use srs_proxy_tests::rtc::{Client, Origin, Tally};
use srs_proxy_tests::whip::Role;
use srs_proxy_tests::{aiortc, on_every_engine, wait};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(30);
/// Packets a second of a publisher.
const RATE: u32 = 400;
const CONSENT: Duration = Duration::from_secs(5);
const SHORT_CONSENT: &[(&str, &str)] = &[("PROXY_WEBRTC_CONSENT_TIMEOUT", "5s")];

on_every_engine!(
    every_packet_arrives_once_over_ipv4,
    every_packet_arrives_once_over_ipv6,
    a_client_moves_and_restarts_over_ipv4,
    a_client_moves_and_restarts_over_ipv6,
    who_is_gone_ends_on_time_and_who_is_busy_does_not,
    aiortc_sees_what_aiortc_publishes,
);

fn every_packet_arrives_once_over_ipv4(engine: Engine) -> Result<()> {
    every_packet_arrives_once(engine, Family::V4, [Arms::One, Arms::Two])
}

fn every_packet_arrives_once_over_ipv6(engine: Engine) -> Result<()> {
    every_packet_arrives_once(engine, Family::V6, [Arms::Two, Arms::One])
}

/// Once with whole checksums, once without.
fn every_packet_arrives_once(engine: Engine, family: Family, arms: [Arms; 2]) -> Result<()> {
    for (arms, checksums) in arms.into_iter().zip([Checksums::Whole, Checksums::Offloaded]) {
        let setting = Setting { arms, checksums, family, ..Setting::PLAIN };
        setting.tell(engine, |stage| {
            let show = Show::start(stage)?;
            let watch = || show.player.must_get(2 * u64::from(RATE), A_WHILE);
            let tally = if engine == Engine::Xdp && checksums == Checksums::Offloaded {
                // What nobody has finished goes up, where the kernel finishes it on the way out.
                stage.must_carry(2)?;
                let before = stage.frames("partial_checksum")?;
                let tally = watch()?;
                let partial = stage.frames("partial_checksum")? - before;
                ensure!(partial >= 2 * u64::from(RATE), "{partial} partial checksums");
                tally
            } else {
                stage.must_carry_all_of(2, watch)?
            };
            must_be_whole(tally)?;
            stage.must_have_right_checksums()?;
            for client in [&show.publisher, &show.player] {
                ensure!(client.session().delete()?.status() == 200, "DELETE was refused");
            }
            wait::until_true("both have left", SOON, || {
                Ok(stage.sessions()?.is_empty() && show.origin.sessions() == 0)
            })
        })?;
    }
    Ok(())
}

fn a_client_moves_and_restarts_over_ipv4(engine: Engine) -> Result<()> {
    a_client_moves_and_restarts(engine, Family::V4)
}

fn a_client_moves_and_restarts_over_ipv6(engine: Engine) -> Result<()> {
    a_client_moves_and_restarts(engine, Family::V6)
}

fn a_client_moves_and_restarts(engine: Engine, family: Family) -> Result<()> {
    Setting { family, ..Setting::PLAIN }.tell(engine, |stage| {
        let Show { origin, publisher, player } = Show::start(stage)?;
        let ids = ids(stage)?;
        let [_, other] = stage.network.client_addresses(family);
        let clients = [&player, &publisher];
        let goes_on = || {
            player.must_get(u64::from(RATE) / 4, SOON)?;
            stage.must_carry_all_of(2, || player.must_get(u64::from(RATE), SOON)).map(drop)
        };
        let both = |change: &dyn Fn(&Client) -> Result<()>, what: &str| {
            clients.into_iter().try_for_each(change)?;
            goes_on().context(what.to_owned())
        };
        both(&Client::move_to_new_port, "from other ports")?;
        both(&|client| client.move_to(other), "from another address")?;
        both(&Client::restart_ice, "restarted")?;
        // The old credentials must not be what carries it.
        both(&Client::move_to_new_port, "from other ports, with new credentials")?;
        ensure!(self::ids(stage)? == ids, "moved, not made anew");
        ensure!(player.tally().repeated == 0, "{:?}", player.tally());
        stage.must_have_right_checksums()?;
        drop(origin);
        Ok(())
    })
}

fn who_is_gone_ends_on_time_and_who_is_busy_does_not(engine: Engine) -> Result<()> {
    Setting::PLAIN.with(SHORT_CONSENT).tell(engine, |stage| {
        // The busy ones, at an origin that stays.
        let busy = Show::start(stage)?;
        let stays = ids(stage)?;
        // Streams go to the origin that has fewer sessions.
        let gone = start_origin(stage, "gone")?;
        let ended = |reason: &str| stage.proxy.ends(reason);
        let newcomers =
            || -> Result<usize> { Ok(ids(stage)?.iter().filter(|id| !stays.contains(id)).count()) };

        // Clients that fall silent: nobody asks for consent in their place.
        let one = Client::publish(stage.proxy.http_api(), "one", RATE)?;
        one.must_connect_within(SOON)?;
        ensure!(gone.sessions() == 1, "the stream went to the busy origin");
        stage.must_carry(3)?;
        drop(one);
        must_end_for("the silent client's session", &|| Ok(newcomers()? == 0))?;
        ensure!(ended("no_consent")? == 1, "it ended for another reason");

        // An origin whose socket closes.
        let _two = Client::publish(stage.proxy.http_api(), "two", RATE)?;
        stage.must_carry(3)?;
        drop(gone);
        must_end_for("the closed origin's session", &|| Ok(newcomers()? == 0))?;
        let lost = ended("origin_lost")?;
        ensure!(lost == 1, "{lost} sessions have ended for the origin's sake");

        must_be_whole(busy.player.must_get(u64::from(RATE), SOON)?)?;
        ensure!(ids(stage)? == stays, "busy sessions have ended");

        // An origin whose every word gets lost, while its publisher goes on.
        let Network { origin, .. } = &stage.network;
        origin.ip(&format!("route add blackhole {}", stage.network.seen_by_origin(Family::V4)))?;
        must_end_for("the sessions of the mute origin", &|| Ok(stage.sessions()?.is_empty()))?;
        ensure!(ended("no_consent")? == 3, "they have ended for another reason");
        Ok(())
    })
}

/// Waits until a session has ended; fails if that is later than consent allows.
fn must_end_for(what: &str, has_ended: &dyn Fn() -> Result<bool>) -> Result<()> {
    let since = Instant::now();
    wait::until_true(what, CONSENT + SOON, has_ended)?;
    let time = since.elapsed();
    ensure!(time < CONSENT + Duration::from_secs(3), "{what}: ended after {time:?}");
    Ok(())
}

fn aiortc_sees_what_aiortc_publishes(engine: Engine) -> Result<()> {
    Setting::PLAIN.tell(engine, |stage| {
        let folder = stage.folder;
        let origin =
            stage.origin(|host| aiortc::Origin::start_at((host, 1985).into(), folder, "origin"))?;
        stage.register(|api| origin.register_at(api))?;
        let start = |name: &str, role| {
            aiortc::Client::start(folder, name, stage.proxy.http_api(), role, "show")
        };
        let publisher = start("publisher", Role::Publish)?;
        let player = start("player", Role::Play)?;
        player.must_go_on_for(5, A_WHILE)?;
        // As long as checks are few in comparison.
        stage.must_carry_all_of(2, || player.must_go_on_for(150, A_WHILE))?;
        let counters = player.counters();
        ensure!(counters.lost.get("video") == Some(&0), "{counters:?}");
        ensure!(player.delete()? == 200, "the DELETE was refused");
        // By an alert of DTLS.
        publisher.hang_up()?;
        wait::until_true("both have left", SOON, || Ok(stage.sessions()?.is_empty()))?;
        let ends = (stage.proxy.ends("deleted")?, stage.proxy.ends("client_closed")?);
        ensure!(ends == (1, 1), "they ended otherwise: {ends:?}");
        Ok(())
    })
}

/// A publisher and a player of one stream, and their origin.
struct Show {
    origin: Origin,
    publisher: Client,
    player: Client,
}

impl Show {
    fn start(stage: &Stage<'_>) -> Result<Self> {
        let origin = start_origin(stage, "origin")?;
        let publisher = Client::publish(stage.proxy.http_api(), "show", RATE)?;
        let player = Client::play(stage.proxy.http(), "show")?;
        player.must_get(u64::from(RATE) / 4, A_WHILE)?;
        Ok(Self { origin, publisher, player })
    }
}

fn start_origin(stage: &Stage<'_>, name: &str) -> Result<Origin> {
    let origin = stage.origin(Origin::start_at)?;
    stage.register(|api| origin.register_at(api, name))?;
    Ok(origin)
}

fn ids(stage: &Stage<'_>) -> Result<Vec<String>> {
    let mut ids: Vec<_> = stage.sessions()?.into_iter().map(|it| it.id).collect();
    ids.sort_unstable();
    Ok(ids)
}

fn must_be_whole(tally: Tally) -> Result<()> {
    ensure!((tally.missing, tally.repeated) == (0, 0), "{tally:?}");
    Ok(())
}
