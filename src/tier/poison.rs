//! Which records cannot be encoded, by bisection: those go to the dead letters, and no partition
//! stops for them (rules 4.9). Blocks.

use crate::log::StoredBatch;
use crate::runtime::background::at_low_priority;
use crate::table::commit::marker::Range;
use crate::tier::context::Halt;
use crate::tier::encode;
use crate::tier::encode::Failed;
use crate::tier::encode::Job;
use crate::tier::encode::Output;
use crate::tier::encode::Values;
use crate::types::Offset;

/// Encodes the first of `batches` at a low priority; where that fails, why and on which records.
///
/// # Errors
/// What failed and on which records; within, [`Halt`] where the table cannot take the rows, or not
/// now.
pub(super) fn encode(
    job: &Job,
    batches: &[StoredBatch],
) -> Result<Result<Output, Halt>, (String, Vec<Range>)> {
    let encode = || match encode::encode(job, batches) {
        Err(Failed::Poison(reason)) => Err((reason, find(job, batches))),
        Err(Failed::Shape(error)) => Ok(Err(error.into())),
        Err(Failed::Later(reason)) => Ok(Err(Halt::Later(reason))),
        Ok(output) => Ok(Ok(output)),
    };
    match &job.values {
        // Templates have threads of their own, which would inherit the priority, and limited time.
        Values::Mapped(mapped) if mapped.has_templates() => encode(),
        _ => at_low_priority(encode),
    }
}

/// The records on which encoding the first group of `batches` fails. Records that fail only in
/// each other's company are all given; empty if the failure does not come again.
pub(super) fn find(job: &Job, batches: &[StoredBatch]) -> Vec<Range> {
    let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let (from, until) = (first.base_offset.max(job.from), last.end_offset.min(job.until));
    bisect(job, batches, from, until, &mut found);
    found
}

fn bisect(job: &Job, batches: &[StoredBatch], from: Offset, until: Offset, found: &mut Vec<Range>) {
    let start = batches.partition_point(|batch| batch.end_offset <= from);
    let end = batches.partition_point(|batch| batch.base_offset < until);
    let within = &batches[start..end.max(start)];
    if within.is_empty() || !fails(job, within, from, until) {
        return;
    }
    let before = found.len();
    if until - from > 1 {
        let middle = from + (until - from) / 2;
        bisect(job, within, from, middle, found);
        bisect(job, within, middle, until, found);
    }
    if found.len() == before {
        found.push(Range { partition: job.partition, base: from, end: until });
    }
}

fn fails(job: &Job, batches: &[StoredBatch], from: Offset, until: Offset) -> bool {
    let part = Job { from, until, ..job.clone() };
    matches!(encode::encode(&part, batches), Err(Failed::Poison(_)))
}
