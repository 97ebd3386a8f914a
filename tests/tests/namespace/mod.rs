//! A network namespace of a test's own, and what is done in it.

use std::path::PathBuf;
use std::process::Command;
use std::{env, thread};

use anyhow::{Result, anyhow, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use srs_proxy::config::{Kernel, KernelMode};
use srs_proxy::plane::ebpf_object::OBJECT;
use srs_proxy::plane::kernel::programs::Interface;
use srs_proxy_tests::skip;
use tempfile::TempDir;

/// A network namespace with two ends of a veth, `here` and `there`, and a bpffs.
pub(crate) struct Space {
    folder: TempDir,
}

/// Runs `story` on a thread in a namespace of its own; what it mounts and makes goes with it.
pub(crate) fn in_namespace(
    story: impl FnOnce(&Space) -> Result<()> + Send + 'static,
) -> Result<()> {
    if env::var_os("SRS_PROXY_SKIP_EBPF").is_some_and(|value| value == "1") {
        return skip("SRS_PROXY_SKIP_EBPF=1");
    }
    if OBJECT.is_none() {
        return skip("this build has no kernel programs");
    }
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let thread = thread::Builder::new().name(name).spawn(move || {
        let Ok(()) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) else {
            return skip("needs the right to make namespaces");
        };
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let folder = TempDir::with_prefix("srs-proxy-bpffs")?;
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), none)?;
        let space = Space { folder };
        run("ip link add here type veth peer name there")?;
        run("ip link set here up")?;
        run("ip link set there up")?;
        story(&space)
    });
    thread?.join().map_err(|_| anyhow!("the story has failed"))?
}

impl Space {
    /// A folder for pins, which is not there yet.
    pub(crate) fn pin(&self) -> PathBuf {
        self.folder.path().join("pins")
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // A folder cannot be removed while something is mounted there.
        let _unmounted = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// As an operator would have it, for few flows.
pub(crate) fn settings(mode: KernelMode) -> Kernel {
    Kernel { mode, interfaces: Vec::new(), pin: None, flows: 64 }
}

pub(crate) fn interface(name: &str, is_virtual: bool) -> Result<Interface> {
    let index = nix::net::if_::if_nametoindex(name)?;
    Ok(Interface { index, name: name.to_owned(), is_virtual })
}

/// Runs a command, given as words between spaces, and returns what it prints.
pub(crate) fn run(line: &str) -> Result<String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}
