//! FFmpeg as an encoder and as a player.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::packets::Packets;
use crate::process::Process;

/// Twelve seconds of test picture and tone: H.264 baseline at 25 frames a second, and AAC.
pub fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/media-12s.flv")
}

/// Packs some seconds of noise into this file of the folder: each picture has more than 100 KB, and
/// there is no sound.
pub fn heavy(folder: &Path, file: &str) -> Result<PathBuf> {
    let mut ffmpeg = ffmpeg();
    ffmpeg.args(["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25,noise=alls=60:allf=t"]);
    ffmpeg.args(["-t", "4", "-c:v", "libx264", "-preset", "ultrafast", "-profile:v", "baseline"]);
    ffmpeg.args(["-pix_fmt", "yuv420p", "-qp", "20", "-g", "25", file]);
    let mut packer = Process::start(ffmpeg.current_dir(folder), folder, &format!("pack-{file}"))?;
    let status = packer.wait(Duration::from_mins(1))?;
    ensure!(status.success(), "{file} was not packed: {}", packer.log());
    Ok(folder.join(file))
}

/// Starts a publisher that sends the packets of this file to `url`, in real time, again and again.
pub fn publish_file(folder: &Path, name: &str, file: &Path, url: &str) -> Result<Process> {
    let mut ffmpeg = ffmpeg();
    ffmpeg.args(["-re", "-stream_loop", "-1", "-i"]).arg(file).args(["-c", "copy"]);
    Process::start(ffmpeg.args(["-f", "flv", url]), folder, name)
}

/// What a publisher sends.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The packets of [`fixture`] as they are, in real time, the first so many seconds.
    FixtureStart(u32),
    /// All of them, again and again.
    FixtureForEver,
    /// A test picture and a tone, encoded while they are sent.
    Picture,
}

/// Starts a publisher that sends `source` to `url`.
pub fn publish(folder: &Path, name: &str, source: Source, url: &str) -> Result<Process> {
    let mut ffmpeg = ffmpeg();
    match source {
        Source::FixtureStart(seconds) => {
            let seconds = seconds.to_string();
            ffmpeg.arg("-re").arg("-i").arg(fixture()).args(["-c", "copy", "-t", &seconds]);
        }
        Source::FixtureForEver => return publish_file(folder, name, &fixture(), url),
        Source::Picture => {
            ffmpeg
                .args(["-re", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25"])
                .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100"])
                .args(["-c:v", "libx264", "-preset", "ultrafast", "-profile:v", "baseline"])
                .args(["-pix_fmt", "yuv420p", "-b:v", "800k", "-g", "25"])
                .args(["-c:a", "aac", "-b:a", "96k"]);
        }
    }
    Process::start(ffmpeg.args(["-f", "flv", url]), folder, name)
}

/// A running player that hashes the packets it gets.
#[derive(Debug)]
pub struct Player {
    process: Process,
    hashes: PathBuf,
}

/// Starts a player of `url` that ends by itself after `seconds` of media, or when the stream
/// ends.
pub fn play(folder: &Path, name: &str, url: &str, seconds: Option<u32>) -> Result<Player> {
    let hashes = folder.join(format!("{name}.hashes"));
    let mut ffmpeg = ffmpeg();
    // The head of the stream says all there is to know of it.
    ffmpeg.args(["-analyzeduration", "500000", "-i", url, "-map", "0", "-c", "copy"]);
    if let Some(seconds) = seconds {
        ffmpeg.args(["-t", &seconds.to_string()]);
    }
    ffmpeg.args(["-flush_packets", "1", "-f", "framehash", "-hash", "md5"]).arg(&hashes);
    Ok(Player { process: Process::start(&mut ffmpeg, folder, name)?, hashes })
}

impl Player {
    /// The packets so far.
    pub fn packets(&self) -> Packets {
        Packets::parse(&fs::read_to_string(&self.hashes).unwrap_or_default())
    }

    /// Waits for its own end in order, and gives all packets.
    pub fn finish(mut self, limit: Duration) -> Result<Packets> {
        let status = self.process.wait(limit)?;
        if !status.success() {
            bail!("the player ended with {status}: {}", self.process.log());
        }
        Ok(self.packets())
    }

    /// The child process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The packets of [`fixture`].
pub fn fixture_packets(folder: &Path) -> Result<Packets> {
    let path = fixture();
    play(folder, "fixture", &path.to_string_lossy(), None)?.finish(Duration::from_secs(20))
}

/// Packs the packets of [`fixture`] anew into this file of the folder, by these options of FFmpeg.
pub fn pack(folder: &Path, options: &[&str], file: &str) -> Result<()> {
    let mut ffmpeg = ffmpeg();
    ffmpeg.arg("-i").arg(fixture()).args(["-c", "copy"]).args(options).arg(file);
    let mut packer = Process::start(ffmpeg.current_dir(folder), folder, &format!("pack-{file}"))?;
    let status = packer.wait(Duration::from_secs(20))?;
    ensure!(status.success(), "{file} was not packed: {}", packer.log());
    Ok(())
}

/// FFmpeg that passes bytes as they are, and holds none back.
pub(crate) fn pass(from: &str, to: &str) -> Command {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-hide_banner", "-nostats", "-loglevel", "level+verbose", "-y"]);
    ffmpeg.args(["-f", "data", "-i", from, "-map", "0", "-c", "copy"]);
    ffmpeg.args(["-flush_packets", "1", "-f", "data", to]);
    ffmpeg
}

fn ffmpeg() -> Command {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+verbose", "-y"]);
    ffmpeg
}
