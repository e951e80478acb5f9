//! The summary of a snapshot: what was added, what was removed, what there is now in all.

use std::collections::HashMap;

use iceberg::spec::{DataFile, SnapshotSummaryCollector, Summary, TableMetadataRef};

use crate::table::{AddedFile, Error};

/// Total, what raises it, what lowers it (Java's `SnapshotSummary`).
const TOTALS: [(&str, &str, &str); 6] = [
    ("total-data-files", "added-data-files", "deleted-data-files"),
    ("total-delete-files", "added-delete-files", "removed-delete-files"),
    ("total-records", "added-records", "deleted-records"),
    ("total-files-size", "added-files-size", "removed-files-size"),
    ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
    ("total-equality-deletes", "added-equality-deletes", "removed-equality-deletes"),
];

/// Gathers the summary while manifests are written.
pub(super) struct Collector {
    metadata: TableMetadataRef,
    inner: SnapshotSummaryCollector,
}

impl Collector {
    pub(super) fn new(metadata: TableMetadataRef) -> Self {
        Self { metadata, inner: SnapshotSummaryCollector::default() }
    }

    pub(super) fn add(&mut self, added: &AddedFile) -> Result<(), Error> {
        let spec = self.spec(added.spec_id)?;
        self.inner.add_file(&added.file, self.metadata.current_schema().clone(), spec);
        Ok(())
    }

    pub(super) fn remove(&mut self, file: &DataFile, spec_id: i32) -> Result<(), Error> {
        let spec = self.spec(spec_id)?;
        self.inner.remove_file(file, self.metadata.current_schema().clone(), spec);
        Ok(())
    }

    fn spec(&self, spec_id: i32) -> Result<iceberg::spec::PartitionSpecRef, Error> {
        self.metadata
            .partition_spec_by_id(spec_id)
            .cloned()
            .ok_or_else(|| Error::Invalid(format!("table has no partition spec {spec_id}")))
    }

    /// The properties, computed ones over `given` ones, totals on top of the `parent`'s.
    pub(super) fn finish(
        self,
        given: HashMap<String, String>,
        parent: Option<&Summary>,
    ) -> HashMap<String, String> {
        let mut properties = given;
        for (total, added, removed) in TOTALS {
            for computed in [total, added, removed] {
                properties.remove(computed);
            }
        }
        properties.extend(self.inner.build());
        let number = |map: &HashMap<String, String>, key: &str| -> Option<u64> {
            map.get(key).and_then(|text| text.parse().ok())
        };
        for (total, added, removed) in TOTALS {
            // A parent that does not tell its total leaves ours unknown, not zero.
            let before = match parent {
                Some(parent) => number(&parent.additional_properties, total),
                None => Some(0),
            };
            let Some(before) = before else { continue };
            let raised = before + number(&properties, added).unwrap_or(0);
            if let Some(now) = raised.checked_sub(number(&properties, removed).unwrap_or(0)) {
                properties.insert(total.to_owned(), now.to_string());
            }
        }
        properties
    }
}
