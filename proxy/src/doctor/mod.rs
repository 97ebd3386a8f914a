//! What this host has of that which the fast paths need, as a table for the operator.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod streams;
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

/// Examines this host. Loads the programs, if it may, and attaches nothing; then gives up the rights
/// that the proxy gives up, and starts the threads of streams for a moment.
#[cfg(target_os = "linux")]
pub fn examine(kernel: &config::Kernel, tcp: &config::Tcp) -> Report {
    let mut findings = linux::examine(kernel);
    findings.extend(streams::examine(tcp));
    table::report(&findings)
}

/// Examines nothing.
#[cfg(not(target_os = "linux"))]
pub fn examine(_: &config::Kernel, _: &config::Tcp) -> Report {
    let text =
        "Media is forwarded or spliced in the kernel on Linux alone; the relay carries it here.\n";
    Report { text: text.into(), works: false }
}
