//! THE STREAM: partitions, producer state, appends, reads, stream retention.
//!
//! Owns: append state of all partitions (on the sequencer thread, as [`crate::wal::Sequence`]),
//! high watermarks, log start offsets. Does not own: bytes (`wal`), index (`store`), what tiering
//! does (it tells us the tiered offset).
//!
//! Reading order: `state` and `retention` (the rules), `sequence` and `publish` (who runs them),
//! `partition` and `read`, `append`, `handle` (how it is opened), `chores`, `moving`.

use bytes::Bytes;

use crate::types::{Lsn, Offset, OffsetRange, PartitionId};

mod append;
mod chores;
mod directory;
mod handle;
#[cfg(test)]
mod model_tests;
mod moving;
mod partition;
mod ports;
mod producer_ids;
mod publish;
mod read;
mod real;
mod retention;
mod sequence;
mod shared;
mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timestamps;

pub(crate) use handle::Inner;
pub use handle::{Log, LogOpening, LogOptions, LogParts};
pub use partition::Partition;

/// Where a record batch came from; kept as the frame's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The Kafka wire.
    Kafka,
    /// An HTTP request.
    Http,
}

/// One checked record batch for one partition (header and CRC already verified).
#[derive(Debug, Clone)]
pub struct AppendBatch {
    /// Which partition.
    pub partition: PartitionId,
    /// The whole batch, magic 2.
    pub batch: Bytes,
    /// Extension of its frame: what makes HTTP requests count once; empty for Kafka.
    pub ext: Bytes,
}

/// Told of an append when its sender is, with the position after it, whether or not somebody
/// still waits. Runs on a thread of the log: it must not block. It is dropped without a call if
/// the append was refused at admission, or the log ended.
pub type Settle = Box<dyn FnOnce(&Result<Vec<Appended>, AppendError>, Lsn) + Send>;

/// What is appended together: all batches or none.
pub struct Append {
    /// At least one.
    pub batches: Vec<AppendBatch>,
    /// Where they came from.
    pub origin: Origin,
    /// Who else is told.
    pub settle: Option<Settle>,
    /// Somebody waits for it; otherwise it may take some milliseconds more.
    pub is_awaited: bool,
}

/// An append of one batch, as durable as `log.flush` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// First offset.
    pub base_offset: Offset,
    /// Last offset, inclusive.
    pub last_offset: Offset,
    /// Broker time of the append, milliseconds.
    pub append_ms: i64,
    /// Log start offset of the partition.
    pub log_start_offset: Offset,
    /// True if these are the offsets of an earlier send of the same batch.
    pub duplicate: bool,
}

/// Why nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The partition does not exist (any more).
    #[error("unknown partition")]
    UnknownPartition,
    /// KIP-98: the sequence neither follows the last batch nor repeats one of the last five.
    #[error("out of order sequence number")]
    OutOfOrderSequence,
    /// A producer with a newer epoch took over.
    #[error("producer epoch is older than the current one")]
    InvalidProducerEpoch,
    /// Free space is below the floor, or no next file is ready; retry later.
    #[error("storage is full: {0}")]
    StorageFull(String),
    /// The append is larger than a file of the log can hold; no later try can succeed.
    #[error("{bytes} bytes do not fit into the log at once, the limit is {limit}")]
    TooLarge {
        /// Its size on disk.
        bytes: u64,
        /// The limit, by `wal.file.bytes`.
        limit: u64,
    },
    /// Shutting down.
    #[error("the log is closed")]
    Closed,
    /// The pin limit of the topic's table is reached with `table.pin.overflow = block`.
    #[error("the table of this topic is too far behind: {0}")]
    Blocked(String),
}

/// An append in flight: resolves when it is as durable as `log.flush` says. Dropping it does not
/// undo the append.
pub struct PendingAppend {
    /// One entry per batch, in order.
    pub done: tokio::sync::oneshot::Receiver<Result<Vec<Appended>, AppendError>>,
}

impl PendingAppend {
    /// Waits until the batches are as durable as `log.flush` says.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was appended.
    pub async fn wait(self) -> Result<Vec<Appended>, AppendError> {
        self.done.await.unwrap_or(Err(AppendError::Closed))
    }
}

/// One stored record batch as it is sent to consumers.
#[derive(Debug, Clone)]
pub struct StoredBatch {
    /// First offset.
    pub base_offset: Offset,
    /// Offset after the last one.
    pub end_offset: Offset,
    /// Broker time of the append, milliseconds.
    pub append_ms: i64,
    /// Where it came from (headers `floe.*` count only for HTTP, rules 7.2).
    pub origin: Origin,
    /// The whole batch, base offset and leader epoch filled in.
    pub bytes: Bytes,
}

/// What one read found.
#[derive(Debug, Clone, Default)]
pub struct ReadSlice {
    /// Whole batches, the first one contains the wanted offset.
    pub batches: Vec<StoredBatch>,
    /// Offsets right after the batches (or at the wanted offset) that are a recorded gap.
    pub gap: Option<(OffsetRange, String)>,
    /// More lies right behind, for which there was no room.
    pub full: bool,
    /// High watermark at the time of the read (exclusive).
    pub high_watermark: Offset,
    /// Log start offset at the time of the read.
    pub log_start_offset: Offset,
}

/// Why a read gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The partition does not exist (any more).
    #[error("unknown partition")]
    UnknownPartition,
    /// Below the log start or above the high watermark.
    #[error("offset out of range [{start}, {end}]")]
    OutOfRange {
        /// Log start offset.
        start: Offset,
        /// High watermark.
        end: Offset,
    },
    /// The stored bytes fail their check.
    #[error("stored bytes are corrupt at offsets {0:?}")]
    Corrupt(OffsetRange),
    /// The disk failed.
    #[error("read failed: {0}")]
    Io(String),
}
