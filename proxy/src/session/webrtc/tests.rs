//! A client and an origin on loopback, with a WebRTC service between them.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::*;
use crate::cluster::memory::{MemoryLimits, MemoryStore};
use crate::cluster::store::{ProxyId, Store, WebrtcRecord};
use crate::listen::{TrustedProxies, udp};
use crate::origin::{
    Balancer, BalancerSettings, KeptOrigin, Listener, Origin, ServerName, registration,
};
use crate::proto::proxy_protocol::Ends;
use crate::session::memo::Memo;
use crate::session::{End, Estate, NotAdopted, Role, SessionLimits};
use crate::stream::{Ask, StreamKey, Vhosts};

const PASSWORD: &str = "the-password-of-the-answer";

/// The service, one origin that does what a test says, and what a signalling knows.
struct Rig {
    webrtc: Arc<Webrtc>,
    sessions: Arc<Sessions>,
    cluster: Arc<Cluster>,
    proxy: SocketAddr,
    /// Where clients come.
    sockets: [Arc<Socket>; 1],
    origin: UdpSocket,
    stop: CancellationToken,
}

impl Rig {
    fn start(consent_timeout: Duration) -> Self {
        Self::at(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), consent_timeout)
    }

    fn at(address: SocketAddr, consent_timeout: Duration) -> Self {
        Self::with(Cluster::alone(BalancerSettings::default()), address, consent_timeout)
    }

    fn with(cluster: Arc<Cluster>, address: SocketAddr, consent_timeout: Duration) -> Self {
        let sessions = Sessions::new(SessionLimits {
            total: 40,
            per_client: 40,
            shared: TrustedProxies::default(),
        });
        let stop = CancellationToken::new();
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(false).unwrap();
        }
        socket.bind(&address.into()).unwrap();
        let socket = Arc::new(Socket::new(socket, 65536).unwrap());
        let proxy = socket.local();
        let settings = WebrtcSettings {
            candidates: Vec::new(),
            udp: vec![proxy],
            tcp: Vec::new(),
            consent_timeout,
            buffer: 65536,
        };
        let kernel = Kernel::off("a test");
        let (all, shared) = (Arc::clone(&sessions), Arc::clone(&cluster));
        let webrtc = Webrtc::new(settings, all, shared, kernel, stop.clone());
        let sockets = [Arc::clone(&socket)];
        let arrived = Arc::clone(&webrtc);
        tokio::spawn(udp::receive(socket, stop.clone(), move |socket, train| {
            arrived.arrived(socket, &train);
        }));
        let watched = Arc::clone(&webrtc);
        tokio::spawn(async move { watched.watch().await });
        let body = serde_json::json!({
            "ip": "127.0.0.1", "server": "a", "service": "s", "pid": "1",
            "rtmp": ["1935"], "api": ["1985"],
        });
        let origin: Origin = registration::parse(body.to_string().as_bytes()).unwrap();
        cluster.register(origin).unwrap();
        let origin = peer();
        Self { webrtc, sessions, cluster, proxy, sockets, origin, stop }
    }

    /// A session by offer and answer; its name, and the answer for the client.
    fn signal(&self, offer: &str, answer: &str) -> (String, String) {
        self.signal_with(offer, answer, PASSWORD)
    }

    /// The same with another password in the answer.
    fn signal_with(&self, offer: &str, answer: &str, password: &str) -> (String, String) {
        let loopback = Ipv4Addr::LOCALHOST.into();
        let stream = show();
        let lease =
            self.cluster.balancer().pick(&stream, Listener::Api, &[], Instant::now()).unwrap();
        let api = SocketAddr::new(loopback, 1985);
        let client = Ends { source: SocketAddr::new(loopback, 50_000), destination: api };
        let ice =
            format!("v=0\r\nm=audio 9 X 111\r\na=ice-ufrag:{offer}\r\na=ice-pwd:{PASSWORD}\r\n");
        let (near, role) = (loopback, Role::Play);
        let invited = Invited { client, stream, role, lease, near, far: api, offer: ice };
        let draft = self.webrtc.invite(invited).unwrap();
        let for_origin = draft.offer();
        assert!(
            for_origin.contains(" 127.0.0.1 "),
            "the proxy is the origin's client: {for_origin}"
        );
        let port = self.origin.local_addr().unwrap().port();
        let ice = format!(
            "v=0\r\nm=audio 9 X 111\r\na=ice-ufrag:{answer}\r\na=ice-pwd:{password}\r\n\
             a=candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host\r\n"
        );
        let (answer, name) = draft.accept(&ice).unwrap();
        let here = format!(" 127.0.0.1 {} typ host", self.proxy.port());
        assert!(answer.contains(&here), "the origin is not told: {answer}");
        (name, answer)
    }

    /// Waits until every session has ended and nothing of them is left.
    async fn emptied(&self) {
        let ended = tokio::time::timeout(Duration::from_secs(10), self.sessions.all_ended());
        ended.await.expect("every session ends");
        assert_eq!(self.webrtc.table.lock().sizes(), [0, 0, 0]);
        assert_eq!(self.webrtc.lanes.count(), 0);
    }

    fn dropped(&self, why: Dropped) -> u64 {
        self.webrtc.drops.read()[why as usize]
    }

    fn ended(&self, end: End) -> u64 {
        self.sessions.totals().ends[crate::session::Protocol::Webrtc as usize][end as usize]
    }

    /// Waits for a datagram to be dropped for this reason.
    async fn drops(&self, why: Dropped, send: impl Fn()) {
        let before = self.dropped(why);
        send();
        for _ in 0..500 {
            if self.dropped(why) > before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing was dropped as {}", why.as_str());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn show() -> StreamKey {
    let ask = Ask::Rtmp { tc_url: "rtmp://proxy/live", app: "", stream: "show" };
    StreamKey::new(&ask, &Vhosts::default()).unwrap()
}

fn peer() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = [0; 2048];
    // The runtime goes on beside.
    let (read, from) = tokio::task::block_in_place(|| socket.recv_from(&mut bytes)).unwrap();
    (bytes[..read].to_vec(), from)
}

