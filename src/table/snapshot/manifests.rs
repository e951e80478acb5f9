//! Writes manifests: of new files, of a rewritten manifest, of several merged ones.

use std::collections::HashSet;

use futures::TryStreamExt;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, FormatVersion, Manifest, ManifestContentType, ManifestEntry, ManifestFile,
    ManifestWriter, ManifestWriterBuilder, TableMetadataRef,
};
use uuid::Uuid;

use super::summary::Collector;
use super::{SnapshotTarget, read_manifests};
use crate::table::Error;
use crate::table::spec::{is_data, with_first_row_id};

/// Writes the manifests of one build and remembers their names.
pub(super) struct ManifestsWriter {
    metadata: TableMetadataRef,
    file_io: FileIO,
    commit_id: Uuid,
    attempt: u32,
    snapshot_id: i64,
    started: usize,
    files_written: Vec<String>,
}

/// A manifest that is not written yet.
pub(super) struct OpenManifest {
    pub(super) writer: ManifestWriter,
    location: String,
}

/// The kind of manifest that `file` belongs into.
pub(super) fn content_of(file: &DataFile) -> ManifestContentType {
    if is_data(file) { ManifestContentType::Data } else { ManifestContentType::Deletes }
}

impl ManifestsWriter {
    pub(super) fn new(target: &SnapshotTarget, snapshot_id: i64) -> Self {
        Self {
            metadata: target.metadata.clone(),
            file_io: target.file_io.clone(),
            commit_id: target.commit_id,
            attempt: target.attempt,
            snapshot_id,
            started: 0,
            files_written: Vec::new(),
        }
    }

    pub(super) fn files_written(&self) -> &[String] {
        &self.files_written
    }

    /// Remembers that `location` was written, or may have been: all but a name that is another's.
    pub(super) fn note<T>(
        &mut self,
        location: String,
        result: iceberg::Result<T>,
    ) -> Result<T, Error> {
        let result = result.map_err(Error::from_iceberg);
        if !matches!(result, Err(Error::Exists(_))) {
            self.files_written.push(location);
        }
        result
    }

    /// Name of the manifest list.
    pub(super) fn list_location(&self) -> String {
        let (folder, id, attempt) = (self.folder(), self.snapshot_id, self.attempt);
        format!("{folder}/snap-{id}-{attempt}-{}.avro", self.commit_id)
    }

    /// `write.metadata.path` is where a user wants metadata other than `metadata.json`.
    fn folder(&self) -> String {
        match self.metadata.properties().get("write.metadata.path") {
            Some(folder) => folder.trim_end_matches('/').to_owned(),
            None => format!("{}/metadata", self.metadata.location().trim_end_matches('/')),
        }
    }

    /// Begins a manifest of `content` for partition spec `spec_id`.
    pub(super) fn start(
        &mut self,
        content: ManifestContentType,
        spec_id: i32,
    ) -> Result<OpenManifest, Error> {
        let spec = self
            .metadata
            .partition_spec_by_id(spec_id)
            .ok_or_else(|| Error::Invalid(format!("table has no partition spec {spec_id}")))?;
        let number = self.started;
        self.started += 1;
        let location =
            format!("{}/{}-{}-m{number}.avro", self.folder(), self.commit_id, self.attempt);
        let output = self.file_io.new_output(&location).map_err(Error::from_iceberg)?;
        let builder = ManifestWriterBuilder::new(
            output,
            Some(self.snapshot_id),
            self.metadata.current_schema().clone(),
            spec.as_ref().clone(),
        );
        let writer = match (self.metadata.format_version(), content) {
            (FormatVersion::V1, ManifestContentType::Data) => builder.build_v1(),
            (FormatVersion::V2, ManifestContentType::Data) => builder.build_v2_data(),
            (FormatVersion::V2, ManifestContentType::Deletes) => builder.build_v2_deletes(),
            (FormatVersion::V3, ManifestContentType::Data) => builder.build_v3_data(),
            (FormatVersion::V3, ManifestContentType::Deletes) => builder.build_v3_deletes(),
            (FormatVersion::V1, ManifestContentType::Deletes) => {
                return Err(Error::Invalid("tables of format 1 have no delete files".to_owned()));
            }
        };
        Ok(OpenManifest { writer, location })
    }

    pub(super) async fn finish(&mut self, manifest: OpenManifest) -> Result<ManifestFile, Error> {
        let result = manifest.writer.write_manifest_file().await;
        self.note(manifest.location, result)
    }

