//! The PROXY protocol: who the client is, in front of everything else that a proxy passes on.
//!
//! Sections are those of HAProxy's `proxy-protocol.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use thiserror::Error;

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

/// Why a connection does not begin as it has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadHeader {
    /// Its first bytes are something else.
    #[error("no PROXY header")]
    Missing,
    /// The line of version 1 is not as 2.1 says.
    #[error("malformed PROXY line")]
    Line,
    /// The line has no end, or the block behind a binary header is larger than this parser takes.
    #[error("PROXY header too long")]
    TooLong,
    /// A version, command, family or transport that 2.2 does not know.
    #[error("unknown kind of PROXY header: {0:#04x} {1:#04x}")]
    Kind(u8, u8),
    /// The block is too short for its addresses.
    #[error("PROXY header without its addresses")]
    NoAddresses,
}

/// Reads the header that a connection begins with, and gives its length in bytes.
///
/// None as long as it has not all come; every byte so far is the header's then. A client that is
/// not TCP over IP is [`Header::Local`], as are `UNKNOWN` and `UNSPEC`. TLVs are skipped, the
/// checksum among them, which a receiver need not support (2.2.3): TCP has its own.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, BadHeader> {
    let agrees = |start: &[u8]| bytes.iter().zip(start).all(|(has, should)| has == should);
    if agrees(SIGNATURE) {
        parse_v2(bytes)
    } else if agrees(WORD) {
        parse_v1(bytes)
    } else {
        Err(BadHeader::Missing)
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(Header, usize)>, BadHeader> {
    let most = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let Some(last) = most.iter().position(|&b| b == b'\n') else {
        return if most.len() < MAX_LINE { Ok(None) } else { Err(BadHeader::TooLong) };
    };
    let line = most.get(..=last).and_then(|line| line.strip_suffix(b"\r\n"));
    let said = line.and_then(|line| line.strip_prefix(WORD)).ok_or(BadHeader::Line)?;
    let header = match said.split(|&b| b == b' ').next() {
        // Whatever else it says is to be ignored.
        Some(b"UNKNOWN") => Header::Local,
        _ => Header::Proxy(ends_in_words(said).ok_or(BadHeader::Line)?),
    };
    Ok(Some((header, last + 1)))
}

/// Reads `TCP4 192.0.2.1 198.51.100.1 56324 443`, one blank between two words.
fn ends_in_words(said: &[u8]) -> Option<Ends> {
    let mut words = str::from_utf8(said).ok()?.split(' ');
    let family = words.next()?;
    let mut ip = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, destination) = (ip()?, ip()?);
    let mut port = || -> Option<u16> {
        let word = words.next()?;
        let port: u16 = word.parse().ok()?;
        // Neither a sign nor zeros in front.
        (port.to_string() == word).then_some(port)
    };
    let source = SocketAddr::new(source, port()?);
    let destination = SocketAddr::new(destination, port()?);
    words.next().is_none().then_some(Ends { source, destination })
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(Header, usize)>, BadHeader> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
    let [.., command, family, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let is_known = family >> 4 <= 3 && family & 0xf <= 2;
    if !matches!(command, LOCAL | PROXY) || (command == PROXY && !is_known) {
        return Err(BadHeader::Kind(command, family));
    }
    if length > MAX_BLOCK {
        return Err(BadHeader::TooLong);
    }
    let Some(block) = rest.get(..length) else { return Ok(None) };
    let ends = match (command, family) {
        (PROXY, TCP4) => Some(ends_in_bytes::<4>(block)),
        (PROXY, TCP6) => Some(ends_in_bytes::<16>(block)),
        _ => None,
    };
    let header = match ends {
        Some(ends) => Header::Proxy(ends.ok_or(BadHeader::NoAddresses)?),
        None => Header::Local,
    };
    Ok(Some((header, HEAD + length)))
}

/// Both addresses, then both ports; what follows are TLVs.
fn ends_in_bytes<const N: usize>(block: &[u8]) -> Option<Ends>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (near, rest) = rest.split_first_chunk()?;
    let (far, _tlvs) = rest.split_first_chunk()?;
    Some(Ends {
        source: SocketAddr::new((*source).into(), u16::from_be_bytes(*near)),
        destination: SocketAddr::new((*destination).into(), u16::from_be_bytes(*far)),
    })
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
    out.extend([command, family]);
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

/// What the line of version 1 begins with, and its length, line end included (2.1).
const WORD: &[u8] = b"PROXY ";
const MAX_LINE: usize = 107;

/// What a binary header begins with, and the length up to its block (2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const HEAD: usize = SIGNATURE.len() + 4;

/// Bytes of a block that are taken: addresses, and more TLVs than anybody sends.
const MAX_BLOCK: usize = 4096;

/// Bytes of the longest header that is taken.
pub const MAX_HEADER: usize = HEAD + MAX_BLOCK;

/// Version 2 in the upper half of the byte behind the signature, the command in the lower one.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Family and transport.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, block].concat()
    }

    fn written(version: Version, header: &Header) -> Vec<u8> {
        let mut out = Vec::new();
        write(version, header, &mut out);
        out
    }

    #[test]
    fn the_examples_of_the_text_are_read() {
        for (line, expected) in [
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                Header::Proxy(ends("255.255.255.255:65535", "255.255.255.255:65535")),
            ),
            (
                "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                Header::Proxy(ends(
                    "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                    "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                )),
            ),
            (
                "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
                Header::Proxy(ends("192.168.0.1:56324", "192.168.0.11:443")),
            ),
            (
                "PROXY TCP6 2001:db8::1 ::1 1 0\r\n",
                Header::Proxy(ends("[2001:db8::1]:1", "[::1]:0")),
            ),
            ("PROXY UNKNOWN\r\n", Header::Local),
            ("PROXY UNKNOWN whatever it says\r\n", Header::Local),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(Some((expected, line.len()))), "{line}");
        }
    }

    #[test]
    fn a_line_that_differs_by_one_character_is_none() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 ::1 1 2\r\n",
            "PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOWN \n",
            "PROXY \r\n",
            "PROXY TCP4 \u{661}92.0.2.1 192.0.2.2 1 2\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(BadHeader::Line), "{line:?}");
        }
        for start in ["proxy ", "PROXY\t", "GET / HTTP/1.1\r\n", "\u{3}", "\r\n\r\n\r"] {
            assert_eq!(parse(start.as_bytes()), Err(BadHeader::Missing), "{start:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(MAX_LINE - 14));
        assert_eq!(parse(endless.as_bytes()), Err(BadHeader::TooLong));
        assert_eq!(parse(&endless.as_bytes()[..MAX_LINE - 1]), Ok(None), "the end may come yet");
    }

    #[test]
    fn a_binary_header_says_the_client_its_tlvs_do_not_count() {
        let block = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
        let told = Header::Proxy(ends("192.0.2.1:56324", "198.51.100.1:443"));
        let with_tlvs = [block.as_slice(), &[0x03, 0, 4, 1, 2, 3, 4, 0xff]].concat();
        for block in [block.as_slice(), &with_tlvs] {
            let header = v2(PROXY, TCP4, block);
            assert_eq!(parse(&header), Ok(Some((told, header.len()))));
        }
        let short = v2(PROXY, TCP4, &block[..11]);
        assert_eq!(parse(&short), Err(BadHeader::NoAddresses));
        let short = v2(PROXY, TCP6, &[0; 35]);
        assert_eq!(parse(&short), Err(BadHeader::NoAddresses));
    }

    #[test]
    fn who_is_not_tcp_over_ip_is_not_named() {
        for (command, family, block) in [
            (LOCAL, 0x00, [].as_slice()),
            (LOCAL, 0xff, &[1, 2, 3]),
            (PROXY, 0x00, &[]),
            (PROXY, 0x12, &[0; 12]),
            (PROXY, 0x22, &[0; 36]),
            (PROXY, 0x31, &[b'/'; 216]),
            (PROXY, 0x32, &[0; 3]),
        ] {
            let header = v2(command, family, block);
            assert_eq!(parse(&header), Ok(Some((Header::Local, header.len()))), "{family:#x}");
        }
    }

    #[test]
    fn an_unknown_kind_is_refused_before_its_block_comes() {
        for (command, family) in [(0x11, TCP4), (0x22, TCP4), (PROXY, 0x41), (PROXY, 0x13)] {
            let header = v2(command, family, &[0; 12]);
            assert_eq!(parse(&header[..HEAD]), Err(BadHeader::Kind(command, family)));
        }
        let large = [SIGNATURE.as_slice(), &[PROXY, TCP4, 0x10, 0x01]].concat();
        assert_eq!(parse(&large), Err(BadHeader::TooLong));
    }

    /// Both families in both versions, with the first bytes of a client behind each.
    #[test]
    fn every_prefix_asks_for_more_and_nothing_behind_is_taken() {
        let v4 = Header::Proxy(ends("192.0.2.1:1", "192.0.2.2:1935"));
        let v6 = Header::Proxy(ends("[2001:db8::1]:1", "[2001:db8::2]:1935"));
        for version in [Version::V1, Version::V2] {
            for header in [v4, v6, Header::Local] {
                let mut bytes = written(version, &header);
                let length = bytes.len();
                for n in 0..length {
                    assert_eq!(parse(&bytes[..n]), Ok(None), "{version:?} {header:?}: {n} bytes");
                }
                bytes.extend_from_slice(b"\x03\r\nPROXY ");
                for n in length..=bytes.len() {
                    assert_eq!(parse(&bytes[..n]), Ok(Some((header, length))), "{version:?}: {n}");
                }
            }
        }
    }

    #[test]
    fn ends_of_two_families_are_both_written_as_ipv6() {
        let header = Header::Proxy(ends("[2001:db8::1]:1", "192.0.2.2:1935"));
        let line = written(Version::V1, &header);
        let expected = "PROXY TCP6 2001:db8:0:0:0:0:0:1 0:0:0:0:0:ffff:c000:202 1 1935\r\n";
        assert_eq!(str::from_utf8(&line), Ok(expected));
        // Who listens on both families has clients of IPv4 in the form of IPv6.
        let mapped = Header::Proxy(ends("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:1935"));
        let line = written(Version::V1, &mapped);
        assert_eq!(str::from_utf8(&line), Ok("PROXY TCP4 192.0.2.1 192.0.2.2 1 1935\r\n"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            source in any::<(IpAddr, u16)>(),
            destination in any::<(IpAddr, u16)>(),
        ) {
            let told = Ends { source: source.into(), destination: destination.into() };
            for version in [Version::V1, Version::V2] {
                let bytes = written(version, &Header::Proxy(told));
                if version == Version::V1 {
                    prop_assert!(bytes.len() <= MAX_LINE);
                }
                let Ok(Some((Header::Proxy(read), length))) = parse(&bytes) else {
                    return Err(TestCaseError::fail(format!("{bytes:?} is not read")));
                };
                prop_assert_eq!((read.to_canonical(), length), (told.to_canonical(), bytes.len()));
            }
        }
    }
}
