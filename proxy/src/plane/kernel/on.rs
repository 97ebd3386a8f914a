//! The plane where there is one: what it is told, and what it hears of this host.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{fmt, io};

use parking_lot::Mutex;
use proxy_ebpf::Reason;
use proxy_ebpf::maps::Memo;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::flows::{Flows, paths};
use super::hops::{Event, Hops, Link, Watch};
use super::programs::{Interface, KernelMaps, Lost, Programs, remove_pinned};
use super::{InterfaceView, KernelView, Secret, privilege};
use crate::config::{self, Config, KernelMode};
use crate::plane::Leg;
use crate::plane::datagram::{Course, Delta, Engine, Flow, FlowKey, Medium, Progress, Refused};
use crate::plane::ebpf_object::OBJECT;
use crate::telemetry;

/// Programs, and the flows that they carry.
///
/// All writes to the maps are made under the one lock of `flows`, each of one or two microseconds,
/// so that whoever removes a flow knows that it is removed. Whoever holds both locks has taken that
/// of `programs` first.
pub(super) struct On {
    flows: Mutex<Flows<KernelMaps>>,
    /// None once it is closed.
    programs: Mutex<Option<Programs>>,
    hops: OnceLock<Hops>,
    watch: Mutex<Option<Watch>>,
    /// Interfaces that the operator has named; none if they follow from the routes.
    named: Vec<String>,
    /// There are interfaces of which nothing was known so far, or whose state is another.
    news: Notify,
    /// The links, when it was looked last.
    links: Mutex<Vec<Link>>,
    /// As the programs were when they were looked at last: whoever asks does not wait until a card
    /// has taken one.
    seen: Mutex<Seen>,
    /// Whether a folder is there by which flows outlive this process.
    keeps: bool,
    /// What an earlier one has left.
    left: Mutex<Vec<Memo>>,
    /// Sessions that an earlier one has left and that ended here: it was another version, or had
    /// maps of another size.
    replaced: Option<usize>,
}

/// What the operator is shown of the programs.
#[derive(Debug, Default)]
struct Seen {
    engine: Option<Engine>,
    interfaces: Vec<InterfaceView>,
    packets: [u64; Reason::ALL.len()],
}

/// How often it is looked whether the programs are still there.
const CHECK: Duration = Duration::from_secs(1);

impl On {
    /// Loads the programs, and attaches them where flows will come by. Gives up the rights that this
    /// takes, whatever comes of it.
    pub(super) fn load(config: &Config) -> Result<Self, Refused> {
        let loaded = Self::attach_first(config);
        if let Err(error) = privilege::drop_spare() {
            // Before there is a log.
            eprintln!("srs-proxy: warning: capabilities are kept: {error}");
        }
        loaded
    }

    fn attach_first(config: &Config) -> Result<Self, Refused> {
        let settings = &config.kernel;
        if settings.mode == KernelMode::Off {
            return Err(without(settings, "switched off (PROXY_EBPF_MODE=off)".to_owned()));
        }
        let wanted = wanted_at_start(&config.datagram_addresses());
        let (links, first) =
            wanted.map_err(|error| without(settings, format!("netlink: {error}")))?;
        let loaded = Programs::load(OBJECT, settings, telemetry::may_say_debug(&config.log));
        let (mut programs, maps) = loaded.map_err(|error| Refused::from(error.to_string()))?;
        let first: BTreeSet<u32> =
            first.iter().filter_map(|index| carrier(*index, &links)).collect();
        let is_wanted = |link: &&Link| match settings.interfaces.as_slice() {
            // Where an earlier daemon has carried flows, they go on.
            [] => {
                first.contains(&link.index) && !link.loopback || programs.is_inherited(link.index)
            }
            named => is_named(named, link, &links),
        };
        let ethernet = links.iter().filter(|link| link.mac.is_some());
        let interfaces: Vec<_> = ethernet.filter(is_wanted).map(interface).collect();
        programs.attach_all(&interfaces);
        let mut flows = Flows::new(maps, settings.flows);
        flows.attached(attached(&programs), Instant::now());
        let left = if programs.is_adopted() { flows.inherit() } else { Vec::new() };
        let replaced = programs.replaced();
        let seen = Mutex::new(look(&programs, &settings.interfaces, &links));
        Ok(Self {
            flows: Mutex::new(flows),
            programs: Mutex::new(Some(programs)),
            links: Mutex::new(links),
            seen,
            hops: OnceLock::new(),
            watch: Mutex::new(None),
            named: settings.interfaces.clone(),
            news: Notify::new(),
            keeps: settings.pin.is_some(),
            left: Mutex::new(left),
            replaced,
        })
    }

