//! How a ledger entry changes: prepare, attempt, committed, gap, stop, resume. Pure; the worker
//! makes each result durable before it acts on it.

use uuid::Uuid;

use crate::table::commit::guard::LedgerView;
use crate::table::commit::letters::TakenAway;
use crate::table::commit::marker::Ends;
use crate::table::commit::marker::Gap;
use crate::table::commit::marker::Source;
use crate::table::commit::marker::Writer;
use crate::table::commit::newest::Accepted;
use crate::tier::ledger::Entry;
use crate::tier::ledger::LastCommit;
use crate::tier::ledger::Outstanding;
use crate::tier::ledger::Prepared;
use crate::tier::ledger::Stop;
use crate::tier::ledger::StopState;
use crate::tier::ledger::Totals;
use crate::types::Offset;

/// Gaps kept for status.
const GAP_HISTORY_MAX: usize = 100;

/// Gaps that wait for a commit at most; beyond it neighbours of one reason must be merged.
const PENDING_GAPS_MAX: usize = 10_000;

/// Reason of a gap over an outstanding commit whose files and records are both gone.
const FILES_LOST: &str = "files lost";

/// A step that the entry's state does not allow: a defect, or a damaged ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ledger step refused: {0}")]
pub struct Refused(pub String);

impl Entry {
    /// A table that does not exist yet.
    pub fn new(writer: Writer, topic_name: &str) -> Self {
        Self {
            topic_id: writer.topic_id,
            sink: writer.sink,
            topic_name: topic_name.to_owned(),
            generation: 1,
            table: None,
            dlq: None,
            dlq_taken_away: None,
            ends: Ends::new(),
            pending_gaps: Vec::new(),
            outstanding: None,
            last: None,
            accepted: None,
            stop: None,
            renames: Vec::new(),
            off: false,
            closed: false,
            totals: Totals::default(),
            gap_history: Vec::new(),
        }
    }

    /// Whose rows the table has.
    pub fn writer(&self) -> Writer {
        Writer { topic_id: self.topic_id, sink: self.sink }
    }

    /// The writer that markers name.
    pub fn source(&self) -> Source {
        Source { writer: self.writer(), generation: self.generation }
    }

