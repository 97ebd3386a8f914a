//! Frames for the packet core: some with a story, and any number without. The tests of the
//! kernel programs read them too.

#![expect(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all frames are made here, and a wrong one is to fail the test"
)]

pub(crate) mod world;

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proxy_ebpf::Reason;
use proxy_ebpf::Reason::{
    Dtls, Forwarded, Fragment, Handshake, Held, LastHop, Malformed, Merged, NoDevice, NoRoom,
    NotIp, NotMedia, NotUdp, Options, OtherInterface, OtherPort, PartialChecksum, Shutdown, Stun,
    TooLarge, Truncated, UnknownFlow,
};

use self::world::{
    ASIDE, BOTH, CLIENT, GONE, HELD, NARROW, RETAGGED, SRT, STRANGER, TAG, TAGGED, UNTAGGED, WEBRTC,
};

/// One frame, and what it has to be taken for.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) story: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) reason: Reason,
    /// Bytes of each datagram, where the kernel has merged them before the TC hook.
    pub(crate) segment: u32,
    /// Whether there is memory to make the frame larger.
    pub(crate) has_room: bool,
}

impl Sample {
    fn new(reason: Reason, story: &'static str, frame: Vec<u8>) -> Self {
        Self { story, frame, reason, segment: 0, has_room: true }
    }

    /// Whether the sample is of something that only one hook meets.
    pub(crate) fn is_for_xdp(&self) -> bool {
        self.segment == 0
    }

    /// As [`Sample::is_for_xdp`].
    pub(crate) fn is_for_tc(&self) -> bool {
        self.reason != PartialChecksum && self.has_room
    }
}

/// One frame of each kind. None is shorter than an Ethernet header: a test run in the kernel
/// would refuse it.
pub(crate) fn samples() -> Vec<Sample> {
    [forwarded(), webrtc(), srt(), limits(), trains(), strangers(), not_whole(), damaged()].concat()
}

/// What goes on, in all its clothes.
fn forwarded() -> Vec<Sample> {
    let on = |story, frame| Sample::new(Forwarded, story, frame);
    let media = |from, port| [v4(from, port, &rtp(172)), v6(from, port, &rtp(172))];
    let [v4_media, v6_media] = media(CLIENT, WEBRTC);
    let [v4_tagged, v6_tagged] = media(TAGGED, WEBRTC);
    let [v4_untagged, v6_untagged] = media(UNTAGGED, WEBRTC);
    let [v4_retagged, v6_retagged] = media(RETAGGED, WEBRTC);
    let [v4_both, v6_both] = media(CLIENT, BOTH);
    let data = srt_packet(7, 0);
    let without_checksum = with(v4_media.clone(), 26, &[0, 0]);
    vec![
        on("media over IPv4", ethernet(&[], IPV4, &v4_media)),
        on("media over IPv6", ethernet(&[], IPV6, &v6_media)),
        on("media out of a VLAN", ethernet(&[VLAN], IPV4, &v4_untagged)),
        on("media over IPv6 out of a VLAN", ethernet(&[VLAN], IPV6, &v6_untagged)),
        on("media with a priority", with(ethernet(&[VLAN], IPV4, &v4_media), 14, &[0x60, 0])),
        on("media into a VLAN", ethernet(&[], IPV4, &v4_tagged)),
        on("media over IPv6 into a VLAN", ethernet(&[], IPV6, &v6_tagged)),
        on("media from VLAN to VLAN", ethernet(&[VLAN], IPV4, &v4_retagged)),
        on("media over IPv6 from VLAN to VLAN", ethernet(&[VLAN], IPV6, &v6_retagged)),
        on("media without a checksum", ethernet(&[], IPV4, &without_checksum)),
        on("media that is not to be fragmented", ethernet(&[], IPV4, &media_over_ipv4(0x4000, 0))),
        on("media padded to 60 bytes", padded(ethernet(&[], IPV4, &v4(CLIENT, WEBRTC, &rtp(12))))),
        on("media on a port of both", ethernet(&[], IPV4, &v4_both)),
        on("media over IPv6 on a port of both", ethernet(&[], IPV6, &v6_both)),
        on("RTCP", ethernet(&[], IPV4, &v4(CLIENT, WEBRTC, &[0xbf, 0xc8, 0, 1]))),
        on("SRT data", ethernet(&[], IPV4, &v4(CLIENT, SRT, &data))),
        on("SRT data over IPv6", ethernet(&[], IPV6, &v6(CLIENT, SRT, &data))),
        on("SRT on a port of both", ethernet(&[], IPV4, &v4(CLIENT, BOTH, &data))),
    ]
}

