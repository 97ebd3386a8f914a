//! Which flows are in the kernel, and which would be if something were otherwise.
//!
//! Two entries carry a flow, one for each direction. They are written when both next hops are
//! known, their interfaces have a program, and there is room; they are marked as held, so that
//! packets pass up, when one of these is no longer so. All that is known of a flow is kept as long
//! as the flow is there: whatever changes, it is settled anew.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use proxy_ebpf::maps::{Key, Memo, Ports, TO_CLIENT, TO_ORIGIN, Tally, Way};

use super::hops::{Answer, NextHop, Path};
use super::programs::Maps;
use crate::plane::Leg;
use crate::plane::datagram::{Course, Delta, Engine, Flow, FlowKey, Medium, Progress, Refused};

/// Every flow of which the kernel plane was told.
///
/// Bounds: as many as there are sessions; in the kernel, as many as there are slots.
#[derive(Debug)]
pub(super) struct Flows<M> {
    maps: M,
    /// By generation.
    told: BTreeMap<u64, Told>,
    /// Whose entries they are, by generation: the flow that has replaced another has its key.
    owners: HashMap<Key, u64>,
    /// Entries on each port: of WebRTC, of SRT.
    ports: HashMap<u16, [u32; 2]>,
    by_path: HashMap<Path, BTreeSet<u64>>,
    free: VecDeque<u32>,
    slots: u32,
    /// Those that lack nothing but a slot, the oldest first.
    waiting: BTreeSet<u64>,
    /// By index: what has a program, or why it has none.
    interfaces: HashMap<u32, Result<Engine, Refused>>,
    /// Interfaces of next hops of which nothing is known yet.
    wanted: BTreeSet<u32>,
    /// What an earlier daemon has left, and no flow has taken over so far.
    left: HashMap<Key, Way>,
}

#[derive(Debug)]
struct Told {
    flow: Flow,
    medium: Medium,
    course: Arc<Course>,
    paths: [Path; 2],
    keys: [Key; 2],
    hops: [Option<Answer>; 2],
    held: Option<&'static str>,
    slot: Option<u32>,
    /// As they are in the kernel, if they are there.
    ways: Option<[Way; 2]>,
    /// What was read of its tallies last.
    read: [Tally; 2],
    memo: Option<Box<Memo>>,
    /// Datagrams that the relay has sent, when that was asked last.
    relayed: u64,
    /// For how many questions in a row the relay has sent more than the kernel.
    missed: u32,
}

/// Questions after which it is said that the kernel carries less than the relay.
const MISSED: u32 = 3;

/// Datagrams between two questions that are none of the media: checks, and what answers them.
const FEW: u64 = 20;

/// The slot of a memo that is of no flow.
const COMMON: u32 = u32::MAX;

/// In the order of [`TO_ORIGIN`] and [`TO_CLIENT`], and so of [`Leg::ALL`].
const LEGS: [u32; 2] = [TO_ORIGIN, TO_CLIENT];

const FAMILIES: &str = "the client and the origin are of different families";

/// The two paths of a flow, or why the kernel cannot carry it whatever else changes: towards the
/// origin, and towards the client.
pub(super) fn paths(flow: &Flow) -> Result<[Path; 2], Refused> {
    let canonical = |address: SocketAddr| address.ip().to_canonical();
    let (client, local) = (canonical(flow.key.client), canonical(flow.key.local));
    let (near, origin) = (canonical(flow.ends.near), canonical(flow.ends.origin));
    if flow.key.is_tcp {
        return Err("the client's media comes by TCP".into());
    }
    if local.is_unspecified() || near.is_unspecified() {
        return Err("the system does not tell to which address the client sends".into());
    }
    if client.is_ipv4() != origin.is_ipv4() {
        return Err(FAMILIES.into());
    }
    if client.is_loopback() || client == local {
        return Err("the client is on this host".into());
    }
    if origin.is_loopback() || origin == near {
        return Err("the origin is on this host".into());
    }
    let path = |source, destination| Path { source, destination };
    Ok([path(near, origin), path(local, client)])
}

impl<M: Maps> Flows<M> {
    /// No flow yet, in maps with room for so many.
    pub(super) fn new(maps: M, slots: u32) -> Self {
        Self {
            maps,
            told: BTreeMap::new(),
            owners: HashMap::new(),
            ports: HashMap::new(),
            by_path: HashMap::new(),
            free: (0..slots).collect(),
            slots,
            waiting: BTreeSet::new(),
            interfaces: HashMap::new(),
            wanted: BTreeSet::new(),
            left: HashMap::new(),
        }
    }

