//! The routes that other proxies have told of.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::stream::StreamKey;

/// Streams, and the names of the runs of origins that they belong to. Bounded: the one that was told
/// of first goes first.
#[derive(Debug)]
pub(super) struct Mirror {
    table: HashMap<StreamKey, Arc<str>>,
    order: VecDeque<StreamKey>,
    max: usize,
}

impl Mirror {
    pub(super) fn new(max: usize) -> Self {
        Self { table: HashMap::new(), order: VecDeque::new(), max }
    }

    /// The origin's name.
    pub(super) fn get(&self, key: &StreamKey) -> Option<&Arc<str>> {
        self.table.get(key)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn insert(&mut self, key: &StreamKey, origin: Arc<str>) {
        if self.table.insert(key.clone(), origin).is_some() {
            return;
        }
        self.order.push_back(key.clone());
        while self.table.len() > self.max {
            let Some(first) = self.order.pop_front() else { return };
            self.table.remove(&first);
        }
    }

    pub(super) fn remove(&mut self, key: &StreamKey) {
        self.table.remove(key);
        // Names that are gone stay in the order until they are many.
        if self.order.len() > 2 * self.table.len() + 16 {
            let table = &self.table;
            self.order.retain(|key| table.contains_key(key));
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
        assert_eq!(mirror.len(), 10);
        assert!(mirror.order.len() <= 2 * mirror.len() + 16, "{}", mirror.order.len());
        assert_eq!(mirror.get(&key(998)).map(|it| &**it), Some("b-s-1"));
        mirror.replace([(key(1), "c-s-1".into())]);
        assert_eq!((mirror.len(), mirror.get(&key(998))), (1, None));
    }
}
