//! One query parameter, added to the URIs that come back to the proxy and taken out of requests.

use std::borrow::Cow;
use std::ops::Range;

/// A query parameter for the URIs that come back to the proxy.
///
/// Name and value are URL-safe: they are written as they are, in URLs, playlists and XML.
#[derive(Clone, Copy, Debug)]
pub struct Addition<'a> {
    /// The parameter's name.
    pub name: &'a str,
    /// The parameter's value.
    pub value: &'a str,
    /// The authority that the client asked: absolute URIs of it come back.
    pub host: &'a str,
}

impl Addition<'_> {
    /// Whether a reference, resolved against what the client asked for, comes back to the proxy:
    /// relative references (RFC 3986 4.2), and `http` and `https` URIs of the same authority.
    ///
    /// No to everything else: the parameter is not told to other hosts, a foreign URL may be
    /// signed, and keys (`skd:`, `data:`) are no URLs at all. No to a reference to the document
    /// itself (empty, or a fragment alone). No to a backslash or a control character outside
    /// the query as well: browsers read the one as a slash, drop the other, and so may find
    /// another host in it.
    pub fn applies_to(&self, uri: &str) -> bool {
        matches!(self.aim(uri), Aim::Here | Aim::Relative)
    }

    /// The URI with the parameter, or as it is if it does not come back. A URI that has the
    /// parameter gets this value instead of its own. Blanks around the URI stay around it.
    pub fn add_to<'u>(&self, uri: &'u str) -> Cow<'u, str> {
        if !self.applies_to(uri) {
            return uri.into();
        }
        let Edit { at, parts } = self.edit(uri);
        let (before, behind) = (uri.get(..at.start), uri.get(at.end..));
        let parts = parts.concat();
        [before.unwrap_or_default(), &parts, behind.unwrap_or_default()].concat().into()
    }

    /// Where a reference leads.
    pub(super) fn aim(&self, uri: &str) -> Aim {
        let uri = uri.trim_matches(BLANKS);
        let (hierarchy, _) = at_query(uri);
        let no_text = |c: char| c == '\\' || c.is_control();
        if hierarchy.contains(no_text) || uri.starts_with('#') || uri.is_empty() {
            return Aim::Elsewhere;
        }
        let (scheme, rest) = split_scheme(uri);
        match (scheme, rest.strip_prefix("//")) {
            (None, None) => Aim::Relative,
            (Some(scheme), Some(rest)) => match PORTS.iter().find(|(s, _)| eq(s, scheme)) {
                Some((_, port)) if self.is_host(authority(rest), port) => Aim::Here,
                _ => Aim::Elsewhere,
            },
            // The scheme is that of the document, which a proxy of TLS in front may have changed.
            (None, Some(rest)) if PORTS.iter().any(|(_, p)| self.is_host(authority(rest), p)) => {
                Aim::Here
            }
            _ => Aim::Elsewhere,
        }
    }

    /// The one change that gives the URI this parameter.
    pub(super) fn edit(&self, uri: &str) -> Edit<'_> {
        let pair_behind = |mark| [mark, self.name, "=", self.value];
        let end = uri.trim_end_matches(BLANKS).len();
        let end = uri.find('#').map_or(end, |fragment| fragment.min(end));
        let before_fragment = uri.get(..end).unwrap_or_default();
        let Some(query) = before_fragment.find('?').map(|mark| mark + 1) else {
            return Edit { at: end..end, parts: pair_behind("?") };
        };
        let mut start = query;
        for pair in before_fragment.get(query..).unwrap_or_default().split('&') {
            let pair_end = start + pair.len();
            match value_of(pair, self.name) {
                Some("") => return Edit { at: start..pair_end, parts: pair_behind("") },
                Some(value) => {
                    let parts = ["", "", "", self.value];
                    return Edit { at: pair_end - value.len()..pair_end, parts };
                }
                None => start = pair_end + 1,
            }
        }
        Edit { at: end..end, parts: pair_behind("&") }
    }

    /// RFC 9110 4.2.3: hosts have no case, and the scheme's port may be left out.
    fn is_host(&self, authority: &str, port: &str) -> bool {
        let without_port = |authority| str::strip_suffix(authority, port).unwrap_or(authority);
        !self.host.is_empty() && eq(without_port(authority), without_port(self.host))
    }
}

