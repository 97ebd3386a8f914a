//! The folder in a bpffs by which maps and links outlive a daemon that was killed.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, thread};

use aya::maps::{HashMap, MapData, MapInfo};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use proxy_ebpf::CONTRACT;
use proxy_ebpf::maps::{self, Map, Memo};

use super::Engine;

/// A folder that no other daemon uses.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Where everything of this contract is.
    own: PathBuf,
    /// The kernel takes it back when the process ends, however it does.
    _lock: Flock<File>,
    /// Sessions in maps that were of no use, once there were such maps.
    replaced: Option<usize>,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It is elsewhere.
    #[error(
        "{} is not in a bpffs: `mount -t bpf bpf /sys/fs/bpf`, and a folder below it, make one",
        .0.display()
    )]
    NotBpffs(PathBuf),
    /// Another daemon has it, and does not end.
    #[error("{} is in use by another daemon", .0.display())]
    Busy(PathBuf),
    /// It cannot be made or used.
    #[error("{} cannot be written: {source}{}", .path.display(), dots(.path))]
    Unusable {
        /// Of which path this is said.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
}

/// A name with a dot is refused for no reason that an error number could tell.
fn dots(path: &Path) -> &'static str {
    let has_dot = path.to_string_lossy().contains('.');
    if has_dot { " (a bpffs takes no name with a dot)" } else { "" }
}

impl Folder {
    /// Makes `root`, if it is not there, and takes it for this process, for which a daemon that is
    /// just ending is waited for. What daemons of other contracts have left there is removed, and
    /// so detached.
    pub(super) fn open(root: &Path) -> Result<Self, PinError> {
        is_bpffs(root)?;
        let own = root.join(format!("v{CONTRACT}"));
        let lock = take(root)?;
        make(&own).map_err(|error| unusable(&own, error))?;
        let mut folder = Self { root: root.into(), own, _lock: lock, replaced: None };
        folder.remove_others().map_err(|error| unusable(root, error))?;
        Ok(folder)
    }

    /// Removes what belongs to other contracts.
    fn remove_others(&mut self) -> io::Result<()> {
        for path in entries(&self.root)? {
            let name = path.file_name().and_then(|name| name.to_str());
            let version = name.and_then(|name| name.strip_prefix('v'));
            let is_ours = version.is_some_and(|version| version.parse::<u32>().is_ok());
            if is_ours && path != self.own {
                self.replace_in(&path)?;
                fs::remove_dir(&path)?;
            }
        }
        Ok(())
    }

    /// Whether there is every one of these maps, with these sizes.
    pub(super) fn has(&self, maps: &[Map]) -> bool {
        maps.iter().all(|map| {
            MapInfo::from_pin(self.map(map.name)).is_ok_and(|info| {
                let found = (info.key_size(), info.value_size(), info.max_entries());
                found == (map.key_size, map.value_size, map.capacity)
            })
        })
    }

    /// Removes what is there, as of no use. Links that nobody else has are detached by it, some
    /// milliseconds later.
    pub(super) fn replace(&mut self) -> Result<(), PinError> {
        let own = self.own.clone();
        self.replace_in(&own).map_err(|error| unusable(&own, error))
    }

    fn replace_in(&mut self, folder: &Path) -> io::Result<()> {
        let maps = folder.join(maps::MEMOS.name);
        if maps.exists() {
            *self.replaced.get_or_insert(0) += sessions(&maps);
        }
        empty(folder)
    }

    /// Sessions in maps of other sizes or contracts, which are removed; none if there were none.
    pub(super) const fn replaced(&self) -> Option<usize> {
        self.replaced
    }

    /// Where the map of this name is.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.own.join(name)
    }

    /// Where the link of this interface is. By its index, which no other interface gets as long as
    /// the link is there, and which has no dots as names of interfaces have.
    pub(super) fn link(&self, engine: Engine, index: u32) -> PathBuf {
        self.own.join(format!("link-{}-{index}", engine.as_str()))
    }

    /// The links that are there.
    pub(super) fn links(&self) -> Vec<(Engine, u32)> {
        let link = |path: PathBuf| {
            let name = path.file_name()?.to_str()?.strip_prefix("link-")?;
            let (engine, index) = name.rsplit_once('-')?;
            let engine = Engine::ALL.into_iter().find(|known| known.as_str() == engine)?;
            Some((engine, index.parse().ok()?))
        };
        entries(&self.own).unwrap_or_default().into_iter().filter_map(link).collect()
    }

    /// Removes everything, the folders as well unless somebody else has put something there.
    pub(super) fn remove(&self) -> Result<(), PinError> {
        empty(&self.own).map_err(|error| unusable(&self.own, error))?;
        // A folder that is not ours to remove stays, empty.
        let _kept = fs::remove_dir(&self.own).and_then(|()| fs::remove_dir(&self.root));
        Ok(())
    }
}

/// Makes `root` and locks it, as soon as nobody else has it.
fn take(root: &Path) -> Result<Flock<File>, PinError> {
    let until = Instant::now() + ENDS_WITHIN;
    loop {
        if let Some(lock) = try_take(root).map_err(|error| unusable(root, error))? {
            return Ok(lock);
        }
        if Instant::now() >= until {
            return Err(PinError::Busy(root.into()));
        }
        thread::sleep(LOOKS_EVERY);
    }
}

/// How long a daemon may have its folder after it was told to end, or killed.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
const LOOKS_EVERY: Duration = Duration::from_millis(20);

/// `None` if somebody else has it, or has just removed it.
fn try_take(root: &Path) -> io::Result<Option<Flock<File>>> {
    make(root)?;
    let folder = match File::open(root) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let lock = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, errno)) => return Err(errno.into()),
    };
    // One who removes the folder holds its lock until then.
    let locked = lock.metadata()?.ino();
    let is_there = fs::metadata(root).is_ok_and(|there| there.ino() == locked);
    Ok(is_there.then_some(lock))
}

fn make(folder: &Path) -> io::Result<()> {
    // Who can open the maps decides where media goes.
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn unusable(path: &Path, source: io::Error) -> PinError {
    PinError::Unusable { path: path.into(), source }
}

/// How many sessions these memos are of; none if they are of another form.
fn sessions(memos: &Path) -> usize {
    let Ok(map) = MapData::from_pin(memos) else { return 0 };
    // What is beyond the slots is kept beside the sessions.
    let slots = map.info().map_or(0, |info| info.max_entries());
    let memos = HashMap::<_, u32, Memo>::try_from(aya::maps::Map::HashMap(map));
    memos.map_or(0, |memos| memos.keys().flatten().filter(|slot| *slot < slots).count())
}

/// Whether `folder`, or what it would be made in, is in a bpffs.
pub fn is_bpffs(folder: &Path) -> Result<(), PinError> {
    let there = folder.ancestors().find(|path| path.exists());
    match there.map(statfs) {
        Some(Ok(found)) if found.filesystem_type() == BPF_FS_MAGIC => Ok(()),
        Some(Err(errno)) => Err(unusable(folder, errno.into())),
        _ => Err(PinError::NotBpffs(folder.into())),
    }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn empty(folder: &Path) -> io::Result<()> {
    entries(folder)?.into_iter().try_for_each(fs::remove_file)
}
