//! The rules of append: offsets and idempotent producers, as pure functions over plain state.
//!
//! Owns: which batch is accepted (KIP-98, KIP-360; source: `ProducerAppendInfo`,
//! `ProducerStateEntry`). Does not own: when it is durable.

use std::collections::HashMap;

use crate::store::{ProducerEntry, sequence_after};
use crate::types::Offset;

/// Producers remembered per partition in memory. Above it the ones that were silent longest are
/// forgotten, which only means that their next sequence is taken as it comes.
pub(crate) const PRODUCERS_MAX: usize = 16_384;

/// No partition goes past this offset, so that no sum overflows.
const OFFSET_MAX: Offset = i64::MAX - (1 << 40);

/// What the rules look at in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchFacts {
    /// Records in it, at least 1.
    pub(crate) record_count: u32,
    /// Producer id, or -1.
    pub(crate) producer_id: i64,
    /// Producer epoch, or -1.
    pub(crate) producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub(crate) base_sequence: i32,
}

/// Why a batch is refused. The numbers travel through the log as [`crate::wal::Verdict::Reject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Refusal {
    UnknownPartition = 1,
    OutOfOrderSequence = 2,
    InvalidProducerEpoch = 3,
    OffsetsExhausted = 4,
}

impl Refusal {
    /// The refusal with that number.
    pub(crate) fn from_code(code: u16) -> Option<Self> {
        [
            Self::UnknownPartition,
            Self::OutOfOrderSequence,
            Self::InvalidProducerEpoch,
            Self::OffsetsExhausted,
        ]
        .into_iter()
        .find(|refusal| *refusal as u16 == code)
    }
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It gets offsets from here on.
    Accept(Offset),
    /// It is in the log already.
    Duplicate { base_offset: Offset, append_ms: i64 },
    /// Nothing happens.
    Refuse(Refusal),
}

/// The append state of one partition: pending, that is as if all accepted batches were durable.
#[derive(Debug, Default)]
pub(crate) struct PartitionAppend {
    next_offset: Offset,
    producers: HashMap<i64, ProducerEntry>,
}

impl PartitionAppend {
    pub(crate) fn new(next_offset: Offset, producers: HashMap<i64, ProducerEntry>) -> Self {
        Self { next_offset, producers }
    }

    /// Decides on a batch and, if it is accepted, counts it.
    pub(crate) fn append(&mut self, batch: &BatchFacts, append_ms: i64) -> Outcome {
        let outcome = self.check(batch);
        if let Outcome::Accept(base_offset) = outcome {
            self.accept(batch, base_offset, append_ms);
        }
        outcome
    }

    /// Decides without counting.
    pub(crate) fn check(&self, batch: &BatchFacts) -> Outcome {
        if batch.producer_id >= 0
            && let Some(entry) = self.producers.get(&batch.producer_id)
            && let Some(outcome) = check_producer(entry, batch)
        {
            return outcome;
        }
        // No state for the producer (new, expired, deleted): any first sequence is taken.
        if self.next_offset > OFFSET_MAX {
            return Outcome::Refuse(Refusal::OffsetsExhausted);
        }
        Outcome::Accept(self.next_offset)
    }

    fn accept(&mut self, batch: &BatchFacts, base_offset: Offset, append_ms: i64) {
        self.next_offset = base_offset + i64::from(batch.record_count);
        if batch.producer_id < 0 {
            return;
        }
        if self.producers.len() >= PRODUCERS_MAX && !self.producers.contains_key(&batch.producer_id)
        {
            self.forget_silent(PRODUCERS_MAX / 8);
        }
        let entry = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(|| ProducerEntry::new(batch.producer_epoch));
        entry.record(
            batch.producer_epoch,
            batch.base_sequence,
            batch.record_count,
            base_offset,
            append_ms,
        );
    }

    /// Forgets producers whose last batch was appended before `before_ms`.
    pub(crate) fn expire(&mut self, before_ms: i64) {
        self.producers.retain(|_, entry| last_append_ms(entry) >= before_ms);
        if self.producers.capacity() > 4 * self.producers.len() {
            self.producers.shrink_to_fit();
        }
    }

    fn forget_silent(&mut self, count: usize) {
        let mut ages: Vec<(i64, i64)> =
            self.producers.iter().map(|(id, entry)| (last_append_ms(entry), *id)).collect();
        let count = count.min(ages.len());
        ages.select_nth_unstable(count.saturating_sub(1));
        for (_, id) in &ages[..count] {
            self.producers.remove(id);
        }
    }

    #[cfg(test)]
    pub(crate) fn producer_count(&self) -> usize {
        self.producers.len()
    }
}

/// Append time of the last batch of a producer, milliseconds; the past if it has none.
pub(crate) fn last_append_ms(entry: &ProducerEntry) -> i64 {
    entry.batches.last().map_or(i64::MIN, |batch| batch.append_ms)
}

