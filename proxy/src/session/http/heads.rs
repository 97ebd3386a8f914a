//! What is changed in the heads that pass: nothing but what is meant for one hop.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use crate::listen::TrustedProxies;
use crate::pages::SERVER_NAME;
use crate::proto::http::{BodyLength, Headers, RequestHead, ResponseHead, Version};
use crate::stream::Kind;

/// The client, as far as heads depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) version: Version,
    /// Whether it would send another request on this connection.
    pub(super) keeps_alive: bool,
}

/// This proxy, as one of those that a request passes.
#[derive(Clone, Debug)]
pub struct Hop {
    /// Whose word on their clients is taken.
    pub trusted: TrustedProxies,
    /// What it is called in `Via`, and no other one is.
    pub pseudonym: String,
}

/// The head that the origin at this address gets.
pub(super) fn for_origin(
    head: &RequestHead,
    kind: Kind,
    client: Client,
    hop: &Hop,
    origin: SocketAddr,
) -> RequestHead {
    let mut head = head.clone();
    let length = head.body_length();
    head.headers.retain(|name| !is_disguised(name));
    head.headers.remove_hop_by_hop();
    if length == BodyLength::Chunked {
        head.headers.push("Transfer-Encoding", "chunked");
    }
    in_origin_form(&mut head, origin);
    // RFC 9110 10.1.1: there is no interim answer for a client of HTTP/1.0.
    if client.version == Version::Http10 {
        head.headers.remove("Expect");
    }
    match kind {
        // It must be read to be rewritten, and whole.
        Kind::Playlist => {
            head.headers.set("Accept-Encoding", "identity");
            head.headers.remove("Range");
            head.headers.remove("If-Range");
        }
        // The connection is of use for nothing else behind it.
        Kind::Live => head.headers.push("Connection", "close"),
        // Both at once.
        Kind::Signalling | Kind::Api => {
            head.headers.set("Accept-Encoding", "identity");
            head.headers.push("Connection", "close");
        }
        Kind::Media | Kind::Page => {}
    }
    forwarded(&mut head.headers, client, &hop.trusted);
    via(&mut head.headers, client.version, &hop.pseudonym);
    head
}

/// RFC 9112 3.2.2: the host of an absolute target counts, and the origin gets the origin form.
fn in_origin_form(head: &mut RequestHead, origin: SocketAddr) {
    // A client of HTTP/1.0 need not name a host.
    let host = head.authority().filter(|host| !host.is_empty());
    let host = host.map_or_else(|| origin.to_string(), str::to_owned);
    head.headers.set("Host", host);
    head.target = head.origin_form().into_owned();
}

/// Whether a server could take a header for one that tells where the body ends or who asks, and it
/// is none. RFC 3875 4.1.18: CGI, and WSGI behind it, read `X_Real_IP` and `X-Real-IP` alike; some
/// servers any other sign as well.
fn is_disguised(name: &str) -> bool {
    const FRAMING: [&str; 2] = ["Content-Length", "Transfer-Encoding"];
    let is_alike = |other: &str| {
        let mut both = name.bytes().zip(other.bytes());
        name.len() == other.len()
            && both.all(|(own, other)| match other {
                b'-' => !own.is_ascii_alphanumeric(),
                _ => own.eq_ignore_ascii_case(&other),
            })
    };
    let mut names = FRAMING.iter().chain(&TOLD);
    names.any(|other| is_alike(other) && !name.eq_ignore_ascii_case(other))
}

/// What proxies tell of a client.
const TOLD: [&str; 6] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Real-IP",
    "Forwarded",
];

