//! What ss(8) tells of TCP connections: bytes of their whole lives.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::process;

/// Bytes of one connection, as its own end has counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// That the peer has acknowledged (RFC 4898 `tcpEStatsAppHCThruOctetsAcked`).
    pub acknowledged: u64,
    /// That have come, whether or not they were read (`tcpEStatsAppHCThruOctetsReceived`).
    pub received: u64,
}

/// The established connections of this network namespace that a filter of ss's lets through, such as
/// `sport = :1935`, each by its own address and its peer's.
pub fn connections(filter: &str) -> Result<HashMap<(SocketAddr, SocketAddr), Bytes>> {
    let mut ss = Command::new(process::find("ss")?);
    let output = ss.args(["-tinHO", "state", "established", filter]).output()?;
    ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(connection).collect())
}

/// The connection that a line tells of.
fn connection(line: &str) -> Option<((SocketAddr, SocketAddr), Bytes)> {
    let mut words = line.split_ascii_whitespace();
    // Receive queue and send queue come first; the state is left out where it was asked for.
    let addresses = (words.nth(2)?.parse().ok()?, words.next()?.parse().ok()?);
    // Counters of nothing are left out.
    let count = |name| {
        let value = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
        value.and_then(|value: &str| value.parse().ok()).unwrap_or(0)
    };
    let (acknowledged, received) = (count("bytes_acked:"), count("bytes_received:"));
    Some((addresses, Bytes { acknowledged, received }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_addresses_and_bytes() -> Result<()> {
        let line = "12 0 127.0.0.1:1935 127.0.0.1:40000 cubic wscale:7,7 bytes_sent:900 \
                    bytes_acked:700 bytes_received:33 segs_out:3";
        let addresses = ("127.0.0.1:1935".parse()?, "127.0.0.1:40000".parse()?);
        let bytes = Bytes { acknowledged: 700, received: 33 };
        assert_eq!(connection(line), Some((addresses, bytes)));
        Ok(())
    }

    #[test]
    fn a_line_of_anything_else_is_none() {
        for line in ["", "0 0", "0 0 a b bytes_acked:1"] {
            assert_eq!(connection(line), None, "{line:?}");
        }
    }
}
