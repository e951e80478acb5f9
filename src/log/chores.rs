//! What happens from time to time: retention, forgetting deleted partitions and silent
//! producers, rolling and freeing files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::log::retention::{Plan, Policy};
use crate::log::shared::Order;
use crate::log::{AppendError, Log, Partition};
use crate::runtime::Tasks;
use crate::types::{Offset, PartitionId};

/// Index entries looked at in one go.
const RUNS_PER_PAGE: usize = 1_024;

/// Retention looks before its interval is over once so many files were begun: a log that is as large
/// as it may be frees files as fast as it fills them, and writes the freed ones again.
const FILES_PER_LOOK: u64 = 4;

/// But not more often than this,
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// nor before so many times what the last look took: there may be thousands of partitions.
const LOOK_REST: u32 = 5;

/// Between two looks for silent producers.
const EXPIRY_INTERVAL_MS: i64 = 600_000;

/// The current file is not sealed for its age before this, however short the retention is.
const ROLL_AGE_MIN_MS: i64 = 60_000;

impl Log {
    /// Runs the chores every `retention_interval`, or more often while files fill faster, until the
    /// tasks stop, and beside them what moves live records out of old files.
    pub fn spawn_chores(&self, tasks: &Tasks) {
        self.spawn_moving(tasks);
        let (log, group) = (self.clone(), tasks.clone());
        tasks.spawn("log-chores", async move {
            let stop = group.stop_token();
            let mut expired_ms = log.inner.clock.now_ms();
            let mut begun = log.inner.frames.begun();
            let (mut seen, mut took) = (0, Duration::ZERO);
            loop {
                let look = log.until_look(&mut begun, seen, took);
                let Some(now) = stop.run_until_cancelled(look).await else { return };
                seen = now;
                let start = Instant::now();
                let result = stop.run_until_cancelled(log.run_chores(&mut expired_ms)).await;
                took = start.elapsed();
                match result {
                    None | Some(Err(AppendError::Closed)) => return,
                    Some(Ok(())) => {}
                    Some(Err(error)) => tracing::error!(%error, "chores of the log failed"),
                }
            }
        });
    }

