//! What the options of sockets bound, by each engine: bytes held for a player that stops reading, and
//! the rate of a session.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;
use srs_proxy_tests::netns::Namespace;
use srs_proxy_tests::proxy::{Proxy, StreamEngine};
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::ss::{self, Bytes};
use srs_proxy_tests::{skip, story, wait};

/// `PROXY_STALL_TIMEOUT` of a stalled player.
const STALL: Duration = Duration::from_secs(4);

/// `PROXY_TCP_BUFFER` where nothing is said.
const HELD: u64 = 2 << 20;

/// `PROXY_TCP_MAX_RATE` as bytes per second.
const RATE: f64 = 16e6 / 8.0;

/// Makes a test of each story for each `PROXY_TCP_ENGINE`, as `uring::story`.
macro_rules! by_every_engine {
    ($($story:ident),+ $(,)?) => {
        by_every_engine!(@ uring "uring-splice" $($story)+);
        by_every_engine!(@ splice "splice" $($story)+);
        by_every_engine!(@ relay "relay" $($story)+);
    };
    (@ $setting:ident $engine:literal $($story:ident)+) => {
        mod $setting {
            $(#[test]
            fn $story() -> anyhow::Result<()> {
                super::$story(stringify!($setting), $engine)
            })+
        }
    };
}

by_every_engine! {
    a_player_that_stops_reading_costs_so_much_memory_and_ends_as_stalled,
    a_session_keeps_to_its_rate_both_ways,
}

fn a_player_that_stops_reading_costs_so_much_memory_and_ends_as_stalled(
    setting: &str,
    engine: &str,
) -> Result<()> {
    with_host(|folder, host| {
        let stall = format!("{}s", STALL.as_secs());
        let variables = [("PROXY_STALL_TIMEOUT", &*stall)];
        let Some(proxy) = start(host, folder, variables, setting, engine)? else { return Ok(()) };
        host.within(|| {
            // The first stream goes to the only origin, the next one to the one without a stream.
            let bulk = Origin::start(Script::Serve(Feed::Bulk))?;
            bulk.register_at(proxy.system_api(), "bulk")?;
            let mut player = Client::play(proxy.rtmp(), "stalled")?;
            // A session is handed over when its first bytes are taken.
            player.read_bytes(1_000_000)?;
            proxy.must_carry("stalled", engine)?;
            let paced = Origin::start(Script::Serve(Feed::Paced(2_000_000)))?;
            paced.register_at(proxy.system_api(), "paced")?;
            let mut other = Client::play(proxy.rtmp(), "other")?;

            let others = thread::spawn(move || other.watch(Instant::now() + STALL * 2));

            let (held, ended_after) = held_until_it_stalls(&proxy, bulk.address(), &player)?;
            println!("{engine}: {held} bytes held, ended after {ended_after:?}");
            ensure!(held <= HELD, "{held} bytes were held");
            ensure!(held > HELD / 8, "{held} bytes are none that were measured");
            ensure!(ended_after >= STALL.mul_f64(0.9), "it ended after {ended_after:?}");
            ensure!(ended_after <= STALL.mul_f64(1.6), "it ended after {ended_after:?}");
            let (bytes, goes_on) =
                others.join().ok().context("the other player has panicked")??;
            ensure!(goes_on && bytes > 1_000_000, "the other player has got {bytes} bytes");
            Ok(())
        })
    })
}

/// The most that the proxy held for a player while nothing moved, and the time from there until the
/// session ended.
fn held_until_it_stalls(
    proxy: &Proxy,
    origin: SocketAddr,
    player: &Client,
) -> Result<(u64, Duration)> {
    let player = player.socket().local_addr()?;
    let (mut most, mut since, mut last) = (0, Instant::now(), (0, 0));
    wait::until_true("the session ends as stalled", STALL * 3, || {
        if proxy.ends("stalled")? > 0 {
            return Ok(true);
        }
        let left_origin = bytes_of(origin)?.acknowledged;
        let reached_player = bytes_of(player)?.received;
        // While bytes move, the two are not of the same moment.
        if (left_origin, reached_player) == last {
            most = most.max(left_origin.saturating_sub(reached_player));
        } else {
            since = Instant::now();
        }
        last = (left_origin, reached_player);
        Ok(false)
    })?;
    Ok((most, since.elapsed()))
}

