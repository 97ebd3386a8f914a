//! The entry point of the TC ingress hook.
#![expect(unsafe_code, reason = "a program is found by its name and its section")]

use core::ffi::c_void;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::programs::TcContext;
use proxy_ebpf::parse::MAX_HEADERS;

use super::count;
use super::packet::Packet;

/// Leaves the verdict to the next program or filter of the hook; the last one's default is to
/// pass.
///
/// The context has no type here, and no macro of aya's gives it one: its type points to two
/// others, which LLVM lists in the BTF by their addresses, so that two builds would differ.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn srs_tc_udp(ctx: *mut c_void) -> i32 {
    let ctx = TcContext::new(ctx.cast());
    let headers = ctx.len().min(MAX_HEADERS);
    if ctx.data() + headers as usize > ctx.data_end() {
        // A driver left headers in pages. Without memory to pull them, the frame is taken for
        // a truncated one, and passes as well.
        let _ = ctx.pull_data(headers);
    }
    count(&Packet { start: ctx.data(), end: ctx.data_end() });
    TC_ACT_UNSPEC
}
