//! `/api/v1/streams`: make, list, describe, alter, terminate, start, delete; `put` is beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::open;
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::admin::json as parse;
use crate::http::admin::page::{Asked, Page};
use crate::http::admin::precondition::{self, PutQuery};
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::stream::{self, NewStream, Stream, StreamEdit};
use crate::topic::option_value::definition;
use crate::topic::options::TopicOptions;
use crate::topic::{self, Editor, NewTopic, OptionEdit, Topic};
use crate::types::Expected;

/// Options of its topics that the stream sets itself.
const OWN_OPTIONS: [&str; 3] = ["table.mode", "table.namespace", "table.name"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    options: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alter {
    tags: Option<Vec<String>>,
    #[serde(default)]
    options: BTreeMap<String, Value>,
}

pub(super) fn default_namespace() -> String {
    "default".to_owned()
}

/// The topic that takes events for a table that is there.
pub(super) fn bound(
    options: &BTreeMap<String, String>,
    name: &str,
    namespace: &str,
    table: &str,
) -> NewTopic {
    let mut overrides = options.clone();
    for (key, value) in OWN_OPTIONS.into_iter().zip(["contract", namespace, table]) {
        overrides.insert(key.to_owned(), value.to_owned());
    }
    NewTopic { name: name.to_owned(), partitions: None, overrides }
}

/// The origins whose pages may send to the stream, as its topics will list them.
pub(in crate::http) fn cors_origins(api: &Api, stream: &str) -> Vec<String> {
    let Some(stream) = api.doors.streams.get(stream) else { return Vec::new() };
    resolved(api, &stream.options).map_or_else(|_| Vec::new(), |options| options.cors_origins)
}

/// The options of a topic behind a stream that has these.
pub(super) fn resolved(
    api: &Api,
    options: &BTreeMap<String, String>,
) -> Result<TopicOptions, topic::Error> {
    let sample = bound(options, "s.n.t", "n", "t");
    api.topics.resolve(&sample.name, &sample.overrides)
}

/// Runs what changes a stream or the topics behind it alone among such, and to its end.
///
/// # Errors
/// Those of `work`; `internal`.
pub(super) async fn alone<T: Send + 'static>(
    api: &Api,
    stream: &str,
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let done = api.doors.streams.alone(stream, work).await;
    done.map_err(|error| problem(&error)).flatten()
}

/// Those that the caller may describe.
pub(in crate::http) async fn list(
    State(api): State<Api>,
    caller: Caller,
    asked: Asked,
) -> Result<Json<Value>, Problem> {
    let streams = api.doors.streams.list().into_iter();
    let seen = streams.filter(|one| caller.may(Operation::Describe, Resource::Stream(&one.name)));
    let page = Page::of(asked, seen, |stream| stream.name.clone())?;
    Ok(page.answer("streams", |stream| shown(&api, stream)))
}

pub(in crate::http) async fn create(
    State(api): State<Api>,
    caller: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Problem> {
    if body.trim_ascii().is_empty() {
        let detail = "the body is empty: send at least {\"name\": \"STREAM\"}";
        return Err(Problem::new("bad_request", detail));
    }
    let wish: Create = parse(&body)?;
    caller.check(Operation::Create, Resource::Stream(&wish.name))?;
    api.may_define_streams(&caller, false)?;
    let options = options(wish.options)?;
    check(&api, &options, None)?;
    open::check_opener(&api, &caller, &wish.name, (None, &options))?;
    let new = NewStream { name: wish.name, namespace: wish.namespace, tags: wish.tags, options };
    let (doors, name) = (api.doors.clone(), new.name.clone());
    let make = async move { doors.streams.create(new).await.map_err(|error| problem(&error)) };
    let made = alone(&api, &name, make).await?;
    tracing::info!(stream = made.name, by = caller.0.name(), "stream made");
    Ok((StatusCode::CREATED, Json(shown(&api, &made))))
}

/// Whether topics can have these options, where they had `old` ones.
pub(super) fn check(
    api: &Api,
    options: &BTreeMap<String, String>,
    old: Option<&BTreeMap<String, String>>,
) -> Result<(), Problem> {
    let old = old.and_then(|old| resolved(api, old).ok());
    let new = resolved(api, options);
    let checked = new.and_then(|new| api.topics.check_public(&new, old.as_ref()));
    checked.map_err(|error| invalid(error.to_string()))
}

/// Plain values as text; keys that the stream sets itself are refused.
pub(super) fn options(given: BTreeMap<String, Value>) -> Result<BTreeMap<String, String>, Problem> {
    let wish = edits(given)?.into_iter();
    let options = wish.map(|(key, value)| match value {
        Some(value) => Ok((key, value)),
        None => Err(invalid(format!("option {key} must be a plain value"))),
    });
    options.collect()
}

pub(super) fn invalid(detail: String) -> Problem {
    Problem::new("invalid_stream", detail)
}

/// As [`options`], with none for null.
fn edits(given: BTreeMap<String, Value>) -> Result<BTreeMap<String, Option<String>>, Problem> {
    let mut edits = BTreeMap::new();
    for (key, value) in given {
        let def = definition(&key).map_err(|error| invalid(error.to_string()))?;
        if OWN_OPTIONS.contains(&def.key) {
            return Err(invalid(format!("{key} is refused: each request names its table")));
        }
        let text = match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            _ => return Err(invalid(format!("option {key} must be a plain value"))),
        };
        edits.insert(def.key.to_owned(), text);
    }
    Ok(edits)
}

