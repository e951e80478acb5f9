//! `POST /v3/clusters/{cluster}/topics/{topic}/records`: records one after another, receipts one
//! after another; and `records:batch`: entries with ids.

use std::collections::HashSet;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::http::Api;
use crate::http::confluent::append::{Appended, Inbound, Receipt, append};
use crate::http::confluent::data::object;
use crate::http::confluent::failure::{BATCH, Failure, Refused};
use crate::http::confluent::metadata::check_cluster;
use crate::http::confluent::record::{Parsed, Part, Shown, parse};
use crate::http::ingest::engine::off_worker;
use crate::http::ingest::split::{self, Form};
use crate::http::problem::EventError;

/// Most entries of a batch. Confluent's proxy takes 10.
const ENTRIES_MAX: usize = 10_000;
/// Longest id of an entry, characters.
const ID_CHARS_MAX: usize = 80;

pub(super) async fn records(
    State(api): State<Api>,
    Path((cluster, topic)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refused> {
    let look = |_: &HeaderMap| check_cluster(&api, &cluster);
    let (inbound, ()) = Inbound::read(&api, &topic, request, "v3 records", look).await?;
    let (body, events_max) = (inbound.body.clone(), api.options.events_max);
    let now_ms = api.engine.now_ms();
    let parsed = move || Ok(stream(&body, events_max, now_ms));
    let parsed = off_worker(inbound.body.len(), parsed).await?;
    if parsed.is_empty() {
        return Err(Failure::new(400, "Null input provided. Data is required.").into());
    }
    let (records, shown): (Vec<_>, Vec<_>) = parsed.into_iter().unzip();
    let appended = append(&api, &topic, inbound, records).await?;
    let mut lines = Vec::new();
    let told = Told::new(&api, &topic, &appended);
    for (receipt, shown) in appended.receipts.iter().zip(&shown) {
        match receipt {
            Receipt::Failed(failure) => write(&mut lines, failure),
            Receipt::Stored { partition, offset } => {
                let stored = told.stored(shown, *partition, *offset);
                write(&mut lines, &Success { error_code: Some(200), ..stored });
            }
        }
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    let status = appended.status(StatusCode::OK);
    let mut response = (status, json, Body::from(lines)).into_response();
    appended.mark(&mut response);
    Ok(response)
}

fn write(lines: &mut Vec<u8>, receipt: &impl Serialize) {
    // Receipts are plain structs, and memory takes what is written.
    if serde_json::to_writer(&mut *lines, receipt).is_ok() {
        lines.push(b'\n');
    }
}

/// Records one after another; after one that is no JSON nothing is trusted.
fn stream(body: &Bytes, events_max: usize, now_ms: i64) -> Vec<Parsed> {
    let split = split::split(body, Form::Json, events_max);
    let records = split.events.into_iter().map(|(_, range)| body.slice(range));
    let mut parsed: Vec<Parsed> = records.map(|bytes| parse(&bytes, now_ms, false)).collect();
    parsed.extend(split.errors.iter().map(unreadable));
    parsed
}

fn unreadable(error: &EventError) -> Parsed {
    let code = if error.code == "too_many_events" { 413 } else { 400 };
    let message = format!("Error processing message: {}", error.message);
    (Err(Failure::new(code, message)), Shown::default())
}

pub(super) async fn batch(
    State(api): State<Api>,
    Path((cluster, topic)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refused> {
    let look = |_: &HeaderMap| check_cluster(&api, &cluster);
    let (inbound, ()) = Inbound::read(&api, &topic, request, "v3 batch", look).await?;
    let (body, entries_max) = (inbound.body.clone(), api.options.events_max.min(ENTRIES_MAX));
    let now_ms = api.engine.now_ms();
    let parsed = move || Ok(entries(&body, entries_max, now_ms));
    let (ids, parsed) = off_worker(inbound.body.len(), parsed).await??;
    let (records, shown): (Vec<_>, Vec<_>) = parsed.into_iter().unzip();
    let appended = append(&api, &topic, inbound, records).await?;
    let told = Told::new(&api, &topic, &appended);
    let (mut successes, mut failures) = (Vec::new(), Vec::new());
    for ((receipt, id), shown) in appended.receipts.iter().zip(&ids).zip(&shown) {
        match receipt {
            Receipt::Failed(failure) => failures.push(FailedEntry { id, failure }),
            Receipt::Stored { partition, offset } => {
                let stored = told.stored(shown, *partition, *offset);
                successes.push(Success { id: Some(id), ..stored });
            }
        }
    }
    let status = appended.status(StatusCode::MULTI_STATUS);
    let mut response = (status, Json(BatchAnswer { successes, failures })).into_response();
    appended.mark(&mut response);
    Ok(response)
}

#[derive(Deserialize)]
struct Entries<'b> {
    #[serde(borrow)]
    entries: Option<&'b RawValue>,
}

#[derive(Deserialize)]
struct Entry {
    id: Option<String>,
}

/// The ids and records of a batch. What is wrong with an id refuses all.
fn entries(
    body: &Bytes,
    entries_max: usize,
    now_ms: i64,
) -> Result<(Vec<String>, Vec<Parsed>), Failure> {
    let envelope: Entries<'_> = object(body).map_err(|message| Failure::new(400, message))?;
    let list = envelope.entries.map(RawValue::get).filter(|list| list.starts_with('['));
    let list = list.ok_or_else(|| Failure::new(400, "entries must be an array of records"))?;
    let list = body.slice_ref(list.as_bytes());
    let split = split::split(&list, Form::Json, entries_max);
    if let Some(error) = split.errors.first() {
        return Err(match error.code {
            "too_many_events" => Failure::new(BATCH, "Too many entries in batch."),
            _ => Failure::new(400, error.message.clone()),
        });
    }
    if split.events.is_empty() {
        return Err(Failure::new(BATCH, "Empty batch."));
    }
    let mut ids: Vec<String> = Vec::with_capacity(split.events.len());
    let mut parsed = Vec::with_capacity(split.events.len());
    let mut seen = HashSet::new();
    for (index, range) in split.events {
        let bytes = list.slice(range);
        let entry: Entry = object(&bytes)
            .map_err(|message| Failure::new(400, format!("entry {index}: {message}")))?;
        let id = entry.id.unwrap_or_default();
        if !(1..=ID_CHARS_MAX).contains(&id.chars().count()) {
            let message = format!("entry {index}: an id has 1 to {ID_CHARS_MAX} characters.");
            return Err(Failure::new(BATCH, message));
        }
        if !seen.insert(id.clone()) {
            return Err(Failure::new(BATCH, "Entry IDs must be distinct."));
        }
        ids.push(id);
        parsed.push(parse(&bytes, now_ms, true));
    }
    Ok((ids, parsed))
}

/// What the receipts of a request share.
struct Told<'r> {
    cluster: &'r str,
    topic: &'r str,
    /// The time of a record is the one that its sender, or the request, gave it.
    own_times: bool,
}

impl<'r> Told<'r> {
    fn new(api: &'r Api, topic: &'r str, appended: &Appended) -> Self {
        let log_stamps = api.topics.get(topic).is_some_and(|it| it.options.log_append_time);
        let own_times = !log_stamps && !appended.replayed;
        Self { cluster: &api.options.cluster_id, topic, own_times }
    }

    fn stored(&self, shown: &Shown, partition: i64, offset: i64) -> Success<'r> {
        let time = chrono::DateTime::from_timestamp_millis(shown.timestamp_ms);
        let time = time.filter(|_| self.own_times);
        Success {
            id: None,
            error_code: None,
            cluster_id: self.cluster,
            topic_name: self.topic,
            partition_id: partition,
            offset,
            timestamp: time.map(|it| it.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
            key: shown.key,
            value: shown.value,
        }
    }
}

#[derive(Serialize)]
struct Success<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<u32>,
    cluster_id: &'r str,
    topic_name: &'r str,
    partition_id: i64,
    offset: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Part>,
}

#[derive(Serialize)]
struct FailedEntry<'r> {
    id: &'r str,
    #[serde(flatten)]
    failure: &'r Failure,
}

#[derive(Serialize)]
struct BatchAnswer<'r> {
    successes: Vec<Success<'r>>,
    failures: Vec<FailedEntry<'r>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(body: &str) -> Result<Vec<String>, Failure> {
        let found = entries(&Bytes::copy_from_slice(body.as_bytes()), 3, 0);
        found.map(|(ids, records)| {
            assert_eq!(ids.len(), records.len());
            ids
        })
    }

    #[test]
    fn ids_of_a_batch_are_there_once() {
        let found = batch(r#"{"entries": [{"id": "a"}, {"id": "b", "x": 1}]}"#).unwrap();
        assert_eq!(found, ["a", "b"]);
        let long = format!("{{\"entries\": [{{\"id\": \"{}\"}}]}}", "i".repeat(81));
        for (body, code) in [
            (r#"{"entries": []}"#, BATCH),
            (r#"{"entries": [{"id": "a"}, {"id": "a"}]}"#, BATCH),
            (r#"{"entries": [{}]}"#, BATCH),
            (r#"{"entries": [{"id": ""}]}"#, BATCH),
            (&long, BATCH),
            (r#"{"entries": [{"id": "a"}, {"id": "b"}, {"id": "c"}, {"id": "d"}]}"#, BATCH),
            (r#"{"entries": [1]}"#, 400),
            (r#"{"entries": {}}"#, 400),
            ("{", 400),
        ] {
            assert_eq!(batch(body).unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn after_what_is_no_json_nothing_is_read() {
        let body = Bytes::from_static(br#"{"value":{"type":"JSON","data":1}} {"x":1}{,}{}"#);
        let found = stream(&body, 10, 0);
        let codes: Vec<_> =
            found.iter().map(|(record, _)| record.as_ref().err().map(|it| it.code)).collect();
        assert_eq!(codes, [None, Some(400), Some(400)]);
        assert_eq!(stream(&body, 1, 0)[1].0.as_ref().unwrap_err().code, 413);
        assert!(stream(&Bytes::from_static(b" \n"), 10, 0).is_empty());
    }
}
