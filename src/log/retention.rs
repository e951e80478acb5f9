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
}
