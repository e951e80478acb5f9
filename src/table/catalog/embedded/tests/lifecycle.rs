//! Namespaces and tables come, go and move.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use iceberg::spec::{FormatVersion, Transform, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};

use super::*;
use crate::runtime::files::power_loss::PowerLoss;

fn namespace(levels: &[&str]) -> NamespaceIdent {
    NamespaceIdent::from_strs(levels).unwrap()
}

fn table(name: &str) -> TableIdent {
    TableIdent::from_strs(["db", name]).unwrap()
}

async fn with_namespace() -> Fixture {
    let fixture = Fixture::new();
    fixture.catalog.ensure_namespace(&namespace(&["db"])).await.unwrap();
    fixture
}

fn path_of(location: &str) -> std::path::PathBuf {
    location.strip_prefix("file://").unwrap().into()
}

#[tokio::test]
async fn namespaces_nest_and_only_empty_ones_are_dropped() {
    let catalog = Fixture::new().catalog;
    let deep = namespace(&["a", "b", "c"]);
    catalog.create_namespace(deep.clone(), BTreeMap::new()).await.unwrap();
    let again = catalog.create_namespace(deep.clone(), BTreeMap::new()).await;
    assert!(matches!(again, Err(Error::Exists(_))));
    catalog.ensure_namespace(&deep).await.unwrap();
    catalog.ensure_namespace(&namespace(&["ab"])).await.unwrap();
    assert_eq!(catalog.namespaces(None).await.unwrap(), [namespace(&["a"]), namespace(&["ab"])]);
    let below = catalog.namespaces(Some(&namespace(&["a"]))).await.unwrap();
    assert_eq!(below, [namespace(&["a", "b"])]);
    let missing = catalog.namespaces(Some(&namespace(&["x"]))).await;
    assert!(matches!(missing, Err(Error::NoSuchNamespace(_))));
    let full = catalog.drop_namespace(namespace(&["a", "b"])).await;
    assert!(matches!(full, Err(Error::NotEmpty(_))));
    catalog.drop_namespace(deep).await.unwrap();
    catalog.drop_namespace(namespace(&["a", "b"])).await.unwrap();
    let gone = catalog.drop_namespace(namespace(&["a", "b"])).await;
    assert!(matches!(gone, Err(Error::NoSuchNamespace(_))));
}

#[tokio::test]
async fn a_namespace_with_a_table_is_not_dropped() {
    let fixture = with_namespace().await;
    fixture.catalog.create(sample_table("t", &[])).await.unwrap();
    let full = fixture.catalog.drop_namespace(namespace(&["db"])).await;
    assert!(matches!(full, Err(Error::NotEmpty(_))));
    fixture.catalog.drop_table(table("t"), false).await.unwrap();
    fixture.catalog.drop_namespace(namespace(&["db"])).await.unwrap();
    assert!(fixture.catalog.list(&namespace(&["db"])).await.unwrap().is_empty());
    let created = fixture.catalog.create(sample_table("t", &[])).await;
    assert!(matches!(created, Err(Error::NoSuchNamespace(_))));
}

#[tokio::test]
async fn properties_of_namespaces_are_set_removed_and_checked() {
    let fixture = with_namespace().await;
    let update = |removals: &[&str], updates: &[(&str, &str)]| {
        let removals: BTreeSet<String> = removals.iter().map(|key| (*key).to_owned()).collect();
        let updates = updates.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        fixture.catalog.update_namespace(namespace(&["db"]), removals, updates)
    };
    let inside = format!("{}/other/", fixture.catalog.warehouse());
    update(&[], &[("a", "1"), ("location", &inside)]).await.unwrap();
    let done = update(&["a", "b"], &[("c", "3")]).await.unwrap();
    assert_eq!(
        (done.removed, done.updated, done.missing),
        (vec!["a".into()], vec!["c".into()], vec!["b".into()])
    );
    assert!(matches!(update(&[], &[("location", "/etc")]).await, Err(Error::Invalid(_))));
    let created = fixture.catalog.create(sample_table("t", &[])).await.unwrap();
    assert_eq!(created.metadata.location(), format!("{inside}t"));
}

