//! Upkeep: syncing fjall, writing metadata snapshots, and the word which files of the log may
//! be freed (rules 1.3 and 1.4).
//!
//! Owns: when these are due. Does not own: the files, and who still reads them (`wal`).

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::runtime::Tasks;
use crate::store::snapshot::{self, KEPT};
use crate::store::{Error, Store, lock};
use crate::types::Lsn;
use crate::wal::WalFile;

const TICK: Duration = Duration::from_secs(1);
/// Between two syncs of fjall while something is applied; bounds the replay after a power loss.
const PERSIST_INTERVAL_MS: i64 = 30_000;
/// Log applied between two syncs of fjall, bytes.
const PERSIST_BYTES: u64 = 256 << 20;
/// Between two metadata snapshots.
const SNAPSHOT_INTERVAL_MS: i64 = 60_000;
/// While so many files wait for one, the next comes earlier (docs/adr/0016-freeing.md),
const FILES_IN_HASTE: usize = 2;
/// but not before so many times what the last one took, so they take a twentieth of a thread,
const SNAPSHOT_REST: i64 = 20;
/// nor before this.
const SNAPSHOT_REST_MIN_MS: i64 = 1_000;

type Hook = Box<dyn Fn(Lsn) + Send>;

/// What is known of the last syncs and snapshots.
pub(crate) struct Upkeep {
    /// `wal_applied` that the last completed sync covers.
    persisted: Lsn,
    persisted_ms: Option<i64>,
    /// Positions of the good snapshots that are kept, newest first.
    snapshots: Vec<Lsn>,
    snapshot_ms: Option<i64>,
    /// How long the last one took.
    snapshot_took_ms: i64,
    on_persisted: Option<Hook>,
}

impl Upkeep {
    pub(crate) fn new(persisted: Lsn, snapshots: Vec<Lsn>) -> Self {
        let (persisted_ms, snapshot_ms, on_persisted) = (None, None, None);
        let snapshot_took_ms = 0;
        Self { persisted, persisted_ms, snapshots, snapshot_ms, snapshot_took_ms, on_persisted }
    }

    /// True if a snapshot that `waiting` files wait for may be written.
    fn is_snapshot_due(&self, waiting: usize, now_ms: i64) -> bool {
        let rest_ms = self.snapshot_took_ms.saturating_mul(SNAPSHOT_REST);
        let interval_ms = match waiting {
            0 => return false,
            FILES_IN_HASTE.. => rest_ms.clamp(SNAPSHOT_REST_MIN_MS, SNAPSHOT_INTERVAL_MS),
            _ => SNAPSHOT_INTERVAL_MS,
        };
        due(self.snapshot_ms, now_ms, interval_ms)
    }

    /// Everything below is in both kept snapshots.
    fn covered(&self) -> Lsn {
        self.snapshots.get(KEPT - 1).copied().unwrap_or(Lsn(0))
    }
}

/// True if `interval_ms` went by since `last_ms`, or the clock stepped back.
fn due(last_ms: Option<i64>, now_ms: i64, interval_ms: i64) -> bool {
    last_ms.is_none_or(|last_ms| now_ms < last_ms || now_ms - last_ms >= interval_ms)
}

impl Store {
    /// The position that survives a power loss in fjall itself.
    pub fn persisted(&self) -> Lsn {
        lock(&self.shared.upkeep).persisted
    }

    /// Calls `hook` with the covered position after each completed sync of fjall, while nothing
    /// is applied: a test can copy the folder then.
    pub fn on_persisted(&self, hook: impl Fn(Lsn) + Send + 'static) {
        lock(&self.shared.upkeep).on_persisted = Some(Box::new(hook));
    }

    /// Syncs fjall. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`]: the process must end.
    pub fn persist(&self) -> Result<(), Error> {
        self.persist_locked(&mut lock(&self.shared.upkeep))
    }

    fn persist_locked(&self, upkeep: &mut Upkeep) -> Result<(), Error> {
        let gate = upkeep.on_persisted.as_ref().map(|_| lock(&self.shared.gate));
        let applied = Lsn(self.shared.applied.load(Ordering::Acquire));
        self.shared.db.persist()?;
        upkeep.persisted = upkeep.persisted.max(applied);
        upkeep.persisted_ms = Some(self.shared.clock.now_ms());
        if let Some(hook) = &upkeep.on_persisted {
            hook(applied);
        }
        drop(gate);
        Ok(())
    }

