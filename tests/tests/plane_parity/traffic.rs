//! What peers send, what has to come of it, and how long that may take.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Long enough for a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Within which a socket that takes nothing has shown it.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

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
