//! What a hop costs a frame that passes through interfaces: live frames of test runs
//! (`BPF_F_TEST_XDP_LIVE_FRAMES`) on one core.
//!
//! ```text
//! test run ─▶ in0 ═ in1 ─▶ the hop ─▶ out0 ═ out1 ─▶ dropped
//! ```
//!
//! Without a hop the frame is dropped at `in1`: what a hop takes beyond that is its own program or
//! stack, the redirect and the second pair of interfaces.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aya::programs::{TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, TestRun, TestRunAttrs, TestRunOptions};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use proxy_ebpf::maps::TO_ORIGIN;
use serde_json::Value;

use super::object::{Hop, Object};
use super::packet::{Macs, Pair};
use super::script::{self, Script};
use crate::bench::Figure;
use crate::netns::Namespace;

/// Millions of frames a second through each hop, and what it costs a frame.
pub fn frames() -> Result<Vec<Figure>> {
    // The frames stay on the core that sends them.
    let (all, mut one) = (nix::sched::sched_getaffinity(Pid::from_raw(0))?, CpuSet::new());
    one.set(1).or_else(|_| one.set(0))?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    let figures = figures();
    sched_setaffinity(Pid::from_raw(0), &all)?;
    figures
}

fn figures() -> Result<Vec<Figure>> {
    let without = Chain::new(V4)?.send(Middle::Nothing)?;
    let mut figures = vec![Figure::new("no hop", "Mpps", 1e3 / without)];
    for (name, addresses, middle, aim) in [
        ("a redirect, nothing changed", V4, Middle::Redirect, None),
        ("srs-proxy XDP, IPv4", V4, Middle::Xdp, Some(150.0)),
        ("srs-proxy XDP, IPv6", V6, Middle::Xdp, Some(150.0)),
        ("srs-proxy TC, IPv4", V4, Middle::Tc, None),
        ("srs-proxy TC, IPv6", V6, Middle::Tc, None),
        ("the kernel's IP forwarding, IPv4", V4, Middle::Kernel, None),
        ("the kernel's IP forwarding, IPv6", V6, Middle::Kernel, None),
    ] {
        let with = Chain::new(addresses)?.send(middle).context(name)?;
        let marginal = Figure::new(format!("{name}: the hop alone"), "ns", with - without);
        figures.push(Figure::new(name, "Mpps", 1e3 / with));
        figures.push(match aim {
            Some(aim) => marginal.at_most(aim),
            None => marginal,
        });
    }
    Ok(figures)
}

/// What stands between both pairs of interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Middle {
    /// Frames end before.
    Nothing,
    /// A program that does no more than send them on.
    Redirect,
    /// Ours at the XDP hook of the driver.
    Xdp,
    /// Ours at the TC hook.
    Tc,
    /// The routes of the system.
    Kernel,
}

/// Two pairs of interfaces on a host of their own.
struct Chain {
    host: Namespace,
    addresses: Addresses,
}

