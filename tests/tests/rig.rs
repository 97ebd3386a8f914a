//! The rig is trusted only as far as it is seen to work: FFmpeg and the scripted peers meet
//! nginx, and each other, with no proxy between them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use srs_proxy_tests::browser::Browser;
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::lossy::Lossy;
use srs_proxy_tests::nginx::Nginx;
use srs_proxy_tests::nms::Nms;
use srs_proxy_tests::packets::Kind;
use srs_proxy_tests::raw::live::{self, SEGMENT};
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::srt::{self, End, Peer};
use srs_proxy_tests::whip::{self, Manner, Role};
use srs_proxy_tests::{aiortc, ports, raw, rtc, story, usage, wait};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn ffmpeg_gets_from_nginx_the_packets_that_ffmpeg_sent() -> Result<()> {
    story(|folder| {
        let source = ffmpeg::fixture_packets(folder)?;
        let origin = Nginx::start(folder, "a")?;
        let url = origin.url("direct");
        let mut publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        wait::until_true("the origin has the stream", SOON, || origin.has_publisher("direct"))?;
        let player = ffmpeg::play(folder, "player", &url, Some(3))?;
        player.finish(Duration::from_secs(15))?.must_be_a_part_of(&source, 50)?;
        publisher.kill()?;
        wait::until_true(
            "the origin lost the stream",
            SOON,
            || Ok(!origin.has_publisher("direct")?),
        )
    })
}

#[test]
fn scripted_clients_publish_to_nginx_and_play_from_it() -> Result<()> {
    story(|folder| {
        let origin = Nginx::start(folder, "a")?;
        let mut publisher = Client::publish(origin.rtmp(), "scripted")?;
        let mut player = Client::play(origin.rtmp(), "scripted")?;
        let mut second = Client::connect(origin.rtmp())?;
        second.ask_to_publish("scripted")?;
        let refusal = second.status()?;
        assert_eq!(refusal.code, "NetStream.Publish.BadName", "{refusal}");
        for _ in 0..10 {
            publisher.send_video(10_000)?;
        }
        player.read_bytes(100_000)
    })
}

#[test]
fn scripted_peers_understand_each_other() -> Result<()> {
    let bulk = Origin::start(Script::Serve(Feed::Bulk))?;
    Client::play(bulk.address(), "any")?.read_bytes(10_000_000)?;

    let paced = Origin::start(Script::Serve(Feed::Paced(4_000_000)))?;
    let mut player = Client::play(paced.address(), "any")?;
    let (bytes, open) = player.watch(Instant::now() + Duration::from_secs(2))?;
    assert!(open, "a paced player is fed for ever");
    assert!((800_000..1_200_000).contains(&bytes), "{bytes} bytes in 2 s at 4 Mb/s");
    let mut publisher = Client::publish(paced.address(), "any")?;
    publisher.send_video(5000)?;
    wait::until_true("the origin got it", SOON, || Ok(paced.received() >= 5000))?;
    drop(paced);
    player.must_be_closed_within(SOON)?;

    let strict = Origin::start(Script::Refuse("NetStream.Publish.BadName", "not you"))?;
    let mut refused = Client::connect(strict.address())?;
    refused.ask_to_publish("any")?;
    assert_eq!(refused.status()?.description, "not you");
    refused.must_be_closed_within(SOON)
}