/// What a flow of WebRTC has for userspace (RFC 7983 7).
fn webrtc() -> Vec<Sample> {
    let first = |byte: u8| {
        let mut payload = rtp(40);
        payload[0] = byte;
        ethernet(&[], IPV4, &v4(CLIENT, WEBRTC, &payload))
    };
    vec![
        Sample::new(Stun, "a binding request", first(0)),
        Sample::new(Stun, "the last of STUN", first(3)),
        Sample::new(NotMedia, "behind STUN", first(4)),
        Sample::new(NotMedia, "ZRTP", first(16)),
        Sample::new(Dtls, "the first of DTLS", first(20)),
        Sample::new(Dtls, "the last of DTLS", first(63)),
        Sample::new(NotMedia, "a TURN channel", first(64)),
        Sample::new(NotMedia, "before RTP", first(127)),
        Sample::new(Forwarded, "the first of RTP", first(128)),
        Sample::new(Forwarded, "the last of RTP", first(191)),
        Sample::new(NotMedia, "behind RTP", first(192)),
        Sample::new(NotMedia, "nothing at all", ethernet(&[], IPV4, &v4(CLIENT, WEBRTC, &[]))),
        Sample::new(NotMedia, "one byte", ethernet(&[], IPV6, &v6(CLIENT, WEBRTC, &[0x80]))),
    ]
}

/// The control packets of SRT, and what is none (draft-sharabayko-srt 3.2).
fn srt() -> Vec<Sample> {
    let control = |reason, story, kind: u32| {
        let packet = srt_packet(0x8000_0000 | (kind << 16), 77);
        Sample::new(reason, story, ethernet(&[], IPV4, &v4(CLIENT, SRT, &packet)))
    };
    let of = |reason, story, payload: &[u8]| {
        Sample::new(reason, story, ethernet(&[], IPV6, &v6(CLIENT, SRT, payload)))
    };
    let stranger = with(srt_packet(7, 0), 12, &[1]);
    let induction = with(srt_packet(0x8000_0000, 0), 12, &[0; 4]);
    let acknowledgement = srt_packet(0x8002_0000, 77);
    vec![
        control(Handshake, "a handshake", 0),
        control(Forwarded, "a keep-alive", 1),
        control(Forwarded, "an acknowledgement", 2),
        control(Forwarded, "a loss report", 3),
        control(Forwarded, "a congestion warning", 4),
        control(Shutdown, "a shutdown", 5),
        control(Forwarded, "an acknowledgement of an acknowledgement", 6),
        control(Forwarded, "a drop request", 7),
        control(Forwarded, "a peer error", 8),
        control(NotMedia, "a type that is not known", 9),
        control(NotMedia, "a user-defined type", 0x7fff),
        of(UnknownFlow, "another socket", &stranger),
        of(UnknownFlow, "a first handshake", &induction),
        of(UnknownFlow, "half a header", &acknowledgement[..15]),
        of(NotMedia, "an acknowledgement of nothing", &acknowledgement[..19]),
        Sample::new(
            Handshake,
            "a handshake on a port of both",
            ethernet(&[], IPV4, &v4(CLIENT, BOTH, &srt_packet(0x8000_0000, 0))),
        ),
    ]
}

