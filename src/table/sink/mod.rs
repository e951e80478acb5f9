//! Arrow in, one Parquet file out, with the metrics that go into its manifest entry.
//!
//! Owns: encoding (on the blocking pool), the bound on memory, column metrics. Does not own: the
//! file's name, which rows belong together, or the snapshot that takes the file up.
//!
//! The metrics are ours because the `iceberg` crate's own writer loses the bounds of row groups
//! whose statistics were cut short, and with them rows in filtered scans.

mod bounds;
mod columns;
mod metrics;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::io::{FileWrite, OutputFile};
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, PrimitiveType, SchemaRef, Struct,
};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;

use crate::runtime::background::at_low_priority;
use crate::table::blocking::on_blocking_pool;
use crate::table::{AddedFile, Error};

/// Finished bytes are handed to the storage in pieces of at least this size.
const WRITE_BYTES_MIN: usize = 1024 * 1024;

/// Called with each batch before it is encoded; tests make it panic.
#[derive(Clone)]
pub struct Inspect(pub Arc<dyn Fn(&RecordBatch) + Send + Sync>);

impl fmt::Debug for Inspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inspect")
    }
}

/// How a file is written.
#[derive(Debug, Clone)]
pub struct SinkOptions {
    /// A row group is closed at about this many encoded bytes; the sink's memory is about that.
    pub row_group_bytes: usize,
    /// A row group is closed at this many rows, if given (otherwise at 1,048,576).
    pub row_group_rows: Option<usize>,
    /// Key-value pairs of the Parquet footer (ranges, commit id, ...).
    pub footer: Vec<(String, String)>,
    /// Writes timestamps and offsets delta-encoded: 5 to 15 % less CPU and bytes, but Iceberg's
    /// vectorised Spark reader knows that encoding only from 1.10 on, so it is off by default.
    pub delta_encoding: bool,
    /// See [`Inspect`].
    pub inspect: Option<Inspect>,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            row_group_bytes: 32 * 1024 * 1024,
            row_group_rows: None,
            footer: Vec::new(),
            delta_encoding: false,
            inspect: None,
        }
    }
}

/// Which partition all rows of a file belong to.
#[derive(Debug, Clone)]
pub struct FilePartition {
    /// Id of the partition spec.
    pub spec_id: i32,
    /// Its values; [`Struct::empty`] for an unpartitioned spec.
    pub value: Struct,
}

impl FilePartition {
    /// The one partition of the unpartitioned spec `spec_id`.
    pub fn unpartitioned(spec_id: i32) -> Self {
        Self { spec_id, value: Struct::empty() }
    }
}

/// Writes one Parquet file. Dropped before [`ParquetSink::finish`], it leaves no file on local
/// storage.
pub struct ParquetSink {
    /// None while a call is in flight; a call that failed or was cancelled ends the sink.
    encoder: Option<Encoder>,
    output: Box<dyn FileWrite>,
    location: String,
    written_bytes: u64,
}

/// The part that does CPU work, moved to the blocking pool and back.
struct Encoder {
    writer: ArrowWriter<Vec<u8>>,
    arrow_schema: arrow_schema::SchemaRef,
    measured: HashMap<i32, PrimitiveType>,
    nan_counts: HashMap<i32, u64>,
    rows: u64,
    inspect: Option<Inspect>,
}

impl Encoder {
    fn new(schema: &SchemaRef, options: &SinkOptions) -> Result<Self, Error> {
        let arrow_schema = schema_to_arrow_schema(schema).map_err(Error::from_iceberg)?;
        let arrow_schema = Arc::new(arrow_schema);
        let columns = columns::columns(schema);
        let properties = columns::writer_properties(&columns, options).map_err(encode_error)?;
        let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&arrow_schema), Some(properties))
            .map_err(encode_error)?;
        let measured = columns::measured(&columns);
        Ok(Self {
            writer,
            arrow_schema,
            measured,
            nan_counts: HashMap::new(),
            rows: 0,
            inspect: options.inspect.clone(),
        })
    }

    fn encode(&mut self, batch: RecordBatch) -> Result<Vec<u8>, Error> {
        if let Some(Inspect(inspect)) = &self.inspect {
            inspect(&batch);
        }
        // The batch's own schema may lack the field ids: types and order decide.
        let batch = RecordBatch::try_new(Arc::clone(&self.arrow_schema), batch.columns().to_vec())
            .map_err(|e| Error::Encode(e.to_string()))?;
        metrics::count_nans(&batch, &self.measured, &mut self.nan_counts);
        self.writer.write(&batch).map_err(encode_error)?;
        self.rows += batch.num_rows() as u64;
        let ready = self.writer.inner_mut();
        if ready.len() < WRITE_BYTES_MIN {
            return Ok(Vec::new());
        }
        Ok(std::mem::take(ready))
    }

    fn finish(mut self) -> Result<Finished, Error> {
        let footer = self.writer.finish().map_err(encode_error)?;
        let rest = std::mem::take(self.writer.inner_mut());
        let metrics = metrics::of_file(&footer, &self.measured);
        Ok(Finished { rest, metrics, nan_counts: self.nan_counts, rows: self.rows })
    }
}

struct Finished {
    rest: Vec<u8>,
    metrics: metrics::Metrics,
    nan_counts: HashMap<i32, u64>,
    rows: u64,
}

/// Encodes `batch` as a file of its own that is thrown away, to learn whether it can be. Blocks.
///
/// # Errors
/// Those of [`ParquetSink::write`] and [`ParquetSink::finish`] but the storage's; a panic stays
/// one.
pub fn trial(schema: &SchemaRef, options: &SinkOptions, batch: RecordBatch) -> Result<(), Error> {
    let mut encoder = Encoder::new(schema, options)?;
    encoder.encode(batch)?;
    encoder.finish().map(drop)
}

