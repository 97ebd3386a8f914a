//! A folder in a bpffs that a test has for itself.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use tempfile::TempDir;

/// A bpffs that only this thread and what it starts see. Gone with them.
#[derive(Debug)]
pub struct Pins {
    mount: TempDir,
    folder: PathBuf,
}

impl Pins {
    /// Mounts it, where this thread may. It has a mount namespace of its own from here on.
    pub fn new() -> Result<Self> {
        let root = tempfile::Builder::new().prefix("srs-proxy-pins-").tempdir()?;
        if Uid::effective().is_root() {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("bpf"), root.path(), Some("bpf"), MsFlags::empty(), none)?;
        }
        // The kernel has files of its own at the root.
        let folder = root.path().join("srs-proxy");
        fs::create_dir(&folder)?;
        Ok(Self { mount: root, folder })
    }

    /// The folder, as a variable has it.
    pub fn text(&self) -> Result<&str> {
        self.folder.to_str().context("a folder whose name is no text")
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// What is in it; nothing if it is not there any more.
    pub fn left(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.path())).collect()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // The namespace ends with the thread if this fails.
        let _ = umount2(self.mount.path(), MntFlags::MNT_DETACH);
    }
}
