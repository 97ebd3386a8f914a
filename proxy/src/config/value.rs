//! The kinds of values: what the text of a setting may be, and what it becomes.
//!
//! Every parser's error completes the sentence that names the setting and its value; it says
//! what was expected and repeats nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::listen::ListenAddrs;
use crate::listen::media::MediaOptions;
use crate::origin::{OriginHost, Policy};
use crate::proto::proxy_protocol::Version;
use crate::stream::Vhosts;
use tracing_subscriber::filter::LevelFilter;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Any text; none if it is empty.
#[expect(clippy::unnecessary_wraps, reason = "the shape of every parser")]
pub(super) fn secret(text: &str) -> Result<Option<Secret>, String> {
    Ok((!text.is_empty()).then(|| Secret::new(text)))
}

/// Any text that is hard to guess; none if it is empty.
pub(super) fn long_secret(text: &str) -> Result<Option<Secret>, String> {
    match text.len() {
        1..16 => Err("expected at least 16 bytes".into()),
        _ => secret(text),
    }
}

/// Any text.
#[expect(clippy::unnecessary_wraps, reason = "the shape of every parser")]
pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// Any text; none if it is empty.
#[expect(clippy::unnecessary_wraps, reason = "the shape of every parser")]
pub(super) fn optional_text(text: &str) -> Result<Option<String>, String> {
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// A path, absolute or from the working directory.
#[expect(clippy::unnecessary_wraps, reason = "the shape of every parser")]
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}

/// The same; none if it is empty.
#[expect(clippy::unnecessary_wraps, reason = "the shape of every parser")]
pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| text.into()))
}

/// `on` or `off`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("expected on or off".into()),
    }
}

/// A number from 1 on.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("expected a whole number from 1 on".into()),
    }
}

/// A number from 0 on.
pub(super) fn index(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "expected a whole number from 0 on".into())
}

/// A number of things, from 0 on.
pub(super) fn count_or_none(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "expected a whole number from 0 on".into())
}

/// A number of things, or none said.
pub(super) fn optional_count(text: &str) -> Result<Option<usize>, String> {
    if text.is_empty() { Ok(None) } else { count(text).map(Some) }
}

/// A port to connect to.
pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("expected a port from 1 to 65535".into()),
    }
}

/// A port to connect to, or none.
pub(super) fn optional_port(text: &str) -> Result<Option<u16>, String> {
    if text.is_empty() { Ok(None) } else { port(text).map(Some) }
}

/// An IP address or a host name; it is not looked up here.
pub(super) fn host(text: &str) -> Result<String, String> {
    let host = OriginHost::parse(text).map(|host| host.as_str().to_owned());
    host.map_err(|_| "expected an IP address that can be dialled, or a host name".into())
}

/// A time, at least zero, in the forms in which Go writes durations: `300s`, `1m30s`, `500ms`,
/// `1.5h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= LONGEST => Ok(time),
        Ok(_) => Err("expected at most 365 days".into()),
        Err(_) => Err(DURATION_FORMS.into()),
    }
}

/// The same, longer than zero.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(Duration::ZERO) => Err("expected a time longer than zero".into()),
        other => other,
    }
}

/// A size in bytes, from 1 on: `65536`, `64KiB`, `8MiB`.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = UNITS
        .iter()
        .find_map(|&(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))
        .unwrap_or((text, 1));
    match digits.parse::<usize>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(size) if size > 0 => Ok(size),
        _ => Err("expected a size such as 65536, 64KiB or 8MiB".into()),
    }
}

/// What a session may hold for a stalled receiver.
pub(super) fn held(text: &str) -> Result<usize, String> {
    match size(text)? {
        held @ MediaOptions::LEAST_HELD..=MOST_HELD => Ok(held),
        _ => Err("expected a size from 768KiB to 1GiB".into()),
    }
}

/// What fits into the kernel's own numbers.
const MOST_HELD: usize = 1 << 30;

/// A rate in bits per second, or none: `500kbit`, `20mbit`, `1gbit`.
pub(super) fn optional_rate(text: &str) -> Result<Option<NonZeroU64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let rate = RATES.iter().find_map(|&(suffix, unit)| {
        text.strip_suffix(suffix)?.parse::<u64>().ok()?.checked_mul(unit)
    });
    match rate {
        Some(rate) if rate >= LEAST_RATE => Ok(NonZeroU64::new(rate)),
        _ => Err("expected a rate from 100kbit on, such as 500kbit, 20mbit or 1gbit".into()),
    }
}

