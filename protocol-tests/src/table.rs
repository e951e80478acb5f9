//! Reads a table as any client of its catalog would.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
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

/// Makes the table `namespace.name` as another writer would; `fields` are Iceberg's.
///
/// # Panics
/// If the catalog does not answer, or refuses.
pub async fn create(catalog: &str, namespace: &str, name: &str, fields: serde_json::Value) {
    let client = reqwest::Client::new();
    let url = format!("{catalog}/v1/namespaces");
    let body = serde_json::json!({ "namespace": [namespace] });
    let made = client.post(&url).json(&body).send().await.expect("the catalog answers");
    assert!(made.status().is_success() || made.status() == 409, "{}", made.status());
    let schema = serde_json::json!({ "type": "struct", "schema-id": 0, "fields": fields });
    let body = serde_json::json!({ "name": name, "schema": schema });
    let url = format!("{url}/{namespace}/tables");
    let made = client.post(url).json(&body).send().await.expect("the catalog answers");
    let (status, text) = (made.status(), made.text().await.unwrap());
    assert!(status.is_success(), "{status} {text}");
}

/// A column of longs of `namespace.name`, without nulls, sorted.
///
/// # Panics
/// If the catalog does not answer, or the table cannot be read.
pub async fn longs(catalog: &str, namespace: &str, name: &str, column: &str) -> Vec<i64> {
    let arrays = arrays(catalog, namespace, name, column).await;
    let longs = arrays.iter().flat_map(|array| array.as_primitive::<Int64Type>().iter().flatten());
    let mut found: Vec<i64> = longs.collect();
    found.sort_unstable();
    found
}

/// The same of a column of text.
///
/// # Panics
/// As [`longs`].
pub async fn texts(catalog: &str, namespace: &str, name: &str, column: &str) -> Vec<String> {
    let arrays = arrays(catalog, namespace, name, column).await;
    let texts = arrays.iter().flat_map(|array| array.as_string::<i32>().iter().flatten());
    let mut found: Vec<String> = texts.map(str::to_owned).collect();
    found.sort_unstable();
    found
}

/// A column of all rows, by batch.
async fn arrays(catalog: &str, namespace: &str, name: &str, column: &str) -> Vec<ArrayRef> {
    let url = format!("{catalog}/v1/namespaces/{namespace}/tables/{name}");
    let answer = reqwest::get(url).await.expect("the catalog answers");
    let body: serde_json::Value = answer.json().await.expect("the answer is JSON");
    let metadata: TableMetadata =
        serde_json::from_value(body["metadata"].clone()).expect("the answer is a table");
    let ident = TableIdent::new(NamespaceIdent::new(namespace.to_owned()), name.to_owned());
    let table = Table::builder()
        .identifier(ident)
        .file_io(FileIOBuilder::new(Arc::new(LocalFsStorageFactory)).build())
        .metadata(Arc::new(metadata))
        .runtime(iceberg::Runtime::current())
        .build()
        .unwrap();
    let scan = table.scan().select([column]).build().unwrap();
    let batches: Vec<RecordBatch> = scan.to_arrow().await.unwrap().try_collect().await.unwrap();
    batches.iter().map(|batch| batch.column_by_name(column).unwrap().clone()).collect()
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
