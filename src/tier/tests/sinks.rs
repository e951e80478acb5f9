//! A topic with mapped sinks: rows of each, exactly once apart from the others, and what the log
//! keeps for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use arrow_array::cast::AsArray;
use iceberg::TableUpdate;
use serde_json::Value;
use serde_json::json;

use crate::sink::Asked;
use crate::sink::Sink;
use crate::sink::Wish;
use crate::store::Change;
use crate::store::history::Edit;
use crate::table::catalog::Catalog;
use crate::table::catalog::TableChange;
use crate::table::commit::marker;
use crate::tier::From;
use crate::tier::Service;
use crate::tier::tests::harness::BOUND;
use crate::tier::tests::harness::Broker;
use crate::tier::tests::harness::ident;
use crate::tier::tests::harness::start;
use crate::tier::tests::keys::lose;
use crate::tier::tests::roads::fail_at;
use crate::types::Expected;
use crate::types::PartitionId;

/// A column of one JSON field.
pub(super) fn path(name: &str, kind: &str) -> Value {
    json!({"type": "path", "name": name, "path": name, "dataType": kind})
}

pub(super) fn wish(table: &str, columns: &[Value], more: Value) -> Wish {
    let mut wish = json!({"table": {"name": table}, "mapping": {"columns": columns}});
    let members = wish.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    serde_json::from_value(wish).unwrap()
}

impl Broker {
    /// Makes or replaces a sink of the topic, whose id is the table's name.
    pub(super) async fn sink(&self, topic: &str, wish: Wish) -> Arc<Sink> {
        self.sink_from(topic, wish, BTreeMap::new()).await
    }

    async fn sink_from(&self, topic: &str, wish: Wish, starts: BTreeMap<i32, i64>) -> Arc<Sink> {
        let topic_id = self.topics.get(topic).unwrap().id;
        let id = wish.table.name.clone();
        let from = match starts.is_empty() {
            true => crate::sink::From::Earliest,
            false => crate::sink::From::Latest,
        };
        let (wish, edit) = (Wish { from, ..wish }, Edit::default());
        let asked = Asked { wish, ends: starts.clone(), starts, edit };
        let put = self.sinks.put((topic_id, &id), asked, Expected::Any, false).await;
        let sink = Arc::clone(put.unwrap().sink());
        // Its worker is there from now on.
        assert!(self.tiering.sink(topic_id, sink.uid).is_some());
        sink
    }

    async fn drop_sink(&self, topic: &str, id: &str) {
        let topic_id = self.topics.get(topic).unwrap().id;
        self.sinks.delete(topic_id, id, Expected::Any).await.unwrap();
    }

    fn tiered(&self, partition: PartitionId) -> i64 {
        self.log.partition(partition).unwrap().tiered_offset()
    }