    /// Writes `manifest` anew, with the files in `removed` as deleted (and takes them out of the
    /// set). What was deleted before is left out.
    pub(super) async fn rewrite(
        &mut self,
        file: &ManifestFile,
        manifest: &Manifest,
        removed: &mut HashSet<String>,
        collector: &mut Collector,
    ) -> Result<ManifestFile, Error> {
        let mut open = self.start(file.content, file.partition_spec_id)?;
        let mut row_ids = RowIds::new(file);
        for entry in manifest.entries() {
            let first_row_id = row_ids.next(entry);
            if !entry.is_alive() {
                continue;
            }
            let numbers = Numbers::of(entry, file)?;
            let data_file = with_row_id(entry, file, first_row_id)?;
            if removed.remove(entry.file_path()) {
                collector.remove(&data_file, file.partition_spec_id)?;
                open.writer.add_delete_file(data_file, numbers.data, Some(numbers.file))
            } else {
                let snapshot_id = numbers.snapshot_id;
                let file_number = Some(numbers.file);
                open.writer.add_existing_file(data_file, snapshot_id, numbers.data, file_number)
            }
            .map_err(Error::from_iceberg)?;
        }
        self.finish(open).await
    }

    /// Writes one manifest with all live entries of `sources`, which have one content and one
    /// partition spec.
    pub(super) async fn merge(
        &mut self,
        sources: Vec<ManifestFile>,
    ) -> Result<ManifestFile, Error> {
        let Some(first) = sources.first() else {
            return Err(Error::Invalid("no manifests to merge".to_owned()));
        };
        let mut open = self.start(first.content, first.partition_spec_id)?;
        let mut loaded = std::pin::pin!(read_manifests(&self.file_io, sources));
        while let Some((file, manifest)) = loaded.try_next().await? {
            let mut row_ids = RowIds::new(&file);
            for entry in manifest.entries() {
                let first_row_id = row_ids.next(entry);
                if !entry.is_alive() {
                    continue;
                }
                let numbers = Numbers::of(entry, &file)?;
                let data_file = with_row_id(entry, &file, first_row_id)?;
                let snapshot_id = numbers.snapshot_id;
                open.writer
                    .add_existing_file(data_file, snapshot_id, numbers.data, Some(numbers.file))
                    .map_err(Error::from_iceberg)?;
            }
        }
        self.finish(open).await
    }
}

/// The numbers that an entry keeps for life.
struct Numbers {
    snapshot_id: i64,
    data: i64,
    file: i64,
}

impl Numbers {
    fn of(entry: &ManifestEntry, manifest: &ManifestFile) -> Result<Self, Error> {
        let missing = |what: &str| {
            let (path, manifest) = (entry.file_path(), &manifest.manifest_path);
            Error::Invalid(format!("manifest {manifest} has no {what} for {path}"))
        };
        let data = entry.sequence_number().ok_or_else(|| missing("sequence number"))?;
        Ok(Self {
            snapshot_id: entry.snapshot_id().ok_or_else(|| missing("snapshot id"))?,
            data,
            // Optional in what other writers leave behind; the data sequence number is the
            // greatest value that is surely right.
            file: entry.file_sequence_number.unwrap_or(data),
        })
    }
}

/// First row ids that files inherit from their manifest (Iceberg spec, "First Row ID
/// Inheritance"); reading a manifest does not fill them in.
struct RowIds {
    next: Option<i64>,
}

impl RowIds {
    fn new(manifest: &ManifestFile) -> Self {
        Self { next: manifest.first_row_id.and_then(|id| i64::try_from(id).ok()) }
    }

    fn next(&mut self, entry: &ManifestEntry) -> Option<i64> {
        if let Some(own) = entry.data_file().first_row_id() {
            return Some(own);
        }
        let inherited = self.next?;
        if entry.is_alive() {
            let rows = i64::try_from(entry.record_count()).unwrap_or(i64::MAX);
            self.next = Some(inherited.saturating_add(rows));
        }
        Some(inherited)
    }
}

fn with_row_id(
    entry: &ManifestEntry,
    manifest: &ManifestFile,
    first_row_id: Option<i64>,
) -> Result<DataFile, Error> {
    let file = entry.data_file();
    if file.first_row_id() == first_row_id {
        return Ok(file.clone());
    }
    with_first_row_id(file, manifest.partition_spec_id, first_row_id)
}
