//! What a person sees of a table.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use crate::table::commit::marker::Gap;
use crate::tier::pending::Oldest;
use crate::types::Offset;

/// One partition's part of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    /// Partition index.
    pub partition: i32,
    /// Everything below is in the table, in the dead-letter table, or a recorded gap.
    pub end_offset: Option<Offset>,
    /// Next offset after the last durable record (exclusive).
    pub high_watermark: Offset,
    /// First offset that the log still has.
    pub log_start_offset: Offset,
}

/// A file of the last commit, of rows or of deletes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// Absolute URI.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// A column of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnStatus {
    /// Its name.
    pub name: String,
    /// Its Iceberg type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One table as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TableStatus {
    /// `namespace.name`; until the table is made the name it gets if it is free.
    pub table: String,
    /// `namespace.name` of the dead-letter table, once it was needed.
    pub dead_letter_table: Option<String>,
    /// Name of the topic.
    pub topic: String,
    /// Id of the topic.
    pub topic_id: String,
    /// Id of the topic's sink; none for its own table.
    pub sink: Option<String>,
    /// As whom it is written, if it is the table of a sink; else the server does.
    pub principal: Option<String>,
    /// `table.mode`, or `mapped` for the table of a sink.
    pub mode: String,
    /// `RUNNING`, `RETRYING`, `WAITING` (no row yet), `OFF`, `DRAINING`, or a stopped state.
    pub state: String,
    /// Why it is not `RUNNING`.
    pub reason: Option<String>,
    /// The command that leaves a stopped state.
    pub resume: Option<String>,
    /// Raised by every resume.
    pub generation: u32,
    /// Age of the oldest record that is not in the table, milliseconds; 0 if there is none.
    pub lag_ms: i64,
    /// How old it may become: `table.target.lag.ms`, or what the sink says, milliseconds.
    pub target_lag_ms: i64,
    /// Records that are not in the table.
    pub pending_offsets: i64,
    /// About how many bytes the log keeps for what is not in the table.
    pub pinned_bytes: u64,
    /// Why producers of the topic are refused, if they are (`table.pin.overflow = block`).
    pub blocked: Option<String>,
    /// By partition index.
    pub partitions: Vec<PartitionStatus>,
    /// The last snapshot of ours.
    pub last_snapshot_id: Option<i64>,
    /// Wall-clock time of the last commit, milliseconds.
    pub last_commit_ms: Option<i64>,
    /// 95th percentile of the last commits' duration, milliseconds.
    pub commit_p95_ms: i64,
    /// Table commits since the table began.
    pub commits: u64,
    /// Rows since the table began.
    pub rows: u64,
    /// Rows of the dead-letter table.
    pub dlq_rows: u64,
    /// Records without a row because a later one of the same commit has their primary key.
    pub superseded_rows: u64,
    /// Rollbacks of the dead-letter table by its user that were noticed.
    pub dlq_rollbacks: u64,
    /// Rows that they took away and that are not written again, as far as the table still told.
    pub dlq_rolled_back_rows: u64,
    /// Offsets that were passed as recorded gaps.
    pub gap_offsets: u64,
    /// The newest gaps.
    pub gaps: Vec<Gap>,
    /// Files of the last commit.
    pub last_files: Vec<FileStatus>,
    /// `table.partition.spec`; a column of it that does not exist yet is waited for.
    pub partition_spec: String,
    /// Columns of the table.
    pub columns: Vec<ColumnStatus>,
    /// Why the table, which others made, does not get the columns of ours, if it does not; its rows
    /// are written without them.
    pub columns_refused: Option<String>,
}

impl TableStatus {
    /// True if there is a table, or will be. That of a topic with `table.mode = off` has only the name
    /// that it would ask for, unless it was on before.
    pub(super) fn has_table(&self) -> bool {
        self.mode != "off" || self.commits > 0
    }
}

/// The place where a worker leaves its status.
#[derive(Clone, Default)]
pub(super) struct Cell(Arc<Mutex<Shown>>);

#[derive(Default)]
struct Shown {
    status: TableStatus,
    /// What waits longest; its age grows while nothing is published.
    oldest: Option<Oldest>,
    /// The table has series among the metrics.
    is_measured: bool,
    /// The table and the state that they show; empty at first.
    measured: (String, String),
}

impl Cell {
    pub(super) fn get(&self) -> TableStatus {
        let shown = self.0.lock();
        let mut status = shown.status.clone();
        status.lag_ms = shown.oldest.map_or(0, |oldest| oldest.age_ms());
        status
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut TableStatus)) {
        change(&mut self.0.lock().status);
    }

    /// True from the first time on that it is `told` that there is something to measure.
    pub(super) fn is_measured(&self, told: bool) -> bool {
        let mut shown = self.0.lock();
        shown.is_measured |= told;
        shown.is_measured
    }

    /// The table and the state that the metrics showed before, if these are others.
    pub(super) fn turns_to(&self, table: &str, state: &str) -> Option<(String, String)> {
        let measured = &mut self.0.lock().measured;
        let is_same = measured.0 == table && measured.1 == state;
        let now = || (table.to_owned(), state.to_owned());
        (!is_same).then(|| std::mem::replace(measured, now()))
    }

    /// Says since when something waits.
    pub(super) fn waits_since(&self, oldest: Option<Oldest>) {
        self.0.lock().oldest = oldest;
    }

    /// True if `name` means this table: its name with or without namespace; or its topic, of whose
    /// own table it is.
    pub(super) fn is_named(&self, name: &str) -> bool {
        let status = &self.0.lock().status;
        let short = status.table.rsplit('.').next().unwrap_or_default();
        let is_topic = status.sink.is_none() && status.topic == name;
        !name.is_empty() && (status.table == name || short == name || is_topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_metrics_showed_is_told_once_and_not_before_they_showed_anything() {
        let pair = |table: &str, state: &str| Some((table.to_owned(), state.to_owned()));
        let cell = Cell::default();
        assert_eq!(cell.turns_to("", ""), None);
        assert_eq!(cell.turns_to("s.t", "RUNNING"), pair("", ""));
        assert_eq!(cell.turns_to("s.t", "RUNNING"), None);
        assert_eq!(cell.turns_to("s.t", "DRAINING"), pair("s.t", "RUNNING"));
        assert_eq!(cell.turns_to("s.t__1", "DRAINING"), pair("s.t", "DRAINING"));
        assert_eq!(cell.turns_to("", ""), pair("s.t__1", "DRAINING"));
        assert_eq!(cell.turns_to("", ""), None);
    }
}