    /// Waits until retention may pass everything below `offset` of the partition.
    async fn until_tiered(&self, partition: PartitionId, offset: i64) {
        let waited = async {
            while self.tiered(partition) != offset {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(BOUND, waited).await;
        assert!(waited.is_ok(), "{} is not {offset}", self.tiered(partition));
    }

    async fn columns(&self, table: &str) -> Vec<String> {
        let loaded = self.catalog.load(&ident(table)).await.unwrap();
        let fields = loaded.metadata.current_schema().as_struct().fields().to_vec();
        fields.iter().map(|field| field.name.clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sink_has_the_rows_of_the_topic_by_its_own_mapping() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    broker.sink("orders", wish("prices", &[path("price", "long")], json!({}))).await;
    let template = json!({"language": "jsonnet", "content": "Body('price') * 2"});
    let columns = [
        json!({"type": "uuid", "name": "id"}),
        json!({"type": "body", "name": "raw"}),
        json!({"type": "template", "name": "twice", "template": template, "dataType": "long"}),
    ];
    broker.sink("orders", wish("raws", &columns, json!({}))).await;
    broker.append(ids[0], &[r#"{"price":1,"x":2}"#, r#"{"price":2}"#]).await;
    broker.append(ids[1], &[r#"{"price":3}"#]).await;
    for table in ["orders", "streams.prices", "raws"] {
        broker.flush(table).await;
    }
    let all = [(0, 0), (0, 1), (1, 0)];
    for table in ["orders", "prices", "raws"] {
        assert_eq!(broker.offsets(table).await, all, "{table}");
    }
    assert_eq!(broker.columns("prices").await, ["floe", "price"]);
    assert_eq!(broker.longs("prices", "price").await, [Some(1), Some(2), Some(3)]);
    assert_eq!(broker.columns("raws").await, ["floe", "id", "raw", "twice"]);
    assert_eq!(broker.longs("raws", "twice").await, [Some(2), Some(4), Some(6)]);
    let raws: Vec<String> = broker
        .scan("raws")
        .await
        .iter()
        .flat_map(|batch| {
            let raw = batch.column_by_name("raw").unwrap().as_string::<i32>().clone();
            raw.iter().map(|text| text.unwrap().to_owned()).collect::<Vec<_>>()
        })
        .collect();
    assert!(raws.contains(&r#"{"price":1,"x":2}"#.to_owned()), "{raws:?}");
    let status = broker.status("prices");
    assert_eq!((status.topic.as_str(), status.sink.as_deref()), ("orders", Some("prices")));
    assert_eq!((status.mode.as_str(), status.rows, status.lag_ms), ("mapped", 3, 0));
    assert_eq!(broker.status("orders").sink, None, "the topic's name is that of its own table");
    // What a table says of itself names the sink, and is not taken for the topic's own.
    let metadata = broker.catalog.load(&ident("prices")).await.unwrap().metadata;
    let topic = broker.topics.get("orders").unwrap();
    let sink = broker.sinks.get(topic.id, "prices").unwrap();
    let summary = &metadata.current_snapshot().unwrap().summary().additional_properties;
    assert_eq!(summary[marker::SINK_ID], sink.uid.to_string());
    assert_eq!(summary[marker::TOPIC_ID], topic.id.to_string());
    let property = format!("floe.state.{}.{}.1", topic.id, sink.uid);
    assert!(metadata.properties().contains_key(&property), "{:?}", metadata.properties());
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_any_table_neither_loses_nor_doubles_rows_of_another() {
    let points =
        ["tier.after_files", "tier.after_prepared", "tier.before_commit", "tier.after_commit"];
    // So many tables get past the point: each of the three is at another step when the program
    // ends.
    for (point, skip) in points.into_iter().flat_map(|point| [(point, 0), (point, 1), (point, 2)]) {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(dir.path()).await;
        let ids = broker.topic("orders", &[]).await;
        broker.sink("orders", wish("a", &[path("n", "long")], json!({}))).await;
        broker.sink("orders", wish("b", &[path("n", "string")], json!({}))).await;
        broker.append(ids[0], &[r#"{"n":1}"#, r#"{"n":"x"}"#]).await;
        let passes = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&passes);
        broker.fail_points.set(point, move || match seen.fetch_add(1, Ordering::SeqCst) {
            pass if pass < skip => Ok(()),
            _ => Err("crash".to_owned()),
        });
        let waited = async {
            while passes.load(Ordering::SeqCst) <= skip {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(BOUND, waited).await.expect(point);
        broker.stop(false).await;
        let broker = start(dir.path()).await;
        broker.append(ids[1], &[r#"{"n":3}"#]).await;
        for table in ["orders", "a", "b"] {
            broker.flush(table).await;
        }
        let case = format!("{point} {skip}");
        assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 1), (1, 0)], "{case}");
        assert_eq!(broker.offsets("a").await, [(0, 0), (1, 0)], "{case}");
        assert_eq!(broker.offsets("a__dlq").await, [(0, 1)], "{case}");
        assert_eq!(broker.offsets("b").await, [(0, 0), (0, 1), (1, 0)], "{case}");
        broker.stop(true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mapping_cannot_fill_is_a_dead_letter_with_code_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.mode", "off")]).await;
    broker.sink("orders", wish("prices", &[path("price", "long")], json!({}))).await;
    broker.append(ids[0], &[r#"{"price":"dear"}"#, "{}", "no json", r#"{"price":7}"#]).await;
    broker.flush("prices").await;
    assert_eq!(broker.offsets("prices").await, [(0, 3)]);
    let mut letters = Vec::new();
    for batch in broker.scan("prices__dlq").await {
        let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        let (codes, fields) = (text("error_code"), text("field_path"));
        let rows = 0..batch.num_rows();
        letters.extend(rows.map(|row| format!("{} {}", codes.value(row), fields.value(row))));
    }
    letters.sort();
    let wanted = ["JSON_PARSE price", "REQUIRED_FIELD_NULL price", "TYPE_MISMATCH price"];
    assert_eq!(letters, wanted);
    let status = broker.status("prices");
    assert_eq!((status.rows, status.dlq_rows), (1, 3));
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_waits_for_the_slowest_sink_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    // Somebody has the table's name: it cannot be made.
    broker.topic("slow", &[]).await;
    let slow = broker.topics.get("slow").unwrap();
    broker.append(slow.partitions[0], &["{}"]).await;
    broker.flush("slow").await;
    broker.sink("orders", wish("fast", &[path("n", "long")], json!({}))).await;
    let stuck = broker.sink("orders", wish("Slow", &[path("n", "long")], json!({}))).await;
    broker.append(ids[0], &[r#"{"n":1}"#]).await;
    broker.flush("orders").await;
    broker.flush("fast").await;
    let topic_id = stuck.topic_id;
    let waited = async {
        while broker.tiering.sink(topic_id, stuck.uid).unwrap().state != "RETRYING" {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, waited).await.unwrap();
    let reason = broker.tiering.sink(topic_id, stuck.uid).unwrap().reason.unwrap();
    assert!(reason.contains("is there already"), "{reason}");
    assert_eq!(broker.tiered(ids[0]), 0);
    // So it is after a restart, before any worker has said anything new.
    broker.stop(false).await;
    let broker = start(dir.path()).await;
    broker.flush("fast").await;
    assert_eq!(broker.tiered(ids[0]), 0);
    broker.drop_sink("orders", "Slow").await;
    broker.until_tiered(ids[0], 1).await;
    assert_eq!(broker.offsets("slow").await, [(0, 0)], "the other's table stays as it is");
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_waits_past_its_pin_limit_refuses_producers_and_only_it_eases_them() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    broker.topic("taken", &[]).await;
    let taken = broker.topics.get("taken").unwrap();
    broker.append(taken.partitions[0], &["{}"]).await;
    broker.flush("taken").await;
    let limit = [("table.pin.max.bytes", "1"), ("table.pin.overflow", "block")];
    let ids = broker.topic("orders", &limit).await;
    broker.sink("orders", wish("TAKEN", &[path("n", "long")], json!({}))).await;
    broker.append(ids[0], &[r#"{"n":1}"#]).await;
    let partition = broker.log.partition(ids[0]).unwrap();
    let until = async |blocked: bool| {
        let waited = async {
            while partition.blocked().is_some() != blocked {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(BOUND, waited).await.is_ok(), "{:?}", partition.blocked());
    };
    broker.flush("orders").await;
    until(true).await;
    // The topic's own table has everything; that is not enough.
    broker.flush("orders").await;
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    assert!(partition.blocked().is_some());
    broker.drop_sink("orders", "TAKEN").await;
    until(false).await;
    broker.append(ids[0], &[r#"{"n":2}"#]).await;
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_made_later_begins_at_the_logs_start_or_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    broker.append(ids[0], &[r#"{"n":1}"#, r#"{"n":2}"#]).await;
    broker.flush("orders").await;
    broker.sink("orders", wish("all", &[path("n", "long")], json!({}))).await;
    let late = wish("late", &[path("n", "long")], json!({"from": "latest"}));
    broker.sink_from("orders", late, BTreeMap::from([(0, 2), (1, 0)])).await;
    broker.append(ids[0], &[r#"{"n":3}"#]).await;
    broker.append(ids[1], &[r#"{"n":4}"#]).await;
    for table in ["all", "late"] {
        broker.flush(table).await;
    }
    assert_eq!(broker.offsets("all").await, [(0, 0), (0, 1), (0, 2), (1, 0)]);
    assert_eq!(broker.offsets("late").await, [(0, 2), (1, 0)]);
    broker.flush("orders").await;
    broker.until_tiered(ids[0], 3).await;
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_sink_takes_nothing_and_tells_of_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    let columns = [path("n", "long")];
    broker.sink("orders", wish("a", &columns, json!({}))).await;
    broker.append(ids[0], &[r#"{"n":1}"#]).await;
    broker.flush("a").await;
    broker.sink("orders", wish("a", &columns, json!({"enabled": false}))).await;
    broker.until("a", |status| status.state == "OFF").await;
    broker.append(ids[0], &[r#"{"n":2}"#]).await;
    broker.flush("orders").await;
    broker.until_tiered(ids[0], 2).await;
    broker.sink("orders", wish("a", &columns, json!({}))).await;
    broker.until("a", |status| status.state == "RUNNING").await;
    broker.append(ids[0], &[r#"{"n":3}"#]).await;
    broker.flush("a").await;
    assert_eq!(broker.offsets("a").await, [(0, 0), (0, 2)]);
    let status = broker.status("a");
    assert_eq!((status.gap_offsets, status.gaps[0].reason.as_str()), (1, "off"));
    broker.flush("orders").await;
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 1), (0, 2)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_mapping_adds_its_columns_and_keeps_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    let sink = broker.sink("orders", wish("a", &[path("n", "long")], json!({}))).await;
    broker.append(ids[0], &[r#"{"n":1,"m":10}"#]).await;
    broker.flush("a").await;
    let other = broker.sink("orders", wish("a", &[path("m", "long")], json!({}))).await;
    assert_eq!((other.uid, other.version), (sink.uid, 2));
    broker.append(ids[0], &[r#"{"n":2,"m":20}"#]).await;
    broker.flush("a").await;
    assert_eq!(broker.columns("a").await, ["floe", "n", "m"]);
    assert_eq!(broker.longs("a", "n").await, [None, Some(1)]);
    assert_eq!(broker.longs("a", "m").await, [None, Some(20)]);
    let text = wish("a", &[path("n", "string")], json!({})).check("a").unwrap();
    let refused = broker.tiering.check_new_mapping((sink.topic_id, sink.uid), &text).await;
    assert!(refused.unwrap_err().to_string().contains("\"n\" is long in the table"));
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_of_records_starts_a_commit_before_the_lag() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.commit.min.interval.ms", "0")]).await;
    let commit = json!({"commit": {"lag_ms": 86_400_000, "records": 3}});
    broker.sink("orders", wish("a", &[path("n", "long")], commit)).await;
    // The leading edge takes the first rows.
    broker.append(ids[0], &[r#"{"n":1}"#]).await;
    broker.until("a", |status| status.commits == 1).await;
    broker.append(ids[0], &[r#"{"n":2}"#, r#"{"n":3}"#]).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(broker.status("a").commits, 1);
    broker.append(ids[1], &[r#"{"n":4}"#]).await;
    broker.until("a", |status| status.commits == 2).await;
    assert_eq!(broker.offsets("a").await.len(), 4);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_sink_keeps_its_table_and_one_made_again_gets_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    let first = broker.sink("orders", wish("a", &[path("n", "long")], json!({}))).await;
    broker.append(ids[0], &[r#"{"n":1}"#]).await;
    broker.flush("a").await;
    broker.drop_sink("orders", "a").await;
    let waited = async {
        while broker.tiering.sink(first.topic_id, first.uid).is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(BOUND, waited).await.unwrap();
    assert_eq!(broker.offsets("a").await, [(0, 0)]);
    let table = wish("a", &[path("n", "long")], json!({})).table;
    let refused = broker.tiering.check_new_sink(&table).await.unwrap_err().to_string();
    assert!(refused.contains("is there already"), "{refused}");
    let own = wish("ORDERS", &[path("n", "long")], json!({})).table;
    let refused = broker.tiering.check_new_sink(&own).await.unwrap_err().to_string();
    assert!(refused.contains("belongs to topic \"orders\""), "{refused}");
    broker.topic("quiet", &[("table.mode", "off")]).await;
    broker.until("quiet", |status| status.state == "OFF").await;
    let quiet = wish("quiet", &[path("n", "long")], json!({})).table;
    assert_eq!(broker.tiering.check_new_sink(&quiet).await, Ok(()), "it has no table");
    let letters = wish("orders__dlq", &[path("n", "long")], json!({})).table;
    assert!(broker.tiering.check_new_sink(&letters).await.is_err());
    broker.catalog.drop_table(ident("a"), false).await.unwrap();
    assert_eq!(broker.tiering.check_new_sink(&table).await, Ok(()));
    let again = broker.sink("orders", wish("a", &[path("n", "long")], json!({}))).await;
    assert_ne!(again.uid, first.uid);
    broker.flush("a").await;
    assert_eq!(broker.offsets("a").await, [(0, 0)], "all that the log has");
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_goes_once_all_its_tables_have_its_rows_and_takes_its_sinks_along() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    let sink = broker.sink("orders", wish("a", &[path("n", "long")], json!({}))).await;
    broker.append(ids[0], &[r#"{"n":1}"#]).await;
    broker.flush("orders").await;
    broker.flush("a").await;
    broker.append(ids[0], &[r#"{"n":2}"#]).await;
    broker.topics.delete("orders").await.unwrap();
    let waited = async {
        while !broker.topics.draining().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, waited).await.unwrap();
    assert_eq!(broker.offsets("a").await, [(0, 0), (0, 1)]);
    assert_eq!(broker.offsets("orders").await, [(0, 0), (0, 1)]);
    assert!(broker.sinks.of_topic(sink.topic_id).is_empty());
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_stands_still_is_resumed_by_the_name_of_its_table() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[]).await;
    let sink = broker.sink("orders", wish("a", &[path("n", "long")], json!({}))).await;
    broker.append(ids[0], &[r#"{"n":1}"#]).await;
    broker.flush("a").await;
    // A second copy of the data directory wrote to it.
    let property = format!("floe.state.{}.{}.2", sink.topic_id, sink.uid);
    let updates = [(property, "{}".to_owned())].into();
    let updates = vec![TableUpdate::SetProperties { updates }];
    let change = TableChange { ident: ident("a"), requirements: vec![], updates };
    broker.catalog.commit(vec![change], Change::new()).await.unwrap();
    broker.append(ids[0], &[r#"{"n":2}"#]).await;
    broker.until("a", |status| status.state == "LOG_BEHIND").await;
    broker.flush("orders").await;
    assert_eq!(broker.status("orders").state, "RUNNING", "the topic's own table goes on");
    broker.tiering.resume("a", From::Latest, false).await.unwrap();
    broker.append(ids[0], &[r#"{"n":3}"#]).await;
    broker.until("orders", |status| status.pending_offsets == 0).await;
    let status = broker.tiering.sink(sink.topic_id, sink.uid).unwrap();
    broker.flush(&status.table).await;
    let status = broker.tiering.sink(sink.topic_id, sink.uid).unwrap();
    assert!(status.table.starts_with("streams.a_"), "{}", status.table);
    let name = status.table.trim_start_matches("streams.").to_owned();
    assert_eq!(broker.offsets(&name).await, [(0, 2)]);
    assert_eq!(broker.offsets("a").await, [(0, 0)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_writes_as_a_principal_that_may_write_to_its_table_alone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.mode", "off")]).await;
    let sink = broker.sink("orders", wish("prices", &[path("price", "long")], json!({}))).await;
    let service = Service::of("orders", &sink);
    assert_eq!(service.rules.texts(), ["write:table:streams.prices"]);
    broker.append(ids[0], &[r#"{"price":1}"#]).await;
    broker.flush("prices").await;
    assert_eq!(broker.status("prices").principal, Some("sink:orders/prices".to_owned()));
    let refused = service.check("streams", "others").unwrap_err();
    assert!(refused.starts_with("sink:orders/prices may not write to streams.others"), "{refused}");
    // The right goes with the table when it gets another name.
    broker.catalog.rename(&ident("prices"), &ident("others")).await.unwrap();
    broker.append(ids[0], &[r#"{"price":2}"#]).await;
    broker.until("others", |status| status.rows == 2).await;
    assert_eq!(broker.status("orders").principal, None);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_commits_as_its_source_says_and_as_it_says_itself() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids =
        broker.topic("orders", &[("table.mode", "off"), ("table.target.lag.ms", "3600000")]).await;
    let as_source = broker.sink("orders", wish("as_source", &[path("n", "long")], json!({}))).await;
    let own = json!({"commit": {"records": 1_000}});
    let as_it_says = broker.sink("orders", wish("as_it_says", &[path("n", "long")], own)).await;
    // The first rows of a table come soon, whatever it says.
    broker.append(ids[0], &[r#"{"n":0}"#]).await;
    broker.flush("as_source").await;
    broker.flush("as_it_says").await;
    let source = json!({"topic": "orders", "commit": {"records": 2}});
    let source = serde_json::from_value(source).unwrap();
    let edit = Edit::default();
    broker.sources.put("shop", source, edit, Expected::None, false).await.unwrap();
    broker.append(ids[0], &[r#"{"n":1}"#, r#"{"n":2}"#]).await;
    let topic_id = broker.topics.get("orders").unwrap().id;
    let rows = |sink: &Arc<Sink>| broker.tiering.sink(topic_id, sink.uid).unwrap().rows;
    let waited = async {
        while rows(&as_source) != 3 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(BOUND, waited).await.is_ok(), "{}", rows(&as_source));
    assert_eq!(rows(&as_it_says), 1);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_sink_holds_nothing_and_goes_on_where_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.mode", "off")]).await;
    broker.sink("orders", wish("prices", &[path("n", "long")], json!({}))).await;
    broker.append(ids[0], &[r#"{"n":1}"#]).await;
    broker.flush("prices").await;
    let topic_id = broker.topics.get("orders").unwrap().id;
    broker.sinks.mark_deleted((topic_id, "prices"), Edit::default(), false).await.unwrap();
    // Its worker may take what comes before it has noticed.
    broker.until_tiered(ids[0], i64::MAX).await;
    broker.append(ids[0], &[r#"{"n":2}"#]).await;
    assert_eq!(broker.tiered(ids[0]), i64::MAX);
    broker.sinks.undelete((topic_id, "prices"), BTreeMap::new(), Edit::default()).await.unwrap();
    // From here on the log waits for it again.
    let back = async {
        while broker.tiered(ids[0]) == i64::MAX {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(BOUND, back).await.is_ok());
    broker.append(ids[0], &[r#"{"n":3}"#]).await;
    broker.flush("prices").await;
    assert_eq!(broker.longs("prices", "n").await, [Some(1), Some(3)]);
    broker.stop(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_has_the_name_of_a_topic_without_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("prices", &[("table.mode", "off")]).await;
    broker.sink("prices", wish("prices", &[path("n", "long")], json!({}))).await;
    broker.append(ids[0], &[r#"{"n":1}"#]).await;
    broker.flush("prices").await;
    assert_eq!(broker.status("prices").sink.as_deref(), Some("prices"));
    assert_eq!(broker.longs("prices", "n").await, [Some(1)]);
    broker.stop(true).await;
}

/// What a sink takes from now on is nothing to a commit that was planned before.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_written_again_takes_the_signals_of_its_first_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let ids = broker.topic("orders", &[("table.mode", "off")]).await;
    let of = |signal: &str| {
        let raw = json!({"type": "body", "name": "raw"});
        wish("some", &[raw], json!({ "signals": [signal] }))
    };
    broker.sink("orders", of("logs")).await;
    broker.append_signals(ids[0], &["logs", "traces", "logs"]).await;
    fail_at(&broker, "tier.before_commit", 0).await;
    broker.sink("orders", of("traces")).await;
    broker.stop(false).await;
    assert_eq!(lose(&dir.path().join("warehouse"), ".parquet", &[]), 1);
    let broker = start(dir.path()).await;
    broker.append_signals(ids[0], &["logs", "traces"]).await;
    broker.flush("some").await;
    assert_eq!(broker.offsets("some").await, [(0, 0), (0, 2), (0, 4)]);
    broker.stop(true).await;
}
