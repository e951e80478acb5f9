//! `POST /api/v1/topics/{topic}/events`: events in, durable answers out.
//!
//! Owns: forms of bodies, per-event errors, the answer. Events become record batches on the same
//! log as Kafka's; all batches of a request are one chain: atomic (rules 7.1).

mod body;
mod events;
mod split;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::http::problem::{EventError, Problem};
use crate::http::{Api, answer_in_time, request_id};
use crate::log::{Append, AppendBatch, AppendError, Appended, Origin};
use crate::runtime::metrics;
use crate::topic::options::TopicOptions;
use crate::topic::{self, NewTopic, Topic};

use body::Decoded;
use events::{Batches, Placement, Target};
use split::{Form, Split};

/// What the query string may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    key: Option<String>,
    partition: Option<usize>,
    timestamp: Option<String>,
    on_error: Option<String>,
    ack: Option<String>,
}

pub(super) async fn events(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let Query(parameters) =
        query.map_err(|error| Problem::new("bad_request", error.body_text()))?;
    if let Some(problem) = api.not_ready() {
        return Err(problem);
    }
    let lenient = check(&parameters, &headers)?;
    let topic = topic(&api, &name).await?;
    let placement = placement(&parameters, &headers, &topic)?;
    let limit = api.options.body_max_bytes;
    let decoded = body::read(&headers, body, limit, &api.budget).await?;
    if decoded.bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::new("bad_request", "the body is empty: there is no event in it"));
    }
    let form = form(&headers, &decoded.bytes)?;
    let prepared = prepare(&api, decoded, form, placement, &topic, lenient).await?;
    answer_in_time(store(&api, &topic, prepared)).await
}

/// What is known from parameters and headers alone; true if valid events are stored without
/// the invalid ones.
fn check(parameters: &Parameters, headers: &HeaderMap) -> Result<bool, Problem> {
    if headers.contains_key("idempotency-key") {
        let detail = "Idempotency-Key is not supported yet; send without it";
        return Err(Problem::new("not_implemented", detail));
    }
    match parameters.ack.as_deref() {
        None | Some("durable") => {}
        Some(other) => {
            let detail = format!("ack={other} is not supported; durable is the only level");
            return Err(Problem::new("bad_request", detail));
        }
    }
    match parameters.on_error.as_deref() {
        None | Some("reject") => Ok(false),
        Some("skip") => Ok(true),
        Some(other) => {
            let detail = format!("on_error={other} is not one of reject, skip");
            Err(Problem::new("bad_request", detail))
        }
    }
}

/// The topic, made if need be.
async fn topic(api: &Api, name: &str) -> Result<Arc<Topic>, Problem> {
    if let Some(topic) = api.topics.get(name) {
        return Ok(topic);
    }
    if !api.options.auto_create_topics {
        return Err(super::unknown_topic(name));
    }
    let new = NewTopic { name: name.to_owned(), ..NewTopic::default() };
    match api.topics.create(new, false).await {
        Ok(topic) => Ok(topic),
        // Somebody else's first event made it meanwhile.
        Err(topic::Error::Exists(_)) => {
            api.topics.get(name).ok_or_else(|| super::unknown_topic(name))
        }
        Err(topic::Error::Store(error)) => Err(Problem::new("internal", error.to_string())),
        Err(error) => Err(Problem::new("invalid_topic", error.to_string())),
    }
}

fn placement(
    parameters: &Parameters,
    headers: &HeaderMap,
    topic: &Topic,
) -> Result<Placement, Problem> {
    if let Some(partition) = parameters.partition
        && partition >= topic.partitions.len()
    {
        let count = topic.partitions.len();
        let detail = format!("{} has partitions 0 to {}", topic.name, count.saturating_sub(1));
        return Err(Problem::new("invalid_partition", detail));
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let key = parameters.key.clone().or_else(|| text("x-kafka-key").map(ToOwned::to_owned));
    let mut own = Vec::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix("x-kafka-header-") {
            own.push((name.to_owned(), value.as_bytes().to_vec()));
        }
    }
    let timestamp = parameters.timestamp.clone();
    Ok(Placement { key, partition: parameters.partition, timestamp, headers: own })
}

/// How the body is to be read; JSON is recognised where the content type says nothing.
fn form(headers: &HeaderMap, body: &[u8]) -> Result<Form, Problem> {
    let value = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let essence = value.map(|value| value.split(';').next().unwrap_or_default().trim());
    let essence = essence.map(str::to_ascii_lowercase);
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace() && **byte != 0x1e);
    match essence.as_deref() {
        Some(
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/json-lines"
            | "application/json-seq",
        ) => Ok(Form::Lines),
        Some("application/json") => Ok(Form::Json),
        None
        | Some(
            "" | "text/plain" | "application/octet-stream" | "application/x-www-form-urlencoded",
        ) if matches!(first, None | Some(b'[' | b'{')) => Ok(Form::Json),
        None
        | Some(
            "" | "text/plain" | "application/octet-stream" | "application/x-www-form-urlencoded",
        ) => Err(Problem::new(
            "unsupported_media_type",
            "the body does not begin with [ or { and no content type says what it is; \
                 send application/json or application/x-ndjson",
        )),
        Some(other) => Err(Problem::new(
            "unsupported_media_type",
            format!(
                "content type {other:?} is not supported; send application/json or \
                 application/x-ndjson"
            ),
        )),
    }
}

/// Batches that are ready to append, with what was refused.
struct Prepared {
    batches: Batches,
    rejected: Vec<EventError>,
    write_id: Uuid,
    decoded: Decoded,
}

