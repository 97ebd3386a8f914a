//! A scripted media server, its clients, and where both are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use srs_proxy_tests::bench::udp::{Answer, Load, Opener, OriginSocket, Way};
use srs_proxy_tests::bench::{Client, Relay, Scene};
use srs_proxy_tests::netns::{Arms, Checksums, Family, Network};
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::{http, raw};

/// Its WHIP and WHEP, and its socket.
pub(crate) struct Origin {
    pub(crate) http: raw::Origin,
    pub(crate) media: OriginSocket,
    /// Where it is, unless all are on loopback.
    pub(crate) network: Option<Network>,
}

impl Origin {
    /// On loopback.
    pub(crate) fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), None)
    }

    /// On a host of its own, which clients reach by way of the proxy's: there is a route.
    pub(crate) fn start_in(network: Network) -> Result<Self> {
        let (host, gateway) = (network.origin_address(V4), network.proxy_address(V4));
        network.router.ip(&format!("route add {host} via {gateway}"))?;
        network.proxy.set("ipv4/conf/all/forwarding", "1")?;
        let home = network.origin.clone();
        home.within(|| Self::start_at(host, Some(network)))
    }

    fn start_at(host: IpAddr, network: Option<Network>) -> Result<Self> {
        let media = OriginSocket::bind(host, PASSWORD)?;
        let (port, count) = (media.address()?.port(), AtomicUsize::new(0));
        let http = raw::Origin::start_at(host, move |request, exchange| {
            ensure!(request.method() == "POST", "{}", request.method());
            let number = count.fetch_add(1, Ordering::Relaxed);
            let ufrag = format!("origin{number:04}");
            let sdp = sdp("passive", &ufrag, PASSWORD)
                + &format!("a=candidate:0 1 udp 2130706431 {host} {port} typ host\r\n");
            let lines = format!(
                "Content-Type: application/sdp\r\nLocation: /rtc/v1/whip/?session={ufrag}\r\n"
            );
            exchange.answer("201 Created", &lines, sdp)
        })?;
        Ok(Self { http, media, network })
    }

    /// Makes it known to a proxy.
    pub(crate) fn register_at(&self, proxy: &Proxy) -> Result<()> {
        let (api, rtc) = (self.http.address().port(), self.media.address()?.port());
        let body = json!({
            "ip": self.http.address().ip(),
            "server": "vid-bench",
            "service": "bench",
            "pid": "1",
            "rtmp": [api.to_string()],
            "api": [api.to_string()],
            "rtc": [format!("udp://0.0.0.0:{rtc}")],
        });
        let register = || http::post(proxy.system_api(), "/api/v1/srs/register", &body.to_string());
        let answer = proxy.within(register)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(())
    }

    /// The network of an origin that has one.
    pub(crate) fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("all are on loopback")
    }
}

/// Origin and clients of a load.
pub(crate) struct Datagrams {
    /// Whether clients, relay and origin are on hosts of their own.
    pub(crate) has_hosts: bool,
}

impl Scene for Datagrams {
    type Load = Load;
    type Origin = Origin;
    type Hint = Opener;

    fn origin(&self, _: &Load) -> Result<Origin> {
        if !self.has_hosts {
            return Origin::start();
        }
        let network = Network::start(Arms::Two, Checksums::Whole)?;
        Origin::start_in(network.context("without network namespaces there is no such figure")?)
    }

    fn try_out(&self, load: &Load, origin: &Origin, relay: &Relay) -> Result<Opener> {
        let home = origin.network.as_ref().map(|network| network.client.clone());
        let opener = Opener::new(*load, &origin.media, home, ask);
        opener.try_out(relay)?;
        Ok(opener)
    }

    fn clients(&self, opener: &Opener, relay: &Relay, count: usize) -> Result<Vec<Client>> {
        Ok(vec![opener.client(relay, count)?])
    }
}

/// Asks for the session of this number by WHIP or WHEP.
pub(crate) fn ask(signalling: SocketAddr, ufrag: &str, number: usize, way: Way) -> Result<Answer> {
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
const V4: Family = Family::V4;
