//! `PUT /api/v1/streams/{stream}`: a stream is made, or replaced as a whole, and the topics behind it get
//! the options that change. `definitions.file` goes the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::manage::{self, answer, default_namespace};
use super::open;
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::admin::json as parse;
use crate::http::admin::precondition::{self, PutQuery};
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::stream::{self, NewStream, Stream};
use crate::types::Expected;

/// Members of an answer that a wish may repeat: they are not its to say.
const SHOWN_ONLY: [&str; 7] =
    ["name", "state", "path", "created_ms", "tables", "ignored_fields", "ignored_fields_more"];

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
    let expected = precondition::expected(&headers)?;
    let dry_run = precondition::dry_run(query)?;
    let (own, of) = (api.clone(), name.clone());
    let work = async move { replaced(&own, &caller, &of, &body, (expected, dry_run)).await };
    let (stream, is_new) = manage::alone(&api, &name, work).await?;
    let status = if is_new && !dry_run { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer(status, &api, &stream))
}

/// Does what `body` says, if the caller may. Whoever calls it has the stream to itself: what it may do is
/// asked of what is replaced.
async fn replaced(
    api: &Api,
    caller: &Caller,
    name: &str,
    body: &Bytes,
    (expected, dry_run): (Expected, bool),
) -> Result<(Arc<Stream>, bool), Problem> {
    let old = api.doors.streams.get(name);
    let operation = if old.is_some() { Operation::Alter } else { Operation::Create };
    caller.check(operation, Resource::Stream(name))?;
    api.may_define_streams(caller, dry_run)?;
    let wish = wish(api, name, parse(body)?)?;
    let old = old.as_ref().map(|old| &old.options);
    open::check_opener(api, caller, name, (old, &wish.options))?;
    let done = store(api, Some(caller), wish, expected, dry_run).await?;
    if !dry_run {
        tracing::info!(stream = name, by = caller.0.name(), "stream put");
    }
    Ok(done)
}

/// Puts a stream as it is wished, and the options that change to the topics behind it; for the server
/// itself if nobody calls. Whoever calls it has the stream to itself.
///
/// # Errors
/// `invalid_stream`, `precondition_failed`, `limit_reached`, `forbidden`, `internal`.
pub(in crate::http) async fn store(
    api: &Api,
    caller: Option<&Caller>,
    wish: NewStream,
    expected: Expected,
    dry_run: bool,
) -> Result<(Arc<Stream>, bool), Problem> {
    let name = wish.name.clone();
    // Only what changes: one of the topics may have options of its own.
    let keys = api.doors.streams.get(&name).map_or_else(BTreeSet::new, |before| {
        let mut keys = stream::changed(&before.options, &wish.options);
        keys.extend(before.unsettled.iter().cloned());
        keys
    });
    let changes = manage::of_topics(&wish.options, keys);
    // A refusal must come before any part of the wish is done.
    manage::alter_topics(api, caller, &name, (&changes, true)).await?;
    let put = api.doors.streams.put(wish, expected, dry_run).await;
    let (stream, is_new) = put.map_err(|error| manage::problem(&error))?;
    if dry_run {
        return Ok((stream, is_new));
    }
    Ok((manage::settle(api, caller, &name, &changes).await?, is_new))
}

impl Api {
    /// Gives topics what they lack of the options of their streams, where the server ended before
    /// they had it. Before any request is answered.
    pub async fn settle_streams(&self) {
        for stream in self.doors.streams.list() {
            if stream.unsettled.is_empty() {
                continue;
            }
            let changes = manage::of_topics(&stream.options, stream.unsettled.clone());
            match manage::settle(self, None, &stream.name, &changes).await {
                Ok(_) => tracing::info!(stream = stream.name, "its topics have its options now"),
                Err(problem) => {
                    let reason = problem.detail();
                    tracing::warn!(
                        stream = stream.name,
                        reason,
                        "topics of a stream lack options of it: put or alter it again"
                    );
                }
            }
        }
    }
}
