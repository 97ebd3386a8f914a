//! One scenario on every engine: the network, the proxy in it, and what its counters must say.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::{Arms, Checksums, Family, Network};
use crate::proxy::{Proxy, Session};
use crate::{story, wait};

/// What carries the media of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The proxy itself, by sockets.
    Relay,
    /// A program at the ingress of each interface.
    Tc,
    /// The same in the driver, before the kernel has made a packet of a frame.
    Xdp,
    /// The same behind the driver, where one has no place for it.
    XdpGeneric,
}

impl Engine {
    /// The engine as `PROXY_EBPF_MODE` has it.
    pub fn mode(self) -> &'static str {
        match self {
            Self::Relay => "off",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
        }
    }

    /// The engine as a session's `plane` has it.
    pub fn plane(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
        }
    }
}

/// Makes a test of each scenario for each engine, as `tc::scenario`. A scenario is a function of an
/// [`Engine`].
#[macro_export]
macro_rules! on_every_engine {
    ($($scenario:ident),+ $(,)?) => {
        $crate::on_every_engine!(@ relay Relay $($scenario)+);
        $crate::on_every_engine!(@ tc Tc $($scenario)+);
        $crate::on_every_engine!(@ xdp Xdp $($scenario)+);
    };
    (@ $module:ident $engine:ident $($scenario:ident)+) => {
        mod $module {
            $(#[test]
            fn $scenario() -> anyhow::Result<()> {
                super::$scenario($crate::engine::Engine::$engine)
            })+
        }
    };
}

/// How a scenario wants its network and its proxy.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Where the origin is.
    pub arms: Arms,
    /// Who computes checksums.
    pub checksums: Checksums,
    /// How clients and origins are addressed.
    pub family: Family,
    /// For the proxy, beside the engine.
    pub variables: &'a [(&'a str, &'a str)],
}

impl Setting<'static> {
    /// Two arms, whole checksums, IPv4.
    pub const PLAIN: Self =
        Self { arms: Arms::Two, checksums: Checksums::Whole, family: Family::V4, variables: &[] };
}

impl Setting<'_> {
    /// The same with these variables.
    pub fn with<'b>(self, variables: &'b [(&'b str, &'b str)]) -> Setting<'b> {
        Setting { variables, ..self }
    }

    /// Tells the story of an engine with a proxy that is ready; the teller stands where the client
    /// is. Nothing is told where namespaces cannot be had.
    pub fn tell(
        self,
        engine: Engine,
        tell: impl FnOnce(&mut Stage<'_>) -> Result<()>,
    ) -> Result<()> {
        story(|folder| {
            let Some(network) = Network::start(self.arms, self.checksums)? else { return Ok(()) };
            let home = network.client.clone();
            let mut stage = Stage {
                folder,
                engine,
                family: self.family,
                proxy: start(&network, folder, engine, self)?,
                network,
            };
            let told = home.within(|| tell(&mut stage));
            told.with_context(|| format!("{engine:?} {self:?}; {}", stage.losses()))
        })
    }
}

fn start(network: &Network, folder: &Path, engine: Engine, setting: Setting<'_>) -> Result<Proxy> {
    let mut variables =
        vec![("PROXY_EBPF_MODE", engine.mode()), ("PROXY_LOG", "info,srs_proxy=debug")];
    variables.extend(setting.variables);
    let address = network.proxy_address(setting.family);
    Proxy::start_in(&network.proxy, address, folder, &variables)
}

/// A proxy of an engine between a client and origins.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Of the test.
    pub folder: &'a Path,
    /// What should carry media.
    pub engine: Engine,
    /// How clients and origins are addressed.
    pub family: Family,
    /// The proxy, which is gone before its interfaces are.
    pub proxy: Proxy,
    /// The hosts.
    pub network: Network,
}

