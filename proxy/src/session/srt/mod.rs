//! An SRT session, from a caller's induction to its end.
//!
//! The machines say what should happen: [`Door`] answers inductions and checks conclusions, and
//! keeps nothing; [`OriginHandshake`] repeats one conclusion at an origin and brings the answer
//! back; [`Established`] notices shutdowns, and a client that comes from another address.

mod cookie;
mod door;
mod established;
#[cfg(test)]
mod fuzz;
mod handshake;
#[cfg(test)]
mod recorded;

pub use self::cookie::Cookies;
pub use self::door::{Asked, Door, Dropped, Knock};
pub use self::established::{Established, Verdict};
pub use self::handshake::{Action, OriginHandshake};
