//! Opening: decides whether fjall can be used, else rebuilds it from the newest good snapshot
//! and the log (rules 1.5), replays frames, and accounts for what is missing.
//!
//! The broker's order: list the files of the log, [`Opening::open`], recover the log from
//! [`Opening::start_lsn`] with every frame going to [`Opening::replay`], [`Opening::finish`],
//! start the log with the applier, attach it, commit the gaps that were found.
//!
//! Owns: the choice and the replay. Does not own: reading the log (`wal`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;

use crate::runtime::files::{FileSystem, SyncPoint};
use crate::runtime::{Clock, FailPoints};
use crate::store::apply::Applier;
use crate::store::db::{Db, Limits, Rotation};
use crate::store::reclaim::Upkeep;
use crate::store::snapshot::{self, KEPT};
use crate::store::stage::{Before, Stage};
use crate::store::sweep::{self, Damage};
use crate::store::{Change, Error, Shared, Space, Store, keys};
use crate::types::{Lsn, Offset, PartitionId};
use crate::wal::{FrameKind, WalFile, WrittenFrame};

/// Frames that are replayed as one batch.
const REPLAY_FRAMES: usize = 1_024;
/// Payload of state frames held for one batch, bytes.
const REPLAY_BYTES: usize = 4 << 20;
/// Where the first log of a data directory begins.
const FIRST_LSN: Lsn = Lsn(0);

/// What the store needs from its surroundings.
#[derive(Clone)]
pub struct OpenOptions {
    /// The data directory; it exists.
    pub data_dir: PathBuf,
    /// Where snapshots are written (fjall has files of its own).
    pub fs: Arc<dyn FileSystem>,
    /// Identity of the log, from `FORMAT`.
    pub log_id: u64,
    /// Memory.
    pub limits: Limits,
    /// Time of chores.
    pub clock: Clock,
    /// Hooks of tests.
    pub fail_points: FailPoints,
}

/// A store that is being opened.
pub struct Opening {
    options: OpenOptions,
    db: Db,
    rotation: Rotation,
    files: Vec<WalFile>,
    damage: Vec<Damage>,
    snapshots: Vec<Lsn>,
    /// While fjall is rebuilt: the position of the snapshot it starts from.
    rebuild_from: Option<Lsn>,
    applied: Lsn,
    known_durable: Lsn,
    run_hint: u32,
    buffer: Vec<WrittenFrame>,
    buffered_bytes: usize,
}

/// One partition as it was found at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionBoot {
    /// Which.
    pub partition: PartitionId,
    /// First readable offset.
    pub log_start: Offset,
    /// Offset after the last record.
    pub next_offset: Offset,
    /// Bytes on disk of its indexed runs.
    pub bytes: u64,
}

/// An opened store with its applier.
pub struct Opened {
    /// The state.
    pub store: Store,
    /// For the log's apply thread.
    pub applier: Applier,
    /// Offsets that no frame holds any more; commit it before serving. Empty if all is well.
    pub gaps: Change,
    /// All partitions, by id.
    pub partitions: Vec<PartitionBoot>,
}

enum Found {
    Usable(Db, Lsn),
    /// A new data directory.
    New(Db),
    Lost {
        why: String,
        /// Its `wal_applied`, if it could be read: the log was durable up to there.
        known_durable: Lsn,
    },
}

