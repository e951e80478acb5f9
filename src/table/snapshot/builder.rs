//! The steps of one build: added files, kept manifests, merge, numbers, list, snapshot.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::TryStreamExt;
use iceberg::TableRequirement;
use iceberg::spec::{
    FormatVersion, ManifestContentType, ManifestFile, ManifestListWriter, Snapshot, SnapshotRef,
    Summary, TableMetadataRef, UNASSIGNED_SEQUENCE_NUMBER,
};
use uuid::Uuid;

use super::manifests::{self, ManifestsWriter};
use super::summary::Collector;
use super::{BuiltSnapshot, SnapshotChange, SnapshotTarget, read_manifest_list, read_manifests};
use crate::runtime::Clock;
use crate::table::{AddedFile, Error};

/// Most manifests that one commit merges: it bounds the commit's time and memory.
const MERGE_MANIFESTS_MAX: usize = 200;

/// One build in progress.
pub(super) struct Build {
    target: SnapshotTarget,
    parent: Option<SnapshotRef>,
    snapshot_id: i64,
    sequence_number: i64,
    pub(super) writer: ManifestsWriter,
}

impl Build {
    pub(super) fn new(target: SnapshotTarget) -> Result<Self, Error> {
        let parent = target.metadata.snapshot_for_ref(&target.branch).cloned();
        let mut snapshot_id = random_id();
        while target.metadata.snapshot_by_id(snapshot_id).is_some() {
            snapshot_id = random_id();
        }
        let sequence_number = target.metadata.next_sequence_number();
        let writer = ManifestsWriter::new(&target, snapshot_id);
        Ok(Self { target, parent, snapshot_id, sequence_number, writer })
    }

    pub(super) async fn run(
        &mut self,
        change: SnapshotChange,
        clock: &Clock,
    ) -> Result<BuiltSnapshot, Error> {
        let metadata = Arc::clone(&self.target.metadata);
        let mut collector = Collector::new(Arc::clone(&metadata));
        let added = self.add(&change, &mut collector).await?;
        let kept = self.keep(change.removed, &mut collector).await?;
        let kept = self.merge(kept).await?;
        // New ones first, as Java does: readers that stop early see the newest rows.
        let mut manifests: Vec<ManifestFile> = added.into_iter().chain(kept).collect();
        let next_row_id = self.number(&mut manifests);
        let list = self.write_list(&manifests).await?;

        let parent_summary = self.parent.as_ref().map(|parent| parent.summary());
        let properties = collector.finish(change.summary, parent_summary);
        let snapshot = Snapshot::builder()
            .with_snapshot_id(self.snapshot_id)
            .with_parent_snapshot_id(self.parent.as_ref().map(|parent| parent.snapshot_id()))
            .with_sequence_number(self.sequence_number)
            .with_timestamp_ms(clock.now_ms().max(metadata.last_updated_ms()))
            .with_manifest_list(list)
            .with_schema_id(metadata.current_schema_id())
            .with_summary(Summary {
                operation: change.operation,
                additional_properties: properties,
            });
        let snapshot = if metadata.format_version() >= FormatVersion::V3 {
            let first = metadata.next_row_id();
            snapshot.with_row_range(first, next_row_id - first).build()
        } else {
            snapshot.build()
        };
        self.finish(snapshot, manifests)
    }

