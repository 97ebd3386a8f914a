//! A child process with its output in a file, which ends with its owner.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::wait;

/// A running child. Told to end, killed if it does not, and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it writes to stdout and stderr goes to `<folder>/<name>.log`.
    pub fn start(command: &mut Command, folder: &Path, name: &str) -> Result<Self> {
        Self::spawn(command.stdin(Stdio::null()), folder, name)
    }

    /// The same, and what is written to its stdin.
    pub fn start_fed(
        command: &mut Command,
        folder: &Path,
        name: &str,
    ) -> Result<(Self, ChildStdin)> {
        let mut process = Self::spawn(command.stdin(Stdio::piped()), folder, name)?;
        let stdin = process.child.stdin.take().context("it has no stdin")?;
        Ok((process, stdin))
    }

    fn spawn(command: &mut Command, folder: &Path, name: &str) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        // A second life of the same name goes on in the same file.
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it is ready; fails as soon as it has ended instead.
    pub fn wait_until_ready(
        &mut self,
        limit: Duration,
        mut is_ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let name = &self.name;
        let ended = wait::until(&format!("{name} is ready"), limit, || {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(Some(status)));
            }
            Ok(is_ready()?.then_some(None))
        })?;
        match ended {
            Some(status) => bail!("{name} ended with {status}: {}", self.log()),
            None => Ok(()),
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its own end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let Self { child, name, .. } = self;
        wait::until(&format!("the end of {name}"), limit, || Ok(child.try_wait()?))
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Not yet reaped, so the id is still its own.
        if self.ended()?.is_none() {
            signal::kill(Pid::from_raw(self.child.id().try_into()?), signal)?;
        }
        Ok(())
    }

    /// Ends it at once, without a chance to say goodbye.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Where this program is.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where a plain user's PATH does not look.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let mut candidates = folders.map(|folder| folder.join(program));
    let found = candidates.find(|candidate| candidate.is_file());
    found.with_context(|| format!("{program} is not installed"))
}

impl Drop for Process {
    fn drop(&mut self) {
        // A child with children of its own must get the chance to end them; to the proxy a second
        // signal means at once.
        for _ in 0..100 {
            if self.signal(Signal::SIGTERM).is_err() || !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // Either fails only if it has been reaped before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
