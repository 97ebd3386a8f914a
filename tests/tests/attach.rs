//! The kernel programs at interfaces of a namespace of the test's own: which hook they get and why,
//! what a killed daemon leaves to the next one, and what a stopped one leaves to nobody.
//!
//! Needs root, or the right to make namespaces. `SRS_PROXY_SKIP_EBPF=1` skips these tests, and
//! says so.
#![cfg(target_os = "linux")]

#[path = "namespace/flow.rs"]
mod flow;
#[path = "namespace/hooks.rs"]
mod hooks;
mod namespace;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, slice, thread};

use anyhow::{Context, Result, anyhow, bail, ensure};
use proxy_ebpf::CONTRACT;
use proxy_ebpf::contract::TC_UDP;
use proxy_ebpf::maps::{self, Key, Memo, Ports, TO_CLIENT, TO_ORIGIN, Tally, Way};
use srs_proxy::config::{Kernel, KernelMode};
use srs_proxy::plane::ebpf_object::OBJECT;
use srs_proxy::plane::kernel::programs::{
    Engine, Interface, KernelMaps, LoadError, Loss, Lost, MapError, Maps, Programs,
};
use srs_proxy_tests::wait;

use self::flow::{KEY, WAY};
use self::hooks::{
    attached, detach_link, detached, devices, filters, foreign_filter, gro, has_clsact, program_id,
    tcx,
};
use self::namespace::{in_namespace, interface, run, settings};

#[test]
fn tc_is_a_link_that_goes_with_the_daemon() -> Result<()> {
    in_namespace(|_| {
        let (mut programs, _maps) = load(&settings(KernelMode::Tc))?;
        assert_eq!(programs.attach(&interface("here", true)?), Ok(Engine::Tc));
        assert_eq!(programs.engine(), Some(Engine::Tc));
        assert_eq!(tcx("here")?, [TC_UDP]);
        assert_eq!(programs.check(), [], "nobody has removed it");
        programs.detach(interface("here", true)?.index);
        assert_eq!(tcx("here")?, [""; 0], "it stays where it was detached");
        assert_eq!(programs.attach(&interface("here", true)?), Ok(Engine::Tc));
        drop(programs);
        assert_eq!(tcx("here")?, [""; 0], "a stopped daemon has left its program");
        Ok(())
    })
}

#[test]
fn tc_is_a_filter_where_there_are_no_links() -> Result<()> {
    in_namespace(|_| {
        let (mut programs, _maps) = load(&settings(KernelMode::Tc))?;
        programs.use_filters();
        let here = interface("here", true)?;
        assert_eq!(programs.attach(&here), Ok(Engine::Tc));
        assert_eq!(tcx("here")?, [""; 0]);
        assert_eq!(filters("here")?, 1);
        assert_eq!(programs.check(), [], "nobody has removed it");
        assert_eq!(filters("here")?, 1, "looking after it has changed it");
        run("tc filter del dev here ingress")?;
        let lost = || vec![Lost { interface: here.clone(), why: Loss::Removed }];
        assert_eq!(programs.check(), lost(), "somebody has removed it");
        assert_eq!(programs.attach(&here), Ok(Engine::Tc));
        assert!(has_clsact("here")?);
        drop(programs);
        assert_eq!(filters("here")?, 0, "a stopped daemon has left its filter");
        assert!(!has_clsact("here")?, "a stopped daemon has left its qdisc");
        Ok(())
    })
}

