//! Two proxies of one store, one origin between them, and a client that is now here, now there.

use std::collections::BTreeMap;

use super::*;
use crate::session::webrtc::{Elsewhere, Placeless};

/// Proxies of one store, which is theirs to look into.
fn proxies<const N: usize>(consent_timeout: Duration) -> (MemoryStore, [Rig; N]) {
    let limits = MemoryLimits {
        route_life: Duration::from_mins(2),
        withdrawn_life: Duration::from_mins(2),
        max_routes: 100,
        max_records: 100,
    };
    let store = MemoryStore::for_many(ProxyId::of_host("test", 0), limits);
    let rigs = std::array::from_fn(|n| {
        let me = ProxyId::of_host("proxy", u32::try_from(n).unwrap() + 1);
        let own = Arc::new(store.join(me.clone()));
        let balancer = Balancer::new(BalancerSettings::default());
        let cluster = Arc::new(Cluster::new(me, balancer, own));
        let watched = Arc::clone(&cluster);
        tokio::spawn(async move { watched.watch(BTreeMap::new).await });
        let loopback = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        Rig::with(cluster, loopback, consent_timeout)
    });
    (store, rigs)
}

/// Waits until the store has a session of this name, or none.
async fn kept(store: &MemoryStore, name: &str, is_there: bool) -> Option<WebrtcRecord> {
    for _ in 0..500 {
        let record = store.webrtc(name).await.unwrap();
        if record.is_some() == is_there {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} is not as it should be in the store: {is_there}");
}

/// A check goes to the origin and is answered: by which address of a proxy.
fn checked(client: &UdpSocket, at: &Rig, origin: &UdpSocket, name: &str, n: u8) -> SocketAddr {
    let check = stun(REQUEST, n, name, true, PASSWORD);
    client.send_to(&check, at.proxy).unwrap();
    let (heard, session) = receive(origin);
    assert_eq!(heard, check, "as the client has sent it");
    let success = stun(SUCCESS, n, "", false, PASSWORD);
    origin.send_to(&success, session).unwrap();
    assert_eq!(receive(client), (success, at.proxy));
    session
}

/// The same by a client that sends its check again and again, as agents do.
fn checked_at_last(client: &UdpSocket, at: &Rig, origin: &UdpSocket, name: &str, n: u8) {
    let check = stun(REQUEST, n, name, true, PASSWORD);
    origin.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut bytes = [0; 2048];
    let heard = (0..250).find_map(|_| {
        client.send_to(&check, at.proxy).unwrap();
        tokio::task::block_in_place(|| origin.recv_from(&mut bytes)).ok()
    });
    origin.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (read, session) = heard.expect("the client's check comes to the origin");
    assert_eq!(bytes[..read], check, "nobody else's does");
    let success = stun(SUCCESS, n, "", false, PASSWORD);
    origin.send_to(&success, session).unwrap();
    assert_eq!(receive(client), (success, at.proxy));
}

/// Whether nothing comes to any of these, nor has come.
async fn are_silent<'a>(sockets: impl IntoIterator<Item = &'a UdpSocket>) -> bool {
    tokio::time::sleep(Duration::from_millis(100)).await;
    sockets.into_iter().all(|socket| {
        socket.set_nonblocking(true).unwrap();
        let heard = socket.recv_from(&mut [0; 2048]);
        socket.set_nonblocking(false).unwrap();
        heard.is_err()
    })
}

