//! A session of the plane between two peers that a scenario plays.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use socket2::SockRef;
use srs_proxy::config::TcpEngine;
use srs_proxy::plane::{
    Carried, Closed, Flow, Leg, Meter, Outbox, Patience, StreamEngine, StreamPair, StreamPlane,
    StreamSettings, StreamStanding,
};
use srs_proxy_tests::skip;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Long enough for a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Within which a socket that takes nothing has shown it.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

/// Of a session that is to end by its legs alone.
pub(crate) const PATIENT: Patience = Patience { idle: SOON, stall: SOON };

/// Who plays at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    /// Other scenarios.
    Others,
    /// Nobody: what the process has is counted.
    Nobody,
}

/// One scenario by one engine.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) engine: StreamEngine,
    pub(crate) plane: StreamPlane,
}

/// Plays a scenario by an engine, or skips it where the host does not allow the engine.
pub(crate) fn play(
    engine: StreamEngine,
    company: Company,
    scenario: impl AsyncFnOnce(&Stage) -> Result<()>,
) -> Result<()> {
    let _turn = turn(company);
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let plane = start(engine, 2, 10_000);
        if plane.engine() != engine {
            return skip(&format!("not on this host: {:?}", plane.view().reason));
        }
        let stage = Stage { engine, plane };
        let played = timeout(LIMIT, scenario(&stage)).await;
        played.context("the scenario does not come to its end").flatten()
    })
}

/// A turn in this company, as long as it is held.
pub(crate) fn turn(company: Company) -> Turn {
    static TURNS: RwLock<()> = RwLock::new(());
    match company {
        Company::Others => {
            Turn::Shared { _turn: TURNS.read().unwrap_or_else(PoisonError::into_inner) }
        }
        Company::Nobody => {
            Turn::Alone { _turn: TURNS.write().unwrap_or_else(PoisonError::into_inner) }
        }
    }
}

/// The right to play.
#[derive(Debug)]
pub(crate) enum Turn {
    Shared { _turn: RwLockReadGuard<'static, ()> },
    Alone { _turn: RwLockWriteGuard<'static, ()> },
}

/// The plane by one engine.
pub(crate) fn start(engine: StreamEngine, threads: usize, room: usize) -> StreamPlane {
    let engine = match engine {
        StreamEngine::UringSplice => TcpEngine::Uring,
        StreamEngine::Splice => TcpEngine::Splice,
        StreamEngine::Relay => TcpEngine::Relay,
    };
    StreamPlane::start(&StreamSettings { engine, threads: Some(threads), room })
}

/// How a session begins.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) flow: Flow,
    pub(crate) patience: Patience,
    pub(crate) out: Outbox,
    /// Bytes of each socket's buffers; none for what the system makes of them.
    pub(crate) buffers: Option<u32>,
}

impl Terms {
    pub(crate) fn of(flow: Flow) -> Self {
        Self { flow, patience: PATIENT, out: Outbox::default(), buffers: None }
    }
}

/// A session that is carried, and the far ends of its legs.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: TcpStream,
    pub(crate) origin: TcpStream,
    pub(crate) meter: Arc<Meter>,
    pub(crate) carrying: Carrying,
}

/// The plane's side of it.
#[derive(Debug)]
pub(crate) struct Carrying {
    told: Arc<Mutex<Vec<StreamStanding>>>,
    carried: JoinHandle<Carried>,
}

impl Stage {
    /// A session of this flow, which is patient.
    pub(crate) async fn session(&self, flow: Flow) -> Result<Session> {
        Session::begin(&self.plane, Terms::of(flow)).await
    }

    /// Fails unless this session is carried by the stage's engine.
    pub(crate) fn must_carry(&self, session: &Session) -> Result<()> {
        let standing = session.carrying.standing().context("nobody carries it")?;
        ensure!(standing.engine == self.engine, "carried otherwise: {standing:?}");
        Ok(())
    }
}

impl Session {
    pub(crate) async fn begin(plane: &StreamPlane, terms: Terms) -> Result<Self> {
        let Terms { flow, patience, out, buffers } = terms;
        let ((client, for_client), (origin, for_origin)) =
            (connection(buffers).await?, connection(buffers).await?);
        let pair = StreamPair { client: for_client, origin: for_origin, out };
        let (meter, told) = (Arc::<Meter>::default(), Arc::<Mutex<Vec<_>>>::default());
        let carried = tokio::spawn({
            let (plane, meter, told) = (plane.clone(), Arc::clone(&meter), Arc::clone(&told));
            let tell = move |standing| {
                told.lock().unwrap_or_else(PoisonError::into_inner).push(standing);
            };
            async move { plane.carry(pair, flow, patience, &meter, tell).await }
        });
        let session = Self { client, origin, meter, carrying: Carrying { told, carried } };
        eventually("somebody carries it", || session.carrying.standing().is_some()).await?;
        Ok(session)
    }

