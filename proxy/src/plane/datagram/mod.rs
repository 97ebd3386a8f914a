//! How the datagrams of a session move: through [`Lanes`], and by the kernel where that is told of
//! the same flows and can carry them.

mod course;
mod lane;
mod lanes;
mod offload;
mod planes;
mod socket;
mod system;
mod train;

pub use self::course::{Amounts, Course, Engine, Refused, Standing};
pub use self::lane::{Exit, Gone, Lane, Outlet};
pub use self::lanes::Lanes;
pub use self::offload::{Delta, Flow, FlowEnds, FlowKey, Medium, Offload, Progress};
pub use self::planes::Planes;
pub use self::socket::{Joins, Sent, Socket};
pub use self::train::Train;
