//! What a run costs. Printed for who wants to know; the bound is that of a busy machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proxy_ebpf::maps::{Key, Ports, Way};

use crate::frames::world::{CLIENT, SOCKET, SRT, STRANGER, WEBRTC, World};
use crate::frames::{IPV4, IPV6, ethernet, packet, rtp, srt_packet, v4, v6};
use crate::kernel::{Hook, Kernel};

#[test]
fn what_passes_up_takes_less_than_a_microsecond() -> Result<()> {
    let Some(kernel) = Kernel::with(&World::new())? else {
        return Ok(());
    };
    let frames = [
        ("of a stranger", ethernet(&[], IPV4, &v4(STRANGER, WEBRTC, &rtp(1000)))),
        ("for another port", ethernet(&[], IPV4, &v4(CLIENT, 53, &rtp(1000)))),
        ("for another port over IPv6", ethernet(&[], IPV6, &v6(CLIENT, 53, &rtp(1000)))),
        ("ARP", ethernet(&[], 0x0806, &[0; 28])),
    ];
    for (story, frame) in frames {
        for hook in Hook::ALL {
            let time = kernel.time(hook, &frame, 1_000_000)?;
            println!("{hook:?}, {story}: {} ns", time.as_nanos());
            assert!(time < Duration::from_micros(1), "{hook:?}, {story}: {time:?}");
        }
    }
    Ok(())
}

#[test]
fn what_goes_on_takes_less_than_a_microsecond() -> Result<()> {
    for (flows, protocol) in [(1, WEBRTC), (1, SRT), (20_000, WEBRTC), (20_000, SRT)] {
        for is_v6 in [false, true] {
            let ring = Ring { flows, protocol, is_v6 };
            let Some(kernel) = Kernel::with(&ring.world()?)? else {
                return Ok(());
            };
            for hook in Hook::ALL {
                let time = ring.time(&kernel, hook)?;
                println!("{hook:?}, {ring:?}: {} ns", time.as_nanos());
                assert!(time < Duration::from_micros(1), "{hook:?}, {ring:?}: {time:?}");
            }
        }
    }
    Ok(())
}

/// Flows each of which leads to the next: a test run repeats a program on what it has made.
#[derive(Clone, Copy, Debug)]
struct Ring {
    flows: u32,
    protocol: u16,
    is_v6: bool,
}

impl Ring {
    fn world(self) -> Result<World> {
        let mut world = World::default();
        let (word, shift) = Ports::place(self.protocol);
        let bit = if self.protocol == SRT { Ports::SRT } else { Ports::WEBRTC };
        world.ports.insert(word, bit << shift);
        let socket_id = if self.protocol == SRT { SOCKET } else { 0 };
        for flow in 0..self.flows {
            let (client, proxy) = self.addresses(flow);
            let key = Key::new(client, proxy, socket_id).context("one family")?;
            let way = Way::new(&key, self.addresses(flow + 1).0, proxy).context("one family")?;
            world.ways.insert(key, Way { mtu: 1500, interface: 1, slot: flow, ..way });
        }
        Ok(world)
    }

    /// Client and proxy. The order of the clients has nothing to do with their numbers.
    fn addresses(self, flow: u32) -> (SocketAddr, SocketAddr) {
        let number = (flow % self.flows).wrapping_mul(0x9e37_79b1);
        let (client, proxy): (IpAddr, IpAddr) = if self.is_v6 {
            let client = (0x2001_0db8_u128 << 96) | u128::from(number);
            (Ipv6Addr::from(client).into(), Ipv6Addr::from(0x2001_0db8_u128 << 96 | 1 << 40).into())
        } else {
            (Ipv4Addr::from(number).into(), Ipv4Addr::new(198, 51, 100, 1).into())
        };
        (SocketAddr::new(client, CLIENT), SocketAddr::new(proxy, self.protocol))
    }

    /// The mean over 50,000 datagrams, after as many that warm up the caches.
    fn time(self, kernel: &Kernel, hook: Hook) -> Result<Duration> {
        self.round(kernel, hook)?;
        let before = kernel.counts()?;
        let time = self.round(kernel, hook)?;
        let forwarded = kernel.counts()?[0] - before[0];
        ensure!(forwarded == u64::from(RUNS * HOPS), "only {forwarded} have gone on");
        Ok(time)
    }

    fn round(self, kernel: &Kernel, hook: Hook) -> Result<Duration> {
        let mut all = Duration::ZERO;
        for run in 0..RUNS {
            let (client, proxy) = self.addresses(run * 7919);
            let payload = if self.protocol == SRT { srt_packet(7, 0) } else { rtp(1000) };
            let (ethertype, packet) = packet(client, proxy, 255, &payload);
            all += kernel.time(hook, &ethernet(&[], ethertype, &packet), HOPS)?;
        }
        Ok(all / RUNS)
    }
}

const RUNS: u32 = 200;
/// Less than what the largest time to live allows.
const HOPS: u32 = 250;