/// A parameter's value in a request target, and the target without it: what it was before
/// [`Addition::add_to`], byte for byte. The first of several values counts; all are taken out.
pub fn take_parameter<'a>(target: &'a str, name: &str) -> (Option<&'a str>, Cow<'a, str>) {
    let (before, rest) = at_query(target);
    let (query, fragment) = rest.find('#').map_or((rest, ""), |at| rest.split_at(at));
    let Some(query) = query.strip_prefix('?') else { return (None, target.into()) };
    let Some(value) = query.split('&').find_map(|pair| value_of(pair, name)) else {
        return (None, target.into());
    };
    let mut without = before.to_owned();
    let others = query.split('&').filter(|pair| value_of(pair, name).is_none());
    for (index, pair) in others.enumerate() {
        without.push(if index == 0 { '?' } else { '&' });
        without.push_str(pair);
    }
    without.push_str(fragment);
    (Some(value), without.into())
}

/// Where a reference leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// To the proxy, by its name.
    Here,
    /// To wherever the base of the document is.
    Relative,
    /// To another host, or to nothing that has one.
    Elsewhere,
}

/// Bytes of a text, and what stands there instead, in parts: a mark, a name, `=` and a value.
#[derive(Debug)]
pub(super) struct Edit<'a> {
    pub(super) at: Range<usize>,
    pub(super) parts: [&'a str; 4],
}

/// A text of which only what is edited differs; all else is copied from the original.
#[derive(Debug)]
pub(super) struct Edited<'a> {
    original: &'a str,
    copied: usize,
    text: String,
}

impl<'a> Edited<'a> {
    pub(super) fn new(original: &'a str) -> Self {
        Self { original, copied: 0, text: String::with_capacity(original.len() * 2) }
    }

    /// Edits come in the order of their places. An edit that would make the text longer than
    /// [`MAX_BYTES`] fails.
    pub(super) fn edit(&mut self, edit: &Edit<'_>) -> Result<(), TooLong> {
        let kept = self.original.get(self.copied..edit.at.start).ok_or(TooLong)?;
        let rest = self.original.len().saturating_sub(edit.at.end);
        let added: usize = edit.parts.iter().map(|part| part.len()).sum();
        if self.text.len() + kept.len() + added + rest > MAX_BYTES {
            return Err(TooLong);
        }
        self.text.push_str(kept);
        self.text.extend(edit.parts);
        self.copied = edit.at.end;
        Ok(())
    }

    pub(super) fn finish(mut self) -> String {
        self.text.push_str(self.original.get(self.copied..).unwrap_or_default());
        self.text
    }
}

/// Longest document that comes out. A playlist of 2 MiB with lines as they are in practice, a
/// URI in 35 bytes, stays below it with parameters of 240 bytes; a hostile one of URIs of one
/// byte would grow a hundredfold.
pub(super) const MAX_BYTES: usize = 8 * 1024 * 1024;

/// The edited text would be longer than [`MAX_BYTES`].
#[derive(Debug)]
pub(super) struct TooLong;

/// A URI inside a document that writes parts of it in other words: variables, escapes.
#[derive(Debug, Default)]
pub(super) struct Spelled<'a> {
    /// What is meant; mostly what is written.
    pub(super) uri: Cow<'a, str>,
    /// The parts in other words: where each is in `uri`, and where in the document.
    reworded: Vec<(Range<usize>, Range<usize>)>,
    /// Where it begins in the document, and where the next part will.
    start: usize,
    end: usize,
}

impl<'a> Spelled<'a> {
    /// Begins at a place of the document.
    pub(super) fn at(start: usize) -> Self {
        Self { start, end: start, ..Self::default() }
    }

