//! The files of one commit while they are written: one of rows per partition value and schema (rules
//! 4.6), and one of deletes for a table with a primary key.
//!
//! Owns: names, which file a batch goes to. Does not own: encoding (`table::sink`), what a
//! commit does with the files.

use std::collections::HashMap;

use iceberg::io::FileIO;
use iceberg::spec::SchemaRef;
use iceberg::spec::Struct;
use iceberg::spec::TableMetadata;
use uuid::Uuid;

use arrow_array::RecordBatch;

use crate::table;
use crate::table::AddedFile;
use crate::table::commit::marker;
use crate::table::commit::marker::Range;
use crate::table::sink::FilePartition;
use crate::table::sink::ParquetSink;
use crate::table::sink::SinkOptions;
use crate::tier::ledger::FileEntry;
use crate::tier::rows::key::Key;

/// Open files at most; a commit ends at the group that has more.
const OPEN_FILES_MAX: usize = 512;

/// Files of one commit; it ends there.
const FILES_MAX: usize = 1_000;

/// Memory of open files, in bytes; a commit of several files ends there.
const MEMORY_BYTES_MAX: usize = 32 << 20;

struct Open {
    value: Struct,
    sink: ParquetSink,
}

/// Files of one table in one commit.
pub(super) struct Files {
    file_io: FileIO,
    /// Names the files; never used before.
    tag: Uuid,
    options: SinkOptions,
    open: Vec<Open>,
    finished: Vec<(i32, AddedFile)>,
    schema_id: i32,
    spec_id: i32,
    next: u32,
    overflowed: bool,
}

impl Files {
    /// No files yet; they are named by `tag`.
    pub(super) fn new(file_io: FileIO, tag: Uuid, options: SinkOptions) -> Self {
        Self {
            file_io,
            tag,
            options,
            open: Vec::new(),
            finished: Vec::new(),
            schema_id: -1,
            spec_id: -1,
            next: 0,
            overflowed: false,
        }
    }

    /// True if the commit must end here: the next group's rows may belong to more files than can
    /// be open, and no value gets a second file.
    pub(super) fn is_full(&self) -> bool {
        let memory: usize = self.open.iter().map(|open| open.sink.memory_bytes()).sum();
        self.overflowed
            || self.open.len() >= OPEN_FILES_MAX
            || self.finished.len() >= FILES_MAX
            || (self.open.len() > 1 && memory >= MEMORY_BYTES_MAX)
    }

    /// Writes one group's rows. `location` is the table's; `ranges` are those of the commit up to
    /// and with this group, for the footers of files that are closed now.
    ///
    /// # Errors
    /// [`table::Error`]; the commit's files are then given up.
    pub(super) async fn write(
        &mut self,
        location: &str,
        target: (&SchemaRef, i32),
        rows: Vec<(Struct, RecordBatch)>,
        ranges: &[Range],
    ) -> Result<(), table::Error> {
        let (schema, spec_id) = target;
        if (schema.schema_id(), spec_id) != (self.schema_id, self.spec_id) {
            self.finish_all(ranges).await?;
            (self.schema_id, self.spec_id) = (schema.schema_id(), spec_id);
        }
        let mut by_value: Vec<(Struct, Vec<RecordBatch>)> = Vec::new();
        let mut places: HashMap<Struct, usize> = HashMap::new();
        for (value, batch) in rows {
            let place = *places.entry(value.clone()).or_insert(by_value.len());
            match by_value.get_mut(place) {
                Some((_, batches)) => batches.push(batch),
                None => by_value.push((value, vec![batch])),
            }
        }
        let mut fresh = Vec::new();
        for (value, batches) in by_value {
            let Some(open) = self.open.iter_mut().find(|open| open.value == value) else {
                fresh.push((value, batches));
                continue;
            };
            for batch in batches {
                open.sink.write(batch).await?;
            }
        }
        for (value, batches) in fresh {
            let open = self.create(location, schema, value, batches).await?;
            if self.open.len() < OPEN_FILES_MAX {
                self.open.push(open);
            } else {
                // Nothing of this value comes after this group.
                self.overflowed = true;
                self.finish(open, &marker::ranges_json(ranges)).await?;
            }
        }
        Ok(())
    }

    async fn create(
        &mut self,
        location: &str,
        schema: &SchemaRef,
        value: Struct,
        batches: Vec<RecordBatch>,
    ) -> Result<Open, table::Error> {
        let path = self.next_path(location, "");
        let output = self.file_io.new_output(&path).map_err(table::Error::from_iceberg)?;
        let mut sink = ParquetSink::create(&output, schema, &self.options).await?;
        for batch in batches {
            sink.write(batch).await?;
        }
        Ok(Open { value, sink })
    }

    /// Writes a file of deletes beside the data files, which are closed: rows of earlier commits go
    /// that have one of `keys`, in all partitions. No keys make no file.
    ///
    /// # Errors
    /// [`table::Error`]; the commit's files are then given up.
    pub(super) async fn write_deletes(
        &mut self,
        location: &str,
        key: &Key,
        keys: Vec<RecordBatch>,
        ranges: &[Range],
    ) -> Result<(), table::Error> {
        self.finish_all(ranges).await?;
        if keys.is_empty() {
            return Ok(());
        }
        let path = self.next_path(location, "-deletes");
        let output = self.file_io.new_output(&path).map_err(table::Error::from_iceberg)?;
        let mut sink = ParquetSink::create(&output, key.schema(), &self.options).await?;
        for batch in keys {
            sink.write(batch).await?;
        }
        sink.add_footer(marker::RANGES, marker::ranges_json(ranges));
        let partition = FilePartition::unpartitioned(key.spec_id());
        let file = sink.finish_equality_deletes(partition, key.ids()).await?;
        self.finished.push((self.schema_id, file));
        Ok(())
    }

    fn next_path(&mut self, location: &str, suffix: &str) -> String {
        let location = location.trim_end_matches('/');
        let path = format!("{location}/data/{}-{:05}{suffix}.parquet", self.tag, self.next);
        self.next += 1;
        path
    }

    async fn finish_all(&mut self, ranges: &[Range]) -> Result<(), table::Error> {
        let ranges = marker::ranges_json(ranges);
        for open in std::mem::take(&mut self.open) {
            self.finish(open, &ranges).await?;
        }
        self.overflowed = false;
        Ok(())
    }

    async fn finish(&mut self, mut open: Open, ranges: &str) -> Result<(), table::Error> {
        open.sink.add_footer(marker::RANGES, ranges.to_owned());
        let partition = FilePartition { spec_id: self.spec_id, value: open.value };
        let file = open.sink.finish(partition).await?;
        self.finished.push((self.schema_id, file));
        Ok(())
    }

    /// Closes all files: they are durable afterwards. `metadata` is the table's with every
    /// schema and spec that was written, `ranges` the commit's.
    ///
    /// # Errors
    /// [`table::Error`]; the commit's files are then given up.
    pub(super) async fn close(
        &mut self,
        metadata: &TableMetadata,
        ranges: &[Range],
    ) -> Result<Vec<FileEntry>, table::Error> {
        self.finish_all(ranges).await?;
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
