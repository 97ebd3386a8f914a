//! Requests over real sockets, as origins, operators and strangers send them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::server::{Limits, serve_within};
use super::*;
use crate::cluster::memory::{MemoryLimits, MemoryStore};
use crate::cluster::store::ProxyId;
use crate::cluster::tests::{Cut, LATE};
use crate::listen::{Entrance, TrustedProxies};
use crate::origin::{Balancer, BalancerSettings, Origin};
use crate::proto::proxy_protocol::Ends;
use crate::session::{Protocol, Role, SessionLimits};

/// A running API, stopped when dropped.
struct Api {
    address: SocketAddr,
    cluster: Arc<Cluster>,
    sessions: Arc<Sessions>,
    draining: CancellationToken,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn start(auth: Option<&str>, allow: &[&str]) -> Api {
    start_within(Limits::default(), auth, allow).await
}

async fn start_within(limits: Limits, auth: Option<&str>, allow: &[&str]) -> Api {
    start_behind(TrustedProxies::default(), limits, auth, allow).await
}

async fn start_behind(
    trusted: TrustedProxies,
    limits: Limits,
    auth: Option<&str>,
    allow: &[&str],
) -> Api {
    let settings = BalancerSettings { max_origins: 2, ..Default::default() };
    start_with(Cluster::alone(settings), trusted, limits, auth, allow).await
}

async fn start_with(
    cluster: Arc<Cluster>,
    trusted: TrustedProxies,
    limits: Limits,
    auth: Option<&str>,
    allow: &[&str],
) -> Api {
    let sessions = Sessions::new(SessionLimits {
        total: 10,
        per_client: 10,
        shared: TrustedProxies::default(),
    });
    let draining = CancellationToken::new();
    let metrics = metrics::registry(
        Arc::clone(&sessions),
        Arc::clone(&cluster),
        Arc::default(),
        Default::default(),
        Kernel::off("a test"),
        StreamPlane::none("a test"),
    );
    let allow: Vec<IpNet> = allow.iter().map(|net| net.parse().unwrap()).collect();
    let router = router(ApiState {
        streams: StreamPlane::none("a test"),
        kernel: Kernel::off("a test"),
        cluster: Arc::clone(&cluster),
        sessions: Arc::clone(&sessions),
        vhosts: Vhosts::default(),
        metrics: metrics.into(),
        auth: auth.map(str::to_owned),
        allow: allow.clone(),
        refusals: Seldom::default(),
        draining: draining.clone(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let entrance = Arc::new(Entrance::new(trusted, true));
    let serve = serve_within(limits, vec![listener], entrance, router, allow, stop.clone());
    let served = tokio::spawn(serve);
    Api { address, cluster, sessions, draining, stop, served }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no status: {head}")),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// Asserts that this is a refusal in its own form, and returns its text.
    fn refusal(&self, status: u16) -> String {
        let body = self.json();
        assert_eq!((self.status, &body["code"]), (status, &json!(status)), "{self:?}");
        body["error"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }
}

impl Api {
    /// Sends bytes and reads what is answered until the connection closes.
    async fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer").unwrap();
        Answer::parse(&bytes)
    }

    async fn ask(&self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\
             Content-Length: {}\r\n{headers}\r\n{body}",
            body.len(),
        );
        self.raw(request.as_bytes()).await
    }

    async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, "", "").await
    }

    /// The origin, or what there is in its place.
    async fn order(&self, method: &str, target: &str) -> Value {
        let answer = self.ask(method, target, "", "").await;
        assert_eq!(answer.status, 200, "{method} {target}: {answer:?}");
        answer.json()["origin"].take()
    }

    async fn register(&self, body: &str) -> Answer {
        self.ask("POST", "/api/v1/srs/register", "", body).await
    }
}

fn heartbeat(server: &str) -> String {
    let body = json!({"ip": "10.0.0.1", "server": server, "service": "x", "pid": 7,
                      "rtmp": ["1935"], "http": ["[::]:8080"]});
    body.to_string()
}

#[tokio::test]
async fn a_real_origin_registers_and_is_listed() {
    let api = start(None, &[]).await;
    let recorded = include_str!("testdata/register-srs7-summaries.http").trim_end();
    let answer = api.raw(recorded.replace("Keep-Alive", "close").as_bytes()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json(), json!({"code": 0, "pid": std::process::id().to_string()}));
    let listed = api.get("/api/v1/origins").await.json();
    let origin = &listed["origins"][0];
    assert_eq!(origin["id"], "vid-0831146-312k9529-3556");
    assert_eq!(origin["device_id"], "origin1");
    assert_eq!(origin["state"], "active");
    assert_eq!(origin["endpoints"]["rtmp"], json!(["tcp://:19351"]));
    assert_eq!(origin["endpoints"]["rtc"], json!(["udp://:8001"]));
    assert!(origin["age_seconds"].as_f64().is_some_and(|age| age < 20.0), "{origin}");
}

#[tokio::test]
async fn an_origin_is_drained_by_its_server_or_its_id_and_shows_what_is_left() {
    let api = start(None, &[]).await;
    for server in ["a", "b"] {
        api.register(&heartbeat(server)).await;
    }
    let key = StreamKey::of_claim("v/live/show").unwrap();
    let pick = async || api.cluster.pick(&key, Listener::Rtmp, &[]).await.unwrap();
    let lease = pick().await;
    let run = lease.origin().name().to_string();
    let client = "192.0.2.1:5000".parse().unwrap();
    let ends = Ends { source: client, destination: client };
    let live = api.sessions.admit(ends, Protocol::Rtmp).unwrap();
    live.session().note(|progress| progress.origin = Some((run.as_str().into(), client)));
    let drained = api.order("POST", &format!("/api/v1/origins/{run}/drain")).await;
    assert_eq!((&drained["id"], &drained["state"]), (&json!(run), &json!("draining")));
    let used = json!({"streams": 1, "streams_elsewhere": 0, "sessions": 1,
                      "sessions_elsewhere": 0, "is_empty": false});
    assert_eq!(drained["progress"], used);
    assert_eq!(pick().await.origin().name(), lease.origin().name(), "its stream stays");
    for n in 0..10 {
        let key = StreamKey::of_claim(&format!("v/live/{n}")).unwrap();
        let other = api.cluster.pick(&key, Listener::Rtmp, &[]).await.unwrap();
        assert_ne!(other.origin().name(), lease.origin().name(), "a new stream came to it");
    }
    let server = lease.origin().server().clone();
    drop((live, lease));
    let empty = api.get(&format!("/api/v1/origins/{server}")).await.json();
    assert_eq!(empty["origin"]["progress"]["is_empty"], true, "{empty}");
    let repaired = api.order("POST", &format!("/api/v1/origins/{server}/maintenance")).await;
    assert_eq!(repaired["state"], "maintenance");
    let active = api.order("POST", &format!("/api/v1/origins/{server}/activate")).await;
    assert_eq!(active["state"], "active");
    for (method, target) in [
        ("GET", "/api/v1/origins/c"),
        ("DELETE", "/api/v1/origins/c"),
        ("POST", "/api/v1/origins/c/drain"),
        ("POST", "/api/v1/origins/c/activate"),
    ] {
        assert_eq!(api.ask(method, target, "", "").await.refusal(404), "no such origin");
    }
    api.ask("POST", "/api/v1/origins/a", "", "").await.refusal(405);
    api.ask("GET", "/api/v1/origins/a/drain", "", "").await.refusal(405);
}

#[tokio::test]
async fn an_origin_that_was_taken_out_is_heard_again_when_it_is_activated_or_runs_anew() {
    let api = start(None, &[]).await;
    api.register(&heartbeat("a")).await;
    let out = api.order("DELETE", "/api/v1/origins/a").await;
    assert_eq!((&out["id"], &out["state"]), (&json!("a-x-7"), &json!("withdrawn")));
    api.get("/api/v1/origins/a").await.refusal(404);
    let why = api.register(&heartbeat("a")).await.refusal(409);
    assert_eq!(why, "server: taken out; restart it, or let it be activated");
    let anew = heartbeat("a").replace('7', "8");
    assert_eq!(api.register(&anew).await.status, 200);
    api.order("DELETE", "/api/v1/origins/a-x-8").await;
    for id in ["a", "a-x-8"] {
        api.register(&anew).await.refusal(409);
        assert_eq!(api.order("POST", &format!("/api/v1/origins/{id}/activate")).await, Value::Null);
        assert_eq!(api.register(&anew).await.status, 200, "activated by {id}");
        api.order("DELETE", "/api/v1/origins/a").await;
    }
}

#[tokio::test]
async fn the_default_origin_is_put_into_maintenance_and_not_taken_out() {
    let fixed = Origin::fixed("127.0.0.1", &[(Listener::Rtmp, "1935")]).unwrap();
    let server = fixed.server().clone();
    let settings = BalancerSettings { fixed: Some(fixed), ..Default::default() };
    let (cluster, limits) = (Cluster::alone(settings), Limits::default());
    let api = start_with(cluster, TrustedProxies::default(), limits, None, &[]).await;
    let target = format!("/api/v1/origins/{server}");
    let why = api.ask("DELETE", &target, "", "").await.refusal(409);
    assert!(why.contains("maintenance"), "{why}");
    let origin = api.order("POST", &format!("{target}/maintenance")).await;
    assert_eq!((&origin["state"], &origin["fixed"]), (&json!("maintenance"), &json!(true)));
}

#[tokio::test]
async fn without_its_store_a_proxy_is_ready_and_degraded_and_takes_no_orders() {
    let me = ProxyId::of_host("here", 1);
    let limits = MemoryLimits {
        route_life: Duration::from_mins(1),
        withdrawn_life: Duration::from_mins(1),
        max_routes: 10,
        max_records: 10,
    };
    let how = Arc::<AtomicU8>::default();
    let store = Cut { store: MemoryStore::new(me.clone(), limits), how: Arc::clone(&how) };
    let balancer = Balancer::new(BalancerSettings::default());
    let cluster = Arc::new(Cluster::new(me, balancer, Arc::new(store)));
    let limits = Limits::default();
    let api = start_with(cluster, TrustedProxies::default(), limits, None, &[]).await;
    api.register(&heartbeat("a")).await;
    let healthy = api.get("/api/v1/cluster").await.json();
    let store = &healthy["cluster"]["store"];
    assert_eq!((&store["kind"], &store["state"]), (&json!("cut"), &json!("healthy")), "{healthy}");
    assert_eq!(api.get("/readyz").await.json().get("degraded"), None);
    how.store(LATE, Ordering::Relaxed);
    for (method, target) in [
        ("POST", "/api/v1/origins/a/drain"),
        ("POST", "/api/v1/origins/a/maintenance"),
        ("POST", "/api/v1/origins/a/activate"),
        ("DELETE", "/api/v1/origins/a"),
    ] {
        let why = api.ask(method, target, "", "").await.refusal(503);
        assert_eq!(why, "store: no answer in time", "{method} {target}");
    }
    let ready = api.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    assert_eq!(ready.json()["degraded"], "store: no answer in time");
    let cluster = api.get("/api/v1/cluster").await.json()["cluster"].take();
    assert_eq!(
        (&cluster["store"]["state"], &cluster["store"]["reason"]),
        (&json!("degraded"), &json!("no answer in time")),
        "{cluster}"
    );
    let origin = api.get("/api/v1/origins/a").await.json()["origin"].take();
    assert_eq!(origin["progress"]["is_empty"], false, "nobody knows what goes on elsewhere");
    let metrics = api.get("/metrics").await.body;
    for line in [
        "srs_proxy_store_degraded{} 1",
        "srs_proxy_store_errors_total{reason=\"late\"} 4",
        "srs_proxy_store_seconds_count{ask=\"write\"} 4",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let route = api.get("/api/v1/streams/route?url=rtmp://h/live/s").await.json()["route"].take();
    let reason = "a new route, by the policy rendezvous: the store does not answer";
    assert_eq!((&route["origin"], &route["reason"]), (&json!("a-x-7"), &json!(reason)));
}

#[tokio::test]
async fn a_bad_heartbeat_is_refused_by_its_member_and_changes_nothing() {
    let api = start(None, &[]).await;
    for (body, names) in [
        ("", "body"),
        ("not json", "body"),
        ("{}", "ip"),
        (r#"{"ip":"10.0.0.1"}"#, "server"),
        (r#"{"ip":"10.0.0.1","server":"s","service":"x","pid":"1"}"#, "rtmp"),
        (r#"{"ip":"10.0.0.1","server":"s","service":"x","pid":"1","rtmp":["0"]}"#, "rtmp"),
    ] {
        let error = api.register(body).await.refusal(400);
        assert!(error.starts_with(names), "{body} gave {error}");
    }
    let large = format!("{{\"ip\":\"{}\"}}", "x".repeat(200 * 1024));
    assert_eq!(api.register(&large).await.refusal(413), "body: more than 64 KiB");
    for method in ["GET", "PUT", "DELETE"] {
        let answer = api.ask(method, "/api/v1/srs/register", "", &heartbeat("s")).await;
        answer.refusal(405);
        assert!(answer.head.contains("allow: post"), "{answer:?}");
    }
    assert!(
        api.cluster.balancer().origins(Instant::now()).is_empty(),
        "a refused origin is listed"
    );
}

#[tokio::test]
async fn a_full_table_refuses_one_more_server() {
    let api = start(None, &[]).await;
    for server in ["a", "b"] {
        assert_eq!(api.register(&heartbeat(server)).await.status, 200);
    }
    api.register(&heartbeat("c")).await.refusal(503);
    assert_eq!(api.register(&heartbeat("a")).await.status, 200, "a known one is always heard");
}

#[tokio::test]
async fn a_route_is_explained_without_being_made() {
    let api = start(None, &[]).await;
    let target = "/api/v1/streams/route?url=rtmp://example.com/live/livestream%3Ftoken%3Da";
    let route = api.get(target).await.json()["route"].take();
    assert_eq!(route["stream"], "__defaultVhost__/live/livestream");
    assert_eq!(
        (&route["origin"], &route["reason"]),
        (&json!(null), &json!("no origin is registered"))
    );
    api.register(&heartbeat("a")).await;
    let route = api.get(target).await.json()["route"].take();
    assert_eq!(route["origin"], "a-x-7");
    assert_eq!(route["target"], json!({"host": "10.0.0.1", "port": 1935}));
    let by_http = api.get("/api/v1/streams/route?url=http://h/live/livestream.flv").await.json();
    assert_eq!(by_http["route"]["target"]["port"], 8080);
    assert_eq!(api.cluster.balancer().counts(Instant::now()).routes_idle, 0, "asking made a route");
    for bad in ["/api/v1/streams/route", "/api/v1/streams/route?url=ftp://h/live/s"] {
        assert!(api.get(bad).await.refusal(400).starts_with("url: "), "{bad}");
    }
}

#[tokio::test]
async fn live_sessions_are_shown() {
    let api = start(None, &[]).await;
    let client = "192.0.2.1:5000".parse().unwrap();
    let ends = Ends { source: client, destination: client };
    let live = api.sessions.admit(ends, Protocol::Rtmp).unwrap();
    live.session().note(|progress| progress.role = Some(Role::Play));
    let list = api.get("/api/v1/sessions").await.json();
    let id = list["sessions"][0]["id"].as_str().unwrap_or_else(|| panic!("{list}")).to_owned();
    let one = api.get(&format!("/api/v1/sessions/{id}")).await.json();
    assert_eq!((&one["session"]["id"], &one["session"]["role"]), (&json!(id), &json!("play")));
    drop(live);
    api.get(&format!("/api/v1/sessions/{id}")).await.refusal(404);
}

#[tokio::test]
async fn versions_health_readiness_and_metrics_answer() {
    let api = start(None, &[]).await;
    let versions = api.get("/api/v1/versions").await;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(versions.json(), json!({"signature": "srs-proxy", "version": version}));
    assert!(versions.head.contains(&format!("server: srs-proxy/{version}")), "{versions:?}");
    assert!(versions.head.contains("content-type: application/json"), "{versions:?}");
    assert_eq!(api.get("/healthz").await.status, 200);
    let ready = json!({"ready": true, "origins": 0, "sessions": 0});
    assert_eq!(api.get("/readyz").await.json(), ready);
    api.draining.cancel();
    let draining = api.get("/readyz").await;
    assert_eq!((draining.status, &draining.json()["reason"]), (503, &json!("draining")));
    assert_eq!(api.get("/healthz").await.status, 200, "a draining proxy is alive");
    let metrics = api.get("/metrics").await;
    assert!(metrics.head.contains("content-type: application/openmetrics-text"), "{metrics:?}");
    assert!(metrics.body.ends_with("# EOF\n"), "{metrics:?}");
    let missing = api.get("/api/v1/nothing").await;
    assert_eq!(missing.refusal(404), "no such endpoint");
    assert!(missing.head.contains("server: srs-proxy/"), "{missing:?}");
}

#[tokio::test]
async fn with_a_token_only_its_bearers_use_the_api() {
    let api = start(Some("s3cret"), &[]).await;
    let closed = [
        ("POST", "/api/v1/srs/register"),
        ("GET", "/api/v1/srs/register"),
        ("GET", "/api/v1/origins"),
        ("GET", "/api/v1/origins/a"),
        ("DELETE", "/api/v1/origins/a"),
        ("POST", "/api/v1/origins/a/drain"),
        ("POST", "/api/v1/origins/a/maintenance"),
        ("POST", "/api/v1/origins/a/activate"),
        ("GET", "/api/v1/cluster"),
        ("GET", "/api/v1/sessions"),
        ("GET", "/api/v1/sessions/s000001"),
        ("GET", "/api/v1/streams/route?url=rtmp://h/live/s"),
    ];
    for (method, target) in closed {
        for header in [
            "",
            "Authorization: Bearer wrong\r\n",
            "Authorization: Bearer s3cretX\r\n",
            "Authorization: Bearer\r\n",
            "Authorization: Basic s3cret\r\n",
            "Authorization: s3cret\r\n",
        ] {
            let answer = api.ask(method, target, header, &heartbeat("s")).await;
            answer.refusal(401);
            assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
        }
    }
    assert!(api.cluster.balancer().origins(Instant::now()).is_empty());
    for header in ["Authorization: Bearer s3cret\r\n", "authorization: bearer s3cret\r\n"] {
        let answer = api.ask("POST", "/api/v1/srs/register", header, &heartbeat("s")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for open in ["/api/v1/versions", "/metrics", "/healthz", "/readyz"] {
        assert_eq!(api.get(open).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn with_a_list_only_its_addresses_use_the_api() {
    let api = start(None, &["10.0.0.0/8", "::1/128"]).await;
    for closed in ["/api/v1/versions", "/api/v1/origins", "/metrics", "/nothing"] {
        api.get(closed).await.refusal(403);
    }
    api.register(&heartbeat("s")).await.refusal(403);
    for open in ["/healthz", "/readyz"] {
        assert_eq!(api.get(open).await.status, 200, "{open}");
    }
    let api = start(None, &["127.0.0.0/8"]).await;
    assert_eq!(api.register(&heartbeat("s")).await.status, 200);
}

#[tokio::test]
async fn a_trusted_proxy_says_whose_address_has_to_be_in_the_list() {
    let trusted = TrustedProxies::from(vec!["127.0.0.1/32".parse().unwrap()]);
    let api = start_behind(trusted, Limits::default(), None, &["192.0.2.1/32"]).await;
    let request = "GET /api/v1/versions HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n";
    for (client, status) in [("192.0.2.1", 200), ("192.0.2.2", 403)] {
        let told = format!("PROXY TCP4 {client} 198.51.100.1 1 2\r\n{request}");
        assert_eq!(api.raw(told.as_bytes()).await.status, status, "{client}");
    }
    let mut untold = TcpStream::connect(api.address).await.unwrap();
    untold.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Closed, or reset, as what it sent is not read.
    let _end = untold.read_to_end(&mut answer).await;
    assert_eq!(answer, b"", "answered without a header");
}

#[tokio::test]
async fn an_ipv4_client_of_a_dual_stack_socket_is_its_ipv4_self() {
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:1".parse().unwrap();
    let ip: std::net::IpAddr = gate::ClientIp::from(mapped).into();
    assert_eq!(ip.to_string(), "127.0.0.1");
}

#[tokio::test]
async fn who_sends_slowly_is_cut_off_and_the_others_are_answered() {
    let short = Duration::from_millis(300);
    let limits = Limits { head: short, request: short, per_client: 4, ..Default::default() };
    let api = start_within(limits, None, &[]).await;
    // Two never finish their head, one never finishes its body.
    let mut slow = Vec::new();
    for request in [
        "GET /healthz HT",
        "GET /healthz HTTP/1.1\r\nX: ",
        "POST /api/v1/srs/register HTTP/1.1\r\nHost: p\r\nContent-Length: 100\r\n\r\n{",
    ] {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    assert_eq!(api.get("/healthz").await.status, 200);
    for mut stream in slow {
        let mut answer = Vec::new();
        let closed = stream.read_to_end(&mut answer);
        let closed = tokio::time::timeout(Duration::from_secs(10), closed).await;
        assert!(closed.is_ok(), "a slow client is never cut off");
        if !answer.is_empty() {
            let status = Answer::parse(&answer).status;
            assert_eq!(status, 408);
        }
    }
}

#[tokio::test]
async fn one_address_takes_no_more_than_its_share_of_connections() {
    let limits = Limits { per_client: 2, ..Default::default() };
    let api = start_within(limits, None, &[]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: p\r\n\r\n").await.unwrap();
        stream.readable().await.unwrap();
        held.push(stream);
    }
    let mut third = TcpStream::connect(api.address).await.unwrap();
    let mut byte = [0];
    let closed = tokio::time::timeout(Duration::from_secs(10), third.read(&mut byte)).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "the third connection is kept: {closed:?}");
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n";
        let mut answer = Vec::new();
        let sent = stream.write_all(request).await.is_ok();
        if sent && stream.read_to_end(&mut answer).await.is_ok() && !answer.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "closed connections keep their places");
    }
}

#[tokio::test]
async fn when_stopped_it_ends_with_idle_connections_open() {
    let mut api = start(None, &[]).await;
    let mut idle = TcpStream::connect(api.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: p\r\n\r\n").await.unwrap();
    idle.readable().await.unwrap();
    api.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), &mut api.served).await;
    assert!(ended.is_ok(), "the API does not end");
    assert!(TcpStream::connect(api.address).await.is_err(), "it still listens");
}
