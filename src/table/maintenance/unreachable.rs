//! Which files only expired snapshots reach (Java's `ReachableFileCleanup`).

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt};
use iceberg::io::FileIO;
use iceberg::spec::{
    MAIN_BRANCH, ManifestFile, Snapshot, SnapshotRef, TableMetadata, TableMetadataRef,
};

use super::expiry::ancestors;
use crate::table::Error;
use crate::table::blocking::off_the_workers;
use crate::table::snapshot::{read_manifest_list, read_manifests};

/// Manifest lists read at once.
const LISTS_MAX: usize = 16;

/// Locations of the manifest lists, manifests, data, delete and statistics files that only the
/// snapshots in `expired` reach. Call it with the metadata as it was before they were removed,
/// and delete the files only after their removal was committed. Files of expired snapshots that
/// are missing already are passed over.
///
/// # Errors
/// [`Error::Storage`] or [`Error::Invalid`] if a list or manifest of a snapshot that stays cannot
/// be read: then nothing is known to be unreachable.
pub async fn unreachable_files(
    file_io: &FileIO,
    metadata: &TableMetadataRef,
    expired: &[i64],
) -> Result<Vec<String>, Error> {
    let expired: HashSet<i64> = expired.iter().copied().collect();
    let (file_io, metadata) = (file_io.clone(), metadata.clone());
    off_the_workers(async move { search(&file_io, &metadata, expired).await }).await
}

async fn search(
    file_io: &FileIO,
    metadata: &TableMetadata,
    expired: HashSet<i64>,
) -> Result<Vec<String>, Error> {
    let (gone, kept): (Vec<SnapshotRef>, Vec<SnapshotRef>) = metadata
        .snapshots()
        .cloned()
        .partition(|snapshot| expired.contains(&snapshot.snapshot_id()));

    let mut candidates = manifests_of(file_io, metadata, &gone, Missing::Skip).await?;
    let kept_manifests = manifests_of(file_io, metadata, &kept, Missing::Fail).await?;
    candidates.retain(|path, _| !kept_manifests.contains_key(path));

    let kept_lists: HashSet<&str> = kept.iter().map(|s| s.manifest_list()).collect();
    let mut files: Vec<String> = gone
        .iter()
        .map(|snapshot| snapshot.manifest_list())
        .filter(|list| !kept_lists.contains(list))
        .map(str::to_owned)
        .collect();
    files.extend(statistics(metadata, &expired));
    if !only_grew(metadata, &expired) {
        let candidates: Vec<ManifestFile> = candidates.values().cloned().collect();
        let kept: Vec<ManifestFile> = kept_manifests.into_values().collect();
        files.extend(data_files(file_io, candidates, kept).await?);
    }
    files.extend(candidates.into_keys());
    files.sort();
    files.dedup();
    Ok(files)
}

/// What to do about a manifest list that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Skip,
    Fail,
}

/// The manifests of `snapshots` by location.
async fn manifests_of(
    file_io: &FileIO,
    metadata: &TableMetadata,
    snapshots: &[SnapshotRef],
    missing: Missing,
) -> Result<HashMap<String, ManifestFile>, Error> {
    let version = metadata.format_version();
    let mut lists = futures::stream::iter(snapshots.to_vec())
        .map(|snapshot| {
            let file_io = file_io.clone();
            async move {
                let result = read_manifest_list(&file_io, &snapshot, version).await;
                let skip = result.is_err() && missing == Missing::Skip;
                if skip && is_missing(&file_io, snapshot.manifest_list()).await {
                    return Ok(Vec::new());
                }
                result
            }
        })
        .buffer_unordered(LISTS_MAX);
    let mut manifests = HashMap::new();
    while let Some(list) = lists.try_next().await? {
        for manifest in list {
            manifests.entry(manifest.manifest_path.clone()).or_insert(manifest);
        }
    }
    Ok(manifests)
}

async fn is_missing(file_io: &FileIO, location: &str) -> bool {
    matches!(file_io.exists(location).await, Ok(false))
}

fn statistics(metadata: &TableMetadata, expired: &HashSet<i64>) -> Vec<String> {
    let tables = metadata.statistics_iter().map(|s| (s.snapshot_id, &s.statistics_path));
    let partitions =
        metadata.partition_statistics_iter().map(|s| (s.snapshot_id, &s.statistics_path));
    tables
        .chain(partitions)
        .filter(|(id, _)| expired.contains(id))
        .map(|(_, path)| path.clone())
        .collect()
}

/// True if no live file was ever removed between an expired snapshot and the tip of main: then
/// every data file of the expired ones is still live there, and no manifest need be read.
fn only_grew(metadata: &TableMetadata, expired: &HashSet<i64>) -> bool {
    let removes = |snapshot: &Snapshot| {
        let properties = &snapshot.summary().additional_properties;
        ["deleted-data-files", "removed-delete-files"]
            .iter()
            .any(|key| properties.get(*key).is_some_and(|count| count != "0"))
            // A summary that does not tell what it added does not tell what it removed either.
            || !properties.contains_key("total-data-files")
    };
    let tip = metadata.snapshot_for_ref(MAIN_BRANCH).map(|tip| tip.snapshot_id());
    let mut left = expired.len();
    for snapshot in ancestors(metadata, tip) {
        if left == 0 {
            return true;
        }
        if expired.contains(&snapshot.snapshot_id()) {
            left -= 1;
        }
        if removes(snapshot) {
            return false;
        }
    }
    left == 0
}

/// Live files of `candidates` that are live in none of `kept`.
async fn data_files(
    file_io: &FileIO,
    candidates: Vec<ManifestFile>,
    kept: Vec<ManifestFile>,
) -> Result<HashSet<String>, Error> {
    let mut files = HashSet::new();
    for manifest in candidates {
        // Gone already with what it listed: its files are orphans for another sweep.
        if is_missing(file_io, &manifest.manifest_path).await {
            continue;
        }
        let read = read_manifests(file_io, vec![manifest]);
        let mut read = std::pin::pin!(read);
        while let Some((_, manifest)) = read.try_next().await? {
            let live = manifest.entries().iter().filter(|entry| entry.is_alive());
            files.extend(live.map(|entry| entry.file_path().to_owned()));
        }
    }
    let mut kept = std::pin::pin!(read_manifests(file_io, kept));
    while !files.is_empty()
        && let Some((_, manifest)) = kept.try_next().await?
    {
        for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
            files.remove(entry.file_path());
        }
    }
    Ok(files)
}
