//! What a request says besides its body: parameters, headers, content type. Pure.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use bytes::Bytes;

use crate::http::ingest::event::{Ack, OnError, Terms, answer_by, is_reserved};
use crate::http::ingest::hint;
use crate::http::ingest::place::Placement;
use crate::http::ingest::prefer::Prefer;
use crate::http::ingest::split::{self, Form};
use crate::http::problem::Problem;
use crate::topic::Topic;

/// Longest wait for the table.
const WAIT_MAX: Duration = Duration::from_secs(25);

/// What the query string may say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    key: Option<String>,
    partition: Option<usize>,
    /// Path of the time in each event, with `$.`.
    timestamp: Option<String>,
    /// Path of the id by which an event counts once, with `$.`.
    id: Option<String>,
    /// What the answer waits for, without the time; none is as the headers say.
    ack: Option<Ack>,
    /// The body is the key of a request that has no other.
    pub(super) is_body_key: bool,
    /// A comma after the last event of an array is no mistake.
    pub(super) is_lenient_json: bool,
    /// How long it waits for the table.
    wait: Option<Duration>,
    /// What becomes of valid events beside invalid ones; none is as the headers say.
    on_error: Option<OnError>,
}

fn refused(name: &str, value: &str, allowed: &str) -> Problem {
    Problem::new("bad_request", format!("parameter {name}={value} is refused: {allowed}"))
}

/// A path in each event.
fn path(name: &str, value: &str) -> Result<String, Problem> {
    if value.len() > 2 && value.starts_with("$.") {
        return Ok(value.to_owned());
    }
    Err(refused(name, value, "it must be a path in each event, such as $.time"))
}

impl Parameters {
    /// Reads `name=value` pairs, each name once.
    ///
    /// # Errors
    /// `bad_request`, with what is allowed.
    pub(crate) fn parse<'p>(
        pairs: impl IntoIterator<Item = (Cow<'p, str>, Cow<'p, str>)>,
    ) -> Result<Self, Problem> {
        let mut found = Self::default();
        let mut seen: Vec<Cow<'p, str>> = Vec::new();
        for (name, value) in pairs {
            if seen.contains(&name) {
                return Err(refused(&name, &value, "it is given twice"));
            }
            found.take(&name, value)?;
            seen.push(name);
        }
        Ok(found)
    }

    fn take(&mut self, name: &str, value: Cow<'_, str>) -> Result<(), Problem> {
        match (name, &*value) {
            ("key", _) => self.key = Some(value.into_owned()),
            ("partition", text) => match text.parse() {
                Ok(partition) => self.partition = Some(partition),
                Err(_) => return Err(refused(name, text, "it must be a whole number from 0 on")),
            },
            ("timestamp", _) => self.timestamp = Some(path(name, &value)?),
            ("dedup_field", _) => self.id = Some(path(name, &value)?),
            ("dedup", "body") => self.is_body_key = true,
            ("dedup", text) => return Err(refused(name, text, "allowed is body")),
            ("json", "lenient") => self.is_lenient_json = true,
            ("json", text) => return Err(refused(name, text, "allowed is lenient")),
            ("on_error", "reject") => self.on_error = Some(OnError::Reject),
            ("on_error", "skip") => self.on_error = Some(OnError::Skip),
            ("on_error", "quarantine") => self.on_error = Some(OnError::Quarantine),
            ("on_error", text) => {
                return Err(refused(name, text, "allowed are reject, skip and quarantine"));
            }
            ("ack", "accepted") => self.ack = Some(Ack::Accepted),
            ("ack", "durable") => self.ack = Some(Ack::Durable),
            ("ack", "committed") => self.ack = Some(Ack::Committed(WAIT_MAX)),
            ("ack", text) => {
                return Err(refused(name, text, "allowed are accepted, durable and committed"));
            }
            ("wait", text) => match text.parse() {
                Ok(seconds) if seconds <= WAIT_MAX.as_secs() => {
                    self.wait = Some(Duration::from_secs(seconds));
                }
                _ => return Err(refused(name, text, "seconds, from 0 to 25")),
            },
            _ => {
                let known =
                    "key, partition, timestamp, dedup, dedup_field, json, on_error, ack, wait";
                let detail = format!("parameter {name:?} is not known; there are {known}");
                return Err(Problem::new("bad_request", detail));
            }
        }
        Ok(())
    }
}

