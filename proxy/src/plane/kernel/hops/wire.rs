//! Netlink messages: the questions that are asked, and what is read of those that come. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use rtnetlink::packet_core::{
    DecodeError, Emitable, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkHeader, NetlinkMessage, Parseable,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    State, VlanProtocol,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::mirror::{Neighbour, Route, Station};
use super::policies::Policy;
use super::{Link, NoHop, Path};

/// A message of a datagram that the kernel sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    kind: u16,
    /// Of the question that it answers.
    pub(super) sequence: u32,
    body: &'a [u8],
}

/// What a message says, as far as it is of interest.
#[derive(Clone, Debug)]
pub(super) enum News {
    Link(Link),
    NoLink(u32),
    Neighbour(Station, Option<Neighbour>),
    /// Routes, rules, nexthops or addresses are others than before.
    Routes,
    /// The answer to a dump is complete.
    Done,
    Failed(Errno),
    Nothing,
}

/// The messages of a datagram; what is no whole message ends it. `linux/netlink.h`: length, type,
/// flags, sequence number and port, each message beginning at a multiple of four bytes.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (length, _) = datagram.split_first_chunk()?;
        let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
        let message = datagram.get(..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (_, rest) = message.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk()?;
        let (_flags, rest) = rest.split_first_chunk::<2>()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (_port, body) = rest.split_first_chunk::<4>()?;
        let (kind, sequence) = (u16::from_ne_bytes(*kind), u32::from_ne_bytes(*sequence));
        Some(Message { kind, sequence, body })
    })
}

/// Since Linux 5.3; `libc` does not name it.
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

impl Message<'_> {
    pub(super) fn news(self) -> Result<News, DecodeError> {
        Ok(match self.kind {
            libc::RTM_NEWLINK => link(LinkMessage::parse(self.body)?),
            libc::RTM_DELLINK => no_link(&LinkMessage::parse(self.body)?),
            libc::RTM_NEWNEIGH => neighbour(&NeighbourMessage::parse(self.body)?, true),
            libc::RTM_DELNEIGH => neighbour(&NeighbourMessage::parse(self.body)?, false),
            libc::RTM_NEWROUTE
            | libc::RTM_DELROUTE
            | libc::RTM_NEWRULE
            | libc::RTM_DELRULE
            | libc::RTM_NEWADDR
            | libc::RTM_DELADDR
            | RTM_NEWNEXTHOP
            | RTM_DELNEXTHOP => News::Routes,
            NLMSG_DONE => News::Done,
            NLMSG_ERROR => self.error().map_or(News::Nothing, News::Failed),
            _ => News::Nothing,
        })
    }

    /// Why a question failed; `None` if this is no error but a plain confirmation.
    fn error(self) -> Option<Errno> {
        let (code, _) = self.body.split_first_chunk()?;
        let code = i32::from_ne_bytes(*code);
        (code != 0).then(|| Errno::from_raw(code.saturating_neg()))
    }

    /// Where the path of [`ask_route`] leads; `None` if this is no answer to it.
    pub(super) fn route_to(self, destination: IpAddr) -> Option<Result<Route, NoHop>> {
        match self.kind {
            libc::RTM_NEWROUTE => {
                let route = RouteMessage::parse(self.body).map_err(|_| NoHop::Refused);
                Some(route.and_then(|route| answer(&route, destination)))
            }
            NLMSG_ERROR => self.error().map(|error| {
                Err(match error {
                    Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ESRCH => NoHop::NoRoute,
                    _ => NoHop::Refused,
                })
            }),
            _ => None,
        }
    }

    /// The interfaces of a default route; of any other route, none.
    pub(super) fn default_route(self) -> Vec<u32> {
        // `struct rtmsg`: most of a host's many routes are left at their second byte.
        if self.kind != libc::RTM_NEWROUTE || self.body.get(1) != Some(&0) {
            return Vec::new();
        }
        let Ok(route) = RouteMessage::parse(self.body) else { return Vec::new() };
        if route.header.kind != RouteType::Unicast {
            return Vec::new();
        }
        let interfaces = route.attributes.iter().flat_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => vec![*index],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        });
        interfaces.collect()
    }

    /// One of this host's addresses, and the interface that has it.
    pub(super) fn own_address(self) -> Option<(IpAddr, u32)> {
        if self.kind != libc::RTM_NEWADDR {
            return None;
        }
        let message = AddressMessage::parse(self.body).ok()?;
        let local = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        };
        let address = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        };
        let attributes = &message.attributes;
        // Of a point-to-point link, the other attribute is the peer's.
        let found =
            attributes.iter().find_map(local).or_else(|| attributes.iter().find_map(address));
        Some((found?, message.header.index))
    }

    /// The policy of an answer to [`ask_policies`], whose kinds have other meanings than those of
    /// routes; `None` if it is of no interest.
    pub(super) fn policy(self) -> Result<Option<Policy>, DecodeError> {
        if self.kind == XFRM_MSG_NEWPOLICY { Policy::parse(self.body) } else { Ok(None) }
    }
}

