//! Commits: all or nothing, who loses, what is refused, what stays on disk.

use std::collections::HashMap;
use std::time::Duration;

use iceberg::spec::{
    FormatVersion, NestedField, Operation, PrimitiveType, Schema, Snapshot, SnapshotReference,
    SnapshotRetention, Summary, Type,
};
use iceberg::{TableRequirement, TableUpdate};

use super::*;

async fn with_table(name: &str, properties: &[(&str, &str)]) -> (Fixture, LoadedTable) {
    let fixture = Fixture::new();
    let table = sample_table(name, properties);
    fixture.catalog.ensure_namespace(table.ident.namespace()).await.unwrap();
    let loaded = fixture.catalog.create(table).await.unwrap();
    (fixture, loaded)
}

fn set(ident: &TableIdent, key: &str, value: &str) -> TableChange {
    let updates = HashMap::from([(key.to_owned(), value.to_owned())]);
    TableChange {
        ident: ident.clone(),
        requirements: vec![],
        updates: vec![TableUpdate::SetProperties { updates }],
    }
}

fn updates(ident: &TableIdent, updates: Vec<TableUpdate>) -> Vec<TableChange> {
    vec![TableChange { ident: ident.clone(), requirements: vec![], updates }]
}

fn snapshot(table: &LoadedTable, id: i64, parent: Option<i64>, sequence: i64) -> Vec<TableUpdate> {
    let snapshot = Snapshot::builder()
        .with_snapshot_id(id)
        .with_parent_snapshot_id(parent)
        .with_sequence_number(sequence)
        .with_timestamp_ms(table.metadata.last_updated_ms() + sequence)
        .with_manifest_list(format!("{}/metadata/{id}.avro", table.metadata.location()))
        .with_summary(Summary {
            operation: Operation::Append,
            additional_properties: HashMap::new(),
        })
        .with_schema_id(0)
        .build();
    let reference = SnapshotReference {
        snapshot_id: id,
        retention: SnapshotRetention::Branch {
            min_snapshots_to_keep: None,
            max_snapshot_age_ms: None,
            max_ref_age_ms: None,
        },
    };
    let main = TableUpdate::SetSnapshotRef { ref_name: "main".into(), reference };
    vec![TableUpdate::AddSnapshot { snapshot }, main]
}

