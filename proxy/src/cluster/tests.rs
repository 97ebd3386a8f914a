//! Several proxies over one store, on a clock that the tests turn.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};

use futures_util::FutureExt;
use tokio::time::timeout;

use super::store::*;
use super::*;
use crate::origin::{OriginId, OriginView, Policy, registration};
use crate::stream::{Ask as Asking, Vhosts};

/// A store that can be cut off.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) store: MemoryStore,
    pub(crate) how: Arc<AtomicU8>,
}

const WELL: u8 = 0;
/// Every answer is late.
pub(crate) const LATE: u8 = 1;
/// Claims alone fail, each by itself.
const FAILING: u8 = 2;

impl Cut {
    fn through<'a, T: Send + 'a>(&self, answer: Answer<'a, T>) -> Answer<'a, T> {
        let how = Arc::clone(&self.how);
        async move {
            if how.load(Ordering::Relaxed) == LATE {
                sleep(Duration::from_millis(200)).await;
                return Err(StoreError::Late);
            }
            answer.await
        }
        .boxed()
    }
}

macro_rules! through {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $name<'a>(&'a self, $($argument: $type),*) -> Answer<'a, $answer> {
            if self.how.load(Ordering::Relaxed) == LATE {
                return self.through(std::future::pending().boxed());
            }
            self.store.$name($($argument),*)
        })*
    };
}

