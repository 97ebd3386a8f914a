use m3u8_rs::{MasterPlaylist, MediaPlaylist, Playlist, SessionDataField, parse_playlist_res};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{BadPlaylist, rewrite, rewrite_segments};
use crate::proto::addition::{Addition, MAX_BYTES, take_parameter};

const ADDITION: Addition<'_> = Addition { name: "spt", value: "TOKEN", host: "proxy.example:8080" };

const SRS_MASTER: &str = include_str!("../../../testdata/http/hls-master.http");
const SRS_MEDIA: &str = include_str!("../../../testdata/http/hls-media.http");
const NGINX_MASTER: &str = include_str!("../../../testdata/http/nginx-rtmp-master.m3u8");
const NGINX_KEYS: &str = include_str!("../../../testdata/http/nginx-rtmp-keys.m3u8");
const FFMPEG_RANGES: &str = include_str!("../../../testdata/http/ffmpeg-ranges.m3u8");
const LOW_LATENCY: &str = include_str!("../../../testdata/http/low-latency.m3u8");
const MULTIVARIANT: &str = include_str!("../../../testdata/http/multivariant.m3u8");

/// The body of a recorded answer.
fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// The lines that differ, as they are now.
fn changed(playlist: &str) -> Vec<String> {
    let rewritten = rewrite(playlist, &ADDITION).unwrap();
    assert_eq!(rewrite(&rewritten, &ADDITION).as_ref(), Ok(&rewritten), "rewritten twice");
    let (before, now): (Vec<_>, Vec<_>) =
        (playlist.split('\n').collect(), rewritten.split('\n').collect());
    assert_eq!(before.len(), now.len(), "lines");
    let differ = before.iter().zip(now).filter(|(before, now)| *before != now);
    differ.map(|(_, now)| now.to_owned()).collect()
}

