//! Sockets in.

pub mod tcp;
