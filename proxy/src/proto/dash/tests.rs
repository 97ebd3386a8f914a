use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use quick_xml::Reader;
use quick_xml::events::Event;

use super::{BadMpd, MAX_DEPTH, rewrite};
use crate::proto::addition::{Addition, MAX_BYTES};

const ADDITION: Addition<'_> = Addition { name: "spt", value: "TOKEN", host: "proxy.example:8080" };

const SRS: &str = include_str!("../../../testdata/http/dash.http");
const NGINX: &str = include_str!("../../../testdata/http/nginx-rtmp.mpd");
const FFMPEG_TEMPLATE: &str = include_str!("../../../testdata/http/ffmpeg-template.mpd");
const FFMPEG_LIST: &str = include_str!("../../../testdata/http/ffmpeg-list.mpd");
const FFMPEG_FILE: &str = include_str!("../../../testdata/http/ffmpeg-file.mpd");

/// The lines that differ, as they are now.
fn changed(mpd: &str) -> Vec<String> {
    let rewritten = rewrite(mpd, &ADDITION).unwrap();
    assert_eq!(rewrite(&rewritten, &ADDITION).as_ref(), Ok(&rewritten), "rewritten twice");
    assert_eq!(mpd.lines().count(), rewritten.lines().count(), "lines");
    let differ = mpd.lines().zip(rewritten.lines()).filter(|(before, now)| before != now);
    differ.map(|(_, now)| now.trim().to_owned()).collect()
}

#[test]
fn recorded_manifests_change_in_their_urls_alone() {
    let body = SRS.split_once("\r\n\r\n").unwrap().1;
    let template = "<SegmentTemplate \
        initialization=\"$RepresentationID$-init.mp4?spt=TOKEN\" \
        media=\"$RepresentationID$-$Number$.m4s?spt=TOKEN\" startNumber=\"0\" timescale=\"1000\">";
    assert_eq!(changed(body), [template; 2]);
    assert_eq!(
        changed(NGINX),
        [
            "media=\"show_low-$Time$.m4v?spt=TOKEN\"",
            "initialization=\"show_low-init.m4v?spt=TOKEN\">",
            "media=\"show_low-$Time$.m4a?spt=TOKEN\"",
            "initialization=\"show_low-init.m4a?spt=TOKEN\">",
        ]
    );
    let templates = changed(FFMPEG_TEMPLATE);
    assert_eq!(templates.len(), 2);
    for template in templates {
        assert!(
            template.contains("initialization=\"init-stream$RepresentationID$.m4s?spt=TOKEN\"")
        );
        assert!(template.contains(".m4s?spt=TOKEN\" startNumber"), "{template}");
        assert!(template.contains("-$Number%05d$.m4s?spt=TOKEN\""), "{template}");
    }
    let list = changed(FFMPEG_LIST);
    assert_eq!(list.len(), 12);
    assert_eq!(list[0], "<Initialization sourceURL=\"init-stream0.m4s?spt=TOKEN\" />");
    assert_eq!(list[1], "<SegmentURL media=\"chunk-stream0-00001.m4s?spt=TOKEN\" />");
    assert_eq!(
        changed(FFMPEG_FILE),
        [
            "<BaseURL>single-stream0.mp4?spt=TOKEN</BaseURL>",
            "<BaseURL>single-stream1.mp4?spt=TOKEN</BaseURL>",
        ]
    );
}

/// Asserts what becomes of elements in a manifest.
fn assert_becomes(table: &[(&str, &str)]) {
    for (inside, expected) in table {
        let mpd = |inside| format!("<MPD>{inside}</MPD>");
        assert_eq!(rewrite(&mpd(inside), &ADDITION), Ok(mpd(expected)), "{inside}");
    }
}

/// Asserts that elements in a manifest stay as they are.
fn assert_stay(table: &[&str]) {
    assert_becomes(&table.iter().map(|inside| (*inside, *inside)).collect::<Vec<_>>());
}

