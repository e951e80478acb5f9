//! Live records of old files are copied to the end of the log, so that a slow topic does not hold
//! the files of the fast ones (rules 2.7 and 3.5).
//!
//! Owns: which file is worth it (pure), reading and pacing. Does not own: what a copy changes
//! (`store`), when the old file is freed (`chores`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::log::chores::blocking;
use crate::log::ports::{FileUse, RunError};
use crate::log::read::tell_corrupt;
use crate::log::{AppendError, Log};
use crate::runtime::{Tasks, metrics as names};
use crate::types::Lsn;
use crate::wal::{Done, FrameDraft, Request, Run, WalFile, WrittenFrame};

/// The newest sealed files are left alone: most of what is in them is about to change.
const NEWEST_KEPT: usize = 2;

/// Of the live bytes, what may go while a file still counts as settled: one in eight.
const SETTLED_SHARE: u64 = 8;

/// A piece is closed when it has this many bytes of frames: one group, one sync.
const PIECE_BYTES: u64 = 1 << 20;

/// Most runs of a piece.
const PIECE_RUNS: usize = 512;

/// After a piece the mover rests so many times as long as it took: producers come first.
const REST_FACTOR: u32 = 3;

/// Longest rest.
const REST_MAX: Duration = Duration::from_secs(1);

/// Between two looks whether the next file is there,
const NEXT_POLL: Duration = Duration::from_millis(50);

/// and how many of them before it is given up until the next round.
const NEXT_POLLS_MAX: u32 = 100;

/// What is known of the files that are less than half live.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: BTreeMap<Lsn, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    live_bytes: u64,
    since_ms: i64,
    /// Its records were moved; what is left cannot be, and stays until retention takes it.
    done: bool,
}

impl Watch {
    /// The file to move next: of those that were less than half live for `delay_ms` the one with
    /// the least live share. A file that still loses records waits: soon it costs nothing.
    /// `sealed` are all files but the current one, in order.
    pub(crate) fn next(
        &mut self,
        sealed: &[FileUse],
        now_ms: i64,
        delay_ms: i64,
    ) -> Option<FileUse> {
        let old = &sealed[..sealed.len().saturating_sub(NEWEST_KEPT)];
        let sparse: Vec<FileUse> = old.iter().copied().filter(is_sparse).collect();
        let mut seen = BTreeMap::new();
        for file in &sparse {
            let now = Seen { live_bytes: file.live_bytes, since_ms: now_ms, done: false };
            let before = self.seen.remove(&file.file.first);
            let kept = before.filter(|seen| seen.done || seen.is_settled(file, now_ms));
            seen.insert(file.file.first, kept.unwrap_or(now));
        }
        self.seen = seen;
        let due = |file: &&FileUse| {
            let seen = self.seen.get(&file.file.first);
            seen.is_some_and(|seen| !seen.done && now_ms - seen.since_ms >= delay_ms)
        };
        let sparse = sparse.iter().filter(due);
        sparse.min_by(|a, b| (a.live_bytes * size(b)).cmp(&(b.live_bytes * size(a)))).copied()
    }

    /// What could be moved of the file is moved.
    pub(crate) fn done(&mut self, file: WalFile) {
        if let Some(seen) = self.seen.get_mut(&file.first) {
            seen.done = true;
        }
    }
}

impl Seen {
    fn is_settled(&self, file: &FileUse, now_ms: i64) -> bool {
        let lost = self.live_bytes.saturating_sub(file.live_bytes);
        lost <= self.live_bytes / SETTLED_SHARE && now_ms >= self.since_ms
    }
}

/// True if less than half of it is live, but something: a file without is freed as it is.
fn is_sparse(file: &FileUse) -> bool {
    file.live_bytes > 0 && file.live_bytes.saturating_mul(2) < size(file)
}

fn size(file: &FileUse) -> u64 {
    file.file.end.0 - file.file.first.0
}

/// Runs that are copied together.
#[derive(Default)]
struct Piece {
    /// The frames of each run, in order.
    runs: Vec<Vec<FrameDraft>>,
    bytes: u64,
    /// Runs that stay where they are, because their bytes are not sound.
    left: u64,
    /// Where to go on; none at the end of the file.
    next: Option<Lsn>,
}

