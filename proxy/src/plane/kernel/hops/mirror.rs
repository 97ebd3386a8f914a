//! Links, neighbours and the paths in use, and which answers change when one of them does. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Answer, Link, NextHop, NoHop, Path};

/// What the kernel said, and what was told of it.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    links: BTreeMap<u32, Link>,
    neighbours: HashMap<Station, Neighbour>,
    paths: HashMap<Path, Entry>,
    /// The stations that paths lead to.
    in_use: HashMap<Station, Used>,
    /// Paths whose route has to be asked.
    unasked: BTreeSet<Path>,
    /// Paths whose answer may be another than the one that was told.
    unsure: HashSet<Path>,
    /// Stations that may have to be resolved at once.
    unresolved: Vec<Station>,
    links_changed: bool,
}

/// Somebody on one of this host's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Station {
    pub(super) interface: u32,
    pub(super) address: IpAddr,
}

/// How the kernel knows a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// This is its MAC address, and the kernel sees to that by itself.
    Sure([u8; 6]),
    /// This was its MAC address; the kernel verifies it once it is used.
    Stale([u8; 6]),
    /// It is being asked, or has not answered.
    Unknown,
}

impl Neighbour {
    const fn mac(self) -> Option<[u8; 6]> {
        match self {
            Self::Sure(mac) | Self::Stale(mac) => Some(mac),
            Self::Unknown => None,
        }
    }
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The gateway, or the destination itself.
    pub(super) station: Station,
    /// The route's own limit in bytes, or that of its path (RFC 1191, RFC 8201).
    pub(super) mtu: Option<u32>,
}

#[derive(Debug, Default)]
struct Entry {
    users: usize,
    route: Option<Result<Route, NoHop>>,
    told: Option<Answer>,
}

#[derive(Debug, Default)]
struct Used {
    paths: HashSet<Path>,
    /// When the kernel was last told to resolve or verify it.
    nudged: Option<Instant>,
}

impl Mirror {
    /// How long a station that has no MAC address is left alone. The kernel asks three times, a
    /// second apart, before it gives up.
    const RESOLVE_EVERY: Duration = Duration::from_secs(4);
    /// How soon a stale address is verified again: the kernel waits five seconds for a sign of
    /// life before it asks.
    const VERIFY_EVERY: Duration = Duration::from_secs(5);
    /// Stations that are nudged at a time.
    const NUDGES: usize = 128;

    /// The answer that was told last, and whether nobody used the path before.
    pub(super) fn find(&mut self, path: Path) -> (Option<Answer>, bool) {
        let entry = self.paths.entry(path).or_default();
        entry.users += 1;
        let is_new = entry.users == 1;
        if is_new {
            self.unasked.insert(path);
        }
        (entry.told.clone(), is_new)
    }

