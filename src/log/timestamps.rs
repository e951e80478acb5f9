//! Looking up offsets by timestamp (`ListOffsets`), at the precision of records: the index
//! gives the run, its batches' headers the batch, a walk over its records the record.

use std::ops::ControlFlow;

use crate::log::ReadError;
use crate::log::read::Reader;
use crate::record::{BatchHeader, BatchReader};
use crate::types::Offset;
use crate::wal::{Run, WrittenFrame};

/// Index entries looked at in one go.
const RUNS_PER_PAGE: usize = 1_024;

impl Reader<'_> {
    /// The first record whose timestamp is at least `timestamp_ms`: its offset and timestamp.
    pub(crate) fn first_at_or_after(
        &self,
        timestamp_ms: i64,
    ) -> Result<Option<(Offset, i64)>, ReadError> {
        let mut found = Ok(None);
        self.each_run(|run| {
            if run.max_timestamp < timestamp_ms {
                return ControlFlow::Continue(());
            }
            found = self.first_in(run, timestamp_ms);
            if matches!(found, Ok(None)) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        found
    }

    /// The first record with the greatest timestamp.
    pub(crate) fn with_max_timestamp(&self) -> Result<Option<(Offset, i64)>, ReadError> {
        let log_start = self.partition.log_start_offset();
        let (mut best, mut cut): (Option<Run>, Option<Run>) = (None, None);
        self.each_run(|run| {
            if run.base_offset < log_start {
                cut = Some(*run);
            } else if best.is_none_or(|best| run.max_timestamp > best.max_timestamp) {
                best = Some(*run);
            }
            ControlFlow::Continue(())
        })?;
        // -1 is "no timestamp".
        let best = best.filter(|run| run.max_timestamp >= 0);
        let least = best.map_or(0, |run| run.max_timestamp);
        // What the index says of a run that the log start cuts may lie below it.
        let first = match cut.filter(|run| run.max_timestamp >= least) {
            Some(run) => self.greatest_in(&run, least)?,
            None => None,
        };
        match (first, best) {
            (None, Some(run)) => self.first_in(&run, run.max_timestamp),
            (first, _) => Ok(first),
        }
    }

    /// Visits the runs between log start and high watermark in order.
    fn each_run(&self, mut visit: impl FnMut(&Run) -> ControlFlow<()>) -> Result<(), ReadError> {
        let high_watermark = self.partition.high_watermark();
        let mut cursor = self.partition.log_start_offset();
        while cursor < high_watermark {
            let mut runs = self.partition.recent_from(cursor, RUNS_PER_PAGE);
            if runs.is_empty() {
                let id = self.partition.id();
                runs = self.state.runs(id, cursor, RUNS_PER_PAGE).map_err(ReadError::Io)?;
            }
            if runs.is_empty() {
                // Past the index, before what is recent: a gap.
                runs.extend(self.partition.recent_after(cursor));
            }
            let Some(last) = runs.last() else {
                return Ok(());
            };
            cursor = last.end_offset;
            for run in runs.iter().take_while(|run| run.base_offset < high_watermark) {
                if visit(run).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The first record of `run` at or above the log start whose timestamp is at least `least`.
    fn first_in(&self, run: &Run, least: i64) -> Result<Option<(Offset, i64)>, ReadError> {
        let mut found = None;
        self.each_record(run, least, |offset, timestamp| {
            found = Some((offset, timestamp));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// The first record with the greatest timestamp of those that `first_in` would find.
    fn greatest_in(&self, run: &Run, least: i64) -> Result<Option<(Offset, i64)>, ReadError> {
        let mut found: Option<(Offset, i64)> = None;
        self.each_record(run, least, |offset, timestamp| {
            if found.is_none_or(|(_, greatest)| timestamp > greatest) {
                found = Some((offset, timestamp));
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Visits the records of `run` at or above the log start whose timestamp is at least `least`.
    /// A frame that cannot be read ends it with an error: what is behind it must not be taken
    /// for the first.
    fn each_record(
        &self,
        run: &Run,
        least: i64,
        mut visit: impl FnMut(Offset, i64) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let log_start = self.partition.log_start_offset();
        let mut from = run.base_offset.max(log_start);
        while from < run.end_offset {
            for frame in self.frames_of(run, from)? {
                from = frame.end_offset();
                if visit_batch(&frame, log_start, least, &mut visit).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn visit_batch(
    frame: &WrittenFrame,
    log_start: Offset,
    least: i64,
    visit: &mut impl FnMut(Offset, i64) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let batch = &frame.draft.payload;
    let Some(header) = BatchHeader::parse(batch).ok().filter(|one| one.max_timestamp >= least)
    else {
        return ControlFlow::Continue(());
    };
    let mut reader = BatchReader::new();
    let base_offset = frame.draft.base_offset;
    // Records that cannot be read are poison of a client: then the batch's own numbers are the
    // best answer, and they skip nothing.
    let whole = (base_offset.max(log_start), header.max_timestamp);
    let Ok(records) = reader.records(batch) else {
        return visit(whole.0, whole.1);
    };
    for (i, record) in (0_i64..).zip(records) {
        let Ok(record) = record else {
            return visit(whole.0, whole.1);
        };
        // Counted from the frame, which knows the offsets whatever the batch says.
        let offset = base_offset + i;
        if offset >= log_start && record.timestamp >= least {
            visit(offset, record.timestamp)?;
        }
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests;