/// What a known producer may not do; none if the batch may be appended.
fn check_producer(entry: &ProducerEntry, batch: &BatchFacts) -> Option<Outcome> {
    if batch.producer_epoch < entry.epoch {
        return Some(Outcome::Refuse(Refusal::InvalidProducerEpoch));
    }
    let first = batch.base_sequence;
    let expected = if batch.producer_epoch > entry.epoch {
        0
    } else {
        let last_sequence = sequence_after(first, batch.record_count.saturating_sub(1));
        let original = entry
            .batches
            .iter()
            .find(|old| old.first_sequence == first && old.last_sequence == last_sequence);
        if let Some(original) = original {
            return Some(Outcome::Duplicate {
                base_offset: original.base_offset,
                append_ms: original.append_ms,
            });
        }
        entry.batches.last().map_or(0, |last| sequence_after(last.last_sequence, 1))
    };
    (first != expected).then_some(Outcome::Refuse(Refusal::OutOfOrderSequence))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(producer_id: i64, epoch: i16, sequence: i32, count: u32) -> BatchFacts {
        BatchFacts {
            record_count: count,
            producer_id,
            producer_epoch: epoch,
            base_sequence: sequence,
        }
    }

    const OUT_OF_ORDER: Outcome = Outcome::Refuse(Refusal::OutOfOrderSequence);
    const OLD_EPOCH: Outcome = Outcome::Refuse(Refusal::InvalidProducerEpoch);

    /// Runs (epoch, first sequence, count) of producer 7, each at its index as append time.
    fn run(steps: &[(i16, i32, u32, Outcome)]) {
        let mut state = PartitionAppend::default();
        for (i, (epoch, sequence, count, expected)) in steps.iter().enumerate() {
            let outcome = state.append(&batch(7, *epoch, *sequence, *count), i as i64);
            assert_eq!(outcome, *expected, "step {i}");
        }
    }

    #[test]
    fn batches_in_sequence_get_offsets_in_sequence() {
        use Outcome::Accept;
        run(&[(0, 0, 3, Accept(0)), (0, 3, 2, Accept(3)), (0, 5, 1, Accept(5))]);
    }

    #[test]
    fn duplicate_batch_returns_original_offset_and_time() {
        use Outcome::{Accept, Duplicate};
        run(&[
            (0, 0, 3, Accept(0)),
            (0, 3, 2, Accept(3)),
            (0, 0, 3, Duplicate { base_offset: 0, append_ms: 0 }),
            (0, 3, 2, Duplicate { base_offset: 3, append_ms: 1 }),
            (0, 5, 1, Accept(5)),
        ]);
    }

    #[test]
    fn only_the_last_five_batches_are_recognised() {
        use Outcome::{Accept, Duplicate};
        let mut steps: Vec<_> = (0..6).map(|i| (0, i, 1, Accept(i64::from(i)))).collect();
        steps.push((0, 0, 1, OUT_OF_ORDER));
        steps.push((0, 1, 1, Duplicate { base_offset: 1, append_ms: 1 }));
        run(&steps);
    }

    #[test]
    fn a_hole_or_another_cut_of_the_same_sequences_is_out_of_order() {
        use Outcome::Accept;
        run(&[
            (0, 0, 3, Accept(0)),
            (0, 4, 1, OUT_OF_ORDER),
            (0, 0, 2, OUT_OF_ORDER),
            (0, 1, 2, OUT_OF_ORDER),
            (0, 3, 1, Accept(3)),
        ]);
    }

    #[test]
    fn an_older_epoch_is_refused_and_a_newer_one_starts_at_zero() {
        use Outcome::{Accept, Duplicate};
        run(&[
            (1, 5, 1, Accept(0)),
            (0, 6, 1, OLD_EPOCH),
            (2, 6, 1, OUT_OF_ORDER),
            (1, 6, 1, Accept(1)),
            (2, 0, 1, Accept(2)),
            (2, 0, 1, Duplicate { base_offset: 2, append_ms: 4 }),
            (1, 7, 1, OLD_EPOCH),
            (9, 0, 1, Accept(3)),
        ]);
    }

    #[test]
    fn an_unknown_producer_may_start_anywhere() {
        run(&[(3, 1_000, 2, Outcome::Accept(0)), (3, 1_002, 1, Outcome::Accept(2))]);
    }

    #[test]
    fn sequences_wrap_after_the_greatest_number() {
        use Outcome::{Accept, Duplicate};
        run(&[
            (0, i32::MAX - 1, 2, Accept(0)),
            (0, 0, 1, Accept(2)),
            (0, i32::MAX - 1, 2, Duplicate { base_offset: 0, append_ms: 0 }),
        ]);
        run(&[
            (0, i32::MAX, 3, Accept(0)),
            (0, 2, 1, Accept(3)),
            (0, i32::MAX, 3, Duplicate { base_offset: 0, append_ms: 0 }),
        ]);
    }

    #[test]
    fn batches_without_producer_are_never_duplicates() {
        let mut state = PartitionAppend::new(10, HashMap::new());
        let plain = batch(-1, -1, -1, 4);
        assert_eq!(state.append(&plain, 0), Outcome::Accept(10));
        assert_eq!(state.append(&plain, 0), Outcome::Accept(14));
        assert_eq!(state.producer_count(), 0);
    }

    #[test]
    fn offsets_never_overflow() {
        let mut state = PartitionAppend::new(OFFSET_MAX, HashMap::new());
        let huge = batch(-1, -1, -1, u32::MAX);
        assert_eq!(state.append(&huge, 0), Outcome::Accept(OFFSET_MAX));
        assert_eq!(state.append(&huge, 0), Outcome::Refuse(Refusal::OffsetsExhausted));
    }

    #[test]
    fn an_expired_producer_is_unknown_again() {
        let mut state = PartitionAppend::default();
        state.append(&batch(1, 0, 0, 1), 100);
        state.append(&batch(2, 0, 0, 1), 200);
        state.expire(200);
        assert_eq!(state.producer_count(), 1);
        assert_eq!(state.append(&batch(1, 0, 55, 1), 300), Outcome::Accept(2));
        assert_eq!(state.append(&batch(2, 0, 55, 1), 300), OUT_OF_ORDER);
    }

    #[test]
    fn producers_are_bounded_and_the_silent_go_first() {
        let mut state = PartitionAppend::default();
        for id in 0..=PRODUCERS_MAX as i64 {
            state.append(&batch(id, 0, 0, 1), id);
        }
        assert!(state.producer_count() <= PRODUCERS_MAX);
        let newest = batch(PRODUCERS_MAX as i64, 0, 0, 1);
        assert!(matches!(state.check(&newest), Outcome::Duplicate { .. }));
        assert!(matches!(state.check(&batch(0, 0, 0, 1)), Outcome::Accept(_)));
    }

    #[test]
    fn codes_survive_a_round_trip() {
        for code in 0..6 {
            if let Some(refusal) = Refusal::from_code(code) {
                assert_eq!(refusal as u16, code);
            }
        }
        assert_eq!(Refusal::from_code(2), Some(Refusal::OutOfOrderSequence));
        assert_eq!(Refusal::from_code(0), None);
    }

    /// All batches that were ever accepted, and KIP-98 read literally.
    #[derive(Default)]
    struct Naive {
        accepted: Vec<(BatchFacts, Offset, i64)>,
        next: Offset,
    }

    impl Naive {
        fn append(&mut self, batch: &BatchFacts, append_ms: i64) -> Outcome {
            let own: Vec<_> = self
                .accepted
                .iter()
                .filter(|(old, ..)| old.producer_id == batch.producer_id)
                .collect();
            if let Some((last, ..)) = own.last() {
                if batch.producer_epoch < last.producer_epoch {
                    return OLD_EPOCH;
                }
                if batch.producer_epoch == last.producer_epoch {
                    let same =
                        own.iter().rev().filter(|o| o.0.producer_epoch == last.producer_epoch);
                    for (old, base_offset, append_ms) in same.take(5) {
                        if old == batch {
                            let (base_offset, append_ms) = (*base_offset, *append_ms);
                            return Outcome::Duplicate { base_offset, append_ms };
                        }
                    }
                    let next = i64::from(last.base_sequence) + i64::from(last.record_count);
                    if i64::from(batch.base_sequence) != next % (1 << 31) {
                        return OUT_OF_ORDER;
                    }
                } else if batch.base_sequence != 0 {
                    return OUT_OF_ORDER;
                }
            }
            self.accepted.push((*batch, self.next, append_ms));
            self.next += i64::from(batch.record_count);
            Outcome::Accept(self.next - i64::from(batch.record_count))
        }
    }

    proptest! {
        #[test]
        fn the_state_agrees_with_a_naive_model(
            steps in prop::collection::vec((0..2_i64, 0..3_i16, 0..12_i32, 1..4_u32, any::<bool>()), 0..80),
            near_wrap in any::<bool>(),
        ) {
            let mut state = PartitionAppend::default();
            let mut model = Naive::default();
            let mut last = HashMap::new();
            for (i, (id, epoch, sequence, count, follow)) in steps.into_iter().enumerate() {
                // Half of the batches follow the producer's last one, the rest are anything.
                let sequence = match last.get(&id) {
                    Some((last_epoch, next)) if follow && *last_epoch == epoch => *next,
                    _ if near_wrap => i32::MAX - 3 + sequence % 4,
                    _ => sequence,
                };
                let facts = batch(id, epoch, sequence, count);
                let outcome = state.append(&facts, i as i64);
                prop_assert_eq!(outcome, model.append(&facts, i as i64));
                if matches!(outcome, Outcome::Accept(_)) {
                    last.insert(id, (epoch, sequence_after(sequence, count)));
                }
            }
        }
    }
}
