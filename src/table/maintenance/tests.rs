use std::collections::{HashMap, HashSet};

use iceberg::spec::{
    FormatVersion, MAIN_BRANCH, Operation, Snapshot, SnapshotReference, SnapshotRetention,
};
use iceberg::{TableRequirement, TableUpdate};

use super::*;
use crate::runtime::Clock;
use crate::table::snapshot::{MergePolicy, SnapshotChange, SnapshotTarget, build};
use crate::table::testing::TestTable;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn small() -> ExpiryPolicy {
    ExpiryPolicy { keep_min: 2, batch_min: 1, ..ExpiryPolicy::default() }
}

fn no_marker(_: &Snapshot) -> bool {
    false
}

/// A table with `count` appends, a second apart; their ids, oldest first. (Not more: the crate
/// refuses commits without a snapshot while the real clock is a minute behind the table.)
async fn appended(count: i64) -> (TestTable, Vec<i64>) {
    let mut table = TestTable::new(FormatVersion::V2).await;
    table.clock = Clock::manual(table.metadata.last_updated_ms());
    let mut ids = Vec::new();
    for base in 0..count {
        table.clock.advance(1_000);
        ids.push(table.append(base, &["a"]).await.snapshot_id);
    }
    (table, ids)
}

fn plan(table: &TestTable, policy: &ExpiryPolicy, now_ms: i64) -> Option<Vec<i64>> {
    plan_expiry(&table.metadata, policy, now_ms, no_marker).unwrap().map(|plan| plan.expired)
}

#[tokio::test]
async fn age_count_and_minimum_decide() {
    let (table, ids) = appended(6).await;
    let now = table.metadata.last_updated_ms();
    assert_eq!(plan(&table, &small(), now), None, "all are young");
    let later = now + 30 * DAY_MS;
    assert_eq!(plan(&table, &small(), later), Some(ids[..4].to_vec()), "two stay however old");
    let young = ExpiryPolicy { age_max_ms: 3_000, ..small() };
    assert_eq!(plan(&table, &young, now), Some(ids[..2].to_vec()), "exactly the age stays");
    let few = ExpiryPolicy { keep_max: 3, ..small() };
    assert_eq!(plan(&table, &few, now), Some(ids[..3].to_vec()), "however young");
    let (full, over) =
        (ExpiryPolicy { keep_max: 6, ..small() }, ExpiryPolicy { keep_max: 5, ..small() });
    assert_eq!(plan(&table, &full, now), None, "as many as may be");
    assert_eq!(plan(&table, &over, now), Some(ids[..1].to_vec()), "one too many");
    let batch = ExpiryPolicy { batch_min: 5, ..small() };
    assert_eq!(plan(&table, &batch, later), None, "not worth it yet");
    let batch = ExpiryPolicy { batch_max: 1, ..small() };
    assert_eq!(plan(&table, &batch, later), Some(ids[..1].to_vec()), "the oldest first");
    let default = ExpiryPolicy { batch_min: 1, ..ExpiryPolicy::default() };
    assert_eq!(plan(&table, &default, later), None, "ten stay by default");
}

#[test]
fn a_table_with_too_many_snapshots_loses_a_tenth_and_never_what_must_stay() {
    let of = |keep_max, keep_min, snapshots| {
        let policy = ExpiryPolicy { keep_max, keep_min, ..ExpiryPolicy::default() };
        expiry::with_room(policy, snapshots).keep_max
    };
    assert_eq!((of(1000, 10, 1000), of(1000, 10, 1001)), (1000, 900));
    assert_eq!((of(1000, 950, 1001), of(1000, 1000, 2000)), (950, 1000));
    assert_eq!((of(3, 1, 9), of(0, 1, 1)), (3, 1));
}

