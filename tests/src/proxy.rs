//! The proxy under test, as a child process.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::netns::Namespace;
use crate::process::Process;
use crate::{http, ports, wait};

/// A running proxy. Killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    /// The child process.
    pub process: Process,
    rtmp: SocketAddr,
    http: SocketAddr,
    http_api: SocketAddr,
    webrtc: SocketAddr,
    srt: SocketAddr,
    system_api: SocketAddr,
    /// Where its API is asked; none is where everybody is.
    home: Option<Namespace>,
}

impl Proxy {
    /// Starts a proxy with these variables beside those of the rig, and waits until it is ready.
    pub fn start(folder: &Path, variables: &[(&str, &str)]) -> Result<Self> {
        Self::start_named(folder, "proxy", variables)
    }

    /// The same, one of several in a folder.
    pub fn start_named(folder: &Path, name: &str, variables: &[(&str, &str)]) -> Result<Self> {
        let (rtmp, http, system_api) = (ports::free()?, ports::free()?, ports::free()?);
        let (http_api, webrtc, srt) = (ports::free()?, ports::free()?, ports::free()?);
        let mut command = command(folder)?;
        command.env("PROXY_RTMP_SERVER", rtmp.to_string());
        command.env("PROXY_HTTP_SERVER", http.to_string());
        command.env("PROXY_HTTP_API", http_api.to_string());
        command.env("PROXY_WEBRTC_SERVER", webrtc.to_string());
        command.env("PROXY_SRT_SERVER", srt.to_string());
        command.env("PROXY_SYSTEM_API", system_api.to_string());
        command.envs(variables.iter().copied());
        let mut process = Process::start(&mut command, folder, name)?;
        must_be_ready(&mut process, system_api)?;
        Ok(Self { process, rtmp, http, http_api, webrtc, srt, system_api, home: None })
    }

    /// Starts a proxy in this namespace, where it listens on every address; its clients know it by
    /// this one.
    pub fn start_in(
        home: &Namespace,
        address: IpAddr,
        folder: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        // Nobody else is there: each has the port that is its own if nothing is said.
        let [rtmp, http, http_api, webrtc, srt] =
            [11935, 18080, 11985, 18000, 20080].map(|port| SocketAddr::new(address, port));
        let system_api = SocketAddr::from((Ipv4Addr::LOCALHOST, 12025));
        let process = home.within(|| {
            let mut command = command(folder)?;
            command.envs(variables.iter().copied());
            let mut process = Process::start(&mut command, folder, "proxy")?;
            must_be_ready(&mut process, system_api)?;
            Ok(process)
        })?;
        let home = Some(home.clone());
        Ok(Self { process, rtmp, http, http_api, webrtc, srt, system_api, home })
    }

