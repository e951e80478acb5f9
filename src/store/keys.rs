//! Layouts of the keys and values that the store itself knows. Integers in keys are big-endian,
//! so that the order of keys is the order of numbers; integers in values are little-endian.
//!
//! ```text
//! Index      pid u32 | base_offset u64   version u8 = 1 | lsn u64 | disk_len u32 | end_offset i64
//!                                        | max_timestamp i64 | append_ms i64
//! Partition  pid u32 | 1                 version u8 = 1 | next_offset i64
//!            pid u32 | 2                 version u8 = 1 | log_start_offset i64
//!            pid u32 | 3 | base u64      version u8 = 1 | end i64 | reason utf-8
//! Producer   pid u32 | producer_id u64   see `producer`
//! Meta       name utf-8                  version u8 = 1 | u64, or utf-8 for `cluster_id`
//! ```
//!
//! Owns: these layouts. Does not own: when they change (`apply`, `log`, `topic`).

use crate::store::{Change, Error, Space};
use crate::types::{Lsn, Offset, OffsetRange, PartitionId};
use crate::wal::Run;

/// Version of every value here.
const VERSION: u8 = 1;

const FIELD_NEXT_OFFSET: u8 = 1;
const FIELD_LOG_START: u8 = 2;
const FIELD_GAP: u8 = 3;

/// Longest reason of a gap that is kept, in bytes.
const REASON_BYTES_MAX: usize = 1_024;

/// Meta: the position up to which frames are applied. Only in fjall, never in a frame.
pub(crate) const META_WAL_APPLIED: &[u8] = b"wal_applied";
/// Meta: the log that fjall is a projection of. Only in fjall, never in a frame.
pub(crate) const META_LOG_ID: &[u8] = b"log_id";
/// Meta: the id of the cluster as clients see it.
pub(crate) const META_CLUSTER_ID: &[u8] = b"cluster_id";

/// A supply of numbers that are never handed out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Internal partition numbers.
    Partition,
    /// Producer ids (KIP-98).
    Producer,
}

impl Counter {
    pub(crate) fn key(self) -> &'static [u8] {
        match self {
            Self::Partition => b"next_partition",
            Self::Producer => b"next_producer",
        }
    }
}

/// Offsets of a partition that are in no frame, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Which offsets.
    pub range: OffsetRange,
    /// Why, for people.
    pub reason: String,
}

/// What the store knows of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionState {
    /// Which.
    pub partition: PartitionId,
    /// First readable offset.
    pub log_start: Offset,
    /// Offset after the last applied record.
    pub next_offset: Offset,
}

/// Key of an index entry.
pub fn index(partition: PartitionId, base_offset: Offset) -> Vec<u8> {
    numbered(partition, base_offset)
}

/// Key of a producer entry.
pub fn producer(partition: PartitionId, producer_id: i64) -> Vec<u8> {
    numbered(partition, producer_id)
}

/// Prefix of all keys of a partition in `Index`, `Partition` and `Producer`.
pub fn of_partition(partition: PartitionId) -> [u8; 4] {
    partition.0.to_be_bytes()
}

/// Key of the next offset of a partition.
pub fn next_offset(partition: PartitionId) -> Vec<u8> {
    field(partition, FIELD_NEXT_OFFSET)
}

/// Key of the log start offset of a partition; the partition exists as long as it is there.
pub fn log_start(partition: PartitionId) -> Vec<u8> {
    field(partition, FIELD_LOG_START)
}

/// Key of a gap of a partition.
pub fn gap(partition: PartitionId, base: Offset) -> Vec<u8> {
    let mut key = field(partition, FIELD_GAP);
    key.extend_from_slice(&base.cast_unsigned().to_be_bytes());
    key
}

/// Prefix of all gaps of a partition.
pub fn gaps(partition: PartitionId) -> Vec<u8> {
    field(partition, FIELD_GAP)
}

/// Makes a partition: from then on its record frames count. Log start and next offset are 0.
#[must_use]
pub fn create_partition(change: Change, partition: PartitionId) -> Change {
    put_log_start(change, partition, 0).put(Space::Partition, next_offset(partition), encode_i64(0))
}

/// Raises the log start offset of a partition; index entries that end at or below it go with
/// the same batch.
#[must_use]
pub fn put_log_start(change: Change, partition: PartitionId, offset: Offset) -> Change {
    change.put(Space::Partition, log_start(partition), encode_i64(offset))
}