impl Opening {
    /// Opens the state below `options.data_dir`, given the files of the log in order. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`] if the disk fails, another process holds the state, or it is lost and
    /// cannot be rebuilt.
    pub fn open(options: OpenOptions, wal_files: &[WalFile]) -> Result<Self, Error> {
        let snapshots_dir = snapshots_dir(&options.data_dir);
        make_dirs(&options, &snapshots_dir)
            .map_err(|error| Error::Failed(format!("{}: {error}", snapshots_dir.display())))?;
        let good = snapshot::good(&*options.fs, &snapshots_dir, options.log_id)?;
        let newest = good.first().copied();
        let newest_lsn = newest.map_or(Lsn(0), |header| header.lsn);
        let state_dir = options.data_dir.join("state");
        let found = look(&options, &state_dir, wal_files, newest_lsn)?;
        let (db, applied, known_durable, rebuild_from) = match found {
            Found::Usable(db, applied) => (db, applied, applied, None),
            Found::New(db) if newest.is_none() && wal_files.is_empty() => {
                (db, FIRST_LSN, FIRST_LSN, None)
            }
            Found::New(db) => {
                refuse_if_hopeless("it is not there", newest.map(|header| header.lsn), wal_files)?;
                (db, newest_lsn, FIRST_LSN, Some(newest_lsn))
            }
            Found::Lost { why, known_durable } => {
                tracing::warn!(why, snapshot = %newest_lsn, "state store is lost, rebuilding it");
                refuse_if_hopeless(&why, newest.map(|header| header.lsn), wal_files)?;
                set_aside(&state_dir)?;
                (Db::open(&state_dir, options.limits)?, newest_lsn, known_durable, Some(newest_lsn))
            }
        };
        let mut opening = Self {
            db,
            rotation: Rotation::new(),
            files: wal_files.to_vec(),
            damage: Vec::new(),
            snapshots: good.iter().take(KEPT).map(|header| header.lsn).collect(),
            rebuild_from,
            applied,
            known_durable: known_durable.max(newest_lsn),
            run_hint: good.iter().map(|header| header.run).max().unwrap_or(0),
            buffer: Vec::new(),
            buffered_bytes: 0,
            options,
        };
        if let (Some(_), Some(newest)) = (rebuild_from, newest) {
            opening.restore(&snapshot::path_of(&snapshots_dir, newest.lsn))?;
        }
        Ok(opening)
    }

    /// Every frame of the log from here on must go to [`Opening::replay`], in order.
    pub fn start_lsn(&self) -> Lsn {
        match self.rebuild_from {
            Some(snapshot) => self.files.first().map_or(snapshot, |file| file.first),
            None => self.applied,
        }
    }

    /// The log was durable at least up to here (rules 1.5): a bad frame below is corruption.
    pub fn known_durable(&self) -> Lsn {
        self.known_durable
    }

    /// Greatest run number in the snapshots, 0 without one (rules 2.2).
    pub fn run_hint(&self) -> u32 {
        self.run_hint
    }

    /// True if fjall was lost and is made anew.
    pub fn rebuilding(&self) -> bool {
        self.rebuild_from.is_some()
    }

    /// Applies the next frame of the log, payload included; frames that are in the state already
    /// change nothing. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn replay(&mut self, mut frame: WrittenFrame) -> Result<(), Error> {
        if self.rebuild_from.is_none() && frame.lsn < self.applied {
            return Ok(());
        }
        match frame.draft.kind {
            FrameKind::Records | FrameKind::HttpRecords => {
                if let Some(max_timestamp) = max_timestamp(&frame.draft.payload) {
                    frame.draft.max_timestamp = max_timestamp;
                }
                frame.draft.payload = Bytes::new();
            }
            FrameKind::State => self.buffered_bytes += frame.draft.payload.len(),
            FrameKind::Durable | FrameKind::Seal => return Ok(()),
        }
        // A chain of moved frames counts as a whole; requests bound its length.
        let goes_on = frame.more && frame.is_moved();
        self.buffer.push(frame);
        if !goes_on && (self.buffer.len() >= REPLAY_FRAMES || self.buffered_bytes >= REPLAY_BYTES) {
            self.flush()?;
        }
        Ok(())
    }

    /// Tells that no good frame lies in `[first, end)` although the log was durable there.
    pub fn damage(&mut self, first: Lsn, end: Lsn) {
        self.damage.push(Damage { first, end });
    }

    /// Ends the opening. `end` is where the log appends next, at or above the known durable end;
    /// `run` is the number of this run. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn finish(mut self, end: Lsn, run: u32) -> Result<Opened, Error> {
        self.flush()?;
        let (files, damage) = (&self.files, &self.damage);
        let rebuilt = self.rebuild_from.is_some();
        let swept = match sweep::sweep(&self.db, &mut self.rotation, files, damage, rebuilt) {
            Ok(swept) => swept,
            Err(error) if rebuilt => return Err(error),
            Err(error) => {
                // Damaged tables show here first. The next start finds none and rebuilds them.
                drop(self.db);
                set_aside(&self.options.data_dir.join("state"))?;
                return Err(Error::Failed(format!(
                    "{error}; the state was set aside, start again to rebuild it from the log"
                )));
            }
        };
        let applied = self.applied.max(end);
        let log_id = keys::encode_u64(self.options.log_id);
        let wal_applied = keys::encode_u64(applied.0);
        // Only now: a rebuild that is cut short must count as lost the next time.
        let marks = [
            (Space::Meta, keys::META_LOG_ID, Some(log_id.as_slice())),
            (Space::Meta, keys::META_WAL_APPLIED, Some(wal_applied.as_slice())),
        ];
        self.db.write(&mut self.rotation, marks)?;
        self.db.persist()?;
        let snapshots_dir = snapshots_dir(&self.options.data_dir);
        let shared = Arc::new(Shared {
            db: self.db,
            fs: self.options.fs,
            snapshots_dir,
            log_id: self.options.log_id,
            run: AtomicU32::new(run),
            clock: self.options.clock,
            fail_points: self.options.fail_points,
            appender: OnceLock::new(),
            applied: AtomicU64::new(applied.0),
            live: Mutex::new(swept.live),
            upkeep: Mutex::new(Upkeep::new(applied, self.snapshots)),
            gate: Mutex::new(()),
            counters: tokio::sync::Mutex::default(),
        });
        Ok(Opened {
            applier: Applier::new(Arc::clone(&shared)),
            store: Store { shared },
            gaps: swept.gaps,
            partitions: swept.partitions,
        })
    }

    fn flush(&mut self) -> Result<(), Error> {
        let Some(last) = self.buffer.last() else {
            return Ok(());
        };
        let end = last.end();
        let mut stage = Stage::new(&self.db);
        stage
            .frames(&self.buffer, self.rebuild_from.map_or(Before::Everything, Before::Snapshot))?;
        let mut staged = stage.into_writes()?;
        self.applied = self.applied.max(end);
        if self.rebuild_from.is_none() {
            staged.meta(keys::META_WAL_APPLIED, keys::encode_u64(self.applied.0));
        }
        self.db.write(&mut self.rotation, staged.writes())?;
        self.buffer.clear();
        self.buffered_bytes = 0;
        Ok(())
    }

    fn restore(&mut self, path: &Path) -> Result<(), Error> {
        let (db, rotation) = (&self.db, &mut self.rotation);
        let visit = |change: Change| {
            let writes =
                change.ops.iter().map(|op| (op.space, op.key.as_slice(), op.value.as_deref()));
            db.write(rotation, writes)
        };
        snapshot::read(&*self.options.fs, path, self.options.log_id, visit)
            .map_err(|error| Error::Failed(format!("snapshot {}: {error}", path.display())))?;
        Ok(())
    }
}

