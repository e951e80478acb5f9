//! What tiering durably knows of each table: the entry, its outstanding commit, their codec.
//!
//! Owns: the keys of the state space `Ledger`. Does not own: when anything changes (`state`).
//!
//! ```text
//! key   "table/"         topic id (32 hex)   value  1 byte version (2), JSON of Entry
//! key   "prepared/"      topic id (32 hex)   value  1 byte version (2), JSON of Prepared
//! key   "sink/"          topic id (32 hex) "/" uid of the sink (32 hex)    the same of a sink's table
//! key   "sink-prepared/" topic id (32 hex) "/" uid of the sink (32 hex)    the same
//! ```
//!
//! Version 1 lacks what a resume found, `accepted`, and rollbacks of the dead letters. A program that knows only version 1 would not
//! look at it, so it must not read version 2.
//!
//! A `Prepared` is large and never changes, so it lies beside the small entry that names its
//! attempts.

use std::collections::BTreeSet;

use iceberg::{NamespaceIdent, TableIdent};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::Change;
use crate::store::Space;
use crate::store::Store;
use crate::table::commit::marker::Ends;
use crate::table::commit::marker::Gap;
use crate::table::commit::marker::Range;
use crate::table::commit::marker::Writer;
use crate::table::commit::newest::Accepted;
use crate::tier::Error;
use crate::types::Signal;
use crate::types::SinkUid;
use crate::types::TopicId;

/// Version of both values.
const VERSION: u8 = 2;

/// The oldest version that is read.
const VERSION_MIN: u8 = 1;

/// Name and identity of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRef {
    /// Levels of its namespace.
    pub namespace: Vec<String>,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
}

impl TableRef {
    /// A reference to a loaded table.
    pub fn new(ident: &TableIdent, uuid: Uuid) -> Self {
        let namespace = ident.namespace().clone().inner();
        Self { namespace, name: ident.name().to_owned(), uuid }
    }

    /// Its name as a catalog takes it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the namespace is empty, which we never write.
    pub fn ident(&self) -> Result<TableIdent, Error> {
        let namespace = NamespaceIdent::from_vec(self.namespace.clone())
            .map_err(|error| Error::Corrupt(error.to_string()))?;
        Ok(TableIdent::new(namespace, self.name.clone()))
    }

    /// `namespace.name`.
    pub fn display(&self) -> String {
        format!("{}.{}", self.namespace.join("."), self.name)
    }
}

/// Why a table stands still until a person resumes it (rules 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StopState {
    /// The table holds a commit of ours that the ledger does not know.
    LogBehind,
    /// The table lost commits that the ledger knows.
    RolledBack,
    /// Another table has its name.
    Replaced,
    /// Ledger and table differ in what they hold.
    LedgerGap,
    /// An option or the table's schema cannot work.
    ConfigError,
    /// Its user dropped it.
    TableDropped,
}

impl StopState {
    /// As status shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogBehind => "LOG_BEHIND",
            Self::RolledBack => "ROLLED_BACK",
            Self::Replaced => "REPLACED",
            Self::LedgerGap => "LEDGER_GAP",
            Self::ConfigError => "CONFIG_ERROR",
            Self::TableDropped => "TABLE_DROPPED",
        }
    }

    /// The command that leaves it; `is_contract` where others made the table.
    pub fn resume_hint(self, name: &str, is_contract: bool) -> String {
        match self {
            Self::LogBehind if is_contract => {
                format!("floe table resume {name} --from table")
            }
            Self::Replaced | Self::TableDropped if is_contract => format!(
                "floe table resume {name} --from ledger (new rows only) or --from log-start (all \
                 rows the log still has), to the table that has the name then"
            ),
            Self::LogBehind => {
                format!("floe table resume {name} --from latest (starts a new table beside it)")
            }
            Self::LedgerGap | Self::ConfigError => {
                format!("floe table resume {name} --from table")
            }
            Self::RolledBack => format!(
                "floe table resume {name} --from table (writes the lost rows again as far as the \
                 log has them) or --from ledger (leaves them out)"
            ),
            Self::Replaced | Self::TableDropped => format!(
                "floe table resume {name} --from ledger (a new table with new rows only) or \
                 --from log-start (with all rows the log still has)"
            ),
        }
    }
}

