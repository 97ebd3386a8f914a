//! The maps, as what is done with them.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{HashMap, MapData};
use nix::errno::Errno;
use proxy_ebpf::maps::{Key, Memo, Ports, TO_CLIENT, TO_ORIGIN, Tally, Way, tally_index};

use super::shared::Shared;

/// What the bookkeeping of flows does with the maps.
pub trait Maps {
    /// Makes `way` the one of `key`, in place of another it may have.
    fn put(&mut self, key: &Key, way: &Way) -> Result<(), MapError>;
    /// Takes the way of `key`, if it has one: its packets pass up.
    fn take(&mut self, key: &Key);
    /// Every way.
    fn ways(&self) -> Vec<(Key, Way)>;
    /// Sets or clears these bits of [`Ports`] for a port.
    fn open_port(&mut self, port: u16, bits: u64, on: bool);
    /// What all CPUs have forwarded of a flow towards one leg: sums, when the last one came, and the
    /// newest numbers of SRT. Nothing for a slot that there is not.
    fn tally(&self, slot: u32, leg: u32) -> Tally;
    /// Begins the tallies of both legs anew. No way may lead to the slot; a packet that was under
    /// way when the last one was taken can still be counted.
    fn clear(&mut self, slot: u32);
    /// Keeps `memo` for a daemon that takes over, in place of another one of the slot.
    fn note(&mut self, slot: u32, memo: &Memo) -> Result<(), MapError>;
    /// Drops the memo of a slot, if there is one.
    fn forget(&mut self, slot: u32);
    /// Every memo, with its slot.
    fn memos(&self) -> Vec<(u32, Memo)>;
}

/// Why a map did not take an entry.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// It has as many as it can hold.
    #[error("the map in the kernel is full")]
    Full,
    /// The kernel says no.
    #[error("the kernel refuses an entry of a map")]
    Refused(#[source] aya::maps::MapError),
}

impl From<aya::maps::MapError> for MapError {
    fn from(error: aya::maps::MapError) -> Self {
        match &error {
            aya::maps::MapError::SyscallError(call)
                if call.io_error.raw_os_error() == Some(Errno::E2BIG as i32) =>
            {
                Self::Full
            }
            _ => Self::Refused(error),
        }
    }
}

/// The maps of the programs that are loaded. They live as long as this, and the programs as
/// long as they are attached, whichever is longer.
#[derive(Debug)]
pub struct KernelMaps {
    pub(super) ways: HashMap<MapData, Key, Way>,
    pub(super) memos: HashMap<MapData, u32, Memo>,
    pub(super) ports: Shared,
    pub(super) tallies: Shared,
    pub(super) flows: u32,
    pub(super) cpus: u32,
}

impl KernelMaps {
    /// Words in a [`Tally`]; the last one is both numbers of SRT.
    pub(super) const TALLY_WORDS: usize = size_of::<Tally>() / size_of::<u64>();

    /// Flows for which there is room.
    pub const fn flows(&self) -> u32 {
        self.flows
    }

    /// The words of one flow's tallies towards one leg, CPU by CPU.
    fn tallies(
        &self,
        slot: u32,
        leg: u32,
    ) -> impl Iterator<Item = &[AtomicU64; Self::TALLY_WORDS]> {
        let cpus = if slot < self.flows && leg <= TO_CLIENT { self.cpus } else { 0 };
        (0..cpus).filter_map(move |cpu| {
            let index = tally_index(self.flows, cpu, slot, leg) as usize;
            self.tallies.words().get(index * Self::TALLY_WORDS..)?.first_chunk()
        })
    }
}

impl Maps for KernelMaps {
    fn put(&mut self, key: &Key, way: &Way) -> Result<(), MapError> {
        Ok(self.ways.insert(key, way, 0)?)
    }

    fn take(&mut self, key: &Key) {
        // The one error that there can be is that it is not there.
        let _ = self.ways.remove(key);
    }

