//! Network namespaces: a client, a router, a proxy and an origin, each with its own interfaces.
//!
//! A namespace has no name: it is gone with the last descriptor, thread and process in it, however
//! those end. `nsenter --net=/proc/<pid>/fd/<n>` looks into one while its test runs.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{self, CloneFlags};
use nix::unistd::Uid;

use crate::process::find;
use crate::{skip, wait};

/// Four hosts on veth pairs. The client reaches the proxy by the router, in a subnet of its own.
///
/// | host | interfaces |
/// |---|---|
/// | `client` | `eth0`, with two addresses |
/// | `router` | `client`, `proxy`; one-armed, `origin` as well |
/// | `proxy` | `front`, to the router; two-armed, `back` to the origin as well |
/// | `origin` | `eth0` |
#[derive(Debug)]
pub struct Network {
    /// Where clients run.
    pub client: Namespace,
    /// What forwards between the client, the proxy, and an origin that is not the proxy's neighbour.
    pub router: Namespace,
    /// Where the proxy runs.
    pub proxy: Namespace,
    /// Where origins run.
    pub origin: Namespace,
    arms: Arms,
}

/// Where the proxy reaches the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    /// By the router, on the interface that clients come by.
    One,
    /// On another interface, which nobody else is on.
    Two,
}

/// Who computes the checksums of what a host sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// The kernel, before a packet leaves.
    Whole,
    /// Nobody: on a veth, what was left to the network card stays undone.
    Offloaded,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Network {
    /// Makes the hosts and waits until each reaches the next; `None` where this test is to be
    /// skipped.
    pub fn start(arms: Arms, checksums: Checksums) -> Result<Option<Self>> {
        if !Uid::effective().is_root() {
            skip("network namespaces need root")?;
            return Ok(None);
        }
        let client = match Namespace::new() {
            Ok(client) => client,
            Err(error) if error.downcast_ref() == Some(&Errno::EPERM) => {
                skip("this system lets nobody have a network namespace")?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (router, proxy, origin) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        let network = Self { client, router, proxy, origin, arms };
        network.connect(checksums)?;
        network.must_be_ready()?;
        Ok(Some(network))
    }

    /// The proxy's address that clients reach.
    pub fn proxy_address(&self, family: Family) -> IpAddr {
        address(family, FRONT, 2)
    }

    /// The origin's address.
    pub fn origin_address(&self, family: Family) -> IpAddr {
        address(family, BACK, 2)
    }

    /// The client's addresses; it uses the first one if it is not told otherwise.
    pub fn client_addresses(&self, family: Family) -> [IpAddr; 2] {
        [2, 3].map(|host| address(family, CLIENTS, host))
    }

    /// The proxy's address that origins see.
    pub fn seen_by_origin(&self, family: Family) -> IpAddr {
        match self.arms {
            Arms::One => self.proxy_address(family),
            Arms::Two => address(family, BACK, 1),
        }
    }

    /// The proxy's interface that the origin is reached by.
    pub fn way_to_origin(&self) -> &'static str {
        match self.arms {
            Arms::One => "front",
            Arms::Two => "back",
        }
    }

    fn connect(&self, checksums: Checksums) -> Result<()> {
        let Self { client, router, proxy, origin, arms } = self;
        for host in [client, router, proxy, origin] {
            host.prepare()?;
        }
        client.pair("eth0", router, "client")?;
        router.pair("proxy", proxy, "front")?;
        let (before_origin, interface) = match arms {
            Arms::One => (router, "origin"),
            Arms::Two => (proxy, "back"),
        };
        before_origin.pair(interface, origin, "eth0")?;

        client.addresses("eth0", CLIENTS, &[2, 3])?;
        router.addresses("client", CLIENTS, &[1])?;
        router.addresses("proxy", FRONT, &[1])?;
        proxy.addresses("front", FRONT, &[2])?;
        before_origin.addresses(interface, BACK, &[1])?;
        origin.addresses("eth0", BACK, &[2])?;
        for (host, subnet) in [(client, CLIENTS), (proxy, FRONT), (origin, BACK)] {
            host.default_route(subnet)?;
        }
        for setting in ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
            router.set(setting, "1")?;
        }
        let mut interfaces = vec![
            (client, "eth0"),
            (router, "client"),
            (router, "proxy"),
            (proxy, "front"),
            (origin, "eth0"),
        ];
        interfaces.push((before_origin, interface));
        for (host, interface) in interfaces {
            host.features(interface, checksums)?;
        }
        Ok(())
    }

    /// Waits until the proxy answers the client and the origin, and the origin the proxy.
    fn must_be_ready(&self) -> Result<()> {
        for family in [Family::V4, Family::V6] {
            let (proxy, origin) = (self.proxy_address(family), self.origin_address(family));
            self.client.must_reach(proxy)?;
            self.proxy.must_reach(origin)?;
            self.origin.must_reach(self.seen_by_origin(family))?;
        }
        Ok(())
    }
}

