//! The plane in the kernel: flows whose media never reaches this process.

pub mod hops;
pub mod privilege;
pub mod programs;