/// Waits until it is so.
async fn becomes(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn media_comes_to_another_proxy_than_the_offer_and_goes_both_ways() {
    let (store, [a, b]) = proxies(Duration::from_secs(30));
    let (name, _) = a.signal("off", "ans");
    let record = kept(&store, &name, true).await.unwrap();
    let place = record.place.unwrap();
    assert_eq!((place.server.as_str(), place.role), ("a", Role::Play));
    assert_eq!(place.media, a.origin.local_addr().unwrap());
    let client = peer();
    let check = stun(REQUEST, 1, &name, true, PASSWORD);
    client.send_to(&check, b.proxy).unwrap();
    let (heard, session) = receive(&a.origin);
    assert_eq!(heard, check, "the first one, as the client has sent it");
    let success = stun(SUCCESS, 1, "", false, PASSWORD);
    a.origin.send_to(&success, session).unwrap();
    assert_eq!(receive(&client), (success, b.proxy));
    client.send_to(MEDIA, b.proxy).unwrap();
    assert_eq!(receive(&a.origin), (MEDIA.to_vec(), session));
    a.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&client), (MEDIA.to_vec(), b.proxy));
    let guest = b.sessions.list()[0].progress();
    assert_eq!(guest.role, Some(Role::Play));
    assert_eq!(guest.stream, Some(show()));
    assert_eq!(guest.origin.unwrap().1, a.origin.local_addr().unwrap());
    assert_eq!(b.sessions.totals().setups[2], [0, 1]);
    // One proxy has told the origin; all know of it.
    b.webrtc.delete(&name);
    a.emptied().await;
    b.emptied().await;
    assert_eq!((a.ended(End::Deleted), b.ended(End::Deleted)), (1, 1));
    kept(&store, &name, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_roams_from_proxy_to_proxy_and_back() {
    let (store, [a, b]) = proxies(Duration::from_secs(30));
    let (name, _) = a.signal("off", "ans");
    kept(&store, &name, true).await;
    let [wifi, mobile] = [peer(), peer()];
    let first = checked(&wifi, &a, &a.origin, &name, 1);
    let second = checked(&mobile, &b, &a.origin, &name, 2);
    assert_ne!(first, second, "each proxy has a socket of its own");
    a.origin.send_to(MEDIA, second).unwrap();
    assert_eq!(receive(&mobile), (MEDIA.to_vec(), b.proxy));
    // Another address there is the same session: the check is signed.
    assert_eq!(checked(&wifi, &b, &a.origin, &name, 3), second);
    mobile.send_to(MEDIA, b.proxy).unwrap();
    assert_eq!(receive(&a.origin), (MEDIA.to_vec(), second));
    // And back to the session itself.
    assert_eq!(checked(&mobile, &a, &a.origin, &name, 4), first);
    assert_eq!((a.sessions.count(), b.sessions.count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_on_at_another_proxy_when_the_first_has_stopped() {
    let (store, [a, b]) = proxies(Duration::from_secs(30));
    let (name, _) = a.signal("off", "ans");
    kept(&store, &name, true).await;
    a.stop.cancel();
    a.emptied().await;
    assert_eq!(a.ended(End::Shutdown), 1);
    let client = peer();
    let session = checked(&client, &b, &a.origin, &name, 1);
    a.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&client), (MEDIA.to_vec(), b.proxy));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_not_signed_brings_no_session_here() {
    let (store, [a, b]) = proxies(Duration::from_secs(30));
    let (name, _) = a.signal("off", "ans");
    kept(&store, &name, true).await;
    let client = peer();
    let session = checked(&client, &a, &a.origin, &name, 1);
    let stranger = peer();
    b.drops(Dropped::Forged, || {
        stranger.send_to(&stun(REQUEST, 10, &name, true, "guessed"), b.proxy).unwrap();
    })
    .await;
    assert_eq!(b.sessions.count(), 0);
    assert!(are_silent([&a.origin, &stranger]).await);
    a.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&client), (MEDIA.to_vec(), a.proxy));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_overheard_a_name_does_not_keep_its_client_out() {
    let (store, [a, b]) = proxies(Duration::from_secs(30));
    let (name, _) = a.signal("off", "ans");
    kept(&store, &name, true).await;
    // Another host than the client's.
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    let forged = stun(REQUEST, 10, &name, true, "guessed");
    let (stop, proxy) = (CancellationToken::new(), b.proxy);
    let until = stop.clone();
    let flood = tokio::spawn(async move {
        while !until.is_cancelled() {
            stranger.send_to(&forged, proxy).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    becomes("the forger is heard", || b.dropped(Dropped::Forged) >= 16).await;
    checked_at_last(&peer(), &b, &a.origin, &name, 1);
    stop.cancel();
    flood.await.unwrap();
    assert_eq!(b.sessions.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_of_one_client_that_come_at_once_bring_one_session() {
    let (store, [a, b]) = proxies(Duration::from_secs(30));
    let (name, _) = a.signal("off", "ans");
    kept(&store, &name, true).await;
    let check = stun(REQUEST, 1, &name, true, PASSWORD);
    let hosts = [1, 2, 3, 4].map(|n| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, n), 0)).unwrap());
    for (n, host) in (1..).zip(&hosts) {
        host.send_to(&stun(REQUEST, n, &name, true, PASSWORD), b.proxy).unwrap();
    }
    hosts[0].send_to(&check, b.proxy).unwrap();
    let sessions: Vec<_> = (0..4).map(|_| receive(&a.origin).1).collect();
    assert!(sessions.iter().all(|it| *it == sessions[0]), "{sessions:?}");
    assert_eq!(b.sessions.count(), 1);
}

/// A session of the existing proxy, which writes no password.
async fn begun_elsewhere(store: &MemoryStore, rig: &Rig, name: &str) -> WebrtcRecord {
    let record = WebrtcRecord { name: name.into(), stream: show(), place: None };
    store.keep_webrtc(&record).await.unwrap();
    let port = rig.origin.local_addr().unwrap().port();
    let body = serde_json::json!({
        "ip": "127.0.0.1", "server": "a", "service": "s", "pid": "2",
        "rtmp": ["1935"], "api": ["1985"], "rtc": [format!("udp://0.0.0.0:{port}")],
    });
    let origin: Origin = registration::parse(body.to_string().as_bytes()).unwrap();
    let run = Arc::clone(origin.name());
    rig.cluster.register(origin).unwrap();
    for _ in 0..500 {
        if store.origin(&run).await.unwrap().is_some() {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the store hears of the origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_the_origin_does_not_answer_ends_and_has_moved_nothing() {
    let (store, [rig]) = proxies(Duration::from_secs(30));
    let name = "egzxi453:7OP6";
    begun_elsewhere(&store, &rig, name).await;
    let client = peer();
    let session = checked(&client, &rig, &rig.origin, name, 1);
    let strangers: Vec<_> = (0..20).map(|_| peer()).collect();
    for _ in 0..100 {
        for (n, stranger) in (10..).zip(&strangers) {
            stranger.send_to(&stun(REQUEST, n, name, true, "guessed"), rig.proxy).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(rig.sessions.count() <= 8, "of one name");
        if rig.sessions.count() == 8 {
            break;
        }
    }
    // Until the origin has said yes.
    rig.drops(Dropped::UnknownFlow, || drop(strangers[0].send_to(MEDIA, rig.proxy))).await;
    becomes("guests without an answer end", || rig.sessions.count() == 1).await;
    assert!(rig.ended(End::NotConnected) >= 7);
    assert!(are_silent(&strangers).await, "nobody is told anything");
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&client), (MEDIA.to_vec(), rig.proxy));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_has_are_dropped_and_keep_nobody_from_his_session() {
    let (store, [a, b]) = proxies(Duration::from_secs(30));
    let (name, _) = a.signal("off", "ans");
    kept(&store, &name, true).await;
    let [client, stranger] = [peer(), peer()];
    let before = b.dropped(Dropped::UnknownName);
    for n in 0..2000 {
        let unknown = stun(REQUEST, 1, &format!("no:{n}"), true, PASSWORD);
        stranger.send_to(&unknown, b.proxy).unwrap();
        if n % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // All are from one host here: its share comes again.
    checked_at_last(&client, &b, &a.origin, &name, 1);
    assert!(b.dropped(Dropped::UnknownName) > before);
    assert_eq!(b.sessions.count(), 1);
}

fn fragment(ufrag: &str) -> String {
    format!(
        "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{PASSWORD}\r\n\
         m=audio 9 X 111\r\na=candidate:1 1 udp 1 10.0.0.9 9 typ host\r\n"
    )
}

/// The session of an URL, at a proxy that may not have it.
fn elsewhere<'a>(name: &'a str, stream: &'a StreamKey, server: &'a ServerName) -> Elsewhere<'a> {
    Elsewhere { stream, name, server, media: None, reached: Ipv4Addr::LOCALHOST.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_which_the_store_has_no_place_is_found_by_the_origins_or_fails() {
    let (store, [rig]) = proxies(Duration::from_secs(30));
    let (show, server) = (show(), ServerName::from("a"));
    let both = (&*fragment("off2"), &*fragment("ans2"));
    let session = elsewhere("ans:off", &show, &server);
    let placeless = rig.webrtc.restart_elsewhere(session, both).await;
    assert!(matches!(placeless, Err(Placeless)), "{placeless:?}");
    let media = Some(rig.origin.local_addr().unwrap());
    let session = Elsewhere { media, ..elsewhere("ans:off", &show, &server) };
    let no_restart = rig.webrtc.restart_elsewhere(session, ("a=candidate:1", "")).await;
    assert!(matches!(no_restart, Ok(None)), "{no_restart:?}");
    let session = Elsewhere { media, ..elsewhere("ans:off", &show, &server) };
    assert!(rig.webrtc.restart_elsewhere(session, both).await.unwrap().is_some());
    let place = kept(&store, "ans2:off2", true).await.unwrap().place.unwrap();
    assert_eq!((&*place.password, place.former.as_deref()), (PASSWORD, Some("ans:off")));
    rig.drops(Dropped::Forged, || {
        let forged = stun(REQUEST, 1, "ans2:off2", true, "guessed");
        peer().send_to(&forged, rig.proxy).unwrap();
    })
    .await;
    checked(&peer(), &rig, &rig.origin, "ans2:off2", 2);
    rig.webrtc.delete("ans:off");
    rig.emptied().await;
    kept(&store, "ans2:off2", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_at_a_third_proxy_is_found_by_its_new_name() {
    let (store, [a, b, c]) = proxies(Duration::from_secs(30));
    let (name, _) = a.signal("off", "ans");
    kept(&store, &name, true).await;
    let (show, server) = (show(), ServerName::from("a"));
    let both = (&*fragment("off2"), &*fragment("ans2"));
    let restarted = c.webrtc.restart_elsewhere(elsewhere(&name, &show, &server), both).await;
    let answer = restarted.unwrap().unwrap();
    assert!(answer.contains(&format!(" {} ", c.proxy.port())), "the client meets it: {answer}");
    assert!(!answer.contains("10.0.0.9"), "{answer}");
    kept(&store, "ans2:off2", true).await;
    let client = peer();
    for (n, rig) in [&b, &c, &a].into_iter().enumerate() {
        checked(&client, rig, &a.origin, "ans2:off2", u8::try_from(n).unwrap());
    }
    // Where it is, it gets the name beside the one before.
    let both = [fragment("off3"), fragment("ans3")];
    assert!(a.webrtc.restart(&name, &both[0], &both[1]).is_some());
    kept(&store, "ans3:off3", true).await;
    checked(&client, &b, &a.origin, "ans3:off3", 9);
    // By whichever of its names it was found, it ends with its URL.
    b.webrtc.delete(&name);
    for rig in [&a, &b, &c] {
        rig.emptied().await;
    }
    assert_eq!([&a, &b, &c].map(|rig| rig.ended(End::Deleted)), [2, 2, 1]);
    for name in [&name, "ans2:off2", "ans3:off3"] {
        kept(&store, name, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_by_its_new_name_ends_by_the_one_before() {
    let (store, [a, b, c]) = proxies(Duration::from_secs(30));
    let (name, _) = a.signal("off", "ans");
    kept(&store, &name, true).await;
    let (show, server) = (show(), ServerName::from("a"));
    let both = (&*fragment("off2"), &*fragment("ans2"));
    let session = elsewhere(&name, &show, &server);
    c.webrtc.restart_elsewhere(session, both).await.unwrap().unwrap();
    kept(&store, "ans2:off2", true).await;
    checked(&peer(), &b, &a.origin, "ans2:off2", 1);
    b.webrtc.delete("ans2:off2");
    a.emptied().await;
    b.emptied().await;
    assert_eq!((a.ended(End::Deleted), b.ended(End::Deleted)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_existing_proxy_has_begun_goes_to_its_streams_origin() {
    let (store, [rig]) = proxies(Duration::from_secs(30));
    let name = "egzxi453:7OP6";
    let record = WebrtcRecord { name: name.into(), stream: show(), place: None };
    store.keep_webrtc(&record).await.unwrap();
    let client = peer();
    // Its origin has no port for media, as far as is known.
    rig.drops(Dropped::NotConnected, || {
        client.send_to(&stun(REQUEST, 1, name, true, PASSWORD), rig.proxy).unwrap();
    })
    .await;
    let record = begun_elsewhere(&store, &rig, name).await;
    checked(&client, &rig, &rig.origin, name, 2);
    assert_eq!(kept(&store, name, true).await, Some(record), "as it was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_outlives_its_process() {
    let (store, [rig]) = proxies(Duration::from_secs(30));
    let [client, moved] = [peer(), peer()];
    let at = client.local_addr().unwrap();
    let near = peer().local_addr().unwrap();
    let origin = rig.cluster.balancer().server("a", Listener::Api, Instant::now()).unwrap();
    let memo = Memo {
        role: Role::Publish,
        stream: show().as_str().into(),
        origin: KeptOrigin::of(&origin),
        admitted: [at, rig.proxy],
        client: [at, rig.proxy],
        ends: [near, rig.origin.local_addr().unwrap()],
        started: 1_800_000_000,
        matter: Matter::Webrtc { name: "ans:off".into(), passwords: Vec::new() },
    };
    let estate = Estate { balancer: rig.cluster.balancer(), sockets: &rig.sockets };
    rig.webrtc.adopt(&memo, estate).unwrap();
    client.send_to(MEDIA, rig.proxy).unwrap();
    assert_eq!(receive(&rig.origin), (MEDIA.to_vec(), near));
    assert_eq!(checked(&client, &rig, &rig.origin, "ans:off", 1), near, "it is the same guest");
    begun_elsewhere(&store, &rig, "ans:off").await;
    assert_ne!(checked(&moved, &rig, &rig.origin, "ans:off", 2), near, "another guest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_comes_by_tcp_too_and_its_connection_ends_with_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (store, [a, b]) = proxies(Duration::from_secs(30));
    let (name, _) = a.signal("off", "ans");
    kept(&store, &name, true).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let (accepted, source) = listener.accept().await.unwrap();
    let ends = Ends { source, destination: address };
    tokio::spawn(Arc::clone(&b.webrtc).serve_tcp(accepted, ends));
    let framed = |datagram: &[u8]| {
        [&u16::try_from(datagram.len()).unwrap().to_be_bytes(), datagram].concat()
    };
    let check = stun(REQUEST, 1, &name, true, PASSWORD);
    client.write_all(&framed(&check)).await.unwrap();
    let (heard, session) = receive(&a.origin);
    assert_eq!(heard, check);
    let success = stun(SUCCESS, 1, "", false, PASSWORD);
    a.origin.send_to(&success, session).unwrap();
    let mut heard = vec![0; success.len() + 2];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, framed(&success));
    for _ in 0..2 {
        client.write_all(&framed(MEDIA)).await.unwrap();
        assert_eq!(receive(&a.origin), (MEDIA.to_vec(), session));
    }
    b.webrtc.delete(&name);
    b.emptied().await;
    let end = tokio::time::timeout(Duration::from_secs(5), client.read(&mut heard)).await;
    assert_eq!(end.expect("the connection ends with its session").unwrap(), 0);
}
