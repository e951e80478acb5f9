//! The readable side of one partition: its offsets, the runs that may be read but are perhaps not
//! yet in the index, and who waits for more.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::log::ports::State;
use crate::types::{Lsn, Offset, PartitionId};
use crate::wal::Run;

/// Applied runs that stay in memory, so that readers at the tail need no index.
const RECENT_KEPT: usize = 16;

/// The readable side of one partition; shared by its readers.
pub struct Partition {
    id: PartitionId,
    state: Arc<dyn State>,
    /// Changes only on a thread of the write-ahead log.
    high_watermark: watch::Sender<Offset>,
    /// What lies below survives a power loss. Ahead of the high watermark for a moment, or behind
    /// it where answers run ahead (`log.flush`).
    durable_end: AtomicI64,
    log_start: AtomicI64,
    tiered: AtomicI64,
    size_bytes: AtomicU64,
    removed: AtomicBool,
    is_blocked: AtomicBool,
    blocked: Mutex<Option<String>>,
    /// In order, without holes between neighbours except where no run was ever written.
    recent: Mutex<VecDeque<Run>>,
    recent_total: Arc<AtomicUsize>,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("id", &self.id)
            .field("log_start_offset", &self.log_start_offset())
            .field("high_watermark", &self.high_watermark())
            .field("tiered_offset", &self.tiered_offset())
            .finish_non_exhaustive()
    }
}

