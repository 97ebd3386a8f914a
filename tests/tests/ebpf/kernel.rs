//! The object in the kernel, and test runs of its programs.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, TestRun, TestRunOptions};
use proxy_ebpf::contract::{TC_UDP, XDP_UDP};
use proxy_ebpf::maps::{self, COUNTERS, Counter, FLOWS_GLOBAL, Key, Tally, Way, tally_index};
use proxy_ebpf::{Arrival, Reason};
use srs_proxy_tests::skip;

use crate::frames::world::{INTERFACE, Outcome, World};

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    Xdp,
    Tc,
}

impl Hook {
    pub(crate) const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    /// Whether the kernel makes a test run of this frame: for TC it wants a whole IP header
    /// behind an IP type. In a VLAN it does not look, so these branches are met there.
    pub(crate) fn can_try(self, frame: &[u8]) -> bool {
        let least = match (self, frame.get(12..14)) {
            (Self::Tc, Some([0x08, 0x00])) => 14 + 20,
            (Self::Tc, Some([0x86, 0xdd])) => 14 + 40,
            (Self::Tc, _) => 14 + 1,
            (Self::Xdp, _) => 14,
        };
        frame.len() >= least
    }

    /// What the core has to know of `frame` at this hook. The address of the interface on which
    /// the kernel makes test runs for TC is zero.
    pub(crate) fn arrival(self, frame: &[u8], segment: u32) -> Arrival {
        match self {
            Self::Xdp => Arrival::xdp(INTERFACE),
            Self::Tc => {
                let to_us = frame.get(..6) == Some(&[0; 6]);
                Arrival { to_us, finishes_checksums: true, segment, ..Arrival::xdp(INTERFACE) }
            }
        }
    }

    /// What the program returns: `XDP_REDIRECT` and `TC_ACT_REDIRECT` for what goes on,
    /// `XDP_PASS` and `TC_ACT_UNSPEC`, which is -1, for what passes up.
    const fn verdict(self, reason: Reason) -> u32 {
        match (self, reason) {
            (Self::Xdp, Reason::Forwarded) => 4,
            (Self::Tc, Reason::Forwarded) => 7,
            (Self::Xdp, _) => 2,
            (Self::Tc, _) => u32::MAX,
        }
    }
}

/// The object, loaded.
pub(crate) struct Kernel {
    pub(crate) ebpf: Ebpf,
    flows: u32,
}

impl Kernel {
    /// Loads the object through the verifier, with maps for so many flows; `None` where these
    /// tests are to be skipped.
    pub(crate) fn load(flows: u32) -> Result<Option<Self>> {
        let Some((_, object)) = built_object()? else {
            return Ok(None);
        };
        let mut loader = EbpfLoader::new();
        loader.override_global(FLOWS_GLOBAL, &flows, true);
        loader.override_global(aya_log::LEVEL, &0_u8, true);
        for map in maps::sizes(flows, cpus()) {
            loader.map_max_entries(map.name, map.capacity);
        }
        let mut ebpf = loader.load(&object).context(NEEDS_RIGHTS)?;
        let xdp: &mut Xdp = ebpf.program_mut(XDP_UDP).context(XDP_UDP)?.try_into()?;
        xdp.load().context(NEEDS_RIGHTS)?;
        let tc: &mut SchedClassifier = ebpf.program_mut(TC_UDP).context(TC_UDP)?.try_into()?;
        tc.load().context(NEEDS_RIGHTS)?;
        Ok(Some(Self { ebpf, flows }))
    }

    /// As [`Kernel::load`], with the flows of `world`.
    pub(crate) fn with(world: &World) -> Result<Option<Self>> {
        let Some(mut kernel) = Self::load((world.ways.len() as u32).max(1024))? else {
            return Ok(None);
        };
        let ports = kernel.ebpf.map_mut(maps::PORTS.name).context("ports")?;
        let mut ports: Array<_, u64> = ports.try_into()?;
        for (word, protocols) in &world.ports {
            ports.set(*word, protocols, 0)?;
        }
        let ways = kernel.ebpf.map_mut(maps::WAYS.name).context("ways")?;
        let mut ways: HashMap<_, Key, Way> = ways.try_into()?;
        for (key, way) in &world.ways {
            ways.insert(key, way, 0)?;
        }
        kernel.admit(&[INTERFACE])?;
        Ok(Some(kernel))
    }

