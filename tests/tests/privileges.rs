//! The kernel path without root: three capabilities are enough, and most of them go once it stands.
//!
//! Needs root, to become somebody else. `SRS_PROXY_SKIP_EBPF=1` skips these tests, and says so.
#![cfg(target_os = "linux")]

#[path = "namespace/flow.rs"]
mod flow;
mod namespace;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs, thread};

use anyhow::{Context, Result, anyhow, ensure};
use caps::Capability;
use srs_proxy::config::{Kernel, KernelMode};
use srs_proxy::plane::ebpf_object::OBJECT;
use srs_proxy::plane::kernel::privilege;
use srs_proxy::plane::kernel::programs::{Engine, Maps, Programs};
use srs_proxy_tests::engine::{Engine as Scenario, Setting};
use srs_proxy_tests::proxy;
use tempfile::TempDir;

use self::flow::{KEY, WAY};
use self::namespace::{in_namespace, interface, run, settings};

#[test]
fn three_capabilities_are_enough_for_anybody() -> Result<()> {
    in_namespace(|_| {
        let output = as_nobody("bpf,net_admin,perfmon", &proxy_program()?, &["doctor"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{text}");
        for line in ["ok  CAP_BPF ", "ok  CAP_NET_ADMIN ", "ok  srs_xdp_udp ", "ok  srs_tc_udp "] {
            ensure!(text.contains(line), "no {line:?} in\n{text}");
        }
        Ok(())
    })
}

#[test]
fn one_that_is_missing_is_named() -> Result<()> {
    in_namespace(|_| {
        for (held, missing) in [
            ("bpf,net_admin", "CAP_PERFMON"),
            ("bpf,perfmon", "CAP_NET_ADMIN"),
            ("net_admin,perfmon", "CAP_BPF"),
        ] {
            let output = as_nobody(held, &proxy_program()?, &["doctor"])?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(1), "{held}: {text}");
            let line = format!("programs            this process lacks {missing}\n");
            ensure!(text.contains(&line), "{held}: no {line:?} in\n{text}");
        }
        Ok(())
    })
}

#[test]
fn no_thread_of_a_proxy_has_kept_what_it_does_not_need() -> Result<()> {
    Setting::PLAIN.tell(Scenario::Tc, |stage| {
        let tasks = format!("/proc/{}/task", stage.proxy.process.id());
        let tasks = fs::read_dir(tasks)?.collect::<Result<Vec<_>, _>>()?;
        ensure!(tasks.len() > 1, "it has one thread");
        for task in tasks {
            let status = fs::read_to_string(task.path().join("status"))?;
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                let bits = bits(&status, set)?;
                ensure!(bits & !KEPT == 0, "{set} of {} is {bits:x}", task.path().display());
            }
        }
        Ok(())
    })
}

#[test]
fn what_is_not_needed_any_more_is_given_up() -> Result<()> {
    in_namespace(|space| {
        let own = env::current_exe()?;
        let arguments = ["--exact", "process_that_gives_up", "--nocapture"];
        let held = "bpf,net_admin,perfmon,net_bind_service,sys_admin";
        let nobody = as_nobody(held, &own, &arguments)?;
        told(&nobody)?;
        let mut root = Command::new(own);
        told(&root.args(arguments).env(PROCESS, "root").env(PIN, space.pin()).output()?)?;
        ensure!(!space.pin().exists(), "the folder has stayed");
        Ok(())
    })
}

/// Not a test, but the process of the one above: with [`PROCESS`] in the environment.
#[test]
fn process_that_gives_up() -> Result<()> {
    if env::var_os(PROCESS).is_none() {
        return Ok(());
    }
    let pin = env::var_os(PIN).map(PathBuf::from);
    let (mut programs, mut maps) =
        Programs::load(OBJECT, &Kernel { pin, ..settings(KernelMode::Tc) }, false)?;
    let (here, there) = (interface("here", true)?, interface("there", true)?);
    assert_eq!(programs.attach(&here), Ok(Engine::Tc));
    let dropped = privilege::drop_spare()?;
    ensure!(dropped.contains(&Capability::CAP_BPF), "CAP_BPF was not given up: {dropped:?}");
    let later = thread::spawn(|| fs::read_to_string("/proc/thread-self/status")).join();
    let later = later.map_err(|_| anyhow!("the thread has failed"))??;
    for status in [fs::read_to_string("/proc/thread-self/status")?, later] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let bits = bits(&status, set)?;
            assert_eq!(bits & !KEPT, 0, "{set} is {bits:x}");
        }
        assert_ne!(bits(&status, "CapEff")? & 1 << NET_ADMIN, 0, "CAP_NET_ADMIN is gone");
    }
    // What is left is enough for everything that comes later.
    maps.put(&KEY, &WAY)?;
    assert_eq!(maps.ways(), [(KEY, WAY)]);
    maps.take(&KEY);
    assert_eq!(programs.attach(&there), Ok(Engine::Tc), "an interface that has come later");
    assert_eq!(programs.check(), []);
    assert_eq!(programs.counters().len(), proxy_ebpf::Reason::ALL.len());
    programs.use_filters();
    programs.detach(there.index);
    assert_eq!(programs.attach(&there), Ok(Engine::Tc), "a filter");
    assert_eq!(programs.check(), []);
    drop(programs);
    ensure!(!run("tc filter show dev there ingress")?.contains("srs"), "the filter has stayed");
    println!("{DONE}");
    Ok(())
}

fn proxy_program() -> Result<PathBuf> {
    Ok(proxy::command(Path::new("/"))?.get_program().into())
}

fn told(output: &Output) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && text.contains(DONE), "{text}\n{errors}");
    Ok(())
}

/// A set of capabilities in `/proc/<pid>/status` (`proc_pid_status`(5)).
fn bits(status: &str, set: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':'));
    Ok(u64::from_str_radix(line.with_context(|| format!("no {set}"))?.trim(), 16)?)
}

/// Runs a copy of `program`, which may be where only root can go, as user nobody with these
/// capabilities alone.
fn as_nobody(held: &str, program: &Path, arguments: &[&str]) -> Result<Output> {
    use std::os::unix::fs::PermissionsExt;

    let folder = TempDir::new()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let copy = folder.path().join("program");
    // By a process of its own: what another thread starts meanwhile would hold a file open that this
    // one writes, and no file is run that is open to be written.
    let copied = Command::new("cp").arg(program).arg(&copy).status()?;
    ensure!(copied.success(), "cp: {copied}");
    let held = held.split(',').map(|name| format!("+{name}")).collect::<Vec<_>>().join(",");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(format!("--inh-caps=-all,{held}")).arg(format!("--ambient-caps=-all,{held}"));
    command.arg(copy).args(arguments).env(PROCESS, "nobody").current_dir("/");
    Ok(command.output()?)
}

const PROCESS: &str = "SRS_PROXY_TEST_PROCESS";
const PIN: &str = "SRS_PROXY_TEST_PIN";
const DONE: &str = "given up, and works.";

const NET_ADMIN: u32 = 12;
/// `CAP_DAC_READ_SEARCH`, `CAP_NET_BIND_SERVICE` and `CAP_NET_ADMIN` (Linux capability.h).
const KEPT: u64 = 1 << 2 | 1 << 10 | 1 << NET_ADMIN;
