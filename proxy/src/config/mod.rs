//! What the operator wants, from flags, environment, `.env`, a file and defaults.
//!
//! [`settings`] is the one table; a setting's TOML key, flag, help and documentation follow from
//! its row. [`Command::from_process`] reads everything and understands everything before
//! anything starts.

mod check;
mod command;
mod dotenv;
mod error;
mod file;
#[cfg(test)]
mod fuzz;
mod listen;
mod redis;
mod settings;
mod source;
mod value;

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use self::command::Command;
pub use self::error::Error;
pub use self::listen::{ListenAddr, ListenAddrs};
pub use self::redis::{Redis, RedisIdentity, RedisNode, RedisShape, RedisTarget, RedisTls};
use self::settings as row;
pub use self::settings::{Setting, settings};
use self::source::Effective;
pub use self::value::{
    AuthType, Candidate, KernelMode, LoadBalancer, LogFormat, Secret, TcpEngine,
};
use crate::listen::TrustedProxies;
use crate::origin::Policy;
use crate::proto::proxy_protocol::Version;
use crate::stream::Vhosts;

/// Every setting, read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// RTMP clients.
    pub rtmp: Rtmp,
    /// HTTP clients.
    pub http: Http,
    /// WebRTC clients.
    pub webrtc: Webrtc,
    /// SRT clients.
    pub srt: Srt,
    /// Receive buffer of each UDP socket on which clients arrive, in bytes.
    pub udp_buffer: usize,
    /// Folder of static files; none for the built-in pages.
    pub static_files: Option<PathBuf>,
    /// The API of origins and operators.
    pub system_api: SystemApi,
    /// How streams find their origins.
    pub balancer: Balancer,
    /// The store that proxies share.
    pub redis: Redis,
    /// How origins come, go and are connected.
    pub origin: Origin,
    /// The origin that need not register, if there is one.
    pub default_backend: Option<DefaultBackend>,
    /// Who the client is, where proxies stand in between.
    pub client: Client,
    /// Limits of sessions, whatever their protocol.
    pub session: Session,
    /// Media that is forwarded in the kernel.
    pub kernel: Kernel,
    /// What moves streams over TCP.
    pub tcp: Tcp,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// What is logged.
    pub log: Log,
}

/// RTMP clients.
#[derive(Clone, Debug)]
pub struct Rtmp {
    /// Where they are accepted.
    pub listen: ListenAddrs,
    /// Time for the handshake.
    pub handshake_timeout: Duration,
    /// Time from the handshake to publish or play.
    pub command_timeout: Duration,
    /// The largest message, in bytes.
    pub max_message: usize,
    /// Chunk streams that one connection may use.
    pub max_chunk_streams: usize,
}

/// HTTP clients.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where they are accepted.
    pub listen: ListenAddrs,
    /// Where WHIP, WHEP and the API of the origins are served as well.
    pub api: ListenAddrs,
    /// Time for a request's head.
    pub head_timeout: Duration,
    /// Time between two requests.
    pub keepalive_timeout: Duration,
    /// Time for an origin to answer.
    pub origin_timeout: Duration,
    /// Idle connections kept for each origin.
    pub idle_connections: usize,
    /// By which the URIs in playlists are signed, if proxies share one.
    pub secret: Option<Secret>,
}

/// WebRTC clients.
#[derive(Clone, Debug)]
pub struct Webrtc {
    /// Where their media arrives, UDP.
    pub listen: ListenAddrs,
    /// Where it arrives over TCP, if it may.
    pub listen_tcp: Option<ListenAddrs>,
    /// Where clients reach it; empty for where they reached the API.
    pub candidates: Vec<Candidate>,
    /// A session ends this long after its origin's last answer to a connectivity check.
    pub consent_timeout: Duration,
}

/// SRT clients.
#[derive(Clone, Debug)]
pub struct Srt {
    /// Where they arrive, UDP.
    pub listen: ListenAddrs,
    /// A session of which a peer sends nothing ends after this time.
    pub idle_timeout: Duration,
    /// Time for an origin to shake hands.
    pub origin_timeout: Duration,
    /// Handshakes of one client address at once.
    pub pending_per_client: usize,
}

