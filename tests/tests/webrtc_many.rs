//! A full house of WebRTC: sessions that are signalled, connected, moved and ended in every way, and
//! nothing left of them afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::hands::by_all_hands;
use srs_proxy_tests::ice::Origin;
use srs_proxy_tests::ice_client::Client;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::whip::Role;
use srs_proxy_tests::{story, usage, wait};

const SESSIONS: usize = 2000;
/// Packets of each session from each of its two ports, there and back.
const PACKETS: u64 = 5;
/// Without an answer to a check for so long a session is over.
const CONSENT: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(30);

#[test]
fn two_thousand_sessions_come_and_move_and_leave_nothing_behind() -> Result<()> {
    // Inherited by the proxy, which has a socket for each session.
    usage::allow_descriptors(3 * u64::try_from(SESSIONS)?)?;
    story(|folder| {
        let variables = [
            ("PROXY_WEBRTC_CONSENT_TIMEOUT", "15s"),
            // Beside the sessions, the connections by which they are signalled.
            ("PROXY_MAX_SESSIONS_PER_CLIENT", "5000"),
        ];
        let proxy = Proxy::start(folder, &variables)?;
        let origin = Origin::start()?;
        origin.register_at(proxy.system_api(), "origin")?;
        let id = proxy.process.id();

        // What a first crowd costs for ever: memory that an allocator keeps, threads.
        run(&proxy, &origin, "w", SESSIONS / 10)?;
        let (descriptors, threads) = (usage::descriptors(id)?, usage::threads(id)?);
        let memory = usage::memory(id)?;

        let mut grown = Vec::new();
        for name in ["a", "b"] {
            let begin = Instant::now();
            run(&proxy, &origin, name, SESSIONS)?;
            let now = usage::memory(id)?;
            println!("{SESSIONS} sessions: {:?}, memory {memory} -> {now}", begin.elapsed());
            grown.push(now.saturating_sub(memory));
        }
        // What an allocator keeps of a crowd serves the next one.
        let [first, second] = *grown else { anyhow::bail!("two crowds") };
        ensure!(first < SLACK && second < first + SPARE_MEMORY, "memory has grown by {grown:?}");

        let left = (usage::descriptors(id)?, usage::threads(id)?);
        println!("descriptors {descriptors} -> {}, threads {threads} -> {}", left.0, left.1);
        ensure!(left.0 <= descriptors + SPARE && left.1 <= threads + SPARE, "{left:?} are left");
        Ok(())
    })
}

/// So many sessions from their offers to their ends.
fn run(proxy: &Proxy, origin: &Origin, name: &str, count: usize) -> Result<()> {
    let (before, at_origin) = (ends(proxy)?, origin.sessions());
    let places: Vec<usize> = (0..count).collect();
    let clients = by_all_hands(&places, |place| {
        // Every crowd has the same streams: their routes stay for a while.
        let (stream, ufrag) = (format!("show{place}"), format!("{name}{place:07x}"));
        let role = if place % 2 == 0 { Role::Publish } else { Role::Play };
        Client::open(proxy.http_api(), role, &stream, &ufrag)
    })?;
    // The origin is told of those that are deleted, and never of the others' end.
    let opened = origin.sessions() - at_origin;
    ensure!(opened == count, "{opened} of {count} sessions at the origin");

    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| keep(&clients, &over));
        let moved = by_all_hands(&clients, |client| {
            client.connect()?;
            client.must_echo(PACKETS)
        })
        .and_then(|_| {
            let live = proxy.sessions()?.iter().filter(|it| it.protocol == "webrtc").count();
            ensure!(live == count, "{live} of {count} sessions are live");
            by_all_hands(&clients, |client| {
                client.rebind()?;
                client.connect().context("moved")?;
                client.must_echo(PACKETS).context("moved")
            })
        });
        over.store(true, Ordering::Relaxed);
        moved
    })?;
    println!("{name}: all are connected, and moved");

    // In three ways in turn; the last is to do nothing.
    let places = places.iter().zip(&clients).collect::<Vec<_>>();
    by_all_hands(&places, |(place, client)| match *place % 3 {
        0 => {
            let status = client.session.delete()?.status();
            ensure!(status == 200, "DELETE: {status}");
            Ok(())
        }
        1 => {
            // Consent is fresh: it is not what ends the session.
            client.check()?;
            client.alert()
        }
        _ => Ok(()),
    })?;
    wait::until("every session ends", CONSENT + SOON, || {
        let live = proxy.sessions()?.iter().filter(|it| it.protocol == "webrtc").count();
        ensure!(live == 0, "{live} sessions are live");
        Ok(Some(()))
    })?;
    wait::until("the other connections end as well", SOON, || {
        Ok(proxy.sessions()?.is_empty().then_some(()))
    })?;
    let thirds = |rest: usize| u64::try_from((count + 2 - rest) / 3);
    let wanted = [thirds(0)?, thirds(1)?, thirds(2)?];
    let after = ends(proxy)?;
    let ended =
        [0, 1, 2].map(|kind| after.get(kind).zip(before.get(kind)).map_or(0, |(a, b)| a - b));
    ensure!(ended == wanted, "deleted, client_closed, no_consent: {ended:?}, not {wanted:?}");
    let all = proxy.metric("srs_proxy_session_ends_total", &[("protocol", "webrtc")])?;
    let known: u64 = after.iter().sum();
    ensure!(all == known, "{all} sessions have ended, {known} of them as they should");
    let live = proxy.metric("srs_proxy_sessions", &[("protocol", "webrtc")])?;
    ensure!(live == 0, "the metrics have {live} live sessions");
    Ok(())
}

fn ends(proxy: &Proxy) -> Result<[u64; 3]> {
    let ends = |reason| {
        let labels = [("protocol", "webrtc"), ("reason", reason)];
        proxy.metric("srs_proxy_session_ends_total", &labels)
    };
    Ok([ends("deleted")?, ends("client_closed")?, ends("no_consent")?])
}

/// Checks that keep consent fresh.
fn keep(clients: &[Client], over: &AtomicBool) {
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        if Instant::now() < next {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        next = Instant::now() + Duration::from_secs(3);
        for some in clients.chunks(20) {
            // One that is lost is followed by another.
            for client in some {
                drop(client.check());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Descriptors and threads that a runtime and a metrics request may have more of than before.
const SPARE: usize = 8;
/// What an allocator may keep of ten times the sessions of the first crowd, bytes.
const SLACK: u64 = 32 << 20;
/// The same of as many sessions once more, four KiB for each: it levels off at the third crowd.
const SPARE_MEMORY: u64 = 8 << 20;
