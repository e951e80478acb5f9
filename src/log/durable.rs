//! What happens when a group is durable: its runs become readable, the high watermarks move,
//! readers wake. On the sync thread, before the producers are told.

use std::sync::Arc;

use crate::log::Partition;
use crate::log::shared::Shared;
use crate::types::Lsn;
use crate::wal::{self, OnDurable, WrittenFrame};

/// Moves high watermarks; nothing else does.
pub(crate) struct Publisher {
    shared: Arc<Shared>,
}

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl OnDurable for Publisher {
    fn durable(&mut self, frames: &[WrittenFrame], _end: Lsn) {
        let applied = self.shared.state.applied();
        let mut current: Option<(Arc<Partition>, i64)> = None;
        for run in wal::runs(frames) {
            let same = current.as_ref().is_some_and(|(open, _)| open.id() == run.partition);
            if !same {
                publish(current.take());
                // A partition that was removed meanwhile: nobody can read it.
                current = self.shared.partition(run.partition).map(|open| (open, 0));
            }
            if let Some((partition, end_offset)) = &mut current {
                partition.push(run, applied);
                *end_offset = run.end_offset;
            }
        }
        publish(current);
        // Nothing new: only where the records lie changes, and the index will say it.
        for run in wal::moved_runs(frames) {
            if let Some(partition) = self.shared.partition(run.partition) {
                partition.moved(run.end_offset);
            }
        }
    }
}

fn publish(current: Option<(Arc<Partition>, i64)>) {
    if let Some((partition, end_offset)) = current {
        partition.publish(end_offset);
    }
}