/// What the one connection from this address has counted.
fn bytes_of(address: SocketAddr) -> Result<Bytes> {
    let connections = ss::connections(&format!("src {address}"))?;
    ensure!(connections.len() == 1, "{connections:?}");
    connections.into_values().next().context("no connection")
}

fn a_session_keeps_to_its_rate_both_ways(setting: &str, engine: &str) -> Result<()> {
    with_host(|folder, host| {
        let variables = [("PROXY_TCP_MAX_RATE", "16mbit")];
        let Some(proxy) = start(host, folder, variables, setting, engine)? else { return Ok(()) };
        host.within(|| {
            let origin = Origin::start(Script::Serve(Feed::Bulk))?;
            origin.register_at(proxy.system_api(), "origin")?;
            let mut player = Client::play(proxy.rtmp(), "down")?;
            let mut publisher = Client::publish(proxy.rtmp(), "up")?;
            let publishing = thread::spawn(move || {
                // Until the connection is closed by the end of the proxy.
                while publisher.send_video(64 * 1024).is_ok() {}
            });
            let mut got = 0;
            let mut read_for = |time| {
                let start = Instant::now();
                let before = (got, origin.received());
                while start.elapsed() < time {
                    let frame = player.next_tag()?.data;
                    ensure!(
                        frame.len() == 64 * 1024 && frame.iter().all(|byte| *byte == 0x17),
                        "{} bytes that are no frame of the origin's",
                        frame.len()
                    );
                    got += 64 * 1024;
                }
                let seconds = start.elapsed().as_secs_f64();
                let rate = |bytes| anyhow::Ok(f64::from(u32::try_from(bytes)?) / seconds / RATE);
                Ok([rate(got - before.0)?, rate(origin.received() - before.1)?])
            };
            // What a connection may send at once at its beginning.
            read_for(Duration::from_secs(1))?;
            for stream in ["down", "up"] {
                proxy.must_carry(stream, engine)?;
            }
            let rates = read_for(Duration::from_secs(4))?;
            println!("{engine}: {rates:?} of the rate, to the player and from the publisher");
            drop(proxy);
            publishing.join().ok().context("the publisher has panicked")?;
            for rate in rates {
                ensure!((0.7..1.15).contains(&rate), "{rates:?} of the rate");
            }
            Ok(())
        })
    })
}

/// A host of its own whose TCP is as the kernel makes it, whatever is set on this one.
fn with_host(act: impl FnOnce(&Path, &Namespace) -> Result<()>) -> Result<()> {
    story(|folder| {
        if !Uid::effective().is_root() {
            return skip("network namespaces need root");
        }
        let host = Namespace::new()?;
        host.set("ipv4/tcp_rmem", "4096 131072 6291456")?;
        host.set("ipv4/tcp_wmem", "4096 16384 4194304")?;
        act(folder, &host)
    })
}

/// A proxy of this engine; none, and a skipped test, where the system has no such engine.
fn start(
    host: &Namespace,
    folder: &Path,
    variables: [(&str, &str); 1],
    setting: &str,
    engine: &str,
) -> Result<Option<Proxy>> {
    let variables = [variables, [("PROXY_TCP_ENGINE", setting)]].concat();
    let proxy = Proxy::start_in(host, Ipv4Addr::LOCALHOST.into(), folder, &variables)?;
    let StreamEngine { word, reason, .. } = proxy.stream_engine()?;
    if word == engine {
        return Ok(Some(proxy));
    }
    skip(&format!("no {engine} here: {reason}")).map(|()| None)
}
