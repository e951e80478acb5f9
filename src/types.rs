//! The nouns that every module shares: topics, partitions, offsets, log positions.
//!
//! Owns no behaviour beyond validation and display. Offsets are plain `i64` as on the wire;
//! ranges are half-open `[base, end)`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// An offset of a record in a partition, counted from 0 (Kafka's meaning).
pub type Offset = i64;

/// A validated topic name: 1 to 249 characters of `[a-zA-Z0-9._-]`, not `.` or `..`
/// (source: `org.apache.kafka.common.internals.Topic`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(Arc<str>);

/// Longest legal topic name, in characters.
pub const TOPIC_NAME_LEN_MAX: usize = 249;

/// A topic name that Kafka's rules refuse; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("topic name {name:?} is illegal: {reason}")]
pub struct TopicNameError {
    /// The refused name.
    pub name: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl TopicName {
    /// Checks `name` against Kafka's rules.
    ///
    /// # Errors
    /// [`TopicNameError`] names the broken rule.
    pub fn parse(name: &str) -> Result<Self, TopicNameError> {
        let reason = if name.is_empty() {
            "it is empty"
        } else if name == "." || name == ".." {
            "it is `.` or `..`"
        } else if name.len() > TOPIC_NAME_LEN_MAX {
            "it is longer than 249 characters"
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            "it has a character outside [a-zA-Z0-9._-]"
        } else {
            return Ok(Self(name.into()));
        };
        Err(TopicNameError { name: name.chars().take(TOPIC_NAME_LEN_MAX).collect(), reason })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TopicName {
    type Error = TopicNameError;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.0.to_string()
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

/// The identity of a topic; a re-created topic gets a new one (rules 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub Uuid);

impl TopicId {
    /// The first `digits` hex digits of the id, for names that must tell two topics apart.
    pub fn short(&self, digits: usize) -> String {
        let hex = self.0.simple().to_string();
        // The random part of a version 4 id starts at its first digit.
        hex[..digits.min(hex.len())].to_owned()
    }

    /// A version 7 UUID for one of the topic's records: of `millis` (from 1970 on; negative counts
    /// as 0) and of the record's place, so that a replay of the log gives it again.
    pub fn record_id(self, partition: i32, offset: Offset, millis: i64) -> Uuid {
        let mut hash = Sha256::new();
        hash.update(self.0.as_bytes());
        hash.update(partition.to_be_bytes());
        hash.update(offset.to_be_bytes());
        let mut place = [0; 10];
        place.copy_from_slice(&hash.finalize()[..10]);
        let millis = u64::try_from(millis).unwrap_or(0);
        Builder::from_unix_timestamp_millis(millis, &place).into_uuid()
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a sink; one that is made again gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SinkUid(pub Uuid);

impl fmt::Display for SinkUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The internal number of a partition of one topic id; never used again (rules 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A half-open range of offsets `[base, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset in the range.
    pub base: Offset,
    /// First offset after the range.
    pub end: Offset,
}

impl OffsetRange {
    /// How many offsets the range covers.
    pub fn len(&self) -> i64 {
        self.end.saturating_sub(self.base).max(0)
    }

    /// True if no offset is covered.
    pub fn is_empty(&self) -> bool {
        self.end <= self.base
    }
}

/// A byte position in the write-ahead log, counted over all of its files. Frames start at
/// multiples of 32.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a caller knows of what it changes (RFC 9110, 13.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expected {
    /// Nothing: it is made or replaced.
    #[default]
    Any,
    /// There is none.
    None,
    /// Some version of it is there.
    Some,
    /// It is in the version of one of these tags.
    Tags(Vec<String>),
}

impl Expected {
    /// Checks it against the tag of what is there, if there is something.
    ///
    /// # Errors
    /// What is not as expected.
    pub fn check(&self, now: Option<&str>) -> Result<(), String> {
        let refused = match (self, now) {
            (Self::None, Some(_)) => "it is there already",
            (Self::Some | Self::Tags(_), None) => "it is not there",
            (Self::Tags(tags), Some(now)) if !tags.iter().any(|tag| tag == now) => {
                "it is in another version by now: read it again"
            }
            _ => return Ok(()),
        };
        Err(refused.to_owned())
    }
}

/// Most requests in a second that a limit may allow.
pub const RATE_REQUESTS_MAX: u32 = 1_000_000;

/// How much may come over HTTP in a second; 0 is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Requests, at most [`RATE_REQUESTS_MAX`].
    pub requests: u32,
    /// Bytes of bodies as they are sent.
    pub bytes: u64,
}

/// A [`Rate`] of somebody's own; what it does not say is as for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnRate {
    /// Requests.
    pub requests: Option<u32>,
    /// Bytes.
    pub bytes: Option<u64>,
}

impl Rate {
    /// The same for somebody whose own rate goes first.
    #[must_use]
    pub fn unless(self, own: OwnRate) -> Self {
        let (requests, bytes) = (own.requests, own.bytes);
        Self { requests: requests.unwrap_or(self.requests), bytes: bytes.unwrap_or(self.bytes) }
    }
}

/// The only leader epoch there is while Floe is one broker.
pub const LEADER_EPOCH: i32 = 0;

/// What OpenTelemetry calls the kinds of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Log records.
    Logs,
    /// Data points of metrics.
    Metrics,
    /// Spans.
    Traces,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Logs, Self::Metrics, Self::Traces];

    /// As paths and forms say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }

    /// The signal of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_has_of_their_own_goes_first() {
        let all = Rate { requests: 10, bytes: 1_000 };
        assert_eq!(all.unless(OwnRate::default()), all);
        let own = OwnRate { requests: Some(0), bytes: None };
        assert_eq!(all.unless(own), Rate { requests: 0, bytes: 1_000 });
    }

    #[test]
    fn a_range_of_any_two_offsets_has_a_length() {
        let len = |base, end| OffsetRange { base, end }.len();
        assert_eq!([len(3, 7), len(7, 3), len(1, i64::MIN)], [4, 0, 0]);
        assert_eq!(len(i64::MIN, i64::MAX), i64::MAX);
    }

    #[test]
    fn topic_names_follow_kafkas_rules() {
        for good in ["a", "orders.v1", "A_b-C", "..."] {
            assert!(TopicName::parse(good).is_ok(), "{good}");
        }
        let long = "x".repeat(250);
        for bad in ["", ".", "..", "a b", "é", "a/b", long.as_str()] {
            assert!(TopicName::parse(bad).is_err(), "{bad}");
        }
    }
}