    /// Takes in a flow whose ways are these.
    pub(super) fn install(
        &mut self,
        medium: Medium,
        flow: &Flow,
        course: &Arc<Course>,
        (paths, hops): ([Path; 2], [Option<Answer>; 2]),
        now: Instant,
    ) {
        let generation = flow.generation;
        let Some(keys) = keys(flow) else { return };
        for path in paths {
            self.by_path.entry(path).or_default().insert(generation);
        }
        let told = Told {
            flow: *flow,
            medium,
            course: Arc::clone(course),
            paths,
            keys,
            hops,
            held: None,
            slot: None,
            ways: None,
            read: [Tally::default(); 2],
            memo: None,
            relayed: 0,
            missed: 0,
        };
        self.told.insert(generation, told);
        self.take_over(generation);
        self.settle(generation, now);
    }

    /// Forgets a flow, after what has come by it is counted. Gives its paths, if it was known.
    pub(super) fn remove(&mut self, flow: &Flow, now: Instant) -> Option<[Path; 2]> {
        let generation = flow.generation;
        let mut told = self.told.remove(&generation)?;
        for key in &told.keys {
            // Another flow may have taken it over.
            if self.owners.get(key) == Some(&generation) {
                self.owners.remove(key);
                self.maps.take(key);
                self.use_port(key, told.medium, false);
            }
        }
        // Behind the entries: from here on nothing is counted any more.
        told.collect(&self.maps);
        for path in told.paths {
            if let Some(users) = self.by_path.get_mut(&path) {
                users.remove(&generation);
                if users.is_empty() {
                    self.by_path.remove(&path);
                }
            }
        }
        self.waiting.remove(&generation);
        if let Some(slot) = told.slot {
            self.maps.forget(slot);
            self.free.push_back(slot);
            // Each of them takes a slot, or waits for something else from here on.
            while let Some(&next) = self.waiting.first().filter(|_| !self.free.is_empty()) {
                self.settle(next, now);
            }
        }
        Some(told.paths)
    }

    /// What is kept of a flow's session for another daemon, from here on.
    pub(super) fn keep(&mut self, flow: &Flow, memo: Box<Memo>) {
        let Some(told) = self.told.get_mut(&flow.generation) else { return };
        if let Some(slot) = told.slot {
            note(&mut self.maps, slot, &memo);
        }
        told.memo = Some(memo);
    }

    /// Lets packets of a flow pass up, and says how far its origin has come.
    pub(super) fn hold(&mut self, flow: &Flow, why: &'static str, now: Instant) -> Progress {
        let Some(told) = self.told.get_mut(&flow.generation) else { return Progress::default() };
        told.held = Some(why);
        // What has passed up before was seen.
        let slot = told.slot.filter(|_| told.is_carried());
        self.settle(flow.generation, now);
        let Some(slot) = slot else { return Progress::default() };
        let tally = self.maps.tally(slot, TO_CLIENT);
        let number = |number: u32| (number & Tally::IS_SET != 0).then_some(number & !Tally::IS_SET);
        Progress { data: number(tally.data), acknowledged: number(tally.acknowledged) }
    }

    /// Ends a hold.
    pub(super) fn release(&mut self, flow: &Flow, now: Instant) {
        let told = self.told.get_mut(&flow.generation);
        if told.is_some_and(|told| told.held.take().is_some()) {
            self.settle(flow.generation, now);
        }
    }

    /// The next hop of a path is known, or another one.
    pub(super) fn hop(&mut self, path: &Path, hop: &Answer, now: Instant) {
        let users: Vec<u64> = self.by_path.get(path).into_iter().flatten().copied().collect();
        for generation in users {
            let Some(told) = self.told.get_mut(&generation) else { continue };
            for (of_flow, known) in told.paths.iter().zip(&mut told.hops) {
                if of_flow == path {
                    *known = Some(hop.clone());
                }
            }
            self.settle(generation, now);
        }
    }

    /// What these interfaces have is known, or has changed.
    pub(super) fn attached(
        &mut self,
        interfaces: HashMap<u32, Result<Engine, Refused>>,
        now: Instant,
    ) {
        if interfaces == self.interfaces {
            return;
        }
        self.interfaces = interfaces;
        let all: Vec<u64> = self.told.keys().copied().collect();
        for generation in all {
            self.settle(generation, now);
        }
    }

