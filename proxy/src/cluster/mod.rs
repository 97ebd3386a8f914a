//! What the proxies of a fleet share.

pub mod redis;