impl Log {
    /// Moves live records out of sparse files, a look every `retention_interval`, until the
    /// tasks stop.
    pub(crate) fn spawn_moving(&self, tasks: &Tasks) {
        let (log, group) = (self.clone(), tasks.clone());
        let interval = self.inner.options.retention_interval.max(Duration::from_millis(10));
        tasks.spawn("log-moving", async move {
            let stop = group.stop_token();
            let mut watch = Watch::default();
            while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
                match stop.run_until_cancelled(log.move_records(&mut watch)).await {
                    None | Some(Err(AppendError::Closed)) => return,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => tracing::error!(%error, "records could not be moved"),
                }
            }
        });
    }

    /// Moves the live records of all files that are due; how many bytes.
    pub(crate) async fn move_records(&self, watch: &mut Watch) -> Result<u64, AppendError> {
        let mut moved = 0;
        loop {
            let frames = Arc::clone(&self.inner.frames);
            let sealed = blocking(move || Ok(frames.sealed())).await?;
            let (now_ms, delay_ms) = (self.inner.clock.now_ms(), self.inner.options.move_delay_ms);
            let Some(file) = watch.next(&sealed, now_ms, delay_ms) else {
                return Ok(moved);
            };
            let bytes = self.move_file(file).await;
            // No room at the moment: the next round goes on where this one ended. After an error
            // too the file is not tried again and again.
            let Some(bytes) = bytes.transpose() else {
                return Ok(moved);
            };
            watch.done(file.file);
            moved += bytes?;
        }
    }

    /// Moves the live records of one file; none if there is no room for them.
    async fn move_file(&self, file: FileUse) -> Result<Option<u64>, AppendError> {
        let (first, end) = (file.file.first, file.file.end);
        let (mut moved, mut runs, mut left) = (0, 0, 0);
        let mut from = Some(first);
        while let Some(at) = from {
            if !self.has_room().await {
                return Ok(None);
            }
            let begin = Instant::now();
            let log = self.clone();
            let piece = blocking(move || log.read_piece(at, end)).await?;
            (moved, left, from) = (moved + piece.bytes, left + piece.left, piece.next);
            runs += piece.runs.len();
            self.write_piece(piece.runs).await?;
            metrics::counter!(names::WAL_MOVED_BYTES).increment(piece.bytes);
            tokio::time::sleep((begin.elapsed() * REST_FACTOR).min(REST_MAX)).await;
        }
        let bytes = size(&file);
        tracing::info!(file = %first, bytes, moved, runs, left, "live records of a log file moved");
        Ok(Some(moved))
    }

    /// Waits for the next file: a mover that fills the current one must not be what keeps state
    /// from being written on a full disk.
    async fn has_room(&self) -> bool {
        for _ in 0..NEXT_POLLS_MAX {
            if self.inner.frames.has_next() {
                return true;
            }
            tokio::time::sleep(NEXT_POLL).await;
        }
        false
    }

    /// Reads live runs of `[from, end)`, every check made. Blocks.
    fn read_piece(&self, from: Lsn, end: Lsn) -> Result<Piece, String> {
        let frames = &self.inner.frames;
        let page = frames.live_runs(from, end, PIECE_RUNS)?;
        let mut piece = Piece { next: page.next, ..Piece::default() };
        for run in page.runs {
            if piece.bytes >= PIECE_BYTES {
                piece.next = Some(run.lsn);
                break;
            }
            if !self.is_wanted(&run) {
                continue;
            }
            match frames.read_run(&run) {
                Ok(found) => {
                    piece.bytes += u64::from(run.disk_len);
                    let copy = |frame: WrittenFrame| FrameDraft {
                        moved_ms: Some(frame.append_ms),
                        ..frame.draft
                    };
                    piece.runs.push(found.into_iter().map(copy).collect());
                }
                Err(RunError::Absent) => {}
                Err(RunError::Corrupt(reason)) => {
                    piece.left += 1;
                    tell_corrupt(self.inner.directory.as_ref(), &run, &reason);
                }
                Err(RunError::Io(error)) => return Err(error),
            }
        }
        let read_to = piece.next.unwrap_or(end);
        for lsn in page.unreadable.iter().filter(|lsn| **lsn < read_to) {
            piece.left += 1;
            tracing::error!(%lsn, "a frame with records is corrupt, it is not moved");
        }
        Ok(piece)
    }

    /// False for what goes anyway.
    fn is_wanted(&self, run: &Run) -> bool {
        let partition = self.inner.shared.partition(run.partition);
        partition.is_some_and(|partition| run.end_offset > partition.log_start_offset())
    }

    /// Appends the copies; they are durable and in the index when it returns.
    async fn write_piece(&self, runs: Vec<Vec<FrameDraft>>) -> Result<(), AppendError> {
        let mut applied = Vec::with_capacity(runs.len());
        for frames in runs {
            let (sender, receiver) = oneshot::channel();
            let done = Done::Applied(Box::new(move |ack| drop(sender.send(ack))));
            let request = Request { frames, done, permit: None };
            self.inner.frames.append(request).await?;
            applied.push(receiver);
        }
        for answer in applied {
            answer.await.map_err(|_| AppendError::Closed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
