//! What an HTTP path asks for, and which streams it may belong to.

use percent_encoding::percent_decode_str;

use super::ask::{Ask, around_path};
use super::key::{BadStream, StreamKey};
use super::path::is_plain_path;
use super::vhosts::Vhosts;

/// How a path is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One body as long as the stream: HTTP-FLV, HTTP-TS, and audio alone.
    Live,
    /// A list of URIs that belong to one origin: HLS, MPEG-DASH.
    Playlist,
    /// A piece of a stream, or a file on demand.
    Media,
    /// Nothing of a stream: the proxy's own pages and files.
    Page,
    /// An offer of WebRTC, or what becomes of its session.
    Signalling,
    /// The HTTP API of the origins.
    Api,
}

impl Kind {
    /// Every kind, in the order in which they are counted.
    pub const ALL: [Self; 6] =
        [Self::Live, Self::Playlist, Self::Media, Self::Page, Self::Signalling, Self::Api];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Playlist => "playlist",
            Self::Media => "media",
            Self::Page => "page",
            Self::Signalling => "signalling",
            Self::Api => "api",
        }
    }

    /// What a target asks for if something else tells that it is a piece of this stream. Any
    /// name can be that of a piece (`thumb-1.jpg`), but only below the stream's app: what else an
    /// origin serves, such as its own pages, is not for who has seen a playlist.
    pub fn of_piece(target: &str, stream: &StreamKey) -> Self {
        let (_, path, _) = around_path(target);
        match Form::of(path) {
            Form::Live => Self::Live,
            Form::Playlist => Self::Playlist,
            Form::LiveOrSegment | Form::Media => Self::Media,
            Form::Page if is_below(path, stream.app()) => Self::Media,
            Form::Page => Self::Page,
        }
    }
}

/// What a path looks like, by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A live stream and nothing else.
    Live,
    /// A live stream or a segment of HLS: SRS uses these extensions for both.
    LiveOrSegment,
    Playlist,
    Media,
    Page,
}

impl Form {
    fn of(path: &str) -> Self {
        let extension = last_part(path).rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension.to_ascii_lowercase().as_str() {
            "flv" => Self::Live,
            "ts" | "aac" | "mp3" => Self::LiveOrSegment,
            "m3u8" | "m3u" | "mpd" => Self::Playlist,
            "m4s" | "mp4" | "m4a" | "m4v" | "m4i" | "cmfv" | "cmfa" | "cmft" | "vtt" | "webvtt"
            | "key" | "mkv" | "webm" | "mov" | "ac3" | "ec3" | "ogg" | "opus" => Self::Media,
            _ => Self::Page,
        }
    }
}

/// The streams that a path may belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    form: Form,
    /// The path as a stream's own.
    own: StreamKey,
    /// The stream that this would be a piece of: by its name, by its folder.
    whole: Vec<StreamKey>,
    /// Whether the name alone says that it is a piece.
    is_piece: bool,
}

impl Candidates {
    /// None if the path is that of a [`Kind::Page`].
    pub fn of(
        host: Option<&str>,
        target: &str,
        vhosts: &Vhosts,
    ) -> Result<Option<Self>, BadStream> {
        let (before, path, behind) = around_path(target);
        let form = Form::of(path);
        if form == Form::Page {
            return Ok(None);
        }
        // The query may name a vhost, and an absolute target a host: all but the path is kept.
        let with_path = |path: &str| {
            let target = format!("{before}{path}{behind}");
            StreamKey::new(&Ask::Http { host, target: &target }, vhosts)
        };
        let own = with_path(path)?;
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let name = name.rsplit_once('.').map_or(name, |(name, _)| name);
        let (mut whole, mut is_piece) = (Vec::new(), false);
        let mut is_track = false;
        if matches!(form, Form::LiveOrSegment | Form::Media)
            && let Some(stream) = without_number(name)
        {
            whole.extend(with_path(&format!("{folder}/{stream}")));
            is_piece = true;
            is_track = TRACKS.contains(&stream.trim_end_matches(|c: char| c.is_ascii_digit()));
        }
        // A folder of one part is the app.
        let has_folder = folder.split('/').filter(|part| !part.is_empty()).count() > 1;
        let is_of_folder = match form {
            Form::Playlist => GENERAL.contains(&name),
            Form::LiveOrSegment | Form::Media => true,
            Form::Live | Form::Page => false,
        };
        if has_folder && is_of_folder {
            let at = if is_track { 0 } else { whole.len() };
            whole.splice(at..at, with_path(folder));
            is_piece |= form == Form::Playlist || name.bytes().all(|b| b.is_ascii_digit());
        }
        Ok(Some(Self { form, own, whole, is_piece }))
    }

