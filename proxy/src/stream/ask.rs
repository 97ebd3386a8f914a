//! How each protocol names a stream, after the rules by which SRS reads it.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::key::BadStream;
use super::vhosts::Vhosts;
use crate::proto::srt::stream_id::{self, Mode};

/// A client's request, in the words of its protocol.
#[derive(Clone, Debug)]
pub enum Ask<'a> {
    /// RTMP: `connect`, then `publish` or `play`.
    Rtmp {
        /// Of the connect object; may be empty.
        tc_url: &'a str,
        /// Of the connect object; used only where there is no `tcUrl`.
        app: &'a str,
        /// As published or played, with its query.
        stream: &'a str,
    },
    /// HTTP-FLV, HTTP-TS, HLS, DASH.
    Http {
        /// The `Host` header, with or without a port.
        host: Option<&'a str>,
        /// The request target, in origin or absolute form.
        target: &'a str,
    },
    /// WHIP and WHEP, whose stream is in the query, or in the path behind the endpoint.
    Rtc {
        /// The `Host` header, with or without a port.
        host: Option<&'a str>,
        /// The request target, in origin or absolute form.
        target: &'a str,
    },
    /// The `streamurl` of SRS's own signalling, read like an RTMP URL.
    WebRtc {
        /// `webrtc://host/app/stream?query`
        url: &'a str,
    },
    /// SRT.
    Srt {
        /// The stream id extension; empty where there is none.
        stream_id: Cow<'a, str>,
    },
}

impl<'a> Ask<'a> {
    /// The request that a client would make of a whole URL.
    ///
    /// An RTMP URL is cut at its last slash, as SRS does, so that a query may stand in front of
    /// the stream; a slash inside a query value has to be percent-encoded. A path of one part is
    /// the stream, of the app `live`, although clients send such a part as an app without stream.
    pub fn from_url(url: &'a str) -> Result<Self, BadStream> {
        let (scheme, rest) = url.split_once("://").ok_or(BadStream::NotAUrl)?;
        match scheme.to_ascii_lowercase().as_str() {
            "rtmp" | "rtmps" => {
                let (tc_url, stream) = at_last_slash(url).ok_or(BadStream::NoName)?;
                Ok(Self::Rtmp { tc_url, app: "", stream })
            }
            "webrtc" => Ok(Self::WebRtc { url }),
            "http" | "https" if !path_and_query(rest).1.starts_with("/rtc/v1/") => {
                Ok(Self::Http { host: None, target: url })
            }
            "http" | "https" | "whip" | "whep" => Ok(Self::Rtc { host: None, target: url }),
            "srt" => {
                // A stream id starts with `#`, which may stand unescaped.
                let query = rest.split_once('?').map_or("", |(_, query)| query);
                let id = query.split('&').find_map(|pair| pair.strip_prefix("streamid="));
                let id = percent_decode_str(id.unwrap_or_default()).decode_utf8_lossy();
                Ok(Self::Srt { stream_id: id })
            }
            _ => Err(BadStream::NotAUrl),
        }
    }

    /// Host, app and stream, neither decoded nor cleaned.
    pub(super) fn place(&self) -> Result<Place, BadStream> {
        self.check_length()?;
        match self {
            Self::Rtmp { tc_url, app, stream } => Ok(rtmp(tc_url, app, stream)),
            Self::Http { host, target } => {
                let Target { host, path, query } = Target::new(*host, target);
                let host = vhost_of(&[query], host);
                Ok(Place { host, app: String::new(), stream: path.to_owned() })
            }
            Self::Rtc { host, target } => {
                let Target { host, path, query } = Target::new(*host, target);
                // SRS: app and stream have defaults, and only the query names them. Other servers
                // have them in the path.
                let (app, stream) = match (value(query, "stream"), behind_endpoint(path)) {
                    (Some(stream), _) => (value(query, "app").unwrap_or("live"), stream),
                    (None, "") => (value(query, "app").unwrap_or("live"), "livestream"),
                    (None, path) => (value(query, "app").unwrap_or_default(), path),
                };
                let host = vhost_of(&[query], host);
                Ok(Place { host, app: app.to_owned(), stream: stream.to_owned() })
            }
            Self::WebRtc { url } => {
                let (tc_url, stream) = at_last_slash(url).ok_or(BadStream::NoName)?;
                Ok(rtmp(tc_url, "", stream))
            }
            Self::Srt { stream_id } => srt(stream_id),
        }
    }

