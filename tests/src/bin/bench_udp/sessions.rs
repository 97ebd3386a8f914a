//! New sessions with the kernel's packet path: how soon it forwards, how many come to be in a second,
//! and the room they have in its maps.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use srs_proxy_tests::bench::udp::{Load, Opener, Way};
use srs_proxy_tests::bench::{Figure, Relay};
use srs_proxy_tests::netns::{Arms, Checksums, Network};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::usage;

use crate::origin::{Origin, ask};
use crate::{VIDEO, hosts};

/// The figures of one round, with TC: between network namespaces all is the same with XDP, but for
/// the hook.
pub(crate) fn figures(folder: &Path) -> Result<Vec<Figure>> {
    usage::allow_descriptors(20_000)?;
    let network = Network::start(Arms::Two, Checksums::Whole)?;
    let network = network.context("without network namespaces there is no such figure")?;
    let origin = Origin::start_in(network)?;
    let proxy = hosts::start(folder, &origin, "tc")?;
    let relay = Relay { signalling: Some(proxy.http_api()), ..Relay::none(proxy.webrtc()) };
    let load = Load { way: Way::ToOrigin, pace: VIDEO, has_echo: false };
    let home = origin.network()?.client.clone();
    let opener = Opener::new(load, &origin.media, Some(home), ask);

    let mut figures = Vec::new();
    // All sockets stay, as long as there are others.
    let mut trials = Vec::new();
    for (first, at_once, name) in [
        (0, false, "first packet behind the check's answer to first forwarded one"),
        (TRIALS, true, "first check to first forwarded packet"),
    ] {
        let mut delays = Vec::new();
        for number in first..first + TRIALS {
            let (delay, socket) = opener.offload_delay(&relay, number, at_once)?;
            delays.push(delay);
            trials.push(socket);
        }
        delays.sort_unstable();
        let delay = |of_100: usize| {
            let delay = delays.get(delays.len() * of_100 / 100).context("no session")?;
            Ok::<_, anyhow::Error>(1e3 * delay.as_secs_f64())
        };
        figures.push(Figure::new(format!("{name}, p50"), "ms", delay(50)?));
        let p99 = Figure::new(format!("{name}, p99"), "ms", delay(99)?);
        // Before its check is answered no client has to send, and no flow to be there.
        figures.push(if at_once { p99 } else { p99.at_most(1.0) });
    }

    let (begin, before) = (Instant::now(), usage::cpu(proxy.process.id())?);
    let _open = opener.set_up(&relay, 2 * TRIALS, SESSIONS)?;
    let took = begin.elapsed();
    let cost = usage::cpu(proxy.process.id())?.saturating_sub(before);

    let asked = opener.ask_for(&relay, 2 * TRIALS + SESSIONS, SESSIONS)?;
    let before = flows(&proxy)?;
    let is_done = || Ok(flows(&proxy)? >= before + SESSIONS);
    let installed = opener.check_all(&asked, is_done);
    let installed =
        installed.with_context(|| format!("{before} flows, now {:?}", flows(&proxy)))?;
    let each = |seconds: f64| seconds / f64::from(u32::try_from(SESSIONS).unwrap_or(u32::MAX));
    figures.extend([
        Figure::new(
            "set up: offer, answer and check",
            "sessions/s",
            1.0 / each(took.as_secs_f64()),
        )
        .at_least(5000.0),
        Figure::new(
            "the same, CPU time of the proxy",
            "µs/session",
            1e6 * each(cost.as_secs_f64()),
        ),
        Figure::new(
            "checked and installed, the offers made before",
            "sessions/s",
            1.0 / each(installed.as_secs_f64()),
        )
        .at_least(5000.0),
        Figure::new("maps, without what is pinned", "bytes/session", maps(&proxy)?).at_most(1024.0),
    ]);
    Ok(figures)
}

/// Flows that are in the kernel.
fn flows(proxy: &Proxy) -> Result<usize> {
    let view = proxy.get("/api/v1/planes")?;
    let flows = view.pointer("/planes/datagrams/flows").and_then(Value::as_u64);
    Ok(usize::try_from(flows.with_context(|| format!("no flows in {view}"))?)?)
}

/// Bytes of the kernel's memory that the maps of the proxy have for each session, as it tells of
/// their descriptors (`memlock`).
fn maps(proxy: &Proxy) -> Result<f64> {
    let view = proxy.get("/api/v1/planes")?;
    let capacity = view.pointer("/planes/datagrams/capacity").and_then(Value::as_f64);
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", proxy.process.id()))? {
        let text = fs::read_to_string(entry?.path())?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse::<f64>().ok())
        };
        if let (Some(id), Some(bytes)) =
            (text.lines().find(|it| it.starts_with("map_id:")), field("memlock"))
        {
            sizes.insert(id.to_owned(), bytes);
        }
    }
    ensure!(!sizes.is_empty(), "the proxy has no maps");
    Ok(sizes.values().sum::<f64>() / capacity.with_context(|| format!("no capacity in {view}"))?)
}

/// Sessions whose delay is measured, twice.
const TRIALS: usize = 200;
/// Sessions that are set up, and again those that are installed.
const SESSIONS: usize = 2000;
