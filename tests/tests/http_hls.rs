//! HLS and MPEG-DASH through the proxy: playlists, segments, and which origin they come from.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::cluster::Cluster;
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::nginx::Nginx;
use srs_proxy_tests::packets::Kind;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::raw::{Client, Origin, Request, Response, behind_a_proxy, files};
use srs_proxy_tests::{story, usage, wait};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(30);

#[test]
fn ffmpeg_plays_rtmp_hls_and_dash_of_one_stream_from_its_own_origin() -> Result<()> {
    story(|folder| {
        let (mut cluster, _publisher, home) = Cluster::start_with(folder, "show")?;
        let rtmp = cluster.proxy.url("show");
        let files = ["live/show.m3u8", "live/show.mpd"];
        for file in files {
            cluster.origin(home)?.wait_for(&format!("/{file}"))?;
        }
        let [hls, dash] = files.map(|file| cluster.proxy.http_url(file));
        let mut players = Vec::new();
        for (name, url) in [("rtmp", &rtmp), ("hls", &hls), ("dash", &dash)] {
            players.push((name, ffmpeg::play(folder, name, url, Some(6))?));
        }
        for (name, player) in players {
            let packets = player.finish(A_WHILE)?;
            for kind in [Kind::Video, Kind::Audio] {
                let count = packets.of(kind).len();
                assert!(count > 120, "{name}: {count} {kind:?} packets in 6 s");
            }
        }
        let other = cluster.origin(1 - home)?.log();
        assert!(!other.contains("/live/show"), "the other origin was asked as well: {other}");
        Ok(())
    })
}

/// Pieces that are byte ranges of one file, its init segment among them; and segments that need a
/// key. Each is fetched by a URI with a token, which the origin does not see.
#[test]
fn ffmpeg_plays_every_packet_of_fragmented_mp4_and_of_encrypted_segments() -> Result<()> {
    story(|folder| {
        fs::write(folder.join("secret.key"), "sixteen letters.")?;
        fs::write(folder.join("keys"), "secret.key\nsecret.key\n")?;
        let hls = |file: &str, options: &[&str]| {
            let common = ["-f", "hls", "-hls_time", "2", "-hls_list_size", "0"];
            ffmpeg::pack(folder, &[&common, options].concat(), file)
        };
        hls("ranges.m3u8", &["-hls_segment_type", "fmp4", "-hls_flags", "single_file"])?;
        hls("secret.m3u8", &["-hls_key_info_file", "keys"])?;
        ffmpeg::pack(folder, &["-f", "mpegts"], "plain.ts")?;
        let plain = folder.join("plain.ts");
        let plain = ffmpeg::play(folder, "plain", &plain.to_string_lossy(), None)?;
        let (proxy, origin) = behind_a_proxy(folder, &[], files(folder))?;
        for (name, source, mark, fetched) in [
            ("ranges", ffmpeg::fixture_packets(folder)?, "EXT-X-MAP", &["ranges.m4s"][..]),
            ("secret", plain.finish(A_WHILE)?, "EXT-X-KEY", &["secret.key", "secret5.ts"]),
        ] {
            let target = format!("/live/{name}.m3u8");
            let before = origin.count();
            let player = ffmpeg::play(folder, name, &proxy.http_url(&target[1..]), None)?;
            let packets = player.finish(A_WHILE)?;
            packets.must_be_a_part_of(&source, 300).context(name)?;
            assert!(packets == source, "{name}: not all of the packets");

            let log = fs::read_to_string(folder.join(format!("{name}.log")))?;
            let asked = log.lines().filter(|line| line.contains("http://"));
            let pieces: Vec<_> = asked.filter(|line| !line.contains(&target)).collect();
            assert!(pieces.len() >= 6, "{pieces:?}");
            for line in pieces {
                assert!(line.contains("?spt="), "without a token: {line}");
            }
            let requests = origin.requests().split_off(before);
            let targets: Vec<_> = requests.iter().map(Request::target).collect();
            assert!(targets.iter().all(|it| !it.contains('?')), "{targets:?}");
            for file in fetched {
                let file = format!("/live/{file}");
                assert!(targets.contains(&file.as_str()), "{file} is not among {targets:?}");
            }
            let text = Client::connect(proxy.http())?.get(&target)?.text();
            assert!(text.contains(mark), "{text}");
        }
        Ok(())
    })
}

