//! Events of the Event Collector: JSON objects one after another, or plain lines. Each becomes an
//! object with the members that Splunk knows; the index is the topic. Pure.
//! Source: Splunk, Format events for HTTP Event Collector.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http::hec::answer::Failure;
use crate::http::ingest::event::OwnedEvent;
use crate::http::ingest::shared;
use crate::http::ingest::split::{self, Form};
use crate::http::problem::EventError;

/// The topic of events without an index.
const TOPIC: &str = "splunk";

/// Topics of one request.
const TOPICS_MAX: usize = 100;

/// What a request says of events that do not say it themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Defaults {
    pub(super) index: Option<String>,
    pub(super) host: Option<String>,
    pub(super) source: Option<String>,
    pub(super) sourcetype: Option<String>,
}

impl Defaults {
    /// The topic of events that name none.
    pub(super) fn topic(&self) -> &str {
        self.index.as_deref().unwrap_or(TOPIC)
    }

    /// What an event takes of it, bytes.
    fn size_bytes(&self) -> usize {
        let mut value = Members::default();
        for text in [&self.host, &self.source, &self.sourcetype] {
            value.text("", text.as_deref());
        }
        value.0.len()
    }
}

/// What a request may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) events_max: usize,
    /// Of what all events take of [`Defaults`].
    pub(super) bytes_max: usize,
}

/// The events of a request for one topic.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) topic: String,
    pub(super) events: Vec<OwnedEvent>,
    /// Which event of the request each is.
    pub(super) places: Vec<usize>,
}

/// The groups of a request, in the order in which their topics come.
#[derive(Debug, Default)]
struct Groups(Vec<Group>);

impl Groups {
    fn push(&mut self, place: usize, topic: &str, event: OwnedEvent) -> Result<(), Failure> {
        let at = match self.0.iter().position(|group| group.topic == topic) {
            Some(at) => at,
            None if self.0.len() == TOPICS_MAX => {
                let detail = format!("a request has events for at most {TOPICS_MAX} indexes");
                return Err(Failure::new(7, detail).at(place));
            }
            None => {
                self.0.push(Group { topic: topic.to_owned(), ..Group::default() });
                self.0.len() - 1
            }
        };
        self.0[at].events.push(event);
        self.0[at].places.push(place);
        Ok(())
    }
}

/// An event as it is sent; what else there is counts for nothing, as it does for Splunk.
#[derive(Deserialize)]
struct Sent<'e> {
    #[serde(borrow)]
    time: Option<&'e RawValue>,
    #[serde(borrow)]
    host: Option<&'e RawValue>,
    #[serde(borrow)]
    source: Option<&'e RawValue>,
    #[serde(borrow)]
    sourcetype: Option<&'e RawValue>,
    #[serde(borrow)]
    index: Option<Cow<'e, str>>,
    #[serde(borrow)]
    event: Option<&'e RawValue>,
    #[serde(borrow)]
    fields: Option<&'e RawValue>,
}

/// Reads objects one after another, or an array of them.
///
/// # Errors
/// The first event that is refused: nothing of the request is stored.
pub(super) fn objects(
    body: &Bytes,
    defaults: &Defaults,
    limits: Limits,
) -> Result<Vec<Group>, Failure> {
    let split = split::split(body, Form::Json, limits.events_max);
    if let Some(error) = split.errors.first() {
        return Err(unreadable(error));
    }
    if split.events.is_empty() {
        return Err(Failure::new(5, "there is no event in the body"));
    }
    shared::check(defaults.size_bytes(), split.events.len(), limits.bytes_max)?;
    let mut groups = Groups::default();
    for (place, range) in split.events {
        let (topic, event) = object(&body[range], defaults)
            .map_err(|(code, why)| Failure::new(code, why).at(place))?;
        groups.push(place, &topic, event)?;
    }
    Ok(groups.0)
}

fn unreadable(error: &EventError) -> Failure {
    let code = if error.code == "too_many_events" { 27 } else { 6 };
    Failure::new(code, error.message.clone()).at(error.index)
}

/// Code, and why.
type Refused = (u16, String);

