//! Redis, as one server, behind Sentinels or as a Cluster: how it is reached, and the store in it.
//!
//! The keys, and what is in them, are told in `docs/cluster.md`.

mod dial;
mod keys;
mod link;
mod log;
mod origins;
pub mod record;
mod records;
mod scripts;
mod store;
mod streams;

pub use self::link::{Link, LinkError, Script};
pub use self::store::{RedisLives, RedisStore};