#[test]
fn segments_and_init_segments_are_the_origin_s_byte_for_byte() -> Result<()> {
    story(|folder| {
        let (mut cluster, _publisher, home) = Cluster::start_with(folder, "show")?;
        let origin = cluster.origin(home)?;
        let mut direct = Client::connect(origin.http())?;
        origin.wait_for("/live/show.m3u8")?;
        origin.wait_for("/live/show.mpd")?;

        let mut client = Client::connect(cluster.proxy.http())?;
        let playlist = client.get("/live/show.m3u8")?;
        let uris = uris(&playlist.text());
        assert!(uris.len() >= 3, "{}", playlist.text());
        let mpd = client.get("/live/show.mpd")?;
        assert_eq!(mpd.head.field("content-type"), Some("application/dash+xml"));
        let dash = ["initialization", "media"].map(|name| attribute(&mpd.text(), name));
        let mut targets: Vec<_> = uris.iter().map(|uri| resolve("/live/show.m3u8", uri)).collect();
        for uris in dash {
            ensure!(uris.len() == 2, "two templates: {}", mpd.text());
            let uris = uris.iter().map(|uri| resolve("/live/show.mpd", uri));
            targets.extend(uris.map(|uri| uri.replace("$Time$", "0")));
        }
        for target in targets {
            ensure!(target.contains("spt="), "no token: {target}");
            let through = client.get(&target)?;
            let straight = direct.get(&without_token(&target))?;
            assert_eq!(through.status(), 200, "{target}");
            assert!(through.body == straight.body, "{target}: other bytes than the origin's");
            for name in ["content-type", "etag", "last-modified", "accept-ranges"] {
                assert_eq!(through.head.all(name), straight.head.all(name), "{target}: {name}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_stream_with_a_folder_of_its_own_is_played() -> Result<()> {
    story(|folder| {
        let origin = Nginx::start(folder, "a")?;
        let proxy = Proxy::start(folder, &[])?;
        origin.register_at(proxy.system_api())?;
        let url = format!("rtmp://{}/nested/show", proxy.rtmp());
        let _publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        let mut players = Vec::new();
        for file in ["nested/show/index.m3u8", "nested/show/index.mpd"] {
            origin.wait_for(&format!("/{file}"))?;
            let name = file.replace('/', "-");
            players.push(ffmpeg::play(folder, &name, &proxy.http_url(file), Some(4))?);
        }
        for player in players {
            let count = player.finish(A_WHILE)?.of(Kind::Video).len();
            assert!(count > 75, "{count} pictures in 4 s");
        }
        Ok(())
    })
}

#[test]
fn nothing_of_a_playlist_changes_but_the_token_in_each_uri() -> Result<()> {
    const PLAYLIST: &str = "#EXTM3U\r\n#EXT-X-VERSION:9\n\
        ## a remark with https://example.com/a.ts and URI=\"no.ts\"\n\
        #EXT-X-KEY:METHOD=AES-128,URI=\"key?id=1\",IV=0x00\n\
        #EXT-X-MAP:URI=\"/live/show-init.mp4\",BYTERANGE=\"100@0\"\n\
        #EXTINF:2.000,a title, with show-9.ts in it\n\
        #EXT-X-BYTERANGE:75232@0\nshow-0.m4s\n\
        #EXTINF:2.000,\n/live/show-1.m4s?hls_ctx=abc\n\
        #EXTINF:2,\nshow%20two.m4s\n\
        #EXT-X-PART:DURATION=0.33,URI=\"show-2.0.m4s\",INDEPENDENT=YES\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"show-2.1.m4s\"\n\
        #EXT-X-RENDITION-REPORT:URI=\"../live/other.m3u8\",LAST-MSN=2\n\
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"URI=x\",URI=\"audio.m3u8\"\n\
        #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"fast.m3u8\"\n\n\
        #EXT-X-ENDLIST";
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |_, exchange| {
            let lines =
                "Content-Type: application/vnd.apple.mpegurl\r\nCache-Control: no-cache\r\n";
            exchange.answer("200 OK", lines, PLAYLIST)
        })?;
        let mut client = Client::connect(proxy.http())?;
        let answer = client.get("/live/show.m3u8")?;
        let text = answer.text();
        assert_eq!(without_token(&text), PLAYLIST);
        let uris = uris(&text);
        assert_eq!(uris.len(), 10, "{uris:?}");
        for uri in &uris {
            assert_eq!(uri.matches("spt=").count(), 1, "{uri}");
            assert_eq!(uri.matches('?').count(), 1, "{uri}");
        }
        let kind = answer.head.field("content-type");
        assert_eq!(kind, Some("application/vnd.apple.mpegurl"));
        assert_eq!(answer.head.field("cache-control"), Some("no-cache"));

        // The next request has the same form as the URI of the playlist, less the token.
        for uri in uris {
            let target = resolve("/live/show.m3u8", &uri);
            client.get(&target)?;
            let seen = origin.requests().pop().context("a request at the origin")?;
            let expected = without_token(&target);
            assert_eq!(seen.target(), expected);
        }
        // HEAD gives the same head, and no body that would be taken for the next answer.
        let head = client.request("HEAD", "/live/show.m3u8", "")?;
        assert_eq!((head.status(), head.head.field("content-type")), (200, kind));
        assert_eq!(client.get("/live/show.m3u8")?.status(), 200);
        Ok(())
    })
}

#[test]
fn what_srs_answers_is_played_on_from_playlist_to_playlist_to_segment() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            exchange.close();
            let recorded: &[u8] = match request.target() {
                "/live/livestream.m3u8" => include_bytes!("../fixtures/http/hls-master.http"),
                "/live/livestream.mpd" => include_bytes!("../fixtures/http/dash.http"),
                target if target.contains(".m3u8?hls_ctx=9ed7l37i") => {
                    include_bytes!("../fixtures/http/hls-media.http")
                }
                target => return exchange.answer("200 OK", "", target),
            };
            exchange.send(recorded)
        })?;
        let mut client = Client::connect(proxy.http())?;
        let master = client.get("/live/livestream.m3u8")?;
        assert_eq!(master.head.field("server"), Some("SRS/7.0.18(Hang)"));
        let [variant] = &uris(&master.text())[..] else { panic!("{}", master.text()) };
        assert!(variant.starts_with("/live/livestream.m3u8?hls_ctx=9ed7l37i&spt="), "{variant}");
        let media = client.get(variant)?;
        let recorded = include_str!("../fixtures/http/hls-media.http");
        assert!(recorded.ends_with(&without_token(&media.text())), "{}", media.text());
        let segments = uris(&media.text());
        assert_eq!(segments.len(), 3);
        for (place, segment) in segments.iter().enumerate() {
            let answer = client.get(&resolve(variant, segment))?;
            let target = format!("/live/livestream-{place}.ts?hls_ctx=9ed7l37i");
            assert_eq!(answer.text(), target, "what the origin was asked for");
        }

        let mpd = client.get("/live/livestream.mpd")?.text();
        let recorded = include_str!("../fixtures/http/dash.http");
        assert!(recorded.ends_with(&without_token(&mpd)), "{mpd}");
        for template in ["initialization", "media"].iter().flat_map(|it| attribute(&mpd, it)) {
            assert_eq!(template.matches("?spt=").count(), 1, "{template}");
            let name = template.replace("$RepresentationID$", "video").replace("$Number$", "1");
            let answer = client.get(&format!("/live/livestream/{name}"))?;
            assert_eq!(answer.text(), without_token(&format!("/live/livestream/{name}")));
        }
        let plain = origin.requests().iter().all(|it| !it.target().contains("spt="));
        assert!(plain, "the token is nothing to the origin");
        Ok(())
    })
}

