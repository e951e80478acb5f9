//! `PUT /api/v1/streams/{stream}`: a stream is made, or replaced as a whole, and the topics behind it get
//! the options that change. `definitions.file` goes the same way.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::manage::{self, alter_topics, answer, default_namespace};
use super::open;
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::admin::json as parse;
use crate::http::admin::precondition::{self, PutQuery};
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::stream::{NewStream, Stream};
use crate::topic::{OptionEdit, public};
use crate::types::Expected;

/// Members of an answer that a wish may repeat: they are not its to say.
const SHOWN_ONLY: [&str; 7] =
    ["name", "state", "path", "created_ms", "tables", "ignored_fields", "ignored_fields_more"];

/// How often it is tried again where a stream comes or goes meanwhile.
const TRIES_MAX: usize = 8;

/// What may be said of a stream.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    options: BTreeMap<String, Value>,
}

/// Reads what is wished for the stream `name`.
///
/// # Errors
/// `invalid_stream`.
pub(in crate::http) fn wish(api: &Api, name: &str, value: Value) -> Result<NewStream, Problem> {
    let wish: Wish = precondition::wish_of(value, &SHOWN_ONLY, "invalid_stream")?;
    let options = manage::options(wish.options)?;
    let old = api.doors.streams.get(name);
    manage::check(api, &options, old.as_ref().map(|old| &old.options))?;
    Ok(NewStream { name: name.to_owned(), namespace: wish.namespace, tags: wish.tags, options })
}

/// Makes or replaces a stream. With `dry_run=true` nothing is changed, and the answer shows what would
/// be.
pub(in crate::http) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let callers = precondition::expected(&headers)?;
    let dry_run = precondition::dry_run(query)?;
    for _ in 0..TRIES_MAX {
        let is_there = api.doors.streams.get(&name).is_some();
        let operation = if is_there { Operation::Alter } else { Operation::Create };
        caller.check(operation, Resource::Stream(&name))?;
        api.may_define_streams(&caller, dry_run)?;
        let wish = wish(&api, &name, parse(&body)?)?;
        let was_public = api.doors.streams.get(&name).is_some_and(|it| public::is_set(&it.options));
        if public::is_set(&wish.options) && !was_public {
            open::check_opener(&caller, &name)?;
        }
        // What it may do was asked of what is there now.
        let expected = match (&callers, is_there) {
            (Expected::Any, true) => Expected::Some,
            (Expected::Any, false) => Expected::None,
            (callers, _) => callers.clone(),
        };
        match store(&api, wish, expected, dry_run).await {
            Err(problem) if callers == Expected::Any && problem.code() == "precondition_failed" => {
            }
            Err(problem) => return Err(problem),
            Ok((stream, is_new)) => {
                if !dry_run {
                    tracing::info!(stream = name, by = caller.0.name(), "stream put");
                }
                let status = if is_new && !dry_run { StatusCode::CREATED } else { StatusCode::OK };
                return Ok(answer(status, &api, &stream));
            }
        }
    }
    let detail = "others make and delete the stream at the same time";
    Err(Problem::new("overloaded", detail).retry_after(1))
}

/// Puts a stream as it is wished, and the options that change to the topics behind it.
///
/// # Errors
/// `invalid_stream`, `precondition_failed`, `limit_reached`, `internal`.
pub(in crate::http) async fn store(
    api: &Api,
    wish: NewStream,
    expected: Expected,
    dry_run: bool,
) -> Result<(Arc<Stream>, bool), Problem> {
    let name = wish.name.clone();
    let before = api.doors.streams.get(&name);
    let changes = before.map_or_else(Vec::new, |before| changes(&before.options, &wish.options));
    // A refusal must come before any part of the wish is done.
    alter_topics(api, &name, &changes, true).await?;
    let put = api.doors.streams.put(wish, expected, dry_run).await;
    let (stream, is_new) = put.map_err(|error| manage::problem(&error))?;
    if !dry_run {
        alter_topics(api, &name, &changes, false).await?;
    }
    Ok((stream, is_new))
}

/// Only what changes: one of the topics may have options of its own.
fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<OptionEdit> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let set = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let gone = gone.map(|key| OptionEdit::Delete(key.clone()));
    gone.chain(set.map(|(key, value)| OptionEdit::Set(key.clone(), value.clone()))).collect()
}
