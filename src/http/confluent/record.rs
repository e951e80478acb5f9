//! One record of version 3: partition, headers, time, and a key and a value of a type of their own.
//! Pure.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::http::confluent::append::Record;
use crate::http::confluent::data::{Kind, decode, object};
use crate::http::confluent::failure::{Failure, SCHEMA};
use crate::http::ingest::event::{Header, OwnedEvent, is_reserved};

/// What a receipt says of a key or value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Part {
    r#type: &'static str,
    /// Bytes as they are stored.
    size: usize,
}

/// What a receipt says of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) key: Option<Part>,
    pub(super) value: Option<Part>,
    pub(super) timestamp_ms: i64,
}

/// A record and what its receipt says.
pub(super) type Parsed = (Record, Shown);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent<'b> {
    /// Of an entry of a batch.
    id: Option<IgnoredAny>,
    partition_id: Option<i64>,
    headers: Option<Vec<SentHeader>>,
    #[serde(borrow)]
    key: Option<&'b RawValue>,
    #[serde(borrow)]
    value: Option<&'b RawValue>,
    timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SentHeader {
    name: String,
    /// Base64.
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data<'b> {
    r#type: Option<String>,
    #[serde(borrow)]
    data: Option<&'b RawValue>,
    schema_id: Option<IgnoredAny>,
    schema_version: Option<IgnoredAny>,
    schema: Option<IgnoredAny>,
    subject: Option<IgnoredAny>,
    subject_name_strategy: Option<IgnoredAny>,
}

/// Reads a record; without a time of its own it has that of the request.
pub(super) fn parse(bytes: &Bytes, now_ms: i64, is_entry: bool) -> Parsed {
    match event(bytes, now_ms, is_entry) {
        Ok((event, shown)) => (Ok(event), shown),
        Err(failure) => (Err(failure), Shown::default()),
    }
}

fn event(bytes: &Bytes, now_ms: i64, is_entry: bool) -> Result<(OwnedEvent, Shown), Failure> {
    let refused = |message: String| Failure::new(400, message);
    let sent: Sent<'_> = object(bytes).map_err(refused)?;
    if sent.id.is_some() && !is_entry {
        return Err(refused("unknown field `id`: only entries of a batch have one".to_owned()));
    }
    let partition = match sent.partition_id.map(usize::try_from) {
        Some(Ok(partition)) => Some(partition),
        Some(Err(_)) => return Err(Failure::new(40_402, "a partition is a number from 0 on")),
        None => None,
    };
    let timestamp_ms = match sent.timestamp {
        Some(text) => chrono::DateTime::parse_from_rfc3339(&text)
            .map_err(|_| refused(format!("timestamp={text} is not RFC 3339")))?
            .timestamp_millis(),
        None => now_ms,
    };
    let (key, shown_key) = part(sent.key, bytes)?;
    let (value, shown_value) = part(sent.value, bytes)?;
    let headers = headers(sent.headers.unwrap_or_default()).map_err(refused)?;
    let event = OwnedEvent { key, value, headers, partition, timestamp_ms: Some(timestamp_ms) };
    Ok((event, Shown { key: shown_key, value: shown_value, timestamp_ms }))
}

