//! One interface's hook: a program put there, put there again, and the kernel's refusals in words.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{TcAttachOptions, TcError};
use aya::programs::xdp::{XdpError, XdpLink};
use aya::programs::{
    LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
    tc::SchedClassifierLink,
};
use nix::errno::Errno;
use proxy_ebpf::contract::{TC_UDP, XDP_UDP};

use super::filters::{self, Filter, Filters};
use super::{Engine, Interface, ProgramSize};

/// A program at an interface, as long as this lives: a filter of TC, or a link that no file holds.
#[derive(Debug)]
pub(super) enum Link {
    Xdp(XdpLink),
    Tc(SchedClassifierLink),
    Filter(Filter),
}

/// Both programs, and how they come to an interface.
pub(super) struct Hooks {
    programs: Ebpf,
    tc: Tc,
}

/// How a program comes to TC.
enum Tc {
    /// By links, if the kernel knows them.
    Links,
    /// By filters, as before Linux 6.6; none if another process has some.
    Filters(Option<Filters>),
}

/// Why something did not come to its hook.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Pin(#[from] aya::pin::PinError),
    #[error("another srs-proxy has filters in this network namespace")]
    Filters,
    #[error("its program was removed by somebody else")]
    Removed,
}

impl HookError {
    /// Whether there is a program already.
    fn is_busy(&self) -> bool {
        let Self::Program(error) = self else { return false };
        matches!(errno(error), Some(Errno::EBUSY | Errno::EEXIST))
    }
}

impl Hooks {
    pub(super) const fn new(programs: Ebpf) -> Self {
        Self { programs, tc: Tc::Links }
    }

    pub(super) fn use_filters(&mut self) {
        self.tc = Tc::Filters(Filters::open().ok());
    }

    /// Removes filters that a killed daemon has left on these interfaces.
    pub(super) fn sweep<'a>(&self, interfaces: impl Iterator<Item = &'a str>) {
        if let Tc::Filters(Some(_)) = self.tc {
            interfaces.for_each(filters::sweep);
        }
    }

    pub(super) fn sizes(&self) -> Vec<ProgramSize> {
        let size = |name| {
            let info = match self.programs.program(name)? {
                Program::Xdp(xdp) => xdp.info(),
                Program::SchedClassifier(tc) => tc.info(),
                _ => return None,
            };
            let info = info.ok()?;
            let is_compiled = info.size_jitted() > 0;
            Some(ProgramSize { name, verified: info.verified_instruction_count(), is_compiled })
        };
        [XDP_UDP, TC_UDP].into_iter().filter_map(size).collect()
    }

    /// Puts a program to an interface, and a link in a file if there is to be one.
    pub(super) fn attach(
        &mut self,
        engine: Engine,
        interface: &Interface,
        pin: Option<&Path>,
    ) -> Result<Link, HookError> {
        let Some(pin) = pin else { return self.try_attach(engine, interface) };
        // The kernel detaches a link some milliseconds after its file is gone, and a driver has
        // room for one.
        let until = Instant::now() + LINGERING;
        loop {
            match self.try_attach(engine, interface) {
                Err(error) if error.is_busy() && Instant::now() < until => thread::sleep(PAUSE),
                attached => return attached?.pin(pin),
            }
        }
    }

    fn try_attach(&mut self, engine: Engine, interface: &Interface) -> Result<Link, HookError> {
        match engine {
            Engine::Xdp => self.attach_xdp(interface, XdpMode::Driver),
            Engine::XdpGeneric => self.attach_xdp(interface, XdpMode::Skb),
            Engine::Tc => self.attach_tc(interface),
        }
    }

    /// Takes over the link in a file, where an earlier daemon has left its own program: from one
    /// packet to the next it is ours.
    pub(super) fn adopt(&mut self, engine: Engine, pin: &Path) -> Result<Link, HookError> {
        let link = FdLink::from(PinnedLink::from_pin(pin)?);
        let link = match engine {
            Engine::Xdp | Engine::XdpGeneric => Link::Xdp(link.try_into()?),
            Engine::Tc => Link::Tc(link.try_into()?),
        };
        self.renew(link)
    }

    /// Puts our program where `link` is. Where it is already, nothing changes; an error if there
    /// is no such place any more, because the interface is gone or somebody has removed it.
    pub(super) fn renew(&mut self, link: Link) -> Result<Link, HookError> {
        Ok(match link {
            Link::Xdp(link) => {
                let xdp = self.xdp()?;
                let id = xdp.attach_to_link(link)?;
                Link::Xdp(xdp.take_link(id)?)
            }
            Link::Tc(link) => {
                let tc = self.tc()?;
                let id = tc.attach_to_link(link)?;
                Link::Tc(tc.take_link(id)?)
            }
            Link::Filter(filter) if filter.is_there() => Link::Filter(filter),
            Link::Filter(_) => return Err(HookError::Removed),
        })
    }

    fn attach_xdp(&mut self, interface: &Interface, mode: XdpMode) -> Result<Link, HookError> {
        let xdp = self.xdp()?;
        let id = xdp.attach_to_if_index(interface.index, mode)?;
        Ok(Link::Xdp(xdp.take_link(id)?))
    }

    fn attach_tc(&mut self, interface: &Interface) -> Result<Link, HookError> {
        if let Tc::Links = self.tc {
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            let tc = self.tc()?;
            match tc.attach_with_options(&interface.name, TcAttachType::Ingress, order) {
                Ok(id) => return Ok(Link::Tc(tc.take_link(id)?)),
                // What a kernel says that does not know this kind of link.
                Err(error) if errno(&error) == Some(Errno::EINVAL) => self.use_filters(),
                Err(error) => return Err(error.into()),
            }
        }
        if let Tc::Filters(none @ None) = &mut self.tc {
            // The other process may have ended.
            *none = Filters::open().ok();
        }
        match self.tc {
            Tc::Filters(None) => Err(HookError::Filters),
            _ => Ok(Link::Filter(Filter::attach(self.tc()?, interface)?)),
        }
    }

    fn xdp(&mut self) -> Result<&mut Xdp, ProgramError> {
        let program = self.programs.program_mut(XDP_UDP);
        program.ok_or(ProgramError::UnexpectedProgramType)?.try_into()
    }

    fn tc(&mut self) -> Result<&mut SchedClassifier, ProgramError> {
        let program = self.programs.program_mut(TC_UDP);
        program.ok_or(ProgramError::UnexpectedProgramType)?.try_into()
    }
}

