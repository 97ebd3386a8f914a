//! The programs in the kernel: loaded, attached, pinned.
