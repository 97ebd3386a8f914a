//! What this host has of that which the kernel path needs, as a table for the operator.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod table;

use crate::config;

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// For standard output.
    pub text: String,
    /// Whether the kernel path can work here.
    pub works: bool,
}

/// Examines this host. Loads the programs, if it may, and attaches nothing.
#[cfg(target_os = "linux")]
pub fn examine(settings: &config::Kernel) -> Report {
    table::report(&linux::examine(settings))
}

/// Examines nothing.
#[cfg(not(target_os = "linux"))]
pub fn examine(_: &config::Kernel) -> Report {
    let text = "Media is forwarded in the kernel on Linux alone; the relay carries it here.\n";
    Report { text: text.into(), works: false }
}