/// One host's network.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// One with a loopback interface that is up, and nothing else.
    pub fn new() -> Result<Self> {
        // A thread that unshares is in the new one for the rest of its life.
        let made = thread::spawn(|| {
            sched::unshare(CloneFlags::CLONE_NEWNET)?;
            anyhow::Ok(Self::of_this_thread()?)
        });
        let namespace = made.join().ok().context("the thread has panicked")??;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Does this in the namespace. Threads and processes that it starts stay there; so do the
    /// sockets that it opens.
    pub fn within<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let _back = Back(Self::of_this_thread()?);
        self.enter()?;
        act()
    }

    /// Runs `ip` with these words.
    pub fn ip(&self, words: &str) -> Result<()> {
        self.run("ip", words).map(drop)
    }

    /// Runs a program with these words in the namespace, and gives what it writes.
    pub fn run(&self, program: &str, words: &str) -> Result<String> {
        let mut command = Command::new(find(program)?);
        command.args(words.split_ascii_whitespace()).stdin(Stdio::null());
        let output = self.within(|| Ok(command.output()?))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {words}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a setting below `/proc/sys/net`.
    pub fn set(&self, setting: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{setting}");
        self.within(|| fs::write(&path, value).with_context(|| path.clone()))
    }

    /// UDP datagrams that sockets here did not get because their checksum was wrong.
    pub fn wrong_checksums(&self) -> Result<u64> {
        self.udp("InCsumErrors")
    }

    /// UDP datagrams that nobody here has got, by what the kernel calls the reason.
    pub fn lost(&self) -> Result<Vec<(&'static str, u64)>> {
        LOSSES.into_iter().map(|name| Ok((name, self.udp(name)?))).collect()
    }

    /// A counter of UDP, over IPv4 and IPv6.
    fn udp(&self, name: &str) -> Result<u64> {
        self.within(|| {
            let (v4, v6) =
                (read("/proc/thread-self/net/snmp")?, read("/proc/thread-self/net/snmp6")?);
            let mut udp = v4.lines().filter_map(|line| line.strip_prefix("Udp: "));
            let (names, values) = udp.next().zip(udp.next()).context("no UDP in snmp")?;
            let mut pairs = names.split(' ').zip(values.split(' '));
            let (_, v4) = pairs.find(|(it, _)| *it == name).context("no counter")?;
            let v6 = v6.lines().find_map(|line| line.strip_prefix("Udp6")?.strip_prefix(name));
            let v6 = v6.context("no counter of IPv6")?.trim();
            Ok(v4.parse::<u64>()? + v6.parse::<u64>()?)
        })
    }

    /// The one that this thread is in.
    pub fn of_this_thread() -> Result<Self> {
        Ok(Self(Arc::new(File::open("/proc/thread-self/ns/net")?)))
    }

    fn enter(&self) -> nix::Result<()> {
        sched::setns(&self.0, CloneFlags::CLONE_NEWNET)
    }

    /// The path by which other processes find it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Addresses are used at once: nobody else can have them.
    fn prepare(&self) -> Result<()> {
        for which in ["all", "default"] {
            self.set(&format!("ipv6/conf/{which}/accept_dad"), "0")?;
            self.set(&format!("ipv4/conf/{which}/rp_filter"), "0")?;
        }
        Ok(())
    }

    /// A veth pair from here to there, both ends up.
    fn pair(&self, here: &str, other: &Self, there: &str) -> Result<()> {
        let path = other.path();
        self.batch(&[
            format!("link add {here} type veth peer name {there} netns {path}"),
            format!("link set {here} up"),
        ])?;
        other.ip(&format!("link set {there} up"))
    }

    fn addresses(&self, interface: &str, subnet: u8, hosts: &[u8]) -> Result<()> {
        let all = hosts.iter().flat_map(|host| {
            let (v4, v6) = (address(Family::V4, subnet, *host), address(Family::V6, subnet, *host));
            [
                format!("address add {v4}/24 dev {interface}"),
                format!("address add {v6}/64 dev {interface} nodad"),
            ]
        });
        self.batch(&all.collect::<Vec<_>>())
    }

    /// By the first host of this subnet.
    fn default_route(&self, subnet: u8) -> Result<()> {
        let (v4, v6) = (address(Family::V4, subnet, 1), address(Family::V6, subnet, 1));
        self.batch(&[format!("route add default via {v4}"), format!("route add default via {v6}")])
    }

    /// A frame that is redirected into a veth is taken only where GRO has given the peer its NAPI.
    fn features(&self, interface: &str, checksums: Checksums) -> Result<()> {
        let tx = match checksums {
            Checksums::Whole => "off",
            Checksums::Offloaded => "on",
        };
        self.run("ethtool", &format!("-K {interface} gro on tx {tx}")).map(drop)
    }

    fn batch(&self, lines: &[String]) -> Result<()> {
        let mut command = Command::new(find("ip")?);
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.within(|| Ok(command.spawn()?))?;
        let mut stdin = child.stdin.take().context("it has no stdin")?;
        stdin.write_all((lines.join("\n") + "\n").as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip: {said}in {lines:?}");
        Ok(())
    }

    /// Waits until a datagram is refused there: nobody listens, but it has arrived.
    fn must_reach(&self, host: IpAddr) -> Result<()> {
        self.within(|| {
            let any = match host {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            wait::until(&format!("{host} is reached"), Duration::from_secs(10), || {
                let socket = UdpSocket::bind((any, 0))?;
                socket.set_read_timeout(Some(Duration::from_millis(50)))?;
                socket.connect(SocketAddr::new(host, NOBODY))?;
                socket.send(b"?")?;
                match socket.recv(&mut [0]) {
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Some(())),
                    other => bail!("{other:?}"),
                }
            })
        })
    }
}

/// Brings the thread back when dropped.
struct Back(Namespace);

impl Drop for Back {
    fn drop(&mut self) {
        let back = self.0.enter();
        // A thread in the wrong namespace would make nonsense of all that follows.
        assert!(back.is_ok() || thread::panicking(), "no way back: {back:?}");
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}

fn address(family: Family, subnet: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 81, subnet, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd81, subnet.into(), 0, 0, 0, 0, 0, host.into()).into(),
    }
}

const LOSSES: [&str; 3] = ["NoPorts", "RcvbufErrors", "InCsumErrors"];
/// Between the client and the router.
const CLIENTS: u8 = 1;
/// Between the router and the proxy.
const FRONT: u8 = 2;
/// Where the origin is.
const BACK: u8 = 3;
/// A port on which nobody listens.
const NOBODY: u16 = 9;
