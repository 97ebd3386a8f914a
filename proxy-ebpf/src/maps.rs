//! The maps: names, capacities, keys and values.

use crate::reason::Reason;

/// Packets per [`Reason`], per CPU, of both programs.
pub const COUNTERS: Map = Map::of::<CounterKey, Counter>("SRS_COUNTERS", Reason::ALL.len());

/// Every map of the object.
pub const ALL: [Map; 1] = [COUNTERS];

/// A [`Reason`] as its index.
pub type CounterKey = u32;

/// Packets since the program was loaded, in host byte order. What the kernel has merged into
/// one packet before the TC hook counts once.
pub type Counter = u64;

const _: () = assert!(size_of::<CounterKey>() == size_of::<Reason>());
const _: () = assert!(size_of::<CounterKey>() == 4 && size_of::<Counter>() == 8);

/// What both sides rely on about one map. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its name in the object and in the kernel.
    pub name: &'static str,
    /// Size of a key.
    pub key_size: u32,
    /// Size of a value; a per-CPU map holds one of it per CPU.
    pub value_size: u32,
    /// How many entries it can hold.
    pub capacity: u32,
}

impl Map {
    #[expect(clippy::cast_possible_truncation, reason = "evaluated at build time, and asserted")]
    const fn of<K, V>(name: &'static str, capacity: usize) -> Self {
        // BPF_OBJ_NAME_LEN is 16, with the closing zero.
        assert!(name.len() < 16, "the kernel would cut the name");
        assert!(capacity <= u32::MAX as usize);
        let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
        Self { name, key_size, value_size, capacity: capacity as u32 }
    }
}
