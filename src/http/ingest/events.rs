//! Turns events into record batches: key, partition, timestamp, ids. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::http::problem::EventError;
use crate::record::{BatchBuilder, Codec, NewRecord, TimestampBounds};

/// Header of the id that the server gives each event (rules 7.2).
pub(super) const ID_HEADER: &[u8] = b"floe.id";
/// Header of the id that all events of one request share (rules 7.2).
pub(super) const WRITE_ID_HEADER: &[u8] = b"floe.write_id";

/// Bodies from this size are compressed in the log: the sender's JSON is not compressed yet.
const COMPRESS_FROM_BYTES: usize = 4 << 10;

/// Last millisecond of the year 9999, the last that RFC 3339 can write.
const TIMESTAMP_MS_MAX: i64 = 253_402_300_799_999;

/// What a sender may say about its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Placement {
    /// Key of all events, or a path in each when it starts with `$.`.
    pub(super) key: Option<String>,
    /// Partition of all events.
    pub(super) partition: Option<usize>,
    /// Path in each event of its time, without `$.`.
    pub(super) timestamp: Option<String>,
    /// Record headers of all events.
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

/// What the topic and the request fix for all events.
pub(super) struct Target {
    pub(super) partitions: usize,
    pub(super) max_message_bytes: usize,
    pub(super) now_ms: i64,
    /// How far times of events may be off; none where the log stamps its own.
    pub(super) bounds: Option<TimestampBounds>,
    /// Every event needs a key: compaction could never find it otherwise.
    pub(super) keyed: bool,
    pub(super) write_id: Uuid,
    /// Where events without a key go, all of one request together.
    pub(super) sticky: usize,
}

/// Record batches by partition index, ready to append, and the events that were refused.
pub(super) struct Batches {
    /// Partition index, batch, records in it.
    pub(super) batches: Vec<(usize, Bytes)>,
    pub(super) accepted: usize,
    pub(super) errors: Vec<EventError>,
}

struct Open {
    builder: BatchBuilder,
    bytes: usize,
}

/// Builds the batches of `events` (index and range in `body`).
pub(super) fn build(
    body: &[u8],
    events: &[(usize, Range<usize>)],
    placement: &Placement,
    target: &Target,
) -> Result<Batches, String> {
    let mut result = Batches { batches: Vec::new(), accepted: 0, errors: Vec::new() };
    let mut open: BTreeMap<usize, Open> = BTreeMap::new();
    let write_id = target.write_id.to_string();
    for (index, range) in events {
        let event = &body[range.clone()];
        let refused = |field: Option<&str>, code, message| EventError {
            index: *index,
            offset_bytes: range.start,
            field: field.map(ToOwned::to_owned),
            code,
            message,
        };
        let key = match checked_key(placement, event, target) {
            Ok(key) => key,
            Err((field, message)) => {
                result.errors.push(refused(field.as_deref(), "bad_key", message));
                continue;
            }
        };
        let timestamp = match timestamp_of(placement, event, target) {
            Ok(timestamp) => timestamp,
            Err((field, message)) => {
                result.errors.push(refused(field.as_deref(), "bad_timestamp", message));
                continue;
            }
        };
        let id = Uuid::now_v7().to_string();
        let mut headers: Vec<(&[u8], Option<&[u8]>)> =
            vec![(ID_HEADER, Some(id.as_bytes())), (WRITE_ID_HEADER, Some(write_id.as_bytes()))];
        let own = placement.headers.iter();
        headers.extend(own.map(|(name, value)| (name.as_bytes(), Some(value.as_slice()))));
        let record =
            NewRecord { key: key.as_deref(), value: Some(event), headers: &headers, timestamp };
        let partition = partition_of(placement, key.as_deref(), target);
        let entry = open
            .entry(partition)
            .or_insert_with(|| Open { builder: BatchBuilder::new(), bytes: 0 });
        if entry.builder.size_bytes_with(&record) > target.max_message_bytes {
            close(entry, partition, &mut result.batches)?;
            if entry.builder.size_bytes_with(&record) > target.max_message_bytes {
                let limit = target.max_message_bytes;
                let message = format!("the event is larger than max.message.bytes = {limit}");
                result.errors.push(refused(None, "too_large", message));
                continue;
            }
        }
        entry.builder.push(&record).map_err(|error| error.to_string())?;
        entry.bytes += event.len();
        result.accepted += 1;
    }
    for (partition, mut entry) in open {
        close(&mut entry, partition, &mut result.batches)?;
    }
    Ok(result)
}

fn close(entry: &mut Open, partition: usize, into: &mut Vec<(usize, Bytes)>) -> Result<(), String> {
    if entry.builder.is_empty() {
        return Ok(());
    }
    let codec = if entry.bytes >= COMPRESS_FROM_BYTES { Codec::Lz4 } else { Codec::None };
    let batch = entry.builder.build(codec).map_err(|error| error.to_string())?;
    entry.bytes = 0;
    into.push((partition, batch));
    Ok(())
}