pub(in crate::http) async fn describe(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    caller.check(Operation::Describe, Resource::Stream(&name))?;
    Ok(answer(StatusCode::OK, &api, &*existing(&api, &name)?))
}

/// The answer with a stream, and the tag of its version.
pub(super) fn answer(status: StatusCode, api: &Api, stream: &Stream) -> Response {
    let tag = [(header::ETAG, format!("\"{}\"", stream.tag()))];
    (status, tag, Json(shown(api, stream))).into_response()
}

/// The stream of that name.
///
/// # Errors
/// `stream_not_found`.
pub(in crate::http) fn existing(api: &Api, name: &str) -> Result<Arc<Stream>, Problem> {
    let unknown = || problem(&stream::Error::Unknown(name.chars().take(100).collect()));
    api.doors.streams.get(name).ok_or_else(unknown)
}

/// Gives a stream other tags, and it and the topics behind it other options.
pub(in crate::http) async fn alter(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    caller.check(Operation::Alter, Resource::Stream(&name))?;
    let dry_run = precondition::dry_run(query)?;
    api.may_define_streams(&caller, dry_run)?;
    let expected = precondition::expected(&headers)?;
    let wish: Alter = parse(&body)?;
    let edit = StreamEdit { tags: wish.tags, options: edits(wish.options)? };
    let (own, of) = (api.clone(), name.clone());
    let work = async move { edited(&own, &caller, &of, edit, (expected, dry_run)).await };
    let stream = alone(&api, &name, work).await?;
    Ok(answer(StatusCode::OK, &api, &stream))
}

/// The stream after an edit. Whoever calls it has the stream to itself.
async fn edited(
    api: &Api,
    caller: &Caller,
    name: &str,
    edit: StreamEdit,
    (expected, dry_run): (Expected, bool),
) -> Result<Arc<Stream>, Problem> {
    let stream = existing(api, name)?;
    let mut options = stream.options.clone();
    edit.apply_to(&mut options);
    check(api, &options, Some(&stream.options))?;
    open::check_opener(api, caller, name, (Some(&stream.options), &options))?;
    let keys = edit.options.keys().chain(&stream.unsettled).cloned().collect();
    let changes = of_topics(&options, keys);
    // A refusal must come before any part of the wish is done.
    alter_topics(api, Some(caller), name, (&changes, true)).await?;
    let edited = api.doors.streams.edit(name, edit, expected, dry_run).await;
    let stream = edited.map_err(|error| problem(&error))?;
    if dry_run {
        return Ok(stream);
    }
    let stream = settle(api, Some(caller), name, &changes).await?;
    tracing::info!(stream = name, by = caller.0.name(), "stream altered");
    Ok(stream)
}

/// How topics come to have what `options` says of these keys.
pub(super) fn of_topics(
    options: &BTreeMap<String, String>,
    keys: BTreeSet<String>,
) -> Vec<OptionEdit> {
    let edit = |key: String| match options.get(&key) {
        Some(value) => OptionEdit::Set(key, value.clone()),
        None => OptionEdit::Delete(key),
    };
    keys.into_iter().map(edit).collect()
}

/// Gives the topics behind a stream these changes, which it has already.
///
/// # Errors
/// As [`alter_topics`].
pub(super) async fn settle(
    api: &Api,
    caller: Option<&Caller>,
    stream: &str,
    changes: &[OptionEdit],
) -> Result<Arc<Stream>, Problem> {
    alter_topics(api, caller, stream, (changes, false)).await?;
    api.doors.streams.settle(stream).await.map_err(|error| problem(&error))
}

/// Edits the topics behind a stream, or only checks that; for the server itself if nobody calls.
///
/// # Errors
/// `invalid_stream`, `internal`; `forbidden` where that opens a topic that the caller may not open.
pub(super) async fn alter_topics(
    api: &Api,
    caller: Option<&Caller>,
    stream: &str,
    (changes, validate_only): (&[OptionEdit], bool),
) -> Result<(), Problem> {
    if changes.is_empty() {
        return Ok(());
    }
    for topic in topics(api, stream) {
        let name = topic.name.as_str();
        let mut editor = Editor::server();
        if let Some(caller) = caller {
            editor.may_write = caller.may_write();
        }
        match api.topics.edit_for(name, changes.to_vec(), validate_only, editor).await {
            // It was deleted meanwhile.
            Ok(_) | Err(topic::Error::Unknown(_)) => {}
            Err(error) => {
                let detail = format!("topic {name}: {error}");
                return Err(Problem::new(refused_edit(&error), detail));
            }
        }
    }
    Ok(())
}