    /// Learns where packets leave this host, and listens from here on.
    pub(super) async fn open(&self) -> Result<(), Refused> {
        let (hops, watch) =
            Hops::open().await.map_err(|error| Refused::from(format!("netlink: {error}")))?;
        let _is_first = self.hops.set(hops);
        *self.watch.lock() = Some(watch);
        Ok(())
    }

    pub(super) fn install(&self, medium: Medium, flow: &Flow, course: &Arc<Course>) {
        let now = Instant::now();
        let (paths, hops) = match (paths(flow), self.hops.get()) {
            (Ok(paths), Some(hops)) => (paths, hops),
            (Err(why), _) => {
                course.change(Engine::Relay, Some(why), now);
                return;
            }
            (Ok(_), None) => return,
        };
        let mut flows = self.flows.lock();
        // Within the lock: an answer that comes from here on finds the flow.
        let hops = paths.map(|path| hops.find(path));
        flows.install(medium, flow, course, (paths, hops), now);
        if flows.wants() {
            self.news.notify_one();
        }
    }

    pub(super) fn remove(&self, flow: &Flow) {
        let paths = self.flows.lock().remove(flow, Instant::now());
        if let Some(hops) = self.hops.get() {
            for path in paths.into_iter().flatten() {
                hops.release(path);
            }
        }
    }

    pub(super) const fn replaced(&self) -> Option<usize> {
        self.replaced
    }

    pub(super) const fn keeps(&self) -> bool {
        self.keeps
    }

    pub(super) fn keep(&self, flow: &Flow, memo: &[u8]) {
        if let Some(memo) = kept(memo) {
            self.flows.lock().keep(flow, memo);
        }
    }

    pub(super) fn left(&self) -> Vec<Vec<u8>> {
        let left = std::mem::take(&mut *self.left.lock());
        left.iter().filter_map(bytes).map(<[u8]>::to_vec).collect()
    }

    pub(super) fn inherit(&self, fresh: Secret) -> Secret {
        let mut flows = self.flows.lock();
        let left = flows.common().as_ref().and_then(bytes).and_then(|bytes| bytes.try_into().ok());
        if let Some(secret) = left {
            return secret;
        }
        if self.keeps
            && let Some(memo) = kept(&fresh)
        {
            flows.keep_common(&memo);
        }
        fresh
    }

    pub(super) fn sweep(&self) {
        self.flows.lock().sweep();
    }

    pub(super) fn hold(&self, flow: &Flow, why: &'static str) -> Progress {
        self.flows.lock().hold(flow, why, Instant::now())
    }

    pub(super) fn release(&self, flow: &Flow) {
        self.flows.lock().release(flow, Instant::now());
    }

    pub(super) fn has_heard(&self, flow: &Flow, leg: Leg) -> bool {
        self.flows.lock().has_heard(flow, leg)
    }

    pub(super) fn counters(&self, medium: Medium, sink: &mut dyn FnMut(&FlowKey, Delta)) {
        self.flows.lock().counters(medium, Instant::now(), sink);
    }