fn partition_of(placement: &Placement, key: Option<&[u8]>, target: &Target) -> usize {
    match (placement.partition, key) {
        (Some(partition), _) => partition,
        (None, Some(key)) => murmur2_partition(key, target.partitions),
        (None, None) => target.sticky % target.partitions.max(1),
    }
}

/// The partition that Kafka's Java client picks for a key
/// (source: `BuiltInPartitioner.partitionForKey`).
pub(super) fn murmur2_partition(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions.max(1)
}

/// MurmurHash2 as in `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    for (place, byte) in rest.iter().enumerate().rev() {
        hash ^= u32::from(*byte) << (8 * place);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The field that is to blame, if one is, and why.
type FieldError = (Option<String>, String);

fn checked_key(
    placement: &Placement,
    event: &[u8],
    target: &Target,
) -> Result<Option<Vec<u8>>, FieldError> {
    let key = key_of(placement, event)?;
    if key.is_none() && target.keyed {
        let message = "a compacted topic accepts no event without key".to_owned();
        return Err((placement.key.clone(), message));
    }
    Ok(key)
}

fn key_of(placement: &Placement, event: &[u8]) -> Result<Option<Vec<u8>>, FieldError> {
    let Some(key) = &placement.key else { return Ok(None) };
    let Some(path) = key.strip_prefix("$.") else { return Ok(Some(key.clone().into_bytes())) };
    let missing = || (Some(key.clone()), format!("the event has no plain value at {key}"));
    let found = find(event, path).ok_or_else(missing)?;
    match found.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(&found)
            .map(|text| Some(text.into_bytes()))
            .map_err(|_| missing()),
        Some(b'{' | b'[') | None => Err(missing()),
        Some(_) if found == "null" => Ok(None),
        Some(_) => Ok(Some(found.into_bytes())),
    }
}

/// The time of an event: within 1970 to 9999, and within the topic's bounds as over Kafka.
fn timestamp_of(placement: &Placement, event: &[u8], target: &Target) -> Result<i64, FieldError> {
    let Some(path) = &placement.timestamp else { return Ok(target.now_ms) };
    let bad = |why: String| (Some(format!("$.{path}")), why);
    let none = || bad(format!("the event has no time at $.{path}: milliseconds or RFC 3339"));
    let found = find(event, path).ok_or_else(none)?;
    let ms = match found.parse::<i64>() {
        Ok(ms) => ms,
        Err(_) => {
            let text: String = serde_json::from_str(&found).map_err(|_| none())?;
            let time = chrono::DateTime::parse_from_rfc3339(&text).map_err(|_| none())?;
            time.timestamp_millis()
        }
    };
    if !(0..=TIMESTAMP_MS_MAX).contains(&ms) {
        return Err(bad(format!("the time at $.{path} is before 1970 or after the year 9999")));
    }
    let refused = |limit: &str| bad(format!("the time at $.{path} is further off than {limit}"));
    match target.bounds {
        Some(bounds) if bounds.is_too_late(ms) => Err(refused("message.timestamp.after.max.ms")),
        Some(bounds) if bounds.is_too_early(ms) => Err(refused("message.timestamp.before.max.ms")),
        _ => Ok(ms),
    }
}