fn snapshots_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshots")
}

fn make_dirs(options: &OpenOptions, snapshots_dir: &Path) -> std::io::Result<()> {
    if !options.fs.exists(snapshots_dir) {
        options.fs.create_dir_all(snapshots_dir)?;
        options.fs.sync_dir(&options.data_dir, SyncPoint::SnapshotDir)?;
    }
    Ok(())
}

/// Opens fjall and judges it.
fn look(
    options: &OpenOptions,
    state_dir: &Path,
    files: &[WalFile],
    snapshot: Lsn,
) -> Result<Found, Error> {
    // Damaged files make it panic in places; either way the log can rebuild it.
    let limits = options.limits;
    let opened = std::panic::catch_unwind(|| Db::open(state_dir, limits));
    let db = match opened {
        Ok(Ok(db)) => db,
        Ok(Err(error)) if is_environment(&error) => return Err(error.into()),
        Ok(Err(error)) => {
            return Ok(Found::Lost { why: error.to_string(), known_durable: Lsn(0) });
        }
        Err(_) => {
            let why = "it panicked while it was opened".to_owned();
            return Ok(Found::Lost { why, known_durable: Lsn(0) });
        }
    };
    let meta = |key| db.get(Space::Meta, key)?.map(|value| keys::decode_u64(&value)).transpose();
    let (log_id, applied) = match (meta(keys::META_LOG_ID), meta(keys::META_WAL_APPLIED)) {
        (Ok(log_id), Ok(applied)) => (log_id, applied.map(Lsn)),
        (Err(error), _) | (_, Err(error)) => {
            return Ok(Found::Lost { why: error.to_string(), known_durable: Lsn(0) });
        }
    };
    let lost = |why: &str, known_durable| Found::Lost { why: why.to_owned(), known_durable };
    Ok(match (log_id, applied) {
        (None, None) if is_empty(&db).unwrap_or(false) => Found::New(db),
        (Some(log_id), _) if log_id != options.log_id => lost("it belongs to another log", Lsn(0)),
        (Some(_), Some(applied)) if usable(applied, files, snapshot) => Found::Usable(db, applied),
        (Some(_), Some(applied)) => lost("files of the log that it needs are not there", applied),
        _ => lost("it was not finished", Lsn(0)),
    })
}

