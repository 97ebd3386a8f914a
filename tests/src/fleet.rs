//! Several proxies that share one store, scripted origins, and shows that go on meanwhile.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use serde_json::Value;

use crate::proxy::{Proxy, Session};
use crate::redis::Redis;
use crate::rtmp::{Client, Feed, Origin, Script};
use crate::{http, wait};

/// Proxies with one store, and origins that one of them was told of. Gone when dropped.
pub struct Fleet {
    /// The proxies.
    pub proxies: Vec<Proxy>,
    /// Origins of RTMP, named [`NAMES`] in turn; one that was taken away is none.
    pub origins: Vec<Option<Origin>>,
}

/// Names of origins, of which the first is `vid-a-a-1` in the store.
pub const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

impl Fleet {
    /// Starts so many proxies and so many origins on one Redis.
    pub fn start(folder: &Path, redis: &Redis, proxies: usize, origins: usize) -> Result<Self> {
        let address = redis.address();
        let mut fleet = Self::of(folder, proxies, |_| at(address))?;
        fleet.add_origins(origins)?;
        Ok(fleet)
    }

    /// Starts so many proxies, each with variables of its own.
    pub fn of(
        folder: &Path,
        count: usize,
        variables: impl Fn(usize) -> Vec<(&'static str, String)>,
    ) -> Result<Self> {
        let start = |place: usize| {
            let mut variables = variables(place);
            variables.push(("PROXY_LOAD_BALANCER_TYPE", "redis".to_owned()));
            let variables: Vec<_> = variables.iter().map(|(it, value)| (*it, &**value)).collect();
            Proxy::start_named(folder, &format!("proxy-{place}"), &variables)
        };
        let proxies = (0..count).map(start).collect::<Result<_>>()?;
        Ok(Self { proxies, origins: Vec::new() })
    }

    /// Starts so many more origins; each registers with one proxy, in turn, and all hear of it.
    pub fn add_origins(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let origin = self.start_origin()?;
            self.register(origin, origin % self.proxies.len())?;
        }
        self.must_know(self.origins.len())
    }

    /// Starts an origin of which nobody is told, and gives its place.
    pub fn start_origin(&mut self) -> Result<usize> {
        self.origins.push(Some(Origin::start(Script::Serve(Feed::Live))?));
        Ok(self.origins.len() - 1)
    }

    /// A heartbeat of the origin at this place, to the proxy at that one.
    pub fn register(&self, origin: usize, proxy: usize) -> Result<()> {
        let name = NAMES.get(origin).context("an origin has a name")?;
        self.origin(origin)?.register_at(self.proxy(proxy)?.system_api(), name)
    }

    /// The proxy at this place.
    pub fn proxy(&self, place: usize) -> Result<&Proxy> {
        self.proxies.get(place).context("there is no such proxy")
    }

    /// Where the proxy at this place takes RTMP.
    pub fn rtmp(&self, place: usize) -> Result<SocketAddr> {
        Ok(self.proxy(place)?.rtmp())
    }

    /// The origin at this place.
    pub fn origin(&self, place: usize) -> Result<&Origin> {
        self.origins.get(place).and_then(Option::as_ref).context("there is no such origin")
    }

    /// Takes the origin at this place away: its connections close, and its port with them.
    pub fn kill_origin(&mut self, place: usize) -> Result<()> {
        let origin = self.origins.get_mut(place).and_then(Option::take);
        drop(origin.context("there is no such origin")?);
        Ok(())
    }

