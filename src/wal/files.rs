//! The files of a running log: the current one, old ones with their readers, the next one.
//!
//! Owns: which files exist, leases, freeing, cutting the unused rest of a sealed file. Does not
//! own: frames (see `group`), making the next file and free space (see `prepare`, `space`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::runtime::files::{File, FileSystem, SyncPoint};
use crate::runtime::metrics;
use crate::types::Lsn;
use crate::wal::directory::name_of;
use crate::wal::space::Floor;
use crate::wal::spares::Spares;

/// Files kept open for readers; more are opened again when needed.
const OPEN_FILES_MAX: usize = 64;

/// Name under which the next file is made; a leftover is removed when the log is opened.
pub(crate) const NEXT_NAME: &str = "next.tmp";

/// The positions `[first, end)` of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalFile {
    /// Position of its first byte; also its name.
    pub first: Lsn,
    /// Position after its last byte; of the current file: after the room it has.
    pub end: Lsn,
}

/// A file in use. Whoever holds it keeps it from being freed.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) first: u64,
    pub(crate) file: Arc<dyn File>,
}

/// The next file, or what keeps it from being there.
#[derive(Debug)]
pub(crate) enum Next {
    /// Being made.
    Missing,
    /// Could not be made; tried again about once a second.
    Failed(String),
    /// Zeroed and synced, under its temporary name.
    Ready(Arc<dyn File>),
}

#[derive(Debug)]
pub(crate) struct State {
    files: BTreeMap<u64, Slot>,
    current: u64,
    pub(crate) next: Next,
    spares: Spares,
    pub(crate) stop: bool,
    /// The log is asked to end: nobody waits any more for a file that cannot be made.
    closing: bool,
    /// Sealed files whose rest can be cut: first position and end of the seal.
    pub(crate) cuts: Vec<WalFile>,
}

#[derive(Debug)]
struct Slot {
    end: u64,
    open: Option<Arc<OpenFile>>,
}

/// All files of one log, shared by its threads and readers.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) data_dir: PathBuf,
    pub(crate) wal_dir: PathBuf,
    pub(crate) file_bytes: u64,
    pub(crate) floor: Floor,
    pub(crate) state: Mutex<State>,
    pub(crate) changed: Condvar,
    /// The next file is needed soon: do not spend time on zeros.
    pub(crate) urgent: AtomicBool,
    /// How many files were begun since the log was opened.
    begun: watch::Sender<u64>,
    refusing: AtomicBool,
    refusal: Mutex<String>,
}

/// A spare that is taken away: nothing comes to its place until this is dropped.
pub(crate) struct TakenSpare<'f> {
    files: &'f Files,
    place: usize,
    /// Where it lies.
    pub(crate) path: PathBuf,
}

impl Drop for TakenSpare<'_> {
    fn drop(&mut self) {
        self.files.state.lock().spares.gone(self.place);
    }
}

/// What a [`Files`] is made of.
pub(crate) struct FilesSetup {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) data_dir: PathBuf,
    pub(crate) wal_dir: PathBuf,
    pub(crate) file_bytes: u64,
    pub(crate) floor: Floor,
    /// Files that exist, the current one last.
    pub(crate) files: Vec<WalFile>,
}

impl Files {
    pub(crate) fn new(setup: FilesSetup) -> Self {
        let current = setup.files.last().map_or(0, |file| file.first.0);
        // The last cut may not have happened before the process ended.
        let cuts = setup.files.iter().rev().skip(1).take(1).copied().collect();
        let slot = |file: &WalFile| (file.first.0, Slot { end: file.end.0, open: None });
        let state = State {
            files: setup.files.iter().map(slot).collect(),
            current,
            next: Next::Missing,
            spares: Spares::left(|name| setup.fs.exists(&setup.wal_dir.join(name))),
            stop: false,
            closing: false,
            cuts,
        };
        Self {
            fs: setup.fs,
            data_dir: setup.data_dir,
            wal_dir: setup.wal_dir,
            file_bytes: setup.file_bytes,
            floor: setup.floor,
            state: Mutex::new(state),
            changed: Condvar::new(),
            urgent: AtomicBool::new(false),
            begun: watch::Sender::new(0),
            refusing: AtomicBool::new(false),
            refusal: Mutex::default(),
        }
    }

