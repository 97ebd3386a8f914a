//! Serves the router, within bounds: who sends slowly, or opens many connections, takes only
//! its own share.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::answer::{Refusal, signed};
use super::gate::{ClientIp, is_allowed};
use crate::listen::{Arrival, Entrance, source};

/// Answers on all these listeners until it is stopped; then what is being answered has two
/// seconds to end.
///
/// Addresses outside of `allow`, which may only ask for the health, share a few connections of
/// their own, so that they cannot take those of the origins.
pub async fn serve(
    listeners: Vec<TcpListener>,
    entrance: Arc<Entrance>,
    router: Router,
    allow: Vec<IpNet>,
    stop: CancellationToken,
) {
    serve_within(Limits::default(), listeners, entrance, router, allow, stop).await;
}

/// What a client can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections in total. More wait in the kernel.
    pub(super) connections: u32,
    /// Connections of all addresses that are not allowed, and of one of them. More are closed.
    pub(super) strangers: u32,
    pub(super) per_stranger: usize,
    /// Connections of one client. More are closed.
    pub(super) per_client: usize,
    /// For the head of a request, and between two requests.
    pub(super) head: Duration,
    /// From the head to the answer.
    pub(super) request: Duration,
    /// Of a connection, whatever it does.
    pub(super) connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            strangers: 16,
            per_stranger: 4,
            per_client: 64,
            head: Duration::from_secs(10),
            request: Duration::from_secs(10),
            connection: Duration::from_mins(1),
        }
    }
}

pub(super) async fn serve_within(
    limits: Limits,
    listeners: Vec<TcpListener>,
    entrance: Arc<Entrance>,
    router: Router,
    allow: Vec<IpNet>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections as usize));
    let strangers = Arc::new(Semaphore::new(limits.strangers as usize));
    let clients = Mutex::default();
    let desk = Arc::new(Desk { limits, entrance, router, allow, strangers, stop, clients });
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&desk), Arc::clone(&slots)));
    }
    accepting.join_all().await;
    // Each connection has a slot: all are free when all have ended.
    let all_ended = async {
        let _all = slots.acquire_many(limits.connections).await;
        let _all = desk.strangers.acquire_many(limits.strangers).await;
    };
    if timeout(LAST_ANSWERS, all_ended).await.is_err() {
        tracing::debug!("API connections left open at the end");
    }
}

/// Bytes of a request's head, and of what is read of its body at once.
const MAX_HEAD: usize = 64 * 1024;

/// For answers that are being written when the connection is to end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What the connections share.
struct Desk {
    limits: Limits,
    entrance: Arc<Entrance>,
    router: Router,
    allow: Vec<IpNet>,
    strangers: Arc<Semaphore>,
    stop: CancellationToken,
    /// Connections per client; one without any has no entry.
    clients: Mutex<HashMap<IpAddr, usize>>,
}

async fn accept(listener: TcpListener, desk: Arc<Desk>, slots: Arc<Semaphore>) {
    // A moment for descriptors or memory to come free.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            () = desk.stop.cancelled() => return,
        };
        match (slot, accepted) {
            (Ok(slot), Ok((stream, peer))) => {
                tokio::spawn(receive(Arc::clone(&desk), stream, peer, slot));
            }
            (_, Err(error)) => {
                tracing::debug!(%error, "API accept failed");
                sleep(PAUSE).await;
            }
            (Err(_), _) => return,
        }
    }
}

/// Finds out who has come, and answers if there is a place.
async fn receive(desk: Arc<Desk>, stream: TcpStream, peer: SocketAddr, slot: OwnedSemaphorePermit) {
    let Arrival { socket, ends, .. } = match desk.entrance.receive(stream, peer).await {
        Ok(arrival) => arrival,
        Err(error) => return tracing::debug!(%peer, %error, "API connection refused"),
    };
    let client = ClientIp::from(ends.source);
    let (slot, most) = if is_allowed(&desk.allow, client) {
        (Some(slot), desk.limits.per_client)
    } else {
        let slot = Arc::clone(&desk.strangers).try_acquire_owned();
        (slot.ok(), desk.limits.per_stranger)
    };
    if let Some((slot, place)) = slot.zip(Place::take(&desk, client.into(), most)) {
        answer(socket, client, place, slot).await;
    }
}

/// One connection's place among those of its client.
struct Place {
    desk: Arc<Desk>,
    ip: IpAddr,
}

impl Place {
    fn take(desk: &Arc<Desk>, ip: IpAddr, most: usize) -> Option<Self> {
        let ip = source(ip);
        let mut clients = desk.clients.lock();
        let taken = clients.entry(ip).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Self { desk: Arc::clone(desk), ip })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.desk.clients.lock();
        if let Some(taken) = clients.get_mut(&self.ip) {
            *taken -= 1;
            if *taken == 0 {
                clients.remove(&self.ip);
            }
        }
    }
}

/// Answers one connection. It holds its place and its slot to the end.
async fn answer(stream: TcpStream, client: ClientIp, place: Place, _slot: OwnedSemaphorePermit) {
    let Limits { head, request: deadline, connection: life, .. } = place.desk.limits;
    let router = TowerToHyperService::new(place.desk.router.clone());
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(client);
        let answer = router.call(request);
        async move {
            if let Ok(answer) = timeout(deadline, answer).await {
                return answer;
            }
            let refusal = Refusal::new(StatusCode::REQUEST_TIMEOUT, "body: too slow");
            Ok::<_, Infallible>(signed(refusal.into_response()).await)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(MAX_HEAD);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // However it ended, there is nobody left to tell.
        _ = connection.as_mut() => return,
        () = place.desk.stop.cancelled() => {}
        () = sleep(life) => {}
    }
    connection.as_mut().graceful_shutdown();
    timeout(LAST_ANSWERS, connection).await.ok();
}
