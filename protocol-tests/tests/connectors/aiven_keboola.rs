//! A5: Aiven's sink with the ingest route of Keboola's, whose secret is in the URL: one request is one
//! record, and its answer is text.

use std::time::Duration;

use protocol_tests::clients::read_all;
use protocol_tests::{Floe, table};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::aiven::Aiven;
use super::{Data, Record, Task, records, stored, wanted, with};

const SOURCES: &str = "/v1/branches/default/sources";
const FLAGS: &[&str] = &["--num-partitions", "1", "--table-target-lag", "1h"];
/// No disk is as large: the server turns and takes nothing.
const FULL: &[&str] = &["--num-partitions", "1", "--disk-free-min-bytes", "1000TiB"];

async fn ask(floe: &Floe, method: Method, path: &str, body: Value) -> Value {
    let answer = Client::new().request(method, floe.url(path)).json(&body).send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    assert!([200, 202].contains(&status), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

/// Makes the source `orders` with a sink; the URL that its requests go to.
async fn source(floe: &Floe) -> String {
    ask(floe, Method::POST, SOURCES, json!({"type": "http", "name": "orders"})).await;
    let columns = json!([
        { "type": "path", "name": "id", "path": "id" },
        { "type": "body", "name": "raw" },
        { "type": "headers", "name": "heads" },
    ]);
    let of_keboola = json!({
        "type": "keboola", "tableId": "in.shop.orders", "mapping": { "columns": columns },
    });
    let sink = json!({"type": "table", "name": "orders", "table": of_keboola});
    ask(floe, Method::POST, &format!("{SOURCES}/orders/sinks"), sink).await;
    let shown = Client::new().get(floe.url(&format!("{SOURCES}/orders"))).send().await.unwrap();
    let shown: Value = shown.json().await.unwrap();
    shown["http"]["url"].as_str().unwrap().to_owned()
}

fn a5(url: &str) -> Value {
    json!({
        "connector.class": "io.aiven.kafka.connect.http.HttpSinkConnector",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "http.url": url,
        "http.authorization.type": "none",
        "http.headers.content.type": "application/json",
        "retry.backoff.ms": "50",
    })
}

fn maps(from: usize, count: usize) -> Vec<Record> {
    let event = |i: usize| json!({"id": i + from, "name": format!("größe {i}"), "list": [1, null]});
    records(count, |i| Data::Map(event(i)))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_of_a_connector_is_one_of_keboolas_source_as_it_was_sent() {
    let floe = Floe::start(FLAGS).await;
    let url = source(&floe).await;
    let mut task = Task::new(Aiven::new(&a5(&url)), maps(0, 60));
    assert_eq!(task.run().await, Ok(()));
    // The offer to go on in HTTP/2 is no reason for any other answer.
    assert!(task.sink.seen.iter().all(|status| *status == 200), "{:?}", task.sink.seen);
    assert_eq!(stored(&floe, "orders"), wanted(&task.records));
    for record in tokio::task::block_in_place(|| read_all(&floe, "orders", 1)) {
        let header = |wanted: &str| {
            let mut found = record.headers.iter().filter(|(name, _)| name == wanted);
            let value = found.next().and_then(|(_, value)| value.as_deref());
            value.map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        assert_eq!(header("content-type").as_deref(), Some("application/json"));
        assert_eq!(header("user-agent").as_deref(), Some("Java-http-client/17.0.15"));
        assert_eq!((header("connection"), header("content-length")), (None, None));
    }
    ask(&floe, Method::POST, "/api/v1/tables/in.shop.orders/flush", json!({})).await;
    let texts =
        async |column| table::texts(&floe.url("/iceberg"), "in%1Fshop", "orders", column).await;
    let mut wanted = wanted(&task.records);
    wanted.sort();
    assert_eq!(texts("raw").await, wanted);
    let heads = texts("heads").await;
    let has = |heads: &String| heads.contains(r#""User-Agent":"Java-http-client/17.0.15""#);
    assert!(heads.len() == 60 && heads.iter().all(has), "{heads:?}");
}

/// An array, or lines, is one record all the same: a batch is for routes that take it apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_record_too() {
    let floe = Floe::start(FLAGS).await;
    let url = source(&floe).await;
    let batch = json!({"batching.enabled": "true", "batch.max.size": "500", "max.retries": "0"});
    let array = json!({"batch.prefix": "[", "batch.separator": ",", "batch.suffix": "]"});
    let array = with(&with(&a5(&url), batch.clone()), array);
    // The sink finds no `id` in it.
    let error = Task::new(Aiven::new(&array), maps(0, 3)).run().await.unwrap_err();
    assert!(error.contains("422") && error.contains("unprocessableContent"), "{error}");
    ask(&floe, Method::PUT, &format!("{SOURCES}/orders/sinks/orders/disable"), json!({})).await;
    let mut task = Task::new(Aiven::new(&array), maps(0, 3));
    assert_eq!(task.run().await, Ok(()));
    let mut lines = Task::new(Aiven::new(&with(&a5(&url), batch)), maps(3, 2));
    assert_eq!(lines.run().await, Ok(()));
    let array = format!("[{}]", wanted(&task.records).join(","));
    let lines = wanted(&lines.records).join("\n") + "\n";
    assert_eq!(stored(&floe, "orders"), [array, lines]);
}

/// What cannot be stored is sent again as often as the connector is told, and stops it then; each
/// answer says why, for whoever reads its trace.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_sent_again_and_then_stops_the_task() {
    let floe = Floe::start(FLAGS).await;
    let url = source(&floe).await;
    // A10's setting: one that no column can be filled of does not stop the others.
    let dead = json!({"errors.tolerance": "all", "errors.deadletterqueue.topic.name": "dead"});
    let mut mixed = maps(0, 5);
    mixed[2].value = Data::Map(json!({"name": "no id"}));
    mixed[3].value = Data::Text("{a=1, b=x}".to_owned());
    let mut task = Task::new(Aiven::new(&with(&a5(&url), dead)), mixed);
    assert_eq!(task.run().await, Ok(()));
    assert_eq!(task.sink.dead, [r#"{"name":"no id"}"#, "{a=1, b=x}"]);
    assert_eq!(task.sink.seen, [200, 200, 422, 422, 422, 422, 200], "one retry each");
    // A record that is answered before it is on the disk is delivered too.
    let key = "storage.level.local.encoding.sync.wait";
    let no_wait = json!({"settings": [{"key": key, "value": false}]});
    ask(&floe, Method::PATCH, &format!("{SOURCES}/orders/settings"), no_wait).await;
    let mut fast = Task::new(Aiven::new(&a5(&url)), maps(5, 3));
    assert_eq!((fast.run().await, &*fast.sink.seen), (Ok(()), &[202; 3][..]));
    ask(&floe, Method::PUT, &format!("{SOURCES}/orders/disable"), json!({})).await;
    let mut barred = Task::new(Aiven::new(&a5(&url)), maps(8, 2));
    let error = barred.run().await.unwrap_err();
    assert!(error.contains("stream.in.disabledSource"), "{error}");
    assert_eq!(barred.sink.seen, [404; 2], "the default is one retry");
    ask(&floe, Method::PUT, &format!("{SOURCES}/orders/enable"), json!({})).await;
    assert_eq!(barred.run().await, Ok(()), "started again it goes on");
    ask(&floe, Method::POST, &format!("{SOURCES}/orders/rotate-secret"), json!({})).await;
    let error = Task::new(Aiven::new(&a5(&url)), maps(10, 1)).run().await.unwrap_err();
    assert!(error.contains("stream.in.noSourceFound"), "{error}");
    let ids: Vec<Value> = stored(&floe, "orders")
        .iter()
        .map(|value| serde_json::from_str::<Value>(value).unwrap()["id"].clone())
        .collect();
    assert_eq!(json!(ids), json!([0, 1, 4, 5, 6, 7, 8, 9]));
}

/// A11 and A12 on this route: the server answers 503 for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_full_for_a_while_costs_no_record() {
    let mut floe = Floe::start(FLAGS).await;
    let url = source(&floe).await;
    let mut hasty = Task::new(Aiven::new(&a5(&url)), maps(0, 4));
    floe.stop().await;
    floe.restart_unready_with(FULL).await;
    let error = hasty.run().await.unwrap_err();
    assert!(error.contains("503") && error.contains("stream.in."), "{error}");
    assert_eq!(hasty.sink.seen, [503; 2]);
    let patient = with(&a5(&url), json!({"max.retries": "4000"}));
    let mut patient = Task::new(Aiven::new(&patient), maps(4, 20));
    let back = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        floe.stop().await;
        floe.restart_with(FLAGS).await;
    };
    let (ran, ()) = tokio::join!(patient.run(), back);
    assert_eq!(ran, Ok(()));
    assert!(patient.sink.seen.contains(&503), "{:?}", patient.sink.seen);
    let known = |status: &u16| [200, 503].contains(status);
    assert!(patient.sink.seen.iter().all(known), "{:?}", patient.sink.seen);
    assert_eq!(hasty.run().await, Ok(()), "its operator starts it again");
    let all = [&*wanted(&patient.records), &*wanted(&hasty.records)].concat();
    assert_eq!(stored(&floe, "orders"), all, "nothing of what was refused was stored");
}
