//! A sink with a primary key: of each key its table shows the newest row, after crashes at every
//! durable step, lost files and whatever others do to the table.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use iceberg::TableUpdate;
use iceberg::spec::DataContentType;
use iceberg::spec::ManifestContentType;
use iceberg::spec::Operation;
use iceberg::spec::Schema;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;

use crate::store::Change;
use crate::table::catalog::Catalog;
use crate::table::catalog::TableChange;
use crate::table::snapshot::read_manifest_list;
use crate::tier::tests::harness::Broker;
use crate::tier::tests::harness::ident;
use crate::tier::tests::harness::start;
use crate::tier::tests::roads::crash_at;
use crate::tier::tests::sinks::path;
use crate::tier::tests::sinks::wish;
use crate::types::PartitionId;

fn key(name: &str, kind: &str) -> Value {
    let mut column = path(name, kind);
    column["primaryKey"] = true.into();
    column
}

impl Broker {
    /// A topic whose sink `a` has the key `k` and the value `v`.
    async fn keyed(&self, more: Value) -> Vec<PartitionId> {
        let options = [("table.mode", "off"), ("table.commit.min.interval.ms", "0")];
        let ids = self.topic("orders", &options).await;
        self.sink("orders", wish("a", &[key("k", "long"), path("v", "long")], more)).await;
        ids
    }

