//! Events of the native route: JSON values as they were sent, with keys and times found in them.
//! Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::http::ingest::event::{Event, Header, Source};
use crate::http::ingest::shared;
use crate::http::ingest::split::{Form, Split};
use crate::http::problem::EventError;

/// What a sender may say about its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Placement {
    /// Key of all events, or a path in each when it starts with `$.`.
    pub(super) key: Option<String>,
    /// Partition of all events.
    pub(super) partition: Option<usize>,
    /// Path in each event of its time, with `$.`.
    pub(super) timestamp: Option<String>,
    /// Record headers of all events.
    pub(super) headers: Vec<Header>,
    /// Path in each event of the id by which it counts once, with `$.`.
    pub(super) id: Option<String>,
}

impl Placement {
    /// What each event has of it, or the reason why it is refused, bytes.
    pub(super) fn size_bytes(&self) -> usize {
        let texts = [&self.key, &self.timestamp, &self.id].into_iter().flatten();
        shared::size_bytes(&self.headers) + texts.map(String::len).sum::<usize>()
    }

    /// What a fingerprint of the request needs of it, each part on its own.
    pub(super) fn parts(&self) -> Vec<Vec<u8>> {
        let text = |text: &Option<String>| text.as_ref().map(|text| text.as_bytes().to_vec());
        let partition = self.partition.map(|partition| partition.to_string().into_bytes());
        let mut parts = Vec::new();
        for part in [text(&self.key), partition, text(&self.timestamp), text(&self.id)] {
            parts.push(vec![u8::from(part.is_some())]);
            parts.push(part.unwrap_or_default());
        }
        for (name, value) in &self.headers {
            parts.push(name.to_vec());
            parts.push(value.as_deref().unwrap_or_default().to_vec());
        }
        parts
    }
}

/// The events that a body was split into.
pub(super) struct JsonEvents {
    pub(super) body: Bytes,
    pub(super) form: Form,
    pub(super) split: Split,
    pub(super) placement: Placement,
}

impl JsonEvents {
    /// What the events have in common, bytes, and how many they are.
    pub(super) fn shared(&self) -> (usize, usize) {
        (self.placement.size_bytes(), self.split.events.len())
    }
}

/// The field that is to blame, and why.
type FieldError = (String, String);

impl Source for JsonEvents {
    fn size_bytes(&self) -> usize {
        let (each, events) = self.shared();
        self.body.len().saturating_add(each.saturating_mul(events))
    }

    fn refused(&self) -> &[EventError] {
        &self.split.errors
    }

    fn has_ids(&self) -> bool {
        self.placement.id.is_some()
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        let found = self.split.events.binary_search_by_key(&error.index, |(index, _)| *index);
        if let Ok(at) = found {
            return &self.body[self.split.events[at].1.clone()];
        }
        let rest = self.body.get(error.offset_bytes..).unwrap_or_default();
        match (self.form, memchr::memchr(b'\n', rest)) {
            (Form::Lines, Some(end)) => &rest[..end],
            // After a syntax error elsewhere nothing can be told apart.
            _ => rest,
        }
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        for (index, range) in &self.split.events {
            let event = self.placement.event(&self.body[range.clone()]);
            let event =
                event.map(|event| Event { index: *index, offset_bytes: range.start, ..event });
            take(event.map_err(|(code, (field, message))| EventError {
                index: *index,
                offset_bytes: range.start,
                field: Some(field),
                code,
                message,
            }));
        }
    }
}

