//! Wiring: what listens, who serves it, and what they share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tracing::{info, warn};

use crate::api::{self, ApiState};
use crate::config::{Config, DefaultBackend, ListenAddrs};
use crate::drain::Stop;
use crate::listen::tcp::{self, Bound};
use crate::listen::udp::{self, Group};
use crate::listen::{Arrival, Entrance, NoArrival};
use crate::metrics;
use crate::origin::{Balancer, BalancerSettings, Listener, Origin};
use crate::pages::Pages;
use crate::plane::datagram::{Socket, Train};
use crate::plane::{Patience, ebpf_object};
use crate::session::http::{self, Hop, Http, HttpPeers, HttpSettings};
use crate::session::rtmp::{Rtmp, RtmpSettings};
use crate::session::webrtc::{Webrtc, WebrtcSettings};
use crate::session::{Dialer, End, Live, Protocol, Serve, SessionLimits, Sessions, serve};
use crate::stream::Tokens;
use crate::telemetry::Seldom;

/// For all tasks to end when the proxy stops.
const FINISH: Duration = Duration::from_secs(3);

/// Receive buffer of a session's own socket towards its origin, in bytes: a second of media.
const SESSION_BUFFER: usize = 1024 * 1024;

/// How often what has expired is swept out.
const SWEEP: Duration = Duration::from_secs(5);

/// Everything bound, nothing started.
pub struct App {
    rtmp: Arc<Rtmp>,
    rtmp_listeners: Vec<TcpListener>,
    http: Arc<Http>,
    http_listeners: Vec<TcpListener>,
    webrtc: Arc<Webrtc>,
    webrtc_sockets: Vec<Arc<Socket>>,
    webrtc_listeners: Vec<TcpListener>,
    api: ApiState,
    api_listeners: Vec<TcpListener>,
    balancer: Arc<Balancer>,
    sessions: Arc<Sessions>,
    entrance: Arc<Entrance>,
    stop: Stop,
}

impl App {
    /// Binds every listener, or says which one cannot be. At most `most_sessions` are let in.
    pub fn bind(config: &Config, most_sessions: usize) -> anyhow::Result<Self> {
        let rtmp = bind("PROXY_RTMP_SERVER", &config.rtmp.listen)?;
        let http = bind("PROXY_HTTP_SERVER", &config.http.listen)?;
        let api = bind("PROXY_SYSTEM_API", &config.system_api.listen)?;
        let webrtc = bind_udp("PROXY_WEBRTC_SERVER", &config.webrtc.listen)?;
        let webrtc_tcp = config.webrtc.listen_tcp.as_ref();
        let webrtc_tcp = webrtc_tcp.map(|listen| bind("PROXY_WEBRTC_TCP_SERVER", listen));
        // Not before all are bound: nobody is let in by a proxy that cannot start.
        let balancer = Arc::new(Balancer::new(balancer_settings(config)?));
        let rtmp_listeners = listen("PROXY_RTMP_SERVER", rtmp)?;
        let http_listeners = listen("PROXY_HTTP_SERVER", http)?;
        let api_listeners = listen("PROXY_SYSTEM_API", api)?;
        let webrtc_tcp = webrtc_tcp.transpose()?.unwrap_or_default();
        let webrtc_listeners = listen("PROXY_WEBRTC_TCP_SERVER", webrtc_tcp)?;
        let webrtc_addresses: Vec<_> = webrtc.iter().map(Group::address).collect();
        let webrtc_sockets = open_udp("PROXY_WEBRTC_SERVER", webrtc, config.udp_buffer)?;
        let stop = Stop::default();
        let sessions = Sessions::new(SessionLimits {
            total: most_sessions,
            per_client: config.session.max_per_client,
            shared: config.client.trusted.clone(),
        });
        let webrtc = WebrtcSettings {
            candidates: config.webrtc.candidates.clone(),
            udp: webrtc_addresses,
            tcp: addresses(&webrtc_listeners)?,
            consent_timeout: config.webrtc.consent_timeout,
            buffer: SESSION_BUFFER,
        };
        let webrtc = Webrtc::new(webrtc, Arc::clone(&sessions), stop.sessions.clone());
        let vhosts = config.balancer.vhosts.clone();
        let counts = Arc::new(http::Counts::default());
        let drops = [Arc::clone(webrtc.drops()), Arc::default()];
        let metrics = metrics::registry(
            Arc::clone(&sessions),
            Arc::clone(&balancer),
            Arc::clone(&counts),
            drops,
        );
        let api = ApiState {
            balancer: Arc::clone(&balancer),
            sessions: Arc::clone(&sessions),
            vhosts: vhosts.clone(),
            metrics: Arc::new(metrics),
            auth: config.system_api.token.as_ref().map(|token| token.reveal().to_owned()),
            allow: config.system_api.allow.clone(),
            refusals: Seldom::default(),
            draining: stop.draining.clone(),
        };
        let listeners = rtmp_listeners.iter().chain(&http_listeners).chain(&api_listeners);
        let dialer = Arc::new(Dialer {
            connect_timeout: config.origin.connect_timeout,
            listening: listeners.map(TcpListener::local_addr).collect::<Result<_, _>>()?,
            announce: config.client.send,
        });
        let rtmp = Rtmp::new(
            rtmp_settings(config),
            Arc::clone(&balancer),
            Arc::clone(&dialer),
            vhosts.clone(),
        );
        let entrance = Arc::new(Entrance::new(config.client.trusted.clone(), config.client.accept));
        let rtmp_port = rtmp_listeners.first().and_then(|l| l.local_addr().ok());
        let pages = Pages::new(
            config.static_files.clone(),
            Arc::clone(&sessions),
            rtmp_port.map(|address| address.port()),
        );
        let peers = HttpPeers {
            balancer: Arc::clone(&balancer),
            dialer,
            vhosts,
            tokens: tokens(config)?,
            pages: Arc::new(pages),
            counts,
        };
        let http = Http::new(http_settings(config)?, peers, stop.draining.clone());
        Ok(Self {
            rtmp,
            rtmp_listeners,
            http,
            http_listeners,
            webrtc,
            webrtc_sockets,
            webrtc_listeners,
            api,
            api_listeners,
            balancer,
            sessions,
            entrance,
            stop,
        })
    }

