//! strace(1) beside threads of a process: by which calls they move bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::process::{self, Process};
use crate::usage;

/// Why a process that is no child of strace's cannot be followed, if it cannot.
pub fn obstacle() -> Option<String> {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let is_anybody_s = matches!(scope.trim(), "" | "0") || Uid::effective().is_root();
    (!is_anybody_s)
        .then(|| format!("strace needs root (kernel.yama.ptrace_scope={})", scope.trim()))
}

/// A running strace.
#[derive(Debug)]
pub struct Strace {
    process: Process,
    /// Where it writes, each thread's calls in a file of its own.
    files: Vec<PathBuf>,
}

/// What the calls have returned together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// Bytes that were read into the process or written out of it.
    pub copied: u64,
    /// Bytes that were spliced, into a pipe or out of it.
    pub spliced: u64,
}

impl Strace {
    /// Follows the threads of this process whose names begin so, of which there have to be some.
    pub fn follow(folder: &Path, process: u32, prefix: &str) -> Result<Self> {
        let threads = usage::threads_called(process, prefix)?;
        ensure!(!threads.is_empty(), "no thread is called {prefix}");
        let trace = folder.join("calls");
        let mut strace = Command::new(process::find("strace")?);
        strace.args(["-qq", "-ff", "-s", "0", "-e", CALLS, "-o"]).arg(&trace);
        for thread in &threads {
            strace.args(["-p", thread]);
        }
        let mut process = Process::start(&mut strace, folder, "strace")?;
        let files = threads.iter().map(|thread| trace.with_extension(thread)).collect();
        process.wait_until_ready(Duration::from_secs(10), || {
            let is_followed = |thread: &String| {
                let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
                Ok(!status.contains("TracerPid:\t0\n"))
            };
            threads.iter().map(is_followed).try_fold(true, |all, one: Result<bool>| Ok(all && one?))
        })?;
        Ok(Self { process, files })
    }

    /// Lets the threads go, and says what they have done.
    pub fn finish(mut self) -> Result<Traced> {
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(Duration::from_secs(10))?;
        let mut traced = Traced::default();
        for file in &self.files {
            // A thread that has made no such call has no file.
            for line in fs::read_to_string(file).unwrap_or_default().lines() {
                traced.add(line).with_context(|| line.to_owned())?;
            }
        }
        Ok(traced)
    }
}

impl Traced {
    fn add(&mut self, line: &str) -> Result<()> {
        // Signals and the last line of a thread are no calls; a call that was cut short has no
        // result.
        let Some((call, result)) = line.rsplit_once(" = ") else { return Ok(()) };
        let Some((name, _)) = call.split_once('(') else { return Ok(()) };
        // An error is a negative number and its name.
        let Ok(bytes) = result.parse::<u64>() else { return Ok(()) };
        match name {
            "splice" => self.spliced += bytes,
            _ if CALLS.contains(name) => self.copied += bytes,
            _ => bail!("a call that was not asked for"),
        }
        Ok(())
    }
}

/// The calls by which bytes can move.
const CALLS: &str =
    "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,sendfile,splice,tee,vmsplice";

#[cfg(test)]
mod tests {
    use super::Traced;

    #[test]
    fn results_are_added_by_call() {
        let mut traced = Traced::default();
        for line in [
            "splice(9, NULL, 14, NULL, 65536, SPLICE_F_MOVE|SPLICE_F_NONBLOCK) = 65536",
            "splice(13, NULL, 10, NULL, 65536, SPLICE_F_MOVE) = -1 EAGAIN (Resource unavailable)",
            "recvfrom(9, \"\"..., 4096, 0, NULL, NULL) = 512",
            "sendto(10, \"\"..., 512, MSG_NOSIGNAL, NULL, 0) = 512",
            "--- SIGPIPE {si_signo=SIGPIPE} ---",
            "splice(9, NULL, 14, NULL, 65536, 0 <detached ...>",
        ] {
            traced.add(line).expect(line);
        }
        assert_eq!(traced, Traced { copied: 1024, spliced: 65536 });
    }
}
