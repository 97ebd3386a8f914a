//! An origin in a few bytes, as one process leaves it to the next.

use serde::{Deserialize, Serialize};

use super::origin::{Endpoint, Listener, Origin, OriginHost, OriginId, ServerName, Transport};
use super::registration::BadRegistration;

/// What is kept of an origin: all that its heartbeat has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptOrigin {
    server: String,
    service: String,
    pid: String,
    device_id: Option<String>,
    host: String,
    /// Of each listener, in the order of [`Listener::ALL`]: whether it is of TCP, and the port.
    endpoints: [Vec<(bool, u16)>; Listener::ALL.len()],
}

impl KeptOrigin {
    /// What is to be kept of an origin.
    pub fn of(origin: &Origin) -> Self {
        let OriginId { server, service, pid } = origin.id();
        let endpoint = |it: &Endpoint| (it.transport == Transport::Tcp, it.port);
        Self {
            server: server.as_str().to_owned(),
            service: service.clone(),
            pid: pid.clone(),
            device_id: origin.device_id().map(str::to_owned),
            host: origin.host().as_str().to_owned(),
            endpoints: Listener::ALL
                .map(|listener| origin.endpoints(listener).iter().map(endpoint).collect()),
        }
    }

    /// The origin. The error is what no heartbeat could have said.
    pub fn origin(&self) -> Result<Origin, BadRegistration> {
        let host = OriginHost::parse(&self.host).map_err(|problem| problem.of("ip"))?;
        let server = ServerName::from(self.server.as_str());
        let id = OriginId { server, service: self.service.clone(), pid: self.pid.clone() };
        let mut origin = Origin::new(id, self.device_id.clone(), host);
        for (listener, endpoints) in Listener::ALL.into_iter().zip(&self.endpoints) {
            for (is_tcp, port) in endpoints {
                let scheme = if *is_tcp { "tcp" } else { "udp" };
                let endpoint = Endpoint::parse(listener, &format!("{scheme}://:{port}"));
                origin.add(listener, endpoint.map_err(|problem| problem.of(listener.as_str()))?);
            }
        }
        Ok(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::registration;

    #[test]
    fn what_is_kept_of_an_origin_makes_it_again() {
        let body = br#"{"ip": "origin.example", "server": "vid-1", "service": "x", "pid": 42,
            "rtmp": ["1935", "1936"], "api": ["1985"], "srt": ["10080"],
            "rtc": ["udp://:8000", "tcp://:8000"], "device_id": "one"}"#;
        let origin = registration::parse(body).unwrap();
        assert_eq!(KeptOrigin::of(&origin).origin().unwrap(), origin);
    }

    #[test]
    fn what_no_heartbeat_says_makes_no_origin() {
        let origin = Origin::fixed("192.0.2.1", &[(Listener::Srt, "10080")]).unwrap();
        let good = KeptOrigin::of(&origin);
        assert!(good.origin().is_ok());
        let nowhere = KeptOrigin { host: "0.0.0.0".into(), ..good.clone() };
        assert!(nowhere.origin().is_err());
        let mut endpoints = good.endpoints.clone();
        endpoints[Listener::Srt as usize] = vec![(false, 0)];
        assert!(KeptOrigin { endpoints, ..good }.origin().is_err(), "port 0");
    }
}
