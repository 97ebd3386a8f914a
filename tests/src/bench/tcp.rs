//! Both ends of RTMP sessions: an origin that feeds all players on one thread, and the players, which
//! read on another.

mod feeder;
mod held;
mod players;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use anyhow::Result;

use self::feeder::Feeder;
pub use self::players::Opener;
use crate::rtmp;

/// What the sessions of a case carry.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What the origin sends to each player.
    pub feed: Feed,
    /// What players read of it.
    pub reading: Reading,
    /// Whether one more player gets small messages that tell when they were sent.
    pub has_probe: bool,
}

/// What a player is sent.
#[derive(Clone, Copy, Debug)]
pub enum Feed {
    /// One frame of 16 KiB, and nothing behind it.
    Once,
    /// Frames 30 times a second that come to this many bits a second, each player's at moments of
    /// its own.
    Paced(u32),
    /// As much as the connection takes.
    Bulk,
}

/// What a player reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All that comes.
    All,
    /// Of half of the players nothing; of the others all that comes until the bench begins to count,
    /// and then nothing: their buffers have grown to what the stream needs.
    Stalled,
}

/// The origin. Its connections close when dropped.
pub struct Origin {
    rtmp: rtmp::Origin,
    feeder: Arc<Feeder>,
    load: Load,
}

impl Origin {
    /// Listens on a free port. Players get nothing until they are all there.
    pub fn start(load: Load) -> Result<Self> {
        let feeder = Arc::new(Feeder::new(load.feed));
        let desk = Arc::clone(&feeder);
        let rtmp = rtmp::Origin::start_for(move |player| desk.add(player))?;
        let own = Arc::clone(&feeder);
        thread::Builder::new().name("feeder".to_owned()).spawn(move || own.run())?;
        Ok(Self { rtmp, feeder, load })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.rtmp.address()
    }

    /// Registers it with a proxy under this name.
    pub fn register_at(&self, proxy: SocketAddr, name: &str) -> Result<()> {
        self.rtmp.register_at(proxy, name)
    }

    /// For its players.
    pub fn opener(&self) -> Opener {
        Opener::new(self.load, self.address(), Arc::clone(&self.feeder))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.feeder.end();
    }
}

/// The stream of the player that gets messages instead of frames.
const PROBE: &str = "probe";