    /// Starts everything.
    pub fn start(self) -> Running {
        info!("{}", ebpf_object::describe());
        let mut tasks = JoinSet::new();
        let desk = Arc::new(Desk {
            entrance: Arc::clone(&self.entrance),
            sessions: self.sessions.clone(),
            refusals: Seldom::default(),
            stop: self.stop.clone(),
        });
        open(&mut tasks, self.rtmp_listeners, &self.rtmp, &desk);
        open(&mut tasks, self.http_listeners, &self.http, &desk);
        open_webrtc(&mut tasks, self.webrtc_listeners, &self.webrtc, &desk);
        for socket in self.webrtc_sockets {
            let (webrtc, stop) = (Arc::clone(&self.webrtc), self.stop.sessions.clone());
            let arrived = move |socket: &_, train: Train<'_>| webrtc.arrived(socket, &train);
            tasks.spawn(udp::receive(socket, stop, arrived));
        }
        let (webrtc, stop) = (Arc::clone(&self.webrtc), self.stop.sessions.clone());
        tasks.spawn(async move {
            let _stopped = stop.run_until_cancelled(webrtc.watch()).await;
        });
        // The API answers to the very end, so that a drain can be watched.
        let allow = self.api.allow.clone();
        let router = api::router(self.api);
        let stop = self.stop.sessions.clone();
        tasks.spawn(api::serve(self.api_listeners, self.entrance, router, allow, stop));
        let stop = self.stop.sessions.clone();
        tasks.spawn(async move {
            let sweep = sweep(self.balancer, self.http);
            let _stopped = stop.run_until_cancelled_owned(sweep).await;
        });
        info!(version = env!("CARGO_PKG_VERSION"), "ready");
        Running { stop: self.stop, sessions: self.sessions, tasks }
    }
}

/// The proxy at work.
pub struct Running {
    /// Stops it.
    pub stop: Stop,
    /// Whom a stop waits for.
    pub sessions: Arc<Sessions>,
    tasks: JoinSet<()>,
}

