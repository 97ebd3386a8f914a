//! One address for a media cluster. Follow a packet through the folders:
//!
//! 1. [`listen`]: sockets in.
//! 2. [`proto`]: what the bytes mean. Parsers and writers without I/O.
//! 3. [`stream`]: what the client wants, as one [`stream::StreamKey`].
//! 4. [`origin`]: who serves it, and always the same one.
//! 5. [`session`]: one client, both legs, until its [`session::End`].
//! 6. [`plane`]: how the bytes move from then on.
//!
//! Beside the way stand [`cluster`], [`config`], [`api`], [`pages`], [`metrics`], [`telemetry`],
//! [`doctor`] and [`drain`]; [`app`] wires them.

pub mod api;
pub mod app;
pub mod cluster;
pub mod config;
pub mod doctor;
pub mod drain;
pub mod listen;
pub mod metrics;
pub mod origin;
pub mod pages;
pub mod plane;
pub mod proto;
pub mod session;
pub mod stream;
pub mod telemetry;
