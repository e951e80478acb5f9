//! The walk over the index at every start: drops entries that point at nothing, joins those that a
//! rebuild left one by one, counts the rest, and finds offsets that no frame holds.
//!
//! Owns: this walk. Does not own: what becomes of the gaps (they go through the log).

use std::collections::BTreeMap;

use crate::store::db::{Db, Rotation};
use crate::store::keys::{self, Gap, PartitionKey};
use crate::store::live::LiveRuns;
use crate::store::recover::PartitionBoot;
use crate::store::{Change, Error, Space};
use crate::types::{Lsn, Offset, OffsetRange, PartitionId};
use crate::wal::{RUN_BYTES_MAX, Run, WalFile};

/// Entries that are changed as one batch.
const BATCH: usize = 4_096;

/// Positions without a good frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Damage {
    pub(crate) first: Lsn,
    pub(crate) end: Lsn,
}

pub(crate) struct Swept {
    pub(crate) live: LiveRuns,
    pub(crate) gaps: Change,
    pub(crate) partitions: Vec<PartitionBoot>,
}

/// A partition while its entries are walked over.
#[derive(Debug, Default)]
struct Walked {
    log_start: Offset,
    next_offset: Option<Offset>,
    recorded: Vec<Gap>,
    missing: Vec<OffsetRange>,
    reached: Offset,
    bytes: u64,
}

/// Walks over the whole index. `rebuilt`: each frame has an entry of its own, see
/// `stage::Before`.
pub(crate) fn sweep(
    db: &Db,
    rotation: &mut Rotation,
    files: &[WalFile],
    damage: &[Damage],
    rebuilt: bool,
) -> Result<Swept, Error> {
    let mut partitions = load(db)?;
    let mut live = LiveRuns::default();
    let mut changes = Changes { db, rotation, writes: Vec::new() };
    let mut dropped = 0_u64;
    let mut last = Joined::default();
    for pair in db.prefix(Space::Index, &[]) {
        let (key, value) = pair?;
        let run = keys::decode_run(&key, &value)?;
        match partitions.get_mut(&run.partition) {
            Some(walked) if run.end_offset > walked.log_start && there(&run, files, damage) => {
                walked.pass(&run);
                if rebuilt && last.join(&run) {
                    changes.push(key.to_vec(), None)?;
                } else {
                    last.end(&mut live, &mut changes)?;
                    last = Joined { run: Some(run), entries: 1 };
                }
            }
            _ => {
                dropped += 1;
                changes.push(key.to_vec(), None)?;
            }
        }
    }
    last.end(&mut live, &mut changes)?;
    changes.flush()?;
    if dropped > 0 {
        tracing::warn!(entries = dropped, "dropped index entries that point at nothing");
    }
    let mut gaps = Change::new();
    let mut boots = Vec::with_capacity(partitions.len());
    for (partition, mut walked) in partitions {
        let next_offset = walked.next_offset.unwrap_or(walked.log_start);
        walked.miss_until(next_offset);
        for range in unrecorded(&walked.missing, &walked.recorded) {
            tracing::error!(%partition, from = range.base, to = range.end, "records are lost");
            let reason = "no frame of the log held them at start".to_owned();
            gaps = keys::put_gap(gaps, partition, &Gap { range, reason });
        }
        let (log_start, bytes) = (walked.log_start, walked.bytes);
        boots.push(PartitionBoot { partition, log_start, next_offset, bytes });
    }
    Ok(Swept { live, gaps, partitions: boots })
}

fn load(db: &Db) -> Result<BTreeMap<PartitionId, Walked>, Error> {
    let mut partitions: BTreeMap<PartitionId, Walked> = BTreeMap::new();
    let mut started = Vec::new();
    for pair in db.prefix(Space::Partition, &[]) {
        let (key, value) = pair?;
        let (id, field) = keys::decode_partition_key(&key)?;
        let walked = partitions.entry(id).or_default();
        match field {
            PartitionKey::NextOffset => walked.next_offset = Some(keys::decode_i64(&value)?),
            PartitionKey::LogStart => {
                walked.log_start = keys::decode_i64(&value)?;
                walked.reached = walked.log_start;
                started.push(id);
            }
            PartitionKey::Gap(base) => walked.recorded.push(keys::decode_gap(base, &value)?),
        }
    }
    partitions.retain(|id, _| started.binary_search(id).is_ok());
    Ok(partitions)
}

