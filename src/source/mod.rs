//! Sources: URLs with a secret in them, whose whole requests become records of a topic.
//!
//! ```text
//! Source  id    JSON: v = 1, id, wish, secret, version, trail
//! ```
//!
//! The secret is part of a URL that its users must be able to read again, so it is kept as it is; it
//! is neither logged nor shown to who may not alter the cluster. What is marked as deleted takes
//! nothing and can come back; earlier versions are kept (`store::history`).
//!
//! Owns: the space `Source`, secrets. Does not own: the route (`http`), the topic and its sinks.

mod registry;

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::sink::Triggers;
use crate::store;
use crate::store::history::Trail;
use crate::types::TopicName;

pub use registry::Sources;

/// A version of what was asked of a source.
pub type Version = store::history::Version<Wish>;

/// Most sources.
pub const SOURCES_MAX: usize = 1_000;
/// Longest id, in characters.
const ID_LEN_MAX: usize = 48;
/// Longest name and description, in characters (the limits are Keboola's).
const NAME_LEN_MAX: usize = 40;
const DESCRIPTION_LEN_MAX: usize = 4_096;

/// What somebody asks of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// What its requests are.
    #[serde(rename = "type", default, skip_serializing_if = "Kind::is_http")]
    pub kind: Kind,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where its records go; empty is the topic that is named like the source.
    #[serde(default)]
    pub topic: String,
    /// A disabled source takes nothing.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// When its topic's sinks commit that do not say it themselves.
    #[serde(default, skip_serializing_if = "Triggers::is_none")]
    pub commit: Triggers,
    /// Kept for Keboola's clients. There is no stage between the log and a commit.
    #[serde(default, skip_serializing_if = "Triggers::is_none")]
    pub staging: Triggers,
    /// False if an answer does not wait for the disk; none is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
    /// What of a request is one record.
    #[serde(default, skip_serializing_if = "Split::is_none")]
    pub split: Split,
}

/// What the requests of a source are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Anything.
    #[default]
    Http,
    /// Logs, metrics and traces of OpenTelemetry, each record of which is one of the topic.
    Otlp,
}

impl Kind {
    fn is_http(&self) -> bool {
        *self == Self::Http
    }

    /// As answers say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Otlp => "otlp",
        }
    }
}

/// How a request becomes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// It is one record, whatever it is.
    #[default]
    None,
    /// Each element of a JSON array; another body is one record.
    Array,
    /// Each line, which is JSON.
    Ndjson,
    /// [`Self::Ndjson`] where the content type says so, else [`Self::Array`].
    Auto,
}

impl Split {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

fn enabled() -> bool {
    true
}

/// A source as it is durably known; immutable, replaced on each change.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    v: u32,
    /// Its name in paths.
    pub id: String,
    /// What was asked for; its topic is never empty.
    pub wish: Wish,
    /// What its URL ends with.
    pub secret: String,
    /// Counts its changes from 1.
    pub version: u64,
    /// Who made and changed it, and when.
    pub trail: Trail,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("id", &self.id).field("version", &self.version).finish()
    }
}

impl Source {
    /// True if `secret` is its own; takes the same time wherever they differ.
    pub fn is_opened_by(&self, secret: &str) -> bool {
        self.secret.as_bytes().ct_eq(secret.as_bytes()).into()
    }

    /// Names this version of it, as an entity tag without quotes.
    pub fn tag(&self) -> String {
        format!("{}.{}", self.trail.created.at_ms, self.version)
    }

    /// True unless it is marked as deleted.
    pub fn is_live(&self) -> bool {
        self.trail.deleted.is_none()
    }
}

/// Why sources cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something of the wish is refused; the text says what is allowed.
    #[error("{0}")]
    Invalid(String),
    /// The source is not in the version that the caller knows.
    #[error("{0}")]
    Precondition(String),
    /// No such source.
    #[error("there is no source {0:?}")]
    Unknown(String),
    /// All places are taken.
    #[error("there are {SOURCES_MAX} sources already; delete some")]
    TooMany,
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Wish {
    /// The wish with its topic, which is named like the source where it says none.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn checked(mut self, id: &str) -> Result<Self, Error> {
        if self.topic.is_empty() {
            id.clone_into(&mut self.topic);
        }
        check(id, &self)?;
        Ok(self)
    }
}

fn check(id: &str, wish: &Wish) -> Result<(), Error> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if !(1..=ID_LEN_MAX).contains(&id.len()) || !id.chars().all(legal) {
        let shown: String = id.chars().take(100).collect();
        return Err(Error::Invalid(format!(
            "source id {shown:?} is refused: allowed are 1 to {ID_LEN_MAX} letters, digits, _ and -"
        )));
    }
    for (what, text, max) in [
        ("name", &wish.name, NAME_LEN_MAX),
        ("description", &wish.description, DESCRIPTION_LEN_MAX),
    ] {
        if text.chars().count() > max {
            return Err(Error::Invalid(format!("{what} is refused: allowed are {max} characters")));
        }
    }
    if wish.kind == Kind::Otlp && wish.split != Split::None {
        let text = "split is refused: a source of type otlp takes its requests apart by itself";
        return Err(Error::Invalid(text.to_owned()));
    }
    let mut faults = wish.commit.faults("commit");
    faults.extend(wish.staging.faults("staging"));
    if !faults.is_empty() {
        return Err(Error::Invalid(faults.join("; ")));
    }
    TopicName::parse(&wish.topic).map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests;