    /// Lists these interfaces of this thread's namespace among the devices that take frames.
    pub(crate) fn admit(&mut self, interfaces: &[u32]) -> Result<()> {
        let devices = self.ebpf.map_mut(maps::DEVICES.name).context("devices")?;
        let mut devices: DevMapHash<_> = devices.try_into()?;
        for interface in interfaces {
            devices.insert(*interface, *interface, None, 0)?;
        }
        Ok(())
    }

    /// What `hook`'s program makes of `frame`; its verdict has to be that of the one reason under
    /// which it is counted. `way` is where the frame is expected to go.
    pub(crate) fn run(
        &mut self,
        hook: Hook,
        frame: &[u8],
        segment: u32,
        way: Option<Way>,
        has_room: bool,
    ) -> Result<Outcome> {
        let before = self.counts()?;
        let tallies_before = way.map(|way| self.tally(&way)).transpose()?;
        let margin = if has_room { 0 } else { FULL };
        let input = [&vec![0; margin], frame].concat();
        let mut out = vec![0; input.len() + 64];
        let ctx = hook.context(frame, segment, margin);
        let options = TestRunOptions {
            data_in: Some(&input),
            data_out: Some(&mut out),
            ctx_in: ctx.as_deref(),
            ..TestRunOptions::default()
        };
        let ran = match hook {
            Hook::Xdp => self.program::<Xdp>(XDP_UDP)?.test_run(options),
            Hook::Tc => self.program::<SchedClassifier>(TC_UDP)?.test_run(options),
        };
        let ran = ran.with_context(|| format!("test run of {hook:?} on {frame:02x?}"))?;
        out.truncate(ran.data_size_out.try_into()?);
        out.drain(..margin);
        let after = self.counts()?;
        let counted: Vec<_> = Reason::ALL
            .into_iter()
            .zip(after.iter().zip(&before))
            .filter_map(|(reason, (after, before))| {
                let more = after - before;
                (more > 0).then_some((reason, more))
            })
            .collect();
        let [(reason, datagrams)] = counted[..] else {
            bail!("{hook:?} counted one frame as {counted:?}")
        };
        ensure!(datagrams == datagrams_of(frame, segment), "{hook:?} counted {datagrams}");
        let verdict = hook.verdict(reason);
        ensure!(ran.return_value == verdict, "{hook:?} said {}", ran.return_value);
        let tally = match (way, tallies_before) {
            (Some(way), Some(before)) => Some((way, difference(&before, &self.tally(&way)?)?)),
            _ => None,
        };
        Ok(Outcome { reason, frame: out, forwarded: tally })
    }

    fn program<'a, P>(&'a self, name: &'static str) -> Result<&'a P>
    where
        &'a P:
            TryFrom<&'a aya::programs::Program, Error: std::error::Error + Send + Sync + 'static>,
    {
        Ok(self.ebpf.program(name).context(name)?.try_into()?)
    }

    /// Packets by reason, over all CPUs.
    pub(crate) fn counts(&self) -> Result<Vec<Counter>> {
        let map = self.ebpf.map(COUNTERS.name).context(COUNTERS.name)?;
        let counters: PerCpuArray<_, Counter> = map.try_into()?;
        let sum = |index| Ok(counters.get(&index, 0)?.iter().sum());
        (0..COUNTERS.capacity).map(sum).collect()
    }

    /// The tallies of a flow, by CPU.
    fn tally(&self, way: &Way) -> Result<Vec<Tally>> {
        let map = self.ebpf.map(maps::TALLIES.name).context(maps::TALLIES.name)?;
        let tallies: Array<&MapData, Tally> = map.try_into()?;
        let index = |cpu| tally_index(self.flows, cpu, way.slot, way.leg);
        (0..cpus()).map(|cpu| Ok(tallies.get(&index(cpu), 0)?)).collect()
    }
}

