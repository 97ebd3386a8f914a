//! What an HTTP path asks for, and which streams it may belong to.

use super::ask::{Ask, around_path};
use super::key::{BadStream, StreamKey};
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
}

impl Kind {
    /// Every kind, in the order in which they are counted.
    pub const ALL: [Self; 4] = [Self::Live, Self::Playlist, Self::Media, Self::Page];

    /// The word used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Playlist => "playlist",
            Self::Media => "media",
            Self::Page => "page",
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
        if matches!(form, Form::LiveOrSegment | Form::Media)
            && let Some(stream) = without_number(name)
        {
            whole.extend(with_path(&format!("{folder}/{stream}")));
            is_piece = true;
        }
        // A folder of one part is the app.
        if form != Form::Live && folder.split('/').filter(|part| !part.is_empty()).count() > 1 {
            whole.extend(with_path(folder));
            is_piece |= match form {
                Form::Playlist => GENERAL.contains(&name),
                _ => name.bytes().all(|b| b.is_ascii_digit()),
            };
        }
        Ok(Some(Self { form, own, whole, is_piece }))
    }

    /// Every candidate, the likeliest first.
    pub fn keys(&self) -> Vec<StreamKey> {
        let own_first = matches!(self.form, Form::Live | Form::Playlist | Form::LiveOrSegment)
            && !self.is_piece;
        let own = std::iter::once(&self.own);
        let whole = self.whole.iter();
        if own_first {
            own.chain(whole).cloned().collect()
        } else {
            whole.chain(own).cloned().collect()
        }
    }

    /// What is asked for if something else tells that the path is a piece of a stream.
    pub fn kind_of_piece(&self) -> Kind {
        match self.form {
            Form::Live => Kind::Live,
            Form::Playlist => Kind::Playlist,
            Form::LiveOrSegment | Form::Media | Form::Page => Kind::Media,
        }
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

/// The stream of `stream-12`, `stream_12`, `stream-init`: how SRS, nginx-rtmp and FFmpeg name pieces.
fn without_number(name: &str) -> Option<&str> {
    let (stream, number) = name.rsplit_once(['-', '_'])?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    ((is_number || number == "init") && !stream.is_empty()).then_some(stream)
}

fn last_part(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}