    /// Every candidate, the likeliest first.
    pub fn keys(&self) -> impl Iterator<Item = &StreamKey> {
        let (before, behind) =
            if self.is_own_first() { (Some(&self.own), None) } else { (None, Some(&self.own)) };
        before.into_iter().chain(&self.whole).chain(behind)
    }

    /// The likeliest candidate.
    pub fn likeliest(&self) -> &StreamKey {
        self.keys().next().unwrap_or(&self.own)
    }

    /// The live stream that the path may be.
    pub fn live(&self) -> Option<&StreamKey> {
        matches!(self.form, Form::Live | Form::LiveOrSegment).then_some(&self.own)
    }

    fn is_own_first(&self) -> bool {
        self.whole.is_empty() || (self.form != Form::Media && !self.is_piece)
    }

    /// What is asked for if the path belongs to this stream.
    pub fn kind(&self, stream: &StreamKey) -> Kind {
        match self.form {
            Form::Live => Kind::Live,
            Form::LiveOrSegment if *stream == self.own => Kind::Live,
            Form::LiveOrSegment | Form::Media => Kind::Media,
            Form::Playlist => Kind::Playlist,
            Form::Page => Kind::Page,
        }
    }
}

/// Names of playlists that say nothing of the stream: its folder does.
const GENERAL: [&str; 7] =
    ["index", "playlist", "master", "manifest", "main", "stream", "chunklist"];

/// Names of pieces that say nothing of the stream either: `video-12`, `chunk-stream0-00001`.
const TRACKS: [&str; 8] =
    ["video", "audio", "subtitle", "chunk", "chunk-stream", "segment", "seg", "init"];

/// The stream of `stream-12`, `stream_12`, `stream-init`: how SRS, nginx-rtmp and FFmpeg name pieces.
fn without_number(name: &str) -> Option<&str> {
    let (stream, number) = name.rsplit_once(['-', '_'])?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    ((is_number || number == "init") && !stream.is_empty()).then_some(stream)
}

/// Whether a path stays below a folder, however the origin reads it.
fn is_below(path: &str, folder: &str) -> bool {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let mut parts = decoded.split('/').filter(|part| !part.is_empty());
    is_plain_path(path) && folder.split('/').all(|part| parts.next() == Some(part))
}