/// Records that the offsets in `gap` are in no frame.
#[must_use]
pub fn put_gap(change: Change, partition: PartitionId, gap_: &Gap) -> Change {
    let mut reason_len = gap_.reason.len().min(REASON_BYTES_MAX);
    while !gap_.reason.is_char_boundary(reason_len) {
        reason_len -= 1;
    }
    let mut value = encode_i64(gap_.range.end);
    value.extend_from_slice(&gap_.reason.as_bytes()[..reason_len]);
    change.put(Space::Partition, gap(partition, gap_.range.base), value)
}

/// Forgets a gap (it lies below the log start).
#[must_use]
pub fn delete_gap(change: Change, partition: PartitionId, base: Offset) -> Change {
    change.delete(Space::Partition, gap(partition, base))
}

/// What a key of `Partition` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartitionKey {
    NextOffset,
    LogStart,
    Gap(Offset),
}

pub(crate) fn decode_partition_key(key: &[u8]) -> Result<(PartitionId, PartitionKey), Error> {
    let (id, rest) = split_partition(key)?;
    match (rest.split_first(), rest.len()) {
        (Some((&FIELD_NEXT_OFFSET, _)), 1) => Ok((id, PartitionKey::NextOffset)),
        (Some((&FIELD_LOG_START, _)), 1) => Ok((id, PartitionKey::LogStart)),
        (Some((&FIELD_GAP, base)), 9) => Ok((id, PartitionKey::Gap(offset_of(base)?))),
        _ => Err(malformed("partition key", key)),
    }
}

/// Partition and number of a key of `Index` or `Producer`.
pub(crate) fn decode_numbered(key: &[u8]) -> Result<(PartitionId, i64), Error> {
    let (id, rest) = split_partition(key)?;
    Ok((id, offset_of(rest)?))
}

pub(crate) fn encode_i64(value: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(9);
    out.push(VERSION);
    out.extend_from_slice(&value.to_le_bytes());
    out
}

pub(crate) fn decode_i64(value: &[u8]) -> Result<i64, Error> {
    let rest = versioned(value)?;
    let bytes = rest.try_into().map_err(|_| malformed("number", value))?;
    Ok(i64::from_le_bytes(bytes))
}

pub(crate) fn encode_u64(value: u64) -> Vec<u8> {
    encode_i64(value.cast_signed())
}

pub(crate) fn decode_u64(value: &[u8]) -> Result<u64, Error> {
    Ok(decode_i64(value)?.cast_unsigned())
}

pub(crate) fn encode_text(text: &str) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(text.as_bytes());
    out
}

pub(crate) fn decode_text(value: &[u8]) -> Result<String, Error> {
    let text = versioned(value)?.to_vec();
    String::from_utf8(text).map_err(|_| malformed("text", value))
}

pub(crate) fn decode_gap(base: Offset, value: &[u8]) -> Result<Gap, Error> {
    let rest = versioned(value)?;
    let (end, reason) = rest.split_first_chunk().ok_or_else(|| malformed("gap", value))?;
    Ok(Gap {
        range: OffsetRange { base, end: i64::from_le_bytes(*end) },
        reason: String::from_utf8_lossy(reason).into_owned(),
    })
}

pub(crate) fn encode_run(run: &Run) -> Vec<u8> {
    let mut out = Vec::with_capacity(37);
    out.push(VERSION);
    out.extend_from_slice(&run.lsn.0.to_le_bytes());
    out.extend_from_slice(&run.disk_len.to_le_bytes());
    out.extend_from_slice(&run.end_offset.to_le_bytes());
    out.extend_from_slice(&run.max_timestamp.to_le_bytes());
    out.extend_from_slice(&run.append_ms.to_le_bytes());
    out
}

pub(crate) fn decode_run(key: &[u8], value: &[u8]) -> Result<Run, Error> {
    let (partition, base_offset) = decode_numbered(key)?;
    let rest = versioned(value)?;
    let rest: &[u8; 36] = rest.try_into().map_err(|_| malformed("index entry", value))?;
    let word = |at: usize| -> [u8; 8] { std::array::from_fn(|i| rest[at + i]) };
    Ok(Run {
        partition,
        base_offset,
        lsn: Lsn(u64::from_le_bytes(word(0))),
        disk_len: u32::from_le_bytes(std::array::from_fn(|i| rest[8 + i])),
        end_offset: i64::from_le_bytes(word(12)),
        max_timestamp: i64::from_le_bytes(word(20)),
        append_ms: i64::from_le_bytes(word(28)),
    })
}

pub(crate) fn versioned(value: &[u8]) -> Result<&[u8], Error> {
    match value.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((version, _)) => Err(Error::Failed(format!(
            "a stored value has version {version}, this release knows {VERSION}"
        ))),
        None => Err(malformed("value", value)),
    }
}

pub(crate) fn malformed(what: &str, bytes: &[u8]) -> Error {
    Error::Failed(format!("stored {what} of {} bytes is malformed", bytes.len()))
}

