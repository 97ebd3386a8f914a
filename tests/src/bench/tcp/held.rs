//! What the host of a relay holds of a session: bytes that the origin's host has been told to have
//! arrived, and that have not arrived at the player's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::feeder::Feeder;
use super::players::Player;
use crate::process;

/// Asks the kernel by ss(8), which is no part of what is measured.
///
/// It counts at both ends, outside of the relay, in each connection's whole life: what is
/// acknowledged to the origin (RFC 4898 `tcpEStatsAppHCThruOctetsAcked`) less what has been received by
/// the player's socket (`tcpEStatsAppHCThruOctetsReceived`), read or not. So what waits in the origin's
/// send queue and in the player's receive queue is not in it; what waits in the relay's receive
/// queue, its memory, its pipes and its send queue is.
pub(super) struct Held {
    origin: SocketAddr,
    relay: SocketAddr,
    feeder: Arc<Feeder>,
}

impl Held {
    pub(super) fn new(origin: SocketAddr, relay: SocketAddr, feeder: Arc<Feeder>) -> Self {
        Self { origin, relay, feeder }
    }

    /// Bytes of the session of which most is held now.
    pub(super) fn most(&self, players: &[Player]) -> Result<u64> {
        let (origin, relay) = (self.origin.port(), self.relay.port());
        let filter = format!("( sport = :{origin} or dport = :{relay} )");
        let output = Command::new(process::find("ss")?).args(["-tinHO", &filter]).output()?;
        ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let sockets: HashMap<_, _> = text.lines().filter_map(socket).collect();
        let mut most = 0;
        for player in players {
            let at_player = (player.socket().local_addr()?, self.relay);
            let from = self.feeder.address_of(&player.stream).context("no such stream")?;
            let [received, acknowledged] = [
                sockets.get(&at_player).context("no such player")?.received,
                sockets.get(&(self.origin, from)).context("no such session")?.acknowledged,
            ];
            most = most.max(acknowledged.saturating_sub(received));
        }
        Ok(most)
    }
}

/// Bytes of a connection's whole life.
#[derive(Debug, PartialEq, Eq)]
struct Bytes {
    acknowledged: u64,
    received: u64,
}

/// A line of ss: a socket's own address and that of its peer, and its bytes.
fn socket(line: &str) -> Option<((SocketAddr, SocketAddr), Bytes)> {
    let mut words = line.split_ascii_whitespace();
    // State, receive queue and send queue come first.
    let addresses = (words.nth(3)?.parse().ok()?, words.next()?.parse().ok()?);
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
    fn a_line_of_ss_tells_addresses_and_bytes() -> Result<()> {
        let line = "ESTAB 12 0 127.0.0.1:1935 127.0.0.1:40000 cubic wscale:7,7 \
                    bytes_sent:900 bytes_acked:700 bytes_received:33 segs_out:3";
        let addresses = ("127.0.0.1:1935".parse()?, "127.0.0.1:40000".parse()?);
        let bytes = Bytes { acknowledged: 700, received: 33 };
        assert_eq!(socket(line), Some((addresses, bytes)));
        Ok(())
    }

    #[test]
    fn a_line_of_anything_else_is_none() {
        for line in ["", "ESTAB 0 0", "ESTAB 0 0 a b bytes_acked:1"] {
            assert_eq!(socket(line), None, "{line:?}");
        }
    }
}
