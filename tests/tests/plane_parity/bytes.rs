//! All bytes arrive as they were sent, whatever the pace of who sends and who reads.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crc32fast::Hasher;
use srs_proxy::plane::{Closed, Flow, Leg, Outbox, StreamEngine, ThreadView};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::session::{Session, Terms};
use crate::stage::{Company, Stage};
use crate::traffic::{Dice, SOON, eventually, media, must_receive};

pub(crate) const COMPANY: Company = Company::Others;

pub(crate) async fn a_gibibyte_is_the_same_at_the_far_end(stage: &Stage) -> Result<()> {
    let session = stage.session(Flow::Both).await?;
    stage.must_carry(&session)?;
    let Session { client, origin, meter, mut carrying } = session;
    let ((at_client, to_origin), (at_origin, to_client)) =
        (client.into_split(), origin.into_split());
    let sending = tokio::spawn(flood(to_client, GIBIBYTE));
    let (hash, length) = hash(at_client).await?;
    ensure!(length == GIBIBYTE, "{length} bytes came");
    ensure!(hash == sending.await??, "other bytes came");
    drop(to_origin);
    ensure!(self::hash(at_origin).await?.1 == 0, "the origin got what nobody sent");
    let closed = carrying.end().await?.closed;
    ensure!(closed == Some(Closed::InOrder(Leg::Origin)), "{closed:?}");
    ensure!(meter.read() == [0, GIBIBYTE], "{:?} were counted", meter.read());
    let spliced: u64 = stage.plane.view().threads.iter().map(|it| it.spliced_bytes).sum();
    let is_spliced = stage.engine == StreamEngine::Relay || spliced > GIBIBYTE / 100 * 99;
    ensure!(is_spliced, "{spliced} bytes went by a pipe");
    Ok(())
}

pub(crate) async fn bulk_in_both_directions_at_once(stage: &Stage) -> Result<()> {
    const LENGTH: u64 = 128 << 20;
    let Session { client, origin, meter, mut carrying } = stage.session(Flow::Both).await?;
    let ((at_client, to_origin), (at_origin, to_client)) =
        (client.into_split(), origin.into_split());
    let (down, up) =
        (tokio::spawn(flood(to_client, LENGTH)), tokio::spawn(flood(to_origin, LENGTH)));
    let (at_client, at_origin) = (tokio::spawn(hash(at_client)), hash(at_origin).await?);
    ensure!(at_origin == (up.await??, LENGTH), "the origin got other bytes");
    ensure!(at_client.await?? == (down.await??, LENGTH), "the client got other bytes");
    let closed = carrying.end().await?.closed;
    ensure!(matches!(closed, Some(Closed::InOrder(_))), "{closed:?}");
    ensure!(meter.read() == [LENGTH; 2], "{:?} were counted", meter.read());
    Ok(())
}

pub(crate) async fn pieces_of_any_size_with_pauses_behind_leftovers(stage: &Stage) -> Result<()> {
    let mut sessions = JoinSet::new();
    for seed in 0..12 {
        sessions.spawn(pieces(stage.plane.clone(), seed));
    }
    while let Some(played) = sessions.join_next().await {
        played??;
    }
    Ok(())
}

/// One session of it.
async fn pieces(plane: srs_proxy::plane::StreamPlane, seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let [up, down] = [1, 2].map(|leg| media(seed * 2 + leg, 1_500_000 + dice.below(500_000)));
    let (up_kept, down_kept) = (dice.below(2) * dice.size(100_000), dice.size(100_000));
    let out = Outbox {
        to_origin: up.get(..up_kept).context("leftovers")?.to_vec(),
        to_client: down.get(..down_kept).context("leftovers")?.to_vec(),
    };
    let session = Session::begin(&plane, Terms { out, ..Terms::of(Flow::Both) }).await?;
    let Session { client, origin, meter, mut carrying } = session;
    let ((at_client, to_origin), (at_origin, to_client)) =
        (client.into_split(), origin.into_split());
    let dice = |part| Dice::new(seed << 8 | part);
    let (sent_up, sent_down, at_origin, at_client) = tokio::join!(
        send_pieces(to_origin, up.get(up_kept..).unwrap_or_default(), dice(1)),
        send_pieces(to_client, down.get(down_kept..).unwrap_or_default(), dice(2)),
        read_pieces(at_origin, dice(3)),
        read_pieces(at_client, dice(4)),
    );
    sent_up.and(sent_down).with_context(|| format!("session {seed}"))?;
    ensure!(at_origin? == up, "session {seed}: the origin got other bytes");
    ensure!(at_client? == down, "session {seed}: the client got other bytes");
    let closed = carrying.end().await?.closed;
    ensure!(matches!(closed, Some(Closed::InOrder(_))), "session {seed}: {closed:?}");
    let sent = [up.len() as u64, down.len() as u64];
    ensure!(meter.read() == sent, "session {seed}: {:?} of {sent:?} counted", meter.read());
    Ok(())
}

