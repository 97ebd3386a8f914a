//! The entry point of the TC ingress hook.
#![expect(unsafe_code, reason = "a program is found by its name, and helpers take addresses")]

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_loop, bpf_redirect, bpf_skb_load_bytes,
    bpf_skb_pull_data, bpf_skb_vlan_pop, bpf_skb_vlan_push,
};
use core::mem::MaybeUninit;
use proxy_ebpf::checksum::HOP_V6;
use proxy_ebpf::decide::{MAX_TRAIN, Train};
use proxy_ebpf::maps::Way;
use proxy_ebpf::parse::{Datagram, Family, MAX_HEADERS};
use proxy_ebpf::rewrite::headers;
use proxy_ebpf::{Arrival, Frame, FrameMut, Reason, TrainFrame, decide, parse};

use super::event::tell;
use super::maps::{DEVICES, Maps, count, tally};
use super::packet::Packet;

/// Leaves what does not go on to the next program or filter of the hook; the last one's default
/// is to pass.
///
/// The context has no type here, and no macro of aya's gives it one: its type points to two
/// others, which LLVM lists in the BTF by their addresses, so that two builds would differ.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn srs_tc_udp(ctx: *mut c_void) -> i32 {
    let skb = Skb(ctx.cast());
    match forward(skb) {
        Ok(action) => action,
        Err(reason) => {
            count(reason, skb.datagrams());
            tell(reason);
            TC_ACT_UNSPEC
        }
    }
}

/// Sends a datagram or a train of them on, or says why it passes up.
#[inline(always)]
fn forward(skb: Skb) -> Result<i32, Reason> {
    let (frame, datagram) = datagram(skb)?;
    let forward = decide(&frame, &datagram, skb.arrival(), &Maps)?;
    DEVICES.get_ifindex(forward.way.interface).ok_or(Reason::NoDevice)?;
    rewrite(skb, &datagram, forward.way).ok_or(Reason::NoRoom)?;
    count(Reason::Forwarded, forward.datagrams);
    tally(&datagram, &forward);
    // SAFETY: takes numbers only.
    Ok(unsafe { bpf_redirect(forward.way.interface, 0) } as i32)
}

/// The datagram in `skb`, of which a driver may have left headers in pages.
#[inline(always)]
fn datagram(skb: Skb) -> Result<(TcFrame, Datagram), Reason> {
    let mut is_pulled = false;
    loop {
        let frame = TcFrame::new(skb);
        match parse::datagram(&frame) {
            Ok(datagram) if skb.has_tag_besides(&datagram) => return Err(Reason::NotIp),
            Ok(datagram) => return Ok((frame, datagram)),
            // Without memory to pull them, the frame is taken for a truncated one.
            Err(Reason::Truncated) if !is_pulled && skb.pull(MAX_HEADERS) => is_pulled = true,
            Err(reason) => return Err(reason),
        }
    }
}

/// Changes what [`proxy_ebpf::rewrite::rewrite`] does, and what the kernel knows about the
/// checksum. `None` without memory: its bytes are as they were then, if not where they were.
#[inline(always)]
fn rewrite(skb: Skb, datagram: &Datagram, way: &Way) -> Option<()> {
    // Headers that others hold as well are copied here. What is below changes them in place, and
    // finds nothing to object to.
    if !skb.pull(datagram.payload() as u32) || !skb.tag(datagram, way) {
        return None;
    }
    let datagram = Datagram { is_tagged: false, ..*datagram };
    skb.checksum(&datagram, way);
    headers(&mut TcFrame::new(skb), &datagram, way)
}

/// The packet's context.
#[derive(Clone, Copy)]
struct Skb(*mut __sk_buff);

impl Skb {
    /// What the kernel knows of the packet.
    #[inline(always)]
    fn arrival(self) -> Arrival {
        // SAFETY: the kernel hands its own context in; the verifier knows which fields it has.
        unsafe {
            Arrival {
                interface: (*self.0).ifindex,
                vlan: ((*self.0).vlan_tci as u16).to_be_bytes(),
                to_us: (*self.0).pkt_type == PACKET_HOST,
                finishes_checksums: true,
                segment: (*self.0).gso_size,
            }
        }
    }

    /// How many the kernel has merged into this one.
    #[inline(always)]
    fn datagrams(self) -> u32 {
        // SAFETY: as in `arrival`.
        unsafe { (*self.0).gso_segs }.max(1)
    }

    /// Whether there is a VLAN tag beside the frame.
    #[inline(always)]
    fn has_tag(self) -> bool {
        // SAFETY: as in `arrival`.
        unsafe { (*self.0).vlan_present != 0 }
    }

