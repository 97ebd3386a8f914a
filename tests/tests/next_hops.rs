//! Next hops in network namespaces: what the kernel decides and what changes is told, within
//! moments.
//!
//! One namespace is the proxy's, another one its neighbours'. Two Ethernet links, `lan` and `wan`,
//! join them.
#![cfg(target_os = "linux")]

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use srs_proxy::plane::kernel::hops::{Event, Hops, Link, NextHop, NoHop, Path};
use srs_proxy_tests::{skip, wait};
use tokio::sync::mpsc;
use tokio::time::timeout;

#[test]
fn a_station_on_the_link_and_one_behind_a_gateway_are_found() -> Result<()> {
    story(async |net, mut hops| {
        let index = hops.link("lan")?.index;
        let paths = [
            ("10.1.0.1", "10.1.0.2"),
            ("10.1.0.1", "203.0.113.9"),
            ("fd01::1", "fd01::2"),
            ("fd01::1", "2001:db8::9"),
            ("0.0.0.0", "203.0.113.9"),
        ];
        for (source, destination) in paths {
            let hop = hops.found(path(source, destination)?).await?;
            assert_eq!(hop, hops.hop("lan", net.peer_mac("lan")?)?, "{source} to {destination}");
            assert_eq!(hop.interface, index);
            assert_eq!(hop.mtu, 1500);
        }
        Ok(())
    })
}

#[test]
fn what_has_no_next_hop_says_why() -> Result<()> {
    story(async |_net, mut hops| {
        own("route add blackhole 198.51.100.0/24\nroute add unreachable 192.0.2.0/24\n")?;
        let paths = [
            ("10.1.0.1", "10.1.0.1", NoHop::OnThisHost),
            ("127.0.0.1", "127.0.0.1", NoHop::OnThisHost),
            ("fd01::1", "fd01::1", NoHop::OnThisHost),
            ("10.1.0.1", "10.1.0.255", NoHop::NotUnicast),
            ("10.1.0.1", "239.1.2.3", NoHop::NotUnicast),
            ("fd01::1", "ff05::1", NoHop::NotUnicast),
            ("fd01::1", "fe80::1", NoHop::LinkLocal),
            ("10.1.0.1", "198.51.100.1", NoHop::Refused),
            ("10.9.9.9", "203.0.113.9", NoHop::NoRoute),
            ("10.1.0.1", "192.0.2.1", NoHop::NoRoute),
            ("10.1.0.1", "fd01::2", NoHop::NoRoute),
            ("10.1.0.1", "10.1.0.99", NoHop::NoNeighbour),
        ];
        for (source, destination, why) in paths {
            let answer = hops.ask(path(source, destination)?).await?;
            assert_eq!(answer, Err(why), "{source} to {destination}");
        }
        Ok(())
    })
}

#[test]
fn a_neighbour_that_comes_late_is_told_and_one_that_fails_is() -> Result<()> {
    story(async |net, mut hops| {
        let late = path("10.1.0.1", "10.1.0.99")?;
        assert_eq!(hops.ask(late).await?, Err(NoHop::NoNeighbour));
        net.peer("addr add 10.1.0.99/24 dev lan\n")?;
        hops.until(late, Result::is_ok).await?;
        net.peer("addr del 10.1.0.99/24 dev lan\n")?;
        hops.until(late, |answer| *answer == Err(NoHop::NoNeighbour)).await
    })
}

#[test]
fn another_mac_address_of_a_neighbour_is_told_to_its_paths_alone() -> Result<()> {
    story(async |net, mut hops| {
        let near = path("10.1.0.1", "10.1.0.2")?;
        let far = path("10.1.0.1", "203.0.113.9")?;
        let elsewhere = path("10.2.0.1", "10.2.0.2")?;
        for path in [near, far, elsewhere] {
            hops.found(path).await?;
        }
        let before = hops.told.get(&elsewhere).copied();
        let mac = [2, 0, 0, 0, 0, 0x77];
        net.peer("link set lan address 02:00:00:00:00:77\nneigh flush dev lan\n")?;
        net.peer_runs(&["bash", "-c", "echo > /dev/udp/10.1.0.1/9"])?;
        for path in [near, far] {
            hops.until(path, |answer| answer.as_ref().is_ok_and(|hop| hop.destination_mac == mac))
                .await?;
        }
        assert_eq!(hops.told.get(&elsewhere).copied(), before, "the other link is not told of");
        Ok(())
    })
}