fn last_part(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(host: Option<&str>, target: &str, vhosts: &Vhosts) -> Candidates {
        let found = Candidates::of(host, target, vhosts);
        found.unwrap().unwrap_or_else(|| panic!("{target} is a page"))
    }

    /// App and stream of every candidate, with what would be asked for there.
    fn told(target: &str) -> Vec<(String, Kind)> {
        let candidates = candidates(Some("h"), target, &Vhosts::default());
        let keys: Vec<_> = candidates.keys().collect();
        let path = |key: &StreamKey| key.as_str().split_once('/').unwrap().1.to_owned();
        keys.iter().map(|key| (path(key), candidates.kind(key))).collect()
    }

    #[test]
    fn every_naming_of_live_streams_and_playlists_tells_its_stream() {
        use Kind::{Live, Media, Playlist};
        let table: [(&str, &[(&str, Kind)]); 20] = [
            ("/live/s.flv", &[("live/s", Live)]),
            ("/s.flv", &[("live/s", Live)]),
            ("/a/b/s.flv", &[("a/b/s", Live)]),
            // A number is no reason to take a stream of HTTP-FLV for a piece.
            ("/live/cam-1.flv", &[("live/cam-1", Live)]),
            ("/live/cam_1.FLV", &[("live/cam_1", Live)]),
            ("/live/s.ts", &[("live/s", Live)]),
            ("/live/s.aac", &[("live/s", Live)]),
            ("/live/s.mp3", &[("live/s", Live)]),
            ("/live/cam-1.ts", &[("live/cam", Media), ("live/cam-1", Live)]),
            ("/a/b/s.ts", &[("a/b/s", Live), ("a/b", Media)]),
            ("/live/s.m3u8", &[("live/s", Playlist)]),
            ("/live/s.m3u", &[("live/s", Playlist)]),
            ("/live/s.mpd", &[("live/s", Playlist)]),
            ("/a/b/s.m3u8", &[("a/b/s", Playlist)]),
            ("/live/s/index.m3u8", &[("live/s", Playlist), ("live/s/index", Playlist)]),
            ("/live/s/manifest.mpd", &[("live/s", Playlist), ("live/s/manifest", Playlist)]),
            ("/live/index.m3u8", &[("live/index", Playlist)]),
            ("/live/cam-1.m3u8", &[("live/cam-1", Playlist)]),
            ("//live//s.flv", &[("live/s", Live)]),
            ("/live/caf%C3%A9.flv", &[("live/caf\u{e9}", Live)]),
        ];
        for (target, expected) in table {
            let expected: Vec<_> = expected.iter().map(|&(p, k)| (p.to_owned(), k)).collect();
            assert_eq!(told(target), expected, "{target}");
        }
    }

    #[test]
    fn every_naming_of_pieces_has_its_stream_first() {
        let table: [(&str, &[&str]); 16] = [
            // SRS: HLS of TS and of fMP4, DASH.
            ("/live/s-0.ts", &["live/s", "live/s-0"]),
            ("/live/s-0.m4s", &["live/s", "live/s-0.m4s"]),
            ("/live/s-init.mp4", &["live/s", "live/s-init"]),
            ("/live/s/video-0.m4s", &["live/s", "live/s/video", "live/s/video-0.m4s"]),
            ("/live/s/audio-init.mp4", &["live/s", "live/s/audio", "live/s/audio-init"]),
            // nginx-rtmp: HLS and DASH, flat and nested.
            ("/hls/s-12.ts", &["hls/s", "hls/s-12"]),
            ("/hls/s/12.ts", &["hls/s", "hls/s/12"]),
            ("/dash/s-12.m4a", &["dash/s", "dash/s-12.m4a"]),
            ("/dash/s-init.m4v", &["dash/s", "dash/s-init.m4v"]),
            ("/dash/s/12.m4v", &["dash/s", "dash/s/12.m4v"]),
            ("/dash/s/init.m4a", &["dash/s", "dash/s/init.m4a"]),
            // FFmpeg.
            (
                "/live/s/chunk-stream0-00001.m4s",
                &["live/s", "live/s/chunk-stream0", "live/s/chunk-stream0-00001.m4s"],
            ),
            ("/live/s/init-stream0.m4s", &["live/s", "live/s/init-stream0.m4s"]),
            ("/live/s_003.ts", &["live/s", "live/s_003"]),
            // The app has two parts, or the stream a folder.
            ("/a/b/s-3.ts", &["a/b/s", "a/b", "a/b/s-3"]),
            ("/live/cam-1-7.ts", &["live/cam-1", "live/cam-1-7"]),
        ];
        for (target, expected) in table {
            let told = told(target);
            assert_eq!(told.iter().map(|(path, _)| path).collect::<Vec<_>>(), expected, "{target}");
            assert!(told[0].1 == Kind::Media, "{target} is a piece of {}", told[0].0);
        }
        // On demand: a file may be a stream's own recording, and is itself otherwise.
        assert_eq!(told("/vod/film.mp4"), [("vod/film".into(), Kind::Media)]);
        assert_eq!(told("/live/-1.ts"), [("live/-1".into(), Kind::Live)]);
    }

    #[test]
    fn what_is_known_to_be_a_piece_is_never_taken_for_a_live_stream() {
        for (target, kind) in [
            ("/live/cam-1.ts", Kind::Media),
            ("/live/s.aac", Kind::Media),
            ("/live/s.mp4", Kind::Media),
            ("/live/s.m3u8", Kind::Playlist),
            ("/live/s.flv", Kind::Live),
            ("/live/s", Kind::Media),
        ] {
            let stream = StreamKey::new(
                &Ask::Http { host: None, target: "/live/show.m3u8" },
                &Vhosts::default(),
            );
            assert_eq!(Kind::of_piece(target, &stream.unwrap()), kind, "{target}");
        }
    }

    #[test]
    fn the_host_of_the_target_and_the_vhost_of_the_query_count_and_no_other_parameter() {
        let vhosts = Vhosts::new(["a.com", "b.com"]);
        let table = [
            (Some("a.com"), "/live/s-1.ts", "a.com/live/s"),
            (Some("a.com:8080"), "/live/s-1.ts?x=/y-2.ts", "a.com/live/s"),
            (Some("b.com"), "http://a.com:81/live/s-1.ts", "a.com/live/s"),
            (None, "http://a.com/live/s/index.m3u8", "a.com/live/s"),
            (Some("h"), "/live/s/0.ts?vhost=b.com", "b.com/live/s"),
            (Some("h"), "/live/s.flv?app=x&stream=y", "__defaultVhost__/live/s"),
            (None, "/live/s.flv?a=://b.com/live/t.flv", "__defaultVhost__/live/s"),
        ];
        for (host, target, expected) in table {
            let found = candidates(host, target, &vhosts);
            let keys: Vec<_> = found.keys().collect();
            assert_eq!(keys[0].as_str(), expected, "{target}");
            assert!(
                keys.iter().all(|key| key.as_str().split('/').next() == expected.split('/').next()),
                "{target} is of two vhosts: {keys:?}"
            );
        }
    }

    #[test]
    fn pages_are_no_streams_and_streams_without_a_name_are_refused() {
        for page in ["/", "/index.html", "/live/", "/live/s", "/s.flv/", "/live/s.flv%20", "*"] {
            assert_eq!(Candidates::of(None, page, &Vhosts::default()), Ok(None), "{page}");
        }
        for (target, why) in [
            ("/live/.flv", BadStream::NoName),
            ("/.m3u8", BadStream::NoName),
            ("/live/%20.ts", BadStream::NoName),
            ("/live/a%00b.flv", BadStream::ControlCharacter),
            (&format!("/{}.flv", "x".repeat(600)), BadStream::TooLong),
        ] {
            assert_eq!(Candidates::of(None, target, &Vhosts::default()), Err(why), "{target}");
        }
    }

    proptest! {
        #[test]
        fn a_hostile_target_never_gives_a_key_that_is_none(
            host in proptest::option::of("[a-z.:\\[\\]%/]{0,12}"),
            target in prop_oneof![
                any::<String>(),
                "(http://[a-z.]{0,4})?(/{1,2}[ab0-9._%-]{0,6}){0,5}[-_][0-9]{0,3}\\.(flv|ts|m4s|mp4|m3u8|mpd)(\\?[a-z=&/.]{0,9})?",
            ],
        ) {
            for vhosts in [Vhosts::default(), Vhosts::new(["*"])] {
                let Ok(Some(found)) = Candidates::of(host.as_deref(), &target, &vhosts) else {
                    continue;
                };
                let keys: Vec<_> = found.keys().collect();
                prop_assert!((1..=3).contains(&keys.len()), "{:?}", keys);
                for key in &keys {
                    prop_assert!(key.as_str().len() <= StreamKey::MAX_BYTES);
                    let parts: Vec<_> = key.as_str().split('/').collect();
                    prop_assert!(parts.len() >= 3 && !parts.contains(&""), "{}", key);
                    prop_assert!(found.kind(key) != Kind::Page);
                }
            }
        }
    }
}
