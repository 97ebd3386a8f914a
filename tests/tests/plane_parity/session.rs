//! A session of the plane between two peers that a scenario plays.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use srs_proxy::plane::{
    Carried, Closed, Flow, Leg, Meter, Outbox, Patience, StreamPair, StreamPlane, StreamStanding,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::traffic::{SOON, eventually};

/// Of a session that is to end by its legs alone.
pub(crate) const PATIENT: Patience = Patience { idle: SOON, stall: SOON };

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