/// Two origins that answer each request with their name, and playlists that list one segment.
fn named_origins() -> Result<[Origin; 2]> {
    let origin = |name: &'static str| {
        Origin::start(move |request, exchange| match request.path().strip_suffix(".m3u8") {
            Some(stream) => {
                let lines = format!("Content-Type: application/x-mpegURL\r\nX-Name: {name}\r\n");
                exchange.answer("200 OK", &lines, format!("#EXTM3U\n#EXTINF:2,\n{stream}-0.ts\n"))
            }
            None => exchange.answer("200 OK", &format!("X-Name: {name}\r\n"), ""),
        })
    };
    Ok([origin("a")?, origin("b")?])
}

/// A proxy whose own choice of an origin is nobody else's.
fn start(folder: &Path, name: &str, secret: &str, origins: &[Origin]) -> Result<Proxy> {
    let variables = [("PROXY_SECRET", secret), ("PROXY_BALANCER_POLICY", "random")];
    let proxy = Proxy::start_named(folder, name, &variables)?;
    for (origin, name) in origins.iter().zip(["a", "b"]) {
        origin.register_at(proxy.system_api(), name)?;
    }
    Ok(proxy)
}

fn name(answer: &Response) -> Result<String> {
    let name = answer.head.field("x-name").with_context(|| answer.head.line.clone())?;
    Ok(name.to_owned())
}