impl Running {
    /// Lets every task end: the API writes its last answers.
    pub async fn finish(mut self) {
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // They have their own deadlines, which are shorter.
        let _late = timeout(FINISH, ended).await;
    }

    /// Returns if a task that everything needs has ended by itself: a proxy that lives on without
    /// accepting anybody would be found dead last of all by whoever watches it.
    pub async fn until_a_task_fails(&mut self) -> anyhow::Error {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) => return anyhow!("a task has failed: {error}"),
                Some(Ok(())) if !self.stop.draining.is_cancelled() => {
                    return anyhow!("a task has ended by itself");
                }
                Some(Ok(())) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Accepts the clients of one protocol until the proxy takes no more.
fn open<S: Serve>(
    tasks: &mut JoinSet<()>,
    listeners: Vec<TcpListener>,
    service: &Arc<S>,
    desk: &Arc<Desk>,
) {
    for listener in listeners {
        let draining = desk.stop.draining.clone();
        let (service, desk) = (Arc::clone(service), Arc::clone(desk));
        let come = move |socket, peer| {
            let (desk, service) = (Arc::clone(&desk), Arc::clone(&service));
            tokio::spawn(async move {
                if let Some((socket, live)) = desk.admit(socket, peer, S::PROTOCOL).await {
                    serve(&*service, socket, live, &desk.stop.sessions).await;
                }
            });
        };
        tasks.spawn(tcp::accept(listener, draining, come));
    }
}

/// Accepts connections that carry datagrams of WebRTC.
fn open_webrtc(
    tasks: &mut JoinSet<()>,
    listeners: Vec<TcpListener>,
    webrtc: &Arc<Webrtc>,
    desk: &Arc<Desk>,
) {
    for listener in listeners {
        let draining = desk.stop.draining.clone();
        let (webrtc, desk) = (Arc::clone(webrtc), Arc::clone(desk));
        let come = move |socket, peer| {
            let (desk, webrtc) = (Arc::clone(&desk), Arc::clone(&webrtc));
            tokio::spawn(async move {
                let arrival = desk.receive(socket, peer, Protocol::Webrtc).await;
                if let Some(Arrival { socket, ends, .. }) = arrival {
                    let serve = webrtc.serve_tcp(socket, ends);
                    let _stopped = desk.stop.sessions.run_until_cancelled(serve).await;
                }
            });
        };
        tasks.spawn(tcp::accept(listener, draining, come));
    }
}

/// Lets clients in.
struct Desk {
    entrance: Arc<Entrance>,
    sessions: Arc<Sessions>,
    refusals: Seldom,
    stop: Stop,
}

impl Desk {
    /// Waits until it is known who the client is, and lets it in. One that is refused is counted,
    /// and learns it by the closed connection.
    async fn admit(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        protocol: Protocol,
    ) -> Option<(TcpStream, Live)> {
        let Arrival { socket, ends, .. } = self.receive(socket, peer, protocol).await?;
        match self.sessions.admit(ends, protocol) {
            Ok(live) => Some((socket, live)),
            Err(end) => {
                self.say_refused(ends.source, end, None);
                None
            }
        }
    }

    /// Waits until it is known who the client is.
    async fn receive(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        protocol: Protocol,
    ) -> Option<Arrival> {
        match self.entrance.receive(socket, peer).await {
            Ok(arrival) => Some(arrival),
            Err(error) => {
                let end = End::from(&error);
                self.sessions.refuse(protocol, end);
                // Health checks come and go without a word.
                if !matches!(error, NoArrival::Silent | NoArrival::Lost(_)) {
                    let client = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    self.say_refused(client, end, Some(error));
                }
                None
            }
        }
    }

