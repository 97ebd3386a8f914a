//! The portable relay: always compiled, the reference that every other plane must equal.

pub mod stream;
