//! Many players, and one that does not keep up.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::nginx::Nginx;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::{story, usage, wait};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn three_hundred_players_of_one_stream_all_get_it() -> Result<()> {
    const PLAYERS: usize = 300;
    story(|folder| {
        let origin = Nginx::start(folder, "a")?;
        let proxy = Proxy::start(folder, &[])?;
        origin.register_at(proxy.system_api())?;
        let before = usage::descriptors(proxy.process.id())?;
        let url = proxy.url("popular");
        let mut publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        wait::until_true("the stream is there", SOON, || origin.has_publisher("popular"))?;

        let come = |_| {
            let server = proxy.rtmp();
            thread::spawn(move || Client::play(server, "popular"))
        };
        let coming: Vec<_> = (0..PLAYERS).map(come).collect();
        let mut players = Vec::new();
        for player in coming {
            players.push(player.join().ok().context("a player panicked")??);
        }
        assert_eq!(proxy.sessions_of("popular")?.len(), PLAYERS + 1, "sessions at the proxy");
        let clients = origin.streams()?.iter().map(|(_, clients)| *clients).sum::<usize>();
        assert_eq!(clients, PLAYERS + 1, "clients at the origin");

        // Five seconds of 200 kb/s are 125 kB; a slow machine may be late, but for no player.
        let end = Instant::now() + Duration::from_secs(5);
        let watch = |mut player: Client| move || player.watch(end).map(|seen| (player, seen));
        let threads: Vec<_> = players.into_iter().map(|p| thread::spawn(watch(p))).collect();
        let mut players = Vec::new();
        for (n, thread) in threads.into_iter().enumerate() {
            let (player, (bytes, open)) = thread.join().ok().context("a player panicked")??;
            ensure!(open, "player {n} was cut off");
            ensure!(bytes > 50_000, "player {n} got {bytes} bytes in 5 s");
            players.push(player);
        }
        drop(players);
        publisher.kill()?;
        wait::until_true("every session is gone", SOON, || Ok(proxy.sessions()?.is_empty()))?;
        wait::until_true("every socket is closed", SOON, || {
            Ok(usage::descriptors(proxy.process.id())? <= before + SPARE)
        })
    })
}

/// Descriptors that a runtime and a metrics request may have more of than before.
const SPARE: usize = 8;

#[test]
fn a_stalled_player_costs_little_and_its_neighbour_nothing() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Paced(20_000_000)))?;
        let proxy = Proxy::start(folder, &[("PROXY_STALL_TIMEOUT", "3s")])?;
        origin.register_at(proxy.system_api(), "fast")?;
        let mut healthy = Client::play(proxy.rtmp(), "show")?;
        let stalled = Client::play(proxy.rtmp(), "show")?;
        let memory = usage::memory(proxy.process.id())?;

        // Two seconds at 20 Mb/s are 5 MB: more than two sockets hold without back-pressure.
        let (bytes, open) = healthy.watch(Instant::now() + Duration::from_secs(2))?;
        assert!(open, "the healthy player was cut off");
        assert!(bytes > 4_000_000, "the healthy player got {bytes} bytes in 2 s");
        let grown = usage::memory(proxy.process.id())?.saturating_sub(memory);
        assert!(grown < 8 << 20, "a stalled player cost {grown} bytes of memory");

        wait::until_true("the stalled player's end", SOON, || Ok(proxy.ends("stalled")? >= 1))?;
        drop(stalled);
        healthy.read_bytes(1_000_000)?;
        assert_eq!(proxy.sessions()?.len(), 1, "the healthy player remains");
        Ok(())
    })
}
