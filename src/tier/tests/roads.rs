//! Rows arrive exactly once: by the clock, by flush, through crashes at every durable step.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;

use crate::store::Change;
use crate::table::catalog::Catalog;
use crate::table::catalog::TableChange;
use crate::table::sink;
use crate::table::snapshot;
use crate::table::snapshot::SnapshotChange;
use crate::table::snapshot::SnapshotTarget;
use crate::tier::tests::harness::Broker;
use crate::tier::tests::harness::ident;
use crate::tier::tests::harness::start;
use crate::tier::tests::harness::start_with;

#[tokio::test(flavor = "multi_thread")]
async fn json_of_all_partitions_is_in_the_table_typed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    // However long the appends take, one commit has them all.
    broker.fail_points.set("catalog.before_metadata", || Err("not yet".to_owned()));
    broker.append(ids[0], &[r#"{"a":1}"#, r#"{"a":2}"#]).await;
    broker.append(ids[1], &[r#"{"a":3}"#]).await;
    broker.fail_points.clear("catalog.before_metadata");
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 1), (1, 0)]);
    assert_eq!(broker.longs("orders", "a").await, [Some(1), Some(2), Some(3)]);
    broker.append(ids[0], &[r#"{"a":4,"b":5}"#, "hello"]).await;
    broker.flush("streams.orders").await;
    assert_eq!(broker.offsets("orders").await.len(), 5);
    assert_eq!(broker.longs("orders", "b").await, [None, None, None, None, Some(5)]);
    let status = broker.status("orders");
    assert_eq!((status.state.as_str(), status.rows, status.commits), ("RUNNING", 5, 2));
    assert_eq!(broker.log.partition(ids[0]).unwrap().tiered_offset(), 4);
    assert_eq!(status.partitions[0].end_offset, Some(4));
    assert!(status.columns.iter().any(|column| column.name == "_value"));
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_topics_first_row_needs_no_flush() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("slow", &[("table.target.lag.ms", "60000")]).await;
    broker.append(ids[0], &["1"]).await;
    broker.until("slow", |status| status.rows == 1).await;
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_commit_is_made_at_shutdown_and_the_next_start_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let lag = [("table.target.lag.ms", "86400000")];
    let ids = broker.topic("orders", &lag).await;
    broker.append(ids[0], &["{}"]).await;
    broker.flush("orders").await;
    broker.append(ids[0], &["{}"]).await;
    broker.stop(true).await;
    let broker = start(dir.path()).await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 1)]);
    broker.append(ids[0], &["{}"]).await;
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 1), (0, 2)]);
    broker.stop(true).await;
}

/// Fails at `point` until restarted; `skip` passes are let through first.
pub(super) async fn crash_at(broker: Broker, point: &'static str, skip: u32) {
    fail_at(&broker, point, skip).await;
    broker.stop(false).await;
}

