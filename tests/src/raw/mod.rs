//! Scripted HTTP peers: a client and an origin, on an implementation that is not the proxy's.
//!
//! Both read strictly by RFC 9112 and send whatever they are told to.

mod client;
mod message;
mod origin;

pub use self::client::Client;
pub use self::message::{Head, Request, Response};
pub use self::origin::{Exchange, Origin};