    /// The next part of the document means itself.
    pub(super) fn push(&mut self, text: &'a str) {
        self.uri += text;
        self.end += text.len();
    }

    /// The next bytes of the document mean something else.
    pub(super) fn push_meaning(&mut self, bytes: usize, meaning: &str) {
        let start = self.uri.len();
        self.uri.to_mut().push_str(meaning);
        self.reworded.push((start..self.uri.len(), self.end..self.end + bytes));
        self.end += bytes;
    }

    /// The places of the document for those of the URI; none if one is inside what only the
    /// document's words together mean.
    pub(super) fn place(&self, at: &Range<usize>) -> Option<Range<usize>> {
        Some(self.place_of(at.start)?..self.place_of(at.end)?)
    }

    fn place_of(&self, at: usize) -> Option<usize> {
        let passed = self.reworded.partition_point(|(meaning, _)| meaning.end <= at);
        let (before, behind) = self.reworded.split_at_checked(passed)?;
        if behind.first().is_some_and(|(meaning, _)| meaning.start < at) {
            return None;
        }
        let ends = before.last().map(|(meaning, words)| (meaning.end, words.end));
        let (in_uri, in_document) = ends.unwrap_or((0, self.start));
        Some(in_document + (at - in_uri))
    }
}

/// Schemes that come back, each with its port.
const PORTS: [(&str, &str); 2] = [("http", ":80"), ("https", ":443")];

/// What may stand around a URI without being part of it.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// RFC 3986 3.1. A first path part with a colon that is no scheme (`10:00.ts`) is read as
/// browsers do, as a path.
fn split_scheme(uri: &str) -> (Option<&str>, &str) {
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    match uri.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme), rest),
        _ => (None, uri),
    }
}

fn authority(rest: &str) -> &str {
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// In front of the query or fragment, and from its mark on.
pub(super) fn at_query(uri: &str) -> (&str, &str) {
    uri.find(['?', '#']).map_or((uri, ""), |at| uri.split_at(at))
}

fn value_of<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    match pair.strip_prefix(name)? {
        "" => Some(""),
        value => value.strip_prefix('='),
    }
}

