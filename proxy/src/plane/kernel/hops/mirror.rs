//! Links, neighbours, policies and the paths in use, and which answers change when one of them
//! does. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::policies::Policy;
use super::{Answer, Link, NextHop, NoHop, Path};

/// What the kernel said, and what was told of it.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    links: BTreeMap<u32, Link>,
    neighbours: HashMap<Station, Neighbour>,
    policies: Vec<Policy>,
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

    /// All policies, in place of those that were known.
    pub(super) fn policies(&mut self, policies: Vec<Policy>) {
        if self.policies != policies {
            self.policies = policies;
            self.unsure.extend(self.paths.keys());
        }
    }

    /// All links and neighbours, in place of those that were known; routes have to be asked anew.
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
        let answer = if self.policies.iter().any(|policy| policy.concerns(path)) {
            route.and(Err(NoHop::Ipsec))
        } else {
            route.and_then(|route| self.follow(route))
        };
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use super::{Answer, Mirror, Neighbour, Policy, Route, Station};
    use crate::plane::kernel::hops::{Link, NextHop, NoHop, Path};

    #[test]
    fn a_path_is_asked_told_once_and_forgotten_with_its_last_user() {
        let mut mirror = host();
        assert_eq!(mirror.find(path(1)), (None, true));
        assert_eq!(mirror.find(path(1)), (None, false), "the second user asks nothing");
        assert_eq!(mirror.questions(9), [path(1)]);
        assert_eq!(mirror.changes(), [], "there is no answer yet");
        mirror.route(path(1), Ok(via(GATEWAY)));
        assert_eq!(mirror.changes(), [(path(1), Ok(hop(MAC)))]);
        mirror.doubt_routes();
        assert_eq!(mirror.questions(9), [path(1)]);
        mirror.route(path(1), Ok(via(GATEWAY)));
        assert_eq!(mirror.changes(), [], "the same answer is no news");
        assert_eq!(mirror.find(path(1)), (Some(Ok(hop(MAC))), false));
        for _ in 0..3 {
            mirror.release(path(1));
        }
        assert!(mirror.in_use.is_empty() && mirror.paths.is_empty(), "{mirror:?}");
        mirror.release(path(1));
        mirror.route(path(1), Ok(via(GATEWAY)));
        assert_eq!(mirror.changes(), [], "a late answer is nobody's");
        assert_eq!(mirror.find(path(1)), (None, true));
    }

    #[test]
    fn a_neighbour_changes_its_own_paths_alone() {
        let mut mirror = host();
        mirror.neighbour(station(OTHER), Some(Neighbour::Sure(MAC)));
        use_path(&mut mirror, 1, Ok(via(GATEWAY)));
        use_path(&mut mirror, 2, Ok(via(OTHER)));
        let mac = [2, 0, 0, 0, 0, 9];
        mirror.neighbour(station(GATEWAY), Some(Neighbour::Stale(mac)));
        assert_eq!(mirror.unsure.len(), 1, "only one is looked at");
        assert_eq!(mirror.changes(), [(path(1), Ok(hop(mac)))]);
        mirror.neighbour(station(GATEWAY), Some(Neighbour::Sure(mac)));
        assert_eq!(mirror.changes(), [], "it only was verified");
        mirror.neighbour(station(GATEWAY), None);
        assert_eq!(mirror.changes(), [(path(1), Err(NoHop::NoNeighbour))]);
    }

    #[test]
    fn what_changes_back_before_it_is_told_is_not_told() {
        let mut mirror = host();
        use_path(&mut mirror, 1, Ok(via(GATEWAY)));
        mirror.link(Link { up: false, ..link(LAN) });
        assert_eq!(told(&mut mirror, 1), Some(Ok(hop(MAC))), "all users hear the same");
        mirror.link(link(LAN));
        assert_eq!(mirror.changes(), []);
    }

    #[test]
    fn a_link_decides_what_its_paths_are_told() {
        let down = Link { up: false, ..link(LAN) };
        let tunnel = Link { mac: None, ..link(LAN) };
        let loopback = Link { loopback: true, ..link(LAN) };
        let other_mac = Link { mac: Some(MAC), ..link(LAN) };
        let narrow = Link { mtu: 1280, ..link(LAN) };
        let cases = [
            (down, Err(NoHop::InterfaceDown)),
            (tunnel, Err(NoHop::NotEthernet)),
            (loopback, Err(NoHop::OnThisHost)),
            (other_mac, Ok(NextHop { source_mac: MAC, ..hop(MAC) })),
            (narrow, Ok(NextHop { mtu: 1280, ..hop(MAC) })),
        ];
        for (changed, answer) in cases {
            let mut mirror = host();
            use_path(&mut mirror, 1, Ok(via(GATEWAY)));
            assert!(mirror.link(changed.clone()), "{changed:?} is another");
            assert!(!mirror.link(changed.clone()), "and no other the second time");
            assert_eq!(mirror.changes(), [(path(1), answer)], "{changed:?}");
            assert_eq!(mirror.changed_links(), Some(vec![changed]));
            assert_eq!(mirror.changed_links(), None);
            mirror.no_link(LAN);
            mirror.changes();
            assert_eq!(told(&mut mirror, 1), Some(Err(NoHop::InterfaceDown)), "it is gone");
        }
    }

    #[test]
    fn a_vlan_is_its_device_and_a_tag() {
        const VLAN: u32 = 7;
        let vlan = Link {
            kind: Some("vlan".into()),
            mac: Some([2, 0, 0, 0, 0, 7]),
            lower: Some(LAN),
            vlan: Some(100),
            mtu: 1496,
            ..link(VLAN)
        };
        let tagged =
            NextHop { vlan: Some(100), source_mac: [2, 0, 0, 0, 0, 7], mtu: 1496, ..hop(MAC) };
        let cases = [
            (vlan.clone(), link(LAN), Ok(tagged)),
            (vlan.clone(), Link { up: false, ..link(LAN) }, Err(NoHop::InterfaceDown)),
            (vlan.clone(), Link { kind: Some("vlan".into()), ..link(LAN) }, Err(NoHop::Vlan)),
            (Link { vlan: None, ..vlan.clone() }, link(LAN), Err(NoHop::Vlan)),
            (Link { lower: None, ..vlan.clone() }, link(LAN), Err(NoHop::Vlan)),
            (Link { lower: Some(8), ..vlan }, link(LAN), Err(NoHop::InterfaceDown)),
        ];
        for (vlan, lower, answer) in cases {
            let station = Station { interface: VLAN, address: GATEWAY };
            let mut mirror = Mirror::default();
            mirror.replace(vec![lower, vlan.clone()], [(station, Neighbour::Sure(MAC))]);
            use_path(&mut mirror, 1, Ok(Route { station, mtu: None }));
            assert_eq!(told(&mut mirror, 1), Some(answer), "{vlan:?}");
        }
    }

    #[test]
    fn the_smaller_mtu_of_route_and_link_counts() {
        for (route, mtu) in [(Some(1400), 1400), (Some(9000), 1500), (None, 1500)] {
            let mut mirror = host();
            use_path(&mut mirror, 1, Ok(Route { mtu: route, ..via(GATEWAY) }));
            assert_eq!(told(&mut mirror, 1), Some(Ok(NextHop { mtu, ..hop(MAC) })));
        }
    }

    #[test]
    fn a_policy_takes_the_next_hop_from_its_paths() {
        let mut mirror = host();
        use_path(&mut mirror, 1, Ok(via(GATEWAY)));
        use_path(&mut mirror, 2, Err(NoHop::NoRoute));
        mirror.policies(Policy::all());
        assert_eq!(mirror.changes(), [(path(1), Err(NoHop::Ipsec))]);
        mirror.policies(Policy::all());
        assert!(mirror.unsure.is_empty(), "they are the same");
        mirror.replace(vec![link(LAN)], [(station(GATEWAY), Neighbour::Sure(MAC))]);
        assert_eq!(mirror.changes(), [], "they stand");
        mirror.policies(Vec::new());
        assert_eq!(mirror.changes(), [(path(1), Ok(hop(MAC)))]);
    }

    #[test]
    fn stations_are_resolved_at_once_and_verified_now_and_then() {
        let mut mirror = host();
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        use_path(&mut mirror, 1, Ok(via(GATEWAY)));
        use_path(&mut mirror, 2, Ok(via(OTHER)));
        assert_eq!(mirror.resolve(start), [station(OTHER)], "the gateway is known");
        assert_eq!(mirror.resolve(after(1)), []);
        assert_eq!(mirror.verify(after(3999)), []);
        assert_eq!(mirror.verify(after(4000)), [station(OTHER)]);
        mirror.neighbour(station(OTHER), Some(Neighbour::Sure(MAC)));
        mirror.neighbour(station(GATEWAY), Some(Neighbour::Stale(MAC)));
        assert_eq!(mirror.verify(after(9000)), [station(GATEWAY)]);
        assert_eq!(mirror.verify(after(13_999)), []);
        mirror.link(Link { up: false, ..link(LAN) });
        assert_eq!(mirror.verify(after(20_000)), [], "the link is down");
        mirror.link(link(LAN));
        mirror.release(path(1));
        assert_eq!(mirror.verify(after(20_000)), [], "nobody uses it");
    }

    #[test]
    fn of_many_stations_each_has_its_turn() {
        let mut mirror = host();
        let count = u8::MAX;
        for last in 0..count {
            let address = IpAddr::from([10, 9, 9, last]);
            use_path(&mut mirror, last, Ok(via(address)));
        }
        let now = Instant::now();
        let first = mirror.resolve(now);
        assert_eq!(first.len(), Mirror::NUDGES);
        let second = mirror.verify(now + Duration::from_mins(1));
        assert_eq!(second.len(), Mirror::NUDGES);
        let waiting = usize::from(count) - Mirror::NUDGES;
        let new = second.iter().filter(|station| !first.contains(station)).count();
        assert_eq!(new, waiting.min(Mirror::NUDGES), "who waited longest comes first");
    }

    #[test]
    fn when_all_is_read_anew_only_differences_are_told() {
        let mut mirror = host();
        use_path(&mut mirror, 1, Ok(via(GATEWAY)));
        let neighbours = |mac| [(station(GATEWAY), Neighbour::Sure(mac))];
        mirror.replace(vec![link(LAN)], neighbours(MAC));
        assert_eq!((mirror.changes(), mirror.changed_links()), (vec![], None));
        assert_eq!(mirror.questions(9), [path(1)], "its route may be another");
        let mac = [2, 0, 0, 0, 0, 9];
        mirror.replace(vec![link(LAN), link(5)], neighbours(mac));
        assert_eq!(mirror.changes(), [(path(1), Ok(hop(mac)))]);
        assert_eq!(mirror.changed_links(), Some(vec![link(LAN), link(5)]));
    }

    const LAN: u32 = 3;
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    /// A host with one link, and a gateway on it that is known.
    fn host() -> Mirror {
        let mut mirror = Mirror::default();
        mirror.replace(vec![link(LAN)], [(station(GATEWAY), Neighbour::Sure(MAC))]);
        mirror.changed_links();
        mirror
    }

    fn use_path(mirror: &mut Mirror, last: u8, route: Result<Route, NoHop>) {
        mirror.find(path(last));
        mirror.questions(1);
        mirror.route(path(last), route);
        mirror.changes();
    }

    fn told(mirror: &mut Mirror, last: u8) -> Option<Answer> {
        mirror.find(path(last)).0
    }

    fn path(last: u8) -> Path {
        Path { source: [10, 0, 0, 9].into(), destination: [203, 0, 113, last].into() }
    }

    fn station(address: IpAddr) -> Station {
        Station { interface: LAN, address }
    }

    fn via(address: IpAddr) -> Route {
        Route { station: station(address), mtu: None }
    }

    fn link(index: u32) -> Link {
        Link {
            index,
            name: format!("eth{index}").into(),
            kind: None,
            up: true,
            mtu: 1500,
            mac: Some([2, 0, 0, 0, 0, 1]),
            loopback: false,
            master: None,
            lower: None,
            vlan: None,
        }
    }

    fn hop(destination_mac: [u8; 6]) -> NextHop {
        NextHop {
            interface: LAN,
            name: "eth3".into(),
            destination_mac,
            source_mac: [2, 0, 0, 0, 0, 1],
            vlan: None,
            mtu: 1500,
        }
    }
}
