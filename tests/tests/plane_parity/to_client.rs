//! A client that only listens: [`Flow::ToClient`].

use anyhow::{Result, ensure};
use srs_proxy::plane::{Closed, Flow, Leg, Outbox};
use tokio::io::AsyncWriteExt;

use crate::session::{Session, Terms};
use crate::stage::{Company, Stage};
use crate::traffic::{media, must_receive, must_receive_all, send_all};

pub(crate) const COMPANY: Company = Company::Others;

pub(crate) async fn what_the_client_sends_goes_nowhere(stage: &Stage) -> Result<()> {
    let bytes = media(1, 1_000_000);
    let (kept, sent) = bytes.split_at(70_000);
    let out = Outbox { to_client: kept.to_vec(), ..Outbox::default() };
    let terms = Terms { out, ..Terms::of(Flow::ToClient) };
    let mut session = Session::begin(&stage.plane, terms).await?;
    stage.must_carry(&session)?;
    // More than the buffers between: it is read.
    let junk = media(2, 32 << 20);
    session.client.write_all(&junk).await?;
    for piece in sent.chunks(10_000) {
        session.origin.write_all(piece).await?;
    }
    must_receive(&mut session.client, &bytes).await?;
    session.client.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    session.origin.write_all(b"last").await?;
    session.origin.shutdown().await?;
    let carried = session.carrying.end().await?;
    ensure!(carried.closed == Some(Closed::InOrder(Leg::Origin)), "{:?}", carried.closed);
    must_receive(&mut session.client, b"last").await?;
    drop(carried);
    must_receive_all(&mut session.origin, &[]).await?;
    session.must_count(Leg::Client, bytes.len() + 4).await?;
    session.must_count(Leg::Origin, 0).await
}

pub(crate) async fn the_end_of_the_client_is_the_end(stage: &Stage) -> Result<()> {
    let mut session = stage.session(Flow::ToClient).await?;
    session.origin.write_all(b"first").await?;
    must_receive(&mut session.client, b"first").await?;
    send_all(&mut session.client, b"bye").await?;
    session.must_end(Closed::InOrder(Leg::Client)).await?;
    must_receive_all(&mut session.origin, &[]).await?;
    session.must_count(Leg::Client, 5).await?;
    session.must_count(Leg::Origin, 0).await
}

pub(crate) async fn resets_are_told(stage: &Stage) -> Result<()> {
    for leg in Leg::ALL {
        let mut session = stage.session(Flow::ToClient).await?;
        let bytes = media(1, 48_000);
        session.origin.write_all(&bytes).await?;
        if leg == Leg::Client {
            must_receive(&mut session.client, &bytes).await?;
        }
        session.reset(leg).await?;
        session.must_end(Closed::Lost(leg)).await?;
        if leg == Leg::Origin {
            must_receive_all(&mut session.client, &bytes).await?;
        }
    }
    Ok(())
}
