//! The records of a quarantine: read from the log, and what each says.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::BYTES_MAX;
use crate::http::Api;
use crate::http::problem::Problem;
use crate::http::records::{self, Found};
use crate::log::ReadSlice;
use crate::record::BatchReader;
use crate::types::{Offset, PartitionId};

/// Bytes of the log that are read at once.
const READ_BYTES: usize = 1 << 20;
/// Longest record that is looked at: what a quarantine has of its own is shorter.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// What a record takes besides its bytes.
const KEPT_BYTES: usize = 200;

/// What a record says of the event that was refused.
#[derive(Debug, Default, Clone, Deserialize)]
struct Told {
    index: Option<u64>,
    code: Option<String>,
    message: Option<String>,
    field: Option<String>,
    request_id: Option<String>,
    event: Option<String>,
    event_base64: Option<String>,
    cut_at_bytes: Option<u64>,
}

/// An event that was refused.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) offset: Offset,
    time_ms: i64,
    told: Told,
    /// The event; of a record that is none of a quarantine its value.
    event: Bytes,
    /// It is there as it was sent.
    is_whole: bool,
    /// Of all that is shown.
    size_bytes: usize,
}

impl Kept {
    pub(super) fn of(offset: Offset, time_ms: i64, value: &[u8]) -> Self {
        if value.len() > RECORD_BYTES_MAX {
            let told = Told { cut_at_bytes: Some(0), ..Told::default() };
            let (event, size_bytes) = (Bytes::new(), KEPT_BYTES);
            return Self { offset, time_ms, told, event, is_whole: false, size_bytes };
        }
        let mut told: Told = serde_json::from_slice(value).unwrap_or_default();
        let event = match (told.event.take(), told.event_base64.take()) {
            (Some(text), _) => Some(Bytes::from(text)),
            (None, Some(text)) => STANDARD.decode(text).ok().map(Bytes::from),
            (None, None) => None,
        };
        let is_whole = event.is_some() && told.cut_at_bytes.is_none();
        let event = event.unwrap_or_else(|| Bytes::copy_from_slice(value));
        // Besides the event there may be any text in it, of somebody who knows the form.
        let size_bytes = KEPT_BYTES + value.len();
        Self { offset, time_ms, told, event, is_whole, size_bytes }
    }

