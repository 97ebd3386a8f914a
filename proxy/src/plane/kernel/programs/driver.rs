//! What an interface's driver can do with XDP, and does, as the kernel tells it.

use std::io;

use nix::errno::Errno;
use nix::libc;
use rtnetlink::sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};

use super::netlink::{Answer, ask, attribute, find, find_array};

/// What a driver can do (`enum netdev_xdp_act`, linux/netdev.h). It changes while the interface is
/// there: with its program, and at a veth with its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// Those of the interface with this index; `None` if the kernel tells of none, as before Linux
    /// 6.3.
    pub fn of(index: u32) -> io::Result<Option<Self>> {
        let Some(family) = family(b"netdev\0")? else { return Ok(None) };
        let question = [generic(DEV_GET), attribute(DEV_IFINDEX, &index.to_ne_bytes())].concat();
        let answers = ask(NETLINK_GENERIC, family, 0, &question)?;
        let features = answers.iter().find_map(|(_, body)| {
            find_array(body.get(GENERIC..)?, DEV_XDP_FEATURES).map(u64::from_ne_bytes)
        });
        Ok(features.map(Self))
    }

    /// Why packets cannot go from such an interface out of another such one; nothing if they can.
    pub const fn lack(self) -> Option<&'static str> {
        match self {
            Self(bits) if bits & REDIRECT != 0 && bits & SEND == 0 => {
                Some("its driver cannot send what XDP redirects (a veth needs GRO on at its peer)")
            }
            _ => self.lack_for_good(),
        }
    }

    /// The same, except that some drivers can send as soon as they have a program.
    pub const fn lack_for_good(self) -> Option<&'static str> {
        match self {
            Self(0) => Some("its driver has no XDP"),
            Self(bits) if bits & REDIRECT == 0 => Some("its driver cannot redirect by XDP"),
            Self(_) => None,
        }
    }
}

/// `NETDEV_XDP_ACT_REDIRECT`.
const REDIRECT: u64 = 2;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const SEND: u64 = 4;

/// The number of a family of generic netlink, whose name ends with a zero. `None` if the kernel has
/// none of it.
fn family(name: &[u8]) -> io::Result<Option<u16>> {
    let question = [generic(GET_FAMILY), attribute(FAMILY_NAME, name)].concat();
    let answers = match ask(NETLINK_GENERIC, CONTROL, 0, &question) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(None),
        answers => answers?,
    };
    Ok(answers
        .iter()
        .find_map(|(_, body)| find_array(body.get(GENERIC..)?, FAMILY_ID).map(u16::from_ne_bytes)))
}

/// `struct genlmsghdr` (linux/genetlink.h) of a question.
fn generic(command: u8) -> Vec<u8> {
    vec![command, 1, 0, 0]
}

const GENERIC: usize = 4;
// linux/genetlink.h
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
// linux/netdev.h
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;

/// The kernel's number of the XDP program at an interface, if there is one.
pub fn xdp_program(index: u32) -> io::Result<Option<u32>> {
    Ok(link(index)?.iter().find_map(|(_, body)| {
        let xdp = find(body.get(LINK..)?, libc::IFLA_XDP)?;
        // Of several, as in the driver and behind it, the number is in another place each.
        XDP_PROGRAMS.iter().find_map(|kind| find_array(xdp, *kind)).map(u32::from_ne_bytes)
    }))
}

/// Whether an interface is there and up.
pub(super) fn is_up(index: u32) -> bool {
    let is_up = |(_, body): &Answer| {
        let flags = body.get(8..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*flags) & libc::IFF_UP.cast_unsigned() != 0)
    };
    link(index).is_ok_and(|answers| answers.iter().find_map(is_up) == Some(true))
}

/// `struct ifinfomsg` (linux/rtnetlink.h), where the index is the second word and flags are the
/// third one, and attributes.
fn link(index: u32) -> io::Result<Vec<Answer>> {
    let without = attribute(libc::IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
    let question = [[0, index, 0, 0].map(u32::to_ne_bytes).concat(), without].concat();
    ask(NETLINK_ROUTE, libc::RTM_GETLINK, 0, &question)
}

/// `RTEXT_FILTER_SKIP_STATS` (linux/rtnetlink.h).
const SKIP_STATS: u32 = 1 << 3;
const LINK: usize = 16;
/// `IFLA_XDP_PROG_ID`, `IFLA_XDP_DRV_PROG_ID`, `IFLA_XDP_SKB_PROG_ID` (`linux/if_link.h`).
const XDP_PROGRAMS: [u16; 3] = [4, 5, 6];

#[cfg(test)]
mod tests {
    use super::Features;

    #[test]
    fn a_driver_has_to_redirect_and_to_send() {
        // BASIC, REDIRECT, NDO_XMIT and others.
        for (bits, lack) in [
            (0, Some("its driver has no XDP")),
            (1, Some("its driver cannot redirect by XDP")),
            (5, Some("its driver cannot redirect by XDP")),
            (
                35,
                Some("its driver cannot send what XDP redirects (a veth needs GRO on at its peer)"),
            ),
            (7, None),
            (0x77, None),
        ] {
            assert_eq!(Features(bits).lack(), lack, "{bits}");
        }
    }
}
