//! What nobody does by chance: names that are used twice, sessions that are restarted without end or
//! never begun, and handshakes of which none is finished.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy_tests::ice;
use srs_proxy_tests::ice_client::{Client, Come, offer};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::srt_call::{self, Caller, Handshake, INDUCTION};
use srs_proxy_tests::whip::{self, Endpoint, Media, Role, Session};
use srs_proxy_tests::{heartbeat, story, stun, usage, wait};

const SOON: Duration = Duration::from_secs(10);
const PASSWORD: &str = "0123456789abcdef01234567";

/// An origin whose answers have the names that a test wants, and whose media goes to a socket of the
/// test. The password of each answer ends with the number of the answer.
struct Names {
    media: SocketAddr,
    /// Whether all answers have one name.
    is_same: bool,
    count: AtomicU64,
}

impl Names {
    fn next(&self) -> (String, String) {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let number = if self.is_same { 0 } else { count };
        (format!("a=ice-ufrag:o{number:07}"), format!("a=ice-pwd:{count:024}"))
    }

    fn change(&self, sdp: &str) -> String {
        let (ufrag, password) = self.next();
        let changed = |line: &str| match line {
            line if line.starts_with("a=ice-ufrag:") => ufrag.clone(),
            line if line.starts_with("a=ice-pwd:") => password.clone(),
            line => line.to_owned(),
        };
        let sdp: String = sdp.lines().map(|line| changed(line) + "\r\n").collect();
        let (ip, port) = (self.media.ip(), self.media.port());
        format!("{sdp}a=candidate:0 1 udp 2130706431 {ip} {port} typ host\r\n")
    }
}

impl Media for Names {
    fn open(&self, _: Role, _: &str, offer: &str) -> Result<String> {
        Ok(self.change(offer))
    }

    fn patch(&self, _: &str, fragment: &str) -> Result<Option<String>> {
        Ok(Some(self.change(fragment)))
    }

    fn end(&self, _: &str) -> Result<bool> {
        Ok(true)
    }
}

/// Its endpoint, registered, and the socket of its media.
fn names(proxy: &Proxy, name: &str, is_same: bool) -> Result<(Endpoint, UdpSocket)> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let media = socket.local_addr()?;
    let endpoint = Endpoint::start(Names { media, is_same, count: AtomicU64::new(0) })?;
    let api = endpoint.address().port().to_string();
    let rtc = format!("udp://0.0.0.0:{}", media.port());
    heartbeat::register(proxy.system_api(), name, &[("api", api), ("rtc", rtc)])?;
    Ok((endpoint, socket))
}

fn webrtc_sessions(proxy: &Proxy) -> Result<usize> {
    Ok(proxy.sessions()?.iter().filter(|it| it.protocol == "webrtc").count())
}

#[test]
fn a_session_is_restarted_a_thousand_times_and_can_still_be_deleted() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &[])?;
        let (_endpoint, media) = names(&proxy, "origin", false)?;
        let session =
            Session::open(proxy.http_api(), Role::Publish, "show", &offer("c0000000", PASSWORD))?;
        let client = UdpSocket::bind("127.0.0.1:0")?;
        let at_proxy = format!("127.0.0.1 {} typ host", proxy.webrtc().port());
        for number in 1..=1000_u64 {
            let fragment = offer(&format!("c{number:07}"), PASSWORD);
            let said = session.patch(&fragment)?;
            ensure!(said.status() == 200, "restart {number}: {}", said.head.line);
            let text = said.text();
            ensure!(text.contains(&at_proxy), "restart {number}: another candidate: {text}");
            if number % 100 == 1 {
                let name = format!("o{number:07}:c{number:07}");
                let check = stun::request([7; 12], &name, &format!("{number:024}"))?;
                client.send_to(&check, proxy.webrtc())?;
                let mut buffer = [0; 2000];
                let length = media.recv(&mut buffer).context("no check at the origin")?;
                ensure!(buffer.get(..length) == Some(&check), "restart {number}: another check");
            }
        }
        ensure!(webrtc_sessions(&proxy)? == 1, "more than one session");
        ensure!(session.delete()?.status() == 200, "it cannot be deleted");
        wait::until_true("the session ends", SOON, || Ok(webrtc_sessions(&proxy)? == 0))?;
        ensure!(proxy.ends("deleted")? == 1, "it has ended otherwise");
        Ok(())
    })
}