    /// The event as it was sent; none if only its beginning is there.
    pub(super) fn event(&self) -> Option<&[u8]> {
        self.is_whole.then_some(&self.event[..])
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// As answers show it. Whole ones before `replayed` were sent again.
    pub(super) fn shown(self, partition: usize, replayed: Offset) -> Shown {
        let Told { index, code, message, field, request_id, cut_at_bytes, .. } = self.told;
        // As it was written: numbers may have more digits than a float.
        let payload: Option<Box<RawValue>> = serde_json::from_slice(&self.event).ok();
        let is_shown = payload.is_none() && cut_at_bytes != Some(0);
        let payload_base64 = is_shown.then(|| STANDARD.encode(&self.event));
        Shown {
            partition,
            offset: self.offset,
            time_ms: self.time_ms,
            replayed: self.is_whole && self.offset < replayed,
            index,
            code,
            field,
            message,
            request_id,
            cut_at_bytes,
            payload,
            payload_base64,
        }
    }
}

/// A record as answers show it.
#[derive(Serialize)]
pub(super) struct Shown {
    partition: usize,
    offset: Offset,
    time_ms: i64,
    replayed: bool,
    index: Option<u64>,
    code: Option<String>,
    field: Option<String>,
    message: Option<String>,
    request_id: Option<String>,
    cut_at_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// Some records of a partition, and the offset that was not looked at.
pub(super) struct Slice {
    pub(super) kept: Vec<Kept>,
    pub(super) next: Offset,
}

/// Reads at most `count_max` records of `range`, some of them if there are any. What the log has lost
/// is passed.
///
/// # Errors
/// `internal` where the disk fails; `unknown_topic` if the topic was deleted meanwhile.
pub(super) async fn read(
    api: &Api,
    id: PartitionId,
    range: Range<Offset>,
    count_max: usize,
) -> Result<Slice, Problem> {
    let passed = |next: Offset| Slice { kept: Vec::new(), next: next.max(range.start + 1) };
    let slice = match records::found(api, id, &range, READ_BYTES).await? {
        Found::Slice(slice) => slice,
        Found::Nothing { next } => return Ok(passed(next)),
    };
    let taken = tokio::task::spawn_blocking(move || take(&slice, &range, count_max)).await;
    taken.map_err(|error| Problem::new("internal", error.to_string()))
}

fn take(slice: &ReadSlice, range: &Range<Offset>, count_max: usize) -> Slice {
    let (mut kept, mut bytes, mut next) = (Vec::new(), 0, range.start);
    let mut reader = BatchReader::new();
    for batch in &slice.batches {
        // A batch that cannot be read has no records.
        let records = reader.records(&batch.bytes).into_iter().flatten();
        for record in records.filter_map(Result::ok) {
            if record.offset < range.start {
                continue;
            }
            if record.offset >= range.end || kept.len() == count_max || bytes >= BYTES_MAX {
                return Slice { kept, next: record.offset.min(range.end) };
            }
            let value = record.value.unwrap_or_default();
            let one = Kept::of(record.offset, record.timestamp, value);
            bytes += one.size_bytes();
            kept.push(one);
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
    Slice { kept, next: next.min(range.end) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_event_is_shown_as_json_or_as_bytes_and_a_cut_one_is_not_whole() {
        let kept = |value: Value| Kept::of(7, 5, value.to_string().as_bytes());
        let shown = |kept: Kept, replayed| serde_json::to_value(kept.shown(2, replayed)).unwrap();
        let event = "{\"a\": 12345678901234567890123}";
        let good = kept(json!({"topic": "t", "index": 3, "code": "bad_key", "message": "why",
            "event": event}));
        assert_eq!(good.event(), Some(event.as_bytes()));
        let told = serde_json::to_string(&good.clone().shown(2, 8)).unwrap();
        assert!(told.contains(&format!("\"payload\":{event}")), "verbatim: {told}");
        let good = shown(good, 8);
        assert_eq!((&good["partition"], &good["code"]), (&json!(2), &json!("bad_key")));
        assert_eq!(good["replayed"], true);
        let bytes = kept(json!({"event_base64": "/w=="}));
        assert_eq!(bytes.event(), Some(&b"\xff"[..]));
        let bytes = shown(bytes, 7);
        assert_eq!((&bytes["payload_base64"], &bytes["replayed"]), (&json!("/w=="), &json!(false)));
        let cut = kept(json!({"event": "123", "cut_at_bytes": 3}));
        assert_eq!(cut.event(), None);
        let cut = shown(cut, 8);
        assert_eq!((&cut["payload"], &cut["replayed"]), (&json!(123), &json!(false)));
        // As long as no record of a quarantine is.
        let long = Kept::of(0, 0, "1".repeat(RECORD_BYTES_MAX + 1).as_bytes());
        assert!(long.event().is_none() && long.size_bytes() == KEPT_BYTES);
        let wordy = kept(json!({"event": "", "message": "m".repeat(100_000)}));
        assert!(wordy.size_bytes() > 100_000, "its message is shown, too");
        let long = shown(long, 8);
        assert_eq!((&long["cut_at_bytes"], &long["payload"]), (&json!(0), &Value::Null));
        assert!(long.get("payload_base64").is_none());
        // Somebody else's record.
        let foreign = Kept::of(0, 0, b"{\"x\": 1}");
        assert_eq!(foreign.event(), None);
        assert_eq!(shown(foreign, 0)["payload"], json!({"x": 1}));
        assert!(Kept::of(0, 0, b"").event().is_none());
    }
}
