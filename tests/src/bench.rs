//! What a bench is made of: relays that take turns under a load, and a table of their figures.
//!
//! An origin and the clients are the bench's own. What a relay costs is told in two ways. Its own
//! is CPU time by `/proc/<pid>/stat`, all threads and child processes, and memory by PSS; sockets'
//! buffers in the kernel are in neither. What the whole machine does is told by its idle time, and
//! what a relay adds by another run of the same round without one: work that the kernel does for
//! nobody in particular is in that.

pub mod ebpf;
mod load;
mod table;
pub mod tcp;
pub mod udp;

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

pub use self::load::{Client, READ, Tally, drain};
use self::load::{Delays, Load, Sums};
pub use self::table::{Aim, Column, Figure, Limit};
use crate::process::{self, Process};
use crate::{nginx, ports, proxy, usage, wait};

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
    fn try_out(
        &self,
        load: &Self::Load,
        origin: &Self::Origin,
        relay: &Relay,
    ) -> Result<Self::Hint>;

    /// So many clients, connected: one of each, or one that is them all.
    fn clients(&self, hint: &Self::Hint, relay: &Relay, count: usize) -> Result<Vec<Client>>;
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
    /// What is shown: the columns of each table.
    pub tables: &'static [&'static [Column]],
    /// What some of it is held to.
    pub aims: &'static [Aim],
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
    /// Its process; there may be children. None if clients connect to the origin itself, which
    /// shows what the load alone comes to.
    pub process: Option<Process>,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where they ask for a session before they do, if they must.
    pub signalling: Option<SocketAddr>,
    /// Tells how many packets the kernel has forwarded in its place, if it is a relay for which the
    /// kernel does.
    pub forwarded: Option<Forwarded>,
}

/// Packets so far.
pub type Forwarded = Box<dyn Fn() -> Result<u64> + Send + Sync>;

/// What one run came to.
#[derive(Debug)]
pub struct Run {
    /// None without a relay.
    cost: Option<Cost>,
    seconds: f64,
    got: Sums,
    delays: Option<Delays>,
    /// Bytes between the ends of the session of which most are.
    held: u64,
    /// By how much the kernel's slab has grown for each client, KiB.
    slab: f64,
    /// CPU seconds of the whole machine: relay, clients, origin and all that the kernel does,
    /// beyond those of an idle machine.
    machine: f64,
    /// Packets that the kernel has forwarded.
    forwarded: Option<u64>,
    /// Beyond the run without a relay in the same round.
    added: Option<Added>,
}

/// What a relay adds to a path.
#[derive(Clone, Copy, Debug)]
struct Added {
    delays: Option<Delays>,
    /// CPU seconds of the whole machine per packet that arrived.
    machine: Option<f64>,
    /// The same per GiB that clients got.
    machine_per_gib: Option<f64>,
    /// KiB of the kernel's slab for each client.
    slab: f64,
}

/// What a run cost the relay.
#[derive(Debug)]
struct Cost {
    cpu: Duration,
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

    /// How long a case is measured in each round, unless it is said otherwise.
    pub fn window(&self) -> Duration {
        self.window
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
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name\t: "));
        println!("- Linux {}, {}", kernel.trim(), model.unwrap_or("a CPU of no name"));
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
        self.run_for(self.window, scene, cases, contenders)
    }

    /// The same, measured for another time than that of other cases.
    pub fn run_for<S: Scene>(
        &self,
        window: Duration,
        scene: &S,
        cases: &[Case<S::Load>],
        contenders: &[Contender<S::Origin>],
    ) -> Result<()> {
        let is_wanted = |case: &&Case<_>| self.only.as_ref().is_none_or(|only| case.name == only);
        for case in cases.iter().filter(is_wanted) {
            let idle = idle_machine()?;
            if idle > QUIET {
                println!(
                    "\nNot a quiet machine: {:.0} % of a core before {}.",
                    idle * 100.0,
                    case.name
                );
            }
            let mut runs = Vec::new();
            for round in 1..=self.rounds {
                let mut direct = None;
                for contender in contenders {
                    let mut run = self
                        .measure(window, scene, case, contender)
                        .with_context(|| format!("{} of {}", case.name, contender.name))?;
                    run.machine -= idle * run.seconds;
                    let whole = Added::of(&run);
                    if run.cost.is_none() {
                        direct = Some(whole);
                    } else {
                        run.added = direct.map(|direct| whole.beyond(direct));
                    }
                    eprintln!("{} round {round}: {}: {run:?}", case.name, contender.name);
                    runs.push((contender.name, run));
                }
            }
            table::print(case, contenders, &runs);
        }
        Ok(())
    }

