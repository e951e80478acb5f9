//! Puts a snapshot together: append, replace, overwrite and delete through one piece of code.
//!
//! Owns: manifests and manifest lists, sequence numbers, summaries, the merge of small manifests,
//! the removal of what it wrote when it fails. Does not own: the commit (requirements and updates
//! go to a catalog), the guard of exactly-once, or data files.
//!
//! Sources: the Iceberg table spec ("Snapshots", "Manifests", "Sequence numbers", "Row lineage"),
//! and Java's `SnapshotProducer`, `MergingSnapshotProducer` and `SnapshotSummary`.

mod builder;
mod manifests;
mod summary;

use std::collections::{HashMap, HashSet};

use futures::StreamExt;
use iceberg::io::FileIO;
use iceberg::spec::{
    FormatVersion, MAIN_BRANCH, Manifest, ManifestFile, ManifestList, Operation, Snapshot,
    TableMetadataRef,
};
use iceberg::{TableRequirement, TableUpdate};
use uuid::Uuid;

use self::builder::Build;
use crate::runtime::Clock;
use crate::table::blocking::off_the_workers;
use crate::table::maintenance::delete_files;
use crate::table::spec::is_data;
use crate::table::{AddedFile, Error};

/// Manifests read at once.
const READS_MAX: usize = 8;

/// When small manifests are merged into one on the way of a commit (rules 4.10).
#[derive(Debug, Clone, Copy)]
pub struct MergePolicy {
    /// Merge once this many small manifests of one content and partition spec are in the list.
    pub at: usize,
    /// A manifest below this many bytes is small.
    pub small_bytes: i64,
}

impl Default for MergePolicy {
    fn default() -> Self {
        Self { at: 50, small_bytes: 2 * 1024 * 1024 }
    }
}

/// What a snapshot changes.
#[derive(Debug, Clone)]
pub struct SnapshotChange {
    /// The operation named in the summary.
    pub operation: Operation,
    /// Files to add, data or deletes; each goes to a manifest of its own partition spec.
    pub added: Vec<AddedFile>,
    /// Locations of live files to remove. One that is not live fails the whole.
    pub removed: HashSet<String>,
    /// Data sequence number of the added data files; none is the snapshot's own. A rewrite of
    /// rows gives the one its plan began at, so that later deletes still apply.
    pub data_sequence_number: Option<i64>,
    /// Properties for the summary. Names that Iceberg computes itself are overwritten.
    pub summary: HashMap<String, String>,
}

impl SnapshotChange {
    /// An append of `added` with `summary`; both may be empty.
    pub fn append(added: Vec<AddedFile>, summary: HashMap<String, String>) -> Self {
        Self {
            operation: Operation::Append,
            added,
            removed: HashSet::new(),
            data_sequence_number: None,
            summary,
        }
    }

    /// `added` with `summary`, as the operation that its files make it (Java's `BaseRowDelta`): rows
    /// and deletes of others together overwrite, rows alone are appended.
    pub fn row_delta(added: Vec<AddedFile>, summary: HashMap<String, String>) -> Self {
        let rows = added.iter().filter(|added| is_data(&added.file)).count();
        let operation = match (rows, added.len() - rows) {
            (_, 0) => Operation::Append,
            (0, _) => Operation::Delete,
            _ => Operation::Overwrite,
        };
        Self { operation, ..Self::append(added, summary) }
    }
}

/// Where a snapshot goes and what its files are called.
#[derive(Debug, Clone)]
pub struct SnapshotTarget {
    /// The table as it was loaded.
    pub metadata: TableMetadataRef,
    /// Access to its files.
    pub file_io: FileIO,
    /// Branch; it is made if it does not exist.
    pub branch: String,
    /// Names the files together with `attempt`; never used for another change.
    pub commit_id: Uuid,
    /// Counts the builds under one commit id, so that none overwrites another's files.
    pub attempt: u32,
    /// Merge of small manifests; none leaves them.
    pub merge: Option<MergePolicy>,
    /// The manifests of the branch's current snapshot, if the caller kept them from
    /// [`BuiltSnapshot`] of exactly that snapshot; none reads them.
    pub parent_manifests: Option<Vec<ManifestFile>>,
}