/// The API of origins and operators.
#[derive(Clone, Debug)]
pub struct SystemApi {
    /// Where it is served, TCP.
    pub listen: ListenAddrs,
    /// Who may use it; empty for all.
    pub allow: Vec<IpNet>,
    /// The bearer token that registration demands, if it does.
    pub token: Option<Secret>,
}

/// How streams find their origins.
#[derive(Clone, Debug)]
pub struct Balancer {
    /// Where origins and routes are kept.
    pub kind: LoadBalancer,
    /// How a new stream finds its origin.
    pub policy: Policy,
    /// A stream without a session keeps its origin this long.
    pub route_idle_ttl: Duration,
    /// Streams whose origin is remembered at once.
    pub max_routes: usize,
    /// Host names that are vhosts of their own.
    pub vhosts: Vhosts,
}

/// How origins come, go and are connected.
#[derive(Clone, Debug)]
pub struct Origin {
    /// An origin is gone this long after its last heartbeat.
    pub ttl: Duration,
    /// Origins that may be registered at once.
    pub max: usize,
    /// Time for one TCP connection.
    pub connect_timeout: Duration,
    /// Time for the whole set-up, further attempts included.
    pub setup_timeout: Duration,
    /// For one of them, behind the handshake, to answer.
    pub answer_timeout: Duration,
}

/// An origin that need not register.
#[derive(Clone, Debug)]
pub struct DefaultBackend {
    /// Address or host name.
    pub ip: String,
    /// RTMP, TCP port.
    pub rtmp: u16,
    /// HTTP-FLV and HLS, TCP port.
    pub http: Option<u16>,
    /// HTTP API, TCP port.
    pub api: u16,
    /// WebRTC, UDP port.
    pub rtc: u16,
    /// SRT, UDP port.
    pub srt: u16,
}

/// Who the client is, where proxies stand in between.
#[derive(Clone, Debug)]
pub struct Client {
    /// Those in front whose word is taken.
    pub trusted: TrustedProxies,
    /// Whether their TCP connections begin with a PROXY header.
    pub accept: bool,
    /// The form of the PROXY header for origins, if they get one.
    pub send: Option<Version>,
}

/// Limits of sessions, whatever their protocol.
#[derive(Clone, Debug)]
pub struct Session {
    /// Sessions at once.
    pub max: usize,
    /// Sessions of one client address at once.
    pub max_per_client: usize,
    /// A session in which no byte moves ends after this time.
    pub idle_timeout: Duration,
    /// A session whose peer takes too few of the bytes that wait for it in this time ends.
    pub stall_timeout: Duration,
}

/// Media that is forwarded in the kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// At which hooks.
    pub mode: KernelMode,
    /// Names of the interfaces; empty for those that the proxy's traffic takes.
    pub interfaces: Vec<String>,
    /// Folder in a bpffs by which flows outlive a killed process.
    pub pin: Option<PathBuf>,
    /// Sessions at once.
    pub flows: u32,
}

/// What moves streams over TCP.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// By which means.
    pub engine: TcpEngine,
    /// Threads of its own; none for one per core.
    pub threads: Option<usize>,
    /// Bytes that a session may hold for a stalled receiver, in each direction.
    pub buffer: usize,
    /// The most that a connection sends, in bits per second.
    pub max_rate: Option<NonZeroU64>,
}

/// How the process ends.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Sessions may go on this long after the signal.
    pub grace: Duration,
    /// The process is gone this long after the signal; at least [`Self::grace`].
    pub force: Duration,
}