#[test]
fn every_element_that_names_a_file_carries_the_parameter() {
    assert_becomes(&[
        (
            "<SegmentTemplate index='$Number$.idx' bitstreamSwitching='b.mp4'/>",
            "<SegmentTemplate index='$Number$.idx?spt=TOKEN' bitstreamSwitching='b.mp4?spt=TOKEN'/>",
        ),
        (
            "<SegmentURL media='a' index='b' mediaRange='0-1'/>",
            "<SegmentURL media='a?spt=TOKEN' index='b?spt=TOKEN' mediaRange='0-1'/>",
        ),
        (
            "<RepresentationIndex sourceURL='a'/><BitstreamSwitching sourceURL='b'/>",
            "<RepresentationIndex sourceURL='a?spt=TOKEN'/><BitstreamSwitching sourceURL='b?spt=TOKEN'/>",
        ),
        (
            "<Location>http://proxy.example:8080/a.mpd</Location><PatchLocation ttl='9'> p?a=1\n</PatchLocation>",
            "<Location>http://proxy.example:8080/a.mpd?spt=TOKEN</Location><PatchLocation ttl='9'> p?a=1&amp;spt=TOKEN\n</PatchLocation>",
        ),
        (
            "<Period x:href='p.xml' x:actuate='onLoad'/>",
            "<Period x:href='p.xml?spt=TOKEN' x:actuate='onLoad'/>",
        ),
        (
            "<d:SegmentURL  media = \"a\" ></d:SegmentURL>",
            "<d:SegmentURL  media = \"a?spt=TOKEN\" ></d:SegmentURL>",
        ),
        (
            "<SegmentURL index='a' media='a'/>",
            "<SegmentURL index='a?spt=TOKEN' media='a?spt=TOKEN'/>",
        ),
    ]);
    assert_stay(&[
        "<Period xlink:href='urn:mpeg:dash:resolve-to-zero:2013'/>",
        "<Period href='a' d:media='b'/>",
        "<S media='a'/><UTCTiming value='time'/>",
        "<!-- <SegmentURL media='a'/> --><?x <SegmentURL media='a'/>?>",
        "<![CDATA[<SegmentURL media='a'/>]]>",
        "<SegmentURL media=''/><Location/><Location></Location><Location> </Location>",
        "<SegmentURL media='http://cdn.example/a.m4s?signature=1'/>",
    ]);
}

#[test]
fn a_base_carries_it_where_it_is_a_file() {
    assert_becomes(&[
        ("<BaseURL>a.mp4</BaseURL>", "<BaseURL>a.mp4?spt=TOKEN</BaseURL>"),
        ("<BaseURL>\n a.mp4?b#c </BaseURL>", "<BaseURL>\n a.mp4?b&amp;spt=TOKEN#c </BaseURL>"),
        (
            "<BaseURL> <![CDATA[a.mp4?b=1&c=2]]></BaseURL>",
            "<BaseURL> <![CDATA[a.mp4?b=1&c=2&spt=TOKEN]]></BaseURL>",
        ),
        ("<BaseURL><![CDATA[C]]></BaseURL>", "<BaseURL><![CDATA[C?spt=TOKEN]]></BaseURL>"),
    ]);
    assert_stay(&[
        "<BaseURL>dir/</BaseURL>",
        "<BaseURL>dir/?token=1</BaseURL>",
        "<BaseURL>http://proxy.example:8080</BaseURL>",
        "<BaseURL>http://proxy.example:8080/a/</BaseURL>",
        "<BaseURL>http://cdn.example/a.mp4</BaseURL>",
        "<BaseURL>a.mp4<!-- a comment --></BaseURL>",
        "<BaseURL></BaseURL><BaseURL/>",
    ]);
}