fn files(table: &LoadedTable) -> Vec<String> {
    let folder =
        table.metadata.location().strip_prefix("file://").unwrap().to_owned() + "/metadata";
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn several_tables_and_the_callers_state_move_together() {
    let (fixture, a) = with_table("a", &[]).await;
    let b = fixture.catalog.create(sample_table("b", &[])).await.unwrap();
    let with = Change::new().put(Space::Ledger, *b"k", *b"v");
    let changes = vec![set(&a.ident, "x", "1"), set(&b.ident, "x", "2")];
    let done = fixture.catalog.commit(changes, with).await.unwrap();
    assert_eq!(done[0].metadata.properties()["x"], "1");
    assert_eq!(
        fixture.catalog.load(&b.ident).await.unwrap().metadata_location,
        done[1].metadata_location
    );
    assert_eq!(fixture.state.get(Space::Ledger, b"k").unwrap(), Some(b"v".to_vec()));
    assert!(fixture.catalog.commits_with_state());

    // The second table's requirement fails: nothing of the first, nothing of the ledger.
    let mut second = set(&b.ident, "x", "9");
    second.requirements = vec![TableRequirement::UuidMatch { uuid: a.metadata.uuid() }];
    let with = Change::new().put(Space::Ledger, *b"k", *b"w");
    let error =
        fixture.catalog.commit(vec![set(&a.ident, "x", "9"), second], with).await.unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    assert_eq!(fixture.catalog.load(&a.ident).await.unwrap().metadata.properties()["x"], "1");
    assert_eq!(fixture.state.get(Space::Ledger, b"k").unwrap(), Some(b"v".to_vec()));

    let twice = vec![set(&a.ident, "x", "3"), set(&a.ident, "x", "4")];
    assert!(matches!(fixture.catalog.commit(twice, Change::new()).await, Err(Error::Invalid(_))));
    let alone = Change::new().put(Space::Ledger, *b"k", *b"w");
    assert!(fixture.catalog.commit(vec![], alone).await.unwrap().is_empty());
    assert_eq!(fixture.state.get(Space::Ledger, b"k").unwrap(), Some(b"w".to_vec()));
}

#[tokio::test]
async fn of_two_commits_on_one_snapshot_one_wins_and_the_loser_leaves_no_file() {
    let (fixture, table) = with_table("t", &[]).await;
    let commit = |id| {
        let (catalog, table) = (fixture.catalog.clone(), table.clone());
        async move {
            let requirement =
                TableRequirement::RefSnapshotIdMatch { r#ref: "main".into(), snapshot_id: None };
            let change = TableChange {
                ident: table.ident.clone(),
                requirements: vec![requirement],
                updates: snapshot(&table, id, None, 1),
            };
            catalog.commit(vec![change], Change::new()).await
        }
    };
    let results = futures::future::join_all((1..=8).map(commit)).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let conflicts = results.iter().filter(|result| matches!(result, Err(Error::Conflict(_))));
    assert_eq!(conflicts.count(), 7);
    assert_eq!(files(&table).len(), 2);
}

#[tokio::test]
async fn a_caller_that_goes_away_cannot_lose_a_commit_of_another() {
    let (fixture, table) = with_table("t", &[]).await;
    let closed = fixture.state.gate.write().await;
    let first = fixture.catalog.commit(vec![set(&table.ident, "a", "1")], Change::new());
    assert!(tokio::time::timeout(Duration::from_millis(300), first).await.is_err());
    let catalog = fixture.catalog.clone();
    let second = async { catalog.commit(vec![set(&table.ident, "b", "2")], Change::new()).await };
    let (done, ()) = tokio::join!(second, async { drop(closed) });
    let properties = done.unwrap()[0].metadata.properties().clone();
    assert_eq!((&*properties["a"], &*properties["b"]), ("1", "2"));
}

#[tokio::test]
async fn failures_before_the_write_are_definite_and_a_failed_store_is_unknown() {
    let (fixture, table) = with_table("t", &[]).await;
    let commit = || fixture.catalog.commit(vec![set(&table.ident, "a", "1")], Change::new());
    for point in ["catalog.before_metadata", "catalog.after_metadata"] {
        fixture.fail_points.set(point, || Err("no disk".into()));
        assert!(matches!(commit().await, Err(Error::Storage(_))), "{point}");
        fixture.fail_points.clear(point);
        assert_eq!(files(&table).len(), 1, "{point}");
    }
    fixture.state.fail_next(store::Error::Closed);
    assert!(matches!(commit().await, Err(Error::Storage(_))));
    fixture.state.fail_next(store::Error::TooLarge { bytes: 2, limit: 1 });
    assert!(matches!(commit().await, Err(Error::Invalid(_))));
    assert_eq!(files(&table).len(), 1);
    fixture.state.fail_next(store::Error::Failed("gone".into()));
    assert!(matches!(commit().await, Err(Error::Unknown(_))));
    assert_eq!(files(&table).len(), 2, "the pointer may name it");
    commit().await.unwrap();
}

#[tokio::test]
async fn expired_metadata_files_are_deleted_only_where_the_table_says_so() {
    for (delete, left) in [("true", 3), ("false", 8)] {
        let properties = [
            ("write.metadata.previous-versions-max", "2"),
            ("write.metadata.delete-after-commit.enabled", delete),
        ];
        let (fixture, table) = with_table("t", &properties).await;
        for n in 0..7 {
            let change = vec![set(&table.ident, "n", &n.to_string())];
            fixture.catalog.commit(change, Change::new()).await.unwrap();
        }
        assert_eq!(files(&table).len(), 8, "they stay for a while");
        assert!(fixture.tasks.stop(Duration::from_secs(20)).await);
        assert_eq!(files(&table).len(), left, "a stop does not wait for that");
        assert!(files(&table).last().unwrap().starts_with("00007-"));
        assert_eq!(
            fixture.catalog.load(&table.ident).await.unwrap().metadata.metadata_log().len(),
            2
        );
    }
}

#[tokio::test]
async fn a_commit_without_effect_moves_nothing() {
    let (fixture, table) = with_table("t", &[]).await;
    let done = fixture.catalog.commit(updates(&table.ident, vec![]), Change::new()).await.unwrap();
    assert_eq!(done[0].metadata_location, table.metadata_location);
    assert_eq!(files(&table).len(), 1);
}

#[tokio::test]
async fn an_overtaken_snapshot_of_another_branch_is_a_conflict() {
    let (fixture, table) = with_table("t", &[]).await;
    let first = updates(&table.ident, snapshot(&table, 1, None, 1));
    fixture.catalog.commit(first, Change::new()).await.unwrap();
    let second = updates(&table.ident, snapshot(&table, 2, Some(1), 2));
    fixture.catalog.commit(second.clone(), Change::new()).await.unwrap();
    let late = updates(&table.ident, snapshot(&table, 3, Some(1), 2));
    assert!(matches!(fixture.catalog.commit(late, Change::new()).await, Err(Error::Conflict(_))));
}

fn schema_of(id_type: PrimitiveType) -> TableUpdate {
    let schema = Schema::builder()
        .with_fields([
            NestedField::required(1, "id", Type::Primitive(id_type)).into(),
            NestedField::optional(2, "text", Type::Primitive(PrimitiveType::String)).into(),
            NestedField::optional(3, "new", Type::Primitive(PrimitiveType::Double)).into(),
        ])
        .build()
        .unwrap();
    TableUpdate::AddSchema { schema }
}

#[tokio::test]
async fn illegal_type_changes_are_refused_once_there_is_data() {
    let (fixture, table) = with_table("t", &[]).await;
    let current = TableUpdate::SetCurrentSchema { schema_id: -1 };
    let to = |id_type| updates(&table.ident, vec![schema_of(id_type), current.clone()]);
    fixture.catalog.commit(to(PrimitiveType::Int), Change::new()).await.unwrap();
    let data = updates(&table.ident, snapshot(&table, 1, None, 1));
    fixture.catalog.commit(data, Change::new()).await.unwrap();
    for illegal in [PrimitiveType::String, PrimitiveType::Double, PrimitiveType::Date] {
        let error = fixture.catalog.commit(to(illegal), Change::new()).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text.contains("column id")), "{error}");
    }
    let long = fixture.catalog.commit(to(PrimitiveType::Long), Change::new()).await.unwrap();
    let field = long[0].metadata.current_schema().field_by_id(1).unwrap().clone();
    assert_eq!(*field.field_type, Type::Primitive(PrimitiveType::Long));
    // Back to the schema with int: files with longs are there.
    let back = updates(&table.ident, vec![TableUpdate::SetCurrentSchema { schema_id: 1 }]);
    assert!(matches!(fixture.catalog.commit(back, Change::new()).await, Err(Error::Invalid(_))));
    // A table that is replaced as a whole may have any schema.
    let main = TableUpdate::RemoveSnapshotRef { ref_name: "main".into() };
    let replace = vec![main, schema_of(PrimitiveType::String), current];
    fixture.catalog.commit(updates(&table.ident, replace), Change::new()).await.unwrap();
}

