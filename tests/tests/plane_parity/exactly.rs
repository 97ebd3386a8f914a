//! Bodies of known length: [`Flow::Exactly`].

use anyhow::{Context, Result, ensure};
use srs_proxy::plane::{Closed, Flow, Leg, Outbox};
use tokio::io::AsyncWriteExt;

use crate::session::{Session, Terms};
use crate::stage::{Company, Stage};
use crate::traffic::{media, must_receive, must_receive_all, send_all};

pub(crate) const COMPANY: Company = Company::Others;

pub(crate) async fn it_comes_back_at_that_byte(stage: &Stage) -> Result<()> {
    for from in Leg::ALL {
        for length in [0, 1, 4095, 4096, 4097, 65_536, 1_000_003, 5_000_000] {
            for [kept, kept_of_other] in [[0, 0], [1, 0], [90_000, 30_000]] {
                let case = Case { from, length, kept, kept_of_other };
                case.play(stage).await.with_context(|| format!("{case:?}"))?;
            }
        }
    }
    Ok(())
}

/// What comes from a leg and is to stop at a byte.
#[derive(Clone, Copy, Debug)]
struct Case {
    from: Leg,
    /// Bytes that are to be taken from its socket.
    length: usize,
    /// Bytes of it that go out before them.
    kept: usize,
    /// Bytes for it that were read from the other leg before.
    kept_of_other: usize,
}

impl Case {
    async fn play(self, stage: &Stage) -> Result<()> {
        let Self { from, length, kept, kept_of_other } = self;
        let (kept, kept_of_other) = (media(1, kept), media(2, kept_of_other));
        let (body, next) = (media(3, length), media(4, 30_000));
        let mut out = Outbox::default();
        out.towards(from.other()).clone_from(&kept);
        out.towards(from).clone_from(&kept_of_other);
        let flow = Flow::Exactly(from, length as u64);
        let mut session = Session::begin(&stage.plane, Terms { out, ..Terms::of(flow) }).await?;
        stage.must_carry(&session)?;
        let (source, sink) = session.ends(from);
        // What the other leg sends meanwhile is the next request.
        sink.write_all(b"next request").await?;
        let sending = async {
            source.write_all(&body).await?;
            source.write_all(&next).await
        };
        let receiving = async {
            must_receive(sink, &kept).await?;
            must_receive(sink, &body).await
        };
        let (sent, received) = tokio::join!(sending, receiving);
        received?;
        sent?;
        let carried = session.carrying.end().await?;
        ensure!(carried.closed.is_none(), "it ended as {:?}", carried.closed);
        let mut pair = carried.pair.context("no pair came back")?;
        ensure!(pair.out.waiting() == [0, 0], "something still waits");
        let (near_source, _) = pair.leg(from);
        must_receive(near_source, &next).await.context("what lies behind the body")?;
        near_source.write_all(b"to the source").await?;
        let (near_sink, _) = pair.leg(from.other());
        must_receive(near_sink, b"next request").await?;
        near_sink.write_all(b"to the sink").await?;
        let (source, sink) = session.ends(from);
        must_receive(source, &kept_of_other).await?;
        must_receive(source, b"to the source").await?;
        must_receive(sink, b"to the sink").await.context("bytes behind the body went on")?;
        session.must_count(from.other(), kept.len() + length).await?;
        session.must_count(from, kept_of_other.len()).await?;
        drop(pair);
        Ok(())
    }
}

pub(crate) async fn a_sink_that_has_ended_still_listens(stage: &Stage) -> Result<()> {
    for from in Leg::ALL {
        let body = media(1, 1_000_000);
        let mut session = stage.session(Flow::Exactly(from, body.len() as u64)).await?;
        let (source, sink) = session.ends(from);
        send_all(sink, b"last request").await?;
        let (sent, received) = tokio::join!(source.write_all(&body), must_receive(sink, &body));
        sent.map_err(Into::into).and(received)?;
        let carried = session.carrying.end().await?;
        ensure!(carried.closed.is_none(), "it ended as {:?}", carried.closed);
        let mut pair = carried.pair.context("no pair came back")?;
        must_receive_all(pair.leg(from.other()).0, b"last request").await?;
    }
    Ok(())
}

pub(crate) async fn a_source_that_ends_early_is_told(stage: &Stage) -> Result<()> {
    for from in Leg::ALL {
        for length in [0, 1, 100_000, 999_999] {
            let body = media(1, length);
            let mut session = stage.session(Flow::Exactly(from, 1_000_000)).await?;
            let (source, sink) = session.ends(from);
            let (sent, received) = tokio::join!(send_all(source, &body), must_receive(sink, &body));
            sent.and(received)?;
            session.must_end(Closed::InOrder(from)).await?;
            session.must_count(from.other(), length).await?;
        }
    }
    Ok(())
}

pub(crate) async fn a_reset_of_either_is_told(stage: &Stage) -> Result<()> {
    for from in Leg::ALL {
        for lost in Leg::ALL {
            let mut session = stage.session(Flow::Exactly(from, 1_000_000)).await?;
            let body = media(1, 48_000);
            let (source, sink) = session.ends(from);
            source.write_all(&body).await?;
            if lost != from {
                must_receive(sink, &body).await?;
            }
            session.reset(lost).await?;
            if lost != from {
                // A sink is known to be lost by writing to it, at the latest.
                session.far(from).write_all(&body).await?;
            }
            let case = || format!("from {from:?}, {lost:?} is lost");
            session.must_end(Closed::Lost(lost)).await.with_context(case)?;
            if lost == from {
                let sink = session.far(from.other());
                must_receive_all(sink, &body).await.with_context(case)?;
            }
        }
    }
    Ok(())
}
