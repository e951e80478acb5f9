//! Reads of the durable state. All block for microseconds; scans as long as they find pairs.
//!
//! Owns: lookups. Does not own: what is durable but not yet applied (`log` keeps it in memory).

use std::ops::Range;

use crate::store::keys::{self, Gap, PartitionKey, PartitionState};
use crate::store::producer::ProducerEntry;
use crate::store::{Error, Space, Store};
use crate::types::{Offset, PartitionId};
use crate::wal::Run;

/// A key with its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// Index entries that one change of the log start should drop at most.
const TRIM_ENTRIES_MAX: usize = 4_096;

impl Store {
    /// The durable value of a key. Blocks for microseconds (memory, or a cached table).
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.shared.db.get(space, key)?.map(|value| value.to_vec()))
    }

    /// All durable pairs whose key starts with `prefix`, in order of key.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn scan(&self, space: Space, prefix: &[u8]) -> Result<Vec<KeyValue>, Error> {
        let pairs = self.shared.db.prefix(space, prefix);
        pairs.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
    }

    /// The first durable pairs whose key starts with `prefix`, in order of key, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn first(&self, space: Space, prefix: &[u8], limit: usize) -> Result<Vec<KeyValue>, Error> {
        let pairs = self.shared.db.prefix(space, prefix).take(limit);
        pairs.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
    }

    /// How many durable keys start with `prefix`. Walks over all of them.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn count(&self, space: Space, prefix: &[u8]) -> Result<usize, Error> {
        self.shared.db.prefix(space, prefix).try_fold(0, |count, pair| pair.map(|_| count + 1))
    }

    /// Calls `visit` with each durable key of a range, in order, until it answers false.
    ///
    /// # Errors
    /// [`Error::Failed`], or what `visit` returns.
    pub fn walk(
        &self,
        space: Space,
        range: Range<Vec<u8>>,
        mut visit: impl FnMut(&[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        for pair in self.shared.db.range(space, range) {
            if !visit(&pair?.0)? {
                break;
            }
        }
        Ok(())
    }

    /// Calls `visit` with each durable pair whose key starts with `prefix`, in order of key, from
    /// one consistent view of the space.
    ///
    /// # Errors
    /// [`Error::Failed`], or what `visit` returns.
    pub fn for_each(
        &self,
        space: Space,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for pair in self.shared.db.prefix(space, prefix) {
            let (key, value) = pair?;
            visit(&key, &value)?;
        }
        Ok(())
    }

    /// The last run of a partition whose base offset is at or below `offset`; it contains
    /// `offset` unless that lies in a gap or past the end.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn index_floor(&self, id: PartitionId, offset: Offset) -> Result<Option<Run>, Error> {
        if offset < 0 {
            return Ok(None);
        }
        let range = keys::index(id, 0)..=keys::index(id, offset);
        let found = self.shared.db.range(Space::Index, range).next_back().transpose()?;
        found.map(|(key, value)| keys::decode_run(&key, &value)).transpose()
    }

    /// At most `limit` runs of a partition in order, from the one that contains `from`, or else
    /// from the first one after it.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn index_scan(
        &self,
        id: PartitionId,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<Run>, Error> {
        let from = from.max(0);
        let floor = self.index_floor(id, from)?.filter(|run| run.end_offset > from);
        let start = floor.map_or(from, |run| run.base_offset);
        let range = keys::index(id, start)..=keys::index(id, i64::MAX);
        let runs = self.shared.db.range(Space::Index, range).take(limit);
        runs.map(|pair| pair.and_then(|(key, value)| keys::decode_run(&key, &value))).collect()
    }

    /// The run of a partition that begins at exactly `base_offset`.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn index_at(&self, id: PartitionId, base_offset: Offset) -> Result<Option<Run>, Error> {
        let key = keys::index(id, base_offset);
        let value = self.shared.db.get(Space::Index, &key)?;
        value.map(|value| keys::decode_run(&key, &value)).transpose()
    }

    /// Recorded gaps of a partition, in order.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn gaps(&self, id: PartitionId) -> Result<Vec<Gap>, Error> {
        let mut gaps = Vec::new();
        self.for_each(Space::Partition, &keys::gaps(id), |key, value| {
            if let (_, PartitionKey::Gap(base)) = keys::decode_partition_key(key)? {
                gaps.push(keys::decode_gap(base, value)?);
            }
            Ok(())
        })?;
        Ok(gaps)
    }

    /// Log start and next offset of a partition, if it exists.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn partition(&self, id: PartitionId) -> Result<Option<PartitionState>, Error> {
        let Some(log_start) = self.get(Space::Partition, &keys::log_start(id))? else {
            return Ok(None);
        };
        let log_start = keys::decode_i64(&log_start)?;
        let next_offset = match self.get(Space::Partition, &keys::next_offset(id))? {
            Some(value) => keys::decode_i64(&value)?,
            None => log_start,
        };
        Ok(Some(PartitionState { partition: id, log_start, next_offset }))
    }

    /// All producers of a partition, by producer id.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn producers(&self, id: PartitionId) -> Result<Vec<(i64, ProducerEntry)>, Error> {
        let mut producers = Vec::new();
        self.for_each(Space::Producer, &keys::of_partition(id), |key, value| {
            producers.push((keys::decode_numbered(key)?.1, ProducerEntry::decode(value)?));
            Ok(())
        })?;
        Ok(producers)
    }

    /// The farthest log start offset on the way to `to` that drops no more index entries than
    /// one batch should; `to` itself when it is near enough. Raise the log start step by step.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn trim_step(&self, id: PartitionId, to: Offset) -> Result<Offset, Error> {
        let from = self.partition(id)?.map_or(0, |state| state.log_start);
        let runs = self.index_scan(id, from, TRIM_ENTRIES_MAX)?;
        Ok(match runs.last() {
            Some(last) if runs.len() == TRIM_ENTRIES_MAX => last.end_offset.min(to),
            _ => to,
        })
    }
}