/// `linux/xfrm.h`.
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;

fn link(message: LinkMessage) -> News {
    // A bridge tells of its ports by the same message, which has little in it.
    if message.header.interface_family == AddressFamily::Bridge {
        return News::Nothing;
    }
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: Arc::from(""),
        kind: None,
        up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        mtu: 0,
        mac: None,
        loopback: flags.contains(LinkFlags::Loopback),
        master: None,
        lower: None,
        vlan: None,
    };
    let mut is_lower_elsewhere = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name.into(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(mac)
                if message.header.link_layer_type == LinkLayerType::Ether =>
            {
                link.mac = mac.try_into().ok();
            }
            LinkAttribute::OperState(State::Down | State::LowerLayerDown | State::NotPresent) => {
                link.up = false;
            }
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.lower = Some(index),
            LinkAttribute::LinkNetNsId(_) => is_lower_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in &infos {
                    describe(&mut link, info);
                }
            }
            _ => {}
        }
    }
    if is_lower_elsewhere {
        link.lower = None;
    }
    News::Link(link)
}

fn describe(link: &mut Link, info: &LinkInfo) {
    match info {
        LinkInfo::Kind(InfoKind::Other(kind)) => link.kind = Some(kind.as_str().into()),
        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string().into()),
        LinkInfo::Data(InfoData::Vlan(vlan)) => {
            let is_8021q = vlan.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Q));
            let id = vlan.iter().find_map(|info| match info {
                InfoVlan::Id(id) => Some(*id),
                _ => None,
            });
            link.vlan = id.filter(|_| is_8021q);
        }
        _ => {}
    }
}

fn no_link(message: &LinkMessage) -> News {
    // That a device is no longer a bridge's port is said by the same message.
    match message.header.interface_family {
        AddressFamily::Bridge => News::Nothing,
        _ => News::NoLink(message.header.index),
    }
}

fn neighbour(message: &NeighbourMessage, is_there: bool) -> News {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    // Those of a bridge have no IP address; those that this host answers for are not there.
    let Some(address) = address.filter(|_| !message.header.flags.contains(NeighbourFlags::Proxy))
    else {
        return News::Nothing;
    };
    let known = match (message.header.state, mac) {
        (NeighbourState::Stale, Some(mac)) => Neighbour::Stale(mac),
        (
            NeighbourState::Reachable
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp,
            Some(mac),
        ) => Neighbour::Sure(mac),
        _ => Neighbour::Unknown,
    };
    let station = Station { interface: message.header.ifindex, address };
    News::Neighbour(station, is_there.then_some(known))
}

fn answer(route: &RouteMessage, destination: IpAddr) -> Result<Route, NoHop> {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(NoHop::OnThisHost),
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
            return Err(NoHop::NotUnicast);
        }
        RouteType::Unreachable => return Err(NoHop::NoRoute),
        _ => return Err(NoHop::Refused),
    }
    let mut interface = None;
    let mut address = destination;
    let mut mtu = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => {
                address = IpAddr::V4(*v4);
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
                address = IpAddr::V6(*v6);
            }
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => {
                return Err(NoHop::Encapsulated);
            }
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let interface = interface.ok_or(NoHop::NoRoute)?;
    Ok(Route { station: Station { interface, address }, mtu })
}

/// Appends the question where `path` leads, for UDP. Fails if no kernel could answer it.
pub(super) fn ask_route(out: &mut Vec<u8>, path: Path, sequence: u32) -> Result<(), NoHop> {
    let (family, bits) = match (path.source, path.destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (AddressFamily::Inet, 32),
        (IpAddr::V6(_), IpAddr::V6(to)) if to.is_unicast_link_local() => {
            return Err(NoHop::LinkLocal);
        }
        (IpAddr::V6(_), IpAddr::V6(_)) => (AddressFamily::Inet6, 128),
        _ => return Err(NoHop::NoRoute),
    };
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: family,
        destination_prefix_length: bits,
        ..RouteHeader::default()
    };
    route.attributes =
        vec![RouteAttribute::Destination(path.destination.into()), RouteAttribute::IpProto(UDP)];
    if !path.source.is_unspecified() {
        route.header.source_prefix_length = bits;
        route.attributes.push(RouteAttribute::Source(path.source.into()));
    }
    append(out, RouteNetlinkMessage::GetRoute(route), NLM_F_REQUEST, sequence);
    Ok(())
}

