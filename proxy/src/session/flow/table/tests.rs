//! What each change of a session tells a plane.

use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use std::sync::Arc;

use super::*;
use crate::plane::datagram::Delta;

/// A plane that carries nothing, and remembers what it was told.
#[derive(Clone, Debug, Default)]
struct Recorder {
    told: Arc<Mutex<Vec<String>>>,
    heard: Arc<Mutex<Vec<(FlowKey, Delta)>>>,
}

impl Recorder {
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock())
    }
}

impl Offload<&'static str, u16> for Recorder {
    fn install(&mut self, flow: &Flow, lane: &&'static str, exit: &u16) {
        let (client, generation) = (flow.key.client.port(), flow.generation);
        self.told.lock().push(format!("install {lane} {client} by {exit} #{generation}"));
    }

    fn remove(&mut self, flow: &Flow, lane: &&'static str) {
        let (client, generation) = (flow.key.client.port(), flow.generation);
        self.told.lock().push(format!("remove {lane} {client} #{generation}"));
    }

    fn hold(&mut self, flow: &Flow, why: &'static str) -> Progress {
        self.told.lock().push(format!("hold #{} {why}", flow.generation));
        Progress { data: Some(7), acknowledged: None }
    }

    fn release(&mut self, flow: &Flow) {
        self.told.lock().push(format!("release #{}", flow.generation));
    }

    fn has_heard(&self, flow: &Flow, _: &&'static str, leg: Leg) -> bool {
        let heard = self.heard.lock();
        let of_flow = heard.iter().filter(|(key, _)| *key == flow.key);
        of_flow.into_iter().any(|(_, delta)| delta.heard[leg as usize] > 0)
    }

    fn counters(&mut self, sink: &mut dyn FnMut(&FlowKey, Delta)) {
        for (key, delta) in self.heard.lock().drain(..) {
            sink(&key, delta);
        }
    }
}

#[derive(Debug)]
struct Test;

impl Media for Test {
    type Session = u8;
    type Lane = &'static str;
    type Exit = u16;
}

type Table = FlowTable<Test, Recorder>;

fn table() -> (Table, Recorder, Instant) {
    let recorder = Recorder::default();
    (Table::new(recorder.clone()), recorder, Instant::now())
}

fn ends() -> FlowEnds {
    let [near, origin] = ["10.0.0.1:40000", "10.0.0.9:8000"].map(|end| end.parse().unwrap());
    FlowEnds { near, origin, client_socket_id: None }
}

fn key(port: u16) -> FlowKey {
    FlowKey {
        is_tcp: false,
        client: SocketAddr::new([192, 0, 2, 1].into(), port),
        local: "198.51.100.1:18000".parse().unwrap(),
        socket_id: None,
    }
}

fn ice(name: &str) -> Name {
    Name::Ice(name.into())
}

#[test]
fn a_session_is_found_by_its_names_and_then_by_where_its_client_was_seen() {
    let (mut table, plane, now) = table();
    let id = table.insert(7, "a", ends(), now);
    assert!(table.name(id, ice("x:y")));
    assert_eq!(table.find(&ice("x:y")), Some(id));
    assert_eq!(table.find(&ice("y:x")), None);
    assert_eq!(table.owner(&key(1)), None);
    assert_eq!(table.learn(id, key(1), 5, now), Some(Learnt::New));
    assert_eq!(plane.told(), [""; 0], "no plane hears of an address that media does not take");
    assert!(table.select(id, &key(1)));
    assert!(!table.select(id, &key(1)), "it is selected already");
    assert_eq!(table.owner(&key(1)), Some(id));
    assert_eq!(plane.told(), ["install a 1 by 5 #1"]);
    assert_eq!(table.remove(id), Some(7));
    assert_eq!(plane.told(), ["remove a 1 #1"]);
    assert_eq!(table.sizes(), [0, 0, 0]);
    assert_eq!(table.learn(id, key(1), 5, now), None, "who comes late finds nothing");
    assert!(!table.name(id, ice("x:y")));
    assert_eq!(table.sizes(), [0, 0, 0]);
}

#[test]
fn a_client_that_moves_has_a_way_at_any_time() {
    let (mut table, plane, now) = table();
    let id = table.insert(7, "a", ends(), now);
    for port in [1, 2] {
        table.learn(id, key(port), port, now);
        assert!(table.select(id, &key(port)));
    }
    assert_eq!(plane.told(), ["install a 1 by 1 #1", "install a 2 by 2 #2", "remove a 1 #1"]);
    assert_eq!(table.owner(&key(1)), Some(id), "it may come back there");
    assert!(table.select(id, &key(1)));
    assert_eq!(plane.told(), ["install a 1 by 1 #3", "remove a 2 #2"]);
}

#[test]
fn an_address_belongs_to_the_session_that_has_proved_it_last() {
    let (mut table, plane, now) = table();
    let [a, b] = ["a", "b"].map(|lane| {
        let id = table.insert(7, lane, ends(), now);
        table.learn(id, key(1), 1, now);
        table.select(id, &key(1));
        id
    });
    assert_eq!(plane.told(), ["install a 1 by 1 #1", "remove a 1 #1", "install b 1 by 1 #2"]);
    assert_eq!(table.owner(&key(1)), Some(b));
    assert_eq!(table.flow(a), None);
    table.remove(a);
    assert_eq!(plane.told(), [""; 0], "a late removal does not hit the new flow");
    assert_eq!(table.owner(&key(1)), Some(b));
}

