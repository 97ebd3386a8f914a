//! What is changed in the heads that pass: nothing but what is meant for one hop.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use crate::pages::SERVER_NAME;
use crate::proto::http::{BodyLength, Headers, RequestHead, ResponseHead, Version};
use crate::stream::Kind;

/// The client, as far as heads depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    /// Whether it is a proxy in front, whose word on its own client is taken.
    pub(super) is_trusted: bool,
    pub(super) version: Version,
    /// Whether it would send another request on this connection.
    pub(super) keeps_alive: bool,
}

/// The head that the origin gets.
pub(super) fn for_origin(
    head: &RequestHead,
    kind: Kind,
    client: Client,
    authority: &str,
) -> RequestHead {
    let mut head = head.clone();
    let length = head.body_length();
    head.headers.remove_hop_by_hop();
    if length == BodyLength::Chunked {
        head.headers.push("Transfer-Encoding", "chunked");
    }
    in_origin_form(&mut head, authority);
    match kind {
        // It must be read to be rewritten, and whole.
        Kind::Playlist => {
            head.headers.set("Accept-Encoding", "identity");
            head.headers.remove("Range");
            head.headers.remove("If-Range");
        }
        // The connection is of use for nothing else behind it.
        Kind::Live => head.headers.push("Connection", "close"),
        Kind::Media | Kind::Page => {}
    }
    forwarded(&mut head.headers, client);
    head
}

/// RFC 9112 3.2.2: the host of an absolute target counts, and the origin gets the origin form.
fn in_origin_form(head: &mut RequestHead, authority: &str) {
    // A client of HTTP/1.0 need not name a host.
    let host = head.authority().filter(|host| !host.is_empty()).unwrap_or(authority).to_owned();
    head.headers.set("Host", host);
    head.target = head.origin_form().into_owned();
}

/// Who asks, and by whom. What a client says of itself is not passed on; what a trusted proxy
/// says is, with the proxy's own address behind it.
fn forwarded(headers: &mut Headers, client: Client) {
    const TOLD: [&str; 6] = [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Real-IP",
        "Forwarded",
    ];
    if !client.is_trusted {
        for name in TOLD {
            headers.remove(name);
        }
    }
    let ip = client.address.ip().to_canonical();
    let before = joined(headers, "X-Forwarded-For");
    let real = headers.list("X-Forwarded-For").next().map_or(ip.to_string(), str::to_owned);
    let host = headers.text("Host").unwrap_or_default().to_owned();
    headers.set("X-Forwarded-For", format!("{before}{ip}"));
    for (name, value) in
        [("X-Real-IP", real.as_str()), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", &host)]
    {
        if !headers.has(name) {
            headers.push(name, value);
        }
    }
    let before = joined(headers, "Forwarded");
    // RFC 7239 4: an IPv6 address, and a host with a port, stand in quotes.
    let for_ = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    };
    let host = host.replace(['"', '\\'], "");
    headers.set("Forwarded", format!("{before}for={for_};host=\"{host}\";proto=http"));
    // RFC 9110 7.6.3: the version is that of the message received.
    let before = joined(headers, "Via");
    let version = match client.version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
    };
    headers.set("Via", format!("{before}{version} srs-proxy"));
}

/// What a list holds already, ready for one more.
fn joined(headers: &Headers, name: &str) -> String {
    let mut list: Vec<_> = headers.list(name).collect();
    list.push("");
    list.join(", ")
}

/// The head that the client gets.
pub(super) fn for_client(
    head: &mut ResponseHead,
    client: Client,
    is_chunked: bool,
    stays_open: bool,
) {
    head.headers.remove_hop_by_hop();
    if is_chunked {
        head.headers.push("Transfer-Encoding", "chunked");
    }
    connection(&mut head.headers, client.version, stays_open);
    cross_origin(&mut head.headers);
}

/// RFC 9112 9.3: HTTP/1.1 stays open unless told otherwise, HTTP/1.0 closes.
pub(super) fn connection(headers: &mut Headers, version: Version, stays_open: bool) {
    match (version, stays_open) {
        (_, false) => headers.push("Connection", "close"),
        (Version::Http10, true) => headers.push("Connection", "keep-alive"),
        (Version::Http11, true) => {}
    }
}

/// Pages of any host may play, as from the existing proxy; an origin that has its own rules
/// keeps them.
pub(super) fn cross_origin(headers: &mut Headers) {
    if !headers.has("Access-Control-Allow-Origin") {
        headers.push("Access-Control-Allow-Origin", "*");
        headers.push("Access-Control-Expose-Headers", "*");
    }
}

/// What the proxy says of itself in an answer of its own (RFC 9110 6.6.1 and 10.2.4).
pub(super) fn sign(headers: &mut Headers) {
    headers.set("Server", SERVER_NAME);
    headers.set("Date", httpdate::fmt_http_date(SystemTime::now()));
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

/// Whether the proxy understands how an answer is encoded.
pub(super) fn can_be_read(headers: &Headers) -> bool {
    let encodings: Vec<_> = headers.list("Content-Encoding").collect();
    encodings.is_empty() || encodings == ["gzip"]
}
