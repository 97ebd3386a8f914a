//! What one packet costs in the programs, by test runs (`BPF_PROG_TEST_RUN`).
//!
//! A test run repeats a program on one frame, which the program changes. So the flows of a bench
//! lead to each other: what one has made of the frame is a frame of the next.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, Xdp, XdpMode};
use aya::{TestRun, TestRunOptions};
use proxy_ebpf::maps::{TO_CLIENT, TO_ORIGIN};

use super::object::{Hop, Object};
use super::packet::{Macs, PROTOCOL_UDP, Pair};
use crate::bench::Figure;
use crate::netns::Namespace;

/// Nanoseconds per packet, of each program.
pub fn programs() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for hook in [Hook::Xdp, Hook::Tc] {
        for (family, aim) in [(Family::V4, 60.0), (Family::V6, 90.0)] {
            let time = Walk::new(family, 1)?.time(hook)?;
            let name = format!("{hook}, forwarded, {family}, one session");
            figures.push(Figure::new(name, "ns", time).at_most(aim));
        }
        for family in [Family::V4, Family::V6] {
            let time = Walk::new(family, SESSIONS)?.time(hook)?;
            let name = format!("{hook}, forwarded, {family}, {SESSIONS} sessions at random");
            figures.push(Figure::new(name, "ns", time).at_most(200.0));
        }
        for (family, protocol, what) in [
            (Family::V4, PROTOCOL_UDP, "UDP of another port"),
            (Family::V6, PROTOCOL_UDP, "UDP of another port"),
            (Family::V4, PROTOCOL_TCP, "TCP"),
        ] {
            let mut walk = Walk::new(family, 1)?;
            let name = format!("{hook}, passed up, {family}, {what}");
            let time = walk.time_passed(hook, &family.stranger(protocol)?)?;
            figures.push(Figure::new(name, "ns", time).at_most(25.0));
        }
    }
    Ok(figures)
}

/// The object with flows of which each leads to another one, and the last to the first.
struct Walk {
    object: Object,
    pairs: Vec<Pair>,
    _host: Namespace,
}

impl Walk {
    fn new(family: Family, sessions: u32) -> Result<Self> {
        let mut object = Object::load(sessions)?;
        let mut flows = Vec::new();
        for session in 0..sessions {
            flows.extend([TO_ORIGIN, TO_CLIENT].map(|leg| (session, leg)));
        }
        shuffle(&mut flows);
        let pairs = flows.iter().map(|(session, leg)| family.pair(*session, *leg));
        let pairs: Vec<_> = pairs.collect::<Result<_>>()?;
        let next = pairs.iter().cycle().skip(1);
        for (((slot, leg), here), there) in flows.iter().zip(&pairs).zip(next) {
            object.add(*slot, *leg, *here, *there, HOP)?;
        }
        // A test run of a program that is at no interface begins and ends with the kernel patching
        // its own code, which takes milliseconds and leaves the caches cold.
        let (host, xdp) = (Namespace::new()?, object.xdp()?);
        host.within(|| Ok(xdp.attach("lo", XdpMode::Skb)?))?;
        Ok(Self { object, pairs, _host: host })
    }

    /// Nanoseconds per packet that is forwarded.
    fn time(&mut self, hook: Hook) -> Result<f64> {
        let (begin, mut times, mut cut_short) = (Instant::now(), Vec::new(), 0);
        let starts = self.pairs.clone();
        // Each run goes as far as a packet can, and the next one begins behind it.
        for start in starts.iter().cycle().step_by(usize::from(LIFE) % starts.len().max(1) + 1) {
            let frame = start.rtp(Macs::default(), SIZE, LIFE)?;
            match self.run(hook, &frame, LIFE.into())? {
                (verdict, time) if verdict == hook.redirects() => times.push(time),
                // One checksum in 65,536 looks like one that was left to a network card.
                _ => cut_short += 1,
            }
            if times.len() + cut_short >= RUNS || begin.elapsed() > PATIENCE {
                break;
            }
        }
        ensure!(cut_short < times.len(), "{cut_short} runs were cut short, {} not", times.len());
        median(times).context("no test run")
    }

