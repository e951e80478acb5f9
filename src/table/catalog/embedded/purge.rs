//! Deleting the files of a dropped table: what its metadata reaches, as far as the warehouse
//! holds it (rules 8.3).

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use iceberg::spec::{Manifest, ManifestList, TableMetadata};

use super::Inner;
use super::commit::delete_quietly;
use super::warehouse::local_path;
use crate::table::catalog::LoadedTable;

impl Inner {
    /// Starts the purge of a table whose pointer is gone. What fails is named in the log and
    /// stays; a purge that a shutdown cuts short leaves the rest.
    pub(super) fn purge_in_background(self: &Arc<Self>, table: LoadedTable) {
        let inner = Arc::clone(self);
        self.options.tasks.spawn_contained("table purge", async move {
            let deleted = inner.purge(&table).await;
            tracing::info!(table = %table.ident, files = deleted, "purged a dropped table");
        });
    }

    /// Deletes from the leaves up, so that a purge that is cut short can be found again by the
    /// metadata file. Returns how many files were asked to go.
    async fn purge(&self, table: &LoadedTable) -> usize {
        let metadata = &*table.metadata;
        let data_too = metadata
            .properties()
            .get("gc.enabled")
            .is_none_or(|v| !v.eq_ignore_ascii_case("false"));
        let mut deleted = 0;
        let mut manifests = HashSet::new();
        for snapshot in metadata.snapshots() {
            for manifest in self.manifests_of(metadata, snapshot.manifest_list()).await {
                if manifests.insert(manifest.clone()) && data_too {
                    deleted += self.purge_files_of(&manifest).await;
                }
            }
        }
        let mut rest: Vec<String> = manifests.into_iter().collect();
        rest.extend(metadata.snapshots().map(|snapshot| snapshot.manifest_list().to_owned()));
        rest.extend(metadata.statistics_iter().map(|file| file.statistics_path.clone()));
        rest.extend(metadata.partition_statistics_iter().map(|file| file.statistics_path.clone()));
        rest.extend(metadata.metadata_log().iter().map(|entry| entry.metadata_file.clone()));
        rest.push(table.metadata_location.clone());
        for location in rest {
            deleted += self.purge_file(&location).await;
        }
        self.remove_empty_folders(metadata.location()).await;
        deleted
    }

    async fn manifests_of(&self, metadata: &TableMetadata, list: &str) -> Vec<String> {
        if !self.warehouse.holds(list) {
            return Vec::new();
        }
        let read = async {
            let bytes = self.options.file_io.new_input(list)?.read().await?;
            ManifestList::parse_with_version(&bytes, metadata.format_version())
        };
        match read.await {
            Ok(list) => list.entries().iter().map(|entry| entry.manifest_path.clone()).collect(),
            Err(error) => {
                tracing::warn!(location = list, %error, "cannot read a manifest list to purge it");
                Vec::new()
            }
        }
    }

    async fn purge_files_of(&self, manifest: &str) -> usize {
        if !self.warehouse.holds(manifest) {
            return 0;
        }
        let read = async {
            let bytes = self.options.file_io.new_input(manifest)?.read().await?;
            Manifest::parse_avro(&bytes)
        };
        let manifest = match read.await {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::warn!(location = manifest, %error, "cannot read a manifest to purge it");
                return 0;
            }
        };
        let mut deleted = 0;
        for entry in manifest.entries() {
            deleted += self.purge_file(entry.data_file().file_path()).await;
        }
        deleted
    }

    async fn purge_file(&self, location: &str) -> usize {
        if !self.warehouse.holds(location) {
            return 0;
        }
        delete_quietly(&self.options.file_io, location).await;
        1
    }

    async fn remove_empty_folders(&self, location: &str) {
        let Some(table) = local_path(location).filter(|_| self.warehouse.holds(location)) else {
            return;
        };
        let removal = tokio::task::spawn_blocking(move || remove_if_empty(&table));
        if let Err(error) = removal.await {
            tracing::warn!(location, %error, "cannot remove the folders of a purged table");
        }
    }
}

/// Removes `folder` and the folders in it as far as no file is in them. Links are not followed.
fn remove_if_empty(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_if_empty(&entry.path());
        }
    }
    // Fails where files are left, which is meant.
    let _ = std::fs::remove_dir(folder);
}