    /// Whether there is one that is not the only one, or a provider's.
    #[inline(always)]
    fn has_tag_besides(self, datagram: &Datagram) -> bool {
        // SAFETY: as in `arrival`.
        let protocol = unsafe { (*self.0).vlan_proto };
        self.has_tag() && (datagram.is_tagged || protocol != u32::from(CUSTOMER_TAG.to_be()))
    }

    /// Makes so many bytes, or all there are, linear and this packet's own; all addresses in it
    /// are void then.
    #[inline(always)]
    fn pull(self, most: u32) -> bool {
        // SAFETY: as in `arrival`.
        let length = unsafe { (*self.0).len }.min(most);
        // SAFETY: takes the context and a number, and checks it.
        unsafe { bpf_skb_pull_data(self.0, length) == 0 }
    }

    /// Takes the packet's tag off, wherever it is, and puts the way's on.
    #[inline(always)]
    fn tag(self, datagram: &Datagram, way: &Way) -> bool {
        let is_tagged = datagram.is_tagged || self.has_tag();
        // SAFETY: takes the context, whose addresses are not used behind it.
        if is_tagged && unsafe { bpf_skb_vlan_pop(self.0) } != 0 {
            return false;
        }
        let tag = u16::from_be_bytes(way.vlan);
        // SAFETY: as above, and numbers.
        tag == 0 || unsafe { bpf_skb_vlan_push(self.0, CUSTOMER_TAG.to_be(), tag) } == 0
    }

    /// Changes UDP's checksum in whatever state it is: whole, left to the network card, or known
    /// as the sum of all that is behind Ethernet.
    #[inline(always)]
    fn checksum(self, datagram: &Datagram, way: &Way) {
        let at = (datagram.payload() - 2) as u32;
        let flags = u64::from(BPF_F_MARK_MANGLED_0);
        let (addresses, ports) = (way.addresses_delta, way.ports_delta);
        // SAFETY: takes the context and numbers; what it checks of them has been made sure of.
        unsafe {
            let pseudo_header = flags | u64::from(BPF_F_PSEUDO_HDR);
            bpf_l4_csum_replace(self.0, at, 0, u64::from(addresses), pseudo_header);
            bpf_l4_csum_replace(self.0, at, 0, u64::from(ports), flags);
        }
        // Over IPv4 the header's own checksum keeps the sum of all as it was. IPv6 has none: its
        // addresses are in the sum, and its hops.
        if datagram.family == Family::V6 {
            // SAFETY: takes the context and a number.
            unsafe { bpf_csum_update(self.0, u32::from(addresses) + HOP_V6) };
        }
    }
}

/// A frame whose headers are linear; the rest may be in pages.
struct TcFrame {
    skb: Skb,
    packet: Packet,
}

impl TcFrame {
    #[inline(always)]
    fn new(skb: Skb) -> Self {
        // SAFETY: as in `Skb::arrival`.
        let (start, end) = unsafe { ((*skb.0).data as usize, (*skb.0).data_end as usize) };
        Self { skb, packet: Packet { start, end } }
    }
}

impl Frame for TcFrame {
    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: as in `Skb::arrival`.
        unsafe { (*self.skb.0).len as usize }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.packet.read(offset)
    }

    #[inline(always)]
    fn read_payload<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: `bytes` has room for the `N` bytes, and has them if the kernel says so.
        unsafe {
            let to = bytes.as_mut_ptr().cast();
            let failed = bpf_skb_load_bytes(self.skb.0.cast(), offset as u32, to, N as u32) != 0;
            (!failed).then(|| bytes.assume_init())
        }
    }
}

impl TrainFrame for TcFrame {
    /// Unrolled, or as a loop that it has to follow, this would be too much for the verifier.
    #[inline(always)]
    fn walk(&self, train: &mut Train) {
        let mut walk = Walk { skb: self.skb, train: *train };
        let step = step as extern "C" fn(u64, *mut c_void) -> i64;
        // SAFETY: `step` gets the address of `walk`, which is alive and nobody else's meanwhile.
        unsafe { bpf_loop(MAX_TRAIN, step as *mut c_void, (&raw mut walk).cast(), 0) };
        *train = walk.train;
    }
}

/// What `step` is given.
struct Walk {
    skb: Skb,
    train: Train,
}

/// One step of a walk; 1 ends it.
#[inline(never)]
extern "C" fn step(_index: u64, walk: *mut c_void) -> i64 {
    // SAFETY: `TcFrame::walk` has given this address.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let frame = TcFrame { skb: walk.skb, packet: Packet { start: 0, end: 0 } };
    i64::from(!walk.train.step(&frame))
}

impl FrameMut for TcFrame {
    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.packet.write(offset, bytes)
    }
}

/// A packet for this host's own MAC (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;
/// IEEE 802.1Q 9.6.
const CUSTOMER_TAG: u16 = 0x8100;
