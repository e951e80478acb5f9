//! The handle of the log, and how it is opened: first what the write-ahead log needs to start,
//! then the handle over the running log.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::log::append::Meters;
use crate::log::directory::TopicDirectory;
use crate::log::ports::{Directory, Frames, State};
use crate::log::producer_ids::ProducerIds;
use crate::log::publish::Publisher;
use crate::log::read::Reader;
use crate::log::real::WalFrames;
use crate::log::sequence::Sequencer;
use crate::log::shared::Shared;
use crate::log::state::PartitionAppend;
use crate::log::{AppendError, Origin, Partition, ReadError, ReadSlice};
use crate::runtime::{ByteBudget, Clock};
use crate::store::{self, PartitionBoot, ProducerEntry, Store};
use crate::topic::Topics;
use crate::types::{Offset, PartitionId};
use crate::wal::{Publish, Sequence, Wal};

/// Settings of the log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Bytes of record batches that are held between admission and the write.
    pub queue_bytes: usize,
    /// Between two rounds of retention and file release.
    pub retention_interval: Duration,
    /// The current file is sealed at this age even if it is not full, milliseconds.
    pub file_age_max_ms: i64,
    /// A file's live records are moved once it was less than half live for so long, milliseconds.
    pub move_delay_ms: i64,
    /// Producers that were silent for so long are forgotten (`producer.id.expiration.ms`).
    pub producer_expiry_ms: i64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            queue_bytes: 32 << 20,
            retention_interval: Duration::from_secs(10),
            file_age_max_ms: 3_600_000,
            move_delay_ms: 300_000,
            producer_expiry_ms: 86_400_000,
        }
    }
}

/// The log of all partitions; cheap to clone.
#[derive(Clone)]
pub struct Log {
    pub(crate) inner: Arc<Inner>,
}

/// Look-ups by time that run at once: each may decompress a batch.
const LOOKUPS_AT_ONCE: usize = 2;

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) frames: Arc<dyn Frames>,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) budget: ByteBudget,
    pub(crate) clock: Clock,
    pub(crate) options: LogOptions,
    pub(crate) trimming: tokio::sync::Mutex<()>,
    lookups: tokio::sync::Semaphore,
    producer_ids: ProducerIds,
    pub(crate) kafka_meters: Meters,
    pub(crate) http_meters: Meters,
}

/// A log whose partitions are loaded, before the write-ahead log runs.
pub struct LogOpening {
    shared: Arc<Shared>,
    store: Store,
    clock: Clock,
    options: LogOptions,
}

/// What [`crate::wal::Wal::start`] needs from the log.
pub struct LogParts {
    /// The step that assigns offsets.
    pub sequence: Box<dyn Sequence>,
    /// Moves high watermarks.
    pub publish: Arc<dyn Publish>,
}

/// A partition as it is found at start.
pub(crate) type Found = (PartitionBoot, HashMap<i64, ProducerEntry>);

/// Makes the shared state and the parts that run on the write-ahead log's threads.
pub(crate) fn prepare(state: Arc<dyn State>, found: Vec<Found>) -> (Arc<Shared>, LogParts) {
    let shared = Arc::new(Shared::new(state));
    let mut sequencer = Sequencer::new(Arc::clone(&shared));
    for (boot, producers) in found {
        let next_offset = boot.next_offset;
        let partition = shared.insert(boot.partition, boot.log_start, next_offset, boot.bytes);
        sequencer.insert(partition, PartitionAppend::new(next_offset, producers));
    }
    let publish = Arc::new(Publisher::new(Arc::clone(&shared)));
    (shared, LogParts { sequence: Box::new(sequencer), publish })
}

impl LogOpening {
    /// The running log. `topics` says which partitions exist and how long they keep records.
    pub fn attach(self, wal: Wal, topics: Topics) -> Log {
        let frames = Arc::new(WalFrames { wal, store: self.store });
        let directory = Arc::new(TopicDirectory::new(topics));
        Log::new(self.shared, frames, directory, self.clock, self.options)
    }
}

impl Log {
    /// Loads partitions and producers after recovery. Blocks; the write-ahead log does not run
    /// yet. High watermarks stand at the next offsets: recovery has made everything durable.
    ///
    /// # Errors
    /// [`store::Error::Failed`].
    pub fn open(
        store: &Store,
        partitions: &[PartitionBoot],
        clock: Clock,
        options: LogOptions,
    ) -> Result<(LogOpening, LogParts), store::Error> {
        let mut found = Vec::with_capacity(partitions.len());
        for boot in partitions {
            found.push((*boot, store.producers(boot.partition)?.into_iter().collect()));
        }
        let (shared, parts) = prepare(Arc::new(store.clone()), found);
        Ok((LogOpening { shared, store: store.clone(), clock, options }, parts))
    }