#[test]
fn a_neighbour_whose_mac_changes_in_silence_is_verified() -> Result<()> {
    story(async |net, mut hops| {
        let near = path("10.1.0.1", "10.1.0.2")?;
        hops.found(near).await?;
        // Nothing but the proxy's own asking makes this kernel look at its neighbour.
        own("neigh change 10.1.0.2 dev lan lladdr 02:00:00:00:00:66 nud stale\n")?;
        let mac = net.peer_mac("lan")?;
        hops.until(near, |answer| answer.as_ref().is_ok_and(|hop| hop.destination_mac != mac))
            .await?;
        hops.until(near, |answer| answer.as_ref().is_ok_and(|hop| hop.destination_mac == mac)).await
    })
}

#[test]
fn an_interface_that_goes_down_and_comes_back_is_told() -> Result<()> {
    story(async |net, mut hops| {
        let near = path("10.1.0.1", "10.1.0.2")?;
        hops.found(near).await?;
        net.peer("link set lan down\n")?;
        hops.until(near, |answer| *answer == Err(NoHop::InterfaceDown)).await?;
        ensure!(!hops.link("lan")?.up, "the link has no carrier");
        net.peer("link set lan up\n")?;
        hops.until(near, Result::is_ok).await?;
        own("link set lan down\n")?;
        hops.until(near, Result::is_err).await?;
        own("link set lan up\n")?;
        hops.until(near, Result::is_ok).await?;
        own("link del lan\n")?;
        hops.until(near, |answer| matches!(answer, Err(NoHop::Refused | NoHop::NoRoute))).await?;
        ensure!(hops.link("lan").is_err(), "the link is gone");
        ensure!(hops.link_events > 0, "links that change are told");
        Ok(())
    })
}

#[test]
fn another_route_or_rule_or_mtu_leads_another_way() -> Result<()> {
    story(async |_net, mut hops| {
        for (source, destination, gateway) in [
            ("10.1.0.1", "203.0.113.9", "default via 10.2.0.2"),
            ("fd01::1", "2001:db8::9", "default via fd02::2"),
        ] {
            let far = path(source, destination)?;
            assert_eq!(&*hops.found(far).await?.name, "lan");
            own(&format!("route replace {gateway} dev wan\n"))?;
            hops.until(far, |answer| answer.as_ref().is_ok_and(|hop| &*hop.name == "wan")).await?;
            own(&format!("route replace {gateway} dev wan mtu 1300\n"))?;
            hops.until(far, |answer| answer.as_ref().is_ok_and(|hop| hop.mtu == 1300)).await?;
        }
        own("route add default via 10.1.0.2 dev lan table 77\n")?;
        own("rule add from 10.1.0.1 table 77\n")?;
        let ruled = path("10.1.0.1", "203.0.113.9")?;
        hops.until(ruled, |answer| answer.as_ref().is_ok_and(|hop| &*hop.name == "lan")).await?;
        assert_eq!(&*hops.found(path("10.2.0.1", "203.0.113.9")?).await?.name, "wan");
        Ok(())
    })
}

