use iceberg::spec::{DataContentType, Operation, SnapshotReference, SnapshotRetention, Transform};
use iceberg::spec::{ManifestContentType, ManifestStatus, UnboundPartitionSpec};

use super::*;
use crate::runtime::Clock;
use crate::table::maintenance::references;
use crate::table::testing::TestTable;

fn summary(key: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(key.to_owned(), value.to_owned())])
}

fn total(table: &TestTable, key: &str) -> u64 {
    let current = table.metadata.current_snapshot().unwrap();
    current.summary().additional_properties[key].parse().unwrap()
}

async fn manifests(table: &TestTable) -> Vec<ManifestFile> {
    let snapshot = table.metadata.current_snapshot().unwrap();
    let version = table.metadata.format_version();
    read_manifest_list(&table.file_io, snapshot, version).await.unwrap()
}

/// Live files with their data sequence number and first row id.
async fn live(table: &TestTable) -> Vec<(String, i64, Option<i64>)> {
    let mut found = Vec::new();
    for file in manifests(table).await {
        for entry in file.load_manifest(&table.file_io).await.unwrap().entries() {
            if entry.is_alive() {
                let row_id = entry.data_file().first_row_id();
                let number = entry.sequence_number().unwrap();
                found.push((entry.file_path().to_owned(), number, row_id));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn appends_add_up() {
    for version in [FormatVersion::V1, FormatVersion::V2, FormatVersion::V3] {
        let mut table = TestTable::new(version).await;
        for base in 0..3 {
            table.append(base * 10, &["a", "b"]).await;
        }
        assert_eq!(table.count(None).await, 6, "{version}");
        assert_eq!(total(&table, "total-records"), 6);
        assert_eq!(total(&table, "total-data-files"), 3);
        assert_eq!(total(&table, "added-records"), 2);
        assert!(total(&table, "total-files-size") > 0);
        assert_eq!(total(&table, "total-delete-files"), 0);
        assert_eq!(manifests(&table).await.len(), 3);
        assert_eq!(table.metadata.history().len(), 3);
        if version == FormatVersion::V3 {
            assert_eq!(table.metadata.next_row_id(), 6);
            let current = table.metadata.current_snapshot().unwrap();
            assert_eq!(current.row_range(), Some((4, 2)));
        }
    }
}

#[tokio::test]
async fn an_append_without_files_carries_its_properties() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    table.append(0, &["a"]).await;
    let mut properties = summary("floe.commit-id", "x");
    properties.insert("total-records".to_owned(), "999".to_owned());
    properties.insert("added-records".to_owned(), "999".to_owned());
    table.change(SnapshotChange::append(Vec::new(), properties)).await;
    let current = table.metadata.current_snapshot().unwrap();
    assert_eq!(current.summary().additional_properties["floe.commit-id"], "x");
    assert!(!current.summary().additional_properties.contains_key("added-records"));
    assert_eq!(total(&table, "total-records"), 1, "computed, not believed");
    assert_eq!(table.count(None).await, 1);
}

#[tokio::test]
async fn the_manifests_handed_out_are_those_of_the_list() {
    for version in [FormatVersion::V2, FormatVersion::V3] {
        let mut table = TestTable::new(version).await;
        table.append(0, &["a"]).await;
        let second = table.append(1, &["b"]).await;
        assert_eq!(second.manifests, manifests(&table).await);
        // The next build on top of them gives what one that reads the list gives.
        let file = table.one_file(2, &["c"]).await;
        let target = SnapshotTarget { parent_manifests: Some(second.manifests), ..table.target() };
        let change = SnapshotChange::append(vec![file], HashMap::new());
        let built = build(target, change, &table.clock).await.unwrap();
        table.commit(built.requirements, built.updates);
        assert_eq!(built.manifests, manifests(&table).await);
        assert_eq!(table.count(None).await, 3);
    }
}

#[tokio::test]
async fn a_clock_behind_does_not_step_back() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    table.append(0, &["a"]).await;
    let before = table.metadata.last_updated_ms();
    table.clock = Clock::manual(1_000);
    table.append(1, &["b"]).await;
    assert_eq!(table.metadata.current_snapshot().unwrap().timestamp_ms(), before);
    assert_eq!(table.count(None).await, 2);
}

#[tokio::test]
async fn small_manifests_are_merged_and_keep_their_numbers() {
    for version in [FormatVersion::V1, FormatVersion::V2, FormatVersion::V3] {
        let mut table = TestTable::new(version).await;
        for base in 0..4 {
            table.append(base, &["a"]).await;
        }
        let before = live(&table).await;
        let file = table.one_file(4, &["a"]).await;
        let target = SnapshotTarget {
            merge: Some(MergePolicy { at: 4, ..MergePolicy::default() }),
            ..table.target()
        };
        let change = SnapshotChange::append(vec![file.clone()], HashMap::new());
        let built = build(target, change, &table.clock).await.unwrap();
        table.commit(built.requirements, built.updates);
        let now = manifests(&table).await;
        assert_eq!(now.len(), 2, "{version}");
        assert_eq!((now[0].added_files_count, now[1].existing_files_count), (Some(1), Some(4)));
        assert_eq!(total(&table, "total-records"), 5);
        assert_eq!(table.count(None).await, 5);
        let mut after = live(&table).await;
        after.retain(|(path, ..)| path != file.file.file_path());
        let numbers = |files: &[(String, i64, Option<i64>)]| -> Vec<(String, i64)> {
            files.iter().map(|(path, number, _)| (path.clone(), *number)).collect()
        };
        assert_eq!(numbers(&after), numbers(&before));
        if version == FormatVersion::V3 {
            // Row ids were inherited from four manifests; now they stand with the files.
            let row_ids: Vec<i64> = after.iter().map(|(.., id)| id.unwrap()).collect();
            assert_eq!(row_ids, [0, 1, 2, 3]);
        }
        // Below the threshold nothing is merged.
        table.append(5, &["a"]).await;
        assert_eq!(manifests(&table).await.len(), 3);
    }
}

#[tokio::test]
async fn replace_swaps_files_and_keeps_the_planned_sequence_number() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    let mut removed = HashSet::new();
    for base in 0..3 {
        table.append(base, &["a"]).await;
    }
    for (path, number, _) in live(&table).await {
        if number < 3 {
            removed.insert(path);
        }
    }
    let merged = table.one_file(0, &["a", "a"]).await;
    let change = SnapshotChange {
        operation: Operation::Replace,
        added: vec![merged.clone()],
        removed: removed.clone(),
        data_sequence_number: Some(2),
        summary: HashMap::new(),
    };
    table.change(change.clone()).await;
    assert_eq!(table.count(None).await, 3);
    assert_eq!(total(&table, "total-data-files"), 2);
    assert_eq!(total(&table, "deleted-data-files"), 2);
    assert_eq!(total(&table, "total-records"), 3);
    let files = live(&table).await;
    let of_merged = files.iter().find(|(path, ..)| path == merged.file.file_path()).unwrap();
    assert_eq!(of_merged.1, 2);
    // The deleted entries are told by the snapshot that deleted them, and by no later one.
    let deleted = |files: &[ManifestFile]| files.iter().filter(|f| f.has_deleted_files()).count();
    assert_eq!(deleted(&manifests(&table).await), 2);
    table.append(9, &["z"]).await;
    assert_eq!(deleted(&manifests(&table).await), 0);
    assert_eq!(table.count(None).await, 4);

    // The same replace again: its files are gone, nothing is left behind.
    let before = table.files("metadata");
    let error = build(table.target(), change, &table.clock).await.unwrap_err();
    let Error::NotLive(paths) = error else { panic!("{error}") };
    assert_eq!(paths.into_iter().collect::<HashSet<_>>(), removed);
    assert_eq!(table.files("metadata"), before);
}

#[tokio::test]
async fn removal_from_an_empty_table_is_not_live() {
    let table = TestTable::new(FormatVersion::V2).await;
    let change = SnapshotChange {
        operation: Operation::Delete,
        removed: HashSet::from(["x".to_owned()]),
        ..SnapshotChange::append(Vec::new(), HashMap::new())
    };
    let error = build(table.target(), change, &table.clock).await.unwrap_err();
    assert!(matches!(error, Error::NotLive(_)));
}

#[tokio::test]
async fn delete_removes_rows_of_whole_files() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    let two = vec![table.one_file(0, &["a"]).await, table.one_file(1, &["b", "c"]).await];
    let gone = two[0].file.file_path().to_owned();
    table.change(SnapshotChange::append(two, HashMap::new())).await;
    let change = SnapshotChange {
        operation: Operation::Delete,
        removed: HashSet::from([gone.clone()]),
        ..SnapshotChange::append(Vec::new(), HashMap::new())
    };
    table.change(change).await;
    assert_eq!(table.count(None).await, 2);
    assert_eq!(total(&table, "deleted-records"), 1);
    let rewritten = &manifests(&table).await[0];
    let manifest = rewritten.load_manifest(&table.file_io).await.unwrap();
    let statuses: HashMap<&str, ManifestStatus> =
        manifest.entries().iter().map(|entry| (entry.file_path(), entry.status())).collect();
    assert_eq!(statuses.len(), 2);
    assert_eq!(statuses[gone.as_str()], ManifestStatus::Deleted);
}