impl Placement {
    /// The event with this value, without its index.
    pub(super) fn event<'e>(
        &'e self,
        value: &'e [u8],
    ) -> Result<Event<'e>, (&'static str, FieldError)> {
        Ok(Event {
            value: Some(value),
            key: self.key_of(value).map_err(|error| ("bad_key", error))?,
            headers: &self.headers,
            timestamp_ms: self.timestamp_of(value).map_err(|error| ("bad_timestamp", error))?,
            partition: self.partition,
            id: self.id_of(value).map_err(|error| ("bad_id", error))?,
            key_field: self.key.as_deref(),
            timestamp_field: self.timestamp.as_deref(),
            ..Event::default()
        })
    }

    pub(super) fn key_of(&self, event: &[u8]) -> Result<Option<Cow<'_, [u8]>>, FieldError> {
        let Some(key) = &self.key else { return Ok(None) };
        let Some(path) = key.strip_prefix("$.") else {
            return Ok(Some(Cow::Borrowed(key.as_bytes())));
        };
        let missing = || (key.clone(), format!("the event has no plain value at {key}"));
        let found = find(event, path).ok_or_else(missing)?;
        match found.as_bytes().first() {
            Some(b'"') => serde_json::from_str::<String>(found)
                .map(|text| Some(Cow::Owned(text.into_bytes())))
                .map_err(|_| missing()),
            Some(b'{' | b'[') | None => Err(missing()),
            Some(_) if found == "null" => Ok(None),
            Some(_) => Ok(Some(Cow::Owned(found.as_bytes().to_vec()))),
        }
    }

    fn id_of(&self, event: &[u8]) -> Result<Option<Cow<'_, [u8]>>, FieldError> {
        let Some(path) = &self.id else { return Ok(None) };
        let id = id_at(path, event).ok_or_else(|| (path.clone(), no_id(path)))?;
        Ok(Some(Cow::Owned(id)))
    }

    /// Milliseconds as a number, or RFC 3339.
    pub(super) fn timestamp_of(&self, event: &[u8]) -> Result<Option<i64>, FieldError> {
        let Some(at) = &self.timestamp else { return Ok(None) };
        let none =
            || (at.clone(), format!("the event has no time at {at}: milliseconds or RFC 3339"));
        let path = at.strip_prefix("$.").unwrap_or(at);
        let found = find(event, path).ok_or_else(none)?;
        if let Ok(ms) = found.parse::<i64>() {
            return Ok(Some(ms));
        }
        let text: String = serde_json::from_str(found).map_err(|_| none())?;
        let time = chrono::DateTime::parse_from_rfc3339(&text).map_err(|_| none())?;
        Ok(Some(time.timestamp_millis()))
    }
}

/// The id by which an event counts once, at a path with or without `$.`: the text of a string, or
/// what else is there as it is written; a string is no number.
fn id_at(path: &str, event: &[u8]) -> Option<Vec<u8>> {
    let found = find(event, path.strip_prefix("$.").unwrap_or(path))?;
    match found.as_bytes().first()? {
        b'"' => {
            let text = serde_json::from_str::<String>(found).ok()?;
            Some([b"\"", text.as_bytes()].concat())
        }
        b'{' | b'[' => None,
        _ if found == "null" => None,
        _ => Some(found.as_bytes().to_vec()),
    }
}

fn no_id(path: &str) -> String {
    format!("the event has no plain value at {path}")
}

/// The event with the id that is at `path`, with `$.`, in it.
///
/// # Errors
/// `bad_id`, of the event.
pub(super) fn identified<'e>(event: Event<'e>, path: &str) -> Result<Event<'e>, EventError> {
    let id = event.value.and_then(|value| id_at(path, value));
    let Event { index, offset_bytes, .. } = event;
    let id = id.ok_or_else(|| EventError {
        index,
        offset_bytes,
        field: Some(path.to_owned()),
        code: "bad_id",
        message: no_id(path),
    })?;
    Ok(Event { id: Some(Cow::Owned(id)), ..event })
}

