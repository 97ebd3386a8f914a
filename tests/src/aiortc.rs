//! aiortc: a real publisher, player and origin of WebRTC, by `aiortc/peer.py`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::process::Process;
use crate::whip::Role;
use crate::{heartbeat, http, ports, wait};

/// An origin that decodes what is published and encodes it anew for each player; every session
/// has a port of its own. Ended when dropped.
#[derive(Debug)]
pub struct Origin {
    name: String,
    http: SocketAddr,
    process: Process,
}

impl Origin {
    /// Starts an origin of this name on loopback, and waits until it listens.
    pub fn start(folder: &Path, name: &str) -> Result<Self> {
        Self::start_at(ports::free()?, folder, name)
    }

    /// Starts an origin that takes offers at this address, and media on the same host.
    pub fn start_at(http: SocketAddr, folder: &Path, name: &str) -> Result<Self> {
        let mut process = Process::start(
            peer(http)?.args(["origin", &http.port().to_string()]).current_dir(folder),
            folder,
            name,
        )?;
        process.wait_until_ready(START, || Ok(http::get(http, "/sessions")?.status == 200))?;
        Ok(Self { name: name.to_owned(), http, process })
    }

    /// Where it takes offers.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its sessions, as their Location names them.
    pub fn sessions(&self) -> Result<Vec<String>> {
        let list = http::get(self.http, "/sessions")?.json()?;
        let names = list.as_array().context("no list")?.iter();
        Ok(names.filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Registers it with a proxy. It has no port of its own for media, so it names none.
    pub fn register_at(&self, proxy: SocketAddr) -> Result<()> {
        let listeners = [("api", self.http.port().to_string())];
        heartbeat::register_host(self.http.ip(), proxy, &self.name, &listeners)
    }

    /// Ends it at once; its sockets are closed by the system.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}

/// A publisher of a picture and a tone, or a player of both.
#[derive(Debug)]
pub struct Client {
    process: Process,
}

impl Client {
    /// Starts a client of the stream `live/<stream>`, and waits for the answer to its offer; any
    /// but 201 is an error.
    pub fn start(
        folder: &Path,
        name: &str,
        server: SocketAddr,
        role: Role,
        stream: &str,
    ) -> Result<Self> {
        Self::start_by(folder, name, server, None, role, stream)
    }

    /// The same, with its media to another server than the answer says, if one is named.
    pub fn start_by(
        folder: &Path,
        name: &str,
        server: SocketAddr,
        media: Option<SocketAddr>,
        role: Role,
        stream: &str,
    ) -> Result<Self> {
        let mode = match role {
            Role::Publish => "publish",
            Role::Play => "play",
        };
        let url = format!("http://{server}{}", role.target(stream));
        let mut command = peer(ports::towards(server)?.local_addr()?)?;
        command.envs(media.map(|it| ("PEER_MEDIA", format!("{} {}", it.ip(), it.port()))));
        let process = Process::start(command.args([mode, &url]), folder, name)?;
        let client = Self { process };
        let answer = wait::until("an answer", START, || Ok(client.last("answer")))?;
        if answer.get("status").and_then(Value::as_u64) != Some(201) {
            bail!("refused: {answer}");
        }
        Ok(client)
    }

    /// `new`, `connecting`, `connected`, `closed` or `failed`.
    pub fn state(&self) -> String {
        let state = self.last("state").and_then(|it| Some(it.get("state")?.as_str()?.to_owned()));
        state.unwrap_or_else(|| "new".to_owned())
    }

    /// What it has sent, or received, up to the last second.
    pub fn counters(&self) -> Counters {
        let said = self.last("counters").unwrap_or_default();
        let all = |name: &str| {
            let kinds = said.get(name).and_then(Value::as_object).into_iter().flatten();
            kinds.map(|(kind, count)| (kind.clone(), count.as_i64().unwrap_or_default())).collect()
        };
        Counters { packets: all("packets"), lost: all("lost"), frames: all("frames") }
    }

    /// Waits until it has so many more frames of each kind than now.
    pub fn must_go_on_for(&self, frames: i64, limit: Duration) -> Result<()> {
        let before = self.counters().frames;
        wait::until("more pictures and sound", limit, || {
            let now = self.counters().frames;
            let more = |kind: &str| {
                let count =
                    |all: &BTreeMap<String, i64>| all.get(kind).copied().unwrap_or_default();
                count(&now) - count(&before)
            };
            let enough = more("video") >= frames && more("audio") >= frames;
            if !enough {
                bail!("{now:?} after {before:?}");
            }
            Ok(Some(()))
        })
    }

    /// Ends it by DELETE, and waits; the status of the answer.
    pub fn delete(mut self) -> Result<u64> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(START)?;
        let deleted = self.last("deleted").context("it asked for no end")?;
        deleted.get("status").and_then(Value::as_u64).context("no status")
    }

    /// Ends it by the DTLS alert alone, and waits.
    pub fn hang_up(mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(START).map(drop)
    }

    /// Ends it without a word.
    pub fn vanish(mut self) -> Result<()> {
        self.process.kill()
    }

    /// The last thing of this kind that it said.
    fn last(&self, event: &str) -> Option<Value> {
        let log = self.process.log();
        let mut said = log.lines().rev().filter_map(|line| serde_json::from_str(line).ok());
        said.find(|it: &Value| it.get("event").and_then(Value::as_str) == Some(event))
    }
}

/// Counts by kind, `audio` and `video`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// RTP packets sent or received.
    pub packets: BTreeMap<String, i64>,
    /// RTP packets that a player misses; negative if some came twice.
    pub lost: BTreeMap<String, i64>,
    /// Frames made, or decoded.
    pub frames: BTreeMap<String, i64>,
}

/// The Python of the environment that `cargo xtask test` has made beside this program's profile,
/// about to run a peer on this host.
fn peer(host: SocketAddr) -> Result<Command> {
    let this = std::env::current_exe()?;
    let mut candidates = this.ancestors().map(|folder| folder.join("aiortc/bin/python"));
    let python: Option<PathBuf> = candidates.find(|python| python.is_file());
    let mut command =
        Command::new(python.context("aiortc is not installed: `cargo xtask test` gets it")?);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("aiortc/peer.py"));
    command.env("PEER_ADDRESS", host.ip().to_string());
    Ok(command)
}

/// Python takes a second or two to load its libraries, more on a busy machine.
const START: Duration = Duration::from_secs(20);
