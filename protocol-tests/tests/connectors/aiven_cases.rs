//! Configurations of Aiven's sink, and what becomes of the records.

use std::time::Duration;

use protocol_tests::http1::request;
use protocol_tests::{Floe, table};
use serde_json::{Value, json};

use super::aiven::Aiven;
use super::{Data, Guarded, Record, Task, ask, documented, records, stored, wanted, with};

const DOCUMENTED: &str = include_str!("../../../docs/snippets/kafka-connect-aiven.json");

fn url(floe: &Floe, topic: &str) -> Value {
    json!({ "http.url": floe.url(&format!("/api/v1/topics/{topic}/events")) })
}

/// A1: the defaults, a token, and a converter that gives JSON.
fn a1(guarded: &Guarded, topic: &str) -> Value {
    let config = json!({
        "connector.class": "io.aiven.kafka.connect.http.HttpSinkConnector",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "http.authorization.type": "static",
        "http.headers.authorization": format!("Bearer {}", guarded.token),
        "retry.backoff.ms": "100",
    });
    with(&config, url(&guarded.floe, topic))
}

/// A2: batches, which are one event per line, without a content type.
fn a2(guarded: &Guarded, topic: &str) -> Value {
    with(&a1(guarded, topic), json!({"batching.enabled": "true", "batch.max.size": "500"}))
}

/// A3: batches as arrays.
fn a3(guarded: &Guarded, topic: &str) -> Value {
    let array = json!({
        "batch.prefix": "[", "batch.separator": ",", "batch.suffix": "]",
        "http.headers.content.type": "application/json",
    });
    with(&a2(guarded, topic), array)
}

/// A6 and, with the credentials in the form, A7.
fn oauth(guarded: &Guarded, topic: &str, mode: &str) -> Value {
    let oauth = json!({
        "http.authorization.type": "oauth2",
        "oauth2.access.token.url": guarded.floe.url("/oauth/token"),
        "oauth2.client.id": "admin",
        "oauth2.client.secret": guarded.token,
        "oauth2.client.scope": "ingest",
        "oauth2.client.authorization.mode": mode,
    });
    with(&a3(guarded, topic), oauth)
}

