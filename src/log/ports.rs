//! What the log needs from its neighbours, as traits: tests run with plain maps instead of
//! files.

use async_trait::async_trait;
use tokio::sync::watch;

use crate::log::AppendError;
use crate::types::{Lsn, Offset, OffsetRange, PartitionId};
use crate::wal::{Request, Run, WalFile, WrittenFrame};

/// The state of partitions: where runs lie, log starts, producers. Lookups block for
/// microseconds, errors are the store's text and about to end the process.
#[async_trait]
pub(crate) trait State: Send + Sync {
    /// Position up to which frames are applied. Cheap.
    fn applied(&self) -> Lsn;

    /// The last applied run whose base offset is at or below `offset`.
    fn run_floor(&self, id: PartitionId, offset: Offset) -> Result<Option<Run>, String>;

    /// At most `limit` applied runs in order, from the one that contains `from` or else from
    /// the first one after it.
    fn runs(&self, id: PartitionId, from: Offset, limit: usize) -> Result<Vec<Run>, String>;

    /// Recorded gaps, in order.
    fn gaps(&self, id: PartitionId) -> Result<Vec<(OffsetRange, String)>, String>;

    /// The durable log start; none if the partition does not exist.
    fn log_start(&self, id: PartitionId) -> Result<Option<Offset>, String>;

    /// How far towards `to` the log start may go in one change.
    fn trim_step(&self, id: PartitionId, to: Offset) -> Result<Offset, String>;

    /// Moves the log start and drops what lies below; durable when it returns.
    async fn put_log_start(&self, id: PartitionId, to: Offset) -> Result<(), AppendError>;

    /// Forgets the producers of a partition whose last batch was appended before `before_ms`.
    async fn expire_producers(&self, id: PartitionId, before_ms: i64) -> Result<(), AppendError>;

    /// The first of `count` producer ids that were never handed out; durable when it returns.
    async fn reserve_producer_ids(&self, count: u32) -> Result<u64, AppendError>;
}

/// Why a run cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunError {
    /// Its file is gone.
    Absent,
    /// A frame of it is not what it should be.
    Corrupt(String),
    /// The disk failed.
    Io(String),
}

/// How much of a file is still needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileUse {
    pub(crate) file: WalFile,
    /// Bytes of runs that the index points at.
    pub(crate) live_bytes: u64,
}

/// Some of the live runs of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LivePage {
    /// In order of position.
    pub(crate) runs: Vec<Run>,
    /// Where a live run starts whose first header is not sound.
    pub(crate) unreadable: Vec<Lsn>,
    /// Where to go on; none at the end.
    pub(crate) next: Option<Lsn>,
}

/// The bytes.
#[async_trait]
pub(crate) trait Frames: Send + Sync {
    /// Queues a request, in call order.
    async fn append(&self, request: Request) -> Result<(), AppendError>;

    /// Whether there is room for records; the text says why not. Cheap.
    fn admission(&self) -> Result<(), String>;

    /// Reads all frames of a run. Blocks.
    fn read_run(&self, run: &Run) -> Result<Vec<WrittenFrame>, RunError>;

    /// The frames of a corrupt run that are good, in order, with holes. Blocks.
    fn read_sound(&self, run: &Run) -> Vec<WrittenFrame>;

    /// Seals the current file if its first frame is at least so old.
    async fn roll(&self, min_age_ms: i64) -> Result<(), AppendError>;

    /// Makes everything queued before durable.
    async fn sync(&self) -> Result<(), AppendError>;

    /// True if there is room for a file's worth of bytes without waiting for space. Cheap.
    fn has_next(&self) -> bool;

    /// The files that are written no more, in order. Blocks for microseconds.
    fn sealed(&self) -> Vec<FileUse>;

    /// The live runs in `[from, end)` of a file, at least `limit` if there are so many. Blocks.
    fn live_runs(&self, from: Lsn, end: Lsn, limit: usize) -> Result<LivePage, String>;

    /// Counts the files that were begun.
    fn begun(&self) -> watch::Receiver<u64>;

    /// Frees files that nothing needs any more; how many.
    async fn reclaim(&self) -> Result<usize, String>;
}

/// What the log asks of a topic about one of its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionOptions {
    /// The topic is deleted: reads go on until it is drained, appends are refused.
    pub(crate) draining: bool,
    /// `message.timestamp.type` is `LogAppendTime`.
    pub(crate) log_append_time: bool,
    /// `retention.ms`; none is for ever.
    pub(crate) retention_ms: Option<i64>,
    /// `retention.bytes`; none is without limit.
    pub(crate) retention_bytes: Option<u64>,
}

/// Which partitions exist, and their options.
pub(crate) trait Directory: Send + Sync {
    /// The options of a partition; none if no topic has it (any more).
    fn options(&self, id: PartitionId) -> Option<PartitionOptions>;

    /// Name of its topic and its index there, for messages. Slow.
    fn place(&self, id: PartitionId) -> Option<(String, usize)>;
}
