//! The programs in the kernel: loaded, attached to interfaces, and kept over a restart.

mod devices;
pub mod driver;
mod events;
mod filters;
mod hooks;
mod load;
mod maps;
mod netlink;
mod pins;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, mem};

use aya::maps::{MapData, PerCpuArray};
use nix::net::if_::if_nameindex;
use proxy_ebpf::Reason;
use proxy_ebpf::maps::{Counter, DEVICES};
use tracing::warn;

use self::devices::Devices;
use self::driver::{Features, is_up};
use self::events::Events;
use self::hooks::{HookError, Hooks, Link, in_words};
use self::load::Loaded;
pub use self::load::{LoadError, OLDEST};
pub use self::maps::{KernelMaps, MapError, Maps};
use self::pins::Folder;
pub use self::pins::{PinError, is_bpffs};
use crate::config::{self, KernelMode};

/// Where in the kernel a program sees an interface's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Engine {
    /// In the driver.
    Xdp,
    /// Behind the driver, before everything else.
    XdpGeneric,
    /// At the ingress of traffic control.
    Tc,
}

impl Engine {
    /// Every one, the fastest first.
    pub const ALL: [Self; 3] = [Self::Xdp, Self::XdpGeneric, Self::Tc];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
        }
    }
}

/// A network interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number in the kernel.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it has no driver of a card: veth, bridge, bond, VLAN, tunnel.
    pub is_virtual: bool,
}

/// An interface as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceView {
    /// Its number in the kernel.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What is attached to it, if anything is.
    pub engine: Option<Engine>,
    /// Why nothing is, or nothing faster; none where that was asked for.
    pub reason: Option<String>,
}

/// An interface that has its program no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Which one.
    pub interface: Interface,
    /// What has happened.
    pub why: Loss,
}

/// Why an interface has its program no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// There is no such interface any more.
    #[error("it is gone")]
    Gone,
    /// The interface is there, the program is not.
    #[error("its program was removed by somebody else")]
    Removed,
    /// Packets would be lost there, so it was taken away.
    #[error("{0}")]
    Unfit(&'static str),
    /// As many as there can be have one already, so it was taken away.
    #[error("{} interfaces have a program, and no more can have one", DEVICES.capacity)]
    Unlisted,
}

/// How large a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramSize {
    /// Its name.
    pub name: &'static str,
    /// Instructions that the verifier has followed.
    pub verified: Option<u32>,
    /// Whether it is in the machine's own code, and not interpreted.
    pub is_compiled: bool,
}

/// The programs, loaded, and the interfaces to which they are attached.
///
/// All use XDP, or all TC: XDP can send a packet only out of an interface that has XDP, too.
/// When this is dropped nothing stays in the kernel; if the process is killed, what is pinned does.
pub struct Programs {
    hooks: Hooks,
    devices: Devices,
    counters: PerCpuArray<MapData, Counter>,
    events: Option<Events>,
    mode: KernelMode,
    interfaces: BTreeMap<u32, Place>,
    /// Why XDP is out of the question in [`KernelMode::Auto`], once it is.
    no_xdp: Option<String>,
    is_adopted: bool,
    folder: Option<Folder>,
    /// Links that an earlier daemon has left in the folder.
    inherited: BTreeSet<(Engine, u32)>,
}

/// Takes away what an earlier daemon has pinned in this folder.
pub fn remove_pinned(folder: &Path) -> Result<(), PinError> {
    if folder.exists() { Folder::open(folder)?.remove() } else { Ok(()) }
}

/// An interface that was to have a program.
struct Place {
    interface: Interface,
    attached: Result<Attached, String>,
}

struct Attached {
    engine: Engine,
    link: Link,
}