    /// Waits until the next round is due, where `seen` files were begun when the last one came, which
    /// took so long; how many were by now.
    async fn until_look(&self, begun: &mut watch::Receiver<u64>, seen: u64, took: Duration) -> u64 {
        let filled = async {
            tokio::time::sleep(LOOK_PAUSE.max(took.saturating_mul(LOOK_REST))).await;
            if begun.wait_for(|now| now - seen >= FILES_PER_LOOK).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let interval = self.inner.options.retention_interval.max(Duration::from_millis(10));
        let _ = tokio::time::timeout(interval, filled).await;
        *begun.borrow()
    }

    /// One round of all chores.
    pub(crate) async fn run_chores(&self, expired_ms: &mut i64) -> Result<(), AppendError> {
        self.forget_deleted();
        let age_ms = self.retain_all().await?;
        let now_ms = self.inner.clock.now_ms();
        if now_ms < *expired_ms || now_ms - *expired_ms >= EXPIRY_INTERVAL_MS {
            *expired_ms = now_ms;
            self.expire_producers().await?;
        }
        self.inner.frames.roll(age_ms).await?;
        let freed = self.inner.frames.reclaim().await.map_err(AppendError::StorageFull)?;
        if freed > 0 {
            tracing::info!(files = freed, "files of the log were freed");
        }
        Ok(())
    }

    /// Drops partitions that no topic has any more.
    fn forget_deleted(&self) {
        let gone: Vec<PartitionId> = self
            .inner
            .shared
            .partitions()
            .iter()
            .map(|partition| partition.id())
            .filter(|id| self.inner.directory.options(*id).is_none())
            .collect();
        self.remove_partitions(&gone);
    }

    /// Applies retention to every partition; the age at which the current file is sealed.
    ///
    /// # Errors
    /// [`AppendError::Closed`] at shutdown.
    pub(crate) async fn retain_all(&self) -> Result<i64, AppendError> {
        let mut age_ms = self.inner.options.file_age_max_ms;
        for partition in self.inner.shared.partitions() {
            partition.prune(self.inner.shared.state.applied());
            let Some(options) = self.inner.directory.options(partition.id()) else {
                continue;
            };
            if let Some(retention_ms) = options.retention_ms
                && partition.size_bytes() > 0
            {
                // Half of the retention: a record outlives it by half at most.
                age_ms = age_ms.min((retention_ms / 2).max(ROLL_AGE_MIN_MS));
            }
            let policy = Policy {
                retention_ms: options.retention_ms,
                retention_bytes: options.retention_bytes,
                bound: partition.tiered_offset().min(partition.durable_end()),
                now_ms: self.inner.clock.now_ms(),
            };
            if policy.retention_ms.is_none() && policy.retention_bytes.is_none()
                || policy.bound <= partition.log_start_offset()
            {
                continue;
            }
            let to = self.plan(&partition, policy).await?;
            if to > partition.log_start_offset() {
                tracing::debug!(partition = %partition.id(), log_start_offset = to, "retention");
                self.raise_log_start(partition.id(), to).await?;
            }
        }
        Ok(age_ms)
    }

    async fn plan(
        &self,
        partition: &Arc<Partition>,
        policy: Policy,
    ) -> Result<Offset, AppendError> {
        let (state, partition) = (Arc::clone(&self.inner.shared.state), Arc::clone(partition));
        let plan = move || {
            let size_bytes = partition.size_bytes();
            let mut plan = Plan::new(partition.log_start_offset());
            while plan.goes_on {
                let runs = state.runs(partition.id(), plan.log_start, RUNS_PER_PAGE)?;
                plan.pass(&runs, size_bytes, &policy);
                plan.goes_on &= runs.len() == RUNS_PER_PAGE;
            }
            Ok::<Offset, String>(plan.log_start)
        };
        blocking(plan).await
    }

    /// Moves the log start of a partition up to `to`, at most to the high watermark
    /// (`DeleteRecords`, `table.pin.overflow = drop-oldest`); durable when it returns. The
    /// caller has recorded what becomes of rows that are not in the table. Returns the log start.
    ///
    /// # Errors
    /// [`AppendError::UnknownPartition`], [`AppendError::Closed`].
    pub async fn raise_log_start(
        &self,
        id: PartitionId,
        to: Offset,
    ) -> Result<Offset, AppendError> {
        let partition = self.partition(id).ok_or(AppendError::UnknownPartition)?;
        // One at a time: the freed bytes are counted once.
        let _guard = self.inner.trimming.lock().await;
        let to = to.min(partition.high_watermark());
        if partition.has_unapplied(self.inner.shared.state.applied()) {
            // A change is applied after all runs before it: then the index has them to count.
            let unchanged = partition.log_start_offset();
            self.inner.shared.state.put_log_start(id, unchanged).await?;
        }
        while partition.log_start_offset() < to {
            let state = Arc::clone(&self.inner.shared.state);
            let from = partition.log_start_offset();
            let step = move || {
                let step = state.trim_step(id, to)?.clamp(from, to);
                Ok((step, bytes_between(state.as_ref(), id, from, step)?))
            };
            let (step, freed_bytes) = blocking(step).await?;
            if step <= from {
                break;
            }
            self.inner.shared.state.put_log_start(id, step).await?;
            partition.trimmed(step, freed_bytes);
        }
        Ok(partition.log_start_offset())
    }

    /// Forgets producers that were silent for `producer_expiry_ms`, in the store, then in
    /// memory. A batch that such a producer sends between the two is kept in memory; only the
    /// stored entry lacks it, so a repeat of that very batch is not recognised after a crash.
    async fn expire_producers(&self) -> Result<(), AppendError> {
        let before_ms = self.inner.clock.now_ms() - self.inner.options.producer_expiry_ms;
        for partition in self.inner.shared.partitions() {
            self.inner.shared.state.expire_producers(partition.id(), before_ms).await?;
        }
        self.inner.shared.order(Order::ExpireProducers { before_ms });
        Ok(())
    }
}

/// Bytes of the runs that end at or below `to`.
fn bytes_between(
    state: &dyn crate::log::ports::State,
    id: PartitionId,
    from: Offset,
    to: Offset,
) -> Result<u64, String> {
    let mut bytes = 0;
    let mut cursor = from;
    loop {
        let runs = state.runs(id, cursor, RUNS_PER_PAGE)?;
        let below = runs.iter().take_while(|run| run.end_offset <= to);
        let (count, sum) =
            below.fold((0, 0), |(count, sum), run| (count + 1, sum + u64::from(run.disk_len)));
        bytes += sum;
        match runs.last() {
            Some(last) if count == RUNS_PER_PAGE => cursor = last.end_offset,
            _ => return Ok(bytes),
        }
    }
}

/// Runs a lookup off the async workers. A failed store is about to end the process.
pub(crate) async fn blocking<T: Send + 'static>(
    lookup: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, AppendError> {
    match tokio::task::spawn_blocking(lookup).await {
        Ok(result) => result.map_err(AppendError::StorageFull),
        Err(_) => Err(AppendError::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::Rig;

    #[tokio::test]
    async fn retention_looks_early_once_files_filled() {
        let mut rig = Rig::new();
        let inner = Arc::get_mut(&mut rig.log.inner).unwrap();
        inner.options.retention_interval = Duration::from_hours(1);
        let mut begun = rig.frames.begun.subscribe();
        rig.frames.begun.send_modify(|begun| *begun += 3);
        let (quick, slow) = (Duration::ZERO, Duration::from_mins(1));
        let too_few = rig.log.until_look(&mut begun, 0, quick);
        assert!(tokio::time::timeout(Duration::from_millis(1_200), too_few).await.is_err());
        rig.frames.begun.send_modify(|begun| *begun += 2);
        assert_eq!(rig.log.until_look(&mut begun, 0, quick).await, 5);
        assert_eq!(rig.log.until_look(&mut begun, 1, quick).await, 5, "those of a look count");
        let resting = rig.log.until_look(&mut begun, 0, slow);
        assert!(tokio::time::timeout(Duration::from_millis(1_200), resting).await.is_err());
    }
}
