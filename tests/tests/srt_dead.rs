//! SRT origins that die, by silence and by a closed port, and come back: their callers move, and
//! nobody else's wait.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::srt_call::{Caller, Origin, data};
use srs_proxy_tests::{story, wait};

/// How long the proxy waits for an origin.
const ORIGIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long libsrt waits.
const CALLER_TIMEOUT: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(10);
/// Streams that are called, over three origins.
const STREAMS: u32 = 300;
/// Threads that call.
const CALLERS: usize = 8;

fn start(folder: &Path) -> Result<(Proxy, Vec<Origin>)> {
    let variables = [("PROXY_SRT_PENDING_PER_CLIENT", "1000"), ("PROXY_SRT_ORIGIN_TIMEOUT", "1s")];
    let proxy = Proxy::start(folder, &variables)?;
    let start = |place: u32| -> Result<Origin> {
        let origin = Origin::start("127.0.0.1:0".parse()?, (place + 1) << 20)?;
        origin.register_at(proxy.system_api(), &format!("origin{place}"))?;
        Ok(origin)
    };
    let origins = (0..3).map(start).collect::<Result<Vec<_>>>()?;
    Ok((proxy, origins))
}

/// The place of the origin that a caller has got: origins give out ids of their own.
fn origin_of(caller: &Caller) -> usize {
    usize::try_from(caller.peer >> 20).unwrap_or_default() - 1
}

fn stream_id(stream: u32) -> String {
    format!("#!::r=live/s{stream},m=publish")
}

/// Calls these streams one after the other; how long each took, and whom it has got.
fn call(server: SocketAddr, round: u32, streams: &[u32]) -> Result<Vec<(u32, usize, Duration)>> {
    let call = |&stream: &u32| {
        let begin = Instant::now();
        let id = 1 + (round << 16) + stream;
        let caller = Caller::call(server, id, &stream_id(stream), CALLER_TIMEOUT)?;
        let (took, origin) = (begin.elapsed(), origin_of(&caller));
        caller.leave()?;
        Ok((stream, origin, took))
    };
    streams.iter().map(call).collect()
}

/// The same, a few at once.
fn call_all(
    server: SocketAddr,
    round: u32,
    streams: &[u32],
) -> Result<Vec<(u32, usize, Duration)>> {
    thread::scope(|scope| {
        let parts: Vec<_> = streams
            .chunks(streams.len().div_ceil(CALLERS).max(1))
            .map(|part| scope.spawn(move || call(server, round, part)))
            .collect();
        let mut all = Vec::new();
        for part in parts {
            all.extend(part.join().ok().context("a caller has panicked")??);
        }
        Ok(all)
    })
}

/// How long half of them took at most, 99 of 100, and all.
fn times(called: &[(u32, usize, Duration)]) -> [Duration; 3] {
    let mut times: Vec<_> = called.iter().map(|(_, _, took)| *took).collect();
    times.sort();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len() - 1)).copied();
    [50, 99, 100].map(|share| at(share).unwrap_or_default())
}