#[test]
fn the_browser_opens_a_page_runs_its_script_and_shows_it() -> Result<()> {
    story(|folder| {
        let mut browser = Browser::start(folder, "browser")?;
        let page = "data:text/html,<title>page</title><script>var n = 40</script>";
        browser.open(page)?;
        assert_eq!(browser.evaluate("[document.title, n + 2]")?, json!(["page", 42]));
        let later = "new Promise(done => setTimeout(() => done('later'), 50))";
        assert_eq!(browser.evaluate(later)?, "later");
        let error = browser.evaluate("nothing.at.all").expect_err("a name that is none");
        assert!(error.to_string().contains("nothing is not defined"), "{error}");
        assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
        browser.open("data:text/html,<script>throw new Error('broken page')</script>")?;
        let complaints = browser.complaints().join("");
        assert!(complaints.contains("broken page"), "{complaints}");
        let camera = "<video id=video autoplay muted></video><script>navigator.mediaDevices\
            .getUserMedia({video: true}).then(camera => video.srcObject = camera)\
            .catch(error => document.body.append(error))</script>";
        fs::write(folder.join("camera.html"), camera)?;
        let page = format!("file://{}", folder.join("camera.html").display());
        browser.play(&page, 0.5, SOON)?;
        browser.resize(320, 200)?;
        let picture = folder.join("page.png");
        browser.screenshot(&picture)?;
        // PNG 11.2.2: width and height follow the first chunk's name.
        let picture = fs::read(picture)?;
        assert_eq!(picture.get(16..24), Some([0, 0, 1, 64, 0, 0, 0, 200].as_slice()));
        assert!(browser.open("http://127.0.0.1:1/").is_err(), "nobody listens there");
        Ok(())
    })
}

#[test]
fn node_media_server_gives_the_packets_that_were_published() -> Result<()> {
    story(|folder| {
        let source = ffmpeg::fixture_packets(folder)?;
        let origin = Nms::start(folder, "nms")?;
        let flv = format!("http://{}/live/show.flv", origin.http());
        // It holds its answer until the publisher is there.
        let early = ffmpeg::play(folder, "early", &flv, Some(3))?;
        wait::until_true("a player waits", SOON, || Ok(origin.log().contains("not found")))?;
        let url = origin.url("show");
        let _publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        early.finish(Duration::from_secs(15))?.must_be_a_part_of(&source, 50)?;
        assert!(origin.has_publisher("show")?, "the origin has the stream");

        let mut player = ffmpeg::play(folder, "player", &flv, None)?;
        let mut rtmp = ffmpeg::play(folder, "rtmp", &url, None)?;
        wait::until_true("both are counted", SOON, || {
            let mut players = origin.players("show")?;
            players.sort();
            Ok(players == ["http", "rtmp"])
        })?;
        player.process().kill()?;
        rtmp.process().kill()?;
        wait::until_true("both are gone", SOON, || Ok(origin.players("show")?.is_empty()))
    })
}

#[test]
fn ffmpeg_plays_what_nginx_serves_as_hls_and_dash() -> Result<()> {
    story(|folder| {
        let origin = Nginx::start(folder, "a")?;
        let (rtmp, http) = (origin.rtmp(), origin.http());
        let mut publishers = Vec::new();
        for app in ["live", "nested"] {
            let url = format!("rtmp://{rtmp}/{app}/show");
            publishers.push(ffmpeg::publish(folder, app, Source::FixtureForEver, &url)?);
        }
        let mut players = Vec::new();
        for file in ["live/show.m3u8", "live/show.mpd", "nested/show/index.m3u8"] {
            origin.wait_for(&format!("/{file}"))?;
            let name = file.replace('/', "-");
            players.push(ffmpeg::play(folder, &name, &format!("http://{http}/{file}"), Some(3))?);
        }
        for player in players {
            let packets = player.finish(Duration::from_secs(30))?;
            for kind in [Kind::Video, Kind::Audio] {
                let count = packets.of(kind).len();
                assert!(count >= 50, "{count} {kind:?} packets in 3 s");
            }
        }
        let mut client = raw::Client::connect(http)?;
        let segment = client.get("/live/show-0.ts")?;
        assert_eq!(segment.head.field("content-type"), Some("video/mp2t"));
        let part = client.request("GET", "/live/show-0.ts", "Range: bytes=188-375\r\n")?;
        assert_eq!((part.status(), &part.body[..]), (206, &segment.body[188..376]));
        Ok(())
    })
}

