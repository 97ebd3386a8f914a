//! Several proxies with one Redis act as one, whatever becomes of Redis, the origins or a proxy.

mod away;
mod beside;
mod deaths;
mod guests;
mod hostile;
mod ids;
mod media;
mod orders;
mod race;
mod shapes;
mod silence;
mod slow;
mod twice;
mod webrtc;

use std::path::Path;

use anyhow::Result;
use srs_proxy_tests::redis::{Redis, obstacle};
use srs_proxy_tests::{skip, story};

/// A test with a Redis of its own; it is skipped where there is none.
fn with_redis(tell: impl FnOnce(&Path, Redis) -> Result<()>) -> Result<()> {
    match obstacle() {
        Some(why) => skip(&why),
        None => story(|folder| tell(folder, Redis::start()?)),
    }
}