/// What could go on, and may not.
fn limits() -> Vec<Sample> {
    let v4_frame = |from, port, size| ethernet(&[], IPV4, &v4(from, port, &rtp(size)));
    let v6_frame = |from, port, size| ethernet(&[], IPV6, &v6(from, port, &rtp(size)));
    let hops = |hops| ethernet(&[], IPV4, &with_hops(v4(CLIENT, WEBRTC, &rtp(20)), hops));
    let in_vlan =
        |from, tag: [u8; 2]| with(ethernet(&[VLAN], IPV4, &v4(from, WEBRTC, &rtp(20))), 14, &tag);
    let hop_limit = |hops| ethernet(&[], IPV6, &with(v6(CLIENT, WEBRTC, &rtp(20)), 7, &[hops]));
    let partial = |mut frame: Vec<u8>, ip: usize| {
        let sum = pseudo_header(&frame[14..], ip);
        frame[14 + ip + 6..14 + ip + 8].copy_from_slice(&sum);
        frame
    };
    let tag = Sample::new(NoRoom, "no room for a tag", v4_frame(TAGGED, WEBRTC, 20));
    vec![
        Sample::new(UnknownFlow, "a stranger", v4_frame(STRANGER, WEBRTC, 20)),
        Sample::new(UnknownFlow, "a stranger over IPv6", v6_frame(STRANGER, WEBRTC, 20)),
        Sample::new(UnknownFlow, "for everyone", with(v4_frame(CLIENT, WEBRTC, 20), 0, &[1])),
        Sample::new(OtherPort, "a name server", v4_frame(CLIENT, 53, 20)),
        Sample::new(OtherPort, "a neighbour's port", v6_frame(CLIENT, WEBRTC + 1, 20)),
        Sample::new(Held, "a held flow", v4_frame(HELD, WEBRTC, 20)),
        Sample::new(Held, "a held flow over IPv6", v6_frame(HELD, WEBRTC, 20)),
        Sample::new(OtherInterface, "by another interface", v4_frame(ASIDE, WEBRTC, 20)),
        Sample::new(OtherInterface, "by another interface over IPv6", v6_frame(ASIDE, WEBRTC, 20)),
        Sample::new(OtherInterface, "not in its VLAN", v4_frame(UNTAGGED, WEBRTC, 20)),
        Sample::new(OtherInterface, "in another VLAN", in_vlan(UNTAGGED, [0x20, 0x65])),
        Sample::new(OtherInterface, "in a VLAN", in_vlan(CLIENT, TAG)),
        Sample::new(NoDevice, "for a device that is gone", v4_frame(GONE, WEBRTC, 20)),
        Sample::new(NoDevice, "for one that is gone over IPv6", v6_frame(GONE, WEBRTC, 20)),
        Sample::new(LastHop, "a time to live of one", hops(1)),
        Sample::new(LastHop, "a time to live of zero", hops(0)),
        Sample::new(Forwarded, "a time to live of two", hops(2)),
        Sample::new(LastHop, "a hop limit of one", hop_limit(1)),
        Sample::new(Forwarded, "a hop limit of two", hop_limit(2)),
        Sample::new(Forwarded, "as large as can be", v4_frame(NARROW, WEBRTC, 600 - 28)),
        Sample::new(TooLarge, "a byte too large", v4_frame(NARROW, WEBRTC, 600 - 27)),
        Sample::new(Forwarded, "as large as can be over IPv6", v6_frame(NARROW, WEBRTC, 600 - 48)),
        Sample::new(TooLarge, "a byte too large over IPv6", v6_frame(NARROW, WEBRTC, 600 - 47)),
        Sample::new(PartialChecksum, "left to a card", partial(v4_frame(CLIENT, WEBRTC, 20), 20)),
        Sample::new(
            PartialChecksum,
            "left to a card over IPv6",
            partial(v6_frame(CLIENT, WEBRTC, 20), 40),
        ),
        Sample { has_room: false, ..tag },
    ]
}