#[test]
fn a_policy_of_ipsec_takes_its_paths_and_gives_them_back() -> Result<()> {
    story(async |_net, mut hops| {
        let v4 = path("10.1.0.1", "203.0.113.9")?;
        let v6 = path("fd01::1", "2001:db8::9")?;
        let other = path("10.1.0.1", "10.1.0.2")?;
        for path in [v4, v6, other] {
            hops.found(path).await?;
        }
        let before = hops.told.get(&other).copied();
        let policies = [
            (v4, "src 10.1.0.0/24 dst 203.0.113.0/24 dir out", "action block"),
            (v4, "src 203.0.113.9/32 dst 10.1.0.1/32 proto udp dir in", "action block"),
            (v6, "src fd01::/64 dst 2001:db8::/32 dir out", TUNNEL),
        ];
        for (path, selector, action) in policies {
            own(&format!("xfrm policy add {selector} {action}\n"))?;
            hops.until(path, |answer| *answer == Err(NoHop::Ipsec)).await.context(selector)?;
            own(&format!("xfrm policy del {selector}\n"))?;
            hops.until(path, Result::is_ok).await.context(selector)?;
        }
        own("xfrm policy add src 0.0.0.0/0 dst 203.0.113.0/24 dir out action allow\n\
             xfrm policy add src 0.0.0.0/0 dst 203.0.113.0/24 proto tcp dir out action block\n\
             xfrm policy add src ::/0 dst ::/0 dir out action block\n")?;
        hops.until(v6, |answer| *answer == Err(NoHop::Ipsec)).await?;
        assert!(hops.hops.find(v4).is_some_and(|answer| answer.is_ok()), "UDP passes in clear");
        own("xfrm policy flush\n")?;
        hops.until(v6, Result::is_ok).await?;
        assert_eq!(hops.told.get(&other).copied(), before, "the other path is not told of");
        Ok(())
    })
}

const TUNNEL: &str = "tmpl src fd01::1 dst fd01::2 proto esp mode tunnel";

#[test]
fn a_policy_that_was_there_before_is_known() -> Result<()> {
    story(async |_net, hops| {
        own("xfrm policy add src 10.1.0.1/32 dst 0.0.0.0/0 dir out action block\n")?;
        let (late, watch) = Hops::open().await?;
        let (events, told) = mpsc::unbounded_channel();
        tokio::spawn(watch.run(move |event| drop(events.send(event))));
        let mut late = Listener { hops: late, events: told, ..hops };
        assert_eq!(late.ask(path("10.1.0.1", "203.0.113.9")?).await?, Err(NoHop::Ipsec));
        late.found(path("10.2.0.1", "10.2.0.2")?).await.map(drop)
    })
}

#[test]
fn two_thousand_paths_move_to_another_gateway_together() -> Result<()> {
    story(async |_net, mut hops| {
        let paths = (0..2000_u32).map(|n| Path {
            source: Ipv4Addr::new(10, 1, 0, 1).into(),
            destination: Ipv4Addr::from(0xcb00_0000 + n).into(),
        });
        let paths: Vec<_> = paths.collect();
        for (source, gateway) in [("10.1.0.1", "10.1.0.2"), ("10.2.0.1", "10.2.0.2")] {
            hops.found(path(source, gateway)?).await?;
        }
        let started = Instant::now();
        for path in &paths {
            ensure!(hops.hops.find(*path).is_none(), "{path:?} is new");
        }
        for path in &paths {
            hops.until(*path, Result::is_ok).await?;
        }
        println!("2000 paths were found within {:?}", started.elapsed());
        let changed = Instant::now();
        own("route replace default via 10.2.0.2 dev wan\n")?;
        for path in &paths {
            hops.until(*path, |answer| answer.as_ref().is_ok_and(|hop| &*hop.name == "wan"))
                .await?;
        }
        println!("2000 paths moved within {:?}", changed.elapsed());
        ensure!(changed.elapsed() < Duration::from_secs(2), "it took {:?}", changed.elapsed());
        assert!(paths.iter().all(|path| hops.told.get(path) == Some(&2)), "each is told once");
        for path in &paths {
            hops.hops.release(*path);
        }
        ensure!(hops.hops.find(paths[0]).is_none(), "what nobody uses is forgotten");
        Ok(())
    })
}

