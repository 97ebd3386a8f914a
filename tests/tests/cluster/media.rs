//! What is published at one proxy is played at another, by every protocol.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::fleet::{Fleet, at};
use srs_proxy_tests::nginx::Nginx;
use srs_proxy_tests::nms::Nms;
use srs_proxy_tests::packets::Kind;
use srs_proxy_tests::raw;
use srs_proxy_tests::srt::{self, End, Peer, Program};
use srs_proxy_tests::srt_call::{Caller, Origin};
use srs_proxy_tests::srt_room::{self, Room};
use srs_proxy_tests::wait;

use super::with_redis;

const SOON: Duration = Duration::from_secs(15);
const A_WHILE: Duration = Duration::from_secs(40);

#[test]
fn rtmp_and_hls_of_one_stream_are_played_at_another_proxy() -> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::of(folder, 2, |_| at(redis.address()))?;
        let [a, b] = &fleet.proxies[..] else { unreachable!("two proxies") };
        let origins = [Nginx::start(folder, "one")?, Nginx::start(folder, "two")?];
        origins[0].register_at(a.system_api())?;
        origins[1].register_at(b.system_api())?;
        fleet.must_know(2)?;
        let url = a.url("show");
        let _publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        let home = wait::until("the stream is there", SOON, || {
            Ok(origins.iter().find(|it| it.has_publisher("show").unwrap_or(false)))
        })?;
        home.wait_for("/live/show.m3u8")?;
        let source = ffmpeg::fixture_packets(folder)?;
        let rtmp = ffmpeg::play(folder, "rtmp", &b.url("show"), Some(4))?;
        let hls = ffmpeg::play(folder, "hls", &b.http_url("live/show.m3u8"), Some(4))?;
        rtmp.finish(A_WHILE)?.must_be_a_part_of(&source, 75)?;
        let pictures = hls.finish(A_WHILE)?.of(Kind::Video).len();
        ensure!(pictures >= 75, "{pictures} pictures of HLS in four seconds");

        // A playlist of the one, whose segments are asked for at the other.
        let playlist = raw::Client::connect(a.http())?.get("/live/show.m3u8")?.text();
        let segments: Vec<_> = playlist.lines().filter(|it| it.contains("spt=")).collect();
        ensure!(segments.len() >= 3, "{playlist}");
        for segment in segments {
            let target = format!("/live/{segment}");
            let [one, other] = [a, b].map(|proxy| raw::Client::connect(proxy.http())?.get(&target));
            let (one, other) = (one?, other?);
            ensure!(other.status() == 200, "{target}: {}", other.status());
            ensure!(one.body == other.body && !one.body.is_empty(), "{target} differs");
        }
        Ok(())
    })
}

#[test]
fn http_flv_of_one_stream_is_played_at_another_proxy() -> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::of(folder, 2, |_| at(redis.address()))?;
        let [a, b] = &fleet.proxies[..] else { unreachable!("two proxies") };
        let origins = [Nms::start(folder, "one")?, Nms::start(folder, "two")?];
        origins[0].register_at(a.system_api())?;
        origins[1].register_at(b.system_api())?;
        fleet.must_know(2)?;
        let source = ffmpeg::fixture_packets(folder)?;
        // One that is there before its publisher, which comes by the other proxy.
        let early = ffmpeg::play(folder, "early", &b.http_url("live/show.flv"), Some(3))?;
        wait::until_true("the player waits at an origin", SOON, || {
            Ok(origins.iter().any(|it| it.players("show").is_ok_and(|all| !all.is_empty())))
        })?;
        let url = a.url("show");
        let _publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        early.finish(A_WHILE)?.must_be_a_part_of(&source, 50)?;
        let late = ffmpeg::play(folder, "late", &b.http_url("live/show.flv"), Some(3))?;
        late.finish(A_WHILE)?.must_be_a_part_of(&source, 50)
    })
}

