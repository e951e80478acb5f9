//! `/api/v1/topics/{topic}/sinks`: list, describe, make or replace, delete, try out.
//!
//! A sink is replaced as a whole, or patched; `If-Match` and `If-None-Match` (RFC 9110, 13.1) keep two who
//! change it from losing one's change.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::infer;
use super::page::{self, Page};
use super::patch::{self, Patch, Tries};
use super::precondition::{self, PutQuery};
use super::try_out::{Sample, try_out};
use crate::auth::{Operation, Resource};
use crate::http::auth::Caller;
use crate::http::ingest::event::answer_by;
use crate::http::problem::{EventError, Problem};
use crate::http::{Api, unknown_topic};
use crate::log::ReadError;
use crate::sink::mapping::{Faults, FieldError};
use crate::sink::{self, Asked, From, Put, Sink, TableName, Wish};
use crate::store::history::{Edit, Trail};
use crate::tier::SinkRefused;
use crate::topic::Topic;
use crate::types::{Expected, Offset, TopicId};

/// How often a start is looked for that retention is about to pass.
const LOOKS_MAX: usize = 5;

/// Members of an answer that a wish may repeat: they are not its to say.
pub(in crate::http) const SHOWN_ONLY: [&str; 8] =
    ["id", "topic", "version", "created_ms", "created_by", "changed_ms", "changed_by", "status"];

pub(in crate::http) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(topic): Path<String>,
    asked: page::Asked,
) -> Result<Json<Value>, Problem> {
    let topic = topic_of(&api, &caller, Operation::Describe, &topic)?;
    let page = Page::of(asked, api.sinks.of_topic(topic.id), |sink| sink.id.clone())?;
    Ok(page.answer("sinks", |sink| shown(&api, &topic, sink)))
}

