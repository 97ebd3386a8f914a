//! From an admitted client to its session's end.

use std::future::Future;

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
pub async fn serve<S: Serve>(service: &S, client: TcpStream, live: Live, stop: &CancellationToken) {
    let span = info_span!("session", id = %live.session().id);
    let session = async {
        let end = tokio::select! {
            end = service.run(client, &live) => end,
            () = stop.cancelled() => End::Shutdown,
        };
        live.end(end);
    };
    session.instrument(span).await;
}