/// Who speaks through a chain: before the hop, and behind it.
#[derive(Clone, Copy)]
struct Addresses {
    here: [&'static str; 2],
    there: [&'static str; 2],
    route: &'static str,
    forwarding: &'static str,
}

impl Chain {
    fn new(addresses: Addresses) -> Result<Self> {
        let host = Namespace::new()?;
        for pair in ["in", "out"] {
            host.ip(&format!("link add {pair}0 type veth peer name {pair}1"))?;
            for end in [0, 1] {
                host.ip(&format!("link set {pair}{end} up"))?;
                // Without NAPI a veth takes no redirected frame.
                host.run("ethtool", &format!("-K {pair}{end} gro on"))?;
            }
        }
        Ok(Self { host, addresses })
    }

    /// Sends frames; says how many nanoseconds each took that came to the end.
    fn send(&self, middle: Middle) -> Result<f64> {
        let Addresses { here, there, route, forwarding } = self.addresses;
        let [here, there] = [pair(here)?, pair(there)?];
        let macs = Macs { from: self.mac("in0")?, to: self.mac("in1")? };
        let onward = Macs { from: self.mac("out0")?, to: self.mac("out1")? };
        let hop = Hop { from: self.index("in1")?, interface: self.index("out0")?, macs: onward };

        let end = if middle == Middle::Nothing { "in1" } else { "out1" };
        let _end = self.attach(end, &Script::Drop)?;
        let mut destination = here;
        let object = || {
            let mut object = Object::load(1)?;
            self.host.within(|| object.add(0, TO_ORIGIN, here, there, hop))?;
            anyhow::Ok(object)
        };
        // Programs stay where they are for as long as these.
        let (mut ours, _redirect);
        match middle {
            Middle::Nothing => {}
            Middle::Redirect => {
                _redirect = self.attach("in1", &Script::Redirect(hop.interface))?;
            }
            Middle::Xdp => {
                ours = object()?;
                let xdp = ours.xdp()?;
                self.host.within(|| Ok(xdp.attach("in1", XdpMode::Driver)?))?;
            }
            Middle::Tc => {
                ours = object()?;
                let tc = ours.tc()?;
                self.host.within(|| Ok(tc.attach("in1", TcAttachType::Ingress)?))?;
            }
            Middle::Kernel => {
                destination = Pair { from: here.from, to: there.to };
                self.host.set(forwarding, "1")?;
                self.host.set("ipv4/conf/in1/rp_filter", "0")?;
                let gateway = there.to.ip();
                self.host.ip(&format!("route add {route} dev out0"))?;
                let mac = onward.to.map(|byte| format!("{byte:02x}")).join(":");
                self.host
                    .ip(&format!("neigh add {gateway} lladdr {mac} dev out0 nud permanent"))?;
            }
        }

        let frame = destination.rtp(macs, SIZE, 64)?;
        // The headers, in whole words.
        let front =
            frame.get(..if here.to.is_ipv4() { 44 } else { 64 }).context("a short frame")?;
        let mut source = Script::RedirectAs(self.index("in0")?, front).load()?;
        let source = script::program(&mut source)?;
        self.host.within(|| {
            run(source, &frame, WARM_UP)?;
            let (before, begin) = (self.received(end)?, Instant::now());
            run(source, &frame, FRAMES)?;
            let took = begin.elapsed();
            let arrived = self.received(end)? - before;
            ensure!(arrived > u64::from(FRAMES) / 2, "{arrived} of {FRAMES} frames arrived");
            #[expect(clippy::cast_precision_loss, reason = "some millions")]
            Ok(took.as_secs_f64() * 1e9 / arrived as f64)
        })
    }

    fn attach(&self, interface: &str, script: &Script<'_>) -> Result<Ebpf> {
        let mut loaded = script.load()?;
        let program = script::program(&mut loaded)?;
        self.host.within(|| Ok(program.attach(interface, XdpMode::Driver)?))?;
        Ok(loaded)
    }

    fn index(&self, interface: &str) -> Result<u32> {
        self.host.within(|| Ok(nix::net::if_::if_nametoindex(interface)?))
    }

    fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let link = self.link(interface)?;
        let text = link.get("address").and_then(Value::as_str).context("no address")?;
        let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
        let bytes = bytes.collect::<Result<Vec<_>, _>>()?;
        bytes.try_into().ok().with_context(|| format!("{text} is no MAC"))
    }

    /// Frames that have come to an interface so far.
    fn received(&self, interface: &str) -> Result<u64> {
        let link = self.link(interface)?;
        link.pointer("/stats64/rx/packets").and_then(Value::as_u64).context("no count")
    }

    fn link(&self, interface: &str) -> Result<Value> {
        let said = self.host.run("ip", &format!("-j -s link show dev {interface}"))?;
        let links: Value = serde_json::from_str(&said)?;
        links.get(0).cloned().with_context(|| format!("no {interface} in {said}"))
    }
}

/// Sends this frame so many times.
fn run(source: &Xdp, frame: &[u8], repeat: u32) -> Result<()> {
    let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
    source.test_run(TestRunOptions {
        data_in: Some(frame),
        repeat,
        attrs,
        ..TestRunOptions::default()
    })?;
    Ok(())
}

fn pair([from, to]: [&str; 2]) -> Result<Pair> {
    Ok(Pair { from: from.parse::<SocketAddr>()?, to: to.parse::<SocketAddr>()? })
}

const V4: Addresses = Addresses {
    here: ["10.82.1.2:50000", "10.82.1.1:8000"],
    there: ["10.82.2.1:20000", "10.82.2.2:8000"],
    route: "10.82.2.0/24",
    forwarding: "ipv4/conf/all/forwarding",
};
const V6: Addresses = Addresses {
    here: ["[fd82:1::2]:50000", "[fd82:1::1]:8000"],
    there: ["[fd82:2::1]:20000", "[fd82:2::2]:8000"],
    route: "fd82:2::/64",
    forwarding: "ipv6/conf/all/forwarding",
};
/// Bytes of a packet's payload.
const SIZE: u16 = 1100;
/// Frames that are sent at once: what NAPI takes at once.
const BATCH: u32 = 64;
const FRAMES: u32 = 2_000_000;
const WARM_UP: u32 = 50_000;