#[tokio::test]
async fn files_of_an_older_partition_spec_can_still_be_added() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    let old = table.one_file(0, &["a"]).await;
    let n = table.metadata.current_schema().field_by_name("n").unwrap().id;
    let spec = UnboundPartitionSpec::builder()
        .add_partition_field(n, "n", Transform::Identity)
        .unwrap()
        .build();
    table.commit(
        Vec::new(),
        vec![TableUpdate::AddSpec { spec }, TableUpdate::SetDefaultSpec { spec_id: -1 }],
    );
    let new_spec = table.metadata.default_partition_spec_id();
    assert_ne!(new_spec, old.spec_id);
    let output = table.file_io.new_output(format!("{}/data/new", table.metadata.location()));
    let schema = table.metadata.current_schema();
    let options = crate::table::sink::SinkOptions::default();
    let mut sink =
        crate::table::sink::ParquetSink::create(&output.unwrap(), schema, &options).await.unwrap();
    sink.write(table.rows(7, &["b"])).await.unwrap();
    let value = iceberg::spec::Struct::from_iter([Some(iceberg::spec::Literal::long(7))]);
    let partition = crate::table::sink::FilePartition { spec_id: new_spec, value };
    let new = sink.finish(partition).await.unwrap();
    let text = new.to_json(&table.metadata).unwrap();
    assert_eq!(AddedFile::from_json(&text, &table.metadata).unwrap(), new);

    table.change(SnapshotChange::append(vec![old, new], HashMap::new())).await;
    let mut specs: Vec<i32> =
        manifests(&table).await.iter().map(|file| file.partition_spec_id).collect();
    specs.sort_unstable();
    assert_eq!(specs, [0, new_spec]);
    assert_eq!(table.count(None).await, 2);
    let filter = iceberg::expr::Reference::new("n").equal_to(iceberg::spec::Datum::long(7));
    assert_eq!(table.count(Some(filter)).await, 1);

    let unknown = AddedFile { spec_id: 99, ..table.one_file(8, &["c"]).await };
    let change = SnapshotChange::append(vec![unknown], HashMap::new());
    let error = build(table.target(), change, &table.clock).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)));
}