#[tokio::test]
async fn a_new_table_has_fresh_ids_defaults_and_folders() {
    let fixture = with_namespace().await;
    let mut new = sample_table(
        "t",
        &[("write.metadata.previous-versions-max", "7"), ("format-version", "3")],
    );
    let spec = UnboundPartitionSpec::builder().add_partition_field(9, "text", Transform::Identity);
    new.spec = Some(spec.unwrap().build());
    let created = fixture.catalog.create(new).await.unwrap();
    let metadata = &created.metadata;
    assert_eq!(metadata.current_schema().field_id_by_name("text"), Some(2));
    assert_eq!(metadata.default_partition_spec().fields()[0].source_id, 2);
    assert_eq!(metadata.format_version(), FormatVersion::V3);
    assert_eq!(metadata.properties()["write.metadata.previous-versions-max"], "7");
    assert_eq!(metadata.properties()["write.metadata.compression-codec"], "gzip");
    assert!(!metadata.properties().contains_key("format-version"));
    assert_eq!(metadata.location(), format!("{}/db/t", fixture.catalog.warehouse()));
    assert!(created.metadata_location.ends_with(".gz.metadata.json"));
    assert!(path_of(metadata.location()).join("data").is_dir());
    let loaded = fixture.catalog.load(&created.ident).await.unwrap();
    assert_eq!(loaded.metadata, created.metadata);
    let again = fixture.catalog.create(sample_table("t", &[])).await;
    assert!(matches!(again, Err(Error::Exists(_))));
}

#[tokio::test]
async fn the_folders_of_a_new_table_and_of_the_warehouse_survive_power_loss() {
    for seed in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let layer = PowerLoss::new(dir.path()).unwrap();
        let warehouse = dir.path().join("outer/warehouse");
        let fixture = Fixture::on(dir, &warehouse, Arc::new(layer.clone()));
        let db = namespace(&["db"]);
        fixture.catalog.create_namespace(db, BTreeMap::new()).await.unwrap();
        fixture.catalog.create(sample_table("t", &[])).await.unwrap();
        layer.crash(seed).unwrap();
        for folder in ["db/t/data", "db/t/metadata"] {
            assert!(warehouse.join(folder).exists(), "seed {seed}: {folder}");
        }
    }
}