    pub(super) fn release(&mut self, path: Path) {
        let Some(entry) = self.paths.get_mut(&path) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            let route = self.paths.remove(&path).and_then(|entry| entry.route);
            self.leave(path, route);
            self.unasked.remove(&path);
            self.unsure.remove(&path);
        }
    }

    pub(super) fn links(&self) -> Vec<Link> {
        self.links.values().cloned().collect()
    }

    /// Takes up to `limit` paths whose routes are to be asked.
    pub(super) fn questions(&mut self, limit: usize) -> Vec<Path> {
        std::iter::from_fn(|| self.unasked.pop_first()).take(limit).collect()
    }

    /// Asks the routes of all paths anew; what was told stands until then.
    pub(super) fn doubt_routes(&mut self) {
        self.unasked.extend(self.paths.keys());
    }

    pub(super) fn route(&mut self, path: Path, route: Result<Route, NoHop>) {
        let Some(entry) = self.paths.get_mut(&path) else { return };
        let former = entry.route.replace(route);
        if former != Some(route) {
            self.unsure.insert(path);
            self.leave(path, former);
            if let Ok(Route { station, .. }) = route {
                self.in_use.entry(station).or_default().paths.insert(path);
                self.unresolved.push(station);
            }
        }
    }

    fn leave(&mut self, path: Path, route: Option<Result<Route, NoHop>>) {
        let Some(Ok(Route { station, .. })) = route else { return };
        let Some(used) = self.in_use.get_mut(&station) else { return };
        used.paths.remove(&path);
        if used.paths.is_empty() {
            self.in_use.remove(&station);
        }
    }

    /// A link as it is now. True if it was another.
    pub(super) fn link(&mut self, link: Link) -> bool {
        let index = link.index;
        let is_another = self.links.get(&index) != Some(&link);
        if is_another {
            self.links.insert(index, link);
            self.doubt_links();
        }
        is_another
    }

    pub(super) fn no_link(&mut self, index: u32) -> bool {
        let was_there = self.links.remove(&index).is_some();
        if was_there {
            self.neighbours.retain(|station, _| station.interface != index);
            self.doubt_links();
        }
        was_there
    }

    fn doubt_links(&mut self) {
        self.links_changed = true;
        self.unsure.extend(self.paths.keys());
    }

    /// All links, when they changed since the last time.
    pub(super) fn changed_links(&mut self) -> Option<Vec<Link>> {
        mem::take(&mut self.links_changed).then(|| self.links())
    }

    /// A station as the kernel knows it now; `None` if it no longer does.
    pub(super) fn neighbour(&mut self, station: Station, neighbour: Option<Neighbour>) {
        let former = match neighbour {
            Some(neighbour) => self.neighbours.insert(station, neighbour),
            None => self.neighbours.remove(&station),
        };
        let mac = neighbour.and_then(Neighbour::mac);
        if mac == former.and_then(Neighbour::mac) {
            return;
        }
        if let Some(used) = self.in_use.get(&station) {
            self.unsure.extend(&used.paths);
            if mac.is_none() {
                self.unresolved.push(station);
            }
        }
    }

    /// Everything there is, in place of what was known; routes have to be asked anew.
    pub(super) fn replace(
        &mut self,
        links: Vec<Link>,
        neighbours: impl IntoIterator<Item = (Station, Neighbour)>,
    ) {
        let links = links.into_iter().map(|link| (link.index, link)).collect();
        self.links_changed |= self.links != links;
        self.links = links;
        self.neighbours = neighbours.into_iter().collect();
        self.unsure.extend(self.paths.keys());
        self.doubt_routes();
    }

    /// Paths whose answer is another than the one told before, which count as told.
    pub(super) fn changes(&mut self) -> Vec<(Path, Answer)> {
        let unsure = mem::take(&mut self.unsure);
        unsure.into_iter().filter_map(|path| Some((path, self.change(path)?))).collect()
    }

    fn change(&mut self, path: Path) -> Option<Answer> {
        let route = self.paths.get(&path)?.route?;
        let answer = route.and_then(|route| self.follow(route));
        let told = &mut self.paths.get_mut(&path)?.told;
        if told.as_ref() == Some(&answer) {
            return None;
        }
        *told = Some(answer.clone());
        Some(answer)
    }

    fn follow(&self, Route { station, mtu }: Route) -> Answer {
        let link = self.links.get(&station.interface).ok_or(NoHop::InterfaceDown)?;
        if link.loopback {
            return Err(NoHop::OnThisHost);
        }
        let device = self.device_of(link)?;
        let source_mac = link.mac.ok_or(NoHop::NotEthernet)?;
        if !link.up || !device.up {
            return Err(NoHop::InterfaceDown);
        }
        let neighbour = self.neighbours.get(&station).copied();
        let destination_mac = neighbour.and_then(Neighbour::mac).ok_or(NoHop::NoNeighbour)?;
        Ok(NextHop {
            interface: device.index,
            name: Arc::clone(&device.name),
            destination_mac,
            source_mac,
            vlan: link.vlan,
            mtu: mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
        })
    }

    /// The device that carries the frames of `link`.
    fn device_of<'a>(&'a self, link: &'a Link) -> Result<&'a Link, NoHop> {
        if !is_vlan(link) {
            return Ok(link);
        }
        let lower = link.lower.filter(|_| link.vlan.is_some()).ok_or(NoHop::Vlan)?;
        let device = self.links.get(&lower).ok_or(NoHop::InterfaceDown)?;
        if is_vlan(device) { Err(NoHop::Vlan) } else { Ok(device) }
    }

    /// Stations that were just found to have no MAC address, which the kernel should resolve.
    pub(super) fn resolve(&mut self, now: Instant) -> Vec<Station> {
        let unresolved = mem::take(&mut self.unresolved);
        self.nudge(unresolved, now)
    }

    /// Stations in use that the kernel should resolve or verify. The flows in the kernel do not
    /// touch its table of neighbours, so it would not do so by itself.
    pub(super) fn verify(&mut self, now: Instant) -> Vec<Station> {
        let in_use = self.in_use.keys().copied().collect();
        self.nudge(in_use, now)
    }

    /// Those of `stations` whose turn it is: the longest waiting, and no more than the answers to
    /// which fit into a socket.
    fn nudge(&mut self, mut stations: Vec<Station>, now: Instant) -> Vec<Station> {
        stations.retain(|station| self.is_due(*station, now));
        stations.sort_by_key(|station| self.in_use.get(station).and_then(|used| used.nudged));
        stations.truncate(Self::NUDGES);
        stations.retain(|station| {
            let used = self.in_use.get_mut(station);
            used.is_some_and(|used| used.nudged.replace(now) != Some(now))
        });
        stations
    }

    fn is_due(&self, station: Station, now: Instant) -> bool {
        let Some(used) = self.in_use.get(&station) else { return false };
        let every = match self.neighbours.get(&station) {
            Some(Neighbour::Sure(_)) => return false,
            Some(Neighbour::Stale(_)) => Self::VERIFY_EVERY,
            Some(Neighbour::Unknown) | None => Self::RESOLVE_EVERY,
        };
        let is_up = self.links.get(&station.interface).is_some_and(|link| link.up);
        is_up && used.nudged.is_none_or(|last| now.saturating_duration_since(last) >= every)
    }
}

fn is_vlan(link: &Link) -> bool {
    link.kind.as_deref() == Some("vlan")
}