    pub(crate) fn new(
        shared: Arc<Shared>,
        frames: Arc<dyn Frames>,
        directory: Arc<dyn Directory>,
        clock: Clock,
        options: LogOptions,
    ) -> Self {
        let inner = Inner {
            shared,
            frames,
            directory,
            budget: ByteBudget::new(options.queue_bytes),
            clock,
            options,
            trimming: tokio::sync::Mutex::new(()),
            lookups: tokio::sync::Semaphore::new(LOOKUPS_AT_ONCE),
            producer_ids: ProducerIds::default(),
            kafka_meters: Meters::new(Origin::Kafka),
            http_meters: Meters::new(Origin::Http),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The readable side of a partition. A partition that its topic has just got is there at
    /// once.
    pub fn partition(&self, id: PartitionId) -> Option<Arc<Partition>> {
        if let Some(partition) = self.inner.shared.partition(id) {
            return Some(partition);
        }
        self.inner.directory.options(id)?;
        Some(self.inner.shared.insert(id, 0, 0, 0))
    }

    /// Where the partitions of a topic end (exclusive), by their index.
    pub fn ends(&self, partitions: &[PartitionId]) -> BTreeMap<i32, Offset> {
        let ends = (0..).zip(partitions);
        ends.filter_map(|(index, id)| Some((index, self.partition(*id)?.high_watermark())))
            .collect()
    }

    /// Adds empty partitions of a new topic; those that are there stay as they are. Not needed
    /// for appends and reads, which find them by themselves.
    pub fn add_partitions(&self, ids: &[PartitionId]) {
        for id in ids {
            self.inner.shared.insert(*id, 0, 0, 0);
        }
    }

    /// Forgets partitions of a topic that is gone: appends are refused, waiters wake up.
    pub fn remove_partitions(&self, ids: &[PartitionId]) {
        self.inner.shared.remove(ids);
    }

    /// Refuses appends to a partition with this reason ([`AppendError::Blocked`]), or takes
    /// them again. Returns false if there is no such partition.
    pub fn set_blocked(&self, id: PartitionId, reason: Option<String>) -> bool {
        let partition = self.partition(id);
        if let Some(partition) = &partition {
            partition.set_blocked(reason);
        }
        partition.is_some()
    }

    /// Whether records are taken at the moment; the reason if not (rules 3.2).
    ///
    /// # Errors
    /// What is missing: space, or the next file.
    pub fn admission(&self) -> Result<(), String> {
        self.inner.frames.admission()
    }

    /// Bytes of record batches that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.inner.budget.used_bytes()
    }

    /// Makes everything durable that was appended before. With `log.flush = always` nothing waits
    /// for this.
    ///
    /// # Errors
    /// [`AppendError::Closed`].
    pub async fn sync(&self) -> Result<(), AppendError> {
        self.inner.frames.sync().await
    }

    /// Reads whole batches from the one that contains `from`, at most `bytes_max` bytes but
    /// always at least one batch if there is one. Below the high watermark only. Never blocks
    /// an async worker.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(
        &self,
        id: PartitionId,
        from: Offset,
        bytes_max: usize,
    ) -> Result<ReadSlice, ReadError> {
        let partition = self.partition(id).ok_or(ReadError::UnknownPartition)?;
        let high_watermark = partition.high_watermark();
        let log_start_offset = partition.log_start_offset();
        if from == high_watermark && from >= log_start_offset {
            // The common answer to a consumer at the tail costs no thread.
            return Ok(ReadSlice { high_watermark, log_start_offset, ..ReadSlice::default() });
        }
        self.blocking(partition, move |reader| reader.read(from, bytes_max)).await
    }

    /// First offset whose record timestamp is at least `timestamp_ms`, with that timestamp.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn offset_for_timestamp(
        &self,
        id: PartitionId,
        timestamp_ms: i64,
    ) -> Result<Option<(Offset, i64)>, ReadError> {
        let partition = self.partition(id).ok_or(ReadError::UnknownPartition)?;
        let _turn = self.inner.lookups.acquire().await;
        self.blocking(partition, move |reader| reader.first_at_or_after(timestamp_ms)).await
    }

    /// Offset and timestamp of the first record with the greatest timestamp (`ListOffsets` -3).
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn max_timestamp(&self, id: PartitionId) -> Result<Option<(Offset, i64)>, ReadError> {
        let partition = self.partition(id).ok_or(ReadError::UnknownPartition)?;
        let _turn = self.inner.lookups.acquire().await;
        self.blocking(partition, |reader| reader.with_max_timestamp()).await
    }

    /// A producer id that was never handed out before (blocks of 1,000 are durable ahead).
    ///
    /// # Errors
    /// [`AppendError::Closed`].
    pub async fn next_producer_id(&self) -> Result<i64, AppendError> {
        self.inner.producer_ids.next(self.inner.shared.state.as_ref()).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        partition: Arc<Partition>,
        work: impl FnOnce(&Reader<'_>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let reader = Reader {
                partition: &partition,
                state: inner.shared.state.as_ref(),
                frames: inner.frames.as_ref(),
                directory: inner.directory.as_ref(),
            };
            work(&reader)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(ReadError::Io(error.to_string())))
    }
}