    /// Files in order of position; the last one is the current file.
    pub(crate) fn list(&self) -> Vec<WalFile> {
        let state = self.state.lock();
        let file =
            |(first, slot): (&u64, &Slot)| WalFile { first: Lsn(*first), end: Lsn(slot.end) };
        state.files.iter().map(file).collect()
    }

    /// The file that holds `lsn`; it is not freed while the value lives.
    pub(crate) fn lease(&self, lsn: Lsn) -> io::Result<Option<Arc<OpenFile>>> {
        let mut state = self.state.lock();
        let Some((&first, slot)) = state.files.range_mut(..=lsn.0).next_back() else {
            return Ok(None);
        };
        if lsn.0 >= slot.end {
            return Ok(None);
        }
        if let Some(open) = &slot.open {
            return Ok(Some(Arc::clone(open)));
        }
        let file = self.fs.open(&self.wal_dir.join(name_of(Lsn(first))))?;
        let open = Arc::new(OpenFile { first, file });
        slot.open = Some(Arc::clone(&open));
        state.close_idle();
        Ok(Some(open))
    }

    /// Frees the file that begins at `first`: keeps it as a spare, whose blocks need not be made
    /// again, or unlinks it. False if it is current, leased or unknown.
    pub(crate) fn release(&self, first: Lsn) -> io::Result<bool> {
        let slot = {
            let mut state = self.state.lock();
            let Some(slot) = state.files.get(&first.0) else {
                return Ok(false);
            };
            let leased = slot.open.as_ref().is_some_and(|open| Arc::strong_count(open) > 1);
            if first.0 == state.current || leased {
                return Ok(false);
            }
            state.files.remove(&first.0)
        };
        // Readers cannot find it any more; the slow part runs without the lock.
        let bytes = slot.as_ref().map_or(0, |slot| slot.end - first.0);
        let place = self.spare_place(bytes);
        if let Err(error) = self.free(&self.wal_dir.join(name_of(first)), place) {
            let mut state = self.state.lock();
            if let Some(place) = place {
                state.spares.gone(place);
            }
            if let Some(slot) = slot {
                state.files.insert(first.0, slot);
            }
            return Err(error);
        }
        self.fs.sync_dir(&self.wal_dir, SyncPoint::WalDir)?;
        if let Some(place) = place {
            self.state.lock().spares.came(place);
        }
        ::metrics::counter!(metrics::WAL_FREED).increment(1);
        self.count();
        self.changed.notify_all();
        Ok(true)
    }

    /// Where a freed file of so many bytes is kept, if it is.
    fn spare_place(&self, bytes: u64) -> Option<usize> {
        // A short one has blocks to make, and a full disk needs what it has.
        if bytes < self.file_bytes / 4 * 3 || bytes > self.file_bytes || self.admission().is_err() {
            return None;
        }
        self.state.lock().spares.place(Instant::now())
    }

    fn free(&self, path: &Path, place: Option<usize>) -> io::Result<()> {
        match place {
            Some(place) => self.fs.rename(path, &self.wal_dir.join(Spares::name(place))),
            None => self.fs.remove_file(path),
        }
    }

