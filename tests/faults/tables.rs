//! Foreign commits between ours, poison, tables that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use floe::broker::Broker;
use floe::table::catalog::TableChange;
use floe::table::snapshot::{SnapshotChange, SnapshotTarget, build};
use floe::topic::OptionEdit;
use iceberg::{NamespaceIdent, TableIdent};

use crate::harness::{
    append, components, config, eventually, flush, in_a_life, read_log, read_table, start, stop,
    topic, values,
};

fn ident(name: &str) -> TableIdent {
    TableIdent::new(NamespaceIdent::new("streams".to_owned()), name.to_owned())
}

/// An append without files, as another engine's commit looks.
async fn foreign_append(broker: &Broker, name: &str) {
    let catalog = broker.catalog();
    let loaded = catalog.load(&ident(name)).await.unwrap();
    let id = uuid::Uuid::now_v7();
    let target = SnapshotTarget::main(loaded.metadata, catalog.file_io().clone(), id);
    let change = SnapshotChange::append(Vec::new(), std::collections::HashMap::new());
    let built = build(target, change, &floe::runtime::Clock::system()).await.unwrap();
    let change = TableChange {
        ident: ident(name),
        requirements: built.requirements,
        updates: built.updates,
    };
    catalog.commit(vec![change], floe::store::Change::new()).await.unwrap();
}

#[test]
fn foreign_commits_between_ours_lose_and_double_nothing() {
    let dir = tempfile::tempdir().unwrap();
    in_a_life(async {
        let broker = start(dir.path(), &[]).await;
        let topic = topic(&broker, "t", 1).await;
        for turn in 0..5 {
            append(&broker, &topic, 0, &values(turn * 10..turn * 10 + 10)).await.unwrap();
            flush(&broker, "streams.t").await;
            foreign_append(&broker, "t").await;
        }
        let mut offsets: Vec<i64> =
            read_table(broker.catalog(), "t").await.iter().map(|row| row.1).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, (0..50).collect::<Vec<i64>>());
        stop(broker).await;
    });
}

/// Every step of a commit ends in an error once; the next try goes on from what is durable.
#[test]
fn a_failure_at_any_step_of_a_commit_loses_and_doubles_nothing() {
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
        let hits = Arc::new(AtomicUsize::new(0));
        in_a_life(async {
            let (components, fatal) = components();
            let counter = Arc::clone(&hits);
            components.fail_points.set(point, move || {
                // The first passage is the making of the table for some points.
                match counter.fetch_add(1, Ordering::Relaxed) {
                    1 | 2 => Err("injected".to_owned()),
                    _ => Ok(()),
                }
            });
            let config = config(dir.path(), &[("table.commit.min.interval", "0s")]);
            let broker = Broker::start(&config, components).await.unwrap();
            let topic = topic(&broker, "t", 1).await;
            for turn in 0..6 {
                append(&broker, &topic, 0, &values(turn * 10..turn * 10 + 10)).await.unwrap();
                flush(&broker, "streams.t").await;
            }
            let mut offsets: Vec<i64> =
                read_table(broker.catalog(), "t").await.iter().map(|row| row.1).collect();
            offsets.sort_unstable();
            assert_eq!(offsets, (0..60).collect::<Vec<i64>>(), "{point}");
            assert!(fatal.lock().unwrap().is_empty(), "{point}: {fatal:?}");
            stop(broker).await;
        });
        assert!(hits.load(Ordering::Relaxed) > 2, "{point} was never passed");
    }
}

#[test]
fn a_panic_in_the_decoder_sends_one_record_to_the_dead_letters() {
    let dir = tempfile::tempdir().unwrap();
    in_a_life(async {
        let (mut components, fatal) = components();
        components.inspect = Some(Arc::new(|value: &[u8]| {
            assert!(!value.ends_with(b"13}"), "planted");
        }));
        let broker = Broker::start(&config(dir.path(), &[]), components).await.unwrap();
        let topic = topic(&broker, "t", 1).await;
        append(&broker, &topic, 0, &values(0..20)).await.unwrap();
        flush(&broker, "streams.t").await;
        let rows = read_table(broker.catalog(), "t").await;
        assert_eq!(rows.len(), 19);
        assert!(rows.iter().all(|row| row.1 != 13));
        let dead = read_table(broker.catalog(), "t__dlq").await;
        assert_eq!(dead.iter().map(|row| row.1).collect::<Vec<_>>(), [13]);
        assert!(fatal.lock().unwrap().is_empty());
        stop(broker).await;
    });
}