/// A stopped state with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Which.
    pub state: StopState,
    /// What was found.
    pub reason: String,
}

/// The commit that is under way: everything of it that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outstanding {
    /// Names the `Prepared`.
    pub entry_id: Uuid,
    /// Commit ids of all attempts, oldest first; kept until one is committed.
    pub attempts: Vec<Uuid>,
    /// Ends once it is committed.
    pub ends_after: Ends,
}

/// The last commit that is recorded as committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCommit {
    /// The attempt that made it.
    pub commit_id: Uuid,
    /// Its snapshot; none if it had expired before we looked.
    pub snapshot_id: Option<i64>,
    /// Wall-clock time, milliseconds.
    pub at_ms: i64,
}

/// Counters since the table began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Table commits.
    pub commits: u64,
    /// Rows of the table.
    pub rows: u64,
    /// Rows of the dead-letter table.
    pub dlq_rows: u64,
    /// Offsets passed as recorded gaps.
    pub gap_offsets: u64,
    /// Rollbacks of the dead-letter table that were noticed.
    #[serde(default)]
    pub dlq_rollbacks: u64,
    /// Rows that they took away, as far as the table still told.
    #[serde(default)]
    pub dlq_rolled_back_rows: u64,
    /// Records without a row because a later one of the same commit has their primary key.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub superseded_rows: u64,
}

/// What is not there needs no place in the text.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A rename that was decided and may or may not have happened (rules 6.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    /// The table of the former topic, under its old name.
    pub table: TableRef,
    /// The name it gets.
    pub to: String,
}

/// All that is known of one table of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The topic.
    pub topic_id: TopicId,
    /// The topic's sink; none for its own table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<SinkUid>,
    /// Name of the topic.
    pub topic_name: String,
    /// Raised by every resume; part of every marker.
    pub generation: u32,
    /// The table; none until it is made.
    pub table: Option<TableRef>,
    /// The dead-letter table; none until it is needed.
    pub dlq: Option<TableRef>,
    /// The newest commit that the last rollback of the dead-letter table took away.
    pub dlq_taken_away: Option<Uuid>,
    /// Committed ends by partition index, exclusive.
    pub ends: Ends,
    /// Recorded gaps that no commit carries yet; per partition without holes after `ends` and
    /// the outstanding commit.
    pub pending_gaps: Vec<Gap>,
    /// The commit under way.
    pub outstanding: Option<Outstanding>,
    /// The last commit of this generation.
    pub last: Option<LastCommit>,
    /// What the last resume found in the table; none from the first commit of the generation on.
    pub accepted: Option<Accepted>,
    /// Where the table stands still.
    pub stop: Option<Stop>,
    /// Renames of a former topic's tables that come first.
    pub renames: Vec<Rename>,
    /// The table was switched off: its next start records a gap.
    pub off: bool,
    /// The topic is gone and its rows are settled.
    pub closed: bool,
    /// Counters.
    pub totals: Totals,
    /// The newest gaps, for status.
    pub gap_history: Vec<Gap>,
}

/// One file of rows or of deletes that is written and synced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Absolute URI.
    pub path: String,
    /// Schema it was written with.
    pub schema_id: i32,
    /// Partition spec it was written with.
    pub spec_id: i32,
    /// The data file as `iceberg::spec::serialize_data_file_to_json` writes it.
    pub json: String,
    /// Its size.
    pub bytes: u64,
}