/// For each of 16 streams, its name, the origin of its playlist and the segment's URI there.
fn playlists(proxy: &Proxy) -> Result<Vec<(String, String, String)>> {
    let mut client = Client::connect(proxy.http())?;
    let streams = (0..16).map(|n| {
        let stream = format!("stream{n}");
        let answer = client.get(&format!("/live/{stream}.m3u8"))?;
        let uri = uris(&answer.text()).pop().context("a segment")?;
        Ok((stream, name(&answer)?, uri))
    });
    streams.collect()
}

#[test]
fn a_token_leads_any_proxy_of_the_fleet_to_the_right_origin() -> Result<()> {
    story(|folder| {
        let origins = named_origins()?;
        let secret = "one secret for the whole fleet";
        let first = start(folder, "first", secret, &origins)?;
        let second = start(folder, "second", secret, &origins)?;
        let streams = playlists(&first)?;
        let mut client = Client::connect(second.http())?;
        for (stream, home, segment) in &streams {
            assert_eq!(&name(&client.get(segment)?)?, home, "{stream} at the second proxy");
        }
        Ok(())
    })
}

#[test]
fn a_segment_without_a_good_token_is_where_its_stream_is() -> Result<()> {
    story(|folder| {
        let origins = named_origins()?;
        let proxy = start(folder, "proxy", "the secret of this proxy", &origins)?;
        let stranger = start(folder, "stranger", "quite another secret", &origins)?;
        let forged = playlists(&stranger)?;
        for ((stream, home, segment), (_, _, forged)) in playlists(&proxy)?.iter().zip(&forged) {
            let mut garbled = segment.clone();
            let last = garbled.pop().context("a token")?;
            garbled.push(if last == 'A' { 'Q' } else { 'A' });
            let path = format!("/live/{stream}-0.ts");
            for target in [
                path.clone(),
                format!("{path}?spt="),
                format!("{path}?spt=%00%ff&a=b"),
                format!("{path}?spt={}", "A".repeat(4000)),
                format!("{path}?spt=a&spt=b"),
                garbled,
                forged.clone(),
            ] {
                let answer = Client::connect(proxy.http())?.get(&target)?;
                assert_eq!((answer.status(), &name(&answer)?), (200, home), "{target}");
            }
        }
        Ok(())
    })
}

#[test]
fn ranges_and_conditions_are_the_origin_s_business() -> Result<()> {
    story(|folder| {
        let (mut cluster, _publisher, home) = Cluster::start_with(folder, "show")?;
        let origin = cluster.origin(home)?;
        origin.wait_for("/live/show.m3u8")?;
        let target = "/live/show-0.ts";
        let whole = Client::connect(origin.http())?.get(target)?;
        let etag = whole.head.field("etag").context("an ETag")?;
        let date = whole.head.field("last-modified").context("a date")?;
        let size = whole.body.len();

        let mut client = Client::connect(cluster.proxy.http())?;
        for (lines, status, range, body) in [
            ("Range: bytes=188-375".to_owned(), 206, format!("bytes 188-375/{size}"), 188..376),
            (
                "Range: bytes=-188".to_owned(),
                206,
                format!("bytes {}-{}/{size}", size - 188, size - 1),
                size - 188..size,
            ),
            (format!("Range: bytes={size}-"), 416, format!("bytes */{size}"), 0..0),
            (format!("If-None-Match: {etag}"), 304, String::new(), 0..0),
            (format!("If-Modified-Since: {date}"), 304, String::new(), 0..0),
            ("If-None-Match: \"other\"".to_owned(), 200, String::new(), 0..size),
            ("If-Match: \"other\"".to_owned(), 412, String::new(), 0..0),
            ("If-Range: \"other\"\r\nRange: bytes=0-1".to_owned(), 200, String::new(), 0..size),
        ] {
            let answer = client.request("GET", target, &format!("{lines}\r\n"))?;
            assert_eq!(answer.status(), status, "{lines}");
            assert_eq!(answer.head.field("content-range").unwrap_or_default(), range, "{lines}");
            if status < 300 {
                assert!(answer.body == whole.body[body], "{lines}: other bytes");
            }
            if status == 304 {
                assert_eq!(answer.head.field("etag"), Some(etag), "{lines}");
            }
        }
        Ok(())
    })
}

