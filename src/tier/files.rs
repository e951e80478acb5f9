//! The data files of one commit while they are written: one per partition value and schema
//! (rules 4.6), at most [`OPEN_FILES_MAX`] open.
//!
//! Owns: names, which file a batch goes to. Does not own: encoding (`table::sink`), what a
//! commit does with the files.

use iceberg::io::FileIO;
use iceberg::spec::SchemaRef;
use iceberg::spec::Struct;
use iceberg::spec::TableMetadata;
use uuid::Uuid;

use arrow_array::RecordBatch;

use crate::table;
use crate::table::AddedFile;
use crate::table::commit::marker;
use crate::table::sink::FilePartition;
use crate::table::sink::ParquetSink;
use crate::table::sink::SinkOptions;
use crate::tier::ledger::FileEntry;

/// Open files at most; where a commit has more partition values the one that was written to
/// longest ago is finished, and its value may get a second file.
const OPEN_FILES_MAX: usize = 64;

/// A row group is closed at about this many bytes.
const ROW_GROUP_BYTES: usize = 16 << 20;

struct Open {
    value: Struct,
    sink: ParquetSink,
    used: u64,
}

/// Files of one table in one commit.
pub(super) struct Files {
    file_io: FileIO,
    /// Names the files; never used before.
    tag: Uuid,
    footer: Vec<(String, String)>,
    open: Vec<Open>,
    finished: Vec<(i32, AddedFile)>,
    schema_id: i32,
    spec_id: i32,
    next: u32,
    uses: u64,
    ranges: String,
}

impl Files {
    /// No files yet; they are named by `tag` and carry `footer`.
    pub(super) fn new(file_io: FileIO, tag: Uuid, footer: Vec<(String, String)>) -> Self {
        Self {
            file_io,
            tag,
            footer,
            open: Vec::new(),
            finished: Vec::new(),
            schema_id: -1,
            spec_id: -1,
            next: 0,
            uses: 0,
            ranges: String::new(),
        }
    }

    /// The ranges that files closed from now on name in their footer (rules 4.6), as JSON.
    pub(super) fn set_ranges(&mut self, ranges: String) {
        self.ranges = ranges;
    }

    /// How many files there are, open and finished.
    pub(super) fn count(&self) -> usize {
        self.open.len() + self.finished.len()
    }

    /// Writes rows of one partition value. `location` is the table's.
    ///
    /// # Errors
    /// [`table::Error`]; the commit's files are then given up.
    pub(super) async fn write(
        &mut self,
        location: &str,
        schema: &SchemaRef,
        spec_id: i32,
        value: Struct,
        batch: RecordBatch,
    ) -> Result<(), table::Error> {
        if (schema.schema_id(), spec_id) != (self.schema_id, self.spec_id) {
            self.finish_all().await?;
            (self.schema_id, self.spec_id) = (schema.schema_id(), spec_id);
        }
        self.uses += 1;
        if let Some(open) = self.open.iter_mut().find(|open| open.value == value) {
            open.used = self.uses;
            return open.sink.write(batch).await;
        }
        if self.open.len() >= OPEN_FILES_MAX {
            self.finish_oldest().await?;
        }
        let location = location.trim_end_matches('/');
        let path = format!("{location}/data/{}-{:05}.parquet", self.tag, self.next);
        self.next += 1;
        let output = self.file_io.new_output(&path).map_err(table::Error::from_iceberg)?;
        let options = SinkOptions {
            row_group_bytes: ROW_GROUP_BYTES,
            footer: self.footer.clone(),
            ..SinkOptions::default()
        };
        let mut sink = ParquetSink::create(&output, schema, &options).await?;
        sink.write(batch).await?;
        self.open.push(Open { value, sink, used: self.uses });
        Ok(())
    }

    async fn finish_oldest(&mut self) -> Result<(), table::Error> {
        let oldest = self.open.iter().enumerate().min_by_key(|(_, open)| open.used);
        if let Some((index, _)) = oldest {
            let open = self.open.swap_remove(index);
            self.finish(open).await?;
        }
        Ok(())
    }

    async fn finish_all(&mut self) -> Result<(), table::Error> {
        for open in std::mem::take(&mut self.open) {
            self.finish(open).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, mut open: Open) -> Result<(), table::Error> {
        open.sink.add_footer(marker::RANGES, self.ranges.clone());
        let partition = FilePartition { spec_id: self.spec_id, value: open.value };
        let file = open.sink.finish(partition).await?;
        self.finished.push((self.schema_id, file));
        Ok(())
    }

    /// Closes all files: they are durable afterwards. `metadata` is the table's with every
    /// schema and spec that was written.
    ///
    /// # Errors
    /// [`table::Error`]; the commit's files are then given up.
    pub(super) async fn close(
        mut self,
        metadata: &TableMetadata,
    ) -> Result<Vec<FileEntry>, table::Error> {
        self.finish_all().await?;
        let mut entries = Vec::with_capacity(self.finished.len());
        for (schema_id, added) in &self.finished {
            entries.push(FileEntry {
                path: added.file.file_path().to_owned(),
                schema_id: *schema_id,
                spec_id: added.spec_id,
                json: added.to_json(metadata)?,
                bytes: added.file.file_size_in_bytes(),
            });
        }
        Ok(entries)
    }

    /// Gives the files up: nothing refers to them. Best effort; what is left is an orphan.
    pub(super) async fn abandon(self) {
        for (_, added) in &self.finished {
            if let Err(error) = self.file_io.delete(added.file.file_path()).await {
                tracing::debug!(path = added.file.file_path(), %error, "orphan file stays");
            }
        }
    }
}
