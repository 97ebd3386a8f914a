//! The object into the kernel: maps of the right sizes, programs past the verifier.

use std::io;

use aya::maps::xdp::DevMapHash;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::util::{KernelVersion, nr_cpus};
use aya::{Ebpf, EbpfError, EbpfLoader};
use nix::errno::Errno;
use proxy_ebpf::contract::{TC_UDP, XDP_UDP};
use proxy_ebpf::maps::{self, Counter, Map};

use super::events::{self, Events};
use super::maps::KernelMaps;
use super::pins::{Folder, PinError};
use super::shared::Shared;
use crate::plane::kernel::privilege;

/// What has come into the kernel.
pub(super) struct Loaded {
    /// Both programs.
    pub(super) programs: Ebpf,
    /// Packets by reason.
    pub(super) counters: PerCpuArray<MapData, Counter>,
    /// The interfaces that can send.
    pub(super) devices: DevMapHash<MapData>,
    /// The other maps.
    pub(super) maps: KernelMaps,
    /// Whether the maps are those of an earlier daemon, with all that is in them.
    pub(super) is_adopted: bool,
    /// What the programs say of single packets, if anybody is to hear it.
    pub(super) events: Option<Events>,
}

/// Why the kernel path is not there.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It was built without.
    #[error(
        "this binary carries no kernel programs: `cargo xtask build-ebpf`, then build it again"
    )]
    NoObject,
    /// As the kernel calls them.
    #[error("this process lacks {0}")]
    Lacks(String),
    /// Older than [`OLDEST`].
    #[error("the kernel is too old: it has to be Linux {}.{} or later", OLDEST.0, OLDEST.1)]
    OldKernel,
    /// Something around this process says no.
    #[error(
        "the kernel denies bpf(), although this process has the capabilities: it may be in a user \
         namespace or under a seccomp filter, or the kernel be locked down"
    )]
    Denied,
    /// It was built without `CONFIG_BPF_SYSCALL`.
    #[error("this kernel has no bpf()")]
    NoBpf,
    /// For the maps.
    #[error("the kernel has no memory for the maps of {0} flows")]
    NoMemory(u32),
    /// The verifier found a fault.
    #[error("the kernel refuses program {program}: {why}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// The last words of the verifier's log.
        why: String,
        /// All of it, in lines.
        log: String,
    },
    /// The pin folder cannot be used.
    #[error("pins: {0}")]
    Pins(#[from] PinError),
    /// The library or the kernel has another objection.
    #[error("{what}: {source}")]
    Other {
        /// What was being done.
        what: &'static str,
        /// The objection.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The oldest kernel that has all that is needed: `bpf_loop` is the last that came.
pub const OLDEST: (u8, u8) = (5, 17);

/// Loads `object`, for this many flows, with or without what it can say of single packets. What is
/// in `folder` already is used if it has the same sizes, and else removed.
pub(super) fn load(
    object: Option<&[u8]>,
    flows: u32,
    folder: Option<&mut Folder>,
    are_events_wanted: bool,
) -> Result<Loaded, LoadError> {
    let object = object.ok_or(LoadError::NoObject)?;
    let is_old =
        KernelVersion::current().is_ok_and(|now| now < KernelVersion::new(OLDEST.0, OLDEST.1, 0));
    if is_old {
        return Err(LoadError::OldKernel);
    }
    let cpus = nr_cpus().map_err(|(what, error)| other(what, error))?;
    let cpus = u32::try_from(cpus).map_err(|error| other("counting CPUs", error))?;
    let sizes = maps::sizes(flows, cpus);
    let mut is_adopted = false;
    let folder = match folder {
        Some(folder) => {
            is_adopted = folder.has(&sizes);
            if !is_adopted {
                folder.replace()?;
            }
            Some(&*folder)
        }
        None => None,
    };
    let mut loader = EbpfLoader::new();
    // The programs need no types of the kernel's own; reading all of them takes its time.
    loader.btf(None).override_global(maps::FLOWS_GLOBAL, &flows, true);
    let level = events::level(are_events_wanted);
    loader.override_global(aya_log::LEVEL, &level, true);
    for map in sizes {
        loader.map_max_entries(map.name, map.capacity);
        if let Some(folder) = folder {
            loader.map_pin_path(map.name, folder.map(map.name));
        }
    }
    let mut programs = loader.load(object).map_err(|error| refused_object(error, flows))?;
    load_programs(&mut programs)?;
    let mut take = |map: Map| {
        programs.take_map(map.name).ok_or_else(|| other("a map of the object", map.name))
    };
    let typed = |error| other("a map of the object", error);
    let counters = PerCpuArray::try_from(take(maps::COUNTERS)?).map_err(typed)?;
    let devices = DevMapHash::try_from(take(maps::DEVICES)?).map_err(typed)?;
    let (ports, tallies) = (take(maps::PORTS)?, take(maps::TALLIES)?);
    let words = 2 * flows as usize * cpus as usize * KernelMaps::TALLY_WORDS;
    let maps = KernelMaps {
        ways: take(maps::WAYS)?.try_into().map_err(typed)?,
        memos: take(maps::MEMOS)?.try_into().map_err(typed)?,
        ports: share(&ports, maps::PORTS.capacity as usize)?,
        tallies: share(&tallies, words)?,
        flows,
        cpus,
    };
    let events = if are_events_wanted { Events::of(&mut programs) } else { None };
    Ok(Loaded { programs, counters, devices, maps, is_adopted, events })
}

fn share(map: &aya::maps::Map, words: usize) -> Result<Shared, LoadError> {
    let aya::maps::Map::Array(map) = map else {
        return Err(other("a map of the object", "it is no array"));
    };
    Shared::new(map.fd(), words).map_err(|error| other("mapping a map", error))
}

/// Gives both programs to the verifier.
fn load_programs(programs: &mut Ebpf) -> Result<(), LoadError> {
    for name in [XDP_UDP, TC_UDP] {
        let program = programs.program_mut(name);
        let program = program.ok_or_else(|| other("a program of the object", name))?;
        let loaded = match <&mut Xdp>::try_from(&mut *program) {
            Ok(xdp) => xdp.load(),
            Err(_) => <&mut SchedClassifier>::try_from(program).and_then(SchedClassifier::load),
        };
        loaded.map_err(|error| refused_program(name, error))?;
    }
    Ok(())
}

fn refused_program(program: &'static str, error: ProgramError) -> LoadError {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return other("loading a program", error);
    };
    let log = verifier_log.to_string();
    // Without CAP_PERFMON the verifier objects to the first pointer that is computed.
    let lacks = privilege::missing().is_ok_and(|missing| !missing.is_empty());
    if lacks || errno(&io_error) == Some(Errno::EPERM) {
        return denied();
    }
    // Behind the objection stand figures of the verifier's own work.
    let is_figure = |line: &&str| {
        ["processed ", "verification time", "stack depth"].iter().any(|text| line.starts_with(text))
    };
    let said = log.lines().rev().find(|line| !line.is_empty() && !is_figure(line));
    let why = said.map_or_else(|| io_error.to_string(), str::to_owned);
    LoadError::Refused { program, why, log }
}

fn refused_object(error: EbpfError, flows: u32) -> LoadError {
    let io_error = match &error {
        EbpfError::MapError(aya::maps::MapError::CreateError { io_error, .. }) => Some(io_error),
        EbpfError::MapError(aya::maps::MapError::SyscallError(call)) => Some(&call.io_error),
        _ => None,
    };
    match io_error.and_then(errno) {
        Some(Errno::EPERM) => denied(),
        Some(Errno::ENOSYS) => LoadError::NoBpf,
        Some(Errno::ENOMEM | Errno::E2BIG) => LoadError::NoMemory(flows),
        _ => other("loading the object", error),
    }
}

/// What a refusal for want of rights comes from.
fn denied() -> LoadError {
    match privilege::missing().as_deref() {
        Ok([]) | Err(_) => LoadError::Denied,
        Ok(missing) => {
            let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
            LoadError::Lacks(names.join(" and "))
        }
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

fn other(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> LoadError {
    LoadError::Other { what, source: source.into() }
}
