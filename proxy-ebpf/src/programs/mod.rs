//! What an object must have beside its programs and maps.
#![expect(unsafe_code, reason = "found by name and by section")]

mod event;
mod maps;
mod packet;
mod tc_udp;
mod xdp_udp;

use proxy_ebpf::contract::MARK;

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
