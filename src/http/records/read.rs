//! Records as they are shown, read from the log.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::Lane;
use crate::http::Api;
use crate::http::problem::Problem;
use crate::log::{ReadError, ReadSlice};
use crate::record::{BatchReader, Record};
use crate::types::{Offset, PartitionId, TopicName};

/// Bytes of the log that are read at once.
const READ_BYTES: usize = 1 << 20;
/// Longest value that is shown.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// Bytes as text, or as base64 where they are no UTF-8; both are none where there is no such thing.
#[derive(Debug, PartialEq, Eq)]
struct Text {
    text: Option<Option<String>>,
    base64: Option<String>,
}

impl Text {
    fn of(bytes: Option<&[u8]>) -> Self {
        match bytes.map(std::str::from_utf8) {
            None => Self { text: Some(None), base64: None },
            Some(Ok(text)) => Self { text: Some(Some(text.to_owned())), base64: None },
            Some(Err(_)) => Self { text: None, base64: bytes.map(|it| STANDARD.encode(it)) },
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
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// How long a value is that is too long to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_bytes: Option<usize>,
    headers: Vec<Header>,
}

/// A record header as answers show it.
#[derive(Debug, Serialize)]
struct Header {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl Shown {
    /// The record, and about how many bytes of it are shown.
    fn of(lane: &Lane, record: &Record<'_>) -> (Self, usize) {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let value_bytes = Some(length(record.value)).filter(|bytes| *bytes > VALUE_BYTES_MAX);
        let key = Text::of(record.key);
        let value = match value_bytes {
            Some(_) => Text { text: None, base64: None },
            None => Text::of(record.value),
        };
        let mut size_bytes = length(record.key);
        size_bytes += if value_bytes.is_some() { 0 } else { length(record.value) };
        let headers = record.headers.map(|(name, value)| {
            size_bytes += name.len() + length(value);
            let Text { text, base64 } = Text::of(value);
            let name = String::from_utf8_lossy(name).into_owned();
            Header { name, value: text, value_base64: base64 }
        });
        let headers = headers.collect();
        let shown = Self {
            topic: lane.topic.name.clone(),
            partition: lane.index,
            offset: record.offset,
            timestamp_ms: record.timestamp,
            key: key.text,
            key_base64: key.base64,
            value: value.text,
            value_base64: value.base64,
            value_bytes,
            headers,
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

    #[test]
    fn bytes_are_text_or_base64_and_none_is_null() {
        let of = |bytes: Option<&[u8]>| {
            let Text { text, base64 } = Text::of(bytes);
            let header = Header { name: "n".to_owned(), value: text, value_base64: base64 };
            serde_json::to_string(&header).unwrap()
        };
        assert_eq!(of(Some(b"{}")), r#"{"name":"n","value":"{}"}"#);
        assert_eq!(of(Some(b"\xff")), r#"{"name":"n","value_base64":"/w=="}"#);
        assert_eq!(of(None), r#"{"name":"n","value":null}"#);
    }
}
