//! The demo shows a stream, and leaves nothing behind.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use srs_proxy_tests::packets::Kind;
use srs_proxy_tests::process::Process;
use srs_proxy_tests::{ffmpeg, http, proxy, story, usage, wait};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(30);

#[test]
fn the_demo_shows_bytes_and_ends_by_itself() -> Result<()> {
    story(|folder| {
        let mut demo = start(folder, &["3"])?;
        let status = demo.wait(A_WHILE)?;
        assert!(status.success(), "{status}");
        for said in [
            "browser: http://",
            "ffplay rtmp://",
            "__defaultVhost__/live/demo is at vid-",
            "kB to the origin",
        ] {
            assert!(demo.log().contains(said), "the demo does not say {said}");
        }
        nothing_is_left(folder)
    })
}

#[test]
fn what_the_demo_prints_can_be_opened_and_played() -> Result<()> {
    story(|folder| {
        let demo = start(folder, &[])?;
        wait::until_true("bytes flow", A_WHILE, || Ok(demo.log().contains("kB to the origin")))?;
        let log = demo.log();
        let urls: Vec<_> = log.lines().filter_map(|line| line.split_once("ffplay ")).collect();
        assert_eq!(urls.len(), 3, "RTMP, HLS and DASH: {log}");
        for (what, url) in urls {
            let player = ffmpeg::play(folder, &format!("player-{}", what.trim()), url, Some(2))?;
            let frames = player.finish(A_WHILE)?.of(Kind::Video).len();
            assert!(frames > 25, "{what}{url}: {frames} frames in 2 s");
        }
        let (_, index) = log.split_once("in a browser: http://").context("an index")?;
        let server = index.split('/').next().unwrap_or_default();
        let page = http::get(server.parse()?, "/")?;
        assert!(page.status == 200 && page.body.contains("live/demo"), "{page:?}");
        Ok(())
    })
}

#[test]
fn a_signal_ends_the_demo_and_all_that_it_started() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        story(|folder| {
            let mut demo = start(folder, &[])?;
            wait::until_true("bytes flow", A_WHILE, || {
                Ok(demo.log().contains("kB to the origin"))
            })?;
            let children = usage::children(demo.id())?;
            assert_eq!(children.len(), 4, "two origins, the proxy and FFmpeg");
            demo.signal(signal)?;
            let status = demo.wait(SOON)?;
            assert!(status.success(), "{status}");
            let alive: Vec<_> = children.into_iter().filter(|id| usage::is_alive(*id)).collect();
            assert!(alive.is_empty(), "still alive: {alive:?}");
            nothing_is_left(folder)
        })?;
    }
    Ok(())
}

#[test]
fn the_demo_ends_when_one_of_its_programs_dies() -> Result<()> {
    story(|folder| {
        let mut demo = start(folder, &[])?;
        wait::until_true("bytes flow", A_WHILE, || Ok(demo.log().contains("kB to the origin")))?;
        let children = usage::children(demo.id())?;
        Command::new("kill").args(["-9", &children[0].to_string()]).status()?;
        assert!(!demo.wait(SOON)?.success(), "an origin died");
        nothing_is_left(folder)
    })
}

/// Starts the demo with its temporary files in this folder.
fn start(folder: &Path, arguments: &[&str]) -> Result<Process> {
    // Built before anybody waits for the demo.
    proxy::command(folder)?;
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    Process::start(demo.args(arguments).env("TMPDIR", folder), folder, "demo")
}

fn nothing_is_left(folder: &Path) -> Result<()> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<Result<_>>()?;
    assert_eq!(names, ["demo.log"], "files after the demo");
    Ok(())
}
