//! node-media-server: a real origin of RTMP and HTTP-FLV.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::process::{self, Process};
use crate::{http, ports};

/// An origin of RTMP and HTTP-FLV. Like SRS, it holds the answer to a player until somebody
/// publishes. Killed when dropped.
#[derive(Debug)]
pub struct Nms {
    name: String,
    rtmp: SocketAddr,
    http: SocketAddr,
    process: Process,
}

impl Nms {
    /// Starts an origin of this name and waits until it listens.
    pub fn start(folder: &Path, name: &str) -> Result<Self> {
        let modules = modules()?;
        let (rtmp, http) = (ports::free()?, ports::free()?);
        let mut node = Command::new(process::find("node")?);
        node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("nms/origin.js"))
            .args([rtmp.port().to_string(), http.port().to_string()])
            .env("NODE_PATH", modules)
            .current_dir(folder);
        let mut process = Process::start(&mut node, folder, name)?;
        process.wait_until_ready(Duration::from_secs(20), || {
            Ok(http::get(http, "/api/streams")?.status == 200)
        })?;
        Ok(Self { name: name.to_owned(), rtmp, http, process })
    }

    /// Where it takes RTMP.
    pub fn rtmp(&self) -> SocketAddr {
        self.rtmp
    }

    /// Where it serves HTTP-FLV.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The RTMP URL of one of its streams.
    pub fn url(&self, stream: &str) -> String {
        format!("rtmp://{}/live/{stream}", self.rtmp)
    }

    /// What it has written so far: each player's URL is in it.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it at once; its sockets are closed by the system.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Whether somebody publishes this stream here.
    pub fn has_publisher(&self, stream: &str) -> Result<bool> {
        Ok(self.stream(stream)?.get("publisher").is_some_and(Value::is_object))
    }

    /// Players of this stream that it counts, as `rtmp` or `http`; those that wait included.
    pub fn players(&self, stream: &str) -> Result<Vec<String>> {
        let stream = self.stream(stream)?;
        let players = stream.get("subscribers").and_then(Value::as_array);
        let protocol = |player: &Value| {
            player.get("protocol").and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        Ok(players.map(|players| players.iter().map(protocol).collect()).unwrap_or_default())
    }

    /// Registers it with a proxy, by the address of the proxy's system API.
    pub fn register_at(&self, proxy: SocketAddr) -> Result<()> {
        let heartbeat = json!({
            "ip": self.rtmp.ip(),
            "server": format!("vid-{}", self.name),
            "service": self.name,
            "pid": self.process.id().to_string(),
            "rtmp": [self.rtmp.port().to_string()],
            "http": [self.http.port().to_string()],
        });
        let answer = http::post(proxy, "/api/v1/srs/register", &heartbeat.to_string())?;
        ensure!(answer.status == 200, "not registered: {} {}", answer.status, answer.body);
        Ok(())
    }

    fn stream(&self, stream: &str) -> Result<Value> {
        let all = http::get(self.http, "/api/streams")?.json()?;
        Ok(all.pointer(&format!("/live/{stream}")).cloned().unwrap_or_default())
    }
}

/// Where `cargo xtask test` has put the package: beside this program's profile.
fn modules() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let mut candidates = this.ancestors().map(|folder| folder.join("nms/node_modules"));
    let found = candidates.find(|folder| folder.join("node-media-server").is_dir());
    found.context("node-media-server is not installed: `cargo xtask test` gets it")
}
