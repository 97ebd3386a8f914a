//! How the proxy starts, and how it ends.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use srs_proxy_tests::process::Process;
use srs_proxy_tests::proxy::{self, Proxy};
use srs_proxy_tests::rtmp::{Client, Feed, Origin, Script};
use srs_proxy_tests::{ports, story, wait};

const SOON: Duration = Duration::from_secs(10);

/// A proxy with `count` players of a paced stream, and its origin.
fn playing(folder: &Path, grace: &str, count: usize) -> Result<(Proxy, Vec<Client>, Origin)> {
    let origin = Origin::start(Script::Serve(Feed::Paced(200_000)))?;
    let proxy = Proxy::start(folder, &[("PROXY_GRACE_QUIT_TIMEOUT", grace)])?;
    origin.register_at(proxy.system_api(), "origin")?;
    let player = |_| Client::play(proxy.rtmp(), "show");
    let players = (0..count).map(player).collect::<Result<Vec<_>>>()?;
    Ok((proxy, players, origin))
}

/// Tells the proxy to end, and waits until it has said how many sessions remain.
fn tell_to_end(proxy: &mut Proxy, remain: usize) -> Result<()> {
    proxy.process.signal(Signal::SIGTERM)?;
    wait::until_true("the proxy says how many sessions remain", SOON, || {
        Ok(proxy.process.log().contains(&format!("sessions={remain}")))
    })
}

#[test]
fn fifty_sessions_play_on_until_the_grace_is_over() -> Result<()> {
    story(|folder| {
        let (mut proxy, mut players, _origin) = playing(folder, "3s", 50)?;
        let told = Instant::now();
        tell_to_end(&mut proxy, 50)?;
        assert!(TcpStream::connect(proxy.rtmp()).is_err(), "nobody new is let in");
        for player in &mut players {
            player.read_bytes(10_000)?;
        }
        assert!(told.elapsed() < Duration::from_secs(3), "the players were read in time");
        let status = proxy.process.wait(SOON)?;
        let took = told.elapsed();
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(took > Duration::from_millis(2500), "ended after {took:?} of 3 s grace");
        assert!(took < Duration::from_secs(5), "ended {took:?} after the signal");
        for player in &mut players {
            player.must_be_closed_within(SOON)?;
        }
        Ok(())
    })
}

#[test]
fn the_last_session_s_end_is_the_proxy_s_end() -> Result<()> {
    story(|folder| {
        let (mut proxy, players, _origin) = playing(folder, "25s", 5)?;
        tell_to_end(&mut proxy, 5)?;
        drop(players);
        let status = proxy.process.wait(SOON)?;
        assert_eq!(status.code(), Some(0), "{status}");
        Ok(())
    })
}

#[test]
fn a_second_signal_ends_at_once() -> Result<()> {
    story(|folder| {
        let (mut proxy, _players, _origin) = playing(folder, "25s", 5)?;
        tell_to_end(&mut proxy, 5)?;
        proxy.process.signal(Signal::SIGINT)?;
        let status = proxy.process.wait(Duration::from_secs(2))?;
        assert_eq!(status.code(), Some(0), "{status}");
        Ok(())
    })
}

#[test]
fn a_port_in_use_is_one_clear_line() -> Result<()> {
    story(|folder| {
        let taken = ports::free()?;
        let _holder = TcpListener::bind(taken)?;
        for variable in ["PROXY_RTMP_SERVER", "PROXY_SYSTEM_API"] {
            let said = refused(folder, variable, &taken.to_string())?;
            ensure!(said.contains("in use"), "{variable}: {said}");
        }
        Ok(())
    })
}

#[test]
fn a_wrong_value_is_one_clear_line() -> Result<()> {
    story(|folder| {
        for (variable, value) in [
            ("PROXY_RTMP_SERVER", "banana"),
            ("PROXY_SYSTEM_API", "127.0.0.1:99999"),
            ("PROXY_LOAD_BALANCER_TYPE", "roulette"),
            ("PROXY_GRACE_QUIT_TIMEOUT", "soon"),
            ("PROXY_MAX_SESSIONS", "-1"),
        ] {
            refused(folder, variable, value)?;
        }
        Ok(())
    })
}

/// What a proxy says that ends because of this variable: one line with its name and value.
fn refused(folder: &Path, variable: &str, value: &str) -> Result<String> {
    let mut command = proxy::command(folder)?;
    for listener in ["PROXY_RTMP_SERVER", "PROXY_HTTP_SERVER", "PROXY_SYSTEM_API"] {
        command.env(listener, ports::free()?.to_string());
    }
    command.env(variable, value);
    let mut process = Process::start(&mut command, folder, &format!("{variable}-{value}"))?;
    let status = process.wait(SOON)?;
    ensure!(!status.success(), "{variable}={value} was taken");
    let log = process.log();
    // What was listening before the bad one may have said so.
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(variable)).collect();
    ensure!(lines.len() == 1, "{variable}={value}: {} lines name it: {log}", lines.len());
    ensure!(log.contains(value), "{variable}={value}: the value is not named: {log}");
    ensure!(!log.contains("panicked"), "{variable}={value}: {log}");
    Ok(log)
}
