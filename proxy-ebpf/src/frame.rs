//! Bounds-checked reading of a frame, wherever its bytes are.

/// The bytes of one Ethernet frame: a slice on the host, a packet in the kernel.
pub trait Frame {
    /// The `N` bytes at `offset`, or `None` where the frame ends before. `N` is at least 2:
    /// LLVM folds the check for one byte into a form that the verifier does not follow.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Frame for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}