    /// What the guard compares the table with. `table_uuid` is the table's own.
    pub fn view(&self, table_uuid: Uuid) -> LedgerView<'_> {
        LedgerView {
            source: self.source(),
            table_uuid,
            last: self.last.as_ref().map(|last| last.commit_id),
            ends: &self.ends,
            attempts: self.outstanding.as_ref().map_or(&[], |one| one.attempts.as_slice()),
            accepted: self.accepted,
        }
    }

    /// Where the next range of a partition begins; none where it may begin anywhere.
    pub fn next(&self, partition: i32) -> Option<Offset> {
        let ends = self.outstanding.as_ref().map_or(&self.ends, |one| &one.ends_after);
        let end = ends.get(&partition).copied();
        let gap = self.pending_gaps.iter().rev().find(|gap| gap.partition == partition);
        gap.map_or(end, |gap| Some(gap.to))
    }

    /// Every offset below is in the table, in the dead-letter table, or a recorded gap: what
    /// stream retention may pass. An outstanding commit counts only where a gap lies behind it
    /// (overflow with `drop_oldest`: its files are then the only copy).
    pub fn released(&self, partition: i32) -> Option<Offset> {
        let has_gap = self.pending_gaps.iter().any(|gap| gap.partition == partition);
        if has_gap { self.next(partition) } else { self.ends.get(&partition).copied() }
    }

    /// Passes `gap` without rows. It must begin where the next range would.
    ///
    /// # Errors
    /// [`Refused`] if it leaves a hole or overlaps.
    pub fn record_gap(&mut self, gap: Gap) -> Result<(), Refused> {
        let next = self.next(gap.partition).unwrap_or(gap.from);
        if gap.from != next || gap.to <= gap.from {
            return Err(Refused(format!("gap {gap:?} where {next} comes next")));
        }
        self.totals.gap_offsets += gap.to.abs_diff(gap.from);
        self.remember(&gap);
        let full = self.pending_gaps.len() >= PENDING_GAPS_MAX;
        let last = self.pending_gaps.iter_mut().rev().find(|one| one.partition == gap.partition);
        match last {
            Some(last) if last.to == gap.from && last.reason == gap.reason => last.to = gap.to,
            _ if full => return Err(Refused("too many gaps wait for a commit".to_owned())),
            _ => self.pending_gaps.push(gap),
        }
        Ok(())
    }

    fn remember(&mut self, gap: &Gap) {
        if self.gap_history.len() >= GAP_HISTORY_MAX {
            self.gap_history.remove(0);
        }
        self.gap_history.push(gap.clone());
    }

    /// Takes up `prepared` with its first attempt. Its gaps include all pending ones.
    ///
    /// # Errors
    /// [`Refused`] if a commit is outstanding, or ranges and gaps do not join the ends.
    pub fn prepare(&mut self, prepared: &Prepared, first_attempt: Uuid) -> Result<(), Refused> {
        if self.outstanding.is_some() {
            return Err(Refused("a commit is outstanding".to_owned()));
        }
        let ends_after = join(&self.ends, prepared)?;
        if ends_after != prepared.ends_after {
            return Err(Refused(format!(
                "ends {:?} do not follow from the ranges, which end at {ends_after:?}",
                prepared.ends_after
            )));
        }
        if let Some(lost) = self.pending_gaps.iter().find(|gap| !carries(&prepared.gaps, gap)) {
            return Err(Refused(format!("the commit does not carry {lost:?}")));
        }
        let fresh: Vec<_> =
            prepared.gaps.iter().filter(|gap| !self.pending_gaps.contains(gap)).cloned().collect();
        for gap in fresh {
            self.totals.gap_offsets += gap.to.abs_diff(gap.from);
            self.remember(&gap);
        }
        self.pending_gaps.clear();
        self.outstanding = Some(Outstanding {
            entry_id: prepared.entry_id,
            attempts: vec![first_attempt],
            ends_after,
        });
        Ok(())
    }

    /// Adds an attempt of the outstanding commit.
    ///
    /// # Errors
    /// [`Refused`] if nothing is outstanding.
    pub fn attempt(&mut self, commit_id: Uuid) -> Result<(), Refused> {
        let Some(outstanding) = &mut self.outstanding else {
            return Err(Refused("no commit is outstanding".to_owned()));
        };
        if !outstanding.attempts.contains(&commit_id) {
            outstanding.attempts.push(commit_id);
        }
        Ok(())
    }

    /// The attempt `commit_id` is in the table.
    ///
    /// # Errors
    /// [`Refused`] if it is no attempt of the outstanding commit.
    pub fn committed(
        &mut self,
        commit_id: Uuid,
        snapshot_id: Option<i64>,
        at_ms: i64,
        prepared: &Prepared,
    ) -> Result<(), Refused> {
        let known = self
            .outstanding
            .take_if(|one| one.entry_id == prepared.entry_id && one.attempts.contains(&commit_id));
        let Some(outstanding) = known else {
            return Err(Refused(format!("{commit_id} is no attempt of the outstanding commit")));
        };
        self.ends = outstanding.ends_after;
        self.last = Some(LastCommit { commit_id, snapshot_id, at_ms });
        self.accepted = None;
        self.totals.commits += 1;
        self.totals.rows += prepared.rows;
        self.totals.dlq_rows += prepared.dlq_rows;
        self.totals.superseded_rows += prepared.superseded_rows;
        Ok(())
    }

    /// A rollback took dead letters out of their table. False if it was counted already.
    pub fn take_away(&mut self, lost: TakenAway) -> bool {
        if self.dlq_taken_away == Some(lost.newest) {
            return false;
        }
        self.dlq_taken_away = Some(lost.newest);
        self.totals.dlq_rollbacks += 1;
        self.totals.dlq_rolled_back_rows += lost.rows;
        true
    }

    /// Gives the outstanding commit up because its files are gone: its range is cut and encoded
    /// again. Where a gap lies behind it the log no longer has its records (see
    /// [`Entry::released`]): then they are a gap as well.
    pub fn unprepare(&mut self, prepared: &Prepared) {
        let Some(outstanding) = self.outstanding.take() else {
            return;
        };
        let mut gaps = Vec::new();
        for (partition, end) in outstanding.ends_after {
            let start = self.ends.get(&partition).copied().or_else(|| first(prepared, partition));
            let Some(start) = start else { continue };
            if start == end {
                continue;
            }
            if self.pending_gaps.iter().any(|gap| gap.partition == partition) {
                // Gaps in between were counted when they were recorded.
                let rows = prepared.ranges.iter().filter(|range| range.partition == partition);
                let rows = rows.map(|range| range.end.abs_diff(range.base));
                self.totals.gap_offsets += rows.sum::<u64>();
                let gap = Gap { partition, from: start, to: end, reason: FILES_LOST.to_owned() };
                self.remember(&gap);
                gaps.push(gap);
                continue;
            }
            let mut next = start;
            for gap in prepared.gaps.iter().filter(|gap| gap.partition == partition) {
                if gap.from == next {
                    next = gap.to;
                    gaps.push(gap.clone());
                }
            }
        }
        gaps.append(&mut self.pending_gaps);
        self.pending_gaps = gaps;
    }

    /// Stands still until resumed.
    pub fn stop(&mut self, state: StopState, reason: impl Into<String>) {
        self.stop = Some(Stop { state, reason: reason.into() });
    }

    /// The rows to come go to a new table, whose counts begin again. Gaps stay: they are the
    /// stream's.
    pub fn leave_table(&mut self) {
        self.table = None;
        self.dlq = None;
        self.accepted = None;
        self.totals = Totals { gap_offsets: self.totals.gap_offsets, ..Totals::default() };
    }

    /// Starts a new generation at `starts` (rules 4.4). What was outstanding is given up: its
    /// rows are below or above the new starts. Gaps to `starts` are recorded by the caller.
    /// `accepted` is what was found in the table, if there is one to go on with.
    pub fn resume(&mut self, starts: Ends, gaps: Vec<Gap>, accepted: Option<Accepted>) {
        self.generation += 1;
        self.outstanding = None;
        self.last = None;
        self.accepted = accepted;
        self.stop = None;
        self.ends = starts;
        self.pending_gaps = Vec::new();
        for gap in gaps {
            self.totals.gap_offsets += gap.to.abs_diff(gap.from).max(1);
            self.remember(&gap);
        }
    }
}

