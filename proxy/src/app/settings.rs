//! What the configuration means to each part.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::cluster::redis::{Link, LinkError, RedisLives, RedisStore};
use crate::cluster::store::ProxyId;
use crate::cluster::{Cluster, WITHDRAWN};
use crate::config::{Config, DefaultBackend, LoadBalancer, Redis};
use crate::listen::media::MediaOptions;
use crate::origin::{Balancer, BalancerSettings, Listener, Origin};
use crate::plane::kernel::Kernel;
use crate::plane::{Patience, StreamSettings};
use crate::session::SessionLimits;
use crate::session::http::{Hop, HttpSettings};
use crate::session::rtmp::RtmpSettings;
use crate::session::srt::{Cookies, SrtSettings};
use crate::session::webrtc::WebrtcSettings;
use crate::stream::Tokens;

/// Receive buffer of a session's own socket towards its origin, in bytes: a second of media.
const SESSION_BUFFER: usize = 1024 * 1024;

pub(super) fn sessions(config: &Config, total: usize) -> SessionLimits {
    SessionLimits {
        total,
        per_client: config.session.max_per_client,
        shared: config.client.trusted.clone(),
    }
}

pub(super) fn rtmp(config: &Config) -> RtmpSettings {
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

pub(super) fn http(config: &Config) -> anyhow::Result<HttpSettings> {
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

pub(super) fn srt(config: &Config, udp: Vec<SocketAddr>) -> SrtSettings {
    SrtSettings {
        udp,
        origin_timeout: config.srt.origin_timeout,
        setup_timeout: config.origin.setup_timeout,
        idle_timeout: config.srt.idle_timeout,
        pending_per_client: config.srt.pending_per_client,
        buffer: SESSION_BUFFER,
    }
}

pub(super) fn cookies() -> anyhow::Result<Cookies> {
    let mut key = [0; 32];
    getrandom::fill(&mut key)?;
    Ok(Cookies::new(&key, Instant::now()))
}

pub(super) fn streams(config: &Config) -> StreamSettings {
    StreamSettings {
        engine: config.tcp.engine,
        threads: config.tcp.threads,
        room: config.session.max,
    }
}

/// Of clients' connections and origins' alike.
pub(super) fn media(config: &Config) -> MediaOptions {
    MediaOptions {
        stall: config.session.stall_timeout,
        held: config.tcp.buffer,
        max_rate: config.tcp.max_rate,
    }
}

fn patience(config: &Config) -> Patience {
    Patience { idle: config.session.idle_timeout, stall: config.session.stall_timeout }
}

/// The key that proxies share. If none is set, their store gives out one; alone, the process has one
/// of its own, and of those that follow it where sessions do.
pub(super) async fn tokens(
    config: &Config,
    kernel: &Kernel,
    cluster: &Cluster,
) -> anyhow::Result<Tokens> {
    if let Some(secret) = &config.http.secret {
        return Ok(Tokens::new(secret.reveal().as_bytes()));
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    if cluster.is_shared() {
        match cluster.secret(secret).await {
            Ok(secret) => return Ok(Tokens::new(&secret)),
            Err(error) => tracing::warn!(
                %error,
                "what this proxy signs is not believed by others until it is started again: \
                 the store was asked for the secret, and PROXY_SECRET is not set"
            ),
        }
    }
    Ok(Tokens::new(&kernel.inherit(secret)))
}

/// This proxy among those that have the same store. One that does not answer yet is no reason not
/// to start; one that does not let this proxy in is.
pub(super) async fn cluster(config: &Config) -> anyhow::Result<Arc<Cluster>> {
    let balancer = balancer(config)?;
    if config.balancer.kind == LoadBalancer::Memory {
        return Ok(Cluster::alone(balancer));
    }
    let host = gethostname::gethostname();
    let me = ProxyId::of_host(&host.to_string_lossy(), getrandom::u32()?);
    let Redis { target, key_prefix, timeout, route_ttl } = &config.redis;
    let link = Link::open(target, *timeout);
    match link.greet(GREETING).await {
        Ok(()) => tracing::info!(proxy = %me, store = "redis", "store"),
        Err(error @ LinkError::Refused(_)) => return Err(error.into()),
        Err(error) => tracing::warn!(
            proxy = %me,
            store = "redis",
            %error,
            "the store does not answer: this proxy starts with what it hears itself"
        ),
    }
    let lives = RedisLives::new(*route_ttl, WITHDRAWN);
    let store = RedisStore::new(link, key_prefix, me.clone(), lives);
    Ok(Arc::new(Cluster::new(me, Balancer::new(balancer), Arc::new(store))))
}

/// For the first word of the store.
const GREETING: Duration = Duration::from_secs(2);

fn balancer(config: &Config) -> anyhow::Result<BalancerSettings> {
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

pub(super) fn webrtc(
    config: &Config,
    udp: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
) -> WebrtcSettings {
    WebrtcSettings {
        candidates: config.webrtc.candidates.clone(),
        udp,
        tcp,
        consent_timeout: config.webrtc.consent_timeout,
        buffer: SESSION_BUFFER,
    }
}
