//! The end of a commit to a table with a primary key: one row of each key, and the deletes of the
//! rows that earlier commits wrote for them.

use std::sync::Arc;

use iceberg::spec::TableMetadata;

use crate::runtime::background::at_low_priority;
use crate::tier::context::Halt;
use crate::tier::round::Round;

impl Round<'_> {
    /// Writes one row of each key, and a file that deletes the rows so far of these keys. Files of
    /// deletes count for files of earlier commits alone (Iceberg's spec, "Scan Planning"), so the
    /// commit's own rows stay.
    pub(super) async fn write_unique(&mut self) -> Result<(), Halt> {
        let Some(keyed) = self.keyed.take() else { return Ok(()) };
        let key = Arc::clone(keyed.key());
        let unique = tokio::task::spawn_blocking(move || at_low_priority(|| keyed.settle())).await;
        let unique = unique.map_err(|_| Halt::Closed)??;
        self.stats.rows -= unique.left_out;
        self.stats.superseded += unique.left_out;
        self.write(unique.rows).await?;
        if self.may_be_there() {
            let location = self.table.metadata.location();
            self.files.write_deletes(location, &key, unique.keys, &self.ranges).await?;
        }
        Ok(())
    }

    /// False if no row of an earlier commit can have a key of this one.
    fn may_be_there(&self) -> bool {
        // Only a resume may write records a second time (`--allow-duplicates`).
        let once = self.entry.generation == 1;
        let is_of_event = self.topic.sink().is_some_and(|sink| sink.mapping.is_key_of_event());
        !(once && is_of_event) && has_rows(&self.table.metadata)
    }
}

/// False if the table has no data file.
fn has_rows(metadata: &TableMetadata) -> bool {
    let Some(snapshot) = metadata.current_snapshot() else { return false };
    let files = snapshot.summary().additional_properties.get("total-data-files");
    files.is_none_or(|files| files != "0")
}
