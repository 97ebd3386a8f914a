//! What relaying UDP costs: our proxy's WebRTC beside nginx and socat, same machine, same run.
//!
//! Usage: `bench_udp [rounds] [seconds] [play|publish|flood|single|latency]`. nginx has as many
//! workers as there are cores, the proxy as many threads. Only the proxy's sessions have ICE: an
//! offer and an answer over HTTP, and a binding request every five seconds. socat has a process for
//! each client, so it is there only where there is one.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use srs_proxy_tests::bench::udp::{Answer, Load, Opener, OriginSocket, Pace, Way};
use srs_proxy_tests::bench::{self, Bench, Case, Client, Column, Contender, Relay, Scene};
use srs_proxy_tests::process::{self, Process};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::{http, ports, raw};

fn main() -> Result<()> {
    let bench = Bench::from_arguments()?;
    bench.introduce(&[("nginx", "-v"), ("socat", "-V")])?;
    println!("- packets of 1,100 bytes, each sent for itself; clients and origin are one thread");
    println!("- CPU time is the relay's, user and system; interrupts, and what the kernel does in");
    println!("  them for a packet, are in it only as far as this kernel charges them to a process");
    println!("- direct: clients and origin without a relay; added: beyond that, in the same round");
    println!("- socat has a process for each client: it takes part in the cases of one session");
    bench.run(&Datagrams, MANY, &[DIRECT, SRS_PROXY, NGINX])?;
    bench.run(&Datagrams, ONE, &[DIRECT, SRS_PROXY, NGINX, SOCAT])
}

const COST: &[Column] = &[Column::CpuPerPacket, Column::Lost, Column::Packets, Column::Memory];

const FLOOD: &[Column] = &[Column::PacketsPerCore, Column::Lost, Column::Packets];

/// Video of 30 frames a second, about 2 Mb/s.
const VIDEO: Pace = Pace::Bursts { packets: 8, per_second: 30 };

/// 64 packets on the way keep every relay busy, and fit into a socket's usual buffer.
const AS_FAST_AS_THEY_GO: Pace = Pace::Window { packets: 16, most: 64 };

const MANY: &[Case<Load>] = &[
    Case {
        name: "play",
        title: "200 players of 2 Mb/s, 30 frames a second of 8 packets each",
        load: Load { way: Way::ToClients, pace: VIDEO, has_echo: false },
        clients: 200,
        columns: COST,
    },
    Case {
        name: "publish",
        title: "200 publishers of 2 Mb/s, 30 frames a second of 8 packets each",
        load: Load { way: Way::ToOrigin, pace: VIDEO, has_echo: false },
        clients: 200,
        columns: COST,
    },
    Case {
        name: "flood",
        title: "4 players, as fast as they go, 64 packets of each on the way",
        load: Load { way: Way::ToClients, pace: AS_FAST_AS_THEY_GO, has_echo: false },
        clients: 4,
        columns: FLOOD,
    },
];

const ONE: &[Case<Load>] = &[
    Case {
        name: "single",
        title: "1 player, as fast as it goes, 64 packets on the way",
        load: Load { way: Way::ToClients, pace: AS_FAST_AS_THEY_GO, has_echo: false },
        clients: 1,
        columns: FLOOD,
    },
    Case {
        name: "latency",
        title: "1 player of 50 Mb/s, and a packet every millisecond that the origin sends back",
        load: Load {
            way: Way::ToClients,
            pace: Pace::Bursts { packets: 8, per_second: 710 },
            has_echo: true,
        },
        clients: 1,
        columns: &[
            Column::RoundTripP50,
            Column::RoundTripP99,
            Column::AddedP50,
            Column::AddedP99,
            Column::CpuPerPacket,
            Column::Lost,
        ],
    },
];

const DIRECT: Contender<Origin> = Contender {
    name: "direct",
    is_reference: false,
    start: |_, origin| Ok(Relay::none(origin.media.address()?)),
};

const SRS_PROXY: Contender<Origin> =
    Contender { name: "srs-proxy", is_reference: false, start: srs_proxy };

const NGINX: Contender<Origin> = Contender { name: "nginx", is_reference: true, start: nginx };

const SOCAT: Contender<Origin> = Contender { name: "socat", is_reference: true, start: socat };

fn srs_proxy(folder: &Path, origin: &Origin) -> Result<Relay> {
    let (signalling, media) = (ports::free()?, ports::free()?);
    let proxy = Proxy::start(
        folder,
        &[
            ("PROXY_LOG", "warn"),
            ("PROXY_HTTP_API", &signalling.to_string()),
            ("PROXY_WEBRTC_SERVER", &media.to_string()),
        ],
    )?;
    let (api, rtc) = (origin.http.address().port(), origin.media.address()?.port());
    let body = json!({
        "ip": origin.http.address().ip(),
        "server": "vid-bench",
        "service": "bench",
        "pid": "1",
        "rtmp": [api.to_string()],
        "api": [api.to_string()],
        "rtc": [format!("udp://0.0.0.0:{rtc}")],
    });
    let answer = http::post(proxy.system_api(), "/api/v1/srs/register", &body.to_string())?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    Ok(Relay { process: Some(proxy.process), address: media, signalling: Some(signalling) })
}

