//! The folder in a bpffs by which maps and links outlive a daemon that was killed.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

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
    /// Another daemon has it.
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
    /// Makes `root`, if it is not there, and takes it for this process. What daemons of other
    /// contracts have left there is removed, and so detached.
    pub(super) fn open(root: &Path) -> Result<Self, PinError> {
        is_bpffs(root)?;
        let own = root.join(format!("v{CONTRACT}"));
        let unusable = |path: &Path, source| PinError::Unusable { path: path.into(), source };
        let make = |path: &Path| {
            // Who can open the maps decides where media goes.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|error| unusable(path, error))
        };
        make(root)?;
        let folder = File::open(root).map_err(|error| unusable(root, error))?;
        let lock = Flock::lock(folder, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => PinError::Busy(root.into()),
            errno => unusable(root, errno.into()),
        })?;
        // Whoever had it until now may have removed it in the end.
        if !is_at(&lock, root) {
            drop(lock);
            return Self::open(root);
        }
        make(&own)?;
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
        self.replace_in(&own).map_err(|source| PinError::Unusable { path: own, source })
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
        empty(&self.own).map_err(|source| PinError::Unusable { path: self.own.clone(), source })?;
        // A folder that is not ours to remove stays, empty.
        let _kept = fs::remove_dir(&self.own).and_then(|()| fs::remove_dir(&self.root));
        Ok(())
    }
}

/// Whether an open folder is the one at `path`.
fn is_at(folder: &File, path: &Path) -> bool {
    let place = |data: Metadata| (data.dev(), data.ino());
    match (folder.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => place(open) == place(there),
        _ => false,
    }
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
        Some(Err(errno)) => Err(PinError::Unusable { path: folder.into(), source: errno.into() }),
        _ => Err(PinError::NotBpffs(folder.into())),
    }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn empty(folder: &Path) -> io::Result<()> {
    entries(folder)?.into_iter().try_for_each(fs::remove_file)
}