/// True if nothing is newer than fjall that it could not be told: the files from its position on
/// are all there, or the newest snapshot knows no more than it does.
fn usable(applied: Lsn, files: &[WalFile], snapshot: Lsn) -> bool {
    let mut reached = applied;
    for file in files.iter().filter(|file| file.end > applied) {
        if file.first > reached {
            break;
        }
        reached = reached.max(file.end);
    }
    let end = files.last().map_or(Lsn(0), |file| file.end);
    snapshot <= applied || reached >= end.max(snapshot)
}

fn is_empty(db: &Db) -> Result<bool, Error> {
    for space in Space::ALL {
        if db.prefix(space, &[]).next().transpose()?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// True if the machine, not the database, is the reason.
fn is_environment(error: &fjall::Error) -> bool {
    use std::io::ErrorKind;
    match error {
        fjall::Error::Locked => true,
        fjall::Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::PermissionDenied | ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem
        ),
        _ => false,
    }
}

/// Only a log that is whole from the snapshot on, or without one from its first byte, gives the
/// state back.
fn refuse_if_hopeless(why: &str, newest: Option<Lsn>, files: &[WalFile]) -> Result<(), Error> {
    let first = files.first().map_or(FIRST_LSN, |file| file.first);
    let Some(reached) = (match newest {
        None if first == FIRST_LSN => None,
        None => Some("no good metadata snapshot is left".to_owned()),
        Some(newest) if newest >= first => None,
        Some(newest) => Some(format!("the newest good metadata snapshot ends at {newest}")),
    }) else {
        return Ok(());
    };
    Err(Error::Failed(format!(
        "the state is lost ({why}), the log begins at {first} and {reached}: put back the folder \
         `snapshots` from a backup, or start with a new data directory"
    )))
}

/// Keeps the unusable folder for whoever wants to look, in place of an earlier one.
fn set_aside(state_dir: &Path) -> Result<(), Error> {
    let aside = state_dir.with_extension("lost");
    let failed = |error: std::io::Error| {
        Error::Failed(format!("moving {} aside: {error}", state_dir.display()))
    };
    if aside.exists() {
        std::fs::remove_dir_all(&aside).map_err(failed)?;
    }
    std::fs::rename(state_dir, &aside).map_err(failed)
}

/// Greatest timestamp of a record batch of magic 2: 8 bytes at 35 (source: `DefaultRecordBatch`).
fn max_timestamp(batch: &[u8]) -> Option<i64> {
    let (bytes, _) = batch.get(35..)?.split_first_chunk()?;
    Some(i64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(first: u64, end: u64) -> WalFile {
        WalFile { first: Lsn(first), end: Lsn(end) }
    }

    #[test]
    fn fjall_is_used_only_if_it_can_be_told_the_rest() {
        let whole = [file(100, 200), file(200, 300)];
        let holed = [file(100, 200), file(300, 400)];
        for (applied, files, snapshot, expected, why) in [
            (150, &whole[..], 0, true, "all files are there"),
            (150, &whole[..], 180, true, "a newer snapshot does not matter then"),
            (100, &whole[..], 150, true, "from the first byte on"),
            (50, &whole[..], 120, false, "the file that it needs next was freed"),
            (50, &whole[..], 40, true, "nothing knows more"),
            (150, &holed[..], 320, false, "a file is missing and the snapshot is past it"),
            (150, &holed[..], 120, true, "a file is missing for everybody"),
            (500, &whole[..], 450, true, "the log lost its end"),
            (150, &[][..], 0, true, "the log lost everything"),
            (150, &[][..], 400, false, "the snapshot saved more than fjall"),
            (0, &[][..], 0, true, "new"),
        ] {
            assert_eq!(usable(Lsn(applied), files, Lsn(snapshot)), expected, "{why}");
        }
    }

    #[test]
    fn a_log_without_its_beginning_needs_a_snapshot() {
        assert!(refuse_if_hopeless("x", None, &[file(0, 9)]).is_ok());
        assert!(refuse_if_hopeless("x", None, &[]).is_ok());
        let error = refuse_if_hopeless("it was eaten", None, &[file(64, 99)]).unwrap_err();
        assert!(error.to_string().contains("it was eaten"), "{error}");
        let old = |lsn| refuse_if_hopeless("x", Some(Lsn(lsn)), &[file(64, 99)]);
        assert!(old(64).is_ok() && old(120).is_ok());
        let error = old(63).unwrap_err().to_string();
        assert!(error.contains("begins at 64") && error.contains("ends at 63"), "{error}");
    }
}