#[tokio::test]
async fn the_branch_keeps_its_retention() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    let first = table.append(0, &["a"]).await;
    let retention = SnapshotRetention::branch(Some(7), Some(8), None);
    let reference = SnapshotReference::new(first.snapshot_id, retention.clone());
    let ref_name = MAIN_BRANCH.to_owned();
    table.commit(Vec::new(), vec![TableUpdate::SetSnapshotRef { ref_name, reference }]);
    table.append(1, &["b"]).await;
    assert_eq!(references(&table.metadata).unwrap()[MAIN_BRANCH].retention, retention);
}

#[tokio::test]
async fn another_branch_grows_without_main() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    table.append(0, &["a"]).await;
    let target = SnapshotTarget { branch: "audit".to_owned(), ..table.target() };
    let file = table.one_file(1, &["b"]).await;
    let change = SnapshotChange::append(vec![file], HashMap::new());
    let built = build(target, change, &table.clock).await.unwrap();
    table.commit(built.requirements, built.updates);
    assert_eq!(table.count(None).await, 1);
    assert_eq!(references(&table.metadata).unwrap()["audit"].snapshot_id, built.snapshot_id);
}

#[tokio::test]
async fn a_commit_on_a_moved_branch_fails_its_requirements() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    table.append(0, &["a"]).await;
    let file = table.one_file(1, &["b"]).await;
    let change = SnapshotChange::append(vec![file], HashMap::new());
    let built = build(table.target(), change, &table.clock).await.unwrap();
    table.append(2, &["c"]).await;
    let moved = built.requirements.iter().any(|r| r.check(Some(&table.metadata)).is_err());
    assert!(moved);
}

