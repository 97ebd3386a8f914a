//! What is at the hooks of an interface, seen from outside, and what an operator does there.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::xdp::DevMapHash;
use aya::maps::{Map, MapData};
use aya::programs::{SchedClassifier, TcAttachType};
use proxy_ebpf::contract::TC_UDP;
use srs_proxy_tests::wait;

use super::namespace::run;

/// The programs of the tcx ingress hook, in their order.
pub(crate) fn tcx(interface: &str) -> Result<Vec<String>> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
    let names = programs.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned());
    Ok(names.collect())
}

/// What of ours is at an interface, in the words of the settings.
pub(crate) fn attached(interface: &str) -> Result<Option<&'static str>> {
    let link = run(&format!("ip -d link show dev {interface}"))?;
    let xdp = [("xdpgeneric", "xdp-generic"), ("prog/xdp", "xdp")];
    let xdp = xdp.iter().find(|(shown, _)| link.contains(shown)).map(|(_, word)| *word);
    let tc = tcx(interface)?;
    ensure!(xdp.is_none() || tc.is_empty(), "{interface} has both: {link} {tc:?}");
    Ok(xdp.or((!tc.is_empty()).then_some("tc")))
}

/// Waits until nothing of ours is at an interface: the kernel takes its time where a file was all
/// that held a link.
pub(crate) fn detached(interface: &str) -> Result<()> {
    let what = format!("nothing at {interface}");
    wait::until_true(&what, Duration::from_secs(2), || Ok(attached(interface)?.is_none()))
}

/// The kernel's number of the program at an interface.
pub(crate) fn program_id(interface: &str) -> Result<u32> {
    let (_, tc) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
    if let Some(program) = tc.first() {
        return Ok(program.id());
    }
    let link = run(&format!("ip -d link show dev {interface}"))?;
    let (_, xdp) = link.split_once("prog/xdp id ").context("there is no program")?;
    Ok(xdp.split(' ').next().unwrap_or_default().parse()?)
}

/// Detaches the one link of the program at an interface, as an operator can.
pub(crate) fn detach_link(interface: &str) -> Result<()> {
    let program = program_id(interface)?;
    let links: serde_json::Value = serde_json::from_str(&run("bpftool -j link show")?)?;
    let link = links.as_array().and_then(|all| all.iter().find(|one| one["prog_id"] == program));
    let link = link.with_context(|| format!("no link of {program} in {links}"))?;
    run(&format!("bpftool link detach id {}", link["id"])).map(drop)
}

/// How many filters of ours the ingress has.
pub(crate) fn filters(interface: &str) -> Result<usize> {
    let all = run(&format!("tc filter show dev {interface} ingress"))?;
    Ok(all.lines().filter(|line| line.contains(TC_UDP)).count())
}

/// Somebody else's filter, which does nothing.
pub(crate) fn foreign_filter(place: &str) -> Result<()> {
    let mut tc = Command::new("tc");
    tc.args(["filter", "add"]).args(place.split(' ')).args(["bpf", "da", "bytecode", "1,6 0 0 0"]);
    ensure!(tc.status()?.success(), "{tc:?}");
    Ok(())
}

/// The interfaces by which frames can leave.
pub(crate) fn devices(pin: &Path) -> Result<Vec<u32>> {
    let map = DevMapHash::try_from(Map::DevMapHash(MapData::from_pin(pin)?))?;
    Ok(map.keys().collect::<Result<_, _>>()?)
}

pub(crate) fn has_clsact(interface: &str) -> Result<bool> {
    Ok(run(&format!("tc qdisc show dev {interface}"))?.contains("clsact"))
}

/// Switches generic receive offload, without which a veth takes nothing that XDP sends to it.
pub(crate) fn gro(interface: &str, on: bool) -> Result<()> {
    let word = if on { "on" } else { "off" };
    run(&format!("ethtool -K {interface} gro {word}")).map(drop)
}