/// Who asks, and by whom. What a client says of itself is not passed on; what a trusted proxy
/// says is, with the proxy's own address behind it.
fn forwarded(headers: &mut Headers, client: Client, trusted: &TrustedProxies) {
    let ip = client.address.ip().to_canonical();
    if !trusted.contains(ip) {
        for name in TOLD {
            headers.remove(name);
        }
    }
    let real = on_behalf_of(headers, ip, trusted).map_or_else(|| ip.to_string(), str::to_owned);
    let host = headers.text("Host").unwrap_or_default().to_owned();
    if !headers.has("Forwarded") {
        translated(headers);
    }
    append(headers, "X-Forwarded-For", &ip.to_string());
    for (name, value) in
        [("X-Real-IP", real.as_str()), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", &host)]
    {
        if !headers.has(name) {
            headers.push(name, value);
        }
    }
    let host = host.replace(['"', '\\'], "");
    let hop = format!("for={};host=\"{host}\";proto=http", node(&ip.to_string()));
    append(headers, "Forwarded", &hop);
}

/// The client of which trusted proxies in front tell, if they do. Each has added whom it saw: from
/// the end on, the first that is no proxy of ours is the client. What stands before it may be the
/// client's own invention.
pub(super) fn on_behalf_of<'a>(
    headers: &'a Headers,
    client: IpAddr,
    trusted: &TrustedProxies,
) -> Option<&'a str> {
    if !trusted.contains(client) {
        return None;
    }
    let told: Vec<_> = headers.list("X-Forwarded-For").collect();
    let is_proxy = |told: &&&str| told.parse().is_ok_and(|ip| trusted.contains(ip));
    told.iter().rev().find(|told| !is_proxy(told)).or(told.first()).copied()
}

/// What trusted proxies have told in `X-Forwarded-For`, in the words of RFC 7239, so that an origin
/// that reads the one finds no other client in the other.
fn translated(headers: &mut Headers) {
    let told: Vec<_> = headers.list("X-Forwarded-For").map(node).collect();
    // The protocol and the host are those by which the last of them was asked.
    let proto = headers.text("X-Forwarded-Proto").filter(|proto| is_token(proto));
    let proto = proto.map_or_else(String::new, |proto| format!(";proto={proto}"));
    let elements: Vec<_> = told.iter().map(|node| format!("for={node}")).collect();
    if !elements.is_empty() {
        headers.set("Forwarded", format!("{}{proto}", elements.join(", ")));
    }
}

/// RFC 7239 4 and 6: an IPv6 address stands in brackets and quotes, as does what is no address.
fn node(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V4(ip)) => ip.to_string(),
        Ok(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
        Err(_) => "unknown".to_owned(),
    }
}

/// RFC 9110 5.6.2, as far as protocols are called.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The authority by which the client asked, as a trusted proxy in front tells it, or else the
/// client itself.
pub(super) fn asked_by(head: &RequestHead, client: IpAddr, trusted: &TrustedProxies) -> String {
    let told = head.headers.text("X-Forwarded-Host").filter(|_| trusted.contains(client));
    told.or(head.authority()).unwrap_or_default().to_owned()
}

/// RFC 9110 7.6.3: by which way the request has come; the version is that of the message received.
fn via(headers: &mut Headers, version: Version, pseudonym: &str) {
    let version = match version {
        Version::Http10 => "1.0 ",
        Version::Http11 => "1.1 ",
    };
    append(headers, "Via", &[version, pseudonym].concat());
}

/// One more element of a list, which is one header then.
fn append(headers: &mut Headers, name: &str, element: &str) {
    let mut list = String::new();
    for before in headers.list(name) {
        list.extend([before, ", "]);
    }
    list += element;
    headers.set(name, list);
}

/// The head that the client gets.
pub(super) fn for_client(
    head: &mut ResponseHead,
    kind: Kind,
    client: Client,
    is_chunked: bool,
    stays_open: bool,
) {
    head.headers.remove_hop_by_hop();
    if head.status == 204 {
        remove_length(head);
    }
    if is_chunked {
        head.headers.push("Transfer-Encoding", "chunked");
    }
    connection(&mut head.headers, client.version, stays_open);
    cross_origin(&mut head.headers, kind);
}

/// The head of an answer that precedes the final one.
pub(super) fn interim(head: &mut ResponseHead) {
    head.headers.remove_hop_by_hop();
    remove_length(head);
}