#[tokio::test]
async fn a_second_attempt_has_files_of_its_own() {
    let table = TestTable::new(FormatVersion::V2).await;
    let file = table.one_file(0, &["a"]).await;
    let target = table.target();
    let change = SnapshotChange::append(vec![file], HashMap::new());
    let first = build(target.clone(), change.clone(), &table.clock).await.unwrap();
    let again = build(target.clone(), change.clone(), &table.clock).await.unwrap_err();
    assert!(matches!(again, Error::Exists(_)), "the same attempt overwrites nothing");
    let next = SnapshotTarget { attempt: 1, ..target };
    let second = build(next, change, &table.clock).await.unwrap();
    assert!(first.files_written.iter().all(|path| !second.files_written.contains(path)));
    for path in first.files_written.iter().chain(&second.files_written) {
        assert!(table.file_io.exists(path).await.unwrap(), "{path}");
    }
}

#[tokio::test]
async fn delete_files_get_a_manifest_of_their_own_kind() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    table.append(0, &["a", "b"]).await;
    let added = table.one_file(5, &["c"]).await;
    // What matters here is the bookkeeping; the content is never read.
    let mut builder = iceberg::spec::DataFileBuilder::default();
    let deletes = builder
        .content(DataContentType::PositionDeletes)
        .file_path(added.file.file_path().to_owned())
        .file_format(iceberg::spec::DataFileFormat::Parquet)
        .record_count(1)
        .file_size_in_bytes(10)
        .partition_spec_id(0)
        .build()
        .unwrap();
    let change = SnapshotChange {
        operation: Operation::Delete,
        ..SnapshotChange::append(vec![AddedFile { spec_id: 0, file: deletes }], HashMap::new())
    };
    table.change(change).await;
    let now = manifests(&table).await;
    assert_eq!(now[0].content, ManifestContentType::Deletes);
    assert_eq!(now[1].content, ManifestContentType::Data);
    assert_eq!(total(&table, "total-delete-files"), 1);
    assert_eq!(total(&table, "total-position-deletes"), 1);
    assert_eq!(total(&table, "total-records"), 2);
}

