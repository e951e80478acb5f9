//! HTTP bodies: compression, splitting into events, OpenTelemetry.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::fuzzing::steer;
use crate::http::ingest::body::{Coding, Share, inflate};
use crate::http::ingest::event::Source;
use crate::http::ingest::split::{DEPTH_MAX, Form, Split, split};
use crate::http::otlp::encoding::Encoding;
use crate::http::otlp::records::{Limits, Records};
use crate::runtime::ByteBudget;
use crate::types::Signal;

/// A body is inflated to at most the limit, and holds memory for what comes out.
pub(super) fn inflated(steer: u8, wire: &[u8], limit: usize) {
    let codings = [Coding::Identity, Coding::Gzip, Coding::Deflate, Coding::Zstd];
    let coding = codings[usize::from(steer) % codings.len()];
    let budget = ByteBudget::new(1 << 20);
    let mut share = Share::new(budget.clone());
    if let Ok(bytes) = inflate(coding, wire, (limit, 100), &mut share) {
        assert!(bytes.len() <= limit, "{} bytes with a limit of {limit}", bytes.len());
        assert!(bytes.is_empty() || budget.used_bytes() >= bytes.len());
    }
    drop(share);
    assert_eq!(budget.used_bytes(), 0);
}

/// The first byte picks the form, the second how many events there may be; the rest is a body.
///
/// # Panics
/// If a property does not hold.
pub fn json_splitter(data: &[u8]) {
    let (first, rest) = steer(data);
    let (second, body) = steer(rest);
    let form = match first % 4 {
        0 | 2 => Form::Json,
        1 => Form::Lines,
        _ => Form::Lenient,
    };
    let events_max = 1 + usize::from(second);
    let found = split(body, form, events_max);
    ordered(&found, body, events_max);
    for (_, range) in &found.events {
        event(&body[range.clone()]);
    }
    match (form, std::str::from_utf8(body)) {
        (_, Err(_)) => assert!(found.events.is_empty() && found.errors.len() == 1),
        (Form::Json, Ok(text)) => values(&found, text),
        (Form::Lines, Ok(text)) => lines(&found, text, events_max),
        (Form::Lenient, Ok(_)) => lenient(&found, &split(body, Form::Json, events_max)),
    }
}

/// All that a strict reader takes is taken, and at most the comma after the last event besides.
fn lenient(found: &Split, strict: &Split) {
    assert_eq!(found.events, strict.events);
    assert!(found.errors.len() <= 1, "more than the first error");
    assert!(found.errors.is_empty() || !strict.errors.is_empty());
}

/// Events and errors name places of the body, in order, and each index once.
fn ordered(found: &Split, body: &[u8], events_max: usize) {
    assert!(found.events.len() <= events_max);
    let mut end = 0;
    for (_, range) in &found.events {
        assert!(end <= range.start && range.start < range.end && range.end <= body.len());
        end = range.end;
    }
    assert!(found.events.is_sorted_by_key(|(index, _)| *index));
    assert!(found.errors.is_sorted_by_key(|error| error.index));
    let mut indexes: Vec<usize> = found.events.iter().map(|(index, _)| *index).collect();
    indexes.extend(found.errors.iter().map(|error| error.index));
    indexes.sort_unstable();
    assert!(indexes.iter().enumerate().all(|(at, index)| at == *index), "{indexes:?}");
    assert!(found.errors.iter().all(|error| error.offset_bytes <= body.len()));
}

/// An event is one JSON value without space around it and not too deep.
fn event(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("the body is UTF-8");
    let value: &RawValue = serde_json::from_str(text).expect("an event is JSON");
    assert_eq!(value.get(), text, "space around an event");
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    assert!(deepest <= DEPTH_MAX, "{deepest} levels");
}

/// What an ordinary parser says of a body that is one array, or values one after another.
fn values(found: &Split, text: &str) {
    assert!(found.errors.len() <= 1, "more than the first error");
    if let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(text) {
        let events = found.events.iter().map(|(_, range)| &text[range.clone()]);
        assert!(!found.errors.is_empty() || events.eq(list.iter().map(|value| value.get())));
    } else if found.errors.is_empty() && !text.contains('\u{1e}') {
        assert!(!text.trim_start().starts_with('['), "a bad array has no error");
        let all = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
        let all: Vec<&RawValue> = all.map(|value| value.expect("no error was named")).collect();
        let events = found.events.iter().map(|(_, range)| &text[range.clone()]);
        assert!(events.eq(all.iter().map(|value| value.get())));
    }
}

/// Each line that is not blank is an event or an error.
fn lines(found: &Split, text: &str, events_max: usize) {
    let blank = |line: &&str| line.trim().trim_matches('\u{1e}').trim().is_empty();
    let count = text.split('\n').filter(|line| !blank(line)).count();
    let named = found.events.len() + found.errors.len();
    assert_eq!(named, count.min(events_max + 1), "lines were lost or made");
    for (_, range) in &found.events {
        assert!(!text[range.clone()].contains('\n'), "an event of several lines");
    }
}

/// The first byte picks signal and encoding; the rest is a body.
///
/// # Panics
/// If a property does not hold.
pub fn otlp(data: &[u8]) {
    let (first, body) = steer(data);
    let signal = [Signal::Logs, Signal::Traces, Signal::Metrics][usize::from(first) % 3];
    let encoding = [Encoding::Protobuf, Encoding::Json][usize::from(first) / 3 % 2];
    let limits = Limits { events_max: 1_000, bytes_max: 1 << 20 };
    let records = Records::new(Bytes::copy_from_slice(body), encoding, signal, limits);
    let Ok(records) = records else { return };
    let mut next = 0;
    records.visit(&mut |record| {
        match record {
            Ok(record) => {
                assert_eq!(record.index, next);
                assert!(record.offset_bytes <= body.len());
                let value = record.value.expect("a record has a value");
                assert!(value.starts_with(b"{"), "a record is no object");
                event(value);
            }
            Err(error) => {
                assert_eq!(error.index, next);
                assert!(records.raw(&error).len() <= body.len());
            }
        }
        next += 1;
    });
    assert!(next <= limits.events_max);
    assert_eq!(next == 0, records.is_empty());
}
