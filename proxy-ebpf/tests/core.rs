//! The packet core on the host. That the kernel agrees is shown in the package `tests`.

mod frames;

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use proxy_ebpf::maps::{Key, Tally, Way};
use proxy_ebpf::parse::{self, MAX_HEADERS};
use proxy_ebpf::{Arrival, Frame, Reason};

use self::frames::world::{BOTH, CLIENT, INTERFACE, SOCKET, SRT, TAGGED, WEBRTC, World};
use self::frames::{
    IPV4, IPV6, any_frame, any_payload, ethernet, rtp, samples, srt_packet, v4, v6, with,
    with_checksums,
};

#[test]
fn every_frame_is_taken_for_what_it_is() {
    let world = World::new();
    for sample in samples() {
        for arrival in arrivals(sample.segment) {
            let is_tc = arrival.finishes_checksums;
            let is_met = if is_tc { sample.is_for_tc() } else { sample.is_for_xdp() };
            let outcome = world.run(&sample.frame, arrival, is_tc || sample.has_room);
            if is_met {
                assert_eq!(outcome.reason, sample.reason, "{}", sample.story);
            }
            if outcome.reason != Reason::Forwarded {
                assert_eq!(outcome.frame, sample.frame, "{} passes up unchanged", sample.story);
            }
        }
    }
}

#[test]
fn no_reason_is_without_a_frame() {
    for reason in Reason::ALL {
        let shown = samples().iter().any(|sample| sample.reason == reason);
        assert!(shown, "no sample is {}", reason.as_str());
    }
}

#[test]
fn any_frame_meets_every_reason_that_it_can() {
    let world = World::new();
    let mut runner = TestRunner::deterministic();
    let mut draw = || any_frame().new_tree(&mut runner).expect("a frame").current();
    let met: HashSet<_> = (0..8192).map(|_| world.run(&draw(), XDP, true).reason).collect();
    for reason in Reason::ALL {
        let is_rare = [Reason::PartialChecksum, Reason::Merged, Reason::NoRoom].contains(&reason);
        assert!(met.contains(&reason) || is_rare, "no frame was {}", reason.as_str());
    }
}

#[test]
fn every_prefix_of_a_frame_is_cut_short_or_already_known() {
    for sample in samples().iter().filter(|sample| sample.segment == 0) {
        for len in 0..sample.frame.len() {
            assert_prefix(&sample.frame, len);
        }
    }
}

#[test]
fn what_goes_on_has_the_right_checksums_tags_and_macs() {
    let world = World::new();
    for sample in samples().into_iter().filter(|sample| sample.reason == Reason::Forwarded) {
        let outcome = world.run(&sample.frame, arrivals(sample.segment)[1], true);
        let Some((way, _)) = outcome.forwarded else { continue };
        let frame = &outcome.frame;
        assert_eq!(frame[..6], way.destination_mac, "{}", sample.story);
        assert_eq!(frame[6..12], way.source_mac, "{}", sample.story);
        let is_tagged = frame[12..14] == [0x81, 0x00];
        assert_eq!(is_tagged, way.vlan != [0; 2], "{}", sample.story);
        assert!(!is_tagged || frame[14..16] == way.vlan, "{}", sample.story);
        let came_without = sample.story.contains("without a checksum");
        assert!(came_without || has_right_checksums(frame), "{}: {frame:02x?}", sample.story);
    }
}

#[test]
fn without_a_checksum_it_stays() {
    let sample = samples().into_iter().find(|sample| sample.story.contains("without a checksum"));
    let sample = sample.expect("a sample without a checksum");
    let outcome = World::new().run(&sample.frame, XDP, true);
    assert_eq!(outcome.frame[14 + 26..14 + 28], [0, 0]);
}

#[test]
fn srt_says_how_far_it_has_come() {
    let world = World::new();
    let run = |packets: &[&Vec<u8>]| {
        let packets: Vec<_> = packets.iter().map(|packet| &packet[..]).collect();
        let frame = ethernet(&[], IPV4, &v4(CLIENT, SRT, &packets.concat()));
        let segment = if packets.len() == 1 { 0 } else { 20 };
        world.run(&frame, arrivals(segment)[1], true).forwarded.expect("it goes on").1
    };
    let data = srt_packet(0x7fff_ffff, 0);
    let acknowledged = srt_packet(0x8002_0000, 0x63);
    let nothing = srt_packet(0x8001_0000, 5);
    let numbers = |packet: &Vec<u8>| (run(&[packet]).data, run(&[packet]).acknowledged);
    assert_eq!(numbers(&data), (u32::MAX, 0));
    assert_eq!(numbers(&acknowledged), (0, 0x63 | Tally::IS_SET));
    assert_eq!(numbers(&nothing), (0, 0));
    let train = run(&[&data, &acknowledged, &srt_packet(3, 0), &nothing]);
    let expected = Tally {
        packets: 4,
        bytes: 80,
        seen: 0,
        data: 3 | Tally::IS_SET,
        acknowledged: 0x63 | Tally::IS_SET,
    };
    assert_eq!(train, expected);
}

#[test]
fn a_socket_of_srt_goes_before_a_flow_of_webrtc_on_a_port_of_both() {
    let world = World::new();
    let slot = |payload: &[u8]| {
        let frame = ethernet(&[], IPV6, &v6(CLIENT, BOTH, payload));
        world.run(&frame, XDP, true).forwarded.expect("it goes on").0.slot
    };
    assert_ne!(slot(&srt_packet(7, 0)), slot(&rtp(40)));
}