/// What the kernel has merged, as the TC hook meets it.
fn trains() -> Vec<Sample> {
    let train = |reason, story, from, port, segment, payloads: &[Vec<u8>]| Sample {
        segment,
        ..Sample::new(reason, story, ethernet(&[], IPV4, &v4(from, port, &payloads.concat())))
    };
    let media =
        |story, reason, payloads: &[Vec<u8>]| train(reason, story, CLIENT, WEBRTC, 100, payloads);
    let data =
        |story, reason, payloads: &[Vec<u8>]| train(reason, story, CLIENT, SRT, 20, payloads);
    let short =
        |story, reason, payloads: &[Vec<u8>]| train(reason, story, CLIENT, WEBRTC, 12, payloads);
    let (a, b) = (srt_packet(8, 0), srt_packet(0x8002_0000, 90));
    let other = with(srt_packet(9, 0), 12, &[1]);
    let stun = vec![0; 100];
    vec![
        media("a train", Forwarded, &[rtp(100), rtp(100), rtp(100)]),
        media("a train whose last is short", Forwarded, &[rtp(100), rtp(2)]),
        media("a train of one", Forwarded, &[rtp(60)]),
        short("as long as is looked at", Forwarded, &vec![rtp(12); 128]),
        short("longer than is looked at", Merged, &vec![rtp(12); 129]),
        media("STUN in a train", Merged, &[rtp(100), stun.clone()]),
        media("STUN before a train", Stun, &[stun, rtp(100)]),
        media("a rest that is no packet", Merged, &[rtp(100), rtp(1)]),
        data("an SRT train", Forwarded, &[a.clone(), b.clone(), a.clone()]),
        data("two sockets in a train", Merged, &[a.clone(), other, a]),
        train(Forwarded, "cars that fit", NARROW, WEBRTC, 572, &[rtp(572), rtp(572)]),
        train(TooLarge, "cars that do not", NARROW, WEBRTC, 573, &[rtp(573), rtp(573)]),
    ]
}

/// What is another protocol's.
fn strangers() -> Vec<Sample> {
    let not_ip = |story, frame| Sample::new(NotIp, story, frame);
    let not_udp = |story, frame| Sample::new(NotUdp, story, frame);
    let v4 = media_over_ipv4(0, 0);
    let v6 = media_over_ipv6();
    vec![
        not_ip("a provider's VLAN", ethernet(&[SERVICE], IPV6, &v6)),
        not_ip("two VLAN tags", ethernet(&[SERVICE, VLAN], IPV6, &v6)),
        not_ip("ARP", ethernet(&[], ARP, &[0; 28])),
        not_ip("ARP in a VLAN", ethernet(&[VLAN], ARP, &[0; 28])),
        not_ip("three VLAN tags", ethernet(&[VLAN; 3], IPV4, &v4)),
        not_ip("a length instead of a type", ethernet(&[], 38, &[0x42; 38])),
        not_udp("TCP over IPv4", ethernet(&[], IPV4, &ipv4(6, 0, 0, &[0; 20]))),
        not_udp("TCP over IPv6", ethernet(&[], IPV6, &ipv6(6, &[0; 20]))),
        not_udp("ICMPv6", ethernet(&[], IPV6, &ipv6(58, &[0; 8]))),
        not_udp("a fragment of TCP", ethernet(&[], IPV4, &ipv4(6, 0x2000, 0, &[0; 24]))),
        not_udp("TCP options", ethernet(&[], IPV4, &ipv4(6, 0, 1, &[0; 20]))),
    ]
}

/// What only the kernel's own stack can put together or read.
fn not_whole() -> Vec<Sample> {
    let fragment = |story, frame| Sample::new(Fragment, story, frame);
    let options = |story, frame| Sample::new(Options, story, frame);
    let extension = |kind| ethernet(&[], IPV6, &ipv6(kind, &[0; 64]));
    vec![
        fragment("the first fragment", ethernet(&[], IPV4, &media_over_ipv4(0x2000, 0))),
        fragment("a later fragment", ethernet(&[], IPV4, &ipv4(17, 0x2001, 0, &[0; 64]))),
        fragment("the last fragment", ethernet(&[], IPV4, &ipv4(17, 0x00b9, 0, &[0; 9]))),
        fragment("an IPv6 fragment", extension(44)),
        options("one word of options", ethernet(&[], IPV4, &media_over_ipv4(0, 1))),
        options("all words of options", ethernet(&[], IPV4, &media_over_ipv4(0, 10))),
        options("hop-by-hop options", extension(0)),
        options("a routing header", extension(43)),
        options("an authentication header", extension(51)),
        options("destination options", extension(60)),
        options("a mobility header", extension(135)),
        options("a HIP header", extension(139)),
        options("a shim6 header", extension(140)),
    ]
}