    fn say_refused(&self, client: SocketAddr, end: End, why: Option<NoArrival>) {
        if let Some(unsaid) = self.refusals.say(Instant::now()) {
            let why = why.map(|why| why.to_string());
            warn!(%client, end = end.as_str(), why, unsaid, "client refused");
        }
    }
}

async fn sweep(balancer: Arc<Balancer>, http: Arc<Http>) {
    let mut tick = interval(SWEEP);
    loop {
        tick.tick().await;
        let now = Instant::now();
        balancer.sweep(now);
        http.sweep(now);
    }
}

fn bind(name: &'static str, addresses: &ListenAddrs) -> anyhow::Result<Vec<Bound>> {
    tcp::bind(addresses).with_context(|| format!("{name}=\"{addresses}\""))
}

fn listen(name: &'static str, bound: Vec<Bound>) -> anyhow::Result<Vec<TcpListener>> {
    let listen = |bound: Bound| {
        let listener = bound.listen().with_context(|| format!("{name}: cannot listen"))?;
        info!(server = name, address = %listener.local_addr()?, "listening");
        Ok(listener)
    };
    bound.into_iter().map(listen).collect()
}

fn addresses(listeners: &[TcpListener]) -> io::Result<Vec<SocketAddr>> {
    listeners.iter().map(TcpListener::local_addr).collect()
}

fn bind_udp(name: &'static str, addresses: &ListenAddrs) -> anyhow::Result<Vec<Group>> {
    udp::bind(addresses).with_context(|| format!("{name}=\"{addresses}\""))
}

fn open_udp(
    name: &'static str,
    groups: Vec<Group>,
    buffer: usize,
) -> anyhow::Result<Vec<Arc<Socket>>> {
    let mut sockets = Vec::new();
    for group in groups {
        let address = group.address();
        let opened = group.open(buffer).with_context(|| format!("{name}: cannot listen"))?;
        info!(server = name, %address, sockets = opened.len(), "listening");
        sockets.extend(opened);
    }
    Ok(sockets)
}

fn rtmp_settings(config: &Config) -> RtmpSettings {
    RtmpSettings {
        handshake_timeout: config.rtmp.handshake_timeout,
        command_timeout: config.rtmp.command_timeout,
        connect_timeout: config.origin.connect_timeout,
        answer_timeout: config.origin.answer_timeout,
        setup_timeout: config.origin.setup_timeout,
        patience: patience(config),
        max_message: config.rtmp.max_message,
        max_chunk_streams: config.rtmp.max_chunk_streams,
    }
}

fn http_settings(config: &Config) -> anyhow::Result<HttpSettings> {
    Ok(HttpSettings {
        head_timeout: config.http.head_timeout,
        keepalive_timeout: config.http.keepalive_timeout,
        origin_timeout: config.http.origin_timeout,
        setup_timeout: config.origin.setup_timeout,
        patience: patience(config),
        idle_connections: config.http.idle_connections,
        hop: Hop {
            trusted: config.client.trusted.clone(),
            pseudonym: format!("srs-proxy-{:08x}", getrandom::u32()?),
        },
    })
}

fn patience(config: &Config) -> Patience {
    Patience { idle: config.session.idle_timeout, stall: config.session.stall_timeout }
}

/// The key that proxies share, or one of this process's own.
fn tokens(config: &Config) -> anyhow::Result<Tokens> {
    let Some(secret) = &config.http.secret else {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        return Ok(Tokens::new(&secret));
    };
    Ok(Tokens::new(secret.reveal().as_bytes()))
}

fn balancer_settings(config: &Config) -> anyhow::Result<BalancerSettings> {
    let fixed = config.default_backend.as_ref().map(default_origin).transpose()?;
    Ok(BalancerSettings {
        policy: config.balancer.policy,
        origin_ttl: config.origin.ttl,
        route_idle_ttl: config.balancer.route_idle_ttl,
        max_origins: config.origin.max,
        max_routes: config.balancer.max_routes,
        fixed,
        seed: getrandom::u64()?,
    })
}

fn default_origin(backend: &DefaultBackend) -> anyhow::Result<Origin> {
    let text = |port: u16| port.to_string();
    let http = backend.http.map(text).unwrap_or_default();
    let (rtmp, api, rtc, srt) =
        (text(backend.rtmp), text(backend.api), text(backend.rtc), text(backend.srt));
    let endpoints = [
        (Listener::Rtmp, rtmp.as_str()),
        (Listener::Http, &http),
        (Listener::Api, &api),
        (Listener::Rtc, &rtc),
        (Listener::Srt, &srt),
    ];
    Origin::fixed(&backend.ip, &endpoints)
        .with_context(|| format!("PROXY_DEFAULT_BACKEND_IP={}", backend.ip))
}
