//! Real Redis servers: one, with a replica and Sentinels, or as a Cluster.

mod certificates;
mod delay;

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

pub use self::certificates::Certificates;
pub use self::delay::Delay;
use crate::process::{self, Process};
use crate::{ports, wait};

/// Why there can be no Redis here, if so.
pub fn obstacle() -> Option<String> {
    let programs = ["redis-server", "redis-cli"];
    programs.into_iter().find_map(|it| process::find(it).err()).map(|error| error.to_string())
}

/// A server on loopback that keeps nothing on disk. Killed when dropped.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    address: SocketAddr,
    options: Options,
    /// None while it is down.
    process: Option<Process>,
}

/// How a server is to be, if not as it is by itself.
#[derive(Clone, Debug, Default)]
pub struct Options {
    password: Option<String>,
    users: Vec<String>,
    certificates: Option<Certificates>,
    replica_of: Option<SocketAddr>,
    /// Port of the Cluster's bus.
    bus: Option<u16>,
    /// Lines of a Sentinel.
    watch: Option<String>,
}

impl Options {
    /// A password of the default user.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }

    /// A user beside it, with the rules of an ACL such as `~* +@all`.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str, rules: &str) -> Self {
        self.users.push(format!("{name} on >{password} {rules}"));
        self
    }

    /// TLS, and nothing else.
    #[must_use]
    pub fn tls(mut self, certificates: &Certificates) -> Self {
        self.certificates = Some(certificates.clone());
        self
    }

    /// A copy of that server, which has the same password and certificates.
    #[must_use]
    pub fn replica_of(mut self, master: &Redis) -> Self {
        self.replica_of = Some(master.address);
        self.password.clone_from(&master.options.password);
        self.certificates.clone_from(&master.options.certificates);
        self
    }

    /// Starts it, and waits until it answers; a replica until it has everything.
    pub fn start(self) -> Result<Redis> {
        let (folder, address) = (TempDir::new()?, ports::free()?);
        let mut redis = Redis { folder, address, options: self, process: None };
        redis.start_again()?;
        Ok(redis)
    }

    fn config(&self, port: u16) -> Result<String> {
        let mut config = String::from("bind 127.0.0.1\nsave \"\"\nrepl-diskless-sync-delay 0\n");
        if let Some(Certificates { ca, cert, key, .. }) = &self.certificates {
            writeln!(
                config,
                "port 0\ntls-port {port}\ntls-replication yes\ntls-auth-clients optional"
            )?;
            writeln!(config, "tls-ca-cert-file {}", ca.display())?;
            writeln!(config, "tls-cert-file {}\ntls-key-file {}", cert.display(), key.display())?;
        } else {
            writeln!(config, "port {port}")?;
        }
        if let Some(password) = &self.password {
            writeln!(config, "requirepass {password}")?;
            if self.watch.is_none() {
                writeln!(config, "masterauth {password}")?;
            }
        }
        for user in &self.users {
            writeln!(config, "user {user}")?;
        }
        if let Some(master) = self.replica_of {
            writeln!(config, "replicaof {} {}", master.ip(), master.port())?;
        }
        if let Some(bus) = self.bus {
            writeln!(config, "cluster-enabled yes\ncluster-port {bus}\ncluster-node-timeout 5000")?;
            // One dead node leaves the slots of the others alive.
            writeln!(config, "cluster-require-full-coverage no")?;
        }
        config.push_str(self.watch.as_deref().unwrap_or_default());
        Ok(config)
    }
}

impl Redis {
    /// A server as it is by itself: no password, no TLS, no users.
    pub fn start() -> Result<Self> {
        Options::default().start()
    }

    /// A server to be told more about.
    pub fn options() -> Options {
        Options::default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it at once; its sockets are closed by the system.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("Redis is down already")?.kill()
    }

    /// Starts it on the same port as a new process, with nothing in it; ends the old one before.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.kill()?;
        }
        self.start_again()
    }

    fn start_again(&mut self) -> Result<()> {
        let file = self.folder.path().join("redis.conf");
        fs::write(&file, self.options.config(self.address.port())?)?;
        let mut server = Command::new(process::find("redis-server")?);
        server.arg(&file).current_dir(self.folder.path());
        if self.options.watch.is_some() {
            server.arg("--sentinel");
        }
        let process = Process::start(&mut server, self.folder.path(), "redis")?;
        let process = self.process.insert(process);
        let (address, options) = (self.address, &self.options);
        process.wait_until_ready(Duration::from_secs(10), || {
            let info = cli(address, options, &["INFO", "replication"])?;
            let has_all = options.replica_of.is_none() || info.contains("master_link_status:up");
            Ok(has_all && (info.contains("role:") || options.watch.is_some()))
        })
    }

    /// Stops it as a debugger does: it accepts connections and answers nothing.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().context("Redis is down")?.signal(signal)
    }

    /// What `redis-cli` prints for a command of the default user, without the last line break.
    pub fn cli(&self, command: &[&str]) -> Result<String> {
        cli(self.address, &self.options, command)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // At once: also one that is paused, and there is nothing to save.
        if let Some(process) = &mut self.process {
            let _ = process.kill();
        }
    }
}

