//! Pieces of streams, streams of several names, and what an earlier process has left.

use super::*;

fn pick_at(balancer: &Balancer, key: &StreamKey, at: &str, now: Instant) -> Option<Lease> {
    balancer.pick_at(key, at, Listener::Http, &[], now)
}

#[test]
fn a_piece_is_fetched_from_the_server_that_listed_it() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b"], now);
    let key = stream("s");
    let piece = pick_at(&balancer, &key, "b", now).expect("the server is there");
    assert_eq!(server(&piece), "b");
    // The stream had no route: it has this one from now on.
    assert_eq!(server(&pick(&balancer, &key, now)), "b");
    assert_eq!(balancer.counts(now).routes_in_use, 1);
    drop(piece);
    assert_eq!(balancer.counts(now).routes_idle, 1, "the piece's lease is held on");
}

#[test]
fn a_piece_of_another_server_does_not_move_the_stream() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b"], now);
    let key = stream("s");
    let publisher = pick(&balancer, &key, now);
    let other = if server(&publisher) == "a" { "b" } else { "a" };
    let pieces: Vec<_> =
        (0..3).map(|_| pick_at(&balancer, &key, other, now).expect("it is there")).collect();
    assert!(pieces.iter().all(|piece| server(piece) == other));
    assert_eq!(server(&pick(&balancer, &key, now)), server(&publisher));
    let streams: usize = balancer.origins(now).iter().map(|origin| origin.streams).sum();
    assert_eq!(streams, 1, "a piece is counted as a stream");
    // Nor does its end: the route is held by the publisher, and by nobody else.
    drop(pieces);
    assert_eq!(balancer.counts(now).routes_in_use, 1);
    drop(publisher);
    assert_eq!(balancer.counts(now).routes_in_use, 0);
}

#[test]
fn a_lease_of_a_route_that_was_replaced_leaves_the_new_one_alone() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b"], now);
    let key = stream("s");
    let piece = pick_at(&balancer, &key, "a", now).unwrap();
    let moved = balancer.pick(&key, Listener::Http, &["a".into()], now).unwrap();
    assert_eq!(server(&moved), "b");
    drop(piece);
    assert_eq!(balancer.counts(now).routes_in_use, 1, "the old lease ended the new route");
    assert_eq!(server(&pick(&balancer, &key, now)), "b");
}

#[test]
fn a_server_that_cannot_be_asked_is_not_picked_for_its_pieces() {
    let now = Instant::now();
    let balancer = balancer(&["a", "b"], now);
    let key = stream("s");
    let tried: [ServerName; 1] = ["a".into()];
    assert!(pick_at(&balancer, &key, "nobody", now).is_none(), "it never was");
    assert!(pick_at(&balancer, &key, "", now).is_none());
    assert!(balancer.pick_at(&key, "a", Listener::Http, &tried, now).is_none(), "it was tried");
    assert!(balancer.pick_at(&key, "a", Listener::Srt, &[], now).is_none(), "it has no SRT");
    let lost = pick_at(&balancer, &key, "a", now).unwrap();
    failed(&balancer, &lost, "refused", now);
    assert!(pick_at(&balancer, &key, "a", now).is_none(), "it is in back-off");
    let long_after = now + BalancerSettings::default().origin_ttl;
    assert!(pick_at(&balancer, &key, "b", long_after).is_none(), "it is gone");
    // None of this gave the stream a route of its own.
    drop(lost);
    assert_eq!(balancer.counts(now).routes_in_use, 0);
    assert_eq!(server(&pick_at(&balancer, &key, "b", now).unwrap()), "b");
}

#[test]
fn pieces_are_fetched_even_if_there_is_no_room_for_their_route() {
    let now = Instant::now();
    let settings = BalancerSettings { max_routes: 1, ..Default::default() };
    let balancer = balancer_with(settings, &["a"], now);
    let _held = pick(&balancer, &stream("held"), now);
    let piece = pick_at(&balancer, &stream("s"), "a", now).expect("the server is there");
    assert_eq!(balancer.counts(now).routes_in_use, 1);
    drop(piece);
    assert_eq!(balancer.counts(now).routes_in_use, 1, "a lease without a route ended another's");
}

/// The stream that a path belongs to, and whether it has an origin.
fn attribute(balancer: &Balancer, path: &str) -> (String, bool) {
    let candidates = Candidates::of(None, path, &Vhosts::default()).unwrap().expect("a stream's");
    let (key, is_routed) = balancer.attribute(&candidates);
    (key.as_str().trim_start_matches("__defaultVhost__/live/").to_owned(), is_routed)
}