#[test]
fn raw_peers_understand_each_other() -> Result<()> {
    let origin = raw::Origin::start(|request, exchange| match request.path() {
        "/chunks" => {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            exchange.send("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n")
        }
        "/close" => {
            exchange.close();
            exchange.send("HTTP/1.1 200 OK\r\n\r\nuntil the end")
        }
        "/hold" => exchange.hold(|| false),
        _ => exchange.answer("200 OK", "X: 1\r\n", &request.body),
    })?;
    let mut client = raw::Client::connect(origin.address())?;
    client.send("POST /echo?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nyes")?;
    let echo = client.answer("POST")?;
    assert_eq!(
        (echo.status(), echo.text().as_str(), echo.head.field("x")),
        (200, "yes", Some("1"))
    );
    assert_eq!(client.get("/chunks")?.text(), "abcde");
    assert_eq!(client.request("HEAD", "/any", "")?.head.field("content-length"), Some("0"));
    // Two at once, answered in order.
    client.send("GET /chunks HTTP/1.1\r\n\r\nGET /close HTTP/1.1\r\n\r\n")?;
    assert_eq!(client.answer("GET")?.text(), "abcde");
    assert_eq!(client.answer("GET")?.text(), "until the end");
    client.must_be_closed_within(SOON)?;
    let requests = origin.requests();
    let places: Vec<_> = requests.iter().map(|it| (it.connection, it.place)).collect();
    assert_eq!(places, [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]);
    assert_eq!((requests[0].target(), requests[0].path()), ("/echo?a=b", "/echo"));

    let mut gone = raw::Client::connect(origin.address())?;
    gone.ask("GET", "/hold", "")?;
    wait::until_true("it is held", SOON, || Ok(origin.open() == 1 && origin.count() == 6))?;
    drop(gone);
    wait::until_true("its end is seen", SOON, || Ok(origin.open() == 0))?;

    let mut odd = raw::Client::connect(origin.address())?;
    odd.send("GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    odd.must_be_closed_within(SOON)?;
    assert_eq!(origin.faults().len(), 1, "{:?}", origin.faults());
    assert_eq!((origin.accepted(), origin.count()), (3, 6));
    Ok(())
}

#[test]
fn aiortc_publishes_to_itself_and_plays_from_itself() -> Result<()> {
    story(|folder| {
        let origin = aiortc::Origin::start(folder, "origin")?;
        let start = |name, role| aiortc::Client::start(folder, name, origin.http(), role, "show");
        // As with SRS, who comes before the publisher waits for him.
        let early = start("early", Role::Play)?;
        let publisher = start("publisher", Role::Publish)?;
        let late = start("late", Role::Play)?;
        early.must_go_on_for(20, 2 * SOON)?;
        late.must_go_on_for(20, 2 * SOON)?;
        assert_eq!(late.state(), "connected");
        assert_eq!(late.counters().lost.get("video"), Some(&0), "{:?}", late.counters());
        assert_eq!(origin.sessions()?.len(), 3);
        assert_eq!(late.delete()?, 200);
        early.hang_up()?;
        wait::until_true("both players have left", SOON, || Ok(origin.sessions()?.len() == 1))?;
        publisher.must_go_on_for(20, SOON)?;
        publisher.vanish()
    })
}

#[test]
fn str0m_counts_every_packet_that_moves_and_restarts_ice() -> Result<()> {
    let origin = rtc::Origin::start()?;
    let server = origin.http();
    let publisher = rtc::Client::publish(server, "show", 200)?;
    let player = rtc::Client::play(server, "show")?;
    for client in [&publisher, &player] {
        client.must_connect_within(SOON)?;
    }
    let tally = player.must_get(200, SOON)?;
    assert_eq!((tally.missing, tally.repeated), (0, 0), "{tally:?}");
    assert_eq!(origin.sessions(), 2);

    let old = player.address()?;
    player.move_to_new_port()?;
    assert_ne!(player.address()?, old);
    player.must_get(200, 2 * SOON)?;
    publisher.move_to_new_port()?;
    player.must_get(200, 2 * SOON)?;
    for client in [&publisher, &player] {
        client.restart_ice()?;
        player.must_get(200, 2 * SOON)?;
    }

    player.hang_up()?;
    player.must_be_closed_within(SOON)?;
    wait::until_true("the origin has seen it", SOON, || Ok(origin.sessions() == 1))?;
    assert_eq!(publisher.session().delete()?.status(), 200);
    wait::until_true("the origin is empty", SOON, || Ok(origin.sessions() == 0))?;
    assert_eq!(publisher.session().delete()?.status(), 200, "SRS says so as well");

    origin.behave(Manner::Refuse("503 Busy", "Retry-After: 3\r\n", "later"));
    let offer = Role::Publish.target("show");
    let refusal = whip::ask(server, "POST", &offer, "", "v=0\r\n")?;
    assert_eq!((refusal.status(), refusal.text().as_str()), (503, "later"));
    origin.behave(Manner::Bearer("secret"));
    assert_eq!(whip::ask(server, "POST", &offer, "", "v=0\r\n")?.status(), 401);
    let lines = "Authorization: Bearer secret\r\n";
    assert_eq!(whip::ask(server, "POST", &offer, lines, "v=0\r\n")?.status(), 400);
    origin.behave(Manner::AbsoluteLocation);
    let player = rtc::Client::play(server, "show")?;
    assert_eq!(player.session().server, server, "the Location names this host");
    assert_eq!(player.session().patch("")?.status(), 204);
    Ok(())
}

#[test]
fn the_browser_and_aiortc_understand_str0m() -> Result<()> {
    story(|folder| {
        let origin = rtc::Origin::start()?;
        let mut publisher = Browser::start(folder, "publisher")?;
        let mut player = Browser::start(folder, "player")?;
        fs::write(folder.join("page.html"), "<video autoplay muted></video>")?;
        let page = format!("file://{}", folder.join("page.html").display());
        for (browser, role) in [(&mut publisher, Role::Publish), (&mut player, Role::Play)] {
            browser.open(&page)?;
            let url = format!("http://{}{}", origin.http(), role.target("show"));
            browser.evaluate(&SIGNALLING.replace("URL", &url))?;
        }
        let aiortc = aiortc::Client::start(folder, "aiortc", origin.http(), Role::Play, "show")?;
        wait::until_true("the browser has decoded a second", 3 * SOON, || {
            let frames = player.evaluate("frames()")?;
            ensure!(frames.as_u64() > Some(30), "{frames} frames");
            Ok(true)
        })?;
        aiortc.must_go_on_for(20, 2 * SOON)
    })
}

/// What the proxy's pages do, in short: a camera for who publishes, and a video for who plays.
const SIGNALLING: &str = r#"(async () => {
    const pc = window.pc = new RTCPeerConnection();
    if ("URL".includes("whip")) {
        const camera = await navigator.mediaDevices.getUserMedia({audio: true, video: true});
        for (const track of camera.getTracks()) pc.addTransceiver(track, {direction: "sendonly"});
    } else {
        const stream = document.querySelector("video").srcObject = new MediaStream();
        pc.ontrack = ({track}) => stream.addTrack(track);
        for (const kind of ["audio", "video"]) pc.addTransceiver(kind, {direction: "recvonly"});
    }
    window.frames = async () => Math.max(0, ...[...(await pc.getStats()).values()]
        .filter(it => it.type === "inbound-rtp").map(it => it.framesDecoded ?? 0));
    await pc.setLocalDescription();
    await new Promise(done => pc.onicegatheringstatechange = () =>
        pc.iceGatheringState === "complete" && done());
    const answer = await fetch("URL", {method: "POST", body: pc.localDescription.sdp});
    await pc.setRemoteDescription({type: "answer", sdp: await answer.text()});
})()"#;

