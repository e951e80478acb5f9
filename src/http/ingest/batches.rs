//! Turns events into record batches: partition, time, ids, limits of the topic. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use crate::http::ingest::event::{Event, Source};
use crate::http::ingest::new_ids::{EventId, NewIds};
use crate::http::ingest::place;
use crate::http::ingest::shared;
use crate::http::problem::EventError;
use crate::record::{BatchBuilder, Codec, NewRecord, TimestampBounds};
use crate::store::once::IDS_PER_FRAME_MAX;

/// Header of the id that the server gives each event (rules 7.2).
pub(super) const ID_HEADER: &[u8] = b"floe.id";
/// Header of the id that all events of one request share (rules 7.2).
pub(super) const WRITE_ID_HEADER: &[u8] = b"floe.write_id";

/// Batches from this size are compressed in the log: what senders say is not compressed yet.
const COMPRESS_FROM_BYTES: usize = 4 << 10;

/// Longest id that an event brings, bytes.
const ID_BYTES_MAX: usize = 255;

/// Last millisecond of the year 9999, the last that RFC 3339 can write.
const TIMESTAMP_MS_MAX: i64 = 253_402_300_799_999;

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
    /// [`Batches::placed`] is wanted.
    pub(super) positions: bool,
    /// Where events count once by their id.
    pub(super) ids: Option<EventIdList>,
    /// Path in each event of the id that it is stored with, with `$.`; none makes ids.
    pub(super) id_field: Option<String>,
}

/// The ids of the events of a request.
#[derive(Debug, Default)]
pub(super) struct EventIdList {
    /// Index of the event and its id, in order of index. Events that are refused have none.
    pub(super) ids: Vec<(usize, u128)>,
    /// Indexes of events that are stored already, in order: they are left out.
    pub(super) duplicates: Vec<usize>,
}

/// A batch that is ready to append.
#[derive(Debug)]
pub(super) struct Batch {
    /// Index of the partition.
    pub(super) partition: usize,
    pub(super) bytes: Bytes,
    /// Ids of its events, where they count once.
    pub(super) ids: Vec<u128>,
}

/// Record batches by partition index, and the events that are in none.
#[derive(Default)]
pub(super) struct Batches {
    pub(super) batches: Vec<Batch>,
    pub(super) accepted: usize,
    pub(super) duplicates: usize,
    pub(super) errors: Vec<EventError>,
    /// Index in the request and partition of each event in the batches, in order of index.
    pub(super) placed: Vec<(usize, usize)>,
}

#[derive(Default)]
struct Open {
    builder: BatchBuilder,
    bytes: usize,
    ids: Vec<u128>,
}

/// A build under way.
struct Build<'t> {
    target: &'t Target,
    write_id: String,
    ids: NewIds,
    open: BTreeMap<usize, Open>,
    /// Bytes that the first batch makes room for; most requests have no other.
    room: usize,
    result: Batches,
    failed: Option<String>,
}

/// Builds the batches of the events of `source`.
///
/// # Errors
/// The text of a batch that cannot be built: not the sender's fault.
pub(super) fn build(source: &dyn Source, target: &Target) -> Result<Batches, String> {
    let write_id = target.write_id.to_string();
    let (open, result) = (BTreeMap::new(), Batches::default());
    let ids = NewIds::new();
    // Headers of ours come to each event; the smaller it is the more they are of it.
    let room = (source.size_bytes() / 2 * 3 + 256).min(target.max_message_bytes);
    let mut build = Build { target, write_id, ids, open, room, result, failed: None };
    source.visit(&mut |event| match event {
        Ok(event) => build.take(&event),
        Err(error) => build.result.errors.push(error),
    });
    build.finish()
}

