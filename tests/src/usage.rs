//! What a process costs, as `/proc` of Linux tells.

use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};

/// CPU time of all threads of the process since its start, user and system.
pub fn cpu(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // proc(5): the second field may have blanks, and ends at the last parenthesis;
    // utime and stime are fields 14 and 15, in ticks of which Linux shows 100 a second.
    let (_, fields) = stat.rsplit_once(')').context("no process name in stat")?;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.collect::<Result<Vec<_>, _>>()?.into_iter().sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// CPU time of the whole machine since some moment: all that it was not idle, interrupts and the
/// kernel's own work included.
///
/// Of a CPU without a tick the kernel measures the idle time, and samples the rest at each tick: what
/// is paced would be counted by chance.
pub fn machine() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no cpu")?;
    // proc(5): the fourth and fifth field, in ticks of which Linux shows 100 a second.
    let ticks = line.split_ascii_whitespace().skip(3).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.collect::<Result<Vec<_>, _>>()?.into_iter().sum();
    let cpus = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    let all = now * u32::try_from(cpus)?;
    Ok(all.saturating_sub(Duration::from_millis(ticks * 10)))
}

/// Memory that is the process's own, bytes. The program's file is none of it: its share of that grows
/// when another process that runs it ends.
pub fn memory(process: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let kib = |name: &str| -> Result<u64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.with_context(|| format!("no {name} in smaps"))?.trim().parse()?)
    };
    Ok((kib("Pss_Anon:")? + kib("Pss_Shmem:")?) * 1024)
}

/// Memory of the kernel's own objects that are in use, sockets among them, KiB. Needs root.
pub fn slab() -> Result<i64> {
    let info = fs::read_to_string("/proc/slabinfo").context("only root sees /proc/slabinfo")?;
    let mut bytes = 0;
    // slabinfo(5): two lines of titles; then name, active objects, objects, size.
    for line in info.lines().skip(2) {
        let mut fields = line.split_ascii_whitespace();
        let (active, size) = (fields.nth(1), fields.nth(1));
        let (active, size) = active.zip(size).context("a line of slabinfo without its fields")?;
        bytes += active.parse::<i64>()? * size.parse::<i64>()?;
    }
    Ok(bytes / 1024)
}

/// The same once what was freed before is gone: the kernel frees sockets a moment later.
pub fn settled_slab() -> Result<i64> {
    let mut before = slab()?;
    for _ in 0..SETTLE {
        thread::sleep(MOMENT);
        let now = slab()?;
        if (now - before).abs() < 64 {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}

/// CPU time of the process and its children, as [`cpu`] counts. Children that end meanwhile have none.
pub fn family_cpu(process: u32) -> Result<Duration> {
    let children = children(process)?.into_iter().filter_map(|child| cpu(child).ok());
    Ok(cpu(process)? + children.sum::<Duration>())
}

/// Memory of the process and its children, as [`memory`] counts. Children that end meanwhile have none.
pub fn family_memory(process: u32) -> Result<u64> {
    let children = children(process)?.into_iter().filter_map(|child| memory(child).ok());
    Ok(memory(process)? + children.sum::<u64>())
}

/// Ids of the children of its first thread.
pub fn children(process: u32) -> Result<Vec<u32>> {
    let ids = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
    Ok(ids.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// Whether there is a process of this id.
pub fn is_alive(process: u32) -> bool {
    fs::exists(format!("/proc/{process}")).unwrap_or(false)
}

/// Open file descriptors.
pub fn descriptors(process: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// Threads.
pub fn threads(process: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/task"))?.count())
}

/// Ids of the threads whose names begin so, sorted.
pub fn threads_called(process: u32, prefix: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?;
        // It may end meanwhile.
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if name.starts_with(prefix) {
            found.push(thread.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Lets this process have so many descriptors; fails if the system does not.
pub fn allow_descriptors(count: u64) -> Result<()> {
    let allowed = rlimit::increase_nofile_limit(count)?;
    ensure!(allowed >= count, "{allowed} descriptors may be open, {count} are needed");
    Ok(())
}

/// How often, and how long, it is waited for what the kernel frees.
const SETTLE: usize = 20;
const MOMENT: Duration = Duration::from_millis(200);
