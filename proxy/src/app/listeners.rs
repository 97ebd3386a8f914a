//! Everything that clients and origins come to: bound all or none.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tracing::info;

use crate::config::{Config, ListenAddrs};
use crate::listen::tcp::{self, Bound};
use crate::listen::udp::{self, Group};
use crate::plane::datagram::Socket;

/// Listeners and sockets, in the order of the configuration.
pub(super) struct Listeners {
    pub(super) rtmp: Vec<TcpListener>,
    pub(super) http: Vec<TcpListener>,
    pub(super) http_api: Vec<TcpListener>,
    pub(super) system_api: Vec<TcpListener>,
    pub(super) webrtc_tcp: Vec<TcpListener>,
    pub(super) webrtc: Datagrams,
    pub(super) srt: Datagrams,
}

/// The sockets of a protocol over UDP.
pub(super) struct Datagrams {
    /// Where they are; several sockets share each.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) sockets: Vec<Arc<Socket>>,
}

impl Listeners {
    /// Binds everything, or says what cannot be.
    pub(super) fn bind(config: &Config) -> anyhow::Result<Self> {
        let rtmp = bind("PROXY_RTMP_SERVER", &config.rtmp.listen)?;
        let http = bind("PROXY_HTTP_SERVER", &config.http.listen)?;
        let http_api = bind("PROXY_HTTP_API", &config.http.api)?;
        let system_api = bind("PROXY_SYSTEM_API", &config.system_api.listen)?;
        let webrtc_tcp = config.webrtc.listen_tcp.as_ref();
        let webrtc_tcp = webrtc_tcp.map(|listen| bind("PROXY_WEBRTC_TCP_SERVER", listen));
        let webrtc_tcp = webrtc_tcp.transpose()?.unwrap_or_default();
        let webrtc = bind_udp("PROXY_WEBRTC_SERVER", &config.webrtc.listen)?;
        let srt = bind_udp("PROXY_SRT_SERVER", &config.srt.listen)?;
        // Not before all are bound: nobody is let in by a proxy that cannot start.
        Ok(Self {
            rtmp: listen("PROXY_RTMP_SERVER", rtmp)?,
            http: listen("PROXY_HTTP_SERVER", http)?,
            http_api: listen("PROXY_HTTP_API", http_api)?,
            system_api: listen("PROXY_SYSTEM_API", system_api)?,
            webrtc_tcp: listen("PROXY_WEBRTC_TCP_SERVER", webrtc_tcp)?,
            webrtc: open("PROXY_WEBRTC_SERVER", webrtc, config.udp_buffer)?,
            srt: open("PROXY_SRT_SERVER", srt, config.udp_buffer)?,
        })
    }

    /// Every address on which TCP is accepted.
    pub(super) fn tcp_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let Self { rtmp, http, http_api, system_api, webrtc_tcp, .. } = self;
        let all = [rtmp, http, http_api, system_api, webrtc_tcp].into_iter().flatten();
        all.map(TcpListener::local_addr).collect()
    }
}

/// Where they are.
pub(super) fn addresses(listeners: &[TcpListener]) -> io::Result<Vec<SocketAddr>> {
    listeners.iter().map(TcpListener::local_addr).collect()
}

fn bind(name: &'static str, addresses: &ListenAddrs) -> anyhow::Result<Vec<Bound>> {
    tcp::bind(addresses).with_context(|| format!("{name}=\"{addresses}\""))
}

fn listen(name: &'static str, bound: Vec<Bound>) -> anyhow::Result<Vec<TcpListener>> {
    let listen = |bound: Bound| {
        let listener = bound.listen().with_context(|| format!("{name}: cannot listen"))?;
        info!(server = name, address = %listener.local_addr()?, "listening");
        Ok(listener)
    };
    bound.into_iter().map(listen).collect()
}

fn bind_udp(name: &'static str, addresses: &ListenAddrs) -> anyhow::Result<Vec<Group>> {
    udp::bind(addresses).with_context(|| format!("{name}=\"{addresses}\""))
}

fn open(name: &'static str, groups: Vec<Group>, buffer: usize) -> anyhow::Result<Datagrams> {
    let (mut addresses, mut sockets) = (Vec::new(), Vec::new());
    for group in groups {
        let address = group.address();
        let opened = group.open(buffer).with_context(|| format!("{name}: cannot listen"))?;
        let given = opened.first().map(|socket| socket.buffer()).transpose()?;
        info!(server = name, %address, sockets = opened.len(), buffer = given, "listening");
        addresses.push(address);
        sockets.extend(opened);
    }
    Ok(Datagrams { addresses, sockets })
}