#[test]
fn what_others_have_at_tc_stays() -> Result<()> {
    in_namespace(|_| {
        let here = interface("here", true)?;
        run("tc qdisc add dev here clsact")?;
        foreign_filter("dev here egress")?;
        let (mut programs, _maps) = load(&settings(KernelMode::Tc))?;
        programs.use_filters();
        assert_eq!(programs.attach(&here), Ok(Engine::Tc));
        let (mut second, _second_maps) = load(&settings(KernelMode::Tc))?;
        second.use_filters();
        let refused = Err("another srs-proxy has filters in this network namespace".to_owned());
        assert_eq!(second.attach(&here), refused);
        second.attach_all(&[]);
        assert_eq!(filters("here")?, 1, "one daemon has swept away the filter of another one");

        let place = "dev here ingress prio 21330 handle 1";
        run(&format!("tc filter del {place} bpf"))?;
        foreign_filter(place)?;
        let lost = vec![Lost { interface: here.clone(), why: Loss::Removed }];
        assert_eq!(programs.check(), lost, "somebody's own filter counts as ours");
        let refused = Err("another filter is in the place of ours".to_owned());
        assert_eq!(programs.attach(&here), refused);
        drop(programs);
        let left = run("tc filter show dev here ingress")?;
        assert!(left.contains("bytecode"), "{left}");
        assert!(has_clsact("here")?, "the qdisc was not ours");
        run(&format!("tc filter del {place} bpf"))?;
        assert_eq!(second.attach(&here), Ok(Engine::Tc), "the other daemon has ended");
        Ok(())
    })
}

#[test]
fn a_filter_of_a_killed_daemon_is_replaced_and_elsewhere_removed() -> Result<()> {
    in_namespace(|_| {
        let mut killed = Daemon::start(&["tc", "filters", "here", "there"], None)?;
        killed.kill()?;
        assert_eq!((filters("here")?, filters("there")?), (1, 1), "filters outlive a process");
        let (mut programs, _maps) = load(&settings(KernelMode::Tc))?;
        programs.use_filters();
        programs.attach_all(&[interface("here", true)?]);
        assert_eq!((filters("here")?, filters("there")?), (1, 0));
        drop(programs);
        assert_eq!(filters("here")?, 0);
        Ok(())
    })
}

#[test]
fn a_daemon_without_pins_that_is_killed_leaves_nothing() -> Result<()> {
    in_namespace(|_| {
        gro("there", true)?;
        for mode in ["tc", "xdp"] {
            let mut killed = Daemon::start(&[mode, "links", "here"], None)?;
            ensure!(attached("here")? == Some(mode), "{mode} is not attached");
            killed.kill()?;
            let left = attached("here")?;
            ensure!(left.is_none(), "{mode}: {left:?} stays");
        }
        Ok(())
    })
}

#[test]
fn xdp_takes_all_interfaces_or_tc_does() -> Result<()> {
    in_namespace(|_| {
        gro("here", true)?;
        gro("there", true)?;
        // As if both ends were cards: what has a driver's XDP is tried.
        let (here, there) = (interface("here", false)?, interface("there", false)?);
        let (mut programs, _maps) = load(&settings(KernelMode::Auto))?;
        programs.attach_all(&[here.clone(), there.clone()]);
        assert_eq!(programs.engine(), Some(Engine::Xdp));
        assert_eq!((attached("here")?, attached("there")?), (Some("xdp"), Some("xdp")));
        assert_eq!(reasons(&programs), [None, None]);

        let gone = Interface { index: 9999, name: "gone".to_owned(), is_virtual: false };
        assert_eq!(programs.attach(&gone), Err("it is gone".to_owned()));
        assert_eq!(programs.engine(), Some(Engine::Xdp), "one that is gone has changed the others");
        programs.detach(gone.index);
        let lo = interface("lo", false)?;
        assert_eq!(programs.attach(&lo), Ok(Engine::Tc), "lo has no XDP in its driver");
        for name in ["here", "there", "lo"] {
            assert_eq!(attached(name)?, Some("tc"), "{name}");
        }
        for reason in reasons(&programs) {
            assert_eq!(reason.as_deref(), Some("no XDP at lo: its driver has no XDP"));
        }
        drop(programs);
        assert_eq!((attached("here")?, attached("there")?), (None, None));
        Ok(())
    })
}