#[test]
fn two_sessions_of_one_name_are_told_apart_by_their_passwords() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &[])?;
        let (_first, first_media) = names(&proxy, "first", true)?;
        let (_second, second_media) = names(&proxy, "second", true)?;
        // One name, of the same and of another origin: streams go to the one that has fewer.
        for stream in ["a", "b", "c", "d"] {
            Session::open(proxy.http_api(), Role::Play, stream, &offer("c0000000", PASSWORD))?;
        }
        let client = UdpSocket::bind("127.0.0.1:0")?;
        let mut buffer = [0; 2000];
        let name = "o0000000:c0000000";
        // Either origin has answered twice, and with the same passwords as the other.
        for (number, password) in [0, 1].map(|it| format!("{it:024}")).iter().enumerate() {
            let check = stun::request([u8::try_from(number)?; 12], name, password)?;
            client.send_to(&check, proxy.webrtc())?;
            let media = [&first_media, &second_media];
            let deadline = Instant::now() + SOON;
            let mut came = 0;
            while came == 0 && Instant::now() < deadline {
                for socket in media {
                    socket.set_nonblocking(true)?;
                    came += usize::from(socket.recv(&mut buffer).is_ok());
                }
            }
            ensure!(came == 1, "{came} checks have come of password {number}");
        }
        let forged = stun::request([9; 12], name, "0123456789abcdef01234568")?;
        client.send_to(&forged, proxy.webrtc())?;
        wait::until_true("the forged one is counted", SOON, || {
            let labels = [("protocol", "webrtc"), ("reason", "forged")];
            Ok(proxy.metric("srs_proxy_datagrams_dropped_total", &labels)? == 1)
        })
    })
}

#[test]
fn an_alert_with_a_forged_address_ends_no_session_that_goes_on_however_quietly() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &[])?;
        let origin = ice::Origin::start()?;
        origin.register_at(proxy.system_api(), "origin")?;
        // A player that only checks for consent, as often as RFC 7675 5.1 wants it at least.
        let client = Client::open(proxy.http_api(), Role::Play, "show", "c0000000")?;
        client.connect()?;
        client.alert()?;
        let begin = Instant::now();
        // The origin sends it back, as everything.
        wait::until_true("the alert has been there", SOON, || {
            Ok(client.next() == Some(Come::Other))
        })?;
        for second in [5, 11] {
            let due = begin + Duration::from_secs(second);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            client.check()?;
        }
        client.must_echo(1)?;
        ensure!(webrtc_sessions(&proxy)? == 1, "it was believed");
        Ok(())
    })
}

#[test]
fn a_port_that_a_new_session_takes_over_is_its_own() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &[("PROXY_WEBRTC_CONSENT_TIMEOUT", "5s")])?;
        let origin = ice::Origin::start()?;
        origin.register_at(proxy.system_api(), "origin")?;
        // One socket all the time, whose client forgets a session and begins the next.
        let mut client: Option<Client> = None;
        for number in 0..100 {
            let ufrag = format!("c{number:07}");
            let next = Client::open(proxy.http_api(), Role::Publish, "show", &ufrag)?;
            if let Some(former) = client.take() {
                next.take_port_of(former)?;
            }
            next.connect()?;
            next.must_echo(3)?;
            client = Some(next);
        }
        wait::until_true("those that were left end", 2 * SOON, || {
            client.as_ref().context("no client")?.check()?;
            Ok(webrtc_sessions(&proxy)? == 1)
        })?;
        client.context("no client")?.must_echo(10)
    })
}

#[test]
fn sessions_that_are_never_begun_are_bounded_and_end() -> Result<()> {
    story(|folder| {
        let variables =
            [("PROXY_MAX_SESSIONS_PER_CLIENT", "100"), ("PROXY_WEBRTC_CONSENT_TIMEOUT", "3s")];
        let proxy = Proxy::start(folder, &variables)?;
        let origin = ice::Origin::start()?;
        origin.register_at(proxy.system_api(), "origin")?;
        let id = proxy.process.id();
        let before = usage::descriptors(id)?;
        let mut refused = HashSet::new();
        for number in 0..1000 {
            let offer = offer(&format!("c{number:07}"), PASSWORD);
            let target = Role::Play.target("show");
            let lines = "Content-Type: application/sdp\r\n";
            match whip::ask(proxy.http_api(), "POST", &target, lines, &offer) {
                Ok(said) if said.status() == 201 => {}
                Ok(said) => drop(refused.insert(said.status())),
                // The connection counts as well.
                Err(_) => drop(refused.insert(0)),
            }
            ensure!(usage::descriptors(id)? < before + 250, "too many descriptors");
        }
        println!("refused with {refused:?}; {} sessions", origin.sessions());
        ensure!(!refused.is_empty(), "nobody was refused");
        wait::until_true("they end", 2 * SOON, || Ok(proxy.sessions()?.is_empty()))?;
        ensure!(proxy.ends("not_connected")? >= 90, "{}", proxy.ends("not_connected")?);
        wait::until_true("descriptors are closed", SOON, || {
            Ok(usage::descriptors(id)? <= before + 4)
        })?;
        let client = Client::open(proxy.http_api(), Role::Publish, "show", "c1234567")?;
        client.connect()?;
        client.must_echo(3)
    })
}

