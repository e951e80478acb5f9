//! Records as they are shown, read from the log.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::Lane;
use crate::http::Api;
use crate::http::problem::Problem;
use crate::log::{ReadError, ReadSlice};
use crate::record::{BatchReader, Headers, Record};
use crate::types::{Offset, PartitionId, TopicName};

/// Bytes of the log that are read at once.
const READ_BYTES: usize = 1 << 20;
/// Longest key, value, or value of a header that is shown.
const PART_BYTES_MAX: usize = 1 << 20;
/// Headers of a record that are shown, and names and values of them together.
const HEADERS_MAX: usize = 1_000;
const HEADERS_BYTES_MAX: usize = 1 << 20;
/// What a record, and a header, takes besides the bytes of its parts: of empty ones it is all.
const RECORD_BYTES: usize = 200;
const HEADER_BYTES: usize = 100;

/// Bytes as text, or as base64 where they are no UTF-8; both are none where there is no such thing.
#[derive(Debug, PartialEq, Eq)]
struct Text {
    text: Option<Option<String>>,
    base64: Option<String>,
}

impl Text {
    const NOTHING: Self = Self { text: None, base64: None };

    fn of(bytes: Option<&[u8]>) -> Self {
        match bytes.map(std::str::from_utf8) {
            None => Self { text: Some(None), base64: None },
            Some(Ok(text)) => Self { text: Some(Some(text.to_owned())), base64: None },
            Some(Err(_)) => Self { text: None, base64: bytes.map(|it| STANDARD.encode(it)) },
        }
    }

    /// Those of a part of a record, and its length instead of them if it is too long to be shown.
    fn of_part(bytes: Option<&[u8]>) -> (Self, Option<usize>) {
        match bytes.map(<[u8]>::len).filter(|length| *length > PART_BYTES_MAX) {
            Some(length) => (Self::NOTHING, Some(length)),
            None => (Self::of(bytes), None),
        }
    }
}

/// A record as answers show it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    topic: TopicName,
    partition: usize,
    offset: Offset,
    timestamp_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// How long a key is that is too long to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// The same of a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_bytes: Option<usize>,
    headers: Vec<Header>,
    /// How many headers are not shown, behind those that are.
    #[serde(skip_serializing_if = "Option::is_none")]
    headers_left_out: Option<usize>,
}

/// A record header as answers show it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Header {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// How long a value is that is too long to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_bytes: Option<usize>,
}

/// Bytes of a part as far as it is shown.
fn shown_bytes(part: Option<&[u8]>) -> usize {
    part.map(<[u8]>::len).filter(|length| *length <= PART_BYTES_MAX).unwrap_or(0)
}

/// The first headers, and how many bytes of them are shown. What it takes to send a header is two
/// bytes, and what it takes to show one is many times that.
fn headers(all: Headers<'_>) -> (Vec<Header>, usize) {
    let mut bytes = 0;
    let mut shown = Vec::with_capacity(all.len().min(HEADERS_MAX));
    for (name, value) in all.take(HEADERS_MAX) {
        let more = name.len() + shown_bytes(value);
        if bytes + more > HEADERS_BYTES_MAX {
            break;
        }
        bytes += more;
        let name = String::from_utf8_lossy(name).into_owned();
        let (Text { text, base64 }, value_bytes) = Text::of_part(value);
        shown.push(Header { name, value: text, value_base64: base64, value_bytes });
    }
    (shown, bytes)
}

impl Shown {
    /// The record, and about how many bytes it takes to show it.
    fn of(lane: &Lane, record: &Record<'_>) -> (Self, usize) {
        let (key, key_bytes) = Text::of_part(record.key);
        let (value, value_bytes) = Text::of_part(record.value);
        let (headers, bytes) = headers(record.headers);
        let left_out = record.headers.len() - headers.len();
        let parts = shown_bytes(record.key) + shown_bytes(record.value) + bytes;
        let size_bytes = RECORD_BYTES + parts + HEADER_BYTES * headers.len();
        let shown = Self {
            topic: lane.topic.name.clone(),
            partition: lane.index,
            offset: record.offset,
            timestamp_ms: record.timestamp,
            key: key.text,
            key_base64: key.base64,
            key_bytes,
            value: value.text,
            value_base64: value.base64,
            value_bytes,
            headers,
            headers_left_out: Some(left_out).filter(|count| *count > 0),
        };
        (shown, size_bytes)
    }
}

/// Some records of a partition, and the offset that was not looked at.
pub(super) struct Slice {
    pub(super) shown: Vec<Shown>,
    pub(super) size_bytes: usize,
    pub(super) next: Offset,
}

/// What the log has from an offset on.
pub(in crate::http) enum Found {
    Slice(ReadSlice),
    /// It was lost, or retention has passed it, up to `next`.
    Nothing {
        next: Offset,
    },
}

