//! What the programs in the kernel cost, alone: by test runs, and by frames that pass through
//! interfaces.

mod frames;
mod object;
mod packet;
mod programs;
mod script;

pub use self::frames::frames;
pub use self::programs::programs;
