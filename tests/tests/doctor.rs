//! `srs-proxy doctor`: what it says of a host, and whether that comes to a kernel path.
//!
//! Needs root, or the right to make namespaces. `SRS_PROXY_SKIP_EBPF=1` skips these tests, and
//! says so.
#![cfg(target_os = "linux")]

mod namespace;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use srs_proxy::config::KernelMode;
use srs_proxy::plane::ebpf_object::OBJECT;
use srs_proxy::plane::kernel::programs::Programs;
use srs_proxy_tests::proxy;

use self::namespace::{in_namespace, interface, run, settings};

#[test]
fn what_was_asked_for_has_to_be_possible() -> Result<()> {
    in_namespace(|space| {
        examine(&[], true, "ok  here                virtual: tc for all")?;
        examine(&[], true, "ok  JIT                 on")?;
        let pin = space.pin();
        let pin = pin.to_str().context("a name that is no text")?;
        let row = "ok  bpffs               the pin folder is in one";
        examine(&[("PROXY_EBPF_PIN", pin)], true, row)?;

        let off = "NO  mode                PROXY_EBPF_MODE is off";
        examine(&[("PROXY_EBPF_MODE", "off")], false, off)?;
        let absent = "NO  absent              not there, though PROXY_EBPF_INTERFACES names it";
        examine(&[("PROXY_EBPF_INTERFACES", "here,absent")], false, absent)?;
        let copied = "-   streams             relay, which copies: PROXY_TCP_ENGINE=relay";
        examine(&[("PROXY_TCP_ENGINE", "relay")], true, copied)?;
        let splice = [("PROXY_TCP_ENGINE", "splice"), ("PROXY_TCP_THREADS", "3")];
        let epoll = "-   streams             splice, 3 threads: PROXY_TCP_ENGINE=splice";
        examine(&splice, true, epoll)?;
        let lo = "NO  lo                  loopback";
        examine(&[("PROXY_EBPF_INTERFACES", "lo")], false, lo)?;
        run("ip link del here")?;
        examine(&[], false, "NO  interfaces          none of them takes a program")
    })
}

#[test]
fn xdp_needs_a_driver_that_sends_and_has_room() -> Result<()> {
    in_namespace(|_| {
        let xdp = [("PROXY_EBPF_MODE", "xdp"), ("PROXY_EBPF_INTERFACES", "here")];
        let deaf = "NO  here                virtual: nothing is attached: its driver cannot send";
        examine(&xdp, false, deaf)?;
        run("ethtool -K there gro on")?;
        examine(&xdp, true, "ok  here                virtual: xdp if the driver takes it")?;

        // Ours, as that of a proxy that runs.
        let (mut programs, _maps) = Programs::load(OBJECT, &settings(KernelMode::Xdp), false)?;
        ensure!(programs.attach(&interface("here", true)?).is_ok());
        examine(&xdp, true, "ok  here                virtual: xdp if the driver takes it")
    })
}

/// The doctor's word in these circumstances, which has to have a line that begins like `row`.
fn examine(environment: &[(&str, &str)], works: bool, row: &str) -> Result<()> {
    let mut doctor = proxy::command(Path::new("/"))?;
    doctor.env_remove("PROXY_EBPF_MODE").envs(environment.iter().copied()).arg("doctor");
    let output = doctor.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() == works, "{environment:?}: {}\n{text}", output.status);
    ensure!(text.lines().any(|line| line.starts_with(row)), "no {row:?} in\n{text}");
    Ok(())
}