/// Decimal, as rates are.
const RATES: [(&str, u64); 3] = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];

/// In bits per second; below it a handshake would take seconds.
const LEAST_RATE: u64 = 100_000;

/// Names of network interfaces between commas; empty for none. No interface has a longer name, or
/// one with a slash or a space (Linux `dev_valid_name`).
pub(super) fn interfaces(text: &str) -> Result<Vec<String>, String> {
    let is_name = |name: &str| {
        matches!(name.len(), 1..16)
            && !matches!(name, "." | "..")
            && !name.contains(|c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace())
    };
    let name = |name: &str| is_name(name).then(|| name.to_owned());
    items(text)
        .map(name)
        .collect::<Option<_>>()
        .ok_or_else(|| "expected names of network interfaces such as eth0,eth1".into())
}

/// A folder whose path is absolute, or none.
pub(super) fn optional_folder(text: &str) -> Result<Option<PathBuf>, String> {
    let path = PathBuf::from(text);
    match text {
        "" => Ok(None),
        _ if path.is_absolute() => Ok(Some(path)),
        _ => Err("expected an absolute path in a bpffs, such as /sys/fs/bpf/srs-proxy".into()),
    }
}

/// Flows of the kernel path. Each has tallies for every CPU there may be.
pub(super) fn flows(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(flows @ 1..=MOST_FLOWS) => Ok(flows),
        _ => Err(format!("expected a whole number from 1 to {MOST_FLOWS}")),
    }
}

const MOST_FLOWS: u32 = 1 << 18;

/// A choice between words.
pub(super) trait Word: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

/// One of the words.
pub(super) fn word<T: Word>(text: &str) -> Result<T, String> {
    let found = T::WORDS.iter().find(|(word, _)| *word == text);
    found.map(|&(_, choice)| choice).ok_or_else(|| {
        let words: Vec<_> = T::WORDS.iter().map(|&(word, _)| word).collect();
        format!("expected {}", words.join(" or "))
    })
}

/// One of the words, or none.
pub(super) fn optional_word<T: Word>(text: &str) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { word(text).map(Some) }
}

/// Where origins and routes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadBalancer {
    /// In this process alone.
    Memory,
    /// In Redis, shared with other proxies.
    Redis,
}

impl Word for LoadBalancer {
    const WORDS: &'static [(&'static str, Self)] =
        &[("memory", Self::Memory), ("redis", Self::Redis)];
}

impl Word for Policy {
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::LeastStreams.as_str(), Self::LeastStreams),
        (Self::Random.as_str(), Self::Random),
        (Self::Rendezvous.as_str(), Self::Rendezvous),
    ];
}

/// In which form origins are told of the client; none for not at all.
impl Word for Option<Version> {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", None), ("v1", Some(Version::V1)), ("v2", Some(Version::V2))];
}

/// Which hooks of the kernel the fast path may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelMode {
    /// XDP in the driver if every interface has it, and else TC.
    Auto,
    /// XDP in the driver.
    Xdp,
    /// XDP behind the driver.
    XdpGeneric,
    /// The ingress of traffic control.
    Tc,
    /// None.
    Off,
}

impl Word for KernelMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("xdp", Self::Xdp),
        ("xdp-generic", Self::XdpGeneric),
        ("tc", Self::Tc),
        ("off", Self::Off),
    ];
}

/// What moves the bytes of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpEngine {
    /// The fastest that the host allows.
    Auto,
    /// splice(2) and `io_uring`.
    Uring,
    /// splice(2) and epoll.
    Splice,
    /// Copies.
    Relay,
}

impl Word for TcpEngine {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("uring", Self::Uring),
        ("splice", Self::Splice),
        ("relay", Self::Relay),
    ];
}

/// How an origin proves that it may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthType {
    /// `Authorization: Bearer` and the token, RFC 6750 2.1.
    Bearer,
}

impl Word for AuthType {
    const WORDS: &'static [(&'static str, Self)] = &[("bearer", Self::Bearer)];
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("human", Self::Human), ("json", Self::Json)];
}

