//! A pump whose sockets take nothing more gives everything back.

use super::super::pipes::tests::pipes;
use super::super::side::tests::EVERYTHING;
use super::super::tests::{CASES, Full, PATIENT, pair};
use super::*;
use crate::plane::StreamPair;

#[tokio::test]
async fn what_is_in_pipes_and_left_over_goes_on_by_the_relay() {
    for pages in [0, 16, 64] {
        for (from, flow) in CASES {
            let (mut full, StreamPair { client, origin, out }) = Full::new(from);
            let legs = [origin, client].map(|leg| leg.into_std().unwrap());
            let (mut kit, now) = (Kit::new(pipes(pages)), Instant::now());
            let mut pump = Pump::new(legs, out, flow, PATIENT, Arc::clone(&full.meter), now);
            full.fill(|| {
                for leg in Leg::ALL {
                    pump.heard(leg, EVERYTHING, &mut kit, now);
                }
                while pump.run(&mut kit, now) == Turn::Tired {}
            });
            assert_eq!(kit.moved.spliced > 0, pages > 0, "{:?}", kit.moved);
            let taken = from.of(&mut pump.ways).held();
            let (legs, out, left) = pump.into_parts(&mut kit).unwrap();
            assert_eq!(out.waiting_for(from.other()), taken);
            let [to_origin, to_client] = full.meter.read();
            let written = if from == Leg::Origin { to_client } else { to_origin };
            match (flow, left) {
                (Flow::Exactly(_, all), Flow::Exactly(leg, left)) => {
                    // Leftovers are none of the bytes that are still to come.
                    let came = written + taken as u64 - 20_000;
                    assert_eq!((leg, left), (from, all - came));
                }
                (flow, left) => assert_eq!(flow, left),
            }
            full.must_go_on(pair(legs, out), left).await;
        }
    }
}