    /// Interfaces that flows would leave by, and of which nothing was known so far.
    pub(super) fn wanted(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.wanted)
    }

    /// Whether there are some.
    pub(super) fn wants(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Whether something has come of a leg since the counters were read last.
    pub(super) fn has_heard(&self, flow: &Flow, leg: Leg) -> bool {
        let told = self.told.get(&flow.generation);
        told.is_some_and(|told| {
            let Some(slot) = told.slot else { return false };
            let towards = leg.other() as u32;
            let read = told.read.get(leg.other() as usize).map_or(0, |read| read.packets);
            self.maps.tally(slot, towards).packets > read
        })
    }

    /// Counts what has come by each flow of a medium, and gives it.
    pub(super) fn counters(
        &mut self,
        medium: Medium,
        now: Instant,
        sink: &mut dyn FnMut(&FlowKey, Delta),
    ) {
        for told in self.told.values_mut().filter(|told| told.medium == medium) {
            let delta = told.collect(&self.maps);
            told.compare(&delta, now);
            if delta != Delta::default() {
                sink(&told.flow.key, delta);
            }
        }
    }

    /// How many flows are in the kernel, and how many could be.
    pub(super) fn sizes(&self) -> (usize, u32) {
        let carried = self.told.values().filter(|told| told.is_carried());
        (carried.count(), self.slots)
    }

    /// Finds what an earlier daemon has left, and gives its memos. Its flows go on, in the slots
    /// that they have, until they are taken over or swept out.
    pub(super) fn inherit(&mut self) -> Vec<Memo> {
        self.left = self.maps.ways().into_iter().collect();
        let slots: HashSet<u32> = self.left.values().map(|way| way.slot).collect();
        self.free.retain(|slot| !slots.contains(slot));
        let memos = self.maps.memos().into_iter().filter(|(slot, _)| *slot != COMMON);
        memos.map(|(_, memo)| memo).collect()
    }

    /// What is kept beside the sessions.
    pub(super) fn common(&self) -> Option<Memo> {
        self.maps.memos().into_iter().find(|(slot, _)| *slot == COMMON).map(|(_, memo)| memo)
    }

    /// Keeps something beside the sessions. It takes the place of one session's memo.
    pub(super) fn keep_common(&mut self, memo: &Memo) {
        note(&mut self.maps, COMMON, memo);
    }

    /// Takes away what an earlier daemon has left and no flow of this one has taken over.
    pub(super) fn sweep(&mut self) {
        let slots: HashSet<u32> = self.told.values().filter_map(|told| told.slot).collect();
        let mut free = BTreeSet::new();
        for (key, way) in std::mem::take(&mut self.left) {
            self.maps.take(&key);
            free.insert(way.slot);
        }
        let of_map = |slot: &u32| *slot < self.slots && !slots.contains(slot);
        self.free.extend(free.into_iter().filter(of_map));
        for (slot, _) in self.maps.memos() {
            if slot != COMMON && !slots.contains(&slot) {
                self.maps.forget(slot);
            }
        }
        for port in (0..=u16::MAX).filter(|port| !self.ports.contains_key(port)) {
            self.maps.open_port(port, Ports::WEBRTC | Ports::SRT, false);
        }
    }

    /// Goes on with the entries that an earlier daemon has left of this flow, and with their slot.
    fn take_over(&mut self, generation: u64) {
        let Some(told) = self.told.get_mut(&generation) else { return };
        let (keys, medium) = (told.keys, told.medium);
        let [to_origin, to_client] = keys.map(|key| self.left.remove(&key));
        let ways = match (to_origin, to_client) {
            (Some(to_origin), Some(to_client)) if to_origin.slot == to_client.slot => {
                [to_origin, to_client]
            }
            // A part of it is of no use.
            (one, other) => {
                for (key, _) in keys.iter().zip([one, other]).filter(|(_, way)| way.is_some()) {
                    self.maps.take(key);
                }
                return;
            }
        };
        let [way, _] = &ways;
        told.slot = Some(way.slot);
        told.ways = Some(ways);
        for key in &keys {
            self.owners.insert(*key, generation);
            self.use_port(key, medium, true);
        }
    }

    /// Lets the kernel carry a flow, or not, as things are now.
    fn settle(&mut self, generation: u64, now: Instant) {
        let Some(told) = self.told.get(&generation) else { return };
        for hop in told.hops.iter().flatten().flatten() {
            if !self.interfaces.contains_key(&hop.interface) {
                self.wanted.insert(hop.interface);
            }
        }
        self.waiting.remove(&generation);
        // As an earlier daemon has left it, until more is known.
        if told.ways.is_some() && told.held.is_none() && told.hops.iter().any(Option::is_none) {
            return;
        }
        let settled = self.verdict(told).and_then(|way| self.carry(generation, way));
        let (engine, why) = match settled {
            Ok(engine) => (engine, None),
            Err(why) => {
                self.let_pass_up(generation);
                (Engine::Relay, Some(why))
            }
        };
        self.say(generation, engine, why, now);
    }

    /// What the kernel would do with the packets of a flow.
    fn verdict(&self, told: &Told) -> Result<(Engine, [NextHop; 2]), Refused> {
        if let Some(why) = told.held {
            return Err(why.into());
        }
        let hop = |hop: &Option<Answer>| match hop {
            None => Err(Refused::from("its next hop is being looked up")),
            Some(Err(why)) => Err(why.to_string().into()),
            Some(Ok(hop)) => match self.interfaces.get(&hop.interface) {
                None => Err(format!("{} has no program yet", hop.name).into()),
                Some(Err(why)) => Err(format!("{}: {why}", hop.name).into()),
                // It would leave in the tag in which it came, which the kernel keeps beside the frame.
                Some(Ok(Engine::XdpGeneric)) if hop.vlan.is_some() => {
                    Err(format!("{}: generic XDP cannot change a VLAN's tag", hop.name).into())
                }
                Some(Ok(engine)) => Ok((*engine, hop.clone())),
            },
        };
        let [to_origin, to_client] = &told.hops;
        let ((one, to_origin), (_, to_client)) = (hop(to_origin)?, hop(to_client)?);
        Ok((one, [to_origin, to_client]))
    }

    /// Writes a flow's entries, if they are not there as they should be.
    fn carry(
        &mut self,
        generation: u64,
        (engine, hops): (Engine, [NextHop; 2]),
    ) -> Result<Engine, Refused> {
        let Some(told) = self.told.get_mut(&generation) else { return Ok(engine) };
        let Some(slot) = told.slot.or_else(|| self.free.pop_front()) else {
            self.waiting.insert(generation);
            return Err("the kernel's table of flows is full (PROXY_EBPF_FLOWS)".into());
        };
        if told.slot.is_none() {
            told.slot = Some(slot);
            self.maps.clear(slot);
            told.read = LEGS.map(|leg| self.maps.tally(slot, leg));
            if let Some(memo) = &told.memo {
                note(&mut self.maps, slot, memo);
            }
        }
        let ways = ways(&told.flow, &told.keys, &hops, slot).ok_or(FAMILIES)?;
        if told.ways.replace(ways) == Some(ways) {
            return Ok(engine);
        }
        let (keys, medium) = (told.keys, told.medium);
        // First the way back: what the origin answers finds its way from the first packet on.
        for (key, way) in keys.iter().zip(&ways).rev() {
            // The client of a later flow, which has the session now, is elsewhere.
            if self.owners.get(key).is_some_and(|&owner| owner > generation) {
                continue;
            }
            if let Err(error) = self.maps.put(key, way) {
                self.withdraw(generation);
                return Err(error.to_string().into());
            }
            if self.owners.insert(*key, generation).is_none() {
                self.use_port(key, medium, true);
            }
        }
        Ok(engine)
    }

    /// Marks a flow's entries, if it has some, so that its packets pass up.
    fn let_pass_up(&mut self, generation: u64) {
        let Some(told) = self.told.get_mut(&generation) else { return };
        let Some(ways) = told.ways.as_mut().filter(|ways| ways.iter().any(|way| !is_held(way)))
        else {
            return;
        };
        for way in ways.iter_mut() {
            way.flags |= Way::HELD;
        }
        let (keys, ways) = (told.keys, *ways);
        for (key, way) in keys.iter().zip(&ways) {
            if self.owners.get(key) == Some(&generation) && self.maps.put(key, way).is_err() {
                self.withdraw(generation);
                return;
            }
        }
    }

    /// Takes a flow's entries away: one that cannot be written must not stay as it was.
    fn withdraw(&mut self, generation: u64) {
        let Some(told) = self.told.get_mut(&generation) else { return };
        told.ways = None;
        let (keys, medium) = (told.keys, told.medium);
        for key in &keys {
            if self.owners.get(key) == Some(&generation) {
                self.owners.remove(key);
                self.use_port(key, medium, false);
                self.maps.take(key);
            }
        }
    }

    fn say(&self, generation: u64, engine: Engine, why: Option<Refused>, now: Instant) {
        let Some(told) = self.told.get(&generation) else { return };
        let reason = why.as_ref().map(ToString::to_string);
        if let Some(before) = told.course.change(engine, why, now) {
            let (before, engine) = (before.as_str(), engine.as_str());
            let client = told.flow.key.client;
            tracing::debug!(%client, before, engine, reason, "another engine carries a session");
        }
    }

    /// Counts the entries on the port where packets of this key come.
    fn use_port(&mut self, key: &Key, medium: Medium, is_used: bool) {
        let port = port(key);
        let uses = self.ports.entry(port).or_default();
        let [of_webrtc, of_srt] = uses;
        let (count, bits) = match medium {
            Medium::WebRtc => (of_webrtc, Ports::WEBRTC),
            Medium::Srt => (of_srt, Ports::SRT),
        };
        let before = *count;
        *count = if is_used { before.saturating_add(1) } else { before.saturating_sub(1) };
        let has_flows = *count > 0;
        if has_flows != (before > 0) {
            self.maps.open_port(port, bits, has_flows);
        }
        if *uses == [0, 0] {
            self.ports.remove(&port);
        }
    }
}

