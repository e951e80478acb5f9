//! CloudEvents 1.0 on the native route: one event as JSON, several, or one in headers and body.
//! They are stored as CloudEvents are in Kafka (Kafka protocol binding, binary mode): the value is
//! the data, attributes are record headers `ce_*`, `partitionkey` is the key. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::http::ingest::event::{Event, Header, Source};
use crate::http::ingest::place::Placement;
use crate::http::ingest::split::{self, Form, Split, StoppedAt};
use crate::http::problem::{EventError, Problem};

/// Attributes by name, as text.
type Attributes = BTreeMap<String, String>;

/// The field that is to blame, and why.
type Invalid = (String, String);

/// How events are sent (HTTP protocol binding, sections 3.1 to 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// The body is one event.
    Structured,
    /// The body is an array of events, which may be empty.
    Batched,
    /// The headers are the attributes, the body is the data.
    Binary(Attributes),
}

impl Mode {
    /// None: these are no CloudEvents.
    ///
    /// # Errors
    /// `unsupported_media_type` for other forms than JSON, `bad_request` for headers that are no
    /// event.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/cloudevents+json" => return Ok(Some(Self::Structured)),
            "application/cloudevents-batch+json" => return Ok(Some(Self::Batched)),
            other if other.starts_with("application/cloudevents") => {
                let detail = format!("CloudEvents are read as JSON, not as {other:?}");
                return Err(Problem::new("unsupported_media_type", detail));
            }
            _ => {}
        }
        if !headers.contains_key("ce-specversion") {
            return Ok(None);
        }
        let attributes = binary(headers, kind).and_then(check);
        let bad = |(name, message)| Problem::new("bad_request", format!("ce-{name}: {message}"));
        Ok(Some(Self::Binary(attributes.map_err(bad)?)))
    }

    /// What a fingerprint of the request needs of it, each part on its own.
    pub(super) fn parts(&self) -> Vec<Vec<u8>> {
        let Self::Binary(attributes) = self else { return vec![vec![1], Vec::new()] };
        let text = |text: &String| text.as_bytes().to_vec();
        attributes.iter().flat_map(|(name, value)| [text(name), text(value)]).collect()
    }
}

fn binary(headers: &HeaderMap, content_type: Option<&str>) -> Result<Attributes, Invalid> {
    let mut found = Attributes::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
        if name == "datacontenttype" {
            return Err((name.to_owned(), "Content-Type says it in this mode".to_owned()));
        }
        let text = decode(value.as_bytes());
        let text = text.ok_or_else(|| (name.to_owned(), "it is not UTF-8 text".to_owned()))?;
        if found.insert(name.to_owned(), text).is_some() {
            return Err((name.to_owned(), "it is given twice".to_owned()));
        }
    }
    if let Some(kind) = content_type {
        found.insert("datacontenttype".to_owned(), kind.to_owned());
    }
    Ok(found)
}

/// The text of a header: quotes, then one round of percent-decoding (HTTP protocol binding 3.1.3.2).
fn decode(value: &[u8]) -> Option<String> {
    let mut bare = Vec::with_capacity(value.len());
    match value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
        Some(quoted) => {
            let mut bytes = quoted.iter();
            while let Some(byte) = bytes.next() {
                bare.push(if *byte == b'\\' { *bytes.next()? } else { *byte });
            }
        }
        None => bare.extend_from_slice(value),
    }
    let mut text = Vec::with_capacity(bare.len());
    let mut at = 0;
    while at < bare.len() {
        let escaped = bare.get(at + 1..at + 3).filter(|_| bare[at] == b'%');
        let digits = escaped.and_then(|digits| hex::decode(digits).ok());
        // A percent sign without two digits stands for itself.
        text.push(digits.as_ref().map_or(bare[at], |digits| digits[0]));
        at += if digits.is_some() { 3 } else { 1 };
    }
    String::from_utf8(text).ok()
}

/// Refuses attributes that make no event (CloudEvents 1.0.2, sections 2.1 and 2.2).
fn check(attributes: Attributes) -> Result<Attributes, Invalid> {
    for name in ["specversion", "id", "source", "type"] {
        if attributes.get(name).is_none_or(String::is_empty) {
            return Err((name.to_owned(), "the event lacks it".to_owned()));
        }
    }
    if attributes["specversion"] != "1.0" {
        return Err(("specversion".to_owned(), "only version 1.0 is known".to_owned()));
    }
    let legal = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if let Some(name) = attributes.keys().find(|name| !legal(name)) {
        return Err((name.clone(), "names are lower-case letters and digits".to_owned()));
    }
    let time = attributes.get("time");
    if time.is_some_and(|time| chrono::DateTime::parse_from_rfc3339(time).is_err()) {
        return Err(("time".to_owned(), "it is not RFC 3339".to_owned()));
    }
    Ok(attributes)
}

