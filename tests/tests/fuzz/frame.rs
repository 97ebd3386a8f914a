//! Frames from the wire, in the packet core of the kernel programs.

use bolero::check;
use proxy_ebpf::decide::MAX_TRAIN;
use proxy_ebpf::maps::{Key, Ports, TO_ORIGIN, Way};
use proxy_ebpf::{Arrival, Flows, Reason, decide, parse};

use crate::RANDOM;

/// The input is two bytes, the length of each datagram in a train, and the frame.
#[test]
fn datagram() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let Some((segment, frame)) = input.split_first_chunk() else { return };
        let segment = u32::from(u16::from_be_bytes(*segment));
        let arrival =
            Arrival { interface: 0, vlan: [0; 2], to_us: true, finishes_checksums: true, segment };
        let Ok(datagram) = parse::datagram(frame) else { return };
        assert!(datagram.ip() + datagram.ip_length as usize <= frame.len(), "it ends behind");
        match decide(frame, &datagram, arrival, &AnyFlow(way())) {
            Ok(forward) => {
                let least = datagram.payload_length.min(1);
                assert!((least..=MAX_TRAIN).contains(&forward.datagrams), "{forward:?}");
                assert!(datagram.hops > 1, "it ends here");
            }
            Err(reason) => assert_ne!(reason, Reason::Forwarded),
        }
    });
}

/// Everything is of a flow.
struct AnyFlow(Way);

impl Flows for AnyFlow {
    fn ports(&self, _word: u32) -> u64 {
        (Ports::WEBRTC | Ports::SRT) * (u64::MAX / 3)
    }

    fn way(&self, _key: &Key) -> Option<&Way> {
        Some(&self.0)
    }
}

fn way() -> Way {
    let [client, origin] = ["192.0.2.1:1", "203.0.113.1:2"].map(|a| a.parse().expect("an address"));
    let key = Key::new(client, origin, 0).expect("one family");
    Way { mtu: 1500, leg: TO_ORIGIN, ..Way::new(&key, origin, client).expect("one family") }
}
