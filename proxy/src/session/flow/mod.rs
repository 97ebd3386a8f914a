//! The sessions whose datagrams are told apart by names and addresses.
//!
//! [`FlowTable`] is pure: it knows each session's names, the addresses at which its client was
//! seen, and the one by which media goes; it tells a plane about that one, and no plane asks it
//! anything. [`Dropped`] counts what belongs to no session.

mod dropped;
mod table;

pub use self::dropped::{Dropped, Drops};
pub use self::table::{FlowId, FlowTable, Learnt, Media, Name};
