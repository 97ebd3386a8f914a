//! The table of settings: one row each, from which everything else about it follows.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::listen::ListenAddrs;
use super::redis::RedisUrl;
use super::value::{
    self, AuthType, Candidate, KernelMode, LoadBalancer, LogFormat, Secret, TcpEngine, count,
    duration, host, positive_duration,
};
use crate::origin::Policy;
use crate::proto::proxy_protocol::Version;
use crate::stream::Vhosts;

/// One thing that the operator can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of its environment variable.
    pub name: &'static str,
    /// The text that counts where nobody says another; empty if there is none.
    pub default: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
    /// What it does, in one line of Markdown.
    pub doc: &'static str,
}

impl Setting {
    /// Its key in a file: `rtmp_server` for `PROXY_RTMP_SERVER`.
    pub fn key(&self) -> String {
        self.name.strip_prefix(PREFIX).unwrap_or(self.name).to_ascii_lowercase()
    }

    /// Its flag without the dashes in front: `rtmp-server` for `PROXY_RTMP_SERVER`.
    pub fn flag(&self) -> String {
        self.key().replace('_', "-")
    }
}

/// Every setting, in the order in which they are documented.
pub fn settings() -> &'static [Setting] {
    SETTINGS
}

/// What the name of every setting begins with.
pub(super) const PREFIX: &str = "PROXY_";

/// A setting with the type of its value.
pub(super) struct Row<T> {
    pub(super) setting: Setting,
    /// Reads the text; the error says what was expected, and never repeats the text.
    pub(super) parse: fn(&str) -> Result<T, String>,
}

const OPEN: bool = false;
const SECRET: bool = true;

macro_rules! settings {
    ($($name:ident: $type:ty = $parse:expr, $default:literal, $secret:ident, $doc:literal;)*) => {
        $(pub(super) const $name: Row<$type> = Row {
            setting: Setting {
                name: stringify!($name),
                default: $default,
                secret: $secret,
                doc: $doc,
            },
            parse: $parse,
        };)*

        const SETTINGS: &[Setting] = &[$($name.setting),*];
    };
}