impl Stage<'_> {
    /// Starts an origin on the origins' host, whose address it is told.
    pub fn origin<T>(&self, start: impl FnOnce(IpAddr) -> Result<T>) -> Result<T> {
        let host = self.network.origin_address(self.family);
        self.network.origin.within(|| start(host))
    }

    /// Registers something at the proxy's system API, whose address it is told.
    pub fn register(&self, register: impl FnOnce(SocketAddr) -> Result<()>) -> Result<()> {
        self.proxy.within(|| register(self.proxy.system_api()))
    }

    /// Starts the proxy once more, after its end.
    pub fn start_again(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        let setting = Setting { family: self.family, ..Setting::PLAIN }.with(variables);
        self.proxy = start(&self.network, self.folder, self.engine, setting)?;
        Ok(())
    }

    /// Sessions of WebRTC and SRT.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        let mut sessions = self.proxy.sessions()?;
        sessions.retain(|it| matches!(it.protocol.as_str(), "webrtc" | "srt"));
        Ok(sessions)
    }

    /// Waits until the engine carries so many sessions, and nothing else carries one.
    pub fn must_carry(&self, count: usize) -> Result<()> {
        let plane = self.engine.plane();
        wait::until(&format!("{plane} carries {count} sessions"), SOON, || {
            let sessions = self.sessions()?;
            let carried = sessions.iter().filter(|it| it.plane == plane).count();
            ensure!(carried == count && sessions.len() == count, "{sessions:?}");
            Ok(Some(()))
        })
    }

    /// Does this, during which media has to flow through so many sessions: the engine carries them,
    /// and the proxy sees less than a hundredth of it.
    pub fn must_carry_all_of<T>(&self, count: usize, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.must_carry(count)?;
        let before = self.seen()?;
        let done = act()?;
        // The kernel's counters are read once in a while.
        wait::until("the counters show who has carried it", SOON, || {
            let after = self.seen()?;
            let kernel = after.kernel - before.kernel;
            let userspace = after.userspace - before.userspace;
            let forwarded = after.forwarded - before.forwarded;
            match self.engine {
                Engine::Relay => ensure!(kernel == 0 && forwarded == 0),
                Engine::Tc | Engine::Xdp | Engine::XdpGeneric => ensure!(
                    kernel > 0 && forwarded > 0 && kernel >= 99 * userspace,
                    "datagrams in the kernel: {kernel} of sessions, {forwarded} of all; \
                     in userspace: {userspace}"
                ),
            }
            Ok(Some(()))
        })?;
        Ok(done)
    }

    /// Fails if any host has got a datagram with a wrong checksum.
    pub fn must_have_right_checksums(&self) -> Result<()> {
        let Network { client, proxy, origin, .. } = &self.network;
        for (name, host) in [("client", client), ("proxy", proxy), ("origin", origin)] {
            let wrong = host.wrong_checksums()?;
            ensure!(wrong == 0, "{wrong} wrong checksums at the {name}");
        }
        Ok(())
    }

    /// Frames that the programs counted under this reason.
    pub fn frames(&self, reason: &str) -> Result<u64> {
        self.proxy.metric("srs_proxy_kernel_packets_total", &[("reason", reason)])
    }

    /// The links by which programs of the proxy are attached, by id.
    pub fn links(&self) -> Result<Vec<u32>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.proxy.process.id()))? {
            // It may be closed meanwhile.
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            let id = info.lines().find_map(|line| line.strip_prefix("link_id:"));
            links.extend(id.and_then(|it| it.trim().parse::<u32>().ok()));
        }
        Ok(links)
    }

    /// Those of these links that there are, and whatever else is attached to the proxy's interfaces.
    pub fn attached(&self, links: &[u32]) -> Result<Vec<String>> {
        let Network { proxy, .. } = &self.network;
        let is_there = |id: &&u32| proxy.run("bpftool", &format!("link show id {id}")).is_ok();
        let there = links.iter().filter(is_there).map(|id| format!("link {id}"));
        let shown = proxy.run("bpftool", "net show")?;
        let is_ours = |line: &&str| line.starts_with("front(") || line.starts_with("back(");
        Ok(there.chain(shown.lines().filter(is_ours).map(str::to_owned)).collect())
    }

    /// What hosts have not got, for who looks why a packet is missing.
    fn losses(&self) -> String {
        let Network { client, router, proxy, origin, .. } = &self.network;
        let hosts = [("client", client), ("router", router), ("proxy", proxy), ("origin", origin)];
        let lost = hosts.map(|(name, host)| (name, host.lost().unwrap_or_default()));
        let partial = self.frames("partial_checksum").unwrap_or_default();
        format!("lost: {lost:?}; frames passed up for their checksum: {partial}")
    }

    fn seen(&self) -> Result<Seen> {
        let sessions = self.sessions()?;
        Ok(Seen {
            kernel: sessions.iter().map(|it| it.kernel_packets).sum(),
            userspace: sessions.iter().map(|it| it.userspace_packets).sum(),
            forwarded: self.frames("forwarded")?,
        })
    }
}

/// Datagrams so far.
struct Seen {
    kernel: u64,
    userspace: u64,
    forwarded: u64,
}

const SOON: Duration = Duration::from_secs(10);
