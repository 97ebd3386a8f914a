//! A look of this proxy's own at an origin that another one cannot reach.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::origin::{Listener, Origin, Service};

/// Whether an origin accepts connections for a service, by any of its endpoints for it. None if that
/// cannot be found out: a server of SRT answers nobody who has nothing to ask.
pub(super) async fn probe(origin: &Origin, service: Service) -> Option<bool> {
    let listeners = match service {
        Service::Streams => [Listener::Rtmp, Listener::Http].as_slice(),
        Service::Api => [Listener::Api].as_slice(),
        Service::Srt => return None,
    };
    let targets = listeners.iter().flat_map(|listener| origin.targets(*listener));
    let targets: Vec<_> = targets.take(MAX_TARGETS).collect();
    if targets.is_empty() {
        return None;
    }
    for target in targets {
        if matches!(timeout(PATIENCE, TcpStream::connect(target)).await, Ok(Ok(_))) {
            return Some(true);
        }
    }
    Some(false)
}

/// For one connection. The others wait for what this proxy says.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Most endpoints that are tried.
const MAX_TARGETS: usize = 2;