#[tokio::test]
async fn bad_wishes_are_refused() {
    let fixture = with_namespace().await;
    for location in ["/elsewhere/t", "t", "", fixture.catalog.warehouse()] {
        let mut new = sample_table("t", &[]);
        new.location = Some(location.to_owned());
        let result = fixture.catalog.create(new).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{location}: {result:?}");
    }
    for version in ["0", "4", "x"] {
        let result =
            fixture.catalog.create(sample_table("t", &[("format-version", version)])).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{version}");
    }
    let codec = sample_table("t", &[("write.metadata.compression-codec", "zstd")]);
    assert!(matches!(fixture.catalog.create(codec).await, Err(Error::Invalid(_))));
    let mut nanoseconds = sample_table("t", &[]);
    nanoseconds.schema = Schema::builder()
        .with_fields([
            NestedField::optional(1, "at", Type::Primitive(PrimitiveType::TimestampNs)).into()
        ])
        .build()
        .unwrap();
    assert!(matches!(fixture.catalog.create(nanoseconds).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_folder_with_anothers_files_is_not_used_again() {
    let fixture = with_namespace().await;
    let first = fixture.catalog.create(sample_table("t", &[])).await.unwrap();
    fixture.catalog.rename(&table("t"), &table("u")).await.unwrap();
    let second = fixture.catalog.create(sample_table("t", &[])).await.unwrap();
    assert!(second.metadata.location().starts_with(&format!("{}-", first.metadata.location())));
    fixture.catalog.drop_table(table("u"), false).await.unwrap();
    fixture.catalog.drop_table(table("t"), false).await.unwrap();
    let third = fixture.catalog.create(sample_table("t", &[])).await.unwrap();
    assert_ne!(third.metadata.location(), first.metadata.location());
}

/// What clients send to make a staged table.
fn first_commit(staged: &TableMetadata) -> Vec<TableUpdate> {
    vec![
        TableUpdate::AssignUuid { uuid: staged.uuid() },
        TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V2 },
        TableUpdate::AddSchema { schema: (**staged.current_schema()).clone() },
        TableUpdate::SetCurrentSchema { schema_id: -1 },
        TableUpdate::AddSpec { spec: (**staged.default_partition_spec()).clone().into() },
        TableUpdate::SetDefaultSpec { spec_id: -1 },
        TableUpdate::AddSortOrder { sort_order: (**staged.default_sort_order()).clone() },
        TableUpdate::SetDefaultSortOrder { sort_order_id: -1 },
        TableUpdate::SetLocation { location: staged.location().to_owned() },
        TableUpdate::SetProperties { updates: HashMap::from([("a".into(), "b".into())]) },
    ]
}

#[tokio::test]
async fn a_staged_table_appears_with_its_first_commit_and_keeps_the_clients_ids() {
    let fixture = with_namespace().await;
    let mut new = sample_table("t", &[]);
    let spec =
        UnboundPartitionSpec::builder().add_partition_field(7, "id_bucket", Transform::Bucket(4));
    new.spec = Some(spec.unwrap().build());
    let staged = fixture.catalog.stage(new).await.unwrap();
    assert!(path_of(staged.location()).join("metadata").is_dir());
    assert!(!fixture.catalog.exists(&table("t")).unwrap());
    let updates = first_commit(&staged);
    let change =
        TableChange { ident: table("t"), requirements: vec![TableRequirement::NotExist], updates };
    let done = fixture.catalog.commit(vec![change.clone()], Change::new()).await.unwrap();
    let metadata = &done[0].metadata;
    assert_eq!(metadata.uuid(), staged.uuid());
    assert_eq!(metadata.current_schema(), staged.current_schema());
    assert_eq!(metadata.default_partition_spec(), staged.default_partition_spec());
    assert_eq!((metadata.default_partition_spec_id(), metadata.last_partition_id()), (0, 1000));
    assert_eq!(metadata.last_column_id(), 2);
    assert_eq!(metadata.properties()["a"], "b");
    let again = fixture.catalog.commit(vec![change.clone()], Change::new()).await;
    assert!(matches!(again, Err(Error::Exists(_))));
    // The same table under another name: its UUID is taken.
    let mut other = change;
    other.ident = table("other");
    assert!(matches!(
        fixture.catalog.commit(vec![other], Change::new()).await,
        Err(Error::Exists(_))
    ));
    assert!(!fixture.catalog.exists(&table("other")).unwrap());
}

#[tokio::test]
async fn creates_race_and_one_wins() {
    let fixture = with_namespace().await;
    let tries = (0..6).map(|_| fixture.catalog.create(sample_table("t", &[])));
    let results = futures::future::join_all(tries).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Error::Exists(_)))));
}

#[tokio::test]
async fn tables_are_renamed_across_namespaces_but_not_onto_another() {
    let fixture = with_namespace().await;
    let catalog = &fixture.catalog;
    catalog.ensure_namespace(&namespace(&["x", "y"])).await.unwrap();
    let created = catalog.create(sample_table("t", &[])).await.unwrap();
    catalog.create(sample_table("u", &[])).await.unwrap();
    let to = TableIdent::new(namespace(&["x", "y"]), "t".into());
    assert!(matches!(catalog.rename(&table("t"), &table("u")).await, Err(Error::Exists(_))));
    let nowhere = TableIdent::new(namespace(&["z"]), "t".into());
    assert!(matches!(catalog.rename(&table("t"), &nowhere).await, Err(Error::NoSuchNamespace(_))));
    catalog.rename(&table("t"), &to).await.unwrap();
    assert!(matches!(catalog.rename(&table("t"), &to).await, Err(Error::NoSuchTable(_))));
    assert_eq!(catalog.load(&to).await.unwrap().metadata.uuid(), created.metadata.uuid());
    assert_eq!(catalog.list(&namespace(&["x", "y"])).await.unwrap(), [to]);
    assert_eq!(catalog.tables(&namespace(&["db"])).await.unwrap(), [table("u")]);
}