/// The topic and the event of one object.
fn object(json: &[u8], defaults: &Defaults) -> Result<(String, OwnedEvent), Refused> {
    let sent: Sent<'_> = serde_json::from_slice(json).map_err(|error| (6, error.to_string()))?;
    let required = || (12, "the member event is not there".to_owned());
    let event = sent.event.ok_or_else(required)?;
    if event.get() == "\"\"" {
        return Err((13, "the member event is empty text".to_owned()));
    }
    if sent.fields.is_some_and(|fields| !fields.get().starts_with('{')) {
        return Err((15, "the member fields is no object".to_owned()));
    }
    let time = sent.time.map(|time| Time::parse(time.get())).transpose()?;
    let mut value = Members::default();
    if let Some(time) = &time {
        value.raw("time", &time.number);
    }
    for (name, own, default) in [
        ("host", sent.host, &defaults.host),
        ("source", sent.source, &defaults.source),
        ("sourcetype", sent.sourcetype, &defaults.sourcetype),
    ] {
        match own {
            Some(text) if text.get().starts_with('"') => value.raw(name, text.get()),
            Some(_) => return Err((6, format!("the member {name} is no text"))),
            None => value.text(name, default.as_deref()),
        }
    }
    value.raw("event", event.get());
    if let Some(fields) = sent.fields {
        value.raw("fields", fields.get());
    }
    let index = sent.index.filter(|index| !index.is_empty());
    let topic = index.as_deref().unwrap_or_else(|| defaults.topic());
    let timestamp_ms = time.map(|time| time.ms);
    let value = Some(value.end());
    Ok((topic.to_owned(), OwnedEvent { value, timestamp_ms, ..OwnedEvent::default() }))
}

/// Reads lines: each that is not blank is an event.
///
/// # Errors
/// The body is not text, is empty or has too many lines.
pub(super) fn lines(
    body: &Bytes,
    defaults: &Defaults,
    Limits { events_max, bytes_max }: Limits,
) -> Result<Vec<Group>, Failure> {
    let text = simdutf8::compat::from_utf8(body)
        .map_err(|error| Failure::new(6, format!("the body is not UTF-8: {error}")))?;
    let (mut events, each) = (Vec::new(), defaults.size_bytes());
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if events.len() == events_max {
            let detail = format!("a request holds at most {events_max} events");
            return Err(Failure::new(27, detail).at(events_max));
        }
        shared::check(each, events.len() + 1, bytes_max)?;
        let mut value = Members::default();
        value.text("host", defaults.host.as_deref());
        value.text("source", defaults.source.as_deref());
        value.text("sourcetype", defaults.sourcetype.as_deref());
        value.text("event", Some(line));
        events.push(OwnedEvent { value: Some(value.end()), ..OwnedEvent::default() });
    }
    if events.is_empty() {
        return Err(Failure::new(5, "there is no event in the body"));
    }
    let topic = defaults.topic().to_owned();
    let places = (0..events.len()).collect();
    Ok(vec![Group { topic, events, places }])
}

/// The time of an event.
struct Time {
    /// Seconds since 1970 as a JSON number, with a fraction, so that a column of times has one type.
    number: String,
    ms: i64,
}

impl Time {
    /// Reads a number, or text that is one.
    fn parse(json: &str) -> Result<Self, Refused> {
        let refused = || (6, format!("the time {json} is no number of seconds since 1970"));
        let text: Cow<'_, str> = match json.strip_prefix('"') {
            Some(_) => serde_json::from_str::<String>(json).map_err(|_| refused())?.into(),
            None => json.into(),
        };
        let text = text.trim();
        let is_number = serde_json::from_str::<serde_json::Number>(text).is_ok();
        let seconds: f64 = text.parse().ok().filter(|_| is_number).ok_or_else(refused)?;
        let ms = (seconds * 1_000.0).round();
        // Far beyond what the topic takes, and safe to convert.
        if !(-1e15..=1e15).contains(&ms) {
            return Err(refused());
        }
        let fraction = if text.contains(['.', 'e', 'E']) { "" } else { ".0" };
        Ok(Self { number: format!("{text}{fraction}"), ms: ms as i64 })
    }
}

/// A JSON object under way.
#[derive(Default)]
struct Members(Vec<u8>);

