//! Datagrams that mean no good, by the ten thousand in a second, at both UDP ports and at that of
//! ICE-TCP: those who play meanwhile lose nothing, and nothing is left of it.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, iter};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::flood::{Flood, Flooded};
use srs_proxy_tests::ice;
use srs_proxy_tests::ice_client::{Client, Come};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::srt_call::{self, Caller, Handshake, INDUCTION, data, is_ack, number};
use srs_proxy_tests::whip::Role;
use srs_proxy_tests::{http, ports, skip, story, stun, usage, wait};

/// How long it goes on.
const TIME: Duration = Duration::from_secs(10);
/// Datagrams of the sessions in a second, each.
const PACE: u32 = 300;
/// Datagrams in a second, of all that are hostile.
const RATE: u32 = 50_000;
const SOON: Duration = Duration::from_secs(10);
/// Memory that the proxy may take for all of it, bytes.
const SLACK: u64 = 16 << 20;

/// Two sessions through a proxy, each with an origin that sends back what it gets.
struct Stage {
    proxy: Proxy,
    tcp: SocketAddr,
    webrtc: Client,
    srt: Caller,
    ice_origin: ice::Origin,
    srt_origin: srt_call::Origin,
    before: Before,
}

struct Before {
    memory: u64,
    descriptors: usize,
}

impl Stage {
    fn set(folder: &Path) -> Result<Self> {
        let tcp = ports::free()?;
        let proxy = Proxy::start(folder, &[("PROXY_WEBRTC_TCP_SERVER", &tcp.to_string())])?;
        let ice_origin = ice::Origin::start()?;
        ice_origin.register_at(proxy.system_api(), "webrtc")?;
        let srt_origin = srt_call::Origin::start("127.0.0.1:0".parse()?, 1 << 20)?;
        srt_origin.register_at(proxy.system_api(), "srt")?;
        let webrtc = Client::open(proxy.http_api(), Role::Publish, "show", "victim00")?;
        webrtc.connect()?;
        webrtc.must_echo(10)?;
        let srt = Caller::call(proxy.srt(), 77, "#!::r=live/srt,m=publish", SOON)?;
        srt.must_echo(SOON)?;
        let warm = "what a first flood costs for ever: receive buffers of each thread";
        for target in [proxy.webrtc(), proxy.srt()] {
            let flood = Flood::start(target, 4, 5000, vec![vec![0xff; 65_507], vec![2; 100]])?;
            thread::sleep(Duration::from_millis(500));
            flood.stop().context(warm)?;
        }
        let id = proxy.process.id();
        wait::until_true("signalling is over", SOON, || Ok(proxy.sessions()?.len() == 2))?;
        let before = Before { memory: usage::memory(id)?, descriptors: usage::descriptors(id)? };
        Ok(Self { proxy, tcp, webrtc, srt, ice_origin, srt_origin, before })
    }

    /// Plays both sessions while something else is done; no packet may get lost.
    fn play<R: Send>(&self, act: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        let over = AtomicBool::new(false);
        let (done, webrtc, srt, ready) = thread::scope(|scope| {
            let webrtc = scope.spawn(|| play_webrtc(&self.webrtc, &over));
            let srt = scope.spawn(|| play_srt(&self.srt, &over));
            let ready = scope.spawn(|| ask(&self.proxy, &over));
            let done = scope.spawn(act).join();
            over.store(true, Ordering::Relaxed);
            (done, webrtc.join(), srt.join(), ready.join())
        });
        let panicked = "a thread has panicked";
        let done = done.ok().context(panicked)??;
        println!("/readyz was 200 {} times", ready.ok().context(panicked)??);
        let (sent, lost) = webrtc.ok().context(panicked)??;
        println!("WebRTC: {sent} packets there and back, {lost} lost");
        let (srt_sent, srt_lost) = srt.ok().context(panicked)??;
        println!("SRT: {srt_sent} packets there and back, {srt_lost} lost");
        let kernel = [self.proxy.webrtc(), self.proxy.srt()].map(overflown);
        println!("datagrams that the system dropped at WebRTC, SRT: {kernel:?}");
        ensure!(lost == 0 && srt_lost == 0, "{lost} and {srt_lost} packets got lost, {kernel:?}");
        Ok(done)
    }

