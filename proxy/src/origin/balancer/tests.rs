//! Streams, origins that come and go, and clients that race for them, on a virtual clock.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Barrier;
use std::thread;

use proptest::prelude::*;

use super::super::registration;
use super::*;
use crate::stream::{Ask, Vhosts};

const SECOND: Duration = Duration::from_secs(1);

fn origin(server: &str, pid: u32, port: u16) -> Origin {
    let body = serde_json::json!({
        "ip": "10.0.0.1", "server": server, "service": format!("run-{pid}"), "pid": pid,
        "rtmp": [port.to_string()], "http": ["8080"],
    });
    registration::parse(body.to_string().as_bytes()).unwrap()
}

pub(super) fn balancer(servers: &[&str], now: Instant) -> Balancer {
    balancer_with(BalancerSettings::default(), servers, now)
}

pub(super) fn balancer_with(
    settings: BalancerSettings,
    servers: &[&str],
    now: Instant,
) -> Balancer {
    let balancer = Balancer::new(settings);
    for server in servers {
        assert_eq!(balancer.register(origin(server, 1, 1935), now), Ok(Registered::New));
    }
    balancer
}

pub(super) fn stream(name: impl std::fmt::Display) -> StreamKey {
    let target = format!("/live/{name}.flv");
    StreamKey::new(&Ask::Http { host: None, target: &target }, &Vhosts::default()).unwrap()
}

/// A client that finds the stream.
pub(super) fn pick(balancer: &Balancer, key: &StreamKey, now: Instant) -> Lease {
    let lease = early(balancer, key, now);
    lease.found();
    lease
}

/// A client that does not know yet whether the stream is there.
fn early(balancer: &Balancer, key: &StreamKey, now: Instant) -> Lease {
    balancer.pick(key, Listener::Rtmp, &[], now).expect("an origin")
}

fn failed(balancer: &Balancer, lease: &Lease, why: &str, now: Instant) {
    balancer.failed(lease.origin(), lease.service(), why, now);
}

fn reached(balancer: &Balancer, lease: &Lease) {
    balancer.reached(lease.origin(), lease.service());
}

/// Origins that are active, and that are down.
fn up_and_down(balancer: &Balancer, now: Instant) -> (usize, usize) {
    let [active, _, _, down] = balancer.counts(now).origins;
    (active, down)
}

fn server(lease: &Lease) -> String {
    lease.origin().server().to_string()
}

