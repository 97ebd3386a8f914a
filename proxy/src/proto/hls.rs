//! HLS playlists: every URI that comes back to the proxy gets a parameter, and no other byte
//! changes.
//!
//! RFC 8216, and for low latency, variables and steering draft-pantos-hls-rfc8216bis-17 ("bis").

use std::collections::HashMap;
use std::ops::Range;

use super::addition::{Addition, Edit, Edited, Spelled, TooLong, at_query};

/// The playlist with `addition` in its URIs: the lines that are URIs, and the attributes that
/// hold one, of any tag (`EXT-X-KEY`, `-MAP`, `-MEDIA`, `-PART`, `-PRELOAD-HINT` and so on).
///
/// Line ends, a byte order mark, comments and unknown tags stay as they are. The caller bounds
/// the playlist; what comes out is at most 8 MiB.
///
/// Variables (bis 4.3) that the playlist itself defines count as what they stand for. A value
/// that comes from elsewhere (`IMPORT`, `QUERYPARAM`) may hold a host or the query's `?`, so a
/// URI with one is changed only if it stands behind a `?`; else it is left alone, which costs
/// the request its parameter and nothing else.
pub fn rewrite(playlist: &str, addition: &Addition<'_>) -> Result<String, BadPlaylist> {
    edited(playlist, addition, |_| true)
}

/// The same with `addition` in those URIs alone that are of segments of MPEG-TS, by the end of
/// their paths: `.ts`.
pub fn rewrite_segments(playlist: &str, addition: &Addition<'_>) -> Result<String, BadPlaylist> {
    edited(playlist, addition, |uri| at_query(uri).0.strip_suffix(".ts").is_some())
}

fn edited(
    playlist: &str,
    addition: &Addition<'_>,
    is_meant: impl Fn(&str) -> bool,
) -> Result<String, BadPlaylist> {
    let is_meant = |spelled: &Spelled<'_>| is_meant(&spelled.uri);
    let mut edited = Edited::new(playlist);
    let mut variables = Variables::new();
    let mut lines = playlist.split_inclusive('\n');
    let header = lines.next().filter(|line| is_header(line)).ok_or(BadPlaylist::NotAPlaylist)?;
    let mut start = header.len();
    for whole in lines {
        let line = whole.trim_end_matches(['\n', '\r']);
        // RFC 8216 4.1: a line is a URI, blank, or starts with `#`, and tags start with `#EXT`.
        if let Some(list) = attribute_list(line) {
            let list_start = start + line.len() - list.len();
            for Attribute { name, value, at } in attributes(list) {
                if HOLD_URIS.contains(&name) {
                    let spelled = variables.expand(value, list_start + at.start);
                    add(&mut edited, addition, spelled.filter(is_meant))?;
                }
            }
            if line.starts_with("#EXT-X-DEFINE:") {
                variables.define(list);
            }
        } else if !line.starts_with('#') {
            add(&mut edited, addition, variables.expand(line, start).filter(is_meant))?;
        }
        start += whole.len();
    }
    Ok(edited.finish())
}

/// Why a body is not rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlaylist {
    /// The first line is not `#EXTM3U`.
    #[error("not a playlist: the first line is not #EXTM3U")]
    NotAPlaylist,
    /// It has so many URIs that it would be longer than 8 MiB.
    #[error("the playlist has too many URIs")]
    TooLong,
}

impl From<TooLong> for BadPlaylist {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

/// Attributes that hold a URI: of all tags; of EXT-X-CONTENT-STEERING (bis 4.4.6.6); of
/// EXT-X-DATERANGE for interstitials (bis, appendix D).
const HOLD_URIS: [&str; 4] = ["URI", "SERVER-URI", "X-ASSET-URI", "X-ASSET-LIST"];

/// RFC 8216 4.3.1.1. Attributes behind the tag are usual in lists of channels.
fn is_header(line: &str) -> bool {
    let line = line.strip_prefix('\u{feff}').unwrap_or(line);
    let behind = line.strip_prefix("#EXTM3U");
    behind.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// What stands behind the colon of a tag. That of EXTINF is a title, free text.
fn attribute_list(line: &str) -> Option<&str> {
    let (tag, list) = line.strip_prefix("#EXT")?.split_once(':')?;
    (tag != "INF").then_some(list)
}

/// An attribute whose value is a quoted string.
#[derive(Debug)]
struct Attribute<'a> {
    name: &'a str,
    value: &'a str,
    /// Of the value, in the list.
    at: Range<usize>,
}

/// RFC 8216 4.2. Commas part attributes, except between quotes; blanks around a name do not
/// count. What is no attribute is passed over.
fn attributes(list: &str) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = list;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let (name, behind) = rest.split_at(rest.find(['=', ',', '"'])?);
            if let Some(value) = behind.strip_prefix("=\"") {
                let start = list.len() - value.len();
                let (value, behind) = value.split_once('"')?;
                rest = after_comma(behind);
                return Some(Attribute {
                    name: name.trim(),
                    value,
                    at: start..start + value.len(),
                });
            }
            rest = after_comma(behind);
        }
    })
}

/// Behind the next comma that is not between quotes.
fn after_comma(list: &str) -> &str {
    let mut quoted = false;
    let comma = list.find(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    comma.and_then(|comma| list.get(comma + 1..)).unwrap_or_default()
}

/// What the playlist has defined so far (bis 4.4.2.3).
#[derive(Debug)]
struct Variables<'a> {
    values: HashMap<&'a str, &'a str>,
    /// Bytes of values that may still be put in: a few bytes can name a long one many times.
    left: usize,
}

impl<'a> Variables<'a> {
    fn new() -> Self {
        Self { values: HashMap::new(), left: MAX_EXPANDED }
    }

    fn define(&mut self, list: &'a str) {
        let value_of = |name| attributes(list).find(|a| a.name == name).map(|a| a.value);
        if let (Some(name), Some(value)) = (value_of("NAME"), value_of("VALUE")) {
            // A value made of others is treated as one that is not known.
            if !value.contains("{$") {
                self.values.insert(name, value);
            }
        }
    }

    /// The URI at a place of the playlist with its variables replaced, if enough of them are
    /// known to tell where it leads and whether it has a query.
    fn expand<'t>(&mut self, text: &'t str, start: usize) -> Option<Spelled<'t>> {
        let mut spelled = Spelled::at(start);
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{$") {
            let (name, behind) = behind.split_once('}')?;
            spelled.push(before);
            let meaning = match self.values.get(name) {
                Some(value) => value,
                None if spelled.uri.contains('?') => UNKNOWN,
                None => return None,
            };
            self.left = self.left.checked_sub(meaning.len())?;
            spelled.push_meaning("{$}".len() + name.len(), meaning);
            rest = behind;
        }
        spelled.push(rest);
        Some(spelled)
    }
}

/// Bytes of values put in for the variables of one playlist. URIs behind that are left alone.
const MAX_EXPANDED: usize = 4 * 1024 * 1024;

/// Stands for a part of the query that is not known.
const UNKNOWN: &str = "_";

fn add(
    edited: &mut Edited<'_>,
    addition: &Addition<'_>,
    spelled: Option<Spelled<'_>>,
) -> Result<(), TooLong> {
    let Some(spelled) = spelled.filter(|spelled| addition.applies_to(&spelled.uri)) else {
        return Ok(());
    };
    let Edit { at, parts } = addition.edit(&spelled.uri);
    match spelled.place(&at) {
        Some(at) => edited.edit(&Edit { at, parts }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
