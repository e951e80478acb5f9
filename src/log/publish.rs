//! What happens when a group is in the log: its runs become readable, the high watermarks move,
//! readers wake; and once it is synced, the durable ends follow. With `log.flush = always` both
//! come together, on the sync thread, before the producers are told.

use std::sync::Arc;

use crate::log::Partition;
use crate::log::shared::Shared;
use crate::wal::{self, Publish, Run, WrittenFrame};

/// Moves high watermarks and durable ends; nothing else does.
pub(crate) struct Publisher {
    shared: Arc<Shared>,
}

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Visits the runs of new records, those that follow each other in one partition together.
    fn visit(&self, frames: &[WrittenFrame], see: impl Fn(&Partition, &[Run], &Run)) {
        for runs in wal::runs(frames).chunk_by(|left, right| left.partition == right.partition) {
            // A partition that was removed meanwhile: nobody can read it.
            if let Some(last) = runs.last()
                && let Some(partition) = self.shared.partition(last.partition)
            {
                see(&partition, runs, last);
            }
        }
    }
}

impl Publish for Publisher {
    fn readable(&self, frames: &[WrittenFrame]) {
        let applied = self.shared.state.applied();
        self.visit(frames, |partition, runs, last| {
            runs.iter().for_each(|run| partition.push(*run, applied));
            partition.publish(last.end_offset);
        });
    }

    fn durable(&self, frames: &[WrittenFrame]) {
        self.visit(frames, |partition, _, last| partition.set_durable_end(last.end_offset));
        // Nothing new: only where the records lie changes, and the index will say it.
        for run in wal::moved_runs(frames) {
            if let Some(partition) = self.shared.partition(run.partition) {
                partition.moved(run.end_offset);
            }
        }
    }
}
