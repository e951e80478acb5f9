//! `POST /api/v1/topics/{topic}/events`: events in, durable answers out.
//!
//! Owns: forms of bodies, per-event errors, the answer. Events become record batches on the same
//! log as Kafka's; all batches of a request are one chain: atomic (rules 7.1).

pub(crate) mod body;
mod events;
mod request;
pub(crate) mod split;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::Flush;
use crate::http::problem::{EventError, Problem};
use crate::http::{Api, answer_in_time, request_id};
use crate::log::{Append, AppendBatch, AppendError, Appended, Origin};
use crate::record::TimestampBounds;
use crate::runtime::metrics;
use crate::topic::{self, NewTopic, Topic};
use crate::types::TopicName;

pub(crate) use body::BodyMemory;

use body::Decoded;
use events::{Batches, Placement, Target};
use request::Parameters;
use split::{Form, Split};

pub(super) async fn events(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let Query(pairs) = query.map_err(|error| Problem::new("bad_request", error.body_text()))?;
    let parameters = Parameters::parse(pairs)?;
    if let Some(problem) = api.not_ready() {
        return Err(problem);
    }
    let placement = request::placement(&parameters, &headers)?;
    let known = known_topic(&api, &name)?;
    if let Some(topic) = &known {
        request::check_partition(&placement, topic)?;
    }
    let limit = api.options.body_max_bytes;
    let decoded = body::read(&headers, body, limit, &api.memory).await?;
    if decoded.bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(no_event());
    }
    let form = request::form(&headers, &decoded.bytes)?;
    let split = split_body(&api, &decoded, form).await?;
    if split.events.is_empty() && split.errors.is_empty() {
        return Err(no_event());
    }
    let lenient = parameters.skips_invalid;
    if !split.errors.is_empty() && (!lenient || split.events.is_empty()) {
        count("rejected", split.errors.len());
        return Err(refusal(split.errors));
    }
    // Only now: what is refused makes no topic.
    let topic = match known {
        Some(topic) => topic,
        None => make_topic(&api, &name).await?,
    };
    request::check_partition(&placement, &topic)?;
    let prepared = prepare(&api, decoded, split, placement, &topic, lenient).await?;
    answer_in_time(store(&api, &topic, prepared, parameters.durable)).await
}

fn no_event() -> Problem {
    Problem::new("bad_request", "the body is empty: there is no event in it")
}

/// The topic, if it is there; an error if it cannot be made either.
fn known_topic(api: &Api, name: &str) -> Result<Option<Arc<Topic>>, Problem> {
    if let Some(topic) = api.topics.get(name) {
        return Ok(Some(topic));
    }
    if !api.options.auto_create_topics {
        return Err(super::unknown_topic(name));
    }
    match TopicName::parse(name) {
        Ok(_) => Ok(None),
        Err(error) => Err(Problem::new("invalid_topic", error.to_string())),
    }
}

async fn make_topic(api: &Api, name: &str) -> Result<Arc<Topic>, Problem> {
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

/// Batches that are ready to append, with what was refused.
struct Prepared {
    batches: Batches,
    rejected: Vec<EventError>,
    write_id: Uuid,
    decoded: Decoded,
}

/// Runs work over a body off the async workers; small bodies are done before another thread
/// would have woken up.
async fn over_body<T: Send + 'static>(
    body_bytes: usize,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Problem> {
    let worked = if body_bytes <= 64 << 10 {
        work()
    } else {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
    };
    worked.map_err(|reason| Problem::new("internal", reason))
}

async fn split_body(api: &Api, decoded: &Decoded, form: Form) -> Result<Split, Problem> {
    let (body, events_max) = (decoded.bytes.clone(), api.options.events_max);
    over_body(body.len(), move || Ok(split::split(&body, form, events_max))).await
}

fn count(result: &'static str, number: usize) {
    ::metrics::counter!(metrics::HTTP_EVENTS, "result" => result).increment(number as u64);
}

async fn prepare(
    api: &Api,
    decoded: Decoded,
    split: Split,
    placement: Placement,
    topic: &Arc<Topic>,
    lenient: bool,
) -> Result<Prepared, Problem> {
    let write_id = Uuid::now_v7();
    let now_ms = api.clock.now_ms();
    let options = &topic.options;
    let bounds = TimestampBounds {
        before_max_ms: options.timestamp_before_max_ms,
        after_max_ms: options.timestamp_after_max_ms,
        now_ms,
    };
    let target = Target {
        partitions: topic.partitions.len(),
        max_message_bytes: options.max_message_bytes as usize,
        now_ms,
        keyed: options.compacted,
        bounds: (!options.log_append_time).then_some(bounds),
        write_id,
        // The last bytes of a version 7 UUID are random.
        sticky: usize::from(write_id.as_bytes()[15]) << 8 | usize::from(write_id.as_bytes()[14]),
    };
    let body = decoded.bytes.clone();
    let Split { events, errors: mut rejected } = split;
    let built =
        over_body(body.len(), move || events::build(&body, &events, &placement, &target)).await;
    let mut batches = built?;
    rejected.append(&mut batches.errors);
    rejected.sort_by_key(|error| error.index);
    count("rejected", rejected.len());
    if rejected.is_empty() || (lenient && batches.accepted > 0) {
        count("accepted", batches.accepted);
        return Ok(Prepared { batches, rejected, write_id, decoded });
    }
    Err(refusal(rejected))
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

async fn store(
    api: &Api,
    topic: &Topic,
    prepared: Prepared,
    must_be_durable: bool,
) -> Result<Json<Value>, Problem> {
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
    let ack = acknowledge(api, must_be_durable).await?;
    drop(decoded);
    let total = rejected.len();
    rejected.truncate(100);
    let mut answer = json!({
        "accepted": batches.accepted,
        "rejected": total,
        "topic": topic.name,
        "partitions": partitions(&indexes, &appended),
        "ack": ack,
        "write_id": write_id,
        "request_id": request_id::current(),
    });
    if total > 0 {
        answer["errors"] = json!(rejected);
    }
    Ok(Json(answer))
}

/// What the answer may say of events that are in the log; waits for the disk if it must.
async fn acknowledge(api: &Api, must_be_durable: bool) -> Result<&'static str, Problem> {
    if api.options.flush == Flush::Always {
        return Ok("durable");
    }
    if !must_be_durable {
        return Ok("written");
    }
    let failed = |_| Problem::new("outcome_unknown", "the log ended before the events were synced");
    api.log.sync().await.map_err(failed)?;
    Ok("durable")
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