impl Build<'_> {
    fn take(&mut self, event: &Event<'_>) {
        if self.failed.is_some() {
            return;
        }
        let list = self.target.ids.as_ref();
        if list.is_some_and(|list| list.duplicates.binary_search(&event.index).is_ok()) {
            self.result.duplicates += 1;
            return;
        }
        let (target, ids) = (self.target, &mut self.ids);
        let checked = check(event, target).and_then(|at| Ok((at, id_of(event, target, ids)?)));
        match checked {
            Ok((at, id)) => {
                if let Err(reason) = self.push(event, at, &id) {
                    self.failed = Some(reason);
                }
            }
            Err((field, code, message)) => self.refuse(event, field, code, message),
        }
    }

    fn refuse(
        &mut self,
        event: &Event<'_>,
        field: Option<&str>,
        code: &'static str,
        message: String,
    ) {
        let (index, offset_bytes) = (event.index, event.offset_bytes);
        let field = field.map(ToOwned::to_owned);
        self.result.errors.push(EventError { index, offset_bytes, field, code, message });
    }

    fn push(
        &mut self,
        event: &Event<'_>,
        (partition, timestamp): (usize, i64),
        id: &EventId,
    ) -> Result<(), String> {
        let ours: [(&[u8], Option<&[u8]>); 2] =
            [(ID_HEADER, Some(id.as_bytes())), (WRITE_ID_HEADER, Some(self.write_id.as_bytes()))];
        let mut all: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
        if !event.headers.is_empty() {
            all.extend(ours);
            let own = event.headers.iter();
            all.extend(own.map(|(name, value)| (&name[..], value.as_deref())));
        }
        let headers = if all.is_empty() { &ours[..] } else { &all };
        let key = event.key.as_deref();
        let record = NewRecord { key, value: event.value, headers, timestamp };
        let limit = self.target.max_message_bytes;
        let entry = self.open.entry(partition).or_default();
        entry.builder.reserve(std::mem::take(&mut self.room));
        let push = |entry: &mut Open| {
            entry.builder.push_within(&record, limit).map_err(|error| error.to_string())
        };
        let full = entry.ids.len() == IDS_PER_FRAME_MAX;
        if full || !push(entry)? {
            close(entry, partition, &mut self.result.batches)?;
            if !push(entry)? {
                let message = format!(
                    "the event is larger than max.message.bytes = {limit}: send less in it, or \
                     raise the option of the topic"
                );
                self.refuse(event, None, "too_large", message);
                return Ok(());
            }
        }
        entry.bytes += event.value.map_or(0, <[u8]>::len) + key.map_or(0, <[u8]>::len);
        entry.bytes += shared::size_bytes(event.headers);
        if let Some(list) = &self.target.ids
            && let Ok(at) = list.ids.binary_search_by_key(&event.index, |(index, _)| *index)
        {
            entry.ids.push(list.ids[at].1);
        }
        self.result.accepted += 1;
        if self.target.positions {
            self.result.placed.push((event.index, partition));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Batches, String> {
        if let Some(reason) = self.failed {
            return Err(reason);
        }
        for (partition, mut entry) in self.open {
            close(&mut entry, partition, &mut self.result.batches)?;
        }
        Ok(self.result)
    }
}

fn close(entry: &mut Open, partition: usize, into: &mut Vec<Batch>) -> Result<(), String> {
    if entry.builder.is_empty() {
        return Ok(());
    }
    let codec = if entry.bytes >= COMPRESS_FROM_BYTES { Codec::Lz4 } else { Codec::None };
    let bytes = entry.builder.build(codec).map_err(|error| error.to_string())?;
    entry.bytes = 0;
    into.push(Batch { partition, bytes, ids: std::mem::take(&mut entry.ids) });
    Ok(())
}

/// The field that is to blame, the code and why.
type Refused<'e> = (Option<&'e str>, &'static str, String);

/// Partition and time of an event that the topic takes.
fn check<'e>(event: &Event<'e>, target: &Target) -> Result<(usize, i64), Refused<'e>> {
    if target.keyed && event.key.is_none() {
        let message = "a compacted topic accepts no event without key".to_owned();
        return Err((event.key_field, "bad_key", message));
    }
    let timestamp = check_time(event, target)
        .map_err(|message| (event.timestamp_field, "bad_timestamp", message))?;
    match event.partition {
        Some(partition) if partition >= target.partitions => {
            let last = target.partitions.saturating_sub(1);
            Err((None, "invalid_partition", format!("the topic has partitions 0 to {last}")))
        }
        Some(partition) => Ok((partition, timestamp)),
        None => Ok((partition_of(event.key.as_ref(), target), timestamp)),
    }
}

/// A new id, or the text or number at the topic's path.
fn id_of<'e>(
    event: &Event<'e>,
    target: &'e Target,
    ids: &mut NewIds,
) -> Result<EventId, Refused<'e>> {
    let Some(path) = target.id_field.as_deref() else {
        return Ok(EventId::New(ids.take()));
    };
    let found = event.value.and_then(|value| place::find(value, path.strip_prefix("$.")?));
    let id = found.and_then(|found| match found.as_bytes().first()? {
        b'"' => serde_json::from_str(found).ok(),
        b'-' | b'0'..=b'9' => Some(found.to_owned()),
        _ => None,
    });
    let id: Option<String> = id.filter(|id: &String| (1..=ID_BYTES_MAX).contains(&id.len()));
    id.map(EventId::Own).ok_or_else(|| {
        let message =
            format!("the event has no text of 1 to {ID_BYTES_MAX} bytes and no number at {path}");
        (Some(path), "bad_id", message)
    })
}

