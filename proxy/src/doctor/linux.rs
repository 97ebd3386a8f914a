//! What there is to find on Linux.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use aya::programs::{ProgramInfo, loaded_programs};
use aya::util::KernelVersion;
use nix::net::if_::if_nameindex;
use nix::sys::utsname::uname;
use nix::unistd::{AccessFlags, access};
use proxy_ebpf::CONTRACT;
use proxy_ebpf::contract::XDP_UDP;

use super::table::Finding;
use crate::config::{self, KernelMode};
use crate::plane::ebpf_object::OBJECT;
use crate::plane::kernel::privilege;
use crate::plane::kernel::programs::driver::{Features, xdp_program};
use crate::plane::kernel::programs::{LoadError, OLDEST, ProgramSize, Programs, is_bpffs};

pub(super) fn examine(settings: &config::Kernel) -> Vec<Finding> {
    let loaded = load(settings);
    let mut findings = vec![kernel(), object(), jit(loaded.as_deref().unwrap_or_default()), btf()];
    findings.extend([bpffs(settings), pin(settings)]);
    findings.extend(capabilities());
    findings.extend([unprivileged(), lockdown()]);
    findings.extend(programs(loaded));
    if settings.mode == KernelMode::Off {
        findings.push(Finding::no("mode", "PROXY_EBPF_MODE is off: nothing is attached"));
    } else {
        findings.extend(interfaces(settings));
    }
    findings
}

