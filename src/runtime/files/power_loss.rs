//! A file system that loses power, for tests (rules 3.7).
//!
//! It works on a real folder and remembers what no completed sync covers. [`PowerLoss::crash`]
//! keeps or drops each of those things, in any subset: writes whole, dropped, or torn at 512 B or
//! 4 KiB; creates, renames, links and unlinks per folder entry; new folders with all in them.
//!
//! Every file has a second name in a hidden pool, so that dropped unlinks can be undone.

mod change;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Disk, DiskSpace, File, FileSystem, SyncPoint};
use change::Change;

/// Name of the pool inside the root; never listed.
const POOL: &str = ".power-loss";

/// A kind of call that [`PowerLoss::fail_next`] can make fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// `write_all_at`.
    Write,
    /// `sync_data`, `sync_all` and `sync_dir`.
    Sync,
    /// `rename`.
    Rename,
    /// `create_new`.
    Create,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// `EIO`; nothing happens.
    Io,
    /// `ENOSPC`; nothing happens.
    NoSpace,
    /// Half of the bytes are written, then `ENOSPC`. For other calls as [`Failure::NoSpace`].
    ShortWrite,
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            Self::Io => io::Error::from_raw_os_error(5),
            Self::NoSpace | Self::ShortWrite => io::Error::from_raw_os_error(28),
        }
    }
}

/// A file system over one folder that may lose power; cheap to clone.
#[derive(Debug, Clone)]
pub struct PowerLoss(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    state: Mutex<State>,
}

/// Inode of a file; stays the same whatever its names are.
type FileId = u64;

#[derive(Debug, Default)]
struct State {
    off: bool,
    skipped: HashSet<SyncPoint>,
    failures: HashMap<Call, Failure>,
    space: Option<DiskSpace>,
    /// Changes of content since the last sync, per file, in order.
    content: HashMap<FileId, Vec<Change>>,
    /// Changes of folder entries since the last sync of their folder, in order.
    entries: Vec<Entry>,
    /// What was under a name before the first of its changes in `entries`.
    durable: BTreeMap<PathBuf, Option<FileId>>,
}

/// One atomic change of one folder: all of `names` or none.
#[derive(Debug)]
struct Entry {
    folder: PathBuf,
    names: Vec<(PathBuf, Option<FileId>)>,
    /// True if `names` is one new folder.
    is_folder: bool,
}

#[derive(Debug)]
struct LossyFile {
    shared: Arc<Shared>,
    file: fs::File,
    id: FileId,
}

impl PowerLoss {
    /// A layer over `root`, which is made if needed. All that is there counts as durable.
    ///
    /// # Errors
    /// The system's error.
    pub fn new(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root.join(POOL))?;
        let shared = Shared { root: root.to_owned(), state: Mutex::default() };
        Ok(Self(Arc::new(shared)))
    }

    /// From now on syncs of `point` do nothing, though they report success.
    pub fn skip(&self, point: SyncPoint) {
        self.state().skipped.insert(point);
    }

    /// The next `call` fails with `failure`.
    pub fn fail_next(&self, call: Call, failure: Failure) {
        self.state().failures.insert(call, failure);
    }

    /// What [`FileSystem::space`] answers; none: the real disk's.
    pub fn set_space(&self, space: Option<DiskSpace>) {
        self.state().space = space;
    }

    /// Takes the power away: every later call fails, and the folder is left as a disk may leave
    /// it, decided by `seed`. Open it again with a new layer.
    ///
    /// # Errors
    /// The system's error.
    pub fn crash(&self, seed: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.off {
            return Ok(());
        }
        state.off = true;
        let mut random = StdRng::seed_from_u64(seed);
        self.0.lose_content(&mut state, &mut random)?;
        self.0.lose_entries(&mut state, &mut random)?;
        fs::remove_dir_all(self.0.root.join(POOL))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }

    fn on(&self) -> io::Result<MutexGuard<'_, State>> {
        self.0.on()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, or an error when the power is off.
    fn on(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.off {
            return Err(io::Error::other("the power is off"));
        }
        Ok(state)
    }

    fn pooled(&self, id: FileId) -> PathBuf {
        self.root.join(POOL).join(id.to_string())
    }

    /// Identity of the file at `path`; makes sure that the pool has it.
    fn identify(&self, path: &Path) -> io::Result<FileId> {
        let id = fs::metadata(path)?.ino();
        match fs::hard_link(path, self.pooled(id)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(id),
        }
    }

    fn identify_old(&self, path: &Path) -> io::Result<Option<FileId>> {
        if path.exists() { self.identify(path).map(Some) } else { Ok(None) }
    }

    fn lose_content(&self, state: &mut State, random: &mut StdRng) -> io::Result<()> {
        let mut content: Vec<_> = std::mem::take(&mut state.content).into_iter().collect();
        // The order of a hash map is not decided by the seed.
        content.sort_by_key(|(id, _)| *id);
        for (id, changes) in content {
            let file = fs::OpenOptions::new().read(true).write(true).open(self.pooled(id))?;
            for change in changes.iter().rev() {
                change.undo(&file)?;
            }
            for change in &changes {
                change.redo_some(&file, random)?;
            }
        }
        Ok(())
    }

    fn lose_entries(&self, state: &mut State, random: &mut StdRng) -> io::Result<()> {
        let mut after = state.durable.clone();
        let mut lost_folders = Vec::new();
        for entry in &state.entries {
            let kept = random.random_bool(0.5);
            if entry.is_folder {
                if !kept {
                    lost_folders.extend(entry.names.iter().map(|(name, _)| name.clone()));
                }
            } else if kept {
                after.extend(entry.names.iter().cloned());
            }
        }
        for (name, id) in after {
            if name.exists() {
                fs::remove_file(&name)?;
            }
            if let Some(id) = id {
                fs::hard_link(self.pooled(id), &name)?;
            }
        }
        for folder in lost_folders.iter().filter(|folder| folder.exists()) {
            fs::remove_dir_all(folder)?;
        }
        Ok(())
    }
}