fn numbered(partition: PartitionId, number: i64) -> Vec<u8> {
    let mut key = Vec::with_capacity(12);
    key.extend_from_slice(&partition.0.to_be_bytes());
    key.extend_from_slice(&number.cast_unsigned().to_be_bytes());
    key
}

fn field(partition: PartitionId, field: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(13);
    key.extend_from_slice(&partition.0.to_be_bytes());
    key.push(field);
    key
}

fn split_partition(key: &[u8]) -> Result<(PartitionId, &[u8]), Error> {
    let (id, rest) = key.split_first_chunk().ok_or_else(|| malformed("key", key))?;
    Ok((PartitionId(u32::from_be_bytes(*id)), rest))
}

fn offset_of(bytes: &[u8]) -> Result<i64, Error> {
    let bytes = bytes.try_into().map_err(|_| malformed("key", bytes))?;
    Ok(u64::from_be_bytes(bytes).cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const P: PartitionId = PartitionId(0x0102_0304);

    proptest! {
        #[test]
        fn runs_survive_a_round_trip(
            pid in any::<u32>(), base in 0..i64::MAX, end in any::<i64>(), lsn in any::<u64>(),
            disk_len in any::<u32>(), max_timestamp in any::<i64>(), append_ms in any::<i64>(),
        ) {
            let run = Run {
                partition: PartitionId(pid), base_offset: base, end_offset: end, lsn: Lsn(lsn),
                disk_len, max_timestamp, append_ms,
            };
            let key = index(run.partition, run.base_offset);
            prop_assert_eq!(decode_run(&key, &encode_run(&run)).unwrap(), run);
        }

        #[test]
        fn keys_sort_as_their_numbers(a in 0..i64::MAX, b in 0..i64::MAX) {
            prop_assert_eq!(index(P, a).cmp(&index(P, b)), a.cmp(&b));
            prop_assert_eq!(gap(P, a).cmp(&gap(P, b)), a.cmp(&b));
        }

        #[test]
        fn arbitrary_stored_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let _ = decode_run(&bytes, &bytes);
            let _ = decode_gap(0, &bytes);
            let _ = decode_partition_key(&bytes);
            let _ = (decode_u64(&bytes), decode_text(&bytes));
        }
    }

    #[test]
    fn layouts_are_the_golden_ones() {
        let run = Run {
            partition: P,
            base_offset: 5,
            end_offset: 9,
            lsn: Lsn(0x1122),
            disk_len: 0x40,
            max_timestamp: 3,
            append_ms: 4,
        };
        assert_eq!(index(P, 5), b"\x01\x02\x03\x04\0\0\0\0\0\0\0\x05");
        let value = b"\x01\x22\x11\0\0\0\0\0\0\x40\0\0\0\x09\0\0\0\0\0\0\0\
            \x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0";
        assert_eq!(encode_run(&run), value);
        assert_eq!(next_offset(P), b"\x01\x02\x03\x04\x01");
        assert_eq!(log_start(P), b"\x01\x02\x03\x04\x02");
        assert_eq!(gap(P, 1), b"\x01\x02\x03\x04\x03\0\0\0\0\0\0\0\x01");
        assert_eq!(encode_u64(2), b"\x01\x02\0\0\0\0\0\0\0");
        assert_eq!(encode_text("c"), b"\x01c");
    }

    #[test]
    fn gaps_and_fields_are_told_apart() {
        let lost = Gap { range: OffsetRange { base: 7, end: 11 }, reason: "lost".to_owned() };
        let change = put_gap(Change::new(), P, &lost);
        let op = &change.ops[0];
        assert_eq!(decode_partition_key(&op.key).unwrap(), (P, PartitionKey::Gap(7)));
        assert_eq!(decode_gap(7, op.value.as_ref().unwrap()).unwrap(), lost);
        assert_eq!(decode_partition_key(&next_offset(P)).unwrap(), (P, PartitionKey::NextOffset));
        assert_eq!(decode_partition_key(&log_start(P)).unwrap(), (P, PartitionKey::LogStart));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let reason = "é".repeat(600) + "x";
        let change =
            put_gap(Change::new(), P, &Gap { range: OffsetRange { base: 0, end: 1 }, reason });
        let gap = decode_gap(0, change.ops[0].value.as_ref().unwrap()).unwrap();
        assert_eq!(gap.reason, "é".repeat(512));
    }

    #[test]
    fn a_value_of_a_later_release_is_refused() {
        assert!(decode_i64(b"\x02\0\0\0\0\0\0\0\0").unwrap_err().to_string().contains("version 2"));
    }
}