impl Members {
    fn raw(&mut self, name: &str, json: &str) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self.0.extend_from_slice(json.as_bytes());
    }

    fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.raw(name, &serde_json::Value::from(text).to_string());
        }
    }

    fn end(mut self) -> Bytes {
        self.0.push(b'}');
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn defaults() -> Defaults {
        let text = |text: &str| Some(text.to_owned());
        Defaults { index: text("idx"), host: text("h\""), ..Defaults::default() }
    }

    fn limits(events_max: usize) -> Limits {
        Limits { events_max, bytes_max: 10_000 }
    }

    fn shown(groups: &[Group]) -> Vec<(&str, &str, Option<i64>)> {
        groups
            .iter()
            .flat_map(|group| group.events.iter().map(move |event| (group, event)))
            .map(|(group, event)| {
                let value = std::str::from_utf8(event.value.as_deref().unwrap()).unwrap();
                (group.topic.as_str(), value, event.timestamp_ms)
            })
            .collect()
    }

    #[test]
    fn objects_become_events_of_the_topic_of_their_index() {
        let body = bytes(
            r#"{"event": {"b" : 1.10}, "time": 1426279439.123, "host": "x", "unknown": [1], "fields": {"f": "1"}}
            {"event":"text","time":"1426279439","index":"other","source":"s","sourcetype":"t"} {"event":0,"index":""}"#,
        );
        let groups = objects(&body, &defaults(), limits(10)).unwrap();
        let wanted = [
            (
                "idx",
                r#"{"time":1426279439.123,"host":"x","event":{"b" : 1.10},"fields":{"f": "1"}}"#,
                Some(1_426_279_439_123),
            ),
            ("idx", r#"{"host":"h\"","event":0}"#, None),
            (
                "other",
                r#"{"time":1426279439.0,"host":"h\"","source":"s","sourcetype":"t","event":"text"}"#,
                Some(1_426_279_439_000),
            ),
        ];
        assert_eq!(shown(&groups), wanted);
        assert_eq!((&groups[0].places[..], &groups[1].places[..]), (&[0, 2][..], &[1][..]));
        let bare = objects(&bytes(r#"[{"event": 1}]"#), &Defaults::default(), limits(10)).unwrap();
        assert_eq!(shown(&bare), [(TOPIC, r#"{"event":1}"#, None)]);
    }

    #[test]
    fn an_event_that_is_refused_is_named_with_its_code() {
        let good = r#"{"event": 1}"#;
        for (bad, code) in [
            (r#"{"event": "#, 6),
            ("7", 6),
            (r#"{"time": 1}"#, 12),
            (r#"{"event": null}"#, 12),
            (r#"{"event": ""}"#, 13),
            (r#"{"event": 1, "fields": [1]}"#, 15),
            (r#"{"event": 1, "time": "now"}"#, 6),
            (r#"{"event": 1, "time": "inf"}"#, 6),
            (r#"{"event": 1, "time": 1e300}"#, 6),
            (r#"{"event": 1, "time": [1]}"#, 6),
            (r#"{"event": 1, "host": 1}"#, 6),
            (r#"{"event": 1, "index": 1}"#, 6),
        ] {
            let refused =
                objects(&bytes(&format!("{good}{bad}")), &defaults(), limits(10)).unwrap_err();
            assert_eq!((refused.code(), refused.event()), (code, Some(1)), "{bad}");
        }
        for body in ["", " \n", "[]"] {
            assert_eq!(
                objects(&bytes(body), &defaults(), limits(10)).unwrap_err().code(),
                5,
                "{body}"
            );
        }
        assert_eq!(
            objects(&bytes(&good.repeat(3)), &defaults(), limits(2)).unwrap_err().code(),
            27
        );
        let many: String =
            (0..101).map(|at| format!("{{\"event\": 1, \"index\": \"i{at}\"}}")).collect();
        assert_eq!(objects(&bytes(&many), &defaults(), limits(1_000)).unwrap_err().code(), 7);
    }

    #[test]
    fn lines_are_events_and_blank_ones_are_none() {
        let groups = lines(&bytes("one \"1\"\r\n\n  \ntwo"), &defaults(), limits(2)).unwrap();
        let wanted = [
            ("idx", r#"{"host":"h\"","event":"one \"1\""}"#, None),
            ("idx", r#"{"host":"h\"","event":"two"}"#, None),
        ];
        assert_eq!(shown(&groups), wanted);
        let code = |body: &[u8]| {
            lines(&Bytes::copy_from_slice(body), &defaults(), limits(1)).unwrap_err().code()
        };
        assert_eq!((code(b"\n \n"), code(b"\xff"), code(b"a\nb")), (5, 6, 27));
    }

    #[test]
    fn what_events_take_of_a_request_is_bounded() {
        let long = Defaults { host: Some("\u{1}".repeat(1_000)), ..Defaults::default() };
        let code = |count: usize| {
            let of_lines = lines(&bytes(&"a\n".repeat(count)), &long, limits(10));
            let of_objects = objects(&bytes(&r#"{"event":1}"#.repeat(count)), &long, limits(10));
            [of_lines, of_objects].map(|found| found.err().map(|failure| failure.code()))
        };
        // 6,000 bytes and some each, as they are written.
        assert_eq!((code(1), code(2)), ([None; 2], [Some(27); 2]));
    }
}
