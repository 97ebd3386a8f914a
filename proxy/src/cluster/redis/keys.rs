//! The names of all keys, and what is known by a name.

use std::sync::{Arc, LazyLock};

use crate::cluster::store::OriginName;
use crate::stream::StreamKey;

/// Names keys for one fleet.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// What every key begins with.
    head: Arc<str>,
    /// What the key of an origin begins with.
    server: Arc<str>,
}

impl Keys {
    /// With a prefix, which stands before every key with a colon; without one if it is empty.
    pub(super) fn new(prefix: &str) -> Self {
        let head = if prefix.is_empty() { String::new() } else { format!("{prefix}:") };
        Self { server: format!("{head}srs-proxy-server:").into(), head: head.into() }
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
        self.in_slot(slot(route), "claim:", route).unwrap_or(plain)
    }

    /// A key that is not used, in this slot of a Cluster; none if the prefix puts all keys into
    /// another one.
    pub(super) fn scan(&self, slot: u16) -> Option<String> {
        self.in_slot(slot, "scan:", "")
    }

    /// A key whose tag is a number that says the slot.
    fn in_slot(&self, wanted: u16, kind: &str, name: &str) -> Option<String> {
        let tagged = |n: u32| self.own(kind, &format!("{{{n}}}{name}"));
        let known = NUMBERS.get(usize::from(wanted)).copied().map(tagged);
        if let Some(known) = known.filter(|key| slot(key) == wanted) {
            return Some(known);
        }
        if slot(&tagged(0)) == slot(&tagged(1)) && slot(&tagged(1)) == slot(&tagged(2)) {
            return None;
        }
        // The prefix has a brace, too, and takes part in the tag.
        (0..=MAX_NUMBER).map(tagged).find(|key| slot(key) == wanted)
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
    crc16(hashed.as_bytes()) % SLOTS
}

const SLOTS: u16 = 16384;
/// Whatever slot is wanted: some number up to this has it.
const MAX_NUMBER: u32 = 1_000_000;

/// Of every slot, the first number whose decimal text is in it.
static NUMBERS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let mut numbers = vec![None; usize::from(SLOTS)];
    let mut missing = SLOTS;
    for number in 0..=MAX_NUMBER {
        if missing == 0 {
            break;
        }
        let slot = crc16(number.to_string().as_bytes()) % SLOTS;
        if let Some(first @ None) = numbers.get_mut(usize::from(slot)) {
            *first = Some(number);
            missing -= 1;
        }
    }
    numbers.into_iter().map(Option::unwrap_or_default).collect()
});

/// CRC-16/XMODEM, as the Redis Cluster specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

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
