//! When a table commit starts, and how much of each partition it takes. Pure.
//!
//! Owns: the cadence (rules 4.11). Does not own: timers, reads, the ledger. All times are
//! milliseconds; ages come from the caller, so that a stepped wall clock cannot stop a table.

/// The leading edge waits at most this long, in milliseconds.
const LEADING_EDGE_MS: i64 = 1_000;

/// Commit durations remembered for the 95th percentile.
const DURATIONS_KEPT: usize = 32;

/// How often a table with pending rows looks at its byte count, in milliseconds.
const POLL_MS_MIN: i64 = 100;
const POLL_MS_MAX: i64 = 1_000;

/// What the options of a topic say about its commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// `table.target.lag.ms`.
    pub target_lag_ms: i64,
    /// `table.flush.bytes`: this much pending data starts a commit.
    pub flush_bytes: u64,
    /// This many waiting records start a commit; none for no such limit.
    pub flush_records: Option<u64>,
    /// `table.pin.max.bytes` as it applies: near it a commit does not wait for its time.
    pub pin_max_bytes: u64,
    /// `table.commit.min.interval.ms`.
    pub min_interval_ms: i64,
    /// 0 to 100: this share, in thousandths of the lag, a table starts early, so that a thousand
    /// tables with one lag do not commit in one moment.
    pub jitter_permille: i64,
}

/// What waits at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Age of the oldest row that is not in the table; none if nothing waits.
    pub oldest_age_ms: Option<i64>,
    /// Bytes of the log that are not in the table.
    pub bytes: u64,
    /// Records of the log that are not in the table.
    pub records: u64,
    /// Somebody waits for a commit (`flush`, `ack=committed`).
    pub flush: bool,
    /// Time since the last commit ended; none if this process made none.
    pub since_commit_ms: Option<i64>,
    /// 95th percentile of the time from start of a commit to its end.
    pub commit_p95_ms: i64,
}

/// Why a commit starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The oldest row would miss the target lag.
    Lag,
    /// Enough bytes for a file.
    Bytes,
    /// As many records as a commit of the sink takes.
    Records,
    /// Somebody waits.
    Flush,
    /// Half of what the log may keep for the table.
    Pin,
    /// A quiet stream's first rows.
    LeadingEdge,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing waits: sleep until an append.
    Idle,
    /// Look again after so many milliseconds (at least 1), or when told.
    Wait(i64),
    /// Start a commit.
    Commit(Trigger),
}

/// Decides whether a commit starts (rules 4.11).
pub fn decide(cadence: Cadence, waiting: Waiting) -> Decision {
    let Some(age_ms) = waiting.oldest_age_ms else {
        return Decision::Idle;
    };
    let age_ms = age_ms.max(0);
    let lag_ms = cadence.target_lag_ms.max(1);
    let blocked_ms = waiting
        .since_commit_ms
        .map_or(0, |since| cadence.min_interval_ms.saturating_sub(since.max(0)).max(0));
    let early_ms = lag_ms.saturating_mul(cadence.jitter_permille.clamp(0, 100)) / 1_000;
    // A table whose commits take longer than its lag would never rest, and be slower for it.
    let commit_ms = waiting.commit_p95_ms.clamp(0, lag_ms / 2);
    let due_age_ms = (lag_ms - commit_ms - early_ms).max(0);
    let quiet = waiting.since_commit_ms.is_none_or(|since| since >= lag_ms);
    let edge_age_ms = LEADING_EDGE_MS.min(lag_ms / 2);
    let trigger = if waiting.flush {
        Some(Trigger::Flush)
    } else if waiting.bytes >= cadence.flush_bytes {
        Some(Trigger::Bytes)
    } else if cadence.flush_records.is_some_and(|limit| waiting.records >= limit) {
        Some(Trigger::Records)
    } else if waiting.bytes >= (cadence.pin_max_bytes / 2).max(1) {
        Some(Trigger::Pin)
    } else if age_ms >= due_age_ms {
        Some(Trigger::Lag)
    } else if quiet && age_ms >= edge_age_ms {
        Some(Trigger::LeadingEdge)
    } else {
        None
    };
    if let Some(trigger) = trigger {
        return if blocked_ms == 0 {
            Decision::Commit(trigger)
        } else {
            Decision::Wait(blocked_ms)
        };
    }
    let due_ms = due_age_ms - age_ms;
    let edge_ms = if quiet { edge_age_ms - age_ms } else { due_ms };
    let poll_ms = (lag_ms / 20).clamp(POLL_MS_MIN, POLL_MS_MAX);
    Decision::Wait(due_ms.min(edge_ms).max(blocked_ms).min(poll_ms.max(blocked_ms)).max(1))
}

