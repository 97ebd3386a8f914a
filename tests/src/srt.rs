//! SRT: srt-live-transmit and FFmpeg as callers and as listeners, which pass bytes as they are.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::{self, Process};
use crate::{ffmpeg, heartbeat, wait};

/// A program that speaks SRT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// srt-live-transmit of libsrt itself.
    LiveTransmit,
    /// FFmpeg with libsrt.
    Ffmpeg,
}

/// Which end of a connection a program is.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// It connects to this server, with this stream id.
    Caller(SocketAddr, &'a str),
    /// It waits on this address, as an origin does; for one caller.
    Listener(SocketAddr),
}

/// How a program speaks. Both ends need the same passphrase.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Who speaks.
    pub program: Program,
    /// What the AES keys come from; without one nothing is encrypted.
    pub passphrase: Option<&'static str>,
    /// How long a lost packet is waited for.
    pub latency: Duration,
}

impl Peer {
    /// One without encryption. On a busy machine libsrt's own latency, 120 ms, would be a race.
    pub fn plain(program: Program) -> Self {
        Self { program, passphrase: None, latency: Duration::from_secs(1) }
    }

    /// The same with a passphrase.
    pub fn secret(program: Program, passphrase: &'static str) -> Self {
        Self { passphrase: Some(passphrase), ..Self::plain(program) }
    }

    /// Starts a program that sends this file within so much time, whole chunks of it, from when it
    /// is connected; behind it go zeros, and the connection stays.
    pub fn send(
        self,
        folder: &Path,
        name: &str,
        end: End<'_>,
        file: &Path,
        time: Duration,
    ) -> Result<Sender> {
        let url = self.url(end);
        let mut command = match self.program {
            Program::LiveTransmit => transmit("file://con", &url)?,
            Program::Ffmpeg => ffmpeg::pass("pipe:0", &url),
        };
        let (process, stdin) = Process::start_fed(&mut command, folder, name)?;
        let log = folder.join(format!("{name}.log"));
        let is_connected = move || {
            // FFmpeg reads nothing before, but srt-live-transmit would lose what it reads.
            self.program == Program::Ffmpeg
                || fs::read_to_string(&log).is_ok_and(|log| log.contains(CONNECTED))
        };
        let bytes = fs::read(file)?;
        let (owner, over) = mpsc::channel();
        thread::spawn(move || feed(&bytes, time, stdin, is_connected, &over));
        Ok(Sender { process, _owner: owner })
    }

    /// Starts a program that writes what it receives into `<folder>/<name>.ts`.
    pub fn receive(self, folder: &Path, name: &str, end: End<'_>) -> Result<Receiver> {
        let url = self.url(end);
        let file = folder.join(format!("{name}.ts"));
        let mut command = match self.program {
            Program::LiveTransmit => {
                let transmit = transmit(&url, "file://con")?;
                let mut shell = Command::new("sh");
                // Its words go to the log, and what it receives to the file.
                shell.args(["-c", "exec \"$@\" > \"$0\""]).arg(&file).arg(transmit.get_program());
                shell.args(transmit.get_args());
                shell
            }
            Program::Ffmpeg => ffmpeg::pass(&url, &file.to_string_lossy()),
        };
        let process = Process::start(&mut command, folder, name)?;
        Ok(Receiver { process, file })
    }

    pub(crate) fn url(&self, end: End<'_>) -> String {
        // FFmpeg counts microseconds.
        let latency = match self.program {
            Program::LiveTransmit => self.latency.as_millis(),
            Program::Ffmpeg => self.latency.as_micros(),
        };
        let secret = self.passphrase.map(|it| format!("&passphrase={it}&pbkeylen=16"));
        let options = format!("latency={latency}{}", secret.unwrap_or_default());
        match end {
            End::Caller(server, id) => {
                format!("srt://{server}?mode=caller&streamid={id}&{options}")
            }
            End::Listener(address) => format!("srt://{address}?mode=listener&{options}"),
        }
    }
}

/// A program that sends. Ended when dropped.
#[derive(Debug)]
pub struct Sender {
    /// The program.
    pub process: Process,
    _owner: mpsc::Sender<()>,
}

/// A program that receives. Ended when dropped.
#[derive(Debug)]
pub struct Receiver {
    /// The program.
    pub process: Process,
    file: PathBuf,
}

impl Receiver {
    /// How many bytes it has received.
    pub fn received(&self) -> u64 {
        fs::metadata(&self.file).map(|file| file.len()).unwrap_or_default()
    }

