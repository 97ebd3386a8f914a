//! Asks the kernel where paths lead, listens to what changes, and tells it.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io, mem};

use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, trace, warn};

use super::mirror::Station;
use super::netlink::{self, Netlink, is_overrun};
use super::policies::Policy;
use super::wire::{self, News};
use super::{Answer, Link, Path, Shared};

/// What changed.
#[derive(Clone, Debug)]
pub enum Event {
    /// Paths in use whose answer is another than before, or is the first.
    Paths(Vec<(Path, Answer)>),
    /// One or more links appeared, went, or are in another state. These are all that there are.
    Links(Vec<Link>),
}

/// Keeps [`Hops`](super::Hops) fresh for as long as it runs.
pub struct Watch {
    shared: Arc<Shared>,
    /// What the kernel says by itself.
    events: Netlink,
    /// The same of policies, if they can be read.
    policy_events: Option<Netlink>,
    questions: Netlink,
    /// Paths that are being asked, by the sequence number of the question.
    in_flight: HashMap<u32, Path>,
    sequence: u32,
    /// The kernel has not refused that yet.
    may_resolve: bool,
    /// Of all routes.
    route_doubts: Doubts,
    policy_doubts: Doubts,
}

/// Whether something is to be asked anew.
#[derive(Default)]
struct Doubts {
    due: Option<Instant>,
    last: Option<Instant>,
}

/// Changes come in groups: so long after the first one it is asked anew.
const SETTLES: Duration = Duration::from_millis(20);
/// What does not come to rest is asked no more often.
const DOUBTS_EVERY: Duration = Duration::from_millis(250);
/// What the kernel does not tell, as that it learned a smaller MTU, is asked for.
const REFRESHES_EVERY: Duration = Duration::from_secs(30);
const VERIFIES_EVERY: Duration = Duration::from_millis(250);
const RETRIES_AFTER: Duration = Duration::from_secs(2);
/// Questions whose answers fit into the smallest receive buffer.
const IN_FLIGHT: usize = 64;

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

impl Watch {
    pub(super) async fn open(shared: Arc<Shared>) -> io::Result<Self> {
        let mut watch = Self {
            shared,
            events: Netlink::open(&[])?,
            policy_events: None,
            questions: Netlink::open(&[])?,
            in_flight: HashMap::new(),
            sequence: 0,
            may_resolve: true,
            route_doubts: Doubts::default(),
            policy_doubts: Doubts::default(),
        };
        watch.read_all().await?;
        let _known_from_the_start = watch.shared.mirror.lock().changed_links();
        Ok(watch)
    }

    /// Runs for ever: asks, follows links, neighbours, addresses, routes, rules and policies, and
    /// tells `changed` what is another than before. `changed` may ask [`Hops`](super::Hops).
    pub async fn run(mut self, mut changed: impl FnMut(Event)) {
        let mut verify = every(VERIFIES_EVERY);
        let mut refresh = every(REFRESHES_EVERY);
        let shared = Arc::clone(&self.shared);
        loop {
            let done = tokio::select! {
                done = hear(&mut self.events, &shared) => done.map(|may_have_changed| {
                    if may_have_changed {
                        self.route_doubts.raise();
                    }
                }),
                done = hear_policies(&mut self.policy_events) => {
                    done.map(|()| self.policy_doubts.raise())
                }
                done = settle(
                    &mut self.questions,
                    &mut self.in_flight,
                    &mut self.may_resolve,
                    &shared,
                ) => done,
                () = shared.asked.notified() => Ok(()),
                () = self.route_doubts.due() => {
                    shared.mirror.lock().doubt_routes();
                    Ok(())
                }
                () = self.policy_doubts.due() => self.read_policies().await,
                _ = verify.tick() => {
                    let stations = shared.mirror.lock().verify(Instant::now().into());
                    self.nudge(stations).await
                }
                _ = refresh.tick() => {
                    shared.mirror.lock().doubt_routes();
                    Ok(())
                }
            };
            if let Err(error) = done {
                self.start_anew(&error).await;
            }
            if let Err(error) = self.ask().await {
                self.start_anew(&error).await;
            }
            self.tell(&mut changed);
        }
    }

    /// Sends what waits to be asked, as far as there is room.
    async fn ask(&mut self) -> io::Result<()> {
        let room = IN_FLIGHT.saturating_sub(self.in_flight.len());
        let (paths, stations) = {
            let mut mirror = self.shared.mirror.lock();
            (mirror.questions(room), mirror.resolve(Instant::now().into()))
        };
        let mut questions = Vec::new();
        for path in paths {
            let sequence = self.next_sequence();
            match wire::ask_route(&mut questions, path, sequence) {
                Ok(()) => drop(self.in_flight.insert(sequence, path)),
                Err(no_hop) => self.shared.mirror.lock().route(path, Err(no_hop)),
            }
        }
        if !questions.is_empty() {
            self.questions.send(&questions).await?;
        }
        self.nudge(stations).await
    }