/// A playlist with the segment `show-0.ts`, compressed by gzip.
const GZIP: &str = "1f8b080000000000020353768d08f1350ee55206d2ba11ba218e41eeae212ea1418e219efe7e5646\
                    60714f3f372b231daee28cfc725d03bd92622e00cfe7a4c935000000";

#[test]
fn compressed_bodies_pass_as_they_are() -> Result<()> {
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], |request, exchange| {
            let lines = "Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n";
            match request.path() {
                "/live/polite.m3u8" => exchange.answer("200 OK", "", "#EXTM3U\nshow-0.ts\n"),
                _ => exchange.answer("200 OK", lines, gzip()),
            }
        })?;
        let mut client = Client::connect(proxy.http())?;
        let accept = "Accept-Encoding: gzip, br\r\n";
        for target in ["/live/show-0.ts", "/live/show-0.vtt", "/live/show.flv"] {
            let answer = client.request("GET", target, accept)?;
            assert_eq!(answer.head.field("content-encoding"), Some("gzip"), "{target}");
            assert!(answer.body == gzip(), "{target}");
            let request = origin.requests().pop().context("a request")?;
            assert_eq!(request.head.field("accept-encoding"), Some("gzip, br"), "{target}");
        }
        let polite = client.request("GET", "/live/polite.m3u8", accept)?;
        assert!(polite.text().contains("show-0.ts?spt="), "{}", polite.text());
        let request = origin.requests().pop().context("a request")?;
        let accepted = request.head.all("accept-encoding").concat();
        assert!(!accepted.contains("gzip") && !accepted.contains("br"), "{accepted}");
        // From who compresses a playlist all the same it comes uncompressed, with its tokens.
        let rude = client.request("GET", "/live/rude.m3u8", accept)?;
        assert_eq!((rude.status(), rude.head.field("content-encoding")), (200, None));
        assert!(rude.text().contains("?spt="), "{}", rude.text());
        Ok(())
    })
}

#[test]
fn a_playlist_has_a_largest_size() -> Result<()> {
    const LINE: &str = "#EXTINF:2.000,\nshow-0000000000.ts\n";
    story(|folder| {
        let (proxy, _origin) = behind_a_proxy(folder, &[], |request, exchange| {
            let lines = |bytes: usize| format!("#EXTM3U\n{}", LINE.repeat(bytes / LINE.len()));
            match request.path() {
                "/live/large.m3u8" => exchange.answer("200 OK", "", lines(2_000_000)),
                "/live/larger.m3u8" => exchange.answer("200 OK", "", lines(2_200_000)),
                _ => {
                    exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                    let text = lines(60_000);
                    loop {
                        exchange.send(format!("{:x}\r\n{text}\r\n", text.len()))?;
                    }
                }
            }
        })?;
        let large = Client::connect(proxy.http())?.get("/live/large.m3u8")?;
        assert_eq!((large.status(), uris(&large.text()).len()), (200, 2_000_000 / LINE.len()));
        let memory = usage::memory(proxy.process.id())?;
        for _ in 0..5 {
            for target in ["/live/larger.m3u8", "/live/endless.m3u8", "/live/endless.mpd"] {
                let answer = Client::connect(proxy.http())?.get(target)?;
                assert_eq!(answer.status(), 502, "{target}");
                assert!(answer.body.len() < 200, "{target}: {}", answer.text());
            }
        }
        let grown = usage::memory(proxy.process.id())?.saturating_sub(memory);
        assert!(grown < 16 << 20, "15 playlists that are too large left {grown} bytes");
        Ok(())
    })
}