settings! {
    PROXY_RTMP_SERVER: ListenAddrs = ListenAddrs::parse, "11935", OPEN,
        "TCP addresses of RTMP.";
    PROXY_HTTP_SERVER: ListenAddrs = ListenAddrs::parse, "18080", OPEN,
        "TCP addresses of HTTP-FLV, HTTP-TS, HLS, MPEG-DASH and static files.";
    PROXY_HTTP_API: ListenAddrs = ListenAddrs::parse, "11985", OPEN,
        "TCP addresses of WHIP, WHEP and the HTTP API of the origins.";
    PROXY_WEBRTC_SERVER: ListenAddrs = ListenAddrs::parse, "18000", OPEN,
        "UDP addresses of WebRTC.";
    PROXY_WEBRTC_TCP_SERVER: Option<ListenAddrs> = value::optional_listen, "", OPEN,
        "TCP addresses of WebRTC, for clients that cannot use UDP (ICE-TCP); empty for none.";
    PROXY_SRT_SERVER: ListenAddrs = ListenAddrs::parse, "20080", OPEN,
        "UDP addresses of SRT.";
    PROXY_SYSTEM_API: ListenAddrs = ListenAddrs::parse, "12025", OPEN,
        "TCP addresses of the system API, where origins register.";
    PROXY_STATIC_FILES: PathBuf = value::path, "../trunk/research", OPEN,
        "Folder of static files. If it is the default and does not exist, built-in pages are served: an index of the live streams, players and a publisher.";

    PROXY_LOAD_BALANCER_TYPE: LoadBalancer = value::word, "memory", OPEN,
        "Where origins and routes are kept: `memory`, or `redis` to share them with other proxies.";
    PROXY_REDIS_HOST: String = host, "127.0.0.1", OPEN,
        "Host of Redis.";
    PROXY_REDIS_PORT: u16 = value::port, "6379", OPEN,
        "TCP port of Redis.";
    PROXY_REDIS_PASSWORD: Option<Secret> = value::secret, "", SECRET,
        "Password of Redis.";
    PROXY_REDIS_DB: u32 = value::index, "0", OPEN,
        "Number of the Redis database.";
    PROXY_REDIS_USER: Option<String> = value::optional_text, "", OPEN,
        "User of Redis, as its ACL has it; empty for the default one.";
    PROXY_REDIS_URL: Option<RedisUrl> = RedisUrl::parse_optional, "", SECRET,
        "Where Redis is, instead of host, port, database and TLS: `redis://`, `redis+sentinel://` or `redis+cluster://`, with `rediss` for TLS.";
    PROXY_REDIS_TLS: bool = value::switch, "off", OPEN,
        "`on` speaks TLS with Redis.";
    PROXY_REDIS_TLS_CA: Option<PathBuf> = value::optional_path, "", OPEN,
        "PEM file of the authorities that may vouch for Redis; empty for those that the host trusts.";
    PROXY_REDIS_TLS_CERT: Option<PathBuf> = value::optional_path, "", OPEN,
        "PEM file of the certificate that the proxy shows to Redis; empty for none.";
    PROXY_REDIS_TLS_KEY: Option<PathBuf> = value::optional_path, "", OPEN,
        "PEM file of that certificate's key.";
    PROXY_REDIS_SENTINEL_PASSWORD: Option<Secret> = value::secret, "", SECRET,
        "Password of the Sentinels, which are asked without a user.";
    PROXY_REDIS_TIMEOUT: Duration = positive_duration, "200ms", OPEN,
        "Time for Redis to answer one command.";
    PROXY_REDIS_ROUTE_TTL: Duration = duration, "24h", OPEN,
        "A stream's route stays in Redis this long after it was last used; `0` for ever, as SRS's own proxy has it.";
    PROXY_REDIS_KEY_PREFIX: String = value::text, "", OPEN,
        "Put with a colon in front of every Redis key.";

    PROXY_DEFAULT_BACKEND_ENABLED: bool = value::switch, "off", OPEN,
        "`on` serves an origin that need not register.";
    PROXY_DEFAULT_BACKEND_IP: String = host, "127.0.0.1", OPEN,
        "Address or host name of that origin.";
    PROXY_DEFAULT_BACKEND_RTMP: u16 = value::port, "1935", OPEN,
        "Its RTMP port.";
    PROXY_DEFAULT_BACKEND_HTTP: Option<u16> = value::optional_port, "", OPEN,
        "Its port of HTTP-FLV and HLS.";
    PROXY_DEFAULT_BACKEND_API: u16 = value::port, "1985", OPEN,
        "Its port of the HTTP API.";
    PROXY_DEFAULT_BACKEND_RTC: u16 = value::port, "8000", OPEN,
        "Its UDP port of WebRTC.";
    PROXY_DEFAULT_BACKEND_SRT: u16 = value::port, "10080", OPEN,
        "Its UDP port of SRT.";

    PROXY_ORIGIN_SERVER_TTL: Duration = positive_duration, "300s", OPEN,
        "An origin is gone this long after its last heartbeat.";
    PROXY_MAX_ORIGINS: usize = count, "1024", OPEN,
        "Origins that may be registered at once.";
    PROXY_ORIGIN_CONNECT_TIMEOUT: Duration = positive_duration, "2s", OPEN,
        "Time for an origin to accept a connection, and again to shake hands.";
    PROXY_ORIGIN_ANSWER_TIMEOUT: Duration = positive_duration, "5s", OPEN,
        "Time for an origin behind the handshake to answer what comes before publish or play.";
    PROXY_ORIGIN_SETUP_TIMEOUT: Duration = positive_duration, "15s", OPEN,
        "Time for the whole set-up towards origins, further attempts included.";

    PROXY_BALANCER_POLICY: Policy = value::word, "least-streams", OPEN,
        "How a new stream finds its origin: `least-streams`, `random` or `rendezvous`.";
    PROXY_ROUTE_IDLE_TTL: Duration = positive_duration, "120s", OPEN,
        "A stream without a session keeps its origin this long.";
    PROXY_MAX_ROUTES: usize = count, "100000", OPEN,
        "Streams whose origin is remembered at once.";
    PROXY_VHOSTS: Vhosts = value::vhosts, "", OPEN,
        "Host names that are vhosts of their own; `*` for all of them. Any other is `__defaultVhost__`.";

    PROXY_HTTP_API_AUTH_ENABLED: bool = value::switch, "off", OPEN,
        "`on` lets only origins with the token register.";
    PROXY_HTTP_API_AUTH_TYPE: Option<AuthType> = value::optional_word, "", OPEN,
        "Kind of the token: `bearer`.";
    PROXY_HTTP_API_AUTH_TOKEN: Option<Secret> = value::secret, "", SECRET,
        "The token.";
    PROXY_SYSTEM_API_ALLOW: Vec<IpNet> = value::networks, "", OPEN,
        "Addresses and CIDR networks that may use the system API; empty for all.";

    PROXY_TRUSTED_PROXIES: Vec<IpNet> = value::networks, "", OPEN,
        "Addresses and CIDR networks of load balancers and proxies in front, whose word on the client's address is taken.";
    PROXY_PROTOCOL_ACCEPT: bool = value::switch, "off", OPEN,
        "`on` expects a PROXY protocol header (v1 or v2) on every TCP connection from `PROXY_TRUSTED_PROXIES`.";
    PROXY_PROTOCOL_SEND: Option<Version> = value::word, "off", OPEN,
        "`v1` or `v2` sends a PROXY protocol header to origins on RTMP and HTTP connections.";

    PROXY_MAX_SESSIONS: usize = count, "20000", OPEN,
        "Sessions that may live at once.";
    PROXY_MAX_SESSIONS_PER_CLIENT: usize = count, "2000", OPEN,
        "Sessions of one client address that may live at once.";
    PROXY_IDLE_TIMEOUT: Duration = positive_duration, "5m", OPEN,
        "A session in which no byte moves ends after this time.";
    PROXY_STALL_TIMEOUT: Duration = positive_duration, "30s", OPEN,
        "A session whose peer takes too few of the bytes that wait for it in this time, not all and less than 16 KiB, ends.";
    PROXY_RTMP_HANDSHAKE_TIMEOUT: Duration = positive_duration, "5s", OPEN,
        "Time for the RTMP handshake of a client.";
    PROXY_RTMP_COMMAND_TIMEOUT: Duration = positive_duration, "10s", OPEN,
        "Time from the handshake to publish or play.";
    PROXY_RTMP_MAX_MESSAGE: usize = value::size, "8MiB", OPEN,
        "Size of the largest RTMP message.";
    PROXY_RTMP_MAX_CHUNK_STREAMS: usize = count, "64", OPEN,
        "Chunk streams that one RTMP connection may use.";

    PROXY_HTTP_HEAD_TIMEOUT: Duration = positive_duration, "10s", OPEN,
        "Time for the head of an HTTP request, and for the first one to begin.";
    PROXY_HTTP_KEEPALIVE_TIMEOUT: Duration = positive_duration, "60s", OPEN,
        "Time between two HTTP requests of one connection.";
    PROXY_HTTP_ORIGIN_TIMEOUT: Duration = positive_duration, "30s", OPEN,
        "Time for an origin to answer an HTTP request. A live stream may keep its players waiting for `PROXY_IDLE_TIMEOUT`.";
    PROXY_HTTP_ORIGIN_IDLE: usize = value::count_or_none, "32", OPEN,
        "Idle HTTP connections kept for each origin; `0` for none.";
    PROXY_CANDIDATE: Vec<Candidate> = value::candidates, "", OPEN,
        "Addresses at which clients reach WebRTC, each with a port if that is not the listener's; empty for the address at which they reached the API.";
    PROXY_WEBRTC_CONSENT_TIMEOUT: Duration = positive_duration, "30s", OPEN,
        "A WebRTC session ends this long after its origin has last answered a connectivity check of its client.";
    PROXY_SRT_IDLE_TIMEOUT: Duration = positive_duration, "10s", OPEN,
        "An SRT session of which a peer sends nothing ends after this time.";
    PROXY_SRT_ORIGIN_TIMEOUT: Duration = positive_duration, "1s", OPEN,
        "Time for each of an origin's two answers to an SRT handshake.";
    PROXY_SRT_PENDING_PER_CLIENT: usize = count, "64", OPEN,
        "SRT handshakes of one client address that may be under way at once.";
    PROXY_UDP_BUFFER: usize = value::size, "8MiB", OPEN,
        "Receive buffer of each UDP socket on which clients arrive; the system may give less.";
    PROXY_SECRET: Option<Secret> = value::long_secret, "", SECRET,
        "Key by which the URIs in playlists are signed, at least 16 bytes, the same for all proxies of a fleet; random if empty.";

    PROXY_EBPF_MODE: KernelMode = value::word, "auto", OPEN,
        "Where in the kernel media is forwarded: `xdp`, `xdp-generic`, `tc`, `off` for nowhere, or `auto` for `xdp` if every interface is a card whose driver has it, and else `tc`.";
    PROXY_EBPF_INTERFACES: Vec<String> = value::interfaces, "", OPEN,
        "Network interfaces at which it is; empty for those of the default routes, the listen addresses, clients and origins.";
    PROXY_EBPF_PIN: Option<PathBuf> = value::optional_folder, "", OPEN,
        "Folder in a bpffs by which media goes on while a killed proxy starts again; empty for none.";
    PROXY_EBPF_FLOWS: u32 = value::flows, "16384", OPEN,
        "Sessions that can be forwarded in the kernel at once.";

    PROXY_TCP_ENGINE: TcpEngine = value::word, "auto", OPEN,
        "What moves streams over TCP: `auto` and `uring` for the first of splice(2) with io_uring, splice(2) with epoll, and copies that the host allows; `splice` without the first, `relay` for copies.";
    PROXY_TCP_THREADS: Option<usize> = value::optional_count, "", OPEN,
        "Threads of `uring` and `splice`; empty for as many as there are cores.";
    PROXY_TCP_BUFFER: usize = value::held, "2MiB", OPEN,
        "Bytes that a session over TCP may hold for a receiver that does not read, in each direction.";
    PROXY_TCP_MAX_RATE: Option<NonZeroU64> = value::optional_rate, "", OPEN,
        "The most that a connection of a stream over TCP sends, such as `20mbit` per second; empty for no limit. Linux only.";

    PROXY_GRACE_QUIT_TIMEOUT: Duration = duration, "20s", OPEN,
        "Sessions may go on this long after SIGTERM or SIGINT.";
    PROXY_FORCE_QUIT_TIMEOUT: Duration = duration, "30s", OPEN,
        "The process is gone this long after SIGTERM or SIGINT; not shorter than the one before.";
    PROXY_LOG: String = value::log_filter, "info", OPEN,
        "What is logged: a level, or directives such as `info,srs_proxy::session=debug`.";
    PROXY_LOG_FORMAT: LogFormat = value::word, "human", OPEN,
        "`human` or `json`, one line per event on standard output.";
}

