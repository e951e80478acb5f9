//! What somebody asks of a sink, and the checks of it. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mapping::{Faults, Mapping};
use super::{Error, From, TableName, Triggers};
use crate::schema::partition_spec;
use crate::types::Signal;

/// Longest id of a sink, in characters.
const ID_LEN_MAX: usize = 48;
/// Longest name, in characters (the limit is Keboola's).
const NAME_LEN_MAX: usize = 40;
/// Longest description, in characters (the limit is Keboola's).
const DESCRIPTION_LEN_MAX: usize = 4_096;
/// Longest name of a table: `__dlq` and a suffix must fit behind it.
const TABLE_LEN_MAX: usize = 200;
/// Longest namespace, in bytes.
const NAMESPACE_LEN_MAX: usize = 255;
/// Name of the system column, which no mapping may fill.
const SYSTEM_COLUMN: &str = "floe";

/// When an event is held against all of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Validate {
    /// When it is committed: one without a row is a dead letter.
    #[default]
    Commit,
    /// Before the answer to a source's request, templates included: one without a row is refused.
    Sync,
}

impl Validate {
    /// As wishes and settings name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Sync => "sync",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A sink as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// For people; empty is the id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where rows go.
    pub table: TableName,
    /// `{"columns": [...]}`, see [`Mapping`].
    pub mapping: Value,
    /// When they go there.
    #[serde(default)]
    pub commit: Triggers,
    /// Kept for Keboola's clients. There is no stage between the log and a commit.
    #[serde(default, skip_serializing_if = "Triggers::is_none")]
    pub staging: Triggers,
    /// False if what a source answers does not wait for the disk; none is as the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
    /// Of records of a source of type `otlp` it takes those of these signals; empty is all. It takes
    /// all other records.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub signals: BTreeSet<Signal>,
    /// When a request to a source is held against all of the mapping.
    #[serde(default, skip_serializing_if = "Validate::is_default")]
    pub validate: Validate,
    /// As `table.partition.spec`; empty is unpartitioned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub partition_spec: String,
    /// A disabled sink takes nothing: what comes meanwhile is a recorded gap.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// Where it begins; counts when it is made.
    #[serde(default)]
    pub from: From,
}

fn enabled() -> bool {
    true
}

impl Wish {
    /// True if it takes records of the signal.
    pub fn takes(&self, signal: Signal) -> bool {
        self.signals.is_empty() || self.signals.contains(&signal)
    }

    /// Checks everything that can be checked without looking at other sinks and tables.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all faults.
    pub fn check(&self, id: &str) -> Result<Mapping, Error> {
        let mut faults = Vec::new();
        let legal = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if !(1..=ID_LEN_MAX).contains(&id.len()) || !id.chars().all(legal) {
            let shown: String = id.chars().take(100).collect();
            faults.push(format!(
                "sink id {shown:?} is refused: allowed are 1 to {ID_LEN_MAX} letters, digits, _ and -"
            ));
        }
        for (what, text, max) in [
            ("name", &self.name, NAME_LEN_MAX),
            ("description", &self.description, DESCRIPTION_LEN_MAX),
        ] {
            if text.chars().count() > max {
                faults.push(format!("{what} is refused: allowed are {max} characters"));
            }
        }
        faults.extend(check_table(&self.table));
        faults.extend(self.commit.faults("commit"));
        faults.extend(self.staging.faults("staging"));
        if let Err(reason) = partition_spec::check(&self.partition_spec) {
            faults.push(format!("partition_spec is refused: {reason}"));
        }
        match Mapping::parse(&self.mapping) {
            Ok(mapping) => {
                if mapping.names().any(|name| name.eq_ignore_ascii_case(SYSTEM_COLUMN)) {
                    faults.push(format!("column {SYSTEM_COLUMN:?} is Floe's own"));
                }
                if faults.is_empty() { Ok(mapping) } else { Err(Error::Invalid(faults)) }
            }
            Err(Faults(found)) => {
                faults.extend(found.iter().map(ToString::to_string));
                Err(Error::Invalid(faults))
            }
        }
    }
}

fn check_table(table: &TableName) -> Vec<String> {
    let word = |text: &str, more: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(b as char))
    };
    let mut faults = Vec::new();
    if table.namespace.len() > NAMESPACE_LEN_MAX
        || !table.namespace.split('.').all(|level| word(level, "_-"))
    {
        faults.push(
            "table.namespace is refused: allowed are levels of letters, digits, _ and - joined by \
             dots"
                .to_owned(),
        );
    }
    if table.name.len() > TABLE_LEN_MAX || !word(&table.name, "_") {
        faults.push(format!(
            "table.name is refused: allowed are 1 to {TABLE_LEN_MAX} letters, digits and _"
        ));
    }
    faults
}
