//! Many sessions, what each thread has of them, and what is left when they are gone.

use std::process;

use anyhow::{Context, Result, ensure};
use srs_proxy::plane::{Closed, Flow, Leg, Outbox, StreamEngine, StreamPlane};
use srs_proxy_tests::usage;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::session::{Session, Terms};
use crate::stage::{self, Company, Stage};
use crate::traffic::{self, eventually, media, must_receive, must_receive_all};

pub(crate) const COMPANY: Company = Company::Nobody;

pub(crate) async fn two_thousand_are_counted_to_the_byte(stage: &Stage) -> Result<()> {
    const COUNT: usize = 2000;
    usage::allow_descriptors(20_000)?;
    let before = descriptors(&stage.plane)?;
    let mut sessions = Vec::new();
    for _ in 0..COUNT {
        sessions.push(stage.session(Flow::Both).await?);
    }
    must_be_shared_evenly(&stage.plane, COUNT)?;
    let (up, down) = (media(1, 20_000), media(2, 350_000));
    let mut playing = JoinSet::new();
    for (number, session) in sessions.into_iter().enumerate() {
        // Each has bytes of its own.
        let up = up.get(number..).context("bytes")?.to_vec();
        let down = down.get(number * 100..).context("bytes")?.to_vec();
        playing.spawn(talk(session, up, down));
    }
    let mut talked = Vec::new();
    while let Some(played) = playing.join_next().await {
        talked.push(played??);
    }
    must_have_few_pipes(&stage.plane).await?;
    let mut parting: JoinSet<_> = talked.into_iter().map(part).collect();
    while let Some(parted) = parting.join_next().await {
        parted??;
    }
    must_be_left(&stage.plane, before).await
}

/// Fails unless sessions that are silent have given their pipes back.
async fn must_have_few_pipes(plane: &StreamPlane) -> Result<()> {
    /// Pipes that a thread keeps for use.
    const SPARE: usize = 2 * 64;
    let threads = || plane.view().threads;
    let are_few = || threads().iter().all(|thread| thread.pipes <= SPARE);
    eventually("silent sessions hold no pipe", are_few)
        .await
        .with_context(|| format!("{:?}", threads()))?;
    let is_spliced = threads().iter().all(|thread| thread.pipes > 0 && thread.spliced_bytes > 0);
    ensure!(is_spliced, "there never was a pipe: {:?}", threads());
    Ok(())
}

/// A whole session.
async fn exchange(session: Session, up: Vec<u8>, down: Vec<u8>) -> Result<()> {
    part(talk(session, up, down).await?).await
}

/// A session in which all has come, and how much it was to the origin and to the client.
type Talked = (Session, [usize; 2]);

async fn talk(mut session: Session, up: Vec<u8>, down: Vec<u8>) -> Result<Talked> {
    let Session { client, origin, .. } = &mut session;
    client.write_all(&up).await?;
    let (sent, received) = tokio::join!(origin.write_all(&down), must_receive(client, &down));
    received?;
    sent?;
    must_receive(origin, &up).await?;
    Ok((session, [up.len(), down.len()]))
}

/// Its end, and that what is counted is what has come.
async fn part((mut session, [up, down]): Talked) -> Result<()> {
    let Session { client, origin, .. } = &mut session;
    origin.shutdown().await?;
    must_receive_all(client, &[]).await?;
    client.shutdown().await?;
    must_receive_all(origin, &[]).await?;
    session.must_end(Closed::InOrder(Leg::Origin)).await?;
    session.must_count(Leg::Origin, up).await?;
    session.must_count(Leg::Client, down).await
}

pub(crate) async fn each_thread_has_its_share(stage: &Stage) -> Result<()> {
    let plane = stage::start(stage.engine, 3, 100);
    let mut sessions = Vec::new();
    for _ in 0..30 {
        sessions.push(Session::begin(&plane, Terms::of(Flow::Both)).await?);
    }
    must_be_shared_evenly(&plane, 30)?;
    // Ten leave, whoever had them; those who come take their places.
    sessions.truncate(20);
    eventually("ten places are free", || {
        plane.engine() == StreamEngine::Relay || carried(&plane) == 20
    })
    .await?;
    for _ in 0..10 {
        sessions.push(Session::begin(&plane, Terms::of(Flow::Both)).await?);
    }
    must_be_shared_evenly(&plane, 30)
}