/// The same, without the end.
pub(super) async fn fail_at(broker: &Broker, point: &'static str, skip: u32) {
    let passes = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&passes);
    broker.fail_points.set(point, move || {
        if seen.fetch_add(1, Ordering::SeqCst) >= skip { Err("crash".to_owned()) } else { Ok(()) }
    });
    let waited = async {
        while passes.load(Ordering::SeqCst) <= skip {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(super::harness::BOUND, waited).await.expect(point);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_durable_step_neither_loses_nor_doubles_rows() {
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
        let ids = broker.topic("orders", &[("table.mode", "json")]).await;
        broker.append(ids[0], &[r#"{"a":1}"#, "bad"]).await;
        broker.flush("orders").await;
        broker.append(ids[0], &[r#"{"a":2}"#, "bad"]).await;
        broker.append(ids[1], &[r#"{"a":3}"#]).await;
        crash_at(broker, point, 0).await;
        let broker = start(dir.path()).await;
        broker.flush("orders").await;
        broker.append(ids[1], &[r#"{"a":4}"#]).await;
        broker.flush("orders").await;
        let expected = [(0, 0), (0, 2), (1, 0), (1, 1)];
        assert_eq!(broker.offsets("orders").await, expected, "{point}");
        assert_eq!(broker.offsets("orders__dlq").await, [(0, 1), (0, 3)], "{point}");
        broker.stop(true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_files_of_a_prepared_commit_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.mode", "json")]).await;
    broker.append(ids[0], &[r#"{"a":1}"#, "bad", r#"{"a":2}"#]).await;
    crash_at(broker, "tier.after_prepared", 0).await;
    let mut removed = 0;
    let mut folders = vec![dir.path().join("warehouse")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "parquet") {
                std::fs::remove_file(path).unwrap();
                removed += 1;
            }
        }
    }
    assert_eq!(removed, 2);
    let broker = start(dir.path()).await;
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 2)]);
    assert_eq!(broker.offsets("orders__dlq").await, [(0, 1)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_commits_between_ours_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    for round in 0..3 {
        broker.append(ids[0], &["{}"]).await;
        broker.flush("orders").await;
        let loaded = broker.catalog.load(&ident("orders")).await.unwrap();
        let file_io = broker.catalog.file_io().clone();
        let target = SnapshotTarget::main(loaded.metadata, file_io, uuid::Uuid::now_v7());
        let change = SnapshotChange::append(Vec::new(), Default::default());
        let clock = crate::runtime::Clock::system();
        let built = snapshot::build(target, change, &clock).await.unwrap();
        let (requirements, updates) = (built.requirements, built.updates);
        let change = TableChange { ident: ident("orders"), requirements, updates };
        broker.catalog.commit(vec![change], Change::new()).await.unwrap();
        assert_eq!(broker.offsets("orders").await.len(), round + 1);
    }
    assert_eq!(broker.status("orders").state, "RUNNING");
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_goes_to_the_dead_letter_table() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_with(dir.path(), |options| {
        options.inspect = Some(Arc::new(|value| assert!(value != b"666", "poison")));
    })
    .await;
    let ids = broker.topic("orders", &[]).await;
    broker.append(ids[0], &["1", "666", "2"]).await;
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 2)]);
    let letters = broker.scan("orders__dlq").await;
    let codes = letters[0].column_by_name("error_code").unwrap().as_string::<i32>();
    assert_eq!((codes.len(), codes.value(0)), (1, "INTERNAL"));
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_file_does_not_take_goes_to_the_dead_letter_table() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_with(dir.path(), |options| {
        let inspect = |batch: &arrow_array::RecordBatch| {
            let column = batch.column_by_name("a").map(|a| a.as_primitive::<Int64Type>().clone());
            assert!(column.is_none_or(|a| !a.values().contains(&666)), "planted");
        };
        options.inspect_rows = Some(sink::Inspect(Arc::new(inspect)));
    })
    .await;
    let ids = broker.topic("orders", &[]).await;
    broker.append(ids[0], &[r#"{"a":1}"#, r#"{"a":666}"#, r#"{"a":2}"#]).await;
    broker.append(ids[0], &[r#"{"a":3}"#]).await;
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 2), (0, 3)]);
    assert_eq!(broker.offsets("orders__dlq").await, [(0, 1)]);
    assert_eq!(broker.status("orders").state, "RUNNING");
    broker.append(ids[0], &[r#"{"a":4}"#]).await;
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await.len(), 4);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_tables_and_partitioned_tables_hold_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let raw = broker.topic("raw.topic", &[("table.mode", "raw")]).await;
    let spec = [("table.partition.spec", "(identity(a))")];
    let split = broker.topic("split", &spec).await;
    broker.append(raw[0], &["x", ""]).await;
    broker.append(split[0], &[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":1}"#]).await;
    broker.flush("raw_topic").await;
    broker.flush("split").await;
    let rows = broker.scan("raw_topic").await;
    let values = rows[0].column_by_name("value").unwrap().as_binary::<i64>();
    assert_eq!((values.value(0), values.is_null(1)), (&b"x"[..], false));
    assert_eq!(broker.offsets("split").await, [(0, 0), (0, 1), (0, 2)]);
    assert_eq!(broker.status("split").last_files.len(), 2);
    broker.stop(true).await;
}

/// Commit and partition value of every data file of the current snapshot.
async fn files_of(broker: &Broker, table: &str) -> Vec<(String, String)> {
    let loaded = broker.catalog.load(&ident(table)).await.unwrap();
    let file_io = broker.catalog.file_io();
    let snapshot = loaded.metadata.current_snapshot().unwrap();
    let list = file_io.new_input(snapshot.manifest_list()).unwrap().read().await.unwrap();
    let version = loaded.metadata.format_version();
    let manifests = iceberg::spec::ManifestList::parse_with_version(&list, version).unwrap();
    let mut files = Vec::new();
    for manifest in manifests.entries() {
        for entry in manifest.load_manifest(file_io).await.unwrap().entries() {
            let name = entry.file_path().rsplit('/').next().unwrap();
            let value = format!("{:?}", entry.data_file().partition());
            files.push((name[..36].to_owned(), value));
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partition_values_have_one_file_each_in_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let options =
        [("table.partition.spec", "(identity(a))"), ("table.commit.min.interval.ms", "0")];
    let ids = broker.topic("split", &options).await;
    let pad = "x".repeat(9_000);
    let rows: Vec<String> = (0..600).map(|n| format!(r#"{{"a":{n},"pad":"{pad}"}}"#)).collect();
    for _ in 0..2 {
        for chunk in rows.chunks(50) {
            broker.append(ids[0], &chunk.iter().map(String::as_str).collect::<Vec<_>>()).await;
        }
    }
    broker.flush("split").await;
    assert_eq!(broker.offsets("split").await.len(), 1_200);
    let files = files_of(&broker, "split").await;
    let distinct: std::collections::BTreeSet<_> = files.iter().collect();
    assert_eq!(distinct.len(), files.len(), "a value has two files in one commit");
    assert!(files.len() >= 600);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_snapshots_expire_and_the_rows_stay() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let options = [
        ("table.snapshot.max.count", "12"),
        ("table.snapshot.min.count", "10"),
        ("table.commit.min.interval.ms", "0"),
    ];
    let ids = broker.topic("orders", &options).await;
    for _ in 0..36 {
        broker.append(ids[0], &["{}"]).await;
        broker.flush("orders").await;
    }
    assert_eq!(broker.offsets("orders").await.len(), 36);
    let metadata = broker.catalog.load(&ident("orders")).await.unwrap().metadata;
    assert!(metadata.snapshots().len() < 36, "{}", metadata.snapshots().len());
    broker.stop(true).await;
}