    /// Nothing is left but the two sessions, which go on.
    fn must_be_as_before(&self) -> Result<()> {
        self.webrtc.must_echo(10)?;
        self.srt.must_echo(SOON)?;
        ensure!(self.srt_origin.calls() == 1, "{} callers", self.srt_origin.calls());
        ensure!(self.srt_origin.foreign() == 0, "the SRT origin has got what is not its caller's");
        ensure!(self.ice_origin.sessions() == 1, "more sessions of WebRTC than one");
        let id = self.proxy.process.id();
        wait::until("descriptors are closed", 2 * SOON, || {
            let left = usage::descriptors(id)?;
            let before = self.before.descriptors;
            ensure!(left <= before + 4, "{left} descriptors, {before} before");
            ensure!(self.proxy.sessions()?.len() == 2, "{:?}", self.proxy.sessions()?);
            Ok(Some(()))
        })?;
        let (before, after) = (self.before.memory, usage::memory(id)?);
        println!("memory {before} -> {after}");
        ensure!(after < before + SLACK, "memory has grown from {before} to {after}");
        Ok(())
    }

    fn dropped(&self, protocol: &str, reason: &str) -> Result<u64> {
        let labels = [("protocol", protocol), ("reason", reason)];
        self.proxy.metric("srs_proxy_datagrams_dropped_total", &labels)
    }