#[test]
fn nothing_relative_to_another_host_tells_it_the_parameter() {
    let cdn = "<BaseURL>http://cdn.example/</BaseURL>";
    let here = "<BaseURL>http://proxy.example:8080/a/</BaseURL>";
    let [plain, with] = ["<SegmentURL media='a'/>", "<SegmentURL media='a?spt=TOKEN'/>"];
    let period = |inside: &str| format!("<Period>{inside}</Period>");
    for (inside, expected) in [
        (format!("{cdn}{plain}"), format!("{cdn}{plain}")),
        (format!("{cdn}{}", period(plain)), format!("{cdn}{}", period(plain))),
        (period(&format!("{cdn}{plain}")) + plain, period(&format!("{cdn}{plain}")) + with),
        (
            format!("{cdn}{}", period(&format!("{here}{plain}"))),
            format!("{cdn}{}", period(&format!("{here}{with}"))),
        ),
        (
            format!("{cdn}{}", period(&format!("<BaseURL>a/</BaseURL>{here}{plain}"))),
            format!("{cdn}{}", period(&format!("<BaseURL>a/</BaseURL>{here}{plain}"))),
        ),
        (format!("{cdn}{here}{plain}"), format!("{cdn}{here}{plain}")),
        (format!("{here}{cdn}{plain}"), format!("{here}{cdn}{plain}")),
        (
            format!("{cdn}{}", period("<BaseURL>a.mp4</BaseURL>")),
            format!("{cdn}{}", period("<BaseURL>a.mp4</BaseURL>")),
        ),
        (
            format!("{cdn}<SegmentURL media='//proxy.example:8080/a'/>"),
            format!("{cdn}<SegmentURL media='//proxy.example:8080/a?spt=TOKEN'/>"),
        ),
        (format!("<BaseURL>&cdn;</BaseURL>{plain}"), format!("<BaseURL>&cdn;</BaseURL>{plain}")),
        (format!("<BaseURL></BaseURL>{plain}"), format!("<BaseURL></BaseURL>{with}")),
    ] {
        assert_becomes(&[(&inside, &expected)]);
    }
}

#[test]
fn references_are_read_as_what_they_mean_and_stay_as_they_are() {
    assert_becomes(&[
        ("<SegmentURL media='a?b&amp;c'/>", "<SegmentURL media='a?b&amp;c&amp;spt=TOKEN'/>"),
        ("<SegmentURL media='a?b&#38;c'/>", "<SegmentURL media='a?b&#38;c&amp;spt=TOKEN'/>"),
        ("<SegmentURL media='a&#x3F;b'/>", "<SegmentURL media='a&#x3F;b&amp;spt=TOKEN'/>"),
        ("<SegmentURL media='a&#35;b'/>", "<SegmentURL media='a?spt=TOKEN&#35;b'/>"),
        (
            "<SegmentURL media='a?x&#38;spt=1&#38;y'/>",
            "<SegmentURL media='a?x&#38;spt=TOKEN&#38;y'/>",
        ),
        ("<SegmentURL media='&apos;'/>", "<SegmentURL media='&apos;?spt=TOKEN'/>"),
        (
            "<Location>a?b&amp;c&#x20;</Location>",
            "<Location>a?b&amp;c&amp;spt=TOKEN&#x20;</Location>",
        ),
    ]);
    assert_stay(&[
        "<SegmentURL media='a?b&c=1'/>",
        "<SegmentURL media='a?b&copy;'/>",
        "<SegmentURL media='http&#58;//cdn.example/a'/>",
        "<SegmentURL media='&#47;/cdn.example/a'/>",
        "<Location>a?b&c=1</Location>",
    ]);
}

