//! The stream key, the only input of the balancer.

use std::fmt;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::ask::{Ask, Place};
use super::vhosts::Vhosts;

/// `vhost/app/stream`. Cheap to clone.
///
/// The key only decides the origin: what the client wrote goes to the origin untouched. So
/// where SRS's versions differ, or SRS reads a name in a way that no one means, the key unites
/// rather than divides: two names with one key only share an origin, while one stream with two
/// keys is lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(Arc<str>);

impl StreamKey {
    /// Longest key, in bytes.
    pub const MAX_BYTES: usize = 512;

    /// The one constructor from what a client asks for, for every protocol.
    ///
    /// App and stream are read as SRS does: percent-decoded, blanks removed, `_definst_` and
    /// empty path parts dropped, the app `live` where none is named, and the stream without the
    /// extension of a media container, whatever the protocol. They keep their case; the host is
    /// compared without it.
    pub fn new(ask: &Ask<'_>, vhosts: &Vhosts) -> Result<Self, BadStream> {
        let Place { host, app, stream } = ask.place()?;
        let (host, app, stream) = (clean(&host)?, clean(&app)?, clean(&stream)?);
        let mut path: Vec<&str> = parts(&stream).collect();
        let stream = without_extension(path.pop().ok_or(BadStream::NoName)?);
        if stream.is_empty() {
            return Err(BadStream::NoName);
        }
        let mut app: Vec<&str> = parts(&app).chain(path).collect();
        if app.is_empty() {
            app.push(DEFAULT_APP);
        }
        let key = format!("{}/{}/{stream}", vhosts.vhost(&host), app.join("/"));
        if key.len() > Self::MAX_BYTES {
            return Err(BadStream::TooLong);
        }
        Ok(Self(key.into()))
    }

    /// A key out of a token that this proxy, or another of its fleet, has signed, or of what an
    /// earlier process has kept: the text of a key that [`Self::new`] made. None if it is longer
    /// than one, or empty.
    pub(crate) fn of_claim(text: &str) -> Option<Self> {
        (1..=Self::MAX_BYTES).contains(&text.len()).then(|| Self(text.into()))
    }

    /// The app, which may have several parts: `live` of `vhost/live/show`.
    pub fn app(&self) -> &str {
        let path = self.0.split_once('/').map_or("", |(_, path)| path);
        path.rsplit_once('/').map_or("", |(app, _)| app)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a request names no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStream {
    /// The stream name is empty.
    #[error("no stream name")]
    NoName,
    /// The request or the key made of it is too long.
    #[error("the stream's name is too long")]
    TooLong,
    /// A name has a character that is none.
    #[error("a control character in the stream's name")]
    ControlCharacter,
    /// An SRT stream id with a mode other than publish or request.
    #[error("m= is neither publish nor request")]
    Mode,
    /// Not a URL of a protocol that is served.
    #[error("not a URL of rtmp, http, https, srt, webrtc, whip or whep")]
    NotAUrl,
}

/// App where a request names none, as SRS has it.
const DEFAULT_APP: &str = "live";

/// Percent-decodes, removes the blanks that SRS removes, and refuses control characters. Bytes
/// that are not UTF-8 count as replacement characters.
fn clean(text: &str) -> Result<String, BadStream> {
    let decoded = percent_decode_str(text).decode_utf8_lossy();
    let kept: String = decoded.chars().filter(|c| !matches!(c, ' ' | '\n' | '\r' | '\t')).collect();
    if kept.chars().any(char::is_control) {
        return Err(BadStream::ControlCharacter);
    }
    Ok(kept)
}

/// The parts of a path that name something. `_definst_` is how Flash players spell an app's
/// default instance.
fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != "_definst_")
}

