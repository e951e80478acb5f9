//! Tables that others made: adopted by name, written by their own schema, exactly once.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use async_trait::async_trait;
use iceberg::NamespaceIdent;
use iceberg::TableIdent;
use iceberg::TableUpdate;
use iceberg::io::FileIO;
use iceberg::spec::NestedField;
use iceberg::spec::PrimitiveType;
use iceberg::spec::Schema;
use iceberg::spec::Transform;
use iceberg::spec::Type;
use iceberg::spec::UnboundPartitionSpec;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::store::Change;
use crate::table::catalog::Catalog;
use crate::table::catalog::EmbeddedCatalog;
use crate::table::catalog::Error;
use crate::table::catalog::LoadedTable;
use crate::table::catalog::NewTable;
use crate::table::catalog::TableChange;
use crate::tier::From;
use crate::tier::tests::harness::BOUND;
use crate::tier::tests::harness::Broker;
use crate::tier::tests::harness::ident;
use crate::tier::tests::harness::start;
use crate::tier::tests::harness::start_behind;
use crate::tier::tests::roads::crash_at;

const CONTRACT: [(&str, &str); 2] = [("table.mode", "contract"), ("table.name", "sales")];

fn sales() -> Schema {
    let column = |id, name: &str, kind| NestedField::optional(id, name, Type::Primitive(kind));
    Schema::builder()
        .with_fields([
            NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long)).into(),
            column(2, "note", PrimitiveType::String).into(),
            // A column of the user's that has a name of ours.
            column(3, "floe", PrimitiveType::Int).into(),
        ])
        .build()
        .unwrap()
}

/// Makes `streams.<name>` as an engine would.
async fn make(broker: &Broker, name: &str, spec: Option<UnboundPartitionSpec>) {
    let namespace = NamespaceIdent::new("streams".to_owned());
    broker.catalog.ensure_namespace(&namespace).await.unwrap();
    let new = NewTable {
        ident: ident(name),
        schema: sales(),
        spec,
        sort_order: None,
        location: None,
        properties: Default::default(),
    };
    broker.catalog.create(new).await.unwrap();
}

