//! The cookie of an SRT listener: it proves that a caller receives at the address it writes from,
//! and the listener keeps nothing for it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::proto::srt::packet::SocketId;

/// How long a cookie is given out. It is taken for as long again.
const PERIOD: Duration = Duration::from_mins(1);

/// Bakes cookies with one key: the first four bytes of the HMAC-SHA256 of the caller's address,
/// its socket and the minute.
#[derive(Clone)]
pub struct Cookies {
    mac: Hmac<Sha256>,
    since: Instant,
}

impl Cookies {
    /// Of a random key; minutes are counted from `now` on.
    pub fn new(key: &[u8; 32], now: Instant) -> Self {
        // RFC 2104 2: a key shorter than the block is filled up with zeros.
        let mut block = [0; 64];
        if let Some(start) = block.first_chunk_mut() {
            *start = *key;
        }
        Self { mac: Hmac::new(&block.into()), since: now }
    }

    /// Never zero, which a caller's induction has.
    pub fn bake(&self, client: SocketAddr, socket: SocketId, now: Instant) -> NonZeroU32 {
        self.of_period(client, socket, self.period(now))
    }

    /// Whether the cookie was baked for this caller within this minute or the one before.
    pub fn is_fresh(
        &self,
        cookie: u32,
        client: SocketAddr,
        socket: SocketId,
        now: Instant,
    ) -> bool {
        let period = self.period(now);
        [Some(period), period.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|period| self.of_period(client, socket, period).get() == cookie)
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_secs() / PERIOD.as_secs()
    }

    fn of_period(&self, client: SocketAddr, socket: SocketId, period: u64) -> NonZeroU32 {
        let ip = match client.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mac = self
            .mac
            .clone()
            .chain_update(ip.octets())
            .chain_update(client.port().to_be_bytes())
            .chain_update(socket.0.to_be_bytes())
            .chain_update(period.to_be_bytes());
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        let first = digest.first_chunk().map_or(0, |first| u32::from_be_bytes(*first));
        NonZeroU32::new(first).unwrap_or(NonZeroU32::MIN)
    }
}

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_for_its_caller_for_a_minute_or_two() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let cookies = Cookies::new(&[7; 32], start);
        let client = "192.0.2.1:5000".parse().unwrap();
        let socket = SocketId(0x19d4_748e);
        for baked in [0, 59, 60, 3601] {
            let cookie = cookies.bake(client, socket, after(baked)).get();
            let is_fresh =
                |client, socket, at| cookies.is_fresh(cookie, client, socket, after(baked + at));
            assert!(is_fresh(client, socket, 0));
            assert!(is_fresh(client, socket, 60));
            assert!(!is_fresh(client, socket, 120), "two minutes old");
            for other in ["192.0.2.1:5001", "192.0.2.2:5000", "[2001:db8::1]:5000"] {
                assert!(!is_fresh(other.parse().unwrap(), socket, 0), "another client's");
            }
            assert!(!is_fresh(client, SocketId(0x19d4_748f), 0), "another socket's");
            let of_others = Cookies::new(&[8; 32], start);
            assert!(!of_others.is_fresh(cookie, client, socket, after(baked)), "of another key");
        }
        assert!(!cookies.is_fresh(0, client, socket, start));
    }

    #[test]
    fn an_address_is_the_same_on_a_socket_of_both_families() {
        let now = Instant::now();
        let cookies = Cookies::new(&[7; 32], now);
        let bake = |client: &str| cookies.bake(client.parse().unwrap(), SocketId(1), now);
        assert_eq!(bake("192.0.2.1:5000"), bake("[::ffff:192.0.2.1]:5000"));
    }
}
