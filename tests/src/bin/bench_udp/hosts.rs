//! Clients, relay and origin on hosts of their own, with a router between clients and relay: network
//! namespaces and veth pairs. There the kernel can forward in a relay's place.

use std::path::Path;

use anyhow::Result;
use srs_proxy_tests::bench::udp::{Load, Pace, Way};
use srs_proxy_tests::bench::{self, Bench, Case, Column, Contender, Forwarded, Relay};
use srs_proxy_tests::http;
use srs_proxy_tests::netns::Family;
use srs_proxy_tests::proxy::{self, Proxy};

use crate::origin::{Datagrams, Origin};
use crate::{DIRECT, VIDEO};

pub(crate) fn bench(bench: &Bench) -> Result<()> {
    let contenders = [DIRECT, RELAY, TC, XDP, NGINX];
    bench.run(&Datagrams { has_hosts: true }, CASES, &contenders)
}

const CASES: &[Case<Load>] = &[
    Case {
        name: "paths",
        title: "Between hosts: 200 players of 2 Mb/s, 30 frames a second of 8 packets each",
        load: Load { way: Way::ToClients, pace: VIDEO, has_echo: false },
        clients: 200,
        tables: &[COST],
        aims: &[],
    },
    Case {
        name: "paths-publish",
        title: "Between hosts: 200 publishers of 2 Mb/s, 30 frames a second of 8 packets each",
        load: Load { way: Way::ToOrigin, pace: VIDEO, has_echo: false },
        clients: 200,
        tables: &[COST],
        aims: &[],
    },
    Case {
        name: "paths-latency",
        title: "Between hosts: 1 player of 50 Mb/s, and a packet every millisecond that the origin \
                sends back",
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
            Column::InKernel,
            Column::Lost,
        ]],
        aims: &[],
    },
];

const COST: &[Column] = &[
    Column::MachinePerPacket,
    Column::AddedPerPacket,
    Column::InKernel,
    Column::Lost,
    Column::Packets,
];

const RELAY: Contender<Origin> = Contender {
    name: "srs-proxy relay",
    is_reference: true,
    start: |folder, origin| srs_proxy(folder, origin, "off"),
};

const TC: Contender<Origin> = Contender {
    name: "srs-proxy TC",
    is_reference: false,
    start: |folder, origin| srs_proxy(folder, origin, "tc"),
};

const XDP: Contender<Origin> = Contender {
    name: "srs-proxy XDP",
    is_reference: false,
    start: |folder, origin| srs_proxy(folder, origin, "xdp"),
};

const NGINX: Contender<Origin> = Contender { name: "nginx", is_reference: true, start: nginx };

fn srs_proxy(folder: &Path, origin: &Origin, mode: &str) -> Result<Relay> {
    let proxy = start(folder, origin, mode)?;
    let (signalling, media, api) = (proxy.http_api(), proxy.webrtc(), proxy.system_api());
    let home = origin.network()?.proxy.clone();
    let forwarded = move || {
        let text = home.within(|| http::get(api, "/metrics"))?.body;
        Ok(proxy::sum(&text, "srs_proxy_kernel_packets_total", &[("reason", "forwarded")]))
    };
    let forwarded: Option<Forwarded> = (mode != "off").then(|| Box::new(forwarded) as _);
    let relay = Relay::new(proxy.process, media);
    Ok(Relay { signalling: Some(signalling), forwarded, ..relay })
}

/// The proxy between clients and this origin, with this `PROXY_EBPF_MODE`.
pub(crate) fn start(folder: &Path, origin: &Origin, mode: &str) -> Result<Proxy> {
    let network = origin.network()?;
    let variables = [
        ("PROXY_LOG", "warn"),
        ("PROXY_EBPF_MODE", mode),
        ("PROXY_MAX_SESSIONS_PER_CLIENT", "10000"),
    ];
    let address = network.proxy_address(Family::V4);
    let proxy = Proxy::start_in(&network.proxy, address, folder, &variables)?;
    origin.register_at(&proxy)?;
    Ok(proxy)
}

fn nginx(folder: &Path, origin: &Origin) -> Result<Relay> {
    let (network, origin) = (origin.network()?, origin.media.address()?);
    network.proxy.within(|| {
        bench::nginx_udp(folder, network.proxy_address(Family::V4), |listen| {
            format!(
                "listen {listen} udp reuseport rcvbuf=4m; proxy_pass {origin}; proxy_timeout 30s;"
            )
        })
    })
}