/// The name without what only says how it is packed. SRS 5 to 7.0.18 ignore any extension of
/// an RTMP stream, later ones only the first four of these; HTTP adds the others.
fn without_extension(mut name: &str) -> &str {
    const EXTENSIONS: [&str; 8] = [".flv", ".m3u8", ".m3u", ".mp4", ".ts", ".aac", ".mp3", ".mpd"];
    let at = |name: &str, extension: &str| {
        let at = name.len().checked_sub(extension.len())?;
        name.get(at..)?.eq_ignore_ascii_case(extension).then_some(at)
    };
    while let Some(at) = EXTENSIONS.iter().find_map(|extension| at(name, extension)) {
        name = name.get(..at).unwrap_or_default();
    }
    name
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn rtmp<'a>(tc_url: &'a str, stream: &'a str) -> Ask<'a> {
        Ask::Rtmp { tc_url, app: "", stream }
    }

    fn http<'a>(host: &'a str, target: &'a str) -> Ask<'a> {
        Ask::Http { host: Some(host), target }
    }

    fn whip(target: &str) -> Ask<'_> {
        Ask::Rtc { host: Some("127.0.0.1:1985"), target }
    }

    fn srt(stream_id: &str) -> Ask<'_> {
        Ask::Srt { stream_id: stream_id.into() }
    }

    fn key(ask: &Ask<'_>, vhosts: &Vhosts) -> Result<String, BadStream> {
        StreamKey::new(ask, vhosts).map(|key| key.to_string())
    }

    const LIVESTREAM: &str = "__defaultVhost__/live/livestream";

    fn assert_keys(table: &[(Ask<'_>, &str)], vhosts: &Vhosts) {
        for (ask, expected) in table {
            assert_eq!(key(ask, vhosts).as_deref(), Ok(*expected), "{ask:?}");
        }
    }

    /// This and the next test are the spellings that were tried on the existing proxy, with what
    /// SRS makes of each when the host is no vhost of its own.
    #[test]
    fn every_rtmp_spelling_that_srs_takes_for_one_stream_gives_one_key() {
        let livestream = LIVESTREAM;
        let table = [
            (rtmp("rtmp://127.0.0.1/live", "livestream"), livestream),
            (rtmp("rtmp://localhost/live", "livestream"), livestream),
            (rtmp("rtmp://srsserver/live", "livestream"), livestream),
            (rtmp("rtmp://[2001:db8::1]:1935/live", "livestream"), livestream),
            (rtmp("/live", "livestream"), livestream),
            (rtmp("rtmp://127.0.0.1/live", "livestream?token=a"), livestream),
            (rtmp("rtmp://127.0.0.1/live", "livestream?vhost=my.vhost.com"), livestream),
            (rtmp("rtmp://example.com:1935/live", "livestream.flv"), livestream),
            (rtmp("rtmp://EXAMPLE.com/live", "LiveStream"), "__defaultVhost__/live/LiveStream"),
            (rtmp("rtmp://127.0.0.1/live?vhost=my.vhost.com", "livestream"), livestream),
            (rtmp("rtmp://127.0.0.1/live...vhost...my.vhost.com", "livestream"), livestream),
            (
                rtmp("rtmp://127.0.0.1/live/show", "livestream"),
                "__defaultVhost__/live/show/livestream",
            ),
            (rtmp("rtmp://127.0.0.1/live/", "livestream"), livestream),
            (rtmp("rtmp://127.0.0.1/live/_definst_", "livestream"), livestream),
            (rtmp("rtmp://127.0.0.1/live/livestream", ""), livestream),
            (rtmp("rtmp://127.0.0.1/live?secret=x/livestream", ""), livestream),
            (rtmp("rtmp://127.0.0.1/live", "a%20b"), "__defaultVhost__/live/ab"),
            (rtmp("rtmp://127.0.0.1/live", "a b"), "__defaultVhost__/live/ab"),
        ];
        assert_keys(&table, &Vhosts::default());
    }

    #[test]
    fn every_other_spelling_that_srs_takes_for_one_stream_gives_one_key() {
        let livestream = LIVESTREAM;
        let table = [
            (http("example.com", "/live/livestream.flv"), livestream),
            (http("example.com:8080", "/live/livestream.flv"), livestream),
            (http("example.com:8080", "/live/livestream.m3u8"), livestream),
            (http("127.0.0.1", "/live/livestream.flv?vhost=my.vhost.com"), livestream),
            (http("127.0.0.1", "/live/livestream.flv?app=a2&stream=s2"), livestream),
            (http("127.0.0.1", "/live/livestream-0.ts"), "__defaultVhost__/live/livestream-0"),
            (
                http("127.0.0.1", "/example.com/live/livestream.flv"),
                "__defaultVhost__/example.com/live/livestream",
            ),
            (http("127.0.0.1", "/live/show/a.b.flv"), "__defaultVhost__/live/show/a.b"),
            (whip("/rtc/v1/whip/?app=live&stream=livestream"), livestream),
            (whip("/rtc/v1/whip/?app=live&stream=livestream&vhost=my.vhost.com"), livestream),
            (whip("/rtc/v1/whip/?stream=livestream"), livestream),
            (whip("/rtc/v1/whip/"), livestream),
            (whip("/rtc/v1/whep"), livestream),
            (whip("/rtc/v1/whip/live/livestream"), livestream),
            (whip("/rtc/v1/whip-play/live/livestream/?token=a"), livestream),
            (whip("/rtc/v1/whep/livestream"), livestream),
            (whip("/rtc/v1/whep/a/b/show"), "__defaultVhost__/a/b/show"),
            (whip("/rtc/v1/whep/show?app=other"), "__defaultVhost__/other/show"),
            (whip("/rtc/v1/whip/a/show?stream=livestream"), livestream),
            (srt("#!::r=live/livestream,m=publish"), livestream),
            (srt("#!::r=live/livestream?secret=1,m=publish"), livestream),
            (srt("#!::h=example.com,r=live/livestream"), livestream),
            (srt("#!::user=foo,r=live/livestream"), livestream),
            (srt("#!::auth=h=x,r=live/livestream"), livestream),
            (srt("#!::r=livestream"), livestream),
            (srt("#!::h=live/livestream,m=publish"), livestream),
            (srt("#!::h=host/live/livestream"), livestream),
            (srt("live/livestream"), livestream),
            (srt("livestream"), livestream),
            (srt("/live/livestream"), livestream),
            (srt("live/livestream?secret=1"), livestream),
            (srt("#!::h=host,r=live/livestream,m=request"), livestream),
            (srt("#!::h=host/live/livestream,m=publish"), livestream),
            // Three parts without `#!::` are what RTMP says of the app `live/show`.
            (srt("live/show/livestream"), "__defaultVhost__/live/show/livestream"),
            (srt("#!::r=live/show/livestream"), "__defaultVhost__/live/show/livestream"),
            (srt(""), livestream),
        ];
        for (ask, expected) in table {
            assert_eq!(key(&ask, &Vhosts::default()).as_deref(), Ok(expected), "{ask:?}");
        }
    }

    #[test]
    fn a_listed_vhost_is_the_same_by_every_protocol() {
        let vhosts = Vhosts::new(["Example.com", "my.vhost.com"]);
        let example = "example.com/live/livestream";
        let mine = "my.vhost.com/live/livestream";
        let table = [
            (rtmp("rtmp://example.com/live", "livestream"), example),
            (rtmp("rtmp://EXAMPLE.COM.:1935/live", "livestream"), example),
            (http("example.com", "/live/livestream.flv"), example),
            (http("example.com:8080", "/live/livestream.m3u8"), example),
            (http("10.0.0.1", "http://example.com:8080/live/livestream.flv"), example),
            (Ask::Rtc { host: Some("example.com"), target: "/rtc/v1/whep/" }, example),
            (Ask::WebRtc { url: "webrtc://example.com/live/livestream" }, example),
            (srt("#!::h=example.com,r=live/livestream"), example),
            (srt("#!::h=example.com/live/livestream"), example),
            (rtmp("rtmp://127.0.0.1/live?vhost=my.vhost.com", "livestream"), mine),
            (rtmp("rtmp://example.com/live?domain=my.vhost.com", "livestream"), mine),
            (rtmp("rtmp://127.0.0.1/live", "livestream?vhost=my.vhost.com&token=a"), mine),
            (rtmp("rtmp://127.0.0.1/live...vhost...my.vhost.com", "livestream"), mine),
            (http("example.com", "/live/livestream.flv?vhost=my.vhost.com"), mine),
            (whip("/rtc/v1/whip/?stream=livestream&domain=my.vhost.com"), mine),
            // The default vhost in the query does not override the host.
            (rtmp("rtmp://example.com/live?vhost=__defaultVhost__", "livestream"), example),
            (
                rtmp("rtmp://other.example.com/live", "livestream"),
                "__defaultVhost__/live/livestream",
            ),
        ];
        assert_keys(&table, &vhosts);
    }

    #[test]
    fn the_star_keeps_every_domain_as_its_own_vhost() {
        let all = Vhosts::new(["*"]);
        for (host, vhost) in [
            ("example.com", "example.com"),
            ("EXAMPLE.com:1935", "example.com"),
            ("localhost", "__defaultVhost__"),
            ("127.0.0.1", "__defaultVhost__"),
            ("[2001:db8::1]:1935", "__defaultVhost__"),
            ("__defaultVhost__", "__defaultVhost__"),
        ] {
            let tc_url = format!("rtmp://{host}/live");
            let expected = format!("{vhost}/live/s");
            assert_eq!(key(&rtmp(&tc_url, "s"), &all), Ok(expected), "{tc_url}");
        }
    }

    #[test]
    fn the_connect_objects_app_stands_in_for_a_missing_tc_url() {
        let ask = Ask::Rtmp { tc_url: "", app: "show?vhost=a.b", stream: "s" };
        assert_eq!(key(&ask, &Vhosts::new(["a.b"])).as_deref(), Ok("a.b/show/s"));
        let ask = Ask::Rtmp { tc_url: "rtmp://h", app: "show", stream: "s" };
        assert_eq!(key(&ask, &Vhosts::default()).as_deref(), Ok("__defaultVhost__/live/s"));
    }

    #[test]
    fn a_token_with_a_slash_is_no_part_of_the_stream() {
        let ask = rtmp("rtmp://h/live?auth=a/b", "s?token=c/d");
        assert_eq!(key(&ask, &Vhosts::default()).as_deref(), Ok("__defaultVhost__/live/s"));
    }

    #[test]
    fn a_request_that_names_no_stream_is_refused() {
        let long = "x".repeat(600);
        let huge = "x".repeat(100_000);
        for (ask, why) in [
            (rtmp("rtmp://127.0.0.1/live", ""), BadStream::NoName),
            (rtmp("", ""), BadStream::NoName),
            (rtmp("rtmp://127.0.0.1/live", ".flv"), BadStream::NoName),
            (rtmp("rtmp://127.0.0.1/live", "/"), BadStream::NoName),
            (rtmp("rtmp://127.0.0.1/live/show", "%20"), BadStream::NoName),
            (http("h", "/"), BadStream::NoName),
            (srt("#!::m=publish"), BadStream::NoName),
            (srt("#!::r=live/livestream,m=steal"), BadStream::Mode),
            (rtmp("rtmp://127.0.0.1/live", "a\0b"), BadStream::ControlCharacter),
            (rtmp("rtmp://127.0.0.1/live", "a%1bb"), BadStream::ControlCharacter),
            (http("h\u{7}", "/live/s.flv"), BadStream::ControlCharacter),
            (rtmp("rtmp://127.0.0.1/live", &long), BadStream::TooLong),
            (rtmp("rtmp://127.0.0.1/live", &huge), BadStream::TooLong),
            (srt(&huge), BadStream::TooLong),
        ] {
            assert_eq!(key(&ask, &Vhosts::default()), Err(why), "{ask:?}");
        }
    }

    #[test]
    fn whole_urls_are_read_like_the_protocol_itself() {
        let vhosts = Vhosts::new(["example.com"]);
        let example = "example.com/live/livestream";
        let default = LIVESTREAM;
        for (url, expected) in [
            ("rtmp://example.com/live/livestream?token=a", example),
            ("RTMP://example.com:1935/live/livestream", example),
            ("rtmps://example.com/live/livestream", example),
            ("rtmp://127.0.0.1/live?vhost=example.com/livestream", example),
            ("rtmp://127.0.0.1/live...vhost...example.com/livestream", example),
            ("rtmp://127.0.0.1/livestream", default),
            ("rtmp://127.0.0.1:1935/live//livestream", default),
            ("http://example.com:8080/live/livestream.flv?token=a", example),
            ("https://example.com/live/livestream.m3u8", example),
            ("https://example.com/rtc/v1/whip/?app=live&stream=livestream", example),
            ("whep://example.com/rtc/v1/whep/?stream=livestream", example),
            ("webrtc://example.com/live/livestream", example),
            ("srt://127.0.0.1:10080?streamid=#!::r=live/livestream,m=publish", default),
            ("srt://h:10080?mode=caller&streamid=%23!::h=example.com,r=live/livestream", example),
            ("srt://127.0.0.1:10080", default),
        ] {
            let found = Ask::from_url(url).and_then(|ask| key(&ask, &vhosts));
            assert_eq!(found.as_deref(), Ok(expected), "{url}");
        }
        for url in ["", "live/livestream", "ftp://h/live/s", "rtmp://", "rtmp://h", "http://h"] {
            assert!(Ask::from_url(url).and_then(|ask| key(&ask, &vhosts)).is_err(), "{url}");
        }
    }

    /// Text of the characters that mean something here, and some that do not.
    fn names() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[ab./?#&=,:%20!\\[\\]]{0,40}",
            "(rtmp|srt|http|webrtc)://[a-z.:]{0,9}/[a-z/?=.%]{0,20}",
        ]
    }

    proptest! {
        #[test]
        fn no_request_brings_the_constructor_down(a in names(), b in names(), c in names()) {
            for vhosts in [Vhosts::default(), Vhosts::new(["*"])] {
                let asks = [
                    Ask::Rtmp { tc_url: &a, app: &b, stream: &c },
                    Ask::Http { host: Some(&a), target: &b },
                    Ask::Rtc { host: None, target: &b },
                    Ask::Srt { stream_id: a.as_str().into() },
                    Ask::Srt { stream_id: format!("#!::{a}").into() },
                    Ask::WebRtc { url: &a },
                ];
                for ask in asks.into_iter().chain(Ask::from_url(&a)) {
                    if let Ok(key) = StreamKey::new(&ask, &vhosts) {
                        prop_assert!(key.as_str().len() <= StreamKey::MAX_BYTES);
                        prop_assert!(key.as_str().split('/').all(|part| !part.is_empty()), "{key}");
                        prop_assert!(key.as_str().split('/').count() >= 3, "{key}");
                    }
                }
            }
        }

        #[test]
        fn a_key_written_back_as_a_request_is_the_same_key(a in names(), b in names()) {
            let vhosts = Vhosts::new(["*"]);
            let first = StreamKey::new(&rtmp(&a, &b), &vhosts);
            prop_assume!(first.is_ok());
            let first = first?;
            let escaped: Vec<String> = first
                .as_str()
                .split('/')
                .map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string())
                .collect();
            let (vhost, path) = (&escaped[0], escaped[1..].join("/"));
            let rtmp = StreamKey::new(&rtmp(&format!("rtmp://{vhost}"), &path), &vhosts);
            prop_assert_eq!(rtmp.as_ref(), Ok(&first));
            let target = format!("/{path}.flv");
            let http = StreamKey::new(&Ask::Http { host: Some(vhost), target: &target }, &vhosts);
            prop_assert_eq!(http.as_ref(), Ok(&first));
        }
    }
}
