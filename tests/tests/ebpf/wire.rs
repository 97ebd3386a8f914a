//! The program at TC between interfaces: what a test run has not, tags beside a frame, and devices
//! that come and go.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use proxy_ebpf::Reason;
use proxy_ebpf::contract::TC_UDP;
use proxy_ebpf::maps::{Key, Ports, TO_CLIENT, TO_ORIGIN, Way};
use srs_proxy_tests::netns::Namespace;
use srs_proxy_tests::wait;

use crate::frames::rtp;
use crate::frames::world::World;
use crate::kernel::{Kernel, built_object};

#[test]
fn a_tag_goes_on_beside_the_frame_and_is_taken_off_there() -> Result<()> {
    let counted = send_around(|loops| loops.back, |_| Ok(()))?;
    assert!(counted.is_none_or(|counted| counted == [2, 0, 0]), "{counted:?}");
    Ok(())
}

#[test]
fn who_comes_by_another_interface_or_vlan_passes_up() -> Result<()> {
    let elsewhere: [fn(Loops) -> Way; 3] = [
        |loops| Way { from_vlan: [0; 2], ..loops.back },
        |loops| Way { from_vlan: [0, 0x65], ..loops.back },
        |loops| Way { from_interface: loops.there.interface, ..loops.back },
    ];
    for back in elsewhere {
        let counted = send_around(back, |_| Ok(()))?;
        assert!(counted.is_none_or(|counted| counted == [1, 1, 0]), "{counted:?}");
    }
    Ok(())
}

#[test]
fn what_would_leave_by_a_device_that_is_gone_passes_up() -> Result<()> {
    let counted = send_around(|loops| loops.back, |host| host.ip("link del from"))?;
    assert!(counted.is_none_or(|counted| counted == [0, 0, 1]), "{counted:?}");
    Ok(())
}

/// The two ways of a packet that a socket sends: into a VLAN between two other interfaces, and from
/// there back to the socket.
#[derive(Clone, Copy)]
struct Loops {
    there: Way,
    back: Way,
}

/// Sends a packet around, with `back` for its second way, after something has happened to the
/// host: how many packets are counted for each of [`REASONS`]. One that comes back has to be
/// whole. `None` where these tests are to be skipped.
fn send_around(
    back: impl FnOnce(Loops) -> Way,
    happen: impl FnOnce(&Namespace) -> Result<()>,
) -> Result<Option<[u64; 3]>> {
    if built_object()?.is_none() {
        return Ok(None);
    }
    let host = Namespace::new()?;
    for (pair, number) in [(["socket", "near"], 1), (["from", "far"], 3)] {
        let [one, other] = pair.map(|name| format!("name {name} address 02:00:00:00:00:0"));
        host.ip(&format!("link add {one}{number} type veth peer {other}{}", number + 1))?;
        for name in pair {
            host.ip(&format!("link set {name} up"))?;
        }
    }
    host.ip("address add 192.0.2.1/24 dev socket")?;
    host.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev socket nud permanent")?;
    host.within(|| {
        let [client, proxy, onward, origin] = ADDRESSES.map(str::parse);
        let (client, proxy, onward, origin) = (client?, proxy?, onward?, origin?);
        let first = Key::new(client, proxy, 0).context("one family")?;
        let second = Key::new(onward, origin, 0).context("one family")?;
        let loops = loops(
            Way::new(&first, onward, origin).context("one family")?,
            Way::new(&second, proxy, client).context("one family")?,
        )?;
        let mut flows = World::default();
        for port in [proxy.port(), origin.port()] {
            let (word, shift) = Ports::place(port);
            *flows.ports.entry(word).or_default() |= Ports::WEBRTC << shift;
        }
        flows.ways = [(first, loops.there), (second, back(loops))].into();
        let Some(mut kernel) = Kernel::with(&flows)? else { return Ok(None) };
        kernel.admit(&[loops.there.interface, loops.back.interface])?;
        let program: &mut SchedClassifier =
            kernel.ebpf.program_mut(TC_UDP).context(TC_UDP)?.try_into()?;
        program.attach("near", TcAttachType::Ingress)?;
        program.attach("far", TcAttachType::Ingress)?;
        happen(&host)?;
        send(&kernel, client, proxy).map(Some)
    })
}

/// Both ways, on the interfaces.
fn loops(there: Way, back: Way) -> Result<Loops> {
    let (near, from, far) = (index("near")?, index("from")?, index("far")?);
    let there = Way {
        from_interface: near,
        vlan: [0x20, 0x64],
        interface: from,
        destination_mac: [2, 0, 0, 0, 0, 4],
        mtu: 1500,
        leg: TO_ORIGIN,
        ..there
    };
    let back = Way {
        from_interface: far,
        from_vlan: [0, 0x64],
        interface: near,
        destination_mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        leg: TO_CLIENT,
        ..back
    };
    Ok(Loops { there, back })
}

fn index(interface: &str) -> Result<u32> {
    Ok(nix::net::if_::if_nametoindex(interface)?)
}

/// Sends one packet, and waits for the last that is said of it.
fn send(kernel: &Kernel, client: SocketAddr, proxy: SocketAddr) -> Result<[u64; 3]> {
    let (socket, sent) = (UdpSocket::bind(client)?, rtp(100));
    socket.send_to(&sent, proxy)?;
    let counted = wait::until("the last verdict", LIMIT, || {
        let counts = kernel.counts()?;
        let of = |reason: Reason| counts.get(reason as usize).copied().unwrap_or_default();
        let counted @ [forwarded, other_interface, no_device] = REASONS.map(of);
        Ok((forwarded == 2 || other_interface + no_device > 0).then_some(counted))
    })?;
    if counted == [2, 0, 0] {
        socket.set_read_timeout(Some(LIMIT))?;
        let mut came = vec![0; 2000];
        let (length, sender) = socket.recv_from(&mut came)?;
        came.truncate(length);
        ensure!((came, sender) == (sent, proxy), "another packet came back");
    }
    Ok(counted)
}

/// Who sends, and to whom; on the second way, the same again.
const ADDRESSES: [&str; 4] =
    ["192.0.2.1:5000", "192.0.2.2:8000", "198.51.100.1:20000", "203.0.113.77:9000"];
const REASONS: [Reason; 3] = [Reason::Forwarded, Reason::OtherInterface, Reason::NoDevice];
const LIMIT: Duration = Duration::from_secs(5);
