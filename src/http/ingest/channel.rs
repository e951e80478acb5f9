//! `GET /api/v1/topics/{topic}/channels/{channel}`: how far a sender with offset tokens has come.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::auth::{Operation, Resource};
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::http::{Api, unknown_topic};

pub(in crate::http) async fn channel(
    State(api): State<Api>,
    caller: Caller,
    Path((topic, name)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Describe, Resource::Topic(&topic))?;
    let found = api.topics.get(&topic).ok_or_else(|| unknown_topic(&topic))?;
    let (keys, id, looked_for) = (api.engine.keys().clone(), found.id, name.clone());
    let record = tokio::task::spawn_blocking(move || keys.channel(id, &looked_for)).await;
    let record = record.map_err(|error| Problem::new("internal", error.to_string()))?;
    let record = record.map_err(|error| Problem::new("internal", error.to_string()))?;
    let unknown = || {
        let detail = format!("topic {topic:?} has no channel {name:?}");
        Problem::new("unknown_channel", detail)
    };
    let record = record.ok_or_else(unknown)?;
    let tiered = |partition: u32| {
        let id = found.partitions.get(partition as usize).copied();
        let offset = id.and_then(|id| api.log.partition(id)).map(|it| it.tiered_offset());
        // A topic without a table tiers nothing.
        offset.filter(|offset| *offset != i64::MAX).unwrap_or(0)
    };
    Ok(Json(json!({
        "topic": found.name,
        "channel": name,
        "token": record.token(),
        "committed_token": record.committed(tiered),
        "updated_ms": record.updated_ms,
    })))
}
