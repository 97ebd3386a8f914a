//! Who the client is, as proxies in front say it and as origins are told.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::nginx::Nginx;
use srs_proxy_tests::process::{self, Process};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::{http, ports, story, wait};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(20);

/// A load balancer, and a host that is none.
const TRUSTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

const BEHIND_ONE: [(&str, &str); 2] =
    [("PROXY_TRUSTED_PROXIES", "127.0.0.2"), ("PROXY_PROTOCOL_ACCEPT", "on")];

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 1935\r\n";
/// `[2001:db8::7]:56324` came to `[2001:db8::1]:1935`, and a TLV.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x28\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
    \xdc\x04\x07\x8f\x04\0\x01\0";

/// A connection from this address that begins with these bytes.
fn begin(from: IpAddr, server: SocketAddr, bytes: &[u8]) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect(&server.into())?;
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(SOON))?;
    socket.set_nodelay(true)?;
    socket.write_all(bytes)?;
    Ok(socket)
}

fn must_be_closed(mut socket: TcpStream) -> Result<()> {
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error.into()),
        _ if !answer.is_empty() => bail!("it was answered {answer:?}"),
        _ => Ok(()),
    }
}

fn ended(proxy: &Proxy, reason: &str, times: u64) -> Result<()> {
    let what = format!("{times} sessions end as {reason}");
    wait::until_true(&what, SOON, || Ok(proxy.ends(reason)? >= times))
}

/// Clients of the live sessions, as the API shows them.
fn clients(proxy: &Proxy) -> Result<Vec<String>> {
    let all = proxy.get("/api/v1/sessions")?;
    let sessions = all.get("sessions").and_then(Value::as_array).context("no list of sessions")?;
    let client = |session: &Value| session.get("client").and_then(Value::as_str).map(str::to_owned);
    Ok(sessions.iter().filter_map(client).collect())
}

#[test]
fn the_client_is_who_a_trusted_proxy_says() -> Result<()> {
    story(|folder| {
        let origin = Origin::start(Script::Serve(Feed::Paced(1_000_000)))?;
        let proxy = Proxy::start(folder, &BEHIND_ONE)?;
        origin.register_at(proxy.system_api(), "origin")?;
        for (header, client) in [(V1, "192.0.2.7:56324"), (V2, "[2001:db8::7]:56324")] {
            let mut player = Client::connect_over(begin(TRUSTED, proxy.rtmp(), header)?)?;
            player.ask_to_play("a")?;
            player.read_bytes(100_000)?;
            assert_eq!(clients(&proxy)?, [client]);
            drop(player);
            wait::until_true("the session ends", SOON, || Ok(clients(&proxy)?.is_empty()))?;
        }
        // Its own connection, such as a health check that speaks RTMP.
        let socket = begin(TRUSTED, proxy.rtmp(), b"PROXY UNKNOWN\r\n")?;
        let own = socket.local_addr()?.to_string();
        let _check = Client::connect_over(socket)?;
        assert_eq!(clients(&proxy)?, [own]);
        Ok(())
    })
}

#[test]
fn nobody_can_make_up_an_address() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &BEHIND_ONE)?;
        must_be_closed(begin(STRANGER, proxy.rtmp(), V1)?)?;
        ended(&proxy, "not_the_protocol", 1)?;
        let socket = begin(STRANGER, proxy.rtmp(), b"")?;
        let own = socket.local_addr()?.to_string();
        let _honest = Client::connect_over(socket)?;
        assert_eq!(clients(&proxy)?, [own]);
        Ok(())
    })
}

#[test]
fn a_trusted_proxy_without_a_header_is_turned_away_and_counted() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &BEHIND_ONE)?;
        must_be_closed(begin(TRUSTED, proxy.rtmp(), &[3, 0, 0, 0, 0, 0, 0, 0, 0])?)?;
        must_be_closed(begin(TRUSTED, proxy.rtmp(), b"PROXY TCP4 192.0.2.7\r\n")?)?;
        ended(&proxy, "bad_proxy_header", 2)?;
        let log = proxy.process.log();
        ensure!(log.contains("bad_proxy_header"), "the log does not tell: {log}");
        // A check that the port is open says nothing, and is no fault.
        drop(begin(TRUSTED, proxy.rtmp(), b"")?);
        ended(&proxy, "client_closed", 1)
    })
}

#[test]
fn a_slow_header_delays_nobody_and_has_its_time() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &BEHIND_ONE)?;
        let start = Instant::now();
        let slow: Vec<_> =
            (0..20).map(|_| begin(TRUSTED, proxy.rtmp(), &V2[..20])).collect::<Result<_>>()?;
        let _quick = Client::connect_over(begin(TRUSTED, proxy.rtmp(), V1)?)?;
        let _plain = Client::connect(proxy.rtmp())?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(2), "two handshakes took {took:?}");
        for socket in slow {
            must_be_closed(socket)?;
        }
        ended(&proxy, "bad_proxy_header", 20)
    })
}