impl Told {
    /// Counts what has come since it was read last.
    fn collect(&mut self, maps: &impl Maps) -> Delta {
        let mut delta = Delta::default();
        let Some(slot) = self.slot else { return delta };
        for ((leg, towards), read) in Leg::ALL.into_iter().zip(LEGS).zip(&mut self.read) {
            let tally = maps.tally(slot, towards);
            let packets = tally.packets.saturating_sub(read.packets);
            if packets > 0 {
                self.course.offloaded(leg, packets, tally.bytes.saturating_sub(read.bytes));
                // What goes to a leg was heard of the other.
                if let Some(heard) = delta.heard.get_mut(leg.other() as usize) {
                    *heard = packets;
                }
            }
            *read = tally;
        }
        delta
    }

    /// Notices whether packets pass up although they need not, behind what has come by the kernel.
    fn compare(&mut self, by_kernel: &Delta, now: Instant) {
        let relayed: u64 = self.course.by_userspace().packets.iter().sum();
        let more = relayed.saturating_sub(std::mem::replace(&mut self.relayed, relayed));
        if !self.is_carried() {
            self.missed = 0;
            return;
        }
        let is_missed = more > FEW && more > by_kernel.heard.iter().sum();
        let before = self.missed;
        self.missed = if is_missed { before.saturating_add(1) } else { 0 };
        let why = match (before >= MISSED, self.missed >= MISSED) {
            (false, true) => {
                Some("most of its packets pass up (srs_proxy_kernel_packets_total)".into())
            }
            (true, false) => None,
            _ => return,
        };
        let engine = self.course.standing().engine;
        self.course.change(engine, why, now);
    }

