//! Columns of ours survive what users do to a table; columns of the values do not depend on the
//! partition that they came by.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use iceberg::TableUpdate;
use iceberg::spec::NestedField;
use iceberg::spec::NestedFieldRef;
use iceberg::spec::Schema;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::store::Change;
use crate::table::catalog::Catalog;
use crate::table::catalog::TableChange;
use crate::tier::rows::json::Inspect;
use crate::tier::tests::harness::Broker;
use crate::tier::tests::harness::ident;
use crate::tier::tests::harness::start;
use crate::tier::tests::harness::start_with;

/// Changes the columns of a table as its user would.
async fn alter(broker: &Broker, table: &str, change: impl Fn(&NestedFieldRef) -> Option<String>) {
    let metadata = broker.catalog.load(&ident(table)).await.unwrap().metadata;
    let fields = metadata.current_schema().as_struct().fields().iter().filter_map(|field| {
        let mut field = NestedField::clone(field);
        field.name = change(&field.clone().into())?;
        Some(field.into())
    });
    let schema = Schema::builder().with_fields(fields).build().unwrap();
    let updates =
        vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
    let change = TableChange { ident: ident(table), requirements: Vec::new(), updates };
    broker.catalog.commit(vec![change], Change::new()).await.unwrap();
}

/// Column `value` of the last commit's files, which a user's change to the table cannot hide.
fn values(broker: &Broker, table: &str) -> Vec<Option<Vec<u8>>> {
    let mut found = Vec::new();
    for file in broker.status(table).last_files {
        let path = file.path.strip_prefix("file://").unwrap().to_owned();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        for batch in reader.build().unwrap() {
            let column = batch.unwrap().column_by_name("value").unwrap().clone();
            let column = column.as_binary::<i64>();
            let value = |row| column.is_valid(row).then(|| column.value(row).to_vec());
            found.extend((0..column.len()).map(value));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_becomes_raw_has_a_place_for_the_value() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    broker.append(ids[0], &[r#"{"a":1}"#]).await;
    broker.flush("orders").await;
    broker.set("orders", "table.mode", "raw").await;
    broker.until("orders", |status| status.mode == "raw").await;
    broker.append(ids[0], &[r#"{"a":2}"#]).await;
    broker.flush("orders").await;
    assert_eq!(values(&broker, "orders"), [Some(br#"{"a":2}"#.to_vec())]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_ours_that_a_user_drops_or_renames_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.mode", "raw")]).await;
    broker.append(ids[0], &["1"]).await;
    broker.flush("orders").await;
    alter(&broker, "orders", |field| {
        Some(if field.name == "value" { "payload".to_owned() } else { field.name.clone() })
    })
    .await;
    broker.append(ids[0], &["2"]).await;
    broker.flush("orders").await;
    assert_eq!(values(&broker, "orders"), [Some(b"2".to_vec())]);
    alter(&broker, "orders", |field| (field.name != "floe").then(|| field.name.clone())).await;
    broker.append(ids[0], &["3"]).await;
    broker.flush("orders").await;
    assert_eq!(values(&broker, "orders"), [Some(b"3".to_vec())]);
    let metadata = broker.catalog.load(&ident("orders")).await.unwrap().metadata;
    assert!(metadata.current_schema().field_by_name("floe.offset").is_some());
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_keep_their_bytes_whatever_a_user_does_to_their_table() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.mode", "json")]).await;
    broker.append(ids[0], &["one"]).await;
    broker.flush("orders").await;
    alter(&broker, "orders__dlq", |field| (field.name != "value").then(|| field.name.clone()))
        .await;
    broker.append(ids[0], &["two"]).await;
    broker.flush("orders").await;
    let letters = broker.catalog.load(&ident("orders__dlq")).await.unwrap().metadata;
    assert!(letters.current_schema().field_by_name("value").is_some());
    assert_eq!(broker.status("orders").dlq_rows, 2);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_has_one_type_whatever_partitions_its_first_values_came_by() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.target.lag.ms", "86400000")]).await;
    // However long the appends take, one commit has both.
    broker.fail_points.set("catalog.before_metadata", || Err("not yet".to_owned()));
    broker.append(ids[0], &[r#"{"p":1}"#]).await;
    broker.append(ids[1], &[r#"{"p":1.5}"#]).await;
    broker.fail_points.clear("catalog.before_metadata");
    broker.flush("orders").await;
    let columns = broker.status("orders").columns;
    let names: Vec<_> = columns.iter().map(|one| (one.name.as_str(), one.kind.as_str())).collect();
    assert_eq!(names[1..], [("p", "double")]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_with_dead_letters_decode_each_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let decoded = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&decoded);
    let inspect: Inspect = Arc::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let broker = start_with(dir.path(), |options| options.inspect = Some(inspect)).await;
    let ids = broker.topic("orders", &[("table.mode", "json")]).await;
    broker.append(ids[0], &["{}", "bad"]).await;
    broker.flush("orders").await;
    // The first one made the dead-letter table.
    decoded.store(0, Ordering::Relaxed);
    for _ in 0..3 {
        broker.append(ids[0], &["{}", "bad"]).await;
        broker.flush("orders").await;
    }
    assert_eq!(decoded.load(Ordering::Relaxed), 6);
    assert_eq!(broker.status("orders").dlq_rows, 4);
    broker.stop(true).await;
}
