//! The sync thread: one `fdatasync` for all groups that wait, then high watermarks, then answers
//! (rules 3.1). Where `log.flush` lets answers run ahead (rules 3.4) the sequencer has given them,
//! and the sync waits until its time comes or somebody needs it. A failed sync is never tried
//! again: the kernel may have dropped the pages.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use crate::config::Flush;
use crate::runtime::files::SyncPoint;
use crate::runtime::metrics;
use crate::types::Lsn;
use crate::wal::files::Files;
use crate::wal::group::{Group, SyncStep};
use crate::wal::handle::Context;
use crate::wal::shared::Shared;
use crate::wal::{Ack, Done, Publish, WrittenFrame};

/// Groups covered by one sync.
const GROUPS_PER_SYNC_MAX: usize = 64;

/// With answers that run ahead: frames that wait for a sync, about 200 bytes of memory each.
const UNSYNCED_FRAMES_MAX: usize = 1 << 16;

/// A durable group on its way to the store.
pub(crate) struct Durable {
    pub(crate) frames: Vec<WrittenFrame>,
    pub(crate) answers: Vec<(Done, Ack)>,
    pub(crate) end: Lsn,
}

pub(crate) struct Syncer {
    pub(crate) groups: Receiver<Group>,
    pub(crate) durable: SyncSender<Durable>,
    pub(crate) publish: Arc<dyn Publish>,
    pub(crate) flush: Flush,
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Arc<Files>,
    pub(crate) context: Context,
}

impl Syncer {
    /// Runs until the sequencer ends.
    pub(crate) fn run(self) {
        while let Some(groups) = self.gather() {
            if let Err(error) = self.sync(&groups) {
                self.shared.fail();
                self.files.stop();
                self.context.tasks.fatal(&format!(
                    "sync of the log failed: {error}; nothing past position {} is durable, \
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

    /// The groups that one sync covers; none at the end.
    fn gather(&self) -> Option<Vec<Group>> {
        let mut groups = vec![self.groups.recv().ok()?];
        if let Some(delay) = self.flush.delay() {
            self.linger(&mut groups, delay);
        }
        groups.extend(self.groups.try_iter().take(GROUPS_PER_SYNC_MAX - 1));
        Some(groups)
    }

    /// Adds groups until one is awaited, `delay` has passed, or too much waits.
    fn linger(&self, groups: &mut Vec<Group>, delay: Duration) {
        let until = Instant::now() + delay;
        let mut frames = 0;
        while let Some(last) = groups.last() {
            // Groups of nothing but a mark count too: they are few.
            frames += last.frames.len().max(1);
            if last.is_awaited() || frames >= UNSYNCED_FRAMES_MAX {
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.groups.recv_timeout(left) {
                Ok(next) => groups.push(next),
                // Time is up, or no more will come.
                Err(_) => return,
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
    fn publish(&self, groups: Vec<Group>) -> bool {
        if let Some(last) = groups.last() {
            self.shared.set_durable(last.end);
            self.shared.count_unsynced();
        }
        for mut group in groups {
            if !group.frames.is_empty() {
                self.publish.durable(&group.frames);
            }
            if self.flush == Flush::Always {
                group.announce(&*self.publish);
            }
            for sealed in group.sealed {
                self.files.sealed(sealed);
            }
            if let Some(flushed) = group.flushed {
                // Nobody waits any more if this fails.
                let _ = flushed.send(());
            }
            if group.frames.is_empty() && group.answers.is_empty() {
                continue;
            }
            let durable = Durable { frames: group.frames, answers: group.answers, end: group.end };
            if self.durable.send(durable).is_err() {
                return false;
            }
        }
        true
    }
}