fn cli(address: SocketAddr, options: &Options, command: &[&str]) -> Result<String> {
    let mut cli = Command::new(process::find("redis-cli")?);
    cli.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    if let Some(password) = &options.password {
        cli.args(["--no-auth-warning", "-a", password]);
    }
    if let Some(certificates) = &options.certificates {
        cli.arg("--tls").arg("--cacert").arg(&certificates.ca);
    }
    let output = cli.args(command).output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "redis-cli {command:?}: {said}{complaint}");
    Ok(said)
}

/// One that watches a master and names its successor. Killed when dropped.
#[derive(Debug)]
pub struct Sentinel(Redis);

impl Sentinel {
    /// What Sentinels call the master.
    pub const MASTER: &str = "mymaster";

    /// Starts a Sentinel that takes the master for dead after half a second, if `quorum` of them
    /// think so; waits until it knows the master's replicas.
    pub fn start(master: &Redis, quorum: u32) -> Result<Self> {
        Self::start_with(Redis::options(), master, quorum)
    }

    /// The same, with a password of its own; TLS is as the master has it.
    pub fn start_with(mut options: Options, master: &Redis, quorum: u32) -> Result<Self> {
        let name = Self::MASTER;
        let (ip, port) = (master.address.ip(), master.address.port());
        let mut watch = format!(
            "sentinel monitor {name} {ip} {port} {quorum}\n\
             sentinel down-after-milliseconds {name} 500\n\
             sentinel failover-timeout {name} 2000\n"
        );
        if let Some(password) = &master.options.password {
            writeln!(watch, "sentinel auth-pass {name} {password}")?;
        }
        options.watch = Some(watch);
        options.certificates.clone_from(&master.options.certificates);
        let sentinel = Self(options.start()?);
        let info = master.cli(&["INFO", "replication"])?;
        let mut replicas = info.lines().filter_map(|line| line.strip_prefix("connected_slaves:"));
        let replicas = replicas.next().context("INFO names no replicas")?.trim().to_owned();
        wait::until_true("the Sentinel knows the replicas", Duration::from_secs(15), || {
            let known = sentinel.0.cli(&["SENTINEL", "MASTER", name])?;
            let mut lines = known.lines().skip_while(|line| *line != "num-slaves");
            Ok(lines.nth(1) == Some(&replicas))
        })?;
        Ok(sentinel)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Who the master is now.
    pub fn master(&self) -> Result<SocketAddr> {
        let said = self.0.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER])?;
        let (ip, port) = said.split_once('\n').context("the Sentinel knows no master")?;
        Ok(SocketAddr::new(ip.parse()?, port.parse()?))
    }

    /// Ends it at once.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill()
    }
}

/// Masters that share the slots; a dead one takes only its own with it. Killed when dropped.
#[derive(Debug)]
pub struct RedisCluster {
    /// In the order of their slots.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts so many nodes, and waits until each serves all slots, by itself or by another.
    pub fn start(nodes: u16) -> Result<Self> {
        Self::start_with(&Redis::options(), nodes)
    }

    /// The same, with a password or users.
    pub fn start_with(options: &Options, count: u16) -> Result<Self> {
        let mut nodes = Vec::new();
        for index in 0..count {
            let bus = ports::free()?.port();
            let node = Options { bus: Some(bus), ..options.clone() }.start()?;
            let each = SLOTS / u32::from(count);
            let first = each * u32::from(index);
            let last = if index + 1 == count { SLOTS - 1 } else { first + each - 1 };
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])?;
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()])?;
            nodes.push(node);
        }
        let cluster = Self { nodes };
        let (meeting, others) = cluster.nodes.split_first().context("a Cluster has a node")?;
        for other in others {
            let bus = other.options.bus.context("it has no bus")?.to_string();
            let (ip, port) = (other.address.ip().to_string(), other.address.port().to_string());
            meeting.cli(&["CLUSTER", "MEET", &ip, &port, &bus])?;
        }
        for node in &cluster.nodes {
            wait::until_true("the node knows every slot", Duration::from_secs(15), || {
                let info = node.cli(&["CLUSTER", "INFO"])?;
                let all = format!("cluster_slots_ok:{SLOTS}\r");
                Ok(info.contains("cluster_state:ok") && info.lines().any(|l| l == all.trim_end()))
            })?;
        }
        Ok(cluster)
    }

    /// Which node has this key.
    pub fn node_of(&self, key: &str) -> Result<usize> {
        let node = self.nodes.iter().find(|node| node.process.is_some()).context("all are down")?;
        let slot: u32 = node.cli(&["CLUSTER", "KEYSLOT", key])?.parse()?;
        let each = SLOTS / u32::try_from(self.nodes.len())?;
        Ok(usize::try_from(slot / each)?.min(self.nodes.len() - 1))
    }
}

/// Of a Cluster, whatever its size.
const SLOTS: u32 = 16384;