const UDP: u8 = 17;

/// Appends the order to treat a station as if a packet were sent to it: `NTF_USE`.
pub(super) fn ask_neighbour(out: &mut Vec<u8>, station: Station, sequence: u32) {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = match station.address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    neighbour.header.ifindex = station.interface;
    neighbour.header.flags = NeighbourFlags::Use;
    neighbour.attributes = vec![NeighbourAttribute::Destination(station.address.into())];
    let flags = NLM_F_REQUEST | NLM_F_CREATE;
    append(out, RouteNetlinkMessage::NewNeighbour(neighbour), flags, sequence);
}

/// What can be dumped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Table {
    Links,
    Neighbours,
    Addresses,
    Routes(Family),
}

/// Of routes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

/// The question for all of a table.
pub(super) fn ask_all(table: Table) -> Vec<u8> {
    let message = match table {
        Table::Links => RouteNetlinkMessage::GetLink(LinkMessage::default()),
        Table::Neighbours => RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        Table::Addresses => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        Table::Routes(family) => {
            let mut route = RouteMessage::default();
            route.header.address_family = match family {
                Family::V4 => AddressFamily::Inet,
                Family::V6 => AddressFamily::Inet6,
            };
            RouteNetlinkMessage::GetRoute(route)
        }
    };
    let mut out = Vec::new();
    append(&mut out, message, NLM_F_REQUEST | NLM_F_DUMP, 1);
    out
}

/// The question for all policies of IPsec.
pub(super) fn ask_policies() -> [u8; 80] {
    // An empty `struct xfrm_userpolicy_id` follows.
    let mut out = [0; 80];
    let mut header = NetlinkHeader::default();
    header.length = 80;
    header.message_type = XFRM_MSG_GETPOLICY;
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = 1;
    header.emit(&mut out);
    out
}