    /// Follows next hops and interfaces.
    pub(super) async fn watch(self: &Arc<Self>) {
        let Some(watch) = self.watch.lock().take() else { return std::future::pending().await };
        let hops = watch.run(|event| match event {
            Event::Paths(changed) => {
                for (path, answer) in changed {
                    let mut flows = self.flows.lock();
                    flows.hop(&path, &answer, Instant::now());
                    if flows.wants() {
                        self.news.notify_one();
                    }
                }
            }
            Event::Links(_) => self.news.notify_one(),
        });
        let programs = async {
            let mut check = interval(CHECK);
            check.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let is_news = tokio::select! {
                    _ = check.tick() => false,
                    () = self.news.notified() => true,
                };
                // A card may take its time for a program.
                let this = Arc::clone(self);
                let _done = spawn_blocking(move || this.arrange(is_news)).await;
            }
        };
        tokio::join!(hops, programs);
    }

    /// Attaches to interfaces by which flows would go, and notices which programs are gone.
    fn arrange(&self, is_news: bool) {
        let mut programs = self.programs.lock();
        let Some(programs) = programs.as_mut() else { return };
        for Lost { interface, why } in programs.check() {
            warn!(interface = interface.name, %why, "an interface has lost its kernel program");
        }
        programs.log_events();
        let links = self.hops.get().map(Hops::links).unwrap_or_default();
        if is_news {
            let wanted = self.flows.lock().wanted();
            self.attach(programs, &links, &wanted);
        }
        *self.seen.lock() = look(programs, &self.named, &links);
        let mut attached = attached(programs);
        if !self.named.is_empty() {
            for link in &links {
                let unnamed = || Err("it is not in PROXY_EBPF_INTERFACES".into());
                attached.entry(link.index).or_insert_with(unnamed);
            }
        }
        self.flows.lock().attached(attached, Instant::now());
    }

    /// Attaches to those of these interfaces that have no program, and forgets those that are not
    /// there any more. One that has refused is asked again when its own state has changed.
    fn attach(&self, programs: &mut Programs, links: &[Link], wanted: &BTreeSet<u32>) {
        let before = std::mem::replace(&mut *self.links.lock(), links.to_vec());
        let has_come_up = |link: &Link| link.up && !before.iter().any(|it| it == link);
        let known: HashMap<u32, bool> =
            programs.interfaces().iter().map(|it| (it.index, it.engine.is_some())).collect();
        for index in known.keys().filter(|&&index| links.iter().all(|link| link.index != index)) {
            programs.detach(*index);
        }
        for link in links.iter().filter(|link| link.mac.is_some()) {
            let is_wanted = match (known.get(&link.index), self.named.as_slice()) {
                (Some(is_attached), _) => !is_attached && has_come_up(link),
                (None, []) => wanted.contains(&link.index),
                (None, named) => is_named(named, link, links),
            };
            if !is_wanted {
                continue;
            }
            // All may have to change with it: none sends by XDP to who has it no longer.
            if programs.engine() == Some(super::programs::Engine::Xdp) {
                let changing = |index| (index, Err("its program is being changed".into()));
                let all = known.keys().copied().map(changing).collect();
                self.flows.lock().attached(all, Instant::now());
            }
            let engine = programs.attach(&interface(link));
            let (engine, reason) =
                (engine.as_ref().ok().map(|it| it.as_str()), engine.as_ref().err());
            info!(interface = %link.name, engine, reason, "kernel packet path");
        }
    }

    pub(super) fn view(&self) -> KernelView {
        let (flows, capacity) = self.flows.lock().sizes();
        let mut seen = self.seen.lock();
        if let Some(programs) = self.programs.try_lock()
            && let Some(programs) = programs.as_ref()
        {
            seen.packets = programs.counters();
        }
        let engine = seen.engine.unwrap_or(Engine::Relay);
        let why = || seen.interfaces.iter().find_map(|view| view.reason.clone());
        let nowhere = || match self.named.as_slice() {
            [] => "no interface has a program yet: they follow with the first sessions",
            _ => "no interface has a program",
        };
        let reason = match engine {
            Engine::Xdp => None,
            Engine::Relay => Some(why().unwrap_or_else(|| nowhere().to_owned())),
            Engine::Tc | Engine::XdpGeneric => why(),
        };
        KernelView {
            engine: engine.as_str(),
            reason,
            interfaces: seen.interfaces.clone(),
            flows,
            capacity,
            packets: seen.packets,
        }
    }

    pub(super) fn close(&self) {
        drop(self.programs.lock().take());
    }
}

impl Drop for On {
    fn drop(&mut self) {
        // A process that cannot start has taken nothing over, and ends nothing.
        if let Some(programs) = self.programs.get_mut()
            && !self.left.get_mut().is_empty()
        {
            programs.leave_pinned();
        }
    }
}

impl fmt::Debug for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("On").field("named", &self.named).finish_non_exhaustive()
    }
}

/// A memo of these bytes; none if they are too many.
fn kept(bytes: &[u8]) -> Option<Box<Memo>> {
    let length = u32::try_from(bytes.len()).ok()?;
    let mut memo = Box::new(Memo { length, bytes: [0; Memo::MAX] });
    memo.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(memo)
}

/// The bytes of a memo.
fn bytes(memo: &Memo) -> Option<&[u8]> {
    memo.bytes.get(..memo.length as usize)
}

