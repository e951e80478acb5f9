//! The rules of append as the step that runs on the sequencer thread.

use std::collections::HashMap;
use std::sync::Arc;

use crate::log::shared::{Order, Shared};
use crate::log::state::{BatchFacts, Outcome, PartitionAppend, Refusal};
use crate::log::{AppendError, Partition};
use crate::types::PartitionId;
use crate::wal::{FrameDraft, FrameKind, Sequence, Verdict};

/// Owns the append state of all partitions.
pub(crate) struct Sequencer {
    shared: Arc<Shared>,
    partitions: HashMap<PartitionId, Entry>,
}

struct Entry {
    partition: Arc<Partition>,
    append: PartitionAppend,
}

impl Sequencer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, partitions: HashMap::new() }
    }

    /// Takes over the state of a partition that was found at start.
    pub(crate) fn insert(&mut self, partition: Arc<Partition>, append: PartitionAppend) {
        self.partitions.insert(partition.id(), Entry { partition, append });
    }

    fn entry(&mut self, id: PartitionId) -> Option<&mut Entry> {
        if !self.partitions.contains_key(&id) {
            // A partition that was made while we run: nothing was ever appended to it.
            let partition = self.shared.partition(id)?;
            let entry = Entry { partition, append: PartitionAppend::default() };
            self.partitions.insert(id, entry);
        }
        self.partitions.get_mut(&id).filter(|entry| !entry.partition.is_removed())
    }

    fn obey(&mut self) {
        for order in self.shared.take_orders() {
            match order {
                Order::Forget(ids) => {
                    for id in ids {
                        self.partitions.remove(&id);
                    }
                }
                Order::ExpireProducers { before_ms } => {
                    for entry in self.partitions.values_mut() {
                        entry.append.expire(before_ms);
                    }
                }
            }
        }
    }

    fn one(&mut self, frame: &mut FrameDraft, append_ms: i64) -> Verdict {
        let Some(entry) = self.entry(frame.partition) else {
            return Verdict::Reject(Refusal::UnknownPartition as u16);
        };
        match entry.append.append(&facts(frame), append_ms) {
            Outcome::Accept(base_offset) => {
                frame.base_offset = base_offset;
                Verdict::Write
            }
            Outcome::Duplicate { base_offset, append_ms } => {
                Verdict::Duplicate { base_offset, append_ms }
            }
            Outcome::Refuse(refusal) => Verdict::Reject(refusal as u16),
        }
    }

    /// All or none: looks at every frame before the first one counts.
    fn chain(&mut self, frames: &mut [FrameDraft], append_ms: i64) -> Verdict {
        for frame in frames.iter().filter(|frame| is_records(frame)) {
            // A chain has one verdict for all of its frames, so it cannot say "duplicate" of
            // one: only requests that we build ourselves, without producers, are chains.
            if frame.producer_id >= 0 {
                return Verdict::Reject(Refusal::OutOfOrderSequence as u16);
            }
            let Some(entry) = self.entry(frame.partition) else {
                return Verdict::Reject(Refusal::UnknownPartition as u16);
            };
            if let Outcome::Refuse(refusal) = entry.append.check(&facts(frame)) {
                return Verdict::Reject(refusal as u16);
            }
        }
        for frame in frames.iter_mut().filter(|frame| is_records(frame)) {
            let verdict = self.one(frame, append_ms);
            // The checks above leave 2^40 offsets of room, more than any chain takes.
            debug_assert_eq!(verdict, Verdict::Write);
        }
        Verdict::Write
    }
}

impl Sequence for Sequencer {
    fn assign(&mut self, frames: &mut [FrameDraft], append_ms: i64) -> Verdict {
        self.obey();
        match frames {
            [frame] if is_records(frame) => self.one(frame, append_ms),
            frames => self.chain(frames, append_ms),
        }
    }
}

/// What a rejected append means.
pub(crate) fn error_of(code: u16) -> AppendError {
    match Refusal::from_code(code) {
        Some(Refusal::UnknownPartition) => AppendError::UnknownPartition,
        Some(Refusal::OutOfOrderSequence) => AppendError::OutOfOrderSequence,
        Some(Refusal::InvalidProducerEpoch) => AppendError::InvalidProducerEpoch,
        Some(Refusal::OffsetsExhausted) => {
            AppendError::StorageFull("the partition has no offsets left".to_owned())
        }
        None => AppendError::StorageFull(format!("the log refused with code {code}")),
    }
}

fn is_records(frame: &FrameDraft) -> bool {
    matches!(frame.kind, FrameKind::Records | FrameKind::HttpRecords)
}

fn facts(frame: &FrameDraft) -> BatchFacts {
    BatchFacts {
        record_count: frame.record_count,
        producer_id: frame.producer_id,
        producer_epoch: frame.producer_epoch,
        base_sequence: frame.base_sequence,
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
