//! The append rules against a list of everything that was ever accepted: KIP-98 read literally,
//! with silent producers, deleted partitions and restarts.

use std::collections::HashSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::log::handle::prepare;
use crate::log::state::last_append_ms;
use crate::log::testing::FakeState;
use crate::store::{PartitionBoot, ProducerEntry};

/// Partitions 1 and 2.
const PARTITIONS: std::ops::RangeInclusive<u32> = 1..=2;

/// Where the sequence of a batch begins.
#[derive(Debug, Clone)]
enum Start {
    /// Right after the producer's last batch.
    Follow,
    /// The batch that was accepted so many before, once more.
    Repeat(usize),
    At(i32),
}

#[derive(Debug, Clone)]
enum Step {
    Batch {
        partition: u32,
        producer: i64,
        epoch: i16,
        count: u32,
        start: Start,
    },
    Chain {
        partitions: Vec<u32>,
        producer: bool,
    },
    Expire {
        age_ms: i64,
    },
    /// The clock may step back.
    Clock(i64),
    Remove(u32),
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    let start = prop_oneof![
        5 => Just(Start::Follow),
        3 => (0..7_usize).prop_map(Start::Repeat),
        1 => (0..9).prop_map(Start::At),
        1 => (0..3).prop_map(|before| Start::At(i32::MAX - before)),
    ];
    let partition = prop_oneof![4 => Just(1), 1 => Just(2)];
    let producer = prop_oneof![1 => Just(-1_i64), 5 => Just(0), 2 => Just(1)];
    // A newer one ends the older one for good.
    let epoch = prop_oneof![40 => Just(0_i16), 2 => Just(1), 1 => Just(2)];
    let batch = (partition, producer, epoch, 1..4_u32, start).prop_map(
        |(partition, producer, epoch, count, start)| Step::Batch {
            partition,
            producer,
            epoch,
            count,
            start,
        },
    );
    let chain = (prop::collection::vec(PARTITIONS, 2..5), prop::bool::weighted(0.1));
    prop_oneof![
        60 => batch,
        4 => chain.prop_map(|(partitions, producer)| Step::Chain { partitions, producer }),
        2 => (0..40_i64).prop_map(|age_ms| Step::Expire { age_ms }),
        4 => (-5..30_i64).prop_map(Step::Clock),
        1 => Just(Step::Remove(2)),
        3 => Just(Step::Restart),
    ]
}

/// One batch; sequences as the sender gave them.
#[derive(Debug, Clone, Copy)]
struct Batch {
    partition: u32,
    producer: i64,
    epoch: i16,
    sequence: i32,
    count: u32,
}

#[derive(Debug, Clone, Copy)]
struct Accepted {
    batch: Batch,
    base: i64,
    append_ms: i64,
}

/// All that was ever accepted, and from where in the list on a producer is known.
#[derive(Default)]
struct Model {
    accepted: Vec<Accepted>,
    known_from: HashMap<(u32, i64), usize>,
    removed: HashSet<u32>,
}

impl Model {
    fn next_offset(&self, partition: u32) -> i64 {
        let of = self.accepted.iter().filter(|one| one.batch.partition == partition);
        of.map(|one| i64::from(one.batch.count)).sum()
    }

    /// What the producer did in the partition as far as anybody remembers, oldest first.
    fn own(&self, partition: u32, producer: i64) -> Vec<Accepted> {
        let from = self.known_from.get(&(partition, producer)).copied().unwrap_or(0);
        let is_own =
            |one: &&Accepted| (one.batch.partition, one.batch.producer) == (partition, producer);
        self.accepted[from..].iter().filter(is_own).copied().collect()
    }

    fn verdict(&self, batch: Batch) -> Verdict {
        if self.removed.contains(&batch.partition) {
            return Verdict::Reject(Refusal::UnknownPartition as u16);
        }
        let own = self.own(batch.partition, batch.producer);
        let Some(last) = own.last().filter(|_| batch.producer >= 0) else {
            return Verdict::Write;
        };
        if batch.epoch < last.batch.epoch {
            return Verdict::Reject(Refusal::InvalidProducerEpoch as u16);
        }
        let mut expected = 0;
        if batch.epoch == last.batch.epoch {
            let newest = own.iter().rev().take_while(|one| one.batch.epoch == batch.epoch).take(5);
            for old in newest {
                if (old.batch.sequence, old.batch.count) == (batch.sequence, batch.count) {
                    let (base_offset, append_ms) = (old.base, old.append_ms);
                    return Verdict::Duplicate { base_offset, append_ms };
                }
            }
            expected = (i64::from(last.batch.sequence) + i64::from(last.batch.count)) % (1 << 31);
        }
        if i64::from(batch.sequence) == expected {
            Verdict::Write
        } else {
            Verdict::Reject(Refusal::OutOfOrderSequence as u16)
        }
    }

    fn accept(&mut self, batch: Batch, append_ms: i64) {
        let base = self.next_offset(batch.partition);
        self.accepted.push(Accepted { batch, base, append_ms });
    }

    fn expire(&mut self, before_ms: i64) {
        for partition in PARTITIONS {
            for producer in 0..2 {
                let own = self.own(partition, producer);
                if own.last().is_some_and(|last| last.append_ms < before_ms) {
                    self.known_from.insert((partition, producer), self.accepted.len());
                }
            }
        }
    }
}

/// The sequencer and what the store would keep of its producers.
struct Running {
    shared: Arc<Shared>,
    sequence: Box<dyn Sequence>,
    stored: HashMap<(u32, i64), ProducerEntry>,
}