#[test]
fn a_virtual_interface_takes_all_to_tc_without_trying() -> Result<()> {
    in_namespace(|_| {
        let (mut programs, _maps) = load(&settings(KernelMode::Auto))?;
        programs.attach_all(&[interface("here", false)?, interface("there", true)?]);
        assert_eq!((attached("here")?, attached("there")?), (Some("tc"), Some("tc")));
        for reason in reasons(&programs) {
            let reason = reason.context("no reason for TC")?;
            assert!(reason.starts_with("there is virtual"), "{reason}");
        }
        Ok(())
    })
}

#[test]
fn generic_xdp_is_there_when_it_is_asked_for() -> Result<()> {
    in_namespace(|_| {
        let (mut programs, _maps) = load(&settings(KernelMode::XdpGeneric))?;
        assert_eq!(programs.attach(&interface("here", true)?), Ok(Engine::XdpGeneric));
        assert_eq!(attached("here")?, Some("xdp-generic"));
        assert_eq!(programs.check(), []);
        drop(programs);
        assert_eq!(attached("here")?, None);
        Ok(())
    })
}

#[test]
fn what_the_driver_refuses_is_said_in_words() -> Result<()> {
    in_namespace(|_| {
        let here = interface("here", true)?;
        gro("there", true)?;
        let (mut programs, _maps) = load(&settings(KernelMode::Xdp))?;
        run("ip link set here mtu 9000")?;
        run("ip link set there mtu 9000")?;
        let refused = Err("its MTU is too large for XDP in its driver".to_owned());
        assert_eq!(programs.attach(&here), refused);
        assert_eq!(reasons(&programs), [refused.clone().err()]);
        assert_eq!(programs.engine(), None);
        run("ip link set here mtu 1500")?;
        run("ip link set there mtu 1500")?;

        let (mut other, _other_maps) = load(&settings(KernelMode::Xdp))?;
        assert_eq!(other.attach(&here), Ok(Engine::Xdp));
        assert_eq!(programs.attach(&here), Err("another XDP program is on it".to_owned()));
        drop(other);
        // Whoever begins to run a command has all descriptors for a moment, those of links too.
        wait::until_true("it is free again", Duration::from_secs(2), || {
            Ok(programs.attach(&here) == Ok(Engine::Xdp))
        })?;
        let gone = Interface { index: 9999, name: "gone".to_owned(), is_virtual: false };
        assert_eq!(programs.attach(&gone), Err("it is gone".to_owned()));
        Ok(())
    })
}

#[test]
fn a_program_that_somebody_removes_is_missed() -> Result<()> {
    in_namespace(|_| {
        gro("there", true)?;
        for mode in [KernelMode::Tc, KernelMode::Xdp] {
            let (mut programs, _maps) = load(&settings(mode))?;
            let here = interface("here", true)?;
            programs.attach_all(slice::from_ref(&here));
            detach_link("here")?;
            let lost = vec![Lost { interface: here.clone(), why: Loss::Removed }];
            assert_eq!(programs.check(), lost, "{mode:?}");
            assert_eq!(programs.check(), [], "{mode:?}: it is told once");
            let view = programs.interfaces();
            let missed = view.iter().find(|view| view.index == here.index).context("no view")?;
            assert_eq!(missed.engine, None);
            assert_eq!(missed.reason.as_deref(), Some("its program was removed by somebody else"));
            programs.attach(&here).map_err(|reason| anyhow!(reason))?;
            let program = program_id("here")?;
            programs.attach(&here).map_err(|reason| anyhow!(reason))?;
            assert_eq!(program_id("here")?, program, "{mode:?}: it has it already");
            assert_eq!(programs.check(), [], "{mode:?}: it is back");
        }
        let (mut programs, _maps) = load(&settings(KernelMode::Tc))?;
        let (here, there) = (interface("here", true)?, interface("there", true)?);
        programs.attach_all(&[here.clone(), there.clone()]);
        run("ip link del here")?;
        let mut both = [here, there];
        both.sort_by_key(|interface| interface.index);
        let gone = both.map(|interface| Lost { interface, why: Loss::Gone });
        assert_eq!(programs.check(), gone, "interfaces that were deleted");
        assert_eq!(
            reasons(&programs),
            [Some("it is gone".to_owned()), Some("it is gone".to_owned())]
        );
        Ok(())
    })
}

