//! What proxies of one address share, so that they act as one.

pub mod memory;
pub mod redis;
pub mod store;