#[test]
fn the_interfaces_of_the_default_routes_and_of_addresses_are_found() -> Result<()> {
    story(async |_net, hops| {
        let (lan, wan) = (hops.link("lan")?, hops.link("wan")?);
        assert_eq!(hops.hops.interfaces_of(&[]).await?, [lan.index]);
        let address: IpAddr = "fd02::1".parse()?;
        let mut both = vec![lan.index, wan.index];
        both.sort_unstable();
        assert_eq!(hops.hops.interfaces_of(&[address]).await?, both);
        assert_eq!(lan.kind.as_deref(), Some("veth"));
        ensure!(!lan.is_card() && lan.up && lan.mac.is_some(), "{lan:?}");
        Ok(())
    })
}

#[test]
fn more_events_than_the_socket_holds_lose_nothing() -> Result<()> {
    story(async |_net, mut hops| {
        let near = path("10.1.0.1", "10.1.0.2")?;
        hops.found(near).await?;
        // The thread that reads stands still meanwhile.
        let all = (0..6000).map(|n| {
            format!("neigh replace 10.3.{}.{} dev lan lladdr 02:01:00:00:00:01\n", n / 250, n % 250)
        });
        own(&all.collect::<String>())?;
        own("neigh replace 10.1.0.2 dev lan lladdr 02:00:00:00:00:88 nud permanent\n")?;
        let mac = [2, 0, 0, 0, 0, 0x88];
        hops.until(near, |answer| answer.as_ref().is_ok_and(|hop| hop.destination_mac == mac)).await
    })
}

/// Runs a test in namespaces of its own; without the right to make some, it is skipped.
fn story<T>(test: T) -> Result<()>
where
    T: AsyncFnOnce(&Net, Listener) -> Result<()> + Send + 'static,
{
    if !geteuid().is_root() {
        return skip("network namespaces need root");
    }
    // The namespace is the thread's, and what it starts.
    let thread = thread::spawn(|| {
        let net = Net::new()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (hops, watch) = Hops::open().await?;
            let (events, told) = mpsc::unbounded_channel();
            tokio::spawn(watch.run(move |event| drop(events.send(event))));
            let listener = Listener {
                hops,
                events: told,
                answers: HashMap::new(),
                told: HashMap::new(),
                link_events: 0,
            };
            test(&net, listener).await
        })
    });
    thread.join().map_err(|_| anyhow::anyhow!("the test panicked"))?
}

fn path(source: &str, destination: &str) -> Result<Path> {
    Ok(Path { source: source.parse()?, destination: destination.parse()? })
}

type Answer = Result<NextHop, NoHop>;

/// Next hops, and what was told of them.
struct Listener {
    hops: Hops,
    events: mpsc::UnboundedReceiver<Event>,
    answers: HashMap<Path, Answer>,
    /// How often each path was.
    told: HashMap<Path, usize>,
    link_events: usize,
}

impl Listener {
    /// The first answer.
    async fn ask(&mut self, path: Path) -> Result<Answer> {
        if let Some(answer) = self.hops.find(path) {
            return Ok(answer);
        }
        while !self.answers.contains_key(&path) {
            self.listen().await.with_context(|| format!("asking for {path:?}"))?;
        }
        self.answers.get(&path).cloned().context("an answer")
    }

    /// The first next hop; the neighbour may have to be resolved.
    async fn found(&mut self, path: Path) -> Result<NextHop> {
        let mut answer = self.ask(path).await?;
        while answer == Err(NoHop::NoNeighbour) {
            self.listen().await?;
            answer = self.answers.get(&path).cloned().unwrap_or(answer);
        }
        answer.with_context(|| format!("{path:?}"))
    }

    async fn until(&mut self, path: Path, is_it: impl Fn(&Answer) -> bool) -> Result<()> {
        while !self.answers.get(&path).is_some_and(&is_it) {
            let last = self.answers.get(&path).cloned();
            self.listen().await.with_context(|| format!("{path:?} was last {last:?}"))?;
        }
        assert_eq!(self.hops.find(path).as_ref(), self.answers.get(&path), "found as told");
        self.hops.release(path);
        Ok(())
    }

