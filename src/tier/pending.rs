//! What waits in the log for a table: by partition, its bytes and its age. Reads the log's
//! counters only.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::stream::StreamExt;
use tokio::time::Instant;

use crate::log::AppendError;
use crate::log::Log;
use crate::log::Partition;
use crate::tier::ledger::Entry;
use crate::topic::Topic;
use crate::types::Offset;
use crate::types::PartitionId;

/// One partition of the topic.
pub(super) struct Part {
    /// Partition index.
    pub(super) index: i32,
    /// Its number in the log.
    pub(super) id: PartitionId,
    /// Its readable side.
    pub(super) handle: Arc<Partition>,
    /// Where its next range begins.
    pub(super) next: Offset,
    /// Exclusive.
    pub(super) high_watermark: Offset,
    /// About how many bytes wait from `next` on.
    pub(super) bytes: u64,
}

impl Part {
    /// Offsets that wait.
    pub(super) fn offsets(&self) -> i64 {
        (self.high_watermark - self.next).max(0)
    }

    /// The append time of its first waiting record.
    pub(super) fn oldest_append_ms(&self) -> Option<i64> {
        if self.offsets() == 0 {
            return None;
        }
        let first = self.next.max(self.handle.log_start_offset());
        self.handle.append_ms_at(first)
    }
}

/// All partitions of the topic that the log has.
pub(super) fn parts(log: &Log, topic: &Topic, entry: &Entry) -> Vec<Part> {
    let mut parts = Vec::with_capacity(topic.partitions.len());
    for (index, id) in (0..).zip(&topic.partitions) {
        let Some(handle) = log.partition(*id) else {
            continue;
        };
        let next = entry.next(index).unwrap_or(0);
        let high_watermark = handle.high_watermark();
        let bytes = bytes_from(&handle, next, high_watermark);
        parts.push(Part { index, id: *id, handle, next, high_watermark, bytes });
    }
    parts
}

/// About how many bytes lie from `next` on: the partition's share by offsets, at least 1 where
/// records wait.
pub(super) fn bytes_from(handle: &Partition, next: Offset, high_watermark: Offset) -> u64 {
    let start = handle.log_start_offset();
    let all = high_watermark.saturating_sub(start);
    let waiting = high_watermark.saturating_sub(next.max(start));
    if waiting <= 0 || all <= 0 {
        // A gap to record is work as well.
        return u64::from(high_watermark > next);
    }
    let share = u128::from(handle.size_bytes()) * u128::from(waiting.unsigned_abs())
        / u128::from(all.unsigned_abs());
    u64::try_from(share).unwrap_or(u64::MAX).max(1)
}

/// Age of the oldest waiting record. It grows by the monotonic clock once it was seen, so a wall
/// clock that steps back cannot hold a commit (rules 4.8).
#[derive(Debug, Clone, Copy)]
pub(super) struct Oldest {
    seen: Instant,
    age_ms: i64,
}

impl Oldest {
    /// Looks at the partitions' first waiting records.
    pub(super) fn find(parts: &[Part], now_ms: i64) -> Option<Self> {
        if parts.iter().all(|part| part.offsets() == 0) {
            return None;
        }
        let oldest_ms = parts.iter().filter_map(Part::oldest_append_ms).min().unwrap_or(now_ms);
        Some(Self { seen: Instant::now(), age_ms: now_ms.saturating_sub(oldest_ms).max(0) })
    }

    pub(super) fn age_ms(&self) -> i64 {
        self.age_ms.saturating_add(millis(self.seen.elapsed()))
    }
}

/// A duration in milliseconds.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Makes everything durable that is about to become rows: no table runs ahead of the log, whatever
/// `log.flush` lets answers and consumers do (rules 3.4).
pub(super) async fn make_durable(log: &Log, parts: &[Part]) -> Result<(), AppendError> {
    if parts.iter().any(|part| part.high_watermark > part.handle.durable_end()) {
        log.sync().await?;
    }
    Ok(())
}

/// Waits until any partition has a record that waits, whether it came after `parts` were looked at
/// or before. Cancel safe.
pub(super) async fn woken(parts: &[Part]) {
    let mut waits: FuturesUnordered<_> =
        parts.iter().map(|part| part.handle.wait_above(part.next)).collect();
    if waits.next().await.is_none() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod model_tests;