pub(crate) async fn who_finds_no_room_is_relayed_and_loses_nothing(stage: &Stage) -> Result<()> {
    let plane = stage::start(stage.engine, 1, 1);
    let (up, down) = (media(1, 50_000), media(2, 400_000));
    let (kept_up, sent_up) = up.split_at(20_000);
    let (kept_down, sent_down) = down.split_at(100_000);
    let begin = || async {
        let out = Outbox { to_origin: kept_up.to_vec(), to_client: kept_down.to_vec() };
        Session::begin(&plane, Terms { out, ..Terms::of(Flow::Both) }).await
    };
    let (mut first, mut second) = (begin().await?, begin().await?);
    stage.must_carry(&first)?;
    let standing = second.carrying.standing().context("nobody carries it")?;
    ensure!(standing.engine == StreamEngine::Relay, "{standing:?}");
    let why = standing.why.context("no reason is told")?.to_string();
    let reason = match stage.engine {
        StreamEngine::Relay => "PROXY_TCP_ENGINE=relay",
        _ => "the threads have as many sessions as they take",
    };
    ensure!(why == reason, "{why:?}");
    for session in [&mut first, &mut second] {
        let Session { client, origin, .. } = session;
        client.write_all(sent_up).await?;
        let (sent, received) =
            tokio::join!(origin.write_all(sent_down), must_receive(client, &down));
        received?;
        sent?;
        must_receive(origin, &up).await?;
        session.must_count(Leg::Origin, up.len()).await?;
        session.must_count(Leg::Client, down.len()).await?;
    }
    first.carrying.leave();
    eventually("its place is free", || carried(&plane) == 0).await?;
    stage.must_carry(&begin().await?)
}

pub(crate) async fn a_session_that_nobody_waits_for_leaves_nothing(stage: &Stage) -> Result<()> {
    let before = descriptors(&stage.plane)?;
    for flow in [Flow::Both, Flow::ToClient, Flow::Exactly(Leg::Origin, 1 << 40)] {
        let mut silent = stage.session(flow).await?;
        let mut busy = stage.session(flow).await?;
        // Nobody reads: there are bytes on their way.
        let piece = media(1, 1 << 20);
        while tokio::time::timeout(traffic::PAUSE, busy.origin.write_all(&piece)).await.is_ok() {}
        for session in [&silent, &busy] {
            session.carrying.leave();
        }
        for leg in Leg::ALL {
            must_receive_all(silent.far(leg), &[]).await?;
        }
        must_be_closed(&mut busy).await?;
    }
    must_be_left(&stage.plane, before).await
}

async fn must_be_closed(session: &mut Session) -> Result<()> {
    use tokio::io::AsyncReadExt;
    for leg in Leg::ALL {
        let mut rest = Vec::new();
        let end =
            tokio::time::timeout(traffic::SOON, session.far(leg).read_to_end(&mut rest)).await;
        let _end_or_reset = end.with_context(|| format!("{leg:?} is not closed"))?;
    }
    Ok(())
}

pub(crate) async fn threads_end_with_the_plane(stage: &Stage) -> Result<()> {
    let (threads, open) = (threads()?, usage::descriptors(process::id())?);
    let plane = stage::start(stage.engine, 3, 100);
    let started = if stage.engine == StreamEngine::Relay { 0 } else { 3 };
    ensure!(self::threads()? == threads + started, "{} threads", self::threads()?);
    for _ in 0..6 {
        let session = Session::begin(&plane, Terms::of(Flow::Both)).await?;
        exchange(session, media(1, 10_000), media(2, 1_000_000)).await?;
    }
    drop(plane);
    eventually("threads are as before", || self::threads().is_ok_and(|n| n == threads)).await?;
    let is_left = || usage::descriptors(process::id()).is_ok_and(|n| n <= open);
    eventually("descriptors are as before", is_left).await
}

/// Sessions that the engine's threads have.
fn carried(plane: &StreamPlane) -> usize {
    plane.view().threads.iter().map(|thread| thread.sessions).sum()
}

fn must_be_shared_evenly(plane: &StreamPlane, count: usize) -> Result<()> {
    let threads = plane.view().threads;
    let shares: Vec<_> = threads.iter().map(|thread| thread.sessions).collect();
    let (Some(least), Some(most)) = (shares.iter().min(), shares.iter().max()) else {
        ensure!(plane.engine() == StreamEngine::Relay, "no threads");
        return Ok(());
    };
    ensure!(shares.iter().sum::<usize>() == count, "{shares:?} of {count} sessions");
    ensure!(most - least <= 1, "the threads have {shares:?}");
    Ok(())
}

/// Open descriptors of this process, without those of the plane's pipes.
fn descriptors(plane: &StreamPlane) -> Result<usize> {
    let pipes: usize = plane.view().threads.iter().map(|thread| thread.pipes).sum();
    Ok(usage::descriptors(process::id())?.saturating_sub(2 * pipes))
}

async fn must_be_left(plane: &StreamPlane, before: usize) -> Result<()> {
    // What others have left behind may go meanwhile.
    let is_left = || carried(plane) == 0 && descriptors(plane).is_ok_and(|now| now <= before);
    let waited = eventually("nothing is left", is_left).await;
    waited.with_context(|| format!("{:?} descriptors, {before} before", descriptors(plane)))
}

/// How many threads planes have.
fn threads() -> Result<usize> {
    Ok(usage::threads_called(process::id(), "splice-")?.len())
}
