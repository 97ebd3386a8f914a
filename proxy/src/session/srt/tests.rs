//! Callers and origins on loopback, with an SRT service between them.

use std::net::{Ipv4Addr, UdpSocket};

use super::recorded::{PLAY, PUBLISH, Recorded};
use super::*;
use crate::listen::{TrustedProxies, udp};
use crate::origin::{BalancerSettings, KeptOrigin, Listener, Origin, registration};
use crate::proto::srt::handshake::{Handshake, Step};
use crate::proto::srt::packet::shutdown;
use crate::session::memo::{Matter, Memo};
use crate::session::{Estate, NotAdopted, Role, SessionLimits};

const PATIENCE: Duration = Duration::from_millis(600);

struct Rig {
    srt: Arc<Srt>,
    sessions: Arc<Sessions>,
    cluster: Arc<Cluster>,
    proxy: SocketAddr,
    /// Where clients come.
    sockets: [Arc<Socket>; 1],
    stop: Stop,
}

impl Rig {
    fn start(idle_timeout: Duration) -> Self {
        let sessions = Sessions::new(SessionLimits {
            total: 8,
            per_client: 8,
            shared: TrustedProxies::default(),
        });
        let stop = Stop::default();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
        let socket = socket.unwrap();
        socket.bind(&SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0).into()).unwrap();
        let socket = Arc::new(Socket::new(socket, 65536).unwrap());
        let proxy = socket.local();
        let settings = SrtSettings {
            udp: vec![proxy],
            origin_timeout: PATIENCE,
            setup_timeout: Duration::from_secs(10),
            idle_timeout,
            pending_per_client: 2,
            buffer: 65536,
        };
        let cluster = Cluster::alone(BalancerSettings::default());
        let srt = Srt::new(
            settings,
            Arc::clone(&sessions),
            Arc::clone(&cluster),
            Vhosts::default(),
            Cookies::new(&[7; 32], Instant::now()),
            Kernel::off("a test"),
            stop.clone(),
        );
        let sockets = [Arc::clone(&socket)];
        let arrived = Arc::clone(&srt);
        tokio::spawn(udp::receive(socket, stop.sessions.clone(), move |socket, train| {
            arrived.arrived(socket, &train);
        }));
        let watched = Arc::clone(&srt);
        tokio::spawn(async move { watched.watch().await });
        Self { srt, sessions, cluster, proxy, sockets, stop }
    }

    /// An origin that has registered, and does what a test says.
    fn origin(&self, server: &str) -> UdpSocket {
        let [socket] = self.origin_with(server);
        socket
    }

    /// One with several ports.
    fn origin_with<const N: usize>(&self, server: &str) -> [UdpSocket; N] {
        let sockets = [(); N].map(|()| peer());
        let ports =
            sockets.each_ref().map(|socket| socket.local_addr().unwrap().port().to_string());
        let body = serde_json::json!({
            "ip": "127.0.0.1", "server": server, "service": "s", "pid": "1",
            "rtmp": ["1935"], "srt": ports.as_slice(),
        });
        let origin = registration::parse(body.to_string().as_bytes()).unwrap();
        self.cluster.balancer().register(origin, Instant::now()).unwrap();
        sockets
    }

    fn ended(&self, end: End) -> u64 {
        self.sessions.totals().ends[Protocol::Srt as usize][end as usize]
    }

    /// Waits until every session has ended and nothing of them is left.
    async fn emptied(&self) {
        let ended = tokio::time::timeout(Duration::from_secs(10), self.sessions.all_ended());
        ended.await.expect("every session ends");
        // A rejection is kept for two seconds.
        let deadline = Instant::now() + Duration::from_secs(5);
        let is_left = || {
            let state = self.srt.state.lock();
            !state.calls.is_empty() || !state.pending.is_empty()
        };
        while is_left() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let state = self.srt.state.lock();
        assert_eq!(state.table.sizes(), [0, 0, 0]);
        assert_eq!((state.calls.len(), state.pending.len()), (0, 0));
        assert_eq!(self.srt.lanes.count(), 0);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.sessions.cancel();
    }
}