/// The time of an event: within 1970 to 9999, and within the topic's bounds as over Kafka.
fn check_time(event: &Event<'_>, target: &Target) -> Result<i64, String> {
    let Some(ms) = event.timestamp_ms else { return Ok(target.now_ms) };
    let at = event.timestamp_field.map_or(String::new(), |field| format!(" at {field}"));
    if !(0..=TIMESTAMP_MS_MAX).contains(&ms) {
        return Err(format!("the time{at} is before 1970 or after the year 9999"));
    }
    let refused = |limit: &str| Err(format!("the time{at} is further off than {limit}"));
    match target.bounds {
        Some(bounds) if bounds.is_too_late(ms) => refused("message.timestamp.after.max.ms"),
        Some(bounds) if bounds.is_too_early(ms) => refused("message.timestamp.before.max.ms"),
        _ => Ok(ms),
    }
}

fn partition_of(key: Option<&Cow<'_, [u8]>>, target: &Target) -> usize {
    match key {
        Some(key) => murmur2_partition(key, target.partitions),
        None => target.sticky % target.partitions.max(1),
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::http::ingest::event::OwnedEvent;
    use crate::record::BatchReader;

    pub(in crate::http::ingest) fn target() -> Target {
        Target {
            partitions: 4,
            max_message_bytes: 1 << 20,
            now_ms: 1_000,
            bounds: None,
            keyed: false,
            write_id: Uuid::now_v7(),
            sticky: 2,
            positions: false,
            ids: None,
            id_field: None,
        }
    }

    fn events(values: &[&str]) -> Vec<OwnedEvent> {
        let owned = |value: &&str| OwnedEvent {
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            ..OwnedEvent::default()
        };
        values.iter().map(owned).collect()
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
        let target = Target { positions: true, ..target() };
        let mut list = events(&["{\"a\": 1.10}", "x"]);
        list.push(OwnedEvent::default());
        let built = build(&list, &target).unwrap();
        assert_eq!((built.batches.len(), built.accepted), (1, 3));
        assert_eq!(built.batches[0].partition, 2);
        assert_eq!(built.placed, [(0, 2), (1, 2), (2, 2)]);
        let mut reader = BatchReader::new();
        let records = reader.records(&built.batches[0].bytes).unwrap().map(Result::unwrap);
        let values: Vec<_> = records.map(|record| record.value.map(<[u8]>::to_vec)).collect();
        assert_eq!(values, [Some(b"{\"a\": 1.10}".to_vec()), Some(b"x".to_vec()), None]);
    }

    #[test]
    fn an_event_is_stored_with_the_id_that_it_brings_where_the_topic_says_so() {
        let target = Target { id_field: Some("$.a.id".to_owned()), ..target() };
        let long = format!(r#"{{"a":{{"id":"{}"}}}}"#, "x".repeat(ID_BYTES_MAX + 1));
        let list = events(&[
            r#"{"a":{"id":"order \u00e9"}}"#,
            r#"{"a":{"id":7.10}}"#,
            r#"{"a":{"id":""}}"#,
            r#"{"a":{"id":null}}"#,
            r#"{"a":1}"#,
            "[1]",
            &long,
        ]);
        let built = build(&list, &target).unwrap();
        let mut reader = BatchReader::new();
        let records = reader.records(&built.batches[0].bytes).unwrap().map(Result::unwrap);
        let ids: Vec<Vec<u8>> =
            records.map(|mut record| record.headers.next().unwrap().1.unwrap().to_vec()).collect();
        assert_eq!(ids, ["order \u{e9}".as_bytes(), b"7.10"]);
        let refused: Vec<_> = built.errors.iter().map(|error| (error.index, error.code)).collect();
        assert_eq!(refused, [2, 3, 4, 5, 6].map(|index| (index, "bad_id")));
    }

    #[test]
    fn keys_partitions_and_headers_are_the_events_own() {
        let header = (Bytes::from("h"), Some(Bytes::from("1")));
        let keyed = |key: &'static str, partition| OwnedEvent {
            key: Some(Bytes::from(key)),
            partition,
            headers: vec![header.clone()],
            ..OwnedEvent::default()
        };
        let built =
            build(&vec![keyed("7", None), keyed("x", Some(1)), keyed("y", Some(4))], &target());
        let built = built.unwrap();
        assert_eq!((built.errors[0].index, built.errors[0].code), (2, "invalid_partition"));
        let mut found = Vec::new();
        for batch in &built.batches {
            let mut reader = BatchReader::new();
            for record in reader.records(&batch.bytes).unwrap() {
                let record = record.unwrap();
                assert_eq!(record.headers.len(), 3);
                found.push((record.key.unwrap().to_vec(), batch.partition));
            }
        }
        found.sort();
        assert_eq!(found, [(b"7".to_vec(), murmur2_partition(b"7", 4)), (b"x".to_vec(), 1)]);
    }

    /// What becomes of an event with that time.
    fn stamped(ms: i64, bounds: Option<TimestampBounds>) -> Result<i64, String> {
        let event =
            Event { timestamp_ms: Some(ms), timestamp_field: Some("$.t"), ..Event::default() };
        check_time(&event, &Target { bounds, ..target() })
    }

    #[test]
    fn times_before_1970_and_after_9999_are_refused() {
        assert_eq!(stamped(0, None), Ok(0));
        assert_eq!(stamped(TIMESTAMP_MS_MAX, None), Ok(TIMESTAMP_MS_MAX));
        for ms in [-1, TIMESTAMP_MS_MAX + 1] {
            let error = stamped(ms, None).unwrap_err();
            assert!(error.contains("at $.t is before 1970 or after the year 9999"), "{error}");
        }
    }

    #[test]
    fn the_bounds_of_the_topic_hold_for_events() {
        let bounds = Some(TimestampBounds { before_max_ms: 100, after_max_ms: 50, now_ms: 1_000 });
        assert_eq!(stamped(900, bounds), Ok(900));
        assert_eq!(stamped(1050, bounds), Ok(1_050));
        assert!(stamped(899, bounds).unwrap_err().contains("message.timestamp.before.max.ms"));
        assert!(stamped(1051, bounds).unwrap_err().contains("message.timestamp.after.max.ms"));
    }

    #[test]
    fn a_compacted_topic_takes_no_event_without_key() {
        let built = build(&events(&["1"]), &Target { keyed: true, ..target() }).unwrap();
        assert_eq!((built.accepted, built.errors[0].code), (0, "bad_key"));
    }

    #[test]
    fn batches_stay_below_the_limit_and_a_larger_event_is_refused() {
        let (text, long) = ("x".repeat(400), "y".repeat(2_000));
        let target = Target { max_message_bytes: 1_200, ..target() };
        let built = build(&events(&[&text, &text, &text, &long]), &target).unwrap();
        assert_eq!(built.accepted, 3);
        assert!(built.batches.len() > 1);
        assert!(built.batches.iter().all(|batch| batch.bytes.len() <= 1_200));
        assert_eq!((built.errors[0].index, built.errors[0].code), (3, "too_large"));
    }

    #[test]
    fn what_small_events_have_in_common_is_compressed() {
        let header = (Bytes::from("h"), Some(Bytes::from("x".repeat(15_000))));
        let key = Some(Bytes::from("k".repeat(15_000)));
        let small = OwnedEvent { value: Some(Bytes::from("1")), ..OwnedEvent::default() };
        let with_header = OwnedEvent { headers: vec![header], ..small.clone() };
        for event in [with_header, OwnedEvent { key, ..small }] {
            let built = build(&vec![event; 1_000], &target()).unwrap();
            assert_eq!(built.accepted, 1_000);
            let bytes: usize = built.batches.iter().map(|batch| batch.bytes.len()).sum();
            assert!(bytes < 1_000_000, "{bytes} of 15 MB");
        }
    }

    #[test]
    fn known_events_are_left_out_and_the_ids_of_others_go_with_their_batch() {
        let ids = (0..4).map(|at| (at, 100 + at as u128)).collect();
        let list = EventIdList { ids, duplicates: vec![1] };
        let built = build(&events(&["0", "1", "2", "3"]), &Target { ids: Some(list), ..target() });
        let built = built.unwrap();
        assert_eq!((built.accepted, built.duplicates), (3, 1));
        assert_eq!(built.batches[0].ids, [100, 102, 103]);
        let many = vec![OwnedEvent::default(); IDS_PER_FRAME_MAX + 1];
        let ids = (0..many.len()).map(|at| (at, at as u128)).collect();
        let list = EventIdList { ids, duplicates: Vec::new() };
        let built = build(&many, &Target { ids: Some(list), ..target() }).unwrap();
        let sizes: Vec<usize> = built.batches.iter().map(|batch| batch.ids.len()).collect();
        assert_eq!(sizes, [IDS_PER_FRAME_MAX, 1]);
    }
}
