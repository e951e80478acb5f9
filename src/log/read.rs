//! Reading whole batches: which run holds an offset, what lies in it, and what to say of
//! offsets that no run holds.

use std::collections::VecDeque;

use crate::log::ports::{Directory, Frames, RunError, State};
use crate::log::{Origin, Partition, ReadError, ReadSlice, StoredBatch};
use crate::types::{Offset, OffsetRange};
use crate::wal::{FrameKind, Run, WrittenFrame};

/// Runs looked up at a time.
const RUNS_PER_LOOKUP: usize = 32;

/// Of a longer run, in bytes, no part is read: the rest would be read for nothing now, and the part
/// again by the next read.
const PART_BYTES_MAX: usize = 64 << 10;

/// What holds an offset below the high watermark.
enum Holder {
    Run(Run),
    /// Recorded: these offsets are in no frame.
    Gap(OffsetRange, String),
}

/// A reader of one partition; everything blocks.
pub(crate) struct Reader<'a> {
    pub(crate) partition: &'a Partition,
    pub(crate) state: &'a dyn State,
    pub(crate) frames: &'a dyn Frames,
    pub(crate) directory: &'a dyn Directory,
}

impl Reader<'_> {
    /// Reads whole batches from the one that holds `from`, below the high watermark.
    pub(crate) fn read(&self, from: Offset, bytes_max: usize) -> Result<ReadSlice, ReadError> {
        let high_watermark = self.partition.high_watermark();
        let log_start_offset = self.partition.log_start_offset();
        if from < log_start_offset || from > high_watermark {
            return Err(ReadError::OutOfRange { start: log_start_offset, end: high_watermark });
        }
        let mut slice = ReadSlice { high_watermark, log_start_offset, ..ReadSlice::default() };
        let mut cursor = from;
        let mut room = bytes_max;
        let mut ahead = VecDeque::new();
        while cursor < high_watermark {
            let holder = self.holder(cursor, &mut ahead);
            if let Ok(Holder::Run(run)) = &holder
                && !slice.batches.is_empty()
                && run.disk_len as usize > room.max(PART_BYTES_MAX)
            {
                slice.full = true;
                break;
            }
            let found = holder.and_then(|holder| match holder {
                Holder::Run(run) => self.frames_of(&run, cursor).map(Ok),
                Holder::Gap(range, reason) => Ok(Err((range, reason))),
            });
            let frames = match found {
                Ok(Ok(frames)) => frames,
                Ok(Err(gap)) => {
                    slice.gap = Some(gap);
                    break;
                }
                // What was found so far is good; the next read meets the error.
                Err(_) if !slice.batches.is_empty() => break,
                Err(error) => return Err(error),
            };
            let filled = take(frames, &mut slice.batches, &mut cursor, &mut room, high_watermark);
            if filled {
                slice.full = cursor < high_watermark;
                break;
            }
        }
        Ok(slice)
    }

    /// What holds `offset`, which is at or above the log start and below the high watermark.
    /// `ahead` are runs of an earlier lookup.
    fn holder(&self, offset: Offset, ahead: &mut VecDeque<Run>) -> Result<Holder, ReadError> {
        while let Some(run) = ahead.pop_front() {
            if run.base_offset <= offset && offset < run.end_offset {
                return Ok(Holder::Run(run));
            }
        }
        // First what is in memory: a run leaves it only after the index has it.
        ahead.extend(self.partition.recent_from(offset, RUNS_PER_LOOKUP));
        if let Some(run) = ahead.pop_front() {
            return Ok(Holder::Run(run));
        }
        let id = self.partition.id();
        ahead.extend(self.state.runs(id, offset, RUNS_PER_LOOKUP).map_err(ReadError::Io)?);
        match ahead.front() {
            Some(run) if run.base_offset <= offset => {
                let run = *run;
                ahead.pop_front();
                return Ok(Holder::Run(run));
            }
            _ => {}
        }
        let next = ahead
            .front()
            .map(|run| run.base_offset)
            .or_else(|| self.partition.recent_after(offset).map(|run| run.base_offset))
            .unwrap_or_else(|| self.partition.high_watermark());
        let (range, reason) = self.absent(OffsetRange { base: offset, end: next })?;
        Ok(Holder::Gap(range, reason))
    }

    /// `range` is in no readable run: trimmed meanwhile, a recorded gap, or corrupt.
    fn absent(&self, range: OffsetRange) -> Result<(OffsetRange, String), ReadError> {
        let id = self.partition.id();
        let Some(log_start) = self.state.log_start(id).map_err(ReadError::Io)? else {
            return Err(ReadError::UnknownPartition);
        };
        if range.base < log_start {
            let end = self.partition.high_watermark();
            return Err(ReadError::OutOfRange { start: log_start, end });
        }
        let gaps = self.state.gaps(id).map_err(ReadError::Io)?;
        let gap = gaps.into_iter().find(|(gap, _)| gap.base <= range.base && range.base < gap.end);
        match gap {
            Some((gap, reason)) => Ok((OffsetRange { base: range.base, end: gap.end }, reason)),
            None => Err(ReadError::Corrupt(range)),
        }
    }

    /// The frames of `run` from the one that holds `from` on, without holes.
    pub(crate) fn frames_of(
        &self,
        run: &Run,
        from: Offset,
    ) -> Result<Vec<WrittenFrame>, ReadError> {
        let frames = match self.frames.read_run(run) {
            Ok(frames) => frames,
            Err(RunError::Corrupt(reason)) => {
                tell_corrupt(self.directory, run, &reason);
                self.frames.read_sound(run)
            }
            Err(RunError::Absent) => self.moved_frames_of(run, from)?,
            Err(RunError::Io(error)) => return Err(ReadError::Io(error)),
        };
        let mut expected = from;
        let mut whole = Vec::with_capacity(frames.len());
        let mut next = run.end_offset;
        for frame in frames {
            let base = frame.draft.base_offset;
            let end = base + i64::from(frame.draft.record_count);
            if end <= from {
                continue;
            }
            if base > expected {
                next = base;
                break;
            }
            expected = end;
            whole.push(frame);
        }
        if whole.is_empty() {
            // A run whose file was freed was moved, or lies below the log start by now.
            let range = OffsetRange { base: from, end: next };
            self.absent(range)?;
            return Err(ReadError::Corrupt(range));
        }
        Ok(whole)
    }
}