    /// The far end of a leg.
    pub(crate) fn far(&mut self, leg: Leg) -> &mut TcpStream {
        match leg {
            Leg::Client => &mut self.client,
            Leg::Origin => &mut self.origin,
        }
    }

    /// The far ends of a leg and of the other one.
    pub(crate) fn ends(&mut self, leg: Leg) -> (&mut TcpStream, &mut TcpStream) {
        match leg {
            Leg::Client => (&mut self.client, &mut self.origin),
            Leg::Origin => (&mut self.origin, &mut self.client),
        }
    }

    /// Resets a leg from its far end.
    pub(crate) async fn reset(&mut self, leg: Leg) -> Result<()> {
        let (spare, _other_end) = connection(None).await?;
        let far = std::mem::replace(self.far(leg), spare);
        SockRef::from(&far).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }

    /// Waits until so many bytes in all were written to a leg, and no more.
    pub(crate) async fn must_count(&self, leg: Leg, bytes: usize) -> Result<()> {
        counted(&self.meter, leg, bytes).await
    }

    /// Why it ends; its sockets are closed.
    pub(crate) async fn closed(&mut self) -> Result<Option<Closed>> {
        Ok(self.carrying.end().await?.closed)
    }

    /// Fails unless it ends for this reason.
    pub(crate) async fn must_end(&mut self, reason: Closed) -> Result<()> {
        let closed = self.closed().await?;
        ensure!(closed == Some(reason), "it ended as {closed:?}, not as {reason:?}");
        Ok(())
    }
}

impl Carrying {
    /// What carries it, if anything does yet.
    pub(crate) fn standing(&self) -> Option<StreamStanding> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// What comes back.
    pub(crate) async fn end(&mut self) -> Result<Carried> {
        let carried = timeout(SOON, &mut self.carried).await;
        Ok(carried.context("the session does not end")??)
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.carried.is_finished()
    }

    /// Does not wait for it any more.
    pub(crate) fn leave(&self) {
        self.carried.abort();
    }
}

/// Waits until so many bytes were written to a leg, and no more.
pub(crate) async fn counted(meter: &Meter, leg: Leg, bytes: usize) -> Result<()> {
    let count = || {
        let [to_origin, to_client] = meter.read();
        if leg == Leg::Origin { to_origin } else { to_client }
    };
    let what = format!("{bytes} bytes are counted {}", leg.inwards());
    let waited = eventually(&what, || count() >= bytes as u64).await;
    ensure!(count() == bytes as u64, "{} bytes {}, not {bytes}", count(), leg.inwards());
    waited
}

/// Both ends of a connection on loopback.
pub(crate) async fn connection(buffers: Option<u32>) -> Result<(TcpStream, TcpStream)> {
    let (near, far) = (TcpSocket::new_v4()?, TcpSocket::new_v4()?);
    if let Some(bytes) = buffers {
        for socket in [&near, &far] {
            socket.set_send_buffer_size(bytes)?;
            socket.set_recv_buffer_size(bytes)?;
        }
    }
    near.bind(([127, 0, 0, 1], 0).into())?;
    let listener = near.listen(1)?;
    let (far, near) = tokio::join!(far.connect(listener.local_addr()?), listener.accept());
    Ok((far?, near?.0))
}

/// Sends it and no more.
pub(crate) async fn send_all(socket: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    socket.write_all(bytes).await?;
    Ok(socket.shutdown().await?)
}

/// Fails unless these bytes come next.
pub(crate) async fn must_receive(socket: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let mut received = Vec::new();
    let mut wanted = socket.take(bytes.len() as u64);
    let read = timeout(SOON, wanted.read_to_end(&mut received)).await;
    must_be(&received, bytes)?;
    read.context("the end of it")??;
    Ok(())
}

/// Fails unless these bytes come, and then the end or a reset.
pub(crate) async fn must_receive_all(socket: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let mut received = Vec::new();
    let read = timeout(SOON, socket.read_to_end(&mut received)).await;
    must_be(&received, bytes)?;
    match read.context("the end does not come")? {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => bail!(error),
        _ => Ok(()),
    }
}

fn must_be(received: &[u8], sent: &[u8]) -> Result<()> {
    if received == sent {
        return Ok(());
    }
    let same = received.iter().zip(sent).take_while(|(one, other)| one == other).count();
    bail!("{} bytes came, of {} the first {same} the same", received.len(), sent.len())
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        ensure!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Bytes that are the same nowhere.
pub(crate) fn media(seed: u64, length: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Numbers that are the same in each run.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number (xorshift64*).
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One of `0..end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.roll() >> 33) as usize % end
    }

    /// One of `1..=most`, each order of magnitude as likely as the others.
    pub(crate) fn size(&mut self, most: usize) -> usize {
        let magnitude = self.below(most.ilog2() as usize + 1);
        (1 + self.below(2 << magnitude)).min(most)
    }
}

/// A scenario ends within this time.
const LIMIT: Duration = Duration::from_secs(55);