#[test]
fn of_several_streams_the_likeliest_that_has_an_origin_is_meant() {
    let now = Instant::now();
    let balancer = balancer(&["a"], now);
    let (whole, own) = (stream("s"), stream("s-1"));
    assert_eq!(attribute(&balancer, "/live/s-1.ts"), ("s".into(), false));
    let own = pick(&balancer, &own, now);
    assert_eq!(attribute(&balancer, "/live/s-1.ts"), ("s-1".into(), true));
    // Who only waits for a stream takes no piece from another.
    let _whole = pick(&balancer, &whole, now);
    assert_eq!(attribute(&balancer, "/live/s-1.ts"), ("s".into(), true));
    // A live stream with clients is not taken for a piece, whoever asks for what.
    own.found();
    assert_eq!(attribute(&balancer, "/live/s-1.ts"), ("s-1".into(), true));
    drop(own);
    assert_eq!(attribute(&balancer, "/live/s-1.ts"), ("s".into(), true));
}

#[test]
fn a_stream_that_was_not_found_leaves_no_route_unless_others_have_found_it() {
    let now = Instant::now();
    let balancer = balancer(&["a"], now);
    let key = stream("s");
    drop(early(&balancer, &key, now));
    assert_eq!(balancer.counts(now).routes_idle, 0);
    drop(pick_at(&balancer, &key, "a", now).expect("the server is there"));
    assert_eq!(balancer.counts(now).routes_idle, 0);

    drop([early(&balancer, &key, now), early(&balancer, &key, now)]);
    assert_eq!(balancer.counts(now).routes_idle, 0, "two at once have not found it either");

    let too_early = early(&balancer, &key, now);
    let publisher = pick(&balancer, &key, now);
    drop(too_early);
    assert_eq!(balancer.counts(now).routes_in_use, 1, "the publisher's");
    drop(publisher);
    assert_eq!(balancer.counts(now).routes_idle, 1);
    drop(early(&balancer, &key, now));
    assert_eq!(balancer.counts(now).routes_idle, 1, "it was there before");
}

#[test]
fn who_goes_on_at_an_origin_has_it_and_its_stream_before_any_heartbeat() {
    let now = Instant::now();
    let balancer = balancer(&[], now);
    let (key, a) = (stream("s"), origin("a", 1, 1935));
    let adopt = |origin: &Origin, key, now| balancer.adopt(origin, key, Listener::Rtmp, now);
    let lease = adopt(&a, &key, now).unwrap();
    let other = adopt(&a, &key, now).unwrap();
    assert_eq!((server(&lease), balancer.counts(now).routes_in_use), ("a".into(), 1));
    balancer.register(origin("b", 1, 1935), now).unwrap();
    assert_eq!(server(&pick(&balancer, &key, now)), "a", "new clients find it there");
    // Its heartbeat is nothing new, and without one it is gone in time.
    assert_eq!(balancer.register(a, now + SECOND), Ok(Registered::Again));
    drop((lease, other));
    assert_eq!(balancer.counts(now).routes_idle, 1);
    let long_after = now + 301 * SECOND;
    assert!(balancer.server("a", Listener::Rtmp, long_after).is_none());
}

#[test]
fn who_goes_on_moves_neither_an_origin_that_runs_anew_nor_a_stream_that_has_moved() {
    let now = Instant::now();
    let settings = BalancerSettings { max_origins: 1, ..Default::default() };
    let balancer = balancer_with(settings, &["a"], now);
    let key = stream("s");
    let lease = balancer.adopt(&origin("a", 7, 1936), &key, Listener::Rtmp, now).unwrap();
    assert_eq!(&**lease.origin().name(), "a-run-1-1", "the run that is there");
    let another = balancer.adopt(&origin("b", 1, 1935), &key, Listener::Rtmp, now);
    assert_eq!(another.map(|_| ()).unwrap_err(), NotRegistered::Full);
    let balancer = self::balancer(&["a", "b"], now);
    let here = pick(&balancer, &key, now);
    let elsewhere = if server(&here) == "a" { "b" } else { "a" };
    let lease = balancer.adopt(&origin(elsewhere, 1, 1935), &key, Listener::Rtmp, now).unwrap();
    assert_eq!(server(&lease), elsewhere);
    assert_eq!(server(&pick(&balancer, &key, now)), server(&here), "the stream stays");
}