    /// Takes these figures once in each round, if the case is asked for, and prints their table.
    pub fn figures(
        &self,
        name: &str,
        title: &str,
        mut take: impl FnMut() -> Result<Vec<Figure>>,
    ) -> Result<()> {
        if self.only.as_ref().is_some_and(|only| only != name) {
            return Ok(());
        }
        let mut rounds = Vec::new();
        for round in 1..=self.rounds {
            let figures = take().with_context(|| name.to_owned())?;
            eprintln!("{name} round {round}: {figures:?}");
            rounds.push(figures);
        }
        table::print_figures(title, &rounds);
        Ok(())
    }

    fn measure<S: Scene>(
        &self,
        window: Duration,
        scene: &S,
        case: &Case<S::Load>,
        contender: &Contender<S::Origin>,
    ) -> Result<Run> {
        let origin = scene.origin(&case.load)?;
        let relay = (contender.start)(self.folder(), &origin)?;
        let hint = scene.try_out(&case.load, &origin, &relay).with_context(|| relay.log())?;
        let has_slab = case.tables.iter().any(|columns| columns.contains(&Column::AddedSlab));
        let slab_before = if has_slab { usage::settled_slab()? } else { 0 };
        let idle = relay.usage()?;
        let mut load = Load::default();
        for client in scene.clients(&hint, &relay, case.clients)? {
            load.add(client)?;
        }
        thread::sleep(WARM_UP);
        let (forwarded, before) = (relay.forwarded()?, relay.usage()?);
        let (start, machine) = (Instant::now(), usage::machine()?);
        let sums = load.tally().read();
        load.tally().delays();
        thread::sleep(window);
        let got = load.tally().read().since(sums);
        let machine = usage::machine()?.saturating_sub(machine).as_secs_f64();
        let seconds = start.elapsed().as_secs_f64();
        let (delays, held) = (load.tally().delays(), load.tally().most_held());
        let after = relay.usage()?;
        let forwarded = relay.forwarded()?.zip(forwarded).map(|(after, before)| after - before);
        let slab = if has_slab { usage::slab()? - slab_before } else { 0 };
        load.end()?;
        let clients = u64::try_from(case.clients)?;
        let cost = idle.zip(before).zip(after).map(|((idle, before), after)| Cost {
            cpu: after.cpu.saturating_sub(before.cpu),
            memory_per_client: after.memory.saturating_sub(idle.memory) / clients,
        });
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let slab = slab as f64 / case.clients as f64;
        Ok(Run { cost, seconds, got, delays, held, slab, machine, forwarded, added: None })
    }
}

impl Run {
    /// CPU seconds of the whole machine per packet that arrived.
    fn machine_each(&self) -> Option<f64> {
        let packets = self.got.arrived;
        #[expect(clippy::cast_precision_loss, reason = "some millions")]
        (packets > 0).then(|| self.machine / packets as f64)
    }

    /// The same per GiB that clients got; none if they got next to nothing.
    fn machine_per_gib(&self) -> Option<f64> {
        let bytes = self.got.bytes;
        #[expect(clippy::cast_precision_loss, reason = "a benchmark's byte count needs no 53 bits")]
        (bytes > 1 << 20).then(|| self.machine * f64::from(1 << 30) / bytes as f64)
    }
}

impl Added {
    /// Of a whole run.
    fn of(run: &Run) -> Self {
        let (machine, machine_per_gib) = (run.machine_each(), run.machine_per_gib());
        Self { delays: run.delays, machine, machine_per_gib, slab: run.slab }
    }

    fn beyond(self, direct: Self) -> Self {
        let delays = self.delays.zip(direct.delays);
        let less = |whole: Option<f64>, direct| Some(whole? - direct?);
        Self {
            delays: delays.map(|(whole, direct)| whole.beyond(direct)),
            machine: less(self.machine, direct.machine),
            machine_per_gib: less(self.machine_per_gib, direct.machine_per_gib),
            slab: self.slab - direct.slab,
        }
    }
}

