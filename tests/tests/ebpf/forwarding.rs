//! Kernel and host make the same of each frame.

use anyhow::{Context, Result, ensure};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use proxy_ebpf::Reason;
use proxy_ebpf::maps::Way;

use crate::frames::world::{CLIENT, SRT, WEBRTC, World};
use crate::frames::{IPV4, any_frame, any_payload, ethernet, samples, v4};
use crate::kernel::{Hook, Kernel};

#[test]
fn every_sample_becomes_what_the_host_makes_of_it() -> Result<()> {
    let world = World::new();
    let Some(mut kernel) = Kernel::with(&world)? else {
        return Ok(());
    };
    for sample in samples() {
        for hook in Hook::ALL.into_iter().filter(|hook| hook.can_try(&sample.frame)) {
            let is_met = match hook {
                Hook::Xdp => sample.is_for_xdp(),
                Hook::Tc => sample.is_for_tc(),
            };
            let compared =
                compare(&mut kernel, &world, hook, &sample.frame, sample.segment, sample.has_room);
            let reason = compared.with_context(|| sample.story)?;
            assert!(!is_met || reason == sample.reason, "{hook:?} of {}", sample.story);
        }
    }
    Ok(())
}

#[test]
fn any_frame_becomes_what_the_host_makes_of_it() -> Result<()> {
    let world = World::new();
    let Some(mut kernel) = Kernel::with(&world)? else {
        return Ok(());
    };
    let kernel = std::cell::RefCell::new(&mut kernel);
    runner(6000).run(&any_frame(), |frame| {
        for hook in Hook::ALL.into_iter().filter(|hook| hook.can_try(&frame)) {
            compare(&mut kernel.borrow_mut(), &world, hook, &frame, 0, true)
                .map_err(|error| as_failure(&error))?;
        }
        Ok(())
    })?;
    Ok(())
}

#[test]
fn any_train_becomes_what_the_host_makes_of_it() -> Result<()> {
    let world = World::new();
    let Some(mut kernel) = Kernel::with(&world)? else {
        return Ok(());
    };
    let kernel = std::cell::RefCell::new(&mut kernel);
    let trains = (
        proptest::sample::select(vec![WEBRTC, SRT]),
        proptest::collection::vec(any_payload(), 1..6),
        16_usize..80,
    );
    runner(2000).run(&trains, |(port, payloads, segment)| {
        let cars = payloads.into_iter().map(|mut payload| {
            payload.resize(segment, 0);
            payload
        });
        let frame = ethernet(&[], IPV4, &v4(CLIENT, port, &cars.collect::<Vec<_>>().concat()));
        let segment = segment as u32;
        compare(&mut kernel.borrow_mut(), &world, Hook::Tc, &frame, segment, true)
            .map_err(|error| as_failure(&error))?;
        Ok(())
    })?;
    Ok(())
}

/// Runs `frame` on the host and in the kernel, and returns what both say of it.
fn compare(
    kernel: &mut Kernel,
    world: &World,
    hook: Hook,
    frame: &[u8],
    segment: u32,
    has_room: bool,
) -> Result<Reason> {
    let segment = if matches!(hook, Hook::Tc) { segment } else { 0 };
    let has_room = has_room || matches!(hook, Hook::Tc);
    let mut host = world.run(frame, hook.arrival(frame, segment), has_room);
    // At TC the tag that a frame leaves with is not in the frame.
    if let (Hook::Tc, Some((way, _))) = (hook, host.forwarded)
        && way.vlan != [0; 2]
    {
        host.frame.drain(12..16);
    }
    let way: Option<Way> = host.forwarded.map(|(way, _)| way);
    let got = kernel.run(hook, frame, segment, way, has_room)?;
    ensure!(
        (got.reason, &got.frame) == (host.reason, &host.frame),
        "{hook:?} of {frame:02x?}:\n{got:02x?}, and on the host:\n{host:02x?}"
    );
    if let (Some((_, mut kernel)), Some((_, host))) = (got.forwarded, host.forwarded) {
        // A number that stood there already is not seen to change.
        if kernel.data == 0 {
            kernel.data = host.data;
        }
        if kernel.acknowledged == 0 {
            kernel.acknowledged = host.acknowledged;
        }
        ensure!(kernel == host, "{hook:?} of {frame:02x?}: {kernel:?}, and on the host {host:?}");
    }
    Ok(host.reason)
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

fn as_failure(error: &anyhow::Error) -> TestCaseError {
    TestCaseError::fail(format!("{error:#}"))
}
