//! Filters of TC, as kernels before 6.6 have them instead of links: nobody owns them, so each one is
//! looked at before it is touched.

use std::io;
use std::mem;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use nix::errno::Errno;
use nix::libc;
use proxy_ebpf::contract::TC_UDP;
use rtnetlink::packet_core::NLM_F_DUMP;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::Interface;
use super::netlink::{Answer, ask, find, find_array};

/// The right of one process in a network namespace to have filters: what else it finds of ours is
/// left by one that was killed.
#[derive(Debug)]
pub(super) struct Filters {
    /// The kernel takes the name back when the process ends, however it does.
    _name: UnixDatagram,
}

/// A filter, as long as this lives.
#[derive(Debug)]
pub(super) struct Filter {
    /// None once it is not ours any more.
    link: Option<SchedClassifierLink>,
    index: u32,
    /// The kernel's number of our program.
    program: u32,
    /// Whether the qdisc that holds filters came with it.
    has_made_qdisc: bool,
}

impl Filters {
    /// The error says that another process has it.
    pub(super) fn open() -> io::Result<Self> {
        let name = SocketAddr::from_abstract_name("srs-proxy/filters")?;
        Ok(Self { _name: UnixDatagram::bind_addr(&name)? })
    }
}

/// Removes what a killed process has left on an interface.
pub(super) fn sweep(interface: &str) {
    // There is no other way to tell that there are none.
    let _none = qdisc_detach_program(interface, TcAttachType::Ingress, TC_UDP);
}

impl Filter {
    /// Puts `tc` to an interface. A filter of a killed process in the same place is replaced in one
    /// step; one of anybody else's is an error (`EEXIST`). The qdisc that a killed process has made
    /// stays for good: others may rely on it.
    pub(super) fn attach(
        tc: &mut SchedClassifier,
        interface: &Interface,
    ) -> Result<Self, ProgramError> {
        let (name, index) = (&interface.name, interface.index);
        let program = tc.info()?.id();
        let left = found(index, INGRESS).map_err(ProgramError::IOError)?;
        let mut has_made_qdisc = false;
        let id = if left.iter().any(Found::is_ours) {
            let there =
                SchedClassifierLink::attached(name, TcAttachType::Ingress, PRIORITY, HANDLE, None);
            tc.attach_to_link(there.map_err(TcError::from)?)?
        } else {
            match qdisc_add_clsact(name) {
                Ok(()) => has_made_qdisc = true,
                Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let place = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            let place = TcAttachOptions::Netlink(place);
            tc.attach_with_options(name, TcAttachType::Ingress, place)?
        };
        Ok(Self { link: Some(tc.take_link(id)?), index, program, has_made_qdisc })
    }

    /// Whether it is where it was put, with our program.
    pub(super) fn is_there(&self) -> bool {
        let is_own = |filter: &Found| filter.is_in_place() && filter.program == Some(self.program);
        found(self.index, INGRESS).is_ok_and(|found| found.iter().any(is_own))
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let is_there = self.is_there();
        if let Some(link) = self.link.take() {
            if is_there {
                drop(link);
            } else {
                // It would remove what is in its place now.
                mem::forget(link);
            }
        }
        let is_empty = |hook| found(self.index, hook).is_ok_and(|found| found.is_empty());
        if self.has_made_qdisc && is_empty(INGRESS) && is_empty(EGRESS) {
            // As when the interface is gone.
            let _none = remove_clsact(self.index);
        }
    }
}

/// A filter that is at a hook.
#[derive(Debug)]
struct Found {
    handle: u32,
    priority: u16,
    /// The kernel's number of its program.
    program: Option<u32>,
    has_our_name: bool,
}

impl Found {
    /// Whether it is where ours would be.
    fn is_in_place(&self) -> bool {
        self.priority == PRIORITY && self.handle == u32::from(HANDLE)
    }

    fn is_ours(&self) -> bool {
        self.is_in_place() && self.has_our_name
    }
}

/// The filters of a hook.
fn found(index: u32, hook: u32) -> io::Result<Vec<Found>> {
    let answers = ask(NETLINK_ROUTE, libc::RTM_GETTFILTER, NLM_F_DUMP, &place(index, 0, hook))?;
    let filter = |(_, body): &Answer| {
        let (place, attributes) = body.split_first_chunk::<PLACE>()?;
        let [.., h0, h1, h2, h3, _, _, _, _, i0, i1, i2, i3] = *place;
        // Priority above, protocol below.
        let priority = u16::try_from(u32::from_ne_bytes([i0, i1, i2, i3]) >> 16).ok()?;
        let options = find(attributes, OPTIONS).unwrap_or_default();
        let name = find(options, BPF_NAME).and_then(|name| name.strip_suffix(b"\0"));
        Some(Found {
            handle: u32::from_ne_bytes([h0, h1, h2, h3]),
            priority,
            program: find_array(options, BPF_ID).map(u32::from_ne_bytes),
            has_our_name: name == Some(TC_UDP.as_bytes()),
        })
    };
    Ok(answers.iter().filter_map(filter).collect())
}

fn remove_clsact(index: u32) -> io::Result<()> {
    ask(NETLINK_ROUTE, libc::RTM_DELQDISC, 0, &place(index, CLSACT << 16, CLSACT_PARENT)).map(drop)
}

/// `struct tcmsg` (linux/rtnetlink.h), without a priority.
fn place(index: u32, handle: u32, parent: u32) -> Vec<u8> {
    [0, index, handle, parent, 0].map(u32::to_ne_bytes).concat()
}

const PLACE: usize = 20;
// linux/pkt_sched.h
const CLSACT: u32 = 0xffff;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// `TCA_OPTIONS` (linux/rtnetlink.h).
const OPTIONS: u16 = 2;
// linux/pkt_cls.h
const BPF_NAME: u16 = 7;
const BPF_ID: u16 = 11;

const EEXIST: i32 = Errno::EEXIST as i32;

/// Where our filters are, so that they are found again.
const PRIORITY: u16 = u16::from_be_bytes(*b"SR");
const HANDLE: TcHandle = TcHandle::new(0, 1);