/// RFC 9110 8.6: answers that have no body give no length, by which a client could wait for one.
fn remove_length(head: &mut ResponseHead) {
    head.headers.remove("Content-Length");
}

/// RFC 9112 9.3: HTTP/1.1 stays open unless told otherwise, HTTP/1.0 closes.
pub(super) fn connection(headers: &mut Headers, version: Version, stays_open: bool) {
    match (version, stays_open) {
        (_, false) => headers.push("Connection", "close"),
        (Version::Http10, true) => headers.push("Connection", "keep-alive"),
        (Version::Http11, true) => {}
    }
}

/// What tells of the bytes of a body that is another one now.
pub(super) fn without_digests(headers: &mut Headers) {
    for digest in ["Content-MD5", "Digest", "Content-Digest", "Repr-Digest"] {
        headers.remove(digest);
    }
}

/// Pages of any host may play, as from the existing proxy; an origin that has its own rules
/// keeps them. The origins' API is theirs to open to pages.
pub(super) fn cross_origin(headers: &mut Headers, kind: Kind) {
    if kind == Kind::Api {
        return;
    }
    if !headers.has("Access-Control-Allow-Origin") {
        headers.push("Access-Control-Allow-Origin", "*");
        headers.push("Access-Control-Expose-Headers", "*");
    }
    // Also from an origin that lets pages ask, and does not say that they may read its headers.
    if kind == Kind::Signalling && !headers.has("Access-Control-Expose-Headers") {
        headers.push("Access-Control-Expose-Headers", "*, Location, ETag, Link, Retry-After");
    }
}

/// What the proxy says of itself in an answer of its own (RFC 9110 6.6.1 and 10.2.4).
pub(super) fn sign(headers: &mut Headers, now: SystemTime) {
    headers.set("Server", SERVER_NAME);
    headers.set("Date", httpdate::fmt_http_date(now));
}

/// Whether an answer says that it is HLS or MPEG-DASH.
pub(super) fn is_playlist(headers: &Headers) -> bool {
    const TYPES: [&str; 5] = [
        "application/vnd.apple.mpegurl",
        "application/x-mpegurl",
        "audio/mpegurl",
        "audio/x-mpegurl",
        "application/dash+xml",
    ];
    let media_type = headers.text("Content-Type").unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    TYPES.iter().any(|known| media_type.eq_ignore_ascii_case(known))
}

