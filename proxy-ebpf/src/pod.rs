//! Keys and values, to the library that hands them to the kernel.
#![expect(unsafe_code, reason = "only we know that they have no padding")]

use aya::Pod;

use crate::maps::{Key, Memo, Tally, Way};

// SAFETY: arrays of bytes, and nothing between them: its size is asserted.
unsafe impl Pod for Key {}
// SAFETY: whole numbers and arrays of bytes; the sum of their sizes is the size that is asserted.
unsafe impl Pod for Way {}
// SAFETY: as above.
unsafe impl Pod for Tally {}
// SAFETY: as above.
unsafe impl Pod for Memo {}
