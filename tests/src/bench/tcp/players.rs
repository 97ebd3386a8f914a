//! The players: one thread reads what comes to all of them.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv};

use super::feeder::Feeder;
use super::held::Held;
use super::{Feed, Load, PROBE, Reading};
use crate::bench::{self, READ, Relay, Tally, WARM_UP};
use crate::hands::by_all_hands;
use crate::rtmp::{self, Client};

/// What opens sessions of a load.
pub struct Opener {
    load: Load,
    origin: SocketAddr,
    feeder: Arc<Feeder>,
}

impl Opener {
    pub(super) fn new(load: Load, origin: SocketAddr, feeder: Arc<Feeder>) -> Self {
        Self { load, origin, feeder }
    }

    /// One session before all others, of which every byte is looked at.
    pub fn try_out(&self, relay: &Relay) -> Result<()> {
        let mut client = Client::play(relay.address, "trial")?;
        self.feeder.open(true);
        let frames = if matches!(self.load.feed, Feed::Once) { 1 } else { 3 };
        for _ in 0..frames {
            let frame = client.next_tag()?;
            ensure!(rtmp::is_key_frame(&frame.data), "another frame than was sent");
        }
        self.feeder.open(false);
        Ok(())
    }

    /// So many players, as one client, and the probe as another. They are fed from now on.
    pub fn clients(&self, relay: &Relay, count: usize) -> Result<Vec<bench::Client>> {
        let streams: Vec<_> = (0..count).map(|number| format!("stream{number}")).collect();
        let players = by_all_hands(&streams, |stream| {
            Ok(Player { client: Client::play(relay.address, stream)?, stream: stream.clone() })
        })?;
        let mut clients: Vec<bench::Client> = Vec::new();
        if self.load.has_probe {
            let (probe, feeder) = (Client::play(relay.address, PROBE)?, Arc::clone(&self.feeder));
            clients.push(Box::new(move |tally| listen(probe, &feeder, tally)));
        }
        let held = Held::new(self.origin, relay.address, Arc::clone(&self.feeder));
        let reading = self.load.reading;
        clients.push(Box::new(move |tally| {
            if reading == Reading::All {
                return drain(&players, tally, None);
            }
            let (readers, _) = players.split_at(players.len() / 2);
            drain(readers, tally, Some(Instant::now() + WARM_UP))?;
            while !tally.is_over() {
                thread::sleep(LOOK);
                tally.held(held.most(&players)?);
            }
            Ok(())
        }));
        self.feeder.open(true);
        Ok(clients)
    }
}

/// A player of a stream of its own.
pub(super) struct Player {
    client: Client,
    pub(super) stream: String,
}

impl Player {
    pub(super) fn socket(&self) -> &TcpStream {
        self.client.socket()
    }
}

/// Takes what comes to any of them, until the load is over or this moment has come.
///
/// Nobody wants to see the bytes, so the kernel copies none of them: tcp(7), `MSG_TRUNC`.
fn drain(players: &[Player], tally: &Tally, end: Option<Instant>) -> Result<()> {
    let poll = Epoll::new(EpollCreateFlags::empty())?;
    for (number, player) in (0..).zip(players) {
        poll.add(player.socket(), EpollEvent::new(EpollFlags::EPOLLIN, number))?;
    }
    let (mut events, mut buffer) = ([EpollEvent::empty(); 256], vec![0; READ]);
    let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
    while !tally.is_over() && end.is_none_or(|end| Instant::now() < end) {
        let ready = poll.wait(&mut events, EpollTimeout::try_from(LOOK)?)?;
        let mut bytes = 0;
        for event in events.iter().take(ready) {
            let player = players.get(usize::try_from(event.data())?).context("no such player")?;
            match recv(player.socket().as_raw_fd(), &mut buffer, flags) {
                Ok(0) => anyhow::bail!("{} has ended", player.stream),
                Ok(count) => bytes += count,
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        tally.got(bytes);
    }
    Ok(())
}

/// Takes the probe's messages, and notes how long they took.
fn listen(mut probe: Client, feeder: &Feeder, tally: &Tally) -> Result<()> {
    while !tally.is_over() {
        let tag = probe.next_tag()?;
        let sent = tag.data.first_chunk().context("a message without a time")?;
        let sent = Duration::from_nanos(u64::from_be_bytes(*sent));
        tally.took(feeder.now().saturating_sub(sent));
    }
    Ok(())
}

/// How often it is looked whether the load is over, and what is held.
const LOOK: Duration = Duration::from_millis(200);
