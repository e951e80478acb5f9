//! `GET /api/v1/topics/{topic}/channels/{channel}`: how far a sender with offset tokens has come.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::auth::{Operation, Resource};
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::http::{Api, unknown_topic};
use crate::topic::Topic;

pub(in crate::http) async fn channel(
    State(api): State<Api>,
    caller: Caller,
    Path((topic, name)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    caller.check(Operation::Describe, Resource::Topic(&topic))?;
    let found = api.topics.get(&topic).ok_or_else(|| unknown_topic(&topic))?;
    let unknown = || {
        let detail = format!("topic {topic:?} has no channel {name:?}");
        Problem::new("unknown_channel", detail)
    };
    channel_of(&api, &found, &name).await?.map(Json).ok_or_else(unknown)
}

/// The state of a channel of the topic, if it has that.
///
/// # Errors
/// `internal`.
pub(in crate::http) async fn channel_of(
    api: &Api,
    topic: &Topic,
    name: &str,
) -> Result<Option<Value>, Problem> {
    let (keys, id, looked_for) = (api.engine.keys().clone(), topic.id, name.to_owned());
    let record = tokio::task::spawn_blocking(move || keys.channel(id, &looked_for)).await;
    let record = record.map_err(|error| Problem::new("internal", error.to_string()))?;
    let record = record.map_err(|error| Problem::new("internal", error.to_string()))?;
    let tiered = |partition: u32| {
        let id = topic.partitions.get(partition as usize).copied();
        let offset = id.and_then(|id| api.log.partition(id)).map(|it| it.tiered_offset());
        // A topic without a table tiers nothing.
        offset.filter(|offset| *offset != i64::MAX).unwrap_or(0)
    };
    Ok(record.map(|record| {
        json!({
            "topic": topic.name,
            "channel": name,
            "token": record.token(),
            "committed_token": record.committed(tiered),
            "updated_ms": record.updated_ms,
        })
    }))
}