#[test]
fn srt_programs_pass_files_as_they_are() -> Result<()> {
    use srt::Program::{Ffmpeg, LiveTransmit};
    story(|folder| {
        let sent = srt::transport_stream(folder, 1)?;
        let (plain, secret) = (Peer::plain, |it| Peer::secret(it, "a long secret of ours"));
        let pairs = [
            (plain(LiveTransmit), plain(Ffmpeg)),
            (plain(Ffmpeg), plain(LiveTransmit)),
            (secret(LiveTransmit), secret(LiveTransmit)),
            (secret(Ffmpeg), secret(Ffmpeg)),
        ];
        let mut running = Vec::new();
        for (place, (sender, receiver)) in pairs.into_iter().enumerate() {
            for sender_listens in [true, false] {
                let address = ports::free()?;
                let ends = (End::Listener(address), End::Caller(address, "live/show"));
                let (sends, gets) = if sender_listens { ends } else { (ends.1, ends.0) };
                let name = |role| format!("{place}-{sender_listens}-{role}");
                let get = || receiver.receive(folder, &name("receiver"), gets);
                let start = || sender.send(folder, &name("sender"), sends, &sent, SOON);
                // A caller does not try for ever.
                running.push(if sender_listens {
                    let sender = start()?;
                    srt::must_listen(address)?;
                    (sender, get()?)
                } else {
                    let get = get()?;
                    srt::must_listen(address)?;
                    (start()?, get)
                });
            }
        }
        for (_, receiver) in &running {
            receiver.must_have_all_of(&sent, 2 * SOON)?;
        }
        Ok(())
    })
}