    /// Nothing longer than this names a stream; queries with tokens are counted too.
    fn check_length(&self) -> Result<(), BadStream> {
        const MAX_BYTES: usize = 8 * 1024;
        let length = match self {
            Self::Rtmp { tc_url, app, stream } => tc_url.len() + app.len() + stream.len(),
            Self::Http { host, target } | Self::Rtc { host, target } => {
                host.map_or(0, str::len) + target.len()
            }
            Self::WebRtc { url } => url.len(),
            Self::Srt { stream_id } => stream_id.len(),
        };
        if length > MAX_BYTES { Err(BadStream::TooLong) } else { Ok(()) }
    }
}

/// A request for WHIP or WHEP with its stream in the query, where SRS reads it. None if it stands
/// there already, or nowhere.
pub fn in_query(target: &str) -> Option<String> {
    let (before, path, behind) = around_path(target);
    let query = behind.strip_prefix('?').unwrap_or_default();
    let named = behind_endpoint(path);
    if named.is_empty() || value(query, "stream").is_some() {
        return None;
    }
    let endpoint = path.get(..path.rfind(named)?)?;
    let (app, stream) = named.trim_end_matches('/').rsplit_once('/').unwrap_or(("", named));
    let app = match (value(query, "app"), app) {
        (None, "") => "live".to_owned(),
        (Some(app), "") | (None, app) => app.to_owned(),
        (Some(first), rest) => format!("{first}/{rest}"),
    };
    let stream = stream.trim_matches('/');
    let is_kept =
        |pair: &&str| !pair.is_empty() && !pair.starts_with("app=") && !pair.starts_with("stream=");
    let rest = query.split('&').filter(is_kept).fold(String::new(), |rest, pair| rest + "&" + pair);
    Some(format!("{before}{endpoint}?app={app}&stream={stream}{rest}"))
}

/// Where a stream is, as written.
#[derive(Debug)]
pub(super) struct Place {
    /// The host name that decides the vhost, perhaps with a port.
    pub(super) host: String,
    /// The app, where it is told from the stream.
    pub(super) app: String,
    /// The stream, or `app/stream`.
    pub(super) stream: String,
}

/// SRS: `...vhost...X` is `?vhost=X`; a query behind the app belongs behind the stream; the
/// host gives the vhost unless a query does; an empty stream is part of the app, or stands
/// behind the app's query.
fn rtmp(tc_url: &str, app: &str, stream: &str) -> Place {
    let tc_url = modern(if tc_url.is_empty() { app } else { tc_url });
    let stream = modern(stream);
    let (host, target) = match tc_url.split_once("://") {
        Some((_, rest)) => path_and_query(rest),
        None => ("", &*tc_url),
    };
    let (app, app_query) = at_query(target);
    let (name, query) = at_query(&stream);
    let host = vhost_of(&[query, app_query], host);
    let (app, name) = if !name.is_empty() {
        (app, name)
    } else if app.trim_matches('/').contains('/') {
        ("", app)
    } else {
        (app, app_query.split_once('/').map_or("", |(_, name)| at_query(name).0))
    };
    Place { host, app: app.to_owned(), stream: name.to_owned() }
}

/// SRS, `srs_app_srt_utility`: without `#!::` the id is a path, whose first part is never a host.
/// With it, it is pairs: `r` is the path; `h` the host, or a path, or both; `m` the mode.
fn srt(stream_id: &str) -> Result<Place, BadStream> {
    let place = |host: &str, path: &str| Place {
        host: host.to_owned(),
        app: String::new(),
        stream: path.to_owned(),
    };
    if stream_id.is_empty() {
        return Ok(place("", "live/livestream"));
    }
    let Some(pairs) = stream_id::pairs(stream_id) else {
        return Ok(place("", at_query(stream_id).0));
    };
    Mode::of(stream_id).map_err(|_| BadStream::Mode)?;
    let (mut host, mut path_in_host, mut path) = ("", None, None);
    for (name, value) in pairs {
        match (name, value.split_once('/')) {
            ("r", _) => path = Some(value),
            ("h", None) => host = value,
            ("h", Some((name, rest))) if rest.contains('/') => {
                host = name;
                path_in_host = Some(rest);
            }
            ("h", Some(_)) => path_in_host = Some(value),
            _ => {}
        }
    }
    let path = path.or(path_in_host).ok_or(BadStream::NoName)?;
    Ok(place(host, path))
}

