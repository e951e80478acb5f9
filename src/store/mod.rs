//! THE STATE: the only user of fjall. Every change of state is a frame of the write-ahead log
//! first (rules 1.1); fjall is a projection of the log that can be rebuilt.
//!
//! Owns: the folders `state/` and `snapshots/`, key spaces, applying frames, metadata snapshots,
//! `wal_applied`, the word which files of the log may be freed. Does not own: what values mean;
//! each owner encodes its own and keeps them versioned.
//!
//! Reading order: [`codec`] and [`keys`] (layouts), `stage` (what frames do), `apply` and
//! `recover` (who writes), `read`, `commit`, `snapshot`, `reclaim`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::runtime::files::FileSystem;
use crate::runtime::{Clock, FailPoints, Tasks};
use crate::types::Lsn;

pub mod codec;
pub mod history;
pub mod keys;
pub mod once;

mod apply;
mod commit;
mod db;
mod live;
mod producer;
mod read;
mod reclaim;
mod recover;
pub(crate) mod snapshot;
mod stage;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;

pub use apply::Applier;
pub use commit::Appender;
pub use db::Limits;
pub use keys::{Counter, Gap, PartitionState};
pub use producer::{BATCHES_MAX, ProducerBatch, ProducerEntry, sequence_after};
pub use read::KeyValue;
pub use recover::{OpenOptions, Opened, Opening, PartitionBoot};

/// A named part of the state. Numbers are on disk: never change one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// `wal_applied`, ids handed out, cluster id. Owner: store.
    Meta = 0,
    /// Topic name to definition. Owner: topic.
    Topic = 1,
    /// Per partition: next offset, log start, gaps. Owner: store and log.
    Partition = 2,
    /// Per partition and producer: the last five batches. Owner: store and log.
    Producer = 3,
    /// Per partition and base offset: where the run lies. Not in metadata snapshots. Owner: store.
    Index = 4,
    /// Progress of tiering. Owner: tier.
    Ledger = 5,
    /// Namespaces of the embedded catalog. Owner: `table::catalog`.
    Namespace = 6,
    /// Tables of the embedded catalog. Owner: `table::catalog`.
    Table = 7,
    /// What makes HTTP requests count once, see [`once`]. Owner: store and http.
    Idempotency = 8,
    /// Access tokens. Owner: auth.
    Token = 9,
    /// Offsets of consumer groups. Owner: group.
    Group = 10,
    /// Event streams. Owner: stream.
    Stream = 11,
    /// Mapped sinks of topics. Owner: sink.
    Sink = 12,
    /// URLs whose requests become records. Owner: source.
    Source = 13,
    /// Earlier versions of sources and sinks, see [`history`]. Owner: store, source and sink.
    Version = 14,
}

impl Space {
    /// All of them, each at its number.
    pub const ALL: [Self; 15] = [
        Self::Meta,
        Self::Topic,
        Self::Partition,
        Self::Producer,
        Self::Index,
        Self::Ledger,
        Self::Namespace,
        Self::Table,
        Self::Idempotency,
        Self::Token,
        Self::Group,
        Self::Stream,
        Self::Sink,
        Self::Source,
        Self::Version,
    ];

    /// The space with that number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its name on disk.
    fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Topic => "topic",
            Self::Partition => "partition",
            Self::Producer => "producer",
            Self::Index => "index",
            Self::Ledger => "ledger",
            Self::Namespace => "namespace",
            Self::Table => "table",
            Self::Idempotency => "idempotency",
            Self::Token => "token",
            Self::Group => "group",
            Self::Stream => "stream",
            Self::Sink => "sink",
            Self::Source => "source",
            Self::Version => "version",
        }
    }
}

/// One write to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Where.
    pub space: Space,
    /// Key, 1 to 65,535 bytes.
    pub key: Vec<u8>,
    /// New value, or none to delete.
    pub value: Option<Vec<u8>>,
}

/// Writes that become durable and visible together, as one frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// In order; a later write to the same key wins.
    pub ops: Vec<Op>,
}

impl Change {
    /// No writes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a write.
    #[must_use]
    pub fn put(mut self, space: Space, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op { space, key: key.into(), value: Some(value.into()) });
        self
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(mut self, space: Space, key: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op { space, key: key.into(), value: None });
        self
    }

    /// Adds all writes of `other` after ours.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.ops.extend(other.ops);
        self
    }
}

/// Why the store could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The log is shutting down or ended; nothing was written.
    #[error("the log is closed")]
    Closed,
    /// fjall failed; the process is about to end.
    #[error("state store failed: {0}")]
    Failed(String),
    /// A change is too large for one frame.
    #[error("a change of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// Runs a change of state to its end even if the caller goes away: between the durable change and
/// what memory has of it there is no way back.
///
/// # Errors
/// The change's own, and [`Error::Closed`] where the tasks ended before it.
pub(crate) async fn finish<T, E>(
    tasks: &Tasks,
    name: &'static str,
    change: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    tasks.finish(name, change).await.unwrap_or(Err(Error::Closed.into()))
}

/// The state of the broker; cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// What all handles and the applier have in common.
struct Shared {
    db: db::Db,
    fs: Arc<dyn FileSystem>,
    snapshots_dir: PathBuf,
    log_id: u64,
    run: AtomicU32,
    clock: Clock,
    fail_points: FailPoints,
    appender: OnceLock<Arc<dyn Appender>>,
    /// Position up to which frames are in fjall.
    applied: AtomicU64,
    live: Mutex<live::LiveRuns>,
    upkeep: Mutex<reclaim::Upkeep>,
    /// Held while a batch is applied, and while a test copies fjall.
    gate: Mutex<()>,
    counters: tokio::sync::Mutex<commit::Counters>,
}

impl Shared {
    fn hit(&self, point: &'static str) -> Result<(), Error> {
        self.fail_points.hit(point).map_err(Error::Failed)
    }
}

impl Store {
    /// Position up to which frames are applied: [`Store::get`] shows everything below.
    pub fn applied(&self) -> Lsn {
        Lsn(self.shared.applied.load(Ordering::Acquire))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod moved_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod with_wal;
