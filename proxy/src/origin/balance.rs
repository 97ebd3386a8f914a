//! The policies by which a new stream gets its origin.

use super::origin::ServerName;
use crate::stream::StreamKey;

/// How a new stream gets its origin. Once placed, it stays, whatever the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The origin with the fewest streams; among equals, the one that rendezvous would take.
    #[default]
    LeastStreams,
    /// Any.
    Random,
    /// The highest random weight of stream and origin: proxies that know the same origins agree
    /// without talking, and an origin that leaves moves only its own streams.
    Rendezvous,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::LeastStreams, Self::Random, Self::Rendezvous];

    /// The word of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeastStreams => "least-streams",
            Self::Random => "random",
            Self::Rendezvous => "rendezvous",
        }
    }
}

/// An origin that may get the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) server: ServerName,
    /// Streams routed to it.
    pub(super) streams: usize,
}

/// Chooses one of the candidates; `roll` is a random number. None only if there are none.
pub(super) fn choose<'a>(
    policy: Policy,
    key: &StreamKey,
    candidates: &'a [Candidate],
    roll: u64,
) -> Option<&'a Candidate> {
    let of_key = fnv1a(key.as_str().bytes());
    let weight = |candidate: &&Candidate| weight(of_key, &candidate.server);
    match policy {
        Policy::LeastStreams => {
            let least = candidates.iter().map(|candidate| candidate.streams).min()?;
            candidates.iter().filter(|candidate| candidate.streams == least).max_by_key(weight)
        }
        Policy::Random => {
            let count = u64::try_from(candidates.len()).ok()?;
            candidates.get(usize::try_from(roll.checked_rem(count)?).ok()?)
        }
        Policy::Rendezvous => candidates.iter().max_by_key(weight),
    }
}

/// The same on every machine and in every version: proxies compare their results.
fn weight(of_key: u64, server: &ServerName) -> u64 {
    scramble(scramble(of_key) ^ fnv1a(server.as_str().bytes()))
}

/// FNV-1a, 64 bits (draft-eastlake-fnv).
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finalizer of `SplitMix64`: FNV leaves the high bits of similar names alike, and the
/// highest weight is decided by these.
pub(super) fn scramble(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::stream::{Ask, Vhosts};

    fn key(stream: usize) -> StreamKey {
        let target = format!("/live/stream-{stream}.flv");
        let ask = Ask::Http { host: None, target: &target };
        StreamKey::new(&ask, &Vhosts::default()).unwrap()
    }

    fn candidates(names: &[&str]) -> Vec<Candidate> {
        let candidate = |name: &&str| Candidate { server: (*name).into(), streams: 0 };
        names.iter().map(candidate).collect()
    }

    fn placed(policy: Policy, candidates: &[Candidate], streams: usize) -> Vec<String> {
        let roll = |n: usize| scramble(n as u64);
        let place = |n| choose(policy, &key(n), candidates, roll(n)).unwrap().server.to_string();
        (0..streams).map(place).collect()
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a("".bytes()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a".bytes()), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar".bytes()), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn random_and_rendezvous_spread_streams_evenly() {
        let origins = candidates(&["vid-1", "vid-2", "vid-3", "vid-4"]);
        for policy in [Policy::Random, Policy::Rendezvous] {
            let mut counts = BTreeMap::<_, usize>::new();
            for server in placed(policy, &origins, 4000) {
                *counts.entry(server).or_default() += 1;
            }
            let even = counts.len() == 4 && counts.values().all(|n| (900..=1100).contains(n));
            assert!(even, "{}: {counts:?}", policy.as_str());
        }
    }

    #[test]
    fn rendezvous_moves_only_the_streams_of_the_origin_that_left() {
        let all = placed(Policy::Rendezvous, &candidates(&["a", "b", "c"]), 1000);
        let without_b = placed(Policy::Rendezvous, &candidates(&["c", "a"]), 1000);
        for (before, after) in all.iter().zip(&without_b) {
            assert!(before == "b" || before == after, "{before} moved to {after}");
        }
    }

    #[test]
    fn least_streams_takes_the_emptiest_and_asks_rendezvous_among_equals() {
        let mut origins = candidates(&["a", "b", "c"]);
        for (origin, streams) in origins.iter_mut().zip([3, 1, 2]) {
            origin.streams = streams;
        }
        assert!(placed(Policy::LeastStreams, &origins, 20).iter().all(|server| server == "b"));
        let equals = candidates(&["a", "b", "c"]);
        assert_eq!(
            placed(Policy::LeastStreams, &equals, 100),
            placed(Policy::Rendezvous, &equals, 100)
        );
    }

    #[test]
    fn nobody_is_chosen_of_none() {
        for policy in Policy::ALL {
            assert_eq!(choose(policy, &key(1), &[], 7), None);
        }
    }
}