#[cfg(test)]
mod tests {
    use std::iter::zip;

    use super::*;

    #[test]
    fn names_of_a_setting_follow_from_its_variable() {
        let setting = PROXY_RTMP_SERVER.setting;
        assert_eq!(setting.key(), "rtmp_server");
        assert_eq!(setting.flag(), "rtmp-server");
        for setting in settings() {
            assert!(setting.name.starts_with(PREFIX), "{} is no variable of ours", setting.name);
            let same = settings().iter().filter(|other| other.name == setting.name);
            assert_eq!(same.count(), 1, "{} stands twice in the table", setting.name);
        }
    }

    /// The document between its markers is this table, row by row.
    #[test]
    fn the_document_shows_this_table() {
        let document = include_str!("../../../docs/configuration.md");
        let (_, rest) = document.split_once("<!-- settings -->\n").expect("the opening marker");
        let (table, _) = rest.split_once("<!-- /settings -->").expect("the closing marker");
        let shown: Vec<_> = table.trim().lines().skip(2).collect();
        let rows: Vec<_> = settings().iter().map(row).collect();
        for (shown, row) in zip(&shown, &rows) {
            assert_eq!(shown, row, "docs/configuration.md shows another row");
        }
        let all = rows.join("\n");
        assert_eq!(shown.len(), rows.len(), "docs/configuration.md should have\n{all}");
    }

    /// The README's choice of rows says the same.
    #[test]
    fn the_readme_shows_rows_of_this_table() {
        let readme = include_str!("../../../README.md");
        let (_, rest) = readme.split_once("<!-- settings -->\n").expect("the opening marker");
        let (table, _) = rest.split_once("<!-- /settings -->").expect("the closing marker");
        for shown in table.trim().lines().skip(2) {
            let found = settings().iter().any(|setting| shown == short_row(setting));
            assert!(found, "README.md shows a row that is none: {shown}");
        }
    }

    fn short_row(setting: &Setting) -> String {
        let row = row(setting);
        let cells: Vec<_> = row.split(" | ").collect();
        [cells[0], cells[3], cells[4]].join(" | ")
    }

    fn row(setting: &Setting) -> String {
        let Setting { name, default, doc, .. } = setting;
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        format!("| `{name}` | `{}` | `--{}` | {default} | {doc} |", setting.key(), setting.flag())
    }
}
