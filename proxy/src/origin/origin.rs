//! One media server and where it listens.

use std::borrow::Borrow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::registration::{BadRegistration, Problem};

/// A server's own name, the same before and after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServerName(Arc<str>);

impl ServerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a run of this name, `server-service-pid`, is one of this server's.
    pub fn is_of(&self, run: &str) -> bool {
        OriginId::server_of(run) == Some(self.as_str())
    }
}

impl From<&str> for ServerName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl Borrow<str> for ServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One run of one server. Written `server-service-pid`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginId {
    /// The server.
    pub server: ServerName,
    /// New at each start of the server.
    pub service: String,
    /// Process id of the server.
    pub pid: String,
}

impl OriginId {
    /// The server of a run by the run's name, as far as that tells: service and pid are taken to
    /// have no hyphen, as SRS makes them.
    pub fn server_of(run: &str) -> Option<&str> {
        let mut parts = run.rsplitn(3, '-');
        let (_pid, _service) = (parts.next()?, parts.next()?);
        parts.next().filter(|server| !server.is_empty())
    }

    /// Whether a run of this name is this one, or another one of this server.
    pub fn is_server_of(&self, run: &str) -> bool {
        self.server.is_of(run) || self.to_string() == run
    }
}

impl fmt::Display for OriginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, service, pid } = self;
        write!(f, "{server}-{service}-{pid}")
    }
}

/// What an origin listens for, by the member names of its heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    /// RTMP.
    Rtmp,
    /// HTTP streams and files.
    Http,
    /// HTTP API: WHIP and WHEP.
    Api,
    /// SRT.
    Srt,
    /// WebRTC media.
    Rtc,
}

impl Listener {
    /// Every listener, in the order in which an origin keeps them.
    pub const ALL: [Self; 5] = [Self::Rtmp, Self::Http, Self::Api, Self::Srt, Self::Rtc];

    /// The member name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::Http => "http",
            Self::Api => "api",
            Self::Srt => "srt",
            Self::Rtc => "rtc",
        }
    }

    /// What it uses unless its endpoint says otherwise.
    const fn transport(self) -> Transport {
        match self {
            Self::Rtmp | Self::Http | Self::Api => Transport::Tcp,
            Self::Srt | Self::Rtc => Transport::Udp,
        }
    }
}

/// What carries a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One port of an origin. Written as `tcp://:1935`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// TCP or UDP.
    pub transport: Transport,
    /// Never zero.
    pub port: u16,
}

impl Endpoint {
    /// Reads `1935`, `:1935`, `0.0.0.0:1935`, `[::]:1935`, each with or without `tcp://` or
    /// `udp://`.
    ///
    /// The host is what the server binds, so it is ignored: the proxy dials the origin's `ip`.
    pub fn parse(listener: Listener, text: &str) -> Result<Self, Problem> {
        let bad = || Problem::Endpoint(text.chars().take(Self::MAX_BYTES).collect());
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("", text.trim()));
        let transport = match scheme {
            "" => listener.transport(),
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(bad()),
        };
        // WebRTC is the only one that SRS also offers on the other transport.
        if transport != listener.transport() && listener != Listener::Rtc {
            return Err(bad());
        }
        let (host, port) = rest.rsplit_once(':').unwrap_or(("", rest));
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_is_well_formed = match bracketed {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => host.is_empty() || OriginHost::is_name(host),
        };
        if !host_is_well_formed || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        match port.parse() {
            Ok(port) if port > 0 => Ok(Self { transport, port }),
            _ => Err(bad()),
        }
    }

    const MAX_BYTES: usize = 64;
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{scheme}://:{}", self.port)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An IP address or a host name that can be dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OriginHost(String);

impl OriginHost {
    /// Reads an IPv4 or IPv6 address, the latter with or without brackets, or a host name.
    /// The unspecified address is refused: dialled, it would be the proxy's own host.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let ip = bracketed.unwrap_or(text).parse::<IpAddr>().map(|ip| ip.to_canonical());
        match ip {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => Err(Problem::Host),
            Ok(IpAddr::V4(Ipv4Addr::BROADCAST)) => Err(Problem::Host),
            Ok(ip) => Ok(Self(ip.to_string())),
            Err(_) if bracketed.is_none() && Self::is_name(text) => Ok(Self(text.to_owned())),
            Err(_) => Err(Problem::Host),
        }
    }

    /// The address or name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// RFC 1123 2.1, and the underscore that container networks put into names. A last label
    /// that is a number would be read as an address (`127.1`, `0x0`; WHATWG URL 3.5).
    fn is_name(text: &str) -> bool {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        text.len() <= 253
            && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
            && text.rsplit('.').find(|label| !label.is_empty()).is_some_and(|last| {
                let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
                let is_hex = hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
                let is_number = is_hex || last.bytes().all(|b| b.is_ascii_digit());
                !is_number || text.parse::<IpAddr>().is_ok()
            })
    }
}

/// One media server, as it registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    id: OriginId,
    name: Arc<str>,
    device_id: Option<String>,
    host: OriginHost,
    endpoints: [Vec<Endpoint>; Listener::ALL.len()],
}

impl Origin {
    /// An origin without endpoints.
    pub(super) fn new(id: OriginId, device_id: Option<String>, host: OriginHost) -> Self {
        Self { name: id.to_string().into(), id, device_id, host, endpoints: Default::default() }
    }