/// The JSON text at a dotted path of an object.
pub(super) fn find<'e>(event: &'e [u8], path: &str) -> Option<&'e str> {
    let mut text: &'e str = std::str::from_utf8(event).ok()?;
    for name in path.split('.') {
        let object: BTreeMap<Cow<'e, str>, &'e RawValue> = serde_json::from_str(text).ok()?;
        text = object.get(name)?.get();
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ingest::batches::tests::target;
    use crate::http::ingest::batches::{Target, build, murmur2_partition};
    use crate::http::ingest::split::split;
    use crate::record::{BatchReader, TimestampBounds};

    fn source(body: &str, key: Option<&str>, timestamp: Option<&str>) -> JsonEvents {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let split = split(&body, Form::Json, 100);
        let text = |text: &str| text.to_owned();
        let (key, timestamp) = (key.map(text), timestamp.map(text));
        let placement = Placement { key, timestamp, ..Placement::default() };
        JsonEvents { body, form: Form::Json, split, placement }
    }

    #[test]
    fn events_keep_their_bytes() {
        let mut found = Vec::new();
        source(r#"[ {"a": 1.10} , "x", null]"#, None, None).visit(&mut |event| {
            let event = event.unwrap();
            found.push((event.index, event.offset_bytes, event.value.unwrap().to_vec()));
        });
        let wanted: [(usize, usize, &[u8]); 3] =
            [(0, 2, b"{\"a\": 1.10}"), (1, 16, b"\"x\""), (2, 21, b"null")];
        assert_eq!(found, wanted.map(|(index, at, value)| (index, at, value.to_vec())));
    }

    #[test]
    fn what_events_have_in_common_counts_for_each() {
        let body = "[1,2,3]";
        let mut events = source(body, Some("key"), Some("$.t"));
        events.placement.headers = vec![(Bytes::from("n"), Some(Bytes::from("value")))];
        assert_eq!(events.shared(), (12, 3));
        assert_eq!(events.size_bytes(), body.len() + 3 * 12);
    }

    #[test]
    fn the_bytes_of_a_refused_event_are_told_apart_in_lines() {
        let raw = |body: &str, form: Form| {
            let body = Bytes::copy_from_slice(body.as_bytes());
            let split = split(&body, form, 100);
            let source = JsonEvents { body, form, split, placement: Placement::default() };
            let error = source.refused()[0].clone();
            String::from_utf8(source.raw(&error).to_vec()).unwrap()
        };
        assert_eq!(raw("{\"a\":1}\n{bad\n2\n", Form::Lines), "{bad");
        assert_eq!(raw("[1, {bad, 2]", Form::Json), "{bad, 2]");
    }

    #[test]
    fn keys_and_times_come_from_the_events() {
        let body = r#"[{"u":{"id":7},"t":"2024-01-01T00:00:00Z"},{"u":{"id":"x"},"t":5},{"u":1}]"#;
        let built = build(&source(body, Some("$.u.id"), Some("$.t")), &target()).unwrap();
        assert_eq!(built.accepted, 2);
        assert_eq!((built.errors[0].index, built.errors[0].code), (2, "bad_key"));
        let mut found = Vec::new();
        for batch in &built.batches {
            let mut reader = BatchReader::new();
            for record in reader.records(&batch.bytes).unwrap() {
                let record = record.unwrap();
                let key = record.key.unwrap().to_vec();
                assert_eq!(batch.partition, murmur2_partition(&key, 4));
                found.push((key, record.timestamp));
            }
        }
        found.sort();
        assert_eq!(found, [(b"7".to_vec(), 1_704_067_200_000), (b"x".to_vec(), 5)]);
    }

    #[test]
    fn times_are_milliseconds_or_rfc_3339() {
        let placement = Placement { timestamp: Some("$.t".to_owned()), ..Placement::default() };
        let stamped = |time: &str| placement.timestamp_of(format!("{{\"t\":{time}}}").as_bytes());
        for (time, ms) in [
            ("0", 0),
            ("-1", -1),
            ("\"1970-01-01T00:00:00Z\"", 0),
            ("\"1970-01-01T00:00:01.051Z\"", 1_051),
            ("\"9999-12-31T23:59:59.999Z\"", 253_402_300_799_999),
            ("\"9999-12-31T23:59:59-01:00\"", 253_402_304_399_000),
        ] {
            assert_eq!(stamped(time), Ok(Some(ms)), "{time}");
        }
        for time in ["\"now\"", "1.5", "null", "{}"] {
            assert!(stamped(time).unwrap_err().1.contains("no time at $.t"), "{time}");
        }
    }

    #[test]
    fn events_that_the_topic_does_not_take_are_refused_one_by_one() {
        let body = r#"[{"k":"a","t":900},{"k":null,"t":1000},{"k":"b","t":1101}]"#;
        let bounds = TimestampBounds { before_max_ms: 100, after_max_ms: 100, now_ms: 1_000 };
        let target = Target { bounds: Some(bounds), keyed: true, ..target() };
        let built = build(&source(body, Some("$.k"), Some("$.t")), &target).unwrap();
        let errors: Vec<_> =
            built.errors.iter().map(|e| (e.index, e.code, e.field.as_deref())).collect();
        let wanted = [(1, "bad_key", Some("$.k")), (2, "bad_timestamp", Some("$.t"))];
        assert_eq!((built.accepted, &errors[..]), (1, &wanted[..]));
    }
}