/// Column `id` of all rows, sorted, with how many ids, times and write ids there are.
async fn rows(broker: &Broker, name: &str) -> (Vec<i64>, usize, usize) {
    let (mut found, mut ids, mut writes) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for batch in broker.scan(name).await {
        let column = |name: &str| batch.column_by_name(name).unwrap().clone();
        found.extend(column("id").as_primitive::<Int64Type>().values().iter().copied());
        assert_eq!(column("__ts__").null_count(), 0);
        assert_eq!(column("floe").null_count(), batch.num_rows());
        ids.extend(column("__id__").as_string::<i32>().iter().flatten().map(str::to_owned));
        writes
            .extend(column("__write_id__").as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    found.sort_unstable();
    (found, ids.len(), writes.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_to_the_columns_that_are_there_and_to_three_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    make(&broker, "sales", None).await;
    let ids = broker.topic("shop.sales", &CONTRACT).await;
    let values = [
        r#"{"id":1,"note":{"a": 1.10},"unknown":true}"#,
        r#"{"id":2.0}"#,
        r#"{"id":"3"}"#,
        r#"{"note":"no id"}"#,
        "[]",
    ];
    broker.append(ids[0], &values).await;
    broker.flush("shop.sales").await;
    assert_eq!(rows(&broker, "sales").await, (vec![1, 2], 2, 1));
    let status = broker.status("shop.sales");
    assert_eq!((status.table.as_str(), status.dlq_rows), ("streams.sales", 3));
    let names: Vec<_> = status.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "note", "floe", "__id__", "__ts__", "__write_id__"]);
    let metadata = broker.catalog.load(&ident("sales")).await.unwrap().metadata;
    assert_eq!(metadata.schemas_iter().count(), 2, "one change brought all three");
    assert!(!metadata.properties().contains_key("floe.topic-id"), "it is not ours");
    let head = metadata.current_snapshot().unwrap();
    let write_id = &head.summary().additional_properties["stream.write-id"];
    let notes: Vec<_> = broker.scan("sales").await;
    let written = notes[0].column_by_name("__write_id__").unwrap().as_string::<i32>();
    assert_eq!(written.value(0), write_id);
    let note = notes[0].column_by_name("note").unwrap().as_string::<i32>();
    assert_eq!(note.value(0), r#"{"a": 1.10}"#);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_waited_for_and_the_user_may_rename_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("t", &CONTRACT).await;
    broker.append(ids[0], &[r#"{"id":1}"#]).await;
    broker.until("t", |status| status.reason.is_some()).await;
    assert!(broker.status("t").reason.unwrap().contains("is not there yet"));
    make(&broker, "sales", None).await;
    broker.flush("t").await;
    broker.catalog.rename(&ident("sales"), &ident("renamed")).await.unwrap();
    broker.append(ids[0], &[r#"{"id":2}"#]).await;
    broker.flush("t").await;
    assert_eq!(rows(&broker, "renamed").await.0, [1, 2]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_topics_write_to_one_table_and_each_counts_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    make(&broker, "sales", None).await;
    let (a, b) = (broker.topic("a", &CONTRACT).await, broker.topic("b", &CONTRACT).await);
    for turn in 0..6 {
        let (one, two) = (format!("{{\"id\":{turn}}}"), format!("{{\"id\":{}}}", 100 + turn));
        broker.append(a[0], &[&one, "bad"]).await;
        broker.append(b[1], &[&two, "bad"]).await;
        // By the table's name both.
        broker.flush("streams.sales").await;
    }
    let (found, ids, _) = rows(&broker, "sales").await;
    assert_eq!(found, [0, 1, 2, 3, 4, 5, 100, 101, 102, 103, 104, 105]);
    assert_eq!(ids, 12);
    let letters = |topic: &str| broker.status(topic).dead_letter_table.unwrap();
    assert_ne!(letters("a"), letters("b"));
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_durable_step_neither_loses_nor_doubles_rows_of_a_contract() {
    for point in
        ["tier.after_files", "tier.after_prepared", "tier.before_commit", "tier.after_commit"]
    {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(dir.path()).await;
        make(&broker, "sales", None).await;
        let ids = broker.topic("t", &CONTRACT).await;
        broker.append(ids[0], &[r#"{"id":1}"#, "bad"]).await;
        broker.flush("t").await;
        broker.append(ids[0], &[r#"{"id":2}"#]).await;
        broker.append(ids[1], &[r#"{"id":3}"#]).await;
        crash_at(broker, point, 0).await;
        let broker = start(dir.path()).await;
        broker.flush("t").await;
        broker.append(ids[1], &[r#"{"id":4}"#]).await;
        broker.flush("t").await;
        assert_eq!(rows(&broker, "sales").await.0, [1, 2, 3, 4], "{point}");
        broker.stop(true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_written_by_its_own_spec() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let spec = UnboundPartitionSpec::builder();
    let spec = spec.add_partition_field(1, "id_bucket", Transform::Truncate(10)).unwrap().build();
    make(&broker, "sales", Some(spec)).await;
    let ids = broker.topic("t", &CONTRACT).await;
    broker.append(ids[0], &[r#"{"id":1}"#, r#"{"id":11}"#, r#"{"id":12}"#]).await;
    broker.flush("t").await;
    assert_eq!(rows(&broker, "sales").await.0, [1, 11, 12]);
    assert_eq!(broker.status("t").last_files.len(), 2);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_stops_it_and_the_one_that_has_the_name_then_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    make(&broker, "sales", None).await;
    let ids = broker.topic("t", &CONTRACT).await;
    broker.append(ids[0], &[r#"{"id":1}"#]).await;
    broker.flush("t").await;
    broker.catalog.drop_table(ident("sales"), false).await.unwrap();
    broker.append(ids[0], &[r#"{"id":2}"#]).await;
    broker.until("t", |status| status.state == "TABLE_DROPPED").await;
    make(&broker, "sales", None).await;
    broker.tiering.resume("t", From::Ledger, false).await.unwrap();
    broker.flush("t").await;
    assert_eq!(rows(&broker, "sales").await.0, [2]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_again_never_renames_a_table_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    make(&broker, "sales", None).await;
    let ids = broker.topic("sales", &CONTRACT).await;
    broker.append(ids[0], &[r#"{"id":1}"#]).await;
    broker.flush("sales").await;
    broker.topics.delete("sales").await.unwrap();
    let ids = broker.topic("sales", &[]).await;
    broker.append(ids[0], &[r#"{"id":2}"#]).await;
    let flushed = broker.tiering.flush("sales", BOUND).await;
    flushed.unwrap();
    assert_eq!(rows(&broker, "sales").await.0, [1], "it is where it was");
    let status = broker.status("sales");
    assert!(status.table.starts_with("streams.sales_"), "{}", status.table);
    broker.stop(true).await;
}

/// Changes the columns of `streams.sales` as its user would.
async fn add_column(broker: &Broker, column: NestedField) {
    let metadata = broker.catalog.load(&ident("sales")).await.unwrap().metadata;
    let mut fields = metadata.current_schema().as_struct().fields().to_vec();
    fields.push(column.into());
    let schema = Schema::builder().with_fields(fields).build().unwrap();
    let updates =
        vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
    let change = TableChange { ident: ident("sales"), requirements: Vec::new(), updates };
    broker.catalog.commit(vec![change], Change::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_a_changed_schema_refuses_are_dead_letters_and_block_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    make(&broker, "sales", None).await;
    let lag = ("table.target.lag.ms", "86400000");
    let ids = broker.topic("t", &[CONTRACT[0], CONTRACT[1], lag]).await;
    broker.append(ids[0], &[r#"{"id":1}"#]).await;
    broker.flush("t").await;
    broker.append(ids[0], &[r#"{"id":2}"#]).await;
    let long = Type::Primitive(PrimitiveType::Long);
    add_column(&broker, NestedField::required(20, "must", long)).await;
    broker.append(ids[0], &[r#"{"id":3,"must":1}"#]).await;
    broker.flush("t").await;
    let status = broker.status("t");
    assert_eq!((status.rows, status.dlq_rows), (2, 1));
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_a_table_of_others_expire_only_where_the_topic_says_so() {
    for set in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(dir.path()).await;
        make(&broker, "sales", None).await;
        let few = [("table.snapshot.min.count", "1"), ("table.snapshot.max.count", "1")];
        let pace = [("table.commit.min.interval.ms", "0")];
        let options = [&CONTRACT[..], &pace, if set { &few } else { &[] }].concat();
        let ids = broker.topic("t", &options).await;
        for turn in 0..24 {
            broker.append(ids[0], &[&format!("{{\"id\":{turn}}}")]).await;
            broker.flush("t").await;
        }
        let metadata = broker.catalog.load(&ident("sales")).await.unwrap().metadata;
        let left = metadata.snapshots().count();
        assert!(if set { left < 12 } else { left == 24 }, "{set}: {left}");
        broker.stop(true).await;
    }
}

/// A catalog whose tables keep their schemas while it is set.
struct Keeping {
    inner: EmbeddedCatalog,
    keeps: Arc<AtomicBool>,
}

#[async_trait]
impl Catalog for Keeping {
    async fn load(&self, ident: &TableIdent) -> Result<LoadedTable, Error> {
        self.inner.load(ident).await
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), Error> {
        self.inner.ensure_namespace(namespace).await
    }

    async fn create(&self, new: NewTable) -> Result<LoadedTable, Error> {
        self.inner.create(new).await
    }

    async fn commit(
        &self,
        changes: Vec<TableChange>,
        with: Change,
    ) -> Result<Vec<LoadedTable>, Error> {
        let is_schema = |update: &TableUpdate| matches!(update, TableUpdate::AddSchema { .. });
        let changes_schema = changes.iter().flat_map(|change| &change.updates).any(is_schema);
        if changes_schema && self.keeps.load(Ordering::Relaxed) {
            return Err(Error::Invalid("the owner keeps the schema".to_owned()));
        }
        self.inner.commit(changes, with).await
    }

    fn commits_with_state(&self) -> bool {
        self.inner.commits_with_state()
    }

    async fn rename(&self, from: &TableIdent, to: &TableIdent) -> Result<(), Error> {
        self.inner.rename(from, to).await
    }

    async fn list(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>, Error> {
        self.inner.list(namespace).await
    }

    fn file_io(&self) -> &FileIO {
        self.inner.file_io()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_owner_keeps_its_schema_says_so_until_it_has_our_columns() {
    let dir = tempfile::tempdir().unwrap();
    let keeps = Arc::new(AtomicBool::new(true));
    let own = Arc::clone(&keeps);
    let wrap = |inner| -> Arc<dyn Catalog> { Arc::new(Keeping { inner, keeps: own }) };
    let broker = start_behind(dir.path(), |_| {}, wrap).await;
    make(&broker, "sales", None).await;
    let ids = broker.topic("shop.sales", &CONTRACT).await;
    broker.append(ids[0], &[r#"{"id":1}"#]).await;
    broker.flush("shop.sales").await;
    let why = "the owner keeps the schema";
    let is_told = |told: &Option<String>| told.as_deref().is_some_and(|told| told.contains(why));
    broker.until("shop.sales", |status| is_told(&status.columns_refused)).await;
    let status = broker.status("shop.sales");
    assert_eq!((status.state.as_str(), status.rows), ("RUNNING", 1), "it goes on without them");
    // Another schema is a reason to ask again.
    keeps.store(false, Ordering::Relaxed);
    let long = Type::Primitive(PrimitiveType::Long);
    add_column(&broker, NestedField::optional(20, "more", long)).await;
    broker.append(ids[0], &[r#"{"id":2}"#]).await;
    broker.flush("shop.sales").await;
    broker.until("shop.sales", |status| status.columns_refused.is_none()).await;
    assert_eq!(broker.longs("sales", "id").await.len(), 2);
    broker.stop(true).await;
}
