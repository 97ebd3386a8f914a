//! The kernel programs in this kernel: the object keeps its contract, the verifier takes it,
//! and every frame passes, unchanged, counted as the host would count it.
//!
//! Needs the object of `cargo xtask build-ebpf` (`SRS_PROXY_BPF_OBJECT` names another one) and
//! the right to load it. `SRS_PROXY_SKIP_EBPF=1` skips these tests, and says so.
#![cfg(target_os = "linux")]

#[path = "../../proxy-ebpf/tests/frames/mod.rs"]
mod frames;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Map, PerCpuArray};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, TestRun, TestRunOptions};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use proxy_ebpf::contract::{CONTRACT, TC_UDP, XDP_UDP, contract_of};
use proxy_ebpf::maps::{self, COUNTERS, Counter};
use proxy_ebpf::{Reason, classify};
use srs_proxy_tests::skip;

use self::frames::{any_frame, samples};

#[test]
fn the_object_keeps_the_contract() -> Result<()> {
    let Some((path, object)) = built_object()? else {
        return Ok(());
    };
    assert_eq!(contract_of(&object), Some(CONTRACT), "{} is of another contract", path.display());
    let Some(kernel) = Kernel::load()? else {
        return Ok(());
    };
    let mut found: Vec<_> = kernel.ebpf.maps().map(as_contract).collect::<Result<_>>()?;
    found.sort_by_key(|map| map.0.clone());
    let mut agreed = maps::ALL.map(|m| (m.name.to_owned(), m.key_size, m.value_size, m.capacity));
    agreed.sort();
    assert_eq!(found, agreed, "maps as (name, key size, value size, capacity)");
    let programs: BTreeSet<_> = kernel.ebpf.programs().map(|(name, _)| name).collect();
    assert_eq!(programs, BTreeSet::from([XDP_UDP, TC_UDP]), "programs of the object");
    Ok(())
}

#[test]
fn the_proxy_carries_the_object_that_was_built() -> Result<()> {
    let Some((path, object)) = built_object()? else {
        return Ok(());
    };
    if env::var_os(OBJECT_VARIABLE).is_some() {
        skip(&format!("{OBJECT_VARIABLE} names an object that this build did not embed"))?;
        return Ok(());
    }
    ensure!(
        srs_proxy::plane::ebpf_object::OBJECT == Some(&object),
        "the proxy was built with another object than {}",
        path.display()
    );
    Ok(())
}

#[test]
fn every_frame_passes_unchanged_and_is_counted_once() -> Result<()> {
    let Some(kernel) = Kernel::load()? else {
        return Ok(());
    };
    for sample in samples() {
        for hook in Hook::ALL.into_iter().filter(|hook| hook.can_try(&sample.frame)) {
            let reason = kernel.pass(hook, &sample.frame).with_context(|| sample.story)?;
            assert_eq!(reason, sample.reason, "{hook:?} of {}", sample.story);
        }
    }
    Ok(())
}

#[test]
fn the_kernel_says_of_any_frame_what_the_host_says() -> Result<()> {
    let Some(kernel) = Kernel::load()? else {
        return Ok(());
    };
    let config = Config { cases: 4096, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&any_frame(), |frame| {
        for hook in Hook::ALL.into_iter().filter(|hook| hook.can_try(&frame)) {
            let reason = kernel.pass(hook, &frame);
            let reason = reason.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
            proptest::prop_assert_eq!(reason, classify(&frame[..]), "{:?}", hook);
        }
        Ok(())
    })?;
    Ok(())
}

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
enum Hook {
    Xdp,
    Tc,
}

impl Hook {
    const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    /// Whether the kernel makes a test run of this frame: for TC it wants a whole IP header
    /// behind an IP type. In a VLAN it does not look, so these branches are met there.
    fn can_try(self, frame: &[u8]) -> bool {
        let least = match (self, frame.get(12..14)) {
            (Self::Tc, Some([0x08, 0x00])) => 14 + 20,
            (Self::Tc, Some([0x86, 0xdd])) => 14 + 40,
            (Self::Tc, _) => 14 + 1,
            (Self::Xdp, _) => 14,
        };
        frame.len() >= least
    }

