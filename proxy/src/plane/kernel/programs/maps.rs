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
    /// Forgets the numbers of SRT of both legs. Packets and bytes go on: a program that was counting
    /// just now would bring the old ones back. No way may lead to the slot.
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
        together(self.tallies(slot, leg).map(|words| {
            let [packets, bytes, seen, numbers] =
                words.each_ref().map(|word| word.load(Ordering::Relaxed));
            // In the order in which they stand in memory, whatever the host's.
            let [d0, d1, d2, d3, a0, a1, a2, a3] = numbers.to_ne_bytes();
            let data = u32::from_ne_bytes([d0, d1, d2, d3]);
            let acknowledged = u32::from_ne_bytes([a0, a1, a2, a3]);
            Tally { packets, bytes, seen, data, acknowledged }
        }))
    }

    fn clear(&mut self, slot: u32) {
        for leg in [TO_ORIGIN, TO_CLIENT] {
            for [.., numbers] in self.tallies(slot, leg) {
                numbers.store(0, Ordering::Relaxed);
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

/// What several CPUs have forwarded together.
fn together(cpus: impl Iterator<Item = Tally>) -> Tally {
    let mut all = Tally::default();
    let (mut data, mut acknowledged) = (Number::default(), Number::default());
    for Tally { packets, bytes, seen, data: sent, acknowledged: confirmed } in cpus {
        all.packets = all.packets.wrapping_add(packets);
        all.bytes = all.bytes.wrapping_add(bytes);
        all.seen = all.seen.max(seen);
        data = data.later(Number { value: sent, seen });
        acknowledged = acknowledged.later(Number { value: confirmed, seen });
    }
    Tally { data: data.value, acknowledged: acknowledged.value, ..all }
}

/// A sequence number (draft-sharabayko-srt 3.1), which may not be set, and when the CPU that has it
/// has forwarded its last packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Number {
    value: u32,
    seen: u64,
}

impl Number {
    const fn is_set(self) -> bool {
        self.value & Tally::IS_SET != 0
    }

    /// The later one of two. Numbers begin again, so they tell it only of CPUs that were at work at
    /// about the same time.
    const fn later(self, other: Self) -> Self {
        let is_later = match (self.is_set(), other.is_set()) {
            (true, true) if self.seen.abs_diff(other.seen) > SAME_TIME => self.seen > other.seen,
            (true, true) => {
                let ahead = self.value.wrapping_sub(other.value) & !Tally::IS_SET;
                ahead < 1 << 30
            }
            (is_set, _) => is_set,
        };
        if is_later { self } else { other }
    }
}

/// Nanoseconds: longer than one CPU may be behind another one of the same flow, and much too short
/// for half of all numbers.
const SAME_TIME: u64 = 10_000_000_000;

#[cfg(test)]
mod tests {
    use super::{Number, SAME_TIME, Tally, together};

    const SET: u32 = Tally::IS_SET;

    fn later(one: (u32, u64), other: (u32, u64)) -> u32 {
        let [one, other] = [one, other].map(|(value, seen)| Number { value, seen });
        assert_eq!(one.later(other), other.later(one), "{one:?} {other:?}");
        one.later(other).value
    }

    #[test]
    fn the_newer_number_wins_also_where_they_begin_again() {
        for (older, younger) in [(0, 1), (0x7fff_ffff, 0), (0x7fff_0000, 5), (7, 0x3fff_ffff)] {
            let (older, younger) = (SET | older, SET | younger);
            assert_eq!(later((older, 5), (younger, 5)), younger, "{older} {younger}");
            assert_eq!(later((older, 6), (younger, 5)), younger, "{older} {younger}");
        }
    }

    #[test]
    fn a_cpu_that_has_not_seen_the_flow_for_long_does_not_count() {
        // As when it was moved to another one, and its numbers have come half round.
        let (then, now) = ((SET | 5, 1), (SET | (5 + (1 << 30)), 2 + SAME_TIME));
        assert_eq!(later(then, now), now.0);
        assert_eq!(later((SET | 9, 1), (SET | 5, 2 + SAME_TIME)), SET | 5);
    }

    #[test]
    fn a_number_that_is_not_set_is_older_than_any() {
        assert_eq!(later((0, u64::MAX), (SET, 0)), SET);
        assert_eq!(Number::default().later(Number::default()), Number::default());
    }

    #[test]
    fn what_cpus_have_seen_is_one_flow() {
        let one = Tally { packets: 1, bytes: 10, seen: 9, data: SET | 4, acknowledged: 0 };
        let other = Tally { packets: 2, bytes: 20, seen: 7, data: SET | 5, acknowledged: SET | 1 };
        let both = Tally { packets: 3, bytes: 30, seen: 9, data: SET | 5, acknowledged: SET | 1 };
        assert_eq!(together([one, other].into_iter()), both);
        assert_eq!(together([other, Tally::default(), one].into_iter()), both);
        assert_eq!(together([].into_iter()), Tally::default());
    }
}
