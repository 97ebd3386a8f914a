//! How the datagrams of a session move: through [`Lanes`], or by a faster plane that has been told
//! of the same flows.

mod lane;
mod lanes;
mod offload;
mod socket;
mod system;
mod train;

pub use self::lane::{Exit, Gone, Lane, Outlet};
pub use self::lanes::Lanes;
pub use self::offload::{Delta, Flow, FlowKey, Offload, Refused};
pub use self::socket::{Joins, Sent, Socket};
pub use self::train::Train;

/// Why datagrams go through userspace.
pub const WHY_RELAY: &str = "this version has no faster datagram plane";
