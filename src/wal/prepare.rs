//! The background thread of the log: the next file, the rest of sealed files, free space, and
//! the tick that tells the sequencer that time passed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::runtime::files::{File, SyncPoint};
use crate::runtime::metrics;
use crate::types::Lsn;
use crate::wal::directory::name_of;
use crate::wal::files::{Files, NEXT_NAME, Next};
use crate::wal::sequencer::Command;
use crate::wal::spares::Spares;

/// Bytes that are written at once while the next file is made.
const CHUNK: u64 = 1 << 20;

/// Synced now and then, so that one sync does not hold up those of the groups for long.
const CHUNKS_PER_SYNC: u64 = 8;

/// From one chunk to the next: 32 MiB a second. Blocks that were written before take groups at twice
/// the rate, but a log that fills files faster than this would only have its disk and its memory
/// write everything twice (docs/adr/0001-one-log.md).
const CHUNK_PAUSE: Duration = Duration::from_micros(31_250);

/// Runs until [`Files::stop`].
pub(crate) fn run(files: &Files, ticks: &mpsc::WeakSender<Command>, period: Duration) {
    let mut making = None;
    let mut retry_at = Instant::now();
    let mut tick_at = Instant::now();
    while cut_sealed(files) {
        if wants_next(files) && Instant::now() >= retry_at && !advance(files, &mut making) {
            retry_at = Instant::now() + period;
        }
        refresh_admission(files);
        if Instant::now() >= tick_at
            && let Some(queue) = ticks.upgrade()
        {
            // A full queue is not quiet.
            let _ = queue.try_send(Command::Tick);
            drop_spares(files, |spares| spares.take_surplus(Instant::now()));
            tick_at = Instant::now() + period;
        }
        let mut state = files.state.lock();
        if state.stop {
            return;
        }
        if !state.cuts.is_empty() {
            continue;
        }
        let pause = match &making {
            Some(_) if files.urgent.load(Ordering::Relaxed) => continue,
            Some(_) => CHUNK_PAUSE.min(period),
            None if matches!(state.next, Next::Missing) => continue,
            None => period,
        };
        files.changed.wait_for(&mut state, pause);
    }
}

fn wants_next(files: &Files) -> bool {
    !matches!(files.state.lock().next, Next::Ready(_))
}

/// The next file while it is made, under its temporary name.
struct Making {
    file: Arc<dyn File>,
    /// Its blocks below were written before.
    written: u64,
    chunks: u64,
    /// When the next chunk is due.
    due: Instant,
}

impl Making {
    /// A spare, all of whose blocks but those after its end were written: what is in it are frames
    /// of other positions, which nobody takes for his own. Else an empty file.
    fn start(files: &Files) -> io::Result<Self> {
        let (fs, path) = (&*files.fs, files.wal_dir.join(NEXT_NAME));
        if fs.exists(&path) {
            fs.remove_file(&path)?;
        }
        let (file, written) = match files.take_spare(Spares::take) {
            Some(spare) => {
                fs.rename(&spare.path, &path)?;
                let file = fs.open(&path)?;
                let length = file.length()?;
                if length > files.file_bytes {
                    file.set_len(files.file_bytes)?;
                }
                ::metrics::counter!(metrics::WAL_RECYCLED).increment(1);
                (file, length.min(files.file_bytes))
            }
            None => (fs.create_new(&path)?, 0),
        };
        Ok(Self { file, written, chunks: 0, due: Instant::now() })
    }

    /// Writes one chunk of zeros, or makes the rest a hole where the file is needed now. True once
    /// it is whole and synced.
    fn step(&mut self, bytes: u64, is_urgent: bool) -> io::Result<bool> {
        if self.written < bytes && is_urgent {
            self.file.set_len(bytes)?;
            self.written = bytes;
        }
        if self.written < bytes {
            if Instant::now() < self.due {
                return Ok(false);
            }
            // Up to the end of a chunk: a spare may have been cut anywhere.
            let now = (bytes - self.written).min(CHUNK - self.written % CHUNK);
            self.file.write_zeros_at(now, self.written)?;
            self.written += now;
            self.chunks += 1;
            self.due = Instant::now() + CHUNK_PAUSE;
            if self.chunks.is_multiple_of(CHUNKS_PER_SYNC) {
                self.file.sync_data(SyncPoint::WalFile)?;
            }
        }
        if self.written < bytes {
            return Ok(false);
        }
        self.file.sync_all(SyncPoint::WalFile)?;
        Ok(true)
    }
}

/// Cuts what follows the seal of sealed files. False if the log is stopping.
fn cut_sealed(files: &Files) -> bool {
    let cuts = {
        let mut state = files.state.lock();
        if state.stop {
            return false;
        }
        std::mem::take(&mut state.cuts)
    };
    for cut in cuts {
        let length = cut.end.0 - cut.first.0;
        // It may be freed by now. Uncut it only takes more room than it needs.
        let path = files.wal_dir.join(name_of(Lsn(cut.first.0)));
        if let Err(error) = files.fs.open(&path).and_then(|file| file.set_len(length)) {
            tracing::debug!(?path, %error, "the rest of a sealed file was not cut");
        }
    }
    true
}

/// Goes on making the next file. False if it cannot be made.
fn advance(files: &Files, making: &mut Option<Making>) -> bool {
    let step = |making: &mut Option<Making>| {
        let one = match making.take() {
            Some(one) => making.insert(one),
            None => making.insert(Making::start(files)?),
        };
        one.step(files.file_bytes, files.urgent.load(Ordering::Relaxed))
    };
    let next = match step(making) {
        Ok(false) => return true,
        Ok(true) => making.take().map_or(Next::Missing, |made| Next::Ready(made.file)),
        Err(error) => {
            *making = None;
            tracing::warn!(%error, "the next log file could not be made");
            // What there is of it would only take room from the state that frees some.
            let _ = files.fs.remove_file(&files.wal_dir.join(NEXT_NAME));
            Next::Failed(error.to_string())
        }
    };
    let ok = matches!(next, Next::Ready(_));
    files.state.lock().next = next;
    files.changed.notify_all();
    ok
}

fn refresh_admission(files: &Files) {
    let trouble = match &files.state.lock().next {
        Next::Failed(error) => Some(format!("the next log file could not be made: {error}")),
        Next::Missing | Next::Ready(_) => None,
    };
    let refusal = trouble.or_else(|| match files.fs.space(&files.wal_dir) {
        Ok(space) => {
            ::metrics::gauge!(metrics::WAL_FREE_BYTES).set(space.free_bytes as f64);
            files.floor.refusal(space)
        }
        Err(error) => Some(format!("free space is not known: {error}")),
    });
    if refusal.is_some() {
        drop_spares(files, Spares::take_any);
    }
    files.refuse(refusal);
}

/// Gives the room of the spare files that `take` gives the places of back.
fn drop_spares(files: &Files, take: impl Fn(&mut Spares) -> Option<usize>) {
    while let Some(spare) = files.take_spare(&take) {
        if let Err(error) = files.fs.remove_file(&spare.path) {
            tracing::warn!(spare = ?spare.path, %error, "a spare log file was not removed");
        }
    }
}

/// What the thread needs, so that it does not keep the queue open.
pub(crate) struct Preparer {
    pub(crate) files: Arc<Files>,
    pub(crate) ticks: mpsc::WeakSender<Command>,
    pub(crate) period: Duration,
}

impl Preparer {
    pub(crate) fn run(self) {
        run(&self.files, &self.ticks, self.period);
    }
}