/// What nobody should have sent.
fn damaged() -> Vec<Sample> {
    let truncated = |story, frame| Sample::new(Truncated, story, frame);
    let malformed = |story, frame| Sample::new(Malformed, story, frame);
    let v4 = || ethernet(&[], IPV4, &media_over_ipv4(0, 0));
    let v6 = || ethernet(&[], IPV6, &media_over_ipv6());
    let v4_in_vlan = || ethernet(&[VLAN], IPV4, &media_over_ipv4(0, 0));
    let v6_in_vlan = || ethernet(&[VLAN], IPV6, &media_over_ipv6());
    vec![
        truncated("nothing behind Ethernet", cut(v4(), 14)),
        truncated("a VLAN tag cut off", cut(v4_in_vlan(), 17)),
        truncated("an IPv4 header cut off in a VLAN", cut(v4_in_vlan(), 18 + 19)),
        truncated("an IPv6 header cut off in a VLAN", cut(v6_in_vlan(), 18 + 39)),
        truncated("an IPv4 header cut off", cut(v4(), 14 + 19)),
        truncated("an IPv6 header cut off", cut(v6(), 14 + 39)),
        truncated("a UDP header cut off", cut(v4(), 14 + 20 + 7)),
        truncated("no UDP header at all", cut(v6(), 14 + 40)),
        truncated("a datagram cut off", cut(v4(), 14 + 20 + 8 + 100)),
        malformed("IPv6 announced as IPv4", ethernet(&[], IPV4, &media_over_ipv6())),
        malformed("IPv4 announced as IPv6", ethernet(&[], IPV6, &media_over_ipv4(0, 0))),
        malformed("an IPv4 header of four words", with(v4(), 14, &[0x44])),
        malformed("an IPv4 packet of 19 bytes", with(v4(), 14 + 2, &[0, 19])),
        malformed("no room for UDP in IPv4", with(v4(), 14 + 2, &[0, 27])),
        malformed("no room for UDP in IPv6", with(v6(), 14 + 4, &[0, 7])),
        malformed("UDP of seven bytes", with(v4(), 14 + 20 + 4, &[0, 7])),
        malformed("UDP larger than IPv4", with(v4(), 14 + 20 + 4, &[0, 181])),
        malformed("UDP larger than IPv6", with(v6(), 14 + 40 + 4, &[0, 181])),
        malformed("no checksum over IPv6", with(v6(), 14 + 40 + 6, &[0, 0])),
        malformed("a mapped source", with(v6(), 14 + 8, &MAPPED)),
        malformed("a mapped destination", with(v6(), 14 + 24, &MAPPED)),
    ]
}

/// Frames that are right in most fields, with some bytes changed and sometimes cut, so that
/// every branch of the core is met. At least an Ethernet header long.
pub(crate) fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop_oneof![8 => Just(0..1), 3 => Just(1..2), 1 => Just(2..4)]
        .prop_flat_map(|count| vec(select(vec![VLAN, SERVICE]), count));
    let packet = prop_oneof![
        6 => any_ipv4().prop_map(|packet| (IPV4, packet)),
        6 => any_ipv6().prop_map(|packet| (IPV6, packet)),
        1 => (any::<u16>(), any_ipv4()),
    ];
    let changes = prop_oneof![
        4 => Just(Vec::new()),
        1 => vec((any::<Index>(), any::<u8>()), 1..4),
    ];
    let cut_at = prop_oneof![6 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (tags, packet, changes, cut_at).prop_map(|(tags, (ethertype, packet), changes, cut_at)| {
        let mut frame = ethernet(&tags, ethertype, &packet);
        for (place, byte) in changes {
            *place.get_mut(&mut frame) = byte;
        }
        let len = cut_at.map_or(frame.len(), |place| 14 + place.index(frame.len() - 13));
        cut(frame, len)
    })
}

fn any_ipv4() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        20 => Just(0),
        3 => select(vec![0x4000, 0x8000, 0x2000, 0x2001, 0x0001, 0x1fff]),
        1 => any::<u16>(),
    ];
    let options = prop_oneof![16 => Just(0), 1 => 1_u8..=10];
    (any_protocol(), fragment, options, any_hops(), any_datagram(), off_by()).prop_map(
        |(protocol, fragment, options, hops, datagram, off_by)| {
            let mut packet = with_hops(ipv4(protocol, fragment, options, &datagram), hops);
            shift16(&mut packet, 2, off_by);
            packet
        },
    )
}