#[test]
fn behind_a_trusted_proxy_each_client_has_its_own_limit() -> Result<()> {
    story(|folder| {
        let limit = ("PROXY_MAX_SESSIONS_PER_CLIENT", "1");
        let proxy = Proxy::start(folder, &[BEHIND_ONE[0], BEHIND_ONE[1], limit])?;
        let _first = Client::connect_over(begin(TRUSTED, proxy.rtmp(), V1)?)?;
        let _other = Client::connect_over(begin(TRUSTED, proxy.rtmp(), V2)?)?;
        must_be_closed(begin(TRUSTED, proxy.rtmp(), V1)?)?;
        ended(&proxy, "too_many_from_client", 1)?;
        // One that names nobody is many clients.
        let plain = Proxy::start_named(folder, "plain", &[BEHIND_ONE[0], limit])?;
        let _one = Client::connect_over(begin(TRUSTED, plain.rtmp(), b"")?)?;
        let _two = Client::connect_over(begin(TRUSTED, plain.rtmp(), b"")?)?;
        Ok(())
    })
}

#[test]
fn nginx_learns_the_client_s_address() -> Result<()> {
    story(|folder| {
        let origin = Nginx::start_behind_proxies(folder, "origin")?;
        // A client by IPv6, as the proxy itself comes by IPv4.
        let (v4, port) = (ports::free()?, ports::free()?.port());
        let listen = format!("{v4},[::1]:{port}");
        let variables = [("PROXY_PROTOCOL_SEND", "v1"), ("PROXY_RTMP_SERVER", &listen)];
        let proxy = Proxy::start(folder, &variables)?;
        origin.register_at(proxy.system_api())?;
        let url = format!("rtmp://[::1]:{port}/live/told");
        let _publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        wait::until_true("the stream is published", SOON, || origin.has_publisher("told"))?;
        let source = ffmpeg::fixture_packets(folder)?;
        let player = ffmpeg::play(folder, "player", &url, Some(3))?;
        player.finish(A_WHILE)?.must_be_a_part_of(&source, 50)?;
        let log = origin.log();
        for event in ["publish: name='told'", "play: name='told'"] {
            let line = log.lines().find(|line| line.contains(event)).unwrap_or_default();
            ensure!(line.contains("client: ::1,"), "another client: {line}");
        }
        Ok(())
    })
}

/// The clients' HAProxy speaks version 2 to the proxy, and the proxy to the origin's HAProxy, which
/// says what it has heard to nginx in version 1.
#[test]
fn haproxy_in_front_and_behind_agree_on_the_client() -> Result<()> {
    story(|folder| {
        let origin = Nginx::start_behind_proxies(folder, "origin")?;
        let variables = [BEHIND_ONE[0], BEHIND_ONE[1], ("PROXY_PROTOCOL_SEND", "v2")];
        let proxy = Proxy::start(folder, &variables)?;
        let (front, behind) = (ports::free()?.port(), ports::free()?.port());
        let config = folder.join("haproxy.cfg");
        fs::write(
            &config,
            format!(
                "defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen front
    bind [::1]:{front}
    server proxy {} source {TRUSTED} send-proxy-v2
listen behind
    bind 127.0.0.1:{behind} accept-proxy
    server origin {} send-proxy
",
                proxy.rtmp(),
                origin.rtmp(),
            ),
        )?;
        let mut haproxy = Command::new(process::find("haproxy")?);
        let _haproxy =
            Process::start(haproxy.arg("-db").arg("-f").arg(&config), folder, "haproxy")?;
        let heartbeat = origin
            .heartbeat()
            .replace(&format!("\"{}\"", origin.rtmp().port()), &format!("\"{behind}\""));
        let answer = http::post(proxy.system_api(), "/api/v1/srs/register", &heartbeat)?;
        ensure!(answer.status == 200, "not registered: {}", answer.body);
        let front = SocketAddr::from((Ipv6Addr::LOCALHOST, front));
        let mut publisher =
            wait::until("a client gets through", SOON, || Ok(Client::publish(front, "told").ok()))?;
        publisher.send_video(1000)?;
        let shown = clients(&proxy)?;
        ensure!(shown == [publisher.socket().local_addr()?.to_string()], "shown: {shown:?}");
        let log = origin.log();
        let line = log.lines().find(|line| line.contains("publish: name='told'"));
        ensure!(line.is_some_and(|line| line.contains("client: ::1,")), "another client: {line:?}");
        Ok(())
    })
}