    /// Has the kernel resolve or verify stations. Errors of single ones arrive as answers.
    async fn nudge(&mut self, stations: Vec<Station>) -> io::Result<()> {
        for stations in stations.chunks(IN_FLIGHT) {
            let mut orders = Vec::new();
            for station in stations {
                let sequence = self.next_sequence();
                wire::ask_neighbour(&mut orders, *station, sequence);
            }
            self.questions.send(&orders).await?;
        }
        Ok(())
    }

    const fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn tell(&self, changed: &mut impl FnMut(Event)) {
        let (links, paths) = {
            let mut mirror = self.shared.mirror.lock();
            (mirror.changed_links(), mirror.changes())
        };
        if let Some(links) = links {
            changed(Event::Links(links));
        }
        if !paths.is_empty() {
            changed(Event::Paths(paths));
        }
    }

    /// Messages were lost, or a socket failed: reads everything anew, as often as it takes.
    async fn start_anew(&mut self, error: &io::Error) {
        if is_overrun(error) {
            debug!("netlink said more than was read; everything is read anew");
        } else {
            warn!(%error, "netlink failed; everything is read anew");
            sleep(RETRIES_AFTER).await;
        }
        while let Err(error) = self.read_all().await {
            warn!(%error, "links, neighbours and policies could not be read");
            sleep(RETRIES_AFTER).await;
        }
    }

    /// On new sockets: what waits in the former ones is older than what is read.
    async fn read_all(&mut self) -> io::Result<()> {
        // Listens before it reads, so that nothing is missed in between.
        self.events = Netlink::open(&GROUPS)?;
        self.questions = Netlink::open(&[])?;
        self.in_flight.clear();
        let (links, neighbours) = netlink::links_and_neighbours().await?;
        self.shared.mirror.lock().replace(links, neighbours);
        match Netlink::open_policies() {
            Ok(events) => {
                self.policy_events = Some(events);
                self.read_policies().await
            }
            Err(error) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => {
                trace!("this kernel has no IPsec");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                warn!(%error, "IPsec policies may not be read, so one may apply to any path");
                self.shared.mirror.lock().policies(Policy::all());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn read_policies(&self) -> io::Result<()> {
        let policies = netlink::policies().await?;
        self.shared.mirror.lock().policies(policies);
        Ok(())
    }
}

impl Doubts {
    fn raise(&mut self) {
        let now = Instant::now();
        let earliest = self.last.map_or(now, |last| last + DOUBTS_EVERY);
        self.due.get_or_insert((now + SETTLES).max(earliest));
    }

    /// Waits until there are some and it is time to ask, which ends them. If it is cancelled, they
    /// stay.
    async fn due(&mut self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
        self.due = None;
        self.last = Some(Instant::now());
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Takes what the kernel says by itself into the mirror. True if routes may be others now.
async fn hear(events: &mut Netlink, shared: &Shared) -> io::Result<bool> {
    let mut routes_changed = false;
    events
        .receive(|message| {
            let mirror = &shared.mirror;
            match message.news() {
                Ok(News::Link(link)) => routes_changed |= mirror.lock().link(link),
                Ok(News::NoLink(index)) => routes_changed |= mirror.lock().no_link(index),
                Ok(News::Neighbour(station, known)) => mirror.lock().neighbour(station, known),
                Ok(News::Routes) => routes_changed = true,
                Ok(News::Done | News::Failed(_) | News::Nothing) => {}
                Err(error) => debug!(%error, "a message of netlink was not understood"),
            }
        })
        .await?;
    Ok(routes_changed)
}

/// Waits until policies have changed; what they are is read as a whole.
async fn hear_policies(events: &mut Option<Netlink>) -> io::Result<()> {
    match events {
        Some(events) => events.receive(|_| {}).await,
        None => pending().await,
    }
}

/// Takes answers to questions into the mirror.
async fn settle(
    questions: &mut Netlink,
    in_flight: &mut HashMap<u32, Path>,
    may_resolve: &mut bool,
    shared: &Shared,
) -> io::Result<()> {
    questions
        .receive(|message| match in_flight.remove(&message.sequence) {
            Some(path) => {
                if let Some(route) = message.route_to(path.destination) {
                    shared.mirror.lock().route(path, route);
                }
            }
            // Orders are answered only when they fail.
            None => match message.news() {
                Ok(News::Failed(Errno::EPERM)) if mem::take(may_resolve) => {
                    warn!("neighbours cannot be resolved without CAP_NET_ADMIN");
                }
                Ok(News::Failed(error)) => trace!(%error, "a neighbour cannot be resolved"),
                _ => {}
            },
        })
        .await
}