/// Nothing is carried, for this reason: what an earlier daemon has left would go on without anybody
/// to account for it.
fn without(settings: &config::Kernel, why: String) -> Refused {
    match settings.pin.as_deref().map_or(Ok(()), remove_pinned) {
        Ok(()) => why.into(),
        Err(error) => format!("{why}; {error}").into(),
    }
}

/// The links of this host, and those of the default routes and of these addresses.
fn wanted_at_start(listeners: &[IpAddr]) -> io::Result<(Vec<Link>, Vec<u32>)> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (hops, _watch) = Hops::open().await?;
        Ok((hops.links(), hops.interfaces_of(listeners).await?))
    })
}

/// The link that carries the frames of this one: of a VLAN the one below it.
fn carrier(index: u32, links: &[Link]) -> Option<u32> {
    let link = links.iter().find(|link| link.index == index)?;
    match (link.kind.as_deref(), link.lower) {
        (Some("vlan"), Some(lower)) => Some(lower),
        _ => Some(index),
    }
}

/// Whether the operator has named this link, or a VLAN above it.
fn is_named(names: &[String], link: &Link, links: &[Link]) -> bool {
    let above = links.iter().filter(|above| names.iter().any(|name| **name == *above.name));
    above.filter_map(|above| carrier(above.index, links)).any(|index| index == link.index)
}

fn interface(link: &Link) -> Interface {
    Interface { index: link.index, name: link.name.to_string(), is_virtual: !link.is_card() }
}

/// What is to be seen of the programs, and of interfaces that are named and have none.
fn look(programs: &Programs, named: &[String], links: &[Link]) -> Seen {
    let view = |view: super::programs::InterfaceView| InterfaceView {
        name: view.name,
        index: view.index,
        engine: view.engine.map_or(Engine::Relay, Engine::from).as_str(),
        reason: view.reason,
    };
    let mut interfaces: Vec<_> = programs.interfaces().into_iter().map(view).collect();
    for name in named {
        let link = links.iter().find(|link| *link.name == **name);
        let carrier = link.and_then(|link| carrier(link.index, links));
        if interfaces.iter().any(|view| Some(view.index) == carrier) {
            continue;
        }
        let reason =
            if link.is_some() { "it is not Ethernet" } else { "there is none of this name" };
        interfaces.push(InterfaceView {
            name: name.clone(),
            index: link.map_or(0, |link| link.index),
            engine: Engine::Relay.as_str(),
            reason: Some(reason.to_owned()),
        });
    }
    let engine = programs.engine().map(Engine::from);
    Seen { engine, interfaces, packets: programs.counters() }
}

/// What each interface has, or why it has nothing.
fn attached(programs: &Programs) -> HashMap<u32, Result<Engine, Refused>> {
    let of_one = |view: super::programs::InterfaceView| {
        let why = || Refused::from(view.reason.clone().unwrap_or_default());
        (view.index, view.engine.map(Engine::from).ok_or_else(why))
    };
    programs.interfaces().into_iter().map(of_one).collect()
}

impl From<super::programs::Engine> for Engine {
    fn from(engine: super::programs::Engine) -> Self {
        match engine {
            super::programs::Engine::Xdp => Self::Xdp,
            super::programs::Engine::XdpGeneric => Self::XdpGeneric,
            super::programs::Engine::Tc => Self::Tc,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_carried_by_the_link_below_it() {
        let link = |index, name: &str, kind: Option<&str>, lower| Link {
            index,
            name: name.into(),
            kind: kind.map(Into::into),
            up: true,
            mtu: 1500,
            mac: Some([2, 0, 0, 0, 0, 1]),
            loopback: false,
            master: None,
            lower,
            vlan: None,
        };
        let links = [
            link(2, "eth0", None, None),
            link(3, "eth0.10", Some("vlan"), Some(2)),
            link(4, "veth0", Some("veth"), Some(2)),
        ];
        let carriers = [2, 3, 4, 9].map(|index| carrier(index, &links));
        assert_eq!(carriers, [Some(2), Some(2), Some(4), None]);
        let named = |name: &str| {
            let is_named = |link: &&Link| is_named(&[name.to_owned()], link, &links);
            links.iter().filter(is_named).map(|link| link.index).collect::<Vec<_>>()
        };
        assert_eq!([named("eth0.10"), named("eth0"), named("eth1")], [vec![2], vec![2], vec![]]);
    }
}