pub(in crate::http) async fn describe(
    State(api): State<Api>,
    caller: Caller,
    Path((topic, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let topic = topic_of(&api, &caller, Operation::Describe, &topic)?;
    let sink = api.sinks.get(topic.id, &id).ok_or_else(|| unknown(&id))?;
    Ok(answer(StatusCode::OK, &api, &topic, &sink))
}

/// Makes or replaces a sink. With `dry_run=true` nothing is changed, and the answer shows what would
/// be.
pub(in crate::http) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path((topic, id)): Path<(String, String)>,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let topic = topic_of(&api, &caller, Operation::Alter, &topic)?;
    let dry_run = precondition::dry_run(query)?;
    api.may_define(&caller, dry_run)?;
    let expected = precondition::expected(&headers)?;
    if body.trim_ascii().is_empty() {
        let detail = "the body is empty: send at least {\"table\": ..., \"mapping\": ...}";
        return Err(Problem::new("bad_request", detail));
    }
    let wish: Wish = precondition::wish(&body, &SHOWN_ONLY, "invalid_sink")?;
    store(&api, &caller, (&topic, &id, wish), expected, dry_run).await
}

/// Replaces some members of a sink, on the road of [`put`].
pub(in crate::http) async fn patch(
    State(api): State<Api>,
    caller: Caller,
    Path((topic, id)): Path<(String, String)>,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let topic = topic_of(&api, &caller, Operation::Alter, &topic)?;
    let existing = || api.sinks.get(topic.id, &id).ok_or_else(|| unknown(&id));
    existing()?;
    let dry_run = precondition::dry_run(query)?;
    api.may_define(&caller, dry_run)?;
    let callers = precondition::expected(&headers)?;
    let patch = Patch::read(&headers, &body, &SHOWN_ONLY)?;
    let mut tries = Tries::new();
    loop {
        let sink = existing()?;
        let expected = patch::expected(&callers, sink.tag())?;
        let wish = patch.applied_to(&sink.wish, "invalid_sink")?;
        let stored = store(&api, &caller, (&topic, &id, wish), expected, dry_run).await;
        if !tries.again(&stored) {
            return stored;
        }
    }
}

/// Makes the sink, or replaces it whole.
pub(super) async fn store(
    api: &Api,
    caller: &Caller,
    (topic, id, wish): (&Topic, &str, Wish),
    expected: Expected,
    dry_run: bool,
) -> Result<Response, Problem> {
    caller.check(Operation::Write, Resource::Table(&wish.table.display()))?;
    check(api, Some(topic.id), id, &wish).await.map_err(|unfit| match unfit {
        Unfit::Wish(error) => problem(id, &error),
        Unfit::Problem(problem) => problem,
    })?;
    let asked = asked(api, topic, (id, wish), caller.edit()).await?;
    let put = api.sinks.put((topic.id, id), asked, expected, dry_run).await;
    let put = put.map_err(|error| problem(id, &error))?;
    let status = match &put {
        Put::Made(_) if !dry_run => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    let sink = put.sink();
    if !dry_run && !matches!(put, Put::Same(_)) {
        let (topic, version) = (topic.name.as_str(), sink.version);
        tracing::info!(topic, sink = id, version, by = caller.0.name(), "sink changed");
    }
    Ok(answer(status, api, topic, sink))
}

/// The wish with what only the log knows.
///
/// # Errors
/// `internal` where the log cannot be read.
pub(in crate::http) async fn asked(
    api: &Api,
    topic: &Topic,
    (id, wish): (&str, Wish),
    edit: Edit,
) -> Result<Asked, Problem> {
    // Before records are looked for: what comes later is found or is behind the end.
    let ends = api.ends_of(topic);
    // One that is there, or comes back to its table, began long ago.
    let known = api.sinks.get(topic.id, id).filter(|sink| sink.wish.table == wish.table);
    let starts = match wish.from {
        From::Earliest => BTreeMap::new(),
        From::Latest => ends.clone(),
        From::At(_) if known.is_some() => BTreeMap::new(),
        From::At(ms) => starts_at(api, topic, &ends, ms).await?,
    };
    Ok(Asked { wish, ends, starts, edit })
}

/// The first record of each partition that is not before a time, or where that ends.
async fn starts_at(
    api: &Api,
    topic: &Topic,
    ends: &BTreeMap<i32, Offset>,
    ms: i64,
) -> Result<BTreeMap<i32, Offset>, Problem> {
    let mut starts = ends.clone();
    for (index, id) in (0..).zip(&topic.partitions) {
        let found = look(|| api.log.offset_for_timestamp(*id, ms)).await;
        let found = found.map_err(|error| {
            let detail = format!("partition {index} cannot be looked through: {error}");
            Problem::new("internal", detail)
        })?;
        if let Some((offset, _)) = found {
            starts.insert(index, offset);
        }
    }
    Ok(starts)
}

/// Looks for a record, again where retention passed it while it was looked for.
async fn look<T, F>(mut find: impl FnMut() -> F) -> Result<T, ReadError>
where
    F: Future<Output = Result<T, ReadError>>,
{
    let mut tries = 1..LOOKS_MAX;
    loop {
        match find().await {
            Err(ReadError::OutOfRange { .. }) if tries.next().is_some() => {}
            found => return found,
        }
    }
}

/// The table of `namespace.name`, or of `catalog.namespace.name` where the catalog is this one.
pub(in crate::http) fn table_name(api: &Api, text: &str) -> Option<TableName> {
    let of_catalog = text.split_once('.').filter(|(catalog, rest)| {
        rest.contains('.') && api.options.catalog_names.iter().any(|name| name == catalog)
    });
    let (namespace, name) = of_catalog.map_or(text, |(_, rest)| rest).rsplit_once('.')?;
    Some(TableName { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Forgets a sink. Its table stays; the log no longer waits for it.
pub(in crate::http) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path((topic, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let topic = topic_of(&api, &caller, Operation::Alter, &topic)?;
    api.may_define(&caller, false)?;
    let expected = precondition::expected(&headers)?;
    let deleted = api.sinks.delete(topic.id, &id, expected).await;
    deleted.map_err(|error| problem(&id, &error))?;
    tracing::info!(topic = %topic.name, sink = id, by = caller.0.name(), "sink deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Maps the request, as if it was an event, to the row that it would be. Nothing is stored.
pub(in crate::http) async fn test(
    State(api): State<Api>,
    caller: Caller,
    Path((topic, id)): Path<(String, String)>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let topic = topic_of(&api, &caller, Operation::Describe, &topic)?;
    let sink = api.sinks.get(topic.id, &id).ok_or_else(|| unknown(&id))?;
    let peer = peer.map(|Extension(ConnectInfo(peer))| peer);
    let sample = Arc::new(Sample::new(&api, peer, headers, body));
    let row = try_out(&api.trials, &sink, &sample, answer_by()).await?;
    row.map(Json).map_err(|error| unmappable(&error))
}

/// Proposes a mapping for events like those of the body: an array of them, or one.
pub(in crate::http) async fn infer(
    State(api): State<Api>,
    caller: Caller,
    Path(topic): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let topic = topic_of(&api, &caller, Operation::Describe, &topic)?;
    infer::propose(&api, topic.name.as_str(), &body).await
}

pub(super) fn topic_of(
    api: &Api,
    caller: &Caller,
    operation: Operation,
    name: &str,
) -> Result<Arc<Topic>, Problem> {
    caller.check(operation, Resource::Topic(name))?;
    api.topics.get(name).ok_or_else(|| unknown_topic(name))
}

/// Why a sink cannot be as it is wished.
#[derive(Debug)]
pub(in crate::http) enum Unfit {
    /// What is wrong with the wish.
    Wish(sink::Error),
    /// What is in its way.
    Problem(Problem),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wish(error) => error.fmt(f),
            Self::Problem(problem) => f.write_str(problem.detail()),
        }
    }
}

/// Checks what only others know. No topic is one that is not made yet.
pub(in crate::http) async fn check(
    api: &Api,
    topic_id: Option<TopicId>,
    id: &str,
    wish: &Wish,
) -> Result<(), Unfit> {
    let mapping = wish.check(id).map_err(Unfit::Wish)?;
    let templates = mapping.clone();
    let verified = tokio::task::spawn_blocking(move || templates.verify()).await;
    let failed = |_| Unfit::Problem(Problem::new("internal", "reading the templates failed"));
    verified.map_err(failed)?.map_err(|Faults(found)| {
        let found = found.iter().map(ToString::to_string).collect();
        Unfit::Wish(sink::Error::Invalid(found))
    })?;
    // One that was deleted goes on in its table; in another it is a new one.
    let known = topic_id.and_then(|topic_id| api.sinks.kept(topic_id, id));
    let known = known.filter(|sink| sink.is_live() || sink.wish.table == wish.table);
    let checked = match known {
        Some(sink) => api.tiering.check_new_mapping((sink.topic_id, sink.uid), &mapping).await,
        None => api.tiering.check_new_sink(&wish.table).await,
    };
    checked.map_err(|refused| {
        let code = match refused {
            SinkRefused::Taken { .. } => "table_taken",
            SinkRefused::Catalog(_) => "catalog_unavailable",
            SinkRefused::Type { .. } => {
                return Unfit::Wish(sink::Error::Invalid(vec![refused.to_string()]));
            }
        };
        Unfit::Problem(Problem::new(code, refused.to_string()))
    })
}

fn answer(status: StatusCode, api: &Api, topic: &Topic, sink: &Sink) -> Response {
    let tag = [(header::ETAG, format!("\"{}\"", sink.tag()))];
    (status, tag, Json(shown(api, topic, sink))).into_response()
}

fn shown(api: &Api, topic: &Topic, sink: &Sink) -> Value {
    let status = api.tiering.sink(topic.id, sink.uid).unwrap_or_default();
    let Wish { name, description, table, mapping, commit, .. } = &sink.wish;
    let Wish { staging, wait, signals, validate, partition_spec, enabled, from, .. } = &sink.wish;
    let Trail { created, changed, .. } = &sink.trail;
    json!({
        "id": sink.id,
        "topic": topic.name,
        "name": name,
        "description": description,
        "table": table,
        "mapping": mapping,
        "commit": commit,
        "staging": staging,
        "wait": wait,
        "signals": signals,
        "validate": validate,
        "partition_spec": partition_spec,
        "enabled": enabled,
        "from": from,
        "version": sink.version,
        "created_ms": created.at_ms,
        "created_by": created.by,
        "changed_ms": changed.at_ms,
        "changed_by": changed.by,
        "status": {
            "table": if status.table.is_empty() { sink.wish.table.display() } else { status.table },
            "dead_letter_table": status.dead_letter_table,
            "state": if status.state.is_empty() { "WAITING".to_owned() } else { status.state },
            "reason": status.reason,
            "resume": status.resume,
            "rows": status.rows,
            "dlq_rows": status.dlq_rows,
            "gap_offsets": status.gap_offsets,
            "pending_offsets": status.pending_offsets,
            "pinned_bytes": status.pinned_bytes,
            "lag_ms": status.lag_ms,
            "commits": status.commits,
            "last_commit_ms": status.last_commit_ms,
        },
    })
}

pub(super) fn unknown(id: &str) -> Problem {
    let id: String = id.chars().take(100).collect();
    Problem::new("unknown_sink", format!("the topic has no sink {id:?}"))
}

fn unmappable(error: &FieldError) -> Problem {
    let bad = error.bad_record();
    let event = EventError {
        index: 0,
        offset_bytes: 0,
        field: Some(bad.field_path),
        code: bad.code.as_str(),
        message: bad.message,
    };
    Problem::new("unmappable_event", error.to_string()).with_errors(vec![event], 1)
}

/// What a sink says that has no row of a sample.
pub(super) fn refused(sink: &Sink, error: &FieldError) -> Value {
    let bad = error.bad_record();
    json!({
        "sink": sink.id,
        "version": sink.version,
        "table": sink.wish.table.display(),
        "error": { "field": bad.field_path, "code": bad.code.as_str(), "message": bad.message },
    })
}

pub(in crate::http) fn problem(id: &str, error: &sink::Error) -> Problem {
    let code = match error {
        sink::Error::Invalid(_) | sink::Error::Fixed(_) => "invalid_sink",
        sink::Error::TableTaken { .. } => "table_taken",
        sink::Error::Precondition(_) => "precondition_failed",
        sink::Error::Unknown(_) => return unknown(id),
        sink::Error::TooMany(_) => "limit_reached",
        sink::Error::Store(_) => "internal",
    };
    Problem::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn what_retention_frees_while_it_is_looked_for_is_looked_for_again() {
        let passed = || Err(ReadError::OutOfRange { start: 7, end: 9 });
        for (passes, wanted) in [(0, Ok(7)), (1, Ok(7)), (4, Ok(7)), (5, passed())] {
            let mut looks = 0;
            let found = look(|| {
                looks += 1;
                ready(if looks > passes { Ok(7) } else { passed() })
            });
            assert_eq!(found.await, wanted, "{passes}");
            assert_eq!(looks, LOOKS_MAX.min(passes + 1));
        }
        let mut looks = 0;
        let found = look(|| {
            looks += 1;
            ready(Err::<i64, _>(ReadError::UnknownPartition))
        });
        assert_eq!(found.await, Err(ReadError::UnknownPartition));
        assert_eq!(looks, 1);
    }
}
