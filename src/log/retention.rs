//! Stream retention: how far the log start may go, as a pure function over runs.

use crate::types::Offset;
use crate::wal::Run;

/// What limits one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Records older than this go, milliseconds; none is for ever.
    pub(crate) retention_ms: Option<i64>,
    /// Bytes that stay at least; none is without limit.
    pub(crate) retention_bytes: Option<u64>,
    /// Never past this offset: the lesser of tiered offset and high watermark.
    pub(crate) bound: Offset,
    /// Broker time, milliseconds.
    pub(crate) now_ms: i64,
}

/// How far a walk over runs has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The new log start.
    pub(crate) log_start: Offset,
    /// Bytes of the runs that go.
    pub(crate) freed_bytes: u64,
    /// False once a run was met that stays: the ones after it stay too.
    pub(crate) goes_on: bool,
}

impl Plan {
    /// Nothing goes yet.
    pub(crate) fn new(log_start: Offset) -> Self {
        Self { log_start, freed_bytes: 0, goes_on: true }
    }

    /// Walks on over `runs`, which follow the ones before, oldest first. `size_bytes` is the
    /// size of the partition before anything goes.
    pub(crate) fn pass(&mut self, runs: &[Run], size_bytes: u64, policy: &Policy) {
        for run in runs {
            let left = size_bytes.saturating_sub(self.freed_bytes);
            if !self.goes_on || run.end_offset > policy.bound || !is_spare(run, left, policy) {
                self.goes_on = false;
                return;
            }
            self.freed_bytes += u64::from(run.disk_len);
            self.log_start = self.log_start.max(run.end_offset);
        }
    }
}