#[test]
fn xdp_is_where_packets_can_be_sent_by_it() -> Result<()> {
    in_namespace(|_| {
        let (here, there) = (interface("here", false)?, interface("there", false)?);
        let why = "its driver cannot send what XDP redirects (a veth needs GRO on at its peer)";
        let (mut programs, _maps) = load(&settings(KernelMode::Xdp))?;
        assert_eq!(programs.attach(&here), Err(why.to_owned()), "its peer has no GRO");
        assert_eq!(attached("here")?, None);
        assert_eq!(programs.check(), []);
        assert_eq!(reasons(&programs), [Some(why.to_owned())], "another reason than before");
        gro("there", true)?;
        assert_eq!(programs.attach(&here), Ok(Engine::Xdp));
        gro("there", false)?;
        let lost =
            |interface: &Interface| Lost { interface: interface.clone(), why: Loss::Unfit(why) };
        assert_eq!(programs.check(), [lost(&here)]);
        assert_eq!((attached("here")?, programs.engine()), (None, None));
        assert_eq!(reasons(&programs), [Some(why.to_owned())]);

        // Each program is what the other end needs.
        programs.attach_all(&[here.clone(), there.clone()]);
        assert_eq!((attached("here")?, attached("there")?), (Some("xdp"), Some("xdp")));
        assert_eq!(programs.check(), []);
        detach_link("here")?;
        let removed = Lost { interface: here.clone(), why: Loss::Removed };
        let mut both = programs.check();
        both.sort_by_key(|lost| lost.interface.index != here.index);
        assert_eq!(both, [removed, lost(&there)]);
        assert_eq!((attached("here")?, attached("there")?), (None, None));
        Ok(())
    })
}

#[test]
fn all_go_to_tc_where_packets_cannot_be_sent_by_xdp() -> Result<()> {
    in_namespace(|_| {
        gro("there", true)?;
        let (mut programs, _maps) = load(&settings(KernelMode::Auto))?;
        programs.attach_all(&[interface("here", false)?]);
        assert_eq!(attached("here")?, Some("xdp"));
        gro("there", false)?;
        assert_eq!(programs.check(), [], "it has a program as before");
        assert_eq!((attached("here")?, programs.engine()), (Some("tc"), Some(Engine::Tc)));
        let why = "no XDP at here: its driver cannot send what XDP redirects (a veth needs GRO on \
                   at its peer)";
        assert_eq!(reasons(&programs), [Some(why.to_owned())]);

        let (mut another, _maps) = load(&settings(KernelMode::Auto))?;
        another.attach_all(&[interface("there", false)?]);
        assert_eq!(attached("there")?, Some("tc"), "its peer has no GRO");
        Ok(())
    })
}

#[test]
fn maps_and_links_wait_for_the_next_daemon() -> Result<()> {
    in_namespace(|space| {
        gro("here", true)?;
        gro("there", true)?;
        for mode in ["tc", "xdp"] {
            let mut killed = Daemon::start(&[mode, "links", "here", "there"], Some(&space.pin()))?;
            let first = program_id("here")?;
            killed.kill()?;
            assert_eq!(attached("here")?, Some(mode), "the link went with the daemon");
            assert_eq!(program_id("here")?, first);

            let wanted = Kernel {
                pin: Some(space.pin()),
                ..settings(if mode == "tc" { KernelMode::Tc } else { KernelMode::Xdp })
            };
            let (mut programs, maps) = load(&wanted)?;
            assert!(programs.is_adopted());
            assert_eq!(programs.replaced(), None);
            assert_eq!(maps.ways(), [(KEY, WAY)]);
            assert_eq!(maps.memos(), [(3, memo())]);
            programs.attach_all(&[interface("here", true)?]);
            assert_eq!(attached("here")?, Some(mode));
            assert_ne!(program_id("here")?, first, "the former program is still there");
            detached("there").context("nobody wants it any more")?;
            drop((programs, maps));
            detached("here").context("the daemon was stopped")?;
            assert!(!space.pin().exists(), "a stopped daemon has left its folder");
        }
        Ok(())
    })
}