impl Hook {
    /// The context of a test run, where it is not the usual one: a train of `segment` bytes each,
    /// or `margin` bytes of other data between frame and start of the memory.
    fn context(self, frame: &[u8], segment: u32, margin: usize) -> Option<Vec<u8>> {
        let put = |ctx: &mut Vec<u8>, offset: usize, value: u32| {
            ctx[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        };
        match self {
            Self::Tc if segment != 0 => {
                // struct __sk_buff: gso_segs and gso_size.
                let mut ctx = vec![0; 192];
                put(&mut ctx, 164, datagrams_of(frame, segment) as u32);
                put(&mut ctx, 176, segment);
                Some(ctx)
            }
            Self::Xdp if margin != 0 => {
                // struct xdp_md: data and data_end.
                let mut ctx = vec![0; 24];
                put(&mut ctx, 0, margin as u32);
                put(&mut ctx, 4, (margin + frame.len()) as u32);
                Some(ctx)
            }
            _ => None,
        }
    }
}

/// Datagrams in a train over IPv4, as the kernel that has merged them counts.
fn datagrams_of(frame: &[u8], segment: u32) -> u64 {
    let payload = frame.len().saturating_sub(14 + 20 + 8) as u64;
    if segment == 0 { 1 } else { payload.div_ceil(segment.into()).max(1) }
}

/// What one run has added, with the time left out. Only one CPU has run.
fn difference(before: &[Tally], after: &[Tally]) -> Result<Tally> {
    let changed: Vec<_> = before.iter().zip(after).filter(|(b, a)| b != a).collect();
    let [(before, after)] = changed[..] else { bail!("{} CPUs have counted", changed.len()) };
    ensure!(after.seen >= before.seen && after.seen != 0, "the clock went back");
    let newer = |before: u32, after: u32| if before == after { 0 } else { after };
    Ok(Tally {
        packets: after.packets - before.packets,
        bytes: after.bytes - before.bytes,
        seen: 0,
        data: newer(before.data, after.data),
        acknowledged: newer(before.acknowledged, after.acknowledged),
    })
}

pub(crate) fn cpus() -> u32 {
    aya::util::nr_cpus().map_or(1, |cpus| cpus as u32)
}

/// The object to test, and where it is; `None` where these tests are to be skipped.
pub(crate) fn built_object() -> Result<Option<(PathBuf, Vec<u8>)>> {
    if env::var_os("SRS_PROXY_SKIP_EBPF").is_some_and(|value| value == "1") {
        skip("SRS_PROXY_SKIP_EBPF=1")?;
        return Ok(None);
    }
    let path = match env::var_os(OBJECT_VARIABLE) {
        Some(path) => path.into(),
        None => target_folders()
            .map(|folder| folder.join("ebpf").join("srs-proxy.bpf.o"))
            .find(|path| path.is_file())
            .context(NEEDS_OBJECT)?,
    };
    let object = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Some((path, object)))
}

/// Where cargo's target folder can be: above `<target>/tmp`, or above `<target>/<triple>/tmp`
/// where a target is named.
fn target_folders() -> impl Iterator<Item = &'static Path> {
    Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().skip(1).take(2)
}

pub(crate) const OBJECT_VARIABLE: &str = "SRS_PROXY_BPF_OBJECT";
const NEEDS_OBJECT: &str =
    "no object to test: run `cargo xtask build-ebpf` first, or set SRS_PROXY_SKIP_EBPF=1";
const NEEDS_RIGHTS: &str = "the object was not loaded: run as root or with CAP_BPF, CAP_NET_ADMIN \
                            and CAP_PERFMON, or set SRS_PROXY_SKIP_EBPF=1";
/// Bytes that, put before a frame, leave no room: XDP has 256, of which the kernel needs 40.
const FULL: usize = 216;