/// The JSON text at a dotted path of an object.
fn find(event: &[u8], path: &str) -> Option<String> {
    let mut text: &str = std::str::from_utf8(event).ok()?;
    for name in path.split('.') {
        let object: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
        text = object.get(name)?.get();
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchReader;

    fn target() -> Target {
        Target {
            partitions: 4,
            max_message_bytes: 1 << 20,
            now_ms: 1_000,
            bounds: None,
            keyed: false,
            write_id: Uuid::now_v7(),
            sticky: 2,
        }
    }

    fn all(body: &str) -> Vec<(usize, Range<usize>)> {
        let values: Vec<&RawValue> = serde_json::from_str(body).unwrap();
        let at = |value: &RawValue| value.get().as_ptr() as usize - body.as_ptr() as usize;
        let ranges = values.iter().map(|value| at(value)..at(value) + value.get().len());
        ranges.enumerate().collect()
    }

    #[test]
    fn keys_are_partitioned_as_kafkas_java_client_does() {
        // Expected values: org.apache.kafka.common.utils.UtilsTest.
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn unkeyed_events_of_a_request_share_a_batch_and_keep_their_bytes() {
        let body = r#"[ {"a": 1.10} , "x", null]"#;
        let built = build(body.as_bytes(), &all(body), &Placement::default(), &target()).unwrap();
        assert_eq!((built.batches.len(), built.accepted), (1, 3));
        assert_eq!(built.batches[0].0, 2);
        let mut reader = BatchReader::new();
        let records = reader.records(&built.batches[0].1).unwrap().map(Result::unwrap);
        let values: Vec<_> = records.map(|record| record.value.unwrap().to_vec()).collect();
        assert_eq!(values, [&br#"{"a": 1.10}"#[..], b"\"x\"", b"null"]);
    }

    #[test]
    fn keys_and_times_come_from_the_events() {
        let body = r#"[{"u":{"id":7},"t":"2024-01-01T00:00:00Z"},{"u":{"id":"x"},"t":5},{"u":1}]"#;
        let placement = Placement {
            key: Some("$.u.id".to_owned()),
            timestamp: Some("t".to_owned()),
            ..Placement::default()
        };
        let built = build(body.as_bytes(), &all(body), &placement, &target()).unwrap();
        assert_eq!(built.accepted, 2);
        assert_eq!((built.errors[0].index, built.errors[0].code), (2, "bad_key"));
        let mut found = Vec::new();
        for (partition, batch) in &built.batches {
            let mut reader = BatchReader::new();
            for record in reader.records(batch).unwrap() {
                let record = record.unwrap();
                let key = record.key.unwrap().to_vec();
                assert_eq!(*partition, murmur2_partition(&key, 4));
                found.push((key, record.timestamp));
            }
        }
        found.sort();
        assert_eq!(found, [(b"7".to_vec(), 1_704_067_200_000), (b"x".to_vec(), 5)]);
    }

    /// What becomes of an event whose time is `time`, JSON text.
    fn stamped(time: &str, bounds: Option<TimestampBounds>) -> Result<i64, String> {
        let placement = Placement { timestamp: Some("t".to_owned()), ..Placement::default() };
        let target = Target { bounds, ..target() };
        timestamp_of(&placement, format!("{{\"t\":{time}}}").as_bytes(), &target)
            .map_err(|(field, message)| format!("{} {message}", field.unwrap()))
    }

    #[test]
    fn times_before_1970_and_after_9999_are_refused_in_both_forms() {
        assert_eq!(stamped("0", None), Ok(0));
        assert_eq!(stamped("\"1970-01-01T00:00:00Z\"", None), Ok(0));
        assert_eq!(stamped("253402300799999", None), Ok(TIMESTAMP_MS_MAX));
        assert_eq!(stamped("\"9999-12-31T23:59:59.999Z\"", None), Ok(TIMESTAMP_MS_MAX));
        for time in [
            "-1",
            "\"1969-12-31T23:59:59.999Z\"",
            "253402300800000",
            "\"9999-12-31T23:59:59-01:00\"",
        ] {
            let error = stamped(time, None).unwrap_err();
            assert!(error.contains("before 1970 or after the year 9999"), "{time}: {error}");
        }
        for time in ["\"now\"", "1.5", "null", "{}"] {
            assert!(stamped(time, None).unwrap_err().contains("no time at $.t"), "{time}");
        }
    }

    #[test]
    fn the_bounds_of_the_topic_hold_for_events() {
        let bounds = Some(TimestampBounds { before_max_ms: 100, after_max_ms: 50, now_ms: 1_000 });
        assert_eq!(stamped("900", bounds), Ok(900));
        assert_eq!(stamped("1050", bounds), Ok(1_050));
        assert!(stamped("899", bounds).unwrap_err().contains("message.timestamp.before.max.ms"));
        let late = stamped("\"1970-01-01T00:00:01.051Z\"", bounds).unwrap_err();
        assert!(late.contains("message.timestamp.after.max.ms"), "{late}");
    }

    #[test]
    fn events_that_the_topic_does_not_take_are_refused_one_by_one() {
        let body = r#"[{"k":"a","t":900},{"k":null,"t":1000},{"k":"b","t":1101}]"#;
        let placement = Placement {
            key: Some("$.k".to_owned()),
            timestamp: Some("t".to_owned()),
            ..Placement::default()
        };
        let bounds = TimestampBounds { before_max_ms: 100, after_max_ms: 100, now_ms: 1_000 };
        let target = Target { bounds: Some(bounds), keyed: true, ..target() };
        let built = build(body.as_bytes(), &all(body), &placement, &target).unwrap();
        let errors: Vec<_> =
            built.errors.iter().map(|e| (e.index, e.code, e.field.as_deref())).collect();
        let wanted = [(1, "bad_key", Some("$.k")), (2, "bad_timestamp", Some("$.t"))];
        assert_eq!((built.accepted, &errors[..]), (1, &wanted[..]));
    }

    #[test]
    fn batches_stay_below_the_limit_and_a_larger_event_is_refused() {
        let text = "x".repeat(400);
        let body = format!("[\"{text}\",\"{text}\",\"{text}\",\"{}\"]", "y".repeat(2_000));
        let target = Target { max_message_bytes: 1_200, ..target() };
        let built = build(body.as_bytes(), &all(&body), &Placement::default(), &target).unwrap();
        assert_eq!(built.accepted, 3);
        assert!(built.batches.len() > 1);
        assert!(built.batches.iter().all(|(_, batch)| batch.len() <= 1_200));
        assert_eq!((built.errors[0].index, built.errors[0].code), (3, "too_large"));
    }
}