/// One event, decoded.
#[derive(Debug)]
struct Parsed {
    attributes: Attributes,
    data: Option<Bytes>,
}

/// Reads an event in JSON (JSON event format, sections 2 and 3).
fn parse(json: &Bytes) -> Result<Parsed, Invalid> {
    let members: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(json).map_err(|error| (String::new(), error.to_string()))?;
    let mut attributes = Attributes::new();
    let (mut data, mut base64) = (None, None);
    for (name, raw) in members {
        match (&*name, raw.get()) {
            (_, "null") => {}
            ("data", raw) => data = Some(raw),
            ("data_base64", raw) => base64 = Some(raw),
            (_, raw) => {
                let text = match raw.as_bytes()[0] {
                    b'"' => serde_json::from_str(raw).ok(),
                    b't' | b'f' => Some(raw.to_owned()),
                    _ => raw.parse::<i64>().ok().map(|_| raw.to_owned()),
                };
                let why = "it must be text, a whole number, true or false";
                let text = text.ok_or_else(|| (name.to_string(), why.to_owned()))?;
                attributes.insert(name.into_owned(), text);
            }
        }
    }
    let mut attributes = check(attributes)?;
    let data = match (data, base64) {
        (Some(_), Some(_)) => {
            return Err(("data_base64".to_owned(), "there is data, too".to_owned()));
        }
        (Some(raw), None) => {
            let kind = attributes.entry("datacontenttype".to_owned());
            Some(payload(raw, kind.or_insert_with(|| "application/json".to_owned()), json)?)
        }
        (None, Some(raw)) => {
            let text: Option<String> = serde_json::from_str(raw).ok();
            let bytes = text.and_then(|text| STANDARD.decode(text).ok());
            let why = || ("data_base64".to_owned(), "it is not base64".to_owned());
            Some(bytes.map(Bytes::from).ok_or_else(why)?)
        }
        (None, None) => None,
    };
    Ok(Parsed { attributes, data })
}

/// The bytes of `data`: JSON as it was sent, or the text where the content type is not JSON.
fn payload(raw: &str, content_type: &str, json: &Bytes) -> Result<Bytes, Invalid> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence.ends_with("/json") || essence.ends_with("+json");
    if is_json || !raw.starts_with('"') {
        return Ok(json.slice_ref(raw.as_bytes()));
    }
    let text: String =
        serde_json::from_str(raw).map_err(|error| ("data".to_owned(), error.to_string()))?;
    Ok(Bytes::from(text))
}

/// The events of a request.
pub(super) struct CloudEvents {
    body: Bytes,
    mode: Mode,
    split: Split,
    placement: Placement,
}

impl CloudEvents {
    pub(super) fn new(body: Bytes, mode: Mode, placement: Placement, events_max: usize) -> Self {
        let mut split = match mode {
            Mode::Binary(_) => Split { events: vec![(0, 0..body.len())], ..Split::default() },
            _ => split::split(&body, Form::Json, events_max),
        };
        let is_array = body.trim_ascii_start().first() == Some(&b'[');
        let wrong = match mode {
            Mode::Structured if is_array || split.events.len() > 1 => Some("one event"),
            Mode::Structured if split.events.is_empty() => Some("one event"),
            Mode::Batched if !is_array => Some("an array of events"),
            _ => None,
        };
        if let Some(wanted) = wrong.filter(|_| split.errors.is_empty()) {
            let message = format!("the body must be {wanted}");
            split.events.clear();
            split.errors.push(invalid(0, 0, (String::new(), message)));
        }
        Self { body, mode, split, placement }
    }

    /// True if there is nothing to store, and nothing wrong with that: an empty batch.
    pub(super) fn is_empty(&self) -> bool {
        self.split.events.is_empty() && self.split.errors.is_empty()
    }

    /// What the events have in common, bytes, and how many they are.
    pub(super) fn shared(&self) -> (usize, usize) {
        (self.placement.size_bytes(), self.split.events.len())
    }

    /// Where reading ended, if it did before the body.
    pub(super) fn stopped_at(&self) -> Option<StoppedAt> {
        self.split.stopped_at()
    }

    fn parsed(&self, json: &Bytes) -> Result<Parsed, Invalid> {
        let Mode::Binary(attributes) = &self.mode else { return parse(json) };
        let data = Some(json.clone()).filter(|data| !data.is_empty());
        Ok(Parsed { attributes: attributes.clone(), data })
    }