impl Store for Cut {
    fn as_str(&self) -> &'static str {
        "cut"
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn survey(&self) -> Answer<'_, Survey> {
        self.through(self.store.survey())
    }

    fn part(&self) -> Answer<'_, ()> {
        self.through(self.store.part())
    }

    fn routes(&self, most: usize) -> Answer<'_, Vec<(StreamKey, OriginName)>> {
        self.through(self.store.routes(most))
    }

    fn secret(&self, proposed: [u8; 32]) -> Answer<'_, [u8; 32]> {
        self.through(self.store.secret(proposed))
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Owned> {
        match self.how.load(Ordering::Relaxed) {
            LATE => self.through(std::future::pending().boxed()),
            FAILING => async { Err(StoreError::Failed("WRONGTYPE".into())) }.boxed(),
            _ => self.store.claim(claim),
        }
    }

    through! {
        origin(name: &'a str) -> Option<Heard>;
        announce(heard: &'a Heard, is_old: bool) -> bool;
        withdraw(origin: &'a OriginId) -> ();
        stand(server: &'a ServerName, standing: Standing) -> ();
        vote(vote: &'a Vote, is_down: bool) -> ();
        greet(me: &'a Presence) -> ();
        hold(hold: &'a Hold) -> Owned;
        leave(left: &'a Left) -> Option<u64>;
        tell(changes: &'a [Change]) -> ();
        changes(mark: Option<&'a Mark>) -> News;
        keep_webrtc(record: &'a WebrtcRecord) -> ();
        webrtc(name: &'a str) -> Option<WebrtcRecord>;
        drop_webrtc(record: &'a WebrtcRecord) -> ();
        keep_hls(record: &'a HlsRecord) -> ();
        hls(id: &'a str) -> Option<StreamKey>;
    }
}

/// Proxies, and the way of each to the store.
struct Fleet {
    proxies: Vec<Arc<Cluster>>,
    ways: Vec<Arc<AtomicU8>>,
    root: MemoryStore,
}

impl Fleet {
    fn new(count: usize) -> Self {
        Self::with(count, Policy::LeastStreams)
    }

    fn with(count: usize, policy: Policy) -> Self {
        let limits = MemoryLimits {
            route_life: Duration::from_hours(24),
            withdrawn_life: Duration::from_hours(1),
            max_routes: 10_000,
            max_records: 1000,
        };
        let id = |n: usize| ProxyId::new(&format!("proxy-{n}")).unwrap();
        let root = MemoryStore::for_many(id(99), limits);
        let mut fleet = Self { proxies: Vec::new(), ways: Vec::new(), root };
        for n in 0..count {
            let way = Arc::new(AtomicU8::new(WELL));
            let store = Cut { store: fleet.root.join(id(n)), how: Arc::clone(&way) };
            let settings = BalancerSettings { policy, seed: n as u64, ..Default::default() };
            let balancer = Balancer::new(settings);
            let cluster = Arc::new(Cluster::new(id(n), balancer, Arc::new(store)));
            let watched = Arc::clone(&cluster);
            tokio::spawn(async move { watched.watch(BTreeMap::new).await });
            fleet.proxies.push(cluster);
            fleet.ways.push(way);
        }
        fleet
    }

    /// Origins beat at the first proxy, every ten seconds, as long as the test lives.
    async fn hear(&self, servers: &[&str]) {
        for server in servers {
            self.proxies[0].register(origin(server)).unwrap();
        }
        settle().await;
        for proxy in &self.proxies {
            assert_eq!(proxy.balancer().origins(now()).len(), servers.len());
        }
    }

    fn cut(&self, how: u8) {
        for way in &self.ways {
            way.store(how, Ordering::Relaxed);
        }
    }
}

fn origin(server: &str) -> Origin {
    let body = serde_json::json!({
        "ip": "127.0.0.1", "server": server, "service": "run", "pid": "1",
        // Nobody listens there.
        "rtmp": ["1"], "http": ["1"],
    });
    registration::parse(body.to_string().as_bytes()).unwrap()
}

fn stream(name: impl std::fmt::Display) -> StreamKey {
    let target = format!("/live/{name}.flv");
    StreamKey::new(&Asking::Http { host: None, target: &target }, &Vhosts::default()).unwrap()
}

/// For everybody to have told and read everything.
async fn settle() {
    sleep(Duration::from_secs(3)).await;
}

async fn pick(proxy: &Cluster, key: &StreamKey) -> Lease {
    proxy.pick(key, Listener::Rtmp, &[]).await.expect("an origin")
}

fn server(lease: &Lease) -> &str {
    lease.origin().server().as_str()
}

fn state(proxy: &Cluster, server: &str) -> String {
    let origins = proxy.balancer().origins(now());
    let found = origins.iter().find(|it| it.server.as_str() == server);
    found.map_or("absent", |OriginView { state, .. }| state).to_owned()
}

#[tokio::test(start_paused = true)]
async fn five_proxies_that_race_for_fifty_streams_agree() {
    let fleet = Fleet::with(5, Policy::Random);
    fleet.hear(&["a", "b", "c"]).await;
    let mut racers = Vec::new();
    for n in 0..200 {
        let proxy = Arc::clone(&fleet.proxies[n % 5]);
        racers.push(tokio::spawn(async move {
            let key = stream(n % 50);
            let lease = pick(&proxy, &key).await;
            (key, server(&lease).to_owned(), lease)
        }));
    }
    let mut owners = BTreeMap::<_, BTreeSet<_>>::new();
    let mut leases = Vec::new();
    for racer in racers {
        let (key, server, lease) = racer.await.unwrap();
        owners.entry(key).or_default().insert(server);
        leases.push(lease);
    }
    assert_eq!(owners.len(), 50);
    assert!(owners.values().all(|servers| servers.len() == 1), "{owners:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_others_use_is_not_taken_from_them_by_one_who_cannot_reach_its_origin() {
    let fleet = Fleet::new(3);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    let publisher = pick(&fleet.proxies[0], &key).await;
    publisher.found();
    publisher.publishes();
    let player = pick(&fleet.proxies[1], &key).await;
    assert_eq!(server(&player), server(&publisher));
    settle().await;
    let tried = [publisher.origin().server().clone()];
    drop(player);
    let start = tokio::time::Instant::now();
    let refused = fleet.proxies[1].pick(&key, Listener::Rtmp, &tried).await;
    assert_eq!(refused.map(|_| ()), Err(NoOrigin::AllTried));
    assert!(start.elapsed() < VERDICT + Duration::from_secs(1), "{:?}", start.elapsed());
    // Its publisher has left: who is refused now finds another one.
    drop(publisher);
    settle().await;
    let next = fleet.proxies[1].pick(&key, Listener::Rtmp, &tried).await.unwrap();
    assert_ne!(server(&next), tried[0].as_str());
    settle().await;
    assert_eq!(server(&pick(&fleet.proxies[2], &key).await), server(&next));
}

/// The origin of these tests refuses connections: the other proxy looks, and finds the same.
#[tokio::test]
async fn an_origin_that_two_proxies_cannot_reach_gives_up_its_streams() {
    let fleet = Fleet::new(3);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    let stuck = pick(&fleet.proxies[0], &key).await;
    let refused = pick(&fleet.proxies[1], &key).await;
    sleep(Duration::from_millis(600)).await;
    fleet.proxies[1].failed(&refused, "refused");
    let tried = [refused.origin().server().clone()];
    drop(refused);
    let next = fleet.proxies[1].pick(&key, Listener::Rtmp, &tried).await.unwrap();
    assert_ne!(server(&next), server(&stuck), "it is out by the word of two");
    sleep(Duration::from_millis(600)).await;
    for proxy in &fleet.proxies {
        assert_eq!(server(&pick(proxy, &key).await), server(&next), "new clients follow");
        assert_eq!(state(proxy, server(&stuck)), "down");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_wants_is_done_at_every_proxy() {
    let fleet = Fleet::new(2);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    let lease = pick(&fleet.proxies[0], &key).await;
    lease.found();
    let (drained, other) = if server(&lease) == "a" { ("a", "b") } else { ("b", "a") };
    fleet.proxies[1].stand(&drained.into(), Standing::Draining).await.unwrap();
    settle().await;
    for (n, proxy) in fleet.proxies.iter().enumerate() {
        assert_eq!(state(proxy, drained), "draining");
        assert_eq!(server(&pick(proxy, &key).await), drained, "a stream in use stays");
        for m in 0..5 {
            let new = pick(proxy, &stream(format!("{n}-{m}"))).await;
            assert_eq!(server(&new), other, "no new stream");
        }
    }
    drop(lease);
    settle().await;
    assert_eq!(server(&pick(&fleet.proxies[1], &key).await), other, "nobody uses it any more");
    fleet.proxies[0].stand(&other.into(), Standing::Maintenance).await.unwrap();
    settle().await;
    let refused = fleet.proxies[1].pick(&stream("new"), Listener::Rtmp, &[]).await;
    assert_eq!(refused.map(|_| ()), Err(NoOrigin::NoneTakes));
    fleet.proxies[0].stand(&drained.into(), Standing::Active).await.unwrap();
    settle().await;
    assert_eq!(server(&pick(&fleet.proxies[1], &key).await), drained, "out of maintenance at once");
}

#[tokio::test(start_paused = true)]
async fn where_an_origin_is_drained_others_find_what_is_used_there_and_nothing_else() {
    let fleet = Fleet::new(3);
    fleet.hear(&["a", "b"]).await;
    let [used, unused] = ["used", "unused"].map(stream);
    let lease = pick(&fleet.proxies[0], &used).await;
    lease.found();
    let drained = server(&lease);
    let idle = fleet.proxies[0].pick_at(&unused, drained, Listener::Rtmp, &[]).unwrap();
    idle.found();
    settle().await;
    drop(idle);
    settle().await;
    fleet.proxies[1].stand(&drained.into(), Standing::Draining).await.unwrap();
    settle().await;
    let moved = pick(&fleet.proxies[1], &unused).await;
    assert_ne!(server(&moved), drained, "nobody uses it there");
    assert_eq!(server(&pick(&fleet.proxies[1], &used).await), drained);
    fleet.proxies[1].stand(&server(&moved).into(), Standing::Draining).await.unwrap();
    settle().await;
    let player = pick(&fleet.proxies[2], &used).await;
    assert_eq!(server(&player), drained, "no other takes it, and it is used there");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_taken_out_stays_out_until_it_runs_anew() {
    let fleet = Fleet::new(2);
    fleet.hear(&["a", "b"]).await;
    let a = fleet.proxies[1].balancer().named("a", now()).unwrap();
    fleet.proxies[1].withdraw(&a).await.unwrap();
    settle().await;
    for proxy in &fleet.proxies {
        assert_eq!(state(proxy, "a"), "absent");
        assert_eq!(proxy.register(origin("a")), Err(NotRegistered::Withdrawn));
    }
    fleet.proxies[0].stand(&"a".into(), Standing::Active).await.unwrap();
    settle().await;
    assert!(fleet.proxies[0].register(origin("a")).is_ok());
    settle().await;
    assert_eq!(state(&fleet.proxies[1], "a"), "active");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_known_streams_stay_and_new_ones_are_placed_alike() {
    let fleet = Fleet::new(3);
    fleet.hear(&["a", "b", "c"]).await;
    let mut used = Vec::new();
    for n in 0..30 {
        let lease = pick(&fleet.proxies[0], &stream(n)).await;
        lease.found();
        used.push(lease);
    }
    settle().await;
    fleet.cut(LATE);
    settle().await;
    for proxy in &fleet.proxies {
        assert!(proxy.condition().is_lost());
    }
    // Longer than origins and routes live without a word.
    sleep(Duration::from_mins(20)).await;
    for proxy in &fleet.proxies {
        for (n, lease) in used.iter().enumerate() {
            let start = tokio::time::Instant::now();
            assert_eq!(server(&pick(proxy, &stream(n)).await), server(lease), "known streams");
            assert_eq!(start.elapsed(), Duration::ZERO, "nobody waits");
        }
    }
    let mut new = Vec::new();
    for n in 100..130 {
        for proxy in &fleet.proxies {
            let lease = pick(proxy, &stream(n)).await;
            lease.found();
            new.push(lease);
        }
        let servers: BTreeSet<_> = new.iter().rev().take(3).map(server).collect();
        assert_eq!(servers.len(), 1, "{n} is on {servers:?}");
    }
    // Registrations are kept.
    fleet.proxies[2].register(origin("d")).unwrap();
    fleet.cut(WELL);
    settle().await;
    for proxy in &fleet.proxies {
        assert!(!proxy.condition().is_lost());
        assert_eq!(state(proxy, "d"), "active");
        assert_eq!(state(proxy, "a"), "active", "spared until it is heard of");
    }
    for (n, lease) in used.iter().enumerate() {
        assert_eq!(server(&pick(&fleet.proxies[2], &stream(n)).await), server(lease));
    }
    for lease in &new {
        assert_eq!(server(&pick(&fleet.proxies[1], lease.key()).await), server(lease));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_published_at_two_origins_is_shown_with_both() {
    let fleet = Fleet::new(2);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    let one = pick(&fleet.proxies[0], &key).await;
    one.publishes();
    settle().await;
    // A publisher at the other one, whichever way it came there.
    let elsewhere = if server(&one) == "a" { "b" } else { "a" };
    let other = fleet.proxies[1].pick_at(&key, elsewhere, Listener::Rtmp, &[]).unwrap();
    other.publishes();
    sleep(Duration::from_secs(30)).await;
    for proxy in &fleet.proxies {
        let conflicts = proxy.view(now()).conflicts;
        assert_eq!(conflicts.len(), 1, "{conflicts:?}");
        let at: BTreeSet<_> = conflicts[0].publishers.iter().map(|it| &*it.origin).collect();
        assert_eq!(at, BTreeSet::from(["a-run-1", "b-run-1"]));
        assert_eq!(server(&pick(proxy, &key).await), server(&one), "the first one owns it");
    }
    drop(one);
    sleep(Duration::from_mins(1)).await;
    assert!(fleet.proxies[0].view(now()).conflicts.is_empty());
    assert_eq!(server(&pick(&fleet.proxies[0], &key).await), elsewhere, "the publisher has it");
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_key_cannot_be_used_is_placed_alike_and_costs_no_other() {
    let fleet = Fleet::new(3);
    fleet.hear(&["a", "b", "c"]).await;
    fleet.cut(FAILING);
    let mut leases = Vec::new();
    for proxy in &fleet.proxies {
        leases.push(pick(proxy, &stream("s")).await);
        assert!(!proxy.condition().is_lost(), "one key is not the store");
    }
    let servers: BTreeSet<_> = leases.iter().map(server).collect();
    assert_eq!(servers.len(), 1, "{servers:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_places_a_stream_by_asking_too_early() {
    let fleet = Fleet::new(2);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    drop(pick(&fleet.proxies[0], &key).await);
    settle().await;
    assert_eq!(fleet.root.routes(10).await.unwrap(), [], "the route is gone");
    // Another proxy's client has found it meanwhile.
    let early = pick(&fleet.proxies[0], &key).await;
    let found = pick(&fleet.proxies[1], &key).await;
    found.found();
    drop(early);
    settle().await;
    assert_eq!(fleet.root.routes(10).await.unwrap().len(), 1);
}

/// An origin that refuses at once is tried and replaced between two turns of the loop, which then
/// reads of both.
#[tokio::test(start_paused = true)]
async fn what_this_proxy_has_told_itself_moves_nothing_back() {
    let fleet = Fleet::new(2);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    let refused = pick(&fleet.proxies[0], &key).await;
    let tried = [refused.origin().server().clone()];
    drop(refused);
    let player = fleet.proxies[0].pick(&key, Listener::Rtmp, &tried).await.unwrap();
    player.found();
    assert_ne!(server(&player), tried[0].as_str());
    settle().await;
    assert_eq!(fleet.proxies[0].balancer().counts(now()).routes_in_use, 1, "it is held on");
    let other = pick(&fleet.proxies[1], &key).await;
    assert_eq!(server(&other), server(&player));
    // Who cannot reach it does not take it from the player.
    drop(other);
    let tried = [player.origin().server().clone()];
    let moved = fleet.proxies[1].pick(&key, Listener::Rtmp, &tried).await;
    assert_eq!(moved.map(|_| ()), Err(NoOrigin::AllTried));
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_was_cut_off_goes_where_the_others_have_gone() {
    let fleet = Fleet::new(2);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    let before = pick(&fleet.proxies[0], &key).await;
    before.found();
    let former = server(&before).to_owned();
    drop(before);
    settle().await;
    fleet.ways[0].store(LATE, Ordering::Relaxed);
    settle().await;
    let tried = [former.as_str().into()];
    let publisher = fleet.proxies[1].pick(&key, Listener::Rtmp, &tried).await.unwrap();
    publisher.found();
    publisher.publishes();
    sleep(Duration::from_secs(1)).await;
    fleet.ways[0].store(WELL, Ordering::Relaxed);
    settle().await;
    let player = pick(&fleet.proxies[0], &key).await;
    assert_eq!(server(&player), server(&publisher), "its own idle route is no answer");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_asked_for_again_at_once_stays_claimed() {
    let fleet = Fleet::new(2);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    drop(pick(&fleet.proxies[0], &key).await);
    let publisher = pick(&fleet.proxies[0], &key).await;
    settle().await;
    assert_eq!(fleet.root.routes(10).await.unwrap().len(), 1, "the end of the first one's use");
    let player = pick(&fleet.proxies[1], &key).await;
    assert_eq!(server(&player), server(&publisher));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_its_stream_is_claimed_leaves_nothing() {
    let fleet = Fleet::new(2);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    fleet.ways[0].store(LATE, Ordering::Relaxed);
    let claimed = fleet.proxies[0].pick(&key, Listener::Rtmp, &[]);
    assert!(timeout(Duration::from_millis(50), claimed).await.is_err());
    // The store has done it all the same.
    let late = fleet.root.join(ProxyId::new("proxy-0").unwrap());
    let a = origin("a").id().clone();
    late.claim(&Claim { stream: key.clone(), origin: a, over: None }).await.unwrap();
    fleet.ways[0].store(WELL, Ordering::Relaxed);
    settle().await;
    assert_eq!(fleet.root.routes(10).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_late_gives_way_to_where_its_clients_are() {
    let fleet = Fleet::new(2);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    fleet.ways[0].store(LATE, Ordering::Relaxed);
    let player = pick(&fleet.proxies[0], &key).await;
    player.found();
    let elsewhere = if server(&player) == "a" { "b" } else { "a" };
    let late = fleet.root.join(ProxyId::new("proxy-0").unwrap());
    let origin = origin(elsewhere).id().clone();
    late.claim(&Claim { stream: key.clone(), origin, over: None }).await.unwrap();
    fleet.ways[0].store(WELL, Ordering::Relaxed);
    settle().await;
    let publisher = pick(&fleet.proxies[1], &key).await;
    assert_eq!(server(&publisher), server(&player));
}

#[tokio::test(start_paused = true)]
async fn one_refused_player_does_not_part_the_others_of_its_proxy_from_their_publisher() {
    let fleet = Fleet::new(2);
    fleet.hear(&["a", "b"]).await;
    let key = stream("s");
    let publisher = pick(&fleet.proxies[0], &key).await;
    publisher.found();
    publisher.publishes();
    settle().await;
    let tried = [publisher.origin().server().clone()];
    let player = fleet.proxies[0].pick(&key, Listener::Rtmp, &tried).await;
    assert_eq!(player.map(|_| ()), Err(NoOrigin::AllTried), "the other proxy can look");
    assert_eq!(server(&pick(&fleet.proxies[1], &key).await), server(&publisher));
}