#[tokio::test]
async fn the_newest_marker_stays() {
    let (mut table, ids) = appended(6).await;
    let later = table.metadata.last_updated_ms() + 30 * DAY_MS;
    let marked = [ids[0], ids[2]];
    let marker = |snapshot: &Snapshot| marked.contains(&snapshot.snapshot_id());
    let plan = |table: &TestTable| plan_expiry(&table.metadata, &small(), later, marker).unwrap();
    let first = plan(&table).unwrap();
    assert_eq!(first.expired, [ids[0], ids[1], ids[3]]);
    // Now the line of parents has a gap before the marker; it still stays.
    table.commit(first.requirements, first.updates);
    assert_eq!(plan(&table), None);
    table.append(6, &["a"]).await;
    assert_eq!(plan(&table).unwrap().expired, [ids[4]]);
}

#[tokio::test]
async fn tags_branches_and_properties_are_respected() {
    let (mut table, ids) = appended(6).await;
    let later = table.metadata.last_updated_ms() + 30 * DAY_MS;
    let tag = SnapshotReference::new(ids[1], SnapshotRetention::Tag { max_ref_age_ms: None });
    let branch = SnapshotReference::new(ids[3], SnapshotRetention::branch(Some(1), None, None));
    for (ref_name, reference) in [("tag".to_owned(), tag), ("branch".to_owned(), branch)] {
        table.commit(Vec::new(), vec![TableUpdate::SetSnapshotRef { ref_name, reference }]);
    }
    let found = plan_expiry(&table.metadata, &small(), later, no_marker).unwrap().unwrap();
    assert_eq!(found.expired, [ids[0], ids[2]]);
    for (name, id) in [("tag", ids[1]), ("branch", ids[3]), (MAIN_BRANCH, ids[5])] {
        assert!(found.requirements.contains(&TableRequirement::RefSnapshotIdMatch {
            r#ref: name.to_owned(),
            snapshot_id: Some(id),
        }));
    }
    let set = |table: &mut TestTable, key: &str, value: &str| {
        let updates = HashMap::from([(key.to_owned(), value.to_owned())]);
        table.commit(Vec::new(), vec![TableUpdate::SetProperties { updates }]);
    };
    set(&mut table, "history.expire.min-snapshots-to-keep", "4");
    assert_eq!(plan(&table, &small(), later), Some(vec![ids[0]]));
    set(&mut table, "history.expire.max-snapshot-age-ms", &(60 * DAY_MS).to_string());
    assert_eq!(plan(&table, &small(), later), None);
    set(&mut table, "history.expire.max-snapshot-age-ms", "soon");
    assert!(plan_expiry(&table.metadata, &small(), later, no_marker).is_err());
    set(&mut table, "gc.enabled", "false");
    assert_eq!(plan(&table, &small(), later), None);
}

/// Plans, lists, commits, deletes; returns what was deleted.
async fn expire(table: &mut TestTable, now_ms: i64) -> Vec<String> {
    let plan = plan_expiry(&table.metadata, &small(), now_ms, no_marker).unwrap().unwrap();
    let files = unreachable_files(&table.file_io, &table.metadata, &plan.expired).await.unwrap();
    table.commit(plan.requirements, plan.updates);
    let report = delete_files(&table.file_io, &files).await;
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(report.deleted, files.len());
    files
}

/// Every snapshot that is left can be read whole.
async fn assert_readable(table: &TestTable) {
    for snapshot in table.metadata.snapshots() {
        let scan = table.table();
        let scan = scan.scan().snapshot_id(snapshot.snapshot_id()).build().unwrap();
        let rows: Vec<_> =
            futures::TryStreamExt::try_collect(scan.to_arrow().await.unwrap()).await.unwrap();
        let rows: usize = rows.iter().map(arrow_array::RecordBatch::num_rows).sum();
        let total = &snapshot.summary().additional_properties["total-records"];
        assert_eq!(rows.to_string(), *total);
    }
}