#[test]
fn what_is_no_manifest_is_refused() {
    for (body, why) in [
        ("", BadMpd::NotAnMpd),
        ("text", BadMpd::NotAnMpd),
        ("<html><MPD/></html>", BadMpd::NotAnMpd),
        ("<mpd/>", BadMpd::NotAnMpd),
        ("<MPD>", BadMpd::NotXml),
        ("<MPD></Period>", BadMpd::NotXml),
        ("<MPD/><", BadMpd::NotXml),
        ("<MPD a=1/>", BadMpd::NotXml),
        ("<!DOCTYPE MPD [<!ENTITY a 'b'>]><MPD/>", BadMpd::DocumentType),
    ] {
        assert_eq!(rewrite(body, &ADDITION), Err(why), "{body}");
    }
    for body in ["<MPD/>", "\u{feff}<?xml version='1.0'?>\r\n<x:MPD>\r\n</x:MPD>\n", "<Patch/>"] {
        assert_eq!(rewrite(body, &ADDITION).as_deref(), Ok(body));
    }
    let bom = "\u{feff}<MPD><Location>a</Location></MPD>";
    assert_eq!(rewrite(bom, &ADDITION), Ok(bom.replace("a</", "a?spt=TOKEN</")));
    let two = format!("\u{feff}{bom}");
    assert_eq!(rewrite(&two, &ADDITION), Ok(two.replace("a</", "a?spt=TOKEN</")));
}

#[test]
fn a_hostile_manifest_neither_nests_nor_grows_without_end() {
    let nested = |depth: usize| {
        format!("<MPD>{}{}</MPD>", "<a>".repeat(depth - 1), "</a>".repeat(depth - 1))
    };
    assert!(rewrite(&nested(MAX_DEPTH), &ADDITION).is_ok());
    assert_eq!(rewrite(&nested(MAX_DEPTH + 1), &ADDITION), Err(BadMpd::TooDeep));
    let attributes: Vec<String> = (0..200_000).map(|n| format!(" a{n}=''")).collect();
    let wide = format!("<MPD{}/>", attributes.concat());
    assert_eq!(rewrite(&wide, &ADDITION).as_deref(), Ok(&*wide));
    let value = "v".repeat(1000);
    let addition = Addition { value: &value, ..ADDITION };
    let segments = |count| format!("<MPD>{}</MPD>", "<SegmentURL media='a'/>".repeat(count));
    assert!(rewrite(&segments(1000), &addition).is_ok());
    assert_eq!(rewrite(&segments(MAX_BYTES / 1000), &addition), Err(BadMpd::TooLong));
}

/// A part of a manifest: as it is, and as it should be.
type Part = (String, String);

fn same(text: impl Into<String>) -> Part {
    let text = text.into();
    (text.clone(), text)
}

/// An escaped URL.
fn url() -> impl Strategy<Value = Part> {
    const OURS: &[&str] = &["", "/", "../", "//proxy.example:8080/", "http://proxy.example:8080/"];
    const FOREIGN: &[&str] = &["http://cdn.example/", "//cdn.example/", "urn:x:"];
    let path = "([a-zA-Z0-9_.-]|é|&amp;|&apos;|\\$Number%05d\\$|\\$Time\\$){1,6}";
    let query = "(\\?([a-z0-9=/?:]|&amp;|&#38;|&gt;){0,8})?";
    let ours = (select(OURS), path, query, "(#[a-z0-9?]{0,5})?").prop_map(
        |(base, path, query, fragment)| {
            let mark = if query.is_empty() { "?" } else { "&amp;" };
            let with = format!("{base}{path}{query}{mark}spt=TOKEN{fragment}");
            (format!("{base}{path}{query}{fragment}"), with)
        },
    );
    let foreign = (select(FOREIGN), path, query)
        .prop_map(|(base, path, query)| same(format!("{base}{path}{query}")));
    prop_oneof![3 => ours, 1 => foreign]
}