    async fn put(&self, partition: PartitionId, rows: &[(i64, i64)]) {
        let values: Vec<String> =
            rows.iter().map(|(k, v)| format!("{{\"k\":{k},\"v\":{v}}}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        self.append(partition, &values).await;
    }

    /// Key and value of every row that a reader of the table sees, sorted.
    async fn pairs(&self) -> Vec<(i64, i64)> {
        let mut found = Vec::new();
        for batch in self.scan("a").await {
            let column = |name: &str| {
                let column = batch.column_by_name(name).unwrap();
                column.as_primitive::<Int64Type>().values().to_vec()
            };
            found.extend(column("k").into_iter().zip(column("v")));
        }
        found.sort_unstable();
        found
    }

    /// Operation and summary of the table's newest snapshot.
    async fn newest(&self) -> (Operation, BTreeMap<String, String>) {
        let metadata = self.catalog.load(&ident("a")).await.unwrap().metadata;
        let summary = metadata.current_snapshot().unwrap().summary().clone();
        (summary.operation, summary.additional_properties.into_iter().collect())
    }

    /// Files of deletes of the newest snapshot, with the sequence number from which on rows stay.
    async fn deletes(&self) -> Vec<(String, i64)> {
        let metadata = self.catalog.load(&ident("a")).await.unwrap().metadata;
        let file_io = self.catalog.file_io();
        let snapshot = metadata.current_snapshot().unwrap();
        let list = read_manifest_list(file_io, snapshot, metadata.format_version()).await.unwrap();
        let mut found = Vec::new();
        for manifest in list {
            let is_of_deletes = manifest.content == ManifestContentType::Deletes;
            for entry in manifest.load_manifest(file_io).await.unwrap().entries() {
                let file = entry.data_file();
                assert_eq!(file.content_type() != DataContentType::Data, is_of_deletes);
                if is_of_deletes {
                    let id = metadata.current_schema().field_id_by_name("k").unwrap();
                    assert_eq!(file.content_type(), DataContentType::EqualityDeletes);
                    assert_eq!(file.equality_ids(), Some(vec![id]));
                    assert!(file_io.exists(file.file_path()).await.unwrap());
                    found.push((file.file_path().to_owned(), entry.sequence_number().unwrap()));
                }
            }
        }
        found.sort();
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_row_of_each_key_is_in_the_table_and_the_snapshots_say_how() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.keyed(json!({})).await;
    broker.put(ids[0], &[(1, 10), (2, 20), (1, 11)]).await;
    broker.flush("a").await;
    assert_eq!(broker.pairs().await, [(1, 11), (2, 20)]);
    let (operation, summary) = broker.newest().await;
    assert_eq!(operation, Operation::Append, "no row was there: nothing is deleted");
    assert_eq!(summary["added-records"], "2");
    assert_eq!(summary["total-delete-files"], "0");
    assert_eq!(summary["floe.superseded-rows"], "1");

    broker.put(ids[0], &[(2, 21), (3, 30)]).await;
    broker.flush("a").await;
    assert_eq!(broker.pairs().await, [(1, 11), (2, 21), (3, 30)]);
    let (operation, summary) = broker.newest().await;
    assert_eq!(operation, Operation::Overwrite);
    for (name, value) in [
        ("added-data-files", "1"),
        ("added-delete-files", "1"),
        ("added-equality-deletes", "2"),
        ("total-equality-deletes", "2"),
        ("total-delete-files", "1"),
        ("total-data-files", "2"),
        ("total-records", "4"),
    ] {
        assert_eq!(summary[name], value, "{name}");
    }
    assert!(!summary.contains_key("floe.superseded-rows"));
    assert_eq!(broker.deletes().await.len(), 1);
    let status = broker.status("a");
    assert_eq!((status.rows, status.superseded_rows, status.dlq_rows), (4, 1, 0));
    assert_eq!(status.last_files.len(), 2);
    let schema = broker.catalog.load(&ident("a")).await.unwrap().metadata;
    let schema = schema.current_schema();
    let k = schema.field_by_name("k").unwrap();
    assert!(k.required && schema.identifier_field_ids().eq([k.id]));
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_a_key_is_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.keyed(json!({})).await;
    broker.append(ids[0], &[r#"{"v":1}"#, r#"{"k":null,"v":2}"#, r#"{"k":3,"v":3}"#]).await;
    broker.flush("a").await;
    assert_eq!(broker.pairs().await, [(3, 3)]);
    for batch in broker.scan("a__dlq").await {
        let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        for row in 0..batch.num_rows() {
            assert_eq!(text("error_code").value(row), "REQUIRED_FIELD_NULL");
            assert_eq!(text("field_path").value(row), "k");
        }
    }
    assert_eq!(broker.offsets("a__dlq").await, [(0, 0), (0, 1)]);
    // A commit of dead letters alone has no keys, and so no deletes.
    broker.append(ids[0], &[r#"{"v":1}"#]).await;
    broker.flush("a").await;
    assert_eq!(broker.newest().await.0, Operation::Append);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn across_partitions_the_later_record_of_a_commit_stays() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.keyed(json!({})).await;
    broker.put(ids[1], &[(1, 10), (2, 20)]).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    broker.put(ids[0], &[(1, 11)]).await;
    broker.flush("a").await;
    assert_eq!(broker.pairs().await, [(1, 11), (2, 20)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_durable_step_leaves_one_row_of_each_key() {
    let points = [
        "tier.after_files",
        "tier.after_prepared",
        "tier.before_commit",
        "tier.after_commit",
        "tier.after_committed",
        "catalog.before_metadata",
        "catalog.after_metadata",
    ];
    for point in points {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(dir.path()).await;
        let ids = broker.keyed(json!({})).await;
        broker.put(ids[0], &[(1, 10), (2, 20)]).await;
        broker.flush("a").await;
        broker.put(ids[0], &[(1, 11), (3, 30), (1, 12)]).await;
        crash_at(broker, point, 0).await;
        let broker = start(dir.path()).await;
        broker.flush("a").await;
        assert_eq!(broker.pairs().await, [(1, 12), (2, 20), (3, 30)], "{point}");
        assert_eq!(broker.deletes().await.len(), 1, "{point}: the commit is there once");
        broker.put(ids[0], &[(2, 21)]).await;
        broker.flush("a").await;
        assert_eq!(broker.pairs().await, [(1, 12), (2, 21), (3, 30)], "{point}");
        broker.stop(true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_at_any_step_leaves_one_row_of_each_key() {
    let points =
        ["tier.after_files", "tier.after_prepared", "tier.before_commit", "tier.after_commit"];
    for point in points {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(dir.path()).await;
        let ids = broker.keyed(json!({})).await;
        let passes = AtomicU32::new(0);
        broker.fail_points.set(point, move || match passes.fetch_add(1, Ordering::SeqCst) {
            1 | 2 => Err("lost".to_owned()),
            _ => Ok(()),
        });
        for round in 0..4 {
            broker.put(ids[0], &[(1, round), (2, round), (1, round + 1)]).await;
            broker.flush("a").await;
            assert_eq!(broker.pairs().await, [(1, round + 1), (2, round)], "{point} {round}");
        }
        broker.stop(true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_ends_where_it_holds_much_and_is_encoded_again_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let options = [("table.mode", "off"), ("table.target.lag.ms", "86400000")];
    let ids = broker.topic("orders", &options).await;
    let raw = json!({"type": "body", "name": "raw"});
    broker.sink("orders", wish("a", &[key("k", "long"), path("v", "long"), raw], json!({}))).await;
    // Nothing is in the table before all of it waits, however long the appends take.
    broker.fail_points.set("catalog.before_metadata", || Err("not yet".to_owned()));
    let pad = "x".repeat(1 << 20);
    let mut newest = BTreeMap::new();
    for number in 0..44_i64 {
        let k = number % 40;
        let value = format!(r#"{{"k":{k},"v":{number},"pad":"{pad}"}}"#);
        // The last keys come again in the other partition, later.
        broker.append(ids[(number / 40) as usize], &[&value]).await;
        newest.insert(k, number);
    }
    broker.fail_points.clear("catalog.before_metadata");
    crash_at(broker, "tier.after_prepared", 0).await;
    assert!(lose(&dir.path().join("warehouse"), ".parquet", &[]) > 0);
    let broker = start(dir.path()).await;
    broker.flush("a").await;
    let status = broker.status("a");
    assert!(status.commits > 1, "one commit does not hold 40 MiB");
    // The keys that came twice came first in their partition: they are not what waits.
    assert_eq!(broker.pairs().await, newest.into_iter().collect::<Vec<_>>());
    assert_eq!(status.rows + status.superseded_rows, 44);
    broker.stop(true).await;
}

/// Deletes files that are not referenced yet, and gives their number.
pub(super) fn lose(folder: &Path, suffix: &str, known: &[String]) -> usize {
    let mut lost = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            lost += lose(&path, suffix, known);
        } else if name.ends_with(suffix) && !known.iter().any(|known| known.ends_with(&name)) {
            std::fs::remove_file(path).unwrap();
            lost += 1;
        }
    }
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_files_of_a_prepared_commit_are_written_again_rows_and_deletes() {
    for (suffix, count) in [("-deletes.parquet", 1), ("-00000.parquet", 1), (".parquet", 2)] {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(dir.path()).await;
        let ids = broker.keyed(json!({})).await;
        broker.put(ids[0], &[(1, 10), (2, 20)]).await;
        broker.flush("a").await;
        let known: Vec<String> =
            broker.status("a").last_files.iter().map(|file| file.path.clone()).collect();
        broker.put(ids[0], &[(1, 11), (1, 12)]).await;
        broker.put(ids[1], &[(3, 30)]).await;
        crash_at(broker, "tier.after_prepared", 0).await;
        assert_eq!(lose(&dir.path().join("warehouse"), suffix, &known), count, "{suffix}");
        let broker = start(dir.path()).await;
        broker.flush("a").await;
        assert_eq!(broker.pairs().await, [(1, 12), (2, 20), (3, 30)], "{suffix}");
        let status = broker.status("a");
        assert_eq!((status.rows, status.superseded_rows, status.commits), (4, 1, 2), "{suffix}");
        broker.stop(true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_moves_to_another_partition_of_the_table_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.keyed(json!({"partition_spec": "(v)"})).await;
    broker.put(ids[0], &[(1, 1), (2, 1), (1, 2)]).await;
    broker.flush("a").await;
    assert_eq!(broker.status("a").last_files.len(), 2);
    broker.put(ids[0], &[(2, 3)]).await;
    broker.flush("a").await;
    assert_eq!(broker.pairs().await, [(1, 2), (2, 3)]);
    let metadata = broker.catalog.load(&ident("a")).await.unwrap().metadata;
    assert!(!metadata.default_partition_spec().is_unpartitioned());
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_the_id_of_the_event_deletes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.commit.min.interval.ms", "0")]).await;
    let id = json!({"type": "uuid", "name": "id", "primaryKey": true});
    broker.sink("orders", wish("a", &[id, path("k", "long"), path("v", "long")], json!({}))).await;
    for round in 0..3 {
        broker.put(ids[0], &[(1, round), (1, round)]).await;
        broker.flush("a").await;
        assert_eq!(broker.newest().await.0, Operation::Append);
    }
    assert_eq!(broker.pairs().await.len(), 6);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_keeps_the_deletes_that_rows_need() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let options = [
        ("table.mode", "off"),
        ("table.commit.min.interval.ms", "0"),
        ("table.snapshot.max.count", "12"),
        ("table.snapshot.min.count", "10"),
    ];
    let ids = broker.topic("orders", &options).await;
    broker.sink("orders", wish("a", &[key("k", "long"), path("v", "long")], json!({}))).await;
    const COMMITS: i64 = 56;
    for round in 0..COMMITS {
        broker.put(ids[0], &[(round % 7, round)]).await;
        broker.flush("a").await;
    }
    let newest: Vec<(i64, i64)> = (0..7).map(|k| (k, COMMITS - 7 + k)).collect();
    assert_eq!(broker.pairs().await, newest);
    assert_eq!(broker.deletes().await.len() as i64, COMMITS - 1);
    let (_, summary) = broker.newest().await;
    assert_eq!(summary["total-equality-deletes"], (COMMITS - 1).to_string());
    let metadata = broker.catalog.load(&ident("a")).await.unwrap().metadata;
    assert!(metadata.snapshots().len() < 20, "{}", metadata.snapshots().len());
    let list = read_manifest_list(
        broker.catalog.file_io(),
        metadata.current_snapshot().unwrap(),
        metadata.format_version(),
    );
    assert!(list.await.unwrap().len() < 20, "small manifests of both kinds are merged");
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_its_user_took_away_stops_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.keyed(json!({})).await;
    broker.put(ids[0], &[(1, 10)]).await;
    broker.flush("a").await;
    let metadata = broker.catalog.load(&ident("a")).await.unwrap().metadata;
    let fields = metadata.current_schema().as_struct().fields().to_vec();
    let fields: Vec<_> = fields.into_iter().filter(|field| field.name != "k").collect();
    let schema = Schema::builder().with_fields(fields).build().unwrap();
    let updates =
        vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
    let change = TableChange { ident: ident("a"), requirements: vec![], updates };
    broker.catalog.commit(vec![change], Change::new()).await.unwrap();
    broker.put(ids[0], &[(1, 11)]).await;
    broker.until("a", |status| status.state == "CONFIG_ERROR").await;
    let reason = broker.status("a").reason.unwrap();
    assert!(reason.contains("column \"k\" of the primary key"), "{reason}");
    broker.stop(true).await;
}

#[derive(Debug, Clone)]
enum Act {
    Put(i64, i64),
    Flush,
    Crash(&'static str),
}

fn any_act() -> impl Strategy<Value = Act> {
    let points = vec![
        "tier.after_files",
        "tier.after_prepared",
        "tier.before_commit",
        "tier.after_commit",
        "catalog.after_metadata",
    ];
    prop_oneof![
        12 => (0_i64..6, 0_i64..1_000).prop_map(|(key, value)| Act::Put(key, value)),
        3 => Just(Act::Flush),
        1 => prop::sample::select(points).prop_map(Act::Crash),
    ]
}

async fn play(acts: Vec<Act>) {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = start(dir.path()).await;
    let ids = broker.keyed(json!({"partition_spec": "(bucket(2, v))"})).await;
    let mut newest = BTreeMap::new();
    for act in acts {
        match act {
            // Order is that of a partition: a key belongs to one.
            Act::Put(key, value) => {
                broker.put(ids[(key % 2) as usize], &[(key, value)]).await;
                newest.insert(key, value);
            }
            Act::Flush => broker.flush("a").await,
            Act::Crash(point) => {
                broker.put(ids[0], &[(0, -1)]).await;
                newest.insert(0, -1);
                crash_at(broker, point, 0).await;
                broker = start(dir.path()).await;
            }
        }
    }
    broker.put(ids[0], &[(0, 7)]).await;
    newest.insert(0, 7);
    broker.flush("a").await;
    assert_eq!(broker.pairs().await, newest.into_iter().collect::<Vec<_>>());
    broker.stop(true).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn whatever_is_sent_and_wherever_it_crashes_the_last_value_of_each_key_is_seen(
        acts in prop::collection::vec(any_act(), 0..24),
    ) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(acts));
    }
}
