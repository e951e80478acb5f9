//! Events with what their topic says of them, as far as their senders say nothing: key, time, headers,
//! the id by which an event counts once, the request that it came by. Pure.

use std::borrow::Cow;

use bytes::Bytes;

use crate::http::ingest::event::{Event, Header, Source};
use crate::http::ingest::place::{self, Placement, find};
use crate::http::ingest::traced;
use crate::http::problem::EventError;
use crate::topic::event_fields::{EventFields, KeyField};
use crate::topic::options::TopicOptions;

/// What a topic says of its events.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Path in each event of its id, with `$.`, where the source has none.
    id: Option<String>,
    fields: EventFields,
    /// Headers that each event gets that has no such header.
    headers: Vec<Header>,
}

impl Said {
    /// What these options say; none where they say nothing, as most do not. `headers` are those of
    /// the request ([`traced::headers`]).
    pub(super) fn of(options: &TopicOptions, headers: fn() -> Vec<Header>) -> Option<Box<Self>> {
        let is_silent = options.dedup_field.is_none()
            && options.event_fields.is_empty()
            && !options.trace_headers;
        if is_silent {
            return None;
        }
        let headers = if options.trace_headers { headers() } else { Vec::new() };
        let (id, fields) = (options.dedup_field.clone(), options.event_fields.clone());
        Some(Box::new(Self { id, fields, headers }))
    }
}

/// The events of `source`, with what their topic says of them.
pub(super) struct Completed<S> {
    pub(super) source: S,
    pub(super) said: Option<Box<Said>>,
}

impl<S: Source> Source for Completed<S> {
    fn size_bytes(&self) -> usize {
        self.source.size_bytes()
    }

    fn refused(&self) -> &[EventError] {
        self.source.refused()
    }

    fn has_ids(&self) -> bool {
        self.source.has_ids() || self.said.as_ref().is_some_and(|said| said.id.is_some())
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        self.source.raw(error)
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        let Some(said) = &self.said else { return self.source.visit(take) };
        let path = said.id.as_deref().filter(|_| !self.source.has_ids());
        let finder = Finder::of(&said.fields);
        let mut complete = |event: Result<Event<'_>, EventError>| {
            let event = event.and_then(|event| match path {
                Some(path) => place::identified(event, path),
                None => Ok(event),
            });
            match event {
                Ok(event) if !said.headers.is_empty() => {
                    let headers = traced::with(&said.headers, event.headers);
                    take(Ok(Event { headers: &headers, ..event }));
                }
                event => take(event),
            }
        };
        self.source.visit(&mut |event| match event {
            // A null has no fields.
            Ok(event) if event.value.is_some() => finder.place(event, &mut complete),
            other => complete(other),
        });
    }
}

/// What is looked for in each event.
struct Finder<'f> {
    fields: &'f EventFields,
    /// The paths of key and time, as a sender would say them.
    paths: Placement,
    names: Vec<Bytes>,
}

impl<'f> Finder<'f> {
    fn of(fields: &'f EventFields) -> Self {
        let key = match &fields.key {
            Some(KeyField::Path(path)) => Some(path.clone()),
            Some(KeyField::Header(_)) | None => None,
        };
        let paths = Placement { key, timestamp: fields.timestamp.clone(), ..Placement::default() };
        let names = fields.headers.iter();
        let names = names.map(|(name, _)| Bytes::copy_from_slice(name.as_bytes())).collect();
        Self { fields, paths, names }
    }

    fn place(&self, event: Event<'_>, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        let value = event.value.unwrap_or_default();
        let headers = self.headers(&event, value);
        let mut event = Event { headers: headers.as_deref().unwrap_or(event.headers), ..event };
        let refused = |code, (field, message): (String, String)| EventError {
            index: event.index,
            offset_bytes: event.offset_bytes,
            field: Some(field),
            code,
            message,
        };
        if event.key.is_none() && event.key_field.is_none() {
            match self.key(&event, value) {
                Ok(key) => (event.key, event.key_field) = (key, self.paths.key.as_deref()),
                Err(error) => return take(Err(refused("bad_key", error))),
            }
        }
        if event.timestamp_ms.is_none() && event.timestamp_field.is_none() {
            match self.paths.timestamp_of(value) {
                Ok(time) => {
                    (event.timestamp_ms, event.timestamp_field) =
                        (time, self.paths.timestamp.as_deref());
                }
                Err(error) => return take(Err(refused("bad_timestamp", error))),
            }
        }
        take(Ok(event));
    }