impl Reader<'_> {
    /// The frames of a run whose file is gone from the one that holds `from` on, from where the
    /// index says now that they are: they were moved (rules 2.7). None if they were trimmed.
    fn moved_frames_of(&self, run: &Run, from: Offset) -> Result<Vec<WrittenFrame>, ReadError> {
        let id = self.partition.id();
        let runs = self.state.runs(id, from, RUNS_PER_LOOKUP).map_err(ReadError::Io)?;
        let mut frames = Vec::new();
        for now in runs.iter().take_while(|now| now.base_offset < run.end_offset) {
            match self.frames.read_run(now) {
                Ok(more) => frames.extend(more),
                Err(RunError::Corrupt(reason)) => {
                    tell_corrupt(self.directory, now, &reason);
                    frames.extend(self.frames.read_sound(now));
                }
                Err(RunError::Absent) => break,
                Err(RunError::Io(error)) => return Err(ReadError::Io(error)),
            }
        }
        Ok(frames)
    }
}

/// Says whose records are corrupt, in words of the user: topic and partition index.
pub(crate) fn tell_corrupt(directory: &dyn Directory, run: &Run, reason: &str) {
    let (topic, partition) = directory.place(run.partition).unzip();
    tracing::error!(
        topic,
        partition,
        from = run.base_offset,
        to = run.end_offset,
        internal_id = %run.partition,
        lsn = %run.lsn,
        reason,
        "stored batches of a partition are corrupt"
    );
}

/// Moves frames into `batches` while there is room; true if the read is complete.
fn take(
    frames: Vec<WrittenFrame>,
    batches: &mut Vec<StoredBatch>,
    cursor: &mut Offset,
    room: &mut usize,
    high_watermark: Offset,
) -> bool {
    for frame in frames {
        let batch = stored(frame);
        let size = batch.bytes.len();
        if batch.end_offset > high_watermark || size > *room && !batches.is_empty() {
            return true;
        }
        *room = room.saturating_sub(size);
        *cursor = batch.end_offset;
        batches.push(batch);
    }
    *room == 0
}

fn stored(frame: WrittenFrame) -> StoredBatch {
    let draft = frame.draft;
    StoredBatch {
        base_offset: draft.base_offset,
        end_offset: draft.base_offset + i64::from(draft.record_count),
        append_ms: frame.append_ms,
        origin: match draft.kind {
            FrameKind::HttpRecords => Origin::Http,
            _ => Origin::Kafka,
        },
        bytes: draft.payload,
    }
}

#[cfg(test)]
mod tests;
