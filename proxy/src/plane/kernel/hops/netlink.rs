//! Sockets of netlink, and what is read once from them.

use std::io;
use std::net::IpAddr;

use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::{NETLINK_ROUTE, NETLINK_XFRM};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tracing::warn;

use super::Link;
use super::mirror::{Neighbour, Station};
use super::policies::Policy;
use super::wire::{self, Family, Message, News, Table};

/// A socket towards the kernel.
pub(super) struct Netlink {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// Larger than any datagram of netlink, 32 KiB.
const DATAGRAM: usize = 64 * 1024;
/// Wanted; the system's limit may be less.
const RECEIVE_BUFFER: u32 = 1 << 20;
/// Datagrams that are handled before anything else has its turn.
const AT_ONCE: usize = 256;
/// `linux/xfrm.h`.
const XFRMNLGRP_POLICY: u32 = 4;

impl Netlink {
    /// One for routes and what belongs to them, which hears of these groups.
    pub(super) fn open(groups: &[MulticastGroup]) -> io::Result<Self> {
        Self::of(NETLINK_ROUTE, groups.iter().map(|group| *group as u32))
    }

    /// One that hears when policies of IPsec change.
    pub(super) fn open_policies() -> io::Result<Self> {
        Self::of(NETLINK_XFRM, [XFRMNLGRP_POLICY])
    }

    fn of(protocol: isize, groups: impl IntoIterator<Item = u32>) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        // A small buffer only means that everything is read anew more often.
        let _kept_small = socket.socket_ref().set_rx_buf_sz(RECEIVE_BUFFER);
        socket.socket_mut().bind_auto()?;
        for group in groups {
            socket.socket_ref().add_membership(group)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// The messages that wait, at least one datagram of them. `ENOBUFS` says that some were lost.
    /// If it is cancelled, nothing is.
    pub(super) async fn receive(&mut self, mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer).await?;
        for _ in 0..AT_ONCE {
            wire::messages(&self.buffer).for_each(&mut each);
            self.buffer.clear();
            match self.socket.socket_ref().recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        wire::messages(&self.buffer).for_each(&mut each);
        Ok(())
    }

    /// Sends questions, which the kernel has dealt with when this returns.
    pub(super) async fn send(&self, questions: &[u8]) -> io::Result<()> {
        self.socket.send_to(questions, &SocketAddr::new(0, 0)).await.map(drop)
    }
}

/// Messages were lost: all has to be asked anew.
pub(super) fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

/// All links and neighbours.
pub(super) async fn links_and_neighbours() -> io::Result<(Vec<Link>, Vec<(Station, Neighbour)>)> {
    let mut links = Vec::new();
    let mut neighbours = Vec::new();
    dump(Table::Links, |message| match message.news() {
        Ok(News::Link(link)) => links.push(link),
        Ok(_) => {}
        Err(error) => warn!(%error, "a link was not understood and is left out"),
    })
    .await?;
    dump(Table::Neighbours, |message| {
        if let Ok(News::Neighbour(station, Some(neighbour))) = message.news() {
            neighbours.push((station, neighbour));
        }
    })
    .await?;
    Ok((links, neighbours))
}

pub(super) async fn interfaces_of_default_routes() -> io::Result<Vec<u32>> {
    let mut interfaces = Vec::new();
    for family in [Family::V4, Family::V6] {
        let each = |message: Message<'_>| interfaces.extend(message.default_route());
        dump(Table::Routes(family), each).await?;
    }
    Ok(interfaces)
}

/// The interfaces that have one of these addresses.
pub(super) async fn interfaces_with(addresses: &[IpAddr]) -> io::Result<Vec<u32>> {
    let mut interfaces = Vec::new();
    dump(Table::Addresses, |message| {
        let own = message.own_address().filter(|(address, _)| addresses.contains(address));
        interfaces.extend(own.map(|(_, interface)| interface));
    })
    .await?;
    Ok(interfaces)
}

/// All policies of IPsec. One that is not understood is an error: it may say anything.
pub(super) async fn policies() -> io::Result<Vec<Policy>> {
    let mut policies = Ok(Vec::new());
    let netlink = Netlink::of(NETLINK_XFRM, [])?;
    dump_on(netlink, &wire::ask_policies(), |message| match (&mut policies, message.policy()) {
        (Ok(policies), Ok(policy)) => policies.extend(policy),
        (Ok(_), Err(error)) => policies = Err(error),
        (Err(_), _) => {}
    })
    .await?;
    policies.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn dump(table: Table, each: impl FnMut(Message<'_>)) -> io::Result<()> {
    dump_on(Netlink::open(&[])?, &wire::ask_all(table), each).await
}

/// Reads a table on a socket of its own, which can have only one dump at a time.
async fn dump_on(
    mut netlink: Netlink,
    question: &[u8],
    mut each: impl FnMut(Message<'_>),
) -> io::Result<()> {
    netlink.send(question).await?;
    let mut end = None;
    while end.is_none() {
        netlink
            .receive(|message| match message.news() {
                Ok(News::Done) => end = Some(Ok(())),
                Ok(News::Failed(error)) => end = Some(Err(error.into())),
                _ => each(message),
            })
            .await?;
    }
    end.unwrap_or(Ok(()))
}