/// The bytes of a key or value, and what the receipt says of it; a null is neither.
fn part(sent: Option<&RawValue>, bytes: &Bytes) -> Result<(Option<Bytes>, Option<Part>), Failure> {
    let Some(sent) = sent else { return Ok((None, None)) };
    let refused = |message: String| Failure::new(400, message);
    let sent: Data<'_> = object(sent.get().as_bytes()).map_err(refused)?;
    let has_schema = sent.schema_id.is_some()
        || sent.schema_version.is_some()
        || sent.schema.is_some()
        || sent.subject.is_some()
        || sent.subject_name_strategy.is_some();
    let kind = match sent.r#type.as_deref() {
        Some("BINARY") if !has_schema => Kind::Binary,
        Some("JSON") if !has_schema => Kind::Json,
        Some("STRING") if !has_schema => Kind::String,
        Some("BINARY" | "JSON" | "STRING" | "AVRO" | "JSONSCHEMA" | "PROTOBUF") | None => {
            let message = "schemas are not supported: set type to BINARY, JSON or STRING";
            return Err(Failure::new(SCHEMA, message));
        }
        Some(other) => {
            return Err(refused(format!("type={other} is not one of BINARY, JSON, STRING")));
        }
    };
    let data = kind.bytes(sent.data, bytes).map_err(refused)?;
    let shown = data.as_ref().map(|data| Part { r#type: kind.as_str(), size: data.len() });
    Ok((data, shown))
}

fn headers(sent: Vec<SentHeader>) -> Result<Vec<Header>, String> {
    let header = |SentHeader { name, value }: SentHeader| {
        if is_reserved(name.as_bytes()) {
            return Err(format!("the record header {name} is reserved: the server sets it"));
        }
        let value = match value {
            Some(text) => {
                let bytes = decode(&text);
                Some(bytes.ok_or_else(|| format!("header {name} is not a base64 string."))?)
            }
            None => None,
        };
        Ok((Bytes::from(name), value))
    };
    sent.into_iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<(OwnedEvent, Shown), Failure> {
        let (event, shown) = parse(&Bytes::copy_from_slice(json.as_bytes()), 77, false);
        event.map(|event| (event, shown))
    }

    #[test]
    fn a_record_has_all_its_parts() {
        let json = r#"{"partition_id": 1, "headers": [{"name": "h", "value": "AQ=="}, {"name": "n"}],
            "key": {"type": "STRING", "data": "k\u00e4"}, "value": {"type": "JSON", "data": {"a" : 1.0}},
            "timestamp": "1970-01-01T00:00:01.005Z"}"#;
        let (event, shown) = parsed(json).unwrap();
        let headers =
            [(Bytes::from("h"), Some(Bytes::from_static(&[1]))), (Bytes::from("n"), None)];
        assert_eq!(event.headers, headers);
        assert_eq!((event.partition, event.timestamp_ms), (Some(1), Some(1_005)));
        assert_eq!(event.key.as_deref(), Some("k\u{e4}".as_bytes()));
        assert_eq!(event.value.as_deref(), Some(&b"{\"a\" : 1.0}"[..]));
        assert_eq!(shown.key, Some(Part { r#type: "STRING", size: 3 }));
        assert_eq!(shown.value, Some(Part { r#type: "JSON", size: 11 }));
    }

    #[test]
    fn nulls_are_nulls_and_the_time_is_now() {
        for json in [
            "{}",
            r#"{"value": null}"#,
            r#"{"value": {"type": "BINARY"}}"#,
            r#"{"value": {"type": "JSON", "data": null, "schema_id": null}}"#,
        ] {
            let (event, shown) = parsed(json).unwrap();
            assert_eq!((event.value, shown.value), (None, None), "{json}");
            assert_eq!(event.timestamp_ms, Some(77));
        }
    }

    #[test]
    fn what_is_wrong_with_a_record_has_a_code() {
        for (json, code) in [
            ("1", 400),
            (r#"{"other": 1}"#, 400),
            (r#"{"id": "a"}"#, 400),
            (r#"{"partition_id": -1}"#, 40_402),
            (r#"{"timestamp": "now"}"#, 400),
            (r#"{"headers": [{"name": "a", "value": "?"}]}"#, 400),
            (r#"{"headers": [{"name": "floe.id"}]}"#, 400),
            (r#"{"value": {"type": "BINARY", "data": 1}}"#, 400),
            (r#"{"value": {"type": "STRING", "data": {}}}"#, 400),
            (r#"{"value": {"type": "XML", "data": 1}}"#, 400),
            (r#"{"value": 1}"#, 400),
            (r#"{"value": {"data": 1}}"#, SCHEMA),
            (r#"{"value": {"type": "AVRO", "data": 1}}"#, SCHEMA),
            (r#"{"value": {"type": "JSON", "data": 1, "schema_id": 3}}"#, SCHEMA),
        ] {
            assert_eq!(parsed(json).unwrap_err().code, code, "{json}");
        }
    }
}
