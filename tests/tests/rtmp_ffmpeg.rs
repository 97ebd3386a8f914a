//! FFmpeg publishes and plays through the proxy and two real origins.

use std::time::Duration;

use anyhow::Result;
use srs_proxy_tests::cluster::Cluster;
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::packets::Kind;
use srs_proxy_tests::rtmp::Client;
use srs_proxy_tests::{story, wait};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(20);

#[test]
fn players_get_the_very_packets_that_were_published() -> Result<()> {
    story(|folder| {
        let source = ffmpeg::fixture_packets(folder)?;
        let (mut cluster, _publisher, home) = Cluster::start_with(folder, "frames")?;
        let url = cluster.proxy.url("frames");
        let at_home = cluster.origin(home)?.url("frames");
        let through_proxy = ffmpeg::play(folder, "player", &url, Some(4))?;
        let direct = ffmpeg::play(folder, "direct", &at_home, Some(4))?;
        through_proxy.finish(A_WHILE)?.must_be_a_part_of(&source, 75)?;
        direct.finish(A_WHILE)?.must_be_a_part_of(&source, 75)
    })
}

#[test]
fn a_player_who_came_first_sees_the_stream_from_its_start_to_its_end() -> Result<()> {
    story(|folder| {
        let source = ffmpeg::fixture_packets(folder)?;
        let cluster = Cluster::start(folder, &[])?;
        let url = cluster.proxy.url("early");
        let player = ffmpeg::play(folder, "player", &url, None)?;
        wait::until_true("the player waits at an origin", SOON, || {
            Ok(cluster.proxy.sessions_of("early")?.iter().any(|s| !s.origin_address.is_empty()))
        })?;
        ffmpeg::publish(folder, "publisher", Source::FixtureStart(5), &url)?.wait(A_WHILE)?;
        let packets = player.finish(A_WHILE)?;
        packets.must_be_a_part_of(&source, 120)?;
        // nginx begins with the first picture, and leaves out the sound before it.
        let pictures = packets.of(Kind::Video);
        assert_eq!(pictures.len(), 5 * 25, "pictures of five seconds");
        assert_eq!(pictures.first(), source.of(Kind::Video).first(), "the first picture");
        Ok(())
    })
}

#[test]
fn the_origin_hears_what_the_client_said() -> Result<()> {
    story(|folder| {
        let mut cluster = Cluster::start(folder, &[])?;
        let url = cluster.proxy.url("secret?token=abc&x=1");
        let _publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        let home = cluster.home_of("secret")?;
        let tc_url = format!("tc_url='rtmp://{}/live'", cluster.proxy.rtmp());
        let log = cluster.origin(home)?.log();
        for said in ["flashver='FMLE/3.0", &tc_url, "name='secret' args='token=abc&x=1'"] {
            assert!(log.contains(said), "{said} did not reach the origin");
        }
        Ok(())
    })
}

#[test]
fn ten_streams_are_spread_over_both_origins_and_each_stays_at_one() -> Result<()> {
    story(|folder| {
        let cluster = Cluster::start(folder, &[])?;
        let names: Vec<String> = (0..10).map(|n| format!("stream{n}")).collect();
        let mut publishers = Vec::new();
        let mut homes = [0, 0];
        for name in &names {
            let url = cluster.proxy.url(name);
            publishers.push(ffmpeg::publish(folder, name, Source::FixtureForEver, &url)?);
            homes[cluster.home_of(name)?] += 1;
        }
        assert_eq!(homes, [5, 5], "streams of each origin");

        let mut players = Vec::new();
        for name in &names {
            players.push(Client::play(cluster.proxy.rtmp(), name)?);
        }
        for (name, player) in names.iter().zip(&mut players) {
            player.read_bytes(20_000)?;
            let sessions = cluster.proxy.sessions_of(name)?;
            assert_eq!(sessions.len(), 2, "{name} has a publisher and a player");
            assert_eq!(
                sessions[0].origin_address, sessions[1].origin_address,
                "the player of {name} is where the publisher is"
            );
            // The origins' own word for it: both clients on one side, none on the other.
            let at = |place: usize| -> Result<usize> {
                let streams = cluster.origins[place].streams()?;
                Ok(streams.iter().filter(|(it, _)| it == name).map(|(_, n)| n).sum())
            };
            let mut clients = [at(0)?, at(1)?];
            clients.sort_unstable();
            assert_eq!(clients, [0, 2], "clients of {name} at the two origins");
        }
        Ok(())
    })
}

#[test]
fn the_second_publisher_of_a_name_is_told_why_it_may_not() -> Result<()> {
    story(|folder| {
        let cluster = Cluster::start(folder, &[])?;
        let url = cluster.proxy.url("mine");
        let mut first = ffmpeg::publish(folder, "first", Source::FixtureForEver, &url)?;
        cluster.home_of("mine")?;
        let mut second = ffmpeg::publish(folder, "second", Source::FixtureForEver, &url)?;
        let status = second.wait(SOON)?;
        assert!(!status.success(), "the second publisher was let in");
        assert!(second.log().contains("Already publishing"), "said: {}", second.log());

        let bytes = || -> Result<u64> {
            let sessions = cluster.proxy.sessions_of("mine")?;
            Ok(sessions.iter().map(|session| session.bytes_to_origin).sum())
        };
        let before = bytes()?;
        wait::until_true("the first publisher goes on", SOON, || Ok(bytes()? > before))?;
        assert!(first.ended()?.is_none(), "the first publisher ended");
        Ok(())
    })
}
