//! The entry point of the XDP hook.
#![expect(unsafe_code, reason = "the kernel's helpers take addresses")]

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use proxy_ebpf::rewrite::rewrite;
use proxy_ebpf::{Arrival, Frame, FrameMut, MovableFrame, Reason, TrainFrame, decide, parse};

use super::event::tell;
use super::maps::{DEVICES, Maps, count, tally};
use super::packet::Packet;

#[xdp]
fn srs_xdp_udp(ctx: XdpContext) -> u32 {
    match forward(&ctx) {
        Ok(action) => action,
        Err(reason) => {
            count(reason, 1);
            tell(reason);
            XDP_PASS
        }
    }
}

/// Sends a datagram on, or says why it passes up.
#[inline(always)]
fn forward(ctx: &XdpContext) -> Result<u32, Reason> {
    let mut frame = XdpFrame::new(ctx);
    let datagram = parse::datagram(&frame)?;
    // SAFETY: the kernel hands its own context in.
    let arrival = Arrival::xdp(unsafe { (*ctx.ctx).ingress_ifindex });
    let forward = decide(&frame, &datagram, arrival, &Maps)?;
    // It stays without effect as long as this program does not answer with it.
    let action = DEVICES.redirect(forward.way.interface, XDP_PASS.into());
    let action = action.map_err(|_passes| Reason::NoDevice)?;
    rewrite(&mut frame, &datagram, forward.way).ok_or(Reason::NoRoom)?;
    count(Reason::Forwarded, 1);
    tally(&datagram, &forward);
    Ok(action)
}

/// A frame and the context that can move its start.
struct XdpFrame<'a> {
    ctx: &'a XdpContext,
    packet: Packet,
}

impl<'a> XdpFrame<'a> {
    #[inline(always)]
    fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx, packet: Packet { start: ctx.data(), end: ctx.data_end() } }
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.packet.length()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.packet.read(offset)
    }
}

/// Merged datagrams do not come to this hook.
impl TrainFrame for XdpFrame<'_> {}

impl FrameMut for XdpFrame<'_> {
    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.packet.write(offset, bytes)
    }
}

impl MovableFrame for XdpFrame<'_> {
    #[inline(always)]
    fn move_start(&mut self, by: i32) -> Option<()> {
        // SAFETY: the context is this run's; the addresses that it makes void are read anew.
        if unsafe { bpf_xdp_adjust_head(self.ctx.ctx, by) } != 0 {
            return None;
        }
        *self = Self::new(self.ctx);
        Some(())
    }
}
