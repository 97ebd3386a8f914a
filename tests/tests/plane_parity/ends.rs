//! How a session ends whose bytes go both ways.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use srs_proxy::plane::{Closed, Flow, Leg, Patience};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::session::{PATIENT, Session, Terms};
use crate::stage::{Company, Stage};
use crate::traffic::{PAUSE, SOON, media, must_receive, must_receive_all, send_all};

pub(crate) const COMPANY: Company = Company::Others;

pub(crate) async fn the_end_of_a_leg_is_passed_on_and_the_other_goes_on(
    stage: &Stage,
) -> Result<()> {
    for leg in Leg::ALL {
        let mut session = stage.session(Flow::Both).await?;
        stage.must_carry(&session)?;
        let (before, behind) = (media(1, 100_000), media(2, 700_000));
        let (far, other) = session.ends(leg);
        send_all(far, &before).await?;
        must_receive_all(other, &before).await?;
        for piece in behind.chunks(100_000) {
            other.write_all(piece).await?;
            must_receive(far, piece).await?;
        }
        other.shutdown().await?;
        must_receive_all(far, &[]).await?;
        session.must_end(Closed::InOrder(leg)).await?;
        session.must_count(leg.other(), before.len()).await?;
        session.must_count(leg, behind.len()).await?;
    }
    Ok(())
}

pub(crate) async fn a_half_closed_session_ends_in_silence_and_waits_for_who_reads_late(
    stage: &Stage,
) -> Result<()> {
    let both = tokio::try_join!(
        a_half_closed_session_in_which_nothing_moves_ends(stage),
        a_half_closed_session_waits_for_who_reads_late(stage),
    );
    both.map(drop)
}

async fn a_half_closed_session_in_which_nothing_moves_ends(stage: &Stage) -> Result<()> {
    let (mut one, mut two) = (stage.session(Flow::Both).await?, stage.session(Flow::Both).await?);
    let begun = Instant::now();
    for (session, leg) in [(&mut one, Leg::Client), (&mut two, Leg::Origin)] {
        let (far, other) = session.ends(leg);
        send_all(far, b"all").await?;
        must_receive_all(other, b"all").await?;
    }
    one.must_end(Closed::InOrder(Leg::Client)).await?;
    two.must_end(Closed::InOrder(Leg::Origin)).await?;
    let took = begun.elapsed();
    ensure!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "after {took:?}");
    must_receive_all(&mut one.client, &[]).await?;
    must_receive_all(&mut two.origin, &[]).await
}

async fn a_half_closed_session_waits_for_who_reads_late(stage: &Stage) -> Result<()> {
    let terms = Terms { buffers: Some(32 << 10), ..Terms::of(Flow::Both) };
    let mut session = Session::begin(&stage.plane, terms).await?;
    session.client.shutdown().await?;
    must_receive_all(&mut session.origin, &[]).await?;
    let bytes = media(1, 1 << 20);
    let sending = async { send_all(&mut session.origin, &bytes).await.context("sending") };
    let reading = async {
        // Longer than a session waits in which there is nothing to be read.
        sleep(Duration::from_secs(7)).await;
        must_receive_all(&mut session.client, &bytes).await
    };
    let (sent, read) = tokio::join!(sending, reading);
    read.and(sent)?;
    session.must_end(Closed::InOrder(Leg::Client)).await
}

pub(crate) async fn what_a_leg_sent_before_its_reset_is_delivered(stage: &Stage) -> Result<()> {
    for leg in Leg::ALL {
        for length in [0, 1, 5000, 48_000] {
            let mut session = stage.session(Flow::Both).await?;
            let bytes = media(1, length);
            // On loopback it is at the proxy's end when this returns, and cannot be lost any more.
            session.far(leg).write_all(&bytes).await?;
            session.reset(leg).await?;
            let case = || format!("{length} bytes of {leg:?}");
            session.must_end(Closed::Lost(leg)).await.with_context(case)?;
            must_receive_all(session.far(leg.other()), &bytes).await.with_context(case)?;
            session.must_count(leg.other(), length).await.with_context(case)?;
        }
    }
    Ok(())
}

pub(crate) async fn a_leg_that_is_reset_under_a_flood_is_noticed(stage: &Stage) -> Result<()> {
    for leg in Leg::ALL {
        let mut session = stage.session(Flow::Both).await?;
        let bytes = media(1, 1 << 20);
        let (far, other) = session.ends(leg);
        let (sent, received) = tokio::join!(other.write_all(&bytes), must_receive(far, &bytes));
        sent.map_err(Into::into).and(received)?;
        // The rest of it is on its way.
        ensure!(other.write(&bytes).await? > 0, "nothing was taken");
        session.reset(leg).await?;
        session.must_end(Closed::Lost(leg)).await?;
        let (_, other) = session.ends(leg);
        let end = timeout(SOON, other.read(&mut [0; 16])).await.context("it is not closed")?;
        ensure!(matches!(end, Ok(0) | Err(_)), "the other leg got bytes: {end:?}");
    }
    Ok(())
}

