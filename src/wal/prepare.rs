//! The background thread of the log: the next file, the rest of sealed files, free space, and
//! the tick that tells the sequencer that time passed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::runtime::metrics;
use crate::types::Lsn;
use crate::wal::directory::name_of;
use crate::wal::files::{Files, NEXT_NAME, Next, make_file, recycle};
use crate::wal::sequencer::Command;

/// Runs until [`Files::stop`].
pub(crate) fn run(files: &Files, ticks: &mpsc::WeakSender<Command>, period: Duration) {
    let mut retry_at = Instant::now();
    loop {
        if !cut_sealed(files) {
            return;
        }
        if wants_next(files) && Instant::now() >= retry_at && !make_next(files) {
            retry_at = Instant::now() + period;
        }
        refresh_admission(files);
        if let Some(queue) = ticks.upgrade() {
            // A full queue is not quiet.
            let _ = queue.try_send(Command::Tick);
        }
        let mut state = files.state.lock();
        let idle = state.cuts.is_empty() && !matches!(state.next, Next::Missing);
        if !state.stop && idle {
            files.changed.wait_for(&mut state, period);
        }
        if state.stop {
            return;
        }
    }
}

fn wants_next(files: &Files) -> bool {
    !matches!(files.state.lock().next, Next::Ready(_))
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

fn make_next(files: &Files) -> bool {
    let (fs, wal_dir, bytes) = (&*files.fs, &files.wal_dir, files.file_bytes);
    let made = match files.take_spare() {
        Some(spare) => recycle(fs, wal_dir, &spare, bytes),
        None => make_file(fs, wal_dir, bytes, &files.urgent),
    };
    let mut state = files.state.lock();
    let ok = made.is_ok();
    state.next = match made {
        Ok(file) => Next::Ready(file),
        Err(error) => {
            tracing::warn!(%error, "the next log file could not be made");
            // What there is of it would only take room from the state that frees some.
            let _ = files.fs.remove_file(&files.wal_dir.join(NEXT_NAME));
            Next::Failed(error.to_string())
        }
    };
    drop(state);
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
        drop_spares(files);
    }
    files.refuse(refusal);
}

/// Gives the room of spare files back.
fn drop_spares(files: &Files) {
    while let Some(spare) = files.take_spare() {
        if let Err(error) = files.fs.remove_file(&spare) {
            tracing::warn!(?spare, %error, "a spare log file was not removed");
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
