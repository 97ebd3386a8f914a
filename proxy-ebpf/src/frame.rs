//! Bounds-checked reading and writing of a frame, wherever its bytes are.

/// The bytes of one Ethernet frame: a slice on the host, a packet in the kernel.
pub trait Frame {
    /// Bytes in it.
    fn length(&self) -> usize;

    /// The `N` bytes at `offset`, or `None` where the frame ends before. `N` is at least 2:
    /// LLVM folds the check for one byte into a form that the verifier does not follow.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// As [`Frame::read`], of bytes behind the headers, which can be elsewhere in memory.
    #[expect(
        clippy::inline_always,
        reason = "the verifier follows packet pointers only within one function"
    )]
    #[inline(always)]
    fn read_payload<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.read(offset)
    }
}

/// A frame that can be changed.
pub trait FrameMut: Frame {
    /// Puts `bytes` at `offset`; `None`, and nothing is changed, where the frame ends before.
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;
}

/// A frame whose start can be moved.
pub trait MovableFrame: FrameMut {
    /// Moves the start of the frame by this many bytes: back for more room, ahead for less.
    /// `None`, and nothing is changed, if there is no room.
    fn move_start(&mut self, by: i32) -> Option<()>;
}

impl Frame for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}
