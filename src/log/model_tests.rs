//! The log against a plain vector of batches: appends, syncs and applies that lag behind, moves,
//! corrupt frames, trims and retention, and what every read and lookup may say.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::testing::{OPTIONS, P, Rig, batch};
use super::*;
use crate::log::ports::PartitionOptions;
use crate::record::BatchReader;

const GAP_REASON: &str = "lost";

#[derive(Debug, Clone)]
enum Step {
    /// Batches with the timestamps of their records, written as one group.
    Append(Vec<Vec<i64>>),
    Sync,
    Apply,
    Prune,
    /// `DeleteRecords` up to this share of the log, per mille.
    Trim(usize),
    /// The index entry of this number moves now, or while the next read looks at it.
    Move(usize),
    Race(usize),
    Corrupt(usize),
    Retain {
        age_ms: Option<i64>,
        bytes: Option<u64>,
        tiered: usize,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let timestamps = prop_oneof![
        9 => prop::collection::vec(0..60_i64, 1..5),
        1 => (1..3_usize).prop_map(|count| vec![-1; count]),
    ];
    let age_ms = prop::option::of(prop_oneof![Just(0_i64), 999_950..1_000_100_i64]);
    let bytes = prop::option::of(0..2_500_u64);
    prop_oneof![
        6 => prop::collection::vec(timestamps, 1..5).prop_map(Step::Append),
        2 => Just(Step::Sync),
        2 => Just(Step::Apply),
        1 => Just(Step::Prune),
        1 => (0..1_100_usize).prop_map(Step::Trim),
        2 => any::<usize>().prop_map(Step::Move),
        2 => any::<usize>().prop_map(Step::Race),
        1 => any::<usize>().prop_map(Step::Corrupt),
        2 => (age_ms, bytes, 0..1_100_usize)
            .prop_map(|(age_ms, bytes, tiered)| Step::Retain { age_ms, bytes, tiered }),
    ]
}

#[derive(Debug, Clone)]
struct Batch {
    base: Offset,
    timestamps: Vec<i64>,
    append_ms: i64,
    bytes: usize,
    corrupt: bool,
}

impl Batch {
    fn end(&self) -> Offset {
        self.base + self.timestamps.len() as i64
    }

    fn disk_len(&self) -> u64 {
        (96 + self.bytes as u64).next_multiple_of(32)
    }

    /// Its readable records: offset and timestamp.
    fn records(&self) -> impl Iterator<Item = (Offset, i64)> + '_ {
        (self.base..).zip(self.timestamps.iter().copied()).filter(|_| !self.corrupt)
    }
}

#[derive(Default)]
struct Model {
    batches: Vec<Batch>,
    /// Offsets below are a recorded gap.
    gap_end: Offset,
    log_start: Offset,
    durable: Offset,
    applied: Offset,
    /// Where index entries end; each one begins where the one before ends.
    entry_ends: Vec<Offset>,
    ahead: bool,
    behind: bool,
}

impl Model {
    fn end(&self) -> Offset {
        self.batches.last().map_or(self.gap_end, Batch::end)
    }

    fn apply(&mut self) {
        if self.durable > self.applied {
            self.entry_ends.push(self.durable);
            self.applied = self.durable;
        }
    }

    /// What any change of state brings about.
    fn settle(&mut self) {
        self.durable = self.end();
        self.apply();
    }

    /// Index entries above the log start: base, end, and the batches in them.
    fn entries(&self) -> Vec<(Offset, Offset, Vec<&Batch>)> {
        let bases = std::iter::once(&self.gap_end).chain(&self.entry_ends);
        let entry = |(base, end): (&Offset, &Offset)| {
            let of = self.batches.iter().filter(|one| one.base >= *base && one.end() <= *end);
            (*base, *end, of.collect())
        };
        let all = bases.zip(&self.entry_ends).map(entry);
        all.filter(|(_, end, _)| *end > self.log_start).collect()
    }

    fn size_bytes(&self) -> u64 {
        let indexed = self.entries().into_iter().flat_map(|(.., batches)| batches);
        let others = self.batches.iter().filter(|one| one.base >= self.applied);
        indexed.chain(others).map(Batch::disk_len).sum()
    }

    /// Good records from the log start on.
    fn records(&self) -> impl Iterator<Item = (Offset, i64)> + '_ {
        let all = self.batches.iter().flat_map(Batch::records);
        all.filter(|(offset, _)| *offset >= self.log_start)
    }

    /// Walks entry by entry as far as retention may go.
    fn retention(
        &self,
        now_ms: i64,
        age_ms: Option<i64>,
        bytes: Option<u64>,
        bound: Offset,
    ) -> Offset {
        let mut left = self.size_bytes();
        let mut start = self.log_start;
        for (_, end, batches) in self.entries() {
            let newest = batches.iter().flat_map(|one| &one.timestamps).max().copied().unwrap();
            let time = if newest < 0 { batches[0].append_ms } else { newest };
            let size: u64 = batches.iter().map(|one| one.disk_len()).sum();
            let old = age_ms.is_some_and(|limit| now_ms - time > limit);
            let surplus = bytes.is_some_and(|limit| left - size >= limit);
            if end > bound || !(old || surplus) {
                break;
            }
            left -= size;
            start = end;
        }
        start
    }
}

