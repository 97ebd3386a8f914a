//! The PROXY protocol: who the client is, in front of everything else that a proxy passes on.
//!
//! Sections are those of HAProxy's `proxy-protocol.txt`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The form of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text (2.1).
    V1,
    /// Binary (2.2).
    V2,
}

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client came to.
    pub destination: SocketAddr,
}

impl Ends {
    /// The same with IPv4-mapped addresses as IPv4.
    #[must_use]
    pub fn to_canonical(self) -> Self {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        Self { source: canonical(self.source), destination: canonical(self.destination) }
    }
}

/// On whose behalf a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A client's.
    Proxy(Ends),
    /// That of the proxy itself, or of a client of which nothing is said: the connection's own
    /// ends are those that count.
    Local,
}

/// Appends a header. Ends of different families are both written as IPv6.
pub fn write(version: Version, header: &Header, out: &mut Vec<u8>) {
    let pair = match header {
        Header::Proxy(ends) => Some(Pair::from(ends)),
        Header::Local => None,
    };
    match version {
        Version::V1 => write_v1(pair.as_ref(), out),
        Version::V2 => write_v2(pair.as_ref(), out),
    }
}

/// 2.1: what is not proxied is `UNKNOWN`, as there is no other word.
fn write_v1(ends: Option<&Pair>, out: &mut Vec<u8>) {
    let line = match ends {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some(Pair::V4([source, destination])) => {
            let (near, far) = (source.port(), destination.port());
            format!("PROXY TCP4 {} {} {near} {far}\r\n", source.ip(), destination.ip())
        }
        Some(Pair::V6([source, destination])) => {
            let (near, far) = (source.port(), destination.port());
            let [source, destination] = [source, destination].map(|end| hexadecimal(end.ip()));
            format!("PROXY TCP6 {source} {destination} {near} {far}\r\n")
        }
    };
    out.extend_from_slice(line.as_bytes());
}

/// 2.1 has no dotted tail, as others would write a mapped address.
fn hexadecimal(ip: &Ipv6Addr) -> String {
    ip.segments().map(|segment| format!("{segment:x}")).join(":")
}

/// 2.2, without TLVs.
fn write_v2(ends: Option<&Pair>, out: &mut Vec<u8>) {
    let mut block = Vec::new();
    let (command, family) = match ends {
        None => (LOCAL, 0x00),
        Some(Pair::V4(ends)) => {
            block.extend(ends.iter().flat_map(|end| end.ip().octets()));
            block.extend(ends.iter().flat_map(|end| end.port().to_be_bytes()));
            (PROXY, TCP4)
        }
        Some(Pair::V6(ends)) => {
            block.extend(ends.iter().flat_map(|end| end.ip().octets()));
            block.extend(ends.iter().flat_map(|end| end.port().to_be_bytes()));
            (PROXY, TCP6)
        }
    };
    let length = u16::try_from(block.len()).unwrap_or_default();
    out.extend_from_slice(SIGNATURE);
    out.extend([VERSION_2 | command, family]);
    out.extend(length.to_be_bytes());
    out.extend(block);
}

/// Both ends in one family, which is all that a header can say.
enum Pair {
    V4([SocketAddrV4; 2]),
    V6([SocketAddrV6; 2]),
}

impl From<&Ends> for Pair {
    fn from(ends: &Ends) -> Self {
        let both = [ends.source, ends.destination];
        match both.map(|end| end.ip().to_canonical()) {
            [IpAddr::V4(source), IpAddr::V4(destination)] => Self::V4([
                SocketAddrV4::new(source, ends.source.port()),
                SocketAddrV4::new(destination, ends.destination.port()),
            ]),
            _ => Self::V6(both.map(|end| {
                let ip = match end.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                SocketAddrV6::new(ip, end.port(), 0, 0)
            })),
        }
    }
}

/// What a binary header begins with (2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The upper half of the byte behind it; the command is the lower half.
const VERSION_2: u8 = 0x20;
const LOCAL: u8 = 0x0;
const PROXY: u8 = 0x1;

/// Family and transport.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