fn append(out: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut bytes);
    out.append(&mut bytes);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use nix::libc::{ENETUNREACH, RTM_GETROUTE, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE};
    use rtnetlink::packet_core::NLMSG_ERROR;

    use super::{Message, News, ask_neighbour, ask_route, messages};
    use crate::plane::kernel::hops::mirror::{Neighbour, Route, Station};
    use crate::plane::kernel::hops::{NoHop, Path};

    #[test]
    fn questions_in_one_datagram_are_messages_of_their_own() {
        let mut out = Vec::new();
        for (sequence, source, destination) in
            [(1, "10.0.0.1", "10.0.0.2"), (2, "fd00::1", "fd00::2"), (3, "::", "fd00::3")]
        {
            assert_eq!(ask_route(&mut out, path(source, destination), sequence), Ok(()));
        }
        let station = Station { interface: 3, address: address("10.0.0.2") };
        ask_neighbour(&mut out, station, 4);
        let found: Vec<_> =
            messages(&out).map(|message| (message.kind, message.sequence)).collect();
        let questions = [1, 2, 3].map(|sequence| (RTM_GETROUTE, sequence));
        assert_eq!(found, [&questions[..], &[(RTM_NEWNEIGH, 4)]].concat());
        for len in 0..out.len() {
            for message in messages(&out[..len]) {
                assert!(message.news().is_ok(), "{len} bytes of it");
            }
        }
    }

    #[test]
    fn what_cannot_be_asked_says_why() {
        let ask = |source, destination| ask_route(&mut Vec::new(), path(source, destination), 1);
        assert_eq!(ask("10.0.0.1", "fd00::2"), Err(NoHop::NoRoute));
        assert_eq!(ask("fd00::1", "fe80::2"), Err(NoHop::LinkLocal));
    }

    #[test]
    fn an_answer_leads_to_the_gateway_or_to_the_destination() {
        let to = address("10.0.0.2");
        let interface = attribute(4, &3_u32.to_ne_bytes());
        let gateway = attribute(5, &[10, 0, 0, 1]);
        let gateway_v6 = attribute(18, &[10, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let mtu = attribute(8, &attribute(2, &1400_u32.to_ne_bytes()));
        let via = |address, mtu| Ok(Route { station: Station { interface: 3, address }, mtu });
        let cases = [
            (UNICAST, vec![interface.clone()], via(to, None)),
            (UNICAST, vec![interface.clone(), gateway, mtu], via(address("10.0.0.1"), Some(1400))),
            (UNICAST, vec![interface.clone(), gateway_v6], via(address("fd00::1"), None)),
            (UNICAST, vec![interface.clone(), attribute(21, &[1, 0])], Err(NoHop::Encapsulated)),
            (UNICAST, vec![], Err(NoHop::NoRoute)),
            (2, vec![interface.clone()], Err(NoHop::OnThisHost)),
            (3, vec![interface.clone()], Err(NoHop::NotUnicast)),
            (6, vec![interface.clone()], Err(NoHop::Refused)),
            (7, vec![interface], Err(NoHop::NoRoute)),
        ];
        for (kind, attributes, expected) in cases {
            let header = [2, 32, 0, 0, 254, 2, 0, kind, 0, 0, 0, 0];
            let datagram = message(RTM_NEWROUTE, &[&header[..], &attributes.concat()].concat());
            let answer = messages(&datagram).next().and_then(|message| message.route_to(to));
            assert_eq!(answer, Some(expected), "kind {kind}, {attributes:?}");
        }
    }

    #[test]
    fn an_error_is_an_answer_and_a_confirmation_is_none() {
        let answer = |code: i32| {
            let datagram = message(NLMSG_ERROR, &[&code.to_ne_bytes()[..], &[0; 16]].concat());
            messages(&datagram).next().and_then(|message| message.route_to(address("10.0.0.2")))
        };
        assert_eq!(answer(-ENETUNREACH), Some(Err(NoHop::NoRoute)));
        assert_eq!(answer(-1), Some(Err(NoHop::Refused)));
        assert_eq!(answer(i32::MIN), Some(Err(NoHop::Refused)));
        assert_eq!(answer(0), None);
    }

    #[test]
    fn a_neighbour_is_as_sure_as_its_state() {
        let mac = [2, 0, 0, 0, 0, 1];
        let station = Station { interface: 3, address: address("10.0.0.2") };
        let states = [
            (0x01, Neighbour::Unknown),
            (0x02, Neighbour::Sure(mac)),
            (0x04, Neighbour::Stale(mac)),
            (0x08, Neighbour::Sure(mac)),
            (0x10, Neighbour::Sure(mac)),
            (0x20, Neighbour::Unknown),
            (0x40, Neighbour::Sure(mac)),
            (0x80, Neighbour::Sure(mac)),
        ];
        for (state, expected) in states {
            let header = [2, 0, 0, 0, 3, 0, 0, 0, state, 0, 0, 1];
            let body = [&header[..], &attribute(1, &[10, 0, 0, 2]), &attribute(2, &mac)].concat();
            let datagram = message(RTM_NEWNEIGH, &body);
            let news = messages(&datagram).next().map(Message::news);
            let Some(Ok(News::Neighbour(found, neighbour))) = news else {
                panic!("no neighbour of state {state:#x}: {news:?}");
            };
            assert_eq!((found, neighbour), (station, Some(expected)), "state {state:#x}");
        }
    }

    #[test]
    fn a_vlan_device_tells_its_tag_and_the_device_below() {
        for (protocol, tag) in [([0x81, 0x00], Some(100)), ([0x88, 0xa8], None)] {
            let data = [attribute(1, &100_u16.to_ne_bytes()), attribute(5, &protocol)].concat();
            let info = [attribute(1, b"vlan\0"), attribute(2, &data)].concat();
            let attributes = [
                attribute(3, b"lan.100\0"),
                attribute(4, &1496_u32.to_ne_bytes()),
                attribute(1, &[2, 0, 0, 0, 0, 1]),
                attribute(5, &3_u32.to_ne_bytes()),
                attribute(18, &info),
            ];
            // Ethernet, of index 7, up and with a carrier.
            let header = [0, 0, 1, 0, 7, 0, 0, 0, 0x01, 0, 1, 0, 0, 0, 0, 0];
            let datagram = message(RTM_NEWLINK, &[&header[..], &attributes.concat()].concat());
            let news = messages(&datagram).next().map(Message::news);
            let Some(Ok(News::Link(link))) = news else { panic!("no link: {news:?}") };
            assert_eq!((link.index, &*link.name, link.mtu), (7, "lan.100", 1496));
            assert_eq!((link.kind.as_deref(), link.lower, link.vlan), (Some("vlan"), Some(3), tag));
            assert!(link.up && !link.is_card(), "{link:?}");
        }
    }

    const UNICAST: u8 = 1;

    fn path(source: &str, destination: &str) -> Path {
        Path { source: address(source), destination: address(destination) }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// A message as the kernel writes it.
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 16).expect("a short one").to_ne_bytes();
        [&length[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("a short one").to_ne_bytes();
        let mut bytes = [&length[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}
