//! One pass of Fetch over its partitions: what is there now, within the limits and the budget.

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::kafka::dispatch::Context;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::fetch_response::{PartitionAnswer, TopicAnswer};
use crate::kafka::handler::fetch::{Source, Wanted, WantedTopic, quiet};
use crate::log::ReadError;
use crate::log::ReadSlice;
use crate::runtime::metrics;
use crate::runtime::{ByteBudget, BytePermit};
use crate::types::Offset;

/// Limits of a whole request.
pub(crate) struct Limits {
    /// `max_bytes`, already within the server's `fetch.max.bytes`.
    pub(crate) bytes_max: usize,
}

/// What one pass found.
pub(crate) struct Found {
    pub(crate) topics: Vec<TopicAnswer>,
    /// Held until the batches are written.
    pub(crate) permits: Vec<BytePermit>,
    /// Bytes of all batches.
    pub(crate) bytes: usize,
    /// Any partition answers an error: no long poll then.
    pub(crate) failed: bool,
    /// Bytes that count for `min_bytes`: of a partition that its limit ended, the limit, since
    /// waiting would bring no more of it (source: `DelayedFetch.tryComplete`).
    pub(crate) counted: usize,
}

/// Recorded gaps that one read passes before it gives up until the next request.
const GAPS_MAX: usize = 16;

/// Reads all partitions in order.
pub(crate) async fn read(
    context: &Context,
    topics: &[WantedTopic],
    limits: &Limits,
    deadline: Instant,
) -> Found {
    let mut pass = Pass {
        context,
        deadline,
        left: limits.bytes_max,
        found: Found {
            topics: Vec::new(),
            permits: Vec::new(),
            bytes: 0,
            failed: false,
            counted: 0,
        },
    };
    for topic in topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let answer = pass.partition(wanted).await;
            pass.found.failed |= answer.code != ErrorCode::None;
            pass.found.bytes += answer.len();
            partitions.push(answer);
        }
        pass.found.topics.push(TopicAnswer { name: topic.name.clone(), partitions });
    }
    pass.found
}

struct Pass<'a> {
    context: &'a Context,
    deadline: Instant,
    /// Bytes that the answer may still take.
    left: usize,
    found: Found,
}

impl Pass<'_> {
    async fn partition(&mut self, wanted: &Wanted) -> PartitionAnswer {
        let source = match &wanted.source {
            Ok(source) => source,
            Err(code) => return PartitionAnswer::failed(wanted.index, *code),
        };
        let quiet = quiet(wanted.index, &source.partition);
        // Most partitions of a sleeping consumer: no permit and no read for them.
        let is_first = self.found.bytes == 0;
        let full = !is_first && self.left.min(wanted.bytes_max) == 0;
        if wanted.offset == quiet.high_watermark || (full && in_range(wanted.offset, &quiet)) {
            return quiet;
        }
        let budget = &self.context.deps.fetched;
        let limit = wanted.bytes_max.min(self.left).min(budget.capacity_bytes() / 4).max(1);
        match self.held(source, wanted.offset, limit, is_first).await {
            Ok(Some(held)) => {
                let is_full = held.slice.full || held.batches.len() < held.slice.batches.len();
                let answer = PartitionAnswer {
                    index: wanted.index,
                    code: ErrorCode::None,
                    high_watermark: held.slice.high_watermark,
                    log_start_offset: held.slice.log_start_offset,
                    batches: held.batches,
                };
                self.left = self.left.saturating_sub(answer.len());
                self.found.counted += if is_full { limit.max(answer.len()) } else { answer.len() };
                self.found.permits.extend(held.permits);
                answer
            }
            Ok(None) => quiet,
            Err(error) => failed(wanted.index, &error, quiet),
        }
    }

    /// Reads at most `limit` bytes, for the first partition with data at least one batch. None: there
    /// was no memory for them in time.
    async fn held(
        &self,
        source: &Source,
        offset: Offset,
        limit: usize,
        is_first: bool,
    ) -> Result<Option<Held>, ReadError> {
        let budget = &self.context.deps.fetched;
        let (mut bytes, mut least) = (limit, limit.min(SHORT_READ_BYTES));
        for _ in 0..2 {
            let Some(permit) = self.permit(budget, bytes, least, is_first).await else {
                return Ok(None);
            };
            let limit = limit.min(permit.bytes());
            let slice = self.slice(source, offset, limit).await?;
            let batches = fitting(&slice, limit, is_first);
            let taken: usize = batches.iter().map(Bytes::len).sum();
            if taken == 0 {
                return Ok(Some(Held { slice, batches, permits: Vec::new() }));
            }
            if taken <= permit.bytes() {
                let permits = vec![shrink(budget, permit, taken)];
                return Ok(Some(Held { slice, batches, permits }));
            }
            // The one batch is larger than what was asked for.
            if let Some(more) = budget.try_acquire(taken - permit.bytes()) {
                return Ok(Some(Held { slice, batches, permits: vec![permit, more] }));
            }
            (bytes, least) = (taken, taken);
        }
        Ok(None)
    }

    /// Memory for a read of `bytes`, or of `least` where they are not free. While the answer is empty
    /// it waits, until the long poll ends; later it never waits: two requests that hold a part each
    /// would wait for each other.
    async fn permit(
        &self,
        budget: &ByteBudget,
        bytes: usize,
        least: usize,
        wait: bool,
    ) -> Option<BytePermit> {
        if let Some(permit) = budget.try_acquire(bytes) {
            return Some(permit);
        }
        if !wait {
            return None;
        }
        let until = self.deadline.max(Instant::now() + PERMIT_WAIT_MIN);
        tokio::select! {
            permit = timeout_at(until, budget.acquire(least)) => permit.ok(),
            () = self.context.session.closing.cancelled() => None,
        }
    }

    /// Reads from `offset`, or from behind a recorded gap that begins there: a consumer would wait
    /// in a gap for ever, since nothing will ever fill it.
    async fn slice(
        &self,
        source: &Source,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<ReadSlice, ReadError> {
        let mut from = offset;
        for _ in 0..GAPS_MAX {
            let slice = self.context.deps.log.read(source.id, from, bytes_max).await?;
            match &slice.gap {
                Some((gap, _)) if slice.batches.is_empty() && gap.end > from => {
                    from = gap.end;
                    if from >= slice.high_watermark {
                        return Ok(slice);
                    }
                }
                _ => {
                    let read = slice.batches.iter().map(|batch| batch.bytes.len() as u64).sum();
                    ::metrics::counter!(metrics::LOG_READ_BYTES, "reader" => "fetch")
                        .increment(read);
                    return Ok(slice);
                }
            }
        }
        self.context.deps.log.read(source.id, from, bytes_max).await
    }
}

