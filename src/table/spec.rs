//! Small types and defaults around Iceberg's own.

use std::collections::HashMap;

use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, Schema, Struct, TableMetadata,
    deserialize_data_file_from_json, serialize_data_file_to_json,
};

use super::Error;

/// Table property: how many older metadata files the metadata log names.
pub const METADATA_VERSIONS_MAX: &str = "write.metadata.previous-versions-max";
/// Table property: whether a commit deletes metadata files that fell out of the log.
pub const METADATA_DELETE_AFTER_COMMIT: &str = "write.metadata.delete-after-commit.enabled";

/// Properties that every table gets when it is created (a caller's own win over them). The
/// format version is the catalog's to say.
pub fn default_properties() -> HashMap<String, String> {
    [
        // A sixth of the size, written anew with every commit.
        ("write.metadata.compression-codec", "gzip"),
        (METADATA_VERSIONS_MAX, "20"),
        (METADATA_DELETE_AFTER_COMMIT, "true"),
        ("write.format.default", "parquet"),
        ("write.parquet.compression-codec", "zstd"),
        ("write.parquet.compression-level", "1"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Where a data file called `name` belongs: under `write.data.path`, or `data/` of the table.
pub fn data_file_location(metadata: &TableMetadata, name: &str) -> String {
    match metadata.properties().get("write.data.path") {
        Some(folder) => format!("{}/{name}", folder.trim_end_matches('/')),
        None => format!("{}/data/{name}", metadata.location().trim_end_matches('/')),
    }
}

/// A file that a snapshot adds, with the partition spec it was written for (Iceberg's `DataFile`
/// does not tell it).
#[derive(Debug, Clone, PartialEq)]
pub struct AddedFile {
    /// Id of the partition spec that `file`'s partition value belongs to.
    pub spec_id: i32,
    /// The file with its metrics.
    pub file: DataFile,
}

/// Durable form of an [`AddedFile`]: the ledger keeps it from `Prepared` to `Committed`.
#[derive(serde::Serialize, serde::Deserialize)]
struct AddedFileText {
    spec_id: i32,
    file: Box<serde_json::value::RawValue>,
}

impl AddedFile {
    /// As JSON text, readable by [`AddedFile::from_json`] with the metadata of the same table.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the table has no such partition spec.
    pub fn to_json(&self, metadata: &TableMetadata) -> Result<String, Error> {
        let partition_type = partition_type(metadata, self.spec_id, metadata.current_schema())?;
        let version = metadata.format_version();
        let file = serialize_data_file_to_json(self.file.clone(), &partition_type, version)
            .map_err(Error::from_iceberg)?;
        let invalid = |e: serde_json::Error| Error::Invalid(format!("data file as text: {e}"));
        let file = serde_json::value::RawValue::from_string(file).map_err(invalid)?;
        serde_json::to_string(&AddedFileText { spec_id: self.spec_id, file }).map_err(invalid)
    }

    /// Reads what [`AddedFile::to_json`] wrote. Bounds are read by the types of the current
    /// schema, as readers do after a promotion; those of columns that it lacks are dropped.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the text is damaged or the table has no such partition spec.
    pub fn from_json(text: &str, metadata: &TableMetadata) -> Result<Self, Error> {
        let text: AddedFileText = serde_json::from_str(text)
            .map_err(|e| Error::Invalid(format!("data file as text: {e}")))?;
        let schema = metadata.current_schema();
        let partition_type = partition_type(metadata, text.spec_id, schema)?;
        let json = text.file.get();
        let file = deserialize_data_file_from_json(json, text.spec_id, &partition_type, schema)
            .map_err(Error::from_iceberg)?;
        Ok(Self { spec_id: text.spec_id, file })
    }
}

fn partition_type(
    metadata: &TableMetadata,
    spec_id: i32,
    schema: &Schema,
) -> Result<iceberg::spec::StructType, Error> {
    let spec = metadata
        .partition_spec_by_id(spec_id)
        .ok_or_else(|| Error::Invalid(format!("table has no partition spec {spec_id}")))?;
    spec.partition_type(schema).map_err(Error::from_iceberg)
}

/// The same file with another first row id: the crate's `DataFile` cannot be changed in place.
///
/// # Errors
/// [`Error::Invalid`], which never happens: all required fields are given.
pub(crate) fn with_first_row_id(
    file: &DataFile,
    spec_id: i32,
    first_row_id: Option<i64>,
) -> Result<DataFile, Error> {
    let mut builder = DataFileBuilder::default();
    builder
        .content(file.content_type())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(Struct::from_iter(file.partition().iter().map(|value| value.cloned())))
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .key_metadata(file.key_metadata().map(<[u8]>::to_vec))
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec))
        .equality_ids(file.equality_ids())
        .first_row_id(first_row_id)
        .partition_spec_id(spec_id)
        .referenced_data_file(file.referenced_data_file())
        .content_offset(file.content_offset())
        .content_size_in_bytes(file.content_size_in_bytes());
    if let Some(sort_order_id) = file.sort_order_id() {
        builder.sort_order_id(sort_order_id);
    }
    builder.build().map_err(|e| Error::Invalid(format!("data file: {e}")))
}

/// True for a file of rows, false for a file of deletes.
pub(crate) fn is_data(file: &DataFile) -> bool {
    file.content_type() == DataContentType::Data
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float32Array, Int32Array, RecordBatch};
    use iceberg::spec::{Datum, FormatVersion, NestedField, PrimitiveType, Type};

    use super::*;
    use crate::table::sink::SinkOptions;
    use crate::table::snapshot::SnapshotChange;
    use crate::table::testing::TestTable;

    /// A prepared file is committed as written, whatever schema is current by then (rules 4.6).
    #[tokio::test]
    async fn a_file_survives_a_schema_change_between_prepared_and_committed() {
        let primitive = Type::Primitive;
        let schema = Schema::builder()
            .with_fields(vec![
                NestedField::optional(1, "n", primitive(PrimitiveType::Int)).into(),
                NestedField::optional(2, "x", primitive(PrimitiveType::Float)).into(),
            ])
            .build()
            .unwrap();
        let mut table = TestTable::with(schema, FormatVersion::V2).await;
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(vec![7])), Arc::new(Float32Array::from(vec![1.5]))];
        let rows = RecordBatch::try_new(table.arrow_schema(), columns).unwrap();
        let added = table.write(vec![rows], &SinkOptions::default()).await;
        let text = added.to_json(&table.metadata).unwrap();

        let wider = Schema::builder()
            .with_fields(vec![
                NestedField::optional(1, "n", primitive(PrimitiveType::Long)).into(),
                NestedField::optional(2, "x", primitive(PrimitiveType::Double)).into(),
                NestedField::optional(3, "new", primitive(PrimitiveType::String)).into(),
            ])
            .build()
            .unwrap();
        let updates = vec![
            iceberg::TableUpdate::AddSchema { schema: wider },
            iceberg::TableUpdate::SetCurrentSchema { schema_id: -1 },
        ];
        table.commit(Vec::new(), updates);

        let read = AddedFile::from_json(&text, &table.metadata).unwrap();
        assert_eq!(read.file.lower_bounds()[&1], Datum::long(7));
        assert_eq!(read.file.upper_bounds()[&2], Datum::double(1.5));
        table.change(SnapshotChange::append(vec![read], HashMap::new())).await;
        for (value, rows) in [(7, 1), (8, 0)] {
            let filter = iceberg::expr::Reference::new("n").equal_to(Datum::long(value));
            assert_eq!(table.count(Some(filter)).await, rows);
        }
        assert!(AddedFile::from_json("{}", &table.metadata).is_err());
        assert!(AddedFile::from_json(&text.replace(":0,", ":9,"), &table.metadata).is_err());
    }

    #[tokio::test]
    async fn data_files_go_where_the_table_says() {
        let mut table = TestTable::new(FormatVersion::V2).await;
        let location = table.metadata.location().to_owned();
        assert_eq!(data_file_location(&table.metadata, "x"), format!("{location}/data/x"));
        let updates = HashMap::from([("write.data.path".to_owned(), "file:///d/".to_owned())]);
        table.commit(Vec::new(), vec![iceberg::TableUpdate::SetProperties { updates }]);
        assert_eq!(data_file_location(&table.metadata, "x"), "file:///d/x");
    }
}