#[test]
fn addresses_of_two_families_are_no_flow() {
    let [v4, v6] = ["192.0.2.1:1", "[2001:db8::1]:1"].map(|a| a.parse().expect("an address"));
    let mapped = "[::ffff:192.0.2.1]:1".parse().expect("an address");
    assert_eq!(Key::new(v4, v6, 0), None);
    assert_eq!(Key::new(mapped, v4, SOCKET), Key::new(v4, v4, SOCKET), "mapped ones are IPv4");
    let key = Key::new(v4, mapped, 0).expect("one family");
    assert_eq!(Way::new(&key, v6, v6), None, "a flow does not change its family");
    assert!(Way::new(&key, mapped, v4).is_some());
}

#[test]
fn a_read_ends_with_the_frame() {
    let frame: &[u8] = &[1, 2, 3];
    assert_eq!(frame.read(1), Some([2, 3]));
    assert_eq!(frame.read::<2>(2), None, "one byte is left");
    assert_eq!(frame.read::<2>(4), None, "the offset is behind the frame");
    assert_eq!(frame.read::<2>(usize::MAX), None, "the offset is the last there is");
}

proptest! {
    #[test]
    fn no_bytes_bring_the_core_down(frame in vec(any::<u8>(), 0..128), segment in any::<u16>()) {
        for arrival in arrivals(segment.into()) {
            let _ = World::new().run(&frame, arrival, true);
        }
    }

    #[test]
    fn more_bytes_only_complete_what_was_cut_short(frame in any_frame(), len in 0_usize..128) {
        assert_prefix(&frame, len.min(frame.len()));
    }

    #[test]
    fn headers_are_found_in_the_bytes_that_are_pulled(frame in any_frame()) {
        if let Ok(datagram) = parse::datagram(&frame[..]) {
            prop_assert!(datagram.payload() <= MAX_HEADERS as usize);
        }
    }

    #[test]
    fn any_media_goes_on_with_the_checksum_of_its_own(
        payload in any_payload(),
        from in prop_oneof![Just(CLIENT), Just(TAGGED)],
    ) {
        let world = World::new();
        for port in [WEBRTC, SRT, BOTH] {
            let (v4, v6) = (v4(from, port, &payload), v6(from, port, &payload));
            for frame in [ethernet(&[], IPV4, &v4), ethernet(&[], IPV6, &v6)] {
                let outcome = world.run(&frame, XDP, true);
                if outcome.forwarded.is_some() {
                    prop_assert!(has_right_checksums(&outcome.frame));
                }
            }
        }
    }

    #[test]
    fn there_and_back_is_where_it_was(payload in any_payload()) {
        let world = World::new();
        for packet in [v4(CLIENT, WEBRTC, &payload), v6(CLIENT, WEBRTC, &payload)] {
            let ethertype = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
            let frame = ethernet(&[], ethertype, &packet);
            let there = world.run(&frame, XDP, true);
            let Some((way, _)) = there.forwarded else { continue };
            let key = Key {
                source: way.source,
                destination: way.destination,
                source_port: way.source_port,
                destination_port: way.destination_port,
                socket_id: [0; 4],
            };
            let home = parse::datagram(&frame[..]).expect("a datagram").key;
            let at = |address: [u8; 16], port: [u8; 2]| {
                (std::net::Ipv6Addr::from(address), u16::from_be_bytes(port)).into()
            };
            let back = Way::new(
                &key,
                at(home.source, home.source_port),
                at(home.destination, home.destination_port),
            );
            let back = Way { destination_mac: [0; 6], source_mac: [2, 0, 0, 0, 0, 2], mtu: 1500, from_interface: INTERFACE, interface: INTERFACE, ..back.expect("one family") };
            let mut return_world = World::default();
            return_world.ways.insert(key, back);
            let (word, shift) = proxy_ebpf::maps::Ports::place(u16::from_be_bytes(key.destination_port));
            return_world.ports.insert(word, proxy_ebpf::maps::Ports::WEBRTC << shift);
            let home_again = return_world.run(&there.frame, XDP, true);
            let datagram = parse::datagram(&home_again.frame[..]).expect("a datagram");
            prop_assert_eq!(home_again.reason, Reason::Forwarded);
            prop_assert_eq!(datagram.hops, 62);
            prop_assert_eq!(datagram.key, home);
            prop_assert!(has_right_checksums(&home_again.frame));
        }
    }
}

const XDP: Arrival = Arrival::xdp(INTERFACE);

/// XDP, and TC.
fn arrivals(segment: u32) -> [Arrival; 2] {
    [XDP, Arrival { finishes_checksums: true, segment, ..XDP }]
}

/// Whether the checksums of `frame`, of an untagged or once tagged datagram without options, are
/// those that somebody who has only this frame would calculate.
#[expect(clippy::indexing_slicing, reason = "a frame that is too short fails the test")]
fn has_right_checksums(frame: &[u8]) -> bool {
    let ip = if frame[12..14] == [0x81, 0x00] { 18 } else { 14 };
    let header = if frame[ip] >> 4 == 4 { 20 } else { 40 };
    let length = if header == 20 {
        usize::from(u16::from_be_bytes([frame[ip + 2], frame[ip + 3]]))
    } else {
        40 + usize::from(u16::from_be_bytes([frame[ip + 4], frame[ip + 5]]))
    };
    let packet = frame[ip..ip + length].to_vec();
    let blank = with(packet.clone(), header + 6, &[0, 0]);
    packet == with_checksums(blank, header, 17)
}

#[track_caller]
fn assert_prefix(frame: &[u8], len: usize) {
    let world = World::new();
    let reason = |frame: &[u8]| world.run(frame, XDP, true).reason;
    let (whole, prefix) = (reason(frame), reason(frame.get(..len).unwrap_or(frame)));
    assert!(
        prefix == Reason::Truncated || prefix == whole,
        "{len} bytes are {}, all of them {}: {frame:02x?}",
        prefix.as_str(),
        whole.as_str()
    );
}