#[test]
fn srt_of_one_stream_goes_to_one_origin_from_every_proxy() -> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::of(folder, 2, |_| at(redis.address()))?;
        let origins = [1 << 20, 1 << 21, 1 << 22]
            .map(|first| Origin::start(([127, 0, 0, 1], 0).into(), first));
        for (place, origin) in origins.iter().enumerate() {
            let origin = origin.as_ref().ok().context("an origin has not started")?;
            let name = srs_proxy_tests::fleet::NAMES[place];
            origin.register_at(fleet.proxy(place % 2)?.system_api(), name)?;
        }
        fleet.must_know(3)?;
        let mut callers = Vec::new();
        for n in 0..8_u32 {
            let [a, b] = if n % 2 == 0 { [0, 1] } else { [1, 0] };
            let call = |proxy: usize, id: u32, stream_id: String| -> Result<Caller> {
                Caller::call(fleet.proxy(proxy)?.srt(), id, &stream_id, SOON)
            };
            callers.push(call(a, 2 * n + 1, format!("#!::r=live/show{n},m=publish"))?);
            callers.push(call(b, 2 * n + 2, format!("#!::r=live/show{n},m=request"))?);
        }
        for caller in &callers {
            caller.must_echo(SOON)?;
        }
        for n in 0..8 {
            let mut sessions = fleet.proxy(0)?.sessions_of(&format!("show{n}"))?;
            sessions.extend(fleet.proxy(1)?.sessions_of(&format!("show{n}"))?);
            let mut roles: Vec<_> = sessions.iter().map(|it| it.role.as_str()).collect();
            roles.sort_unstable();
            assert_eq!(roles, ["play", "publish"], "show{n}");
            assert_eq!(sessions[0].origin_address, sessions[1].origin_address, "show{n}");
        }
        Ok(())
    })
}

#[test]
fn what_ffmpeg_publishes_by_srt_at_one_proxy_is_what_it_plays_at_another() -> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::of(folder, 2, |_| at(redis.address()))?;
        let [a, b] = &fleet.proxies[..] else { unreachable!("two proxies") };
        let rooms = [Room::start(folder, "one")?, Room::start(folder, "two")?];
        rooms[0].register_at(a.system_api(), "one")?;
        rooms[1].register_at(b.system_api(), "two")?;
        fleet.must_know(2)?;
        let file = srt::transport_stream(folder, 1)?;
        let ffmpeg = Peer::plain(Program::Ffmpeg);
        let player = End::Caller(b.srt(), "#!::r=live/show,m=request");
        let player = ffmpeg.receive(folder, "player", player)?;
        let room = srt_room::must_have_player(&rooms, SOON)?;
        let publisher = End::Caller(a.srt(), "#!::r=live/show,m=publish");
        let time = Duration::from_secs(4);
        let _publisher = ffmpeg.send(folder, "publisher", publisher, &file, time)?;
        player.must_have_all_of(&file, A_WHILE)?;
        let callers = rooms.each_ref().map(Room::callers);
        ensure!(room.callers() == 2, "callers of each origin: {callers:?}");
        for (proxy, role) in [(a, "publish"), (b, "play")] {
            let sessions = proxy.sessions_of("show")?;
            let [session] = &sessions[..] else { bail!("{role}: {sessions:?}") };
            assert_eq!((session.protocol.as_str(), session.role.as_str()), ("srt", role));
            assert_eq!(session.origin_address, room.address().to_string(), "{role}");
        }
        Ok(())
    })
}

#[test]
fn what_is_published_at_one_of_five_proxies_is_played_at_the_four_others() -> Result<()> {
    with_redis(|folder, redis| {
        let fleet = Fleet::of(folder, 5, |_| at(redis.address()))?;
        let origins = [Nginx::start(folder, "one")?, Nginx::start(folder, "two")?];
        for (place, origin) in origins.iter().enumerate() {
            origin.register_at(fleet.proxy(place + 3)?.system_api())?;
        }
        fleet.must_know(2)?;
        let url = fleet.proxy(0)?.url("show");
        let _publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        wait::until_true("the stream is there", SOON, || {
            Ok(origins.iter().any(|it| it.has_publisher("show").unwrap_or(false)))
        })?;
        let source = ffmpeg::fixture_packets(folder)?;
        let play = |place: usize| {
            let url = fleet.proxy(place)?.url("show");
            ffmpeg::play(folder, &format!("player-{place}"), &url, Some(3))
        };
        let players = (1..5).map(play).collect::<Result<Vec<_>>>()?;
        for (place, player) in (1..).zip(players) {
            let packets = player.finish(A_WHILE)?;
            packets.must_be_a_part_of(&source, 50).with_context(|| format!("proxy {place}"))?;
        }
        Ok(())
    })
}