/// A file that deletes the rows whose `n` is one of `numbers`, in all partitions.
async fn equality_deletes(table: &TestTable, numbers: &[i64]) -> AddedFile {
    let n = table.metadata.current_schema().field_by_name("n").unwrap().clone();
    let schema = iceberg::spec::Schema::builder().with_fields([n.clone()]).build().unwrap();
    let schema = std::sync::Arc::new(schema);
    let name = format!("{}/data/{}-deletes", table.metadata.location(), Uuid::now_v7());
    let output = table.file_io.new_output(name).unwrap();
    let options = crate::table::sink::SinkOptions::default();
    let mut sink =
        crate::table::sink::ParquetSink::create(&output, &schema, &options).await.unwrap();
    let arrow = iceberg::arrow::schema_to_arrow_schema(&schema).unwrap();
    let column = arrow_array::Int64Array::from(numbers.to_vec());
    let batch = arrow_array::RecordBatch::try_new(
        std::sync::Arc::new(arrow),
        vec![std::sync::Arc::new(column)],
    );
    sink.write(batch.unwrap()).await.unwrap();
    let partition = crate::table::sink::FilePartition::unpartitioned(0);
    let added = sink.finish_equality_deletes(partition, &[n.id]).await.unwrap();
    assert_eq!(added.file.content_type(), DataContentType::EqualityDeletes);
    assert_eq!(added.file.equality_ids(), Some(vec![n.id]));
    assert_eq!(added.file.lower_bounds().len(), 1, "readers skip it by its bounds");
    let text = added.to_json(&table.metadata).unwrap();
    assert_eq!(AddedFile::from_json(&text, &table.metadata).unwrap(), added);
    added
}

#[tokio::test]
async fn equality_deletes_count_for_rows_of_earlier_commits_through_merges_and_rewrites() {
    let mut table = TestTable::new(FormatVersion::V2).await;
    let delta = |added| SnapshotChange::row_delta(added, HashMap::new());
    assert_eq!(delta(Vec::new()).operation, Operation::Append);
    for base in [0, 1] {
        table.append(base, &["a", "b"]).await;
    }
    // Rows 0, 1, 1, 2; the row 1 of this commit stays.
    let both = vec![table.one_file(1, &["new"]).await, equality_deletes(&table, &[1]).await];
    let change = delta(both);
    assert_eq!(change.operation, Operation::Overwrite);
    table.change(change).await;
    assert_eq!(table.count(None).await, 3);
    for (name, value) in [
        ("added-equality-deletes", 1),
        ("total-equality-deletes", 1),
        ("added-delete-files", 1),
        ("total-delete-files", 1),
        ("total-records", 5),
    ] {
        assert_eq!(total(&table, name), value, "{name}");
    }
    let alone = delta(vec![equality_deletes(&table, &[2]).await]);
    assert_eq!(alone.operation, Operation::Delete);
    table.change(alone).await;
    assert_eq!(table.count(None).await, 2);
    // Manifests of both kinds are merged, each with its own; numbers stay.
    let merge = Some(MergePolicy { at: 2, ..MergePolicy::default() });
    let target = SnapshotTarget { merge, ..table.target() };
    let change = delta(vec![table.one_file(2, &["again"]).await]);
    let built = build(target, change, &table.clock).await.unwrap();
    table.commit(built.requirements, built.updates);
    let kinds: Vec<ManifestContentType> =
        manifests(&table).await.iter().map(|file| file.content).collect();
    let of = |kind| kinds.iter().filter(|one| **one == kind).count();
    assert_eq!((of(ManifestContentType::Data), of(ManifestContentType::Deletes)), (2, 1));
    assert_eq!(table.count(None).await, 3, "0, 1 and 2, each once");
    // A rewrite of rows takes the deletes along that nothing is left for.
    let removed: HashSet<String> = live(&table).await.into_iter().map(|(path, ..)| path).collect();
    let change = SnapshotChange {
        operation: Operation::Replace,
        removed,
        ..delta(vec![table.one_file(0, &["x", "y", "z"]).await])
    };
    table.change(change).await;
    assert_eq!(
        (total(&table, "total-delete-files"), total(&table, "total-equality-deletes")),
        (0, 0)
    );
    assert_eq!((total(&table, "removed-delete-files"), total(&table, "total-records")), (2, 3));
    assert_eq!(table.count(None).await, 3);
}