/// Writes to the index that wait for a batch.
struct Changes<'a> {
    db: &'a Db,
    rotation: &'a mut Rotation,
    writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Changes<'_> {
    fn push(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), Error> {
        self.writes.push((key, value));
        if self.writes.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.writes.is_empty() {
            return Ok(());
        }
        let writes = std::mem::take(&mut self.writes);
        self.db.write(
            self.rotation,
            writes.iter().map(|(key, value)| (Space::Index, key.as_slice(), value.as_deref())),
        )
    }
}

/// The entry that may still grow.
#[derive(Default)]
struct Joined {
    run: Option<Run>,
    entries: u32,
}

impl Joined {
    /// Adds `run` if it follows; frames of one group have one append time.
    fn join(&mut self, run: &Run) -> bool {
        let fits = |last: &&mut Run| {
            last.is_followed_by(run)
                && last.append_ms == run.append_ms
                && last.disk_len.saturating_add(run.disk_len) <= RUN_BYTES_MAX
        };
        let Some(last) = self.run.as_mut().filter(fits) else {
            return false;
        };
        last.join(run);
        self.entries += 1;
        true
    }

    fn end(&mut self, live: &mut LiveRuns, changes: &mut Changes<'_>) -> Result<(), Error> {
        let Some(run) = self.run.take() else {
            return Ok(());
        };
        live.add(&run);
        if self.entries > 1 {
            let key = keys::index(run.partition, run.base_offset);
            changes.push(key, Some(keys::encode_run(&run)))?;
        }
        Ok(())
    }
}

/// True if the frames of `run` can be there: its file is, and not all of it is damaged.
fn there(run: &Run, files: &[WalFile], damage: &[Damage]) -> bool {
    let end = run.end();
    let file = files.partition_point(|file| file.end <= run.lsn);
    files.get(file).is_some_and(|file| file.first <= run.lsn && end <= file.end)
        && !damage.iter().any(|damage| damage.first <= run.lsn && end <= damage.end)
}

impl Walked {
    fn pass(&mut self, run: &Run) {
        self.miss_until(run.base_offset);
        self.reached = self.reached.max(run.end_offset);
        self.bytes += u64::from(run.disk_len);
    }

    fn miss_until(&mut self, offset: Offset) {
        if offset > self.reached {
            self.missing.push(OffsetRange { base: self.reached, end: offset });
            self.reached = offset;
        }
    }
}

/// The parts of `missing` that no recorded gap covers; both in order.
fn unrecorded(missing: &[OffsetRange], recorded: &[Gap]) -> Vec<OffsetRange> {
    let mut rest = Vec::new();
    for range in missing {
        let mut base = range.base;
        for gap in recorded.iter().map(|gap| gap.range) {
            if gap.end <= base || gap.base >= range.end {
                continue;
            }
            if gap.base > base {
                rest.push(OffsetRange { base, end: gap.base });
            }
            base = gap.end;
        }
        if base < range.end {
            rest.push(OffsetRange { base, end: range.end });
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn unrecorded_agrees_with_a_bitmap(
            missing in prop::collection::btree_set(0i64..60, 0..12),
            recorded in prop::collection::btree_set(0i64..60, 0..12),
        ) {
            // Neighbouring bounds in pairs make disjoint ranges in order.
            let ranges = |bounds: &std::collections::BTreeSet<i64>| -> Vec<OffsetRange> {
                let bounds: Vec<i64> = bounds.iter().copied().collect();
                bounds.chunks_exact(2).map(|b| OffsetRange { base: b[0], end: b[1] }).collect()
            };
            let (missing, recorded) = (ranges(&missing), ranges(&recorded));
            let covers = |ranges: &[OffsetRange], at: i64| {
                ranges.iter().any(|range| range.base <= at && at < range.end)
            };
            let gaps: Vec<Gap> = recorded
                .iter()
                .map(|range| Gap { range: *range, reason: String::new() })
                .collect();
            let rest = unrecorded(&missing, &gaps);
            for at in 0..60 {
                let expected = covers(&missing, at) && !covers(&recorded, at);
                prop_assert_eq!(covers(&rest, at), expected, "offset {}", at);
            }
            prop_assert!(rest.iter().all(|range| !range.is_empty()));
        }
    }
}