/// Ends after `prepared`, if its ranges and gaps follow each other from `ends` without holes.
pub(super) fn join(ends: &Ends, prepared: &Prepared) -> Result<Ends, Refused> {
    let ranges = prepared.ranges.iter().map(|range| (range.partition, range.base, range.end));
    let gaps = prepared.gaps.iter().map(|gap| (gap.partition, gap.from, gap.to));
    let mut pieces: Vec<_> = ranges.chain(gaps).collect();
    pieces.sort_unstable();
    let mut after = ends.clone();
    for (partition, base, end) in pieces {
        let next = after.get(&partition).copied().unwrap_or(base);
        if base != next || end <= base {
            return Err(Refused(format!(
                "partition {partition} goes on at {base} to {end}, expected {next}"
            )));
        }
        after.insert(partition, end);
    }
    Ok(after)
}

/// First offset of a partition in a commit.
fn first(prepared: &Prepared, partition: i32) -> Option<Offset> {
    let ranges = prepared.ranges.iter().filter(|range| range.partition == partition);
    let gaps = prepared.gaps.iter().filter(|gap| gap.partition == partition);
    ranges.map(|range| range.base).chain(gaps.map(|gap| gap.from)).min()
}

fn carries(gaps: &[Gap], wanted: &Gap) -> bool {
    gaps.iter().any(|gap| {
        gap.partition == wanted.partition && gap.from <= wanted.from && gap.to >= wanted.to
    })
}