    /// Nanoseconds per packet that is not.
    fn time_passed(&mut self, hook: Hook, frame: &[u8]) -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..RUNS_PASSED {
            let (verdict, time) = self.run(hook, frame, REPEAT)?;
            ensure!(verdict == hook.passes(), "{hook} said {verdict}");
            times.push(time);
        }
        median(times).context("no test run")
    }

    /// Runs a program on this frame again and again: what it said last, and the nanoseconds of each.
    fn run(&mut self, hook: Hook, frame: &[u8], repeat: u32) -> Result<(u32, f64)> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let ran = match hook {
            Hook::Xdp => <Xdp as TestRun>::test_run(self.object.xdp()?, options),
            Hook::Tc => <SchedClassifier as TestRun>::test_run(self.object.tc()?, options),
        }?;
        Ok((ran.return_value, ran.duration.as_secs_f64() * 1e9))
    }
}

#[derive(Clone, Copy)]
enum Hook {
    Xdp,
    Tc,
}

impl Hook {
    /// `XDP_REDIRECT`, and `TC_ACT_REDIRECT`.
    const fn redirects(self) -> u32 {
        match self {
            Self::Xdp => 4,
            Self::Tc => 7,
        }
    }

    /// `XDP_PASS`, and `TC_ACT_UNSPEC`, which is -1.
    const fn passes(self) -> u32 {
        match self {
            Self::Xdp => 2,
            Self::Tc => u32::MAX,
        }
    }
}

impl std::fmt::Display for Hook {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
            Self::Xdp => "XDP",
            Self::Tc => "TC",
        })
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// Between whom datagrams of a session come to the proxy: clients of many addresses to one
    /// port, and one origin to a port of each session.
    fn pair(self, session: u32, leg: u32) -> Result<Pair> {
        let client = SocketAddr::new(self.address(1 << 16 | session), 50_000);
        let origin = SocketAddr::new(self.address(1), 8000);
        Ok(if leg == TO_ORIGIN {
            Pair { from: client, to: SocketAddr::new(self.address(2), 8000) }
        } else {
            let port = 20_000 + u16::try_from(session)?;
            Pair { from: origin, to: SocketAddr::new(self.address(3), port) }
        })
    }

    /// A frame with which no flow has to do.
    fn stranger(self, protocol: u8) -> Result<Vec<u8>> {
        let pair = Pair {
            from: SocketAddr::new(self.address(1), 40_000),
            to: SocketAddr::new(self.address(2), 53),
        };
        if protocol == PROTOCOL_UDP {
            return pair.rtp(Macs::default(), SIZE, LIFE);
        }
        pair.frame(Macs::default(), protocol, LIFE, &[0; SIZE as usize])
    }

    fn address(self, number: u32) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(10 << 24 | number).into(),
            Self::V6 => Ipv6Addr::from_bits(0xfd << 120 | u128::from(number)).into(),
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Fisher and Yates, with the numbers of a linear congruential generator (Knuth's MMIX).
fn shuffle<T>(all: &mut [T]) {
    let mut state: u64 = 1;
    for end in (1..all.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = (state >> 33) % (end as u64 + 1);
        all.swap(end, usize::try_from(place).unwrap_or_default());
    }
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// Sessions that do not fit into the caches of a core.
const SESSIONS: u32 = 20_000;
/// Bytes of a packet's payload.
const SIZE: u16 = 1100;
/// How often a packet can be forwarded.
const LIFE: u8 = 250;
const RUNS: usize = 400;
/// How long a figure may take.
const PATIENCE: Duration = Duration::from_millis(600);
const RUNS_PASSED: usize = 5;
const REPEAT: u32 = 200_000;
const PROTOCOL_TCP: u8 = 6;
/// A test run comes from the loopback device, and goes nowhere.
const HOP: Hop =
    Hop { from: 1, interface: 1, macs: Macs { from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2] } };
