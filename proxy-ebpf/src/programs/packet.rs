//! A packet in the kernel as a frame.
#![expect(unsafe_code, reason = "a packet is given by its addresses")]

use proxy_ebpf::Frame;

/// The linear bytes of a packet, from the address `start` up to `end`.
#[derive(Clone, Copy)]
pub(super) struct Packet {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Packet {
    /// As [`proxy_ebpf::FrameMut::write`].
    #[inline(always)]
    pub(super) fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let at = self.at::<N>(offset)?;
        // SAFETY: as for reading.
        unsafe { (at as *mut [u8; N]).write(bytes) };
        Some(())
    }

    /// The address of `N` bytes that are there.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<usize> {
        const { assert!(N >= 2, "see Frame::read") };
        let at = self.start + offset;
        (at + N <= self.end).then_some(at)
    }
}

impl Frame for Packet {
    #[inline(always)]
    fn length(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let at = self.at::<N>(offset)?;
        // SAFETY: the verifier refuses the program unless the line above proves these bytes to
        // be in the packet; bytes need no alignment.
        Some(unsafe { (at as *const [u8; N]).read() })
    }
}