#[test]
fn segments_alone_get_what_is_for_segments() {
    let id = Addition { name: "spbhid", value: "8e204cd", host: "proxy.example:8080" };
    let listed = |playlist| {
        let rewritten = rewrite_segments(playlist, &id).unwrap();
        let lines = rewritten.lines().filter(|line| line.contains("spbhid"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(listed(body(SRS_MEDIA))[0], "livestream-0.ts?hls_ctx=9ed7l37i&spbhid=8e204cd");
    assert_eq!(
        listed(NGINX_KEYS),
        ["0.ts", "1.ts", "2.ts", "3.ts"].map(|segment| format!("{segment}?spbhid=8e204cd"))
    );
    for playlist in [body(SRS_MASTER), NGINX_MASTER, FFMPEG_RANGES, MULTIVARIANT] {
        assert_eq!(rewrite_segments(playlist, &id).as_deref(), Ok(playlist));
    }
}

#[test]
fn recorded_playlists_change_in_their_uris_alone() {
    assert_eq!(changed(body(SRS_MASTER)), ["/live/livestream.m3u8?hls_ctx=9ed7l37i&spt=TOKEN"]);
    assert_eq!(
        changed(body(SRS_MEDIA)),
        [
            "livestream-0.ts?hls_ctx=9ed7l37i&spt=TOKEN",
            "livestream-1.ts?hls_ctx=9ed7l37i&spt=TOKEN",
            "livestream-2.ts?hls_ctx=9ed7l37i&spt=TOKEN",
        ]
    );
    assert_eq!(changed(NGINX_MASTER), ["show_low.m3u8?spt=TOKEN"]);
    assert_eq!(
        changed(NGINX_KEYS),
        [
            "#EXT-X-KEY:METHOD=AES-128,URI=\"0.key?spt=TOKEN\",IV=0x00000000000000000000000000000000",
            "0.ts?spt=TOKEN",
            "1.ts?spt=TOKEN",
            "#EXT-X-KEY:METHOD=AES-128,URI=\"2.key?spt=TOKEN\",IV=0x00000000000000000000000000000002",
            "2.ts?spt=TOKEN",
            "3.ts?spt=TOKEN",
        ]
    );
    let ranges = changed(FFMPEG_RANGES);
    assert_eq!(ranges[0], "#EXT-X-MAP:URI=\"byte.m4s?spt=TOKEN\",BYTERANGE=\"1341@0\"");
    assert_eq!(ranges[1..], ["byte.m4s?spt=TOKEN"; 5]);
}

#[test]
fn a_low_latency_playlist_changes_where_the_proxy_is_asked() {
    assert_eq!(
        changed(LOW_LATENCY),
        [
            "#EXT-X-KEY:METHOD=AES-128,URI=\"https://proxy.example:8080/keys/7?a=1&spt=TOKEN\",IV=0x0000000000000000000000000000010A",
            "#EXT-X-MAP:URI=\"init.mp4?spt=TOKEN\",BYTERANGE=\"720@0\"",
            "fileSequence266.mp4?spt=TOKEN",
            "{$dir}/fileSequence267.mp4{$session}&spt=TOKEN",
            "fileSequence268.mp4?ticket={$ticket}&spt=TOKEN",
            "#EXT-X-DATERANGE:ID=\"ad\",CLASS=\"com.apple.hls.interstitial\",START-DATE=\"2026-11-22T14:29:40Z\",X-ASSET-LIST=\"ads/list.json?spt=TOKEN\",X-URI=\"not.a.uri\"",
            "#EXT-X-PART:DURATION=0.33334,URI=\"filePart271.0.mp4?spt=TOKEN\",INDEPENDENT=YES",
            "#EXT-X-PART:DURATION=0.33334,URI=\"filePart271.mp4?spt=TOKEN\",BYTERANGE=\"20000@2304\"",
            "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"filePart272.0.mp4?spt=TOKEN\",BYTERANGE-START=0",
            "#EXT-X-RENDITION-REPORT:URI=\"../1M/waitForMSN.php?spt=TOKEN\",LAST-MSN=273,LAST-PART=2",
        ]
    );
}

#[test]
fn a_multivariant_playlist_changes_where_the_proxy_is_asked() {
    assert_eq!(
        changed(MULTIVARIANT),
        [
            "#EXT-X-CONTENT-STEERING:SERVER-URI=\"/steering?video=00012&spt=TOKEN\",PATHWAY-ID=\"A\"",
            "#EXT-X-SESSION-DATA:DATA-ID=\"com.example.lyrics\",URI=\"lyrics.json?spt=TOKEN\"",
            "#EXT-X-SESSION-KEY:METHOD=AES-128,URI=\"/keys/1?spt=TOKEN\"",
            "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"aac\",NAME=\"one, URI=x.m3u8\",DEFAULT=YES,URI=\"audio/en.m3u8?spt=TOKEN\"",
            "low/index.m3u8?spt=TOKEN#t=10",
            "//proxy.example:8080/mid/index.m3u8?&spt=TOKEN",
            "http://PROXY.example:8080/hi/index.m3u8?x=1&spt=TOKEN&y=2",
            "#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=86000,URI=\"low/iframe.m3u8?spt=TOKEN\"",
        ]
    );
}

#[test]
fn attributes_are_told_from_text_that_looks_like_one() {
    for (line, expected) in [
        (r#"#EXT-X-KEY:URI="a""#, r#"#EXT-X-KEY:URI="a?spt=TOKEN""#),
        (r#"#EXT-X-KEY: METHOD=X , URI="a""#, r#"#EXT-X-KEY: METHOD=X , URI="a?spt=TOKEN""#),
        (
            r#"#EXT-X-NEW:A=1,URI="a",URI="b""#,
            r#"#EXT-X-NEW:A=1,URI="a?spt=TOKEN",URI="b?spt=TOKEN""#,
        ),
        (r#"#EXT-X-KEY:30,URI="a""#, r#"#EXT-X-KEY:30,URI="a?spt=TOKEN""#),
        (r#"#EXT-X-KEY:A="x""y,",URI="a""#, r#"#EXT-X-KEY:A="x""y,",URI="a?spt=TOKEN""#),
        (r#"#EXT-X-KEY:A="x,URI=",B="y",URI="""#, ""),
        (r#"#EXT-X-KEY:X-URI="a",URI-X="a",uri="a",URI=a"#, ""),
        (r#"#EXT-X-KEY:URI="a"#, ""),
        (r#"#EXT-X-KEY:"URI="a""#, ""),
        (r#"#EXTINF:2,URI="a""#, ""),
        (r#"#EXTINF:2,x, URI="a""#, ""),
        (r#"# EXT-X-KEY:URI="a""#, ""),
        ("#EXT-X-KEY", ""),
        ("#EXT-X-KEY:", ""),
    ] {
        let expected = if expected.is_empty() { line } else { expected };
        let playlist = format!("#EXTM3U\n{line}\n");
        assert_eq!(rewrite(&playlist, &ADDITION), Ok(format!("#EXTM3U\n{expected}\n")));
    }
}

#[test]
fn variables_count_as_what_they_stand_for() {
    let define =
        |name: &str, value: &str| format!("#EXT-X-DEFINE:NAME=\"{name}\",VALUE=\"{value}\"");
    let head = [
        "#EXTM3U".to_owned(),
        define("cdn", "https://cdn.example"),
        define("here", "https://proxy.example:8080"),
        define("q", "?a=1"),
        define("f", "b#t"),
        define("old", "spt=1"),
        define("nested", "{$cdn}"),
        "#EXT-X-DEFINE:IMPORT=\"far\"".to_owned(),
    ];
    let head = head.join("\n");
    for (uri, expected) in [
        ("{$cdn}/a.ts", "{$cdn}/a.ts"),
        ("{$here}/a.ts", "{$here}/a.ts?spt=TOKEN"),
        ("a.ts{$q}", "a.ts{$q}&spt=TOKEN"),
        ("{$q}", "{$q}&spt=TOKEN"),
        // The place for the parameter is inside the value, which others use too.
        ("a.ts{$f}", "a.ts{$f}"),
        ("a.ts?{$old}", "a.ts?{$old}"),
        ("a.ts?spt={$old}", "a.ts?spt=TOKEN"),
        ("{$nested}/a.ts", "{$nested}/a.ts"),
        ("{$far}/a.ts", "{$far}/a.ts"),
        ("/{$far}/a.ts", "/{$far}/a.ts"),
        ("/{$far}/a.ts?b", "/{$far}/a.ts?b"),
        ("a.ts?b={$far}", "a.ts?b={$far}&spt=TOKEN"),
        ("a.ts{$q}&b={$far}", "a.ts{$q}&b={$far}&spt=TOKEN"),
        ("a{$b.ts", "a{$b.ts"),
        ("a{b}.ts", "a{b}.ts?spt=TOKEN"),
    ] {
        let playlist = format!("{head}\n{uri}");
        assert_eq!(rewrite(&playlist, &ADDITION), Ok(format!("{head}\n{expected}")));
    }
    let early = format!("#EXTM3U\n{{$q}}.ts\n{}", define("q", "a"));
    assert_eq!(rewrite(&early, &ADDITION), Ok(early.clone()), "used before it is defined");
}

#[test]
fn what_is_no_playlist_is_refused() {
    for body in ["", "\n#EXTM3U", "#EXTM3U8\n", "<html>", "#EXT", " #EXTM3U", "a.ts"] {
        assert_eq!(rewrite(body, &ADDITION), Err(BadPlaylist::NotAPlaylist), "{body:?}");
    }
    for body in ["#EXTM3U", "\u{feff}#EXTM3U\r\n", "#EXTM3U url-tvg=\"x.xml\"\n"] {
        assert_eq!(rewrite(body, &ADDITION).as_deref(), Ok(body));
    }
}

#[test]
fn a_playlist_of_nothing_but_uris_does_not_grow_without_end() {
    let value = "v".repeat(1000);
    let addition = Addition { value: &value, ..ADDITION };
    let lines = |count| format!("#EXTM3U\n{}", "a\n".repeat(count));
    let fits = MAX_BYTES / (1000 + "a?spt=\n".len()) - 1;
    assert!(rewrite(&lines(fits), &addition).unwrap().len() <= MAX_BYTES);
    assert_eq!(rewrite(&lines(fits + 100), &addition), Err(BadPlaylist::TooLong));
}

#[test]
fn variables_do_not_multiply_without_end() {
    let head = format!("#EXTM3U\n#EXT-X-DEFINE:NAME=\"a\",VALUE=\"{}\"", "v".repeat(1024));
    let long = format!("{head}\n{}", "{$a}".repeat(500_000));
    assert_eq!(rewrite(&long, &ADDITION), Ok(long.clone()));
    let many = format!("{head}{}", "\n{$a}".repeat(400_000));
    let with = rewrite(&many, &ADDITION).unwrap().matches("?spt=TOKEN").count();
    assert_eq!(with, 4096, "those for which there was room");
}

#[test]
fn another_reader_finds_the_same_playlist_with_the_parameter_in_its_uris() {
    for playlist in [
        body(SRS_MASTER),
        body(SRS_MEDIA),
        NGINX_MASTER,
        NGINX_KEYS,
        FFMPEG_RANGES,
        LOW_LATENCY,
        MULTIVARIANT,
    ] {
        assert_oracle_agrees(playlist);
    }
}

/// Both readings are equal once each URI has lost the parameter, and each that should have it did.
fn assert_oracle_agrees(playlist: &str) {
    let parse = |text: &str| parse_playlist_res(text.as_bytes()).unwrap();
    let rewritten = parse(&rewrite(playlist, &ADDITION).unwrap());
    let mut plain = Vec::new();
    let without = strip(rewritten, &mut plain);
    let original = strip(parse(playlist), &mut Vec::new());
    assert_eq!(without, original);
    for uri in plain {
        let comes_back = ADDITION.applies_to(&uri) && !uri.contains("{$");
        assert!(!comes_back, "{uri} has no parameter");
    }
}

/// Takes the parameter out of each URI; those without it go to `plain`.
fn strip(playlist: Playlist, plain: &mut Vec<String>) -> Playlist {
    let mut take = |uri: &mut String| {
        let (value, without) = take_parameter(uri, "spt");
        if value.is_none() {
            plain.push(uri.clone());
        }
        *uri = without.replace("&spt=TOKEN", "");
    };
    match playlist {
        Playlist::MasterPlaylist(mut master) => {
            let MasterPlaylist { variants, alternatives, session_key, session_data, .. } =
                &mut master;
            for variant in variants {
                take(&mut variant.uri);
            }
            alternatives.iter_mut().filter_map(|media| media.uri.as_mut()).for_each(&mut take);
            session_key.iter_mut().filter_map(|key| key.0.uri.as_mut()).for_each(&mut take);
            for data in session_data {
                if let SessionDataField::Uri(uri) = &mut data.field {
                    take(uri);
                }
            }
            strip_tags(&mut master.unknown_tags);
            Playlist::MasterPlaylist(master)
        }
        Playlist::MediaPlaylist(mut media) => {
            let MediaPlaylist { segments, unknown_tags, .. } = &mut media;
            for segment in segments {
                take(&mut segment.uri);
                segment.key.iter_mut().filter_map(|key| key.uri.as_mut()).for_each(&mut take);
                segment.map.iter_mut().for_each(|map| take(&mut map.uri));
                strip_tags(&mut segment.unknown_tags);
                if let Some(range) = &mut segment.daterange {
                    range.x_prefixed = None;
                }
            }
            strip_tags(unknown_tags);
            Playlist::MediaPlaylist(media)
        }
    }
}

/// Tags that the oracle does not know are text to it.
fn strip_tags(tags: &mut [m3u8_rs::ExtTag]) {
    for rest in tags.iter_mut().filter_map(|tag| tag.rest.as_mut()) {
        *rest = rest.replace("?spt=TOKEN", "").replace("&spt=TOKEN", "");
    }
}

/// A part of a playlist: as it is, and as it should be.
type Part = (String, String);

fn same(text: impl Into<String>) -> Part {
    let text = text.into();
    (text.clone(), text)
}

fn uri() -> impl Strategy<Value = Part> {
    const OURS: &[&str] =
        &["", "", "/", "../", "//proxy.example:8080/", "http://proxy.example:8080/"];
    const FOREIGN: &[&str] =
        &["http://cdn.example/", "//cdn.example/", "skd://", "data:", "urn:x:"];
    let path = "[a-zA-Z0-9_.~%é-]{1,12}(/[a-z0-9:._ -]{0,8}[a-z])?";
    let query = "(\\?[a-z0-9=&%/?:]{0,12})?";
    let fragment = "(#[a-z0-9?&=]{0,5})?";
    let ours = (select(OURS), path, query, fragment).prop_map(|(base, path, query, fragment)| {
        let mark = if query.is_empty() { '?' } else { '&' };
        let with = format!("{base}{path}{query}{mark}spt=TOKEN{fragment}");
        (format!("{base}{path}{query}{fragment}"), with)
    });
    let foreign = (select(FOREIGN), path, query)
        .prop_map(|(base, path, query)| same(format!("{base}{path}{query}")));
    prop_oneof![3 => ours, 1 => foreign]
}

fn line() -> impl Strategy<Value = Part> {
    let name = select(&["URI", "SERVER-URI", "X-ASSET-URI", "X-ASSET-LIST"][..]);
    let held = (name, uri()).prop_map(|(name, (uri, with))| {
        (format!("{name}=\"{uri}\""), format!("{name}=\"{with}\""))
    });
    let other = prop_oneof![
        "[A-Z-]{1,8}=[A-Z0-9@.x]{1,8}",
        "X-URI=\"[a-z./,= ]{0,12}\"",
        "NAME=\"(URI=|,|[a-z ]){0,6}\"",
    ];
    let attribute = prop_oneof![
        held,
        other
            .prop_filter("not a URI", |text| {
                !text.starts_with("URI=") && !text.starts_with("X-ASSET")
            })
            .prop_map(same)
    ];
    let tag = ("#EXT-X-(KEY|MAP|MEDIA|PART|NEW|STREAM-INF)", vec(attribute, 1..5)).prop_map(
        |(tag, attributes)| {
            let (before, after): (Vec<_>, Vec<_>) = attributes.into_iter().unzip();
            (format!("{tag}:{}", before.join(",")), format!("{tag}:{}", after.join(",")))
        },
    );
    let text = prop_oneof![
        "#EXTINF:[0-9]\\.[0-9]{1,3},(URI=\"[a-z.]{1,5}\"|[a-z. ,]{0,12})",
        "# [a-z.\"=?&]{0,20}",
        "#EXT-X-(ENDLIST|DISCONTINUITY|GAP)",
        "#EXT-X-(BYTERANGE|MEDIA-SEQUENCE):[0-9]{1,5}(@[0-9]{1,4})?",
        "[ ]{0,2}",
    ];
    prop_oneof![2 => uri(), 2 => tag, 3 => text.prop_map(same)]
}

proptest! {
    #[test]
    fn every_uri_that_comes_back_has_the_parameter_and_no_other_byte_differs(
        start in "\u{feff}?#EXTM3U",
        lines in vec((select(&["\n", "\r\n"][..]), line()), 0..30),
        end in "(\n|\r\n)?",
    ) {
        let (mut playlist, mut expected) = same(start);
        for (line_end, (before, after)) in lines {
            playlist.extend([line_end, &before]);
            expected.extend([line_end, &after]);
        }
        playlist += &end;
        expected += &end;
        prop_assert_eq!(rewrite(&playlist, &ADDITION), Ok(expected.clone()));
        prop_assert_eq!(rewrite(&expected, &ADDITION), Ok(expected), "rewritten twice");
    }

    #[test]
    fn no_text_brings_the_rewriter_down(text in "(#EXTM3U\n)?([ -~]|\n|\r|#EXT-X-|URI=\"|\\{\\$|é){0,80}") {
        if let Ok(rewritten) = rewrite(&text, &ADDITION) {
            prop_assert_eq!(rewritten.split('\n').count(), text.split('\n').count());
            prop_assert_eq!(rewrite(&rewritten, &ADDITION), Ok(rewritten), "rewritten twice");
        }
    }
}