    fn hand_over(
        &self,
        index: usize,
        offset_bytes: usize,
        parsed: &Parsed,
        take: &mut dyn FnMut(Result<Event<'_>, EventError>),
    ) {
        let (attributes, value) = (&parsed.attributes, parsed.data.as_deref());
        let headers = headers(attributes, &self.placement.headers);
        // What the sender asked for counts before what the events say.
        let placed = self.placement.event(value.unwrap_or_default());
        let event = placed.map(|placed| Event {
            index,
            offset_bytes,
            value,
            key: match &self.placement.key {
                Some(_) => placed.key,
                None => attributes.get("partitionkey").map(|key| Cow::Borrowed(key.as_bytes())),
            },
            id: match &self.placement.id {
                Some(_) => placed.id,
                None => Some(Cow::Owned(id(attributes))),
            },
            headers: &headers,
            ..placed
        });
        take(event.map_err(|(code, (field, message))| EventError {
            index,
            offset_bytes,
            field: Some(field),
            code,
            message,
        }));
    }
}

fn invalid(index: usize, offset_bytes: usize, (field, message): Invalid) -> EventError {
    let field = Some(field).filter(|field| !field.is_empty());
    EventError { index, offset_bytes, field, code: "invalid_cloudevent", message }
}

/// Source and id, which together are of one event (section 2.1), with the length of the first.
fn id(attributes: &Attributes) -> Vec<u8> {
    let (source, id) = (attributes["source"].as_bytes(), attributes["id"].as_bytes());
    [&(source.len() as u64).to_le_bytes(), source, id].concat()
}

/// The record headers (Kafka protocol binding, section 3.2).
fn headers(attributes: &Attributes, more: &[Header]) -> Vec<Header> {
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let own = attributes.iter().map(|(name, value)| match name.as_str() {
        "datacontenttype" => (Bytes::from_static(b"content-type"), Some(text(value))),
        name => (Bytes::from(format!("ce_{name}")), Some(text(value))),
    });
    own.chain(more.iter().cloned()).collect()
}

impl Source for CloudEvents {
    fn size_bytes(&self) -> usize {
        let (each, events) = self.shared();
        self.body.len().saturating_add(each.saturating_mul(events))
    }

    fn refused(&self) -> &[EventError] {
        &self.split.errors
    }

