//! `/api/v1/topics`: list, create, describe, alter, delete.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::json as parse;
use super::page::{Asked, Page};
use crate::auth::{Operation, Resource};
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::http::{Api, unknown_topic};
use crate::topic::options::{OptionView, Source};
use crate::topic::{self, Editor, NewTopic, OptionEdit, Topic};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    partitions: Option<i32>,
    #[serde(default)]
    options: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alter {
    partitions: Option<i32>,
    #[serde(default)]
    options: BTreeMap<String, Value>,
}

pub(in crate::http) fn problem(error: &topic::Error) -> Problem {
    let code = match error {
        topic::Error::Exists(_) => "exists",
        topic::Error::Unknown(_) | topic::Error::UnknownId(_) => "unknown_topic",
        topic::Error::Kept(_) => "read_only",
        topic::Error::TableForbidden(_) | topic::Error::TopicForbidden(_) => "forbidden",
        topic::Error::Store(_) => "internal",
        _ => "invalid_topic",
    };
    Problem::new(code, error.to_string())
}

/// A JSON value as the text of an option; none is null.
pub(in crate::http) fn text(key: &str, value: Value) -> Result<Option<String>, Problem> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(flag) => Ok(Some(flag.to_string())),
        _ => Err(Problem::new("invalid_topic", format!("option {key} must be a plain value"))),
    }
}

/// Those that the caller may describe.
pub(in crate::http) async fn list(
    State(api): State<Api>,
    caller: Caller,
    asked: Asked,
) -> Result<Json<Value>, Problem> {
    let topics = api.topics.list().into_iter();
    let seen = topics
        .filter(|topic| caller.may(Operation::Describe, Resource::Topic(topic.name.as_str())));
    let page = Page::of(asked, seen, |topic| topic.name.to_string())?;
    Ok(page.answer("topics", |topic| summary(&api, topic)))
}

pub(in crate::http) async fn create(
    State(api): State<Api>,
    caller: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Problem> {
    if body.trim_ascii().is_empty() {
        let detail = "the body is empty: send at least {\"name\": \"TOPIC\"}";
        return Err(Problem::new("bad_request", detail));
    }
    let wish: Create = parse(&body)?;
    caller.check_create_topic(&wish.name)?;
    // Kafka's -1 for the default is null here.
    if let Some(count) = wish.partitions.filter(|count| *count < 1) {
        let detail = format!("partitions = {count} is refused: at least 1, or leave it out");
        return Err(Problem::new("invalid_topic", detail));
    }
    let mut overrides = BTreeMap::new();
    for (key, value) in wish.options {
        if let Some(value) = text(&key, value)? {
            overrides.insert(key, value);
        }
    }
    let new = NewTopic { name: wish.name, partitions: wish.partitions, overrides };
    let topic = api.topics.create_for(new, false, caller.may_write()).await;
    let topic = topic.map_err(|error| problem(&error))?;
    Ok((StatusCode::CREATED, Json(detail(&api, &topic))))
}

pub(in crate::http) async fn describe(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Describe, Resource::Topic(&name))?;
    let topic = api.topics.get(&name).ok_or_else(|| unknown_topic(&name))?;
    Ok(Json(detail(&api, &topic)))
}

pub(in crate::http) async fn alter(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Alter, Resource::Topic(&name))?;
    let wish: Alter = parse(&body)?;
    let mut edits = Vec::new();
    for (key, value) in wish.options {
        edits.push(match text(&key, value)? {
            Some(value) => OptionEdit::Set(key, value),
            None => OptionEdit::Delete(key),
        });
    }
    let mut topic = api.topics.get(&name).ok_or_else(|| unknown_topic(&name))?;
    if let Some(total) = wish.partitions {
        // A refusal must come before any part of the wish is done.
        api.topics.grow(&name, total, true).await.map_err(|error| problem(&error))?;
    }
    if !edits.is_empty() {
        let log = api.log.clone();
        let editor = Editor {
            may_write: caller.may_write(),
            ends: Box::new(move |partitions| log.ends(partitions)),
        };
        let edited = api.topics.edit_for(&name, edits, false, editor).await;
        topic = edited.map_err(|error| problem(&error))?;
    }
    if let Some(total) = wish.partitions {
        topic = api.topics.grow(&name, total, false).await.map_err(|error| problem(&error))?;
    }
    Ok(Json(detail(&api, &topic)))
}

pub(in crate::http) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.check(Operation::Delete, Resource::Topic(&name))?;
    api.topics.delete(&name).await.map_err(|error| problem(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn summary(api: &Api, topic: &Topic) -> Value {
    let partitions = topic.partitions.iter().filter_map(|id| api.log.partition(*id));
    let (mut records, mut size_bytes) = (0, 0);
    for partition in partitions {
        records += partition.high_watermark() - partition.log_start_offset();
        size_bytes += partition.size_bytes();
    }
    json!({
        "name": topic.name,
        "id": topic.id,
        "partitions": topic.partitions.len(),
        "records": records,
        "size_bytes": size_bytes,
        "table_mode": topic.options.table_mode.as_str(),
    })
}

fn detail(api: &Api, topic: &Topic) -> Value {
    let partitions: Vec<Value> = topic
        .partitions
        .iter()
        .enumerate()
        .filter_map(|(index, id)| api.log.partition(*id).map(|partition| (index, partition)))
        .map(|(index, partition)| {
            let tiered = partition.tiered_offset();
            json!({
                "partition": index,
                "log_start_offset": partition.log_start_offset(),
                "high_watermark": partition.high_watermark(),
                "durable_end": partition.durable_end(),
                "tiered_offset": (tiered != i64::MAX).then_some(tiered),
                "size_bytes": partition.size_bytes(),
            })
        })
        .collect();
    json!({
        "name": topic.name,
        "id": topic.id,
        "created_ms": topic.created_ms,
        "partitions": partitions,
        "options": api.topics.describe(topic).iter().map(option).collect::<Vec<_>>(),
    })
}

fn option(view: &OptionView) -> Value {
    let source = match view.source {
        Source::Topic => "topic",
        Source::Server => "server",
        Source::Default => "default",
    };
    json!({
        "key": view.key,
        "value": view.value,
        "source": source,
        "default": view.default,
        "no_effect": view.no_effect,
        "doc": view.doc,
    })
}
