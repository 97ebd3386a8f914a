//! Wiring: what listens, who serves it, and what they share.

mod listeners;
mod settings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tracing::{debug, info, warn};

use self::listeners::{Listeners, addresses};
use crate::api::{self, ApiState};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::drain::Stop;
use crate::listen::media::MediaOptions;
use crate::listen::{Arrival, Entrance, NoArrival, tcp, udp};
use crate::metrics;
use crate::pages::Pages;
use crate::plane::StreamPlane;
use crate::plane::datagram::Train;
use crate::plane::kernel::Kernel;
use crate::session::http::{self, Http, HttpApi, HttpPeers};
use crate::session::memo::{Matter, Memo};
use crate::session::rtmp::Rtmp;
use crate::session::srt::Srt;
use crate::session::webrtc::Webrtc;
use crate::session::{Dialer, End, Estate, Live, NotAdopted, Protocol, Serve, Sessions, serve};
use crate::telemetry::Seldom;

/// For all tasks to end when the proxy stops.
const FINISH: Duration = Duration::from_secs(3);

/// How often what has expired is swept out.
const SWEEP: Duration = Duration::from_secs(5);

/// Everything bound, nothing started.
pub struct App {
    listeners: Listeners,
    rtmp: Arc<Rtmp>,
    http: Arc<Http>,
    webrtc: Arc<Webrtc>,
    srt: Arc<Srt>,
    kernel: Kernel,
    api: ApiState,
    cluster: Arc<Cluster>,
    sessions: Arc<Sessions>,
    entrance: Arc<Entrance>,
    options: MediaOptions,
    stop: Stop,
}

impl App {
    /// Binds every listener, or says which one cannot be. At most `most_sessions` are let in.
    pub async fn bind(
        config: &Config,
        kernel: Kernel,
        most_sessions: usize,
    ) -> anyhow::Result<Self> {
        let listeners = Listeners::bind(config)?;
        let cluster = settings::cluster(config).await?;
        let stop = Stop::default();
        let sessions = Sessions::new(settings::sessions(config, most_sessions));
        let vhosts = config.balancer.vhosts.clone();
        let webrtc = Webrtc::new(
            settings::webrtc(
                config,
                listeners.webrtc.addresses.clone(),
                addresses(&listeners.webrtc_tcp)?,
            ),
            Arc::clone(&sessions),
            Arc::clone(&cluster),
            kernel.clone(),
            stop.sessions.clone(),
        );
        let srt = Srt::new(
            settings::srt(config, listeners.srt.addresses.clone()),
            Arc::clone(&sessions),
            Arc::clone(&cluster),
            vhosts.clone(),
            settings::cookies()?,
            kernel.clone(),
            stop.clone(),
        );
        let streams = StreamPlane::start(&settings::streams(config));
        streams.introduce();
        let counts = Arc::new(http::Counts::default());
        let metrics = metrics::registry(
            Arc::clone(&sessions),
            Arc::clone(&cluster),
            Arc::clone(&counts),
            [Arc::clone(webrtc.drops()), Arc::clone(srt.drops())],
            kernel.clone(),
            streams.clone(),
        );
        let api = ApiState {
            cluster: Arc::clone(&cluster),
            sessions: Arc::clone(&sessions),
            kernel: kernel.clone(),
            streams: streams.clone(),
            vhosts: vhosts.clone(),
            metrics: Arc::new(metrics),
            auth: config.system_api.token.as_ref().map(|token| token.reveal().to_owned()),
            allow: config.system_api.allow.clone(),
            refusals: Seldom::default(),
            draining: stop.draining.clone(),
        };
        let options = settings::media(config);
        let dialer = Arc::new(Dialer {
            connect_timeout: config.origin.connect_timeout,
            listening: listeners.tcp_addresses()?,
            announce: config.client.send,
            options,
        });
        let rtmp = Rtmp::new(
            settings::rtmp(config),
            Arc::clone(&cluster),
            Arc::clone(&dialer),
            streams.clone(),
            vhosts.clone(),
        );
        let rtmp_port = addresses(&listeners.rtmp)?.first().map(SocketAddr::port);
        let pages = Pages::new(config.static_files.clone(), Arc::clone(&sessions), rtmp_port);
        let peers = HttpPeers {
            cluster: Arc::clone(&cluster),
            dialer,
            plane: streams,
            vhosts,
            tokens: settings::tokens(config, &kernel, &cluster).await?,
            pages: Arc::new(pages),
            webrtc: Arc::clone(&webrtc),
            counts,
        };
        let http = Http::new(settings::http(config)?, peers, stop.draining.clone());
        let entrance = Arc::new(Entrance::new(config.client.trusted.clone(), config.client.accept));
        Ok(Self {
            listeners,
            rtmp,
            http,
            webrtc,
            srt,
            kernel,
            api,
            cluster,
            sessions,
            entrance,
            options,
            stop,
        })
    }

