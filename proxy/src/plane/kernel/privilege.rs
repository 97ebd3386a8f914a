//! The rights of this process: which the kernel path needs, and which go once it stands.

use std::fs;

use aya::util::KernelVersion;
use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// What loading and attaching need, and for what.
pub const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "to load programs and to make maps"),
    (Capability::CAP_NET_ADMIN, "to attach programs to interfaces"),
    (Capability::CAP_PERFMON, "for programs that compute where in a packet they read"),
];

/// Those of [`NEEDED`] that this thread lacks.
pub fn missing() -> Result<Vec<Capability>, CapsError> {
    let held = caps::read(None, CapSet::Effective)?;
    // CAP_SYS_ADMIN was both of the others before Linux 5.8, and still is.
    let is_admin = held.contains(&Capability::CAP_SYS_ADMIN);
    let is_held = |needed: &Capability| {
        held.contains(needed) || (is_admin && *needed != Capability::CAP_NET_ADMIN)
    };
    Ok(NEEDED.into_iter().map(|(needed, _)| needed).filter(|needed| !is_held(needed)).collect())
}

/// Gives up every capability that is not needed any more, for good, and returns those it had.
/// Of this thread alone, and of those that it starts later: to be called before there are others.
///
/// Three stay where they are held. `CAP_NET_ADMIN`: for interfaces that appear, neighbours, and
/// the size of socket buffers. `CAP_NET_BIND_SERVICE`: for ports below 1024.
/// `CAP_DAC_READ_SEARCH`: for a folder of static files that is not everybody's.
pub fn drop_spare() -> Result<Vec<Capability>, CapsError> {
    let mut kept = CapsHashSet::from([
        Capability::CAP_NET_ADMIN,
        Capability::CAP_NET_BIND_SERVICE,
        Capability::CAP_DAC_READ_SEARCH,
    ]);
    if needs_bpf_for_maps() {
        kept.insert(Capability::CAP_BPF);
    }
    let held = caps::read(None, CapSet::Permitted)?;
    // By the bounding set a program that is started as root would get them back. It cannot be
    // changed without CAP_SETPCAP, and a process that lacks that is hardly root's.
    if held.contains(&Capability::CAP_SETPCAP) {
        for spare in caps::runtime::procfs_all_supported(None)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *spare)?;
        }
    }
    let left: CapsHashSet = held.intersection(&kept).copied().collect();
    // The ambient set follows the two below.
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)?;
    let mut dropped: Vec<_> = held.difference(&left).copied().collect();
    dropped.sort_by_key(Capability::index);
    Ok(dropped)
}

/// Whether this kernel wants `CAP_BPF` also for entries of maps: before Linux 5.19, where `bpf()`
/// is closed to others.
fn needs_bpf_for_maps() -> bool {
    let is_old = !KernelVersion::current().is_ok_and(|now| now >= KernelVersion::new(5, 19, 0));
    is_old && unprivileged_bpf_disabled() != Some(0)
}

/// `kernel.unprivileged_bpf_disabled`, if it can be read.
pub fn unprivileged_bpf_disabled() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").ok()?.trim().parse().ok()
}