fn event(i: usize) -> Value {
    json!({"id": i, "name": format!("größe {i}"), "nested": {"list": [1, null, "x=1, y"]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_configuration_delivers_its_records_as_they_were() {
    let mut guarded = Guarded::start(&[]).await;
    let maps = |count| records(count, |i| Data::Map(event(i)));
    // StringConverter: what is JSON already, in any spelling.
    let text = |i| format!("{{ \"id\" : {i},\"price\":1.10, \"big\":12345678901234567890 }}");
    let texts = records(1_100, |i| Data::Text(text(i)));
    // Avro with decimal.format=NUMERIC; dates and bytes as Connect's converter writes them.
    let row =
        |i| json!({"price": 12.5, "day": 18_000 + i, "at": 1_700_000_000_000_u64, "raw": "AQI="});
    let structs = records(1_100, |i| Data::Struct(row(i)));
    let kind = json!({"http.headers.content.type": "text/plain; charset=UTF-8"});
    let lines = json!({"http.headers.content.type": "application/x-ndjson"});
    let cases = [
        ("a1", a1(&guarded, "a1"), maps(40)),
        ("a2", a2(&guarded, "a2"), maps(1_100)),
        ("a2-plain", with(&a2(&guarded, "a2-plain"), kind), maps(600)),
        ("a2-lines", with(&a2(&guarded, "a2-lines"), lines), maps(600)),
        ("a3", a3(&guarded, "a3"), maps(1_100)),
        ("a8", a2(&guarded, "a8"), texts),
        ("a9", a3(&guarded, "a9"), structs),
        ("orders", documented(DOCUMENTED, &guarded), maps(600)),
    ];
    let mut sent = Vec::new();
    for (topic, config, records) in cases {
        let mut task = Task::new(Aiven::new(&config), records);
        assert_eq!(task.run().await, Ok(()), "{topic}");
        assert!(task.sink.seen.iter().all(|status| *status == 200), "{topic}");
        sent.push((topic, wanted(&task.records)));
    }
    guarded.open().await;
    for (topic, wanted) in sent {
        assert_eq!(stored(&guarded.floe, topic), wanted, "{topic}");
    }
}

/// A4: IOMETE's route, with the token and the table in headers of their own.
fn a4(guarded: &Guarded) -> Value {
    let route = json!({
        "http.url": guarded.floe.url("/data-plane/ns/event-stream/s/ingest"),
        "http.authorization.type": "none",
        "http.headers.additional": format!("token:{},table:analytics.events.sales", guarded.token),
        "max.retries": "60",
    });
    with(&a3(guarded, "unused"), route)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_takes_the_batches_of_a_connector_into_its_table() {
    let mut guarded = Guarded::start(&[]).await;
    guarded.open().await;
    let fields = json!([
        { "id": 1, "name": "id", "required": true, "type": "long" },
        { "id": 2, "name": "nested", "required": false, "type": "string" },
    ]);
    table::create(&guarded.floe.url("/iceberg"), "events", "sales", fields).await;
    let client = reqwest::Client::new();
    let stream = client.post(guarded.floe.url("/api/v1/streams"));
    let stream = stream.json(&json!({"name": "s", "namespace": "ns"})).send().await.unwrap();
    assert_eq!(stream.status(), 201);
    guarded.floe.stop().await;
    let flags = ["--num-partitions", "1", "--catalog-embedded-aliases", "analytics"];
    guarded.floe.restart_with(&flags).await;

    let config = a4(&guarded);
    let mut task = Task::new(Aiven::new(&config), records(1_100, |i| Data::Map(event(i))));
    assert_eq!(task.run().await, Ok(()));
    assert_eq!(task.sink.seen, [200; 3], "batches of 500");
    guarded.open().await;
    assert_eq!(stored(&guarded.floe, "s.events.sales"), wanted(&task.records));
    let flushed = client.post(guarded.floe.url("/api/v1/tables/events.sales/flush")).send().await;
    assert_eq!(flushed.unwrap().status(), 200);
    let ids = table::longs(&guarded.floe.url("/iceberg"), "events", "sales", "id").await;
    assert_eq!(ids, (0..1_100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn access_tokens_are_renewed_at_401_and_nobody_notices() {
    let mut guarded = Guarded::start(&["--auth-access-token-lifetime", "4s"]).await;
    let mut tasks = Vec::new();
    for (topic, mode) in [("a6", "HEADER"), ("a7", "URL")] {
        let config = oauth(&guarded, topic, mode);
        let mut task = Task::new(Aiven::new(&config), records(500, |i| Data::Map(event(i))));
        assert_eq!(task.run().await, Ok(()), "{topic}");
        assert_eq!(task.sink.seen, [200], "{topic}");
        tasks.push((topic, task));
    }
    // Access tokens of four seconds are over by then.
    tokio::time::sleep(Duration::from_millis(4_100)).await;
    for (topic, mut task) in tasks {
        task.records.extend(records(500, |i| Data::Map(event(i + 500))));
        assert_eq!(task.run().await, Ok(()), "{topic}");
        assert_eq!(task.sink.seen, [200, 401, 200], "{topic}: expired is 401, not 403");
    }
    guarded.open().await;
    for topic in ["a6", "a7"] {
        let wanted = wanted(&records(1_000, |i| Data::Map(event(i))));
        assert_eq!(stored(&guarded.floe, topic), wanted, "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_goes_to_the_queue_of_dead_letters_and_the_rest_is_stored() {
    let floe = Floe::start(&["--num-partitions", "1"]).await;
    // A10. In a batch this setting is refused by the connector itself.
    let config = json!({
        "errors.tolerance": "all", "errors.deadletterqueue.topic.name": "dead",
        "http.authorization.type": "none", "retry.backoff.ms": "10",
    });
    let value = |i| match i {
        7 => Data::Text("{a=1, b=x}".to_owned()),
        9 => Data::Text("no JSON".to_owned()),
        _ => Data::Map(event(i)),
    };
    let mut task = Task::new(Aiven::new(&with(&config, url(&floe, "t"))), records(20, value));
    assert_eq!(task.run().await, Ok(()));
    assert_eq!(task.sink.dead, ["{a=1, b=x}", "no JSON"]);
    let refused = task.sink.seen.iter().filter(|status| **status != 200);
    assert_eq!(refused.collect::<Vec<_>>(), [&400, &400, &415, &415], "one retry each");
    let good = |record: &Record| !matches!(record.value, Data::Text(_));
    let good: Vec<Record> = task.records.iter().filter(|it| good(it)).cloned().collect();
    assert_eq!(stored(&floe, "t"), wanted(&good));
}

/// Batches that are no JSON fail the task, and the answer in its trace says which setting is
/// missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_brackets_is_told_what_it_lacks() {
    let floe = Floe::start(&["--num-partitions", "1"]).await;
    let config = json!({
        "http.authorization.type": "none", "retry.backoff.ms": "10", "batching.enabled": "true",
    });
    for (more, word) in [
        (json!({"batch.separator": ","}), "batch.prefix"),
        (json!({"batch.prefix": "[", "batch.separator": ",", "batch.suffix": ",]"}), "last event"),
    ] {
        let config = with(&with(&config, url(&floe, "t")), more);
        let mut task = Task::new(Aiven::new(&config), records(3, |i| Data::Map(event(i))));
        let error = task.run().await.unwrap_err();
        assert!(error.contains(word) && error.contains("invalid_json"), "{error}");
        assert_eq!(task.sink.seen, [400, 400]);
    }
    // Without a separator values run together, which can be told apart.
    let config = with(&with(&config, url(&floe, "u")), json!({"batch.separator": ""}));
    let mut task = Task::new(Aiven::new(&config), records(3, |i| Data::Map(event(i))));
    assert_eq!(task.run().await, Ok(()));
    assert_eq!(stored(&floe, "u"), wanted(&task.records));
    let topics = floe.get("/api/v1/topics").await;
    assert_eq!(topics["topics"].as_array().unwrap().len(), 1, "a refused body makes no topic");
}

/// A11 and A12: the server goes away under load, answers 503 for a while, and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_survived_with_many_retries_and_fails_the_task_with_one() {
    let mut floe = Floe::start(&["--num-partitions", "1"]).await;
    let config = |topic: &str, retries: &str| {
        let config = json!({
            "http.authorization.type": "none", "batching.enabled": "true", "batch.max.size": "10",
            "max.retries": retries, "retry.backoff.ms": "250",
        });
        // Retries after a lost answer are no new events.
        let once = floe.url(&format!("/api/v1/topics/{topic}/events?dedup_field=$.id"));
        Aiven::new(&with(&config, json!({ "http.url": once })))
    };
    // 60 retries, 4 s apart, are advised; here they are closer.
    let load = || records(20_000, |i| Data::Map(event(i)));
    let mut patient = Task::new(config("a11", "2000"), load());
    let mut hasty = Task::new(config("a12", "1"), load());
    let drain = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(floe.stop().await, Some(0), "{}", floe.log());
        let full = ["--num-partitions", "1", "--disk-free-min-bytes", "1000TiB"];
        floe.restart_unready_with(&full).await;
        let head = [("Host", "localhost"), ("Content-Length", "2")];
        let refused = ask(&floe, &request("POST", "/api/v1/topics/t/events", &head, "{}")).await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
        tokio::time::sleep(Duration::from_secs(3)).await;
        floe.stop().await;
        floe.restart_with(&["--num-partitions", "1"]).await;
    };
    let (patient_ran, hasty_ran, ()) = tokio::join!(patient.run(), hasty.run(), drain);
    assert_eq!(patient_ran, Ok(()), "the task goes on");
    assert!(patient.sink.seen.contains(&503));
    assert!(hasty_ran.unwrap_err().contains("no retries remain"), "the task has failed");
    assert!(hasty.committed < hasty.records.len());
    // Its operator starts it again: polls of which a part was delivered are sent once more.
    assert_eq!(hasty.run().await, Ok(()));
    for (topic, task) in [("a11", &patient), ("a12", &hasty)] {
        assert_eq!(stored(&floe, topic), wanted(&task.records), "{topic}: each once, in order");
    }
}
