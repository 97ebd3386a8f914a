//! Two real origins behind one proxy.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ffmpeg::{self, Source};
use crate::nginx::Nginx;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::wait;

/// A proxy, and two nginx origins that are registered with it.
#[derive(Debug)]
pub struct Cluster {
    /// The proxy.
    pub proxy: Proxy,
    /// The origins.
    pub origins: [Nginx; 2],
}

impl Cluster {
    /// Starts all three; the proxy with these variables beside those of the rig.
    pub fn start(folder: &Path, variables: &[(&str, &str)]) -> Result<Self> {
        let origins = [Nginx::start(folder, "a")?, Nginx::start(folder, "b")?];
        let proxy = Proxy::start(folder, variables)?;
        for origin in &origins {
            origin.register_at(proxy.system_api())?;
        }
        Ok(Self { proxy, origins })
    }

    /// The same, with the fixture published for ever as this stream: its publisher, and the place
    /// of its origin.
    pub fn start_with(folder: &Path, stream: &str) -> Result<(Self, Process, usize)> {
        let cluster = Self::start(folder, &[])?;
        let url = cluster.proxy.url(stream);
        let publisher = ffmpeg::publish(folder, "publisher", Source::FixtureForEver, &url)?;
        let home = cluster.home_of(stream)?;
        Ok((cluster, publisher, home))
    }

    /// Waits until one origin has a publisher of this stream, and gives that origin's place.
    /// An origin that is down has none. Fails if both have one.
    pub fn home_of(&self, stream: &str) -> Result<usize> {
        let what = format!("an origin has the stream {stream}");
        let homes = wait::until(&what, Duration::from_secs(10), || {
            let all = self.origins.iter().enumerate();
            let homes: Vec<usize> = all
                .filter(|(_, origin)| origin.has_publisher(stream).unwrap_or(false))
                .map(|(place, _)| place)
                .collect();
            Ok((!homes.is_empty()).then_some(homes))
        })?;
        match homes[..] {
            [home] => Ok(home),
            _ => bail!("the stream {stream} is published to both origins"),
        }
    }

    /// The origin at this place.
    pub fn origin(&mut self, place: usize) -> Result<&mut Nginx> {
        self.origins.get_mut(place).context("there are two origins")
    }
}