impl Programs {
    /// Loads `object` into the kernel, with its maps. Nothing is attached yet. To be called
    /// before capabilities are dropped. If it fails, what an earlier daemon has pinned is taken
    /// away: it would forward, and nobody account for it.
    pub fn load(
        object: Option<&[u8]>,
        settings: &config::Kernel,
        are_events_wanted: bool,
    ) -> Result<(Self, KernelMaps), LoadError> {
        let mut folder = settings.pin.as_deref().map(Folder::open).transpose()?;
        let loaded = load::load(object, settings.flows, folder.as_mut(), are_events_wanted);
        if loaded.is_err()
            && let Some(folder) = &folder
        {
            take_away(folder);
        }
        let Loaded { programs, counters, devices, maps, is_adopted, events } = loaded?;
        let inherited = folder.iter().flat_map(Folder::links).collect();
        let programs = Self {
            hooks: Hooks::new(programs),
            devices: Devices::new(devices),
            counters,
            events,
            mode: settings.mode,
            interfaces: BTreeMap::new(),
            no_xdp: None,
            is_adopted,
            folder,
            inherited,
        };
        Ok((programs, maps))
    }

    /// Uses filters instead of links at TC, as kernels before 6.6 have to.
    pub fn use_filters(&mut self) {
        self.hooks.use_filters();
    }

    /// Attaches to all of these, and removes what an earlier daemon has left at others.
    pub fn attach_all(&mut self, interfaces: &[Interface]) {
        // A card's link can go down while XDP comes or goes, so none tries it in vain.
        if self.mode == KernelMode::Auto
            && let Some(one) = interfaces.iter().find(|one| one.is_virtual)
        {
            self.no_xdp = Some(is_virtual(one));
        }
        for interface in interfaces {
            self.occupy(interface);
        }
        for (engine, index) in mem::take(&mut self.inherited) {
            self.devices.strike(index);
            self.unpin(engine, index);
        }
        self.settle();
        self.sweep();
    }

    /// Removes filters that a killed daemon has left where nobody wants one now.
    fn sweep(&self) {
        let all = if_nameindex();
        let names = all.iter().flatten().filter_map(|interface| interface.name().to_str().ok());
        let is_wanted =
            |name: &str| self.interfaces.values().any(|place| place.interface.name == name);
        self.hooks.sweep(names.filter(|name| !is_wanted(name)));
    }

    /// Attaches to one more, or once more to one where that has failed or whose program is lost.
    /// One that has its program keeps it. All others may change to TC with it. The error is the
    /// reason, for the operator; it shows in [`Self::interfaces`] as well, as that of any other one
    /// which has lost its program by it.
    pub fn attach(&mut self, interface: &Interface) -> Result<Engine, String> {
        self.occupy(interface);
        self.settle();
        let place = self.interfaces.get(&interface.index);
        match place.map(|place| &place.attached) {
            Some(Ok(attached)) => Ok(attached.engine),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(Loss::Gone.to_string()),
        }
    }

    /// Puts a program to an interface, if it has none.
    fn occupy(&mut self, interface: &Interface) {
        let index = interface.index;
        let attached = match self.interfaces.remove(&index).map(|place| place.attached) {
            Some(Ok(attached)) => self.renew(attached, index),
            _ => None,
        };
        let attached = match (attached, self.mode) {
            (Some(attached), _) => Ok(attached),
            (None, KernelMode::Off) => Err("the kernel path is switched off".to_owned()),
            // Asked before, as an attempt can take the link down for a moment.
            (None, KernelMode::Xdp) => match Features::of(index) {
                Ok(Some(features)) if let Some(why) = features.lack_for_good() => {
                    Err(why.to_owned())
                }
                _ => self.link(Engine::Xdp, interface),
            },
            (None, KernelMode::XdpGeneric) => self.link(Engine::XdpGeneric, interface),
            (None, KernelMode::Tc) => self.link(Engine::Tc, interface),
            (None, KernelMode::Auto) => self.climb(interface),
        };
        self.interfaces.insert(index, Place { interface: interface.clone(), attached });
    }

    /// What is attached, if it still is.
    fn renew(&mut self, Attached { engine, link }: Attached, index: u32) -> Option<Attached> {
        if let Ok(link) = self.hooks.renew(link) {
            return Some(Attached { engine, link });
        }
        self.unpin(engine, index);
        None
    }

    /// Takes the program from an interface, and forgets the interface.
    pub fn detach(&mut self, index: u32) {
        self.devices.strike(index);
        if let Some(place) = self.interfaces.remove(&index)
            && let Ok(attached) = place.attached
        {
            self.unpin(attached.engine, index);
        }
    }