/// An HTTP request target with the host it is for.
struct Target<'a> {
    host: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Target<'a> {
    /// RFC 9112 3.2.2: the host of an absolute form replaces the `Host` header.
    fn new(host: Option<&'a str>, target: &'a str) -> Self {
        let (host, target) = match target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
                let (host, target) = path_and_query(rest);
                (host, target)
            }
            _ => (host.unwrap_or_default(), target),
        };
        let (path, query) = at_query(target);
        Self { host, path, query }
    }
}

/// What stands behind `/rtc/v1/whip/` and its like, without slashes around it.
fn behind_endpoint(path: &str) -> &str {
    let rest = path.strip_prefix("/rtc/v1/").unwrap_or_default();
    rest.split_once('/').map_or("", |(_, rest)| rest.trim_matches('/'))
}

/// SRS: `vhost`, else `domain`, of the first query that has one, else the host. The default
/// vhost in a query overrides nothing.
fn vhost_of(queries: &[&str], host: &str) -> String {
    let mut named = queries.iter().filter_map(|q| value(q, "vhost").or(value(q, "domain")));
    named.next().filter(|name| *name != Vhosts::DEFAULT).unwrap_or(host).to_owned()
}

/// The value of a name in a query; the last one, as in SRS, and none if it is empty.
fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let found = pairs_of(query).filter(|(n, _)| *n == name).last();
    found.map(|(_, value)| value).filter(|value| !value.is_empty())
}

/// SRS separates pairs by any of these; `?` because a query may be appended to another.
fn pairs_of(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split(['&', ',', ';', '?']).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The spelling of Flash players for a vhost, in today's.
fn modern(text: &str) -> Cow<'_, str> {
    const FLASH: &str = "...vhost...";
    if text.contains(FLASH) { text.replace(FLASH, "?vhost=").into() } else { text.into() }
}

/// In front of the query or fragment, and behind its mark.
fn at_query(text: &str) -> (&str, &str) {
    text.split_once(['?', '#']).unwrap_or((text, ""))
}

/// Authority, and what follows it.
fn path_and_query(text: &str) -> (&str, &str) {
    text.find(['/', '?', '#']).map_or((text, ""), |at| text.split_at(at))
}

/// The path of a request target in origin or absolute form, and what stands around it.
pub(super) fn around_path(target: &str) -> (&str, &str, &str) {
    let from = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            target.len() - path_and_query(rest).1.len()
        }
        _ => 0,
    };
    let (before, rest) = target.split_at_checked(from).unwrap_or(("", target));
    let (path, behind) = rest.find(['?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    (before, path, behind)
}

/// In front of the last slash behind the authority, and behind it.
fn at_last_slash(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let path = rest.find('/')? + scheme.len() + "://".len();
    url.rfind('/').filter(|&last| last >= path)?;
    url.rsplit_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_in_the_path_is_said_in_the_query_where_srs_reads_it() {
        for (target, expected) in [
            ("/rtc/v1/whip/live/show", "/rtc/v1/whip/?app=live&stream=show"),
            ("/rtc/v1/whep/live/show/?a=b", "/rtc/v1/whep/?app=live&stream=show&a=b"),
            ("/rtc/v1/whip-play/show", "/rtc/v1/whip-play/?app=live&stream=show"),
            ("/rtc/v1/whip/a/b/show?token=x", "/rtc/v1/whip/?app=a/b&stream=show&token=x"),
            ("/rtc/v1/whip/show?app=x", "/rtc/v1/whip/?app=x&stream=show"),
            ("http://h/rtc/v1/whip/live/show", "http://h/rtc/v1/whip/?app=live&stream=show"),
        ] {
            let said = in_query(target).expect(target);
            assert_eq!(said, expected);
            let [path, query] = [target, &said].map(|target| Ask::Rtc { host: None, target });
            let key = |ask| crate::stream::StreamKey::new(&ask, &Vhosts::default()).unwrap();
            assert_eq!(key(path), key(query), "{target}");
            assert_eq!(in_query(&said), None);
        }
        for target in ["/rtc/v1/whip/", "/rtc/v1/whip", "/rtc/v1/whip/x/y?stream=show"] {
            assert_eq!(in_query(target), None, "{target}");
        }
    }
}