    async fn listen(&mut self) -> Result<()> {
        let event = timeout(PATIENCE, self.events.recv()).await.context("nothing is told")?;
        match event.context("the watch has ended")? {
            Event::Links(_) => self.link_events += 1,
            Event::Paths(paths) => {
                for (path, answer) in paths {
                    *self.told.entry(path).or_default() += 1;
                    self.answers.insert(path, answer);
                }
            }
        }
        Ok(())
    }

    fn link(&self, name: &str) -> Result<Link> {
        let links = self.hops.links();
        links.into_iter().find(|link| &*link.name == name).with_context(|| format!("no {name}"))
    }

    fn hop(&self, name: &str, destination_mac: [u8; 6]) -> Result<NextHop> {
        let link = self.link(name)?;
        Ok(NextHop {
            interface: link.index,
            name: link.name,
            destination_mac,
            source_mac: link.mac.context("a MAC address")?,
            vlan: None,
            mtu: link.mtu,
        })
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

/// This thread's namespace, and the neighbours', which lasts as long as a process in it.
struct Net {
    neighbours: Child,
}

impl Net {
    fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
        let neighbours = Command::new("unshare").args(["--net", "sleep", "600"]).spawn()?;
        let net = Self { neighbours };
        let namespace = format!("/proc/{}/ns/net", net.neighbours.id());
        let this = fs::read_link("/proc/thread-self/ns/net")?;
        wait::until_true("the neighbours' namespace", Duration::from_secs(5), || {
            Ok(fs::read_link(&namespace)? != this)
        })?;
        let pid = net.neighbours.id();
        for (n, name) in ["lan", "wan"].iter().enumerate() {
            let n = n + 1;
            own(&format!("link add {name} type veth peer name {name} netns {pid}\n"))?;
            for (host, is_own) in [(1, true), (2, false)] {
                let commands = format!(
                    "addr add 10.{n}.0.{host}/24 dev {name} brd +\n\
                     addr add fd0{n}::{host}/64 dev {name} nodad\n\
                     link set {name} up\n"
                );
                if is_own { own(&commands)? } else { net.peer(&commands)? }
            }
            // What changes is taken at once, and what is silent is asked soon.
            for setting in ["locktime=0", "delay_first_probe_time=1", "base_reachable_time_ms=1000"]
            {
                let setting = format!("net.ipv4.neigh.{name}.{setting}");
                let done = Command::new("sysctl").args(["-q", "-w", &setting]).status()?;
                ensure!(done.success(), "sysctl {setting}");
            }
        }
        own("link set lo up\nroute add default via 10.1.0.2\nroute add default via fd01::2\n")?;
        Ok(net)
    }

    /// Lines for `ip`, in the neighbours' namespace.
    fn peer(&self, lines: &str) -> Result<()> {
        batch(self.there("ip"), lines)
    }

    fn peer_runs(&self, command: &[&str]) -> Result<()> {
        let (program, arguments) = command.split_first().context("a command")?;
        let done = self.there(program).args(arguments).stdout(Stdio::null()).status()?;
        ensure!(done.success(), "{command:?}: {done}");
        Ok(())
    }

    fn peer_mac(&self, name: &str) -> Result<[u8; 6]> {
        let shown = self.there("ip").args(["-br", "link", "show", name]).output()?.stdout;
        let shown = String::from_utf8(shown)?;
        let mac = shown.split_whitespace().nth(2).with_context(|| shown.clone())?;
        let bytes: Result<Vec<_>, _> =
            mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        bytes?.try_into().map_err(|_| anyhow::anyhow!("{mac} is no MAC address"))
    }

    fn there(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.neighbours.id().to_string(), program]);
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        drop(self.neighbours.kill());
        drop(self.neighbours.wait());
    }
}

/// Lines for `ip`, in the proxy's namespace.
fn own(lines: &str) -> Result<()> {
    batch(Command::new("ip"), lines)
}

fn batch(mut ip: Command, lines: &str) -> Result<()> {
    let mut ip = ip.args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    ip.stdin.take().context("its input")?.write_all(lines.as_bytes())?;
    let done = ip.wait()?;
    ensure!(done.success(), "ip: {done}, for:\n{lines}");
    Ok(())
}
