//! Tables that stand still, and topics that come and go.

use std::collections::BTreeMap;

use iceberg::TableUpdate;
use iceberg::spec::MAIN_BRANCH;
use iceberg::spec::SnapshotReference;
use iceberg::spec::SnapshotRetention;
use uuid::Uuid;

use crate::log::AppendError;
use crate::store::Change;
use crate::table::catalog::Catalog;
use crate::table::catalog::TableChange;
use crate::table::commit::marker::Ends;
use crate::table::commit::marker::Source;
use crate::table::commit::marker::Statement;
use crate::table::commit::marker::Writer;
use crate::table::snapshot;
use crate::table::snapshot::SnapshotChange;
use crate::table::snapshot::SnapshotTarget;
use crate::tier::Error;
use crate::tier::From;
use crate::tier::tests::harness::BOUND;
use crate::tier::tests::harness::Broker;
use crate::tier::tests::harness::ident;
use crate::tier::tests::harness::start;

async fn update(broker: &Broker, name: &str, updates: Vec<TableUpdate>) {
    let change = TableChange { ident: ident(name), requirements: vec![], updates };
    broker.catalog.commit(vec![change], Change::new()).await.unwrap();
}

/// Moves the branch as a person does who rolls a table back, or forward again.
async fn move_branch(broker: &Broker, name: &str, snapshot_id: i64) {
    let retention = SnapshotRetention::branch(None, None, None);
    let reference = SnapshotReference::new(snapshot_id, retention);
    let ref_name = MAIN_BRANCH.to_owned();
    update(broker, name, vec![TableUpdate::SetSnapshotRef { ref_name, reference }]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_is_made_again_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    broker.append(ids[0], &["1"]).await;
    broker.flush("orders").await;
    let again = broker.tiering.resume("orders", From::Table, false).await;
    assert_eq!(again, Err(Error::NotStopped));
    broker.catalog.drop_table(ident("orders"), false).await.unwrap();
    broker.append(ids[0], &["2"]).await;
    broker.until("orders", |status| status.state == "TABLE_DROPPED").await;
    assert!(broker.status("orders").resume.unwrap().contains("floe table resume"));
    assert!(matches!(broker.tiering.flush("orders", BOUND).await, Err(Error::Stopped(_))));
    broker.stop(true).await;
    let broker = start(dir.path()).await;
    broker.until("orders", |status| status.state == "TABLE_DROPPED").await;
    broker.tiering.resume("orders", From::LogStart, false).await.unwrap();
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 1)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_rolled_back_stops_and_gets_its_rows_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    broker.append(ids[0], &["1"]).await;
    broker.flush("orders").await;
    let first = broker.status("orders").last_snapshot_id.unwrap();
    broker.append(ids[0], &["2"]).await;
    broker.flush("orders").await;
    move_branch(&broker, "orders", first).await;
    broker.append(ids[0], &["3"]).await;
    broker.until("orders", |status| status.state == "ROLLED_BACK").await;
    let twice = broker.tiering.resume("orders", From::LogStart, false).await;
    assert!(matches!(twice, Err(Error::Duplicates { .. })), "{twice:?}");
    broker.tiering.resume("orders", From::Table, false).await.unwrap();
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 1), (0, 2)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_moved_forward_again_after_the_resume_stops_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    let mut snapshots = Vec::new();
    for value in ["1", "2"] {
        broker.append(ids[0], &[value]).await;
        broker.flush("orders").await;
        snapshots.push(broker.status("orders").last_snapshot_id.unwrap());
    }
    move_branch(&broker, "orders", snapshots[0]).await;
    broker.append(ids[0], &["3"]).await;
    broker.until("orders", |status| status.state == "ROLLED_BACK").await;
    // No commit comes between the resume and the next move; the ledger remembers over a restart.
    broker.fail_points.set("tier.after_files", || Err("not yet".to_owned()));
    broker.tiering.resume("orders", From::Table, false).await.unwrap();
    move_branch(&broker, "orders", snapshots[1]).await;
    broker.stop(false).await;
    let broker = start(dir.path()).await;
    broker.until("orders", |status| status.state == "LEDGER_GAP").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 1)]);
    broker.tiering.resume("orders", From::Table, false).await.unwrap();
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 1), (0, 2)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_ledger_does_not_know_stops_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    broker.append(ids[0], &["1"]).await;
    broker.flush("orders").await;
    let topic = broker.topics.get("orders").unwrap();
    let ends = Ends::from([(0, 2)]);
    let statement = Statement {
        source: Source { writer: Writer::topic(topic.id), generation: 1 },
        commit_id: Uuid::now_v7(),
        cluster_id: "the second copy",
        topic_name: "orders",
        ranges: &[],
        gaps: &[],
        ends: &ends,
        more: &BTreeMap::new(),
    };
    let loaded = broker.catalog.load(&ident("orders")).await.unwrap();
    let file_io = broker.catalog.file_io().clone();
    let target = SnapshotTarget::main(loaded.metadata, file_io, statement.commit_id);
    let change = SnapshotChange::append(Vec::new(), statement.summary());
    let clock = crate::runtime::Clock::system();
    let built = snapshot::build(target, change, &clock).await.unwrap();
    let mut updates = built.updates;
    updates.push(TableUpdate::SetProperties { updates: [statement.property()].into() });
    update(&broker, "orders", updates).await;
    broker.append(ids[0], &["2"]).await;
    broker.until("orders", |status| status.state == "LOG_BEHIND").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0)], "nothing is skipped, nothing added");
    broker.tiering.resume("orders", From::Latest, false).await.unwrap();
    broker.append(ids[0], &["3"]).await;
    broker.flush("orders").await;
    let status = broker.status("orders");
    assert_ne!(status.table, "streams.orders", "a new table beside the old one");
    let name = status.table.strip_prefix("streams.").unwrap().to_owned();
    assert_eq!(broker.offsets(&name).await, [(0, 2)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_dead_letter_table_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.mode", "json")]).await;
    broker.append(ids[0], &["bad"]).await;
    broker.flush("orders").await;
    broker.catalog.drop_table(ident("orders__dlq"), true).await.unwrap();
    broker.append(ids[0], &["worse"]).await;
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders__dlq").await, [(0, 1)]);
    assert_eq!(broker.status("orders").dlq_rows, 2);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_a_rollback_took_away_are_counted_once_and_stop_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.mode", "json")]).await;
    let mut heads = Vec::new();
    for values in [&["bad"][..], &["bad", "worse"]] {
        broker.append(ids[0], values).await;
        broker.flush("orders").await;
        let metadata = broker.catalog.load(&ident("orders__dlq")).await.unwrap().metadata;
        heads.push(metadata.current_snapshot_id().unwrap());
    }
    move_branch(&broker, "orders__dlq", heads[0]).await;
    // Nothing more goes there: table maintenance notices (every third commit).
    for _ in 0..3 {
        broker.append(ids[0], &["{}"]).await;
        broker.flush("orders").await;
    }
    let told = |broker: &Broker| {
        let status = broker.status("orders");
        (status.state, status.dlq_rollbacks, status.dlq_rolled_back_rows)
    };
    broker.until("orders", |status| status.dlq_rollbacks == 1).await;
    assert_eq!(told(&broker), ("RUNNING".to_owned(), 1, 2));
    // The next dead letters find the same rollback, and the one after them another.
    broker.append(ids[0], &["bad"]).await;
    broker.flush("orders").await;
    assert_eq!(told(&broker), ("RUNNING".to_owned(), 1, 2));
    assert_eq!(broker.offsets("orders__dlq").await, [(0, 0), (0, 6)]);
    move_branch(&broker, "orders__dlq", heads[0]).await;
    broker.append(ids[0], &["bad"]).await;
    broker.flush("orders").await;
    broker.stop(false).await;
    let broker = start(dir.path()).await;
    broker.until("orders", |status| status.dlq_rollbacks == 2).await;
    assert_eq!(told(&broker), ("RUNNING".to_owned(), 2, 3));
    assert_eq!(broker.offsets("orders__dlq").await, [(0, 0), (0, 7)]);
    assert_eq!(broker.offsets("orders").await, [(0, 3), (0, 4), (0, 5)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn off_and_on_again_is_a_recorded_gap() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    broker.append(ids[0], &["1"]).await;
    broker.flush("orders").await;
    broker.set("orders", "table.mode", "off").await;
    broker.until("orders", |status| status.state == "OFF").await;
    assert_eq!(broker.log.partition(ids[0]).unwrap().tiered_offset(), i64::MAX);
    broker.append(ids[0], &["2", "3"]).await;
    broker.set("orders", "table.mode", "auto").await;
    broker.until("orders", |status| status.state == "RUNNING").await;
    broker.append(ids[0], &["4"]).await;
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 3)]);
    let gaps = broker.status("orders").gaps;
    assert_eq!((gaps.len(), gaps[0].from, gaps[0].to), (1, 1, 3));
    let metadata = broker.catalog.load(&ident("orders")).await.unwrap().metadata;
    let summary = metadata.current_snapshot().unwrap().summary().additional_properties.clone();
    assert!(summary["floe.gaps"].contains("\"off\""), "{summary:?}");
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_again_gets_the_name_and_the_old_table_keeps_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let lag = [("table.target.lag.ms", "86400000")];
    let ids = broker.topic("orders", &lag).await;
    let old = broker.topics.get("orders").unwrap().id;
    broker.append(ids[0], &["1"]).await;
    broker.flush("orders").await;
    broker.append(ids[0], &["2"]).await;
    broker.topics.delete("orders").await.unwrap();
    let fresh = broker.topic("orders", &[]).await;
    broker.append(fresh[0], &["3"]).await;
    broker.flush("orders").await;
    let waited = async {
        while !broker.topics.draining().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, waited).await.expect("the old topic drains");
    assert_eq!(broker.offsets("orders").await, [(0, 0)]);
    let former = format!("orders__{}", old.short(8));
    assert_eq!(broker.offsets(&former).await, [(0, 0), (0, 1)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_ignoring_case_gets_a_suffix() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let first = broker.topic("a.b", &[]).await;
    let second = broker.topic("A_B", &[]).await;
    broker.append(first[0], &["1"]).await;
    broker.flush("a.b").await;
    broker.append(second[0], &["2"]).await;
    broker.flush("A_B").await;
    let id = broker.topics.get("A_B").unwrap().id;
    let names: Vec<_> = broker.tiering.tables().into_iter().map(|status| status.table).collect();
    assert_eq!(names, [format!("streams.A_B_{}", id.short(6)), "streams.a_b".to_owned()]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pin_limit_blocks_producers_or_drops_the_oldest() {
    for (overflow, dropped) in [("block", false), ("drop_oldest", true)] {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(dir.path()).await;
        broker.fail_points.set("catalog.before_metadata", || Err("down".to_owned()));
        let options = [("table.pin.max.bytes", "20000"), ("table.pin.overflow", overflow)];
        let ids = broker.topic("orders", &options).await;
        let value = "x".repeat(1_000);
        let mut appended = 0;
        for _ in 0..40 {
            match broker.try_append(ids[0], &[&value]).await {
                Ok(()) => appended += 1,
                Err(error) => assert!(matches!(error, AppendError::Blocked(_)), "{error}"),
            }
        }
        if dropped {
            broker
                .until("orders", |status| status.gaps.iter().any(|g| g.reason == "overflow"))
                .await;
            assert!(broker.log.partition(ids[0]).unwrap().tiered_offset() > 0);
        } else {
            let partition = broker.log.partition(ids[0]).unwrap();
            let waited = async {
                while partition.blocked().is_none() {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(BOUND, waited).await.expect("producers are refused");
        }
        broker.fail_points.clear("catalog.before_metadata");
        broker.flush("orders").await;
        let rows = broker.offsets("orders").await.len();
        let gap: u64 = broker.status("orders").gap_offsets;
        assert_eq!((rows as u64 + gap, gap > 0), (appended, dropped), "{overflow}");
        assert!(broker.log.partition(ids[0]).unwrap().blocked().is_none());
        broker.stop(true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn near_the_pin_limit_a_healthy_table_commits_instead_of_dropping() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let options = [
        ("table.pin.max.bytes", "60000"),
        ("table.pin.overflow", "drop_oldest"),
        ("table.target.lag.ms", "86400000"),
        ("table.commit.min.interval.ms", "0"),
    ];
    let ids = broker.topic("orders", &options).await;
    broker.append(ids[0], &["first"]).await;
    broker.flush("orders").await;
    let value = "x".repeat(1_000);
    for _ in 0..150 {
        broker.append(ids[0], &[&value]).await;
        // Never past the limit, however slow the machine: it is the table that must begin.
        let end = broker.log.partition(ids[0]).unwrap().high_watermark();
        broker
            .until("orders", |status| end - status.partitions[0].end_offset.unwrap_or(0) < 45)
            .await;
    }
    broker.flush("orders").await;
    assert_eq!(broker.status("orders").gap_offsets, 0);
    assert_eq!(broker.offsets("orders").await.len(), 151);
    assert!(broker.status("orders").commits > 2);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gap_of_a_table_that_was_off_is_what_was_appended_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    // One that was never on, one with a row that waits when it is switched off.
    let never = broker.topic("never", &[("table.mode", "off")]).await;
    let lag = [("table.target.lag.ms", "86400000")];
    let waits = broker.topic("waits", &lag).await;
    broker.append(waits[0], &["0"]).await;
    broker.flush("waits").await;
    broker.append(waits[0], &["1"]).await;
    broker.set("waits", "table.mode", "off").await;
    broker.until("waits", |status| status.commits == 2).await;
    broker.until("never", |status| status.state == "OFF").await;
    for (topic, id) in [("never", never[0]), ("waits", waits[0])] {
        broker.append(id, &["private"]).await;
        broker.set(topic, "table.mode", "auto").await;
        broker.until(topic, |status| status.state != "OFF").await;
        broker.append(id, &["public"]).await;
        broker.flush(topic).await;
    }
    assert_eq!(broker.offsets("never").await, [(0, 1)]);
    assert_eq!(broker.offsets("waits").await, [(0, 0), (0, 1), (0, 3)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_differ_in_case_only_do_not_collide_when_made_together() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    for round in 0..5 {
        let (one, other) = (format!("Rc{round}"), format!("rc{round}"));
        let ids = [broker.topic(&one, &[]).await[0], broker.topic(&other, &[]).await[0]];
        for id in ids {
            broker.append(id, &["1"]).await;
        }
        broker.flush(&one).await;
        broker.flush(&other).await;
    }
    let mut names: Vec<_> =
        broker.tiering.tables().into_iter().map(|status| status.table.to_lowercase()).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!((names.len(), all), (10, 10));
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_notices_that_the_table_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    broker.append(ids[0], &["1"]).await;
    broker.flush("orders").await;
    broker.catalog.drop_table(ident("orders"), false).await.unwrap();
    let flushed = broker.tiering.flush("orders", BOUND).await;
    assert!(matches!(flushed, Err(crate::tier::Error::Stopped(_))), "{flushed:?}");
    assert_eq!(broker.status("orders").state, "TABLE_DROPPED");
    let refused = broker.tiering.resume("orders", crate::tier::From::Table, false).await;
    assert_eq!(refused, Err(crate::tier::Error::NoTable));
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_whose_table_was_never_made_leaves_the_name_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    broker.fail_points.set("catalog.before_metadata", || Err("down".to_owned()));
    let ids = broker.topic("orders", &[]).await;
    let old = broker.topics.get("orders").unwrap().id;
    broker.append(ids[0], &["1"]).await;
    broker.topics.delete("orders").await.unwrap();
    let fresh = broker.topic("orders", &[]).await;
    broker.append(fresh[0], &["2"]).await;
    broker.append(fresh[0], &["3"]).await;
    broker.fail_points.clear("catalog.before_metadata");
    broker.flush("orders").await;
    assert_eq!(broker.status("orders").table, "streams.orders");
    assert_eq!(broker.offsets("orders").await.len(), 2);
    let waited = async {
        while !broker.topics.draining().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, waited).await.expect("the old topic's row is committed");
    assert_eq!(broker.offsets(&format!("orders__{}", old.short(8))).await.len(), 1);
    broker.stop(true).await;
}
