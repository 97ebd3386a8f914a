//! Frames for the classifier: some with a story, and any number without. The tests of the
//! kernel programs read them too.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proxy_ebpf::Reason;
use proxy_ebpf::Reason::{Fragment, Malformed, NotIp, NotUdp, Options, Truncated, Udp};

/// One frame, and what it has to be taken for.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) story: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) reason: Reason,
}

impl Sample {
    fn new(reason: Reason, story: &'static str, frame: Vec<u8>) -> Self {
        Self { story, frame, reason }
    }
}

/// One frame of each kind. None is shorter than an Ethernet header: a test run in the kernel
/// would refuse it.
pub(crate) fn samples() -> Vec<Sample> {
    [datagrams(), strangers(), not_whole(), damaged()].concat()
}

/// What is a datagram, in all its clothes.
fn datagrams() -> Vec<Sample> {
    let udp = |story, frame| Sample::new(Udp, story, frame);
    let (v4, v6) = (media_over_ipv4(0, 0), media_over_ipv6());
    vec![
        udp("media over IPv4", ethernet(&[], IPV4, &v4)),
        udp("media over IPv6", ethernet(&[], IPV6, &v6)),
        udp("no fragment allowed", ethernet(&[], IPV4, &media_over_ipv4(0x4000, 0))),
        udp("one VLAN tag", ethernet(&[VLAN], IPV4, &v4)),
        udp("two VLAN tags", ethernet(&[SERVICE, VLAN], IPV6, &v6)),
        udp("an empty datagram", ethernet(&[], IPV4, &ipv4(17, 0, 0, &datagram(0)))),
        udp("padded to 60 bytes", padded(ethernet(&[], IPV4, &ipv4(17, 0, 0, &datagram(4))))),
    ]
}

/// What is another protocol's.
fn strangers() -> Vec<Sample> {
    let not_ip = |story, frame| Sample::new(NotIp, story, frame);
    let not_udp = |story, frame| Sample::new(NotUdp, story, frame);
    let v4 = media_over_ipv4(0, 0);
    vec![
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
        malformed("IPv6 announced as IPv4", ethernet(&[], IPV4, &media_over_ipv6())),
        malformed("IPv4 announced as IPv6", ethernet(&[], IPV6, &media_over_ipv4(0, 0))),
        malformed("an IPv4 header of four words", with(v4(), 14, &[0x44])),
        malformed("an IPv4 packet of 19 bytes", with(v4(), 14 + 2, &[0, 19])),
        malformed("no room for UDP in IPv4", with(v4(), 14 + 2, &[0, 27])),
        malformed("no room for UDP in IPv6", with(v6(), 14 + 4, &[0, 7])),
        malformed("UDP of seven bytes", with(v4(), 14 + 20 + 4, &[0, 7])),
        malformed("UDP larger than IPv4", with(v4(), 14 + 20 + 4, &[0, 181])),
        malformed("UDP larger than IPv6", with(v6(), 14 + 40 + 4, &[0, 181])),
    ]
}

/// Frames that are right in most fields, with some bytes changed and sometimes cut, so that
/// every branch of the classifier is met. At least an Ethernet header long.
pub(crate) fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop_oneof![4 => Just(0..1), 1 => Just(1..4)]
        .prop_flat_map(|count| vec(select(vec![VLAN, SERVICE]), count));
    let packet = prop_oneof![
        6 => any_ipv4().prop_map(|packet| (IPV4, packet)),
        6 => any_ipv6().prop_map(|packet| (IPV6, packet)),
        1 => (any::<u16>(), any_ipv4()),
    ];
    let changes = prop_oneof![
        2 => Just(Vec::new()),
        1 => vec((any::<Index>(), any::<u8>()), 1..4),
    ];
    let cut_at = prop_oneof![3 => Just(None), 1 => any::<Index>().prop_map(Some)];
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
        8 => Just(0),
        3 => select(vec![0x4000, 0x8000, 0x2000, 0x2001, 0x0001, 0x1fff]),
        1 => any::<u16>(),
    ];
    let options = prop_oneof![6 => Just(0), 1 => 1_u8..=10];
    (any_protocol(), fragment, options, any_datagram(), off_by()).prop_map(
        |(protocol, fragment, options, datagram, off_by)| {
            let mut packet = ipv4(protocol, fragment, options, &datagram);
            shift16(&mut packet, 2, off_by);
            packet
        },
    )
}

fn any_ipv6() -> impl Strategy<Value = Vec<u8>> {
    (any_protocol(), any_datagram(), off_by()).prop_map(|(next_header, datagram, off_by)| {
        let mut packet = ipv6(next_header, &datagram);
        shift16(&mut packet, 4, off_by);
        packet
    })
}

fn any_protocol() -> impl Strategy<Value = u8> {
    let known = vec![0, 6, 43, 44, 50, 51, 58, 59, 60, 135, 139, 140];
    prop_oneof![8 => Just(17), 2 => select(known), 1 => any::<u8>()]
}

fn any_datagram() -> impl Strategy<Value = Vec<u8>> {
    (0_usize..64, off_by()).prop_map(|(size, off_by)| {
        let mut bytes = datagram(size);
        shift16(&mut bytes, 4, off_by);
        bytes
    })
}

/// How far a length is from the truth: mostly not at all, and if so, mostly by little.
fn off_by() -> impl Strategy<Value = i16> {
    prop_oneof![8 => Just(0), 1 => -2_i16..=2, 1 => -70_i16..=70, 1 => any::<i16>()]
}

fn ethernet(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0x20, 0x64]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `fragment` is the word of flags and offset, `options` counts words of no-operation.
fn ipv4(protocol: u8, fragment: u16, options: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * usize::from(options);
    let mut packet = vec![0x45 + options, 0];
    packet.extend(be16(header + payload.len()));
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
    packet.resize(header, 1);
    packet.extend(payload);
    packet
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(be16(payload.len()));
    packet.extend([next_header, 64]);
    for host in [1, 2] {
        packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    packet.extend(payload);
    packet
}

fn media_over_ipv4(fragment: u16, options: u8) -> Vec<u8> {
    ipv4(17, fragment, options, &datagram(172))
}

fn media_over_ipv6() -> Vec<u8> {
    ipv6(17, &datagram(172))
}

/// `size` bytes from port 50000 to the WebRTC port.
fn datagram(size: usize) -> Vec<u8> {
    let mut bytes = vec![0xc3, 0x50, 0x1f, 0x40];
    bytes.extend(be16(8 + size));
    bytes.extend([0, 0]);
    bytes.resize(8 + size, 0x80);
    bytes
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

fn with(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
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

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const SERVICE: u16 = 0x88a8;
