//! Which events of a body fit their table: all of them, or as the request says those that do.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::answer::Refused;
use crate::http::ingest::event::{Event, OnError, Source};
use crate::http::ingest::split::{self, Form};
use crate::http::problem::{EventError, Problem};
use crate::schema::columns::Plan;
use crate::schema::json::contract::{Checker, Ignored, Misfit, Rules};

/// Where an event lies, with its index.
type Place = (usize, Range<usize>);

/// The events of a body, by what becomes of them.
pub(super) struct Checked {
    pub(super) events: Events,
    /// Fields that no column took.
    pub(super) ignored: Ignored,
    /// Values that became null.
    pub(super) nulled: u64,
}

/// The events of a request, as they were sent.
pub(super) struct Events {
    body: Bytes,
    form: Form,
    good: Vec<Place>,
    /// Those that do not fit; what is no JSON has no place.
    bad: Vec<Place>,
    /// In order of index.
    refused: Vec<EventError>,
}

impl Events {
    /// True if there is nothing to store, and nothing to refuse.
    pub(super) fn is_empty(&self) -> bool {
        self.good.is_empty() && self.refused.is_empty()
    }

    /// True if all are refused.
    pub(super) fn are_refused(&self) -> bool {
        self.good.is_empty() && !self.refused.is_empty()
    }

    /// Those that are refused, with the reasons.
    pub(super) fn into_refused(self) -> Vec<EventError> {
        self.refused
    }
}

/// Checks the events of a body that is an array, whose places are known.
///
/// # Errors
/// The first one that does not fit.
pub(super) fn all(
    body: Bytes,
    ranges: Vec<Range<usize>>,
    (plan, rules): (Arc<Plan>, Rules),
) -> Result<Checked, Refused> {
    let events = ranges.into_iter().enumerate().collect();
    let split = split::Split { events, ..split::Split::default() };
    check((body, Form::Json), split, (plan, rules), OnError::Reject)
}

/// Checks the events of a body of any form.
///
/// # Errors
/// `bad_request` where there is none; with [`OnError::Reject`] the first one that is no JSON or does
/// not fit.
pub(super) fn any(
    (body, form): (Bytes, Form),
    events_max: usize,
    (plan, rules): (Arc<Plan>, Rules),
    on_error: OnError,
) -> Result<Checked, Refused> {
    let split = split::split(&body, form, events_max);
    if split.events.is_empty() && split.errors.is_empty() {
        let detail = "the body is empty: there is no event in it";
        return Err(Problem::new("bad_request", detail).into());
    }
    if let Some(error) = split.errors.first().filter(|_| on_error == OnError::Reject) {
        return Err(Refused::of_event(unreadable(error)));
    }
    check((body, form), split, (plan, rules), on_error)
}

fn unreadable(error: &EventError) -> Problem {
    let EventError { index, offset_bytes, message, .. } = error;
    match error.code {
        "too_many_events" => Problem::new("too_large", message.clone()),
        _ => {
            let detail = format!("events[{index}], at byte {offset_bytes}: {message}");
            Problem::new("invalid_json", detail)
        }
    }
}

fn check(
    (body, form): (Bytes, Form),
    split: split::Split,
    (plan, rules): (Arc<Plan>, Rules),
    on_error: OnError,
) -> Result<Checked, Refused> {
    let mut checker = Checker::new(plan, rules);
    let (mut good, mut bad, mut refused) = (Vec::new(), Vec::new(), split.errors);
    for (index, range) in split.events {
        let event = std::str::from_utf8(&body[range.clone()]).unwrap_or_default();
        match checker.check(event) {
            Ok(()) => good.push((index, range)),
            Err(misfit) if on_error == OnError::Reject => return Err(refusal(index, misfit)),
            Err(misfit) => {
                refused.push(told(index, range.start, misfit));
                bad.push((index, range));
            }
        }
    }
    refused.sort_by_key(|error| error.index);
    let (ignored, nulled) = (checker.ignored().clone(), checker.nulled());
    Ok(Checked { events: Events { body, form, good, bad, refused }, ignored, nulled })
}

/// Why the request is refused for this event.
fn refusal(index: usize, misfit: Misfit) -> Refused {
    match misfit {
        Misfit::Value(value) => Refused::mismatch(index, &value),
        Misfit::NotObject => {
            let detail = format!("events[{index}] is not an object: a row is made of one");
            Refused::of_event(Problem::new("schema_mismatch", detail))
        }
        other => {
            let detail = format!("events[{index}]: {}", other.bad_record().message);
            Refused::of_event(Problem::new("invalid_json", detail))
        }
    }
}

