//! The contract between the programs in the kernel and the daemon: what becomes of a frame, and
//! the maps through which both speak. The programs are this crate's binary.
//!
//! A frame goes [`parse`] -> [`decide`] (with [`media`]) -> [`rewrite`] (with [`checksum`]), or
//! passes up for one [`reason`]. The same code runs in the kernel and, tested, on the host.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod checksum;
pub mod contract;
pub mod decide;
pub mod frame;
pub mod maps;
pub mod media;
pub mod parse;
#[cfg(feature = "aya")]
mod pod;
pub mod reason;
pub mod rewrite;

pub use self::contract::CONTRACT;
pub use self::decide::{Arrival, Flows, Forward, TrainFrame, decide};
pub use self::frame::{Frame, FrameMut, MovableFrame};
pub use self::reason::Reason;