    fn is_carried(&self) -> bool {
        self.ways.is_some_and(|ways| !ways.iter().any(is_held))
    }
}

/// A session that cannot be kept ends with this daemon, as all do without a pin folder.
fn note(maps: &mut impl Maps, slot: u32, memo: &Memo) {
    if let Err(error) = maps.note(slot, memo) {
        tracing::debug!(%error, slot, "a session would not outlive this daemon");
    }
}

/// Where packets of this key come.
fn port(key: &Key) -> u16 {
    u16::from_be_bytes(key.destination_port)
}

fn is_held(way: &Way) -> bool {
    way.flags & Way::HELD != 0
}

/// By what packets towards the origin, and towards the client, are found. None if an address pair
/// is of two families.
fn keys(flow: &Flow) -> Option<[Key; 2]> {
    let Flow { key, ends, .. } = flow;
    Some([
        Key::new(key.client, key.local, key.socket_id.unwrap_or_default())?,
        Key::new(ends.origin, ends.near, ends.client_socket_id.unwrap_or_default())?,
    ])
}

/// What becomes of them.
fn ways(flow: &Flow, keys: &[Key; 2], hops: &[NextHop; 2], slot: u32) -> Option<[Way; 2]> {
    let Flow { key, ends, .. } = flow;
    let way = |found: &Key, (source, destination), [from, hop]: [&NextHop; 2], leg| {
        let mut way = Way::new(found, source, destination)?;
        way.destination_mac = hop.destination_mac;
        way.source_mac = hop.source_mac;
        way.vlan = hop.vlan.unwrap_or_default().to_be_bytes();
        way.mtu = u16::try_from(hop.mtu).unwrap_or(u16::MAX);
        way.interface = hop.interface;
        way.from_vlan = from.vlan.unwrap_or_default().to_be_bytes();
        way.from_interface = from.interface;
        (way.slot, way.leg, way.generation) = (slot, leg, flow.generation);
        Some(way)
    };
    let ([from_client, from_origin], [to_origin, to_client]) = (keys, hops);
    Some([
        way(from_client, (ends.near, ends.origin), [to_client, to_origin], TO_ORIGIN)?,
        way(from_origin, (key.local, key.client), [to_origin, to_client], TO_CLIENT)?,
    ])
}

#[cfg(test)]
mod tests;