fn eq(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Addition, take_parameter};

    fn of(host: &str) -> Addition<'_> {
        Addition { name: "spt", value: "T-_1", host }
    }

    #[test]
    fn the_parameter_stands_behind_the_query_and_before_the_fragment() {
        for (uri, with) in [
            ("a.ts", "a.ts?spt=T-_1"),
            ("a.ts?x=1", "a.ts?x=1&spt=T-_1"),
            ("a.ts?", "a.ts?&spt=T-_1"),
            ("a.ts?x=1&", "a.ts?x=1&&spt=T-_1"),
            ("a.ts#t=1?", "a.ts?spt=T-_1#t=1?"),
            ("a.ts?x#t", "a.ts?x&spt=T-_1#t"),
            ("?x", "?x&spt=T-_1"),
            ("/", "/?spt=T-_1"),
            ("my show.ts", "my show.ts?spt=T-_1"),
            (" a.ts ", " a.ts?spt=T-_1 "),
            ("a.ts?spt=T-_1", "a.ts?spt=T-_1"),
            ("a.ts?x=1&spt=old&y#f", "a.ts?x=1&spt=T-_1&y#f"),
            ("a.ts?spt=&spt=b", "a.ts?spt=T-_1&spt=b"),
            ("a.ts?spt&y", "a.ts?spt=T-_1&y"),
            ("a.ts?spta=1", "a.ts?spta=1&spt=T-_1"),
            ("a.ts?x=spt=1", "a.ts?x=spt=1&spt=T-_1"),
            ("http://h:8080", "http://h:8080?spt=T-_1"),
        ] {
            assert_eq!(of("h:8080").add_to(uri), with, "{uri:?}");
        }
    }

    #[test]
    fn only_what_comes_back_has_the_parameter() {
        for (uri, host) in [
            ("a.ts", ""),
            ("../a.ts", "h"),
            ("/live/a.ts", "h"),
            ("10:00:00.ts", "h"),
            ("a/b:c.ts", "h"),
            ("?u=http://other/\\", "h"),
            ("http://h/a.ts", "h"),
            ("HTTP://H/a.ts", "h"),
            ("http://h:80/a.ts", "h"),
            ("http://h/a.ts", "h:80"),
            ("https://h:443/a.ts", "h"),
            ("https://h/a.ts", "h:443"),
            ("//h/a.ts", "h"),
            ("//h:443/a.ts", "h"),
            ("http://[2001:db8::1]:8080/a.ts", "[2001:DB8::1]:8080"),
        ] {
            assert!(of(host).applies_to(uri), "{uri} comes back to {host:?}");
        }
        for (uri, host) in [
            ("", "h"),
            (" ", "h"),
            ("#t=1", "h"),
            ("http://other/a.ts", "h"),
            ("http://h:8080/a.ts", "h"),
            ("http://h/a.ts", "h:8080"),
            ("http://h/a.ts", "h:443"),
            ("https://h:80/a.ts", "h"),
            ("http://user@h/a.ts", "h"),
            ("http://h@other/a.ts", "h"),
            ("http://h.other/a.ts", "h"),
            ("http:///a.ts", ""),
            ("http:a.ts", "h"),
            ("http:/a.ts", "h"),
            ("//other/a.ts", "h"),
            ("///h/a.ts", "h"),
            ("/\\other/a.ts", "h"),
            ("\\\\other/a.ts", "h"),
            ("/\t/other/a.ts", "h"),
            ("ht\ntp://other/a.ts", "h"),
            ("data:text/plain,a", "h"),
            ("skd://h/key", "h"),
            ("urn:mpeg:dash:resolve-to-zero:2013", "h"),
            ("ftp://h/a.ts", "h"),
        ] {
            assert!(!of(host).applies_to(uri), "{uri:?} does not come back to {host:?}");
            assert_eq!(of(host).add_to(uri), uri);
        }
    }

    #[test]
    fn the_parameter_is_taken_out_wherever_a_player_left_it() {
        for (target, value, without) in [
            ("/a.ts", None, "/a.ts"),
            ("/a.ts?", None, "/a.ts?"),
            ("/a.ts?x=1&", None, "/a.ts?x=1&"),
            ("/a.ts?spt=v", Some("v"), "/a.ts"),
            ("/a.ts?&spt=v", Some("v"), "/a.ts?"),
            ("/a.ts?x=1&&spt=v", Some("v"), "/a.ts?x=1&"),
            ("/a.m3u8?spt=v&_HLS_msn=7&_HLS_part=1", Some("v"), "/a.m3u8?_HLS_msn=7&_HLS_part=1"),
            ("/a.ts?spt=v&x=1&spt=w", Some("v"), "/a.ts?x=1"),
            ("/a.ts?spt=v&spt=w", Some("v"), "/a.ts"),
            ("/a.ts?spt", Some(""), "/a.ts"),
            ("/a.ts?sptx=1", None, "/a.ts?sptx=1"),
            ("http://h/a.ts?spt=v", Some("v"), "http://h/a.ts"),
            ("/spt=v/a.ts", None, "/spt=v/a.ts"),
            ("*", None, "*"),
        ] {
            assert_eq!(take_parameter(target, "spt"), (value, without.into()), "{target}");
        }
    }

    proptest! {
        #[test]
        fn what_was_added_is_taken_out_again(uri in "[a-z/.:?&=#%;\\\\{}é]{0,40}") {
            let addition = of("h");
            let with = addition.add_to(&uri);
            prop_assert_eq!(addition.add_to(&with), with.as_ref(), "added twice");
            prop_assert_eq!(with != uri, addition.applies_to(&uri));
            let (value, without) = take_parameter(&with, "spt");
            prop_assert_eq!(without, uri.as_str());
            prop_assert_eq!(value, addition.applies_to(&uri).then_some("T-_1"));
        }
    }
}