#[test]
fn a_hook_that_becomes_free_is_used_at_once() -> Result<()> {
    in_namespace(|space| {
        gro("there", true)?;
        let wanted = Kernel { pin: Some(space.pin()), ..settings(KernelMode::Xdp) };
        for _ in 0..3 {
            let (mut programs, _maps) = load(&wanted)?;
            assert_eq!(programs.attach(&interface("here", true)?), Ok(Engine::Xdp));
        }
        Ok(())
    })
}

#[test]
fn pins_of_another_version_or_size_are_removed() -> Result<()> {
    in_namespace(|space| {
        let own = format!("v{CONTRACT}");
        let mut killed = Daemon::start(&["tc", "links", "here"], Some(&space.pin()))?;
        killed.kill()?;
        // What stands there could as well be another version's.
        fs::rename(space.pin().join(&own), space.pin().join("v1"))?;
        let wanted = Kernel { pin: Some(space.pin()), ..settings(KernelMode::Tc) };
        let (programs, maps) = load(&wanted)?;
        assert!(!programs.is_adopted());
        assert_eq!(programs.replaced(), Some(1), "it had one session");
        assert_eq!(maps.ways(), []);
        assert_eq!(names(&space.pin())?, [own]);
        detached("here").context("the other version still forwards")?;
        drop((programs, maps));

        let mut killed = Daemon::start(&["tc", "links", "here"], Some(&space.pin()))?;
        killed.kill()?;
        let (programs, maps) = load(&Kernel { flows: 128, ..wanted })?;
        assert!(!programs.is_adopted());
        assert_eq!(programs.replaced(), Some(1), "it had one session");
        assert_eq!((maps.flows(), maps.ways()), (128, vec![]));
        detached("here").context("a program with maps of another size still forwards")?;
        Ok(())
    })
}

#[test]
fn frames_leave_by_interfaces_that_have_a_program_and_are_up() -> Result<()> {
    in_namespace(|space| {
        let pin = space.pin();
        let devices = || devices(&pin.join(format!("v{CONTRACT}/{}", maps::DEVICES.name)));
        let (here, there) = (interface("here", true)?, interface("there", true)?);
        gro("there", true)?;
        for mode in [KernelMode::Tc, KernelMode::Xdp, KernelMode::XdpGeneric] {
            let wanted = Kernel { pin: Some(pin.clone()), ..settings(mode) };
            let (mut programs, _maps) = load(&wanted)?;
            assert_eq!(programs.attach(&here).ok(), programs.engine());
            assert_eq!(devices()?, [here.index], "{mode:?}");
            run("ip link set here down")?;
            assert_eq!(programs.check(), [], "{mode:?}");
            assert_eq!(devices()?, [0; 0], "{mode:?}: it is down");
            run("ip link set here up")?;
            assert_eq!(programs.check(), [], "{mode:?}");
            assert_eq!(devices()?, [here.index], "{mode:?}: it is up again");
            detach_link("here")?;
            assert_eq!(programs.check().len(), 1, "{mode:?}");
            assert_eq!(devices()?, [0; 0], "{mode:?}: it has no program");
            assert_eq!(programs.attach(&here).ok(), programs.engine());
            programs.detach(here.index);
            assert_eq!(devices()?, [0; 0], "{mode:?}: it is left alone");
        }
        let mut killed = Daemon::start(&["tc", "links", "here", "there"], Some(&pin))?;
        killed.kill()?;
        assert_eq!(devices()?.len(), 2, "packets go on");
        let wanted = Kernel { pin: Some(pin.clone()), ..settings(KernelMode::Tc) };
        let (mut programs, _maps) = load(&wanted)?;
        programs.attach_all(slice::from_ref(&there));
        assert_eq!(devices()?, [there.index]);
        Ok(())
    })
}