    /// Waits until it has received as much as was sent, and fails unless that is the same.
    pub fn must_have_all_of(&self, sent: &Path, limit: Duration) -> Result<()> {
        let wanted = fs::metadata(sent)?.len();
        let what = format!("all that was sent in {}", self.file.display());
        wait::until(&what, limit, || {
            let received = self.received();
            ensure!(received >= wanted, "{received} of {wanted} bytes have come");
            Ok(Some(()))
        })?;
        let mut received = fs::read(&self.file)?;
        received.truncate(usize::try_from(wanted)?);
        let sent = fs::read(sent)?;
        let place = received.iter().zip(&sent).position(|(one, other)| one != other);
        ensure!(place.is_none(), "{what}: something else has come from byte {place:?} on");
        Ok(())
    }
}

/// Waits until somebody listens on this port of UDP, as Linux tells: to try it would take it.
pub fn must_listen(address: SocketAddr) -> Result<()> {
    let port = format!(":{:04X}", address.port());
    wait::until_true("a listener has its port", Duration::from_secs(10), || {
        let table = if address.is_ipv4() { "udp" } else { "udp6" };
        // Of this thread's namespace, which need not be the process's.
        let sockets = fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
        let mut local = sockets.lines().filter_map(|line| line.split_ascii_whitespace().nth(1));
        Ok(local.any(|own| own.ends_with(&port)))
    })
}

/// Registers a listener as an origin with a proxy, by the address of the proxy's system API.
pub fn register(listener: SocketAddr, proxy: SocketAddr, name: &str) -> Result<()> {
    let listeners = [("srt", format!("udp://0.0.0.0:{}", listener.port()))];
    heartbeat::register_host(listener.ip(), proxy, name, &listeners)
}

/// The fixture as a transport stream, so many times: whole chunks, and each numbered, so that no
/// part of the file is like another.
pub fn transport_stream(folder: &Path, times: u32) -> Result<PathBuf> {
    ffmpeg::pack(folder, &["-f", "mpegts"], "fixture.ts")?;
    let fixture = fs::read(folder.join("fixture.ts"))?;
    let path = folder.join(format!("sent-{times}.ts"));
    let mut file = File::create(&path)?;
    for number in 0..times {
        for (place, chunk) in fixture.chunks_exact(CHUNK).enumerate() {
            // A null packet with the numbers in its payload (ISO 13818-1 2.4.3.3) in place of the
            // chunk's last.
            let (packets, _) =
                chunk.split_last_chunk::<PACKET>().context("a chunk is too small")?;
            let mut null = [0; PACKET];
            let numbers = [number.to_be_bytes(), u32::try_from(place)?.to_be_bytes()].concat();
            for (byte, value) in
                null.iter_mut().zip([0x47, 0x1f, 0xff, 0x10].into_iter().chain(numbers))
            {
                *byte = value;
            }
            file.write_all(packets)?;
            file.write_all(&null)?;
        }
    }
    Ok(path)
}

/// srt-live-transmit, chunk by chunk.
pub(crate) fn transmit(from: &str, to: &str) -> Result<Command> {
    let mut command = Command::new(process::find("srt-live-transmit")?);
    command.arg(format!("-chunk:{CHUNK}")).args([from, to]).stdout(Stdio::null());
    Ok(command)
}

/// Writes a file to a program's stdin chunk by chunk, and holds it open until its owner is gone.
fn feed(
    bytes: &[u8],
    time: Duration,
    mut stdin: ChildStdin,
    is_connected: impl Fn() -> bool,
    over: &mpsc::Receiver<()>,
) {
    let is_over = |wait| over.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected);
    while !is_connected() {
        if is_over(PAUSE) {
            return;
        }
    }
    let chunks = bytes.chunks_exact(CHUNK);
    let interval = time.checked_div(u32::try_from(chunks.len()).unwrap_or(u32::MAX));
    let mut next = Instant::now();
    let rest = [[0; CHUNK].as_slice(); HELD_BACK];
    for chunk in chunks.chain(rest) {
        next += interval.unwrap_or_default();
        if is_over(next.saturating_duration_since(Instant::now()))
            || stdin.write_all(chunk).is_err()
        {
            return;
        }
    }
    while !is_over(PAUSE) {}
}

/// Seven packets of a transport stream, as SRT carries them.
const CHUNK: usize = 7 * PACKET;
const PACKET: usize = 188;
/// More chunks than either program holds back until it is given another one.
const HELD_BACK: usize = 16;
/// What srt-live-transmit says when it may send: a caller, and a listener.
pub(crate) const CONNECTED: &str = "SRT target connect";
const PAUSE: Duration = Duration::from_millis(20);