fn encode_error(error: parquet::errors::ParquetError) -> Error {
    Error::Encode(error.to_string())
}

impl ParquetSink {
    /// Opens `output` for rows of `schema`. The name must be new.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Storage`]; [`Error::Invalid`] if the schema has a type that
    /// Parquet files cannot hold.
    pub async fn create(
        output: &OutputFile,
        schema: &SchemaRef,
        options: &SinkOptions,
    ) -> Result<Self, Error> {
        let encoder = Encoder::new(schema, options)?;
        let location = output.location().to_owned();
        let output = output.writer().await.map_err(Error::from_iceberg)?;
        Ok(Self { encoder: Some(encoder), output, location, written_bytes: 0 })
    }

    /// Encodes `batch`, whose columns are those of the schema in its order.
    ///
    /// # Errors
    /// [`Error::Encode`] if types or nulls do not fit the schema, [`Error::Panicked`],
    /// [`Error::Storage`]. The sink is of no use afterwards. Not cancel safe in the same sense.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<(), Error> {
        let mut encoder = self.take_encoder()?;
        let (encoder, ready) = on_blocking_pool(move || {
            let ready = at_low_priority(|| encoder.encode(batch))?;
            Ok((encoder, ready))
        })
        .await?;
        self.put(ready).await?;
        self.encoder = Some(encoder);
        Ok(())
    }

    /// Adds a key-value pair to the footer that is known only after rows were written. Does
    /// nothing after a call that failed.
    pub fn add_footer(&mut self, key: &str, value: String) {
        if let Some(encoder) = &mut self.encoder {
            let pair = KeyValue::new(key.to_owned(), value);
            encoder.writer.append_key_value_metadata(pair);
        }
    }

    /// Rows taken so far.
    pub fn rows(&self) -> u64 {
        self.encoder.as_ref().map_or(0, |encoder| encoder.rows)
    }

    /// About how many bytes the file would have if it were finished now.
    pub fn estimated_bytes(&self) -> u64 {
        let Some(encoder) = &self.encoder else {
            return self.written_bytes;
        };
        encoder.writer.bytes_written() as u64 + encoder.writer.in_progress_size() as u64
    }

    /// Bytes of memory the sink holds now.
    pub fn memory_bytes(&self) -> usize {
        let Some(encoder) = &self.encoder else {
            return 0;
        };
        encoder.writer.memory_size() + encoder.writer.inner().capacity()
    }

    /// Writes the footer and closes the file; on local storage it is durable afterwards.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Exists`] if another wrote the name meanwhile,
    /// [`Error::Encode`], [`Error::Panicked`]; no file is left on local storage.
    pub async fn finish(self, partition: FilePartition) -> Result<AddedFile, Error> {
        self.finish_as(DataContentType::Data, None, partition).await
    }

    /// As [`Self::finish`], for a file whose rows say which rows of other files are deleted: those
    /// that are equal in the columns of `field_ids`, which are all that the sink's schema has.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn finish_equality_deletes(
        mut self,
        partition: FilePartition,
        field_ids: &[i32],
    ) -> Result<AddedFile, Error> {
        // What Java's writers say of such a file in its footer.
        self.add_footer("delete-type", "equality".to_owned());
        let listed: Vec<String> = field_ids.iter().map(i32::to_string).collect();
        self.add_footer("delete-field-ids", listed.join(", "));
        let content = DataContentType::EqualityDeletes;
        self.finish_as(content, Some(field_ids.to_vec()), partition).await
    }

    async fn finish_as(
        mut self,
        content: DataContentType,
        equality_ids: Option<Vec<i32>>,
        partition: FilePartition,
    ) -> Result<AddedFile, Error> {
        let encoder = self.take_encoder()?;
        let mut finished = on_blocking_pool(move || at_low_priority(|| encoder.finish())).await?;
        self.put(std::mem::take(&mut finished.rest)).await?;
        self.output.close().await.map_err(Error::from_iceberg)?;
        let metrics = finished.metrics;
        let file = DataFileBuilder::default()
            .content(content)
            .equality_ids(equality_ids)
            .file_path(self.location)
            .file_format(DataFileFormat::Parquet)
            .partition(partition.value)
            .partition_spec_id(partition.spec_id)
            .record_count(finished.rows)
            .file_size_in_bytes(self.written_bytes)
            .column_sizes(metrics.column_sizes)
            .value_counts(metrics.value_counts)
            .null_value_counts(metrics.null_value_counts)
            .nan_value_counts(finished.nan_counts)
            .lower_bounds(metrics.lower_bounds)
            .upper_bounds(metrics.upper_bounds)
            .split_offsets(Some(metrics.split_offsets))
            .build()
            .map_err(|e| Error::Invalid(format!("data file: {e}")))?;
        Ok(AddedFile { spec_id: partition.spec_id, file })
    }

    async fn put(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = bytes.len() as u64;
        self.output.write(Bytes::from(bytes)).await.map_err(Error::from_iceberg)?;
        self.written_bytes += length;
        Ok(())
    }

    fn take_encoder(&mut self) -> Result<Encoder, Error> {
        self.encoder.take().ok_or_else(|| {
            Error::Storage(iceberg::Error::new(
                iceberg::ErrorKind::Unexpected,
                io::Error::other("an earlier write of this file failed").to_string(),
            ))
        })
    }
}

#[cfg(test)]
mod tests;