#[cfg(test)]
mod tests {
    use crate::table::commit::marker::Range;
    use crate::types::TopicId;

    use super::*;

    fn gap(partition: i32, from: Offset, to: Offset) -> Gap {
        Gap { partition, from, to, reason: "off".to_owned() }
    }

    fn range(partition: i32, base: Offset, end: Offset) -> Range {
        Range { partition, base, end }
    }

    fn prepared(ranges: Vec<Range>, gaps: Vec<Gap>, ends: &[(i32, Offset)]) -> Prepared {
        Prepared {
            entry_id: Uuid::now_v7(),
            ranges,
            gaps,
            ends_after: ends.iter().copied().collect(),
            rows: 1,
            ..Prepared::default()
        }
    }

    fn entry() -> Entry {
        Entry::new(Writer::topic(TopicId(Uuid::from_u128(1))), "orders")
    }

    #[test]
    fn a_commit_moves_the_ends_only_when_it_is_committed() {
        let (mut entry, id) = (entry(), Uuid::now_v7());
        let prepared = prepared(vec![range(0, 5, 9)], vec![], &[(0, 9)]);
        entry.prepare(&prepared, id).unwrap();
        assert_eq!((entry.next(0), entry.released(0)), (Some(9), None));
        assert!(entry.committed(Uuid::now_v7(), None, 0, &prepared).is_err());
        let second = Uuid::now_v7();
        entry.attempt(second).unwrap();
        entry.committed(id, Some(4), 0, &prepared).unwrap();
        assert_eq!((entry.next(0), entry.released(0)), (Some(9), Some(9)));
        assert_eq!(entry.last.as_ref().unwrap().commit_id, id);
        assert!(entry.outstanding.is_none());
        assert!(entry.attempt(second).is_err());
        assert_eq!(entry.totals.rows, 1);
    }

    #[test]
    fn ranges_must_join_the_ends() {
        let cases = [
            ("follows", vec![range(0, 10, 12)], vec![], vec![(0, 12)], true),
            (
                "new partition anywhere",
                vec![range(1, 77, 78)],
                vec![],
                vec![(0, 10), (1, 78)],
                true,
            ),
            ("hole", vec![range(0, 11, 12)], vec![], vec![(0, 12)], false),
            ("overlap", vec![range(0, 9, 12)], vec![], vec![(0, 12)], false),
            ("empty range", vec![range(0, 10, 10)], vec![], vec![(0, 10)], false),
            (
                "gap between",
                vec![range(0, 10, 12), range(0, 15, 16)],
                vec![gap(0, 12, 15)],
                vec![(0, 16)],
                true,
            ),
            ("gap too short", vec![range(0, 15, 16)], vec![gap(0, 10, 14)], vec![(0, 16)], false),
            ("wrong ends", vec![range(0, 10, 12)], vec![], vec![(0, 13)], false),
        ];
        for (name, ranges, gaps, ends, accepted) in cases {
            let mut entry = entry();
            entry.ends.insert(0, 10);
            let result = entry.prepare(&prepared(ranges, gaps, &ends), Uuid::now_v7());
            assert_eq!(result.is_ok(), accepted, "{name}: {result:?}");
        }
    }

