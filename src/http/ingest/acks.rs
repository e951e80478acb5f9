//! `GET /api/v1/acks/{token}`: whether the events of a request are in the table. The token names
//! topic, partitions and offsets: nothing is remembered for it, and it is good as long as the topic
//! is there.
//!
//! ```text
//! token := base64url, no padding, of: version u8 = 1 | topic 16 | (partition u32 | last i64) *
//! ```
//! Integers are little-endian; `last` is the last offset, inclusive.

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::ingest::event::Span;
use crate::http::problem::Problem;
use crate::topic::Topic;
use crate::types::TopicId;

const VERSION: u8 = 1;
/// Partitions of one token, so that its URL stays short enough for proxies.
const PARTITIONS_MAX: usize = 400;
/// Bytes of one partition.
const PART_LEN: usize = 12;

/// The last offset of a partition.
type Part = (u32, i64);

/// The token of a request; none for more partitions than a URL can hold.
pub(super) fn token(topic: TopicId, spans: &[Span]) -> Option<String> {
    if spans.len() > PARTITIONS_MAX {
        return None;
    }
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(topic.0.as_bytes());
    for span in spans {
        bytes.extend_from_slice(&u32::try_from(span.partition).ok()?.to_le_bytes());
        bytes.extend_from_slice(&span.last_offset.to_le_bytes());
    }
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

fn parse(token: &str) -> Option<(TopicId, Vec<Part>)> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let rest = bytes.strip_prefix(&[VERSION])?;
    let (topic, rest) = rest.split_first_chunk::<16>()?;
    if rest.len() % PART_LEN != 0 || rest.len() > PARTITIONS_MAX * PART_LEN {
        return None;
    }
    let part = |part: &[u8]| {
        let (partition, last) = part.split_first_chunk::<4>()?;
        Some((u32::from_le_bytes(*partition), i64::from_le_bytes(last.try_into().ok()?)))
    };
    let parts: Option<Vec<Part>> = rest.chunks_exact(PART_LEN).map(part).collect();
    Some((TopicId(Uuid::from_bytes(*topic)), parts?))
}

/// Checks the right to see the topic, or a table that its events go to: who sends to a table needs no
/// right to the topic behind it.
fn check(api: &Api, caller: &Caller, topic: &Topic) -> Result<(), Problem> {
    if caller.may(Operation::Describe, Resource::Topic(topic.name.as_str())) {
        return Ok(());
    }
    let own = api.tiering.table(topic.name.as_str()).map(|status| status.table);
    let sinks = api.sinks.of_topic(topic.id);
    let of_sinks = sinks.iter().map(|sink| sink.wish.table.display());
    let mut tables = topic.contract_table().into_iter().chain(own).chain(of_sinks);
    if tables.any(|table| caller.may(Operation::Describe, Resource::Table(&table))) {
        return Ok(());
    }
    caller.check(Operation::Describe, Resource::Topic(topic.name.as_str()))
}

pub(in crate::http) async fn ack(
    State(api): State<Api>,
    caller: Caller,
    Path(token): Path<String>,
) -> Result<Json<Value>, Problem> {
    let unknown = |detail| Problem::new("unknown_ack", detail);
    let (id, parts) = parse(&token).ok_or_else(|| unknown("the token is none of ours"))?;
    let topic = api.topics.by_id(id);
    let topic = topic.ok_or_else(|| unknown("the topic of this token is gone"))?;
    check(&api, &caller, &topic)?;
    let mut states = Vec::with_capacity(parts.len());
    let (mut durable, mut committed) = (true, true);
    for (index, last) in parts {
        let id = topic.partitions.get(index as usize).copied();
        let partition = id.and_then(|id| api.log.partition(id));
        let is_durable = partition.as_ref().is_some_and(|it| it.durable_end() > last);
        // A topic without a table tiers nothing.
        let tiered = partition.map(|it| it.tiered_offset()).filter(|tiered| *tiered != i64::MAX);
        let is_committed = tiered.is_some_and(|tiered| tiered > last);
        (durable, committed) = (durable && is_durable, committed && is_committed);
        states.push(json!({
            "partition": index,
            "last_offset": last,
            "durable": is_durable,
            "committed": is_committed,
        }));
    }
    Ok(Json(json!({
        "topic": topic.name,
        "durable": durable,
        "committed": committed,
        "partitions": states,
    })))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(partition: usize, last_offset: i64) -> Span {
        Span { partition, first_offset: 0, last_offset }
    }

    #[test]
    fn a_token_names_topic_and_offsets() {
        let topic = TopicId(Uuid::now_v7());
        let token = token(topic, &[span(2, 11), span(7, i64::MAX)]).unwrap();
        assert_eq!(parse(&token), Some((topic, vec![(2, 11), (7, i64::MAX)])));
        assert_eq!(super::token(topic, &[span(0, 1); PARTITIONS_MAX + 1]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_tokens_never_panic(token in "[A-Za-z0-9_-]{0,80}") {
            let _ = parse(&token);
        }
    }
}
