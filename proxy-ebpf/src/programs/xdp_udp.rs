//! The entry point of the XDP hook.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use super::count;
use super::packet::Packet;

#[xdp]
fn srs_xdp_udp(ctx: XdpContext) -> u32 {
    count(&Packet { start: ctx.data(), end: ctx.data_end() });
    XDP_PASS
}