fn nginx(folder: &Path, origin: &Origin) -> Result<Relay> {
    let origin = origin.media.address()?;
    // Without `reuseport` a worker gets packets of another one's sessions, and opens new ones.
    bench::nginx_udp(folder, |listen| {
        format!("listen {listen} udp reuseport rcvbuf=4m; proxy_pass {origin}; proxy_timeout 30s;")
    })
}

fn socat(folder: &Path, origin: &Origin) -> Result<Relay> {
    let (address, origin) = (ports::free()?, origin.media.address()?);
    let mut command = Command::new(process::find("socat")?);
    command.arg(format!("UDP4-LISTEN:{},bind={},fork", address.port(), address.ip()));
    command.arg(format!("UDP4:{origin}"));
    Ok(Relay::new(Process::start(&mut command, folder, "socat")?, address))
}

/// A scripted media server: WHIP and WHEP, and its socket.
struct Origin {
    http: raw::Origin,
    media: OriginSocket,
}

impl Origin {
    fn start() -> Result<Self> {
        let media = OriginSocket::bind(PASSWORD)?;
        let (port, count) = (media.address()?.port(), AtomicUsize::new(0));
        let http = raw::Origin::start(move |request, exchange| {
            ensure!(request.method() == "POST", "{}", request.method());
            let number = count.fetch_add(1, Ordering::Relaxed);
            let ufrag = format!("origin{number:04}");
            let sdp = sdp("passive", &ufrag, PASSWORD)
                + &format!("a=candidate:0 1 udp 2130706431 127.0.0.1 {port} typ host\r\n");
            let lines = format!(
                "Content-Type: application/sdp\r\nLocation: /rtc/v1/whip/?session={ufrag}\r\n"
            );
            exchange.answer("201 Created", &lines, sdp)
        })?;
        Ok(Self { http, media })
    }
}

/// Origin and clients of a load.
struct Datagrams;

impl Scene for Datagrams {
    type Load = Load;
    type Origin = Origin;
    type Hint = Opener;

    fn origin(&self, _: &Load) -> Result<Origin> {
        Origin::start()
    }

    fn try_out(&self, load: &Load, origin: &Origin, relay: &Relay) -> Result<Opener> {
        let opener = Opener::new(*load, &origin.media, ask);
        opener.try_out(relay)?;
        Ok(opener)
    }

    fn clients(&self, opener: &Opener, relay: &Relay, count: usize) -> Result<Vec<Client>> {
        Ok(vec![opener.client(relay, count)?])
    }
}

/// Asks for the session of this number by WHIP or WHEP.
fn ask(signalling: SocketAddr, ufrag: &str, number: usize, way: Way) -> Result<Answer> {
    let kind = match way {
        Way::ToClients => "whep",
        Way::ToOrigin => "whip",
    };
    let offer = sdp("actpass", ufrag, "a-password-of-a-client-0");
    let mut client = raw::Client::connect(signalling)?;
    let target = format!("/rtc/v1/{kind}/?app=live&stream=stream{number}");
    let length = offer.len();
    let lines = format!("Content-Type: application/sdp\r\nContent-Length: {length}\r\n");
    client.ask("POST", &target, &lines)?;
    client.send(&offer)?;
    let answer = client.answer("POST")?;
    let sdp = answer.text();
    ensure!(answer.status() == 201, "{target}: {:?} {sdp}", answer.head);
    let line = |name: &str| {
        let value = sdp.lines().find_map(|line| line.strip_prefix(name));
        value.with_context(|| format!("no {name} in {sdp}"))
    };
    let candidate: Vec<_> = line("a=candidate:")?.split(' ').collect();
    let candidate = candidate.get(4..6).context("a short candidate")?.join(":");
    Ok(Answer {
        ufrag: line("a=ice-ufrag:")?.to_owned(),
        password: line("a=ice-pwd:")?.to_owned(),
        candidate: candidate.parse()?,
    })
}

/// A description of one video, but for its candidates.
fn sdp(setup: &str, ufrag: &str, password: &str) -> String {
    let fingerprint = ["5A"; 32].join(":");
    format!(
        "v=0\r\n\
         o=- 1 2 IN IP4 127.0.0.1\r\n\
         s=-\r\n\
         t=0 0\r\n\
         a=group:BUNDLE 0\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 96\r\n\
         c=IN IP4 0.0.0.0\r\n\
         a=mid:0\r\n\
         a=sendrecv\r\n\
         a=rtcp-mux\r\n\
         a=rtpmap:96 H264/90000\r\n\
         a=setup:{setup}\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\n\
         a=ice-ufrag:{ufrag}\r\n\
         a=ice-pwd:{password}\r\n"
    )
}

const PASSWORD: &str = "a-password-of-an-origin-";
