//! Configurations of Confluent's sink, and what becomes of the records.

use std::time::Duration;

use protocol_tests::Floe;
use protocol_tests::http1::request;
use serde_json::{Value, json};

use super::confluent::Confluent;
use super::{Data, Guarded, Record, Task, ask, documented, records, stored, wanted, with};

const DOCUMENTED: &str = include_str!("../../../docs/snippets/kafka-connect-confluent.json");
const PLAIN: Option<&str> = Some("text/plain; charset=UTF-8");

fn url(floe: &Floe, topic: &str) -> Value {
    json!({
        "connector.class": "io.confluent.connect.http.HttpSinkConnector",
        "http.api.url": floe.url(&format!("/api/v1/topics/{topic}/events")),
        "retry.backoff.ms": "20",
    })
}

/// C1: JSON, as arrays of up to 500.
fn c1(guarded: &Guarded, topic: &str) -> Value {
    let config = json!({
        "request.body.format": "json",
        "headers": format!("Content-Type: application/json|token: {}", guarded.token),
        "batch.max.size": "500",
        "reporter.bootstrap.servers": "127.0.0.1:9092",
        "reporter.error.topic.name": "err",
        "reporter.result.topic.name": "ok",
        "confluent.topic.bootstrap.servers": "127.0.0.1:9092",
    });
    with(&url(&guarded.floe, topic), config)
}

/// C3: text that is JSON already, joined by the connector.
fn c3(guarded: &Guarded, topic: &str) -> Value {
    let config = json!({
        "request.body.format": "string", "headers": format!("token: {}", guarded.token),
        "batch.prefix": "[", "batch.suffix": "]", "batch.separator": ",", "batch.max.size": "100",
    });
    with(&url(&guarded.floe, topic), config)
}

/// C7 and, with the credentials in the form, C8.
fn oauth(guarded: &Guarded, topic: &str, mode: &str) -> Value {
    let config = json!({
        "headers": "Content-Type: application/json",
        "auth.type": "OAUTH2",
        "oauth2.token.url": guarded.floe.url("/oauth/token"),
        "oauth2.client.id": "admin",
        "oauth2.client.secret": guarded.token,
        "oauth2.client.auth.mode": mode,
    });
    with(&c1(guarded, topic), config)
}

fn event(i: usize) -> Value {
    json!({"id": i, "text": "a=1, {b}", "nested": {"list": [1.5, true]}})
}

