//! The names of all keys, and what is known by a name.

use std::sync::{Arc, LazyLock, OnceLock};

use crate::cluster::store::OriginName;
use crate::stream::StreamKey;

/// Names keys for one fleet.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// What every key begins with.
    head: Arc<str>,
    /// What the key of an origin begins with.
    server: Arc<str>,
    /// Of every slot of a Cluster, the number that leads to it as the tag of a claim.
    numbers: Arc<OnceLock<Vec<u32>>>,
}

impl Keys {
    /// With a prefix, which stands before every key with a colon; without one if it is empty.
    pub(super) fn new(prefix: &str) -> Self {
        let head = if prefix.is_empty() { String::new() } else { format!("{prefix}:") };
        let server = format!("{head}srs-proxy-server:").into();
        Self { server, head: head.into(), numbers: Arc::default() }
    }

    /// An origin, by the name of its run.
    pub(super) fn server(&self, name: &str) -> String {
        format!("{}{name}", self.server)
    }

    /// What the key of every origin begins with.
    pub(super) fn server_head(&self) -> &str {
        &self.server
    }

    /// The name of the run that has this key.
    pub(super) fn origin_of(&self, key: &str) -> Option<OriginName> {
        key.strip_prefix(&*self.server).filter(|name| !name.is_empty()).map(OriginName::from)
    }

    /// The list of all origins.
    pub(super) fn servers(&self) -> String {
        self.own("all-servers", "")
    }

    /// The owner of a stream.
    pub(super) fn route(&self, stream: &StreamKey) -> String {
        self.own("url:", stream.as_str())
    }

    /// The pattern of SCAN of all keys of [`Self::route`].
    pub(super) fn routes(&self) -> String {
        let mut pattern = String::new();
        for c in self.route_head().chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('*');
        pattern
    }

    /// The stream whose owner a key tells.
    pub(super) fn stream_of(&self, key: &str) -> Option<StreamKey> {
        StreamKey::of_claim(key.strip_prefix(&self.route_head())?)
    }

    fn route_head(&self) -> String {
        self.own("url:", "")
    }

    /// What is noted beside the owner of a stream, in the same slot of a Cluster as `route`.
    pub(super) fn claim(&self, route: &str) -> String {
        let plain = self.own("claim:", &format!("{{{route}}}"));
        if slot(&plain) == slot(route) {
            return plain;
        }
        // Braces of its own have made another tag of it.
        self.in_slot(slot(route), route).unwrap_or(plain)
    }

    /// A key that is not used, in this slot of a Cluster; none if the prefix puts all keys into
    /// another one.
    pub(super) fn scan(&self, slot: u16) -> Option<String> {
        self.in_slot(slot, "")
    }

    /// A claim's key whose tag is a number that says the slot. A brace in the prefix takes part in
    /// the tag, or is all of it.
    fn in_slot(&self, wanted: u16, name: &str) -> Option<String> {
        let tagged = |n: u32| self.own("claim:", &format!("{{{n}}}{name}"));
        if (1..4).all(|n| slot(&tagged(n)) == slot(&tagged(0))) {
            return Some(tagged(0)).filter(|key| slot(key) == wanted);
        }
        let numbers = self.numbers.get_or_init(|| self.numbers());
        let known = numbers.get(usize::from(wanted)).copied().map(tagged);
        let known = known.filter(|key| slot(key) == wanted);
        known.or_else(|| (0..=MAX_NUMBER).map(tagged).find(|key| slot(key) == wanted))
    }

