//! The sync thread: one `fdatasync` for all groups that wait, then high watermarks, then answers
//! (rules 3.1). A failed sync is never tried again: the kernel may have dropped the pages.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

use crate::runtime::files::SyncPoint;
use crate::runtime::metrics;
use crate::types::Lsn;
use crate::wal::files::Files;
use crate::wal::group::{Group, SyncStep};
use crate::wal::handle::{Context, Shared};
use crate::wal::{Ack, Done, OnDurable, WrittenFrame};

/// Groups covered by one sync.
const GROUPS_PER_SYNC_MAX: usize = 64;

/// A durable group on its way to the store.
pub(crate) struct Durable {
    pub(crate) frames: Vec<WrittenFrame>,
    pub(crate) answers: Vec<(Done, Ack)>,
    pub(crate) end: Lsn,
}

pub(crate) struct Syncer {
    pub(crate) groups: Receiver<Group>,
    pub(crate) durable: SyncSender<Durable>,
    pub(crate) on_durable: Box<dyn OnDurable>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Arc<Files>,
    pub(crate) context: Context,
}

impl Syncer {
    /// Runs until the sequencer ends.
    pub(crate) fn run(mut self) {
        while let Ok(first) = self.groups.recv() {
            let mut groups = vec![first];
            groups.extend(self.groups.try_iter().take(GROUPS_PER_SYNC_MAX - 1));
            if let Err(error) = self.sync(&groups) {
                self.shared.fail();
                self.files.stop();
                self.context.tasks.fatal(&format!(
                    "sync of the log failed: {error}; nothing past position {} is acknowledged, \
                     restart to recover",
                    self.shared.durable()
                ));
                return;
            }
            if !self.publish(groups) {
                self.shared.fail();
                self.files.stop();
                return;
            }
        }
    }

    fn sync(&self, groups: &[Group]) -> std::io::Result<()> {
        let steps = || groups.iter().flat_map(|group| &group.steps);
        if steps().next().is_none() {
            return Ok(());
        }
        self.context.fail_points.hit("wal.before_sync").map_err(std::io::Error::other)?;
        let begin = Instant::now();
        let mut last_first = None;
        // Files in order: one is synced, seal included, before its follower. A file is named
        // once: of neighbouring steps only the first one is needed, as all is written by now.
        for step in steps() {
            match step {
                SyncStep::File(file) if last_first != Some(file.first) => {
                    file.file.sync_data(SyncPoint::WalGroup)?;
                    last_first = Some(file.first);
                }
                SyncStep::File(_) => {}
                SyncStep::Folder => {
                    self.files.fs.sync_dir(&self.files.wal_dir, SyncPoint::WalDir)?;
                }
            }
        }
        ::metrics::histogram!(metrics::WAL_SYNC_SECONDS).record(begin.elapsed().as_secs_f64());
        ::metrics::counter!(metrics::WAL_GROUPS).increment(1);
        ::metrics::counter!(metrics::WAL_BYTES)
            .increment(groups.iter().map(|group| group.bytes).sum());
        self.context.fail_points.hit("wal.after_sync").map_err(std::io::Error::other)
    }

    /// Tells everyone. False if the apply thread is gone.
    fn publish(&mut self, groups: Vec<Group>) -> bool {
        if let Some(last) = groups.last() {
            self.shared.set_durable(last.end);
        }
        for group in groups {
            if !group.frames.is_empty() {
                self.on_durable.durable(&group.frames, group.end);
            }
            let mut applied = Vec::new();
            for (done, ack) in group.answers {
                match done {
                    Done::Durable(tell) => tell(ack),
                    Done::Applied(_) => applied.push((done, ack)),
                }
            }
            for sealed in group.sealed {
                self.files.sealed(sealed);
            }
            if let Some(flushed) = group.flushed {
                // Nobody waits any more if this fails.
                let _ = flushed.send(());
            }
            if group.frames.is_empty() && applied.is_empty() {
                continue;
            }
            let durable = Durable { frames: group.frames, answers: applied, end: group.end };
            if self.durable.send(durable).is_err() {
                return false;
            }
        }
        true
    }
}
