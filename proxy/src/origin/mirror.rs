//! The routes that other proxies have told of.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::stream::StreamKey;

/// Streams, and the names of the runs of origins that they belong to. Bounded: the one that was told
/// of first goes first.
#[derive(Debug)]
pub(super) struct Mirror {
    table: HashMap<StreamKey, (u64, Arc<str>)>,
    /// As they were told of first.
    order: BTreeMap<u64, StreamKey>,
    last: u64,
    max: usize,
}

impl Mirror {
    pub(super) fn new(max: usize) -> Self {
        Self { table: HashMap::new(), order: BTreeMap::new(), last: 0, max }
    }

    /// The origin's name.
    pub(super) fn get(&self, key: &StreamKey) -> Option<&Arc<str>> {
        self.table.get(key).map(|(_, origin)| origin)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn insert(&mut self, key: &StreamKey, origin: Arc<str>) {
        if let Some((_, known)) = self.table.get_mut(key) {
            *known = origin;
            return;
        }
        self.last += 1;
        self.table.insert(key.clone(), (self.last, origin));
        self.order.insert(self.last, key.clone());
        if self.table.len() > self.max
            && let Some((_, first)) = self.order.pop_first()
        {
            self.table.remove(&first);
        }
    }

    pub(super) fn remove(&mut self, key: &StreamKey) {
        if let Some((number, _)) = self.table.remove(key) {
            self.order.remove(&number);
        }
    }

    /// All of them, in place of what was there.
    pub(super) fn replace(&mut self, routes: impl IntoIterator<Item = (StreamKey, Arc<str>)>) {
        self.table.clear();
        self.order.clear();
        for (key, origin) in routes.into_iter().take(self.max) {
            self.insert(&key, origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> StreamKey {
        StreamKey::of_claim(&format!("v/live/{n}")).unwrap()
    }

    #[test]
    fn it_stays_small_whatever_is_told() {
        let mut mirror = Mirror::new(10);
        for n in 0..1000 {
            mirror.insert(&key(n), "a-s-1".into());
            mirror.insert(&key(n), "b-s-1".into());
            if n % 3 == 0 {
                mirror.remove(&key(n));
            }
        }
        assert!(mirror.len() <= 10, "{}", mirror.len());
        assert_eq!(mirror.order.len(), mirror.len());
        assert_eq!(mirror.get(&key(998)).map(|it| &**it), Some("b-s-1"));
        mirror.replace([(key(1), "c-s-1".into())]);
        assert_eq!((mirror.len(), mirror.get(&key(998))), (1, None));
    }
}