fn any_ipv6() -> impl Strategy<Value = Vec<u8>> {
    (any_protocol(), any_hops(), any_datagram(), off_by()).prop_map(
        |(next_header, hops, datagram, off_by)| {
            let mut packet = with(ipv6(next_header, &datagram), 7, &[hops]);
            shift16(&mut packet, 4, off_by);
            packet
        },
    )
}

fn any_protocol() -> impl Strategy<Value = u8> {
    let known = vec![0, 6, 43, 44, 50, 51, 58, 59, 60, 135, 139, 140];
    prop_oneof![20 => Just(17), 2 => select(known), 1 => any::<u8>()]
}

fn any_hops() -> impl Strategy<Value = u8> {
    prop_oneof![8 => 2..=255_u8, 1 => 0..3_u8]
}

fn any_datagram() -> impl Strategy<Value = Vec<u8>> {
    let from = prop_oneof![6 => Just(CLIENT), 4 => select(OTHERS.to_vec())];
    let port = prop_oneof![8 => select(vec![WEBRTC, SRT, BOTH]), 1 => any::<u16>()];
    (from, port, any_payload(), off_by()).prop_map(|(from, port, payload, off_by)| {
        let mut bytes = datagram(from, port, &payload);
        shift16(&mut bytes, 4, off_by);
        bytes
    })
}

/// RTP, SRT or any bytes, some too large for [`NARROW`].
pub(crate) fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![6 => 0_usize..64, 1 => 540_usize..580];
    let first = prop_oneof![3 => 128..=191_u8, 1 => any::<u8>()];
    let word = prop_oneof![
        2 => any::<u32>(),
        3 => (0_u32..10).prop_map(|kind| 0x8000_0000 | (kind << 16)),
        2 => 0..0x8000_0000_u32,
    ];
    let socket = prop_oneof![6 => Just(world::SOCKET), 1 => any::<u32>()];
    prop_oneof![
        (first, any::<u8>(), size).prop_map(|(first, rest, size)| {
            let mut payload = vec![first];
            payload.resize(size, rest);
            payload
        }),
        (word, any::<u32>(), socket, 12_usize..40).prop_map(|(word, number, socket, size)| {
            let packet = srt_packet(word, number);
            let mut packet = with(packet, 12, &socket.to_be_bytes());
            packet.resize(size, 0);
            packet
        }),
    ]
}

/// How far a length is from the truth: mostly not at all, and if so, mostly by little.
fn off_by() -> impl Strategy<Value = i16> {
    prop_oneof![20 => Just(0), 1 => -2_i16..=2, 1 => -70_i16..=70, 1 => any::<i16>()]
}

