//! What there is to find on Linux.

use std::fs;
use std::path::Path;

use aya::util::KernelVersion;
use nix::net::if_::if_nameindex;
use nix::sys::utsname::uname;
use nix::unistd::{AccessFlags, access};
use proxy_ebpf::CONTRACT;

use super::table::Finding;
use crate::config::{self, KernelMode};
use crate::plane::ebpf_object::OBJECT;
use crate::plane::kernel::privilege;
use crate::plane::kernel::programs::{LoadError, Programs, is_bpffs};

pub(super) fn examine(settings: &config::Kernel) -> Vec<Finding> {
    let mut findings = vec![kernel(), object(), jit(), btf(), bpffs(), pin(settings)];
    findings.extend(capabilities());
    findings.extend([memlock(), unprivileged(), lockdown()]);
    findings.extend(programs(settings));
    findings.extend(interfaces(settings));
    findings
}

fn kernel() -> Finding {
    let release = uname().map_or_else(
        |_| "of unknown version".to_owned(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    let now = KernelVersion::current().ok();
    let since = |major, minor| now >= Some(KernelVersion::new(major, minor, 0));
    match () {
        () if since(6, 6) => Finding::ok("kernel", release),
        () if since(5, 10) => {
            Finding::note("kernel", format!("{release}: TC by filters, links (tcx) come with 6.6"))
        }
        () => Finding::no("kernel", format!("{release}: it has to be 5.10 or later")),
    }
}

fn object() -> Finding {
    match OBJECT {
        Some(object) => Finding::ok(
            "object",
            format!("in this binary, {} bytes, contract {CONTRACT}", object.len()),
        ),
        None => Finding::no("object", "not in this binary: `cargo xtask build-ebpf`, build again"),
    }
}

fn jit() -> Finding {
    match read("/proc/sys/net/core/bpf_jit_enable").as_deref() {
        Some("0") => Finding::note("JIT", "off: programs are interpreted, which is slow"),
        Some(_) => Finding::ok("JIT", "on"),
        // For root alone it is readable, or there is no choice.
        None => Finding::note("JIT", "not readable: net.core.bpf_jit_enable"),
    }
}

fn btf() -> Finding {
    let is_there = Path::new("/sys/kernel/btf/vmlinux").exists();
    Finding::ok("BTF", if is_there { "there; not needed" } else { "not there, and not needed" })
}

fn bpffs() -> Finding {
    let folder = Path::new("/sys/fs/bpf");
    match is_bpffs(folder) {
        Ok(()) => Finding::ok("bpffs", "mounted at /sys/fs/bpf"),
        Err(_) => Finding::note(
            "bpffs",
            "none at /sys/fs/bpf, needed for pins alone: `mount -t bpf bpf /sys/fs/bpf`",
        ),
    }
}

fn pin(settings: &config::Kernel) -> Finding {
    let subject = "pin folder";
    let Some(folder) = &settings.pin else {
        return Finding::note(
            subject,
            "none: PROXY_EBPF_PIN is empty, a killed proxy leaves nothing",
        );
    };
    match is_bpffs(folder) {
        Ok(()) => {
            let there = folder.ancestors().find(|path| path.exists()).unwrap_or(folder);
            let is_made = if there == folder { "" } else { ", to be made" };
            match access(there, AccessFlags::W_OK | AccessFlags::X_OK) {
                Ok(()) => Finding::ok(subject, format!("{}{is_made}", folder.display())),
                Err(errno) => {
                    Finding::no(subject, format!("{}: {}", there.display(), errno.desc()))
                }
            }
        }
        Err(error) => Finding::no(subject, error.to_string()),
    }
}

fn capabilities() -> Vec<Finding> {
    let missing = match privilege::missing() {
        Ok(missing) => missing,
        Err(error) => return vec![Finding::no("capabilities", error.to_string())],
    };
    let finding = |needed: &caps::Capability| {
        let name = needed.to_string();
        if missing.contains(needed) {
            Finding::no(&name, "not held")
        } else {
            Finding::ok(&name, "held")
        }
    };
    let remedy = (!missing.is_empty()).then(|| {
        Finding::note(
            "capabilities",
            "come by `setcap cap_bpf,cap_net_admin,cap_perfmon+ep` on the binary, or by \
             AmbientCapabilities= in its unit",
        )
    });
    privilege::NEEDED.iter().map(finding).chain(remedy).collect()
}

fn memlock() -> Finding {
    if KernelVersion::current().is_ok_and(|now| now >= KernelVersion::new(5, 11, 0)) {
        return Finding::ok("memlock", "does not limit maps in this kernel");
    }
    match rlimit::Resource::MEMLOCK.get() {
        Ok((_, rlimit::INFINITY)) => Finding::ok("memlock", "unlimited"),
        Ok((_, hard)) => Finding::note(
            "memlock",
            format!("at most {hard} bytes without CAP_SYS_RESOURCE: `LimitMEMLOCK=infinity`"),
        ),
        Err(error) => Finding::note("memlock", error.to_string()),
    }
}

fn unprivileged() -> Finding {
    let subject = "unprivileged bpf()";
    match privilege::unprivileged_bpf_disabled() {
        Some(0) => Finding::note(subject, "allowed: kernel.unprivileged_bpf_disabled is 0"),
        Some(value) => Finding::ok(subject, format!("disabled ({value}), as it should be")),
        None => Finding::note(subject, "kernel.unprivileged_bpf_disabled is not readable"),
    }
}

fn lockdown() -> Finding {
    let subject = "lockdown";
    let state = read("/sys/kernel/security/lockdown");
    let chosen = state.as_deref().and_then(|all| all.split_once('[')?.1.split_once(']'));
    match chosen {
        Some(("confidentiality", _)) => {
            Finding::note(subject, "confidentiality: the kernel may deny some of bpf()")
        }
        Some((chosen, _)) => Finding::ok(subject, chosen),
        None => Finding::ok(subject, "none"),
    }
}

/// Both programs, loaded for a moment.
fn programs(settings: &config::Kernel) -> Vec<Finding> {
    let unpinned = config::Kernel { pin: None, ..settings.clone() };
    match Programs::load(OBJECT, &unpinned, false) {
        Ok((programs, _maps)) => programs
            .sizes()
            .into_iter()
            .map(|size| {
                let words = match size.verified {
                    Some(verified) => format!("loads; the verifier took {verified} instructions"),
                    None => "loads".to_owned(),
                };
                Finding::ok(size.name, words)
            })
            .collect(),
        Err(error) => {
            let finding = Finding::no("programs", error.to_string());
            let LoadError::Refused { log, .. } = &error else { return vec![finding] };
            vec![finding.with_end_of(log)]
        }
    }
}

fn interfaces(settings: &config::Kernel) -> Vec<Finding> {
    let all = match if_nameindex() {
        Ok(all) => all,
        Err(errno) => return vec![Finding::no("interfaces", errno.desc())],
    };
    let there: Vec<_> =
        all.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect();
    let wanted = &settings.interfaces;
    let missing = wanted
        .iter()
        .filter(|name| !there.contains(name))
        .map(|name| Finding::note(name, "not there, though PROXY_EBPF_INTERFACES names it"));
    let chosen: Vec<_> =
        there.iter().filter(|name| wanted.is_empty() || wanted.contains(name)).collect();
    let found = chosen.iter().map(|name| interface(name, settings.mode));
    found.chain(missing).collect()
}

/// What would be attached to an interface, as far as can be told without trying.
fn interface(name: &str, mode: KernelMode) -> Finding {
    let folder = Path::new("/sys/class/net").join(name);
    let driver = fs::read_link(folder.join("device/driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    // ARPHRD_LOOPBACK and ARPHRD_ETHER (Linux if_arp.h).
    match (read(folder.join("type")).as_deref(), mode) {
        (Some("772"), _) => {
            return Finding::note(name, "loopback: peers on this host stay on the relay");
        }
        (Some("1") | None, _) => {}
        (Some(kind), _) => {
            return Finding::note(name, format!("no Ethernet (type {kind}): nothing is attached"));
        }
    }
    let kind = match &driver {
        Some(driver) => format!("driver {driver}"),
        None => kind(&folder),
    };
    let words = match (mode, driver.is_some()) {
        (KernelMode::Off, _) => "nothing is attached, PROXY_EBPF_MODE is off",
        (KernelMode::Xdp, _) => "xdp if the driver takes it, and else nothing",
        (KernelMode::XdpGeneric, _) => "xdp-generic",
        (KernelMode::Tc, _) => "tc",
        (KernelMode::Auto, false) => "tc, and where it is used so for all: XDP is no faster here",
        (KernelMode::Auto, true) => "xdp if every driver takes it, and else tc",
    };
    Finding::ok(name, format!("{kind}: {words}"))
}

/// What the kernel calls an interface that has no driver of a card.
fn kind(folder: &Path) -> String {
    let event = read(folder.join("uevent")).unwrap_or_default();
    let kind = event.lines().find_map(|line| line.strip_prefix("DEVTYPE="));
    kind.map_or_else(|| "virtual".to_owned(), |kind| format!("virtual, {kind}"))
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}