#[test]
fn a_silent_origin_delays_nobody_elses_handshake_and_loses_no_stream() -> Result<()> {
    story(|folder| {
        let (proxy, origins) = start(folder)?;
        let all: Vec<u32> = (0..STREAMS).collect();
        // Each stream stays with the origin that it gets now.
        let placed = call_all(proxy.srt(), 0, &all)?;
        let of =
            |is_dead: bool| placed.iter().filter(move |it| (it.1 == 2) == is_dead).map(|it| it.0);
        let (dead, living): (Vec<_>, Vec<_>) = (of(true).collect(), of(false).collect());
        println!("{} streams of the dead origin, {} of others", dead.len(), living.len());
        ensure!(dead.len() > 50 && living.len() > 150, "unevenly placed");
        let without = call_all(proxy.srt(), 1, &living)?;

        origins.last().context("no origin")?.be_mute(true);
        let (with, moved) = thread::scope(|scope| {
            // All at once, so that they wait for the dead origin while the others call.
            let waiting: Vec<_> = dead
                .iter()
                .map(|stream| scope.spawn(|| call(proxy.srt(), 2, std::slice::from_ref(stream))))
                .collect();
            let with = call_all(proxy.srt(), 3, &living);
            let mut moved = Vec::new();
            for one in waiting {
                moved.extend(one.join().ok().context("a caller has panicked")??);
            }
            Ok::<_, anyhow::Error>((with?, moved))
        })?;
        println!("p50, p99, max without a dead origin: {:?}", times(&without));
        println!("p50, p99, max beside one: {:?}", times(&with));
        println!("p50, p99, max of its own streams: {:?}", times(&moved));
        for (stream, origin, took) in &with {
            ensure!(*took < ORIGIN_TIMEOUT, "live/s{stream} at {origin} took {took:?}");
        }
        let waited = moved.iter().filter(|(.., took)| *took >= ORIGIN_TIMEOUT).count();
        ensure!(waited > 0, "nobody has met the dead origin");
        ensure!(moved.iter().all(|(_, origin, _)| *origin != 2), "a dead origin has answered");

        // Not for ever: its back-off ends, and it is asked again.
        let before = origins.last().context("no origin")?.calls();
        origins.last().context("no origin")?.be_mute(false);
        let mut round = 3;
        wait::until_true("the origin is used again", 4 * SOON, || {
            round += 1;
            let new: Vec<u32> = (0..30).map(|it| STREAMS + round * 100 + it).collect();
            call_all(proxy.srt(), round, &new)?;
            Ok(origins.last().context("no origin")?.calls() > before)
        })?;
        wait::until_true("every session is over", SOON, || Ok(proxy.sessions()?.is_empty()))
    })
}

#[test]
fn an_origin_that_closes_its_port_ends_its_sessions_and_serves_again_when_it_is_back() -> Result<()>
{
    story(|folder| {
        let (proxy, mut origins) = start(folder)?;
        let call = |stream: u32| {
            let id = 0x7000 + stream;
            Caller::call(proxy.srt(), id, &stream_id(stream), CALLER_TIMEOUT)
        };
        let callers = (0..12).map(call).collect::<Result<Vec<_>>>()?;
        callers.iter().try_for_each(|caller| caller.must_echo(SOON))?;
        let gone = origins.pop().context("no origin")?;
        let address = gone.address();
        drop(gone);
        let lost: Vec<_> = callers.iter().filter(|caller| origin_of(caller) == 2).collect();
        ensure!(!lost.is_empty(), "the origin has no session");
        for caller in &lost {
            // What it sends is refused by the origin's host.
            caller.socket.send(&data(caller.peer, 2))?;
        }
        for caller in &lost {
            ensure!(caller.is_shut_down(ORIGIN_TIMEOUT), "socket {} was not told", caller.id);
        }
        let ends = usize::try_from(proxy.ends("origin_lost")?)?;
        ensure!(ends == lost.len(), "{ends} of {} sessions have ended", lost.len());
        for caller in callers.iter().filter(|caller| origin_of(caller) != 2) {
            caller.must_echo(SOON)?;
        }
        // A closed port is known at once: the caller does not wait for it.
        let (_, origin, took) = call_all(proxy.srt(), 9, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])?
            .into_iter()
            .max_by_key(|(.., took)| *took)
            .context("no call")?;
        println!("slowest call after a closed port: {took:?}");
        ensure!(origin != 2 && took < ORIGIN_TIMEOUT, "origin {origin} after {took:?}");

        let back = Origin::start(address, 3 << 20)?;
        back.register_at(proxy.system_api(), "origin2")?;
        let mut stream = 1000;
        wait::until_true("the origin is used again", 4 * SOON, || {
            stream += 1;
            let caller = call(stream)?;
            caller.must_echo(SOON)?;
            let is_back = origin_of(&caller) == 2;
            caller.leave()?;
            Ok(is_back)
        })
    })
}