    /// Finds interfaces whose program somebody else has taken away, that are gone, or out of which
    /// XDP can send no longer; in [`KernelMode::Auto`] these take all to TC. What is lost counts as
    /// not attached from here on, until [`Self::attach`]. A few system calls for each interface.
    pub fn check(&mut self) -> Vec<Lost> {
        let mut lost = Vec::new();
        for (index, mut place) in mem::take(&mut self.interfaces) {
            place.attached = match place.attached {
                Ok(attached) => self.renew(attached, index).ok_or_else(|| {
                    let why = if exists(index) { Loss::Removed } else { Loss::Gone };
                    lost.push(Lost { interface: place.interface.clone(), why });
                    why.to_string()
                }),
                refused => refused,
            };
            self.interfaces.insert(index, place);
        }
        lost.extend(self.settle());
        lost
    }

    /// Makes the best of what is attached now: no packet is sent where it would be lost. Returns
    /// what has lost its program by it.
    fn settle(&mut self) -> Vec<Lost> {
        let mut lost = self.vacate_unfit();
        let is_ready = |index: u32, place: &Place| place.attached.is_ok() && is_up(index);
        let ready = self.interfaces.iter().filter(|(index, place)| is_ready(**index, place));
        let ready = ready.map(|(index, _)| *index).collect();
        for index in self.devices.list(&ready) {
            lost.extend(self.vacate(index, Loss::Unlisted));
        }
        lost
    }

    /// Takes XDP from where packets would be lost, as long as there is such a place: when the
    /// program of one interface goes, another one can lose what it needs.
    fn vacate_unfit(&mut self) -> Vec<Lost> {
        let mut lost = Vec::new();
        while let Some((index, why)) = self.unfit() {
            if self.mode == KernelMode::Auto {
                let name = self.interfaces.get(&index).map(|place| place.interface.name.as_str());
                self.no_xdp = Some(no_xdp(name.unwrap_or_default(), why));
                self.step_down();
            } else {
                lost.extend(self.vacate(index, Loss::Unfit(why)));
            }
        }
        lost
    }

    /// Takes the program from an interface that cannot keep it.
    fn vacate(&mut self, index: u32, why: Loss) -> Option<Lost> {
        self.devices.strike(index);
        let place = self.interfaces.get_mut(&index)?;
        let interface = place.interface.clone();
        if let Ok(former) = mem::replace(&mut place.attached, Err(why.to_string())) {
            self.unpin(former.engine, index);
        }
        Some(Lost { interface, why })
    }

    /// An interface with XDP out of which XDP cannot send, and why.
    fn unfit(&self) -> Option<(u32, &'static str)> {
        self.interfaces.iter().find_map(|(index, place)| {
            let is_xdp = matches!(&place.attached, Ok(Attached { engine: Engine::Xdp, .. }));
            // What the kernel does not tell is the operator's to know.
            let features = if is_xdp { Features::of(*index).ok()?? } else { return None };
            Some((*index, features.lack()?))
        })
    }

    /// Writes to the log what the programs have had to say of single packets, if it was asked for.
    pub fn log_events(&mut self) {
        if let Some(events) = &mut self.events {
            events.flush();
        }
    }

    /// What the interfaces use; none where nothing is attached.
    pub fn engine(&self) -> Option<Engine> {
        self.interfaces.values().find_map(|place| Some(place.attached.as_ref().ok()?.engine))
    }

    /// Whether the maps are those of an earlier daemon, with all that is in them.
    pub const fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    /// Sessions that an earlier daemon has left in maps of another size or version, which were
    /// removed; none if there were no such maps. Those of a version whose memos are of another size
    /// do not count.
    pub fn replaced(&self) -> Option<usize> {
        self.folder.as_ref()?.replaced()
    }

    /// Whether an earlier daemon has left a program at this interface, until [`Self::attach_all`].
    pub fn is_inherited(&self, index: u32) -> bool {
        self.inherited.iter().any(|(_, inherited)| *inherited == index)
    }

    /// Leaves what is pinned as it is, whatever becomes of this process.
    pub fn leave_pinned(&mut self) {
        self.folder = None;
    }