    /// Starts everything.
    pub fn start(self) -> Running {
        self.adopt();
        let mut tasks = JoinSet::new();
        let desk = Arc::new(Desk {
            entrance: Arc::clone(&self.entrance),
            sessions: self.sessions.clone(),
            options: self.options,
            refusals: Seldom::default(),
            stop: self.stop.clone(),
        });
        let listeners = self.listeners;
        open(&mut tasks, listeners.rtmp, &self.rtmp, &desk);
        open(&mut tasks, listeners.http, &self.http, &desk);
        let http_api = Arc::new(HttpApi(Arc::clone(&self.http)));
        open(&mut tasks, listeners.http_api, &http_api, &desk);
        open_webrtc(&mut tasks, listeners.webrtc_tcp, &self.webrtc, &desk);
        for socket in listeners.webrtc.sockets {
            let (webrtc, stop) = (Arc::clone(&self.webrtc), self.stop.sessions.clone());
            let arrived = move |socket: &_, train: Train<'_>| webrtc.arrived(socket, &train);
            tasks.spawn(udp::receive(socket, stop, arrived));
        }
        for socket in listeners.srt.sockets {
            let (srt, stop) = (Arc::clone(&self.srt), self.stop.sessions.clone());
            let arrived = move |socket: &_, train: Train<'_>| srt.arrived(socket, &train);
            tasks.spawn(udp::receive(socket, stop, arrived));
        }
        let (webrtc, srt, stop) = (self.webrtc, self.srt, self.stop.sessions.clone());
        let kernel = self.kernel.clone();
        tasks.spawn(async move {
            let watch = async { tokio::join!(webrtc.watch(), srt.watch(), kernel.watch()) };
            let _stopped = stop.run_until_cancelled(watch).await;
        });
        // The API answers to the very end, so that a drain can be watched.
        let allow = self.api.allow.clone();
        let router = api::router(self.api);
        let stop = self.stop.sessions.clone();
        tasks.spawn(api::serve(listeners.system_api, self.entrance, router, allow, stop));
        let cluster = Arc::clone(&self.cluster);
        let (stop, sessions) = (self.stop.sessions.clone(), Arc::clone(&self.sessions));
        let stays = self.kernel.keeps();
        tasks.spawn(async move {
            let watch = cluster.watch(|| sessions.by_server());
            let _stopped = stop.run_until_cancelled(watch).await;
            // What the kernel goes on with is held until the next process says so itself.
            if !stays {
                cluster.part().await;
            }
        });
        let (cluster, stop) = (self.cluster, self.stop.sessions.clone());
        tasks.spawn(async move {
            let sweep = sweep(cluster, self.http);
            let _stopped = stop.run_until_cancelled_owned(sweep).await;
        });
        info!(version = env!("CARGO_PKG_VERSION"), "ready");
        Running { stop: self.stop, sessions: self.sessions, kernel: self.kernel, tasks }
    }

    /// Goes on with the sessions that an earlier process has left in the kernel, before anything of
    /// theirs is taken for somebody else's, and lets those end with which it cannot.
    fn adopt(&self) {
        if !self.kernel.keeps() {
            return;
        }
        let balancer = self.cluster.balancer();
        let estate = |sockets| Estate { balancer, sockets };
        let (mut adopted, mut ended) = (0_u32, 0_u32);
        for memo in self.kernel.left() {
            let taken =
                Memo::decode(&memo).map_err(NotAdopted::from).and_then(|memo| match memo.matter {
                    Matter::Webrtc { .. } => {
                        self.webrtc.adopt(&memo, estate(&self.listeners.webrtc.sockets))
                    }
                    Matter::Srt { .. } => {
                        self.srt.adopt(&memo, estate(&self.listeners.srt.sockets))
                    }
                });
            match taken {
                Ok(()) => adopted += 1,
                Err(error) => {
                    debug!(%error, "a session of an earlier process ends");
                    ended += 1;
                }
            }
        }
        self.kernel.sweep();
        if adopted + ended > 0 {
            info!(adopted, ended, "sessions of an earlier process");
        }
    }
}

/// The proxy at work.
pub struct Running {
    /// Stops it.
    pub stop: Stop,
    /// Whom a stop waits for.
    pub sessions: Arc<Sessions>,
    kernel: Kernel,
    tasks: JoinSet<()>,
}

impl Running {
    /// Lets every task end: the API writes its last answers.
    pub async fn finish(mut self) {
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // They have their own deadlines, which are shorter.
        let _late = timeout(FINISH, ended).await;
        self.kernel.close();
    }

    /// Leaves nothing in the kernel: nobody accounts for it any more.
    pub fn abandon(self) {
        self.kernel.close();
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
        let (options, draining) = (desk.options, desk.stop.draining.clone());
        let (service, desk) = (Arc::clone(service), Arc::clone(desk));
        let come = move |socket, peer| {
            let (desk, service) = (Arc::clone(&desk), Arc::clone(&service));
            tokio::spawn(async move {
                if let Some((socket, live)) = desk.admit(socket, peer, S::PROTOCOL).await {
                    // A task of its own, without what letting it in has taken.
                    let stop = desk.stop.sessions.clone();
                    tokio::spawn(serve(service, socket, live, stop));
                }
            });
        };
        tasks.spawn(tcp::accept(listener, options, draining, come));
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
        let (options, draining) = (desk.options, desk.stop.draining.clone());
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
        tasks.spawn(tcp::accept(listener, options, draining, come));
    }
}

/// Lets clients in.
struct Desk {
    entrance: Arc<Entrance>,
    sessions: Arc<Sessions>,
    options: MediaOptions,
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

async fn sweep(cluster: Arc<Cluster>, http: Arc<Http>) {
    let mut tick = interval(SWEEP);
    loop {
        tick.tick().await;
        let now = Instant::now();
        cluster.balancer().sweep(now);
        http.sweep(now);
    }
}
