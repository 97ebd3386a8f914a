//! The list of interfaces that take frames: what would leave by another one passes up.

use std::collections::BTreeSet;

use aya::maps::MapData;
use aya::maps::xdp::DevMapHash;

pub(super) struct Devices {
    map: DevMapHash<MapData>,
    /// What we know to be in it. The kernel strikes out devices that are gone.
    listed: BTreeSet<u32>,
}

impl Devices {
    /// With what an earlier daemon has listed.
    pub(super) fn new(map: DevMapHash<MapData>) -> Self {
        let listed = map.keys().filter_map(Result::ok).collect();
        Self { map, listed }
    }

    /// Lists these and no others. Returns those that could not be listed.
    pub(super) fn list(&mut self, ready: &BTreeSet<u32>) -> Vec<u32> {
        for index in self.listed.difference(ready).copied().collect::<Vec<_>>() {
            self.strike(index);
        }
        let new: BTreeSet<_> = ready.difference(&self.listed).copied().collect();
        let (listed, refused): (Vec<_>, Vec<_>) =
            new.into_iter().partition(|index| self.map.insert(*index, *index, None, 0).is_ok());
        self.listed.extend(listed);
        refused
    }

    /// Strikes one out, if it is there.
    pub(super) fn strike(&mut self, index: u32) {
        if self.listed.remove(&index) {
            // The kernel may have been first.
            let _none = self.map.remove(index);
        }
    }

    pub(super) fn strike_all(&mut self) {
        let _none = self.list(&BTreeSet::new());
    }
}
