//! `GET /api/v1/streams/{stream}/channels/{channel}`: how far a sender with offset tokens has come with
//! one table.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::manage;
use super::name::TableName;
use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::ingest;
use crate::http::problem::Problem;

/// Which table; the header `table` names it too, as where events are sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfTable {
    table: Option<String>,
}

pub(super) async fn channel(
    State(api): State<Api>,
    caller: Caller,
    Path((stream, name)): Path<(String, String)>,
    query: Result<Query<OfTable>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Describe, Resource::Stream(&stream))?;
    manage::existing(&api, &stream)?;
    let bad = |error: QueryRejection| Problem::new("bad_request", error.body_text());
    let Query(OfTable { table }) = query.map_err(bad)?;
    let table = TableName::of(&headers, table.as_deref())?;
    let topic = api.topics.get(&table.topic(&stream));
    let unknown = || {
        let detail = format!("stream {stream:?} has no channel {name:?} for {}", table.short());
        Problem::new("unknown_channel", detail)
    };
    let mut state = match topic.filter(|topic| topic.contract_table() == Some(table.short())) {
        Some(topic) => ingest::channel_of(&api, &topic, &name).await?.ok_or_else(unknown)?,
        None => return Err(unknown()),
    };
    state["stream"] = json!(stream);
    state["table"] = json!(table.text);
    Ok(Json(state))
}