    fn ways(&self) -> Vec<(Key, Way)> {
        self.ways.iter().filter_map(Result::ok).collect()
    }

    fn open_port(&mut self, port: u16, bits: u64, on: bool) {
        let (word, shift) = Ports::place(port);
        let Some(word) = self.ports.words().get(word as usize) else { return };
        // A word stands alone: what else the maps say of a port may come before or after it.
        if on {
            word.fetch_or(bits << shift, Ordering::Relaxed);
        } else {
            word.fetch_and(!(bits << shift), Ordering::Relaxed);
        }
    }

    fn tally(&self, slot: u32, leg: u32) -> Tally {
        self.tallies(slot, leg)
            .map(|words| {
                let [packets, bytes, seen, numbers] =
                    words.each_ref().map(|word| word.load(Ordering::Relaxed));
                // In the order in which they stand in memory, whatever the host's.
                let [d0, d1, d2, d3, a0, a1, a2, a3] = numbers.to_ne_bytes();
                let data = u32::from_ne_bytes([d0, d1, d2, d3]);
                Tally {
                    packets,
                    bytes,
                    seen,
                    data,
                    acknowledged: u32::from_ne_bytes([a0, a1, a2, a3]),
                }
            })
            .fold(Tally::default(), add)
    }

    fn clear(&mut self, slot: u32) {
        for leg in [TO_ORIGIN, TO_CLIENT] {
            for word in self.tallies(slot, leg).flatten() {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    fn note(&mut self, slot: u32, memo: &Memo) -> Result<(), MapError> {
        Ok(self.memos.insert(slot, memo, 0)?)
    }

    fn forget(&mut self, slot: u32) {
        // As in `take`.
        let _ = self.memos.remove(&slot);
    }

    fn memos(&self) -> Vec<(u32, Memo)> {
        self.memos.iter().filter_map(Result::ok).collect()
    }
}

/// What two CPUs have forwarded together.
fn add(one: Tally, other: Tally) -> Tally {
    Tally {
        packets: one.packets.wrapping_add(other.packets),
        bytes: one.bytes.wrapping_add(other.bytes),
        seen: one.seen.max(other.seen),
        data: newer(one.data, other.data),
        acknowledged: newer(one.acknowledged, other.acknowledged),
    }
}

/// The later of two sequence numbers (draft-sharabayko-srt 3.1), of which either may not be set.
fn newer(one: u32, other: u32) -> u32 {
    let is_set = |number: u32| number & Tally::IS_SET != 0;
    match (is_set(one), is_set(other)) {
        (true, true) => {
            let ahead = one.wrapping_sub(other) & !Tally::IS_SET;
            if ahead < 1 << 30 { one } else { other }
        }
        (true, false) => one,
        (false, _) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{Tally, add, newer};

    const SET: u32 = Tally::IS_SET;

    #[test]
    fn the_newer_number_wins_also_where_they_begin_again() {
        for (older, younger) in [(0, 1), (0x7fff_ffff, 0), (0x7fff_0000, 5), (7, 0x3fff_ffff)] {
            assert_eq!(newer(SET | older, SET | younger), SET | younger, "{older} {younger}");
            assert_eq!(newer(SET | younger, SET | older), SET | younger, "{younger} {older}");
        }
    }

    #[test]
    fn a_number_that_is_not_set_is_older_than_any() {
        assert_eq!(newer(0, SET), SET);
        assert_eq!(newer(SET, 0), SET);
        assert_eq!(newer(0, 0), 0);
    }

    #[test]
    fn what_two_cpus_have_seen_is_one_flow() {
        let one = Tally { packets: 1, bytes: 10, seen: 9, data: SET | 4, acknowledged: 0 };
        let other = Tally { packets: 2, bytes: 20, seen: 7, data: SET | 5, acknowledged: SET | 1 };
        let both = Tally { packets: 3, bytes: 30, seen: 9, data: SET | 5, acknowledged: SET | 1 };
        assert_eq!(add(one, other), both);
        assert_eq!(add(other, one), both);
    }
}