struct Bench {
    rig: Rig,
    model: Model,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(gap_end: Offset, ahead: bool, behind: bool) -> Self {
        let rig = Rig::with(&[(P, 0, gap_end)]);
        if gap_end > 0 {
            let gap = OffsetRange { base: 0, end: gap_end };
            rig.state.gaps.lock().push((P, gap, GAP_REASON.to_owned()));
        }
        rig.state.trim_max.store(2, Ordering::Relaxed);
        rig.frames.is_ahead.store(ahead, Ordering::Relaxed);
        rig.frames.is_behind.store(behind, Ordering::Relaxed);
        let (durable, applied) = (gap_end, gap_end);
        let model = Model { gap_end, durable, applied, ahead, behind, ..Model::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { rig, model, runtime }
    }

    fn partition(&self) -> std::sync::Arc<Partition> {
        self.rig.log.partition(P).unwrap()
    }

    fn append(&mut self, group: &[Vec<i64>]) {
        self.rig.clock.advance(10);
        self.rig.frames.is_paused.store(true, Ordering::Relaxed);
        for timestamps in group {
            let bytes = batch(timestamps);
            self.model.batches.push(Batch {
                base: self.model.end(),
                timestamps: timestamps.clone(),
                append_ms: self.rig.clock.now_ms(),
                bytes: bytes.len(),
                corrupt: false,
            });
            let append = self.rig.log.append(super::testing::one(P, bytes));
            drop(self.runtime.block_on(append).unwrap());
        }
        self.rig.frames.run();
        if !self.model.ahead {
            self.model.durable = self.model.end();
        }
        if !self.model.behind {
            self.model.apply();
        }
    }

    /// The first offset of an index entry that can move.
    fn entry(&self, number: usize) -> Option<Offset> {
        let entries = self.model.entries();
        let (base, _, batches) = entries.get(number.checked_rem(entries.len())?)?;
        (!batches.iter().any(|one| one.corrupt)).then_some(*base)
    }

    fn offset(&self, per_mille: usize) -> Offset {
        self.model.end() * per_mille as i64 / 1_000
    }

    fn trim(&mut self, to: Offset) {
        let found = self.runtime.block_on(self.rig.log.raise_log_start(P, to)).unwrap();
        let to = to.min(self.model.end());
        if to > self.model.log_start || self.model.applied < self.model.end() {
            self.model.settle();
        }
        self.model.log_start = self.model.log_start.max(to);
        assert_eq!(found, self.model.log_start);
    }

    fn retain(&mut self, age_ms: Option<i64>, bytes: Option<u64>, tiered: Offset) {
        let options = PartitionOptions { retention_ms: age_ms, retention_bytes: bytes, ..OPTIONS };
        self.rig.set_options(P, options);
        self.partition().set_tiered_offset(tiered);
        let bound = tiered.min(self.model.durable);
        let to = self.model.retention(self.rig.clock.now_ms(), age_ms, bytes, bound);
        assert!(to <= bound.max(self.model.log_start));
        self.runtime.block_on(self.rig.log.retain_all()).unwrap();
        if to > self.model.log_start {
            self.model.settle();
            self.model.log_start = to;
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(group) => self.append(group),
            Step::Sync => {
                self.runtime.block_on(self.rig.log.sync()).unwrap();
                self.model.durable = self.model.end();
            }
            Step::Apply => {
                self.rig.frames.apply();
                self.model.apply();
            }
            Step::Prune => self.partition().prune(self.rig.log.inner.shared.state.applied()),
            Step::Trim(share) => self.trim(self.offset(*share)),
            Step::Move(number) => {
                if let Some(base) = self.entry(*number) {
                    assert!(self.rig.frames.relocate(P, base));
                    self.model.settle();
                }
            }
            // One at a time: what has just moved does not move again while one read lasts.
            Step::Race(number) => {
                *self.rig.frames.races.lock() =
                    self.entry(*number).map(|base| (P, base)).into_iter().collect();
            }
            Step::Corrupt(number) => {
                let start = self.model.log_start;
                let mut all: Vec<&mut Batch> =
                    self.model.batches.iter_mut().filter(|one| one.base >= start).collect();
                if let Some(at) = number.checked_rem(all.len()) {
                    all[at].corrupt = true;
                    self.rig.frames.corrupt(P, all[at].base);
                }
            }
            Step::Retain { age_ms, bytes, tiered } => {
                self.retain(*age_ms, *bytes, self.offset(*tiered));
            }
        }
    }

    /// A move that raced with a read has synced and applied what was before it.
    fn settle_races(&mut self, before: usize) {
        if self.rig.frames.races.lock().len() < before {
            self.model.settle();
        }
    }

    fn check_marks(&self) {
        let (partition, model) = (self.partition(), &self.model);
        assert_eq!(partition.high_watermark(), model.end());
        assert_eq!(partition.durable_end(), model.durable);
        assert_eq!(partition.log_start_offset(), model.log_start);
        assert_eq!(partition.size_bytes(), model.size_bytes());
    }

    fn check_read(&self, from: Offset, bytes_max: usize) {
        let model = &self.model;
        let result = self.runtime.block_on(self.rig.log.read(P, from, bytes_max));
        let (start, end) = (model.log_start, model.end());
        if from < start || from > end {
            assert_eq!(result.unwrap_err(), ReadError::OutOfRange { start, end });
            return;
        }
        let mut wanted: Vec<&Batch> = Vec::new();
        let (mut room, mut gap, mut corrupt) = (bytes_max, None, false);
        if from < model.gap_end {
            gap = Some((OffsetRange { base: from, end: model.gap_end }, GAP_REASON.to_owned()));
        } else {
            for one in model.batches.iter().skip_while(|one| one.end() <= from) {
                corrupt = one.corrupt;
                if corrupt || one.bytes > room && !wanted.is_empty() {
                    break;
                }
                room = room.saturating_sub(one.bytes);
                wanted.push(one);
            }
        }
        if wanted.is_empty() && corrupt {
            let Err(ReadError::Corrupt(range)) = result else { panic!("{from}: {result:?}") };
            assert!(range.base == from && range.end > from, "{range:?}");
            let within = |one: &&Batch| one.end() > range.base && one.base < range.end;
            assert!(model.batches.iter().filter(within).all(|one| one.corrupt), "{range:?}");
            return;
        }
        let slice = result.unwrap();
        assert_eq!((slice.log_start_offset, slice.high_watermark), (start, end));
        assert_eq!(slice.gap, gap);
        let found: Vec<_> =
            slice.batches.iter().map(|b| (b.base_offset, b.end_offset, b.append_ms)).collect();
        let expected: Vec<_> = wanted.iter().map(|b| (b.base, b.end(), b.append_ms)).collect();
        assert_eq!(found, expected, "from {from} at most {bytes_max}");
        for (stored, one) in slice.batches.iter().zip(wanted) {
            let mut reader = BatchReader::new();
            let records = reader.records(&stored.bytes).unwrap().map(Result::unwrap);
            let records: Vec<_> = records.map(|record| (record.offset, record.timestamp)).collect();
            assert_eq!(records, one.records().collect::<Vec<_>>());
        }
    }

    /// A lookup skips no good record; one that meets a corrupt frame says so.
    fn check_timestamp(&self, timestamp_ms: i64) {
        let result = self.runtime.block_on(self.rig.log.offset_for_timestamp(P, timestamp_ms));
        let wanted = self.model.records().find(|(_, timestamp)| *timestamp >= timestamp_ms);
        match result {
            Ok(found) => assert_eq!(found, wanted, "{timestamp_ms}"),
            Err(error) => {
                assert!(matches!(error, ReadError::Corrupt(_)), "{error}");
                assert!(self.model.batches.iter().any(|one| one.corrupt));
            }
        }
    }

    fn check_max_timestamp(&self) {
        if self.model.batches.iter().any(|one| one.corrupt) {
            return;
        }
        let found = self.runtime.block_on(self.rig.log.max_timestamp(P)).unwrap();
        let records = self.model.records().filter(|(_, timestamp)| *timestamp >= 0);
        let mut wanted: Option<(Offset, i64)> = None;
        for (offset, timestamp) in records {
            if wanted.is_none_or(|(_, best)| timestamp > best) {
                wanted = Some((offset, timestamp));
            }
        }
        assert_eq!(found, wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn what_is_read_is_what_was_appended(
        steps in prop::collection::vec(any_step(), 1..30),
        gap_end in prop_oneof![2 => Just(0_i64), 1 => 1..5_i64],
        ahead in any::<bool>(),
        behind in any::<bool>(),
        looks in prop::collection::vec((0..1_050_usize, 0..700_usize, -1..62_i64), 30),
    ) {
        let mut bench = Bench::new(gap_end, ahead, behind);
        for (step, (share, bytes_max, timestamp_ms)) in steps.iter().zip(looks) {
            bench.step(step);
            bench.check_marks();
            let races = bench.rig.frames.races.lock().len();
            bench.check_read(bench.offset(share), bytes_max);
            bench.check_timestamp(timestamp_ms);
            bench.check_max_timestamp();
            bench.settle_races(races);
        }
        for from in -1..=bench.model.end() + 1 {
            bench.check_read(from, usize::MAX);
            bench.check_read(from, 0);
        }
        for timestamp_ms in -1..62 {
            bench.check_timestamp(timestamp_ms);
        }
        bench.model.settle();
        bench.runtime.block_on(bench.rig.log.sync()).unwrap();
        bench.rig.frames.apply();
        bench.check_marks();
    }
}