/// An element without children that holds URLs, or text that looks like one.
fn leaf() -> impl Strategy<Value = Part> {
    const HELD: &[(&str, &str)] = &[
        ("SegmentTemplate", "media"),
        ("d:SegmentTemplate", "initialization"),
        ("SegmentURL", "media"),
        ("Initialization", "sourceURL"),
        ("RepresentationIndex", "sourceURL"),
        ("Period", "xlink:href"),
    ];
    let quote = select(&["'", "\""][..]);
    let held = (select(HELD), quote, " {1,2}|\n", "( start=\"[0-9]\")?", url(), "/>| ></>");
    let held = held.prop_map(|((element, attribute), quote, blank, other, (url, with), end)| {
        let end = end.replace("</", &format!("</{element}"));
        let tag =
            |url: &str| format!("<{element}{blank}{attribute} = {quote}{url}{quote}{other}{end}");
        (tag(&url), tag(&with))
    });
    let text = (select(&["Location", "PatchLocation"][..]), "[ \n]{0,2}", url(), "[ \n]{0,2}");
    let text = text.prop_map(|(element, before, (url, with), behind)| {
        let element = |url: &str| format!("<{element}>{before}{url}{behind}</{element}>");
        (element(&url), element(&with))
    });
    let other = prop_oneof![
        "<S t=\"[0-9]{1,4}\" d='[0-9]{1,4}' r = \"-1\"/>",
        "<!-- [a-z<='\"/ ]{0,12} -->",
        "<!\\[CDATA\\[[a-z<&='\"/ ]{0,12}\\]\\]>",
        "<\\?x [a-z<&='\" ]{0,8}\\?>",
        "<Title media=\"a\\.ts\">[a-z]{0,5}&lt;a\\.ts&#38;[a-z.]{0,5}</Title>",
        "<BaseURL>[a-z]{1,4}/(\\?[a-z]{0,3})?</BaseURL>",
        "[a-z \r\n\t]{0,5}",
    ];
    prop_oneof![2 => held, 1 => text, 3 => other.prop_map(same)]
}

fn content() -> impl Strategy<Value = Part> {
    const NESTING: &[&str] = &["Period", "AdaptationSet", "Representation", "x:SegmentList"];
    leaf().prop_recursive(4, 40, 6, |inner| {
        (select(NESTING), vec(inner, 0..6)).prop_map(|(element, parts)| {
            let (before, after): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
            let element = |parts: Vec<String>| {
                format!("<{element} id=\"1\">{}</{element}\n>", parts.concat())
            };
            (element(before), element(after))
        })
    })
}

proptest! {
    #[test]
    fn every_url_that_comes_back_has_the_parameter_and_no_other_byte_differs(
        start in "\u{feff}?(<\\?xml version=\"1\\.0\"\\?>\r?\n)?<(a:)?MPD",
        parts in vec(content(), 0..8),
    ) {
        let name = if start.contains("a:") { "a:MPD" } else { "MPD" };
        let (before, after): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let mpd = |parts: &[String]| {
            format!("{start} xmlns='urn:mpeg:dash:schema:mpd:2011'>{}</{name}>\n", parts.concat())
        };
        prop_assert_eq!(rewrite(&mpd(&before), &ADDITION), Ok(mpd(&after)));
        prop_assert_eq!(rewrite(&mpd(&after), &ADDITION), Ok(mpd(&after)), "rewritten twice");
    }

    #[test]
    fn no_text_brings_the_rewriter_down(
        text in "(<MPD>)?([ -~]|<BaseURL>|</BaseURL>|<SegmentURL media='|<!\\[CDATA\\[|é|&amp;){0,40}(</MPD>)?",
    ) {
        if let Ok(rewritten) = rewrite(&text, &ADDITION) {
            prop_assert_eq!(elements(&rewritten), elements(&text));
            prop_assert_eq!(rewrite(&rewritten, &ADDITION), Ok(rewritten), "rewritten twice");
        }
    }
}

/// How many elements begin and end.
fn elements(mpd: &str) -> (usize, usize) {
    let mut reader = Reader::from_str(mpd);
    reader.config_mut().allow_dangling_amp = true;
    let (mut starts, mut ends) = (0, 0);
    loop {
        match reader.read_event().unwrap() {
            Event::Start(_) => starts += 1,
            Event::Empty(_) => ends += 1,
            Event::Eof => return (starts, ends),
            _ => {}
        }
    }
}
