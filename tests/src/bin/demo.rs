//! Two real origins and a test picture behind the proxy, until Ctrl-C.
//!
//! Usage: `demo [seconds]`. The proxy is the program that `SRS_PROXY_BIN` names.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use srs_proxy_tests::ffmpeg::{self, Source};
use srs_proxy_tests::nginx::Nginx;
use srs_proxy_tests::process::Process;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::{http, wait};

fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).map(|text| text.parse()).transpose()?;
    // Ctrl-C, SIGTERM and a closed terminal end the demo by way of its own end, so that
    // everything that it started is dropped.
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))?;

    let shown = show(seconds.map(Duration::from_secs));
    // Ctrl-C reaches the programs in the same moment: then their end is no news.
    let is_wanted = wait::until_true("a signal", MOMENT, || Ok(is_stopped())).is_ok();
    println!("everything has ended");
    if is_wanted { Ok(()) } else { shown }
}

/// Brings everything up, and shows it until the time is over or the demo is told to stop.
fn show(time: Option<Duration>) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("srs-proxy-demo-").tempdir()?;
    let mut origins = [Nginx::start(folder.path(), "a")?, Nginx::start(folder.path(), "b")?];
    let mut proxy = Proxy::start(folder.path(), &[])?;
    for origin in &origins {
        origin.register_at(proxy.system_api())?;
        let (name, rtmp, http) = (origin.name(), origin.rtmp(), origin.http());
        println!("origin {name} is nginx with RTMP on {rtmp} and HTTP on {http}");
    }
    let url = proxy.url(STREAM);
    let mut publisher = ffmpeg::publish(folder.path(), "ffmpeg", Source::Picture, &url)?;
    let deadline = Instant::now() + PATIENCE;
    while !is_stopped() && !can_be_played(&proxy)? {
        all_run(&mut origins, &mut proxy, &mut publisher)?;
        ensure!(Instant::now() < deadline, "FFmpeg does not publish: {}", publisher.log());
        thread::sleep(MOMENT);
    }
    println!("\nin a browser: {}", proxy.http_url(""));
    println!("by RTMP:      ffplay {url}");
    for (name, file) in FILES {
        println!("by {name:11}ffplay {}", proxy.http_url(file));
    }
    println!("by HTTP-FLV:  needs an origin that has it, such as SRS");
    println!("the API:      http://{}/api/v1/sessions", proxy.system_api());
    print_route(&proxy, &url)?;
    println!("Ctrl-C ends everything.\n");

    let end = time.map(|time| Instant::now() + time);
    let mut report = Instant::now();
    while !is_stopped() && end.is_none_or(|end| Instant::now() < end) {
        all_run(&mut origins, &mut proxy, &mut publisher)?;
        if Instant::now() >= report {
            print_bytes(&proxy)?;
            report += REPORT;
        }
        thread::sleep(MOMENT);
    }
    Ok(())
}

/// Whether it is published, and has its first segments.
fn can_be_played(proxy: &Proxy) -> Result<bool> {
    let mut answers = FILES.iter().map(|(_, file)| http::get(proxy.http(), &format!("/{file}")));
    Ok(!proxy.sessions_of(STREAM)?.is_empty()
        && answers.all(|it| it.is_ok_and(|it| it.status == 200)))
}

/// Fails as soon as one of the programs has ended.
fn all_run(origins: &mut [Nginx], proxy: &mut Proxy, publisher: &mut Process) -> Result<()> {
    for origin in origins {
        if let Some(status) = origin.ended()? {
            bail!("origin {} ended with {status}", origin.name());
        }
    }
    for (name, process) in [("the proxy", &mut proxy.process), ("FFmpeg", publisher)] {
        if let Some(status) = process.ended()? {
            bail!("{name} ended with {status}:\n{}", process.log());
        }
    }
    Ok(())
}

fn print_route(proxy: &Proxy, url: &str) -> Result<()> {
    let answer = proxy.get(&format!("/api/v1/streams/route?url={url}"))?;
    let of = |path| answer.pointer(path).and_then(Value::as_str).unwrap_or("-");
    let (stream, origin, reason) = (of("/route/stream"), of("/route/origin"), of("/route/reason"));
    println!("the stream:   {stream} is at {origin}: {reason}");
    Ok(())
}

fn print_bytes(proxy: &Proxy) -> Result<()> {
    let sessions = proxy.sessions().context("asking for the sessions")?;
    // Over HTTP who fetches single files has no role.
    for session in sessions.iter().filter(|session| !session.role.is_empty()) {
        println!(
            "{} {:7} {} at {} by {}: {} kB to the origin, {} kB to the client",
            session.id,
            session.role,
            session.stream,
            session.origin_address,
            session.plane,
            session.bytes_to_origin / 1000,
            session.bytes_to_client / 1000,
        );
    }
    Ok(())
}

fn is_stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

static STOP: AtomicBool = AtomicBool::new(false);
const STREAM: &str = "demo";
const FILES: [(&str, &str); 2] = [("HLS:", "live/demo.m3u8"), ("DASH:", "live/demo.mpd")];
/// How long FFmpeg and the first segments may take.
const PATIENCE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(100);
const REPORT: Duration = Duration::from_secs(2);
