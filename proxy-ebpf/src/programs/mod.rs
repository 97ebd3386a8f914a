//! What both programs share: the counters, and what an object must have.
#![expect(unsafe_code, reason = "programs, maps and packets are given by address and by name")]

mod packet;
mod tc_udp;
mod xdp_udp;

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use proxy_ebpf::contract::MARK;
use proxy_ebpf::maps::{self, Counter};
use proxy_ebpf::{Frame, classify};

/// Classifies `frame` and counts it.
#[inline(always)]
fn count(frame: &impl Frame) {
    let reason = classify(frame);
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: a value of this CPU, alive as long as the program. Both hooks run in the same
        // kind of softirq, which does not interrupt itself; elsewhere a count could be lost.
        unsafe { *counter += 1 };
    }
}

#[map(name = "SRS_COUNTERS")]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(maps::COUNTERS.capacity, 0);

/// Read by `contract_of` before the object is used.
#[unsafe(no_mangle)]
#[unsafe(link_section = "contract")]
static SRS_CONTRACT: [u8; MARK.len()] = MARK;

/// MIT, which the kernel knows by this name only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The verifier refuses what could come here.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