/// An address at which clients reach WebRTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// IPv4 or IPv6.
    pub ip: IpAddr,
    /// If it is not that of the listener.
    pub port: Option<u16>,
}

pub(super) fn candidates(text: &str) -> Result<Vec<Candidate>, String> {
    const EXPECTED: &str = "expected IP addresses between commas, each with or without a port, \
                            such as 203.0.113.7,[2001:db8::7]:8000";
    let candidate = |item: &str| {
        let bare = item.strip_prefix('[').and_then(|item| item.strip_suffix(']')).unwrap_or(item);
        let (ip, port) = match (bare.parse::<IpAddr>(), item.parse::<SocketAddr>()) {
            (Ok(ip), _) => (ip, None),
            (_, Ok(address)) if address.port() > 0 => (address.ip(), Some(address.port())),
            _ => return Err(EXPECTED.to_owned()),
        };
        if ip.is_unspecified() || ip.is_multicast() {
            return Err("expected addresses that clients can reach".to_owned());
        }
        Ok(Candidate { ip: ip.to_canonical(), port })
    };
    items(text).map(candidate).collect()
}

pub(super) fn optional_listen(text: &str) -> Result<Option<ListenAddrs>, String> {
    if text.is_empty() { Ok(None) } else { ListenAddrs::parse(text).map(Some) }
}

/// `*`, or names between commas; empty for none.
pub(super) fn vhosts(text: &str) -> Result<Vhosts, String> {
    if text == "*" {
        return Ok(Vhosts::new([text]));
    }
    let names = items(text).map(|name| match name {
        "*" => Err("expected * alone, or host names without it".into()),
        name => host(name).map_err(|_| "expected * or host names between commas".into()),
    });
    names.collect::<Result<Vec<_>, String>>().map(Vhosts::new)
}

/// Networks and addresses between commas; empty for none.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |item: &str| match item.parse::<IpNet>() {
        Ok(network) => Ok(network.trunc()),
        Err(_) => item.parse::<IpAddr>().map(IpNet::from),
    };
    items(text)
        .map(network)
        .collect::<Result<_, _>>()
        .map_err(|_| "expected addresses and networks such as 192.0.2.7,10.0.0.0/8,::1".into())
}

/// Directives of `tracing_subscriber::EnvFilter`. It takes a lone word that is no level for the
/// name of a module, and would log nothing else: more likely a slip of the pen.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let is_word = text.bytes().all(|b| b.is_ascii_alphabetic());
    if EnvFilter::try_new(text).is_err() || (is_word && text.parse::<LevelFilter>().is_err()) {
        return Err("expected a level (error, warn, info, debug, trace, off) \
                    or directives such as info,srs_proxy::session=debug"
            .into());
    }
    Ok(text.to_owned())
}

/// The items of a list between commas; an empty text has none.
fn items(text: &str) -> impl Iterator<Item = &str> {
    let list = (!text.is_empty()).then(|| text.split(','));
    list.into_iter().flatten().map(str::trim)
}

const DURATION_FORMS: &str = "expected a time such as 500ms, 20s, 1m30s or 1.5h";

/// A deadline this far from now can still be computed.
const LONGEST: Duration = Duration::from_hours(365 * 24);

