//! Where packets to somebody leave this host: its next hop, kept fresh from netlink.
//!
//! Routes are asked of the kernel, one question per path, so that policy routing counts. What they
//! lead to is looked up in a [`mirror`] of the kernel's links, neighbours and policies of IPsec,
//! which [`Watch`] keeps.

mod mirror;
mod netlink;
mod policies;
mod watch;
mod wire;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

use self::mirror::Mirror;
pub use self::watch::{Event, Watch};

/// From where to where, without ports. IPv4 is never written as IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// This host's address; the unspecified one leaves the choice to the kernel.
    pub source: IpAddr,
    /// Whom the packets are for.
    pub destination: IpAddr,
}

/// One way out of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the device that carries the frames: of a VLAN, the one below it.
    pub interface: u32,
    /// That device's name.
    pub name: Arc<str>,
    /// Of the gateway, or of the destination if that is on the link.
    pub destination_mac: [u8; 6],
    /// Of the device, or of its VLAN.
    pub source_mac: [u8; 6],
    /// Tag control information (IEEE 802.1Q 9.6) of the tag that the frame needs.
    pub vlan: Option<u16>,
    /// The largest IP packet, in bytes, that goes this way.
    pub mtu: u32,
}

/// Why there is no next hop now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum NoHop {
    /// The route is local.
    #[error("the peer is on this host")]
    OnThisHost,
    /// The kernel knows no way, or the source is none of this host's addresses.
    #[error("no route leads there")]
    NoRoute,
    /// A rule or a route says no.
    #[error("the kernel refuses to route it")]
    Refused,
    /// Broadcast, multicast or anycast.
    #[error("the peer's address is not one host's")]
    NotUnicast,
    /// The address alone does not say which link is meant.
    #[error("a link-local address does not name its interface")]
    LinkLocal,
    /// The neighbour has not answered (yet); the kernel was told to ask it.
    #[error("the next hop's MAC address is unknown")]
    NoNeighbour,
    /// The device, or the one below, is down or has no carrier.
    #[error("the interface is down")]
    InterfaceDown,
    /// A tunnel or another kind of link.
    #[error("the interface is not Ethernet")]
    NotEthernet,
    /// Of 802.1ad, stacked, or above a device of another namespace.
    #[error("the interface's VLAN needs more than one 802.1Q tag")]
    Vlan,
    /// The route puts packets into others.
    #[error("the route encapsulates")]
    Encapsulated,
    /// It encrypts or refuses, or may not be read. A redirected packet would not meet it.
    #[error("an IPsec policy applies")]
    Ipsec,
}

/// What a path leads to.
pub type Answer = Result<NextHop, NoHop>;

/// A network device of this namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index.
    pub index: u32,
    /// The name, such as `eth0`.
    pub name: Arc<str>,
    /// Of a virtual device, such as `veth` or `bridge`; of a network card, none.
    pub kind: Option<Arc<str>>,
    /// Set up, and with a carrier.
    pub up: bool,
    /// The largest IP packet in bytes.
    pub mtu: u32,
    /// Its address, if it is Ethernet.
    pub mac: Option<[u8; 6]>,
    /// The loopback device.
    pub loopback: bool,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// The device below, of a VLAN, or the peer of a veth; none if that is in another namespace.
    pub lower: Option<u32>,
    /// Of a VLAN, the tag control information; none of it if the tag is not of 802.1Q.
    pub vlan: Option<u16>,
}

impl Link {
    /// A network card, of metal or of a virtual machine.
    #[must_use]
    pub fn is_card(&self) -> bool {
        self.kind.is_none() && self.mac.is_some() && !self.loopback
    }
}

/// Asks for next hops. A clone asks the same [`Watch`].
#[derive(Clone, Debug)]
pub struct Hops(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    mirror: Mutex<Mirror>,
    /// There are questions.
    asked: Notify,
}

impl Hops {
    /// Learns the links, neighbours and policies of this thread's network namespace, and listens
    /// from then on. Fails if the system has no netlink sockets left.
    pub async fn open() -> io::Result<(Self, Watch)> {
        let hops = Self(Arc::default());
        let watch = Watch::open(Arc::clone(&hops.0)).await?;
        Ok((hops, watch))
    }

    /// What was last told of a path, without waiting, and counts one more user of it. `None` if it
    /// is new: [`Watch`] tells it soon.
    pub fn find(&self, path: Path) -> Option<Answer> {
        let (answer, is_new) = self.0.mirror.lock().find(path);
        if is_new {
            self.0.asked.notify_one();
        }
        answer
    }

    /// One user less; the last one forgets the path.
    pub fn release(&self, path: Path) {
        self.0.mirror.lock().release(path);
    }

    /// The links, by index.
    pub fn links(&self) -> Vec<Link> {
        self.0.mirror.lock().links()
    }

    /// Indices of the interfaces that carry the default routes, and that have one of these
    /// addresses. For a start: it reads all routes.
    pub async fn interfaces_of(&self, addresses: &[IpAddr]) -> io::Result<Vec<u32>> {
        let mut interfaces = netlink::interfaces_of_default_routes().await?;
        interfaces.extend(netlink::interfaces_with(addresses).await?);
        interfaces.sort_unstable();
        interfaces.dedup();
        Ok(interfaces)
    }
}
