//! `/api/v1/tables`: list, describe, flush, resume.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::json as parse;
use super::page::{Asked, Page};
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::tier::{self, From, TableStatus};

/// Longest wait for a flush; it goes on afterwards.
const FLUSH_MAX: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    from: From,
    #[serde(default)]
    allow_duplicates: bool,
}

/// Those that the caller may describe.
pub(in crate::http) async fn list(
    State(api): State<Api>,
    caller: Caller,
    asked: Asked,
) -> Result<Json<Value>, Problem> {
    let mut tables = api.tiering.tables();
    tables.retain(|table| caller.may(Operation::Describe, Resource::Table(&table.table)));
    // Until it is made, a table may get another name; a topic and its sink do not. A sink of the id of one
    // that is going away has another table.
    let key = |table: &TableStatus| {
        let TableStatus { topic, sink, topic_id, table, .. } = table;
        format!("{topic}/{}/{topic_id}/{table}", sink.as_deref().unwrap_or_default())
    };
    Ok(Page::of(asked, tables, key)?.answer("tables", |table| json!(table)))
}

pub(in crate::http) async fn describe(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<TableStatus>, Problem> {
    check(&api, &caller, Operation::Describe, &name)?;
    status(&api, &name)
}

/// Checks a right to the table that `name` stands for, which may be less than its whole name.
fn check(api: &Api, caller: &Caller, operation: Operation, name: &str) -> Result<(), Problem> {
    let table = api.tiering.table(name).map(|status| status.table);
    caller.check(operation, Resource::Table(table.as_deref().unwrap_or(name)))
}

fn status(api: &Api, name: &str) -> Result<Json<TableStatus>, Problem> {
    api.tiering.table(name).map(Json).ok_or_else(|| unknown(name))
}

pub(in crate::http) async fn flush(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<TableStatus>, Problem> {
    check(&api, &caller, Operation::Alter, &name)?;
    api.tiering.flush(&name, FLUSH_MAX).await.map_err(|error| problem(&name, &error))?;
    status(&api, &name)
}

pub(in crate::http) async fn resume(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<TableStatus>, Problem> {
    check(&api, &caller, Operation::Alter, &name)?;
    if body.trim_ascii().is_empty() {
        let detail = "the body is empty: send {\"from\": ...}, as the state of the table says";
        return Err(Problem::new("bad_request", detail));
    }
    let wish: Resume = parse(&body)?;
    let resumed = api.tiering.resume(&name, wish.from, wish.allow_duplicates).await;
    resumed.map_err(|error| problem(&name, &error))?;
    status(&api, &name)
}

fn unknown(name: &str) -> Problem {
    let detail = format!("no topic has a table {name:?}; a table is made with its first records");
    Problem::new("unknown_table", detail)
}

fn problem(name: &str, error: &tier::Error) -> Problem {
    match error {
        tier::Error::UnknownTable(_) => unknown(name),
        tier::Error::Stopped(_)
        | tier::Error::NoTable
        | tier::Error::NotStopped
        | tier::Error::Duplicates { .. } => Problem::new("wrong_state", error.to_string()),
        tier::Error::TimedOut { .. } => Problem::new("timeout", error.to_string()),
        tier::Error::Busy => Problem::new("overloaded", error.to_string()).retry_after(1),
        tier::Error::Closed => Problem::new("draining", error.to_string()).retry_after(5),
        _ => Problem::new("internal", error.to_string()),
    }
}