    /// Does this where the proxy is: its system API is not asked from elsewhere.
    pub fn within<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.home {
            Some(home) => home.within(act),
            None => act(),
        }
    }

    /// Where it takes RTMP.
    pub fn rtmp(&self) -> SocketAddr {
        self.rtmp
    }

    /// Where it serves players over HTTP.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it takes offers of WebRTC.
    pub fn http_api(&self) -> SocketAddr {
        self.http_api
    }

    /// Where it takes the media of WebRTC.
    pub fn webrtc(&self) -> SocketAddr {
        self.webrtc
    }

    /// Where it takes SRT.
    pub fn srt(&self) -> SocketAddr {
        self.srt
    }

    /// Where it takes registrations and questions.
    pub fn system_api(&self) -> SocketAddr {
        self.system_api
    }

    /// The RTMP URL of a stream.
    pub fn url(&self, stream: &str) -> String {
        format!("rtmp://{}/live/{stream}", self.rtmp)
    }

    /// The URL of a file or stream over HTTP, such as `live/show.flv`.
    pub fn http_url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.http)
    }

    /// GET of the API, as JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        let answer = self.within(|| http::get(self.system_api, path))?;
        if answer.status != 200 {
            bail!("{path}: {} {}", answer.status, answer.body);
        }
        answer.json()
    }

    /// Live sessions.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        let all = self.get("/api/v1/sessions")?;
        let list = all.get("sessions").and_then(Value::as_array).context("no list of sessions")?;
        Ok(list.iter().map(Session::of).collect())
    }

    /// Live sessions of the stream `live/<stream>`.
    pub fn sessions_of(&self, stream: &str) -> Result<Vec<Session>> {
        let key = format!("__defaultVhost__/live/{stream}");
        let mut sessions = self.sessions()?;
        sessions.retain(|session| session.stream == key);
        Ok(sessions)
    }

    /// The same, without those of HTTP, in which some others are opened.
    pub fn media_of(&self, stream: &str) -> Result<Vec<Session>> {
        let mut sessions = self.sessions_of(stream)?;
        sessions.retain(|session| session.protocol != "http");
        Ok(sessions)
    }

    /// What carries streams.
    pub fn stream_engine(&self) -> Result<StreamEngine> {
        let planes = self.get("/api/v1/planes")?;
        let streams = planes.pointer("/planes/streams").context("no streams among the planes")?;
        let text = |name| streams.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let threads = streams.get("threads").and_then(Value::as_array);
        Ok(StreamEngine {
            word: text("engine"),
            reason: text("reason"),
            threads: threads.context("no threads of streams")?.len(),
        })
    }

    /// Waits until a session of the stream `live/<stream>` is carried by this engine: until its origin
    /// has said yes, the relay has it.
    pub fn must_carry(&self, stream: &str, engine: &str) -> Result<Session> {
        wait::until(&format!("{stream} is carried by {engine}"), SOON, || {
            let sessions = self.media_of(stream)?;
            let carried =
                sessions.iter().find(|it| it.plane == engine && it.plane_reason != UNANSWERED);
            ensure!(carried.is_some(), "{sessions:?}");
            Ok(carried.cloned())
        })
    }

    /// The sum of all samples of this metric whose labels have these values; 0 without any.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let text = self.within(|| http::get(self.system_api, "/metrics"))?.body;
        Ok(sum(&text, name, labels))
    }

    /// How many sessions ended for this reason.
    pub fn ends(&self, reason: &str) -> Result<u64> {
        self.metric("srs_proxy_session_ends_total", &[("reason", reason)])
    }
}

fn must_be_ready(process: &mut Process, system_api: SocketAddr) -> Result<()> {
    process.wait_until_ready(Duration::from_secs(10), || {
        Ok(http::get(system_api, "/readyz")?.status == 200)
    })
}

/// The sum of all samples in a text of metrics, as [`Proxy::metric`] has it.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    let samples = text.lines().filter_map(sample);
    let matching = samples.filter(|(sample, has, _)| {
        *sample == name && labels.iter().all(|(label, value)| has.get(label) == Some(value))
    });
    matching.map(|(_, _, value)| value).sum()
}

/// What carries the streams of sessions that nothing is in the way of, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEngine {
    /// Its name.
    pub word: String,
    /// Why it is not the fastest; empty if it is.
    pub reason: String,
    /// Threads of its own.
    pub threads: usize,
}

/// One live session, as the API shows it; empty where nothing is known yet.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name.
    pub id: String,
    /// `rtmp`, `http`, `webrtc` or `srt`.
    pub protocol: String,
    /// `publish` or `play`.
    pub role: String,
    /// The stream key.
    pub stream: String,
    /// The origin's address.
    pub origin_address: String,
    /// How its bytes move.
    pub plane: String,
    /// Why they do not move faster.
    pub plane_reason: String,
    /// Datagrams of both directions that the kernel has forwarded.
    pub kernel_packets: u64,
    /// Datagrams of both directions that the proxy itself has.
    pub userspace_packets: u64,
    /// Bytes towards the origin.
    pub bytes_to_origin: u64,
    /// Bytes towards the client.
    pub bytes_to_client: u64,
}