/// Both programs, loaded for a moment.
fn load(settings: &config::Kernel) -> Result<Vec<ProgramSize>, LoadError> {
    let unpinned = config::Kernel { pin: None, ..settings.clone() };
    Programs::load(OBJECT, &unpinned, false).map(|(programs, _maps)| programs.sizes())
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
        () if since(OLDEST.0, OLDEST.1) => {
            Finding::note("kernel", format!("{release}: TC by filters, links (tcx) come with 6.6"))
        }
        () => {
            let (major, minor) = OLDEST;
            Finding::no("kernel", format!("{release}: it has to be {major}.{minor} or later"))
        }
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

/// By the programs, if there are any: the setting cannot be read in every network namespace.
fn jit(programs: &[ProgramSize]) -> Finding {
    let is_on = match programs {
        [] => read("/proc/sys/net/core/bpf_jit_enable").map(|value| value != "0"),
        programs => Some(programs.iter().all(|program| program.is_compiled)),
    };
    match is_on {
        Some(true) => Finding::ok("JIT", "on"),
        Some(false) => Finding::note("JIT", "off: programs are interpreted, which is slow"),
        None => Finding::note("JIT", "shows when programs can be loaded"),
    }
}

fn btf() -> Finding {
    let is_there = Path::new("/sys/kernel/btf/vmlinux").exists();
    Finding::ok("BTF", if is_there { "there; not needed" } else { "not there, and not needed" })
}

fn bpffs(settings: &config::Kernel) -> Finding {
    if settings.pin.as_deref().is_some_and(|folder| is_bpffs(folder).is_ok()) {
        return Finding::ok("bpffs", "the pin folder is in one");
    }
    match is_bpffs(Path::new("/sys/fs/bpf")) {
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
    let finding = |(needed, purpose): &(caps::Capability, &str)| {
        let name = needed.to_string();
        if missing.contains(needed) {
            Finding::no(&name, format!("not held, and needed {purpose}"))
        } else {
            Finding::ok(&name, format!("held, {purpose}"))
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

fn programs(loaded: Result<Vec<ProgramSize>, LoadError>) -> Vec<Finding> {
    let program = |ProgramSize { name, verified, .. }| {
        let words = match verified {
            Some(verified) => format!("loads; the verifier took {verified} instructions"),
            None => "loads".to_owned(),
        };
        Finding::ok(name, words)
    };
    match loaded {
        Ok(programs) => programs.into_iter().map(program).collect(),
        Err(error) => {
            let finding = Finding::no("programs", error.to_string());
            let LoadError::Refused { log, .. } = &error else { return vec![finding] };
            vec![finding.with_end_of(log)]
        }
    }
}

/// Every interface that the operator has named has to take a program, and of all others one.
fn interfaces(settings: &config::Kernel) -> Vec<Finding> {
    let all = match if_nameindex() {
        Ok(all) => all,
        Err(errno) => return vec![Finding::no("interfaces", errno.desc())],
    };
    let there = all.iter().map(|one| (one.name().to_string_lossy().into_owned(), one.index()));
    let of_one = |(name, index): (String, u32)| {
        let takes = interface(&name, index, settings.mode);
        (name, takes)
    };
    if settings.interfaces.is_empty() {
        let found: Vec<_> = there.map(of_one).collect();
        let is_none = found.iter().all(|(_, takes)| takes.is_err());
        let none = is_none.then(|| Finding::no("interfaces", "none of them takes a program"));
        let of_one = |(name, takes): (String, Result<String, String>)| match takes {
            Ok(words) => Finding::ok(&name, words),
            Err(words) => Finding::note(&name, words),
        };
        return found.into_iter().map(of_one).chain(none).collect();
    }
    let there: HashMap<_, _> = there.collect();
    let named = settings.interfaces.iter().map(|name| match there.get(name.as_str()) {
        Some(index) => match interface(name, *index, settings.mode) {
            Ok(words) => Finding::ok(name, words),
            Err(words) => Finding::no(name, words),
        },
        None => Finding::no(name, "not there, though PROXY_EBPF_INTERFACES names it"),
    });
    named.collect()
}

/// What would be attached to an interface, as far as can be told without trying; the error says why
/// nothing would be.
fn interface(name: &str, index: u32, mode: KernelMode) -> Result<String, String> {
    let folder = Path::new("/sys/class/net").join(name);
    // ARPHRD_LOOPBACK and ARPHRD_ETHER (Linux if_arp.h).
    match read(folder.join("type")).as_deref() {
        Some("772") => return Err("loopback: peers on this host stay on the relay".to_owned()),
        Some("1") | None => {}
        Some(kind) => return Err(format!("no Ethernet (type {kind}): nothing is attached")),
    }
    let driver = fs::read_link(folder.join("device/driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let (is_card, kind) = match &driver {
        Some(driver) => (true, format!("driver {driver}")),
        None => (false, kind(&folder)),
    };
    let nothing = |why: String| format!("{kind}: nothing is attached: {why}");
    let words = match mode {
        KernelMode::Off => return Err(nothing("PROXY_EBPF_MODE is off".to_owned())),
        KernelMode::Xdp if xdp(index, is_card).map_err(nothing)? => {
            "xdp if the driver takes it, and else nothing".to_owned()
        }
        KernelMode::Xdp => {
            "xdp if the driver takes it; nobody knows whether it can send".to_owned()
        }
        KernelMode::XdpGeneric => {
            has_room(index).map_err(nothing)?;
            "xdp-generic".to_owned()
        }
        KernelMode::Tc => "tc".to_owned(),
        KernelMode::Auto if !is_card => "tc for all: XDP is no faster here".to_owned(),
        KernelMode::Auto => match xdp(index, is_card) {
            Ok(true) => "xdp if every driver takes it, and else tc".to_owned(),
            Ok(false) => "tc for all: nobody knows whether its driver can send by XDP".to_owned(),
            Err(why) => format!("tc for all: {why}"),
        },
    };
    Ok(format!("{kind}: {words}"))
}

/// There is room for one XDP program, which may be that of a proxy that is running.
fn has_room(index: u32) -> Result<(), String> {
    let Some(there) = xdp_program(index).map_err(|error| error.to_string())? else {
        return Ok(());
    };
    let is_own =
        |program: &ProgramInfo| program.id() == there && program.name_as_str() == Some(XDP_UDP);
    // For root alone: others see a number.
    if loaded_programs().flatten().any(|program| is_own(&program)) {
        return Ok(());
    }
    Err(format!("XDP program {there} is on it, and there is room for one"))
}

/// Whether the kernel tells that XDP in the driver can do what is needed, as it does since Linux 6.3.
/// The error says why it cannot.
fn xdp(index: u32, is_card: bool) -> Result<bool, String> {
    has_room(index)?;
    let Some(features) = Features::of(index).map_err(|error| error.to_string())? else {
        return Ok(false);
    };
    // A card may be able to send once it has a program, another interface is not.
    let lack = if is_card { features.lack_for_good() } else { features.lack() };
    lack.map_or(Ok(true), |why| Err(why.to_owned()))
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
