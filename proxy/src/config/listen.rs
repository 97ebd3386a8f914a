//! Where a server listens: `1935`, `:1935`, `0.0.0.0:1935`, `[::]:1935`, and lists of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One or more addresses, none of which overlaps another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddrs(Vec<ListenAddr>);

impl ListenAddrs {
    /// The addresses, in the order in which they were written.
    pub fn iter(&self) -> impl Iterator<Item = ListenAddr> {
        self.0.iter().copied()
    }

    /// Whether `addr`, one of these, also takes IPv4 clients on an IPv6 socket: a bare port does,
    /// and the IPv6 wildcard unless the list has an IPv4 address with the same port.
    pub fn is_dual_stack(&self, addr: ListenAddr) -> bool {
        match addr {
            ListenAddr::Port(_) => true,
            ListenAddr::Socket(socket) => {
                let same_port_in_ipv4 = |other| match other {
                    ListenAddr::Socket(other) => other.is_ipv4() && other.port() == socket.port(),
                    ListenAddr::Port(_) => false,
                };
                socket.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                    && !self.iter().any(same_port_in_ipv4)
            }
        }
    }

    /// Whether only this host can reach every one of them.
    pub fn are_loopback(&self) -> bool {
        self.iter().all(|addr| addr.sockets().iter().all(|socket| socket.ip().is_loopback()))
    }

    /// Addresses between commas. The error says what was expected.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut addrs: Vec<ListenAddr> = Vec::new();
        for item in text.split(',') {
            let addr = ListenAddr::parse(item.trim())?;
            if let Some(other) = addrs.iter().find(|other| other.overlaps(addr)) {
                return Err(format!("{other} and {addr} are the same port"));
            }
            addrs.push(addr);
        }
        Ok(Self(addrs))
    }

    /// An address of each that cannot be bound at the same time.
    pub(super) fn overlap(&self, other: &Self) -> Option<(ListenAddr, ListenAddr)> {
        self.iter().find_map(|a| Some((a, other.iter().find(|&b| a.overlaps(b))?)))
    }
}

/// One address to listen on. Port 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// A port on every address of the host, IPv4 and IPv6.
    Port(u16),
    /// One address; see [`ListenAddrs::is_dual_stack`] for the IPv6 wildcard.
    Socket(SocketAddr),
}

impl ListenAddr {
    /// The addresses to bind: for a bare port the wildcards of both families.
    pub fn sockets(self) -> Vec<SocketAddr> {
        match self {
            Self::Port(port) => vec![
                SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
                SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
            ],
            Self::Socket(socket) => vec![socket],
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let port = text.strip_prefix(':').unwrap_or(text);
        if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) {
            return port.parse().map(Self::Port).map_err(|_| "a port is at most 65535".into());
        }
        text.parse().map(Self::Socket).map_err(|_| EXPECTED.into())
    }

    fn overlaps(self, other: Self) -> bool {
        let sockets = other.sockets();
        self.sockets().iter().any(|a| sockets.iter().any(|b| sockets_overlap(a, b)))
    }
}

fn sockets_overlap(a: &SocketAddr, b: &SocketAddr) -> bool {
    let either_is_wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (either_is_wildcard || a == b)
}

impl fmt::Display for ListenAddrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, addr) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{addr}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Socket(socket) => socket.fmt(f),
        }
    }
}

const EXPECTED: &str = "expected a port or an IP address with a port, such as 1935, :1935, \
                        0.0.0.0:1935 or [::]:1935, or several between commas; \
                        host names are not looked up";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ListenAddrs, String> {
        ListenAddrs::parse(text)
    }

    #[test]
    fn every_form_is_read_and_written_back() {
        for (text, shown) in [
            ("1935", "1935"),
            (":1935", "1935"),
            ("0", "0"),
            ("0.0.0.0:1935", "0.0.0.0:1935"),
            ("[::]:1935", "[::]:1935"),
            ("[::1]:0", "[::1]:0"),
            ("127.0.0.1:1935, [::1]:1935 ,1936", "127.0.0.1:1935,[::1]:1935,1936"),
            ("0.0.0.0:1935,[::]:1935", "0.0.0.0:1935,[::]:1935"),
            ("0,0", "0,0"),
        ] {
            assert_eq!(parse(text).map(|addrs| addrs.to_string()), Ok(shown.into()), "{text}");
        }
    }

    #[test]
    fn a_bare_port_is_both_families() {
        let sockets = ListenAddr::Port(1935).sockets();
        let shown: Vec<_> = sockets.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["0.0.0.0:1935", "[::]:1935"]);
    }

    #[test]
    fn the_ipv6_wildcard_is_both_families_unless_ipv4_stands_beside_it() {
        let dual = |text: &str| {
            let addrs = parse(text).unwrap();
            addrs.iter().map(|addr| addrs.is_dual_stack(addr)).collect::<Vec<_>>()
        };
        assert_eq!(dual("1935"), [true]);
        assert_eq!(dual("[::]:1935"), [true]);
        assert_eq!(dual("[::]:1935,0.0.0.0:1935"), [false, false]);
        assert_eq!(dual("[::]:1935,127.0.0.1:1936,[::1]:1937"), [true, false, false]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":",
            ",",
            "1935,",
            "65536",
            "+1935",
            "-1",
            "abc",
            "localhost:1935",
            "*:1935",
            "::1:1935",
            "0.0.0.0",
            "0.0.0.0:",
            "[::]",
            "tcp://:1935",
            "\"1935\"",
        ] {
            assert!(parse(text).is_err(), "{text:?} is no listen address");
        }
        assert!(parse("localhost:1935").unwrap_err().contains("host names"));
    }

    #[test]
    fn one_port_is_listened_on_once() {
        for text in [
            "1935,:1935",
            "1935,0.0.0.0:1935",
            "[::1]:1935,1935",
            "127.0.0.1:1935,0.0.0.0:1935",
            "127.0.0.1:1935,127.0.0.1:1935",
        ] {
            let problem = parse(text).expect_err(text);
            assert!(problem.contains("the same port"), "{text}: {problem}");
        }
        let rtmp = parse("127.0.0.1:1935,1936").unwrap();
        assert!(rtmp.overlap(&parse("127.0.0.2:1935,[::1]:1935").unwrap()).is_none());
        assert!(rtmp.overlap(&parse("[::1]:1936").unwrap()).is_some());
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        assert!(parse("127.0.0.1:1,[::1]:1").unwrap().are_loopback());
        assert!(!parse("127.0.0.1:1,[::]:1").unwrap().are_loopback());
        assert!(!parse("1").unwrap().are_loopback());
    }
}