/// How the body of an answer is encoded, of the ways that the proxy can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// None if it is another. Codings are compared without case (RFC 9110 8.4.1), and one that
    /// was asked for identity may say so.
    pub(super) fn of(headers: &Headers) -> Option<Self> {
        let mut codings = headers
            .list("Content-Encoding")
            .filter(|coding| !coding.eq_ignore_ascii_case("identity"));
        match (codings.next(), codings.next()) {
            (None, _) => Some(Self::Identity),
            (Some(coding), None) => coding.eq_ignore_ascii_case("gzip").then_some(Self::Gzip),
            (Some(_), Some(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::fed::{client_of, understood};
    use super::*;

    const GET_10: &str = "GET /live/s-1.ts HTTP/1.0\r\n\r\n";
    const ORIGIN: &str = "10.0.0.1:8080";

    /// Behind a client whose address is not trusted, or is, and another proxy in front of it.
    fn origin_gets(asked: &str, is_trusted: bool) -> RequestHead {
        let (request, _) = understood(asked.as_bytes());
        let client = client_of(&request.head);
        let networks = if is_trusted { vec!["192.0.2.0/24".parse().unwrap()] } else { Vec::new() };
        let hop = Hop { trusted: networks.into(), pseudonym: "srs-proxy".into() };
        for_origin(&request.head, request.kind, client, &hop, ORIGIN.parse().unwrap())
    }

    /// All values of these names, one line each.
    fn lines(head: &RequestHead, names: &[&str]) -> Vec<String> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let of = |name: &&str| {
            let values = head.headers.all(name).map(text);
            values.map(|value| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        names.iter().flat_map(of).collect()
    }

    const TOLD: [&str; 7] = [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Real-IP",
        "Forwarded",
        "Via",
    ];

    const CLAIMS: &str = "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2, 3.3.3.3\r\n\
                          X-Forwarded-Proto: https\r\nX-Forwarded-Host: front\r\n\
                          X-Forwarded-Port: 443\r\nForwarded: for=\"[::1]:5, x\";proto=https\r\n\
                          Via: 1.0 first\r\n";

    #[test]
    fn what_a_client_says_of_itself_does_not_reach_the_origin() {
        let asked = format!(
            "GET /live/s-1.ts HTTP/1.1\r\nHost: proxy:80\r\n{CLAIMS}X-Real-IP: 9.9.9.9\r\n\
             Connection: x-real-ip, forwarded\r\n\r\n"
        );
        assert_eq!(
            lines(&origin_gets(&asked, false), &TOLD),
            [
                "X-Forwarded-For: 192.0.2.7",
                "X-Forwarded-Proto: http",
                "X-Forwarded-Host: proxy:80",
                "X-Real-IP: 192.0.2.7",
                "Forwarded: for=192.0.2.7;host=\"proxy:80\";proto=http",
                "Via: 1.0 first, 1.1 srs-proxy",
            ]
        );
    }

    #[test]
    fn names_that_a_server_reads_as_others_do_not_reach_it() {
        let forged = "X_Forwarded_For: 1.1.1.1\r\nx-forwarded_PROTO: https\r\nX_Real_IP: 1.1.1.1\r\n\
                      X.Forwarded.Host: front\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\n";
        let asked = format!(
            "POST /live/s-1.ts HTTP/1.1\r\nHost: a\r\n{forged}X_Other: 1\r\nX-Forwarded_: 2\r\n\
             Content-Length: 7\r\n\r\n"
        );
        for is_trusted in [false, true] {
            let head = origin_gets(&asked, is_trusted);
            let is_plain =
                |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            let odd: Vec<_> =
                head.headers.iter().map(|(name, _)| name).filter(|name| !is_plain(name)).collect();
            assert_eq!(odd, ["X_Other", "X-Forwarded_"]);
            let told = lines(&head, &["X-Forwarded-For", "X-Real-IP", "Content-Length"]);
            assert_eq!(
                told,
                ["X-Forwarded-For: 192.0.2.7", "X-Real-IP: 192.0.2.7", "Content-Length: 7"]
            );
        }
    }

    #[test]
    fn what_a_trusted_proxy_says_is_taken_over_with_its_own_address_behind() {
        let asked = format!("GET /live/s-1.ts HTTP/1.1\r\nHost: proxy:80\r\n{CLAIMS}\r\n");
        assert_eq!(
            lines(&origin_gets(&asked, true), &TOLD),
            [
                "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.7",
                "X-Forwarded-Proto: https",
                "X-Forwarded-Host: front",
                "X-Forwarded-Port: 443",
                // The last is the proxy's word; those before may be its client's invention.
                "X-Real-IP: 3.3.3.3",
                "Forwarded: for=\"[::1]:5, x\";proto=https, for=192.0.2.7;host=\"proxy:80\";proto=http",
                "Via: 1.0 first, 1.1 srs-proxy",
            ]
        );
        let asked =
            format!("GET /live/s-1.ts HTTP/1.1\r\nHost: a\r\n{CLAIMS}X-Real-IP: 9.9.9.9\r\n\r\n");
        assert_eq!(lines(&origin_gets(&asked, true), &["X-Real-IP"]), ["X-Real-IP: 9.9.9.9"]);
        for (told, real) in [
            ("1.1.1.1, 3.3.3.3, 192.0.2.9", "3.3.3.3"),
            ("192.0.2.8, 192.0.2.9", "192.0.2.8"),
            ("unknown, 192.0.2.9", "unknown"),
        ] {
            let asked =
                format!("GET /live/s-1.ts HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {told}\r\n\r\n");
            let head = origin_gets(&asked, true);
            assert_eq!(lines(&head, &["X-Real-IP"]), [format!("X-Real-IP: {real}")], "{told}");
        }
    }

    #[test]
    fn an_address_of_ipv6_is_quoted_where_it_must_be() {
        let (request, _) = understood(GET_10.as_bytes());
        for (address, plain, quoted) in [
            ("[2001:db8::1]:5", "2001:db8::1", "\"[2001:db8::1]\""),
            ("[::ffff:192.0.2.1]:5", "192.0.2.1", "192.0.2.1"),
        ] {
            let client = Client { address: address.parse().unwrap(), ..client_of(&request.head) };
            let hop = Hop { trusted: TrustedProxies::default(), pseudonym: "srs-proxy".into() };
            let origin = ORIGIN.parse().unwrap();
            let head = for_origin(&request.head, request.kind, client, &hop, origin);
            assert_eq!(
                lines(&head, &["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"]),
                [
                    format!("X-Forwarded-For: {plain}"),
                    format!("X-Real-IP: {plain}"),
                    format!("Forwarded: for={quoted};host=\"10.0.0.1:8080\";proto=http"),
                    "Via: 1.0 srs-proxy".to_owned(),
                ]
            );
        }
    }

    #[test]
    fn the_host_of_an_absolute_target_counts_and_the_origin_gets_the_path() {
        for (target, host, got) in [
            ("http://other:81/live/s-1.ts?a=b", "other:81", "/live/s-1.ts?a=b"),
            ("/live/s-1.ts?a=b", "proxy", "/live/s-1.ts?a=b"),
        ] {
            let head = origin_gets(&format!("GET {target} HTTP/1.1\r\nHost: proxy\r\n\r\n"), false);
            assert_eq!((head.target.as_str(), head.headers.text("Host")), (got, Some(host)));
            assert_eq!(head.headers.all("Host").count(), 1);
        }
        let unnamed = origin_gets(GET_10, false);
        assert_eq!(unnamed.headers.text("Host"), Some(ORIGIN));
    }

    #[test]
    fn playlists_are_asked_for_whole_and_plain_and_nothing_else_is() {
        let wants = "Range: bytes=0-9\r\nIf-Range: \"a\"\r\nAccept-Encoding: gzip, br\r\n\
                     If-None-Match: \"a\"\r\n\r\n";
        let names = ["Range", "If-Range", "Accept-Encoding", "If-None-Match", "Connection"];
        let asked =
            |target| format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{wants}");
        assert_eq!(
            lines(&origin_gets(&asked("/live/s.m3u8"), false), &names),
            ["Accept-Encoding: identity", "If-None-Match: \"a\""]
        );
        let kept = [
            "Range: bytes=0-9",
            "If-Range: \"a\"",
            "Accept-Encoding: gzip, br",
            "If-None-Match: \"a\"",
        ];
        assert_eq!(lines(&origin_gets(&asked("/live/s-1.ts"), false), &names), kept);
        let live = lines(&origin_gets(&asked("/live/s.flv"), false), &names);
        assert_eq!(live[..4], kept);
        assert_eq!(live[4..], ["Connection: close"]);
    }

    #[test]
    fn the_origin_is_told_where_the_body_ends_as_the_client_told_it() {
        for (told, expected) in [
            ("Content-Length: 5\r\nConnection: content-length\r\n", "Content-Length: 5"),
            ("Transfer-Encoding: Chunked\r\n", "Transfer-Encoding: chunked"),
        ] {
            let asked =
                format!("POST /live/s-1.ts HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n{told}\r\n");
            let head = origin_gets(&asked, false);
            let names = ["Content-Length", "Transfer-Encoding", "TE", "Connection"];
            assert_eq!(lines(&head, &names), [expected]);
            assert_eq!(head.body_length(), understood(asked.as_bytes()).0.head.body_length());
        }
    }

    #[test]
    fn nobody_asks_the_origin_for_another_protocol() {
        let asked = "GET /live/s.flv HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                     Upgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n";
        let head = origin_gets(asked, false);
        assert!(!head.headers.has("Upgrade") && !head.headers.has("HTTP2-Settings"));
    }
}