#[tokio::test]
async fn expired_appends_lose_their_lists_and_merged_manifests_only() {
    let (mut table, _) = appended(5).await;
    let file = table.one_file(5, &["a"]).await;
    let target = SnapshotTarget {
        merge: Some(MergePolicy { at: 2, ..MergePolicy::default() }),
        ..table.target()
    };
    let change = SnapshotChange::append(vec![file], HashMap::new());
    let built = build(target, change, &table.clock).await.unwrap();
    table.commit(built.requirements, built.updates);
    table.append(6, &["a"]).await;
    let later = table.metadata.last_updated_ms() + 30 * DAY_MS;
    let deleted = expire(&mut table, later).await;
    // Five lists and the five manifests that were merged into one; no data.
    assert_eq!(deleted.iter().filter(|path| path.contains("/snap-")).count(), 5);
    assert_eq!(deleted.iter().filter(|path| path.contains("-m0.avro")).count(), 5);
    assert_eq!(deleted.len(), 10);
    assert_eq!(table.files("data").len(), 7);
    assert_eq!(table.metadata.snapshots().len(), 2);
    assert_readable(&table).await;
    assert_eq!(table.count(None).await, 7);
}

#[tokio::test]
async fn replaced_data_files_go_with_the_last_snapshot_that_had_them() {
    let (mut table, ids) = appended(3).await;
    let mut removed = HashSet::new();
    for entry in table.files("data").iter().take(2) {
        removed.insert(format!("{}/data/{entry}", table.metadata.location()));
    }
    let added = vec![table.one_file(0, &["a", "b"]).await];
    let change = SnapshotChange {
        operation: Operation::Replace,
        removed: removed.clone(),
        ..SnapshotChange::append(added, HashMap::new())
    };
    table.change(change).await;
    // A tag holds the first snapshot, and with it one of the two files.
    let reference = SnapshotReference::new(ids[0], SnapshotRetention::Tag { max_ref_age_ms: None });
    table.commit(
        Vec::new(),
        vec![TableUpdate::SetSnapshotRef { ref_name: "tag".to_owned(), reference }],
    );
    table.append(9, &["z"]).await;
    let later = table.metadata.last_updated_ms() + 30 * DAY_MS;
    let deleted = expire(&mut table, later).await;
    let data: Vec<&String> = deleted.iter().filter(|path| path.contains("/data/")).collect();
    assert_eq!(data.len(), 1, "{deleted:?}");
    assert!(removed.contains(data[0]));
    assert_readable(&table).await;
    assert_eq!(table.files("data").len(), 4);

    table.commit(Vec::new(), vec![TableUpdate::RemoveSnapshotRef { ref_name: "tag".to_owned() }]);
    let deleted = expire(&mut table, later).await;
    assert!(deleted.iter().any(|path| removed.contains(path)));
    assert_eq!(table.files("data").len(), 3);
    assert_readable(&table).await;
}

#[tokio::test]
async fn missing_files_of_expired_snapshots_are_no_obstacle() {
    let (mut table, ids) = appended(4).await;
    let lists: Vec<String> = ids
        .iter()
        .map(|id| table.metadata.snapshot_by_id(*id).unwrap().manifest_list().to_owned())
        .collect();
    table.file_io.delete(&lists[0]).await.unwrap();
    let later = table.metadata.last_updated_ms() + 30 * DAY_MS;
    let deleted = expire(&mut table, later).await;
    assert_eq!(deleted, {
        let mut expected = lists[..2].to_vec();
        expected.sort();
        expected
    });
    // One of a snapshot that stays is an obstacle: nothing is known to be unreachable then.
    table.file_io.delete(&lists[3]).await.unwrap();
    assert!(unreachable_files(&table.file_io, &table.metadata, &ids[2..3]).await.is_err());
}

#[tokio::test]
async fn snapshots_that_were_rolled_back_go_when_they_are_old() {
    let (mut table, ids) = appended(3).await;
    let retention = SnapshotRetention::branch(None, None, None);
    let reference = SnapshotReference::new(ids[0], retention);
    let ref_name = MAIN_BRANCH.to_owned();
    table.commit(Vec::new(), vec![TableUpdate::SetSnapshotRef { ref_name, reference }]);
    let now = table.metadata.last_updated_ms();
    assert_eq!(plan(&table, &small(), now), None);
    let deleted = expire(&mut table, now + 30 * DAY_MS).await;
    assert_eq!(deleted.iter().filter(|path| path.contains("/data/")).count(), 2);
    assert_eq!(table.files("data").len(), 1);
    assert_readable(&table).await;
}