fn refused_edit(error: &topic::Error) -> &'static str {
    use topic::Error::{Store, TableForbidden, TopicForbidden};
    match error {
        Store(_) => "internal",
        // One of the topics may have options of its own.
        TopicForbidden(_) | TableForbidden(_) => "forbidden",
        _ => "invalid_stream",
    }
}

pub(in crate::http) async fn terminate(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    switch(&api, &caller, &name, false).await
}

pub(in crate::http) async fn start(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    switch(&api, &caller, &name, true).await
}

async fn switch(
    api: &Api,
    caller: &Caller,
    name: &str,
    running: bool,
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Alter, Resource::Stream(name))?;
    let switched = api.doors.streams.switch(name, running).await;
    let stream = switched.map_err(|error| problem(&error))?;
    tracing::info!(stream = name, running, by = caller.0.name(), "stream switched");
    Ok(Json(shown(api, &stream)))
}

/// Forgets the stream and deletes its topics: what they hold still goes to their tables.
pub(in crate::http) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.check(Operation::Delete, Resource::Stream(&name))?;
    api.may_define_streams(&caller, false)?;
    let expected = precondition::expected(&headers)?;
    let (own, of) = (api.clone(), name.clone());
    let work = async move { forget(&own, &of, expected).await.map_err(|error| problem(&error)) };
    alone(&api, &name, work).await?;
    tracing::info!(stream = name, by = caller.0.name(), "stream deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a stream and its topics. Whoever calls it has the stream to itself.
///
/// # Errors
/// [`stream::Error`].
pub(in crate::http) async fn forget(
    api: &Api,
    name: &str,
    expected: Expected,
) -> Result<(), stream::Error> {
    let stream = api.doors.streams.delete(name, expected).await?;
    for topic in topics(api, &stream.name) {
        if let Err(error) = api.topics.delete_by_id(topic.id).await {
            tracing::warn!(topic = %topic.name, %error, "topic of a deleted stream stays");
        }
    }
    api.doors.ignored.lock().remove(name);
    Ok(())
}

/// The topics behind a stream, by name.
pub(in crate::http) fn topics(api: &Api, stream: &str) -> Vec<Arc<Topic>> {
    let is_of = |topic: &Topic| {
        let table = topic.contract_table();
        table.is_some_and(|table| topic.name.as_str() == format!("{stream}.{table}"))
    };
    api.topics.list().into_iter().filter(|topic| is_of(topic)).collect()
}

fn shown(api: &Api, stream: &Stream) -> Value {
    let topics = topics(api, &stream.name);
    let tables: Vec<Value> = topics.iter().map(|topic| table(api, topic)).collect();
    let is_fine = |table: &Value| table["state"] == "RUNNING" || table["state"] == "WAITING";
    let degraded = api.log.admission().is_err() || !tables.iter().all(is_fine);
    let state = match stream.running {
        false => "Stopped",
        true if api.draining().is_some() => "Draining",
        true if degraded => "Degraded",
        true => "Active",
    };
    let ignored = api.doors.ignored.lock().get(&stream.name).cloned().unwrap_or_default();
    json!({
        "name": stream.name,
        "namespace": stream.namespace,
        "tags": stream.tags,
        "state": state,
        "path": format!("/data-plane/{}/event-stream/{}/ingest", stream.namespace, stream.name),
        "options": stream.options,
        "created_ms": stream.created_ms,
        "tables": tables,
        "ignored_fields": ignored.names,
        "ignored_fields_more": ignored.others,
    })
}

fn table(api: &Api, topic: &Topic) -> Value {
    let status = api.tiering.table(topic.name.as_str()).unwrap_or_default();
    json!({
        "table": topic.contract_table(),
        "topic": topic.name,
        "state": if status.state.is_empty() { "WAITING" } else { status.state.as_str() },
        "reason": status.reason,
        "rows": status.rows,
        "dlq_rows": status.dlq_rows,
        "pending_offsets": status.pending_offsets,
        "lag_ms": status.lag_ms,
        "last_commit_ms": status.last_commit_ms,
        "columns_refused": status.columns_refused,
    })
}

pub(super) fn problem(error: &stream::Error) -> Problem {
    let code = match error {
        stream::Error::Invalid(_) => "invalid_stream",
        stream::Error::Exists(_) => "exists",
        stream::Error::TooMany => "limit_reached",
        stream::Error::Unknown(_) => "stream_not_found",
        stream::Error::Precondition(_) => "precondition_failed",
        stream::Error::Store(_) => "internal",
    };
    Problem::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_topics_but_for_the_table() {
        let given = |key: &str, value: Value| options([(key.to_owned(), value)].into());
        assert_eq!(
            given("floe.table.target.lag.ms", json!(2_000)).unwrap()["table.target.lag.ms"],
            "2000"
        );
        for (key, value) in [
            ("table.mode", json!("auto")),
            ("floe.table.name", json!("t")),
            ("no.such", json!(1)),
            ("retention.ms", json!([1])),
        ] {
            assert_eq!(given(key, value).unwrap_err().code(), "invalid_stream", "{key}");
        }
    }
}
