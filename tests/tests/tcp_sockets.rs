//! What the options of sockets bound, by each engine: bytes held for a player that stops reading, and
//! the rate of a session.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;
use serde_json::Value;
use srs_proxy_tests::netns::Namespace;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::{skip, story, wait};

const SOON: Duration = Duration::from_secs(10);

/// `PROXY_STALL_TIMEOUT` of a stalled player.
const STALL: Duration = Duration::from_secs(4);

/// `PROXY_TCP_BUFFER` where nothing is said.
const HELD: u64 = 2 << 20;

/// `PROXY_TCP_MAX_RATE` as bytes per second.
const RATE: f64 = 16e6 / 8.0;

#[test]
fn a_player_that_stops_reading_costs_so_much_memory_and_ends_as_stalled_by_uring() -> Result<()> {
    a_stalled_player("uring", "uring-splice")
}

#[test]
fn a_player_that_stops_reading_costs_so_much_memory_and_ends_as_stalled_by_splice() -> Result<()> {
    a_stalled_player("splice", "splice")
}

#[test]
fn a_player_that_stops_reading_costs_so_much_memory_and_ends_as_stalled_by_the_relay() -> Result<()>
{
    a_stalled_player("relay", "relay")
}

#[test]
fn a_session_keeps_to_its_rate_both_ways_by_uring() -> Result<()> {
    a_rate("uring", "uring-splice")
}

#[test]
fn a_session_keeps_to_its_rate_both_ways_by_splice() -> Result<()> {
    a_rate("splice", "splice")
}

#[test]
fn a_session_keeps_to_its_rate_both_ways_by_the_relay() -> Result<()> {
    a_rate("relay", "relay")
}

fn a_stalled_player(engine: &str, plane: &str) -> Result<()> {
    with_host(|folder, host| {
        let stall = format!("{}s", STALL.as_secs());
        let proxy = start(host, folder, &[("PROXY_STALL_TIMEOUT", &stall)], engine)?;
        host.within(|| {
            // The first stream goes to the only origin, the next one to the one without a stream.
            let bulk = Origin::start(Script::Serve(Feed::Bulk))?;
            bulk.register_at(proxy.system_api(), "bulk")?;
            let mut player = Client::play(proxy.rtmp(), "stalled")?;
            // A session is handed over when its first bytes are taken.
            player.read_bytes(1_000_000)?;
            if !is_carried_by(&proxy, "stalled", plane)? {
                return Ok(());
            }
            let paced = Origin::start(Script::Serve(Feed::Paced(2_000_000)))?;
            paced.register_at(proxy.system_api(), "paced")?;
            let mut other = Client::play(proxy.rtmp(), "other")?;

            let others = thread::spawn(move || other.watch(Instant::now() + STALL * 2));

            let (held, ended_after) = held_until_it_stalls(host, &proxy, bulk.address(), &player)?;
            println!("{plane}: {held} bytes held, ended after {ended_after:?}");
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
    host: &Namespace,
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
        let left_origin = count(host, origin, "bytes_acked")?;
        let reached_player = count(host, player, "bytes_received")?;
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

/// A counter of the one connection from this address.
fn count(host: &Namespace, from: SocketAddr, counter: &str) -> Result<u64> {
    let said = host.run("ss", &format!("-tinOH state established src {from}"))?;
    let fields: HashMap<_, _> =
        said.split_whitespace().filter_map(|field| field.split_once(':')).collect();
    let count = fields.get(counter).with_context(|| format!("no {counter} in {said:?}"))?;
    Ok(count.parse()?)
}

fn a_rate(engine: &str, plane: &str) -> Result<()> {
    with_host(|folder, host| {
        let proxy = start(host, folder, &[("PROXY_TCP_MAX_RATE", "16mbit")], engine)?;
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
                if !is_carried_by(&proxy, stream, plane)? {
                    return Ok(());
                }
            }
            let rates = read_for(Duration::from_secs(4))?;
            println!("{plane}: {rates:?} of the rate, to the player and from the publisher");
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

fn start(
    host: &Namespace,
    folder: &Path,
    variables: &[(&str, &str)],
    engine: &str,
) -> Result<Proxy> {
    let variables = [variables, &[("PROXY_TCP_ENGINE", engine)]].concat();
    Proxy::start_in(host, Ipv4Addr::LOCALHOST.into(), folder, &variables)
}

/// Waits until a session is carried by this engine; false, and skipped, where the system has none.
fn is_carried_by(proxy: &Proxy, stream: &str, plane: &str) -> Result<bool> {
    let planes = proxy.get("/api/v1/planes")?;
    let streams = planes.pointer("/planes/streams").context("no streams among the planes")?;
    let engine = streams.get("engine").and_then(Value::as_str).context("no engine of streams")?;
    if engine != plane {
        skip(&format!("no {plane} here: {streams}"))?;
        return Ok(false);
    }
    wait::until_true(&format!("{stream} is carried by {plane}"), SOON, || {
        let sessions = proxy.media_of(stream)?;
        let carried = sessions.iter().any(|session| session.plane == plane);
        ensure!(carried, "{sessions:?}");
        Ok(true)
    })?;
    Ok(true)
}