impl Parameters {
    /// The terms of the request; a parameter counts before what the sender would prefer.
    pub(crate) fn terms(&self, prefer: &Prefer) -> Terms {
        let preferred = if prefer.is_async { Ack::Accepted } else { Ack::Logged };
        let ack = match self.ack.unwrap_or(preferred) {
            Ack::Committed(longest) => {
                Ack::Committed(self.wait.or(prefer.wait).unwrap_or(longest).min(longest))
            }
            ack => ack,
        };
        let preferred = if prefer.lenient { OnError::Skip } else { OnError::Reject };
        Terms { on_error: self.on_error.unwrap_or(preferred), ack, ..Terms::new(answer_by()) }
    }
}

/// Where the events go and what is stored with them.
pub(super) fn placement(
    parameters: &Parameters,
    headers: &HeaderMap,
) -> Result<Placement, Problem> {
    let bad = |detail: &str| Problem::new("bad_request", detail);
    let mut key = parameters.key.clone();
    if let Some(value) = headers.get("x-kafka-key") {
        if key.is_some() {
            return Err(bad("parameter key and header X-Kafka-Key both set the key: send one"));
        }
        let text = std::str::from_utf8(value.as_bytes());
        key = Some(text.map_err(|_| bad("header X-Kafka-Key is not UTF-8"))?.to_owned());
    }
    let mut own = Vec::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("x-kafka-header-") else { continue };
        if is_reserved(name.as_bytes()) {
            let detail = format!("the record header {name} is reserved: the server sets it");
            return Err(bad(&detail));
        }
        let value = Some(Bytes::copy_from_slice(value.as_bytes()));
        own.push((Bytes::copy_from_slice(name.as_bytes()), value));
    }
    let (timestamp, id) = (parameters.timestamp.clone(), parameters.id.clone());
    Ok(Placement { key, partition: parameters.partition, timestamp, headers: own, id })
}

/// Refuses a partition that the topic does not have.
pub(super) fn check_partition(placement: &Placement, topic: &Topic) -> Result<(), Problem> {
    let count = topic.partitions.len();
    match placement.partition {
        Some(partition) if partition >= count => {
            let detail = format!("{} has partitions 0 to {}", topic.name, count.saturating_sub(1));
            Err(Problem::new("invalid_partition", detail))
        }
        _ => Ok(()),
    }
}

/// What routes take that take JSON in any form.
pub(crate) const JSON_TYPES: &str = "application/json (or text/plain, application/octet-stream or \
     application/x-www-form-urlencoded with JSON in it), or one event per line as \
     application/x-ndjson, application/ndjson, application/jsonl, application/json-lines or \
     application/json-seq";
/// What the native route takes.
pub(super) const EVENT_TYPES: &str = "application/json (or text/plain or application/octet-stream \
     with JSON in it); one event per line as application/x-ndjson, application/ndjson, \
     application/jsonl, application/json-lines or application/json-seq; \
     application/cloudevents+json or application/cloudevents-batch+json; a form as \
     application/x-www-form-urlencoded";