    /// A spare that `take` gives the place of.
    pub(crate) fn take_spare(
        &self,
        take: impl FnOnce(&mut Spares) -> Option<usize>,
    ) -> Option<TakenSpare<'_>> {
        let place = take(&mut self.state.lock().spares)?;
        Some(TakenSpare { files: self, place, path: self.wal_dir.join(Spares::name(place)) })
    }

    /// Waits for the next file and gives it the name of position `first`. Its folder entry is not
    /// durable yet. None if the log is stopping, or closing and the file cannot be made.
    pub(crate) fn switch(&self, first: u64) -> io::Result<Option<(Arc<OpenFile>, u64)>> {
        let mut state = self.state.lock();
        let file = loop {
            if state.stop {
                return Ok(None);
            }
            match std::mem::replace(&mut state.next, Next::Missing) {
                Next::Ready(file) => break file,
                Next::Failed(reason) if state.closing => {
                    tracing::warn!(
                        reason,
                        "the log ends at the end of a file, what is queued is not written"
                    );
                    return Ok(None);
                }
                other => state.next = other,
            }
            self.hurry();
            self.changed.wait(&mut state);
        };
        self.urgent.store(false, Ordering::Relaxed);
        self.fs.rename(&self.wal_dir.join(NEXT_NAME), &self.wal_dir.join(name_of(Lsn(first))))?;
        let end = first.saturating_add(file.length()?);
        let open = Arc::new(OpenFile { first, file });
        let old = state.current;
        if let Some(slot) = state.files.get_mut(&old) {
            slot.end = first;
        }
        state.files.insert(first, Slot { end, open: Some(Arc::clone(&open)) });
        state.current = first;
        state.spares.begun(Instant::now());
        state.close_idle();
        drop(state);
        self.begun.send_modify(|begun| *begun += 1);
        self.changed.notify_all();
        self.count();
        Ok(Some((open, end)))
    }

    /// Counts the files that are begun.
    pub(crate) fn begun(&self) -> watch::Receiver<u64> {
        self.begun.subscribe()
    }

    /// Says that the next file is needed soon, until [`Files::switch`] takes it.
    pub(crate) fn hurry(&self) {
        if !self.urgent.swap(true, Ordering::Relaxed) {
            self.changed.notify_all();
        }
    }

    /// The seal of `file` is durable: what follows it in the file is cut in the background.
    pub(crate) fn sealed(&self, file: WalFile) {
        self.state.lock().cuts.push(file);
        self.changed.notify_all();
    }

    /// Ends who waits for a file that cannot be made (a full disk), now or later.
    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    /// Ends the background thread and whoever waits for a file.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// Why no records are taken, if so.
    pub(crate) fn admission(&self) -> Result<(), String> {
        if self.refusing.load(Ordering::Acquire) {
            return Err(self.refusal.lock().clone());
        }
        Ok(())
    }

    pub(crate) fn refuse(&self, reason: Option<String>) {
        let refusing = reason.is_some();
        if let Some(reason) = reason {
            *self.refusal.lock() = reason;
        }
        if self.refusing.swap(refusing, Ordering::AcqRel) != refusing {
            if refusing {
                tracing::warn!(reason = %self.refusal.lock(), "records are refused");
            } else {
                tracing::info!("records are taken again");
            }
        }
    }

    /// True if the file after the current one is there.
    pub(crate) fn has_next(&self) -> bool {
        matches!(self.state.lock().next, Next::Ready(_))
    }

    fn count(&self) {
        let files = self.state.lock().files.len();
        ::metrics::gauge!(metrics::WAL_FILES).set(files as f64);
    }
}

impl State {
    /// Closes files that nobody reads once there are too many.
    fn close_idle(&mut self) {
        let mut open = self.files.values().filter(|slot| slot.open.is_some()).count();
        let current = self.current;
        for (first, slot) in &mut self.files {
            if open <= OPEN_FILES_MAX {
                return;
            }
            let idle = slot.open.as_ref().is_some_and(|open| Arc::strong_count(open) == 1);
            if idle && *first != current {
                slot.open = None;
                open -= 1;
            }
        }
    }
}

/// Makes a small file that begins at `first`, durable with its name: a log starts at once.
pub(crate) fn make_first_file(
    fs: &dyn FileSystem,
    wal_dir: &Path,
    first: Lsn,
    bytes: u64,
) -> io::Result<()> {
    let path = wal_dir.join(NEXT_NAME);
    if fs.exists(&path) {
        fs.remove_file(&path)?;
    }
    let file = fs.create_new(&path)?;
    file.write_zeros_at(bytes, 0)?;
    file.sync_all(SyncPoint::WalFile)?;
    fs.rename(&path, &wal_dir.join(name_of(first)))?;
    fs.sync_dir(wal_dir, SyncPoint::WalDir)
}
