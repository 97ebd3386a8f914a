//! What becomes of flows as things change, with maps in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::hops::NoHop;
use super::super::programs::MapError;
use super::*;
use crate::plane::Meter;
use crate::plane::datagram::{Amounts, FlowEnds};

/// Maps that a test looks into.
#[derive(Debug, Default)]
struct Fake {
    ways: HashMap<Key, Way>,
    ports: HashMap<u16, u64>,
    tallies: HashMap<(u32, u32), Tally>,
    memos: BTreeMap<u32, Memo>,
    is_full: bool,
}

impl Maps for Fake {
    fn put(&mut self, key: &Key, way: &Way) -> Result<(), MapError> {
        if self.is_full {
            return Err(MapError::Full);
        }
        self.ways.insert(*key, *way);
        Ok(())
    }

    fn take(&mut self, key: &Key) {
        self.ways.remove(key);
    }

    fn ways(&self) -> Vec<(Key, Way)> {
        self.ways.iter().map(|(key, way)| (*key, *way)).collect()
    }

    fn open_port(&mut self, port: u16, bits: u64, on: bool) {
        let word = self.ports.entry(port).or_default();
        *word = if on { *word | bits } else { *word & !bits };
        if *word == 0 {
            self.ports.remove(&port);
        }
    }

    fn tally(&self, slot: u32, leg: u32) -> Tally {
        self.tallies.get(&(slot, leg)).copied().unwrap_or_default()
    }

    fn clear(&mut self, slot: u32) {
        self.tallies.retain(|(of, _), _| *of != slot);
    }

    fn note(&mut self, slot: u32, memo: &Memo) -> Result<(), MapError> {
        self.memos.insert(slot, *memo);
        Ok(())
    }

    fn forget(&mut self, slot: u32) {
        self.memos.remove(&slot);
    }

    fn memos(&self) -> Vec<(u32, Memo)> {
        self.memos.iter().map(|(slot, memo)| (*slot, *memo)).collect()
    }
}

/// A plane with two interfaces, which have programs.
struct Plane {
    flows: Flows<Fake>,
    now: Instant,
    meter: Arc<Meter>,
}

const FRONT: u32 = 2;
const BACK: u32 = 3;

impl Plane {
    fn new(slots: u32) -> Self {
        let mut flows = Flows::new(Fake::default(), slots);
        let now = Instant::now();
        flows.attached(HashMap::from([(FRONT, Ok(Engine::Tc)), (BACK, Ok(Engine::Tc))]), now);
        Self { flows, now, meter: Arc::default() }
    }

    /// Tells of a flow whose hops are known.
    fn install(&mut self, flow: &Flow) -> Arc<Course> {
        self.install_with(flow, [Some(Ok(hop(BACK))), Some(Ok(hop(FRONT)))])
    }

    fn install_with(&mut self, flow: &Flow, hops: [Option<Answer>; 2]) -> Arc<Course> {
        let course = Arc::new(Course::new(Arc::clone(&self.meter), self.now));
        let paths = paths(flow).unwrap();
        self.flows.install(Medium::Srt, flow, &course, (paths, hops), self.now);
        course
    }

    fn forwarded(&mut self, slot: u32, leg: u32, packets: u64) {
        let tally = self.flows.maps.tallies.entry((slot, leg)).or_default();
        tally.packets += packets;
        tally.bytes += packets * 100;
    }

    fn counters(&mut self) -> Vec<[u64; 2]> {
        let mut heard = Vec::new();
        self.flows.counters(Medium::Srt, self.now, &mut |_, delta| heard.push(delta.heard));
        heard
    }

    /// Entries, and how many of them let packets pass up.
    fn entries(&self) -> (usize, usize) {
        let ways = self.flows.maps.ways.values();
        (ways.len(), ways.filter(|way| is_held(way)).count())
    }

    fn is_empty(&self) -> bool {
        let Fake { ways, ports, memos, .. } = &self.flows.maps;
        ways.is_empty() && ports.is_empty() && memos.is_empty() && self.flows.by_path.is_empty()
    }
}

