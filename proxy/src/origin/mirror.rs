//! The routes that other proxies have told of.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::stream::StreamKey;

/// Streams, and the names of the runs of origins that they belong to. Bounded: the one that was told
/// of first goes first.
#[derive(Debug)]
pub(super) struct Mirror {
    table: HashMap<StreamKey, Told>,
    /// As they were told of first.
    order: BTreeMap<u64, StreamKey>,
    last: u64,
    /// Listings that have begun.
    listings: u64,
    max: usize,
}

#[derive(Debug)]
struct Told {
    number: u64,
    origin: Arc<str>,
    /// That of the owner; none if it was only listed.
    epoch: Option<u64>,
    /// How many listings had begun.
    listings: u64,
}

impl Mirror {
    pub(super) fn new(max: usize) -> Self {
        Self { table: HashMap::new(), order: BTreeMap::new(), last: 0, listings: 0, max }
    }

    /// The origin's name.
    pub(super) fn get(&self, key: &StreamKey) -> Option<&Arc<str>> {
        self.table.get(key).map(|told| &told.origin)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Notes an owner. False if a later one is known.
    pub(super) fn insert(&mut self, key: &StreamKey, origin: Arc<str>, epoch: u64) -> bool {
        if self.table.get(key).is_some_and(|told| told.epoch > Some(epoch)) {
            return false;
        }
        self.put(key, origin, Some(epoch));
        true
    }

    fn put(&mut self, key: &StreamKey, origin: Arc<str>, epoch: Option<u64>) {
        let listings = self.listings;
        if let Some(told) = self.table.get_mut(key) {
            *told = Told { number: told.number, origin, epoch, listings };
            return;
        }
        self.last += 1;
        self.table.insert(key.clone(), Told { number: self.last, origin, epoch, listings });
        self.order.insert(self.last, key.clone());
        if self.table.len() > self.max
            && let Some((_, first)) = self.order.pop_first()
        {
            self.table.remove(&first);
        }
    }

    /// A stream belongs to nobody since the owner of this epoch. False if a later one is known.
    pub(super) fn end(&mut self, key: &StreamKey, epoch: u64) -> bool {
        let is_over = self.table.get(key).is_none_or(|told| told.epoch <= Some(epoch));
        if is_over {
            self.remove(key);
        }
        is_over
    }

    fn remove(&mut self, key: &StreamKey) {
        if let Some(told) = self.table.remove(key) {
            self.order.remove(&told.number);
        }
    }

    /// All routes are about to be listed.
    pub(super) fn begin_listing(&mut self) {
        self.listings += 1;
    }

    /// All of them, in place of what was there. What was told since the listing began is later.
    pub(super) fn replace(&mut self, routes: impl IntoIterator<Item = (StreamKey, Arc<str>)>) {
        let listings = self.listings;
        self.table.retain(|_, told| told.listings == listings);
        let table = &self.table;
        self.order.retain(|_, key| table.contains_key(key));
        for (key, origin) in routes.into_iter().take(self.max) {
            if !self.table.contains_key(&key) {
                self.put(&key, origin, None);
            }
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
            mirror.insert(&key(n), "a-s-1".into(), 1);
            mirror.insert(&key(n), "b-s-1".into(), 2);
            if n % 3 == 0 {
                mirror.end(&key(n), 2);
            }
        }
        assert!(mirror.len() <= 10, "{}", mirror.len());
        assert_eq!(mirror.order.len(), mirror.len());
        assert_eq!(mirror.get(&key(998)).map(|it| &**it), Some("b-s-1"));
    }

    #[test]
    fn the_later_word_counts_in_whatever_order_they_come() {
        let mut mirror = Mirror::new(10);
        let owner = |mirror: &Mirror, n| mirror.get(&key(n)).map(ToString::to_string);
        assert!(mirror.insert(&key(1), "b-s-1".into(), 7));
        assert!(!mirror.insert(&key(1), "a-s-1".into(), 6));
        assert_eq!(owner(&mirror, 1).as_deref(), Some("b-s-1"));
        assert!(!mirror.end(&key(1), 6));
        mirror.insert(&key(2), "a-s-1".into(), 1);
        mirror.begin_listing();
        mirror.insert(&key(1), "c-s-1".into(), 8);
        mirror.replace([(key(1), "b-s-1".into()), (key(3), "a-s-1".into())]);
        let owners = [1, 2, 3].map(|n| owner(&mirror, n));
        assert_eq!(owners, [Some("c-s-1".into()), None, Some("a-s-1".into())]);
    }
}