#[test]
fn many_threads_that_race_for_one_stream_get_one_origin() {
    let now = Instant::now();
    let settings = BalancerSettings { policy: Policy::Random, ..Default::default() };
    let balancer = balancer_with(settings, &["a", "b", "c", "d"], now);
    for round in 0..50 {
        let key = stream(round);
        let start = Barrier::new(16);
        let servers: HashSet<String> = thread::scope(|scope| {
            let racers: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        server(&pick(&balancer, &key, now))
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(servers.len(), 1, "{key} is on {servers:?}");
    }
}

#[test]
fn racers_that_all_lose_their_origin_meet_on_one_other() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b", "c"], now);
    let key = stream("s");
    let first: Vec<_> = (0..16).map(|_| pick(&balancer, &key, now)).collect();
    let start = Barrier::new(first.len());
    let servers: HashSet<String> = thread::scope(|scope| {
        let racers: Vec<_> = first
            .iter()
            .map(|lease| {
                scope.spawn(|| {
                    start.wait();
                    failed(&balancer, lease, "refused", now);
                    let tried = [lease.origin().server().clone()];
                    server(&balancer.pick(&key, Listener::Rtmp, &tried, now).unwrap())
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(servers.len(), 1, "the stream is on {servers:?}");
    assert!(!servers.contains(&server(&first[0])), "the stream stayed on the lost origin");
}

#[test]
fn ten_streams_spread_over_two_origins_and_each_stays() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b"], now);
    let publishers: Vec<_> = (0..10).map(|n| pick(&balancer, &stream(n), now)).collect();
    let on_a = publishers.iter().filter(|lease| server(lease) == "a").count();
    assert_eq!(on_a, 5, "the streams are not spread");
    for publisher in &publishers {
        let player = pick(&balancer, publisher.key(), now + SECOND);
        assert_eq!(server(&player), server(publisher), "{}", publisher.key());
    }
    let streams: Vec<_> = balancer.origins(now).iter().map(|origin| origin.streams).collect();
    assert_eq!(streams, [5, 5]);
}

#[test]
fn without_origins_the_reason_is_told() {
    let now = Instant::now();
    let balancer = Balancer::new(BalancerSettings::default());
    let refused = |balancer: &Balancer, listener, tried: &[ServerName]| {
        balancer.pick(&stream("s"), listener, tried, now).expect_err("no origin")
    };
    assert_eq!(refused(&balancer, Listener::Rtmp, &[]), NoOrigin::NoneAlive);
    balancer.register(origin("a", 1, 1935), now).unwrap();
    assert_eq!(refused(&balancer, Listener::Srt, &[]), NoOrigin::NotOffered);
    assert_eq!(refused(&balancer, Listener::Rtmp, &["a".into()]), NoOrigin::AllTried);
}

#[test]
fn an_origin_that_refuses_is_left_alone_and_its_streams_move() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b"], now);
    let key = stream("s");
    let lost = pick(&balancer, &key, now);
    failed(&balancer, &lost, "refused", now);
    let refused = server(&lost);
    drop(lost);
    let next = pick(&balancer, &key, now);
    assert_ne!(server(&next), refused, "the stream stayed on the origin that refused");
    let states: BTreeSet<_> = balancer.origins(now).into_iter().map(|o| o.state).collect();
    assert_eq!(states, BTreeSet::from(["active", "down"]));
    let again = pick(&balancer, &key, now + 2 * SECOND);
    assert_eq!(server(&again), server(&next), "a stream that moved does not move back");
    assert_eq!(up_and_down(&balancer, now + 2 * SECOND), (1, 1), "nobody has reached it since");
}

#[test]
fn a_service_that_is_not_there_takes_nothing_from_the_others() {
    let now = Instant::now();
    let balancer = Balancer::new(BalancerSettings::default());
    for server in ["a", "b"] {
        let body = serde_json::json!({
            "ip": "10.0.0.1", "server": server, "service": "s", "pid": 1,
            "rtmp": ["1935"], "http": ["8080"], "srt": ["10080"], "api": ["1985"],
        });
        let origin = registration::parse(body.to_string().as_bytes()).unwrap();
        balancer.register(origin, now).unwrap();
    }
    let key = stream("s");
    let publisher = pick(&balancer, &key, now);
    reached(&balancer, &publisher);
    for listener in [Listener::Srt, Listener::Api] {
        let caller = balancer.pick(&key, listener, &[], now).expect("an origin");
        failed(&balancer, &caller, "refused", now);
        let tried = [caller.origin().server().clone()];
        drop(caller);
        let elsewhere = balancer.pick(&key, listener, &tried, now);
        assert_eq!(elsewhere.unwrap_err(), NoOrigin::AllTried, "the stream is used by RTMP");
    }
    assert_eq!(up_and_down(&balancer, now), (2, 0));
    let player = pick(&balancer, &key, now);
    assert_eq!(server(&player), server(&publisher));
    let views = balancer.origins(now);
    let failing: Vec<_> = views.iter().flat_map(|origin| origin.failing.clone()).collect();
    assert_eq!(failing, ["api", "srt"]);
    drop((publisher, player));
    // Nobody uses it otherwise any more: it may move.
    let caller = balancer.pick(&key, Listener::Srt, &[], now).expect("an origin");
    assert_eq!(views.iter().filter(|origin| origin.failing.is_empty()).count(), 1);
    assert!(views.iter().any(|it| it.failing.is_empty() && it.server == *caller.origin().server()));
}

#[test]
fn a_stream_in_use_stays_although_another_client_could_not_connect() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b"], now);
    let key = stream("s");
    let publisher = pick(&balancer, &key, now);
    reached(&balancer, &publisher);
    let unlucky = pick(&balancer, &key, now);
    failed(&balancer, &unlucky, "timed out", now);
    drop(unlucky);
    let player = pick(&balancer, &key, now);
    assert_eq!(server(&player), server(&publisher), "the player was parted from its publisher");
    // Whoever finds out for itself that the origin is gone takes the stream along.
    let tried = [player.origin().server().clone()];
    let moved = balancer.pick(&key, Listener::Rtmp, &tried, now).unwrap();
    assert_ne!(server(&moved), server(&publisher));
}

#[test]
fn when_every_origin_is_in_back_off_the_untried_are_tried_anyway() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b"], now);
    let key = stream("s");
    let first = pick(&balancer, &key, now);
    failed(&balancer, &first, "refused", now);
    let first_server = server(&first);
    drop(first);
    let second = pick(&balancer, &key, now);
    failed(&balancer, &second, "refused", now);
    // Both are down. A new client sticks to the stream's origin, then tries the other.
    let third = pick(&balancer, &key, now);
    assert_eq!(server(&third), server(&second));
    let tried = [third.origin().server().clone()];
    let fourth = balancer.pick(&key, Listener::Rtmp, &tried, now).unwrap();
    assert_eq!(server(&fourth), first_server);
    reached(&balancer, &fourth);
    assert_eq!(up_and_down(&balancer, now).0, 1, "a connection that succeeds ends the back-off");
}

#[test]
fn a_stream_stays_with_its_origin_although_that_lacks_a_protocol() {
    let now = Instant::now();
    let balancer = balancer(&["a"], now);
    let key = stream("s");
    let publisher = pick(&balancer, &key, now);
    let body =
        br#"{"ip":"10.0.0.2","server":"b","service":"x","pid":"1","rtmp":["1"],"srt":["2"]}"#;
    balancer.register(registration::parse(body).unwrap(), now).unwrap();
    let by_srt = balancer.pick(&key, Listener::Srt, &[], now);
    assert_eq!(by_srt.err(), Some(NoOrigin::NotOffered), "the stream would be on two origins");
    assert_eq!(server(&pick(&balancer, &key, now)), server(&publisher));
}

#[test]
fn an_origin_that_is_not_heard_of_ends_with_its_time_to_live() {
    let start = Instant::now();
    let balancer = balancer(&["a"], start);
    let key = stream("s");
    drop(pick(&balancer, &key, start));
    let ttl = BalancerSettings::default().origin_ttl;
    assert!(balancer.pick(&key, Listener::Rtmp, &[], start + ttl.saturating_sub(SECOND)).is_ok());
    assert_eq!(balancer.register(origin("a", 1, 1935), start + ttl / 2), Ok(Registered::Again));
    assert!(balancer.pick(&key, Listener::Rtmp, &[], start + ttl).is_ok());
    let end = start + ttl / 2 + ttl;
    assert!(balancer.origins(end).is_empty(), "a dead origin is listed");
    let none = balancer.pick(&key, Listener::Rtmp, &[], end).expect_err("dead");
    assert_eq!(none, NoOrigin::NoneAlive);
    balancer.sweep(end);
    assert_eq!(balancer.register(origin("a", 1, 1935), end), Ok(Registered::New));
}

#[test]
fn a_restart_replaces_the_server_at_once_and_keeps_its_streams() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b"], now);
    let key = stream("s");
    let before = pick(&balancer, &key, now);
    let name = server(&before);
    failed(&balancer, &before, "refused", now);
    assert_eq!(balancer.register(origin(&name, 2, 1936), now), Ok(Registered::Restarted));
    let after = pick(&balancer, &key, now);
    assert_eq!(server(&after), name, "the stream left its server");
    assert_eq!(after.origin().targets(Listener::Rtmp).next(), Some(("10.0.0.1", 1936)));
    assert_eq!(balancer.origins(now).len(), 2, "the old run is still listed");
    // The old run's failure says nothing about the new one.
    failed(&balancer, &before, "refused", now);
    assert_eq!(up_and_down(&balancer, now).1, 0);
    assert_eq!(balancer.register(origin(&name, 2, 1937), now), Ok(Registered::Changed));
    assert_eq!(balancer.register(origin(&name, 2, 1937), now), Ok(Registered::Again));
}

#[test]
fn the_default_origin_is_a_member_that_never_expires() {
    let now = Instant::now();
    let fixed = Origin::fixed("127.0.0.1", &[(Listener::Rtmp, "1935")]).unwrap();
    let taken = origin(fixed.server().as_str(), 1, 1);
    let settings = BalancerSettings { fixed: Some(fixed), max_origins: 1, ..Default::default() };
    let balancer = balancer_with(settings, &["a"], now);
    let servers: HashSet<_> =
        [1, 2].map(|n| pick(&balancer, &stream(n), now)).iter().map(server).collect();
    assert_eq!(servers.len(), 2, "the default origin takes its share of streams");
    assert_eq!(balancer.register(taken, now), Err(NotRegistered::Reserved));
    let later = now + Duration::from_hours(24);
    balancer.sweep(later);
    let left: Vec<_> =
        balancer.origins(later).into_iter().map(|o| (o.fixed, o.age_seconds)).collect();
    assert_eq!(left, [(true, None)]);
}

#[test]
fn the_table_of_origins_is_bounded_and_the_dead_make_room() {
    let now = Instant::now();
    let settings = BalancerSettings { max_origins: 2, ..Default::default() };
    let balancer = balancer_with(settings, &["a", "b"], now);
    assert_eq!(balancer.register(origin("c", 1, 1), now), Err(NotRegistered::Full));
    assert_eq!(balancer.register(origin("a", 2, 1), now), Ok(Registered::Restarted));
    let later = now + Duration::from_mins(5);
    assert_eq!(balancer.register(origin("c", 1, 1), later), Ok(Registered::New));
}

#[test]
fn a_stream_in_use_never_expires_and_an_idle_one_does() {
    let now = Instant::now();
    let settings = BalancerSettings { origin_ttl: Duration::from_hours(100), ..Default::default() };
    let idle_ttl = settings.route_idle_ttl;
    let balancer = balancer_with(settings, &["a"], now);
    let used = pick(&balancer, &stream("used"), now);
    drop(pick(&balancer, &stream("idle"), now));
    balancer.sweep(now + idle_ttl.saturating_sub(SECOND));
    let counts = balancer.counts(now);
    assert_eq!((counts.routes_in_use, counts.routes_idle), (1, 1));
    balancer.sweep(now + idle_ttl);
    let counts = balancer.counts(now);
    assert_eq!((counts.routes_in_use, counts.routes_idle), (1, 0));
    balancer.sweep(now + 100 * idle_ttl);
    drop(used);
    assert_eq!(balancer.counts(now).routes_idle, 1, "its idle time starts with the last client");
    balancer.sweep(now + 101 * idle_ttl);
    assert_eq!(balancer.counts(now).routes_idle, 0);
}

#[test]
fn a_lease_of_a_former_route_leaves_the_new_one_alone() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b"], now);
    let key = stream("s");
    let former = pick(&balancer, &key, now);
    failed(&balancer, &former, "refused", now);
    let current = pick(&balancer, &key, now);
    drop(former);
    assert_eq!(balancer.counts(now).routes_in_use, 1, "the new route lost its client");
    balancer.sweep(now + Duration::from_hours(1));
    drop(current);
    assert_eq!(balancer.counts(now).routes_idle, 1);
}

#[test]
fn a_million_one_off_names_take_the_room_of_the_limit() {
    let now = Instant::now();
    let settings = BalancerSettings { max_routes: 1000, ..Default::default() };
    let balancer = balancer_with(settings, &["a", "b"], now);
    let kept = pick(&balancer, &stream("kept"), now);
    for n in 0..1_000_000u32 {
        drop(pick(&balancer, &stream(n), now));
        if n % 100_000 == 0 {
            let counts = balancer.counts(now);
            assert!(counts.routes_idle + counts.routes_in_use <= 1000, "{counts:?}");
        }
    }
    let state = balancer.state.lock();
    assert_eq!(state.routes.len(), 1000);
    assert_eq!(state.routes.in_use(), 1);
    assert_eq!(state.routes.of(&"a".into()) + state.routes.of(&"b".into()), 1000);
    drop(state);
    drop(kept);
}

#[test]
fn with_every_stream_in_use_a_new_one_is_refused() {
    let now = Instant::now();
    let settings = BalancerSettings { max_routes: 2, ..Default::default() };
    let balancer = balancer_with(settings, &["a"], now);
    let used = [1, 2].map(|n| pick(&balancer, &stream(n), now));
    let third = balancer.pick(&stream(3), Listener::Rtmp, &[], now);
    assert_eq!(third.err(), Some(NoOrigin::TooManyStreams));
    drop(used);
    assert!(balancer.pick(&stream(3), Listener::Rtmp, &[], now).is_ok());
}

/// What may happen to a balancer.
#[derive(Clone, Debug)]
enum Event {
    Heartbeat { server: u8, pid: u8 },
    Pick { stream: u8, tried: Vec<u8> },
    Fail { lease: usize },
    Reach { lease: usize },
    Leave { lease: usize },
    Wait { seconds: u16 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..4u8, 0..2u8).prop_map(|(server, pid)| Event::Heartbeat { server, pid }),
        6 => (0..6u8, proptest::collection::vec(0..4u8, 0..3))
            .prop_map(|(stream, tried)| Event::Pick { stream, tried }),
        2 => any::<usize>().prop_map(|lease| Event::Fail { lease }),
        1 => any::<usize>().prop_map(|lease| Event::Reach { lease }),
        3 => any::<usize>().prop_map(|lease| Event::Leave { lease }),
        2 => (0..200u16).prop_map(|seconds| Event::Wait { seconds }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_a_stream_has_one_live_origin_and_the_books_balance(
        events in proptest::collection::vec(event(), 1..120),
        policy in prop::sample::select(Policy::ALL.to_vec()),
    ) {
        let mut now = Instant::now();
        let settings = BalancerSettings { policy, max_routes: 4, ..Default::default() };
        let balancer = Balancer::new(settings.clone());
        let mut heard: BTreeMap<String, Instant> = BTreeMap::new();
        let mut leases: Vec<Lease> = Vec::new();
        // The origin of the last pick of each stream, while nothing has shaken it.
        let mut settled: BTreeMap<StreamKey, String> = BTreeMap::new();
        for event in events {
            match event {
                Event::Heartbeat { server, pid } => {
                    let server = format!("vid-{server}");
                    let run = u32::from(pid);
                    balancer.register(origin(&server, run, 1935), now).unwrap();
                    heard.insert(server, now);
                }
                Event::Pick { stream: name, tried } => {
                    let key = stream(name);
                    let tried: Vec<ServerName> =
                        tried.iter().map(|n| ServerName::from(format!("vid-{n}").as_str())).collect();
                    let Ok(lease) = balancer.pick(&key, Listener::Rtmp, &tried, now) else { continue };
                    let server = server(&lease);
                    prop_assert!(now - heard[&server] < settings.origin_ttl, "{server} is dead");
                    prop_assert!(!tried.contains(lease.origin().server()), "{server} was tried");
                    if tried.is_empty() {
                        let before = settled.insert(key, server.clone());
                        prop_assert!(before.is_none_or(|before| before == server), "it moved");
                    } else {
                        settled.remove(&key);
                    }
                    leases.push(lease);
                }
                Event::Fail { lease } => {
                    if let Some(lease) = leases.get(lease % leases.len().max(1)) {
                        failed(&balancer, lease, "refused", now);
                        settled.clear();
                    }
                }
                Event::Reach { lease } => {
                    if let Some(lease) = leases.get(lease % leases.len().max(1)) {
                        reached(&balancer, lease);
                        settled.clear();
                    }
                }
                Event::Leave { lease } => {
                    if !leases.is_empty() {
                        let lease = leases.swap_remove(lease % leases.len());
                        // Its route may now make room for another.
                        settled.remove(lease.key());
                    }
                }
                Event::Wait { seconds } => {
                    now += Duration::from_secs(seconds.into());
                    balancer.sweep(now);
                    settled.clear();
                }
            }
            let counts = balancer.counts(now);
            let keys: BTreeSet<_> = leases.iter().map(Lease::key).collect();
            prop_assert!(counts.routes_in_use <= keys.len());
            prop_assert!(counts.routes_in_use + counts.routes_idle <= settings.max_routes);
            let streams: usize = balancer.origins(now).iter().map(|origin| origin.streams).sum();
            prop_assert!(streams <= counts.routes_in_use + counts.routes_idle);
        }
        leases.clear();
        let counts = balancer.counts(now);
        prop_assert_eq!(counts.routes_in_use, 0, "a route keeps a client that left");
        balancer.sweep(now + settings.route_idle_ttl);
        let counts = balancer.counts(now);
        prop_assert_eq!(counts.routes_idle, 0);
    }
}

mod pieces;
