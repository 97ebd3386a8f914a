//! Policies of IPsec, as far as they concern paths. Pure.
//!
//! The kernel's stack applies them to what it sends and takes; packets that a program redirects
//! meet none. Ports are not looked at: a path that a policy may concern is left to the stack.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::libc::{AF_INET, AF_INET6, IPPROTO_UDP};
use rtnetlink::packet_core::{DecodeError, NlasIterator};

use super::Path;

/// Addresses whose packets are encrypted, or refused. Of packets that come in, the addresses stand
/// as in the packets that go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    source: IpNet,
    destination: IpNet,
}

impl Policy {
    /// What has to be assumed if they may not be read.
    pub(super) fn all() -> Vec<Self> {
        let v4 = IpNet::V4(Ipv4Net::default());
        let v6 = IpNet::V6(Ipv6Net::default());
        [v4, v6].map(|any| Self { source: any, destination: any }).to_vec()
    }

    /// Reads `struct xfrm_userpolicy_info` and its attributes (`linux/xfrm.h`). `None` if it lets
    /// everything pass in clear, or can concern no path.
    pub(super) fn parse(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        let (policy, attributes) =
            read(body).ok_or_else(|| DecodeError::from("a policy is too short"))?;
        let mut has_template = false;
        let mut is_of_interface = false;
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            match attribute.kind() {
                XFRMA_TMPL => has_template = true,
                // It is for what goes through an interface of IPsec's own.
                XFRMA_IF_ID => is_of_interface = attribute.value() != [0; 4],
                _ => {}
            }
        }
        let Fields { destination, source, protocol, direction, action } = policy;
        let passes = action == XFRM_POLICY_ALLOW && !has_template;
        let is_of_udp = protocol == 0 || i32::from(protocol) == IPPROTO_UDP;
        if passes || is_of_interface || !is_of_udp {
            return Ok(None);
        }
        Ok(match direction {
            XFRM_POLICY_OUT => Some(Self { source, destination }),
            XFRM_POLICY_IN | XFRM_POLICY_FWD => {
                Some(Self { source: destination, destination: source })
            }
            // One socket's.
            _ => None,
        })
    }

    /// Whether it may concern packets of a path, or those that come back.
    pub(super) fn concerns(&self, path: Path) -> bool {
        let may_be_source = path.source.is_unspecified() || self.source.contains(&path.source);
        may_be_source && self.destination.contains(&path.destination)
    }
}

const XFRM_POLICY_IN: u8 = 0;
const XFRM_POLICY_OUT: u8 = 1;
const XFRM_POLICY_FWD: u8 = 2;
const XFRM_POLICY_ALLOW: u8 = 0;
const XFRMA_TMPL: u16 = 5;
const XFRMA_IF_ID: u16 = 31;

struct Fields {
    destination: IpNet,
    source: IpNet,
    protocol: u8,
    direction: u8,
    action: u8,
}

/// The structure, and what follows it.
fn read(body: &[u8]) -> Option<(Fields, &[u8])> {
    let (destination, rest) = body.split_first_chunk::<16>()?;
    let (source, rest) = rest.split_first_chunk::<16>()?;
    let (_ports, rest) = rest.split_first_chunk::<8>()?;
    let (family, rest) = rest.split_first_chunk()?;
    let ([destination_bits, source_bits, protocol], rest) = rest.split_first_chunk()?;
    // Interface, user, limits, what they came to, priority and index.
    let (_, rest) = rest.split_first_chunk::<115>()?;
    let ([direction, action], rest) = rest.split_first_chunk()?;
    let (_flags_and_padding, attributes) = rest.split_first_chunk::<6>()?;
    let family = u16::from_ne_bytes(*family);
    let fields = Fields {
        destination: network(family, *destination, *destination_bits)?,
        source: network(family, *source, *source_bits)?,
        protocol: *protocol,
        direction: *direction,
        action: *action,
    };
    Some((fields, attributes))
}

fn network(family: u16, address: [u8; 16], bits: u8) -> Option<IpNet> {
    let address = match i32::from(family) {
        AF_INET => {
            let (v4, _) = address.split_first_chunk::<4>()?;
            IpAddr::V4(Ipv4Addr::from(*v4))
        }
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(address)),
        _ => return None,
    };
    IpNet::new(address, bits).ok()
}

#[cfg(test)]
mod tests {
    use super::{Path, Policy, XFRMA_IF_ID, XFRMA_TMPL};