    fn key(
        &self,
        event: &Event<'_>,
        value: &[u8],
    ) -> Result<Option<Cow<'static, [u8]>>, (String, String)> {
        let key = match &self.fields.key {
            Some(KeyField::Path(_)) => self.paths.key_of(value)?.map(Cow::into_owned),
            Some(KeyField::Header(name)) => {
                let named = |(other, _): &&Header| other.eq_ignore_ascii_case(name.as_bytes());
                let header = event.headers.iter().find(named);
                header.and_then(|(_, value)| value.as_ref().map(|value| value.to_vec()))
            }
            None => None,
        };
        Ok(key.map(Cow::Owned))
    }

    /// The headers of the event with those that its sender did not set; none if these are all.
    fn headers(&self, event: &Event<'_>, value: &[u8]) -> Option<Vec<Header>> {
        let is_set = |name: &Bytes| event.headers.iter().any(|(other, _)| other == name);
        let pairs = self.names.iter().zip(&self.fields.headers).filter(|(name, _)| !is_set(name));
        let found = pairs.filter_map(|(name, (_, path))| {
            let text = find(value, path.strip_prefix("$.").unwrap_or(path))?;
            Some((name.clone(), Some(value_of(text)?)))
        });
        let found: Vec<Header> = found.collect();
        (!found.is_empty()).then(|| event.headers.iter().cloned().chain(found).collect())
    }
}

/// The text of a string, or what else is there as it is written; none of a null.
fn value_of(text: &str) -> Option<Bytes> {
    match text.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(text).ok().map(Bytes::from),
        _ if text == "null" => None,
        _ => Some(Bytes::copy_from_slice(text.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ingest::event::OwnedEvent;

    /// Key, time and headers of each event, or the code of its refusal.
    fn placed(fields: EventFields, events: Vec<OwnedEvent>) -> Vec<String> {
        let mut found = Vec::new();
        let said = Some(Box::new(Said { fields, ..Said::default() }));
        Completed { source: events, said }.visit(&mut |event| {
            found.push(match event {
                Ok(event) => {
                    let key = event.key.map(|key| String::from_utf8_lossy(&key).into_owned());
                    let headers = event.headers.iter();
                    let headers: Vec<_> = headers.map(|(n, v)| (n.clone(), v.clone())).collect();
                    format!("{key:?} {:?} {headers:?}", event.timestamp_ms)
                }
                Err(error) => format!("{} {}", error.index, error.code),
            });
        });
        found
    }

    fn event(value: &'static str) -> OwnedEvent {
        OwnedEvent { value: Some(Bytes::from_static(value.as_bytes())), ..OwnedEvent::default() }
    }

    #[test]
    fn what_a_sender_does_not_say_is_found_in_the_event() {
        let fields = EventFields {
            key: Some(KeyField::Path("$.u.id".to_owned())),
            timestamp: Some("$.t".to_owned()),
            headers: vec![("s".to_owned(), "$.s".to_owned()), ("n".to_owned(), "$.n".to_owned())],
        };
        let full = r#"{"u": {"id": 7}, "t": 5, "s": "web", "n": 1.10}"#;
        let own = (Bytes::from("s"), Some(Bytes::from("x")));
        let said = OwnedEvent {
            key: Some(Bytes::from("k")),
            timestamp_ms: Some(9),
            headers: vec![own],
            ..event(full)
        };
        let events = vec![
            event(full),
            said,
            event(r#"{"u": {"id": null}, "t": 5, "s": null}"#),
            event(r#"{"t": 5}"#),
            event(r#"{"u": {"id": 7}}"#),
            OwnedEvent::default(),
        ];
        let wanted = [
            r#"Some("7") Some(5) [(b"s", Some(b"web")), (b"n", Some(b"1.10"))]"#,
            r#"Some("k") Some(9) [(b"s", Some(b"x")), (b"n", Some(b"1.10"))]"#,
            "None Some(5) []",
            "3 bad_key",
            "4 bad_timestamp",
            "None None []",
        ];
        assert_eq!(placed(fields, events), wanted);
    }

    #[test]
    fn a_key_may_be_a_header() {
        let key = Some(KeyField::Header("ce_subject".to_owned()));
        let fields = EventFields { key, ..EventFields::default() };
        let header = (Bytes::from("ce_subject"), Some(Bytes::from("order-7")));
        let with = OwnedEvent { headers: vec![header], ..event("1") };
        let found = placed(fields, vec![with, event("2")]);
        assert!(found[0].starts_with("Some(\"order-7\")") && found[1].starts_with("None"));
    }
}