    fn numbers(&self) -> Vec<u32> {
        let before = self.own("claim:", "{");
        let (_, tag) = before.split_once('{').unwrap_or_default();
        let start = crc16(0, tag.as_bytes());
        let mut numbers = vec![None; usize::from(SLOTS)];
        let mut missing = SLOTS;
        for number in 0..=MAX_NUMBER {
            if missing == 0 {
                break;
            }
            let slot = crc16(start, number.to_string().as_bytes()) % SLOTS;
            if let Some(first @ None) = numbers.get_mut(usize::from(slot)) {
                *first = Some(number);
                missing -= 1;
            }
        }
        numbers.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// The playlist of a stream.
    pub(super) fn hls(&self, stream: &StreamKey) -> String {
        self.own("hls:", stream.as_str())
    }

    /// The playlist whose segments carry an id.
    pub(super) fn hls_id(&self, id: &str) -> String {
        self.own("spbhid:", id)
    }

    /// The last session of WebRTC of a stream.
    pub(super) fn rtc(&self, stream: &StreamKey) -> String {
        self.own("rtc:", stream.as_str())
    }

    /// A session of WebRTC by its ICE user names.
    pub(super) fn ufrag(&self, name: &str) -> String {
        self.own("ufrag:", name)
    }

    /// Where a session of WebRTC is.
    pub(super) fn place(&self, name: &str) -> String {
        self.own("place:", name)
    }

    /// What operators want of servers.
    pub(super) fn standings(&self) -> String {
        self.own("standings", "")
    }

    /// Runs that were taken out.
    pub(super) fn withdrawn(&self) -> String {
        self.own("withdrawn", "")
    }

    /// Origins that cannot be reached.
    pub(super) fn votes(&self) -> String {
        self.own("votes", "")
    }

    /// The proxies that are there.
    pub(super) fn proxies(&self) -> String {
        self.own("proxies", "")
    }

    /// What a proxy says of itself.
    pub(super) fn proxy(&self, id: &str) -> String {
        self.own("proxy:", id)
    }

    /// What proxies tell each other.
    pub(super) fn log(&self) -> String {
        self.own("log", "")
    }

    /// By which tokens are signed.
    pub(super) fn secret(&self) -> String {
        self.own("secret", "")
    }

    fn own(&self, kind: &str, name: &str) -> String {
        format!("{}srs-proxy-{kind}{name}", self.head)
    }
}

/// The slot of a Cluster that a key is in.
pub(super) fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tag.map_or(key, |(tag, _)| if tag.is_empty() { key } else { tag });
    crc16(0, hashed.as_bytes()) % SLOTS
}

const SLOTS: u16 = 16384;
/// Whatever slot is wanted: some number up to this has it.
const MAX_NUMBER: u32 = 1_000_000;

/// CRC-16/XMODEM, as the Redis Cluster specification has it, of bytes behind those of `start`.
fn crc16(start: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(start, |crc, byte| {
        let [high, low] = crc.to_be_bytes();
        let step = CRC16.get(usize::from(high ^ byte)).copied().unwrap_or_default();
        u16::from_be_bytes([low, 0]) ^ step
    })
}

static CRC16: LazyLock<[u16; 256]> = LazyLock::new(|| {
    let step = |crc: u16| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
    let mut first = (0..=u8::MAX).map(|byte| u16::from_be_bytes([byte, 0]));
    std::array::from_fn(|_| (0..8).fold(first.next().unwrap_or_default(), |crc, _| step(crc)))
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(text: &str) -> StreamKey {
        StreamKey::of_claim(text).unwrap()
    }

    #[test]
    fn keys_are_those_of_the_existing_proxy() {
        let stream = stream("__defaultVhost__/live/livestream");
        for (prefix, head) in [("", ""), ("fleet", "fleet:")] {
            let keys = Keys::new(prefix);
            for (key, expected) in [
                (keys.servers(), "srs-proxy-all-servers"),
                (keys.server("vid-1-x-7"), "srs-proxy-server:vid-1-x-7"),
                (keys.route(&stream), "srs-proxy-url:__defaultVhost__/live/livestream"),
                (keys.hls(&stream), "srs-proxy-hls:__defaultVhost__/live/livestream"),
                (keys.hls_id("2d54ffe"), "srs-proxy-spbhid:2d54ffe"),
                (keys.rtc(&stream), "srs-proxy-rtc:__defaultVhost__/live/livestream"),
                (keys.ufrag("u3u2e000:Iqyv"), "srs-proxy-ufrag:u3u2e000:Iqyv"),
            ] {
                assert_eq!(key, format!("{head}{expected}"));
            }
            assert_eq!(keys.stream_of(&keys.route(&stream)).as_ref(), Some(&stream));
            assert_eq!(keys.origin_of(&keys.server("a-b-1")).as_deref(), Some("a-b-1"));
            assert_eq!(keys.origin_of("other:srs-proxy-server:a-b-1"), None);
        }
    }

    #[test]
    fn slots_are_those_of_a_cluster() {
        // CLUSTER KEYSLOT of Redis 7.0.15.
        for (key, expected) in
            [("foo", 12182), ("123456789", 12739), ("{user1000}.following", 3443), ("a{}b", 13694)]
        {
            assert_eq!(slot(key), expected, "{key}");
        }
    }

    proptest! {
        // A prefix with a brace takes a search.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_noted_of_a_stream_is_in_its_slot(
            prefix in "|fleet|[a{}:]{0,6}", name in "[a-c/{}]{1,20}", other in "[a-c/{}]{1,20}",
        ) {
            let keys = Keys::new(&prefix);
            let (one, two) = (keys.route(&stream(&name)), keys.route(&stream(&other)));
            prop_assert_eq!(slot(&keys.claim(&one)), slot(&one));
            prop_assert_eq!(keys.claim(&one) == keys.claim(&two), one == two);
        }
    }
}