    fn has_ids(&self) -> bool {
        true
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        let found = self.split.events.binary_search_by_key(&error.index, |(index, _)| *index);
        match found {
            Ok(at) => &self.body[self.split.events[at].1.clone()],
            // After a syntax error nothing can be told apart.
            Err(_) => self.body.get(error.offset_bytes..).unwrap_or_default(),
        }
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        for (index, range) in &self.split.events {
            match self.parsed(&self.body.slice(range.clone())) {
                Ok(parsed) => self.hand_over(*index, range.start, &parsed, take),
                Err(error) => take(Err(invalid(*index, range.start, error))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const EVENT: &str = r#"{"specversion": "1.0", "id": "7", "source": "/s", "type": "t""#;

    fn event(more: &str) -> Result<Parsed, String> {
        let json = format!("{EVENT}{more}}}");
        parse(&Bytes::from(json)).map_err(|(field, _)| field)
    }

    fn of(pairs: &[(&'static str, &'static str)]) -> Result<Option<Mode>, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        Mode::of(&headers).map_err(|problem| problem.code())
    }

    #[test]
    fn data_is_stored_as_it_was_sent() {
        let data = |more: &str| event(more).unwrap().data;
        let bytes = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
        assert_eq!(data(r#", "data": {"b" : 1.10, "a":1}"#), bytes(br#"{"b" : 1.10, "a":1}"#));
        assert_eq!(data(r#", "data": "x""#), bytes(b"\"x\""));
        assert_eq!(
            data(r#", "data": "x", "datacontenttype": "text/plain"}"#.trim_end_matches('}')),
            bytes(b"x")
        );
        assert_eq!(data(r#", "data_base64": "AAH/""#), bytes(&[0, 1, 255]));
        assert_eq!((data(""), data(r#", "data": null"#)), (None, None));
    }

    #[test]
    fn attributes_are_text() {
        let parsed = event(r#", "n": 7, "flag": false, "none": null, "data": 1"#).unwrap();
        let found: Vec<_> =
            parsed.attributes.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let wanted = [
            ("datacontenttype", "application/json"),
            ("flag", "false"),
            ("id", "7"),
            ("n", "7"),
            ("source", "/s"),
            ("specversion", "1.0"),
            ("type", "t"),
        ];
        assert_eq!(found, wanted);
        for (more, field) in [
            (r#", "x": 1.5"#, "x"),
            (r#", "x": {}"#, "x"),
            (r#", "X": "1""#, "X"),
            (r#", "time": "now""#, "time"),
            (r#", "data_base64": 1"#, "data_base64"),
            (r#", "data": 1, "data_base64": """#, "data_base64"),
        ] {
            assert_eq!(event(more).unwrap_err(), field, "{more}");
        }
        for (json, field) in [
            (r#"{"specversion": "1.0"}"#, "id"),
            (r#"{"specversion": "0.3", "id": "1", "source": "s", "type": "t"}"#, "specversion"),
            (r#"{"specversion": "1.0", "id": "", "source": "s", "type": "t"}"#, "id"),
            ("[]", ""),
        ] {
            let refused = parse(&Bytes::copy_from_slice(json.as_bytes())).unwrap_err();
            assert_eq!(refused.0, field, "{json}");
        }
    }

    #[test]
    fn headers_are_decoded() {
        for (value, wanted) in [
            (&b"plain"[..], Some("plain")),
            (b"\"in \\\"quotes\\\"\"", Some("in \"quotes\"")),
            (b"Euro%20%E2%82%AC%20%F0%9F%98%80", Some("Euro \u{20ac} \u{1f600}")),
            (b"100%, 5%zz", Some("100%, 5%zz")),
            (b"%2525", Some("%25")),
            // Overlong, half a pair, alone.
            (b"%C0%A0", None),
            (b"%ED%A0%80", None),
            (b"%FF", None),
            (b"\"open\\\"", None),
        ] {
            assert_eq!(decode(value).as_deref(), wanted);
        }
    }

    #[test]
    fn the_mode_is_in_the_headers() {
        let event =
            [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "s"), ("CE-Type", "t")];
        let event =
            event.map(|(name, value)| (if name == "CE-Type" { "ce-type" } else { name }, value));
        assert_eq!(of(&[("content-type", "application/json")]), Ok(None));
        let structured = ("content-type", "Application/CloudEvents+JSON; charset=utf-8");
        assert_eq!(of(&[structured]), Ok(Some(Mode::Structured)));
        assert_eq!(
            of(&[("content-type", "application/cloudevents-batch+json")]),
            Ok(Some(Mode::Batched))
        );
        assert_eq!(
            of(&[("content-type", "application/cloudevents+avro")]),
            Err("unsupported_media_type")
        );
        let with = |more: (&'static str, &'static str)| {
            of(&event.iter().copied().chain([more]).collect::<Vec<_>>())
        };
        let Ok(Some(Mode::Binary(found))) = with(("content-type", "text/plain")) else { panic!() };
        assert_eq!((found.len(), &*found["datacontenttype"]), (5, "text/plain"));
        assert_eq!(of(&event[..3]), Err("bad_request"));
        for more in
            [("ce-datacontenttype", "text/plain"), ("ce-id", "2"), ("ce-x", "%FF"), ("ce-x_y", "1")]
        {
            assert_eq!(with(more), Err("bad_request"), "{more:?}");
        }
    }

    #[test]
    fn a_body_of_another_shape_is_refused() {
        let errors = |body: &str, mode: &Mode| {
            let body = Bytes::copy_from_slice(body.as_bytes());
            let events = CloudEvents::new(body, mode.clone(), Placement::default(), 10);
            let codes: Vec<_> = events.split.errors.iter().map(|error| error.code).collect();
            (events.split.events.len(), codes)
        };
        let good = (1, Vec::new());
        let bad = (0, vec!["invalid_cloudevent"]);
        assert_eq!(errors("{}", &Mode::Structured), good);
        assert_eq!(errors("[{}]", &Mode::Batched), good);
        for body in ["[{}]", "{} {}", " "] {
            assert_eq!(errors(body, &Mode::Structured), bad, "{body}");
        }
        assert_eq!(errors("{}", &Mode::Batched), bad);
        assert_eq!(errors("[]", &Mode::Batched), (0, Vec::new()));
        assert_eq!(errors("[{]", &Mode::Batched), (0, vec!["invalid_json"]));
    }

    #[test]
    fn source_and_id_are_told_apart() {
        let of = |source: &str, name: &str| {
            let pairs = [("source", source), ("id", name)];
            id(&pairs.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
        };
        assert_ne!(of("a", "bc"), of("ab", "c"));
        assert_eq!(of("a", "b"), of("a", "b"));
    }
}