    /// By the reason, what a flood should be counted as and what it is.
    fn must_explain(
        &self,
        protocol: &str,
        earlier: &[(&'static str, u64)],
        wanted: &[(&'static str, u64)],
        lost: u64,
    ) -> Result<()> {
        let mut all = 0;
        for ((reason, earlier), (_, wanted)) in earlier.iter().zip(wanted) {
            let counted = self.dropped(protocol, reason)? - earlier;
            println!("{protocol} {reason}: {counted}, {wanted} sent");
            ensure!(counted <= *wanted, "{reason}: {counted}, but {wanted} were sent");
            all += wanted - counted;
        }
        ensure!(all <= lost, "{all} datagrams are not explained, {lost} were lost on the way");
        Ok(())
    }

    fn counts(&self, protocol: &str) -> Result<Vec<(&'static str, u64)>> {
        REASONS.iter().map(|reason| Ok((*reason, self.dropped(protocol, reason)?))).collect()
    }
}

const REASONS: [&str; 9] = [
    "not_the_protocol",
    "malformed",
    "unknown_name",
    "unknown_flow",
    "forged",
    "replayed",
    "bad_cookie",
    "unexpected",
    "too_many_pending",
];

/// Whether the proxy gets the receive buffers that it asks for.
fn has_large_buffers() -> Result<bool> {
    let allowed: u64 = fs::read_to_string("/proc/sys/net/core/rmem_max")?.trim().parse()?;
    let status = fs::read_to_string("/proc/self/status")?;
    let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let rights = u64::from_str_radix(rights.context("no CapEff")?.trim(), 16)?;
    // capabilities(7): CAP_NET_ADMIN is the twelfth.
    Ok(allowed >= 4 << 20 || rights >> 12 & 1 == 1)
}

/// Datagrams that the system dropped because a socket of this port was full.
fn overflown(address: SocketAddr) -> u64 {
    let port = format!(":{:04X} ", address.port());
    let sockets = fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let own =
        sockets.lines().filter(|line| line.get(6..).is_some_and(|it| it.get(8..14) == Some(&port)));
    own.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
}

/// Sends and receives until it is over; packets that were sent, and that did not come back.
fn play_webrtc(client: &Client, over: &AtomicBool) -> Result<(u64, usize)> {
    let (mut missing, mut sent, mut next) = (HashSet::new(), 0, Instant::now());
    let mut end: Option<Instant> = None;
    while end.is_none_or(|end| Instant::now() < end && !missing.is_empty()) {
        if end.is_none() && Instant::now() >= next {
            missing.insert(client.send_packet()?);
            sent += 1;
            next += Duration::from_secs(1) / PACE;
            if sent % u64::from(PACE) == 0 {
                client.check()?;
            }
            // Mostly there is time left until the next one; and what has come is taken at once.
            if Instant::now() >= next {
                continue;
            }
        }
        match client.next() {
            Some(Come::Packet(number)) => {
                ensure!(missing.remove(&number), "packet {number} came twice, or is nobody's");
            }
            Some(Come::Other) => anyhow::bail!("something foreign has come to the client"),
            Some(Come::Answer) | None => {}
        }
        if end.is_none() && over.load(Ordering::Relaxed) {
            end = Some(Instant::now() + SOON);
        }
    }
    Ok((sent, missing.len()))
}

/// The same for SRT.
fn play_srt(caller: &Caller, over: &AtomicBool) -> Result<(u64, usize)> {
    let (mut missing, mut sent, mut next) = (HashSet::new(), 10, Instant::now());
    let mut end: Option<Instant> = None;
    let mut buffer = [0; 2000];
    while end.is_none_or(|end| Instant::now() < end && !missing.is_empty()) {
        if end.is_none() && Instant::now() >= next {
            sent += 1;
            caller.socket.send(&data(caller.peer, sent))?;
            missing.insert(sent);
            next += Duration::from_secs(1) / PACE;
            if Instant::now() >= next {
                continue;
            }
        }
        let packet = caller.socket.recv(&mut buffer).ok().and_then(|length| buffer.get(..length));
        if let Some(packet) = packet.filter(|packet| !is_ack(packet, caller.id)) {
            let number = number(packet, caller.id);
            let number = number.context("something foreign has come to the caller")?;
            // The one by which the test has begun comes more than once.
            ensure!(number == 1 || missing.remove(&number), "packet {number} came twice");
        }
        if end.is_none() && over.load(Ordering::Relaxed) {
            end = Some(Instant::now() + SOON);
        }
    }
    Ok((sent - 10, missing.len()))
}

/// Asks whether the proxy is ready, all the time; how often it was.
fn ask(proxy: &Proxy, over: &AtomicBool) -> Result<u64> {
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        let status = http::get(proxy.system_api(), "/readyz")?.status;
        ensure!(status == 200, "/readyz: {status}");
        count += 1;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(count)
}

/// Bytes that look like chance.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

/// What may come to the port of WebRTC, and as what it is counted.
fn against_webrtc(client: &Client, recorded: &[u8]) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut all = Vec::new();
    let genuine = client.request()?;
    // With its own length, every prefix of a check is cut short.
    for length in (4..genuine.len()).step_by(7) {
        all.push(("malformed", genuine.get(..length).unwrap_or_default().to_vec()));
    }
    let header = |length: u8| {
        [&[0, 1, 0, length, 0x21, 0x12, 0xa4, 0x42][..], &noise(length.into(), 12)].concat()
    };
    // A body of less than an attribute's header, and one without its padding.
    all.push(("malformed", [header(2), vec![0, 6]].concat()));
    all.push(("malformed", [header(7), vec![0, 6, 0, 3, b'a', b':', b'b']].concat()));
    all.push(("malformed", [header(8), vec![0, 6, 0xff, 0xff, 1, 2, 3, 4]].concat()));
    all.push(("not_the_protocol", Vec::new()));
    // Chance that looks like media, like TURN and like nothing.
    for seed in 0..10 {
        for (first, why) in
            [(0x80, "unknown_flow"), (0x50, "not_the_protocol"), (0xf0, "not_the_protocol")]
        {
            let length = usize::try_from(seed).unwrap_or_default() * 130;
            all.push((why, [vec![first], noise(seed, length)].concat()));
        }
        all.push(("unknown_flow", [vec![22, 0xfe, 0xfd], noise(seed, 90)].concat()));
        // A DTLS alert of somebody else.
        all.push(("unknown_flow", [vec![21, 0xfe, 0xfd], noise(seed, 30)].concat()));
        all.push(("malformed", [vec![0, 1], noise(seed, 90)].concat()));
    }
    // The session's name, and another password.
    for number in 0..60 {
        let forged = stun::request([number; 12], &client.username, "0123456789abcdef01234568")?;
        all.push(("forged", forged));
    }
    // A name that is nobody's.
    for number in 0..200 {
        let name = format!("nobody{number}:victim00");
        all.push(("unknown_name", stun::request([9; 12], &name, &client.password)?));
    }
    // A check of the session itself.
    for _ in 0..40 {
        all.push(("replayed", recorded.to_vec()));
    }
    all.push(("not_the_protocol", vec![0xff; 65_507]));
    all.push(("malformed", vec![0; 65_507]));
    all.push(("unknown_flow", vec![0x80; 65_507]));
    Ok(all)
}

/// The same for SRT. Inductions are answered, which is not counted.
fn against_srt(caller: &Caller) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    let conclusion = Handshake::conclusion(5, 0x418d_5e4e, "#!::r=live/show,m=publish");
    let whole = conclusion.bytes();
    for length in (0..16).chain((16..64).step_by(5)) {
        let part = whole.get(..length).unwrap_or_default().to_vec();
        all.push((if length < 16 { "not_the_protocol" } else { "malformed" }, part));
    }
    // Extensions of two and three bytes.
    for length in [2, 3] {
        let extensions = vec![0; length];
        all.push(("malformed", Handshake { extensions, ..conclusion.clone() }.bytes()));
    }
    for number in 0..60 {
        let cookie = number * 0x0101_0101;
        all.push(("bad_cookie", Handshake { cookie, ..conclusion.clone() }.bytes()));
        all.push(("answered", Handshake::induction(number + 1).bytes()));
    }
    // A rejection, and a handshake of no socket.
    all.push(("unexpected", Handshake { step: 1002, ..conclusion.clone() }.bytes()));
    all.push(("unexpected", Handshake { from: 0, ..conclusion.clone() }.bytes()));
    // To the session's socket, from elsewhere: data that fits, an acknowledgement, a shutdown.
    for count in 0..60 {
        all.push(("unknown_flow", data(caller.peer, count)));
        for kind in [1, 2, 3, 5, 6] {
            let mut control = vec![0x80, kind, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
            control.extend(caller.peer.to_be_bytes());
            control.extend([0; 16]);
            all.push(("unknown_flow", control));
        }
        all.push(("unknown_flow", data(0x0bad_0000 + u32::try_from(count).unwrap_or(0), count)));
    }
    let to_another = Handshake { to: 99, ..conclusion }.bytes();
    all.push(("unknown_flow", to_another));
    all.push(("unknown_flow", vec![0x7f; 65_507]));
    all
}

/// How often something of each reason was sent.
fn by_reason(kinds: &[(&'static str, Vec<u8>)], flooded: &Flooded) -> Vec<(&'static str, u64)> {
    let of = |reason: &'static str| {
        let counts = kinds.iter().zip(&flooded.sent).filter(|((why, _), _)| *why == reason);
        (reason, counts.map(|(_, count)| count).sum())
    };
    REASONS.into_iter().map(of).collect()
}

#[test]
fn fifty_thousand_datagrams_a_second_cost_the_sessions_nothing() -> Result<()> {
    if !has_large_buffers()? {
        return skip("without CAP_NET_ADMIN net.core.rmem_max is too small for a flood");
    }
    story(|folder| {
        let stage = Stage::set(folder)?;
        // As somebody on the way has seen it.
        let recorded = stage.webrtc.request()?;
        stage.webrtc.send(&recorded)?;
        stage.webrtc.must_echo(1)?;
        let ice_kinds = against_webrtc(&stage.webrtc, &recorded)?;
        let srt_kinds = against_srt(&stage.srt);
        let earlier = (stage.counts("webrtc")?, stage.counts("srt")?);
        let full = [stage.proxy.webrtc(), stage.proxy.srt()].map(overflown);
        let bare = |kinds: &[(_, Vec<u8>)]| kinds.iter().map(|it| it.1.clone()).collect();
        let (ice, srt) = stage.play(|| {
            let ice = Flood::start(stage.proxy.webrtc(), 16, RATE / 2, bare(&ice_kinds))?;
            let srt = Flood::start(stage.proxy.srt(), 16, RATE / 2, bare(&srt_kinds))?;
            thread::sleep(TIME);
            Ok((ice.stop()?, srt.stop()?))
        })?;
        let total = ice.total() + srt.total();
        println!("{total} datagrams in {:?}, {} to WebRTC", ice.time, ice.total());
        println!("{} a second", total / ice.time.as_secs().max(1));
        // Nothing of the session goes to who has forged, and nothing at all but cookies.
        ensure!(ice.answers.is_empty(), "{} datagrams have come back", ice.answers.len());
        let cookies = srt.answers.iter().filter(|it| {
            Handshake::read(it).is_some_and(|answer| answer.step == INDUCTION && it.len() == 64)
        });
        ensure!(cookies.count() == srt.answers.len(), "SRT has answered more than inductions");
        let now = [stage.proxy.webrtc(), stage.proxy.srt()].map(overflown);
        let wanted = (by_reason(&ice_kinds, &ice), by_reason(&srt_kinds, &srt));
        stage.must_explain("webrtc", &earlier.0, &wanted.0, now[0] - full[0])?;
        stage.must_explain("srt", &earlier.1, &wanted.1, now[1] - full[1])?;
        stage.must_be_as_before()
    })
}

#[test]
fn connections_of_ice_tcp_that_mean_no_good_cost_the_sessions_nothing() -> Result<()> {
    usage::allow_descriptors(4096)?;
    story(|folder| {
        let stage = Stage::set(folder)?;
        let frame = |datagram: &[u8]| {
            let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
            [&length.to_be_bytes()[..], datagram].concat()
        };
        let forged = stun::request([1; 12], &stage.webrtc.username, "0123456789abcdef01234568")?;
        let said = [
            Vec::new(),
            vec![0],
            vec![0, 100, 0, 1],
            vec![0xff, 0xff, 0, 1],
            frame(&[]),
            frame(&vec![0x80; 4096]),
            frame(&[0xff; 10]),
            frame(&forged),
            frame(&forged).repeat(1000),
            frame(&noise(1, 1000)),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ];
        let kept = stage.play(|| {
            let mut idle = Vec::new();
            for _ in 0..500 {
                idle.push(TcpStream::connect(stage.tcp)?);
            }
            let begin = Instant::now();
            let mut count = 0;
            while begin.elapsed() < TIME / 2 {
                for bytes in &said {
                    let mut stream = TcpStream::connect(stage.tcp)?;
                    // It may be closed before all is taken.
                    let _ = stream.write_all(bytes);
                    count += 1;
                }
                thread::sleep(Duration::from_millis(1));
            }
            println!("{count} connections, and 500 idle ones");
            Ok(idle)
        })?;
        // All of one address: those of another one find a place.
        let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        other.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into())?;
        other.connect(&stage.tcp.into())?;
        let mut other = TcpStream::from(other);
        other.set_read_timeout(Some(SOON))?;
        other.write_all(&frame(&stage.webrtc.request()?))?;
        let mut answer = [0; 4];
        other.read_exact(&mut answer).context("a client of another address is kept out")?;
        ensure!(answer.ends_with(&[1, 1]), "another answer: {answer:?}");
        drop(other);
        stage.webrtc.connect()?;
        // Those who prove nothing are closed while they wait.
        wait::until_true("idle connections are closed", 2 * SOON, || {
            Ok(kept.iter().all(|stream| {
                let _ = stream.set_nonblocking(true);
                matches!(stream.peek(&mut [0]), Ok(0))
                    || stream
                        .peek(&mut [0])
                        .is_err_and(|it| it.kind() != std::io::ErrorKind::WouldBlock)
            }))
        })?;
        drop(kept);
        stage.must_be_as_before()
    })
}

#[test]
fn what_was_recorded_on_the_way_is_good_at_one_address_only() -> Result<()> {
    story(|folder| {
        let stage = Stage::set(folder)?;
        let thief = UdpSocket::bind("127.0.0.1:0")?;
        thief.set_read_timeout(Some(Duration::from_millis(100)))?;
        for _ in 0..20 {
            let recorded = stage.webrtc.request()?;
            stage.webrtc.send(&recorded)?;
            stage.webrtc.must_echo(1)?;
            thief.send_to(&recorded, stage.webrtc.server)?;
            stage.webrtc.must_echo(5)?;
        }
        ensure!(thief.recv(&mut [0; 100]).is_err(), "the thief has got something");
        ensure!(stage.dropped("webrtc", "replayed")? == 20, "not all were known");
        stage.must_be_as_before()
    })
}