async fn prepare(
    api: &Api,
    decoded: Decoded,
    form: Form,
    placement: Placement,
    topic: &Arc<Topic>,
    lenient: bool,
) -> Result<Prepared, Problem> {
    let events_max = api.options.events_max;
    let write_id = Uuid::now_v7();
    let target = Target {
        partitions: topic.partitions.len(),
        max_message_bytes: topic.options.max_message_bytes as usize,
        now_ms: api.clock.now_ms(),
        write_id,
        timestamps_ms: timestamps_ms(&topic.options, api.clock.now_ms()),
        keyed: topic.options.compacted,
        // The last bytes of a version 7 UUID are random.
        sticky: usize::from(write_id.as_bytes()[15]) << 8 | usize::from(write_id.as_bytes()[14]),
    };
    let body = decoded.bytes.clone();
    let work = move || {
        let Split { events, errors } = split::split(&body, form, events_max);
        if !lenient && !errors.is_empty() {
            let none = Batches { batches: Vec::new(), accepted: 0, errors: Vec::new() };
            return Ok((none, errors));
        }
        events::build(&body, &events, &placement, &target).map(|batches| (batches, errors))
    };
    // Small bodies are done before another thread would have woken up.
    let worked = if decoded.bytes.len() <= 64 << 10 {
        work()
    } else {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
    };
    let (mut batches, mut rejected) = worked.map_err(|reason| Problem::new("internal", reason))?;
    rejected.append(&mut batches.errors);
    rejected.sort_by_key(|error| error.index);
    let count = |result: &'static str, number: usize| {
        ::metrics::counter!(metrics::HTTP_EVENTS, "result" => result).increment(number as u64);
    };
    count("rejected", rejected.len());
    if rejected.is_empty() || (lenient && batches.accepted > 0) {
        count("accepted", batches.accepted);
        return Ok(Prepared { batches, rejected, write_id, decoded });
    }
    Err(refusal(rejected))
}

/// What `message.timestamp.before.max.ms` and `after.max.ms` allow, inclusive; with `LogAppendTime`
/// the sender's times do not count.
fn timestamps_ms(options: &TopicOptions, now_ms: i64) -> RangeInclusive<i64> {
    if options.log_append_time {
        return i64::MIN..=i64::MAX;
    }
    let first = now_ms.saturating_sub(options.timestamp_before_max_ms);
    first..=now_ms.saturating_add(options.timestamp_after_max_ms)
}

fn refusal(rejected: Vec<EventError>) -> Problem {
    let total = rejected.len();
    let only = |code: &str| rejected.iter().all(|error| error.code == code);
    let code = if only("invalid_json") {
        "invalid_json"
    } else if only("too_large") || only("too_many_events") {
        "too_large"
    } else {
        "invalid_events"
    };
    let first = &rejected[0];
    let detail = format!("event {}: {}; nothing was stored", first.index, first.message);
    Problem::new(code, detail).with_errors(rejected, total)
}

async fn store(api: &Api, topic: &Topic, prepared: Prepared) -> Result<Json<Value>, Problem> {
    let Prepared { batches, mut rejected, write_id, decoded } = prepared;
    let indexes: Vec<usize> = batches.batches.iter().map(|(partition, _)| *partition).collect();
    let mut appended = Vec::new();
    if !batches.batches.is_empty() {
        let list = batches.batches.into_iter().map(|(partition, batch)| AppendBatch {
            partition: topic.partitions[partition],
            batch,
        });
        let append =
            Append { batches: list.collect(), origin: Origin::Http, ext: bytes::Bytes::new() };
        let pending = api.log.append(append).await.map_err(|error| problem(&error))?;
        appended = pending.wait().await.map_err(|error| problem(&error))?;
    }
    drop(decoded);
    let total = rejected.len();
    rejected.truncate(100);
    let mut answer = json!({
        "accepted": batches.accepted,
        "rejected": total,
        "topic": topic.name,
        "partitions": partitions(&indexes, &appended),
        "ack": "durable",
        "write_id": write_id,
        "request_id": request_id::current(),
    });
    if total > 0 {
        answer["errors"] = json!(rejected);
    }
    Ok(Json(answer))
}

/// One entry per partition with the offsets of its events, inclusive. The batches of one request
/// are one chain, so the offsets of a partition are without a hole.
fn partitions(indexes: &[usize], appended: &[Appended]) -> Vec<Value> {
    let mut spans: BTreeMap<usize, (i64, i64)> = BTreeMap::new();
    for (index, part) in indexes.iter().zip(appended) {
        let span = spans.entry(*index).or_insert((part.base_offset, part.last_offset));
        *span = (span.0.min(part.base_offset), span.1.max(part.last_offset));
    }
    let entries = spans.into_iter();
    entries
        .map(|(partition, (first, last))| {
            json!({"partition": partition, "first_offset": first, "last_offset": last})
        })
        .collect()
}

fn problem(error: &AppendError) -> Problem {
    match error {
        AppendError::StorageFull(reason) => {
            Problem::new("storage_full", reason.clone()).retry_after(5)
        }
        AppendError::Blocked(reason) => Problem::new("table_behind", reason.clone()).retry_after(5),
        AppendError::TooLarge { .. } => Problem::new("too_large", error.to_string()),
        // The log ended while the batch was on its way.
        AppendError::Closed => Problem::new("outcome_unknown", error.to_string()),
        AppendError::UnknownPartition => Problem::new("unknown_topic", error.to_string()),
        _ => Problem::new("internal", error.to_string()),
    }
}