#[tokio::test]
async fn updates_that_can_never_be_applied_are_refused() {
    let (fixture, table) = with_table("t", &[]).await;
    let property = |key: &str, value: &str| TableUpdate::SetProperties {
        updates: HashMap::from([(key.to_owned(), value.to_owned())]),
    };
    for bad in [
        TableUpdate::SetLocation { location: "file:///elsewhere/t".into() },
        TableUpdate::AssignUuid { uuid: uuid::Uuid::nil() },
        TableUpdate::SetCurrentSchema { schema_id: 77 },
        TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V1 },
        property("write.metadata.compression-codec", "lz4"),
        property("format-version", "4"),
        property("uuid", "x"),
        TableUpdate::RemoveSchemas { schema_ids: vec![0] },
    ] {
        let change = updates(&table.ident, vec![bad.clone()]);
        let result = fixture.catalog.commit(change, Change::new()).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{bad:?}: {result:?}");
    }
    assert_eq!(files(&table).len(), 1);
    let up = updates(&table.ident, vec![property("format-version", "3")]);
    let done = fixture.catalog.commit(up, Change::new()).await.unwrap();
    assert_eq!(done[0].metadata.format_version(), FormatVersion::V3);
    assert!(!done[0].metadata.properties().contains_key("format-version"));
    let moved = format!("{}x/", table.metadata.location());
    let to = updates(&table.ident, vec![TableUpdate::SetLocation { location: moved.clone() }]);
    let done = fixture.catalog.commit(to, Change::new()).await.unwrap();
    assert!(done[0].metadata_location.starts_with(&format!("{moved}metadata/00002-")));
}

#[tokio::test]
async fn a_commit_to_no_table_says_so() {
    let (fixture, _) = with_table("t", &[]).await;
    let none = TableIdent::from_strs(["db", "none"]).unwrap();
    let result = fixture.catalog.commit(vec![set(&none, "a", "b")], Change::new()).await;
    assert!(matches!(result, Err(Error::NoSuchTable(_))));
    assert!(matches!(fixture.catalog.load(&none).await, Err(Error::NoSuchTable(_))));
}