/// Reads the log at the start of `range`, about so many bytes.
///
/// # Errors
/// `internal` where the disk fails; `unknown_topic` if the topic was deleted meanwhile.
pub(in crate::http) async fn found(
    api: &Api,
    id: PartitionId,
    range: &Range<Offset>,
    bytes: usize,
) -> Result<Found, Problem> {
    let nothing = |next: Offset| Found::Nothing { next: next.min(range.end) };
    match api.log.read(id, range.start, bytes).await {
        Ok(slice) => Ok(Found::Slice(slice)),
        Err(ReadError::OutOfRange { start, .. }) if start > range.start => Ok(nothing(start)),
        Err(ReadError::OutOfRange { .. }) => Ok(nothing(range.end)),
        Err(ReadError::Corrupt(lost)) => Ok(nothing(lost.end)),
        Err(ReadError::UnknownPartition) => {
            Err(Problem::new("unknown_topic", "the topic was deleted meanwhile"))
        }
        Err(error) => Err(Problem::new("internal", error.to_string())),
    }
}

/// Reads records of `range`, some of them if there are any, at most so many, of about so many bytes.
/// What the log has lost, or retention has passed, is passed.
///
/// # Errors
/// `internal` where the disk fails; `unknown_topic` if the topic was deleted meanwhile.
pub(super) async fn read(
    api: &Api,
    lane: &Lane,
    range: Range<Offset>,
    limits: (usize, usize),
) -> Result<Slice, Problem> {
    let passed = |next: Offset| {
        let next = next.max(range.start + 1);
        Slice { shown: Vec::new(), size_bytes: 0, next }
    };
    let slice = match found(api, lane.id, &range, READ_BYTES.min(limits.1)).await? {
        Found::Slice(slice) => slice,
        Found::Nothing { next } => return Ok(passed(next)),
    };
    let lane = lane.clone();
    let taken = tokio::task::spawn_blocking(move || take(&lane, &slice, &range, limits)).await;
    taken.map_err(|error| Problem::new("internal", error.to_string()))
}

fn take(
    lane: &Lane,
    slice: &ReadSlice,
    range: &Range<Offset>,
    (count_max, bytes_max): (usize, usize),
) -> Slice {
    let (mut shown, mut size_bytes, mut next) = (Vec::new(), 0, range.start);
    let mut reader = BatchReader::new();
    for batch in &slice.batches {
        // A batch that cannot be read has no records.
        let records = reader.records(&batch.bytes).into_iter().flatten();
        for record in records.filter_map(Result::ok) {
            if record.offset < range.start {
                continue;
            }
            if record.offset >= range.end || shown.len() == count_max || size_bytes >= bytes_max {
                return Slice { shown, size_bytes, next: record.offset.min(range.end) };
            }
            let (record, bytes) = Shown::of(lane, &record);
            size_bytes += bytes;
            shown.push(record);
        }
        next = batch.end_offset;
    }
    if let Some((gap, _)) = slice.gap.as_ref().filter(|(gap, _)| gap.base <= next) {
        next = gap.end.max(next);
    }
    if next == range.start {
        // Nothing is there: the end is as far as one can see.
        next = range.end;
    }
    Slice { shown, size_bytes, next: next.min(range.end) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Codec, NewRecord};

    #[test]
    fn bytes_are_text_or_base64_and_none_is_null() {
        let of = |bytes: Option<&[u8]>| {
            let (Text { text, base64 }, value_bytes) = Text::of_part(bytes);
            let name = "n".to_owned();
            let header = Header { name, value: text, value_base64: base64, value_bytes };
            serde_json::to_string(&header).unwrap()
        };
        assert_eq!(of(Some(b"{}")), r#"{"name":"n","value":"{}"}"#);
        assert_eq!(of(Some(b"\xff")), r#"{"name":"n","value_base64":"/w=="}"#);
        assert_eq!(of(None), r#"{"name":"n","value":null}"#);
    }

    /// What is shown of a record with these headers, how many are left out, and the bytes of them.
    fn of_headers(all: &[(&[u8], Option<&[u8]>)]) -> (Vec<Header>, usize, usize) {
        let mut builder = BatchBuilder::new();
        let record = NewRecord { key: None, value: None, headers: all, timestamp: 0 };
        builder.push(&record).unwrap();
        let bytes = builder.build(Codec::None).unwrap();
        let mut reader = BatchReader::new();
        let record = reader.records(&bytes).unwrap().next().unwrap().unwrap();
        let (shown, bytes) = headers(record.headers);
        let left_out = record.headers.len() - shown.len();
        (shown, left_out, bytes)
    }

    #[test]
    fn a_record_has_no_more_headers_than_can_be_shown() {
        let empty: &[(&[u8], Option<&[u8]>)] = &[(b"", None)];
        let (shown, left_out, _) = of_headers(&empty.repeat(100_000));
        assert_eq!((shown.len(), left_out), (HEADERS_MAX, 99_000));
        let (long, longer) = (vec![b'v'; 400 << 10], vec![b'w'; PART_BYTES_MAX + 1]);
        let (shown, left_out, bytes) = of_headers(&[
            (b"a", Some(&long)),
            (b"b", Some(&longer)),
            (b"c", Some(&long)),
            (b"d", Some(&long)),
            (b"e", None),
        ]);
        assert_eq!((shown.len(), left_out, bytes), (3, 2, 3 + 2 * long.len()));
        let lengths: Vec<_> = shown.iter().map(|header| header.value_bytes).collect();
        assert_eq!(lengths, [None, Some(longer.len()), None]);
        assert_eq!((&shown[1].value, &shown[1].value_base64), (&None, &None));
        assert!(of_headers(&[(&longer, None)]).0.is_empty(), "a name is not cut");
        assert_eq!(Text::of_part(Some(&longer)), (Text::NOTHING, Some(longer.len())));
    }
}
