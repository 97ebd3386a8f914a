//! What the host of a relay holds of a session: bytes that the origin's host has been told to have
//! arrived, and that have not arrived at the player's.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::feeder::Feeder;
use super::players::Player;
use crate::ss;

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
        let sockets = ss::connections(&filter)?;
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
