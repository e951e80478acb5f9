//! What a stretch of frames does to the state: gathered over the stored state, written as one
//! batch.
//!
//! Three rules keep what is derived in step, also on replay, where groups are cut differently:
//! a partition exists as long as its log start is stored, and frames of others are ignored;
//! index entries and gaps that end at or below a raised log start go with it; everything of a
//! partition goes with its log start. A moved run takes the place of the one entry that it is a
//! copy of, and changes nothing else (rules 2.7): where that entry is gone, so are its records.
//!
//! Owns: these rules. Does not own: writing the batch (`apply`, `recover`).

use std::collections::{BTreeMap, HashMap};

use crate::store::db::Db;
use crate::store::keys::{self, PartitionKey};
use crate::store::once::{self, ChannelMark, ChannelRecord, KeyMark, KeyRecord};
use crate::store::producer::ProducerEntry;
use crate::store::{Change, Error, Op, Space, codec};
use crate::types::{Lsn, Offset, PartitionId};
use crate::wal::{self, FrameKind, Run, WrittenFrame, ext};

type Key = (Space, Vec<u8>);

/// What is in the state before the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// All that the frames before them did.
    Everything,
    /// A metadata snapshot at this position and the index entries of the frames before them (a
    /// rebuild): frames below it give entries alone. Groups are cut differently than when entries
    /// were moved, so each frame has an entry of its own until the end of the rebuild.
    Snapshot(Lsn),
}

impl Before {
    /// Frames below are in the state, but for the index.
    fn covered(self) -> Lsn {
        match self {
            Self::Everything => Lsn(0),
            Self::Snapshot(lsn) => lsn,
        }
    }
}

/// Writes that are not in fjall yet.
pub(crate) struct Stage<'a> {
    db: &'a Db,
    writes: BTreeMap<Key, Option<Vec<u8>>>,
    partitions: HashMap<PartitionId, Option<Loaded>>,
    producers: HashMap<Vec<u8>, ProducerEntry>,
    /// Runs that got an index entry, in order.
    pub(crate) added: Vec<Run>,
    /// Runs that lost theirs.
    pub(crate) removed: Vec<Run>,
}