impl Partition {
    pub(crate) fn new(
        id: PartitionId,
        state: Arc<dyn State>,
        recent_total: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            id,
            state,
            high_watermark: watch::Sender::new(0),
            durable_end: AtomicI64::new(0),
            log_start: AtomicI64::new(0),
            tiered: AtomicI64::new(0),
            size_bytes: AtomicU64::new(0),
            removed: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            blocked: Mutex::new(None),
            recent: Mutex::default(),
            recent_total,
        }
    }

    /// Sets what was found at start.
    pub(crate) fn start_at(&self, log_start: Offset, next_offset: Offset, bytes: u64) {
        self.log_start.store(log_start, Ordering::Release);
        self.size_bytes.store(bytes, Ordering::Relaxed);
        self.durable_end.store(next_offset, Ordering::Release);
        self.high_watermark.send_replace(next_offset);
    }

    /// Its internal number.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Next offset after the last record that may be read (exclusive): the last durable one, or
    /// with another `log.flush` than `always` the last one written.
    pub fn high_watermark(&self) -> Offset {
        *self.high_watermark.borrow()
    }

    /// Next offset after the last durable record (exclusive), at most the high watermark.
    pub fn durable_end(&self) -> Offset {
        self.durable_end.load(Ordering::Acquire).min(self.high_watermark())
    }

    /// First readable offset.
    pub fn log_start_offset(&self) -> Offset {
        self.log_start.load(Ordering::Acquire)
    }

    /// Bytes stored between log start and high watermark, frames' headers and padding included.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// Every offset below is in the table; `i64::MAX` where the topic has no table; 0 as long
    /// as nobody said.
    pub fn tiered_offset(&self) -> Offset {
        self.tiered.load(Ordering::Acquire)
    }

    /// Tiering tells how far the table is. Before the first call retention keeps everything.
    pub fn set_tiered_offset(&self, offset: Offset) {
        self.tiered.store(offset, Ordering::Release);
    }

    /// Broker time of the append of the batch that holds `offset`, if it is stored. Blocks for
    /// microseconds.
    pub fn append_ms_at(&self, offset: Offset) -> Option<i64> {
        if offset < self.log_start_offset() || offset >= self.high_watermark() {
            return None;
        }
        if let Some(run) = self.recent_at(offset) {
            return Some(run.append_ms);
        }
        match self.state.run_floor(self.id, offset) {
            Ok(run) => run.filter(|run| run.end_offset > offset).map(|run| run.append_ms),
            Err(error) => {
                tracing::error!(partition = %self.id, error, "index lookup failed");
                None
            }
        }
    }

    /// Waits until the high watermark is above `offset`, or the partition is removed. Cancel
    /// safe.
    pub async fn wait_above(&self, offset: Offset) {
        let mut receiver = self.high_watermark.subscribe();
        // The sender lives as long as we do, so the wait cannot fail.
        let _ = receiver.wait_for(|high| *high > offset || self.is_removed()).await;
    }

    /// Why appends are refused at the moment (`table.pin.overflow = block`).
    pub fn blocked(&self) -> Option<String> {
        if !self.is_blocked.load(Ordering::Acquire) {
            return None;
        }
        self.blocked.lock().clone()
    }

    /// Refuses appends with this reason, or takes them again.
    pub fn set_blocked(&self, reason: Option<String>) {
        let mut blocked = self.blocked.lock();
        self.is_blocked.store(reason.is_some(), Ordering::Release);
        *blocked = reason;
    }

    /// True once the topic is gone.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(crate) fn set_removed(&self) {
        self.removed.store(true, Ordering::Release);
        // Wakes all waiters; the value stays.
        self.high_watermark.send_modify(|_| {});
        let dropped = std::mem::take(&mut *self.recent.lock()).len();
        self.recent_total.fetch_sub(dropped, Ordering::Relaxed);
    }

    /// Takes in a new run. The high watermark follows with [`Partition::publish`].
    pub(crate) fn push(&self, run: Run, applied: Lsn) {
        let mut recent = self.recent.lock();
        if self.is_removed() {
            return;
        }
        recent.push_back(run);
        let dropped = prune(&mut recent, applied);
        drop(recent);
        self.size_bytes.fetch_add(u64::from(run.disk_len), Ordering::Relaxed);
        self.recent_total.fetch_add(1, Ordering::Relaxed);
        self.recent_total.fetch_sub(dropped, Ordering::Relaxed);
    }

    /// Moves the high watermark and wakes readers.
    pub(crate) fn publish(&self, high_watermark: Offset) {
        self.high_watermark.send_replace(high_watermark);
    }

    /// What lies below `end` survives a power loss.
    pub(crate) fn set_durable_end(&self, end: Offset) {
        self.durable_end.store(end, Ordering::Release);
    }

    /// Forgets runs that the index has.
    pub(crate) fn prune(&self, applied: Lsn) {
        let dropped = prune(&mut self.recent.lock(), applied);
        self.recent_total.fetch_sub(dropped, Ordering::Relaxed);
    }

    /// Runs that end at or below `end_offset` were moved, or lie before one that was: the index
    /// has them, and knows where they are.
    pub(crate) fn moved(&self, end_offset: Offset) {
        let mut recent = self.recent.lock();
        let gone = recent.partition_point(|run| run.base_offset < end_offset);
        recent.drain(..gone);
        drop(recent);
        self.recent_total.fetch_sub(gone, Ordering::Relaxed);
    }

    /// True if the index lacks runs that may be read.
    pub(crate) fn has_unapplied(&self, applied: Lsn) -> bool {
        self.recent.lock().back().is_some_and(|run| run.end() > applied)
    }

    /// The recent run that holds `offset`.
    pub(crate) fn recent_at(&self, offset: Offset) -> Option<Run> {
        let recent = self.recent.lock();
        let at = recent.partition_point(|run| run.end_offset <= offset);
        recent.get(at).filter(|run| run.base_offset <= offset).copied()
    }

    /// At most `limit` recent runs from the one that holds `offset`; none if it is not recent.
    pub(crate) fn recent_from(&self, offset: Offset, limit: usize) -> Vec<Run> {
        let recent = self.recent.lock();
        let at = recent.partition_point(|run| run.end_offset <= offset);
        match recent.get(at) {
            Some(run) if run.base_offset <= offset => {
                recent.range(at..).take(limit).copied().collect()
            }
            _ => Vec::new(),
        }
    }

    /// The first recent run that begins after `offset`.
    pub(crate) fn recent_after(&self, offset: Offset) -> Option<Run> {
        let recent = self.recent.lock();
        let at = recent.partition_point(|run| run.base_offset <= offset);
        recent.get(at).copied()
    }

    /// The log start has moved durably to `log_start`, and `freed_bytes` went with it.
    pub(crate) fn trimmed(&self, log_start: Offset, freed_bytes: u64) {
        self.log_start.fetch_max(log_start, Ordering::AcqRel);
        let mut recent = self.recent.lock();
        let before = recent.len();
        recent.retain(|run| run.end_offset > log_start);
        self.recent_total.fetch_sub(before - recent.len(), Ordering::Relaxed);
        drop(recent);
        let less = |size: u64| Some(size.saturating_sub(freed_bytes));
        let _ = self.size_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Drops applied runs from the front, all but the last few; how many.
fn prune(recent: &mut VecDeque<Run>, applied: Lsn) -> usize {
    let spare = recent.len().saturating_sub(RECENT_KEPT);
    let gone = recent.iter().take(spare).take_while(|run| run.end() <= applied).count();
    recent.drain(..gone);
    gone
}