/// What is told of an event that is left out.
fn told(index: usize, offset_bytes: usize, misfit: Misfit) -> EventError {
    let (code, field, message) = match misfit {
        Misfit::Value(value) => {
            let (expected, got, shown) = (value.expected.to_uppercase(), value.got, &value.shown);
            let space = if shown.is_empty() { "" } else { " " };
            let message = format!("expected {expected}, got {got}{space}{shown}");
            ("schema_mismatch", Some(value.field), message)
        }
        Misfit::NotObject => {
            ("schema_mismatch", None, "it is not an object: a row is made of one".to_owned())
        }
        other => ("invalid_json", None, other.bad_record().message),
    };
    EventError { index, offset_bytes, field, code, message }
}

impl Source for Events {
    fn size_bytes(&self) -> usize {
        self.body.len()
    }

    fn refused(&self) -> &[EventError] {
        &self.refused
    }

    fn raw(&self, error: &EventError) -> &[u8] {
        let of = |places: &[Place]| {
            let at = places.binary_search_by_key(&error.index, |(index, _)| *index).ok()?;
            Some(places[at].1.clone())
        };
        if let Some(range) = of(&self.bad).or_else(|| of(&self.good)) {
            return &self.body[range];
        }
        let rest = self.body.get(error.offset_bytes..).unwrap_or_default();
        match (self.form, memchr::memchr(b'\n', rest)) {
            (Form::Lines, Some(end)) => &rest[..end],
            // After a syntax error elsewhere nothing can be told apart.
            _ => rest,
        }
    }

    fn visit(&self, take: &mut dyn FnMut(Result<Event<'_>, EventError>)) {
        for (index, range) in &self.good {
            take(Ok(Event {
                index: *index,
                offset_bytes: range.start,
                value: Some(&self.body[range.clone()]),
                ..Event::default()
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use iceberg::spec::{NestedField, PrimitiveType, Schema, Type};

    use super::*;
    use crate::tier::rows::contract;
    use crate::topic::options::TopicOptions;

    fn checked(body: &str, form: Form, on_error: OnError) -> Result<Checked, Refused> {
        let long = Type::Primitive(PrimitiveType::Long);
        let fields = vec![NestedField::required(1, "id", long).into()];
        let schema = Schema::builder().with_fields(fields).build().unwrap();
        let plan = Arc::new(contract::plan(&schema).unwrap());
        let rules = contract::rules(TopicOptions::default().table_contract);
        any((Bytes::copy_from_slice(body.as_bytes()), form), 100, (plan, rules), on_error)
    }

    #[test]
    fn events_that_do_not_fit_are_left_out_where_the_request_says_so() {
        let lines = "{\"id\":1}\n{\"id\":\"x\"}\n7\n{bad\n{\"id\":2}\n";
        let Checked { events, .. } = checked(lines, Form::Lines, OnError::Skip).unwrap();
        let mut stored = Vec::new();
        events.visit(&mut |event| stored.push(event.unwrap().index));
        assert_eq!(stored, [0, 4]);
        let told = |error: &EventError| {
            let raw = String::from_utf8_lossy(events.raw(error)).into_owned();
            (error.index, error.code, raw)
        };
        let wanted = [
            (1, "schema_mismatch", "{\"id\":\"x\"}".to_owned()),
            (2, "schema_mismatch", "7".to_owned()),
            (3, "invalid_json", "{bad".to_owned()),
        ];
        assert_eq!(events.refused().iter().map(told).collect::<Vec<_>>(), wanted);
        assert_eq!(events.refused()[0].field.as_deref(), Some("id"));
        assert!(!events.are_refused() && !events.is_empty());
        assert!(checked("{bad", Form::Lines, OnError::Skip).unwrap().events.are_refused());
        for (body, rejected) in
            [(lines, 1), ("[{\"id\":1},7]", 1), ("[{\"id\":\"x\"}]", 1), ("[1,", 1), (" ", 0)]
        {
            let refused = checked(body, Form::Json, OnError::Reject).err().unwrap();
            assert_eq!(refused.rejected, rejected, "{body}");
        }
        assert!(checked(" ", Form::Json, OnError::Skip).is_err(), "there is no event");
    }
}