impl Running {
    fn new(model: &Model, stored: HashMap<(u32, i64), ProducerEntry>) -> Self {
        let found = PARTITIONS.filter(|partition| !model.removed.contains(partition));
        let found = found.map(|partition| {
            let next_offset = model.next_offset(partition);
            let own = stored.iter().filter(|((of, _), _)| *of == partition);
            let decode = |entry: &ProducerEntry| ProducerEntry::decode(&entry.encode()).unwrap();
            let producers = own.map(|((_, id), entry)| (*id, decode(entry))).collect();
            let partition = PartitionId(partition);
            (PartitionBoot { partition, log_start: 0, next_offset, bytes: 0 }, producers)
        });
        let (shared, parts) = prepare(Arc::new(FakeState::default()), found.collect());
        Self { shared, sequence: parts.sequence, stored }
    }

    /// As the store applies an accepted batch.
    fn store(&mut self, batch: Batch, base: i64, append_ms: i64) {
        if batch.producer >= 0 {
            let entry = self.stored.entry((batch.partition, batch.producer));
            let entry = entry.or_insert_with(|| ProducerEntry::new(batch.epoch));
            entry.record(batch.epoch, batch.sequence, batch.count, base, append_ms);
        }
    }
}

fn frame(batch: Batch, kind: FrameKind) -> FrameDraft {
    FrameDraft {
        kind,
        partition: PartitionId(batch.partition),
        base_offset: -1,
        record_count: batch.count,
        producer_id: batch.producer,
        producer_epoch: batch.epoch,
        base_sequence: batch.sequence,
        max_timestamp: 0,
        moved_ms: None,
        ext: Bytes::new(),
        payload: Bytes::new(),
    }
}

fn batch_of(model: &Model, step: &Step) -> Batch {
    let Step::Batch { partition, producer, epoch, count, start } = step.clone() else {
        unreachable!("asked for batches only");
    };
    let plain = Batch { partition, producer, epoch, sequence: -1, count };
    if producer < 0 {
        return plain;
    }
    let first = Batch { sequence: 0, ..plain };
    let all = model.accepted.iter().rev();
    let mut own =
        all.filter(|one| (one.batch.partition, one.batch.producer) == (partition, producer));
    match start {
        Start::At(sequence) => Batch { sequence, ..plain },
        Start::Repeat(before) => own.nth(before).map_or(first, |old| old.batch),
        Start::Follow => {
            let last = own.next().map(|last| last.batch);
            let next = last.filter(|last| last.epoch == epoch).map_or(0, |last| {
                ((i64::from(last.sequence) + i64::from(last.count)) % (1 << 31)) as i32
            });
            Batch { sequence: next, ..plain }
        }
    }
}

fn one_batch(model: &mut Model, running: &mut Running, batch: Batch, now_ms: i64) {
    let expected = model.verdict(batch);
    let base = model.next_offset(batch.partition);
    let mut frames = [frame(batch, FrameKind::Records)];
    assert_eq!(running.sequence.assign(&mut frames, now_ms), expected, "{batch:?}");
    if expected == Verdict::Write {
        assert_eq!(frames[0].base_offset, base, "{batch:?}");
        model.accept(batch, now_ms);
        running.store(batch, base, now_ms);
    }
}

/// All frames of a chain are accepted or none; a producer in it is refused.
fn one_chain(
    model: &mut Model,
    running: &mut Running,
    partitions: &[u32],
    producer: bool,
    now_ms: i64,
) {
    let plain = |partition: &u32| Batch {
        partition: *partition,
        producer: -1,
        epoch: -1,
        sequence: -1,
        count: 2,
    };
    let mut batches: Vec<Batch> = partitions.iter().map(plain).collect();
    let last = batches.len() - 1;
    batches[last].producer = if producer { 0 } else { -1 };
    let removed = batches[..last].iter().any(|one| model.removed.contains(&one.partition));
    let expected = if producer && !removed {
        Verdict::Reject(Refusal::OutOfOrderSequence as u16)
    } else if removed || model.removed.contains(&batches[last].partition) {
        Verdict::Reject(Refusal::UnknownPartition as u16)
    } else {
        Verdict::Write
    };
    let mut frames: Vec<_> =
        batches.iter().map(|batch| frame(*batch, FrameKind::HttpRecords)).collect();
    assert_eq!(running.sequence.assign(&mut frames, now_ms), expected);
    if expected == Verdict::Write {
        for (batch, frame) in batches.into_iter().zip(frames) {
            assert_eq!(frame.base_offset, model.next_offset(batch.partition));
            model.accept(batch, now_ms);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_sequencer_agrees_with_a_list_of_everything_accepted(
        steps in prop::collection::vec(any_step(), 0..100),
    ) {
        let mut model = Model::default();
        let mut running = Running::new(&model, HashMap::new());
        let mut now_ms = 1_000;
        for step in &steps {
            match step {
                Step::Batch { .. } => {
                    let batch = batch_of(&model, step);
                    one_batch(&mut model, &mut running, batch, now_ms);
                }
                Step::Chain { partitions, producer } => {
                    one_chain(&mut model, &mut running, partitions, *producer, now_ms);
                }
                Step::Expire { age_ms } => {
                    let before_ms = now_ms - age_ms;
                    // In the store, then in memory, as the chores do.
                    running.stored.retain(|_, entry| last_append_ms(entry) >= before_ms);
                    running.shared.order(Order::ExpireProducers { before_ms });
                    model.expire(before_ms);
                }
                Step::Clock(by_ms) => now_ms += by_ms,
                Step::Remove(partition) => {
                    running.shared.remove(&[PartitionId(*partition)]);
                    model.removed.insert(*partition);
                }
                Step::Restart => running = Running::new(&model, running.stored),
            }
        }
    }
}