#[test]
fn a_blocking_reload_waits_at_the_origin_and_nobody_behind_it() -> Result<()> {
    story(|folder| {
        let published = Arc::new(AtomicBool::default());
        let is_published = Arc::clone(&published);
        let limit = Duration::from_secs(5);
        let variables = [("PROXY_HTTP_ORIGIN_TIMEOUT", "5s")];
        let (proxy, origin) = behind_a_proxy(folder, &variables, move |request, exchange| {
            if request.target().contains("_HLS_msn=7") {
                exchange.hold(|| is_published.load(Ordering::Relaxed))?;
            }
            let text = format!("#EXTM3U\n#EXT-X-PART:DURATION=1,URI=\"{}.mp4\"\n", request.path());
            exchange.answer("200 OK", "", text)
        })?;
        let target = "/live/show.m3u8?_HLS_msn=7&_HLS_part=2&_HLS_skip=YES";
        let wait_at_origin = |count: usize| -> Result<Vec<Client>> {
            let players = (0..count).map(|_| {
                let mut player = Client::connect(proxy.http())?;
                player.ask("GET", target, "")?;
                Ok(player)
            });
            players.collect()
        };
        // Who has closed may have closed the sending side alone, and still listen: the origin is
        // kept waiting as long as for anybody.
        let asked = Instant::now();
        let leavers = wait_at_origin(10)?;
        wait::until_true("they are held", SOON, || Ok(origin.count() == 10))?;
        drop(leavers);
        let first = wait::until("the origin is told of an end", SOON, || {
            Ok((origin.open() < 10).then(|| asked.elapsed()))
        })?;
        assert!(first >= limit, "let go after {first:?}, before the time was over");
        wait::until_true("all time out", SOON, || {
            let labels = [("kind", "playlist"), ("status", "5xx")];
            Ok(origin.open() == 0
                && proxy.metric("srs_proxy_http_requests_total", &labels)? == 10
                && proxy.sessions()?.is_empty())
        })?;

        let stayers = wait_at_origin(10)?;
        wait::until_true("they are held", SOON, || Ok(origin.count() == 20))?;
        let mut other = Client::connect(proxy.http())?;
        assert_eq!(other.get("/live/show.m3u8?_HLS_msn=6")?.status(), 200);
        published.store(true, Ordering::Relaxed);
        for mut player in stayers {
            let text = player.answer("GET")?.text();
            assert!(text.contains(".mp4?spt="), "{text}");
        }
        assert_eq!(origin.requests()[15].target(), target);
        Ok(())
    })
}

/// What a player would ask for: the lines that are no tags, and the URI attributes of tags.
fn uris(playlist: &str) -> Vec<String> {
    let mut uris = Vec::new();
    for line in playlist.lines().filter(|line| !line.is_empty() && !line.starts_with("##")) {
        let uri = match line.strip_prefix('#') {
            None => Some(line),
            Some(tag) => tag
                .split_once(",URI=\"")
                .or_else(|| tag.split_once(":URI=\""))
                .and_then(|(_, rest)| rest.split('"').next()),
        };
        uris.extend(uri.map(str::to_owned));
    }
    uris
}

/// Values of an XML attribute, with their entities resolved.
fn attribute(xml: &str, name: &str) -> Vec<String> {
    let mark = format!("{name}=\"");
    let values = xml.split(mark.as_str()).skip(1).filter_map(|rest| rest.split('"').next());
    values.map(|value| value.replace("&amp;", "&")).collect()
}

/// The target that a URI of the playlist at `base` means.
fn resolve(base: &str, uri: &str) -> String {
    if uri.starts_with('/') {
        return uri.to_owned();
    }
    let path = base.split('?').next().unwrap_or_default();
    let folder = path.rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default();
    match uri.strip_prefix("../") {
        Some(uri) => resolve(folder, uri),
        None => format!("{folder}/{uri}"),
    }
}

/// The text as it was before tokens were put into its URIs, each as the last parameter.
fn without_token(text: &str) -> String {
    let mut parts = text.split("spt=");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // `?` or `&`, in XML perhaps `&amp;`.
        let end = plain.trim_end_matches("amp;").len();
        plain.truncate(end);
        plain.pop();
        let after = part.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.~".contains(c));
        plain.push_str(after.and_then(|after| part.get(after..)).unwrap_or_default());
    }
    plain
}

fn gzip() -> Vec<u8> {
    let digits = GZIP.as_bytes().chunks(2).filter_map(|two| std::str::from_utf8(two).ok());
    digits.filter_map(|two| u8::from_str_radix(two, 16).ok()).collect()
}