impl Session {
    fn of(value: &Value) -> Self {
        let text = |name| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |name| value.get(name).and_then(Value::as_u64).unwrap_or_default();
        let packets = |by: &str| {
            let amounts = value.get("datagrams").and_then(|it| it.get(by));
            let amount = |name: &str| amounts.and_then(|it| it.get(name)?.as_u64());
            let directions = ["packets_to_origin", "packets_to_client"];
            directions.into_iter().filter_map(amount).sum()
        };
        Self {
            kernel_packets: packets("kernel"),
            userspace_packets: packets("userspace"),
            id: text("id"),
            protocol: text("protocol"),
            role: text("role"),
            stream: text("stream"),
            origin_address: text("origin_address"),
            plane: text("plane"),
            plane_reason: text("plane_reason"),
            bytes_to_origin: number("bytes_to_origin"),
            bytes_to_client: number("bytes_to_client"),
        }
    }
}

/// The proxy, to be started in this folder, with no variable but those the caller adds.
pub fn command(folder: &Path) -> Result<Command> {
    let program = BINARY.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PROXY_") {
            command.env_remove(name);
        }
    }
    // Programs at the interfaces of this host are not a test's to attach.
    command.env("PROXY_EBPF_MODE", "off");
    // `.env` of the folder, which has none, and not of the caller's.
    command.current_dir(folder);
    Ok(command)
}

/// Why the relay has a session that is not established yet.
const UNANSWERED: &str = "the origin's answer is waited for";

/// Within which a session is handed over.
const SOON: Duration = Duration::from_secs(15);

/// The program that `SRS_PROXY_BIN` names, else one built with the profile of this program and
/// into its folder.
static BINARY: LazyLock<Result<PathBuf, String>> =
    LazyLock::new(|| match std::env::var_os("SRS_PROXY_BIN") {
        Some(path) => Ok(path.into()),
        None => build().map_err(|error| format!("{error:#}")),
    });

fn build() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    // <target>/<profile>/deps/<test> or <target>/<profile>/<bin>
    let folder = this.parent().context("this program is in no folder")?;
    let in_deps = folder.file_name().is_some_and(|name| name == "deps");
    let folder = if in_deps { folder.parent() } else { Some(folder) };
    let profile_folder = folder.context("this program is not in a target folder")?;
    let target = profile_folder.parent().context("this program is not in a target folder")?;
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    // Cargo's own lock makes several test programs wait for one build.
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--quiet", "-p", "srs-proxy", "--bin", "srs-proxy"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the proxy does not build: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(profile_folder.join(format!("srs-proxy{}", std::env::consts::EXE_SUFFIX)))
}

/// One line of the text format: name, labels, value. Comments and broken lines give none.
fn sample(line: &str) -> Option<(&str, BTreeMap<&str, &str>, u64)> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}')?.split(',').filter_map(|label| {
        let (name, value) = label.split_once('=')?;
        Some((name, value.trim_matches('"')))
    });
    // What the rig asks for are counts; some writers give them a fraction of zero.
    let whole = value.split_once('.').map_or(value, |(whole, _)| whole);
    Some((name, labels.collect(), whole.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::sample;

    #[test]
    fn a_line_of_metrics_is_read() {
        let line = "srs_proxy_session_ends_total{protocol=\"rtmp\",reason=\"idle\"} 3.0";
        let (name, labels, value) = sample(line).expect("a sample");
        assert_eq!(name, "srs_proxy_session_ends_total");
        assert_eq!((labels["protocol"], labels["reason"]), ("rtmp", "idle"));
        assert_eq!(value, 3);
        assert_eq!(sample("up 1").map(|(name, ..)| name), Some("up"));
        assert!(sample("# EOF").is_none());
    }
}