pub(crate) async fn a_slow_reader_gets_all(stage: &Stage) -> Result<()> {
    const LENGTH: usize = 1 << 20;
    let terms = Terms { buffers: Some(32 << 10), ..Terms::of(Flow::Both) };
    let Session { mut client, origin, meter, .. } = Session::begin(&stage.plane, terms).await?;
    let bytes = media(1, LENGTH);
    let (_at_origin, mut to_client) = origin.into_split();
    let sent = bytes.clone();
    let sending = tokio::spawn(async move { to_client.write_all(&sent).await });
    let mut last = 0;
    for piece in bytes.chunks(8 << 10) {
        sleep(Duration::from_millis(5)).await;
        must_receive(&mut client, piece).await?;
        // While they move, not only at the end.
        let [_, counted] = meter.read();
        ensure!(counted >= last, "the count goes back");
        last = counted;
    }
    sending.await??;
    crate::session::counted(&meter, Leg::Client, LENGTH).await
}

pub(crate) async fn each_byte_of_a_slow_writer_goes_on_at_once(stage: &Stage) -> Result<()> {
    let mut session = stage.session(Flow::Both).await?;
    stage.must_carry(&session)?;
    for round in 1..=300 {
        for leg in Leg::ALL {
            let (far, other) = session.ends(leg);
            far.write_all(&[7]).await?;
            must_receive(other, &[7]).await?;
            session.must_count(leg.other(), round).await?;
        }
    }
    ensure!(copied(stage, 600).await? == 600, "{:?}", stage.plane.view());
    // The first small piece behind bulk is not kept either.
    let much = media(3, 1 << 20);
    let (client, origin) = session.ends(Leg::Client);
    let (sent, received) = tokio::join!(origin.write_all(&much), must_receive(client, &much));
    sent.map_err(Into::into).and(received)?;
    let before = copied(stage, 600 + (1 << 20)).await?;
    for _ in 0..100 {
        origin.write_all(&[8]).await?;
        must_receive(client, &[8]).await?;
    }
    session.must_count(Leg::Client, 300 + (1 << 20) + 100).await?;
    let copied = copied(stage, 600 + (1 << 20) + 100).await? - before;
    ensure!(copied > 80, "of 100 small pieces {copied} were copied");
    Ok(())
}

/// How many of so many bytes in all were copied, once they are counted. The relay copies them all.
async fn copied(stage: &Stage, all: u64) -> Result<u64> {
    if stage.engine == StreamEngine::Relay {
        return Ok(all);
    }
    let of = |count: fn(&ThreadView) -> u64| -> u64 {
        stage.plane.view().threads.iter().map(count).sum()
    };
    let is_counted = || of(|it| it.spliced_bytes + it.copied_bytes) == all;
    eventually(&format!("{all} bytes are counted"), is_counted).await?;
    Ok(of(|it| it.copied_bytes))
}

/// Sends so many bytes as fast as they go, and then its end; their hash.
async fn flood(mut socket: OwnedWriteHalf, length: u64) -> Result<u32> {
    let (mut hasher, mut block) = (Hasher::new(), media(length, 1 << 20));
    for number in 0..length >> 20 {
        // No two blocks are the same.
        block.get_mut(..8).context("a block")?.copy_from_slice(&number.to_be_bytes());
        hasher.update(&block);
        socket.write_all(&block).await?;
    }
    Ok(hasher.finalize())
}

/// The hash of all that comes, and how much it is.
async fn hash(mut socket: OwnedReadHalf) -> Result<(u32, u64)> {
    let (mut hasher, mut buffer, mut length) = (Hasher::new(), vec![0; 256 << 10], 0);
    loop {
        let read = timeout(SOON, socket.read(&mut buffer)).await;
        match read.with_context(|| format!("nothing comes behind {length} bytes"))?? {
            0 => return Ok((hasher.finalize(), length)),
            n => {
                hasher.update(buffer.get(..n).unwrap_or_default());
                length += n as u64;
            }
        }
    }
}

async fn send_pieces(mut socket: OwnedWriteHalf, bytes: &[u8], mut dice: Dice) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(dice.size(200_000).min(rest.len()));
        socket.write_all(piece).await?;
        rest = behind;
        pause(&mut dice).await;
    }
    Ok(())
}

async fn read_pieces(mut socket: OwnedReadHalf, mut dice: Dice) -> Result<Vec<u8>> {
    let mut received = Vec::new();
    loop {
        let mut piece = (&mut socket).take(dice.size(200_000) as u64);
        if timeout(SOON, piece.read_to_end(&mut received)).await.context("nothing comes")?? == 0 {
            return Ok(received);
        }
        pause(&mut dice).await;
    }
}

/// Mostly none.
async fn pause(dice: &mut Dice) {
    if dice.below(4) == 0 {
        sleep(Duration::from_millis(dice.below(8) as u64)).await;
    }
}

const GIBIBYTE: u64 = 1 << 30;
