//! Redis, as one server, behind Sentinels or as a Cluster.

mod dial;
mod link;

pub use self::link::{Link, LinkError, Script};