fn maps(count: usize) -> Vec<Record> {
    records(count, |i| Data::Map(event(i)))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_configuration_delivers_its_records_as_they_were() {
    let mut guarded = Guarded::start(&[]).await;
    let token = guarded.token.clone();
    let texts = |count| records(count, |i| Data::Text(event(i).to_string()));
    let single = json!({"batch.json.as.array": "false", "batch.max.size": "1"});
    let basic = json!({
        "headers": "Content-Type: application/json",
        "auth.type": "BASIC", "connection.user": "connect", "connection.password": token,
    });
    let put = json!({"request.method": "put"});
    let by_topic = guarded.floe.url("/api/v1/topics/${topic}/events?key=${key}");
    let by_topic = json!({ "http.api.url": by_topic, "batch.max.size": "1" });
    let cases = [
        ("c1", c1(&guarded, "c1"), None, maps(1_100)),
        ("c1-one", with(&c1(&guarded, "c1-one"), json!({"batch.max.size": "1"})), None, maps(20)),
        ("c2", with(&c1(&guarded, "c2"), single), None, maps(40)),
        ("c3", c3(&guarded, "c3"), None, texts(350)),
        ("c3-plain", c3(&guarded, "c3-plain"), PLAIN, texts(350)),
        ("c6", with(&c1(&guarded, "c6"), basic), None, maps(600)),
        ("c9", with(&c1(&guarded, "c9"), put), None, maps(600)),
        ("c10", with(&c1(&guarded, "none"), by_topic), None, maps(20)),
        ("orders", documented(DOCUMENTED, &guarded), None, maps(600)),
    ];
    let mut sent = Vec::new();
    for (topic, config, plain, records) in cases {
        let mut task = Task::new(Confluent::new(&config, topic, plain), records);
        assert_eq!(task.run().await, Ok(()), "{topic}");
        assert!(task.sink.seen.iter().all(|status| *status == 200), "{topic}");
        sent.push((topic, wanted(&task.records)));
    }
    guarded.open().await;
    for (topic, wanted) in sent {
        assert_eq!(stored(&guarded.floe, topic), wanted, "{topic}");
    }
    let keyed =
        tokio::task::block_in_place(|| protocol_tests::clients::read_all(&guarded.floe, "c10", 1));
    assert!(keyed.iter().all(|record| record.key.as_deref() == Some(b"k")));
}

#[tokio::test(flavor = "multi_thread")]
async fn access_tokens_are_renewed_at_401_and_nobody_notices() {
    let mut guarded = Guarded::start(&["--auth-access-token-lifetime", "4s"]).await;
    let mut tasks = Vec::new();
    for (topic, mode) in [("c7", "header"), ("c8", "url")] {
        let config = oauth(&guarded, topic, mode);
        let mut task = Task::new(Confluent::new(&config, topic, None), maps(500));
        assert_eq!(task.run().await, Ok(()), "{topic}");
        tasks.push((topic, task));
    }
    // Access tokens of four seconds are over by then.
    tokio::time::sleep(Duration::from_millis(4_100)).await;
    for (topic, mut task) in tasks {
        task.records.extend(maps(100));
        assert_eq!(task.run().await, Ok(()), "{topic}");
        assert_eq!(task.sink.seen, [200, 401, 200], "{topic}");
    }
    guarded.open().await;
    for topic in ["c7", "c8"] {
        assert_eq!(stored(&guarded.floe, topic).len(), 600, "{topic}");
    }
}

/// C4 and C5: bodies that are no JSON. The answer, which the task's trace and the error topic
/// show, says what to set.
#[tokio::test(flavor = "multi_thread")]
async fn what_java_prints_is_refused_with_what_to_set() {
    let floe = Floe::start(&["--num-partitions", "1"]).await;
    let text = || records(3, |i| Data::Text(event(i).to_string()));
    let structs = || records(1, |i| Data::Struct(json!({"a": i, "b": {"c": "x"}})));
    let batch = json!({"batch.max.size": "100"});
    let batched = |more: Value| with(&batch, more);
    let typed = json!({"headers": "Content-Type: application/json"});
    let bracketed = json!({"batch.prefix": "[", "batch.suffix": "]"});
    let cases = [
        (batch.clone(), text(), "need [ before"),
        (json!({}), maps(1), "request.body.format=json"),
        (batch.clone(), maps(3), "request.body.format=json"),
        (batched(bracketed), maps(3), "request.body.format=json"),
        (json!({}), structs(), "request.body.format=json"),
        (typed.clone(), structs(), "request.body.format=json"),
        (typed, maps(1), "request.body.format=json"),
    ];
    for (at, (more, records, word)) in cases.into_iter().enumerate() {
        for (kind, plain) in [("none", None), ("plain", PLAIN)] {
            // Who is refused too often at one address waits.
            let config = with(&url(&floe, &format!("{kind}-{at}")), more.clone());
            let mut task = Task::new(Confluent::new(&config, "t", plain), records.clone());
            let error = task.run().await.unwrap_err();
            assert!(error.contains("Status code : 400") && error.contains(word), "{error}");
            assert!(error.contains("invalid_json"), "{error}");
            assert_eq!(task.sink.seen, [400; 6], "the first and five retries");
            let (status, body) = &task.sink.reported[0];
            assert!(*status == 400 && body.len() < 4_096, "{body}");
        }
    }
    assert_eq!(floe.get("/api/v1/topics").await["topics"], json!([]));
}

/// C11: a list of statuses without 400. C12: tombstones as DELETE.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_succeed_fails_at_once_where_the_list_says_so() {
    let floe = Floe::start(&["--num-partitions", "1"]).await;
    let base = with(&url(&floe, "t"), json!({"retry.on.status.codes": "408,429,500-"}));
    let json = with(&base, json!({"request.body.format": "json"}));
    // An event without the key that the URL asks for.
    let keyed = json!({"http.api.url": floe.url("/api/v1/topics/t/events?key=$.id")});
    let value = |i| Data::Map(if i == 5 { json!({"no": 1}) } else { event(i) });
    let mut task = Task::new(Confluent::new(&with(&json, keyed), "t", None), records(10, value));
    let error = task.run().await.unwrap_err();
    assert!(error.contains("invalid_events") && error.contains("$.id"), "{error}");
    assert_eq!(task.sink.seen, [200, 200, 200, 200, 200, 422], "no retry");
    assert_eq!(stored(&floe, "t").len(), 5);
    // Tombstones are left out by default; as DELETE they are refused, with what is allowed.
    let nulls = |i| if i % 2 == 0 { Data::Null } else { Data::Map(event(i)) };
    let mut task = Task::new(Confluent::new(&json, "t", None), records(10, nulls));
    assert_eq!(task.run().await, Ok(()));
    assert_eq!(stored(&floe, "t").len(), 10);
    let delete = with(&json, json!({"behavior.on.null.values": "delete"}));
    let mut task = Task::new(Confluent::new(&delete, "t", None), records(10, nulls));
    assert!(task.run().await.unwrap_err().contains("Status code : 405"));
    let head = [("Host", "localhost")];
    let refused = ask(&floe, &request("DELETE", "/api/v1/topics/t/events", &head, "")).await;
    assert_eq!(refused.status, 405);
    let allowed = refused.header("allow").unwrap();
    assert!(["POST", "PUT", "PATCH"].iter().all(|method| allowed.contains(method)), "{allowed}");
    assert_eq!(stored(&floe, "t").len(), 10);
}