/// A planned commit whose files are durable (rules 4.1): it is committed as written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Prepared {
    /// Its name.
    pub entry_id: Uuid,
    /// Rows: sorted by partition and offset.
    pub ranges: Vec<Range>,
    /// Gaps: sorted by partition and offset.
    pub gaps: Vec<Gap>,
    /// Ends of all partitions after it.
    pub ends_after: Ends,
    /// Files of the table, rows and deletes.
    pub files: Vec<FileEntry>,
    /// Files of the dead-letter table.
    pub dlq_files: Vec<FileEntry>,
    /// Offsets whose rows went to the dead-letter table, as ranges: every later attempt keeps
    /// this split.
    pub dlq_ranges: Vec<Range>,
    /// Of records that have a signal only those of these were taken; empty is all. Every later attempt
    /// keeps that too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub signals: BTreeSet<Signal>,
    /// Rows in `files`.
    pub rows: u64,
    /// Rows in `dlq_files`.
    pub dlq_rows: u64,
    /// Records without a row in `files` because a later one of the commit has their primary key.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub superseded_rows: u64,
    /// Dead-letter rows by code.
    pub dlq_codes: std::collections::BTreeMap<String, u64>,
    /// Append time of its oldest row, milliseconds; none without rows.
    pub oldest_append_ms: Option<i64>,
    /// Everything appended up to this time is in the table afterwards, milliseconds.
    pub watermark_ms: Option<i64>,
    /// Greatest record timestamp, milliseconds.
    pub max_record_ts_ms: Option<i64>,
}

/// The ledger in the store; cheap to clone. The worker of a table owns its entry.
#[derive(Clone)]
pub struct Ledger {
    store: Store,
}

impl Ledger {
    /// The ledger of `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The entry of a table with its outstanding commit. Blocks for microseconds.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Corrupt`].
    pub fn load(&self, writer: Writer) -> Result<Option<(Entry, Option<Prepared>)>, Error> {
        let Some(value) = self.store.get(Space::Ledger, &entry_key(writer))? else {
            return Ok(None);
        };
        let entry: Entry = decode(&value)?;
        let Some(outstanding) = &entry.outstanding else {
            return Ok(Some((entry, None)));
        };
        let prepared = self.store.get(Space::Ledger, &prepared_key(writer))?;
        let prepared: Prepared = match prepared {
            Some(value) => decode(&value)?,
            None => return Err(Error::Corrupt(format!("{writer:?} has no prepared commit"))),
        };
        if prepared.entry_id != outstanding.entry_id {
            return Err(Error::Corrupt(format!("{writer:?} has another prepared commit")));
        }
        Ok(Some((entry, Some(prepared))))
    }

    /// All entries of topics' own tables, those of deleted topics included.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Corrupt`].
    pub fn all(&self) -> Result<Vec<Entry>, Error> {
        let pairs = self.store.scan(Space::Ledger, ENTRY_PREFIX)?;
        pairs.iter().map(|(_, value)| decode(value)).collect()
    }

    /// All tables of sinks, those of deleted sinks included. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Corrupt`].
    pub fn sinks(&self) -> Result<Vec<Writer>, Error> {
        let pairs = self.store.scan(Space::Ledger, SINK_PREFIX)?;
        pairs.iter().map(|(_, value)| decode(value).map(|entry: Entry| entry.writer())).collect()
    }

    /// Makes `change` durable.
    ///
    /// # Errors
    /// [`Error::Store`]; nothing was written.
    pub async fn write(&self, change: Change) -> Result<(), Error> {
        self.store.commit(change).await?;
        Ok(())
    }
}

const ENTRY_PREFIX: &[u8] = b"table/";
const SINK_PREFIX: &[u8] = b"sink/";

fn entry_key(writer: Writer) -> Vec<u8> {
    key("table/", "sink/", writer)
}

fn prepared_key(writer: Writer) -> Vec<u8> {
    key("prepared/", "sink-prepared/", writer)
}

fn key(of_topic: &str, of_sink: &str, writer: Writer) -> Vec<u8> {
    let topic = writer.topic_id.0.simple();
    let key = match writer.sink {
        None => format!("{of_topic}{topic}"),
        Some(sink) => format!("{of_sink}{topic}/{}", sink.0.simple()),
    };
    key.into_bytes()
}

/// Forgets a table with its prepared commit.
pub fn delete(writer: Writer) -> Change {
    Change::new()
        .delete(Space::Ledger, entry_key(writer))
        .delete(Space::Ledger, prepared_key(writer))
}

