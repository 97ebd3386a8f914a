//! The relay between real sockets on loopback.

use std::future::Future;
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(20);
const PATIENT: Patience = Patience { idle: SOON, stall: SOON };

/// Two ends of one connection.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A session between two peers that the test plays.
struct Rig {
    client: TcpStream,
    origin: TcpStream,
    meter: Arc<Meter>,
    relay: JoinHandle<(StreamPair, Exit<Infallible, Infallible>)>,
}

async fn start<F>(mut filter: F, patience: Patience) -> Rig
where
    F: Filter<Turn = Infallible, Fault = Infallible> + Send + 'static,
{
    let ((client, for_client), (origin, for_origin)) = (connection().await, connection().await);
    let meter = Arc::new(Meter::default());
    let mut pair = StreamPair { client: for_client, origin: for_origin, out: Outbox::default() };
    let counted = Arc::clone(&meter);
    let relay = tokio::spawn(async move {
        let exit = carry(&mut pair, &mut filter, patience, &counted).await;
        (pair, exit)
    });
    Rig { client, origin, meter, relay }
}

impl Rig {
    async fn end(self) -> (StreamPair, Closed) {
        match soon(self.relay).await.unwrap() {
            (pair, Exit::Closed(closed)) => (pair, closed),
            (_, exit) => panic!("the relay gave the session back: {exit:?}"),
        }
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(SOON, work).await.expect("in time")
}

/// Bytes that are the same nowhere.
fn media(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_directions_arrive_whole_and_in_order_at_peers_of_any_speed() {
    const LENGTH: usize = 8 << 20;
    let rig = start(Plain, PATIENT).await;
    let ((mut client_in, mut client_out), (mut origin_in, mut origin_out)) =
        (rig.client.into_split(), rig.origin.into_split());
    let up = tokio::spawn(async move {
        for piece in media(LENGTH).chunks(7777) {
            client_out.write_all(piece).await.unwrap();
        }
        client_out
    });
    let down = tokio::spawn(async move {
        origin_out.write_all(&media(LENGTH)).await.unwrap();
        origin_out
    });
    let slow = tokio::spawn(async move {
        let mut received = vec![0; LENGTH];
        for piece in received.chunks_mut(30_011) {
            client_in.read_exact(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        received
    });
    let mut received = vec![0; LENGTH];
    soon(origin_in.read_exact(&mut received)).await.unwrap();
    assert!(received == media(LENGTH), "the origin got other bytes");
    assert!(soon(slow).await.unwrap() == media(LENGTH), "the client got other bytes");
    assert_eq!(rig.meter.read(), [LENGTH as u64; 2]);
    let (client_out, origin_out) = (up.await.unwrap(), down.await.unwrap());
    drop((client_out, origin_out));
    let (_, exit) = soon(rig.relay).await.unwrap();
    assert!(matches!(exit, Exit::Closed(Closed::InOrder(_))), "{exit:?}");
}

#[tokio::test]
async fn what_a_leg_sent_before_it_closed_is_written_to_the_other() {
    let mut rig = start(Plain, PATIENT).await;
    let bytes = media(1 << 20);
    let (sent, mut received) = (bytes.clone(), Vec::new());
    let mut origin = rig.origin;
    let write = tokio::spawn(async move {
        origin.write_all(&sent).await.unwrap();
        drop(origin);
    });
    soon((&mut rig.client).take(1 << 20).read_to_end(&mut received)).await.unwrap();
    write.await.unwrap();
    let (_, exit) = soon(rig.relay).await.unwrap();
    assert!(matches!(exit, Exit::Closed(Closed::InOrder(Leg::Origin))), "{exit:?}");
    assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
}

#[tokio::test]
async fn a_reset_is_told_from_a_close() {
    for leg in Leg::ALL {
        let mut rig = start(Plain, PATIENT).await;
        let peer = if leg == Leg::Client { &mut rig.client } else { &mut rig.origin };
        SockRef::from(&*peer).set_linger(Some(Duration::ZERO)).unwrap();
        let (spare, _kept) = connection().await;
        drop(std::mem::replace(peer, spare));
        let (_, closed) = rig.end().await;
        assert_eq!(closed, Closed::Lost(leg));
    }
}

#[tokio::test]
async fn a_peer_that_reads_nothing_stops_its_sender_holds_little_and_ends() {
    let patience = Patience { stall: Duration::from_millis(400), ..PATIENT };
    let rig = start(Plain, patience).await;
    let mut origin = rig.origin;
    let flood = tokio::spawn(async move {
        let piece = media(1 << 20);
        let mut sent = 0u64;
        while origin.write_all(&piece).await.is_ok() {
            sent += 1 << 20;
        }
        sent
    });
    let (pair, exit) = soon(rig.relay).await.unwrap();
    assert!(matches!(exit, Exit::Closed(Closed::Stalled)), "{exit:?}");
    assert!(pair.out.to_client.len() <= READ, "held {} bytes", pair.out.to_client.len());
    drop(pair);
    let sent = soon(flood).await.unwrap();
    // What the kernel's buffers of both connections hold, with room to spare.
    assert!(sent < 64 << 20, "{sent} bytes were taken of a sender nobody listened to");
    drop(rig.client);
}

#[tokio::test]
async fn a_session_that_flows_one_way_is_neither_idle_nor_stalled() {
    let patience = Patience { idle: Duration::from_millis(300), stall: Duration::from_millis(300) };
    let mut rig = start(Plain, patience).await;
    let mut byte = [0];
    for _ in 0..20 {
        rig.origin.write_all(b"x").await.unwrap();
        soon(rig.client.read_exact(&mut byte)).await.unwrap();
        sleep(Duration::from_millis(40)).await;
    }
    assert!(!rig.relay.is_finished(), "ended while it flowed");
    let (_, end) = rig.end().await;
    assert_eq!(end, Closed::Idle);
}

/// Looks for a word from the origin, answers it, and says so once.
#[derive(Default)]
struct Password {
    heard: Vec<u8>,
    turned: bool,
}

impl Filter for Password {
    type Turn = ();
    type Fault = Infallible;

    fn pass(&mut self, from: Leg, bytes: &[u8], out: &mut Outbox) -> Result<Passed, Infallible> {
        if from == Leg::Client {
            return Ok(Passed::Verbatim);
        }
        self.heard.extend_from_slice(bytes);
        out.to_client.extend_from_slice(bytes);
        if self.heard.windows(4).any(|word| word == b"open") {
            self.turned = true;
            out.to_origin.extend_from_slice(b"heard");
        }
        Ok(Passed::Written)
    }

    fn turn(&mut self, _: &Outbox) -> Option<()> {
        std::mem::take(&mut self.turned).then_some(())
    }
}

#[tokio::test]
async fn a_filter_that_turns_gives_the_pair_back_with_every_byte() {
    let ((mut client, for_client), (mut origin, for_origin)) =
        (connection().await, connection().await);
    let mut pair = StreamPair { client: for_client, origin: for_origin, out: Outbox::default() };
    let meter = Meter::default();
    for piece in [&b"not yet, op"[..], b"en; and more"] {
        origin.write_all(piece).await.unwrap();
        client.write_all(b"up").await.unwrap();
    }
    let exit = soon(carry(&mut pair, &mut Password::default(), PATIENT, &meter)).await;
    assert!(matches!(exit, Exit::Turn(())), "{exit:?}");
    let plain = tokio::spawn(async move { carry(&mut pair, &mut Plain, PATIENT, &meter).await });
    let mut got = [0; 23];
    soon(client.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"not yet, open; and more");
    let mut got = [0; 9];
    soon(origin.read_exact(&mut got)).await.unwrap();
    got.sort_unstable();
    assert_eq!(&got, b"adehppruu", "heard, and up twice");
    drop(client);
    let exit = soon(plain).await.unwrap();
    assert!(matches!(exit, Exit::Closed(Closed::InOrder(Leg::Client))), "{exit:?}");
}

/// A pair whose bytes wait already, and the far ends.
async fn waiting(out: Outbox) -> (StreamPair, TcpStream, TcpStream) {
    let ((client, for_client), (origin, for_origin)) = (connection().await, connection().await);
    (StreamPair { client: for_client, origin: for_origin, out }, client, origin)
}

/// Makes the close of `far` a reset: it has bytes that nobody will read.
async fn leave_unread(near: &mut TcpStream, far: &TcpStream) {
    near.write_all(&[1; 100]).await.unwrap();
    soon(far.readable()).await.unwrap();
}

#[tokio::test]
async fn the_last_words_of_an_origin_that_resets_reach_the_client() {
    let out = Outbox { to_origin: vec![2; 1000], ..Outbox::default() };
    let (mut pair, mut client, mut origin) = waiting(out).await;
    leave_unread(&mut pair.origin, &origin).await;
    origin.write_all(b"onStatus: no").await.unwrap();
    drop(origin);
    soon(pair.origin.ready(tokio::io::Interest::ERROR)).await.unwrap();
    let exit = soon(carry(&mut pair, &mut Plain, PATIENT, &Meter::default())).await;
    assert!(matches!(exit, Exit::Closed(Closed::Lost(Leg::Origin))), "{exit:?}");
    drop(pair);
    let mut got = Vec::new();
    soon(client.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"onStatus: no");
}

#[tokio::test]
async fn the_last_bytes_of_a_client_that_resets_reach_a_slow_origin() {
    const LENGTH: usize = 8_000_000;
    let out = Outbox { to_origin: vec![2; LENGTH], to_client: vec![3; 16] };
    let (mut pair, client, mut origin) = waiting(out).await;
    SockRef::from(&pair.origin).set_send_buffer_size(4096).unwrap();
    leave_unread(&mut pair.client, &client).await;
    drop(client);
    let reader = tokio::spawn(async move {
        let mut got = Vec::new();
        origin.read_to_end(&mut got).await.map(|_| got.len())
    });
    let exit = soon(carry(&mut pair, &mut Plain, PATIENT, &Meter::default())).await;
    assert!(matches!(exit, Exit::Closed(Closed::Lost(Leg::Client))), "{exit:?}");
    drop(pair);
    assert_eq!(soon(reader).await.unwrap().unwrap(), LENGTH);
}

#[tokio::test]
async fn a_client_that_resets_while_the_origin_stalls_is_noticed_long_before_the_stall() {
    let rig = start(Plain, Patience { idle: SOON * 9, stall: SOON * 9 }).await;
    let Rig { mut client, origin, relay, .. } = rig;
    let piece = media(1 << 20);
    while timeout(Duration::from_millis(200), client.write_all(&piece)).await.is_ok() {}
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let (_, exit) = soon(relay).await.unwrap();
    assert!(matches!(exit, Exit::Closed(Closed::Lost(Leg::Client))), "{exit:?}");
    drop(origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_moved_when_its_sink_has_it_whatever_its_source_does_then() {
    let mut rig = counted(5).await;
    rig.origin.write_all(b"media").await.unwrap();
    let mut got = [0; 5];
    soon(rig.client.read_exact(&mut got)).await.unwrap();
    SockRef::from(&rig.origin).set_linger(Some(Duration::ZERO)).unwrap();
    drop(rig.origin);
    assert!(matches!(soon(rig.relay).await.unwrap(), Exit::Turn(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_its_sink_does_not_take_was_not_moved() {
    const LENGTH: usize = 64 << 20;
    let mut rig = counted(LENGTH as u64).await;
    let media = media(LENGTH);
    let sending = tokio::spawn(async move {
        // All of it, as far as the relay takes it; then a client that resets.
        let _cut = rig.origin.write_all(&media).await;
        rig.origin
    });
    let mut some = [0; 1024];
    soon(rig.client.read_exact(&mut some)).await.unwrap();
    SockRef::from(&rig.client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(rig.client);
    let exit = soon(rig.relay).await.unwrap();
    assert!(matches!(exit, Exit::Closed(Closed::Lost(Leg::Client))), "{exit:?}");
    sending.abort();
}

/// The same, for so many bytes from the origin.
struct CountedRig {
    client: TcpStream,
    origin: TcpStream,
    relay: JoinHandle<Exit<(), Infallible>>,
}

async fn counted(left: u64) -> CountedRig {
    let ((client, for_client), (origin, for_origin)) = (connection().await, connection().await);
    let mut pair = StreamPair { client: for_client, origin: for_origin, out: Outbox::default() };
    let relay = tokio::spawn(async move {
        let mut filter = Counted { from: Leg::Origin, left };
        carry(&mut pair, &mut filter, PATIENT, &Meter::default()).await
    });
    CountedRig { client, origin, relay }
}