#[test]
fn a_topic_made_again_gets_a_table_of_its_own_and_the_old_one_keeps_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    in_a_life(async {
        let broker = start(dir.path(), &[]).await;
        let old = topic(&broker, "t", 1).await;
        append(&broker, &old, 0, &values(0..10)).await.unwrap();
        flush(&broker, "streams.t").await;
        append(&broker, &old, 0, &values(10..15)).await.unwrap();
        broker.topics().delete("t").await.unwrap();
        let new = topic(&broker, "t", 1).await;
        assert_ne!(old.id, new.id);
        append(&broker, &new, 0, &values(100..103)).await.unwrap();
        flush(&broker, "streams.t").await;
        let offsets: Vec<i64> =
            read_table(broker.catalog(), "t").await.iter().map(|row| row.1).collect();
        assert_eq!(offsets.len(), 3, "only the new topic's rows: {offsets:?}");
        let former = format!("t__{}", old.id.short(8));
        eventually("the old topic's last rows are in its table", async || {
            read_table(broker.catalog(), &former).await.len() == 15
        })
        .await;
        stop(broker).await;
    });
}

#[test]
fn off_and_on_again_leaves_a_recorded_gap() {
    let dir = tempfile::tempdir().unwrap();
    in_a_life(async {
        let broker = start(dir.path(), &[]).await;
        let topic = topic(&broker, "t", 1).await;
        append(&broker, &topic, 0, &values(0..10)).await.unwrap();
        flush(&broker, "streams.t").await;
        let set = |value: &str| vec![OptionEdit::Set("table.mode".to_owned(), value.to_owned())];
        broker.topics().edit("t", set("off"), false).await.unwrap();
        let partition = broker.log().partition(topic.partitions[0]).unwrap();
        eventually("the pin is released", async || partition.tiered_offset() == i64::MAX).await;
        append(&broker, &topic, 0, &values(10..20)).await.unwrap();
        broker.topics().edit("t", set("auto"), false).await.unwrap();
        eventually("the pin is back", async || partition.tiered_offset() != i64::MAX).await;
        append(&broker, &topic, 0, &values(20..30)).await.unwrap();
        flush(&broker, "streams.t").await;
        let mut offsets: Vec<i64> =
            read_table(broker.catalog(), "t").await.iter().map(|row| row.1).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, (0..10).chain(20..30).collect::<Vec<i64>>());
        let status = broker.tiering().table("streams.t").unwrap();
        let off = status.gaps.iter().find(|gap| gap.reason == "off");
        assert!(off.is_some_and(|gap| (gap.from, gap.to) == (10, 20)), "{status:?}");
        stop(broker).await;
    });
}

#[test]
fn stream_retention_waits_for_the_table_and_gives_files_back() {
    let dir = tempfile::tempdir().unwrap();
    in_a_life(async {
        let settings = [("retention.ms", "1"), ("wal.file.age", "100ms")];
        let broker = start(dir.path(), &settings).await;
        let topic = topic(&broker, "t", 1).await;
        let filler = "x".repeat(10_000);
        for turn in 0..60 {
            let values: Vec<String> = (0..10)
                .map(|i| format!("{{\"i\":{},\"f\":\"{filler}\"}}", turn * 10 + i))
                .collect();
            append(&broker, &topic, 0, &values).await.unwrap();
        }
        flush(&broker, "streams.t").await;
        let partition = broker.log().partition(topic.partitions[0]).unwrap();
        eventually("the log start follows the table", async || partition.log_start_offset() == 600)
            .await;
        assert!(partition.log_start_offset() <= partition.tiered_offset());
        let (stored, holes) = read_log(&broker, &topic).await;
        assert!(stored.is_empty() && holes.is_empty());
        assert_eq!(read_table(broker.catalog(), "t").await.len(), 600, "the table keeps its rows");
        stop(broker).await;
    });
}
