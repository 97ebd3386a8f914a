//! What players fetch over HTTP: playlists, manifests, and the URLs in them.

use std::borrow::Cow;

use bolero::check;
use srs_proxy::proto::addition::{Addition, take_parameter};
use srs_proxy::proto::{dash, hls};

use crate::{RANDOM, corpus};

const ADDITION: Addition<'_> = Addition { name: "spt", value: "TOKEN", host: "proxy.example:8080" };

#[test]
fn hls() {
    check!().with_iterations(RANDOM).for_each(|body: &[u8]| {
        let playlist = String::from_utf8_lossy(body);
        let Ok(rewritten) = hls::rewrite(&playlist, &ADDITION) else { return };
        assert_eq!(hls::rewrite(&rewritten, &ADDITION).as_ref(), Ok(&rewritten), "twice");
        assert_added(&playlist, &rewritten);
        let (before, now) = (playlist.split('\n'), rewritten.split('\n'));
        assert_eq!(before.clone().count(), now.clone().count(), "lines");
        for (before, now) in before.zip(now).filter(|(before, now)| before != now) {
            let comment = before.starts_with('#') && !before.starts_with("#EXT");
            assert!(!comment, "{before:?} became {now:?}");
        }
    });
}

#[test]
fn dash() {
    check!().with_iterations(RANDOM).for_each(|body: &[u8]| {
        let mpd = String::from_utf8_lossy(body);
        let Ok(rewritten) = dash::rewrite(&mpd, &ADDITION) else { return };
        assert_eq!(dash::rewrite(&rewritten, &ADDITION).as_ref(), Ok(&rewritten), "twice");
        assert_added(&mpd, &rewritten);
        // A value that is replaced may have had a quote or a `>`, but never what begins a tag.
        let tags = |text: &str| text.matches('<').count();
        assert_eq!(tags(&mpd), tags(&rewritten), "tags");
    });
}

/// The input is the host and the URI, in two lines.
#[test]
fn uri() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let (host, uri) = text.split_once('\n').unwrap_or(("", &text));
        let addition = Addition { host, ..ADDITION };
        let with = addition.add_to(uri);
        assert_eq!(addition.add_to(&with), with, "added twice");
        let (value, without) = take_parameter(&with, "spt");
        assert_eq!(take_parameter(&without, "spt"), (None, Cow::Borrowed(&*without)));
        if addition.applies_to(uri) {
            assert!(value.is_some_and(|value| value.trim() == "TOKEN"), "{uri:?} gives {with:?}");
            assert_added(uri, &with);
        } else {
            assert_eq!(with, uri);
        }
        // Requests have no blanks.
        if addition.applies_to(uri) && uri.trim() == uri && !uri.contains("spt") {
            assert_eq!(without, uri);
        }
    });
}

#[test]
fn a_manifest_cut_anywhere_is_refused_or_rewritten_as_far_as_it_goes() {
    for (name, body) in corpus::of("manifests__hls") {
        let playlist = String::from_utf8_lossy(&body);
        for (end, _) in playlist.char_indices().filter(|(_, c)| *c == '\n') {
            let Ok(whole) = hls::rewrite(&playlist, &ADDITION) else { break };
            let Ok(part) = hls::rewrite(&playlist[..=end], &ADDITION) else {
                panic!("{name}, the first {end} bytes")
            };
            assert!(whole.starts_with(&part), "{name}, the first {end} bytes");
        }
    }
    for (name, body) in corpus::of("manifests__dash") {
        let mpd = String::from_utf8_lossy(&body);
        for (end, _) in mpd.trim_end().char_indices() {
            let part = dash::rewrite(&mpd[..end], &ADDITION);
            assert!(part.is_err(), "{name}, the first {end} bytes");
        }
    }
}

/// Nothing but the parameter was added, unless the text had it before.
fn assert_added(before: &str, now: &str) {
    if !before.contains("spt") && !before.contains("TOKEN") {
        let parameters = ["&amp;spt=TOKEN", "&spt=TOKEN", "?spt=TOKEN"];
        let without = parameters.iter().fold(now.to_owned(), |now, added| now.replace(added, ""));
        assert_eq!(without, before);
    }
}