/// True if the run is too old, or the rest is enough without it (as Kafka: what stays is never
/// below `retention.bytes`).
fn is_spare(run: &Run, left_bytes: u64, policy: &Policy) -> bool {
    let time = if run.max_timestamp < 0 { run.append_ms } else { run.max_timestamp };
    let age_ms = policy.now_ms.saturating_sub(time);
    let expired = policy.retention_ms.is_some_and(|limit_ms| age_ms > limit_ms);
    let surplus = policy
        .retention_bytes
        .is_some_and(|limit| left_bytes.saturating_sub(u64::from(run.disk_len)) >= limit);
    expired || surplus
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{Lsn, PartitionId};

    /// Runs of ten offsets and 100 bytes with these timestamps, appended at 1,000.
    fn runs(timestamps: &[i64]) -> Vec<Run> {
        let run = |(i, timestamp): (usize, &i64)| Run {
            partition: PartitionId(1),
            base_offset: i as i64 * 10,
            end_offset: i as i64 * 10 + 10,
            lsn: Lsn(i as u64 * 100),
            disk_len: 100,
            max_timestamp: *timestamp,
            append_ms: 1_000,
        };
        timestamps.iter().enumerate().map(run).collect()
    }

    const KEEP: Policy =
        Policy { retention_ms: None, retention_bytes: None, bound: i64::MAX, now_ms: 10_000 };

    fn start(timestamps: &[i64], policy: Policy) -> (Offset, u64) {
        let runs = runs(timestamps);
        let mut plan = Plan::new(0);
        plan.pass(&runs, runs.len() as u64 * 100, &policy);
        (plan.log_start, plan.freed_bytes)
    }

    #[test]
    fn without_limits_everything_stays() {
        assert_eq!(start(&[0, 0, 0], KEEP), (0, 0));
    }

    #[test]
    fn runs_older_than_the_limit_go_up_to_the_first_that_stays() {
        let policy = Policy { retention_ms: Some(5_000), ..KEEP };
        assert_eq!(start(&[4_000, 4_999, 5_000, 1], policy), (20, 200));
    }

    #[test]
    fn a_run_without_timestamps_goes_by_its_append_time() {
        assert_eq!(start(&[-1], Policy { retention_ms: Some(8_999), ..KEEP }), (10, 100));
        assert_eq!(start(&[-1], Policy { retention_ms: Some(9_000), ..KEEP }), (0, 0));
    }

    #[test]
    fn what_stays_is_never_below_the_byte_limit() {
        let bytes = |limit| start(&[0, 0, 0, 0], Policy { retention_bytes: Some(limit), ..KEEP });
        assert_eq!(bytes(400), (0, 0));
        assert_eq!(bytes(399), (0, 0));
        assert_eq!(bytes(300), (10, 100));
        assert_eq!(bytes(101), (20, 200));
        assert_eq!(bytes(0), (40, 400));
    }

    #[test]
    fn nothing_passes_the_bound_and_no_run_is_cut() {
        let policy = |bound| Policy { retention_ms: Some(0), bound, ..KEEP };
        assert_eq!(start(&[0, 0, 0], policy(0)), (0, 0));
        assert_eq!(start(&[0, 0, 0], policy(19)), (10, 100));
        assert_eq!(start(&[0, 0, 0], policy(20)), (20, 200));
    }

    #[test]
    fn a_walk_in_pages_is_the_walk_in_one() {
        let all = runs(&[1, 1, 9_000, 1]);
        let policy = Policy { retention_ms: Some(5_000), ..KEEP };
        let mut paged = Plan::new(0);
        for page in all.chunks(1) {
            paged.pass(page, 400, &policy);
        }
        let mut whole = Plan::new(0);
        whole.pass(&all, 400, &policy);
        assert_eq!(paged, whole);
        assert_eq!((whole.log_start, whole.goes_on), (20, false));
    }

    /// One record as its partition has it: the run it lies in, and whether it is the last there.
    struct Record {
        offset: Offset,
        run: Run,
        is_last: bool,
    }

    /// Walks records one by one. A run goes with its last record; what was passed of a run that
    /// stays does not count.
    fn walked(
        records: &[Record],
        log_start: Offset,
        size_bytes: u64,
        policy: &Policy,
    ) -> (Offset, u64) {
        let (mut start, mut freed) = (log_start, 0);
        for record in records {
            let time = match record.run.max_timestamp {
                -1 => record.run.append_ms,
                newest => newest,
            };
            let is_old = policy.retention_ms.is_some_and(|limit| policy.now_ms - limit > time);
            let stays = size_bytes - freed - u64::from(record.run.disk_len);
            let is_surplus = policy.retention_bytes.is_some_and(|limit| stays >= limit);
            if record.offset >= policy.bound || !(is_old || is_surplus) {
                break;
            }
            if record.is_last {
                freed += u64::from(record.run.disk_len);
                start = record.offset + 1;
            }
        }
        (start, freed)
    }

    proptest! {
        #[test]
        fn retention_goes_as_far_as_a_walk_over_single_records(
            sizes in prop::collection::vec((1..4_i64, 1..200_u32, -1..30_i64, 0..30_i64), 0..12),
            cut in 0..3_i64,
            retention_ms in prop::option::of(0..30_i64),
            retention_bytes in prop::option::of(0..1_500_u64),
            bound in 0..40_i64,
            page in 1..5_usize,
        ) {
            let policy = Policy { retention_ms, retention_bytes, bound, now_ms: 30 };
            let (mut runs, mut records, mut end) = (Vec::new(), Vec::new(), 0);
            for (count, disk_len, max_timestamp, append_ms) in sizes {
                let (base_offset, end_offset) = (end, end + count);
                let (partition, lsn) = (PartitionId(1), Lsn(end_offset as u64 * 1_000));
                let run = Run {
                    partition, base_offset, end_offset, lsn, disk_len, max_timestamp, append_ms,
                };
                end = end_offset;
                runs.push(run);
                let record = |offset| Record { offset, run, is_last: offset + 1 == end_offset };
                records.extend((base_offset..end_offset).map(record));
            }
            // The log start may lie inside of the first run.
            let log_start = runs.first().map_or(0, |run| cut.min(run.end_offset - 1));
            let size_bytes = runs.iter().map(|run| u64::from(run.disk_len)).sum();
            let mut plan = Plan::new(log_start);
            for page in runs.chunks(page) {
                plan.pass(page, size_bytes, &policy);
            }
            let (start, freed) = walked(&records, log_start, size_bytes, &policy);
            prop_assert_eq!((plan.log_start, plan.freed_bytes), (start, freed));
            prop_assert!(plan.log_start <= bound.max(log_start));
        }
    }
}
