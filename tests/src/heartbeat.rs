//! Registration of an origin with a proxy, as SRS's heartbeat does it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use serde_json::{Map, Value};

use crate::http;

/// Registers an origin on loopback under this name, by the address of the proxy's system API.
///
/// `listeners` are names of SRS's listeners, such as `api`, each with one endpoint. An origin that
/// has no `rtmp`, which the registration demands, is given a port on which nobody listens.
pub fn register(proxy: SocketAddr, name: &str, listeners: &[(&str, String)]) -> Result<()> {
    register_host(Ipv4Addr::LOCALHOST.into(), proxy, name, listeners)
}

/// The same of an origin on any host.
pub fn register_host(
    host: IpAddr,
    proxy: SocketAddr,
    name: &str,
    listeners: &[(&str, String)],
) -> Result<()> {
    let endpoints = listeners.iter().map(|(listener, endpoint)| (*listener, endpoint.as_str()));
    let mut body = Map::new();
    for (listener, endpoint) in [("rtmp", "1")].into_iter().chain(endpoints) {
        body.insert(listener.to_owned(), vec![endpoint].into());
    }
    let ip = host.to_string();
    let server = format!("vid-{name}");
    for (member, text) in
        [("ip", ip.as_str()), ("server", &server), ("service", name), ("pid", "1")]
    {
        body.insert(member.to_owned(), text.into());
    }
    let answer = http::post(proxy, "/api/v1/srs/register", &Value::from(body).to_string())?;
    ensure!(answer.status == 200, "{name}: {} {}", answer.status, answer.body);
    Ok(())
}
