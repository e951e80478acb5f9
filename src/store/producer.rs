//! What is remembered of one idempotent producer of one partition (KIP-98): its epoch and its
//! last five batches.
//!
//! ```text
//! value:  version u8 = 1 | epoch i16 | count u8 (0 to 5) | batch * count, oldest first
//! batch:  first_sequence i32 | last_sequence i32 | base_offset i64 | append_ms i64
//! ```
//!
//! Owns: the layout and what an accepted batch does to it. Does not own: which batch is accepted
//! (`log`).

use crate::store::Error;
use crate::store::keys::{malformed, versioned};
use crate::types::Offset;

/// Batches that are remembered (source: `ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
pub const BATCHES_MAX: usize = 5;

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// Sequence of its first record.
    pub first_sequence: i32,
    /// Sequence of its last record, inclusive.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Broker time of the append, milliseconds.
    pub append_ms: i64,
}

/// The state of one producer in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Its newest epoch.
    pub epoch: i16,
    /// At most [`BATCHES_MAX`], oldest first, all of this epoch.
    pub batches: Vec<ProducerBatch>,
}

impl ProducerEntry {
    /// A producer that has written nothing yet.
    pub fn new(epoch: i16) -> Self {
        Self { epoch, batches: Vec::with_capacity(BATCHES_MAX) }
    }

    /// Remembers an accepted batch of `record_count` records. A newer epoch forgets the batches
    /// of the older one; a batch of an older epoch changes nothing.
    pub fn record(
        &mut self,
        epoch: i16,
        base_sequence: i32,
        record_count: u32,
        base_offset: Offset,
        append_ms: i64,
    ) {
        if epoch < self.epoch {
            return;
        }
        if epoch > self.epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
        // Control batches have a producer but no sequence.
        if base_sequence < 0 || record_count == 0 {
            return;
        }
        // A replayed frame must leave the entry as it is.
        if self.batches.iter().any(|batch| batch.base_offset == base_offset) {
            return;
        }
        if self.batches.len() == BATCHES_MAX {
            self.batches.remove(0);
        }
        self.batches.push(ProducerBatch {
            first_sequence: base_sequence,
            last_sequence: sequence_after(base_sequence, record_count - 1),
            base_offset,
            append_ms,
        });
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 24 * self.batches.len());
        out.push(1);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.push(self.batches.len().min(BATCHES_MAX) as u8);
        for batch in self.batches.iter().take(BATCHES_MAX) {
            out.extend_from_slice(&batch.first_sequence.to_le_bytes());
            out.extend_from_slice(&batch.last_sequence.to_le_bytes());
            out.extend_from_slice(&batch.base_offset.to_le_bytes());
            out.extend_from_slice(&batch.append_ms.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Error> {
        let rest = versioned(value)?;
        let (&[low, high, count], rest) =
            rest.split_first_chunk().ok_or_else(|| malformed("producer entry", value))?;
        let (batches, rest) = rest.as_chunks::<24>();
        if !rest.is_empty() || batches.len() != usize::from(count) || batches.len() > BATCHES_MAX {
            return Err(malformed("producer entry", value));
        }
        let batches = batches.iter().map(decode_batch).collect();
        Ok(Self { epoch: i16::from_le_bytes([low, high]), batches })
    }
}

/// The sequence `by` after `sequence`; after 2^31 - 1 comes 0
/// (source: `DefaultRecordBatch.incrementSequence`).
pub fn sequence_after(sequence: i32, by: u32) -> i32 {
    let sum = i64::from(sequence) + i64::from(by);
    i32::try_from(sum % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}

fn decode_batch(bytes: &[u8; 24]) -> ProducerBatch {
    let half = |at: usize| -> [u8; 4] { std::array::from_fn(|i| bytes[at + i]) };
    let word = |at: usize| -> [u8; 8] { std::array::from_fn(|i| bytes[at + i]) };
    ProducerBatch {
        first_sequence: i32::from_le_bytes(half(0)),
        last_sequence: i32::from_le_bytes(half(4)),
        base_offset: i64::from_le_bytes(word(8)),
        append_ms: i64::from_le_bytes(word(16)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_five_batches_stay() {
        let mut entry = ProducerEntry::new(0);
        for i in 0..7 {
            entry.record(0, i * 10, 10, i64::from(i) * 10, 5);
        }
        let bases: Vec<i64> = entry.batches.iter().map(|batch| batch.base_offset).collect();
        assert_eq!(bases, [20, 30, 40, 50, 60]);
        assert_eq!(entry.batches[4].last_sequence, 69);
    }

    #[test]
    fn a_newer_epoch_forgets_and_an_older_one_changes_nothing() {
        let mut entry = ProducerEntry::new(3);
        entry.record(3, 0, 1, 0, 5);
        entry.record(2, 9, 1, 1, 5);
        assert_eq!((entry.epoch, entry.batches.len()), (3, 1));
        entry.record(4, 0, 1, 2, 5);
        assert_eq!((entry.epoch, entry.batches[0].base_offset), (4, 2));
        assert_eq!(entry.batches.len(), 1);
    }

    #[test]
    fn a_batch_recorded_twice_counts_once() {
        let mut entry = ProducerEntry::new(0);
        entry.record(0, 0, 5, 100, 1);
        let once = entry.clone();
        entry.record(0, 0, 5, 100, 1);
        assert_eq!(entry, once);
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(sequence_after(i32::MAX, 0), i32::MAX);
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 4), 2);
        assert_eq!(sequence_after(0, u32::MAX), i32::MAX);
    }

    #[test]
    fn a_control_batch_only_moves_the_epoch() {
        let mut entry = ProducerEntry::new(0);
        entry.record(1, -1, 1, 7, 1);
        assert_eq!(entry, ProducerEntry::new(1));
    }

    #[test]
    fn layout_is_the_golden_one() {
        let mut entry = ProducerEntry::new(2);
        entry.record(2, 1, 3, 4, 5);
        let golden = b"\x01\x02\0\x01\x01\0\0\0\x03\0\0\0\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0";
        assert_eq!(entry.encode(), golden);
        assert_eq!(ProducerEntry::decode(golden).unwrap(), entry);
    }

    proptest! {
        #[test]
        fn entries_survive_a_round_trip(
            epoch in 0..i16::MAX,
            batches in prop::collection::vec(
                (0..i32::MAX, 1..1000u32, 0..i64::MAX, 0..i64::MAX), 0..9,
            ),
        ) {
            let mut entry = ProducerEntry::new(epoch);
            for (sequence, count, base, ms) in batches {
                entry.record(epoch, sequence, count, base, ms);
            }
            prop_assert_eq!(ProducerEntry::decode(&entry.encode()).unwrap(), entry);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..150)) {
            let _ = ProducerEntry::decode(&bytes);
        }
    }
}