#[tokio::test]
async fn only_tables_of_the_warehouse_are_registered_and_only_once() {
    let fixture = with_namespace().await;
    let catalog = &fixture.catalog;
    let created = catalog.create(sample_table("t", &[])).await.unwrap();
    let register = |name: &str, location: &str, overwrite| {
        catalog.register(table(name), location.to_owned(), overwrite)
    };
    let twice = register("u", &created.metadata_location, false).await;
    assert!(matches!(twice, Err(Error::Exists(_))), "{twice:?}");
    assert!(matches!(register("u", "/etc/passwd", false).await, Err(Error::Invalid(_))));
    let absent = format!("{}/none.metadata.json", catalog.warehouse());
    assert!(matches!(register("u", &absent, false).await, Err(Error::Invalid(_))));
    let bad = fixture.folder.path().join("bad.metadata.json");
    std::fs::write(&bad, b"{}").unwrap();
    assert!(matches!(register("u", bad.to_str().unwrap(), false).await, Err(Error::Invalid(_))));
    let outside = fixture.folder.path().join("outside.metadata.json");
    let foreign = serde_json::to_vec(&sample_metadata("s3://elsewhere/t", &[])).unwrap();
    std::fs::write(&outside, foreign).unwrap();
    assert!(matches!(
        register("u", outside.to_str().unwrap(), false).await,
        Err(Error::Invalid(_))
    ));
    catalog.drop_table(table("t"), false).await.unwrap();
    let path = created.metadata_location.strip_prefix("file://").unwrap();
    let registered = register("u", path, false).await.unwrap();
    assert_eq!(registered.metadata, created.metadata);
    assert_eq!(registered.metadata_location, created.metadata_location);
    assert!(matches!(register("u", path, false).await, Err(Error::Exists(_))));
    register("u", path, true).await.unwrap();
}

#[tokio::test]
async fn a_purge_deletes_what_the_table_reaches_and_nothing_outside() {
    let fixture = with_namespace().await;
    let created = fixture.catalog.create(sample_table("t", &[])).await.unwrap();
    let folder = path_of(created.metadata.location());
    let updates = HashMap::from([("a".to_owned(), "b".to_owned())]);
    let change = TableChange {
        ident: table("t"),
        requirements: vec![],
        updates: vec![TableUpdate::SetProperties { updates }],
    };
    fixture.catalog.commit(vec![change], Change::new()).await.unwrap();
    let kept = fixture.folder.path().join("db/foreign.txt");
    std::fs::write(&kept, b"x").unwrap();
    fixture.catalog.drop_table(table("t"), true).await.unwrap();
    assert!(matches!(fixture.catalog.load(&table("t")).await, Err(Error::NoSuchTable(_))));
    tokio::time::timeout(Duration::from_secs(60), async {
        while folder.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(kept.exists());
    let gone = fixture.catalog.drop_table(table("t"), true).await;
    assert!(matches!(gone, Err(Error::NoSuchTable(_))));
}

#[tokio::test]
async fn a_drop_without_purge_keeps_the_files() {
    let fixture = with_namespace().await;
    let created = fixture.catalog.create(sample_table("t", &[])).await.unwrap();
    fixture.catalog.drop_table(table("t"), false).await.unwrap();
    assert!(path_of(&created.metadata_location).exists());
}

#[tokio::test]
async fn a_table_whose_metadata_is_lost_is_named_and_can_be_dropped() {
    let fixture = with_namespace().await;
    let created = fixture.catalog.create(sample_table("t", &[])).await.unwrap();
    std::fs::remove_file(path_of(&created.metadata_location)).unwrap();
    fixture.catalog.inner.cache.remove(&created.metadata_location);
    let lost = fixture.catalog.load(&table("t")).await;
    assert!(matches!(&lost, Err(Error::Storage(text)) if text.contains("metadata")), "{lost:?}");
    fixture.catalog.drop_table(table("t"), true).await.unwrap();
    assert!(!fixture.catalog.exists(&table("t")).unwrap());
}