impl Relay {
    /// The relay of a process, without signalling.
    pub fn new(process: Process, address: SocketAddr) -> Self {
        Self { process: Some(process), ..Self::none(address) }
    }

    /// The origin itself.
    pub fn none(origin: SocketAddr) -> Self {
        Self { process: None, address: origin, signalling: None, forwarded: None }
    }

    fn forwarded(&self) -> Result<Option<u64>> {
        self.forwarded.as_ref().map(|forwarded| forwarded()).transpose()
    }

    /// What its processes have used so far.
    fn usage(&self) -> Result<Option<Usage>> {
        let Some(process) = &self.process else { return Ok(None) };
        let (cpu, memory) = (usage::family_cpu(process.id())?, usage::family_memory(process.id())?);
        Ok(Some(Usage { cpu, memory }))
    }

    fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }
}

/// CPU time since the start, and bytes of memory now.
struct Usage {
    cpu: Duration,
    memory: u64,
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
    let address = ports::free()?;
    let http = http(address);
    let blocks = format!(
        "http {{
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
    listening(&mut nginx_command(&folder.join(name), "", &blocks)?, folder, name, address)
}

/// nginx, with the `server` of its `stream` for a UDP port of this host to listen on. It may not
/// listen yet.
pub fn nginx_udp(
    folder: &Path,
    host: IpAddr,
    server: impl FnOnce(SocketAddr) -> String,
) -> Result<Relay> {
    let address = SocketAddr::new(host, ports::free()?.port());
    let mut command = nginx_stream(&folder.join("nginx-udp"), &server(address))?;
    Ok(Relay::new(Process::start(&mut command, folder, "nginx-udp")?, address))
}

/// nginx, with the `server` of its `stream` for an address to listen on by TCP.
pub fn nginx_tcp(folder: &Path, server: impl FnOnce(SocketAddr) -> String) -> Result<Relay> {
    let address = ports::free()?;
    let mut command = nginx_stream(&folder.join("nginx-tcp"), &server(address))?;
    listening(&mut command, folder, "nginx-tcp", address)
}

/// socat, with a process for each client that comes by TCP.
pub fn socat_tcp(folder: &Path, origin: SocketAddr) -> Result<Relay> {
    let address = ports::free()?;
    let mut command = Command::new(process::find("socat")?);
    // Its buffer is of 8 KiB, unless somebody asks for more.
    command.args(["-b", "65536"]);
    command.arg(format!("TCP4-LISTEN:{},bind={},reuseaddr,fork", address.port(), address.ip()));
    command.arg(format!("TCP4:{origin}"));
    listening(&mut command, folder, "socat", address)
}

/// nginx in this folder, with this `server` of its `stream`.
fn nginx_stream(home: &Path, server: &str) -> Result<Command> {
    let module = nginx::module("stream").map(|path| format!("load_module {};", path.display()));
    let blocks = format!("stream {{ server {{ {server} }} }}\n");
    nginx_command(home, &module.unwrap_or_default(), &blocks)
}

/// nginx in this folder, with these lines in front of its configuration and these blocks in it.
fn nginx_command(home: &Path, front: &str, blocks: &str) -> Result<Command> {
    fs::create_dir_all(home)?;
    // Workers of a master that is root would not be allowed into the folder, but for `user`.
    let config = format!(
        "{front}
daemon off;
user root;
worker_processes auto;
pid nginx.pid;
error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
{blocks}"
    );
    fs::write(home.join("nginx.conf"), config)?;
    let mut command = Command::new(process::find("nginx")?);
    command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(home);
    Ok(command)
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
    Ok(Relay::new(process, address))
}

/// The first line that a program says when asked for its version.
fn version(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    // nginx says it on stderr.
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}

/// CPU seconds that the machine uses in a second in which nothing is measured.
fn idle_machine() -> Result<f64> {
    let (start, before) = (Instant::now(), usage::machine()?);
    thread::sleep(Duration::from_secs(1));
    let used = usage::machine()?.saturating_sub(before);
    Ok(used.as_secs_f64() / start.elapsed().as_secs_f64())
}

/// CPU seconds a second above which a machine does something else than what is measured.
const QUIET: f64 = 0.05;
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