    /// Writes a metadata snapshot unless the newest one is as new as the state. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn write_snapshot(&self) -> Result<(), Error> {
        self.snapshot_locked(&mut lock(&self.shared.upkeep))
    }

    fn snapshot_locked(&self, upkeep: &mut Upkeep) -> Result<(), Error> {
        let shared = &self.shared;
        if upkeep.snapshots.first() == Some(&self.applied()) {
            return Ok(());
        }
        shared.hit("store.before_snapshot")?;
        let now_ms = shared.clock.now_ms();
        upkeep.snapshot_ms = Some(now_ms);
        let (fs, dir) = (&*shared.fs, &shared.snapshots_dir);
        let run = shared.run.load(Ordering::Relaxed);
        let written = snapshot::write(fs, dir, &shared.db.view(), shared.log_id, run)?;
        upkeep.snapshot_took_ms = shared.clock.now_ms() - now_ms;
        upkeep.snapshots.retain(|lsn| *lsn != written.lsn);
        upkeep.snapshots.insert(0, written.lsn);
        upkeep.snapshots.truncate(KEPT);
        let oldest = upkeep.snapshots.last().copied().unwrap_or(written.lsn);
        snapshot::remove_older(fs, dir, oldest)
            .map_err(|error| Error::Failed(format!("{}: {error}", dir.display())))
    }

    /// Which of `files` may be freed now as far as the state goes (rules 1.4 a and b; whether
    /// someone reads them is the log's word). Writes a snapshot if one is what is missing and the
    /// last is a minute old, or less while several files wait, and syncs fjall if need be. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`]: the process must end.
    pub fn reclaimable(&self, files: &[WalFile]) -> Result<Vec<WalFile>, Error> {
        let mut upkeep = lock(&self.shared.upkeep);
        // Read first: no index entry into a file that ends below can appear after this.
        let applied = self.applied();
        let mut idle: Vec<WalFile> = {
            let live = lock(&self.shared.live);
            let idle = |file: &&WalFile| file.end <= applied && !live.any_in(file.first, file.end);
            files.iter().filter(idle).copied().collect()
        };
        let now_ms = self.shared.clock.now_ms();
        let covered = upkeep.covered();
        let waiting = idle.iter().filter(|file| file.end > covered).count();
        if upkeep.is_snapshot_due(waiting, now_ms) {
            self.snapshot_locked(&mut upkeep)?;
        }
        let covered = upkeep.covered();
        idle.retain(|file| file.end <= covered);
        if !idle.is_empty() && upkeep.persisted < applied {
            self.persist_locked(&mut upkeep)?;
        }
        Ok(idle)
    }

    /// The files of `files` that no index entry points into.
    pub fn files_without_live_runs(&self, files: &[WalFile]) -> Vec<WalFile> {
        let live = lock(&self.shared.live);
        files.iter().filter(|file| !live.any_in(file.first, file.end)).copied().collect()
    }

    /// Bytes of each file that index entries point at.
    pub fn live_bytes(&self, files: &[WalFile]) -> Vec<u64> {
        let live = lock(&self.shared.live);
        files.iter().map(|file| live.bytes_in(file.first, file.end)).collect()
    }

    /// Where runs start that index entries point at, from `first` on and below `end`, in order:
    /// all of them, or at least `limit`.
    pub fn live_starts(&self, first: Lsn, end: Lsn, limit: usize) -> Vec<Lsn> {
        lock(&self.shared.live).starts_in(first, end, limit)
    }

    /// Syncs fjall if that is due. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`]: the process must end.
    pub fn tick(&self) -> Result<(), Error> {
        let mut upkeep = lock(&self.shared.upkeep);
        let behind = self.applied().0.saturating_sub(upkeep.persisted.0);
        let now_ms = self.shared.clock.now_ms();
        if behind >= PERSIST_BYTES
            || behind > 0 && due(upkeep.persisted_ms, now_ms, PERSIST_INTERVAL_MS)
        {
            self.persist_locked(&mut upkeep)?;
        }
        Ok(())
    }

    /// Runs [`Store::tick`] each second until the tasks stop; a failure ends the process.
    pub fn spawn_chores(&self, tasks: &Tasks) {
        let (store, tasks_) = (self.clone(), tasks.clone());
        tasks.spawn("store-chores", async move {
            let stop = tasks_.stop_token();
            while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
                let store = store.clone();
                match tokio::task::spawn_blocking(move || store.tick()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tasks_.fatal(&error.to_string()),
                    Err(error) => tasks_.fatal(&format!("store chores: {error}")),
                }
            }
        });
    }

    /// Last snapshot and sync, after the log has ended. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn close(&self) -> Result<(), Error> {
        self.write_snapshot()?;
        self.persist()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_come_earlier_while_files_wait_but_take_a_twentieth_of_the_time() {
        let mut upkeep = Upkeep::new(Lsn(0), Vec::new());
        assert!(!upkeep.is_snapshot_due(0, 0) && upkeep.is_snapshot_due(1, 0));
        upkeep.snapshot_ms = Some(1_000);
        let due_at = |upkeep: &Upkeep, waiting| {
            (1_000..100_000).find(|now_ms| upkeep.is_snapshot_due(waiting, *now_ms))
        };
        for (took_ms, waiting, at_ms) in
            [(0, 1, 61_000), (0, 2, 2_000), (49, 2, 2_000), (200, 9, 5_000), (9_000, 9, 61_000)]
        {
            upkeep.snapshot_took_ms = took_ms;
            assert_eq!(due_at(&upkeep, waiting), Some(at_ms), "{took_ms} {waiting}");
        }
        assert_eq!(due_at(&upkeep, 0), None);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_hold_a_chore() {
        assert!(due(None, 0, 10));
        assert!(!due(Some(100), 109, 10));
        assert!(due(Some(100), 110, 10));
        assert!(due(Some(100), 50, 10));
    }
}