#[test]
fn a_pin_folder_has_one_daemon_and_is_in_a_bpffs() -> Result<()> {
    in_namespace(|space| {
        let wanted = Kernel { pin: Some(space.pin()), ..settings(KernelMode::Tc) };
        let first = load(&wanted)?;
        assert_eq!(first.0.replaced(), None, "there was nothing");
        let second = Programs::load(OBJECT, &wanted, false).err().context("two share a folder")?;
        let words = format!("pins: {} is in use by another daemon", space.pin().display());
        assert_eq!(second.to_string(), words);
        drop(first);
        drop(load(&wanted)?);

        let elsewhere = Kernel { pin: Some("/tmp/pins".into()), ..wanted.clone() };
        let refused =
            Programs::load(OBJECT, &elsewhere, false).err().context("/tmp is no bpffs")?;
        assert!(refused.to_string().starts_with("pins: /tmp/pins is not in a bpffs"), "{refused}");
        let dotted = Kernel { pin: Some(space.pin().with_file_name("a.b")), ..wanted };
        let refused =
            Programs::load(OBJECT, &dotted, false).err().context("a bpffs takes no dots")?;
        assert!(refused.to_string().ends_with("(a bpffs takes no name with a dot)"), "{refused}");
        Ok(())
    })
}

#[test]
fn a_pin_folder_is_waited_for_while_its_daemon_ends() -> Result<()> {
    in_namespace(|space| {
        let wanted = Kernel { pin: Some(space.pin()), ..settings(KernelMode::Tc) };
        let mut ending = Daemon::start(&["tc", "links", "here"], Some(&space.pin()))?;
        let end = thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            ending.kill()
        });
        let (programs, _maps) = load(&wanted)?;
        assert!(programs.is_adopted(), "it is the killed daemon's");
        end.join().map_err(|_| anyhow!("it was not killed"))??;

        // One that is stopped removes its folder.
        let second = Kernel { pin: wanted.pin.clone(), ..settings(KernelMode::Tc) };
        let end = thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            drop(programs);
        });
        let (programs, _maps) = load(&second)?;
        end.join().map_err(|_| anyhow!("it was not stopped"))?;
        assert!(!programs.is_adopted() && space.pin().exists());
        Ok(())
    })
}

#[test]
fn programs_that_do_not_load_leave_none_of_an_earlier_daemon() -> Result<()> {
    in_namespace(|space| {
        let mut killed = Daemon::start(&["tc", "links", "here"], Some(&space.pin()))?;
        killed.kill()?;
        assert_eq!(attached("here")?, Some("tc"));
        let wanted = Kernel { pin: Some(space.pin()), ..settings(KernelMode::Tc) };
        let object = OBJECT.context("the object")?;
        // `exit` with an operand, which it does not have.
        let broken: Vec<u8> = object
            .chunks(8)
            .flat_map(|word| if word == EXIT { &[0x95, 0, 0, 0, 1, 0, 0, 0] } else { word })
            .copied()
            .collect();
        match Programs::load(Some(&broken), &wanted, false).map(drop) {
            Err(LoadError::Refused { why, log, .. }) => {
                ensure!(!why.is_empty() && log.contains(&why), "{why}, of:\n{log}");
            }
            other => bail!("the verifier should have refused it: {other:?}"),
        }
        detached("here").context("nobody accounts for what it forwards")?;
        ensure!(!space.pin().exists(), "the folder stays");
        Ok(())
    })
}

