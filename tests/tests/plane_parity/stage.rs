//! The plane by one engine, on which a scenario is played.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use srs_proxy::config::TcpEngine;
use srs_proxy::plane::{Flow, StreamEngine, StreamPlane, StreamSettings};
use srs_proxy_tests::skip;
use tokio::runtime;
use tokio::time::timeout;

use crate::session::{Session, Terms};

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

/// A scenario ends within this time.
const LIMIT: Duration = Duration::from_secs(55);
