//! The contract between the programs in the kernel and the daemon: what a frame is taken for,
//! and the maps through which both speak. The programs are this crate's binary.
//!
//! A frame goes [`frame`] -> [`parse`] -> [`reason`], and is counted in [`maps`]. The same code
//! runs in the kernel and, tested, on the host.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod contract;
pub mod frame;
pub mod maps;
pub mod parse;
#[cfg(feature = "aya")]
mod pod;
pub mod reason;

pub use self::contract::CONTRACT;
pub use self::frame::Frame;
pub use self::parse::classify;
pub use self::reason::Reason;
