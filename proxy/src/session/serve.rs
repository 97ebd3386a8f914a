//! From an admitted client to its session's end.

use std::future::Future;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::{End, Live, Protocol};

/// Serves the clients of one protocol.
pub trait Serve: Send + Sync + 'static {
    /// What they speak.
    const PROTOCOL: Protocol;

    /// Serves one client for as long as its session lives.
    fn run(&self, client: TcpStream, live: &Live) -> impl Future<Output = End> + Send;
}

/// Serves one client until the session's end, or `stop`.
///
/// What the session waits with while its media flows is this future: all that is needed only before
/// or behind is to be boxed by those who await it.
pub fn serve<S: Serve>(
    service: Arc<S>,
    client: TcpStream,
    live: Live,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let span = info_span!("session", id = %live.session().id);
    let session = async move {
        let end = tokio::select! {
            end = service.run(client, &live) => end,
            () = stop.cancelled() => End::Shutdown,
        };
        live.end(end);
    };
    session.instrument(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::http::Http;
    use crate::session::rtmp::Rtmp;

    /// Bytes of what a session waits with. It aims at 2 KiB in all, and half of them are its record,
    /// its route and its sockets; a buffer held across an await, or a stage that is not boxed, shows
    /// here.
    const MOST: usize = 768;

    fn size<S, F>(_: impl FnOnce(Arc<S>, TcpStream, Live, CancellationToken) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_session_waits_with_little() {
        for (protocol, bytes) in
            [(Protocol::Rtmp, size(serve::<Rtmp>)), (Protocol::Http, size(serve::<Http>))]
        {
            assert!(bytes <= MOST, "{}: {bytes} bytes", protocol.as_str());
        }
    }
}