    #[test]
    fn a_policy_concerns_the_path_that_it_names() {
        let out = block([10, 1, 0, 0], 16, [203, 0, 113, 0], 24, OUT);
        let come_in = block([203, 0, 113, 0], 24, [10, 1, 0, 0], 16, IN);
        for (body, name) in [(out, "out"), (come_in, "in")] {
            let policy = Policy::parse(&body).expect(name).expect(name);
            let paths = [
                ("10.1.2.3", "203.0.113.9", true),
                ("0.0.0.0", "203.0.113.9", true),
                ("10.2.2.3", "203.0.113.9", false),
                ("10.1.2.3", "203.0.114.9", false),
                ("203.0.113.9", "10.1.2.3", false),
                ("::", "::ffff:203.0.113.9", false),
            ];
            for (source, destination, concerns) in paths {
                let path = path(source, destination);
                assert_eq!(policy.concerns(path), concerns, "{name}: {path:?}");
            }
        }
    }

    #[test]
    fn what_passes_in_clear_or_is_not_for_paths_is_none() {
        let any = block([0; 4], 0, [0; 4], 0, OUT);
        let with = |offset: usize, value: u8| {
            let mut body = any.clone();
            body[offset] = value;
            body
        };
        let allowed = with(ACTION, 0);
        let template = |body: &[u8]| [body, &[8, 0, 5, 0, 1, 1, 1, 1]].concat();
        let of_interface = |id: u8| [&any[..], &[8, 0, 31, 0, id, 0, 0, 0]].concat();
        assert_eq!((XFRMA_TMPL, XFRMA_IF_ID), (5, 31));
        let cases = [
            ("blocks", any.clone(), true),
            ("encrypts", template(&allowed), true),
            ("lets pass", allowed, false),
            ("is of UDP", with(PROTOCOL, 17), true),
            ("is of TCP", with(PROTOCOL, 6), false),
            ("forwards", with(DIRECTION, 2), true),
            ("is a socket's", with(DIRECTION, 3), false),
            ("is a socket's", with(DIRECTION, 4), false),
            ("is of no interface", of_interface(0), true),
            ("is of an interface", of_interface(7), false),
        ];
        for (name, body, counts) in cases {
            let policy = Policy::parse(&body).expect(name);
            assert_eq!(policy.is_some(), counts, "one that {name}: {policy:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_of_no_family_is_an_error() {
        let whole = block([10, 0, 0, 0], 8, [0; 4], 0, OUT);
        for len in 0..whole.len() {
            assert!(Policy::parse(&whole[..len]).is_err(), "{len} bytes");
        }
        for (offset, value) in [(FAMILY, 99), (PREFIX, 33)] {
            let mut body = whole.clone();
            body[offset] = value;
            assert!(Policy::parse(&body).is_err(), "{value} at {offset}");
        }
    }

    #[test]
    fn one_of_ipv6_reads_whole_addresses() {
        let mut body = block([0; 4], 0, [0; 4], 64, OUT);
        body[..16].copy_from_slice(&[0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        body[FAMILY] = 10;
        let policy = Policy::parse(&body).expect("a policy").expect("one that counts");
        assert!(policy.concerns(path("fd02::1", "fd01::2")));
        assert!(!policy.concerns(path("fd02::1", "fd01:0:0:1::2")));
        assert!(Policy::all().iter().any(|all| all.concerns(path("fd02::1", "fd01::2"))));
        assert!(Policy::all().iter().any(|all| all.concerns(path("10.0.0.1", "10.0.0.2"))));
    }

    const FAMILY: usize = 40;
    const PREFIX: usize = 42;
    const PROTOCOL: usize = 44;
    const DIRECTION: usize = 160;
    const ACTION: usize = 161;
    const IN: u8 = 0;
    const OUT: u8 = 1;

    /// A policy that refuses, as the kernel writes it.
    fn block(from: [u8; 4], from_bits: u8, to: [u8; 4], to_bits: u8, direction: u8) -> Vec<u8> {
        let mut body = vec![0; 168];
        body[..4].copy_from_slice(&to);
        body[16..20].copy_from_slice(&from);
        body[FAMILY..FAMILY + 2].copy_from_slice(&2_u16.to_ne_bytes());
        body[PREFIX..PREFIX + 2].copy_from_slice(&[to_bits, from_bits]);
        body[DIRECTION] = direction;
        body[ACTION] = 1;
        body
    }

    fn path(source: &str, destination: &str) -> Path {
        let address = |text: &str| text.parse().expect("an address");
        Path { source: address(source), destination: address(destination) }
    }
}