#[test]
fn conclusions_by_the_thousand_wait_for_a_silent_origin_within_a_limit() -> Result<()> {
    usage::allow_descriptors(8192)?;
    story(|folder| {
        let proxy = Proxy::start(folder, &[])?;
        let origin = srt_call::Origin::start("127.0.0.1:0".parse()?, 1 << 20)?;
        origin.register_at(proxy.system_api(), "origin")?;
        origin.be_mute(true);
        let id = proxy.process.id();
        let (before, memory) = (usage::descriptors(id)?, usage::memory(id)?);
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(proxy.srt())?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut buffer = [0; 2000];
        let (mut waiting, mut busy) = (0_u32, 0_u32);
        for caller in 1..=2000 {
            socket.send(&Handshake::induction(caller).bytes())?;
            let cookie = loop {
                let length = socket.recv(&mut buffer).context("no cookie")?;
                match buffer.get(..length).and_then(Handshake::read) {
                    Some(answer) if answer.step == INDUCTION => break answer.cookie,
                    // It is too late, or too much, for another one.
                    Some(answer) if answer.step == 1005 => busy += 1,
                    _ => waiting += 1,
                }
            };
            let stream = format!("#!::r=live/s{caller},m=publish");
            socket.send(&Handshake::conclusion(caller, cookie, &stream).bytes())?;
            ensure!(usage::descriptors(id)? < before + 80, "too many sockets");
        }
        println!("{busy} were rejected at once, {waiting} later");
        ensure!(busy > 1000, "{busy} were rejected at once");
        wait::until_true("all are over", 2 * SOON, || Ok(proxy.sessions()?.is_empty()))?;
        wait::until_true("sockets are closed", SOON, || Ok(usage::descriptors(id)? <= before + 4))?;
        let grown = usage::memory(id)?.saturating_sub(memory);
        ensure!(grown < 16 << 20, "memory has grown by {grown}");
        // One more, and then the origin is there again.
        origin.be_mute(false);
        wait::until_true("a caller is served", 2 * SOON, || {
            Caller::call(proxy.srt(), 5000, "#!::r=live/show", Duration::from_secs(3))?
                .must_echo(SOON)?;
            Ok(true)
        })
    })
}

#[test]
fn what_was_sent_to_all_hosts_is_answered_or_not_and_harms_nobody() -> Result<()> {
    story(|folder| {
        let any = srs_proxy_tests::ports::free()?.port();
        let proxy = Proxy::start(folder, &[("PROXY_SRT_SERVER", &any.to_string())])?;
        let origin = srt_call::Origin::start("127.0.0.1:0".parse()?, 1 << 20)?;
        origin.register_at(proxy.system_api(), "origin")?;
        let server = SocketAddr::from(([127, 0, 0, 1], any));
        let caller = Caller::call(server, 9, "#!::r=live/show", SOON)?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_broadcast(true)?;
        for ip in ["127.255.255.255", "224.0.0.1", "127.0.0.77"] {
            // Some hosts have no way there.
            let _ = socket.send_to(&Handshake::induction(5).bytes(), (ip, any));
        }
        caller.must_echo(SOON)?;
        // At an address of the host that is not the one it has called.
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut buffer = [0; 100];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            println!("{length} bytes from {from}");
        }
        let another = Caller::call(server, 10, "#!::r=live/show", SOON)?;
        another.must_echo(SOON)
    })
}

#[test]
fn an_origin_that_is_the_proxy_itself_makes_no_circle() -> Result<()> {
    story(|folder| {
        let any = srs_proxy_tests::ports::free()?.port();
        let webrtc = srs_proxy_tests::ports::free()?.port();
        let listen =
            [("PROXY_SRT_SERVER", any.to_string()), ("PROXY_WEBRTC_SERVER", webrtc.to_string())];
        let variables = listen.each_ref().map(|(name, value)| (*name, value.as_str()));
        let proxy = Proxy::start(folder, &variables)?;
        // By an address of this host that is not on loopback.
        let probe = UdpSocket::bind("0.0.0.0:0")?;
        let Some(ip) = probe.connect("192.0.2.1:9").ok().and_then(|()| probe.local_addr().ok())
        else {
            return srs_proxy_tests::skip("this host has no address but loopback");
        };
        let ip = ip.ip();
        let body = format!(
            r#"{{"ip":"{ip}","server":"vid-self","service":"self","pid":"1","rtmp":["1"],"srt":["udp://{ip}:{any}"]}}"#
        );
        let answer =
            srs_proxy_tests::http::post(proxy.system_api(), "/api/v1/srs/register", &body)?;
        ensure!(answer.status == 200, "{}", answer.body);
        let server = SocketAddr::from(([127, 0, 0, 1], any));
        let before = usage::descriptors(proxy.process.id())?;
        let called = Caller::call(server, 9, "#!::r=live/show", Duration::from_secs(3));
        let error = called.err().context("nobody is there who could have answered")?;
        ensure!(format!("{error:#}").ends_with("rejected with 2502"), "{error:#}");
        wait::until_true("no session is left", 2 * SOON, || Ok(proxy.sessions()?.is_empty()))?;
        let ends = proxy.metric("srs_proxy_session_ends_total", &[("protocol", "srt")])?;
        ensure!(ends == 1, "{ends} sessions of one call");
        ensure!(usage::descriptors(proxy.process.id())? <= before + 4, "descriptors are left");
        Ok(())
    })
}
