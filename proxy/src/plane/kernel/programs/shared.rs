//! A map of the kernel's in this process's memory.
#![expect(unsafe_code, reason = "memory that the kernel gives is known by its address alone")]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The values of an array map, as words. It must have been made with `BPF_F_MMAPABLE`.
#[derive(Debug)]
pub(super) struct Shared {
    start: NonNull<AtomicU64>,
    words: usize,
}

impl Shared {
    /// The first `words` of `map`; refused where it has fewer.
    pub(super) fn new(map: impl AsFd, words: usize) -> io::Result<Self> {
        let bytes = words.checked_mul(size_of::<AtomicU64>()).and_then(NonZeroUsize::new);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, where the kernel likes it, takes nobody's memory.
        let start = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self { start: start.cast(), words })
    }

    /// The words. Programs in the kernel change them at any time.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, begins at a page, and lives as long as `self`.
        // This process touches it by atomics only; the programs store whole aligned numbers.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this size, and every borrow of its words has ended.
        let _unmapped = unsafe { munmap(self.start.cast(), self.words * size_of::<AtomicU64>()) };
    }
}

// SAFETY: it is plain memory that belongs to no thread, and its words are atomics.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}