    /// Waits until every proxy knows so many origins.
    pub fn must_know(&self, origins: usize) -> Result<()> {
        for (place, proxy) in self.proxies.iter().enumerate() {
            wait::until(&format!("proxy {place} knows {origins} origins"), SOON, || {
                let ready = http::get(proxy.system_api(), "/readyz")?.json()?;
                ensure!(ready.get("origins") == Some(&origins.into()), "{ready}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// Why each proxy goes on without the store; none if it has it. All are ready.
    pub fn degraded(&self) -> Result<Vec<Option<String>>> {
        let ask = |proxy: &Proxy| {
            let answer = http::get(proxy.system_api(), "/readyz")?;
            ensure!(answer.status == 200, "not ready: {}", answer.body);
            let why = answer.json()?.get("degraded").and_then(Value::as_str).map(str::to_owned);
            Ok(why)
        };
        self.proxies.iter().map(ask).collect()
    }

    /// Waits until every proxy has the store, and what it knows of others is new.
    pub fn must_be_healthy(&self) -> Result<()> {
        wait::until("every proxy has the store", SOON, || {
            for (place, why) in self.degraded()?.into_iter().enumerate() {
                ensure!(why.is_none(), "proxy {place} has not: {why:?}");
                let cluster = self.proxy(place)?.get("/api/v1/cluster")?;
                let staleness = cluster.pointer("/cluster/store/staleness_seconds");
                let is_new = staleness.and_then(Value::as_f64).is_some_and(|it| it < 2.0);
                ensure!(is_new, "proxy {place}: {cluster}");
            }
            Ok(Some(()))
        })
    }

    /// Waits until every proxy goes on without the store, and gives why the last one does.
    pub fn must_be_degraded(&self) -> Result<String> {
        wait::until("every proxy is degraded", SOON, || {
            let all = self.degraded()?.into_iter().collect::<Option<Vec<_>>>();
            all.context("a proxy has the store")?.pop().context("no proxy").map(Some)
        })
    }

    /// The place of the one origin to which all sessions of a stream go, at whichever proxy.
    /// Fails if there are two.
    pub fn owner(&self, stream: &str) -> Result<usize> {
        let mut all = Vec::new();
        for proxy in &self.proxies {
            all.extend(proxy.media_of(stream)?);
        }
        self.owner_of(&all).context(stream.to_owned())
    }

    /// The same of these sessions.
    pub fn owner_of(&self, sessions: &[Session]) -> Result<usize> {
        let mut addresses: Vec<_> = sessions.iter().map(|it| it.origin_address.as_str()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let [address] = addresses[..] else { bail!("not one owner: {addresses:?}") };
        let mut places = 0..self.origins.len();
        let is_it = |place: &usize| {
            self.origin(*place).is_ok_and(|origin| origin.address().to_string() == address)
        };
        places.find(is_it).with_context(|| format!("{address} is no origin"))
    }

    /// Publishes a stream at one proxy and plays it at another: what comes is from one origin.
    pub fn show(&self, stream: &str, publisher: usize, player: usize) -> Result<Show> {
        Show::start(stream, self.rtmp(publisher)?, &[self.rtmp(player)?])
    }

    /// The same, and waits for what comes.
    pub fn must_show(&self, stream: &str, publisher: usize, player: usize) -> Result<Show> {
        let mut show = self.show(stream, publisher, player)?;
        must_go_on(std::slice::from_mut(&mut show), 2)?;
        Ok(show)
    }
}

/// The variables of a proxy that has its store in a Redis at this address, and time for it on a busy
/// machine.
pub fn at(redis: SocketAddr) -> Vec<(&'static str, String)> {
    by_url(format!("redis://{redis}"))
}

/// The same, by its URL.
pub fn by_url(url: String) -> Vec<(&'static str, String)> {
    vec![("PROXY_REDIS_URL", url), ("PROXY_REDIS_TIMEOUT", "2s".to_owned())]
}

/// The name of the key that has a stream's owner.
pub fn route_key(stream: &str) -> String {
    format!("srs-proxy-url:__defaultVhost__/live/{stream}")
}

/// What that key has if the origin at this place is the owner.
pub fn owner_value(place: usize) -> Result<String> {
    let name = NAMES.get(place).context("an origin has a name")?;
    Ok(format!("srs-proxy-server:vid-{name}-{name}-1"))
}

/// The values of these keys in Redis, by one command; empty if there are none.
pub fn values(redis: &Redis, keys: &[String]) -> Result<Vec<String>> {
    let mut command = vec!["MGET"];
    command.extend(keys.iter().map(String::as_str));
    let said = redis.cli(&command)?;
    let mut values: Vec<String> = said.split('\n').map(str::to_owned).collect();
    values.resize(keys.len(), String::new());
    Ok(values)
}

/// A stream that is published at one proxy and played at others: each frame that is sent should
/// come to each player.
pub struct Show {
    /// Its name.
    pub stream: String,
    /// Who sends.
    pub publisher: Client,
    /// Who watches.
    pub players: Vec<Client>,
    /// Bytes that have come to each.
    come: Vec<u64>,
}

impl Show {
    /// Publishes a stream at one server, and plays it at others.
    pub fn start(stream: &str, at: SocketAddr, players: &[SocketAddr]) -> Result<Self> {
        let publisher =
            Client::publish(at, stream).with_context(|| format!("publishing {stream} at {at}"))?;
        let play = |server: &SocketAddr| {
            Client::play(*server, stream).with_context(|| format!("playing {stream} at {server}"))
        };
        let players = players.iter().map(play).collect::<Result<Vec<_>>>()?;
        Ok(Self::of(stream, publisher, players))
    }

    /// That of clients which are there.
    pub fn of(stream: &str, publisher: Client, players: Vec<Client>) -> Self {
        let come = vec![0; players.len()];
        Self { stream: stream.to_owned(), publisher, players, come }
    }

    /// Sends one frame, and takes what has come. Fails if a session has ended.
    pub fn beat(&mut self) -> Result<()> {
        take(&self.publisher).with_context(|| format!("the publisher of {}", self.stream))?;
        self.publisher.send_video(FRAME)?;
        for (player, come) in self.players.iter().zip(&mut self.come) {
            *come += take(player).with_context(|| format!("a player of {}", self.stream))?;
        }
        Ok(())
    }
}

/// Sends frames of each show until so many have come to each player.
pub fn must_go_on(shows: &mut [Show], frames: u64) -> Result<()> {
    let goal = |come: &u64| *come + frames * u64::try_from(FRAME).unwrap_or_default();
    let goals: Vec<Vec<u64>> = shows.iter().map(|it| it.come.iter().map(goal).collect()).collect();
    let deadline = Instant::now() + SOON;
    loop {
        for show in &mut *shows {
            show.beat()?;
        }
        let mut late = String::new();
        for (show, goals) in shows.iter().zip(&goals) {
            if show.come.iter().zip(goals).any(|(come, goal)| come < goal) {
                write!(late, " {}", show.stream)?;
            }
        }
        if late.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no pictures come to players of{late}");
        thread::sleep(PAUSE);
    }
}

/// Everything that a client has been sent and has not read yet, in bytes. Fails if that is the end.
fn take(client: &Client) -> Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut sum = 0;
    loop {
        match recv(client.socket().as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => bail!("the proxy has closed the connection"),
            Ok(length) => sum += u64::try_from(length)?,
            Err(Errno::EAGAIN) => return Ok(sum),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Bytes of a frame of a [`Show`].
const FRAME: usize = 600;
/// Between two frames that are waited for.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two frames of shows that go on meanwhile.
pub const BEAT: Duration = Duration::from_millis(200);
/// For what proxies should notice within a second or two.
pub const SOON: Duration = Duration::from_secs(15);
