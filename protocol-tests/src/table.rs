//! Reads a table as any client of its catalog would.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use futures::TryStreamExt;
use iceberg::io::{FileIOBuilder, LocalFsStorageFactory};
use iceberg::spec::TableMetadata;
use iceberg::table::Table;
use iceberg::{NamespaceIdent, TableIdent};

/// A row by its place in the log, with the value of its column `i` if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Partition index.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Column `i`.
    pub i: Option<i64>,
}

/// All rows of `streams.<name>` in the catalog at `catalog` (its address without `/v1`), whose
/// files are local; none if there is no such table.
///
/// # Panics
/// If the catalog does not answer, or the table cannot be read.
pub async fn rows(catalog: &str, name: &str) -> Option<Vec<Row>> {
    let metadata = metadata(catalog, name).await?;
    let ident = TableIdent::new(NamespaceIdent::new("streams".to_owned()), name.to_owned());
    let table = Table::builder()
        .identifier(ident)
        .file_io(FileIOBuilder::new(Arc::new(LocalFsStorageFactory)).build())
        .metadata(Arc::new(metadata))
        .runtime(iceberg::Runtime::current())
        .build()
        .unwrap();
    let wanted = ["floe", "i"];
    let schema = table.metadata().current_schema();
    let wanted = wanted.iter().filter(|name| schema.field_by_name(name).is_some());
    let scan = table.scan().select(wanted.map(|name| (*name).to_owned())).build().unwrap();
    let batches: Vec<RecordBatch> =
        scan.to_arrow().await.unwrap().try_collect().await.unwrap_or_else(|error| {
            panic!("table {name} cannot be read: {error:?}");
        });
    Some(batches.iter().flat_map(rows_of).collect())
}

/// Metadata of `streams.<name>`; none if there is no such table.
///
/// # Panics
/// If the catalog does not answer.
pub async fn metadata(catalog: &str, name: &str) -> Option<TableMetadata> {
    let url = format!("{catalog}/v1/namespaces/streams/tables/{name}");
    let answer = reqwest::get(url).await.expect("the catalog answers");
    if answer.status() == reqwest::StatusCode::NOT_FOUND {
        return None;
    }
    let body: serde_json::Value = answer.json().await.expect("the answer is JSON");
    Some(serde_json::from_value(body["metadata"].clone()).expect("the answer is a table"))
}

/// Commits `updates` to `streams.<name>` as another writer would; the status of the answer.
///
/// # Panics
/// If the catalog does not answer.
pub async fn update(
    catalog: &str,
    name: &str,
    requirements: serde_json::Value,
    updates: serde_json::Value,
) -> u16 {
    let url = format!("{catalog}/v1/namespaces/streams/tables/{name}");
    let body = serde_json::json!({ "requirements": requirements, "updates": updates });
    let answer = reqwest::Client::new().post(url).json(&body).send().await;
    answer.expect("the catalog answers").status().as_u16()
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let system = batch.column_by_name("floe").unwrap().as_struct();
    let partitions = system.column_by_name("partition").unwrap().as_primitive::<Int32Type>();
    let offsets = system.column_by_name("offset").unwrap().as_primitive::<Int64Type>();
    let i = batch.column_by_name("i").and_then(|column| column.as_primitive_opt::<Int64Type>());
    (0..batch.num_rows())
        .map(|row| Row {
            partition: partitions.value(row),
            offset: offsets.value(row),
            i: i.filter(|i| i.is_valid(row)).map(|i| i.value(row)),
        })
        .collect()
}