    #[test]
    fn a_recorded_gap_is_released_at_once_and_carried_by_the_next_commit() {
        let mut entry = entry();
        entry.ends.insert(0, 10);
        assert!(entry.record_gap(gap(0, 11, 20)).is_err());
        entry.record_gap(gap(0, 10, 20)).unwrap();
        entry.record_gap(gap(0, 20, 30)).unwrap();
        assert_eq!(entry.pending_gaps, [gap(0, 10, 30)]);
        assert_eq!((entry.next(0), entry.released(0)), (Some(30), Some(30)));
        assert_eq!(entry.ends[&0], 10, "the table does not say so yet");
        let lost = prepared(vec![range(1, 0, 1)], vec![], &[(0, 10), (1, 1)]);
        assert!(entry.prepare(&lost, Uuid::now_v7()).is_err());
        let carried = prepared(vec![range(0, 30, 31)], vec![gap(0, 10, 30)], &[(0, 31)]);
        entry.prepare(&carried, Uuid::now_v7()).unwrap();
        assert!(entry.pending_gaps.is_empty());
        assert_eq!(entry.totals.gap_offsets, 20);
    }

    #[test]
    fn an_overflow_behind_an_outstanding_commit_releases_both() {
        let mut entry = entry();
        entry.prepare(&prepared(vec![range(0, 0, 5)], vec![], &[(0, 5)]), Uuid::now_v7()).unwrap();
        assert_eq!(entry.released(0), None);
        entry.record_gap(gap(0, 5, 50)).unwrap();
        assert_eq!((entry.released(0), entry.next(0)), (Some(50), Some(50)));
    }

    #[test]
    fn a_commit_without_files_is_cut_again_or_becomes_a_gap() {
        let commit = prepared(vec![range(0, 3, 5)], vec![gap(0, 0, 3)], &[(0, 5)]);
        let mut again = entry();
        again.prepare(&commit, Uuid::now_v7()).unwrap();
        again.unprepare(&commit);
        assert_eq!((again.next(0), again.pending_gaps.len()), (Some(3), 1));
        let mut lost = entry();
        lost.prepare(&commit, Uuid::now_v7()).unwrap();
        lost.record_gap(gap(0, 5, 50)).unwrap();
        lost.unprepare(&commit);
        let expected = [(0, 5, "files lost"), (5, 50, "off")];
        let found: Vec<_> =
            lost.pending_gaps.iter().map(|gap| (gap.from, gap.to, gap.reason.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(lost.totals.gap_offsets, 50, "each offset counts once");
        let told: Vec<_> = lost.gap_history.iter().map(|gap| (gap.from, gap.to)).collect();
        assert_eq!(told, [(0, 3), (5, 50), (0, 5)], "status tells of what was lost");
    }

    #[test]
    fn a_rollback_of_the_dead_letters_counts_once() {
        let mut entry = entry();
        let lost = TakenAway { newest: Uuid::from_u128(7), rows: 3 };
        assert!(entry.take_away(lost) && !entry.take_away(lost));
        assert!(entry.take_away(TakenAway { newest: Uuid::from_u128(8), rows: 1 }));
        assert_eq!((entry.totals.dlq_rollbacks, entry.totals.dlq_rolled_back_rows), (2, 4));
    }

    #[test]
    fn resume_raises_the_generation_and_forgets_the_markers() {
        let mut entry = entry();
        let commit = prepared(vec![range(0, 0, 5)], vec![], &[(0, 5)]);
        entry.prepare(&commit, Uuid::now_v7()).unwrap();
        entry.stop(StopState::RolledBack, "why");
        let accepted = Accepted { snapshot_id: Some(1), commit_id: None };
        entry.resume(Ends::from([(0, 3)]), vec![], Some(accepted));
        assert_eq!((entry.generation, entry.next(0)), (2, Some(3)));
        assert!(entry.stop.is_none() && entry.outstanding.is_none() && entry.last.is_none());
        assert_eq!(entry.view(Uuid::nil()).accepted, Some(accepted));
        let (commit, id) = (prepared(vec![range(0, 3, 5)], vec![], &[(0, 5)]), Uuid::now_v7());
        entry.prepare(&commit, id).unwrap();
        entry.committed(id, None, 0, &commit).unwrap();
        assert_eq!(entry.accepted, None, "from now on the last commit says where it is");
    }
}