/// Writes the entry, and deletes its prepared commit if none is outstanding.
pub fn put_entry(entry: &Entry) -> Change {
    let change = put_entry_alone(entry);
    if entry.outstanding.is_some() {
        change
    } else {
        change.delete(Space::Ledger, prepared_key(entry.writer()))
    }
}

/// Writes the entry and leaves its prepared commit where it is until the next write. For a change
/// that may be made without our hearing of it: the entry as it was before may be written once
/// more, and needs it.
pub fn put_entry_alone(entry: &Entry) -> Change {
    Change::new().put(Space::Ledger, entry_key(entry.writer()), encode(entry))
}

/// Writes the entry together with a new prepared commit.
pub fn put_prepared(entry: &Entry, prepared: &Prepared) -> Change {
    Change::new().put(Space::Ledger, entry_key(entry.writer()), encode(entry)).put(
        Space::Ledger,
        prepared_key(entry.writer()),
        encode(prepared),
    )
}

pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value).expect("plain structs encode into memory");
    bytes
}

pub(crate) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, Error> {
    match value.split_first() {
        Some((VERSION_MIN..=VERSION, json)) => {
            serde_json::from_slice(json).map_err(|error| Error::Corrupt(error.to_string()))
        }
        Some((version, _)) => Err(Error::Corrupt(format!(
            "ledger entry has version {version}, this program knows {VERSION}: use a newer one"
        ))),
        None => Err(Error::Corrupt("an empty ledger entry".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_codec_and_other_versions_are_refused() {
        let mut entry = Entry::new(Writer::topic(TopicId(Uuid::from_u128(7))), "orders");
        entry.ends.insert(3, 250);
        entry.outstanding = Some(Outstanding {
            entry_id: Uuid::from_u128(1),
            attempts: vec![Uuid::from_u128(2)],
            ends_after: Ends::from([(3, 300)]),
        });
        let mut bytes = encode(&entry);
        assert_eq!(decode::<Entry>(&bytes).unwrap(), entry);
        bytes[0] = 3;
        assert!(decode::<Entry>(&bytes).unwrap_err().to_string().contains("version 3"));
        assert!(decode::<Entry>(&[]).is_err());
    }

    #[test]
    fn an_entry_of_version_1_is_read() {
        let json = r#"{"topic_id":"00000000-0000-0000-0000-000000000007","topic_name":"orders",
            "generation":2,"table":null,"dlq":null,"ends":{"0":5},"pending_gaps":[],
            "outstanding":null,"last":null,"stop":null,"renames":[],"off":false,"closed":false,
            "totals":{"commits":1,"rows":5,"dlq_rows":0,"gap_offsets":0},"gap_history":[]}"#;
        let entry: Entry = decode(&[&[1], json.as_bytes()].concat()).unwrap();
        assert_eq!((entry.generation, entry.ends[&0], entry.accepted), (2, 5, None));
    }

    #[test]
    fn the_keys_are_the_golden_ones() {
        let topic_id = TopicId(Uuid::from_u128(7));
        let (own, sink) = (Writer::topic(topic_id), Some(SinkUid(Uuid::from_u128(9))));
        let seven = "00000000000000000000000000000007";
        let nine = "00000000000000000000000000000009";
        assert_eq!(entry_key(own), format!("table/{seven}").into_bytes());
        assert_eq!(prepared_key(own), format!("prepared/{seven}").into_bytes());
        let writer = Writer { topic_id, sink };
        assert_eq!(entry_key(writer), format!("sink/{seven}/{nine}").into_bytes());
        assert_eq!(prepared_key(writer), format!("sink-prepared/{seven}/{nine}").into_bytes());
    }

    #[test]
    fn the_prepared_commit_goes_with_its_entry() {
        let mut entry = Entry::new(Writer::topic(TopicId(Uuid::from_u128(7))), "orders");
        let change = put_entry(&entry);
        assert_eq!(change.ops.len(), 2);
        assert!(change.ops[1].value.is_none());
        entry.outstanding =
            Some(Outstanding { entry_id: Uuid::nil(), attempts: vec![], ends_after: Ends::new() });
        assert_eq!(put_entry(&entry).ops.len(), 1);
    }
}