fn peer() -> UdpSocket {
    peer_at(Ipv4Addr::LOCALHOST)
}

fn peer_at(ip: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Whether nothing comes for a while.
fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let silent = tokio::task::block_in_place(|| socket.recv(&mut [0; 2048])).is_err();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    silent
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = [0; 2048];
    // The runtime goes on beside.
    let (read, from) = tokio::task::block_in_place(|| socket.recv_from(&mut bytes)).unwrap();
    (bytes[..read].to_vec(), from)
}

/// One caller, as recorded, with the cookie of the proxy.
struct Client {
    socket: UdpSocket,
    conclusion: Vec<u8>,
}

impl Client {
    /// Has been given a cookie, and shows it.
    fn call(rig: &Rig, recorded: &Recorded) -> Self {
        Self::call_as(rig, recorded, peer(), |_| ())
    }

    fn call_as(
        rig: &Rig,
        recorded: &Recorded,
        socket: UdpSocket,
        change: impl Fn(&mut Handshake<'_>),
    ) -> Self {
        let mut induction = Handshake::parse(recorded.induction).unwrap();
        change(&mut induction);
        socket.send_to(&written(&induction), rig.proxy).unwrap();
        let answer = receive(&socket).0;
        let mut conclusion = Handshake::parse(recorded.conclusion).unwrap();
        change(&mut conclusion);
        conclusion.cookie = Handshake::parse(&answer).unwrap().cookie;
        let client = Self { socket, conclusion: written(&conclusion) };
        client.conclude(rig);
        client
    }

    fn conclude(&self, rig: &Rig) {
        self.socket.send_to(&self.conclusion, rig.proxy).unwrap();
    }

    /// The step of the answer.
    fn told(&self) -> Step {
        Handshake::parse(&receive(&self.socket).0).unwrap().step
    }

    /// The same with another socket.
    fn elsewhere(&self, socket: UdpSocket) -> Self {
        Self { socket, conclusion: self.conclusion.clone() }
    }

    /// Sends data until the origin hears it, which is not while the client may still be where it
    /// was. Gives the number of the next.
    fn is_heard(&self, rig: &Rig, origin: &UdpSocket) -> u32 {
        let first = first_number() + 1;
        let next = (first..first + 100).find(|&number| {
            self.data(rig, number);
            !is_silent(origin)
        });
        next.expect("heard") + 1
    }

    /// Sends a data packet of this number to the origin's socket.
    fn data(&self, rig: &Rig, number: u32) -> Vec<u8> {
        let packet = packet(number, 0, ORIGIN, b"media");
        self.socket.send_to(&packet, rig.proxy).unwrap();
        packet
    }
}

fn written(handshake: &Handshake<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    handshake.write(&mut bytes);
    bytes
}

fn packet(first: u32, info: u32, to: SocketId, body: &[u8]) -> Vec<u8> {
    [[first, info, 0, to.0].map(u32::to_be_bytes).as_flattened(), body].concat()
}

const ORIGIN: SocketId = SocketId(0x1234_5678);

/// Answers a handshake as the recorded origin does. Gives the session's address, and the client's
/// socket.
fn answer(origin: &UdpSocket, recorded: &Recorded) -> (SocketAddr, SocketId) {
    let (asked, session) = receive(origin);
    let asked = Handshake::parse(&asked).unwrap();
    assert_eq!(asked.step, Step::Induction);
    let mut answer = Handshake::parse(recorded.induction_answer).unwrap();
    answer.destination = asked.socket_id;
    origin.send_to(&written(&answer), session).unwrap();
    let (concluded, from) = receive(origin);
    let concluded = Handshake::parse(&concluded).unwrap();
    assert_eq!((concluded.step, concluded.cookie), (Step::Conclusion, answer.cookie));
    assert_eq!(from, session);
    let mut answer = Handshake::parse(recorded.conclusion_answer).unwrap();
    answer.destination = asked.socket_id;
    answer.socket_id = ORIGIN;
    origin.send_to(&written(&answer), session).unwrap();
    (session, asked.socket_id)
}

fn first_number() -> u32 {
    Handshake::parse(PUBLISH.conclusion_answer).unwrap().sequence.get()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_set_up_relayed_and_shut_down() {
    let rig = Rig::start(Duration::from_secs(30));
    let origin = rig.origin("a");
    let client = Client::call(&rig, &PUBLISH);
    let (session, socket) = answer(&origin, &PUBLISH);
    let told = receive(&client.socket).0;
    client.conclude(&rig);
    let again = receive(&client.socket).0;
    let [told, again] = [&told, &again].map(|told| Handshake::parse(told).unwrap());
    assert_eq!((told.step, told.socket_id), (Step::Conclusion, ORIGIN));
    assert_eq!((again.step, again.cookie), (told.step, told.cookie), "the answer was lost");
    let data = client.data(&rig, first_number());
    assert_eq!(receive(&origin), (data, session));
    let ack = packet(0x8002_0000, 1, socket, &first_number().to_be_bytes());
    origin.send_to(&ack, session).unwrap();
    assert_eq!(receive(&client.socket).0, ack);
    assert_eq!(rig.sessions.totals().setups[Protocol::Srt as usize], [1, 0]);
    client.socket.send_to(&shutdown(9, ORIGIN), rig.proxy).unwrap();
    assert_eq!(receive(&origin).0, shutdown(9, ORIGIN));
    rig.emptied().await;
    assert_eq!(rig.ended(End::ClientClosed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_told_why_it_gets_no_origin() {
    let rig = Rig::start(Duration::from_secs(30));
    let rejected = |code| Step::Rejection(Rejection::new(code).unwrap());
    assert_eq!(Client::call(&rig, &PUBLISH).told(), rejected(2503), "nobody is registered");
    let silent = rig.origin("silent");
    assert_eq!(Client::call(&rig, &PUBLISH).told(), rejected(2502), "nobody answers");
    drop(silent);
    rig.emptied().await;
    assert_eq!((rig.ended(End::NoOrigin), rig.ended(End::OriginUnreachable)), (1, 1));
    let refusing = rig.origin("silent");
    let client = Client::call(&rig, &PUBLISH);
    let (asked, session) = receive(&refusing);
    let asked = Handshake::parse(&asked).unwrap();
    let no = Rejection::new(3777).unwrap();
    let no = Handshake { destination: asked.socket_id, step: Step::Rejection(no), ..asked };
    refusing.send_to(&written(&no), session).unwrap();
    assert_eq!(client.told(), rejected(3777), "in the origin's own words");
    rig.emptied().await;
    assert_eq!(rig.ended(End::OriginRefused), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_silent_is_replaced_before_the_caller_gives_up() {
    let rig = Rig::start(Duration::from_secs(30));
    let silent = rig.origin("a");
    let client = Client::call(&rig, &PUBLISH);
    receive(&silent);
    let other = rig.origin("b");
    answer(&other, &PUBLISH);
    assert_eq!(client.told(), Step::Conclusion);
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_of_one_address_are_bounded_and_give_their_place_up() {
    let rig = Rig::start(Duration::from_secs(30));
    let origin = rig.origin("a");
    let waiting = [(); 2].map(|()| Client::call(&rig, &PUBLISH));
    let third = Client::call(&rig, &PUBLISH);
    assert_eq!(third.told(), Step::Rejection(Rejection::BACKLOG));
    for client in &waiting {
        // Asked again while it is under way: nothing new begins.
        client.conclude(&rig);
        assert!(matches!(client.told(), Step::Rejection(_)));
    }
    rig.emptied().await;
    drop(origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_callers_share_a_port_and_a_new_call_replaces_its_former() {
    let rig = Rig::start(Duration::from_secs(30));
    let origin = rig.origin("a");
    let first = Client::call(&rig, &PUBLISH);
    let (session, _) = answer(&origin, &PUBLISH);
    assert_eq!(first.told(), Step::Conclusion);
    // The same address and socket id, and another connection.
    let other = |handshake: &mut Handshake<'_>| handshake.sequence = handshake.sequence.next();
    let socket = first.socket.try_clone().unwrap();
    let second = Client::call_as(&rig, &PUBLISH, socket, other);
    // Before or behind the new one's induction, which will come again.
    let goodbye = std::iter::repeat_with(|| receive(&origin)).find(|(_, from)| *from == session);
    let goodbye = goodbye.map(|(packet, _)| packet);
    assert_eq!(goodbye, Some(shutdown(0, ORIGIN).to_vec()), "the former one ends");
    // Another socket at the same address, beside it.
    let beside = |handshake: &mut Handshake<'_>| handshake.socket_id = SocketId(77);
    answer(&origin, &PUBLISH);
    assert_eq!(second.told(), Step::Conclusion);
    let third = Client::call_as(&rig, &PUBLISH, second.socket.try_clone().unwrap(), beside);
    // Which is given the same socket id by the origin: nobody could tell them apart.
    answer(&origin, &PUBLISH);
    assert_eq!(third.told(), Step::Rejection(Rejection::RESOURCE));
    let mut asked = 0;
    while rig.sessions.count() > 1 {
        asked += 1;
        assert!(asked < 500, "the one without a name of its own ends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_session_ends_and_both_sides_hear_of_it() {
    let rig = Rig::start(Duration::from_millis(1500));
    let origin = rig.origin("a");
    let client = Client::call(&rig, &PUBLISH);
    let (_, socket) = answer(&origin, &PUBLISH);
    assert_eq!(client.told(), Step::Conclusion);
    assert_eq!(receive(&origin).0, shutdown(0, ORIGIN));
    assert_eq!(receive(&client.socket).0, shutdown(0, socket));
    rig.emptied().await;
    assert_eq!(rig.ended(End::Idle), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_from_another_port_is_followed_once_the_origin_proves_it() {
    let rig = Rig::start(Duration::from_secs(30));
    let origin = rig.origin("a");
    let client = Client::call(&rig, &PUBLISH);
    let (session, socket) = answer(&origin, &PUBLISH);
    assert_eq!(client.told(), Step::Conclusion);
    client.data(&rig, first_number());
    receive(&origin);
    let ack = |number: u32, next: u32| packet(0x8002_0000, number, socket, &next.to_be_bytes());
    origin.send_to(&ack(1, first_number() + 1), session).unwrap();
    receive(&client.socket);
    let moved = client.elsewhere(peer());
    let number = moved.is_heard(&rig, &origin);
    origin.send_to(&ack(2, number), session).unwrap();
    assert_eq!(receive(&moved.socket).0, ack(2, number));
    assert_eq!(rig.sessions.count(), 1);
    moved.socket.send_to(&shutdown(1, ORIGIN), rig.proxy).unwrap();
    rig.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_a_session_sent_to_another_ip_address() {
    let rig = Rig::start(Duration::from_millis(2500));
    let origin = rig.origin("a");
    let client = Client::call(&rig, &PLAY);
    let (session, socket) = answer(&origin, &PLAY);
    assert_eq!(client.told(), Step::Conclusion);
    // The client knows every number, and asks for another with a forged address.
    let victim = client.elsewhere(peer_at(Ipv4Addr::new(127, 0, 0, 2)));
    let first = Handshake::parse(PLAY.conclusion_answer).unwrap().sequence.get();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut number = 0;
    while rig.sessions.count() > 0 {
        assert!(Instant::now() < deadline, "its silence ends it");
        number += 1;
        let ack = packet(0x8002_0000, number, ORIGIN, &first.to_be_bytes());
        victim.socket.send_to(&ack, rig.proxy).unwrap();
        let ackack = packet(0x8006_0000, number, socket, b"");
        origin.send_to(&ackack, session).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(is_silent(&victim.socket), "it is sent there");
    assert_eq!(rig.ended(End::Idle), 1);
    assert!(rig.srt.drops.read()[Dropped::UnknownFlow as usize] > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_moves_is_told_by_its_address_from_one_with_the_same_socket_id() {
    let rig = Rig::start(Duration::from_secs(30));
    let origin = rig.origin("a");
    let client = Client::call(&rig, &PUBLISH);
    let (session, socket) = answer(&origin, &PUBLISH);
    assert_eq!(client.told(), Step::Conclusion);
    let other = peer_at(Ipv4Addr::new(127, 0, 0, 3));
    let other = Client::call_as(&rig, &PUBLISH, other, |_| ());
    // As another origin may do.
    let (others, _) = answer(&origin, &PUBLISH);
    assert_eq!(other.told(), Step::Conclusion);
    let moved = client.elsewhere(peer());
    let number = moved.is_heard(&rig, &origin);
    let ack = packet(0x8002_0000, 1, socket, &number.to_be_bytes());
    origin.send_to(&ack, others).unwrap();
    assert_eq!(receive(&other.socket).0, ack);
    origin.send_to(&ack, session).unwrap();
    assert_eq!(receive(&moved.socket).0, ack);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_origin_sends_behind_its_answer_is_not_lost() {
    let rig = Rig::start(Duration::from_secs(30));
    let origin = rig.origin("a");
    for n in 0..4 {
        let change = |handshake: &mut Handshake<'_>| handshake.socket_id = SocketId(900 + n);
        let client = Client::call_as(&rig, &PLAY, peer(), change);
        let (session, socket) = answer(&origin, &PLAY);
        let media: Vec<_> = (0..5).map(|n| packet(n, 0, socket, b"media")).collect();
        for packet in &media {
            origin.send_to(packet, session).unwrap();
        }
        assert_eq!(client.told(), Step::Conclusion);
        for packet in media {
            assert_eq!(receive(&client.socket).0, packet);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_an_origin_is_tried() {
    let rig = Rig::start(Duration::from_secs(30));
    let [silent, gone, alive] = rig.origin_with("a");
    drop(gone);
    let client = Client::call(&rig, &PUBLISH);
    receive(&silent);
    answer(&alive, &PUBLISH);
    assert_eq!(client.told(), Step::Conclusion);
    assert_eq!(
        rig.cluster.balancer().origins(Instant::now())[0].connect_failures,
        0,
        "it counts as down"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_that_is_lost_is_said_again_and_counted_once() {
    let rig = Rig::start(Duration::from_secs(30));
    let client = Client::call(&rig, &PUBLISH);
    for _ in 0..3 {
        assert_eq!(client.told(), Step::Rejection(Rejection::DOWN));
        client.conclude(&rig);
    }
    assert_eq!(client.told(), Step::Rejection(Rejection::DOWN));
    rig.sessions.all_ended().await;
    assert_eq!(rig.ended(End::NoOrigin), 1);
    assert_eq!(rig.srt.state.lock().calls.len(), 1, "what is to be said is kept");
    // What is kept of it has its place among the handshakes of its address.
    let second = Client::call(&rig, &PUBLISH);
    assert_eq!(second.told(), Step::Rejection(Rejection::DOWN));
    assert_eq!(Client::call(&rig, &PUBLISH).told(), Step::Rejection(Rejection::BACKLOG));
    rig.emptied().await;
    assert_eq!(rig.ended(End::NoOrigin), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_told_that_the_proxy_stops() {
    let rig = Rig::start(Duration::from_secs(30));
    let origin = rig.origin("a");
    let waiting = Client::call(&rig, &PUBLISH);
    receive(&origin);
    let late = peer();
    rig.stop.draining.cancel();
    late.send_to(PUBLISH.induction, rig.proxy).unwrap();
    let told = receive(&late).0;
    assert!(told.len() <= PUBLISH.induction.len());
    assert_eq!(Handshake::parse(&told).unwrap().step, Step::Rejection(Rejection::CLOSE));
    rig.stop.sessions.cancel();
    assert_eq!(waiting.told(), Step::Rejection(Rejection::CLOSE));
    rig.emptied().await;
    assert_eq!(rig.ended(End::Shutdown), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes_costs_no_memory() {
    let rig = Rig::start(Duration::from_secs(30));
    let stranger = peer();
    stranger.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    for n in 0..10_000_u32 {
        let mut induction = Handshake::parse(PUBLISH.induction).unwrap();
        induction.socket_id = SocketId(n + 1);
        stranger.send_to(&written(&induction), rig.proxy).unwrap();
        let mut bogus = Handshake::parse(PUBLISH.conclusion).unwrap();
        bogus.cookie = n;
        stranger.send_to(&written(&bogus), rig.proxy).unwrap();
        stranger.send_to(&packet(n, 0, SocketId(n + 1), b"media"), rig.proxy).unwrap();
        // As fast as they are answered: what a full socket loses tests nothing.
        receive(&stranger);
    }
    rig.emptied().await;
    let drops = rig.srt.drops.read();
    // The last ones may be under way.
    assert!(drops[Dropped::BadCookie as usize] >= 9_990);
    assert!(drops[Dropped::UnknownFlow as usize] >= 9_990);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_an_earlier_process_goes_on_until_its_client_shuts_down() {
    let rig = Rig::start(Duration::from_secs(30));
    let [client, origin] = [peer(), peer()];
    let near = peer().local_addr().unwrap();
    let (at, far) = (client.local_addr().unwrap(), origin.local_addr().unwrap());
    let endpoint = far.port().to_string();
    let kept = Origin::fixed("127.0.0.1", &[(Listener::Srt, &endpoint)]).unwrap();
    let memo = Memo {
        role: Role::Publish,
        stream: "__defaultVhost__/live/show".into(),
        origin: KeptOrigin::of(&kept),
        admitted: [at, rig.proxy],
        client: [at, rig.proxy],
        ends: [near, far],
        started: 0,
        matter: Matter::Srt { client: 7, origin: 9, window: 8192 },
    };
    let estate = Estate { balancer: rig.cluster.balancer(), sockets: &rig.sockets };
    rig.srt.adopt(&memo, estate).unwrap();
    let key = rig.sessions.list()[0].progress().stream.unwrap();
    let lease = rig.cluster.balancer().pick(&key, Listener::Srt, &[], Instant::now()).unwrap();
    assert_eq!(&**lease.origin().name(), "default-backend-static-0", "known before it is heard");
    let data = |to: u8| [[0, 0, 0, 5], [0; 4], [0; 4], [0, 0, 0, to]].concat();
    client.send_to(&data(9), rig.proxy).unwrap();
    assert_eq!(receive(&origin), (data(9), near));
    origin.send_to(&data(7), near).unwrap();
    assert_eq!(receive(&client), (data(7), rig.proxy));
    let again = rig.srt.adopt(&memo, estate);
    assert!(matches!(again, Err(NotAdopted::Socket(..))), "its port is in use: {again:?}");
    assert_eq!(rig.sessions.published().len(), 1);
    let goodbye = shutdown(0, SocketId(9));
    client.send_to(&goodbye, rig.proxy).unwrap();
    assert_eq!(receive(&origin).0, goodbye);
    rig.emptied().await;
    assert_eq!(rig.ended(End::ClientClosed), 1);
}