#[test]
fn addresses_and_names_of_a_session_are_bounded_and_those_in_use_stay() {
    let (mut table, plane, now) = table();
    let id = table.insert(7, "a", ends(), now);
    table.learn(id, key(1), 1, now);
    table.select(id, &key(1));
    for port in 2..1000 {
        let now = now + Duration::from_millis(port.into());
        table.learn(id, key(port), port, now);
        table.name(id, ice(&format!("{port}:x")));
        let [_, paths, names] = table.sizes();
        assert!(paths <= Table::MAX_PATHS && names <= Table::MAX_NAMES, "{paths} {names}");
    }
    assert_eq!(table.owner(&key(1)), Some(id), "the one that media takes");
    assert_eq!(table.owner(&key(999)), Some(id), "the latest");
    assert_eq!(table.owner(&key(2)), None, "the one seen last of all");
    assert_eq!(table.find(&ice("999:x")), Some(id));
    assert_eq!(table.find(&ice("2:x")), Some(id), "the first name is that of its URL");
    assert_eq!(table.latest_exit(id), Some(&999));
    assert_eq!(plane.told(), ["install a 1 by 1 #1"]);
    table.remove(id);
    assert_eq!(table.sizes(), [0, 0, 0]);
}

#[test]
fn a_session_is_held_once_and_until_it_is_released_or_takes_another_way() {
    let (mut table, plane, now) = table();
    let id = table.insert(7, "a", ends(), now);
    assert_eq!(table.hold(id, "early"), None, "there is no flow yet");
    for port in [1, 2] {
        table.learn(id, key(port), port, now);
    }
    table.select(id, &key(1));
    plane.told();
    let progress = Progress { data: Some(7), acknowledged: None };
    assert_eq!(table.hold(id, "why"), Some(progress));
    assert_eq!(table.hold(id, "why"), None, "it is held already");
    assert_eq!(table.held().collect::<Vec<_>>(), [id]);
    table.release(id);
    table.release(id);
    assert_eq!(plane.told(), ["hold #1 why", "release #1"]);
    table.hold(id, "why");
    table.select(id, &key(2));
    assert_eq!(plane.told(), ["hold #1 why", "install a 2 by 2 #2", "remove a 1 #1"]);
    assert_eq!(table.held().count(), 0);
    table.release(id);
    assert_eq!(plane.told(), [""; 0]);
}

#[test]
fn an_address_is_nominated_once_and_forgotten_with_its_connection() {
    let (mut table, plane, now) = table();
    let later = now + Duration::from_secs(1);
    let id = table.insert(7, "a", ends(), now);
    assert!(!table.nominate(id, &key(1)), "never seen there");
    table.learn(id, key(1), 1, now);
    assert!(table.nominate(id, &key(1)));
    assert!(!table.nominate(id, &key(1)));
    table.select(id, &key(1));
    table.learn(id, key(2), 2, later);
    assert_eq!(table.seen(id, &key(2)), Some((Some(now), later)));
    // The same address by another connection.
    table.learn(id, key(2), 3, later);
    assert_eq!(table.exit(id, &key(2)), Some(&3));
    table.forget(&key(1));
    assert_eq!(plane.told(), ["install a 1 by 1 #1", "remove a 1 #1"]);
    assert_eq!((table.owner(&key(1)), table.flow(id)), (None, None));
}

#[test]
fn a_name_that_two_sessions_have_names_neither() {
    let (mut table, _, now) = table();
    let [a, b] = [(); 2].map(|()| {
        let id = table.insert(7, "a", ends(), now);
        table.name(id, Name::SocketId(77));
        id
    });
    assert_eq!(table.find(&Name::SocketId(77)), None);
    assert_eq!(table.find_all(&Name::SocketId(77)).collect::<Vec<_>>(), [b, a]);
    table.remove(a);
    assert_eq!(table.find(&Name::SocketId(77)), Some(b));
}

#[test]
fn a_tick_asks_the_planes_first_and_forgets_addresses_that_were_left() {
    let (mut table, plane, start) = table();
    let second = |n| start + Duration::from_secs(n);
    let ids: [_; 2] = ["a", "b"].map(|lane| table.insert(7, lane, ends(), start));
    for (id, port) in ids.into_iter().zip([1, 2]) {
        table.learn(id, key(port), port, start);
        table.select(id, &key(port));
        table.learn(id, key(port + 10), port, start);
    }
    // Idle after five seconds; only the plane knows that one is not.
    let judge = |now: Instant| {
        move |_: &mut u8, heard: [Instant; 2]| {
            (now - heard[Leg::Client as usize] >= Duration::from_secs(5)).then_some(())
        }
    };
    let client = Delta { heard: [0, 3] };
    plane.heard.lock().push((key(1), client));
    assert_eq!(table.heard(ids[0], Leg::Client, second(3)), Some(second(3)), "just now");
    assert_eq!(table.heard(ids[0], Leg::Origin, second(3)), Some(start));
    let over = table.tick(second(4), None, judge(second(4)));
    assert_eq!(over, []);
    assert_eq!(table.heard(ids[0], Leg::Client, second(5)), Some(second(4)));
    assert_eq!(table.heard(ids[0], Leg::Origin, second(5)), Some(start));
    let over = table.tick(second(6), Some(second(1)), judge(second(6)));
    assert_eq!(over, [(ids[1], ())]);
    assert_eq!(table.owner(&key(11)), None, "left, and not seen again");
    assert_eq!(table.owner(&key(1)), Some(ids[0]), "in use, however seldom it is checked");
}