    /// The value that lets a packet go on: `XDP_PASS`, and `TC_ACT_UNSPEC`, which is -1.
    const fn pass(self) -> u32 {
        match self {
            Self::Xdp => 2,
            Self::Tc => u32::MAX,
        }
    }
}

/// The object, loaded.
struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads the object through the verifier; `None` where these tests are to be skipped.
    fn load() -> Result<Option<Self>> {
        let Some((_, object)) = built_object()? else {
            return Ok(None);
        };
        let mut ebpf = Ebpf::load(&object).context(NEEDS_RIGHTS)?;
        let xdp: &mut Xdp = ebpf.program_mut(XDP_UDP).context(XDP_UDP)?.try_into()?;
        xdp.load().context(NEEDS_RIGHTS)?;
        let tc: &mut SchedClassifier = ebpf.program_mut(TC_UDP).context(TC_UDP)?.try_into()?;
        tc.load().context(NEEDS_RIGHTS)?;
        Ok(Some(Self { ebpf }))
    }

    /// Runs `hook`'s program on `frame`, which has to pass unchanged, and returns the one
    /// reason under which it was counted.
    fn pass(&self, hook: Hook, frame: &[u8]) -> Result<Reason> {
        let before = self.counts()?;
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let ran = match hook {
            Hook::Xdp => self.program::<Xdp>(XDP_UDP)?.test_run(options),
            Hook::Tc => self.program::<SchedClassifier>(TC_UDP)?.test_run(options),
        };
        let ran = ran.with_context(|| format!("test run of {hook:?} on {frame:02x?}"))?;
        ensure!(ran.return_value == hook.pass(), "{hook:?} said {}", ran.return_value);
        out.truncate(ran.data_size_out.try_into()?);
        ensure!(out == frame, "{hook:?} changed the frame to {out:02x?}");
        let after = self.counts()?;
        let grown: Vec<_> = Reason::ALL
            .into_iter()
            .zip(after.iter().zip(&before))
            .filter_map(|(reason, (after, before))| {
                let more = after - before;
                (more > 0).then_some((reason, more))
            })
            .collect();
        match grown[..] {
            [(reason, 1)] => Ok(reason),
            _ => bail!("{hook:?} counted one frame as {grown:?}"),
        }
    }

    fn program<'a, P>(&'a self, name: &'static str) -> Result<&'a P>
    where
        &'a P:
            TryFrom<&'a aya::programs::Program, Error: std::error::Error + Send + Sync + 'static>,
    {
        Ok(self.ebpf.program(name).context(name)?.try_into()?)
    }

    /// Packets by reason, over all CPUs.
    fn counts(&self) -> Result<Vec<Counter>> {
        let map = self.ebpf.map(COUNTERS.name).context(COUNTERS.name)?;
        let counters: PerCpuArray<_, Counter> = map.try_into()?;
        let sum = |index| Ok(counters.get(&index, 0)?.iter().sum());
        (0..COUNTERS.capacity).map(sum).collect()
    }
}

/// What the kernel says of a map: name, key size, value size, capacity.
fn as_contract((name, map): (&str, &Map)) -> Result<(String, u32, u32, u32)> {
    let Map::PerCpuArray(data) = map else { bail!("{name} is no per-CPU array") };
    let info = data.info()?;
    ensure!(info.name_as_str() == Some(name), "the kernel knows {name} by another name");
    Ok((name.to_owned(), info.key_size(), info.value_size(), info.max_entries()))
}

/// The object to test, and where it is; `None` where these tests are to be skipped.
fn built_object() -> Result<Option<(PathBuf, Vec<u8>)>> {
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

const OBJECT_VARIABLE: &str = "SRS_PROXY_BPF_OBJECT";
const NEEDS_OBJECT: &str =
    "no object to test: run `cargo xtask build-ebpf` first, or set SRS_PROXY_SKIP_EBPF=1";
const NEEDS_RIGHTS: &str = "the object was not loaded: run as root or with CAP_BPF, CAP_NET_ADMIN \
                            and CAP_PERFMON, or set SRS_PROXY_SKIP_EBPF=1";
