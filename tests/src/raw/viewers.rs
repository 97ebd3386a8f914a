//! Many HLS viewers and HTTP-FLV players, one light thread each.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Client;

/// Viewers that go on until they are told to leave.
pub struct Viewers {
    threads: Vec<JoinHandle<Result<u64>>>,
    leave: Arc<AtomicBool>,
    come: Arc<AtomicUsize>,
}

impl Viewers {
    /// So many viewers of the playlist `target`: each keeps its connection, asks for the playlist
    /// again after every pause, and for each segment that is new in it.
    pub fn of_playlist(
        server: SocketAddr,
        count: usize,
        target: &'static str,
        pause: Duration,
    ) -> Self {
        Self::start(count, pause, move |visit| {
            let mut client = Client::connect(server)?;
            let mut seen = BTreeSet::new();
            let mut bytes = 0;
            while visit.goes_on() {
                let playlist = client.get(target)?;
                ensure!(playlist.status() == 200, "{target}: {}", playlist.head.line);
                let text = playlist.text();
                let (folder, _) = target.rsplit_once('/').context("a target with a folder")?;
                // Who comes late begins with the newest.
                let listed: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
                let skipped = if seen.is_empty() { listed.len().saturating_sub(1) } else { 0 };
                for (place, uri) in listed.into_iter().enumerate() {
                    let name = uri.split('?').next().unwrap_or_default();
                    if seen.insert(name.to_owned()) && place >= skipped {
                        let segment = client.get(&format!("{folder}/{uri}"))?;
                        ensure!(segment.status() == 200, "{uri}: {}", segment.head.line);
                        bytes += u64::try_from(segment.body.len())?;
                    }
                }
                visit.has_come();
                thread::sleep(pause);
            }
            Ok(bytes)
        })
    }

    /// So many players of the endless stream `target`.
    pub fn of_stream(server: SocketAddr, count: usize, target: &'static str) -> Self {
        Self::start(count, Duration::from_secs(2), move |visit| {
            let mut client = Client::connect(server)?;
            client.ask("GET", target, "")?;
            let head = client.head()?;
            ensure!(head.status()? == 200, "{target}: {}", head.line);
            let mut bytes = 0;
            while visit.goes_on() {
                let media = client.body(&head, "GET", 1)?;
                ensure!(!media.is_empty(), "{target} ended after {bytes} bytes");
                bytes += u64::try_from(media.len())?;
                visit.has_come();
            }
            Ok(bytes)
        })
    }

    /// How many have had their first media.
    pub fn come(&self) -> usize {
        self.come.load(Ordering::Relaxed)
    }

    /// Whether one has left by itself: then its reason is what [`Self::leave`] gives.
    pub fn has_lost_one(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Tells them to leave, and gives how many bytes of media each had; fails if one met an error.
    pub fn leave(self) -> Result<Vec<u64>> {
        self.leave.store(true, Ordering::Relaxed);
        let bytes = self.threads.into_iter().enumerate().map(|(number, thread)| {
            let bytes = thread.join().ok().context("a viewer panicked")?;
            bytes.with_context(|| format!("viewer {number}"))
        });
        bytes.collect()
    }

    /// They come one after the other, all within `time`.
    fn start(
        count: usize,
        time: Duration,
        view: impl Fn(&mut Visit) -> Result<u64> + Clone + Send + 'static,
    ) -> Self {
        let (leave, come) = (Arc::new(AtomicBool::default()), Arc::new(AtomicUsize::default()));
        let mut threads = Vec::new();
        for _ in 0..count {
            let (leave, come) = (Arc::clone(&leave), Arc::clone(&come));
            let mut visit = Visit { leave, come, is_new: true };
            let view = view.clone();
            let thread = thread::Builder::new().stack_size(STACK);
            // Without a thread there is no viewer, and the test sees that one has not come.
            threads.extend(thread.spawn(move || view(&mut visit)));
            thread::sleep(time / u32::try_from(count).unwrap_or(u32::MAX));
        }
        Self { threads, leave, come }
    }
}

/// One viewer's view of all.
struct Visit {
    leave: Arc<AtomicBool>,
    come: Arc<AtomicUsize>,
    is_new: bool,
}

impl Visit {
    fn goes_on(&self) -> bool {
        !self.leave.load(Ordering::Relaxed)
    }

    fn has_come(&mut self) {
        if std::mem::take(&mut self.is_new) {
            self.come.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A viewer needs little, and there may be a thousand.
const STACK: usize = 128 * 1024;
