//! What a bench is made of: relays that take turns under a load, and a table of their figures.
//!
//! An origin and the clients are the bench's own; figures are the relay's alone: CPU time by
//! `/proc/<pid>/stat`, all threads and child processes, and memory by PSS. Sockets' buffers in the
//! kernel are in neither.

mod load;
mod table;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use self::load::Load;
pub use self::load::{Client, READ, Tally, drain};
pub use self::table::Column;
use crate::process::{self, Process};
use crate::{ports, proxy, usage, wait};

/// How long and how often is measured, and where.
pub struct Bench {
    rounds: usize,
    window: Duration,
    only: Option<String>,
    folder: TempDir,
}

/// Who is on both sides of a relay.
pub trait Scene {
    /// What tells one case from another.
    type Load;
    /// What the relay stands in front of.
    type Origin;
    /// What one client has found out for all others.
    type Hint;

    /// Starts the origin of a case.
    fn origin(&self, load: &Self::Load) -> Result<Self::Origin>;

    /// One client, before anything is measured: looks at every byte it gets, and has the relay
    /// allocate what it allocates once.
    fn try_out(&self, load: &Self::Load, relay: SocketAddr) -> Result<Self::Hint>;

    /// The client of this number, connected.
    fn client(&self, hint: &Self::Hint, relay: SocketAddr, number: usize) -> Result<Client>;
}

/// A load, and the figures that tell what it cost.
pub struct Case<L> {
    /// The word by which it is asked for.
    pub name: &'static str,
    /// What stands above its table.
    pub title: &'static str,
    /// What the bench puts on the relay.
    pub load: L,
    /// Clients of the load.
    pub clients: usize,
    /// What is shown.
    pub columns: &'static [Column],
}

/// What carries the load to an origin `O`.
pub struct Contender<O> {
    /// What it is called in tables.
    pub name: &'static str,
    /// Whether the others are compared with it.
    pub is_reference: bool,
    /// Starts it in a folder, in front of the origin.
    pub start: fn(&Path, &O) -> Result<Relay>,
}

/// A running contender.
pub struct Relay {
    /// Its process; there may be children.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
}

/// What one run came to.
#[derive(Debug)]
pub struct Run {
    cpu: Duration,
    seconds: f64,
    bytes: u64,
    requests: u64,
    /// Beyond what the relay has without clients, bytes.
    memory_per_client: u64,
}

impl Bench {
    /// As the arguments `[rounds] [seconds] [case]` say; without them six rounds of eight seconds
    /// of every case.
    pub fn from_arguments() -> Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let rounds = arguments.next().map_or(Ok(6), |text| text.parse())?;
        let seconds = arguments.next().map_or(Ok(8), |text| text.parse())?;
        Ok(Self {
            rounds,
            window: Duration::from_secs(seconds),
            only: arguments.next(),
            folder: tempfile::Builder::new().prefix("srs-proxy-bench-").tempdir()?,
        })
    }

    /// A folder that is gone with the bench.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Says what is measured: the proxy, and these programs with the argument that asks for their
    /// version.
    pub fn introduce(&self, programs: &[(&str, &str)]) -> Result<()> {
        println!("- {}", version(proxy::command(self.folder())?.arg("--version"))?);
        for (program, argument) in programs {
            println!("- {}", version(Command::new(process::find(program)?).arg(argument))?);
        }
        let cores = thread::available_parallelism()?;
        let (rounds, window) = (self.rounds, self.window);
        println!("- {cores} cores, which clients and origin share; {rounds} rounds of {window:?}");
        Ok(())
    }

    /// Runs every case that is asked for, and prints its table. The contenders take turns, so that a
    /// busy moment of the machine hits all of them.
    pub fn run<S: Scene>(
        &self,
        scene: &S,
        cases: &[Case<S::Load>],
        contenders: &[Contender<S::Origin>],
    ) -> Result<()> {
        let is_wanted = |case: &&Case<_>| self.only.as_ref().is_none_or(|only| case.name == only);
        for case in cases.iter().filter(is_wanted) {
            let mut runs = Vec::new();
            for round in 1..=self.rounds {
                for contender in contenders {
                    let run = self.measure(scene, case, contender).context(contender.name)?;
                    eprintln!("{} round {round}: {}: {run:?}", case.name, contender.name);
                    runs.push((contender.name, run));
                }
            }
            table::print(case, contenders, &runs);
        }
        Ok(())
    }

    fn measure<S: Scene>(
        &self,
        scene: &S,
        case: &Case<S::Load>,
        contender: &Contender<S::Origin>,
    ) -> Result<Run> {
        let origin = scene.origin(&case.load)?;
        let Relay { process, address } = (contender.start)(self.folder(), &origin)?;
        let hint = scene.try_out(&case.load, address)?;
        let idle = usage::family_memory(process.id())?;
        let mut load = Load::default();
        for number in 0..case.clients {
            load.add(scene.client(&hint, address, number)?)?;
        }
        thread::sleep(WARM_UP);
        let (start, cpu) = (Instant::now(), usage::family_cpu(process.id())?);
        let before = load.tally().read();
        thread::sleep(self.window);
        let now = load.tally().read();
        let cpu = usage::family_cpu(process.id())?.saturating_sub(cpu);
        let seconds = start.elapsed().as_secs_f64();
        let memory = usage::family_memory(process.id())?.saturating_sub(idle);
        load.end()?;
        Ok(Run {
            cpu,
            seconds,
            bytes: now.bytes - before.bytes,
            requests: now.requests - before.requests,
            memory_per_client: memory / u64::try_from(case.clients)?,
        })
    }
}

/// HAProxy, with the configuration for this address to listen on.
pub fn haproxy(folder: &Path, config: impl FnOnce(SocketAddr) -> String) -> Result<Relay> {
    let (address, file) = (ports::free()?, folder.join("haproxy.cfg"));
    fs::write(&file, config(address))?;
    let mut command = Command::new(process::find("haproxy")?);
    listening(command.arg("-db").arg("-f").arg(&file), folder, "haproxy", address)
}

/// nginx in a folder `name` of its own below this one, with the blocks of its `http` for this
/// address to listen on. As many workers as there are cores.
pub fn nginx(folder: &Path, name: &str, http: impl FnOnce(SocketAddr) -> String) -> Result<Relay> {
    let (address, home) = (ports::free()?, folder.join(name));
    fs::create_dir_all(&home)?;
    let http = http(address);
    // Workers of a master that is root would not be allowed into the folder, but for `user`.
    let config = format!(
        "daemon off;
user root;
worker_processes auto;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    types {{ application/vnd.apple.mpegurl m3u8; video/mp2t ts; video/mp4 m4s; }}
    {http}
}}
"
    );
    fs::write(home.join("nginx.conf"), config)?;
    let mut command = Command::new(process::find("nginx")?);
    command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(&home);
    listening(&mut command, folder, name, address)
}

fn listening(
    command: &mut Command,
    folder: &Path,
    name: &str,
    address: SocketAddr,
) -> Result<Relay> {
    let mut process = Process::start(command, folder, name)?;
    wait::until_true(&format!("{name} listens"), Duration::from_secs(5), || {
        if let Some(status) = process.ended()? {
            bail!("{name} ended with {status}: {}", process.log());
        }
        Ok(TcpStream::connect(address).is_ok())
    })?;
    Ok(Relay { process, address })
}

/// The first line that a program says when asked for its version.
fn version(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    // nginx says it on stderr.
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}

const WARM_UP: Duration = Duration::from_secs(1);