impl SnapshotTarget {
    /// The main branch of a table, first attempt, with the default merge, nothing cached.
    pub fn main(metadata: TableMetadataRef, file_io: FileIO, commit_id: Uuid) -> Self {
        Self {
            metadata,
            file_io,
            branch: MAIN_BRANCH.to_owned(),
            commit_id,
            attempt: 0,
            merge: Some(MergePolicy::default()),
            parent_manifests: None,
        }
    }
}

/// A snapshot that is written but not committed.
#[derive(Debug, Clone)]
pub struct BuiltSnapshot {
    /// Its id.
    pub snapshot_id: i64,
    /// What must hold at the commit: the table's UUID and the branch's current snapshot.
    pub requirements: Vec<TableRequirement>,
    /// Adds the snapshot and moves the branch, whose retention stays as it is.
    pub updates: Vec<TableUpdate>,
    /// The snapshot's manifests, for the next build on top of it.
    pub manifests: Vec<ManifestFile>,
    /// Manifests and manifest list written for it. They may be deleted only when the commit
    /// definitely failed (rules 4.6).
    pub files_written: Vec<String>,
}

/// Writes the manifests and the manifest list of one snapshot.
///
/// The timestamp is the greater of now and the table's last update (rules 4.8).
///
/// # Errors
/// [`Error::NotLive`] if a file to remove is not live, [`Error::Storage`], [`Error::Exists`],
/// [`Error::Invalid`] (unknown partition spec, deletes in a table of format 1). What was written
/// is deleted again. Not cancel safe: a build that is dropped goes on, and what it writes stays.
pub async fn build(
    target: SnapshotTarget,
    change: SnapshotChange,
    clock: &Clock,
) -> Result<BuiltSnapshot, Error> {
    let clock = clock.clone();
    off_the_workers(async move { build_or_clean_up(target, change, &clock).await }).await
}

async fn build_or_clean_up(
    target: SnapshotTarget,
    change: SnapshotChange,
    clock: &Clock,
) -> Result<BuiltSnapshot, Error> {
    let file_io = target.file_io.clone();
    let mut build = Build::new(target)?;
    match build.run(change, clock).await {
        Ok(built) => Ok(built),
        Err(error) => {
            // Nothing can refer to them yet.
            delete_files(&file_io, build.writer.files_written()).await;
            Err(error)
        }
    }
}

/// The manifests of `snapshot`.
///
/// # Errors
/// [`Error::Storage`] if the list cannot be read, [`Error::Invalid`] if it is damaged.
pub async fn read_manifest_list(
    file_io: &FileIO,
    snapshot: &Snapshot,
    version: FormatVersion,
) -> Result<Vec<ManifestFile>, Error> {
    let input = file_io.new_input(snapshot.manifest_list()).map_err(Error::from_iceberg)?;
    let bytes = input.read().await.map_err(Error::from_iceberg)?;
    let list = ManifestList::parse_with_version(&bytes, version).map_err(Error::from_iceberg)?;
    Ok(list.consume_entries().into_iter().collect())
}

/// Reads the entries of `manifests`, in their order, at most [`READS_MAX`] at a time.
pub(crate) fn read_manifests(
    file_io: &FileIO,
    manifests: Vec<ManifestFile>,
) -> impl futures::Stream<Item = Result<(ManifestFile, Manifest), Error>> + use<> {
    let file_io = file_io.clone();
    futures::stream::iter(manifests)
        .map(move |file| {
            let file_io = file_io.clone();
            async move {
                let manifest = file.load_manifest(&file_io).await.map_err(Error::from_iceberg)?;
                Ok((file, manifest))
            }
        })
        .buffered(READS_MAX)
}

#[cfg(test)]
mod tests;
