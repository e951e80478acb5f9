//! One file per API. Each head says its versions, its behaviour, and what differs from Apache Kafka.

pub(crate) mod alter_configs;
mod alter_resources;
pub(crate) mod api_versions;
mod broker_configs;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_topics;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod fetch;
mod fetch_read;
mod fetch_wait;
pub(crate) mod find_coordinator;
pub(crate) mod incremental_alter_configs;
pub(crate) mod init_producer_id;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod produce;
mod produce_check;
pub(crate) mod sasl_authenticate;
pub(crate) mod sasl_handshake;

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;

use kafka_protocol::messages::TopicName as WireName;
use kafka_protocol::protocol::StrBytes;

use crate::kafka::error_code::ErrorCode;
use crate::log::AppendError;
use crate::topic;
use crate::types::LEADER_EPOCH;
use crate::types::PartitionId;

/// An error for one item of a request: its code and what is told to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ItemError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl ItemError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<topic::Error> for ItemError {
    fn from(error: topic::Error) -> Self {
        Self::new(ErrorCode::from(&error), error.to_string())
    }
}

impl From<AppendError> for ItemError {
    fn from(error: AppendError) -> Self {
        Self::new(ErrorCode::from(&error), error.to_string())
    }
}

/// Text for a response field.
pub(crate) fn text(value: impl Display) -> StrBytes {
    StrBytes::from_string(value.to_string())
}

/// Text for a response field that can be null.
pub(crate) fn some_text(value: impl Display) -> Option<StrBytes> {
    Some(text(value))
}

/// A topic name for a response field.
pub(crate) fn wire_name(name: impl Display) -> WireName {
    WireName(text(name))
}

/// The items that stand more than once in one request; Kafka refuses them.
pub(crate) fn duplicates<T: Hash + Eq + Clone>(items: impl Iterator<Item = T>) -> HashSet<T> {
    let mut seen = HashSet::new();
    items.filter(|item| !seen.insert(item.clone())).collect()
}

/// The internal number of partition `index` of a topic.
pub(crate) fn partition_id(topic: &topic::Topic, index: i32) -> Option<PartitionId> {
    topic.partitions.get(usize::try_from(index).ok()?).copied()
}

/// Checks the leader epoch that a client knows; -1 is "I know none" (KIP-320).
pub(crate) fn check_leader_epoch(known: i32) -> Result<(), ErrorCode> {
    match known {
        -1 | LEADER_EPOCH => Ok(()),
        newer if newer > LEADER_EPOCH => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Err(ErrorCode::FencedLeaderEpoch),
    }
}