#[test]
fn srt_recovers_what_a_lossy_relay_loses() -> Result<()> {
    story(|folder| {
        let sent = srt::transport_stream(folder, 4)?;
        let address = ports::free()?;
        let receiver = Peer::plain(srt::Program::LiveTransmit);
        let receiver = receiver.receive(folder, "receiver", End::Listener(address))?;
        srt::must_listen(address)?;
        let relay = Lossy::start(address, 5, 1)?;
        let caller = End::Caller(relay.address(), "live/show");
        let sender = Peer::plain(srt::Program::Ffmpeg);
        let _sender = sender.send(folder, "sender", caller, &sent, SOON)?;
        receiver.must_have_all_of(&sent, 2 * SOON)?;
        let (passed, lost) = relay.passed_and_lost();
        assert!(passed > 1000 && lost > passed / 40, "{lost} lost, {passed} passed");
        Ok(())
    })
}

#[test]
fn a_thousand_viewers_are_no_load_of_their_own() -> Result<()> {
    usage::allow_descriptors(4000)?;
    let this = std::process::id();
    let origin = raw::Origin::start(live::show())?;
    let server = origin.address();
    let (begin, cpu) = (Instant::now(), usage::cpu(this)?);
    let players = raw::Viewers::of_stream(server, 500, "/live/show.flv");
    let viewers = raw::Viewers::of_playlist(server, 500, "/live/show.m3u8", SEGMENT);
    wait::until_true("all have come", SOON, || Ok(players.come() + viewers.come() == 1000))?;
    wait::until_true("some time", 2 * SOON, || Ok(begin.elapsed() > SOON))?;
    assert_eq!(origin.open(), 1000, "connections at the origin");
    let segments = viewers.leave()?;
    let pieces = players.leave()?;
    assert!(segments.iter().all(|&bytes| bytes >= 40_000), "{segments:?}");
    assert!(pieces.iter().all(|&bytes| bytes >= 40_000), "{pieces:?}");
    let load = usage::cpu(this)?.saturating_sub(cpu).div_duration_f64(begin.elapsed());
    assert!(load < 1.0, "the viewers and their origin take {load:.2} processors");
    wait::until_true("all have left", SOON, || Ok(origin.open() == 0))
}
