//! fjall behind the few calls that the store needs, with the settings that its 3.1 line needs.
//!
//! Two defects of that line decide them: its workers can deadlock on their own queue of
//! rotations, and it does not bound its write buffer (fjall 257, 323; lsm-tree 317). So memtables
//! never ask for a rotation; the writer rotates all key spaces itself and waits for the flush
//! while the buffer is above its cap.
//!
//! Owns: the handles. Does not own: what is written.

use std::ops::RangeBounds;
use std::path::Path;
use std::time::{Duration, Instant};

use fjall::{Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use crate::store::{Error, Space};

/// Memory that fjall may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Cache of blocks, bytes.
    pub cache_bytes: u64,
    /// Memtables, sealed ones included, bytes.
    pub write_buffer_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20, write_buffer_bytes: 16 << 20 }
    }
}

/// Bytes written to fjall between two rotations.
const ROTATE_BYTES: u64 = 8 << 20;
/// Longest time between two rotations while something is written.
const ROTATE_AFTER: Duration = Duration::from_secs(30);
/// A flush that makes no progress for this long is a dead one.
const FLUSH_STALL_MAX: Duration = Duration::from_secs(30);
/// Smallest value that fjall accepts.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// One worker alone deadlocks with a single key space.
const WORKERS: usize = 2;
/// Never reached: inserts must not post rotations.
const MEMTABLE_BYTES_NEVER: u64 = 1 << 40;

/// The open database.
#[derive(Clone)]
pub(crate) struct Db {
    database: fjall::Database,
    spaces: Vec<Keyspace>,
    limits: Limits,
}

/// One write; a batch has each key once.
pub(crate) type Write<'a> = (Space, &'a [u8], Option<&'a [u8]>);

/// A pair as fjall hands it out.
pub(crate) type Pair = (fjall::UserKey, fjall::UserValue);

/// When to rotate: owned by the one thread that writes.
#[derive(Debug)]
pub(crate) struct Rotation {
    bytes: u64,
    last: Instant,
}

impl Rotation {
    pub(crate) fn new() -> Self {
        Self { bytes: 0, last: Instant::now() }
    }
}

impl Db {
    /// Opens or makes the database.
    pub(crate) fn open(path: &Path, limits: Limits) -> Result<Self, fjall::Error> {
        let database = fjall::Database::builder(path)
            .cache_size(limits.cache_bytes)
            .journal_compression(fjall::CompressionType::None)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(WORKERS)
            .open()?;
        let mut spaces = Vec::with_capacity(Space::ALL.len());
        for space in Space::ALL {
            spaces.push(database.keyspace(space.name(), || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES_NEVER)
                    .expect_point_read_hits(true)
            })?);
        }
        Ok(Self { database, spaces, limits })
    }

    fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    pub(crate) fn get(&self, space: Space, key: &[u8]) -> Result<Option<fjall::Slice>, Error> {
        self.space(space).get(key).map_err(Error::from)
    }

    pub(crate) fn prefix(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Pair, Error>> + use<> {
        self.space(space).prefix(prefix).map(|guard| guard.into_inner().map_err(Error::from))
    }

    pub(crate) fn range(
        &self,
        space: Space,
        range: impl RangeBounds<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Pair, Error>> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.space(space)
            .range::<Vec<u8>, _>(range)
            .map(|guard| guard.into_inner().map_err(Error::from))
    }

    /// One consistent view of all spaces.
    pub(crate) fn view(&self) -> View {
        View { snapshot: self.database.snapshot(), spaces: self.spaces.clone() }
    }

    /// Writes all of `writes` atomically, not yet synced.
    pub(crate) fn write<'a>(
        &self,
        rotation: &mut Rotation,
        writes: impl IntoIterator<Item = Write<'a>>,
    ) -> Result<(), Error> {
        let mut batch = self.database.batch();
        for (space, key, value) in writes {
            rotation.bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
            match value {
                Some(value) => batch.insert(self.space(space), key, value),
                None => batch.remove(self.space(space), key),
            }
        }
        batch.commit()?;
        let overdue = rotation.bytes > 0 && rotation.last.elapsed() >= ROTATE_AFTER;
        let over = self.database.write_buffer_size() > self.limits.write_buffer_bytes;
        if rotation.bytes >= ROTATE_BYTES || overdue || over {
            self.rotate()?;
            *rotation = Rotation::new();
            self.wait_for_flush()?;
        }
        Ok(())
    }

    /// Seals the memtables of all spaces: an idle one would hold the journals of all.
    pub(crate) fn rotate(&self) -> Result<(), Error> {
        for space in &self.spaces {
            space.rotate_memtable()?;
        }
        Ok(())
    }

    fn wait_for_flush(&self) -> Result<(), Error> {
        let mut lowest = self.database.write_buffer_size();
        let mut since = Instant::now();
        loop {
            let now = self.database.write_buffer_size();
            if now <= self.limits.write_buffer_bytes {
                return Ok(());
            }
            if now < lowest {
                (lowest, since) = (now, Instant::now());
            }
            if since.elapsed() > FLUSH_STALL_MAX {
                return Err(Error::Failed(format!(
                    "no flush made progress for {} s with {now} bytes buffered",
                    FLUSH_STALL_MAX.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Syncs everything written before.
    pub(crate) fn persist(&self) -> Result<(), Error> {
        self.database.persist(PersistMode::SyncAll).map_err(Error::from)
    }
}

/// A consistent view of the database.
pub(crate) struct View {
    snapshot: fjall::Snapshot,
    spaces: Vec<Keyspace>,
}

impl View {
    pub(crate) fn get(&self, space: Space, key: &[u8]) -> Result<Option<fjall::Slice>, Error> {
        self.snapshot.get(&self.spaces[space as usize], key).map_err(Error::from)
    }

    pub(crate) fn iter(&self, space: Space) -> impl Iterator<Item = Result<Pair, Error>> + use<> {
        self.snapshot
            .iter(&self.spaces[space as usize])
            .map(|guard| guard.into_inner().map_err(Error::from))
    }
}

impl From<fjall::Error> for Error {
    fn from(error: fjall::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