/// A binding request or its answer (RFC 8489 5), signed.
fn stun(kind: u16, transaction: u8, name: &str, nominates: bool, password: &str) -> Vec<u8> {
    let mut attributes = Vec::new();
    if kind == REQUEST {
        attributes.extend([0, 6, 0, u8::try_from(name.len()).unwrap()]);
        attributes.extend(name.as_bytes());
        attributes.resize(attributes.len().next_multiple_of(4), 0);
    }
    if nominates {
        attributes.extend([0, 0x25, 0, 0]);
    }
    let mut message = kind.to_be_bytes().to_vec();
    message.extend(u16::try_from(attributes.len() + 24).unwrap().to_be_bytes());
    message.extend(0x2112_a442_u32.to_be_bytes());
    message.extend([transaction; 12]);
    message.extend(attributes);
    let mut mac = Hmac::<Sha1>::new_from_slice(password.as_bytes()).unwrap();
    mac.update(&message);
    message.extend([0, 8, 0, 20]);
    message.extend(mac.finalize().into_bytes());
    message
}

mod guests;

const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const MEDIA: &[u8] = b"\x80media";
/// An alert of DTLS 1.2 in epoch 1, whose content is encrypted.
const ALERT: &[u8] = b"\x15\xfe\xfd\0\x01\0\0\0\0\0\x02\0\x04abcd";

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_its_session_and_media_goes_both_ways() {
    let rig = Rig::start(Duration::from_secs(30));
    let (name, _) = rig.signal("off", "ans");
    assert_eq!(name, "ans:off");
    let client = peer();
    rig.drops(Dropped::UnknownFlow, || drop(client.send_to(MEDIA, rig.proxy))).await;
    rig.drops(Dropped::UnknownName, || {
        let stranger = stun(REQUEST, 1, "ans:other", true, PASSWORD);
        client.send_to(&stranger, rig.proxy).unwrap();
    })
    .await;
    let check = stun(REQUEST, 2, &name, true, PASSWORD);
    client.send_to(&check, rig.proxy).unwrap();
    let (heard, session) = receive(&rig.origin);
    assert_eq!(heard, check, "as the client has sent it");
    let success = stun(SUCCESS, 2, "", false, PASSWORD);
    rig.origin.send_to(&success, session).unwrap();
    assert_eq!(receive(&client), (success, rig.proxy));
    client.send_to(MEDIA, rig.proxy).unwrap();
    assert_eq!(receive(&rig.origin), (MEDIA.to_vec(), session));
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&client), (MEDIA.to_vec(), rig.proxy));
    assert_eq!(rig.sessions.totals().setups[2], [0, 1], "its origin has answered a check");
    // Only the origin is heard at the session's own port.
    peer().send_to(b"\x80forged", session).unwrap();
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&client).0, MEDIA);
    rig.webrtc.delete(&name);
    rig.emptied().await;
    assert_eq!(rig.ended(End::Deleted), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_check_with_the_password_moves_a_session_and_media_settles_it() {
    let rig = Rig::start(Duration::from_secs(30));
    let (name, _) = rig.signal("off", "ans");
    let [wifi, mobile, stranger] = [peer(), peer(), peer()];
    let first = stun(REQUEST, 1, &name, true, PASSWORD);
    wifi.send_to(&first, rig.proxy).unwrap();
    let session = receive(&rig.origin).1;
    rig.drops(Dropped::Forged, || {
        stranger.send_to(&stun(REQUEST, 2, &name, true, "guessed"), rig.proxy).unwrap();
    })
    .await;
    rig.drops(Dropped::Replayed, || {
        stranger.send_to(&first, rig.proxy).unwrap();
    })
    .await;
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&wifi).0, MEDIA, "nobody else gets it");
    // A check that does not nominate is answered where it came from; media stays.
    let probe = stun(REQUEST, 3, &name, false, PASSWORD);
    mobile.send_to(&probe, rig.proxy).unwrap();
    assert_eq!(receive(&rig.origin).0, probe);
    let success = stun(SUCCESS, 3, "", false, PASSWORD);
    rig.origin.send_to(&success, session).unwrap();
    assert_eq!(receive(&mobile).0, success);
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&wifi).0, MEDIA);
    // The client uses the other address: media from there moves it.
    mobile.send_to(MEDIA, rig.proxy).unwrap();
    assert_eq!(receive(&rig.origin).0, MEDIA);
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&mobile).0, MEDIA);
    // A nominating check from an address that is new moves it at once.
    let third = peer();
    third.send_to(&stun(REQUEST, 4, &name, true, PASSWORD), rig.proxy).unwrap();
    receive(&rig.origin);
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&third).0, MEDIA);
    // Checks that go on at an address that is known do not.
    wifi.send_to(&stun(REQUEST, 5, &name, true, PASSWORD), rig.proxy).unwrap();
    receive(&rig.origin);
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&third).0, MEDIA);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_a_new_session_takes_over_belongs_to_it() {
    let rig = Rig::start(Duration::from_secs(30));
    let client = peer();
    let sessions = [(1, "one"), (2, "two")].map(|(transaction, answer)| {
        let (name, _) = rig.signal("off", answer);
        client.send_to(&stun(REQUEST, transaction, &name, true, PASSWORD), rig.proxy).unwrap();
        receive(&rig.origin).1
    });
    client.send_to(MEDIA, rig.proxy).unwrap();
    assert_eq!(receive(&rig.origin), (MEDIA.to_vec(), sessions[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_and_falls_silent_has_left_and_who_talks_on_has_not() {
    let rig = Rig::start(Duration::from_secs(30));
    let clients = ["one", "two"].map(|answer| {
        let client = peer();
        let (name, _) = rig.signal("off", answer);
        client.send_to(&stun(REQUEST, 1, &name, true, PASSWORD), rig.proxy).unwrap();
        receive(&rig.origin);
        client.send_to(ALERT, rig.proxy).unwrap();
        assert_eq!(receive(&rig.origin).0, ALERT);
        client
    });
    let mut sent = 0;
    while rig.ended(End::ClientClosed) < 1 || sent < 50 {
        sent += 1;
        assert!(sent < 200, "who is silent has left");
        clients[1].send_to(MEDIA, rig.proxy).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(rig.sessions.count(), 1, "the alert was somebody else's");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_without_consent_or_origin_end() {
    let rig = Rig::start(Duration::from_millis(1500));
    rig.signal("off", "never");
    let (name, _) = rig.signal("off", "once");
    let client = peer();
    client.send_to(&stun(REQUEST, 1, &name, true, PASSWORD), rig.proxy).unwrap();
    let session = receive(&rig.origin).1;
    rig.origin.send_to(&stun(SUCCESS, 1, "", false, PASSWORD), session).unwrap();
    receive(&client);
    rig.emptied().await;
    assert_eq!((rig.ended(End::NotConnected), rig.ended(End::NoConsent)), (1, 1));
    let mut rig = rig;
    let (name, _) = rig.signal("off", "gone");
    // Nobody listens there any more, and the system says so.
    rig.origin = peer();
    client.send_to(&stun(REQUEST, 2, &name, true, PASSWORD), rig.proxy).unwrap();
    rig.emptied().await;
    assert_eq!(rig.ended(End::OriginLost), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ice_restart_gives_a_session_another_name() {
    let rig = Rig::start(Duration::from_secs(30));
    let (name, _) = rig.signal("off", "ans");
    let fragment = |ufrag: &str| {
        format!(
            "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{PASSWORD}-{ufrag}\r\n\
                 m=audio 9 X 111\r\na=candidate:1 1 udp 1 10.0.0.9 9 typ host\r\n"
        )
    };
    let answer = rig.webrtc.restart(&name, &fragment("off2"), &fragment("ans2")).unwrap();
    assert!(!answer.contains("10.0.0.9"), "{answer}");
    assert_eq!(rig.webrtc.restart("no:such", &fragment("a"), &fragment("b")), None);
    let client = peer();
    let check = stun(REQUEST, 1, "ans2:off2", true, &format!("{PASSWORD}-ans2"));
    client.send_to(&check, rig.proxy).unwrap();
    assert_eq!(receive(&rig.origin).0, check);
    let former = stun(REQUEST, 2, &name, false, PASSWORD);
    client.send_to(&former, rig.proxy).unwrap();
    assert_eq!(receive(&rig.origin).0, former, "valid until the new one is in use");
    rig.webrtc.delete("ans2:off2");
    rig.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_answered_from_the_address_that_it_sends_to() {
    for everywhere in ["0.0.0.0:0", "[::]:0"] {
        let rig = Rig::at(everywhere.parse().unwrap(), Duration::from_secs(30));
        let (name, _) = rig.signal("off", "ans");
        let client = peer();
        for (transaction, ip) in [(1, [127, 0, 0, 1]), (2, [127, 0, 0, 2])] {
            let there = SocketAddr::new(ip.into(), rig.proxy.port());
            let check = stun(REQUEST, transaction, &name, true, PASSWORD);
            client.send_to(&check, there).unwrap();
            let session = receive(&rig.origin).1;
            rig.origin.send_to(MEDIA, session).unwrap();
            assert_eq!(receive(&client), (MEDIA.to_vec(), there), "{everywhere}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_train_of_datagrams_arrives_whole_and_in_order() {
    let rig = Rig::start(Duration::from_secs(30));
    let (name, _) = rig.signal("off", "ans");
    let client = peer();
    client.send_to(&stun(REQUEST, 1, &name, true, PASSWORD), rig.proxy).unwrap();
    let session = receive(&rig.origin).1;
    let datagram = |n: u8| [[0x80, n].as_slice(), &vec![n; 1000 - usize::from(n % 3)]].concat();
    for n in 0..50 {
        client.send_to(&datagram(n), rig.proxy).unwrap();
        rig.origin.send_to(&datagram(n), session).unwrap();
    }
    for n in 0..50 {
        assert_eq!(receive(&rig.origin).0, datagram(n));
        assert_eq!(receive(&client).0, datagram(n));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_datagrams_come_framed_by_tcp() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let rig = Rig::start(Duration::from_secs(30));
    let (name, _) = rig.signal("off", "ans");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let (accepted, source) = listener.accept().await.unwrap();
    let ends = Ends { source, destination: address };
    tokio::spawn(Arc::clone(&rig.webrtc).serve_tcp(accepted, ends));
    let framed = |datagram: &[u8]| {
        [&u16::try_from(datagram.len()).unwrap().to_be_bytes(), datagram].concat()
    };
    let check = stun(REQUEST, 1, &name, true, PASSWORD);
    let both = [framed(&check), framed(MEDIA)].concat();
    for piece in both.chunks(7) {
        client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let (heard, session) = receive(&rig.origin);
    assert_eq!(heard, check);
    assert_eq!(receive(&rig.origin).0, MEDIA);
    rig.origin.send_to(MEDIA, session).unwrap();
    let mut heard = vec![0; MEDIA.len() + 2];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, framed(MEDIA));
    rig.webrtc.delete(&name);
    rig.emptied().await;
    let end = tokio::time::timeout(Duration::from_secs(10), client.read(&mut heard)).await;
    assert_eq!(end.expect("the connection ends with its session").unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nomination_behind_a_probe_moves_and_what_comes_late_does_not_move_back() {
    let rig = Rig::start(Duration::from_secs(30));
    let (name, _) = rig.signal("off", "ans");
    let [wifi, mobile] = [peer(), peer()];
    let check = |from: &UdpSocket, transaction, nominates| {
        let check = stun(REQUEST, transaction, &name, nominates, PASSWORD);
        from.send_to(&check, rig.proxy).unwrap();
        receive(&rig.origin).1
    };
    let session = check(&wifi, 1, true);
    check(&mobile, 2, false);
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&wifi).0, MEDIA, "a probe moves nothing");
    check(&mobile, 3, true);
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&mobile).0, MEDIA);
    // What was under way on the former network goes on, and moves nothing.
    wifi.send_to(MEDIA, rig.proxy).unwrap();
    assert_eq!(receive(&rig.origin).0, MEDIA);
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&mobile).0, MEDIA);
    // An answer to the origin's own check does not either.
    wifi.send_to(&stun(SUCCESS, 9, "", false, PASSWORD), rig.proxy).unwrap();
    receive(&rig.origin);
    rig.origin.send_to(MEDIA, session).unwrap();
    assert_eq!(receive(&mobile).0, MEDIA);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_of_one_name_are_told_apart_by_their_passwords() {
    let rig = Rig::start(Duration::from_secs(30));
    let names = ["one", "two"].map(|password| {
        let answer = format!("{PASSWORD}-{password}");
        (rig.signal_with("off", "ans", &answer).0, answer)
    });
    assert_eq!(names[0].0, names[1].0);
    let sessions = names.each_ref().map(|(name, password)| {
        let client = peer();
        client.send_to(&stun(REQUEST, 1, name, true, password), rig.proxy).unwrap();
        receive(&rig.origin).1
    });
    assert_ne!(sessions[0], sessions[1]);
    rig.drops(Dropped::Forged, || {
        peer().send_to(&stun(REQUEST, 2, "ans:off", true, "guessed"), rig.proxy).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_of_a_session_leads_to_it_after_any_number_of_restarts() {
    let rig = Rig::start(Duration::from_secs(30));
    let (name, _) = rig.signal("off", "ans");
    for n in 0..10 {
        let fragment = |ufrag: &str| format!("a=ice-ufrag:{ufrag}{n}\r\na=ice-pwd:{PASSWORD}\r\n");
        assert!(rig.webrtc.restart(&name, &fragment("off"), &fragment("ans")).is_some(), "{n}");
    }
    let client = peer();
    client.send_to(&stun(REQUEST, 1, "ans9:off9", true, PASSWORD), rig.proxy).unwrap();
    receive(&rig.origin);
    rig.webrtc.delete(&name);
    rig.emptied().await;
}

#[test]
fn a_candidate_is_where_somebody_listens() {
    for (listeners, ip, expected) in [
        (&["0.0.0.0:8000"][..], "192.0.2.1", Some("192.0.2.1:8000")),
        (&["[::]:8000"], "192.0.2.1", Some("192.0.2.1:8000")),
        (&["[::]:8000"], "2001:db8::1", Some("[2001:db8::1]:8000")),
        (&["0.0.0.0:8000"], "2001:db8::1", None),
        (&["10.0.0.1:8000"], "192.0.2.1", Some("10.0.0.1:8000")),
        (&["10.0.0.1:8000", "192.0.2.1:8001"], "192.0.2.1", Some("192.0.2.1:8001")),
        (&[], "192.0.2.1", None),
    ] {
        let listeners: Vec<_> = listeners.iter().map(|it| it.parse().unwrap()).collect();
        let reached = reached_at(&listeners, ip.parse().unwrap());
        assert_eq!(reached, expected.map(|it| it.parse().unwrap()), "{ip} at {listeners:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_an_earlier_process_goes_on_by_all_its_names() {
    let rig = Rig::start(Duration::from_secs(30));
    let [client, moved] = [peer(), peer()];
    let near = peer().local_addr().unwrap();
    let at = client.local_addr().unwrap();
    let origin = rig.cluster.balancer().server("a", Listener::Api, Instant::now()).unwrap();
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let passwords = [("ans:off", "former"), ("ans2:off2", PASSWORD)];
    let memo = Memo {
        role: Role::Play,
        stream: "__defaultVhost__/live/show".into(),
        origin: KeptOrigin::of(&origin),
        admitted: [at, rig.proxy],
        client: [at, rig.proxy],
        ends: [near, rig.origin.local_addr().unwrap()],
        started: began.as_secs() - 60,
        matter: Matter::Webrtc {
            name: "ans:off".into(),
            passwords: passwords.map(|(name, word)| (name.into(), word.into())).into(),
        },
    };
    let estate = Estate { balancer: rig.cluster.balancer(), sockets: &rig.sockets };
    rig.webrtc.adopt(&memo, estate).unwrap();
    assert!(rig.sessions.list()[0].age() > Duration::from_secs(59));
    assert_eq!(rig.sessions.totals().setups[2], [0, 1]);
    client.send_to(MEDIA, rig.proxy).unwrap();
    assert_eq!(receive(&rig.origin), (MEDIA.to_vec(), near));
    rig.origin.send_to(MEDIA, near).unwrap();
    assert_eq!(receive(&client), (MEDIA.to_vec(), rig.proxy));
    let check = stun(REQUEST, 1, "ans2:off2", true, PASSWORD);
    moved.send_to(&check, rig.proxy).unwrap();
    assert_eq!(receive(&rig.origin), (check, near));
    rig.origin.send_to(MEDIA, near).unwrap();
    assert_eq!(receive(&moved), (MEDIA.to_vec(), rig.proxy));
    // What cannot be had leaves nothing behind.
    let again = rig.webrtc.adopt(&memo, estate);
    assert!(matches!(again, Err(NotAdopted::Socket(..))), "its port is in use: {again:?}");
    let elsewhere = rig.webrtc.adopt(&Memo { client: [at, near], ..memo.clone() }, estate);
    assert!(matches!(elsewhere, Err(NotAdopted::NoListener(_))), "{elsewhere:?}");
    let nameless = rig.webrtc.adopt(&Memo { stream: String::new(), ..memo }, estate);
    assert!(matches!(nameless, Err(NotAdopted::NoStream)), "{nameless:?}");
    assert_eq!(rig.sessions.count(), 1);
    rig.webrtc.delete("ans:off");
    rig.emptied().await;
    assert_eq!(rig.ended(End::Deleted), 1);
}