    /// Writes the added files, one manifest per content and partition spec.
    async fn add(
        &mut self,
        change: &SnapshotChange,
        collector: &mut Collector,
    ) -> Result<Vec<ManifestFile>, Error> {
        let mut groups: Vec<((ManifestContentType, i32), Vec<&AddedFile>)> = Vec::new();
        for added in &change.added {
            let key = (manifests::content_of(&added.file), added.spec_id);
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, files)) => files.push(added),
                None => groups.push((key, vec![added])),
            }
        }
        let mut written = Vec::new();
        for ((content, spec_id), files) in groups {
            let sequence_number = match content {
                ManifestContentType::Data => change.data_sequence_number,
                ManifestContentType::Deletes => None,
            };
            let mut manifest = self.writer.start(content, spec_id)?;
            for added in files {
                collector.add(added)?;
                let sequence_number = sequence_number.unwrap_or(UNASSIGNED_SEQUENCE_NUMBER);
                manifest
                    .writer
                    .add_file(added.file.clone(), sequence_number)
                    .map_err(Error::from_iceberg)?;
            }
            written.push(self.writer.finish(manifest).await?);
        }
        Ok(written)
    }

    /// The parent's manifests without the `removed` files.
    async fn keep(
        &mut self,
        mut removed: HashSet<String>,
        collector: &mut Collector,
    ) -> Result<Vec<ManifestFile>, Error> {
        let Some(parent) = self.parent.clone() else {
            return if removed.is_empty() { Ok(Vec::new()) } else { Err(not_live(removed)) };
        };
        let version = self.target.metadata.format_version();
        let manifests = match self.target.parent_manifests.take() {
            Some(manifests) => manifests,
            None => read_manifest_list(&self.target.file_io, &parent, version).await?,
        };
        // A manifest with nothing but deleted entries says what its own snapshot removed; it
        // means nothing to later ones (Java: `MergingSnapshotProducer` filters the same way).
        let live = |file: &ManifestFile| file.has_added_files() || file.has_existing_files();
        let manifests: Vec<ManifestFile> = manifests.into_iter().filter(live).collect();
        if removed.is_empty() {
            return Ok(manifests);
        }
        let mut kept = Vec::with_capacity(manifests.len());
        let mut loaded = std::pin::pin!(read_manifests(&self.target.file_io, manifests));
        while let Some((file, manifest)) = loaded.try_next().await? {
            let touched = manifest
                .entries()
                .iter()
                .any(|entry| entry.is_alive() && removed.contains(entry.file_path()));
            if touched {
                let rewritten =
                    self.writer.rewrite(&file, &manifest, &mut removed, collector).await?;
                kept.push(rewritten);
            } else {
                kept.push(file);
            }
        }
        if removed.is_empty() { Ok(kept) } else { Err(not_live(removed)) }
    }

    /// Merges the small manifests of each content and partition spec that has too many.
    async fn merge(&mut self, mut kept: Vec<ManifestFile>) -> Result<Vec<ManifestFile>, Error> {
        let Some(policy) = self.target.merge else {
            return Ok(kept);
        };
        // Manifests of this very build wait: their entries have no sequence number yet.
        let own = self.snapshot_id;
        let small = |file: &ManifestFile| {
            file.manifest_length < policy.small_bytes
                && file.added_snapshot_id != own
                && file.key_metadata.is_none()
        };
        let mut counts: HashMap<(bool, i32), usize> = HashMap::new();
        let key = |file: &ManifestFile| {
            (file.content == ManifestContentType::Data, file.partition_spec_id)
        };
        for file in kept.iter().filter(|file| small(file)) {
            *counts.entry(key(file)).or_default() += 1;
        }
        let due: Vec<_> =
            counts.into_iter().filter(|(_, n)| *n >= policy.at.max(2)).map(|(k, _)| k).collect();
        for group in due {
            let mut sources = Vec::new();
            let mut rest = Vec::with_capacity(kept.len());
            for file in kept {
                let take = key(&file) == group && small(&file);
                if take && sources.len() < MERGE_MANIFESTS_MAX {
                    sources.push(file);
                } else {
                    rest.push(file);
                }
            }
            let merged = self.writer.merge(sources).await?;
            rest.push(merged);
            kept = rest;
        }
        Ok(kept)
    }

    /// Gives the new manifests their sequence numbers and, in format 3, first row ids; returns
    /// the next free row id. The list writer would do it too, but keeps the result to itself.
    fn number(&self, manifests: &mut [ManifestFile]) -> u64 {
        let mut next_row_id = self.target.metadata.next_row_id();
        let rows = self.target.metadata.format_version() >= FormatVersion::V3;
        for file in manifests {
            if file.sequence_number == UNASSIGNED_SEQUENCE_NUMBER {
                file.sequence_number = self.sequence_number;
            }
            if file.min_sequence_number == UNASSIGNED_SEQUENCE_NUMBER {
                file.min_sequence_number = self.sequence_number;
            }
            let unnumbered =
                file.content == ManifestContentType::Data && file.first_row_id.is_none();
            if rows && unnumbered {
                file.first_row_id = Some(next_row_id);
                next_row_id += file.existing_rows_count.unwrap_or(0);
                next_row_id += file.added_rows_count.unwrap_or(0);
            }
        }
        next_row_id
    }

    async fn write_list(&mut self, manifests: &[ManifestFile]) -> Result<String, Error> {
        let location = self.writer.list_location();
        let output = self.target.file_io.new_output(&location).map_err(Error::from_iceberg)?;
        let output = output.writer().await.map_err(Error::from_iceberg)?;
        let (id, sequence_number) = (self.snapshot_id, self.sequence_number);
        let parent = self.parent.as_ref().map(|parent| parent.snapshot_id());
        let mut writer = match self.target.metadata.format_version() {
            FormatVersion::V1 => ManifestListWriter::v1(output, id, parent),
            FormatVersion::V2 => ManifestListWriter::v2(output, id, parent, sequence_number),
            FormatVersion::V3 => {
                let first_row_id = Some(self.target.metadata.next_row_id());
                ManifestListWriter::v3(output, id, parent, sequence_number, first_row_id)
            }
        };
        writer.add_manifests(manifests.iter().cloned()).map_err(Error::from_iceberg)?;
        let result = writer.close().await;
        self.writer.note(location.clone(), result)?;
        Ok(location)
    }

    fn finish(
        &mut self,
        snapshot: Snapshot,
        manifests: Vec<ManifestFile>,
    ) -> Result<BuiltSnapshot, Error> {
        let metadata = &self.target.metadata;
        let parent = self.parent.as_ref().map(|parent| parent.snapshot_id());
        let requirements = vec![
            TableRequirement::UuidMatch { uuid: metadata.uuid() },
            TableRequirement::RefSnapshotIdMatch {
                r#ref: self.target.branch.clone(),
                snapshot_id: parent,
            },
        ];
        // The metadata builder knows the branch's retention, which is not public, and checks the
        // snapshot by Iceberg's rules before any catalog does.
        let updates = TableMetadataRef::unwrap_or_clone(Arc::clone(metadata))
            .into_builder(None)
            .set_branch_snapshot(snapshot, &self.target.branch)
            .and_then(|builder| builder.build())
            .map_err(Error::from_iceberg)?
            .changes;
        Ok(BuiltSnapshot {
            snapshot_id: self.snapshot_id,
            requirements,
            updates,
            manifests,
            files_written: self.writer.files_written().to_vec(),
        })
    }
}

fn not_live(paths: HashSet<String>) -> Error {
    let mut paths: Vec<String> = paths.into_iter().collect();
    paths.sort();
    Error::NotLive(paths)
}

/// A positive id of 63 random bits, as Java's `SnapshotIdGeneratorUtil` makes them.
fn random_id() -> i64 {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    i64::try_from((high ^ low) & u64::MAX >> 1).unwrap_or(1).max(1)
}
