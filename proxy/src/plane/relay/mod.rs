//! The portable relay: always compiled, the reference that every other plane must equal.

pub mod filter;
pub mod stream;
pub mod watch;
