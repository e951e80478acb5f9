//! Mapped sinks: further tables of a topic, each with its own mapping of records to columns and its
//! own progress.
//!
//! ```text
//! Sink  topic id (16 bytes) | sink id    JSON: v = 1, uid, topic_id, id, name, ... (see Stored)
//! ```
//!
//! Owns: the space `Sink`, which sinks there are and what they ask for. Does not own: what a mapping
//! does (`mapping`), how rows come into the tables (`tier`), the topic.

pub mod mapping;
mod registry;
mod wish;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store;
use crate::types::{Offset, SinkUid, TopicId};

pub use mapping::Mapping;
pub use registry::{Put, Sinks};
pub use wish::Wish;

/// Most sinks of one topic.
pub const SINKS_PER_TOPIC_MAX: usize = 20;
/// Most sinks of all topics together.
pub const SINKS_MAX: usize = 10_000;

/// The table that a sink writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableName {
    /// Levels joined by dots.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

fn default_namespace() -> String {
    "streams".to_owned()
}

impl TableName {
    /// `namespace.name`.
    pub fn display(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }
}

/// When waiting records are committed; whatever comes first. None leaves it to the topic's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Triggers {
    /// Longest time until a record is in the table, milliseconds (`table.target.lag.ms`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<i64>,
    /// Bytes of the log (`table.flush.bytes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Records; topics have no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
}

/// Where a new sink begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// At the first record that the log has.
    #[default]
    Earliest,
    /// At the next record that is appended.
    Latest,
}

/// A sink as it is durably known; immutable, replaced on each change.
#[derive(Debug, Clone)]
pub struct Sink {
    /// Its identity: that of no other sink, whatever is made under its name later.
    pub uid: SinkUid,
    /// The topic.
    pub topic_id: TopicId,
    /// Its name in paths, unique within the topic.
    pub id: String,
    /// What was asked for.
    pub wish: Wish,
    /// `wish.mapping`, checked.
    pub mapping: Arc<Mapping>,
    /// Counts its changes from 1.
    pub version: u64,
    /// Where it begins by partition; others begin at their first record.
    pub starts: BTreeMap<i32, Offset>,
    /// When it was made, milliseconds.
    pub created_ms: i64,
    /// When it was changed last, milliseconds.
    pub changed_ms: i64,
}

impl Sink {
    /// Names this version of it, as an entity tag without quotes.
    pub fn tag(&self) -> String {
        format!("{}.{}", self.uid.0.simple(), self.version)
    }
}

/// Why sinks cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something of the wish is refused; each text says what is allowed.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// A change that an existing sink does not take.
    #[error("{0}")]
    Fixed(String),
    /// Another sink writes to the table.
    #[error("table {table} belongs to the sink {sink:?} of topic id {topic_id}")]
    TableTaken {
        /// `namespace.name`.
        table: String,
        /// The other sink.
        sink: String,
        /// Its topic.
        topic_id: TopicId,
    },
    /// The sink is not in the version that the caller knows.
    #[error("{0}")]
    Precondition(String),
    /// No such sink.
    #[error("the topic has no sink {0:?}")]
    Unknown(String),
    /// All places are taken.
    #[error("{0}")]
    TooMany(String),
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] store::Error),
}

#[cfg(test)]
mod tests;