#[derive(Clone, Copy)]
struct Loaded {
    log_start: Offset,
    next_offset: Offset,
    dirty: bool,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(db: &'a Db) -> Self {
        Self {
            db,
            writes: BTreeMap::new(),
            partitions: HashMap::new(),
            producers: HashMap::new(),
            added: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// Applies `frames` in order.
    pub(crate) fn frames(&mut self, frames: &[WrittenFrame], before: Before) -> Result<(), Error> {
        for stretch in frames.chunk_by(|a, b| is_records(a) && is_records(b)) {
            let first = &stretch[0];
            if is_records(first) {
                self.records(stretch, before)?;
            } else if first.draft.kind == FrameKind::State && first.lsn >= before.covered() {
                let change = codec::decode(&first.draft.payload).map_err(|error| {
                    Error::Failed(format!("state frame at {}: {error}", first.lsn))
                })?;
                self.change(change)?;
            }
        }
        Ok(())
    }

    /// Applies the writes of one change.
    pub(crate) fn change(&mut self, change: Change) -> Result<(), Error> {
        change.ops.into_iter().try_for_each(|op| self.op(op))
    }

    /// Everything to write, each key once.
    pub(crate) fn into_writes(mut self) -> Result<Staged, Error> {
        for (key, entry) in std::mem::take(&mut self.producers) {
            self.writes.insert((Space::Producer, key), Some(entry.encode()));
        }
        let partitions: Vec<PartitionId> = self.partitions.keys().copied().collect();
        for partition in partitions {
            self.settle(partition);
        }
        Ok(Staged { writes: self.writes, added: self.added, removed: self.removed })
    }

    fn records(&mut self, frames: &[WrittenFrame], before: Before) -> Result<(), Error> {
        let runs = match before {
            Before::Everything => wal::runs(frames),
            Before::Snapshot(_) => frames.iter().map(WrittenFrame::run).collect(),
        };
        for run in runs {
            let Some(loaded) = self.partition(run.partition)? else {
                continue;
            };
            if run.end_offset > loaded.log_start {
                self.put_run(&run, loaded)?;
            }
        }
        if before == Before::Everything {
            for run in wal::moved_runs(frames) {
                self.replace_run(&run)?;
            }
        }
        let fresh = |frame: &&WrittenFrame| frame.lsn >= before.covered() && !frame.is_moved();
        for frame in frames.iter().filter(fresh) {
            let Some(mut loaded) = self.partition(frame.draft.partition)? else {
                continue;
            };
            let end_offset = frame.end_offset();
            if end_offset > loaded.next_offset {
                loaded.next_offset = end_offset;
                loaded.dirty = true;
                self.partitions.insert(frame.draft.partition, Some(loaded));
            }
            if frame.draft.producer_id >= 0 {
                self.producer(frame)?;
            }
            for (tag, mark) in ext::entries(&frame.draft.ext) {
                match tag {
                    ext::IDEMPOTENCY => self.key_mark(frame, mark)?,
                    ext::CHANNEL => self.channel_mark(frame, mark)?,
                    ext::EVENT_IDS => {
                        let key = once::ids_of(frame.draft.partition, frame.draft.base_offset);
                        let ids = once::encode_ids(frame.append_ms, mark)?;
                        self.writes.insert((once::SPACE, key), Some(ids));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn put_run(&mut self, run: &Run, loaded: Loaded) -> Result<(), Error> {
        let key = keys::index(run.partition, run.base_offset);
        // A fresh run lies at or past the next offset, so it cannot replace an older entry.
        if run.base_offset < loaded.next_offset
            && let Some(old) = self.get(Space::Index, &key)?
        {
            let old = keys::decode_run(&key, &old)?;
            if old.lsn > run.lsn {
                return Ok(());
            }
            self.removed.push(old);
        }
        self.writes.insert((Space::Index, key), Some(keys::encode_run(run)));
        self.added.push(*run);
        Ok(())
    }

    /// Points the entry that `run` is a copy of at the copy.
    fn replace_run(&mut self, run: &Run) -> Result<(), Error> {
        let key = keys::index(run.partition, run.base_offset);
        let Some(old) = self.get(Space::Index, &key)? else {
            return Ok(());
        };
        let old = keys::decode_run(&key, &old)?;
        let is_copy = (run.end_offset, run.disk_len) == (old.end_offset, old.disk_len);
        if is_copy && old.lsn < run.lsn {
            self.writes.insert((Space::Index, key), Some(keys::encode_run(run)));
            self.removed.push(old);
            self.added.push(*run);
        }
        Ok(())
    }

    fn producer(&mut self, frame: &WrittenFrame) -> Result<(), Error> {
        let draft = &frame.draft;
        let key = keys::producer(draft.partition, draft.producer_id);
        if !self.producers.contains_key(&key) {
            let entry = match self.get(Space::Producer, &key)? {
                Some(value) => ProducerEntry::decode(&value)?,
                None => ProducerEntry::new(draft.producer_epoch),
            };
            self.producers.insert(key.clone(), entry);
        }
        if let Some(entry) = self.producers.get_mut(&key) {
            entry.record(
                draft.producer_epoch,
                draft.base_sequence,
                draft.record_count,
                draft.base_offset,
                frame.append_ms,
            );
        }
        Ok(())
    }

    /// Each frame of a request stands alone: what they say is gathered (rules 2.6).
    fn key_mark(&mut self, frame: &WrittenFrame, mark: &[u8]) -> Result<(), Error> {
        let mark = KeyMark::decode(mark)?;
        let key = once::key_of(mark.scope);
        let known = self.get(once::SPACE, &key)?.map(|value| KeyRecord::decode(&value));
        let mut record = match known.transpose()? {
            Some(record) if record.write_id == mark.write_id => record,
            // A key that was forgotten, and is used again.
            _ => {
                let age = once::age_of(frame.append_ms, mark.scope);
                self.writes.insert((once::SPACE, age), Some(keys::encode_text("")));
                KeyRecord::new(&mark, frame.append_ms)
            }
        };
        record.add(mark.partition, frame.draft.base_offset, frame.end_offset() - 1);
        self.writes.insert((once::SPACE, key), Some(record.encode()));
        Ok(())
    }

    fn channel_mark(&mut self, frame: &WrittenFrame, mark: &[u8]) -> Result<(), Error> {
        let mark = ChannelMark::decode(mark)?;
        let key = once::channel_of(mark.topic, &mark.name);
        let known = self.get(once::SPACE, &key)?.map(|value| ChannelRecord::decode(&value));
        let mut record = known.transpose()?.unwrap_or_default();
        record.add(&mark, frame.end_offset(), frame.append_ms);
        self.writes.insert((once::SPACE, key), Some(record.encode()));
        Ok(())
    }

    fn op(&mut self, op: Op) -> Result<(), Error> {
        match op.space {
            Space::Index => {
                return Err(Error::Failed("a state frame writes index entries".to_owned()));
            }
            Space::Partition => return self.partition_op(op),
            Space::Producer => drop(self.producers.remove(&op.key)),
            _ => {}
        }
        self.writes.insert((op.space, op.key), op.value);
        Ok(())
    }

    fn partition_op(&mut self, op: Op) -> Result<(), Error> {
        let (partition, field) = keys::decode_partition_key(&op.key)?;
        let before = self.partition(partition)?;
        self.settle(partition);
        if field == PartitionKey::LogStart {
            match (&op.value, before) {
                (Some(value), Some(before)) => {
                    let log_start = keys::decode_i64(value)?;
                    self.trim(partition, before.log_start, log_start)?;
                }
                (Some(_), None) => {}
                (None, _) => self.remove_partition(partition)?,
            }
        }
        self.writes.insert((op.space, op.key), op.value);
        Ok(())
    }

    /// Drops the index entries and gaps that end at or below `to`.
    fn trim(&mut self, partition: PartitionId, from: Offset, to: Offset) -> Result<(), Error> {
        // Entries below the old log start are gone already: do not walk over their tombstones.
        let floor = self
            .db
            .range(Space::Index, keys::index(partition, 0)..=keys::index(partition, from.max(0)))
            .next_back()
            .transpose()?;
        let from = match &floor {
            Some((key, _)) => keys::decode_numbered(key)?.1,
            None => from.max(0),
        };
        // Staged entries may lie below a floor that was found in fjall alone.
        let staged_from = keys::index(partition, 0);
        let end = keys::index(partition, to.max(from));
        self.remove_index(keys::index(partition, from), staged_from, &end, to)?;
        for (key, value) in self.merged(Space::Partition, &keys::gaps(partition))? {
            if let (_, PartitionKey::Gap(base)) = keys::decode_partition_key(&key)?
                && keys::decode_gap(base, &value)?.range.end <= to
            {
                self.writes.insert((Space::Partition, key), None);
            }
        }
        Ok(())
    }

    fn remove_index(
        &mut self,
        from: Vec<u8>,
        staged_from: Vec<u8>,
        end: &[u8],
        to: Offset,
    ) -> Result<(), Error> {
        let mut gone = Vec::new();
        for pair in self.db.range(Space::Index, from..end.to_vec()) {
            let (key, value) = pair?;
            let run = keys::decode_run(&key, &value)?;
            if run.end_offset > to {
                break;
            }
            if !self.writes.contains_key(&(Space::Index, key.to_vec())) {
                gone.push(run);
            }
        }
        for ((_, key), value) in
            self.writes.range((Space::Index, staged_from)..(Space::Index, end.to_vec()))
        {
            if let Some(value) = value {
                let run = keys::decode_run(key, value)?;
                if run.end_offset <= to {
                    gone.push(run);
                }
            }
        }
        for run in gone {
            self.writes.insert((Space::Index, keys::index(run.partition, run.base_offset)), None);
            self.removed.push(run);
        }
        Ok(())
    }

    fn remove_partition(&mut self, partition: PartitionId) -> Result<(), Error> {
        let prefix = keys::of_partition(partition);
        for (key, value) in self.merged(Space::Index, &prefix)? {
            self.removed.push(keys::decode_run(&key, &value)?);
            self.writes.insert((Space::Index, key), None);
        }
        self.producers.retain(|key, _| !key.starts_with(&prefix));
        for space in [Space::Partition, Space::Producer] {
            for (key, _) in self.merged(space, &prefix)? {
                self.writes.insert((space, key), None);
            }
        }
        Ok(())
    }

    /// Stored pairs with staged writes laid over them, in order.
    fn merged(&self, space: Space, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        let mut pairs = BTreeMap::new();
        for pair in self.db.prefix(space, prefix) {
            let (key, value) = pair?;
            pairs.insert(key.to_vec(), value.to_vec());
        }
        for ((at, key), value) in self.writes.range((space, prefix.to_vec())..) {
            if *at != space || !key.starts_with(prefix) {
                break;
            }
            match value {
                Some(value) => pairs.insert(key.clone(), value.clone()),
                None => pairs.remove(key),
            };
        }
        Ok(pairs)
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.writes.get(&(space, key.to_vec())) {
            Some(staged) => Ok(staged.clone()),
            None => Ok(self.db.get(space, key)?.map(|value| value.to_vec())),
        }
    }

    fn partition(&mut self, partition: PartitionId) -> Result<Option<Loaded>, Error> {
        if let Some(loaded) = self.partitions.get(&partition) {
            return Ok(*loaded);
        }
        let log_start = self.get(Space::Partition, &keys::log_start(partition))?;
        let next_offset = self.get(Space::Partition, &keys::next_offset(partition))?;
        let loaded = match log_start {
            None => None,
            Some(log_start) => Some(Loaded {
                log_start: keys::decode_i64(&log_start)?,
                next_offset: next_offset.map_or(Ok(0), |value| keys::decode_i64(&value))?,
                dirty: false,
            }),
        };
        self.partitions.insert(partition, loaded);
        Ok(loaded)
    }

    /// Moves what is cached of a partition to the writes.
    fn settle(&mut self, partition: PartitionId) {
        if let Some(Some(loaded)) = self.partitions.remove(&partition)
            && loaded.dirty
        {
            let key = (Space::Partition, keys::next_offset(partition));
            self.writes.insert(key, Some(keys::encode_i64(loaded.next_offset)));
        }
    }
}

/// A finished stage.
pub(crate) struct Staged {
    writes: BTreeMap<Key, Option<Vec<u8>>>,
    pub(crate) added: Vec<Run>,
    pub(crate) removed: Vec<Run>,
}

impl Staged {
    /// Adds a write to `Meta`.
    pub(crate) fn meta(&mut self, key: &[u8], value: Vec<u8>) {
        self.writes.insert((Space::Meta, key.to_vec()), Some(value));
    }

    pub(crate) fn writes(&self) -> impl Iterator<Item = (Space, &[u8], Option<&[u8]>)> {
        self.writes.iter().map(|((space, key), value)| (*space, key.as_slice(), value.as_deref()))
    }
}

fn is_records(frame: &WrittenFrame) -> bool {
    matches!(frame.draft.kind, FrameKind::Records | FrameKind::HttpRecords)
}