fn hop(interface: u32) -> NextHop {
    NextHop {
        interface,
        name: "eth".into(),
        destination_mac: [2, 0, 0, 0, 0, 9],
        source_mac: [2, 0, 0, 0, 0, 1],
        vlan: None,
        mtu: 1500,
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A flow of the client at this port.
fn flow(port: u16, generation: u64) -> Flow {
    Flow {
        key: FlowKey {
            is_tcp: false,
            client: address(&format!("[::ffff:192.0.2.9]:{port}")),
            local: address("[::ffff:198.51.100.1]:10080"),
            socket_id: Some(7),
        },
        ends: FlowEnds {
            near: address("10.0.0.1:40000"),
            origin: address("10.0.0.9:10080"),
            client_socket_id: Some(8),
        },
        generation,
    }
}

fn engine(course: &Course) -> Engine {
    course.standing().engine
}

fn why(course: &Course) -> String {
    course.standing().why.map(|why| why.to_string()).unwrap_or_default()
}

#[test]
fn a_flow_is_carried_both_ways_once_both_next_hops_are_known() {
    let mut plane = Plane::new(4);
    let flow = flow(5000, 1);
    let course = plane.install_with(&flow, [Some(Ok(hop(BACK))), None]);
    assert_eq!((engine(&course), plane.entries()), (Engine::Relay, (0, 0)));
    assert!(why(&course).contains("looked up"), "{}", why(&course));
    let [_, to_client] = paths(&flow).unwrap();
    plane.flows.hop(&to_client, &Ok(hop(FRONT)), plane.now);
    assert_eq!((engine(&course), why(&course)), (Engine::Tc, String::new()));
    let from_client = Key::new(address("192.0.2.9:5000"), address("198.51.100.1:10080"), 7);
    let from_origin = Key::new(flow.ends.origin, flow.ends.near, 8);
    let way = |key: Option<Key>| plane.flows.maps.ways[&key.unwrap()];
    let (to_origin, to_client) = (way(from_client), way(from_origin));
    assert_eq!((to_origin.interface, to_client.interface), (BACK, FRONT));
    // From where the other one leaves, and from nowhere else.
    assert_eq!((to_origin.from_interface, to_client.from_interface), (FRONT, BACK));
    assert_eq!(to_origin.destination_port, 10080_u16.to_be_bytes());
    assert_eq!(to_origin.source_port, 40000_u16.to_be_bytes());
    assert_eq!(to_client.destination_port, 5000_u16.to_be_bytes());
    assert_eq!(to_client.source_port, 10080_u16.to_be_bytes());
    assert_eq!((to_origin.leg, to_client.leg), (TO_ORIGIN, TO_CLIENT));
    assert_eq!(plane.flows.maps.ports, HashMap::from([(10080, Ports::SRT), (40000, Ports::SRT)]));
    assert_eq!(plane.flows.sizes(), (1, 4));
    assert_eq!(plane.flows.remove(&flow, plane.now), Some(paths(&flow).unwrap()));
    assert!(plane.is_empty());
    assert_eq!(plane.flows.remove(&flow, plane.now), None);
}

#[test]
fn what_the_kernel_cannot_carry_is_said() {
    let refused = |change: fn(&mut Flow)| {
        let mut flow = flow(5000, 1);
        change(&mut flow);
        paths(&flow).unwrap_err().to_string()
    };
    let tcp = refused(|flow| flow.key.is_tcp = true);
    let anywhere = refused(|flow| flow.key.local = address("[::]:10080"));
    let families = refused(|flow| flow.ends.origin = address("[2001:db8::9]:10080"));
    let here = refused(|flow| flow.key.client = address("198.51.100.1:5000"));
    let loopback = refused(|flow| flow.ends.origin = address("127.0.0.1:10080"));
    for (said, word) in [
        (tcp, "TCP"),
        (anywhere, "does not tell"),
        (families, "families"),
        (here, "the client is on this host"),
        (loopback, "the origin is on this host"),
    ] {
        assert!(said.contains(word), "{said:?} without {word:?}");
    }
}

#[test]
fn a_client_that_moves_takes_the_way_back_with_it() {
    let mut plane = Plane::new(4);
    let (former, latter) = (flow(5000, 1), flow(5001, 2));
    plane.install(&former);
    let course = plane.install(&latter);
    assert_eq!(plane.entries(), (3, 0));
    plane.flows.remove(&former, plane.now);
    assert_eq!((plane.entries(), engine(&course)), ((2, 0), Engine::Tc));
    let back = Key::new(latter.ends.origin, latter.ends.near, 8).unwrap();
    let back = plane.flows.maps.ways[&back];
    assert_eq!((back.generation, back.destination_port), (2, 5001_u16.to_be_bytes()));
    assert_eq!(plane.flows.maps.ports[&40000], Ports::SRT, "the port is still in use");
    plane.flows.remove(&latter, plane.now);
    assert!(plane.is_empty());
}

#[test]
fn packets_pass_up_while_a_flow_is_held_or_has_no_next_hop_or_no_program() {
    let mut plane = Plane::new(4);
    let flow = flow(5000, 1);
    let course = plane.install(&flow);
    let tally = Tally { data: Tally::IS_SET | 9, ..Tally::default() };
    plane.flows.maps.tallies.insert((0, TO_CLIENT), tally);
    let progress = plane.flows.hold(&flow, "it may have moved", plane.now);
    assert_eq!(progress, Progress { data: Some(9), acknowledged: None });
    assert_eq!((plane.entries(), why(&course)), ((2, 2), "it may have moved".to_owned()));
    plane.flows.release(&flow, plane.now);
    assert_eq!((plane.entries(), engine(&course)), ((2, 0), Engine::Tc));
    let [to_origin, _] = paths(&flow).unwrap();
    plane.flows.hop(&to_origin, &Err(NoHop::NoNeighbour), plane.now);
    assert_eq!((plane.entries(), engine(&course)), ((2, 2), Engine::Relay));
    assert_eq!(why(&course), NoHop::NoNeighbour.to_string());
    plane.flows.hop(&to_origin, &Ok(hop(BACK)), plane.now);
    assert_eq!((plane.entries(), engine(&course)), ((2, 0), Engine::Tc));
    let gone = HashMap::from([(FRONT, Ok(Engine::Tc)), (BACK, Err("it is gone".into()))]);
    plane.flows.attached(gone, plane.now);
    assert_eq!((plane.entries(), why(&course)), ((2, 2), "eth: it is gone".to_owned()));
    let xdp = HashMap::from([(FRONT, Ok(Engine::Xdp)), (BACK, Ok(Engine::Xdp))]);
    plane.flows.attached(xdp, plane.now);
    assert_eq!((plane.entries(), engine(&course)), ((2, 0), Engine::Xdp));
}

#[test]
fn an_interface_of_which_nothing_is_known_is_wanted() {
    let mut plane = Plane::new(4);
    let flow = flow(5000, 1);
    let course = plane.install_with(&flow, [Some(Ok(hop(9))), Some(Ok(hop(FRONT)))]);
    assert!(plane.flows.wants());
    assert_eq!(plane.flows.wanted(), BTreeSet::from([9]));
    assert!(!plane.flows.wants());
    assert_eq!(engine(&course), Engine::Relay);
    let all = HashMap::from([(FRONT, Ok(Engine::Tc)), (9, Ok(Engine::Tc))]);
    plane.flows.attached(all, plane.now);
    assert_eq!(engine(&course), Engine::Tc);
}

#[test]
fn the_oldest_that_waits_takes_a_free_slot() {
    let mut plane = Plane::new(1);
    let all: Vec<_> = (1..=4_u16)
        .map(|n| {
            let mut flow = flow(5000 + n, n.into());
            flow.ends.near.set_port(40_000 + n);
            flow
        })
        .collect();
    let courses: Vec<_> = all.iter().map(|flow| plane.install(flow)).collect();
    assert_eq!(courses.iter().map(|course| engine(course)).filter(|e| *e == Engine::Tc).count(), 1);
    assert!(why(&courses[1]).contains("full"), "{}", why(&courses[1]));
    plane.flows.remove(&all[1], plane.now);
    // The next one has lost its way to the origin in the meantime, with all others of this path.
    plane.flows.hold(&all[2], "held", plane.now);
    plane.flows.remove(&all[0], plane.now);
    assert_eq!(
        courses[2..].iter().map(|it| engine(it)).collect::<Vec<_>>(),
        [Engine::Relay, Engine::Tc]
    );
    plane.flows.release(&all[2], plane.now);
    assert!(why(&courses[2]).contains("full"), "{}", why(&courses[2]));
    plane.flows.remove(&all[3], plane.now);
    assert_eq!(engine(&courses[2]), Engine::Tc);
    plane.flows.remove(&all[2], plane.now);
    assert!(plane.is_empty());
}

#[test]
fn each_packet_is_counted_once_and_none_of_the_flow_that_had_the_slot() {
    let mut plane = Plane::new(1);
    let former = flow(5000, 1);
    let course = plane.install(&former);
    plane.forwarded(0, TO_ORIGIN, 5);
    assert!(plane.flows.has_heard(&former, Leg::Client));
    assert!(!plane.flows.has_heard(&former, Leg::Origin));
    let heard = |origin, client| vec![[origin, client]];
    assert_eq!(plane.counters(), heard(0, 5));
    assert_eq!(plane.counters(), [[0; 2]; 0]);
    plane.forwarded(0, TO_CLIENT, 2);
    assert_eq!(plane.counters(), heard(2, 0));
    plane.forwarded(0, TO_ORIGIN, 1);
    plane.flows.remove(&former, plane.now);
    let carried = Amounts { packets: [6, 2], bytes: [600, 200] };
    assert_eq!((course.by_kernel(), plane.meter.read()), (carried, [600, 200]));
    // A program was just counting.
    plane.forwarded(0, TO_ORIGIN, 1);
    let latter = flow(5001, 2);
    let course = plane.install(&latter);
    assert_eq!(plane.counters(), [[0; 2]; 0]);
    plane.forwarded(0, TO_ORIGIN, 3);
    assert_eq!(plane.counters(), heard(0, 3));
    assert_eq!(course.by_kernel().packets, [3, 0]);
    assert_eq!(course.standing().since, plane.now);
}

#[test]
fn a_map_that_takes_nothing_leaves_nothing_behind() {
    let mut plane = Plane::new(4);
    plane.flows.maps.is_full = true;
    let one = flow(5000, 1);
    let course = plane.install(&one);
    assert!(why(&course).contains("full"), "{}", why(&course));
    assert_eq!(plane.entries(), (0, 0));
    plane.flows.maps.is_full = false;
    let [to_origin, _] = paths(&one).unwrap();
    plane.flows.hop(&to_origin, &Ok(hop(BACK)), plane.now);
    assert_eq!(engine(&course), Engine::Tc);
    // An entry that cannot even be marked is taken away.
    plane.flows.maps.is_full = true;
    plane.flows.hold(&one, "held", plane.now + Duration::from_secs(1));
    assert_eq!(plane.entries(), (0, 0));
    plane.flows.remove(&one, plane.now);
    assert!(plane.is_empty());
}

/// A plane in whose maps an earlier daemon has left these flows, in slots from 2 on.
fn left(flows: &[Flow]) -> Plane {
    let mut plane = Plane::new(8);
    for (slot, flow) in (2..).zip(flows) {
        let (keys, hops) = (keys(flow).unwrap(), [hop(BACK), hop(FRONT)]);
        for (key, way) in keys.iter().zip(ways(flow, &keys, &hops, slot).unwrap()) {
            plane.flows.maps.ways.insert(*key, way);
            *plane.flows.maps.ports.entry(port(key)).or_default() |= Ports::SRT;
        }
        plane.flows.maps.memos.insert(slot, Memo { length: 1, bytes: [7; Memo::MAX] });
    }
    assert_eq!(plane.flows.inherit().len(), flows.len());
    plane
}

fn other_flow(port: u16, generation: u64) -> Flow {
    let mut other = flow(port, generation);
    other.ends.near.set_port(40_000 + port % 100);
    other
}

#[test]
fn what_an_earlier_daemon_left_goes_on_until_it_is_swept_out() {
    let (taken, stale) = (other_flow(5001, 1), other_flow(5002, 2));
    let mut plane = left(&[taken, stale]);
    plane.forwarded(2, TO_ORIGIN, 9);
    // Its next hops are not known yet: it goes on as it is, and is counted.
    let course = plane.install_with(&taken, [None, None]);
    assert_eq!(plane.entries(), (4, 0));
    assert!(plane.flows.has_heard(&taken, Leg::Client));
    assert_eq!(plane.counters(), [[0, 9]]);
    assert_eq!(course.by_kernel().packets, [9, 0], "also of the time without a daemon");
    plane.flows.sweep();
    assert_eq!((plane.entries(), plane.flows.maps.memos.len()), ((2, 0), 1));
    assert_eq!(plane.flows.free.len(), 7, "the slot of what was swept out is free");
    for (path, interface) in paths(&taken).unwrap().iter().zip([BACK, FRONT]) {
        plane.flows.hop(path, &Ok(hop(interface)), plane.now);
    }
    assert_eq!((engine(&course), plane.entries()), (Engine::Tc, (2, 0)));
    plane.flows.remove(&taken, plane.now);
    assert!(plane.is_empty());
    assert_eq!(plane.flows.free.len(), 8);
}

#[test]
fn what_was_left_passes_up_if_it_is_held_or_cannot_be_carried_any_more() {
    let flow = other_flow(5001, 1);
    let mut plane = left(&[flow]);
    let course = plane.install_with(&flow, [None, None]);
    plane.flows.hold(&flow, "it may have moved", plane.now);
    assert_eq!((plane.entries(), why(&course)), ((2, 2), "it may have moved".to_owned()));
    plane.flows.release(&flow, plane.now);
    let [to_origin, to_client] = paths(&flow).unwrap();
    plane.flows.hop(&to_origin, &Ok(hop(BACK)), plane.now);
    plane.flows.hop(&to_client, &Err(NoHop::NoNeighbour), plane.now);
    assert_eq!((plane.entries(), engine(&course)), ((2, 2), Engine::Relay));
    plane.flows.remove(&flow, plane.now);
    assert!(plane.is_empty());
}

#[test]
fn half_of_what_was_left_is_taken_away() {
    let flow = other_flow(5001, 1);
    let mut plane = left(&[flow]);
    let [from_client, _] = keys(&flow).unwrap();
    plane.flows.left.remove(&from_client);
    plane.flows.maps.ways.remove(&from_client);
    let course = plane.install_with(&flow, [None, None]);
    assert_eq!((plane.entries(), engine(&course)), ((0, 0), Engine::Relay));
    plane.flows.sweep();
    assert_eq!(plane.flows.free.len(), 8, "no slot is lost");
}

#[test]
fn a_former_flow_takes_nothing_back_from_the_one_that_came_after() {
    let mut plane = Plane::new(4);
    let (former, latter) = (flow(5000, 1), flow(5001, 2));
    plane.install(&former);
    plane.install(&latter);
    // Something changes between the arrival of the one and the removal of the other.
    plane.flows.hold(&former, "held", plane.now);
    plane.flows.release(&former, plane.now);
    plane.flows.remove(&former, plane.now);
    let back = Key::new(latter.ends.origin, latter.ends.near, 8).unwrap();
    assert_eq!(plane.flows.maps.ways[&back].generation, 2);
    assert_eq!(plane.entries(), (2, 0));
}

#[test]
fn a_session_whose_packets_pass_up_although_it_is_carried_says_so() {
    let mut plane = Plane::new(4);
    let flow = flow(5000, 1);
    let course = plane.install(&flow);
    for _ in 0..MISSED {
        assert_eq!(why(&course), "");
        course.relayed(Leg::Origin, 100, 1000, 0);
        plane.forwarded(0, TO_ORIGIN, 99);
        plane.counters();
    }
    assert!(why(&course).contains("pass up"), "{}", why(&course));
    assert_eq!(engine(&course), Engine::Tc);
    // Something else changes, and nothing of that.
    let [to_origin, _] = paths(&flow).unwrap();
    plane.flows.hop(&to_origin, &Ok(NextHop { mtu: 1400, ..hop(BACK) }), plane.now);
    for _ in 0..MISSED {
        course.relayed(Leg::Origin, 100, 1000, 0);
        plane.counters();
    }
    assert!(why(&course).contains("pass up"), "{}", why(&course));
    course.relayed(Leg::Origin, 5, 50, 0);
    plane.counters();
    assert_eq!(why(&course), "");
}