/// How the body is to be read; JSON is recognised where the content type says nothing. `accepted` is
/// what the route takes, for who sends anything else.
pub(crate) fn form(headers: &HeaderMap, body: &[u8], accepted: &str) -> Result<Form, Problem> {
    let value = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let essence = value.map(|value| value.split(';').next().unwrap_or_default().trim());
    let essence = essence.map(str::to_ascii_lowercase);
    let start = body.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != 0x1e);
    let begins = start.map(|at| &body[at..]);
    // What was meant to be JSON gets the answer that broken JSON gets.
    let is_json = begins.is_none_or(|it| matches!(it[0], b'[' | b'{') || hint::is_java(it));
    let unsupported = |what: &str| {
        let detail = format!("{what}; send {accepted}");
        Err(Problem::new("unsupported_media_type", detail))
    };
    match essence.as_deref() {
        Some(lines) if split::is_lines(lines) => Ok(Form::Lines),
        Some("application/json") => Ok(Form::Json),
        None
        | Some(
            "" | "text/plain" | "application/octet-stream" | "application/x-www-form-urlencoded",
        ) => match is_json {
            true => Ok(Form::Json),
            false => unsupported(
                "the body does not begin with [ or { and no content type says what it is",
            ),
        },
        Some(other) => unsupported(&format!("content type {other:?} is not supported")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Parameters, String> {
        let pairs = pairs.iter().map(|(name, value)| (Cow::from(*name), Cow::from(*value)));
        Parameters::parse(pairs).map_err(|problem| format!("{problem:?}"))
    }

    fn placed(pairs: &[(&str, &str)], sent: &[(&str, &[u8])]) -> Result<Placement, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        placement(&parse(pairs)?, &headers).map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn a_bad_parameter_is_named_with_what_is_allowed() {
        for (name, value, allowed) in [
            ("partition", "-1", "whole number"),
            ("partition", "x", "whole number"),
            ("timestamp", "now", "$.time"),
            ("timestamp", "$.", "$.time"),
            ("dedup_field", "id", "$.time"),
            ("dedup", "id", "allowed is body"),
            ("json", "loose", "allowed is lenient"),
            ("on_error", "x", "reject, skip and quarantine"),
            ("ack", "x", "accepted, durable and committed"),
            ("wait", "26", "0 to 25"),
            ("Key", "x", "there are key"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(allowed), "{name}={value}: {error}");
        }
        assert!(parse(&[("key", "a"), ("key", "b")]).unwrap_err().contains("twice"));
        let good = parse(&[("partition", "3"), ("timestamp", "$.a.b"), ("on_error", "skip")]);
        let good = good.unwrap();
        assert_eq!((good.partition, good.timestamp.as_deref()), (Some(3), Some("$.a.b")));
        assert_eq!(good.on_error, Some(OnError::Skip));
    }

    #[test]
    fn a_parameter_counts_before_a_preference() {
        let wait = |seconds| Some(Duration::from_secs(seconds));
        let prefer = Prefer { is_async: true, wait: wait(7), lenient: true, minimal: false };
        let terms = |pairs: &[(&str, &str)]| {
            let terms = parse(pairs).unwrap().terms(&prefer);
            (terms.ack, terms.on_error)
        };
        assert_eq!(terms(&[]), (Ack::Accepted, OnError::Skip));
        let committed = |seconds| Ack::Committed(Duration::from_secs(seconds));
        let given = [("ack", "committed"), ("on_error", "reject")];
        assert_eq!(terms(&given), (committed(7), OnError::Reject));
        assert_eq!(terms(&[("ack", "committed"), ("wait", "3")]).0, committed(3));
        let plain = parse(&[]).unwrap().terms(&Prefer::default());
        assert_eq!((plain.ack, plain.on_error), (Ack::Logged, OnError::Reject));
        let patient = Prefer { wait: wait(90), ..Prefer::default() };
        assert_eq!(parse(&[("ack", "committed")]).unwrap().terms(&patient).ack, committed(25));
    }

    #[test]
    fn key_and_record_headers_come_from_headers() {
        let sent: &[(&str, &[u8])] =
            &[("X-Kafka-Key", "ä".as_bytes()), ("X-Kafka-Header-Source", b"web")];
        let found = placed(&[], sent).unwrap();
        assert_eq!(found.key.as_deref(), Some("ä"));
        assert_eq!(found.headers, [(Bytes::from("source"), Some(Bytes::from("web")))]);
    }

    #[test]
    fn two_keys_and_reserved_headers_are_refused() {
        assert!(placed(&[("key", "a")], &[("x-kafka-key", b"a")]).unwrap_err().contains("both"));
        assert!(placed(&[], &[("x-kafka-key", b"\xff")]).unwrap_err().contains("UTF-8"));
        for name in ["X-Kafka-Header-floe.id", "x-kafka-header-Floe.Write_Id"] {
            assert!(placed(&[], &[(name, b"1")]).unwrap_err().contains("reserved"), "{name}");
        }
    }

    #[test]
    fn who_sends_what_is_not_taken_is_told_all_that_is() {
        for (kind, body) in [("application/msgpack", "x"), ("avro/binary", "x"), ("", "text")] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
            let refused = form(&headers, body.as_bytes(), EVENT_TYPES).unwrap_err();
            assert_eq!(refused.code(), "unsupported_media_type");
            for taken in [
                "application/json",
                "application/x-ndjson",
                "application/ndjson",
                "application/jsonl",
                "application/json-lines",
                "application/json-seq",
                "application/cloudevents+json",
                "application/cloudevents-batch+json",
                "application/x-www-form-urlencoded",
                "text/plain",
                "application/octet-stream",
            ] {
                assert!(refused.detail().contains(taken), "{taken}: {}", refused.detail());
            }
        }
    }
}
