//! A packet in the kernel as a frame.
#![expect(unsafe_code, reason = "a packet is given by its addresses")]

use core::arch::asm;
use core::mem::MaybeUninit;

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
        let from = Words(bytes);
        // SAFETY: as for reading.
        unsafe { put::<N>((&raw const from).cast(), at as *mut u8) };
        Some(())
    }

    /// The address of `N` bytes that are there.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<usize> {
        const { assert!(N >= 2 && N % 2 == 0, "see Frame::read") };
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
        let mut to = MaybeUninit::<Words<N>>::uninit();
        // SAFETY: the verifier refuses the program unless the line above proves these bytes to
        // be in the packet. All of `to` is written.
        unsafe {
            take::<N>(at as *const u8, to.as_mut_ptr().cast());
            Some(to.assume_init().0)
        }
    }
}

/// Bytes that the compiler can move in words: one by one they take the kernel twice as long.
#[repr(align(8))]
struct Words<const N: usize>([u8; N]);

/// Copies `N` bytes out of a packet, in words as far as they go, wherever they stand: the kernel
/// sees to it that the machine can read them. In Rust a word would have to be aligned, and the
/// compiler would move bytes.
#[inline(always)]
unsafe fn take<const N: usize>(packet: *const u8, to: *mut u8) {
    let mut at = 0;
    // SAFETY: `at` stays below `N`, for which the caller vouches on both sides; `to` is aligned.
    unsafe {
        while at + 4 <= N {
            let word: u32;
            asm!(
                "{word} = *(u32 *)({from} + 0)",
                word = lateout(wreg) word,
                from = in(reg) packet.add(at),
                options(pure, readonly, nostack)
            );
            to.add(at).cast::<u32>().write(word);
            at += 4;
        }
        if at < N {
            let half: u16;
            asm!(
                "{half} = *(u16 *)({from} + 0)",
                half = lateout(wreg) half,
                from = in(reg) packet.add(at),
                options(pure, readonly, nostack)
            );
            to.add(at).cast::<u16>().write(half);
        }
    }
}

/// Copies `N` bytes into a packet, as [`take`].
#[inline(always)]
unsafe fn put<const N: usize>(from: *const u8, packet: *mut u8) {
    let mut at = 0;
    // SAFETY: as in `take`.
    unsafe {
        while at + 4 <= N {
            asm!(
                "*(u32 *)({to} + 0) = {word}",
                to = in(reg) packet.add(at),
                word = in(wreg) from.add(at).cast::<u32>().read(),
                options(nostack)
            );
            at += 4;
        }
        if at < N {
            asm!(
                "*(u16 *)({to} + 0) = {half}",
                to = in(reg) packet.add(at),
                half = in(wreg) from.add(at).cast::<u16>().read(),
                options(nostack)
            );
        }
    }
}