/// The last commit durations of a table.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    ring: Vec<i64>,
    next: usize,
}

impl Durations {
    /// Remembers one duration.
    pub fn record(&mut self, duration_ms: i64) {
        if self.ring.len() < DURATIONS_KEPT {
            self.ring.push(duration_ms);
        } else {
            self.ring[self.next] = duration_ms;
        }
        self.next = (self.next + 1) % DURATIONS_KEPT;
    }

    /// The 95th percentile (nearest rank); 0 before the first commit.
    pub fn p95_ms(&self) -> i64 {
        let mut sorted = self.ring.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 95).div_ceil(100);
        rank.checked_sub(1).and_then(|index| sorted.get(index)).copied().unwrap_or(0)
    }
}

/// What one partition has for the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// Partition index.
    pub partition: i32,
    /// Bytes that wait, at least 1 where rows wait.
    pub bytes: u64,
}

/// How much one commit reads of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Partition index.
    pub partition: i32,
    /// Stop reading once so many bytes were read.
    pub bytes_max: u64,
}

/// Shares `budget_bytes` among the partitions that have something: small backlogs are taken
/// whole, large ones share the rest evenly. In order of partition; every partition with data
/// gets at least one byte, so that its next batch is read and none starves.
pub fn cut(available: &[Available], budget_bytes: u64) -> Vec<Cut> {
    let mut wanted: Vec<Available> =
        available.iter().copied().filter(|one| one.bytes > 0).collect();
    wanted.sort_unstable_by_key(|one| (one.bytes, one.partition));
    let mut left = budget_bytes;
    let mut cuts = Vec::with_capacity(wanted.len());
    for (index, one) in wanted.iter().enumerate() {
        let sharers = (wanted.len() - index) as u64;
        let share = one.bytes.min(left / sharers).max(1);
        left = left.saturating_sub(share);
        cuts.push(Cut { partition: one.partition, bytes_max: share });
    }
    cuts.sort_unstable_by_key(|cut| cut.partition);
    cuts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Cadence = Cadence {
        target_lag_ms: 60_000,
        flush_bytes: 64 << 20,
        flush_records: None,
        pin_max_bytes: 1 << 40,
        min_interval_ms: 1_000,
        jitter_permille: 0,
    };

    fn waiting(age_ms: i64, since_commit_ms: Option<i64>) -> Waiting {
        Waiting { oldest_age_ms: Some(age_ms), bytes: 10, since_commit_ms, ..Waiting::default() }
    }

    #[allow(clippy::too_many_lines, reason = "a table of cases")]
    #[test]
    fn near_the_pin_limit_a_commit_does_not_wait_for_its_time() {
        let small = Cadence { pin_max_bytes: 20, ..MINUTE };
        let decided = decide(small, waiting(1, Some(2_000)));
        assert_eq!(decided, Decision::Commit(Trigger::Pin));
        let larger = Cadence { pin_max_bytes: 22, ..MINUTE };
        assert!(matches!(decide(larger, waiting(1, Some(2_000))), Decision::Wait(_)));
    }

    #[test]
    fn cadence_follows_the_table() {
        use Decision::{Commit, Idle, Wait};
        let quick = Cadence { target_lag_ms: 1_000, ..MINUTE };
        let jitter = Cadence { jitter_permille: 100, ..MINUTE };
        let slow = Waiting { commit_p95_ms: 5_000, ..waiting(55_000, Some(2_000)) };
        let slower = |age| Waiting { commit_p95_ms: 90_000, ..waiting(age, Some(2_000)) };
        let flush = |since| Waiting { flush: true, ..waiting(0, since) };
        let counted = Cadence { flush_records: Some(10), ..MINUTE };
        let ten = |records| Waiting { records, ..waiting(0, Some(2_000)) };
        let full = |since| Waiting { bytes: 64 << 20, ..waiting(0, since) };
        let cases = [
            ("nothing waits", MINUTE, Waiting::default(), Idle),
            ("nobody's flush", MINUTE, Waiting { flush: true, ..Waiting::default() }, Idle),
            ("newcomer waits", MINUTE, waiting(0, None), Wait(1_000)),
            ("newcomer", MINUTE, waiting(1_000, None), Commit(Trigger::LeadingEdge)),
            ("quiet stream", MINUTE, waiting(1_000, Some(60_000)), Commit(Trigger::LeadingEdge)),
            ("not quiet", MINUTE, waiting(1_000, Some(59_999)), Wait(1_000)),
            ("small lag, edge at half", quick, waiting(500, None), Commit(Trigger::LeadingEdge)),
            ("small lag, edge not yet", quick, waiting(450, None), Wait(50)),
            ("lag", MINUTE, waiting(60_000, Some(2_000)), Commit(Trigger::Lag)),
            ("lag less p95", MINUTE, slow, Commit(Trigger::Lag)),
            ("lag less half of it at most", MINUTE, slower(29_000), Wait(1_000)),
            ("half of the lag", MINUTE, slower(30_000), Commit(Trigger::Lag)),
            ("lag less jitter", jitter, waiting(54_000, Some(2_000)), Commit(Trigger::Lag)),
            ("almost", MINUTE, waiting(59_800, Some(2_000)), Wait(200)),
            ("min interval", MINUTE, waiting(70_000, Some(400)), Wait(600)),
            ("records", counted, ten(10), Commit(Trigger::Records)),
            ("fewer records", counted, ten(9), Wait(1_000)),
            ("no limit of records", MINUTE, ten(1 << 40), Wait(1_000)),
            ("bytes", MINUTE, full(Some(2_000)), Commit(Trigger::Bytes)),
            ("bytes, min interval", MINUTE, full(Some(0)), Wait(1_000)),
            ("flush", MINUTE, flush(Some(1_000)), Commit(Trigger::Flush)),
            ("flush, min interval", MINUTE, flush(Some(999)), Wait(1)),
            ("clock stepped back", MINUTE, waiting(-5_000, None), Wait(1_000)),
        ];
        for (name, cadence, waiting, expected) in cases {
            assert_eq!(decide(cadence, waiting), expected, "{name}");
        }
    }

    #[test]
    fn p95_is_of_the_last_durations() {
        let mut durations = Durations::default();
        assert_eq!(durations.p95_ms(), 0);
        for ms in 1..=100 {
            durations.record(ms);
        }
        assert_eq!(durations.p95_ms(), 99);
        for _ in 0..DURATIONS_KEPT {
            durations.record(7);
        }
        assert_eq!(durations.p95_ms(), 7);
    }

    #[test]
    fn small_backlogs_are_taken_whole() {
        let of = |partition, bytes| Available { partition, bytes };
        let cuts = cut(&[of(0, 1_000), of(1, 10), of(2, 0), of(3, 1_000)], 210);
        let bytes: Vec<_> = cuts.iter().map(|cut| (cut.partition, cut.bytes_max)).collect();
        assert_eq!(bytes, [(0, 100), (1, 10), (3, 100)]);
    }

    proptest! {
        #[test]
        fn cuts_stay_within_the_budget_and_starve_nobody(
            bytes in prop::collection::vec(0_u64..1 << 30, 0..64),
            budget in 0_u64..1 << 30,
        ) {
            let available: Vec<_> = (0..).zip(&bytes)
                .map(|(partition, bytes)| Available { partition, bytes: *bytes }).collect();
            let cuts = cut(&available, budget);
            let total: u64 = cuts.iter().map(|cut| cut.bytes_max).sum();
            prop_assert!(total <= budget.max(cuts.len() as u64) + cuts.len() as u64);
            let with_data = bytes.iter().filter(|bytes| **bytes > 0).count();
            prop_assert_eq!(cuts.len(), with_data);
            prop_assert!(cuts.iter().all(|cut| cut.bytes_max >= 1));
        }

        #[test]
        fn a_decision_never_sleeps_past_the_lag(
            age in 0_i64..100_000, since in prop::option::of(0_i64..100_000),
            p95 in 0_i64..100_000, lag in 1_000_i64..60_000,
        ) {
            let cadence = Cadence { target_lag_ms: lag, ..MINUTE };
            let waiting = Waiting { commit_p95_ms: p95, ..waiting(age, since) };
            if let Decision::Wait(ms) = decide(cadence, waiting) {
                let blocked = since.map_or(0, |since| (1_000 - since).max(0));
                prop_assert!(ms >= 1);
                prop_assert!(ms <= (lag - p95.min(lag / 2) - age).max(1).max(blocked));
            }
        }
    }
}
