//! Mapped sinks: further tables of a topic, each with its own mapping of records to columns and its
//! own progress.
//!
//! ```text
//! Sink  topic id (16 bytes) | sink id    JSON: v = 1, uid, topic_id, id, wish, ... (see Stored)
//! ```
//!
//! What is marked as deleted takes nothing, holds nothing of the log and can come back; earlier
//! versions are kept (`store::history`).
//!
//! Owns: the space `Sink`, which sinks there are and what they ask for. Does not own: what a mapping
//! does (`mapping`), how rows come into the tables (`tier`), the topic.

mod from;
pub mod mapping;
mod registry;
mod stored;
mod wish;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store;
use crate::store::history::{Mark, Trail};
use crate::types::{Offset, SinkUid, TopicId};

pub use from::From;
pub use mapping::Mapping;
pub use registry::{Asked, Put, Sinks};
pub use wish::{Validate, Wish};

/// A version of what was asked of a sink.
pub type Version = store::history::Version<Wish>;

/// Most sinks of one topic.
pub const SINKS_PER_TOPIC_MAX: usize = 20;
/// Most sinks of one topic that are marked as deleted; the one that was deleted first is forgotten.
pub const DELETED_PER_TOPIC_MAX: usize = 100;
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

/// Its namespace, where none is named.
pub const NAMESPACE_DEFAULT: &str = "streams";

fn default_namespace() -> String {
    NAMESPACE_DEFAULT.to_owned()
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

impl Triggers {
    /// True if it says nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What `other` says where this says nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            lag_ms: self.lag_ms.or(other.lag_ms),
            bytes: self.bytes.or(other.bytes),
            records: self.records.or(other.records),
        }
    }

    /// Whatever of the two comes first.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            [one, other].into_iter().flatten().min()
        }
        Self {
            lag_ms: least(self.lag_ms, other.lag_ms),
            bytes: least(self.bytes, other.bytes),
            records: least(self.records, other.records),
        }
    }

    /// What is wrong with it; `name` is the member that it is.
    pub fn faults(self, name: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |what: &str, value: Option<u64>, min: u64, max: u64| {
            if value.is_some_and(|value| !(min..=max).contains(&value)) {
                faults.push(format!("{name}.{what} is refused: allowed are {min} to {max}"));
            }
        };
        let lag = self.lag_ms.map(|ms| u64::try_from(ms).unwrap_or(0));
        check("lag_ms", lag, 1_000, 86_400_000);
        check("bytes", self.bytes, 100, 1 << 40);
        check("records", self.records, 1, 10_000_000);
        faults
    }
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
    /// Where the log ended when it was last switched on, by partition: what came before, while it was
    /// off, is a gap.
    pub resumed: BTreeMap<i32, Offset>,
    /// The version in which it was last switched on, or undeleted; 1 if it always was.
    pub on_since: u64,
    /// Who made and changed it, and when.
    pub trail: Trail,
    /// It was deleted because its source was, and comes back with it.
    pub deleted_with_source: bool,
    /// From when on its statistics count, if somebody cleared them.
    pub cleared: Option<Cleared>,
}

/// Statistics that begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// When, milliseconds from 1970 on.
    pub at_ms: i64,
    /// Rows that the table had by then.
    pub rows: u64,
}

impl Sink {
    fn new(
        (topic_id, id): (TopicId, String),
        wish: Wish,
        mapping: Arc<Mapping>,
        starts: BTreeMap<i32, Offset>,
        mark: Mark,
    ) -> Self {
        let (uid, version) = (SinkUid(Uuid::new_v4()), 1);
        let trail = Trail::begin(mark, wish.enabled);
        let (resumed, on_since) = (BTreeMap::new(), version);
        let (deleted_with_source, cleared) = (false, None);
        Self {
            uid,
            topic_id,
            id,
            wish,
            mapping,
            version,
            starts,
            resumed,
            on_since,
            trail,
            deleted_with_source,
            cleared,
        }
    }

    /// Names this version of it, as an entity tag without quotes.
    pub fn tag(&self) -> String {
        format!("{}.{}", self.uid.0.simple(), self.version)
    }

    /// True unless it is marked as deleted.
    pub fn is_live(&self) -> bool {
        self.trail.deleted.is_none()
    }

    /// True if a request to a source waits for what its templates say (`validate = sync`).
    pub fn runs_templates_first(&self) -> bool {
        self.wish.validate == Validate::Sync && self.mapping.runs_templates()
    }

    /// True if it takes records.
    pub fn is_on(&self) -> bool {
        self.wish.enabled && self.is_live()
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
