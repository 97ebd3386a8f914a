//! What relaying UDP costs: our proxy's WebRTC beside nginx, socat and the kernel's own forwarding,
//! same machine, same run.
//!
//! Usage: `bench_udp [rounds] [seconds] [case]`; the cases are those of `cargo xtask bench udp
//! --case`. nginx has as many workers as there are cores, the proxy as many threads. Only the
//! proxy's sessions have ICE: an offer and an answer over HTTP, and a binding request every five
//! seconds. socat has a process for each client, so it is there only where there is one. What has
//! to do with the kernel's packet path wants root, network namespaces, and the programs, which
//! `SRS_PROXY_BPF_OBJECT` names.

mod hosts;
mod origin;
mod sessions;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use srs_proxy_tests::bench::udp::{Load, Pace, Way};
use srs_proxy_tests::bench::{self, Bench, Case, Column, Contender, Relay, ebpf};
use srs_proxy_tests::ports;
use srs_proxy_tests::process::{self, Process};
use srs_proxy_tests::proxy::Proxy;

use self::origin::{Datagrams, Origin};

fn main() -> Result<()> {
    let bench = Bench::from_arguments()?;
    bench.introduce(&[("nginx", "-v"), ("socat", "-V")])?;
    println!("- packets of 1,100 bytes, each sent for itself; clients and origin are one thread");
    println!("- CPU time is the relay's, user and system; interrupts, and what the kernel does in");
    println!("  them for a packet, are in it only as far as this kernel charges them to a process");
    println!("- direct: clients and origin without a relay; added: beyond that, in the same round");
    println!("- socat has a process for each client: it takes part in the cases of one session");
    println!(
        "- between hosts: network namespaces, with a router between clients and relay; CPU time"
    );
    println!("  is that of the whole machine, and added what is beyond direct in the same round");
    let loopback = Datagrams { has_hosts: false };
    bench.run(&loopback, MANY, &[DIRECT, SRS_PROXY, NGINX])?;
    bench.run(&loopback, ONE, &[DIRECT, SRS_PROXY, NGINX, SOCAT])?;
    hosts::bench(&bench)?;
    bench.figures("sessions", "New sessions with the kernel's packet path (TC)", || {
        sessions::figures(bench.folder())
    })?;
    bench.figures("programs", "The kernel's programs alone, by test runs", ebpf::programs)?;
    bench.figures("frames", "Live frames through a hop, on one core", ebpf::frames)
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
        tables: &[COST],
        aims: &[],
    },
    Case {
        name: "publish",
        title: "200 publishers of 2 Mb/s, 30 frames a second of 8 packets each",
        load: Load { way: Way::ToOrigin, pace: VIDEO, has_echo: false },
        clients: 200,
        tables: &[COST],
        aims: &[],
    },
    Case {
        name: "flood",
        title: "4 players, as fast as they go, 64 packets of each on the way",
        load: Load { way: Way::ToClients, pace: AS_FAST_AS_THEY_GO, has_echo: false },
        clients: 4,
        tables: &[FLOOD],
        aims: &[],
    },
];

const ONE: &[Case<Load>] = &[
    Case {
        name: "single",
        title: "1 player, as fast as it goes, 64 packets on the way",
        load: Load { way: Way::ToClients, pace: AS_FAST_AS_THEY_GO, has_echo: false },
        clients: 1,
        tables: &[FLOOD],
        aims: &[],
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
        tables: &[&[
            Column::RoundTripP50,
            Column::RoundTripP99,
            Column::AddedP50,
            Column::AddedP99,
            Column::CpuPerPacket,
            Column::Lost,
        ]],
        aims: &[],
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
    origin.register_at(&proxy)?;
    Ok(Relay { signalling: Some(signalling), ..Relay::new(proxy.process, media) })
}

fn nginx(folder: &Path, origin: &Origin) -> Result<Relay> {
    let origin = origin.media.address()?;
    // Without `reuseport` a worker gets packets of another one's sessions, and opens new ones.
    bench::nginx_udp(folder, Ipv4Addr::LOCALHOST.into(), |listen| {
        format!("listen {listen} udp reuseport rcvbuf=4m; proxy_pass {origin}; proxy_timeout 30s;")
    })
}

fn socat(folder: &Path, origin: &Origin) -> Result<Relay> {
    let (address, origin) = (ports::free()?, origin.media.address()?);
    let mut command = Command::new(process::find("socat")?);
    // Its process for a client knows no end but silence.
    command.args(["-T", "10"]);
    command.arg(format!("UDP4-LISTEN:{},bind={},fork", address.port(), address.ip()));
    command.arg(format!("UDP4:{origin}"));
    Ok(Relay::new(Process::start(&mut command, folder, "socat")?, address))
}