/// A packet in its frame. Its destination is the address of the interface on which the kernel
/// makes test runs.
pub(crate) fn ethernet(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend(TAG);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

pub(crate) fn v4(from: u16, port: u16, payload: &[u8]) -> Vec<u8> {
    let [client, proxy, _] = world::V4.map(IpAddr::from);
    packet((client, from).into(), (proxy, port).into(), 64, payload).1
}

pub(crate) fn v6(from: u16, port: u16, payload: &[u8]) -> Vec<u8> {
    let [client, proxy, _] = world::V6.map(IpAddr::from);
    packet((client, from).into(), (proxy, port).into(), 64, payload).1
}

/// The type and the bytes of a packet between two addresses of one family.
pub(crate) fn packet(from: SocketAddr, to: SocketAddr, hops: u8, payload: &[u8]) -> (u16, Vec<u8>) {
    let datagram = datagram(from.port(), to.port(), payload);
    match (from.ip(), to.ip()) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut packet = with(ipv6(17, &datagram), 8, &from.octets());
            packet = with(with(packet, 24, &to.octets()), 7, &[hops]);
            (IPV6, with_checksums(with(packet, 40 + 6, &[0, 0]), 40, 17))
        }
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let packet = with(ipv4(17, 0, 0, &datagram), 12, &from.octets());
            let packet = with_hops(with(packet, 16, &to.octets()), hops);
            (IPV4, with_checksums(with(packet, 20 + 6, &[0, 0]), 20, 17))
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// `fragment` is the word of flags and offset, `options` counts words of no-operation.
fn ipv4(protocol: u8, fragment: u16, options: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * usize::from(options);
    let mut packet = vec![0x45 + options, 0];
    packet.extend(be16(header + payload.len()));
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(world::V4[0]);
    packet.extend(world::V4[1]);
    packet.resize(header, 1);
    packet.extend(payload);
    with_checksums(packet, header, protocol)
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(be16(payload.len()));
    packet.extend([next_header, 64]);
    packet.extend(world::V6[0]);
    packet.extend(world::V6[1]);
    packet.extend(payload);
    with_checksums(packet, 40, next_header)
}

fn media_over_ipv4(fragment: u16, options: u8) -> Vec<u8> {
    ipv4(17, fragment, options, &datagram(CLIENT, WEBRTC, &rtp(172)))
}

fn media_over_ipv6() -> Vec<u8> {
    v6(CLIENT, WEBRTC, &rtp(172))
}

fn datagram(from: u16, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(from.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend(be16(8 + payload.len()));
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// So many bytes of RTP.
pub(crate) fn rtp(size: usize) -> Vec<u8> {
    let mut bytes = vec![0x80, 0x60, 0x12, 0x34];
    bytes.resize(size, 0x5a);
    bytes
}

/// A packet of SRT with `word` first, and `number` behind its header.
pub(crate) fn srt_packet(word: u32, number: u32) -> Vec<u8> {
    [word, 1, 2, world::SOCKET, number].map(u32::to_be_bytes).concat()
}

fn with_hops(packet: Vec<u8>, hops: u8) -> Vec<u8> {
    let header = 4 * usize::from(packet[0] & 15);
    let packet = with(packet, 8, &[hops]);
    let sum = !sum(&with(packet[..header].to_vec(), 10, &[0, 0]));
    with(packet, 10, &sum.to_be_bytes())
}

/// The checksums of the IP header and of UDP, if that is what it has.
pub(crate) fn with_checksums(mut packet: Vec<u8>, header: usize, protocol: u8) -> Vec<u8> {
    if header != 40 {
        let hops = packet[8];
        packet = with_hops(packet, hops);
    }
    if protocol == 17 && packet.len() >= header + 8 {
        let [s0, s1] = pseudo_header(&packet, header);
        let bytes = [&[s0, s1], &packet[header..]].concat();
        let sum = match !sum(&bytes) {
            0 => 0xffff,
            sum => sum,
        };
        packet = with(packet, header + 6, &sum.to_be_bytes());
    }
    packet
}

/// The sum of the pseudo-header of `packet`, whose IP header has this length.
fn pseudo_header(packet: &[u8], header: usize) -> [u8; 2] {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let length = be16(packet.len() - header);
    sum(&[addresses, &[0, 17], &length].concat()).to_be_bytes()
}

/// The sum of 16-bit words by the letter (RFC 1071 1).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        [high, ..] => u32::from(high) << 8,
        [] => 0,
    });
    words.fold(0_u32, |sum, word| (sum + word) % 0x10000 + (sum + word) / 0x10000) as u16
}

fn be16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}

pub(crate) fn with(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame.splice(offset..offset + bytes.len(), bytes.iter().copied());
    frame
}

/// Moves the big-endian number at `offset` by `by`.
fn shift16(bytes: &mut [u8], offset: usize, by: i16) {
    let number = bytes.get_mut(offset..).and_then(|rest| rest.first_chunk_mut());
    if let Some(number) = number {
        *number = u16::from_be_bytes(*number).wrapping_add_signed(by).to_be_bytes();
    }
}

/// Ports of clients that are not the ordinary one.
const OTHERS: [u16; 8] = [HELD, NARROW, TAGGED, UNTAGGED, RETAGGED, ASIDE, GONE, STRANGER];

/// `::ffff:192.0.2.1`.
const MAPPED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const SERVICE: u16 = 0x88a8;