const UNITS: [(&str, usize); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("300s", 300_000),
            ("1m30s", 90_000),
            ("1h30m", 5_400_000),
            ("1h0m0s", 3_600_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("0.25s", 250),
            ("0s", 0),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("250us"), duration("250µs"));
        for text in ["", "20", "-1s", "s", "5 parsecs", "400d", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text:?} is no time");
        }
        assert!(positive_duration("0s").is_err(), "zero makes no sense here");
        assert_eq!(positive_duration("1ns"), Ok(Duration::from_nanos(1)));
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("8MiB"), Ok(8 * 1024 * 1024));
        for text in ["", "0", "KiB", "8MB", "8 M", "-1", "1.5MiB", "99999999999999999GiB"] {
            assert!(size(text).is_err(), "{text:?} is no size");
        }
    }

    #[test]
    fn rates_are_bits_with_decimal_units_and_buffers_have_bounds() {
        assert_eq!(optional_rate("20mbit"), Ok(NonZeroU64::new(20_000_000)));
        assert_eq!(optional_rate("100kbit"), Ok(NonZeroU64::new(100_000)));
        assert_eq!(optional_rate(""), Ok(None));
        for text in ["20", "0mbit", "99kbit", "20Mbit", "1.5mbit", "mbit", "99999999999gbit"] {
            assert!(optional_rate(text).is_err(), "{text:?} is no rate");
        }
        assert_eq!(held("768KiB"), Ok(768 << 10));
        for text in ["767KiB", "2GiB", "2MB"] {
            assert!(held(text).is_err(), "{text:?} is no buffer");
        }
    }

    #[test]
    fn a_network_list_takes_bare_addresses() {
        let networks = networks("10.1.2.3/8, 192.0.2.7,::1").unwrap();
        let shown: Vec<_> = networks.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]);
        assert_eq!(super::networks(""), Ok(vec![]), "nothing said, nothing listed");
        for text in ["10.0.0.0/33", "localhost", "10.0.0.1,", "10.0.0"] {
            assert!(super::networks(text).is_err(), "{text:?} is no list of networks");
        }
    }

    #[test]
    fn vhosts_are_all_some_or_none() {
        assert_eq!(vhosts("*"), Ok(Vhosts::new(["*"])));
        assert_eq!(vhosts(""), Ok(Vhosts::default()));
        let two = Vhosts::new(["a.example", "b.example"]);
        assert_eq!(vhosts("a.example, b.example"), Ok(two));
        for text in ["*,a.example", "a.example/live", "a.example:1935", ",", "a b"] {
            assert!(vhosts(text).is_err(), "{text:?} is no list of vhosts");
        }
    }

    #[test]
    fn a_wrong_word_is_told_the_right_ones() {
        assert_eq!(word("random"), Ok(Policy::Random));
        assert_eq!(
            word::<Policy>("Random"),
            Err("expected least-streams or random or rendezvous".into())
        );
        assert_eq!(optional_word::<AuthType>(""), Ok(None));
        assert!(optional_word::<AuthType>("basic").is_err(), "bearer is the only one");
    }

    #[test]
    fn hosts_are_names_or_addresses_of_both_families() {
        for text in ["127.0.0.1", "::1", "origin-1.example", "srs_1"] {
            assert_eq!(host(text).as_deref(), Ok(text));
        }
        for text in ["", "origin:1935", "a b", "rtmp://origin"] {
            assert!(host(text).is_err(), "{text:?} is no host");
        }
    }

    #[test]
    fn ports_counts_and_switches_have_bounds() {
        assert_eq!(port("65535"), Ok(65535));
        assert!(port("0").is_err(), "nobody listens on port 0");
        assert!(port("65536").is_err(), "a port has 16 bits");
        assert_eq!(optional_port(""), Ok(None));
        assert!(count("0").is_err(), "a limit of none serves nobody");
        assert_eq!(index("0"), Ok(0));
        assert_eq!((switch("on"), switch("false")), (Ok(true), Ok(false)));
        assert!(switch("yes").is_err(), "on and off are the words");
    }

    #[test]
    fn interfaces_pins_and_flows_are_what_the_kernel_takes() {
        assert_eq!(interfaces("eth0, wan.7"), Ok(vec!["eth0".to_owned(), "wan.7".to_owned()]));
        assert_eq!(interfaces(""), Ok(Vec::new()), "nothing said, nothing listed");
        for text in ["eth0,", "a/b", "..", "an-interface-with-a-long-name"] {
            assert!(interfaces(text).is_err(), "{text:?} is no interface");
        }
        assert_eq!(optional_folder("/sys/fs/bpf/a"), Ok(Some("/sys/fs/bpf/a".into())));
        assert!(optional_folder("bpf").is_err(), "a daemon's working folder says nothing");
        assert_eq!(flows("262144"), Ok(262_144));
        assert!(flows("0").is_err() && flows("262145").is_err());
    }

    #[test]
    fn log_directives_are_levels_or_modules() {
        for text in ["info", "WARN", "off", "warn,srs_proxy=debug", "srs_proxy::session=trace"] {
            assert_eq!(log_filter(text).as_deref(), Ok(text));
        }
        for text in ["inof", "info,srs_proxy=loud"] {
            assert!(log_filter(text).is_err(), "{text:?} would silence the log");
        }
    }

    #[test]
    fn a_secret_hides_from_debug_output() {
        let secret = secret("hunter2").unwrap().unwrap();
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.reveal(), "hunter2");
    }
}