    /// Every interface that was to have a program.
    pub fn interfaces(&self) -> Vec<InterfaceView> {
        let view = |Place { interface, attached }: &Place| {
            let engine = attached.as_ref().ok().map(|attached| attached.engine);
            let reason = match attached {
                Err(reason) => Some(reason.clone()),
                Ok(_) => self.no_xdp.clone(),
            };
            InterfaceView { index: interface.index, name: interface.name.clone(), engine, reason }
        };
        self.interfaces.values().map(view).collect()
    }

    /// How large the programs are.
    pub fn sizes(&self) -> Vec<ProgramSize> {
        self.hooks.sizes()
    }

    /// Packets by reason, in the order of [`Reason::ALL`], since the maps were made.
    pub fn counters(&self) -> [u64; Reason::ALL.len()] {
        Reason::ALL.map(|reason| {
            let cpus = self.counters.get(&(reason as u32), 0);
            cpus.map_or(0, |cpus| cpus.iter().sum())
        })
    }

    /// The fastest that all interfaces can have.
    fn climb(&mut self, interface: &Interface) -> Result<Attached, String> {
        let why = match &self.no_xdp {
            Some(why) => why.clone(),
            None if interface.is_virtual => is_virtual(interface),
            None if matches!(Features::of(interface.index), Ok(None)) => {
                no_xdp(&interface.name, "before Linux 6.3 nobody knows whether its driver can send")
            }
            None => match self.link(Engine::Xdp, interface) {
                Ok(attached) => return Ok(attached),
                Err(reason) => no_xdp(&interface.name, &reason),
            },
        };
        // One that takes nothing at all, as when it is gone already, changes nothing for the others.
        let attached = self.link(Engine::Tc, interface)?;
        if self.no_xdp.replace(why).is_none() {
            self.step_down();
        }
        Ok(attached)
    }

    /// Moves everything from XDP to TC. An interface has both for a moment: the first one to
    /// see a packet takes it.
    fn step_down(&mut self) {
        // What XDP sends to one that has no XDP is lost.
        self.devices.strike_all();
        for (index, mut place) in mem::take(&mut self.interfaces) {
            if place.attached.as_ref().is_ok_and(|attached| attached.engine != Engine::Tc) {
                let former =
                    mem::replace(&mut place.attached, self.link(Engine::Tc, &place.interface));
                if let Ok(former) = former {
                    self.unpin(former.engine, index);
                }
            }
            self.interfaces.insert(index, place);
        }
    }

    /// Puts a program to an interface, by the link of an earlier daemon if there is one.
    fn link(&mut self, engine: Engine, interface: &Interface) -> Result<Attached, String> {
        let index = interface.index;
        let pin = self.folder.as_ref().map(|folder| folder.link(engine, index));
        if let Some(pin) = &pin
            && self.inherited.remove(&(engine, index))
        {
            match self.hooks.adopt(engine, pin) {
                Ok(link) => return Ok(Attached { engine, link }),
                // As when the interface was away in the meantime.
                Err(_) => self.unpin(engine, index),
            }
        }
        let other = match engine {
            Engine::Xdp => Some(Engine::XdpGeneric),
            Engine::XdpGeneric => Some(Engine::Xdp),
            Engine::Tc => None,
        };
        if let Some(other) = other
            && self.inherited.remove(&(other, index))
        {
            self.unpin(other, index);
        }
        let attached = self.hooks.attach(engine, interface, pin.as_deref());
        let link = attached.map_err(|error: HookError| in_words(engine, &error))?;
        Ok(Attached { engine, link })
    }

    /// Removes the file of a link, if there is one.
    fn unpin(&self, engine: Engine, index: u32) {
        if let Some(folder) = &self.folder {
            // Filters have none.
            let _none = fs::remove_file(folder.link(engine, index));
        }
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.interfaces.clear();
        if let Some(folder) = &self.folder {
            take_away(folder);
        }
    }
}

fn exists(index: u32) -> bool {
    if_nameindex().is_ok_and(|all| all.iter().any(|interface| interface.index() == index))
}

fn take_away(folder: &Folder) {
    if let Err(error) = folder.remove() {
        warn!(%error, "the kernel programs stay pinned");
    }
}

fn no_xdp(interface: &str, why: &str) -> String {
    format!("no XDP at {interface}: {why}")
}

fn is_virtual(interface: &Interface) -> String {
    format!("{} is virtual, where XDP is no faster", interface.name)
}
