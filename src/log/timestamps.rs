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
            found = self.first_in(run, |timestamp| timestamp >= timestamp_ms);
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
        let mut best: Option<Run> = None;
        self.each_run(|run| {
            if best.is_none_or(|best| run.max_timestamp > best.max_timestamp) {
                best = Some(*run);
            }
            ControlFlow::Continue(())
        })?;
        match best {
            // -1 is "no timestamp".
            Some(run) if run.max_timestamp >= 0 => {
                self.first_in(&run, |timestamp| timestamp >= run.max_timestamp)
            }
            _ => Ok(None),
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

    /// The first record of `run` at or above the log start whose timestamp is `wanted`.
    fn first_in(
        &self,
        run: &Run,
        wanted: impl Fn(i64) -> bool,
    ) -> Result<Option<(Offset, i64)>, ReadError> {
        let log_start = self.partition.log_start_offset();
        let frames = self.frames_of(run, run.base_offset.max(log_start))?;
        Ok(frames.iter().find_map(|frame| first_in_batch(frame, log_start, &wanted)))
    }
}

fn first_in_batch(
    frame: &WrittenFrame,
    log_start: Offset,
    wanted: impl Fn(i64) -> bool,
) -> Option<(Offset, i64)> {
    let batch = &frame.draft.payload;
    let header = BatchHeader::parse(batch).ok().filter(|header| wanted(header.max_timestamp))?;
    let mut reader = BatchReader::new();
    let base_offset = frame.draft.base_offset;
    // Records that cannot be read are poison of a client: then the batch's own numbers are the
    // best answer, and they skip nothing.
    let whole = (base_offset.max(log_start), header.max_timestamp);
    let Ok(records) = reader.records(batch) else {
        return Some(whole);
    };
    for (i, record) in (0_i64..).zip(records) {
        let Ok(record) = record else {
            return Some(whole);
        };
        // Counted from the frame, which knows the offsets whatever the batch says.
        let offset = base_offset + i;
        if offset >= log_start && wanted(record.timestamp) {
            return Some((offset, record.timestamp));
        }
    }
    None
}