/// What is read of a partition while memory is short, so that there is some for everybody.
const SHORT_READ_BYTES: usize = 64 << 10;

/// What was read of one partition, with the memory that it takes.
struct Held {
    slice: ReadSlice,
    batches: Vec<Bytes>,
    permits: Vec<BytePermit>,
}

/// Even a client that does not wait at all gets data from a busy server.
const PERMIT_WAIT_MIN: std::time::Duration = std::time::Duration::from_millis(500);

fn in_range(offset: Offset, quiet: &PartitionAnswer) -> bool {
    (quiet.log_start_offset..=quiet.high_watermark).contains(&offset)
}

/// The batches that fit. The log hands out at least one, which only the first partition with data
/// must answer (source: `ReplicaManager.readFromLog`, minOneMessage).
fn fitting(slice: &ReadSlice, limit: usize, at_least_one: bool) -> Vec<Bytes> {
    let mut taken = 0;
    let mut batches = Vec::with_capacity(slice.batches.len());
    for batch in &slice.batches {
        let fits = taken + batch.bytes.len() <= limit;
        let must = at_least_one && batches.is_empty();
        if !fits && !must {
            break;
        }
        taken += batch.bytes.len();
        batches.push(batch.bytes.clone());
    }
    batches
}

/// Gives back what a read did not need, as far as that works without waiting.
fn shrink(budget: &ByteBudget, permit: BytePermit, bytes: usize) -> BytePermit {
    if bytes >= permit.bytes() / 2 {
        return permit;
    }
    budget.try_acquire(bytes).unwrap_or(permit)
}

/// An error answer. Out of range tells the bounds, from which clients reset.
fn failed(index: i32, error: &ReadError, quiet: PartitionAnswer) -> PartitionAnswer {
    let code = ErrorCode::from(error);
    match error {
        ReadError::OutOfRange { start, end } => {
            PartitionAnswer { code, high_watermark: *end, log_start_offset: *start, ..quiet }
        }
        ReadError::UnknownPartition | ReadError::Corrupt(_) | ReadError::Io(_) => {
            PartitionAnswer::failed(index, code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Origin, StoredBatch};

    fn slice(sizes: &[usize]) -> ReadSlice {
        let batches = sizes
            .iter()
            .map(|&size| StoredBatch {
                base_offset: 0,
                end_offset: 1,
                append_ms: 0,
                origin: Origin::Kafka,
                bytes: Bytes::from(vec![0; size]),
            })
            .collect();
        ReadSlice { batches, ..ReadSlice::default() }
    }

    fn lens(sizes: &[usize], limit: usize, first: bool) -> Vec<usize> {
        fitting(&slice(sizes), limit, first).iter().map(Bytes::len).collect()
    }

    #[test]
    fn only_the_first_partition_with_data_may_exceed_the_limit_by_one_batch() {
        assert_eq!(lens(&[100, 100], 50, true), [100]);
        assert_eq!(lens(&[100, 100], 50, false), [0_usize; 0]);
        assert_eq!(lens(&[100, 100, 100], 250, false), [100, 100]);
        assert_eq!(lens(&[], 250, true), [0_usize; 0]);
    }

    #[test]
    fn out_of_range_tells_the_bounds_and_other_errors_none() {
        let quiet = || PartitionAnswer {
            index: 2,
            code: ErrorCode::None,
            high_watermark: 9,
            log_start_offset: 1,
            batches: vec![],
        };
        let answer = failed(2, &ReadError::OutOfRange { start: 5, end: 20 }, quiet());
        assert_eq!(answer.code, ErrorCode::OffsetOutOfRange);
        assert_eq!((answer.log_start_offset, answer.high_watermark), (5, 20));
        let answer = failed(2, &ReadError::Io("disk".into()), quiet());
        assert_eq!((answer.log_start_offset, answer.high_watermark), (-1, -1));
    }

    #[tokio::test]
    async fn a_small_answer_gives_most_of_its_permit_back() {
        let budget = ByteBudget::new(1 << 20);
        let permit = budget.acquire(1 << 19).await;
        let permit = shrink(&budget, permit, 1_000);
        assert_eq!(budget.used_bytes(), 1_000);
        drop(permit);
    }
}