    /// The default origin of the configuration, which never registers and never expires.
    ///
    /// Each listener comes with its endpoint; one without text has none.
    pub fn fixed(host: &str, endpoints: &[(Listener, &str)]) -> Result<Self, BadRegistration> {
        let host = OriginHost::parse(host).map_err(|problem| problem.of("ip"))?;
        // A constant name, so that a shared table does not collect one per start.
        let server = ServerName::from("default-backend");
        let id = OriginId { server, service: "static".to_owned(), pid: "0".to_owned() };
        let mut origin = Self::new(id, None, host);
        for &(listener, text) in endpoints.iter().filter(|(_, text)| !text.is_empty()) {
            let endpoint = Endpoint::parse(listener, text);
            origin.add(listener, endpoint.map_err(|problem| problem.of(listener.as_str()))?);
        }
        Ok(origin)
    }

    /// Whether both are dialled at the same places.
    pub(super) fn is_where(&self, other: &Self) -> bool {
        self.host == other.host && self.endpoints == other.endpoints
    }

    pub(super) fn add(&mut self, listener: Listener, endpoint: Endpoint) {
        if let Some(endpoints) = self.endpoints.get_mut(listener as usize) {
            endpoints.push(endpoint);
        }
    }

    /// This run of the server.
    pub fn id(&self) -> &OriginId {
        &self.id
    }

    /// The server, whichever run.
    pub fn server(&self) -> &ServerName {
        &self.id.server
    }

    /// `server-service-pid`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The operator's label.
    pub fn device_id(&self) -> Option<&str> {
        self.device_id.as_deref()
    }

    /// Where it is.
    pub fn host(&self) -> &OriginHost {
        &self.host
    }

    /// Its ports for a listener, in the order of its heartbeat.
    pub fn endpoints(&self, listener: Listener) -> &[Endpoint] {
        self.endpoints.get(listener as usize).map_or(&[], Vec::as_slice)
    }

    /// Host and port to dial, first choice first: those of the listener's usual transport.
    pub fn targets(&self, listener: Listener) -> impl Iterator<Item = (&str, u16)> {
        let usual = move |e: &&Endpoint| e.transport == listener.transport();
        self.endpoints(listener).iter().filter(usual).map(|e| (self.host.as_str(), e.port))
    }

    /// Whether there is anything to dial.
    pub fn offers(&self, listener: Listener) -> bool {
        self.targets(listener).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_in_every_form_an_origin_may_write() {
        for text in [
            "1935",
            ":1935",
            "0.0.0.0:1935",
            "[::]:1935",
            "tcp://:1935",
            "tcp://0.0.0.0:1935",
            "tcp://[::1]:1935",
            "tcp://1935",
            "localhost:1935",
            " 1935 ",
        ] {
            let endpoint = Endpoint::parse(Listener::Rtmp, text).map(|e| e.to_string());
            assert_eq!(endpoint.as_deref(), Ok("tcp://:1935"), "{text}");
        }
        for text in ["8000", "udp://0.0.0.0:8000", "udp://:8000", "0.0.0.0:8000", "[::]:8000"] {
            for listener in [Listener::Srt, Listener::Rtc] {
                let endpoint = Endpoint::parse(listener, text).map(|e| e.to_string());
                assert_eq!(endpoint.as_deref(), Ok("udp://:8000"), "{text}");
            }
        }
        let over_tcp = Endpoint::parse(Listener::Rtc, "tcp://0.0.0.0:8000");
        assert_eq!(over_tcp.map(|e| e.transport), Ok(Transport::Tcp));
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "0",
            "65536",
            "-1",
            "+1935",
            "port",
            "1935x",
            "http://:1935",
            "udp://:1935",
            "::1:1935",
            "[::1935",
            "[zz]:1935",
            "a b:1935",
            "1.2.3.4",
            "tcp://",
            "1935:",
        ] {
            assert!(Endpoint::parse(Listener::Rtmp, text).is_err(), "{text:?} was taken");
        }
        assert!(Endpoint::parse(Listener::Srt, "tcp://:1").is_err(), "SRT has no TCP");
    }

    #[test]
    fn a_host_is_an_address_or_a_name() {
        for (text, host) in [
            ("127.0.0.1", "127.0.0.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:DB8::1]", "2001:db8::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("origin-1.media.example", "origin-1.media.example"),
            ("srs_origin", "srs_origin"),
        ] {
            assert_eq!(OriginHost::parse(text).as_ref().map(OriginHost::as_str), Ok(host));
        }
        for text in [
            "",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "1.2.3",
            "1.2.3.4:80",
            "::ffff:0.0.0.0",
            "::ffff:224.0.0.1",
            "255.255.255.255",
            "127.1",
            "0x0",
            "a b",
            "a/b",
            "[a]",
            "-\n",
            "fe80::1%eth0",
            "a..b",
            &"a".repeat(64),
        ] {
            assert!(OriginHost::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn only_the_usual_transport_is_dialled() {
        let rtc =
            [(Listener::Rtc, "tcp://:8000"), (Listener::Rtc, "udp://:8001"), (Listener::Srt, "")];
        let origin = Origin::fixed("media.example", &rtc).unwrap();
        assert_eq!(origin.targets(Listener::Rtc).collect::<Vec<_>>(), [("media.example", 8001)]);
        assert!(!origin.offers(Listener::Srt), "an empty text is no endpoint");
    }
}