impl State {
    fn fail(&mut self, call: Call) -> Option<Failure> {
        self.failures.remove(&call)
    }

    /// Remembers a change of the entries of one folder. `old` is what the names meant before.
    fn entry(&mut self, names: Vec<(PathBuf, Option<FileId>)>, old: Vec<Option<FileId>>) {
        for ((name, _), old) in names.iter().zip(old) {
            self.durable.entry(name.clone()).or_insert(old);
        }
        let folder = names.last().and_then(|(name, _)| name.parent());
        let folder = folder.unwrap_or(Path::new("/")).to_owned();
        self.entries.push(Entry { folder, names, is_folder: false });
    }
}

impl FileSystem for PowerLoss {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.on()?;
        if let Some(failure) = state.fail(Call::Create) {
            return Err(failure.error());
        }
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let id = self.0.identify(path)?;
        state.entry(vec![(path.to_owned(), Some(id))], vec![None]);
        Ok(Arc::new(LossyFile { shared: Arc::clone(&self.0), file, id }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let _state = self.on()?;
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        let id = self.0.identify(path)?;
        Ok(Arc::new(LossyFile { shared: Arc::clone(&self.0), file, id }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.on()?;
        let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
        for made in missing.iter().rev() {
            fs::create_dir(made)?;
            let folder = made.parent().unwrap_or(Path::new("/")).to_owned();
            let names = vec![(made.to_path_buf(), None)];
            state.entries.push(Entry { folder, names, is_folder: true });
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.on()?;
        if let Some(failure) = state.fail(Call::Rename) {
            return Err(failure.error());
        }
        let moved = self.0.identify(from)?;
        let replaced = self.0.identify_old(to)?;
        fs::rename(from, to)?;
        let names = vec![(from.to_owned(), None), (to.to_owned(), Some(moved))];
        state.entry(names, vec![Some(moved), replaced]);
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.on()?;
        let id = self.0.identify(from)?;
        fs::hard_link(from, to)?;
        state.entry(vec![(to.to_owned(), Some(id))], vec![None]);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.on()?;
        let id = self.0.identify(path)?;
        fs::remove_file(path)?;
        state.entry(vec![(path.to_owned(), None)], vec![Some(id)]);
        Ok(())
    }

    fn sync_dir(&self, path: &Path, point: SyncPoint) -> io::Result<()> {
        let mut state = self.on()?;
        if let Some(failure) = state.fail(Call::Sync) {
            return Err(failure.error());
        }
        if state.skipped.contains(&point) {
            return Ok(());
        }
        let (synced, rest) =
            std::mem::take(&mut state.entries).into_iter().partition(|e| e.folder == path);
        state.entries = rest;
        let synced: Vec<Entry> = synced;
        for (name, id) in synced.into_iter().filter(|e| !e.is_folder).flat_map(|e| e.names) {
            state.durable.insert(name, id);
        }
        let pending: HashSet<PathBuf> =
            state.entries.iter().flat_map(|e| &e.names).map(|(name, _)| name.clone()).collect();
        state.durable.retain(|name, _| pending.contains(name));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let _state = self.on()?;
        let mut paths = Disk.list(path)?;
        paths.retain(|path| path.file_name().is_none_or(|name| name != POOL));
        Ok(paths)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let state = self.on()?;
        state.space.map_or_else(|| Disk.space(path), Ok)
    }
}

impl LossyFile {
    fn write(&self, state: &mut State, bytes: Vec<u8>, at: u64) -> io::Result<()> {
        let old_len = self.file.metadata()?.len();
        let overlap = old_len.saturating_sub(at).min(bytes.len() as u64);
        let mut old = vec![0; usize::try_from(overlap).unwrap_or(0)];
        self.file.read_exact_at(&mut old, at)?;
        self.file.write_all_at(&bytes, at)?;
        let change = Change::Write { at, old, new: bytes, old_len };
        state.content.entry(self.id).or_default().push(change);
        Ok(())
    }

    fn sync(&self, point: SyncPoint) -> io::Result<()> {
        let mut state = self.shared.on()?;
        if let Some(failure) = state.fail(Call::Sync) {
            return Err(failure.error());
        }
        if !state.skipped.contains(&point) {
            state.content.remove(&self.id);
        }
        Ok(())
    }
}

impl File for LossyFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let _state = self.shared.on()?;
        self.file.read_at(buffer, position)
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut state = self.shared.on()?;
        let mut bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        match state.fail(Call::Write) {
            Some(Failure::ShortWrite) => {
                bytes.truncate(bytes.len() / 2);
                self.write(&mut state, bytes, position)?;
                Err(Failure::ShortWrite.error())
            }
            Some(failure) => Err(failure.error()),
            None => self.write(&mut state, bytes, position),
        }
    }

    fn sync_data(&self, point: SyncPoint) -> io::Result<()> {
        self.sync(point)
    }

    fn sync_all(&self, point: SyncPoint) -> io::Result<()> {
        self.sync(point)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.shared.on()?;
        let old_len = self.file.metadata()?.len();
        let mut cut = vec![0; usize::try_from(old_len.saturating_sub(length)).unwrap_or(0)];
        self.file.read_exact_at(&mut cut, length.min(old_len))?;
        self.file.set_len(length)?;
        let change = Change::Length { old_len, new_len: length, cut };
        state.content.entry(self.id).or_default().push(change);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let _state = self.shared.on()?;
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::files::{read_all, replace_durably};

    const SEEDS: u64 = 60;

    /// Every outcome of `act` after a crash, as `look` sees it.
    fn outcomes<T: Ord>(
        act: impl Fn(&PowerLoss, &Path),
        look: impl Fn(&PowerLoss, &Path) -> T,
    ) -> std::collections::BTreeSet<T> {
        (0..SEEDS)
            .map(|seed| {
                let dir = tempfile::tempdir().unwrap();
                let layer = PowerLoss::new(dir.path()).unwrap();
                act(&layer, dir.path());
                layer.crash(seed).unwrap();
                assert!(layer.list(dir.path()).is_err(), "the power is off");
                look(&PowerLoss::new(dir.path()).unwrap(), dir.path())
            })
            .collect()
    }

    fn write(layer: &PowerLoss, path: &Path, bytes: &[u8], at: u64) -> Arc<dyn File> {
        let file = if layer.exists(path) { layer.open(path) } else { layer.create_new(path) };
        let file = file.unwrap();
        file.write_all_at(&mut [IoSlice::new(bytes)], at).unwrap();
        file
    }

    fn content(layer: &PowerLoss, path: &Path) -> Option<Vec<u8>> {
        layer.exists(path).then(|| read_all(layer, path).unwrap())
    }

    #[test]
    fn synced_data_in_a_synced_folder_stays() {
        let act = |layer: &PowerLoss, dir: &Path| {
            let path = dir.join("a");
            write(layer, &path, b"one", 0).sync_data(SyncPoint::WalGroup).unwrap();
            layer.sync_dir(dir, SyncPoint::WalDir).unwrap();
        };
        let found = outcomes(act, |layer, dir| content(layer, &dir.join("a")));
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [Some(b"one".to_vec())]);
    }

    #[test]
    fn synced_data_in_a_folder_that_is_not_may_be_gone() {
        let act = |layer: &PowerLoss, dir: &Path| {
            write(layer, &dir.join("a"), b"one", 0).sync_all(SyncPoint::WalFile).unwrap();
        };
        let found = outcomes(act, |layer, dir| content(layer, &dir.join("a")));
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [None, Some(b"one".to_vec())]);
    }

    #[test]
    fn writes_without_sync_are_dropped_or_torn_at_sectors_in_any_subset() {
        let act = |layer: &PowerLoss, dir: &Path| {
            let path = dir.join("a");
            write(layer, &path, &[0; 1024], 0).sync_all(SyncPoint::WalFile).unwrap();
            layer.sync_dir(dir, SyncPoint::WalDir).unwrap();
            write(layer, &path, &[1; 1024], 0);
            write(layer, &path, &[2; 100], 1024);
        };
        let sectors = |layer: &PowerLoss, dir: &Path| {
            let bytes = content(layer, &dir.join("a")).unwrap();
            assert!(bytes[..512].iter().all(|byte| *byte == bytes[0]));
            assert!(bytes[512..1024].iter().all(|byte| *byte == bytes[512]));
            (bytes[0], bytes[512], bytes.len())
        };
        let found = outcomes(act, sectors);
        let all = [0, 1].iter().flat_map(|a| [0, 1].map(|b| (*a, b)));
        let all = all.flat_map(|(a, b)| [1024, 1124].map(|length| (a, b, length)));
        assert_eq!(found, all.collect());
    }

    #[test]
    fn a_rename_is_one_step_and_a_durable_replace_is_old_or_new() {
        let act = |layer: &PowerLoss, dir: &Path| {
            for text in [b"old", b"new"] {
                let (file, folder) = (SyncPoint::RunFile, SyncPoint::RunDir);
                if text == b"new" {
                    layer.skip(folder);
                }
                replace_durably(layer, &dir.join("RUN"), text, file, folder).unwrap();
            }
        };
        let found = outcomes(act, |layer, dir| content(layer, &dir.join("RUN")).unwrap());
        let found: Vec<_> = found.into_iter().collect();
        assert_eq!(found, [b"new".to_vec(), b"old".to_vec()]);
    }

    #[test]
    fn a_replace_without_sync_of_the_file_may_be_torn() {
        let act = |layer: &PowerLoss, dir: &Path| {
            layer.skip(SyncPoint::RunFile);
            let (file, folder) = (SyncPoint::RunFile, SyncPoint::RunDir);
            replace_durably(layer, &dir.join("RUN"), b"new", file, folder).unwrap();
        };
        let found = outcomes(act, |layer, dir| content(layer, &dir.join("RUN")).unwrap());
        assert!(found.contains(&b""[..]), "{found:?}");
    }

    #[test]
    fn unlinks_links_and_folders_without_sync_may_be_undone() {
        let act = |layer: &PowerLoss, dir: &Path| {
            let old = dir.join("old");
            write(layer, &old, b"x", 0).sync_all(SyncPoint::WalFile).unwrap();
            layer.sync_dir(dir, SyncPoint::WalDir).unwrap();
            layer.hard_link(&old, &dir.join("second")).unwrap();
            layer.remove_file(&old).unwrap();
            let inner = dir.join("new/folder");
            layer.create_dir_all(&inner).unwrap();
            write(layer, &inner.join("f"), b"y", 0).sync_all(SyncPoint::TableFile).unwrap();
            layer.sync_dir(&inner, SyncPoint::TableDir).unwrap();
            layer.sync_dir(&dir.join("new"), SyncPoint::TableDir).unwrap();
        };
        let look = |layer: &PowerLoss, dir: &Path| {
            ["old", "second", "new/folder/f"].map(|name| layer.exists(&dir.join(name)))
        };
        let found = outcomes(act, look);
        for at in 0..3 {
            for there in [false, true] {
                assert!(found.iter().any(|names| names[at] == there), "{at} {there}: {found:?}");
            }
        }
    }

    #[test]
    fn injected_failures_happen_once() {
        let dir = tempfile::tempdir().unwrap();
        let layer = PowerLoss::new(dir.path()).unwrap();
        let path = dir.path().join("a");
        let file = write(&layer, &path, b"", 0);
        layer.fail_next(Call::Write, Failure::ShortWrite);
        let error = file.write_all_at(&mut [IoSlice::new(b"abcd")], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(content(&layer, &path).unwrap(), b"ab");
        file.write_all_at(&mut [IoSlice::new(b"abcd")], 0).unwrap();
        layer.fail_next(Call::Sync, Failure::Io);
        assert!(file.sync_data(SyncPoint::WalGroup).is_err());
        file.sync_data(SyncPoint::WalGroup).unwrap();
        layer.fail_next(Call::Rename, Failure::NoSpace);
        assert!(layer.rename(&path, &dir.path().join("b")).is_err());
        assert!(layer.exists(&path));
    }
}
