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
    relay: JoinHandle<(StreamPair, Exit<Infallible>)>,
}

async fn start<F>(mut filter: F, patience: Patience) -> Rig
where
    F: Filter<Fault = Infallible> + Send + 'static,
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
    async fn end(self) -> (StreamPair, End) {
        match soon(self.relay).await.unwrap() {
            (pair, Exit::Ended(end)) => (pair, end),
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
    assert!(matches!(exit, Exit::Ended(End::ClientClosed | End::OriginClosed)), "{exit:?}");
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
    assert!(matches!(exit, Exit::Ended(End::OriginClosed)), "{exit:?}");
    assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
}

#[tokio::test]
async fn a_reset_is_told_from_a_close() {
    for (leg, expected) in [(Leg::Client, End::ClientLost), (Leg::Origin, End::OriginLost)] {
        let mut rig = start(Plain, PATIENT).await;
        let peer = if leg == Leg::Client { &mut rig.client } else { &mut rig.origin };
        SockRef::from(&*peer).set_linger(Some(Duration::ZERO)).unwrap();
        let (spare, _kept) = connection().await;
        drop(std::mem::replace(peer, spare));
        let (_, exit) = soon(rig.relay).await.unwrap();
        assert!(matches!(&exit, Exit::Ended(end) if *end == expected), "{leg:?}: {exit:?}");
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
    assert!(matches!(exit, Exit::Ended(End::Stalled)), "{exit:?}");
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
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(!rig.relay.is_finished(), "ended while it flowed");
    let (_, end) = rig.end().await;
    assert_eq!(end, End::Idle);
}

/// Looks for a word from the origin, answers it, and is done.
struct Password(Vec<u8>);

impl Filter for Password {
    type Fault = Infallible;

    fn pass(&mut self, from: Leg, bytes: &[u8], out: &mut Outbox) -> Result<Passed, Infallible> {
        if from == Leg::Client {
            return Ok(Passed::Verbatim);
        }
        self.0.extend_from_slice(bytes);
        out.to_client.extend_from_slice(bytes);
        if self.is_done() {
            out.to_origin.extend_from_slice(b"heard");
        }
        Ok(Passed::Written)
    }

    fn is_done(&self) -> bool {
        self.0.windows(4).any(|word| word == b"open")
    }
}

#[tokio::test]
async fn a_filter_that_is_done_gives_the_pair_back_with_every_byte() {
    let mut rig = start(Password(Vec::new()), PATIENT).await;
    for piece in [&b"not yet, op"[..], b"en; and more"] {
        rig.origin.write_all(piece).await.unwrap();
        rig.client.write_all(b"up").await.unwrap();
        tokio::task::yield_now().await;
    }
    let (mut pair, exit) = soon(rig.relay).await.unwrap();
    assert!(matches!(exit, Exit::Done), "{exit:?}");
    let meter = Arc::clone(&rig.meter);
    let plain = tokio::spawn(async move { carry(&mut pair, &mut Plain, PATIENT, &meter).await });
    let mut got = [0; 23];
    soon(rig.client.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"not yet, open; and more");
    let mut got = [0; 9];
    soon(rig.origin.read_exact(&mut got)).await.unwrap();
    assert_eq!(got.iter().filter(|byte| b"heardup".contains(byte)).count(), 9);
    drop(rig.client);
    assert!(matches!(soon(plain).await.unwrap(), Exit::Ended(End::ClientClosed)));
}
