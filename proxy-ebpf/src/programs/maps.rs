//! The maps of the object, and what both programs do with them.
#![expect(unsafe_code, reason = "values of maps are given by address")]

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, HashMap, PerCpuArray};
use proxy_ebpf::maps::{self, Counter, DEFAULT_FLOWS, Key, Memo, Tally, Way, tally_index};
use proxy_ebpf::parse::Datagram;
use proxy_ebpf::{Flows, Forward, Reason};

/// The flows that the daemon has written into the maps.
pub(super) struct Maps;

impl Flows for Maps {
    #[inline(always)]
    fn ports(&self, word: u32) -> u64 {
        PORTS.get(word).map_or(0, |word| *word)
    }

    #[inline(always)]
    fn way(&self, key: &Key) -> Option<&Way> {
        // SAFETY: the memory stays a `Way` as long as this run, and any bytes are one. The daemon
        // can give it to another flow meanwhile, so that it is of both; then one datagram goes
        // astray, as it could have on its further way.
        unsafe { WAYS.get(key) }
    }
}

/// Counts this many `datagrams` under `reason`.
#[inline(always)]
pub(super) fn count(reason: Reason, datagrams: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: a value of this CPU, alive as long as the program. Both hooks run in the same
        // kind of softirq, which does not interrupt itself; elsewhere a count could be lost.
        unsafe { *counter += Counter::from(datagrams) };
    }
}

/// Adds what goes on to the tally of its flow.
#[inline(always)]
pub(super) fn tally(datagram: &Datagram, forward: &Forward<'_>) {
    let Forward { way, datagrams, progress } = forward;
    // SAFETY: takes nothing.
    let (cpu, now) = unsafe { (bpf_get_smp_processor_id(), bpf_ktime_get_coarse_ns()) };
    let index = tally_index(SRS_FLOWS.load(), cpu as u32, way.slot, way.leg);
    if let Some(tally) = TALLIES.get_ptr_mut(index) {
        // SAFETY: as in `count`: this CPU's alone; the daemon only reads it.
        unsafe { (*tally).add(*datagrams, datagram.payload_length, now, *progress) };
    }
}

#[map(name = "SRS_COUNTERS")]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(maps::COUNTERS.capacity, 0);

#[map(name = "SRS_WAYS")]
static WAYS: HashMap<Key, Way> = HashMap::with_max_entries(maps::WAYS.capacity, 0);

#[map(name = "SRS_PORTS")]
static PORTS: Array<u64> = Array::with_max_entries(maps::PORTS.capacity, BPF_F_MMAPABLE);

#[map(name = "SRS_TALLIES")]
static TALLIES: Array<Tally> = Array::with_max_entries(maps::TALLIES.capacity, BPF_F_MMAPABLE);

#[map(name = "SRS_DEVICES")]
pub(super) static DEVICES: DevMapHash = DevMapHash::with_max_entries(maps::DEVICES.capacity, 0);

#[map(name = "SRS_MEMOS")]
static MEMOS: HashMap<u32, Memo> =
    HashMap::with_max_entries(maps::MEMOS.capacity, BPF_F_NO_PREALLOC);

/// For how many flows the maps are; the daemon sets it before they are made.
#[unsafe(no_mangle)]
static SRS_FLOWS: Global<u32> = Global::new(DEFAULT_FLOWS as u32);
