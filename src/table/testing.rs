//! A table without a catalog, for tests: its metadata lives in memory, its files on disk.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::Fields;
use futures::TryStreamExt;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::expr::Predicate;
use iceberg::io::FileIO;
use iceberg::spec::{
    FormatVersion, NestedField, PrimitiveType, Schema, SortOrder, StructType, TableMetadataBuilder,
    TableMetadataRef, Type, UnboundPartitionSpec,
};
use iceberg::table::Table;
use iceberg::{TableIdent, TableRequirement, TableUpdate};
use tempfile::TempDir;
use uuid::Uuid;

use crate::runtime::Clock;
use crate::runtime::files::{Disk, FileSystem};
use crate::table::sink::{FilePartition, ParquetSink, SinkOptions};
use crate::table::snapshot::{BuiltSnapshot, SnapshotChange, SnapshotTarget, build};
use crate::table::{AddedFile, default_properties, storage};

pub(crate) struct TestTable {
    pub(crate) folder: TempDir,
    pub(crate) file_io: FileIO,
    pub(crate) metadata: TableMetadataRef,
    pub(crate) clock: Clock,
}

/// `floe {offset long, note string}`, `name string`, `n long`.
pub(crate) fn schema() -> Schema {
    let string = || Type::Primitive(PrimitiveType::String);
    let long = || Type::Primitive(PrimitiveType::Long);
    let floe = StructType::new(vec![
        NestedField::optional(4, "offset", long()).into(),
        NestedField::optional(5, "note", string()).into(),
    ]);
    Schema::builder()
        .with_fields(vec![
            NestedField::optional(1, "floe", Type::Struct(floe)).into(),
            NestedField::optional(2, "name", string()).into(),
            NestedField::optional(3, "n", long()).into(),
        ])
        .build()
        .unwrap()
}

impl TestTable {
    pub(crate) async fn new(version: FormatVersion) -> Self {
        Self::with(schema(), version).await
    }

    pub(crate) async fn with(schema: Schema, version: FormatVersion) -> Self {
        Self::over(TempDir::new().unwrap(), Arc::new(Disk), schema, version).await
    }

    /// A table below `folder` whose files are written through `files`.
    pub(crate) async fn over(
        folder: TempDir,
        files: Arc<dyn FileSystem>,
        schema: Schema,
        version: FormatVersion,
    ) -> Self {
        let location = format!("file://{}/t", folder.path().display());
        storage::make_table_folders(files.clone(), &location).await.unwrap();
        let file_io = storage::file_io(files, &location, &HashMap::new()).unwrap();
        let metadata = TableMetadataBuilder::new(
            schema,
            UnboundPartitionSpec::default(),
            SortOrder::unsorted_order(),
            location,
            version,
            default_properties(),
        )
        .unwrap()
        .build()
        .unwrap()
        .metadata;
        Self { folder, file_io, metadata: Arc::new(metadata), clock: Clock::system() }
    }

    pub(crate) fn arrow_schema(&self) -> arrow_schema::SchemaRef {
        Arc::new(schema_to_arrow_schema(self.metadata.current_schema()).unwrap())
    }

    /// Rows of [`schema`]: `floe.offset` and `n` count up from `base`.
    pub(crate) fn rows(&self, base: i64, names: &[&str]) -> RecordBatch {
        let schema = self.arrow_schema();
        let arrow_schema::DataType::Struct(fields) = schema.field(0).data_type() else {
            panic!("floe is a struct")
        };
        let fields: Fields = fields.clone();
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((base..).take(names.len())));
        let names: ArrayRef = Arc::new(StringArray::from(names.to_vec()));
        let floe = StructArray::new(fields, vec![numbers.clone(), names.clone()], None);
        RecordBatch::try_new(schema, vec![Arc::new(floe), names, numbers]).unwrap()
    }

    pub(crate) async fn write(
        &self,
        batches: Vec<RecordBatch>,
        options: &SinkOptions,
    ) -> AddedFile {
        let name = format!("{}/data/{}.parquet", self.metadata.location(), Uuid::now_v7());
        let output = self.file_io.new_output(name).unwrap();
        let schema = self.metadata.current_schema();
        let mut sink = ParquetSink::create(&output, schema, options).await.unwrap();
        for batch in batches {
            sink.write(batch).await.unwrap();
        }
        let spec_id = self.metadata.default_partition_spec_id();
        sink.finish(FilePartition::unpartitioned(spec_id)).await.unwrap()
    }

    pub(crate) async fn one_file(&self, base: i64, names: &[&str]) -> AddedFile {
        self.write(vec![self.rows(base, names)], &SinkOptions::default()).await
    }

    pub(crate) fn target(&self) -> SnapshotTarget {
        SnapshotTarget::main(self.metadata.clone(), self.file_io.clone(), Uuid::now_v7())
    }

    pub(crate) async fn change(&mut self, change: SnapshotChange) -> BuiltSnapshot {
        let built = build(self.target(), change, &self.clock).await.unwrap();
        self.commit(built.requirements.clone(), built.updates.clone());
        built
    }

    pub(crate) async fn append(&mut self, base: i64, names: &[&str]) -> BuiltSnapshot {
        let file = self.one_file(base, names).await;
        self.change(SnapshotChange::append(vec![file], HashMap::new())).await
    }

    /// What a catalog does with a commit, but for the metadata file.
    pub(crate) fn commit(
        &mut self,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) {
        for requirement in requirements {
            requirement.check(Some(&self.metadata)).unwrap();
        }
        let mut builder = self.metadata.as_ref().clone().into_builder(None);
        for update in updates {
            builder = update.apply(builder).unwrap();
        }
        self.metadata = Arc::new(builder.build().unwrap().metadata);
    }

    pub(crate) fn table(&self) -> Table {
        Table::builder()
            .identifier(TableIdent::from_strs(["db", "t"]).unwrap())
            .file_io(self.file_io.clone())
            .metadata(self.metadata.clone())
            .metadata_location(format!("{}/metadata/none", self.metadata.location()))
            .runtime(iceberg::Runtime::current())
            .build()
            .unwrap()
    }

    /// Rows that iceberg's own scan finds.
    pub(crate) async fn scan(&self, filter: Option<Predicate>) -> Vec<RecordBatch> {
        let table = self.table();
        let mut scan = table.scan().select_all();
        if let Some(filter) = filter {
            scan = scan.with_filter(filter);
        }
        scan.build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap()
    }

    pub(crate) async fn count(&self, filter: Option<Predicate>) -> usize {
        self.scan(filter).await.iter().map(RecordBatch::num_rows).sum()
    }

    /// Data files that iceberg's scan does not prune away by their bounds.
    pub(crate) async fn planned(&self, filter: Predicate) -> usize {
        let table = self.table();
        let scan = table.scan().with_filter(filter).build().unwrap();
        let files: Vec<_> = scan.plan_files().await.unwrap().try_collect().await.unwrap();
        files.len()
    }

    /// Names of all files below `folder` of the table, sorted.
    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.folder.path().join("t").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}