impl Link {
    /// Puts the link into a file, which holds it from then on. A filter needs none: it stays until
    /// it is removed.
    fn pin(self, file: &Path) -> Result<Self, HookError> {
        // A link in the way is a dead one.
        let _none = fs::remove_file(file);
        Ok(match self {
            Self::Xdp(link) => {
                Self::Xdp(FdLink::from(FdLink::try_from(link)?.pin(file)?).try_into()?)
            }
            Self::Tc(link) => {
                Self::Tc(FdLink::from(FdLink::try_from(link)?.pin(file)?).try_into()?)
            }
            Self::Filter(_) => self,
        })
    }
}

/// What an operator can do something with, of a refusal at an XDP hook or another one.
pub(super) fn in_words(engine: Engine, error: &HookError) -> String {
    let HookError::Program(error) = error else { return error.to_string() };
    let Some(errno) = errno(error) else { return error.to_string() };
    let words = match (engine, errno) {
        (_, Errno::EPERM | Errno::EACCES) => "CAP_NET_ADMIN is missing",
        (_, Errno::ENODEV | Errno::ENXIO) => "it is gone",
        (Engine::Xdp, Errno::EOPNOTSUPP) => "its driver has no XDP",
        (Engine::Xdp | Engine::XdpGeneric, Errno::EBUSY | Errno::EEXIST) => {
            "another XDP program is on it"
        }
        (Engine::Tc, Errno::EEXIST) => "another filter is in the place of ours",
        (Engine::Xdp, Errno::ERANGE) => "its MTU is too large for XDP in its driver",
        (Engine::Xdp, Errno::EINVAL) => "its driver refuses XDP as it is set up (MTU, queues, LRO)",
        (Engine::Xdp, Errno::ENOSPC | Errno::ENOMEM) => "its driver has no queues left for XDP",
        (_, errno) => return errno.desc().to_owned(),
    };
    words.to_owned()
}

/// The kernel's number for a refusal.
fn errno(error: &ProgramError) -> Option<Errno> {
    let number = match error {
        ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error))
        | ProgramError::TcError(TcError::NetlinkError(error))
        | ProgramError::NetlinkError(error) => error.raw_os_error(),
        ProgramError::TcError(TcError::IoError(error)) | ProgramError::IOError(error) => {
            error.raw_os_error()
        }
        _ => None,
    };
    number.map(Errno::from_raw)
}

/// How long a link may linger on.
const LINGERING: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(10);