const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn maps_hold_what_they_are_given_and_say_when_they_are_full() -> Result<()> {
    in_namespace(|_| {
        let (_programs, mut maps) = load(&settings(KernelMode::Tc))?;
        maps.put(&KEY, &WAY)?;
        let other = Way { slot: 9, ..WAY };
        maps.put(&KEY, &other)?;
        assert_eq!(maps.ways(), [(KEY, other)], "one key has one way");
        maps.take(&KEY);
        maps.take(&KEY);
        assert_eq!(maps.ways(), []);
        let key = |number: u16| Key { source_port: number.to_be_bytes(), ..KEY };
        for number in 0..2 * 64 {
            maps.put(&key(number), &WAY)?;
        }
        let full = maps.put(&key(1000), &WAY);
        assert!(matches!(full, Err(MapError::Full)), "{full:?}");
        maps.take(&key(7));
        maps.put(&key(1000), &WAY)?;

        maps.note(5, &memo())?;
        maps.forget(5);
        maps.forget(5);
        assert_eq!(maps.memos(), []);
        for leg in [TO_ORIGIN, TO_CLIENT, 2] {
            assert_eq!(maps.tally(63, leg), Tally::default());
            assert_eq!(maps.tally(64, leg), Tally::default(), "there is no such slot");
        }
        maps.clear(63);
        maps.clear(u32::MAX);
        for port in [0, 31, 32, 65535] {
            maps.open_port(port, Ports::SRT, true);
            maps.open_port(port, Ports::SRT, false);
        }
        Ok(())
    })
}

#[test]
fn a_binary_without_programs_says_so() {
    let refused = Programs::load(None, &settings(KernelMode::Auto), false).map(drop);
    assert!(matches!(refused, Err(LoadError::NoObject)), "{refused:?}");
}

/// Not a test, but the daemon of the others: with [`DAEMON`] in the environment, it attaches,
/// says so, and waits to be killed.
#[test]
fn daemon_to_be_killed() -> Result<()> {
    let Some(wanted) = env::var_os(DAEMON) else { return Ok(()) };
    let wanted = wanted.to_str().context("a name that is no text")?;
    let [mode, links, interfaces @ ..] = &wanted.split(' ').collect::<Vec<_>>()[..] else {
        bail!("{DAEMON}={wanted}");
    };
    let mode = if *mode == "tc" { KernelMode::Tc } else { KernelMode::Xdp };
    let pin = env::var_os(PIN).map(PathBuf::from);
    let (mut programs, mut maps) = load(&Kernel { pin, ..settings(mode) })?;
    if *links == "filters" {
        programs.use_filters();
    }
    maps.put(&KEY, &WAY)?;
    maps.note(3, &memo())?;
    for name in interfaces {
        programs.attach(&interface(name, true)?).map_err(|reason| anyhow!("{name}: {reason}"))?;
    }
    println!("{ATTACHED}");
    loop {
        thread::park();
    }
}

/// A process that has attached the programs.
struct Daemon(Child);

impl Daemon {
    fn start(wanted: &[&str], pin: Option<&Path>) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--exact", "daemon_to_be_killed", "--nocapture"]);
        command.env(DAEMON, wanted.join(" ")).stdout(Stdio::piped());
        if let Some(pin) = pin {
            command.env(PIN, pin);
        }
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let daemon = Self(child);
        for line in lines {
            if line?.ends_with(ATTACHED) {
                return Ok(daemon);
            }
        }
        bail!("the daemon {wanted:?} has ended")
    }

    /// Kills it, as by SIGKILL, and waits until it is gone.
    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.kill();
    }
}

const DAEMON: &str = "SRS_PROXY_TEST_DAEMON";
const PIN: &str = "SRS_PROXY_TEST_PIN";
const ATTACHED: &str = "attached.";

fn memo() -> Memo {
    Memo { length: 2, bytes: [7; Memo::MAX] }
}

fn load(settings: &Kernel) -> Result<(Programs, KernelMaps)> {
    Programs::load(OBJECT, settings, true).context("loading the programs")
}

fn reasons(programs: &Programs) -> Vec<Option<String>> {
    programs.interfaces().into_iter().map(|view| view.reason).collect()
}

fn names(folder: &Path) -> Result<Vec<String>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}
