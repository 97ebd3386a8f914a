//! Rare events for the log: packets of known flows that had to pass up.
#![expect(unsafe_code, reason = "values of maps are given by address")]

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_log_ebpf::debug;
use aya_log_ebpf::macro_support::{Level, level_enabled};
use proxy_ebpf::Reason;

/// Tells the daemon that a packet passes up for `reason`, if that is rare and the daemon has asked
/// for it when it loaded the programs. Where it has not, the verifier takes all of this out.
#[inline(always)]
pub(super) fn tell(reason: Reason) {
    let is_rare = matches!(
        reason,
        Reason::OtherInterface
            | Reason::LastHop
            | Reason::TooLarge
            | Reason::PartialChecksum
            | Reason::Merged
            | Reason::NoDevice
            | Reason::NoRoom
    );
    if is_rare && level_enabled(Level::Debug) && is_due() {
        write(reason as u32);
    }
}

/// The number alone, for which the daemon has the word. A function of its own: it would be in each
/// program more than once.
#[inline(never)]
fn write(reason: u32) {
    debug!((), "{}", reason);
}

/// At most once a second on each CPU.
#[inline(always)]
fn is_due() -> bool {
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let Some(last) = LAST.get_ptr_mut(0) else { return false };
    // SAFETY: a value of this CPU, alive as long as the program.
    unsafe {
        let is_due = now.wrapping_sub(*last) >= SECOND;
        if is_due {
            *last = now;
        }
        is_due
    }
}

/// When the last event was written.
#[map(name = "LAST_EVENT")]
static LAST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

const SECOND: u64 = 1_000_000_000;