/// What is logged.
#[derive(Clone, Debug)]
pub struct Log {
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Config {
    /// Addresses at which media arrives as datagrams; none of those that mean all.
    pub fn datagram_addresses(&self) -> Vec<IpAddr> {
        let listeners = self.webrtc.listen.iter().chain(self.srt.listen.iter());
        let sockets = listeners.flat_map(ListenAddr::sockets);
        sockets.map(|socket| socket.ip()).filter(|ip| !ip.is_unspecified()).collect()
    }

    /// Every setting as what it means, and what the operator should know.
    fn read(said: &Effective) -> Result<(Self, Vec<String>), Error> {
        let config = Self {
            rtmp: Rtmp {
                listen: said.get(&row::PROXY_RTMP_SERVER)?,
                handshake_timeout: said.get(&row::PROXY_RTMP_HANDSHAKE_TIMEOUT)?,
                command_timeout: said.get(&row::PROXY_RTMP_COMMAND_TIMEOUT)?,
                max_message: said.get(&row::PROXY_RTMP_MAX_MESSAGE)?,
                max_chunk_streams: said.get(&row::PROXY_RTMP_MAX_CHUNK_STREAMS)?,
            },
            http: Http {
                listen: said.get(&row::PROXY_HTTP_SERVER)?,
                api: said.get(&row::PROXY_HTTP_API)?,
                head_timeout: said.get(&row::PROXY_HTTP_HEAD_TIMEOUT)?,
                keepalive_timeout: said.get(&row::PROXY_HTTP_KEEPALIVE_TIMEOUT)?,
                origin_timeout: said.get(&row::PROXY_HTTP_ORIGIN_TIMEOUT)?,
                idle_connections: said.get(&row::PROXY_HTTP_ORIGIN_IDLE)?,
                secret: said.get(&row::PROXY_SECRET)?,
            },
            webrtc: Webrtc {
                listen: said.get(&row::PROXY_WEBRTC_SERVER)?,
                listen_tcp: said.get(&row::PROXY_WEBRTC_TCP_SERVER)?,
                candidates: said.get(&row::PROXY_CANDIDATE)?,
                consent_timeout: said.get(&row::PROXY_WEBRTC_CONSENT_TIMEOUT)?,
            },
            srt: Srt {
                listen: said.get(&row::PROXY_SRT_SERVER)?,
                idle_timeout: said.get(&row::PROXY_SRT_IDLE_TIMEOUT)?,
                origin_timeout: said.get(&row::PROXY_SRT_ORIGIN_TIMEOUT)?,
                pending_per_client: said.get(&row::PROXY_SRT_PENDING_PER_CLIENT)?,
            },
            udp_buffer: said.get(&row::PROXY_UDP_BUFFER)?,
            static_files: static_files(said)?,
            system_api: SystemApi {
                listen: said.get(&row::PROXY_SYSTEM_API)?,
                allow: said.get(&row::PROXY_SYSTEM_API_ALLOW)?,
                token: token(said)?,
            },
            balancer: Balancer {
                kind: said.get(&row::PROXY_LOAD_BALANCER_TYPE)?,
                policy: said.get(&row::PROXY_BALANCER_POLICY)?,
                route_idle_ttl: said.get(&row::PROXY_ROUTE_IDLE_TTL)?,
                max_routes: said.get(&row::PROXY_MAX_ROUTES)?,
                vhosts: said.get(&row::PROXY_VHOSTS)?,
            },
            redis: Redis::read(said)?,
            origin: Origin {
                ttl: said.get(&row::PROXY_ORIGIN_SERVER_TTL)?,
                max: said.get(&row::PROXY_MAX_ORIGINS)?,
                connect_timeout: said.get(&row::PROXY_ORIGIN_CONNECT_TIMEOUT)?,
                answer_timeout: said.get(&row::PROXY_ORIGIN_ANSWER_TIMEOUT)?,
                setup_timeout: said.get(&row::PROXY_ORIGIN_SETUP_TIMEOUT)?,
            },
            default_backend: default_backend(said)?,
            client: Client {
                trusted: said.get(&row::PROXY_TRUSTED_PROXIES)?.into(),
                accept: said.get(&row::PROXY_PROTOCOL_ACCEPT)?,
                send: said.get(&row::PROXY_PROTOCOL_SEND)?,
            },
            session: Session {
                max: said.get(&row::PROXY_MAX_SESSIONS)?,
                max_per_client: said.get(&row::PROXY_MAX_SESSIONS_PER_CLIENT)?,
                idle_timeout: said.get(&row::PROXY_IDLE_TIMEOUT)?,
                stall_timeout: said.get(&row::PROXY_STALL_TIMEOUT)?,
            },
            kernel: Kernel {
                mode: said.get(&row::PROXY_EBPF_MODE)?,
                interfaces: said.get(&row::PROXY_EBPF_INTERFACES)?,
                pin: said.get(&row::PROXY_EBPF_PIN)?,
                flows: said.get(&row::PROXY_EBPF_FLOWS)?,
            },
            tcp: Tcp {
                engine: said.get(&row::PROXY_TCP_ENGINE)?,
                threads: said.get(&row::PROXY_TCP_THREADS)?,
                buffer: said.get(&row::PROXY_TCP_BUFFER)?,
                max_rate: said.get(&row::PROXY_TCP_MAX_RATE)?,
            },
            shutdown: Shutdown {
                grace: said.get(&row::PROXY_GRACE_QUIT_TIMEOUT)?,
                force: said.get(&row::PROXY_FORCE_QUIT_TIMEOUT)?,
            },
            log: Log {
                filter: said.get(&row::PROXY_LOG)?,
                format: said.get(&row::PROXY_LOG_FORMAT)?,
            },
        };
        check::conflicts(&config, said)?;
        let warnings = check::warnings(&config, said);
        Ok((config, warnings))
    }
}

/// The folder of static files: the one that somebody named must exist, the default one may.
fn static_files(said: &Effective) -> Result<Option<PathBuf>, Error> {
    let setting = &row::PROXY_STATIC_FILES.setting;
    let folder = said.get(&row::PROXY_STATIC_FILES)?;
    if folder.is_dir() {
        return Ok(Some(folder));
    }
    // Also where somebody has written the default down.
    if folder.as_os_str() == setting.default {
        return Ok(None);
    }
    let problem = "expected a folder that exists and can be entered".into();
    Err(Error::Value { said: said.spell(setting), problem })
}

/// The token that registration demands, if it is switched on.
fn token(said: &Effective) -> Result<Option<Secret>, Error> {
    let enabled = said.get(&row::PROXY_HTTP_API_AUTH_ENABLED)?;
    let kind = said.get(&row::PROXY_HTTP_API_AUTH_TYPE)?;
    let token = said.get(&row::PROXY_HTTP_API_AUTH_TOKEN)?;
    let lacks = |setting: Setting| {
        let said = said.spell(&row::PROXY_HTTP_API_AUTH_ENABLED.setting);
        Err(Error::Value { said, problem: format!("expected {} to be set, too", setting.name) })
    };
    match (enabled, kind, token) {
        (false, ..) => Ok(None),
        (true, None, _) => lacks(row::PROXY_HTTP_API_AUTH_TYPE.setting),
        (true, _, None) => lacks(row::PROXY_HTTP_API_AUTH_TOKEN.setting),
        (true, Some(AuthType::Bearer), token) => Ok(token),
    }
}

/// The default backend, if it is switched on; its settings are checked in any case.
fn default_backend(said: &Effective) -> Result<Option<DefaultBackend>, Error> {
    let backend = DefaultBackend {
        ip: said.get(&row::PROXY_DEFAULT_BACKEND_IP)?,
        rtmp: said.get(&row::PROXY_DEFAULT_BACKEND_RTMP)?,
        http: said.get(&row::PROXY_DEFAULT_BACKEND_HTTP)?,
        api: said.get(&row::PROXY_DEFAULT_BACKEND_API)?,
        rtc: said.get(&row::PROXY_DEFAULT_BACKEND_RTC)?,
        srt: said.get(&row::PROXY_DEFAULT_BACKEND_SRT)?,
    };
    Ok(said.get(&row::PROXY_DEFAULT_BACKEND_ENABLED)?.then_some(backend))
}