pub(crate) async fn a_reset_behind_a_reader_that_has_stopped_is_noticed(
    stage: &Stage,
) -> Result<()> {
    let case = async |lost, sender| {
        let terms = Terms { buffers: Some(32 << 10), ..Terms::of(Flow::Both) };
        let mut session = Session::begin(&stage.plane, terms).await?;
        fill(&mut session, sender).await?;
        session.reset(lost).await?;
        let begun = Instant::now();
        session.must_end(Closed::Lost(lost)).await.with_context(|| format!("{sender:?} sends"))?;
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(8), "{lost:?} is lost: noticed after {took:?}");
        Ok(())
    };
    let [one, other] = Leg::ALL;
    // Who sends is lost, or who does not read.
    tokio::try_join!(case(one, one), case(one, other), case(other, one), case(other, other))?;
    Ok(())
}

/// Sends until nothing more is taken; how much it was.
async fn fill(session: &mut Session, sender: Leg) -> Result<usize> {
    let (far, _) = session.ends(sender);
    let (piece, mut sent) = (media(1, 64 << 10), 0);
    while let Ok(written) = timeout(PAUSE, far.write(&piece)).await {
        sent += written?;
    }
    Ok(sent)
}

pub(crate) async fn the_first_leg_to_end_is_the_reason(stage: &Stage) -> Result<()> {
    for leg in Leg::ALL {
        let mut session = stage.session(Flow::Both).await?;
        session.far(leg).shutdown().await?;
        must_receive_all(session.far(leg.other()), &[]).await?;
        session.reset(leg.other()).await?;
        session.must_end(Closed::InOrder(leg)).await?;
    }
    Ok(())
}

pub(crate) async fn a_closed_leg_that_is_written_to_raises_no_signal(stage: &Stage) -> Result<()> {
    // Nobody has ended by it so far: the standard library has it ignored. Whoever hears of it here
    // would be ended by it where it is not.
    let mut signal = signal(SignalKind::pipe())?;
    for (leg, piece) in Leg::ALL.into_iter().flat_map(|leg| [(leg, 100), (leg, 100_000)]) {
        let mut session = stage.session(Flow::Both).await?;
        stage.must_carry(&session)?;
        let spare = crate::session::connection(None).await?.0;
        drop(std::mem::replace(session.far(leg), spare));
        must_receive_all(session.far(leg.other()), &[]).await?;
        let bytes = media(1, piece);
        let deadline = Instant::now() + SOON;
        while !session.carrying.is_over() {
            ensure!(Instant::now() < deadline, "the session does not end");
            // Nobody takes it from the proxy once the session is over.
            let _written = session.far(leg.other()).try_write(&bytes);
            sleep(Duration::from_millis(1)).await;
        }
        session.must_end(Closed::InOrder(leg)).await?;
    }
    let raised = timeout(Duration::from_millis(50), signal.recv()).await;
    ensure!(raised.is_err(), "SIGPIPE was raised");
    Ok(())
}

pub(crate) async fn a_reader_that_stops_ends_the_session_and_little_is_held(
    stage: &Stage,
) -> Result<()> {
    const BUFFERS: u32 = 32 << 10;
    for sender in Leg::ALL {
        let patience = Patience { stall: Duration::from_secs(1), ..PATIENT };
        let buffers = Some(BUFFERS);
        let mut session =
            Session::begin(&stage.plane, Terms { patience, buffers, ..Terms::of(Flow::Both) })
                .await?;
        let begun = Instant::now();
        let sent = fill(&mut session, sender).await?;
        // The four buffers, each of which the system doubles, and what the plane holds.
        ensure!(sent < 8 * BUFFERS as usize + (512 << 10), "{sent} bytes were taken");
        session.must_end(Closed::Stalled).await?;
        let took = begun.elapsed();
        ensure!(took >= Duration::from_millis(900), "given up after {took:?}");
        ensure!(took < Duration::from_secs(4), "given up after {took:?}");
        // What was taken for it and not read before the end is all that is lost.
        let (_, reader) = session.ends(sender);
        let mut read = Vec::new();
        match timeout(SOON, reader.read_to_end(&mut read)).await.context("it is not closed")? {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error.into()),
            _ => ensure!(read.len() <= sent, "more came than was sent"),
        }
    }
    Ok(())
}

pub(crate) async fn silence_ends_the_session_and_a_trickle_does_not(stage: &Stage) -> Result<()> {
    let patience = Patience { idle: Duration::from_secs(3), ..PATIENT };
    let terms = || Terms { patience, ..Terms::of(Flow::Both) };
    let mut silent = Session::begin(&stage.plane, terms()).await?;
    let mut trickling = Session::begin(&stage.plane, terms()).await?;
    let mut last = Instant::now();
    for _ in 0..16 {
        sleep(Duration::from_millis(250)).await;
        trickling.origin.write_all(&[1]).await?;
        must_receive(&mut trickling.client, &[1]).await?;
        last = Instant::now();
    }
    silent.must_end(Closed::Idle).await?;
    trickling.must_end(Closed::Idle).await?;
    let took = last.elapsed();
    ensure!(took >= Duration::from_secs(2), "given up {took:?} behind the last byte");
    ensure!(took < Duration::from_secs(9), "given up {took:?} behind the last byte");
    Ok(())
}
