//! Sessions that come back while both directions are full: the relay goes on with exactly the rest.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::side::tests::{SOON, flood, media, narrow};
use super::*;
use crate::plane::relay::stream::{Counted, Exit, Plain, carry};
use crate::plane::{Closed, Flow, Leg, Meter, Outbox, Patience, StreamPair};

pub(super) const PATIENT: Patience = Patience { idle: SOON, stall: SOON };

/// Where the media comes from, and what is to be moved of it.
pub(super) const CASES: [(Leg, Flow); 4] = [
    (Leg::Origin, Flow::Both),
    (Leg::Client, Flow::Both),
    (Leg::Origin, Flow::Exactly(Leg::Origin, LENGTH)),
    (Leg::Client, Flow::Exactly(Leg::Client, LENGTH)),
];

/// Bytes that come from the source's peer in all.
const LENGTH: u64 = 4 << 20;

/// What comes behind a body.
const NEXT: &[u8] = b"the next request";

/// A session whose peers do not read.
pub(super) struct Full {
    pub(super) meter: Arc<Meter>,
    from: Leg,
    source: TcpStream,
    sink: TcpStream,
    /// What goes to the sink, its leftovers included.
    media: Vec<u8>,
    /// What is left over for the source.
    back: Vec<u8>,
}

impl Full {
    /// A session with leftovers for both legs, and its pair as it is handed over.
    pub(super) fn new(from: Leg) -> (Self, StreamPair) {
        let ((near_source, source), (near_sink, sink)) = (narrow(), narrow());
        // More than the buffers between.
        let (back, media) = (media(1 << 24, 1 << 20), media(1 << 25, 20_000));
        let mut out = Outbox::default();
        out.towards(from).clone_from(&back);
        out.towards(from.other()).clone_from(&media);
        let legs = match from {
            Leg::Origin => [near_source, near_sink],
            Leg::Client => [near_sink, near_source],
        };
        (Self { meter: Arc::default(), from, source, sink, media, back }, pair(legs, out))
    }

    /// Sends until nothing more is taken, and acts each time.
    pub(super) fn fill(&mut self, act: impl FnMut()) {
        self.media.extend(flood(&self.source, 0, act));
    }

    /// Fails unless the relay brings the session to its end, with nothing lost and nothing twice.
    pub(super) async fn must_go_on(self, mut pair: StreamPair, flow: Flow) {
        let Self { meter, from, mut source, mut sink, media: mut all, back } = self;
        let [to_origin, to_client] = pair.out.waiting();
        assert!(to_origin > 0 && to_client > 0, "{to_origin} and {to_client} bytes wait");
        let sent = all.len() - 20_000;
        let tail = media(1 << 26, usize::try_from(LENGTH).unwrap() - sent);
        all.extend(&tail);
        let moved = [all.len() as u64, back.len() as u64];
        // The relay reads of a leg only while little waits for it.
        let mut reading = source.try_clone().unwrap();
        let at_source = thread::spawn(move || {
            let mut received = vec![0; back.len()];
            reading.read_exact(&mut received).unwrap();
            assert!(received == back, "the source got other bytes");
        });
        let sending = thread::spawn(move || {
            source.write_all(&tail).unwrap();
            match flow {
                Flow::Exactly(..) => source.write_all(NEXT).unwrap(),
                _ => source.shutdown(Shutdown::Write).unwrap(),
            }
            source
        });
        let at_sink = thread::spawn(move || {
            let mut received = vec![0; all.len()];
            sink.read_exact(&mut received).unwrap();
            assert!(received == all, "the sink got other bytes");
            if flow == Flow::Both {
                assert_eq!(sink.read(&mut [0]).unwrap(), 0, "the sink got more");
                sink.shutdown(Shutdown::Write).unwrap();
            }
            sink
        });
        if let Flow::Exactly(leg, left) = flow {
            let mut filter = Counted { from: leg, left };
            let carried = carry(&mut pair, &mut filter, PATIENT, &meter);
            let exit = timeout(SOON, carried).await.unwrap();
            assert!(matches!(exit, Exit::Turn(())), "{exit:?}");
            let mut next = vec![0; NEXT.len()];
            let (near_source, _) = pair.leg(from);
            timeout(SOON, near_source.read_exact(&mut next)).await.unwrap().unwrap();
            assert_eq!(next, NEXT);
        } else {
            let mut filter = Plain;
            let carried = carry(&mut pair, &mut filter, PATIENT, &meter);
            let closed = timeout(SOON, carried).await.unwrap().into_closed();
            assert_eq!(closed, Some(Closed::InOrder(from)));
        }
        at_source.join().unwrap();
        let _open = (sending.join().unwrap(), at_sink.join().unwrap());
        let [to_sink, to_source] = moved;
        let counted = match from {
            Leg::Origin => [to_source, to_sink],
            Leg::Client => [to_sink, to_source],
        };
        assert_eq!(meter.read(), counted);
    }
}

/// The same for the runtime. Needs one.
pub(super) fn pair([origin, client]: [TcpStream; 2], out: Outbox) -> StreamPair {
    let socket = |socket| tokio::net::TcpStream::from_std(socket).unwrap();
    StreamPair { origin: socket(origin), client: socket(client), out }
}

#[tokio::test]
async fn the_relay_goes_on_where_a_thread_has_ended() {
    for by in [By::Epoll, By::Ring] {
        for (from, flow) in CASES {
            let splice = match Splice::start(by, 1, 10) {
                Ok(splice) => splice,
                Err(why) => {
                    println!("skipped: {by:?}: {why}");
                    break;
                }
            };
            let (mut full, pair) = Full::new(from);
            let journey = splice.reserve().unwrap().take(pair, flow, PATIENT, &full.meter);
            full.fill(|| {});
            drop(splice);
            let arrival = timeout(SOON, journey).await.unwrap();
            let Arrival::Refused(pair, flow, why) = arrival else {
                panic!("it was not given back")
            };
            assert_eq!(why.to_string(), "the proxy stops");
            full.must_go_on(pair, flow).await;
        }
    }
}

#[tokio::test]
async fn who_comes_to_a_thread_that_has_ended_comes_back_untouched() {
    for (from, flow) in CASES {
        let splice = Splice::start(By::Epoll, 1, 10).unwrap();
        let place = splice.reserve().unwrap();
        drop(splice);
        let (full, pair) = Full::new(from);
        let waiting = pair.out.waiting();
        let journey = place.take(pair, flow, PATIENT, &full.meter);
        let arrival = timeout(SOON, journey).await.unwrap();
        let Arrival::Refused(pair, left, why) = arrival else { panic!("it was not given back") };
        assert_eq!(why.to_string(), "its thread has ended");
        assert_eq!((left, pair.out.waiting()), (flow, waiting));
        full.must_go_on(pair, left).await;
    }
}
