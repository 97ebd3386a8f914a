//! A packet in the kernel as a frame.
#![expect(unsafe_code, reason = "a packet is given by its addresses")]

use proxy_ebpf::Frame;

/// The linear bytes of a packet, from the address `start` up to `end`.
pub(super) struct Packet {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Frame for Packet {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        const { assert!(N >= 2, "see Frame::read") };
        let at = self.start + offset;
        if at + N > self.end {
            return None;
        }
        // SAFETY: the verifier refuses the program unless the line above proves these bytes to
        // be in the packet; bytes need no alignment.
        Some(unsafe { (at as *const [u8; N]).read() })
    }
}
